/* docs/CONFIGURATION.md, written from the table of options.
 *
 *     options-doc          prints it
 *     options-doc FILE     compares: the file must hold exactly that */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "server/options.h"

static const struct {
    em_command bit;
    const char *name;
} commands[] = {
    {EM_COMMAND_SERVE, "serve"},
    {EM_COMMAND_GENERATE, "generate"},
    {EM_COMMAND_PLAN, "plan"},
    {EM_COMMAND_SCORE, "score"},
    {EM_COMMAND_BENCH, "bench"},
    {EM_COMMAND_PROBE, "probe"},
    {EM_COMMAND_ENGRAM_INSPECT, "engram inspect"},
    {EM_COMMAND_ENGRAM_TRACE, "engram trace"},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const char head[] = "# Configuration\n"
                           "\n"
                           "Written from the program's own table of options by `options-doc`; a test fails when the "
                           "two differ. The same is told by\n"
                           "`engramd COMMAND --help`.\n"
                           "\n"
                           "Every option can be given in four places. Strength, weakest first: the default, a line "
                           "`name = value` in the file of\n"
                           "`--config`, the environment variable, the flag. A stronger source replaces a list of a "
                           "weaker one; within one source,\n"
                           "lists take commas or repetition. Sizes take K, M, G and T (powers of 1024); times are "
                           "seconds and may be fractions.\n"
                           "A flag that says true or false may stand without a value. `serve` prints what is in "
                           "effect, and where from, when it\n"
                           "starts.\n";

static void put_range(em_buf *out, const em_option *o)
{
    bool bounded = o->max > o->min && o->max < INT64_MAX && o->min > INT64_MIN;
    switch (o->kind) {
    case EM_OPTION_INT: em_buf_puts(out, "whole number"); break;
    case EM_OPTION_BYTES: em_buf_puts(out, "size"); break;
    case EM_OPTION_SECONDS: em_buf_puts(out, "seconds"); break;
    case EM_OPTION_REAL: em_buf_puts(out, "number"); break;
    case EM_OPTION_BOOL: em_buf_puts(out, "true or false"); return;
    case EM_OPTION_TEXT: em_buf_puts(out, "text"); return;
    case EM_OPTION_LIST: em_buf_puts(out, "list"); return;
    case EM_OPTION_CHOICE:
        for (const char *p = o->choices; *p; p++)
            em_buf_printf(out, *p == '|' ? ", " : "%c", *p);
        return;
    }
    if (bounded)
        em_buf_printf(out, ", %" PRId64 " to %" PRId64, o->min, o->max);
}

/* Text in a cell of a table. */
static void put_cell(em_buf *out, const char *text)
{
    for (const char *p = text; *p; p++)
        em_buf_printf(out, *p == '|' ? "\\%c" : "%c", *p);
}

static void put_option(em_buf *out, const em_option *o)
{
    char variable[80];
    em_config_variable(o->name, variable, sizeof(variable));
    em_buf_printf(out, "| `--%s` | `%s` | ", o->name, variable);
    put_range(out, o);
    em_buf_printf(out, " | %s | ", o->dflt ? o->dflt : "");
    put_cell(out, o->help);
    em_buf_puts(out, " |");
    const char *sep = " ";
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (o->commands & (unsigned)commands[i].bit) {
            em_buf_printf(out, "%s%s", sep, commands[i].name);
            sep = ", ";
        }
    em_buf_puts(out, " |\n");
}

static void write_document(em_buf *out)
{
    em_buf_puts(out, head);
    em_buf_puts(out, "\n| flag, and name in a file | environment | value | default | meaning | commands |\n"
                     "|---|---|---|---|---|---|\n");
    for (int i = 0; i < em_n_options; i++)
        put_option(out, &em_options[i]);
}

int main(int argc, char **argv)
{
    em_buf out = {0};
    em_error err = {0};
    char *have = NULL;
    size_t size;
    int code = 0;
    write_document(&out);
    if (out.failed || (argc > 1 && em_file_read(argv[1], 1 << 20, &have, &size, &err) < 0)) {
        fprintf(stderr, "options-doc: %s\n", out.failed ? "out of memory" : err.text);
        code = 1;
    } else if (argc > 1 && (size != out.len || memcmp(have, out.data, size) != 0)) {
        fprintf(stderr, "%s is not what the options say: write it anew with `options-doc > %s`\n", argv[1], argv[1]);
        code = 1;
    } else if (argc <= 1) {
        fputs(out.data, stdout);
    }
    free(have);
    em_buf_done(&out);
    return code;
}
