/* engramd engram COMMAND ...: which one, nothing else. */
#include <stdio.h>
#include <string.h>

#include "server/commands.h"

static const char usage[] = "Usage: engramd engram inspect [OPTIONS] [MODEL_DIR]\n"
                            "       engramd engram trace [OPTIONS] [MODEL_DIR] FILE\n"
                            "\n"
                            "  inspect   say what a model's Engram tables are, and which tier they would get here\n"
                            "  trace     say which rows a text touches, and what caches of them would find\n"
                            "\n"
                            "engramd engram COMMAND --help lists the options of a command.\n";

int em_cmd_engram(int argc, char **argv, char **env)
{
    const char *command = argc > 0 ? argv[0] : "";
    if (strcmp(command, "inspect") == 0)
        return em_cmd_engram_inspect(argc - 1, argv + 1, env);
    if (strcmp(command, "trace") == 0)
        return em_cmd_engram_trace(argc - 1, argv + 1, env);
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0 || strcmp(command, "help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (*command)
        fprintf(stderr, "engramd engram: there is no command \"%.100s\"\n", command);
    fputs(usage, stderr);
    return 2;
}
