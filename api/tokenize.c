#include "api/tokenize.h"
