#include "server/keys.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/base/file.h"

#define MAX_FILE (4u << 20)
#define KEY_CAP (EM_KEY_MAX_BYTES + 1)

/* Zeros fill the rest of both, so that equal strings are equal arrays. */
typedef struct entry {
    char key[KEY_CAP];
    char name[EM_KEY_NAME_MAX + 1];
} entry;

struct em_keys {
    entry *entries;
    int n;
};

/* --- reading the file ----------------------------------------------------------------------------------------- */

static bool visible(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f)
            return false;
    return true;
}

/* Names go into logs and stand for a tenant; the same characters as in request ids. */
static bool name_ok(const char *s, size_t len)
{
    return strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-") >= len;
}

static const entry *same_key(const em_keys *k, const entry *e)
{
    for (int i = 0; i < k->n; i++)
        if (memcmp(k->entries[i].key, e->key, KEY_CAP) == 0)
            return &k->entries[i];
    return NULL;
}

static int push(em_keys *k, const entry *e)
{
    if ((k->n & (k->n - 1)) == 0) { /* a power of two: full */
        entry *grown = calloc(k->n ? (size_t)k->n * 2 : 1, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        if (k->n)
            memcpy(grown, k->entries, (size_t)k->n * sizeof(*grown));
        if (k->entries)
            explicit_bzero(k->entries, (size_t)k->n * sizeof(*grown));
        free(k->entries);
        k->entries = grown;
    }
    k->entries[k->n++] = *e;
    return 0;
}

static int read_line(em_keys *k, const char *line, const char *path, int number, em_error *err)
{
    static const char blank[] = " \t\r";
    entry e = {0};
    const char *name = line + strspn(line, blank);
    if (!*name || *name == '#')
        return 0;
    size_t name_len = strcspn(name, blank);
    const char *key = name + name_len + strspn(name + name_len, blank);
    size_t key_len = strcspn(key, blank);
    if (key_len == 0 || key[key_len + strspn(key + key_len, blank)])
        return em_error_set(err, -EINVAL, "%s:%d: expected a line `name key`", path, number);
    if (name_len > EM_KEY_NAME_MAX || !name_ok(name, name_len))
        return em_error_set(err, -EINVAL, "%s:%d: a name is 1 to %d letters, digits, or any of . _ : -", path, number,
                            EM_KEY_NAME_MAX);
    if (key_len > EM_KEY_MAX_BYTES || !visible(key, key_len))
        return em_error_set(err, -EINVAL, "%s:%d: a key is 1 to %d visible ASCII characters", path, number,
                            EM_KEY_MAX_BYTES);
    memcpy(e.name, name, name_len);
    memcpy(e.key, key, key_len);
    int r = same_key(k, &e)       ? em_error_set(err, -EINVAL, "%s:%d: this key stands there twice", path, number)
            : k->n >= EM_KEYS_MAX ? em_error_set(err, -EINVAL, "%s: more than %d keys", path, EM_KEYS_MAX)
            : push(k, &e) < 0     ? em_error_set(err, -ENOMEM, "out of memory")
                                  : 0;
    explicit_bzero(&e, sizeof(e));
    return r;
}

static int read_lines(em_keys *k, char *text, const char *path, em_error *err)
{
    int r = 0, number = 1;
    for (char *line = text; r == 0 && line; number++) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        r = read_line(k, line, path, number, err);
        line = end ? end + 1 : NULL;
    }
    if (r == 0 && k->n == 0)
        r = em_error_set(err, -EINVAL, "%s holds no key: write lines `name key`", path);
    return r;
}

int em_keys_load(const char *path, em_keys **ret_keys, em_error *err)
{
    char *text;
    size_t size;
    int r = em_file_read(path, MAX_FILE, &text, &size, err);
    if (r < 0)
        return r;
    em_keys *k = calloc(1, sizeof(*k));
    if (!k)
        r = em_error_set(err, -ENOMEM, "out of memory");
    else if (memchr(text, '\0', size))
        r = em_error_set(err, -EINVAL, "%s is not a text file", path);
    else
        r = read_lines(k, text, path, err);
    explicit_bzero(text, size);
    free(text);
    if (r < 0) {
        em_keys_free(k);
        return r;
    }
    *ret_keys = k;
    return 0;
}

em_keys *em_keys_free(em_keys *k)
{
    if (!k)
        return NULL;
    if (k->entries)
        explicit_bzero(k->entries, (size_t)k->n * sizeof(*k->entries));
    free(k->entries);
    free(k);
    return NULL;
}

int em_keys_count(const em_keys *k)
{
    return k->n;
}

/* --- comparing ------------------------------------------------------------------------------------------------ */

/* 0 when equal; always reads all. */
static unsigned difference(const char *a, const char *b)
{
    unsigned d = 0;
    for (size_t i = 0; i < KEY_CAP; i++)
        d |= (unsigned char)(a[i] ^ b[i]);
    return d;
}

const char *em_keys_find(const em_keys *k, const char *key)
{
    char padded[KEY_CAP] = {0};
    size_t len = strlen(key);
    size_t found = SIZE_MAX;
    if (len == 0 || len > EM_KEY_MAX_BYTES)
        return NULL;
    memcpy(padded, key, len);
    for (size_t i = 0; i < (size_t)k->n; i++) {
        /* all ones when they differ: no branch on a secret */
        size_t differs = (size_t)0 - (size_t)((difference(k->entries[i].key, padded) + 0xff) >> 8);
        found = (found & differs) | (i & ~differs);
    }
    explicit_bzero(padded, sizeof(padded));
    return found == SIZE_MAX ? NULL : k->entries[found].name;
}

const char *em_keys_bearer(const char *authorization)
{
    static const char scheme[] = "Bearer ";
    if (!authorization || strncasecmp(authorization, scheme, sizeof(scheme) - 1) != 0)
        return NULL;
    authorization += sizeof(scheme) - 1;
    return authorization + strspn(authorization, " ");
}
