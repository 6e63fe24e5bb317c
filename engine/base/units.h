/* Numbers for people. Pure. */
#ifndef EM_BASE_UNITS_H
#define EM_BASE_UNITS_H

#include <stdint.h>

#define EM_UNITS_TEXT 16

/* "512 B", "12.3 KiB", "1.95 GiB": three digits, the unit that fits. Returns text. */
const char *em_bytes_text(uint64_t bytes, char text[EM_UNITS_TEXT]);

#endif
