/* config.json: the three shapes, aliases, derivation, rules, refusals. */
#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/config.h"
#include "tests/support/fixtures.h"

static em_model_config cfg;
static em_error err;

/* A small complete config; each entry is one member, so that tests can replace or drop it. */
static const char *const base[] = {
    "\"model_type\":\"deepseek_v41_text\"",
    "\"bos_token_id\":0",
    "\"eos_token_id\":1",
    "\"pad_token_id\":2",
    "\"vocab_size\":768",
    "\"hidden_size\":64",
    "\"num_hidden_layers\":6",
    "\"num_attention_heads\":4",
    "\"head_dim\":32",
    "\"qk_rope_head_dim\":8",
    "\"q_lora_rank\":32",
    "\"o_groups\":2",
    "\"o_lora_rank\":16",
    "\"rope_theta\":10000.0",
    "\"compress_rope_theta\":160000.0",
    "\"rope_scaling\":null",
    "\"max_position_embeddings\":512",
    "\"rms_norm_eps\":1e-20",
    "\"sliding_window\":8",
    "\"compress_ratios\":[0,2,2,1,1,1]",
    "\"kv_source_layer_ids\":[1,3]",
    "\"index_source_layer_ids\":[1,3,5]",
    "\"candidate_source_layer_id\":3",
    "\"candidate_topk_blocks\":3",
    "\"candidate_block_size\":4",
    "\"index_n_heads\":2",
    "\"index_head_dim\":32",
    "\"index_topk\":6",
    "\"n_routed_experts\":8",
    "\"num_experts_per_tok\":3",
    "\"moe_intermediate_size\":32",
    "\"hc_mult\":4",
    "\"hc_sinkhorn_iters\":20",
    "\"hc_eps\":1e-6",
    "\"scoring_func\":\"sqrtsoftplus\"",
    "\"norm_topk_prob\":true",
    "\"routed_scaling_factor\":1.5",
    "\"swiglu_limit\":10.0",
    "\"engram_layer_ids\":[1,2]",
    "\"engram_num_embeddings\":[2521,2712]",
    "\"engram_vocab_size\":400",
    "\"engram_max_ngram_size\":4",
    "\"engram_n_heads\":2",
    "\"engram_head_dim\":32",
    "\"engram_pad_token_id\":8",
    "\"engram_compressed_vocab_size\":483",
};
#define N_BASE (sizeof(base) / sizeof(*base))

/* The base with changes: each is a member that replaces the one of the same name or is added; "-name" drops it. */
static char *config_with(int n, ...)
{
    static char text[8192];
    const char *change[16];
    va_list ap;
    va_start(ap, n);
    for (int i = 0; i < n; i++)
        change[i] = va_arg(ap, const char *);
    va_end(ap);
    size_t at = (size_t)sprintf(text, "{");
    for (size_t i = 0; i < N_BASE; i++) {
        size_t key = (size_t)(strchr(base[i], ':') - base[i]);
        bool replaced = false;
        for (int k = 0; k < n; k++)
            replaced |=
                strncmp(change[k], base[i], key + 1) == 0 || (change[k][0] == '-' && strlen(change[k] + 1) == key - 2 &&
                                                              strncmp(change[k] + 1, base[i] + 1, key - 2) == 0);
        if (!replaced)
            at += (size_t)sprintf(text + at, "%s,", base[i]);
    }
    for (int k = 0; k < n; k++)
        if (change[k][0] != '-')
            at += (size_t)sprintf(text + at, "%s,", change[k]);
    sprintf(text + at - 1, "}");
    return text;
}

static int parse(const char *text)
{
    memset(&err, 0, sizeof(err));
    return em_model_config_parse(text, strlen(text), "config.json", &cfg, &err);
}

static void parse_ok(const char *text)
{
    ck_assert_msg(parse(text) == 0, "%s", err.text);
}

