#include "engram/engram.h"
