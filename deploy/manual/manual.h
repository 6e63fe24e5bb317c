/* Texts written from the table of options. */
#ifndef ENGRAMD_MANUAL_H
#define ENGRAMD_MANUAL_H

#include "engine/base/buf.h"
#include "server/options.h"

typedef struct manual_command {
    em_command bit;
    const char *name, *argument, *about;
} manual_command;

extern const manual_command manual_commands[];
extern const int manual_n_commands;

void manual_write_page(em_buf *out);       /* engramd(1), in man(7) macros */
void manual_write_completion(em_buf *out); /* for bash */

#endif
