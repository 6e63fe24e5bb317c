/* config.json: reading (config_read.c), then derivation and rules (config_derive.c). */
#include "engine/config.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/config_raw.h"

#include <errno.h>

#define MAX_CONFIG_BYTES (4u << 20)

int em_model_config_parse(const char *json, size_t len, const char *name, em_model_config *ret_config, em_error *err)
{
    em_config_raw *raw = calloc(1, sizeof(*raw)); /* some 20 KiB: not for a small stack */
    if (!raw)
        return em_error_set(err, -ENOMEM, "%s: out of memory", name);
    int r = em_config_read(json, len, name, raw, err);
    if (r == 0)
        r = em_config_derive(raw, name, err);
    if (r == 0)
        *ret_config = raw->c;
    free(raw);
    return r;
}

int em_model_config_load(const char *dir, em_model_config *ret_config, em_error *err)
{
    char path[4096], *text;
    size_t len;
    if (snprintf(path, sizeof(path), "%s/config.json", dir) >= (int)sizeof(path))
        return em_error_set(err, -ENAMETOOLONG, "the path of the model folder is too long");
    int r = em_file_read(path, MAX_CONFIG_BYTES, &text, &len, err);
    if (r < 0)
        return r;
    r = em_model_config_parse(text, len, path, ret_config, err);
    free(text);
    return r;
}
