#include "manual.h"

#include <string.h>

/* Text of the table, in which a hyphen is a hyphen-minus that somebody may copy, and nothing is a macro. */
static void put_text(em_buf *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        em_buf_puts(out, "\\&");
    for (const char *p = text; *p; p++) {
        if (*p == '-')
            em_buf_puts(out, "\\-");
        else if (*p == '\\')
            em_buf_puts(out, "\\e");
        else
            em_buf_append(out, p, 1);
    }
}

static void put_head(em_buf *out)
{
    em_buf_puts(out, ".TH ENGRAMD 1 \"\" \"engramd " ENGRAMD_VERSION "\" \"User Commands\"\n"
                     ".SH NAME\nengramd \\- server for Engram\\-MoE language models\n.SH SYNOPSIS\n");
    for (int i = 0; i < manual_n_commands; i++)
        em_buf_printf(out, "%s.B engramd %s\n.RI [ OPTIONS ] \" \" [ %s ]\n", i ? ".br\n" : "", manual_commands[i].name,
                      manual_commands[i].argument);
    em_buf_puts(out, ".SH DESCRIPTION\n"
                     "Serves one language model with hashed n\\-gram memory over an HTTP API that OpenAI's clients "
                     "understand, and says what the model takes, how fast it is and how well it predicts.\n"
                     "Without a model it takes the one that comes with the program.\n.SH COMMANDS\n");
    for (int i = 0; i < manual_n_commands; i++) {
        em_buf_printf(out, ".TP\n.B %s\n", manual_commands[i].name);
        put_text(out, manual_commands[i].about);
        em_buf_puts(out, "\n");
    }
}

static void put_commands_of(em_buf *out, const em_option *o)
{
    const char *sep = " (";
    for (int i = 0; i < manual_n_commands; i++)
        if (o->commands & (unsigned)manual_commands[i].bit) {
            em_buf_printf(out, "%s%s", sep, manual_commands[i].name);
            sep = ", ";
        }
    em_buf_puts(out, ")");
}

static void put_option(em_buf *out, const em_option *o)
{
    em_buf_puts(out, ".TP\n.BI \\-\\-");
    put_text(out, o->name);
    if (o->choices) {
        em_buf_puts(out, " \" \" ");
        put_text(out, o->choices);
    } else if (o->value) {
        em_buf_printf(out, " \" %s\"", o->value);
    }
    em_buf_puts(out, "\n");
    put_text(out, o->help);
    if (o->dflt && o->kind != EM_OPTION_BOOL) {
        em_buf_puts(out, "; default ");
        put_text(out, o->dflt);
    }
    put_commands_of(out, o);
    em_buf_puts(out, ".\n");
}

static const char tail[] =
    ".SH CONFIGURATION\n"
    "Strength, weakest first: the default, a line\n.I name = value\nin the file of\n.BR \\-\\-config ,\n"
    "the environment variable (\n.BR ENGRAMD_MAX_NUM_SEQS\nfor\n.BR \\-\\-max\\-num\\-seqs ),\nthe flag.\n"
    "Sizes take K, M, G and T, powers of 1024; times are seconds and may be fractions.\n"
    ".SH SIGNALS\n"
    ".TP\n.B SIGTERM, SIGINT\nLets running requests finish, at most\n.B \\-\\-drain\\-timeout\n"
    "seconds; a second one aborts.\n"
    ".TP\n.B SIGHUP\nReads the file of\n.B \\-\\-api\\-key\\-file\nagain.\n"
    ".SH ENVIRONMENT\n"
    ".TP\n.B NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID\n"
    "Set by a service manager, which is told when the model is loaded, how far loading is, that the end begins, and, "
    "as "
    "long as the step thread moves, that the server lives.\n"
    ".SH EXIT STATUS\n"
    ".TP\n.B 0\nDone.\n.TP\n.B 1\nRefused or failed; a sentence on standard error says why.\n"
    ".TP\n.B 2\nWrong usage.\n.TP\n.B 3\nThe watchdog ended a server whose step took longer than\n"
    ".BR \\-\\-watchdog\\-timeout .\n"
    ".SH EXAMPLES\n.EX\n"
    "engramd plan /srv/models/engram\n"
    "engramd serve \\-\\-host 0.0.0.0 \\-\\-api\\-key\\-file keys /srv/models/engram\n"
    "engramd probe http://127.0.0.1:8080/ready\n.EE\n"
    ".SH FILES\n"
    ".TP\n.I /etc/engramd/engramd.conf\nOptions of the service, as it is packaged.\n";

void manual_write_page(em_buf *out)
{
    put_head(out);
    em_buf_puts(out, ".SH OPTIONS\nBehind each option stand the commands that take it.\n");
    for (int i = 0; i < em_n_options; i++)
        put_option(out, &em_options[i]);
    em_buf_puts(out, tail);
}
