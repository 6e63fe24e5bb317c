#include "engine/token_map.h"
