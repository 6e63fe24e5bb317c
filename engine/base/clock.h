/* Monotonic time. */
#ifndef EM_BASE_CLOCK_H
#define EM_BASE_CLOCK_H

#include <stdint.h>

uint64_t em_now_ns(void); /* CLOCK_MONOTONIC, nanoseconds */

#endif
