/* Reading golden data with the project's own reader: whole files, lines of *.jsonl, members of one object. */
#ifndef EM_TESTS_GOLDEN_JSON_H
#define EM_TESTS_GOLDEN_JSON_H

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"

typedef struct golden_file {
    char *data; /* NUL-terminated; caller frees */
    size_t size;
    size_t at; /* golden_line reads from here */
    int line;  /* number of the line last read, from 1 */
} golden_file;

/* False: no such file. */
static inline bool golden_open(const char *path, golden_file *ret)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    *ret = (golden_file){0};
    ck_assert(fseek(f, 0, SEEK_END) == 0);
    long size = ftell(f);
    ck_assert(size >= 0);
    rewind(f);
    ret->data = malloc((size_t)size + 1);
    ck_assert_ptr_nonnull(ret->data);
    ck_assert_uint_eq(fread(ret->data, 1, (size_t)size, f), (size_t)size);
    ret->data[size] = '\0';
    ret->size = (size_t)size;
    fclose(f);
    return true;
}

/* The next line that is not empty; false at the end. */
static inline bool golden_line(golden_file *f, const char **ret_line, size_t *ret_len)
{
    while (f->at < f->size) {
        const char *line = f->data + f->at, *end = memchr(line, '\n', f->size - f->at);
        size_t len = end ? (size_t)(end - line) : f->size - f->at;
        f->at += len + (end ? 1 : 0);
        f->line++;
        if (len > 0) {
            *ret_line = line;
            *ret_len = len;
            return true;
        }
    }
    return false;
}

/* Finds a member of the object that text holds; ret stands on its value. */
static inline bool golden_find(const char *text, size_t len, const char *name, em_json *ret)
{
    em_json j;
    em_json_init(&j, text, len, 0);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_OBJECT);
    bool found = false;
    while (em_json_next(&j) == EM_JSON_KEY) {
        bool hit = em_json_is(&j, name);
        ck_assert_int_ne(em_json_next(&j), EM_JSON_ERROR);
        if (hit) {
            *ret = j;
            found = true;
        }
        ck_assert_int_eq(em_json_skip(&j), 0);
    }
    ck_assert_msg(j.type == EM_JSON_OBJECT_END, "golden data is not valid JSON: %s", em_json_error(&j));
    return found;
}

/* The string that j stands on; caller frees. */
static inline char *golden_text(const em_json *j, size_t *ret_len)
{
    ck_assert_int_eq(j->type, EM_JSON_STRING);
    char *text = malloc(j->raw_len + 1);
    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(em_json_string(j, text, j->raw_len + 1, ret_len), 0);
    return text;
}

/* A member that must be there: a string (caller frees), the bytes of a hexadecimal string, an integer. */
static inline char *golden_member_text(const char *text, size_t len, const char *name, size_t *ret_len)
{
    em_json j;
    ck_assert_msg(golden_find(text, len, name, &j), "no %s in %.*s", name, len > 200 ? 200 : (int)len, text);
    return golden_text(&j, ret_len);
}

/* Bytes of a hexadecimal string, in place. */
static inline size_t golden_unhex(char *hex, size_t len)
{
    ck_assert_uint_eq(len % 2, 0);
    for (size_t i = 0; i < len / 2; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'}, *end;
        hex[i] = (char)strtoul(two, &end, 16);
        ck_assert(*end == '\0');
    }
    return len / 2;
}

static inline int64_t golden_i64(const em_json *j)
{
    int64_t v = 0;
    ck_assert_int_eq(em_json_i64(j, &v), 0);
    return v;
}

static inline int64_t golden_member_i64(const char *text, size_t len, const char *name)
{
    em_json j;
    ck_assert_msg(golden_find(text, len, name, &j), "no %s", name);
    return golden_i64(&j);
}

/* The integers of the list that j stands on; caller frees. */
static inline int32_t *golden_ids(em_json j, size_t *ret_n)
{
    ck_assert_int_eq(j.type, EM_JSON_ARRAY);
    int32_t *ids = malloc((j.end - j.p + 1) * sizeof *ids); /* each takes two characters or more */
    ck_assert_ptr_nonnull(ids);
    size_t n = 0;
    while (em_json_next(&j) == EM_JSON_NUMBER)
        ids[n++] = (int32_t)golden_i64(&j);
    ck_assert_int_eq(j.type, EM_JSON_ARRAY_END);
    *ret_n = n;
    return ids;
}

#endif
