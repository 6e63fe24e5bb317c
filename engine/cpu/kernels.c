#include "engine/cpu/kernels.h"
