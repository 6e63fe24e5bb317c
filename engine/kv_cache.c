#include "engine/kv_cache.h"
