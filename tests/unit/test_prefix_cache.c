/* The prefix cache against a shadow of every block's and snapshot's content, with a good hash and with none; then who
 * goes first, salts, and moving snapshots by hand. */
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/prefix_cache.h"
#include "tests/support/fixtures.h"

/* Plain tests, because an assertion of Check costs a system call. */
#define MUST(cond, ...)                                                                                                \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            ck_abort_msg(__VA_ARGS__);                                                                                 \
    } while (0)

enum { N_SLOTS = 6, N_BLOCKS = 24, BLOCK = 4, MAX_TOKENS = 48, N_SNAPSHOTS = 5 };

static const char *const salts[] = {"", "a", "ab"};

/* All there is to know of a prefix. */
typedef struct content {
    int32_t salt; /* index; -1: empty */
    int32_t n;
    int32_t token[MAX_TOKENS];
} content;

typedef struct owner {
    bool open;
    content text; /* all tokens */
    int32_t pos;  /* computed */
    int32_t n_known;
    em_seq_kv kv;
} owner;

typedef struct shadow {
    em_kv_cache *kv;
    em_prefix_cache *pc;
    owner seq[N_SLOTS];
    content block[N_BLOCKS], snapshot[N_SNAPSHOTS];
    unsigned long long seed;
    uint64_t n_draws;
    int n_hits, n_replaced, n_full;
} shadow;

static uint32_t pick(shadow *s, uint32_t n)
{
    return (uint32_t)(em_rng_u64(s->seed, 0, s->n_draws++, 0) % n);
}

static uint64_t no_hash(const uint64_t key[2], const void *bytes, size_t len)
{
    return 0;
}

static em_prefix_text text_of(const content *c)
{
    return (em_prefix_text){.tokens = c->token, .salt = salts[c->salt], .salt_len = strlen(salts[c->salt])};
}

/* c begins with the first n tokens of text, under the same salt, and has no more. */
static bool is_prefix(const content *c, const content *text, int32_t n)
{
    return c->salt == text->salt && c->n == n && memcmp(c->token, text->token, (size_t)n * sizeof(int32_t)) == 0;
}

static content prefix_of(const content *text, int32_t n)
{
    content c = {.salt = text->salt, .n = n};
    memcpy(c.token, text->token, (size_t)n * sizeof(int32_t));
    return c;
}

static void check_refs(const shadow *s)
{
    uint32_t refs[N_BLOCKS] = {0};
    int32_t n_free = 0;
    for (int i = 0; i < N_SLOTS; i++) {
        const owner *o = &s->seq[i];
        for (int32_t b = 0; o->open && b < o->kv.n_blocks; b++) {
            refs[o->kv.block_table[b]]++;
            int32_t end = (b + 1) * BLOCK < o->pos ? (b + 1) * BLOCK : o->pos;
            MUST(end <= b * BLOCK || is_prefix(&s->block[o->kv.block_table[b]], &o->text, end), "block %d was spoilt",
                 o->kv.block_table[b]);
        }
    }
    for (int32_t b = 0; b < N_BLOCKS; b++) {
        MUST(em_kv_cache_refs(s->kv, b) == refs[b], "block %d: %u holders, %u counted", b, refs[b],
             em_kv_cache_refs(s->kv, b));
        n_free += refs[b] == 0;
    }
    MUST(em_kv_cache_free_blocks(s->kv) == n_free, "a block was lost");
    MUST(em_kv_cache_idle_blocks(s->kv) <= n_free, "an idle block is not free");
}