START_TEST(base_gives_roles)
{
    parse_ok(config_with(0));
    ck_assert_int_eq(cfg.hidden_size, 64);
    ck_assert_int_eq(cfg.max_len, 512);
    ck_assert(cfg.norm_eps == 1e-20f && !cfg.yarn && cfg.gate_temp == 1.0f);
    ck_assert_int_eq(cfg.n_kv_sources, 2);
    ck_assert(cfg.kv_source_layer[0] == 1 && cfg.kv_source_layer[1] == 3);
    static const em_layer_role want[] = {
        {0, -1, -1, -1, -1, false, false, false, -1}, {2, 1, 1, 0, 0, true, false, false, 0},
        {2, 1, 1, -1, 0, false, false, false, 1},     {1, 3, 3, 1, 1, true, true, false, -1},
        {1, 3, 3, -1, 1, false, false, false, -1},    {1, 3, 5, -1, 1, true, false, true, -1},
    };
    for (int i = 0; i < 6; i++) {
        const em_layer_role *a = &cfg.role[i], *b = &want[i];
        ck_assert_msg(a->ratio == b->ratio && a->kv_owner == b->kv_owner && a->index_owner == b->index_owner &&
                          a->kv_source_idx == b->kv_source_idx && a->owner_source_idx == b->owner_source_idx &&
                          a->is_index_source == b->is_index_source &&
                          a->is_candidate_source == b->is_candidate_source &&
                          a->uses_candidates == b->uses_candidates && a->engram_idx == b->engram_idx,
                      "layer %d", i);
    }
    ck_assert(cfg.engram_rows[1] == 2712 && cfg.engram_pad_id == 8 && cfg.fp8_block_rows == 0 && !cfg.fp4_experts);
}
END_TEST

START_TEST(nested_shape_and_root_fields)
{
    char text[9000];
    snprintf(
        text, sizeof(text),
        "{\"vocab_size\":1,\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32,32],\"scale_"
        "fmt\":"
        "\"ue8m0\",\"expert_dtype\":\"fp4\",\"activation_scheme\":\"dynamic\"},\"text_config\":%s,\"eos_token_id\":[7],"
        "\"vision_config\":{\"a\":[{}],\"a\":1},\"model_type\":\"deepseek_v41\"}",
        config_with(0));
    parse_ok(text);
    ck_assert_int_eq(cfg.vocab_size, 768); /* the root's unrelated fields do not count */
    ck_assert_int_eq(cfg.eos_id, 7);
    ck_assert(cfg.fp8_block_rows == 32 && cfg.fp8_block_cols == 32 && cfg.fp4_experts);
}
END_TEST

START_TEST(vendor_spellings)
{
    parse_ok(
        "{\"vocab_size\":129280,\"dim\":5120,\"n_layers\":40,\"n_heads\":64,\"head_dim\":512,\"rope_head_dim\":64,"
        "\"q_lora_rank\":1280,\"o_groups\":8,\"o_lora_rank\":1024,\"rope_theta\":10000,\"compress_rope_theta\":160000,"
        "\"rope_factor\":16,\"original_seq_len\":65536,\"beta_fast\":32,\"beta_slow\":1,\"norm_eps\":1e-20,"
        "\"window_size\":128,\"kv_source_layers\":[2,8,14,20],\"index_source_layers\":[2,8,14,20,24,28,32,36],"
        "\"candidate_source_layer\":20,\"candidate_topk_blocks\":2048,\"candidate_block_size\":8,\"index_n_heads\":32,"
        "\"index_head_dim\":128,\"index_topk\":512,\"n_routed_experts\":384,\"n_activated_experts\":6,"
        "\"moe_inter_dim\":2304,\"score_func\":\"sqrtsoftplus\",\"route_scale\":1.5,\"swiglu_limit\":10.0,\"hc_mult\":"
        "4,"
        "\"n_mtp_layers\":3,\"max_seq_len\":4096,\"dtype\":\"fp8\",\"expert_dtype\":\"fp4\",\"engram_layer_ids\":[1,14]"
        ","
        "\"engram_num_embeddings\":[384006168,384016682],\"engram_vocab_size\":16000000,\"engram_max_ngram_size\":4,"
        "\"engram_n_heads\":8,\"engram_head_dim\":256,\"engram_pad_id\":2,\"engram_compressed_vocab_size\":99092}");
    ck_assert(cfg.hidden_size == 5120 && cfg.n_layers == 40 && cfg.n_heads == 64 && cfg.rope_dim == 64 &&
              cfg.window == 128);
    ck_assert(cfg.yarn && cfg.yarn_factor == 16.0f && cfg.yarn_original_len == 65536 && cfg.max_len == 4096);
    ck_assert(cfg.n_experts_per_tok == 6 && cfg.moe_inter == 2304 && cfg.engram_pad_id == 2 && cfg.fp4_experts);
    ck_assert(cfg.role[19].ratio == 2 && cfg.role[20].ratio == 1 &&
              cfg.role[39].index_owner == 36); /* ratios were left out */
}
END_TEST

