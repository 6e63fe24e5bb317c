/* Golden chat data: every line of every *.jsonl in FIXTURES/chat and the folders in it. A line is a case of prompts when
 * it has `prompt` or `status`, of parsing when it has `chunks`. */
#ifndef EM_TESTS_CHAT_GOLDEN_H
#define EM_TESTS_CHAT_GOLDEN_H

#include <dirent.h>

#include "tests/support/fixtures.h"
#include "tests/support/golden_json.h"

typedef void (*chat_line_fn)(const char *line, size_t len, const char *where);

static inline int chat_golden_file(const char *path, bool parsing, chat_line_fn fn)
{
    golden_file f;
    const char *line;
    size_t len;
    int n = 0;
    ck_assert_msg(golden_open(path, &f), "%s cannot be read", path);
    while (golden_line(&f, &line, &len)) {
        em_json j;
        bool is_parsing = golden_find(line, len, "chunks", &j);
        bool is_prompt = golden_find(line, len, "prompt", &j) || golden_find(line, len, "status", &j);
        if (parsing ? !is_parsing : !is_prompt)
            continue;
        char where[4200];
        size_t name_len;
        char *name = golden_member_text(line, len, "name", &name_len);
        snprintf(where, sizeof where, "%s:%d (%s)", path, f.line, name);
        free(name);
        fn(line, len, where);
        n++;
    }
    free(f.data);
    return n;
}

static inline int chat_golden_folder(const char *dir, bool parsing, chat_line_fn fn, int depth)
{
    int n = 0;
    DIR *d = opendir(dir);
    ck_assert_msg(d || depth, "%s cannot be read", dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        char path[4096];
        const char *dot = strrchr(e->d_name, '.');
        int got = snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        ck_assert_int_lt(got, (int)sizeof path);
        if (dot && !strcmp(dot, ".jsonl"))
            n += chat_golden_file(path, parsing, fn);
        else if (!dot && depth < 4)
            n += chat_golden_folder(path, parsing, fn, depth + 1);
    }
    if (d)
        closedir(d);
    return n;
}

/* Calls fn for each line of the kind; there must be one. */
static inline void chat_golden_lines(bool parsing, chat_line_fn fn)
{
    char dir[2048];
    int n = chat_golden_folder(fixture_path(dir, sizeof dir, "chat"), parsing, fn, 0);
    printf("%d lines\n", n);
    ck_assert_msg(n > 0, "no golden data of chats in %s", dir);
}

#endif