static void open_seq(shadow *s, owner *o)
{
    *o = (owner){.open = true, .text = {.salt = (int32_t)pick(s, 3), .n = 1 + (int32_t)pick(s, MAX_TOKENS)}};
    for (int32_t i = 0; i < o->text.n; i++)
        o->text.token[i] = pick(s, 12) == 0; /* few tokens, mostly one: many equal prefixes */
    em_prefix_text text = text_of(&o->text);
    em_prefix_hit hit = em_prefix_cache_find(s->pc, &text, o->text.n - 1);
    ck_assert_int_eq(em_seq_kv_open(s->kv, &o->kv), 0);
    if (!hit.n_tokens)
        return;
    MUST(hit.n_tokens < o->text.n && hit.n_tokens == hit.n_blocks * BLOCK, "a hit of %d tokens", hit.n_tokens);
    MUST(is_prefix(&s->snapshot[hit.snapshot], &o->text, hit.n_tokens), "the snapshot is of something else");
    int32_t n_used = 0;
    ck_assert_int_eq(em_kv_cache_free_blocks(s->kv) >= hit.n_blocks - hit.n_used_blocks, 1);
    int32_t free_before = em_kv_cache_free_blocks(s->kv);
    ck_assert_int_eq(em_prefix_cache_use(s->pc, &hit, &o->kv), 0);
    MUST(o->kv.n_blocks == hit.n_blocks, "%d blocks", o->kv.n_blocks);
    for (int32_t b = 0; b < hit.n_blocks; b++)
        n_used += em_kv_cache_refs(s->kv, o->kv.block_table[b]) > 1;
    MUST(n_used == hit.n_used_blocks, "%d blocks were in use, %d said", n_used, hit.n_used_blocks);
    MUST(free_before - em_kv_cache_free_blocks(s->kv) == hit.n_blocks - hit.n_used_blocks, "free blocks");
    o->pos = hit.n_tokens;
    o->n_known = hit.n_blocks;
    s->n_hits++;
}

/* Some more positions are computed. */
static void advance(shadow *s, owner *o)
{
    int32_t to = o->pos + 1 + (int32_t)pick(s, 2 * BLOCK);
    to = to < o->text.n ? to : o->text.n;
    if (em_seq_kv_reserve(s->kv, &o->kv, to)) {
        s->n_full++;
        return;
    }
    for (; o->pos < to; o->pos++)
        s->block[o->kv.block_table[o->pos / BLOCK]] = prefix_of(&o->text, o->pos + 1);
    int32_t n_full = o->pos / BLOCK, own = n_full ? o->kv.block_table[n_full - 1] : -1;
    em_prefix_text text = text_of(&o->text);
    o->n_known = em_prefix_cache_put(s->pc, &text, &o->kv, o->n_known, n_full);
    MUST(o->n_known == n_full, "%d of %d blocks known", o->n_known, n_full);
    s->n_replaced += n_full && own != o->kv.block_table[n_full - 1];
    if (!n_full || o->pos % BLOCK || pick(s, 2))
        return;
    uint64_t owner_id = pick(s, 2) ? (uint64_t)(o - s->seq) + 1 : 0;
    int32_t i = em_prefix_cache_take_snapshot(s->pc, owner_id);
    MUST(i >= 0, "no snapshot to take");
    s->snapshot[i] = prefix_of(&o->text, o->pos);
    if (pick(s, 8) == 0) {
        em_prefix_cache_give_back_snapshot(s->pc, i);
        return;
    }
    em_prefix_cache_put_snapshot(s->pc, i, o->kv.block_table[n_full - 1], owner_id);
    if (o->pos < o->text.n)
        MUST(em_prefix_cache_find(s->pc, &text, o->text.n - 1).n_tokens >= o->pos, "the snapshot is not found");
}

static void random_operations(em_prefix_hash *hash, int n_ops)
{
    static shadow s;
    s = (shadow){.seed = test_seed(6)};
    ck_assert_int_eq(em_kv_cache_new(N_SLOTS, N_BLOCKS, BLOCK, &s.kv), 0);
    em_prefix_opts opts = {.n_snapshots = N_SNAPSHOTS, .key = {s.seed, 1}, .hash = hash};
    ck_assert_int_eq(em_prefix_cache_new(s.kv, &opts, &s.pc), 0);
    for (int k = 0; k < n_ops; k++) {
        owner *o = &s.seq[pick(&s, N_SLOTS)];
        if (!o->open) {
            open_seq(&s, o);
        } else if (pick(&s, 5) && o->pos < o->text.n) {
            advance(&s, o);
        } else {
            em_seq_kv_close(s.kv, &o->kv);
            o->open = false;
        }
        check_refs(&s);
    }
    for (int i = 0; i < N_SLOTS; i++)
        em_seq_kv_close(s.kv, &s.seq[i].kv);
    ck_assert_int_eq(em_kv_cache_free_blocks(s.kv), N_BLOCKS);
    ck_assert_int_gt(s.n_hits, n_ops / 50); /* the interesting cases were met */
    ck_assert_int_gt(s.n_replaced, n_ops / 100);
    ck_assert_int_gt(s.n_full, n_ops / 1000);
    printf("%d hits, %d blocks replaced, %d times full\n", s.n_hits, s.n_replaced, s.n_full);
    ck_assert_ptr_null(em_prefix_cache_free(s.pc));
    em_kv_cache_free(s.kv);
}

