/* Any bytes through the JSON reader: token by token, by skipping, and their strings and numbers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good)
        abort();
}

static void check_string(const em_json *j, char *buf)
{
    size_t len;
    require(em_json_string(j, buf, j->raw_len + 1, &len) == 0);
    require(len <= j->raw_len && buf[len] == '\0' && em_utf8_valid(buf, len));
    require(em_json_is(j, buf) == !j->has_nul); /* a C string cannot hold the NUL */
    require(j->has_nul == (strlen(buf) != len));
    require(len == 0 || em_json_string(j, buf, len, NULL) < 0); /* one byte short */
}

static void check_number(const em_json *j)
{
    int64_t i;
    double d;
    int ri = em_json_i64(j, &i), rd = em_json_f64(j, &d);
    if (ri == 0)
        require(rd == 0 && d == (double)i);
    if (rd == 0)
        require(isfinite(d));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *buf = malloc(size + 1);
    em_json j, skip;
    em_json_init(&j, (const char *)data, size, 0);
    em_json_type t;
    size_t n = 0;
    while ((t = em_json_next(&j)) > EM_JSON_END) {
        require(++n <= 2 * size + 2);
        require(em_json_offset(&j) <= size);
        if (t == EM_JSON_KEY || t == EM_JSON_STRING)
            check_string(&j, buf);
        if (t == EM_JSON_NUMBER)
            check_number(&j);
    }
    require((t == EM_JSON_ERROR) == (j.error != NULL));
    require(em_json_next(&j) == t);
    /* skipping the one value must come to the same verdict */
    em_json_init(&skip, (const char *)data, size, 0);
    em_json_next(&skip);
    em_json_skip(&skip);
    require(em_json_next(&skip) == t);
    free(buf);
    return 0;
}
