/* error, buf, utf8, file, clock and log. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/utf8.h"

START_TEST(error_is_one_clean_line)
{
    em_error e = {0};
    ck_assert_int_eq(em_error_set(&e, -EINVAL, "tensor %s: %d", "a\nb\x1b\xff", 3), -EINVAL);
    ck_assert_str_eq(e.text, "tensor a?b??: 3");
    ck_assert_int_eq(em_error_set(&e, -EIO, "in file: %s", e.text), -EIO); /* its own text as argument */
    ck_assert_str_eq(e.text, "in file: tensor a?b??: 3");
    ck_assert_int_eq(em_error_set(NULL, -ENOENT, "x"), -ENOENT);
}
END_TEST

START_TEST(error_is_cut_between_characters)
{
    char many[1200];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(many, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof(many); i += 3)
            memcpy(many + i, "\xe2\x82\xac", 4);
        em_error e;
        em_error_set(&e, -EINVAL, "%s", many);
        size_t len = strlen(e.text);
        ck_assert_uint_le(len, sizeof(e.text) - 1);
        ck_assert_uint_ge(len, sizeof(e.text) - 4);
        ck_assert(em_utf8_valid(e.text, len));
    }
}
END_TEST

START_TEST(buf_appends_and_consumes)
{
    em_buf b = {0};
    ck_assert_int_eq(em_buf_puts(&b, "hello"), 0);
    ck_assert_int_eq(em_buf_printf(&b, " %d %s", 42, "world"), 0);
    ck_assert_str_eq(b.data, "hello 42 world");
    em_buf_consume(&b, 6);
    ck_assert_str_eq(b.data, "42 world");
    ck_assert_uint_eq(b.len, 8);
    em_buf_consume(&b, 100);
    ck_assert_uint_eq(b.len, 0);
    em_buf_clear(&b);
    for (int i = 0; i < 5000; i++)
        ck_assert_int_eq(em_buf_printf(&b, "%d,", i % 10), 0);
    ck_assert_uint_eq(b.len, 10000);
    ck_assert(memcmp(b.data + 9996, "8,9,", 5) == 0);
    ck_assert_int_eq(em_buf_append(&b, "a\0b", 3), 0);
    ck_assert(b.data[b.len] == '\0' && b.data[b.len - 2] == '\0');
    em_buf_done(&b);
    ck_assert(b.data == NULL && b.cap == 0);
    em_buf_done(&b);
}
END_TEST

START_TEST(buf_failure_stays)
{
    em_buf b = {0};
    em_buf_puts(&b, "kept");
    ck_assert_int_eq(em_buf_append(&b, "x", SIZE_MAX / 2), -ENOMEM);
    ck_assert(b.failed);
    ck_assert_str_eq(b.data, "kept");
    ck_assert_int_eq(em_buf_puts(&b, "more"), -ENOMEM); /* nothing may follow a hole */
    ck_assert_int_eq(em_buf_printf(&b, "%d", 1), -ENOMEM);
    ck_assert_str_eq(b.data, "kept");
    em_buf_done(&b);
}
END_TEST

START_TEST(buf_json_strings_read_back)
{
    char text[200];
    for (int c = 0; c < 128; c++)
        text[c] = (char)c;
    memcpy(text + 128, "\xc3\xa9\xf0\x9f\x98\x80", 6);
    em_buf b = {0};
    ck_assert_int_eq(em_buf_json_string(&b, text, 134), 0);
    em_json j;
    em_json_init(&j, b.data, b.len, 0);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_STRING);
    char back[200];
    size_t len;
    ck_assert_int_eq(em_json_string(&j, back, sizeof(back), &len), 0);
    ck_assert(len == 134 && memcmp(back, text, 134) == 0);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_END);
    em_buf_done(&b);
}
END_TEST

/* Plain tests inside: Check reports every assertion through a pipe, which a million of them would feel. */
static bool round_trips(uint32_t cp)
{
    uint8_t b[4];
    int n = em_utf8_encode(cp, b);
    uint32_t back = 0;
    bool good = em_utf8_decode(b, (size_t)n, &back) == n && back == cp;
    for (int k = 1; k < n; k++)
        good = good && em_utf8_decode(b, (size_t)k, &back) == 0; /* cut: wait for more */
    return good;
}

START_TEST(utf8_every_character_round_trips)
{
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++)
        if (!(cp >= 0xd800 && cp <= 0xdfff) && !round_trips(cp))
            ck_abort_msg("U+%04X does not come back", cp);
}
END_TEST

START_TEST(utf8_ill_formed_parts)
{
    static const struct {
        const char *s;
        size_t n;
        int want;
    } t[] = {
        {"\x80", 1, -1},
        {"\xc0\x80", 2, -1},
        {"\xc1\xbf", 2, -1},
        {"\xf5\x80\x80\x80", 4, -1},
        {"\xff", 1, -1},
        {"\xe0\x80\x80", 3, -1},
        {"\xed\xa0\x80", 3, -1},
        {"\xf0\x80\x80\x80", 4, -1},
        {"\xf4\x90\x80\x80", 4, -1},
        {"\xc3 ", 2, -1},
        {"\xe2\x82 ", 3, -2},
        {"\xf0\x9f\x98 ", 4, -3},
        {"\xf0\x9f", 2, 0},
        {"\xe2", 1, 0},
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        uint32_t cp = 0;
        ck_assert_int_eq(em_utf8_decode((const uint8_t *)t[i].s, t[i].n, &cp), t[i].want);
        if (t[i].want < 0)
            ck_assert_uint_eq(cp, 0xfffd);
        ck_assert(!em_utf8_valid(t[i].s, t[i].n));
    }
    ck_assert(em_utf8_valid("", 0) && em_utf8_valid("plain ascii, long enough", 24));
    ck_assert(!em_utf8_valid("plain ascii then \xff and more of it", 32));
    ck_assert_uint_eq(em_utf8_count("a\xc3\xa9\xf0\x9f\x98\x80", 7), 3);
}
END_TEST

