/* engramd COMMAND ...: which command, nothing else. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/commands.h"

static const char usage[] = "Usage: engramd COMMAND [OPTIONS] ...\n"
                            "\n"
                            "  serve [MODEL_DIR]     serve a model over an OpenAI-compatible HTTP API\n"
                            "  generate PROMPT       print what a model says, without HTTP\n"
                            "\n"
                            "engramd COMMAND --help lists the options of a command.\n"
                            "engramd --version prints the version.\n";

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    if (strcmp(command, "serve") == 0)
        return em_cmd_serve(argc - 2, argv + 2, environ);
    if (strcmp(command, "generate") == 0)
        return em_cmd_generate(argc - 2, argv + 2, environ);
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0 || strcmp(command, "help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (strcmp(command, "--version") == 0) {
        puts("engramd " ENGRAMD_VERSION);
        return 0;
    }
    if (*command)
        fprintf(stderr, "engramd: there is no command \"%.100s\"\n", command);
    fputs(usage, stderr);
    return 2;
}
