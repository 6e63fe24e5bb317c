/* Any bytes as a safetensors header: two bytes give the size of the data, the rest is the JSON. An accepted header's
 * tensors tile the data exactly. */
#include <stdlib.h>
#include <string.h>

#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int good)
{
    if (!good)
        abort();
}

typedef struct seen {
    uint64_t data_bytes, sum;
} seen;

static int on_tensor(void *ctx, const em_st_tensor *t, em_error *err)
{
    seen *s = ctx;
    require(t->name && t->name[0] && t->n_dims >= 0 && t->n_dims <= EM_ST_MAX_DIMS);
    require(t->file_offset <= s->data_bytes && t->bytes <= s->data_bytes - t->file_offset);
    require(strcmp(em_st_dtype_name(t->dtype), "?") != 0);
    for (int32_t i = 0; i < t->n_dims; i++)
        require(t->shape[i] >= 0);
    s->sum += t->bytes;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    seen s = {.data_bytes = (uint64_t)(data[0] | data[1] << 8)};
    em_error err = {0};
    if (em_st_parse_header((const char *)data + 2, size - 2, s.data_bytes, "fuzz", on_tensor, &s, &err) == 0)
        require(s.sum == s.data_bytes);
    else
        require(err.text[0] != '\0');
    return 0;
}
