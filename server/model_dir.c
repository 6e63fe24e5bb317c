#include "server/model_dir.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"

#define BUNDLED "engram-pocket"
#define MAX_GENERATION_CONFIG (1 << 20) /* bytes */

/* BASE/RELATIVE, if a model lies there. */
static char *try_dir(const char *base, const char *relative)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof(path), "%s/%s/config.json", base, relative);
    if (access(path, R_OK) != 0)
        return NULL;
    snprintf(path, sizeof(path), "%s/%s", base, relative);
    return realpath(path, NULL);
}

int em_model_dir_find(const char *given, char **ret_dir, em_error *err)
{
    if (given && *given) {
        char *copy = strdup(given);
        if (!copy)
            return em_error_set(err, -ENOMEM, "out of memory");
        for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
            copy[n - 1] = '\0'; /* or it would stand doubled in every sentence */
        *ret_dir = copy;
        return 0;
    }
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    char *slash = NULL;
    if (n > 0) {
        exe[n] = '\0';
        slash = strrchr(exe, '/');
    }
    if (!slash)
        return em_error_set(err, -ENOENT, "no model was given, and the program cannot tell where it lies itself");
    *slash = '\0';
    char *dir = try_dir(exe, "../models/" BUNDLED);
    if (!dir)
        dir = try_dir(exe, "../share/engramd/models/" BUNDLED);
    if (!dir)
        return em_error_set(err, -ENOENT,
                            "no model was given, and none lies in %s/../models/" BUNDLED
                            " or %s/../share/engramd/models/" BUNDLED,
                            exe, exe);
    *ret_dir = dir;
    return 0;
}

void em_model_dir_name(const char *dir, char *buf, size_t cap)
{
    char *full = realpath(dir, NULL);
    const char *path = full ? full : dir;
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    if (start == end)
        snprintf(buf, cap, "model");
    else
        snprintf(buf, cap, "%.*s", (int)(end - start), path + start);
    free(full);
}

void em_config_engine_opts(const em_config *c, const char *model_dir, em_engine_opts *ret_opts)
{
    *ret_opts = (em_engine_opts){
        .model_dir = model_dir,
        .backend = c->backend,
        .cuda_module = c->cuda_module,
        .n_threads = (int32_t)c->threads,
        .max_len = (int32_t)c->max_model_len,
        .max_seqs = (int32_t)c->max_num_seqs,
        .max_batch_tokens = (int32_t)c->max_num_batched_tokens,
        .kv_cache_bytes = c->kv_cache_bytes,
        .kv_block_tokens = (int32_t)c->kv_block_tokens,
        .engram_tier = c->engram_tier,
        .engram_shared_dir = c->engram_shared_dir,
        .engram_cache_bytes = c->engram_cache_bytes,
        .engram_verify = c->engram_verify,
        .engram_prefault = c->engram_prefault,
        .max_queue = (int32_t)c->max_queue,
        .no_prefix_cache = c->no_prefix_cache,
        .snapshot_bytes = c->prefix_snapshot_bytes,
    };
}

/* j stands before the object. */
static int find_default_thinking(em_json *j, bool *ret_thinks)
{
    if (em_json_next(j) != EM_JSON_OBJECT)
        return -EINVAL;
    while (em_json_next(j) == EM_JSON_KEY) {
        bool here = em_json_is(j, "default_thinking");
        em_json_type t = em_json_next(j);
        if (here && t != EM_JSON_TRUE && t != EM_JSON_FALSE)
            return -EINVAL;
        if (here)
            *ret_thinks = t == EM_JSON_TRUE;
        if (em_json_skip(j))
            return -EINVAL;
    }
    return j->type == EM_JSON_OBJECT_END ? 0 : -EINVAL;
}

int em_model_dir_thinks(const char *dir, bool *ret_thinks, em_error *err)
{
    char path[PATH_MAX];
    char *text = NULL;
    size_t len = 0;
    bool thinks = true;
    snprintf(path, sizeof(path), "%s/generation_config.json", dir);
    int r = em_file_read(path, MAX_GENERATION_CONFIG, &text, &len, err);
    if (r == 0) {
        em_json j;
        em_json_init(&j, text, len, 0);
        if (find_default_thinking(&j, &thinks))
            r = em_error_set(err, -EINVAL,
                             "%s is not valid: it must be a JSON object whose default_thinking is true or false", path);
    }
    free(text);
    if (r && r != -ENOENT)
        return r;
    *ret_thinks = thinks;
    return 0;
}
