#include "server/text_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/utf8.h"

#define READ_BYTES ((size_t)32 << 10) /* taken from the file at a time, more where it could not be cut */

int em_text_file_open(em_text_file *f, const char *name, em_error *err)
{
    struct stat st;
    bool is_stdin = strcmp(name, "-") == 0;
    f->name = is_stdin ? "standard input" : name;
    f->file = is_stdin ? stdin : fopen(name, "re");
    if (!f->file)
        return em_error_set(err, -errno, "cannot open %s: %s", name, strerror(errno));
    if (fstat(fileno(f->file), &st) == 0 && S_ISREG(st.st_mode))
        f->size = (uint64_t)st.st_size;
    return 0;
}

void em_text_file_close(em_text_file *f)
{
    if (f->file && f->file != stdin)
        fclose(f->file);
    em_buf_done(&f->text);
    *f = (em_text_file){0};
}

static int read_more(em_text_file *f, em_error *err)
{
    size_t want = f->text.len > READ_BYTES ? f->text.len : READ_BYTES;
    char *chunk = malloc(want);
    if (!chunk)
        return em_error_set(err, -ENOMEM, "out of memory");
    size_t n = fread(chunk, 1, want, f->file);
    int r = 0;
    if (ferror(f->file))
        r = em_error_set(err, -EIO, "cannot read %s: %s", f->name, strerror(errno));
    else if (em_buf_append(&f->text, chunk, n) < 0)
        r = em_error_set(err, -ENOMEM, "out of memory");
    f->taken += n;
    free(chunk);
    if (r == 0)
        f->at_end = n < want;
    return r;
}

int em_text_file_next(em_text_file *f, em_text_cut cut, const void *ctx, const char **ret_text, size_t *ret_len,
                      em_error *err)
{
    em_buf_consume(&f->text, f->given);
    f->given = 0;
    int r = read_more(f, err);
    if (r < 0)
        return r;
    size_t n = f->at_end ? f->text.len : cut(ctx, f->text.data, f->text.len);
    if (n == 0 && f->text.len >= EM_TEXT_MAX_UNCUT_BYTES)
        return em_error_set(err, -E2BIG, "%s has no line break in %u MiB of text", f->name,
                            EM_TEXT_MAX_UNCUT_BYTES >> 20);
    if (!em_utf8_valid(f->text.data, n))
        return em_error_set(err, -EINVAL, "%s is not valid UTF-8", f->name);
    f->given = n;
    *ret_text = n ? f->text.data : "";
    *ret_len = n;
    return 0;
}

double em_text_file_done(const em_text_file *f)
{
    return f->size ? (double)f->taken / (double)f->size : 0;
}
