/* The subcommands. Each gets the words behind its name and returns the exit code of the program:
 * 0 fine, 1 refused or failed with a sentence on stderr, 2 wrong usage. */
#ifndef EM_SERVER_COMMANDS_H
#define EM_SERVER_COMMANDS_H

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "server/config.h"

int em_cmd_serve(int argc, char **argv, char **env);
int em_cmd_generate(int argc, char **argv, char **env);
int em_cmd_plan(int argc, char **argv, char **env);
int em_cmd_score(int argc, char **argv, char **env);
int em_cmd_bench(int argc, char **argv, char **env);
int em_cmd_probe(int argc, char **argv, char **env);
int em_cmd_engram(int argc, char **argv, char **env); /* inspect or trace */
int em_cmd_engram_inspect(int argc, char **argv, char **env);
int em_cmd_engram_trace(int argc, char **argv, char **env);

/* What all commands begin with: --help, the configuration, the log. Returns the exit code, or -1 to go on. */
int em_command_begin(em_command command, const char *usage, int argc, char **argv, char **env, em_config **ret_config);
/* Prints a JSON text as a line and releases it. -ENOMEM when it is not whole. */
int em_command_print_json(em_buf *text, em_error *err);
/* After the last line on stdout; what: "the plan". -EIO when not all of it could be written. */
int em_command_flush(const char *what, em_error *err);
/* Writes the sentence to stderr and returns the exit code. */
int em_command_fail(const char *command, int exit_code, const em_error *err);

#endif
