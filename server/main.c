/* engramd COMMAND ...: which command, nothing else. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/commands.h"
#include "server/mapped_fault.h"

static const char usage[] = "Usage: engramd COMMAND [OPTIONS] ...\n"
                            "\n"
                            "  serve [MODEL_DIR]     serve a model over an OpenAI-compatible HTTP API\n"
                            "  generate PROMPT       print what a model says, without HTTP\n"
                            "  plan [MODEL_DIR]      say what serving a model takes, and whether it fits\n"
                            "  score FILE            say how well a model predicts a text\n"
                            "  bench [MODEL_DIR]     measure a model on this machine\n"
                            "  engram inspect [MODEL_DIR]\n"
                            "                        say what a model's Engram tables are\n"
                            "  engram trace [MODEL_DIR] FILE\n"
                            "                        say which of their rows a text touches\n"
                            "  probe [URL]           ask a server whether it is well\n"
                            "\n"
                            "engramd COMMAND --help lists the options of a command.\n"
                            "engramd --version prints the version.\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv, char **env);
} commands[] = {
    {"serve", em_cmd_serve}, {"generate", em_cmd_generate}, {"plan", em_cmd_plan},   {"score", em_cmd_score},
    {"bench", em_cmd_bench}, {"engram", em_cmd_engram},     {"probe", em_cmd_probe},
};

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    em_mapped_fault_install();
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
        if (strcmp(command, commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2, environ);
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
