/* break-model KIND SRC DST: a copy of a tiny model with one fault.
 * break-model --list: kind, who finds it (loader or engine), a piece of the sentence it must be answered with. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/tools/break_model.h"

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < break_model_count(); i++) {
            const break_kind *k = break_model_kind(i);
            printf("%s\t%s\t%s\n", k->name, k->by_loader ? "loader" : "engine", k->says);
        }
        return 0;
    }
    if (argc != 4) {
        fputs("usage: break-model KIND SRC DST   (SRC: a folder of make-model --preset tiny)\n       break-model "
              "--list\n",
              stderr);
        return 2;
    }
    const break_kind *kind = break_model_find(argv[1]);
    if (!kind) {
        fprintf(stderr, "break-model: there is no kind \"%s\"; see --list\n", argv[1]);
        return 2;
    }
    em_error err = {0};
    if (mkdir(argv[3], 0755) < 0 && errno != EEXIST) {
        fprintf(stderr, "break-model: cannot make the folder %s: %m\n", argv[3]);
        return 1;
    }
    if (break_model(kind, argv[2], argv[3], &err) < 0) {
        fprintf(stderr, "break-model: %s\n", err.text);
        return 1;
    }
    return 0;
}
