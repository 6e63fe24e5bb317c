#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/log.h"
#include "server/commands.h"

static em_log_level log_level(const char *name)
{
    return strcmp(name, "debug") == 0     ? EM_LOG_DEBUG
           : strcmp(name, "warning") == 0 ? EM_LOG_WARN
           : strcmp(name, "error") == 0   ? EM_LOG_ERROR
                                          : EM_LOG_INFO;
}

int em_command_fail(const char *command, int exit_code, const em_error *err)
{
    fprintf(stderr, "engramd %s: %s\n", command, err->text[0] ? err->text : "failed");
    return exit_code;
}

int em_command_print_json(em_buf *text, em_error *err)
{
    int r = text->failed ? em_error_set(err, -ENOMEM, "out of memory") : 0;
    if (r == 0)
        puts(text->data);
    em_buf_done(text);
    return r;
}

int em_command_flush(const char *what, em_error *err)
{
    return fflush(stdout) == 0 ? 0 : em_error_set(err, -EIO, "cannot write %s: %s", what, strerror(errno));
}

static const char *command_name(em_command command)
{
    switch (command) {
    case EM_COMMAND_SERVE: return "serve";
    case EM_COMMAND_GENERATE: return "generate";
    case EM_COMMAND_PLAN: return "plan";
    case EM_COMMAND_SCORE: return "score";
    case EM_COMMAND_BENCH: return "bench";
    case EM_COMMAND_PROBE: return "probe";
    case EM_COMMAND_ENGRAM_INSPECT: return "engram inspect";
    case EM_COMMAND_ENGRAM_TRACE: return "engram trace";
    }
    return "";
}

int em_command_begin(em_command command, const char *usage, int argc, char **argv, char **env, em_config **ret_config)
{
    const char *name = command_name(command);
    em_error err = {0};
    em_config *c;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            em_config_help(stdout, command);
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            puts("engramd " ENGRAMD_VERSION);
            return 0;
        }
    }
    if (em_config_load(command, argc, argv, env, &c, &err) < 0)
        return em_command_fail(name, 2, &err);
    em_log_init(log_level(c->log_level), strcmp(c->log_format, "json") == 0);
    *ret_config = c;
    return -1;
}