static char dir[] = "/tmp/em-base-XXXXXX";

static const char *in_dir(char *buf, size_t cap, const char *name)
{
    snprintf(buf, cap, "%s/%s", dir, name);
    return buf;
}

START_TEST(files_are_read_and_mapped)
{
    ck_assert(mkdtemp(dir));
    char path[256], *data = NULL;
    size_t size = 0;
    em_error e;
    em_map m = {0};
    FILE *f = fopen(in_dir(path, sizeof(path), "file"), "w");
    fputs("contents", f);
    fclose(f);
    ck_assert_int_eq(em_file_read(path, 8, &data, &size, &e), 0);
    ck_assert(size == 8 && strcmp(data, "contents") == 0);
    free(data);
    data = NULL;
    ck_assert_int_eq(em_file_read(path, 7, &data, &size, &e), -EFBIG);
    ck_assert(data == NULL && strstr(e.text, path));
    ck_assert_int_eq(em_map_open(path, &m, &e), 0);
    ck_assert(m.size == 8 && memcmp(m.data, "contents", 8) == 0);
    char c;
    ck_assert_int_eq(pread(m.fd, &c, 1, 3), 1);
    ck_assert_int_eq(c, 't');
    em_map_done(&m);
    em_map_done(&m);
    unlink(path);
    ck_assert_int_eq(em_map_open(path, &m, &e), -ENOENT);
    ck_assert(strstr(e.text, path) && strstr(e.text, "No such file"));
    ck_assert_int_eq(em_file_read(path, 8, &data, &size, &e), -ENOENT);
    ck_assert_int_eq(em_map_open(dir, &m, &e), -EISDIR);
    ck_assert_int_eq(mkfifo(in_dir(path, sizeof(path), "pipe"), 0600), 0);
    ck_assert_int_eq(em_map_open(path, &m, &e), -EINVAL); /* and does not wait for a writer */
    unlink(path);
    close(open(in_dir(path, sizeof(path), "empty"), O_CREAT | O_WRONLY, 0600));
    ck_assert_int_eq(em_map_open(path, &m, &e), 0);
    ck_assert(m.data == NULL && m.size == 0);
    em_map_done(&m);
    ck_assert_int_eq(em_file_read(path, 0, &data, &size, &e), 0);
    ck_assert(size == 0 && data[0] == '\0');
    free(data);
    unlink(path);
    rmdir(dir);
    em_map zero = {0};
    em_map_done(&zero); /* must not close descriptor 0 */
    ck_assert_int_ne(fcntl(0, F_GETFD), -1);
}
END_TEST

START_TEST(clock_moves_forward)
{
    uint64_t a = em_now_ns();
    usleep(2000);
    uint64_t b = em_now_ns();
    ck_assert_uint_ge(b - a, 2000000);
}
END_TEST

/* What em_log writes to stderr. */
static size_t logged(char *buf, size_t cap, em_log_level min, bool json, em_log_level level, const char *id,
                     const char *msg)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    int saved = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    em_log_init(min, json);
    em_log(level, id, "%s", msg);
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = read(fds[0], buf, cap - 1);
    close(fds[0]);
    buf[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

START_TEST(log_lines)
{
    static char buf[20000], text[8000];
    ck_assert_uint_eq(logged(buf, sizeof(buf), EM_LOG_INFO, false, EM_LOG_DEBUG, NULL, "hidden"), 0);
    size_t n = logged(buf, sizeof(buf), EM_LOG_INFO, false, EM_LOG_WARN, "req-1", "two\nlines \x1b[31m");
    ck_assert(n > 0 && buf[n - 1] == '\n' && strchr(buf, '\n') == buf + n - 1);
    ck_assert(strstr(buf, "Z warning [req-1] two\\u000alines \\u001b[31m\n"));
    n = logged(buf, sizeof(buf), EM_LOG_DEBUG, true, EM_LOG_ERROR, "a\"b", "say \"hi\"\\\n\xff");
    ck_assert(n > 0 && buf[n - 1] == '\n');
    em_json j;
    em_json_init(&j, buf, n, 0);
    int strings = 0;
    for (em_json_type t; (t = em_json_next(&j)) != EM_JSON_END;) {
        ck_assert_int_ne(t, EM_JSON_ERROR);
        if (t == EM_JSON_STRING && ++strings == 4)
            ck_assert(em_json_is(&j, "say \"hi\"\\\n\xef\xbf\xbd"));
    }
    ck_assert_int_eq(strings, 4);
    memset(text, '\x01', sizeof(text) - 1); /* the worst case still makes one valid line */
    n = logged(buf, sizeof(buf), EM_LOG_INFO, true, EM_LOG_INFO, NULL, text);
    em_json_init(&j, buf, n, 0);
    em_json_type t;
    while ((t = em_json_next(&j)) > EM_JSON_END)
        ;
    ck_assert_int_eq(t, EM_JSON_END);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base");
    TCase *c = tcase_create("base");
    tcase_add_test(c, error_is_one_clean_line);
    tcase_add_test(c, error_is_cut_between_characters);
    tcase_add_test(c, buf_appends_and_consumes);
    tcase_add_test(c, buf_failure_stays);
    tcase_add_test(c, buf_json_strings_read_back);
    tcase_add_test(c, utf8_every_character_round_trips);
    tcase_add_test(c, utf8_ill_formed_parts);
    tcase_add_test(c, files_are_read_and_mapped);
    tcase_add_test(c, clock_moves_forward);
    tcase_add_test(c, log_lines);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
