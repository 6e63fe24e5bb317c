/* engramd-manual page | completion: writes the manual page or the shell completion to standard output. */
#include "manual.h"

#include <stdio.h>
#include <string.h>

const manual_command manual_commands[] = {
    {EM_COMMAND_SERVE, "serve", "MODEL_DIR", "Serve a model over an OpenAI-compatible HTTP API."},
    {EM_COMMAND_GENERATE, "generate", "PROMPT", "Print what a model says, without HTTP."},
    {EM_COMMAND_PLAN, "plan", "MODEL_DIR", "Say what serving a model takes, and whether it fits this machine."},
    {EM_COMMAND_SCORE, "score", "FILE", "Say how well a model predicts a text."},
    {EM_COMMAND_BENCH, "bench", "MODEL_DIR", "Measure a model on this machine."},
    {EM_COMMAND_ENGRAM_INSPECT, "engram inspect", "MODEL_DIR", "Say what a model's Engram tables are."},
    {EM_COMMAND_ENGRAM_TRACE, "engram trace", "FILE", "Say which rows of them a text touches."},
    {EM_COMMAND_PROBE, "probe", "URL", "Ask a server whether it is well: exit status 0 when it is."},
};
const int manual_n_commands = (int)(sizeof(manual_commands) / sizeof(manual_commands[0]));

int main(int argc, char **argv)
{
    em_buf out = {0};
    const char *what = argc == 2 ? argv[1] : "";
    if (strcmp(what, "page") == 0) {
        manual_write_page(&out);
    } else if (strcmp(what, "completion") == 0) {
        manual_write_completion(&out);
    } else {
        fputs("usage: engramd-manual page | completion\n", stderr);
        return 2;
    }
    bool written = !out.failed && fwrite(out.data, 1, out.len, stdout) == out.len && fflush(stdout) == 0;
    em_buf_done(&out);
    if (!written)
        fputs("engramd-manual: cannot write\n", stderr);
    return written ? 0 : 1;
}
