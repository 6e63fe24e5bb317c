#include "engine/base/utf8.h"