START_TEST(rope_places)
{
    static const char yarn[] =
        "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":16,\"original_max_position_embeddings\":32}";
    parse_ok(config_with(1, yarn));
    ck_assert(cfg.yarn && cfg.yarn_factor == 16 && cfg.yarn_beta_fast == 32 && cfg.yarn_beta_slow == 1 &&
              cfg.yarn_original_len == 32);
    parse_ok(config_with(
        2, yarn,
        "\"rope_parameters\":{\"main\":{\"rope_type\":\"default\",\"rope_theta\":500.0,\"partial_rotary_factor\":0.25},"
        "\"compress\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"beta_fast\":16,"
        "\"rope_theta\":700.0,\"attention_factor\":1.0}}"));
    ck_assert(cfg.rope_theta == 500 && cfg.compress_rope_theta == 700 && cfg.yarn_factor == 4 &&
              cfg.yarn_original_len == 64);
    ck_assert(cfg.yarn_beta_fast == 16 && cfg.yarn_beta_slow == 1);
    parse_ok(config_with(
        2, yarn, "\"rope_parameters\":{\"main\":{\"rope_theta\":500.0},\"compress\":{\"rope_type\":\"default\"}}"));
    ck_assert(!cfg.yarn && cfg.rope_theta == 500 && cfg.compress_rope_theta == 160000);
    parse_ok(config_with(2, yarn, "\"rope_parameters\":{\"main\":{\"rope_theta\":500.0},\"compress\":null}"));
    ck_assert(cfg.yarn && cfg.rope_theta == 10000); /* only both together win */
    parse_ok(config_with(1, "\"rope_scaling\":{\"type\":\"yarn\",\"rope_type\":\"yarn\",\"factor\":2,"
                            "\"original_max_position_embeddings\":16}"));
    ck_assert(cfg.yarn && cfg.yarn_factor == 2);
    parse_ok(config_with(1, "\"rope_scaling\":{\"rope_type\":\"default\"}"));
    ck_assert(!cfg.yarn);
    parse_ok(config_with(1, "\"original_seq_len\":0"));
    ck_assert(!cfg.yarn);
}
END_TEST

START_TEST(left_out_lists_are_derived)
{
    parse_ok(config_with(6, "-compress_ratios", "-kv_source_layer_ids", "-index_source_layer_ids",
                         "-candidate_source_layer_id", "\"num_hidden_layers\":7", "-engram_layer_ids"));
    static const int ratio[] = {0, 0, 2, 2, 2, 1, 1};
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(cfg.role[i].ratio, ratio[i]);
    ck_assert(cfg.n_kv_sources == 2 && cfg.kv_source_layer[0] == 2 && cfg.kv_source_layer[1] == 5);
    ck_assert(cfg.candidate_source_layer == 5 && cfg.role[2].is_index_source && cfg.n_engram_layers == 0);
    /* the released schedule at 40 layers */
    parse_ok(config_with(5, "-compress_ratios", "-kv_source_layer_ids", "-index_source_layer_ids",
                         "-candidate_source_layer_id", "\"num_hidden_layers\":40"));
    ck_assert(cfg.n_kv_sources == 4 && cfg.kv_source_layer[3] == 20 && cfg.role[35].index_owner == 32);
    /* a short beginning of the released ratios, for which the released sources do not exist */
    parse_ok(config_with(5, "\"compress_ratios\":[0,0,2,2]", "-kv_source_layer_ids", "-index_source_layer_ids",
                         "-candidate_source_layer_id", "\"num_hidden_layers\":4"));
    ck_assert(cfg.n_kv_sources == 1 && cfg.kv_source_layer[0] == 2 && cfg.candidate_source_layer == 2);
    parse_ok(config_with(2, "\"compress_ratios\":[0,2,2,1,1,1,0,0]", "\"num_nextn_predict_layers\":3"));
    ck_assert_int_eq(cfg.n_layers, 6);
}
END_TEST

