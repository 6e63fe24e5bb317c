#include "engine/weights.h"
