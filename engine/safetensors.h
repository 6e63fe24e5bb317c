/* safetensors files: one, or a set named by an index; mapped, never copied.
 *
 * A checkpoint folder has model.safetensors, or *.safetensors with model.safetensors.index.json, or *.safetensors
 * without an index (then all of them are opened in name order). Every offset is checked against the file before it
 * is used: overlapping, out-of-range or misordered data, bytes that belong to no tensor, sizes that do not match dtype
 * and shape, duplicate names and truncated files are refused with one sentence that names file and tensor. With an
 * index, it must list exactly the tensors that its files hold.
 *
 * The format does not align tensors: data may lie at any byte address, so nobody may read floats through a cast
 * pointer without looking (em_weights_load copies what is misaligned). Shapes count elements; F4 packs two to a byte.
 *
 * Read-only after open; any thread. */
#ifndef EM_ENGINE_SAFETENSORS_H
#define EM_ENGINE_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

#define EM_ST_MAX_DIMS 8
#define EM_ST_MAX_HEADER (256u << 20) /* bytes of one file's JSON header */
#define EM_ST_MAX_FILES 4096

typedef enum em_st_dtype {
    EM_ST_F64,
    EM_ST_F32,
    EM_ST_F16,
    EM_ST_BF16,
    EM_ST_I64,
    EM_ST_I32,
    EM_ST_I16,
    EM_ST_I8,
    EM_ST_U8,
    EM_ST_BOOL,
    EM_ST_F8_E4M3,
    EM_ST_F8_E5M2,
    EM_ST_F8_E8M0,
    EM_ST_F4,
    EM_ST_U16,
    EM_ST_U32,
    EM_ST_U64,
} em_st_dtype;

typedef struct em_st_tensor {
    const char *name; /* as in the file, NUL-terminated, owned by the set */
    em_st_dtype dtype;
    int32_t n_dims;
    int64_t shape[EM_ST_MAX_DIMS];
    const uint8_t *data; /* mapped; NULL when bytes is 0 */
    uint64_t bytes;
    int32_t file_idx;     /* which file, for sentences and for tiers that read rows themselves */
    uint64_t file_offset; /* bytes from the start of that file */
} em_st_tensor;

typedef struct em_st_set em_st_set;

/* Opens all tensor files of a checkpoint folder. */
int em_st_open(const char *dir, em_st_set **ret_set, em_error *err);
em_st_set *em_st_close(em_st_set *set); /* NULL is fine; returns NULL; unmaps: no view may be used afterwards */

size_t em_st_count(const em_st_set *set);
const em_st_tensor *em_st_get(const em_st_set *set, size_t i);          /* i < count, sorted by name */
const em_st_tensor *em_st_find(const em_st_set *set, const char *name); /* NULL: no such tensor */
const char *em_st_path(const em_st_set *set, int32_t file_idx);
int em_st_fd(const em_st_set *set, int32_t file_idx);
const char *em_st_dtype_name(em_st_dtype dtype); /* "BF16" */

/* Parses one header: the JSON text after the 8-byte length; data_bytes follow it in the file. Calls on_tensor for
 * each entry (data left NULL, file_offset relative to the data section); a negative return stops and is passed on.
 * The pure part of the loader, for the fuzzer. */
int em_st_parse_header(const char *json, size_t len, uint64_t data_bytes, const char *file,
                       int (*on_tensor)(void *ctx, const em_st_tensor *t, em_error *err), void *ctx, em_error *err);

#endif
