#include "api/text_pattern.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int em_pattern_init(em_pattern *p, const void *text, size_t len)
{
    em_pattern made = {.text = malloc(len), .back = calloc(len, sizeof *made.back), .len = (uint32_t)len};
    if (!made.text || !made.back) {
        em_pattern_done(&made);
        return -ENOMEM;
    }
    memcpy(made.text, text, len);
    for (uint32_t i = 1; i < made.len; i++) {
        uint32_t k = made.back[i - 1];
        while (k && made.text[k] != made.text[i])
            k = made.back[k - 1];
        made.back[i] = made.text[k] == made.text[i] ? k + 1 : 0;
    }
    *p = made;
    return 0;
}

void em_pattern_done(em_pattern *p)
{
    free(p->text);
    free(p->back);
    *p = (em_pattern){0};
}
