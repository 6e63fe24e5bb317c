#include "api/models_reply.h"
