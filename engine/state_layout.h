/* Where the state of sequences lies, byte by byte: the same in every backend, so that one can be compared with another.
 *
 * A slot holds the window rings of all layers and the open groups of the KV sources; a KV block holds compressed rows
 * and index keys of the positions it stands for. Rows are stored on their quantiser's grid (spec 3.5, 9): packing loses
 * nothing, since the model itself only sees quantised values. Where a width does not divide by the quantiser's block, the
 * model skips it and rows are F32. Pure; any thread. */
#ifndef EM_ENGINE_STATE_LAYOUT_H
#define EM_ENGINE_STATE_LAYOUT_H

#include "engine/config.h"

typedef struct em_state_layout {
    bool pack_window, pack_comp, pack_key; /* Q1, Q2, Q3/Q4 apply: width divides by 32, 16, 32 */
    size_t window_row, comp_row, key_row;  /* bytes */
    int32_t window;                        /* rows of a ring; ring of layer l begins at row l * window of a slot */
    int32_t block_tokens;                  /* positions of a block */
    size_t block_bytes, slot_bytes;        /* multiples of 64 */
    size_t comp_off[EM_MAX_LAYERS];        /* [n_kv_sources] compressed rows inside a block */
    size_t key_off[EM_MAX_LAYERS];         /* [n_kv_sources] index keys inside a block */
    size_t open_off[EM_MAX_LAYERS];        /* [n_kv_sources] inside a slot: kv then gate, (ratio-1) x D F32 each */
} em_state_layout;

void em_state_layout_init(em_state_layout *l, const em_model_config *cfg, int32_t block_tokens);

#endif
