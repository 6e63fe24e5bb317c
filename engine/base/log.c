#include "engine/base/log.h"
