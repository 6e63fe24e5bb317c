#include "engine/formats.h"