START_TEST(odd_values_are_fine)
{
    parse_ok(config_with(8, "\"head_dim\":20", "\"qk_rope_head_dim\":6", "\"index_head_dim\":20", "\"hc_mult\":3",
                         "\"sliding_window\":5", "\"num_attention_heads\":6", "\"o_groups\":3",
                         "\"num_experts_per_tok\":8"));
    parse_ok(config_with(3, "\"num_experts_per_tok\":1.0", "\"hc_mult\":1", "\"swiglu_limit\":0"));
    parse_ok(config_with(2, "\"hc_mult\":8", "\"compress_ratios\":[0,64,64,3,3,3]"));
    parse_ok(config_with(2, "\"engram_pad_id\":8", "\"unknown\":{\"x\":[1,{}]}")); /* both spellings agree */
    parse_ok(config_with(1, "\"bos_token_id\":null"));
    ck_assert_int_eq(cfg.bos_id, -1);
    parse_ok(config_with(1, "\"candidate_source_layer_id\":-5"));
    ck_assert_int_eq(cfg.candidate_source_layer, -1);
}
END_TEST

/* What is wrong, and the word the sentence must hold. */
static const struct {
    const char *change, *names;
} refused[] = {
    {"-vocab_size", "vocab_size"},
    {"-hidden_size", "hidden_size"},
    {"-index_topk", "index_topk"},
    {"-engram_n_heads", "engram_n_heads"},
    {"-engram_num_embeddings", "engram_num_embeddings"},
    {"-engram_pad_token_id", "engram_pad_token_id"},
    {"\"hidden_size\":0", "hidden_size"},
    {"\"hidden_size\":-1", "hidden_size"},
    {"\"hidden_size\":1000000000000", "hidden_size"},
    {"\"hidden_size\":64.5", "hidden_size"},
    {"\"hidden_size\":\"64\"", "hidden_size"},
    {"\"hidden_size\":[64]", "hidden_size"},
    {"\"hidden_size\":true", "hidden_size"},
    {"\"hidden_size\":{}", "hidden_size"},
    {"\"hidden_size\":null", "hidden_size"},
    {"\"hidden_size\":NaN", "not valid JSON"},
    {"\"hidden_size\":1e400", "hidden_size"},
    {"\"num_hidden_layers\":257", "num_hidden_layers"},
    {"\"num_hidden_layers\":5", "compress_ratios"},
    {"\"num_hidden_layers\":7", "compress_ratios"},
    {"\"compress_ratios\":[0,2]", "compress_ratios"},
    {"\"compress_ratios\":[0,2,2,1,1,-1]", "compress_ratios"},
    {"\"compress_ratios\":[0,2,2,1,1,65]", "compress_ratios"},
    {"\"compress_ratios\":[0,2,2,1,1,\"1\"]", "compress_ratios"},
    {"\"compress_ratios\":7", "compress_ratios"},
    {"\"compress_ratios\":[0,2,1,1,1,1]", "compress_ratios"},
    {"\"compress_ratios\":[2,2,2,1,1,1]", "kv_source_layer_ids"},
    {"\"compress_ratios\":[0,0,2,1,1,1]", "kv_source_layer_ids"},
    {"\"compress_ratios\":[0,2,2,1,1,0]", "index_source_layer_ids"},
    {"\"kv_source_layer_ids\":[1,6]", "kv_source_layer_ids"},
    {"\"kv_source_layer_ids\":[1,1,3]", "kv_source_layer_ids"},
    {"\"kv_source_layer_ids\":[1,3,4]", "index_source_layer_ids"},
    {"\"kv_source_layer_ids\":[-1]", "kv_source_layer_ids"},
    {"\"index_source_layer_ids\":[1,3,9]", "index_source_layer_ids"},
    {"\"candidate_source_layer_id\":4", "candidate_source_layer_id"},
    {"\"candidate_source_layer_id\":200", "candidate_source_layer_id"},
    {"\"candidate_source_layer_id\":1", "candidates"},
    {"\"qk_rope_head_dim\":7", "qk_rope_head_dim"},
    {"\"qk_rope_head_dim\":34", "qk_rope_head_dim"},
    {"\"index_head_dim\":6", "index_head_dim"},
    {"\"o_groups\":3", "o_groups"},
    {"\"num_experts_per_tok\":9", "num_experts_per_tok"},
    {"\"hc_mult\":9", "hc_mult"},
    {"\"hc_mult\":0", "hc_mult"},
    {"\"hc_sinkhorn_iters\":0", "hc_sinkhorn_iters"},
    {"\"sliding_window\":0", "sliding_window"},
    {"\"rms_norm_eps\":-1", "rms_norm_eps"},
    {"\"gate_temp\":0", "gate_temp"},
    {"\"rope_theta\":0", "rope_theta"},
    {"\"num_key_value_heads\":2", "num_key_value_heads"},
    {"\"n_shared_experts\":2", "n_shared_experts"},
    {"\"attention_bias\":true", "attention_bias"},
    {"\"tie_word_embeddings\":true", "tie_word_embeddings"},
    {"\"hidden_act\":\"gelu\"", "hidden_act"},
    {"\"topk_method\":\"greedy\"", "greedy"},
    {"\"scoring_func\":\"tanh\"", "scoring_func"},
    {"\"scoring_func\":3", "scoring_func"},
    {"\"model_type\":\"llama\"", "llama"},
    {"\"norm_topk_prob\":1", "norm_topk_prob"},
    {"\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2}", "rope_scaling.rope_type"},
    {"\"rope_scaling\":{\"factor\":2}", "rope_scaling.rope_type"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\"}", "factor"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}", "original_max_position_embeddings"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"attention_factor\":1.2}", "attention_factor"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"type\":\"default\"}", "rope_scaling.rope_type"},
    {"\"rope_scaling\":3", "rope_scaling"},
    {"\"rope_parameters\":{\"main\":{\"partial_rotary_factor\":0.5},\"compress\":{\"rope_type\":\"default\"}}",
     "partial_rotary_factor"},
    {"\"rope_parameters\":{\"main\":{\"rope_type\":\"yarn\"},\"compress\":{\"rope_type\":\"default\"}}",
     "rope_parameters.main.rope_type"},
    {"\"engram_layer_ids\":[1,6]", "engram_layer_ids"},
    {"\"engram_layer_ids\":[2,1]", "engram_layer_ids"},
    {"\"engram_layer_ids\":[1,1]", "engram_layer_ids"},
    {"\"engram_layer_ids\":[1]", "engram_num_embeddings"},
    {"\"engram_num_embeddings\":[2521,100]", "engram_num_embeddings"},
    {"\"engram_num_embeddings\":[2521,1e15]", "engram_num_embeddings"},
    {"\"engram_max_ngram_size\":1", "engram_max_ngram_size"},
    {"\"engram_max_ngram_size\":9", "engram_max_ngram_size"},
    {"\"engram_n_heads\":65", "engram_n_heads"},
    {"\"engram_pad_token_id\":768", "engram_pad_token_id"},
    {"\"engram_compressed_vocab_size\":769", "engram_compressed_vocab_size"},
    {"\"eos_token_id\":768", "eos_token_id"},
    {"\"eos_token_id\":[1,2]", "eos_token_id"},
    {"\"eos_token_id\":[]", "eos_token_id"},
    {"\"eos_token_id\":\"x\"", "eos_token_id"},
    {"\"quantization_config\":{\"quant_method\":\"awq\",\"weight_block_size\":[32,32]}", "quant_method"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\"}", "weight_block_size"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32]}", "weight_block_size"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32,32,32]}", "weight_block_size"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32,16]}", "weight_block_size"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[0,32]}", "weight_block_size"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32,32],\"expert_dtype\":\"int4\"}",
     "expert_dtype"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[32,32],\"activation_scheme\":"
     "\"static\"}",
     "activation_scheme"},
    {"\"text_config\":3", "text_config"},
    {"\"dim\":65", "hidden_size"},
    {"\"x\":1,\"x\":2", "x twice"},
    {"\"hidden_size\":64,\"hidden\\u005fsize\":64", "twice"},
};