START_TEST(random_with_siphash)
{
    random_operations(em_siphash, 60000);
}
END_TEST

START_TEST(random_when_all_collide)
{
    random_operations(no_hash, 60000);
}
END_TEST

/* --- by hand ------------------------------------------------------------------------------------------------ */

static em_kv_cache *kv;
static em_prefix_cache *pc;

static void open_books(int32_t n_blocks, int32_t n_snapshots)
{
    ck_assert_int_eq(em_kv_cache_new(4, n_blocks, BLOCK, &kv), 0);
    em_prefix_opts opts = {.n_snapshots = n_snapshots, .hash = em_siphash};
    ck_assert_int_eq(em_prefix_cache_new(kv, &opts, &pc), 0);
}

static void close_books(void)
{
    em_prefix_cache_free(pc);
    em_kv_cache_free(kv);
}

static content letters(const char *text, int32_t salt)
{
    content c = {.salt = salt, .n = (int32_t)strlen(text)};
    for (int32_t i = 0; i < c.n; i++)
        c.token[i] = text[i];
    return c;
}

static int32_t add_snapshot(int32_t block_id, uint64_t owner_id)
{
    int32_t i = em_prefix_cache_take_snapshot(pc, owner_id);
    if (i >= 0)
        em_prefix_cache_put_snapshot(pc, i, block_id, owner_id);
    return i;
}

/* Computes all of a text, with a snapshot at the end. */
static em_seq_kv compute(const content *c, uint64_t owner_id)
{
    em_seq_kv seq;
    em_prefix_text text = text_of(c);
    ck_assert_int_eq(em_seq_kv_open(kv, &seq), 0);
    ck_assert_int_eq(em_seq_kv_reserve(kv, &seq, c->n), 0);
    ck_assert_int_eq(em_prefix_cache_put(pc, &text, &seq, 0, c->n / BLOCK), c->n / BLOCK);
    add_snapshot(seq.block_table[c->n / BLOCK - 1], owner_id);
    return seq;
}

static int32_t found(const char *text, int32_t salt)
{
    content c = letters(text, salt);
    em_prefix_text t = text_of(&c);
    return em_prefix_cache_find(pc, &t, c.n).n_tokens;
}

START_TEST(salts_share_nothing)
{
    open_books(16, 4);
    content c = letters("abcdefgh", 1);
    em_seq_kv seq = compute(&c, 0);
    ck_assert_int_eq(found("abcdefghi", 1), 8);
    ck_assert_int_eq(found("abcdefghi", 0), 0);
    ck_assert_int_eq(found("abcdefghi", 2), 0); /* a salt that begins with the other */
    ck_assert_int_eq(found("abcdefg", 1), 0);   /* no snapshot at 4 */
    ck_assert_int_eq(found("abcdxfgh", 1), 0);
    em_seq_kv_close(kv, &seq);
    ck_assert_int_eq(found("abcdefghi", 1), 8); /* kept */
    ck_assert_int_eq(em_kv_cache_idle_blocks(kv), 2);
    close_books();
}
END_TEST

