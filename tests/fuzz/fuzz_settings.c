/* The files that whoever runs a server writes: API keys (first byte even) and the file of --config (odd). Refused with
 * one sentence, which never spells a key, or read: every key is found again under its name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/config.h"
#include "server/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void must_say_why(int rc, const em_error *err)
{
    must(rc < 0 && err->text[0] && !strchr(err->text, '\n'), "a refusal that is not one sentence");
}

/* Every line of a file that was taken is empty, a remark, or a name and its key. */
static void must_find_all(const em_keys *keys, char *text)
{
    int found = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *at = NULL, *name = strtok_r(line, " \t\r", &at), *key = strtok_r(NULL, " \t\r", &at);
        if (!name || name[0] == '#')
            continue;
        const char *known = key ? em_keys_find(keys, key) : NULL;
        must(known && !strcmp(known, name), "a key is not found under its name");
        found++;
    }
    must(found == em_keys_count(keys) && found > 0, "the number of keys");
    must(!em_keys_find(keys, "") && !em_keys_find(keys, "no such key"), "a key that nobody wrote");
}

static void read_keys(const char *path, char *text)
{
    em_keys *keys = NULL;
    em_error err = {0};
    int rc = em_keys_load(path, &keys, &err);
    if (rc)
        must_say_why(rc, &err);
    else
        must_find_all(keys, text);
    em_keys_free(keys);
}

static void read_config(const char *path)
{
    char flag[] = "--config", file[64];
    char *argv[] = {flag, file, NULL}, *env[] = {NULL};
    em_config *config = NULL;
    em_error err = {0};
    snprintf(file, sizeof(file), "%s", path);
    int rc = em_config_load(EM_COMMAND_SERVE, 2, argv, env, &config, &err);
    if (rc)
        must_say_why(rc, &err);
    else
        must(em_config_is_set(config, "config"), "the file's own name is lost");
    em_config_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    char path[64], *text = malloc(size);
    int fd = memfd_create("settings", MFD_CLOEXEC);
    must(fd >= 0 && text && write(fd, data + 1, size - 1) == (ssize_t)size - 1, "no file to write to");
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (data[0] & 1)
        read_config(path);
    else
        read_keys(path, text);
    close(fd);
    free(text);
    return 0;
}
