/* Events are one block with deep copies. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/event.h"

START_TEST(copies_everything)
{
    em_top_logprob top[3] = {{1, -0.1f}, {2, -0.2f}, {3, -0.3f}};
    em_event_token tokens[3] = {
        {.id = 5, .visible = true, .has_logprob = true, .logprob = -1.5f, .text_offset = 2, .n_top = 2, .top = top},
        {.id = 6, .n_top = 0, .top = top},
        {.id = 7, .n_top = 1, .top = top + 2},
    };
    char text[] = "h\xc3\xa9\0llo", error[] = "it broke.";
    em_event draft = {.kind = EM_EVENT_TEXT,
                      .choice = 4,
                      .text = text,
                      .text_len = 7,
                      .tokens = tokens,
                      .n_tokens = 3,
                      .finish = EM_FINISH_ERROR,
                      .last = true,
                      .prompt_tokens = 9,
                      .completion_tokens = 3,
                      .error = error};
    em_event *ev = em_event_new(&draft);
    ck_assert_ptr_nonnull(ev);
    memset(top, 0xff, sizeof(top));
    memset(tokens, 0xff, sizeof(tokens));
    memset(text, 'x', sizeof(text));
    memset(error, 'x', sizeof(error));

    ck_assert_int_eq(ev->choice, 4);
    ck_assert_int_eq(ev->finish, EM_FINISH_ERROR);
    ck_assert(ev->last);
    ck_assert_int_eq(ev->prompt_tokens, 9);
    ck_assert_int_eq(ev->completion_tokens, 3);
    ck_assert_uint_eq(ev->text_len, 7);
    ck_assert_mem_eq(ev->text, "h\xc3\xa9\0llo", 8);
    ck_assert_str_eq(ev->error, "it broke.");
    ck_assert_int_eq(ev->n_tokens, 3);
    ck_assert_int_eq(ev->tokens[0].id, 5);
    ck_assert(ev->tokens[0].visible);
    ck_assert_int_eq(ev->tokens[0].text_offset, 2);
    ck_assert_int_eq(ev->tokens[0].top[1].id, 2);
    ck_assert_float_eq(ev->tokens[0].top[1].logprob, -0.2f);
    ck_assert_ptr_null(ev->tokens[1].top);
    ck_assert_int_eq(ev->tokens[2].top[0].id, 3);
    em_event_free(ev);
}
END_TEST

START_TEST(copies_what_engram_did)
{
    float gate[2 * 3 * 4], share[2 * 3 * 2];
    uint8_t cached[2 * 3] = {1, 0, 1, 1, 0, 0};
    em_event_token tokens[2] = {{.id = 1}, {.id = 2}};
    for (int i = 0; i < 24; i++)
        gate[i] = (float)i;
    for (int i = 0; i < 12; i++)
        share[i] = (float)(100 + i);
    em_event draft = {.kind = EM_EVENT_TEXT,
                      .text = "ab",
                      .text_len = 2,
                      .tokens = tokens,
                      .n_tokens = 2,
                      .insight = {gate, share, cached},
                      .shape = {.n_layers = 3, .n_streams = 4, .n_orders = 2}};
    em_event *ev = em_event_new(&draft);
    ck_assert_ptr_nonnull(ev);
    ck_assert_ptr_ne(ev->insight.gate, gate);
    ck_assert_mem_eq(ev->insight.gate, gate, sizeof(gate));
    ck_assert_mem_eq(ev->insight.share, share, sizeof(share));
    ck_assert_mem_eq(ev->insight.cached, cached, sizeof(cached));
    ck_assert_str_eq(ev->text, "ab");
    em_insight second = em_insight_from(&ev->insight, &ev->shape, 1);
    ck_assert_float_eq(second.gate[0], 12);
    ck_assert_float_eq(second.share[0], 106);
    ck_assert_int_eq(second.cached[0], 1);
    em_event_free(ev);
}
END_TEST

START_TEST(empty)
{
    em_event *ev = em_event_new(&(em_event){.kind = EM_EVENT_TEXT, .choice = 1});
    ck_assert_ptr_nonnull(ev);
    ck_assert_str_eq(ev->text, "");
    ck_assert_ptr_null(ev->error);
    ck_assert_ptr_null(ev->next);
    em_event_free(ev);
    em_event_free(NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("event");
    TCase *t = tcase_create("event");
    tcase_add_test(t, copies_everything);
    tcase_add_test(t, copies_what_engram_did);
    tcase_add_test(t, empty);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