START_TEST(refusals_name_the_field)
{
    cfg.hidden_size = 4711;
    ck_assert_msg(parse(config_with(1, refused[_i].change)) < 0, "accepted: %s", refused[_i].change);
    ck_assert_msg(strstr(err.text, refused[_i].names), "%s: %s", refused[_i].change, err.text);
    ck_assert_msg(strstr(err.text, "config.json"), "%s", err.text);
    ck_assert_int_eq(cfg.hidden_size, 4711); /* untouched on failure */
}
END_TEST

START_TEST(broken_texts)
{
    static const char *const bad[] = {"",
                                      "[]",
                                      "3",
                                      "{",
                                      "{}",
                                      "null",
                                      "{\"text_config\":{}}",
                                      "{\"a\":1}x",
                                      "\xff",
                                      "{\"text_config\":{\"vocab_size\":1}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        ck_assert_msg(parse(bad[i]) < 0, "accepted: %s", bad[i]);
        ck_assert(strlen(err.text) > 10 && !strchr(err.text, '\n'));
    }
    ck_assert_int_lt(em_model_config_parse("{", 1, "c", &cfg, NULL), 0); /* no place for a sentence */
    char *text = config_with(0);
    for (size_t cut = 0; cut < strlen(text); cut += 7) {
        char *copy = strndup(text, cut);
        ck_assert_int_lt(parse(copy), 0);
        free(copy);
    }
}
END_TEST

