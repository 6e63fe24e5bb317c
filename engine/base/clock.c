#include "engine/base/clock.h"