START_TEST(leaves_and_old_ones_go_first)
{
    open_books(6, 4);
    content a = letters("aaaabbbbcccc", 0), b = letters("xxxxyyyy", 0);
    em_seq_kv one = compute(&a, 0), two = compute(&b, 0), three;
    em_seq_kv_close(kv, &one);
    em_seq_kv_close(kv, &two);
    ck_assert_int_eq(em_kv_cache_idle_blocks(kv), 5);
    ck_assert_int_eq(em_kv_cache_free_blocks(kv), 6);
    ck_assert_int_eq(em_seq_kv_open(kv, &three), 0);
    ck_assert_int_eq(em_seq_kv_reserve(kv, &three, 2 * BLOCK), 0); /* the plain free one, and cccc */
    ck_assert_int_eq(found("aaaabbbbcccc", 0), 0);                 /* its snapshot went along */
    ck_assert_int_eq(found("xxxxyyyy", 0), 8);
    ck_assert_int_eq(em_seq_kv_reserve(kv, &three, 4 * BLOCK), 0); /* bbbb and aaaa */
    ck_assert_int_eq(found("xxxxyyyy", 0), 8);
    ck_assert_int_eq(em_seq_kv_reserve(kv, &three, 5 * BLOCK), 0); /* yyyy */
    ck_assert_int_eq(found("xxxxyyyy", 0), 0);
    ck_assert_int_eq(em_kv_cache_idle_blocks(kv), 1);
    em_seq_kv_close(kv, &three);
    close_books();
}
END_TEST

START_TEST(snapshots_move_along_and_give_way)
{
    open_books(32, 2);
    content a = letters("aaaabbbb", 0), b = letters("xxxx", 0), c = letters("yyyy", 0);
    content a_more = letters("aaaabbbbcccc", 0);
    em_seq_kv one = compute(&a, 7), two = compute(&b, 0);
    em_prefix_text text = text_of(&a_more);
    ck_assert_int_eq(em_seq_kv_reserve(kv, &one, 12), 0);
    ck_assert_int_eq(em_prefix_cache_put(pc, &text, &one, 2, 3), 3);
    ck_assert_int_ge(add_snapshot(one.block_table[2], 7), 0);
    ck_assert_int_eq(found("aaaabbbb", 0), 0); /* its earlier place */
    ck_assert_int_eq(found("aaaabbbbcccc", 0), 12);
    ck_assert_int_eq(found("xxxx", 0), 4);
    int32_t taken = em_prefix_cache_take_snapshot(pc, 0); /* the longest unused */
    ck_assert_int_eq(found("xxxx", 0), 0);
    em_prefix_cache_put_snapshot(pc, taken, one.block_table[2], 7); /* there is one: this one is free again */
    ck_assert_int_eq(found("aaaabbbbcccc", 0), 12);
    ck_assert_int_eq(em_prefix_cache_take_snapshot(pc, 0), taken);
    em_prefix_cache_give_back_snapshot(pc, taken);
    em_seq_kv three = compute(&c, 0);
    ck_assert_int_eq(found("xxxx", 0), 0);
    ck_assert_int_eq(found("aaaabbbbcccc", 0), 12);
    ck_assert_int_eq(found("yyyy", 0), 4);
    em_seq_kv_close(kv, &one);
    em_seq_kv_close(kv, &two);
    em_seq_kv_close(kv, &three);
    close_books();
    open_books(8, 0); /* no room for any */
    one = compute(&b, 0);
    ck_assert_int_eq(found("xxxx", 0), 0);
    em_seq_kv_close(kv, &one);
    close_books();
}
END_TEST

/* Values of an independent implementation (CPython's hash of bytes, key 0). */
START_TEST(siphash_values)
{
    static const struct {
        const char *text;
        uint64_t hash;
    } known[] = {
        {"a", UINT64_C(0x407448d2b89b1813)},
        {"engram", UINT64_C(0x32daafdf0e9caad4)},
        {"12345678", UINT64_C(0x3489982430560a87)},
        {"0123456789abcdef0123", UINT64_C(0x560ed5360a9a319a)},
    };
    const uint64_t key[2] = {0, 0};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        ck_assert_uint_eq(em_siphash(key, known[i].text, strlen(known[i].text)), known[i].hash);
    const uint64_t other[2] = {0, 1};
    ck_assert_uint_ne(em_siphash(other, "a", 1), known[0].hash);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("prefix-cache");
    TCase *t = tcase_create("books");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, siphash_values);
    tcase_add_test(t, salts_share_nothing);
    tcase_add_test(t, leaves_and_old_ones_go_first);
    tcase_add_test(t, snapshots_move_along_and_give_way);
    tcase_add_test(t, random_with_siphash);
    tcase_add_test(t, random_when_all_collide);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