START_TEST(fixtures_load)
{
    static const char *const names[] = {"1-window", "2-compressed", "3-engram", "4-released", "5-odd"};
    char rel[128], path[1024];
    for (int i = 0; i < 5; i++) {
        snprintf(rel, sizeof(rel), "models/%s/checkpoint", names[i]);
        ck_assert_msg(em_model_config_load(fixture_path(path, sizeof(path), rel), &cfg, &err) == 0, "%s", err.text);
    }
    ck_assert(cfg.hc_mult == 3 && cfg.gate_temp == 0.7f && cfg.engram_max_order == 3 && cfg.swiglu_limit == 0);
    ck_assert_msg(em_model_config_load(bundled_model_dir(), &cfg, &err) == 0, "%s", err.text);
    ck_assert(cfg.vocab_size == 6144 && cfg.fp4_experts && cfg.engram_rows[0] == 192706);
    ck_assert_int_lt(em_model_config_load("/nonexistent", &cfg, &err), 0);
    ck_assert(strstr(err.text, "/nonexistent/config.json"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("config");
    TCase *c = tcase_create("config");
    tcase_add_test(c, base_gives_roles);
    tcase_add_test(c, nested_shape_and_root_fields);
    tcase_add_test(c, vendor_spellings);
    tcase_add_test(c, rope_places);
    tcase_add_test(c, left_out_lists_are_derived);
    tcase_add_test(c, odd_values_are_fine);
    tcase_add_loop_test(c, refusals_name_the_field, 0, sizeof(refused) / sizeof(*refused));
    tcase_add_test(c, broken_texts);
    tcase_add_test(c, fixtures_load);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
