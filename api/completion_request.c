#include "api/completion_request.h"
