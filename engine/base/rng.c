#include "engine/base/rng.h"
