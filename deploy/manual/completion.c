/* What bash completes: commands, the flags of a command, the values of a choice, else files and folders. */
#include "manual.h"

#include <string.h>

static const char head[] = "# bash completion of engramd; written from its table of options\n"
                           "_engramd() {\n"
                           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} "
                           "command=${COMP_WORDS[1]-} flags=\n"
                           "    COMPREPLY=()\n";

static const char tail[] = "    if [[ $cur == -* ]]; then\n"
                           "        mapfile -t COMPREPLY < <(compgen -W \"$flags --help --version\" -- \"$cur\")\n"
                           "    else\n"
                           "        compopt -o filenames 2>/dev/null\n"
                           "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
                           "    fi\n"
                           "}\n"
                           "complete -F _engramd engramd\n";

/* Is this command the first whose name begins with that word? */
static bool is_first(int command, size_t word_len)
{
    for (int i = 0; i < command; i++)
        if (strncmp(manual_commands[i].name, manual_commands[command].name, word_len) == 0 &&
            strcspn(manual_commands[i].name, " ") == word_len)
            return false;
    return true;
}

static void put_commands(em_buf *out)
{
    em_buf_puts(out, "    if ((COMP_CWORD == 1)); then\n"
                     "        mapfile -t COMPREPLY < <(compgen -W \"");
    for (int i = 0; i < manual_n_commands; i++) {
        size_t len = strcspn(manual_commands[i].name, " ");
        if (is_first(i, len))
            em_buf_printf(out, "%.*s ", (int)len, manual_commands[i].name);
    }
    em_buf_puts(out, "help --help --version\" -- \"$cur\")\n        return\n    fi\n");
}

/* The second word of a command that has two, and both as its name from then on. */
static void put_second_words(em_buf *out)
{
    for (int i = 0; i < manual_n_commands; i++) {
        const char *name = manual_commands[i].name;
        size_t len = strcspn(name, " ");
        if (!name[len] || !is_first(i, len))
            continue;
        em_buf_printf(out,
                      "    if [[ $command == %.*s ]]; then\n        command=\"$command ${COMP_WORDS[2]-}\"\n"
                      "        if ((COMP_CWORD == 2)); then\n            mapfile -t COMPREPLY < <(compgen -W \"",
                      (int)len, name);
        for (int k = i; k < manual_n_commands; k++)
            if (strncmp(manual_commands[k].name, name, len + 1) == 0)
                em_buf_printf(out, "%s ", manual_commands[k].name + len + 1);
        em_buf_puts(out, "--help\" -- \"$cur\")\n            return\n        fi\n    fi\n");
    }
}

/* The words behind a flag that takes one of a few. */
static void put_choices(em_buf *out)
{
    em_buf_puts(out, "    case $prev in\n");
    for (int i = 0; i < em_n_options; i++) {
        const em_option *o = &em_options[i];
        if (!o->choices)
            continue;
        em_buf_printf(out, "    --%s)\n        mapfile -t COMPREPLY < <(compgen -W \"", o->name);
        for (const char *p = o->choices; *p; p++)
            em_buf_append(out, *p == '|' ? " " : p, 1);
        em_buf_puts(out, "\" -- \"$cur\")\n        return\n        ;;\n");
    }
    em_buf_puts(out, "    esac\n");
}

static void put_flags(em_buf *out)
{
    em_buf_puts(out, "    case $command in\n");
    for (int c = 0; c < manual_n_commands; c++) {
        em_buf_printf(out, "    \"%s\") flags=\"", manual_commands[c].name);
        const char *sep = "";
        for (int i = 0; i < em_n_options; i++)
            if (em_options[i].commands & (unsigned)manual_commands[c].bit) {
                em_buf_printf(out, "%s--%s", sep, em_options[i].name);
                sep = " ";
            }
        em_buf_puts(out, "\" ;;\n");
    }
    em_buf_puts(out, "    esac\n");
}

void manual_write_completion(em_buf *out)
{
    em_buf_puts(out, head);
    put_commands(out);
    put_second_words(out);
    put_choices(out);
    put_flags(out);
    em_buf_puts(out, tail);
}
