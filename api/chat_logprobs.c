#include "api/chat_logprobs.h"

#include <stdlib.h>
#include <string.h>

#include "api/logprobs.h"

typedef struct em_waiting_entry {
    int64_t offset; /* characters of the text before the token */
    size_t len;     /* bytes of its JSON */
} em_waiting_entry;

void em_chat_logprobs_add(em_chat_logprobs *l, const em_engine *engine, const em_event_token *tok)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        em_waiting_entry *entries = realloc(l->entries, cap * sizeof *entries);
        if (!entries) {
            l->failed = true;
            return;
        }
        l->entries = entries;
        l->cap = cap;
    }
    size_t before = l->waiting.len;
    em_logprob_entry_json(engine, tok, l->as_ids, &l->waiting);
    l->entries[l->n++] = (em_waiting_entry){.offset = tok->text_offset, .len = l->waiting.len - before};
}

void em_chat_logprobs_settle(em_chat_logprobs *l, const em_chat_position *at, bool all)
{
    size_t n = 0, used = 0;
    for (; n < l->n && (all || l->entries[n].offset < at->settled); n++) {
        const em_waiting_entry *e = &l->entries[n];
        em_buf *list = e->offset < at->reasoning_end ? &l->reasoning : &l->content;
        if (e->offset < at->cut) {
            if (list->len)
                em_buf_puts(list, ",");
            em_buf_append(list, l->waiting.data + used, e->len);
        }
        used += e->len;
    }
    if (!n)
        return;
    em_buf_consume(&l->waiting, used);
    l->n -= n;
    memmove(l->entries, l->entries + n, l->n * sizeof *l->entries);
}

bool em_chat_logprobs_pending(const em_chat_logprobs *l)
{
    return l->reasoning.len || l->content.len;
}

static void write_list(const em_buf *items, em_buf *out)
{
    em_buf_puts(out, "[");
    em_buf_append(out, items->data, items->len);
    em_buf_puts(out, "]");
    out->failed |= items->failed;
}

void em_chat_logprobs_json(const em_chat_logprobs *l, bool reasons, em_buf *out)
{
    em_buf_puts(out, "{\"content\":");
    write_list(&l->content, out);
    em_buf_puts(out, ",\"refusal\":null");
    if (reasons) {
        em_buf_puts(out, ",\"reasoning_content\":");
        write_list(&l->reasoning, out);
    }
    em_buf_puts(out, "}");
    out->failed |= l->failed || l->waiting.failed;
}

void em_chat_logprobs_clear(em_chat_logprobs *l)
{
    em_buf_consume(&l->reasoning, l->reasoning.len);
    em_buf_consume(&l->content, l->content.len);
}

void em_chat_logprobs_done(em_chat_logprobs *l)
{
    em_buf_done(&l->reasoning);
    em_buf_done(&l->content);
    em_buf_done(&l->waiting);
    free(l->entries);
    *l = (em_chat_logprobs){0};
}
