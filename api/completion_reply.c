#include "api/completion_reply.h"
