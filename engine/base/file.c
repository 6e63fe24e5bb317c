#include "engine/base/file.h"
