/* Memory runs out on the step thread, once at every place where it asks for some: every request still gets its last
 * event, nothing is lost or leaked, and the engine goes on. The linker leads malloc and its kin here (--wrap). */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/fixtures.h"
#include "tests/support/loop_rig.h"

enum { VOCAB = 6144, MAX_LEN = 100 };

/* --- allocation that fails ---------------------------------------------------------------------------------- */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static pthread_t test_thread;     /* allocations of this one always work */
static atomic_int countdown = -1; /* allocations of others until the failing one; negative: none fails */
static atomic_int n_to_fail;      /* how many fail in a row then */
static atomic_int n_failed;

static bool fails(void)
{
    if (pthread_equal(pthread_self(), test_thread) || atomic_load(&countdown) < 0)
        return false;
    if (atomic_fetch_sub(&countdown, 1) > 0)
        return false;
    if (atomic_fetch_sub(&n_to_fail, 1) > 1)
        atomic_store(&countdown, 0);
    atomic_fetch_add(&n_failed, 1);
    return true;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

/* --- a sink that allocates nothing -------------------------------------------------------------------------- */

typedef struct tally {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n_finished, n_errors, n_last;
} tally;

static void on_event(void *ctx, em_event *ev)
{
    tally *t = ctx;
    pthread_mutex_lock(&t->lock);
    t->n_finished += ev->finish != EM_FINISH_NONE;
    t->n_errors += ev->finish == EM_FINISH_ERROR;
    t->n_last += ev->last;
    if ((ev->finish == EM_FINISH_ERROR) != (ev->error != NULL) || t->n_last > 1)
        abort();
    em_event_free(ev);
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void wait_last(tally *t)
{
    pthread_mutex_lock(&t->lock);
    while (!t->n_last)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

/* --- the test ----------------------------------------------------------------------------------------------- */

static void letters(void *ctx, const int32_t *tokens, int32_t n, float *row)
{
    for (int32_t v = 0; v < VOCAB; v++)
        row[v] = v == 200 + (n * 7) % 50 ? 5.0f : 0.0f;
}

static em_request *ask(int kind)
{
    int32_t ids[40];
    for (int32_t i = 0; i < 40; i++)
        ids[i] = i + kind;
    em_request *r = rig_request(ids, kind == 2 ? 1 : 12, kind == 2 ? 0 : 10);
    r->n = 2;
    r->ignore_eos = true;
    if (kind) {
        r->logprobs = 3;
        r->prompt_logprobs = true;
        rig_add_stop(r, "a stop string that never comes");
    }
    return r;
}

/* Three requests while the n-th allocation fails, and `row` after it. Returns whether there was an n-th. */
static bool run_with_failure(em_engine *e, int n, int row)
{
    tally t[3];
    atomic_store(&n_failed, 0);
    atomic_store(&n_to_fail, row);
    atomic_store(&countdown, n);
    for (int i = 0; i < 3; i++) {
        t[i] = (tally){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
        uint64_t id;
        em_sink sink = {.on_event = on_event, .ctx = &t[i]};
        ck_assert_int_eq(em_engine_submit(e, ask(i), sink, &id, NULL), 0);
    }
    int n_errors = 0;
    for (int i = 0; i < 3; i++) {
        wait_last(&t[i]);
        ck_assert_int_eq(t[i].n_finished, 2);
        n_errors += t[i].n_errors;
    }
    atomic_store(&countdown, -1);
    rig_wait_idle(e); /* every slot and block is back */
    int failed = atomic_load(&n_failed);
    ck_assert_int_eq(n_errors > 0, failed > 0);
    ck_assert_int_le(n_errors, failed); /* nobody else suffers */
    return failed > 0;
}

START_TEST(every_allocation_may_fail)
{
    test_thread = pthread_self();
    atomic_store(&countdown, -1);
    stub_model stub = {.tokenizer_dir = bundled_model_dir(),
                       .vocab_size = VOCAB,
                       .max_len = MAX_LEN,
                       .eos_id = 1,
                       .n_blocks = 64,
                       .block_tokens = 8,
                       .logits = letters};
    em_engine *e = rig_open(&stub, 3, 64, 100);
    int n = 0;
    while (run_with_failure(e, n, 1 + _i * 3))
        n++;
    printf("%d allocations, %d in a row\n", n, 1 + _i * 3);
    ck_assert_int_gt(n, 60); /* four answers of 10 events each, and their buffers */
    em_engine_close(e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop-memory");
    TCase *t = tcase_create("memory");
    tcase_add_loop_test(t, every_allocation_may_fail, 0, 2);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
