#include "engine/base/units.h"

#include <stdio.h>

const char *em_bytes_text(uint64_t bytes, char text[EM_UNITS_TEXT])
{
    static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(text, EM_UNITS_TEXT, "%u B", (unsigned)bytes);
        return text;
    }
    double value = (double)bytes / 1024;
    int i = 0;
    for (; value >= 999.5 && i < 5; i++)
        value /= 1024;
    snprintf(text, EM_UNITS_TEXT, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, unit[i]);
    return text;
}
