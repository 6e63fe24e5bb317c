/* Is this tokenizer.json one that engine/tokenizer.c reproduces exactly? Everything that would change ids and is not
 * implemented is refused here, by name. Truncation and padding are left aside: they are defaults of a training
 * pipeline, not part of what text means. */
#include "engine/tokenizer_impl.h"

#include <errno.h>

#include "engine/pretokenizer.h"

#define MAX_DEPTH 16 /* brackets in a tokenizer.json; real ones have 6 */

int em_tokenizer_members(em_json *j, const char *const *names, em_json *found, int n, const char *what,
                         const char *file, em_error *err)
{
    for (int i = 0; i < n; i++)
        found[i] = (em_json){.type = EM_JSON_END};
    if (j->type != EM_JSON_OBJECT)
        return em_error_set(err, -EINVAL, "%s: %s must be an object", file, what);
    while (em_json_next(j) == EM_JSON_KEY) {
        int i = 0;
        while (i < n && !em_json_is(j, names[i]))
            i++;
        em_json_next(j);
        if (i < n && found[i].type != EM_JSON_END)
            return em_error_set(err, -EINVAL, "%s: %s has \"%s\" twice", file, what, names[i]);
        if (i < n)
            found[i] = *j;
        if (em_json_skip(j) < 0)
            break;
    }
    if (j->type == EM_JSON_ERROR)
        return em_error_set(err, -EINVAL, "%s is not valid JSON: %s at byte %zu", file, em_json_error(j),
                            em_json_offset(j));
    return 0;
}

bool em_tokenizer_next_element(em_json *list)
{
    em_json_type type = em_json_next(list);
    return type != EM_JSON_ARRAY_END && type != EM_JSON_END && type != EM_JSON_ERROR;
}

static bool is_absent(const em_json *j)
{
    return j->type == EM_JSON_END || j->type == EM_JSON_NULL;
}

/* Names the value that j stands on as the file spells it, cut. */
static int refuse(const char *file, const char *what, const em_json *j, em_error *err)
{
    bool text = j->type == EM_JSON_STRING || j->type == EM_JSON_NUMBER;
    int len = !text ? 0 : j->raw_len > 120 ? 120 : (int)j->raw_len;
    return em_error_set(err, -ENOTSUP,
                        "%s: %s \"%.*s\" is not supported; only the byte-level BPE of the DeepSeek family is", file,
                        what, len, text ? j->raw : "");
}

static int check_bool(const em_json *j, bool want, const char *what, const char *file, em_error *err)
{
    if (j->type == (want ? EM_JSON_TRUE : EM_JSON_FALSE))
        return 0;
    return em_error_set(err, -ENOTSUP, "%s: %s must be %s; other values are not supported", file, what,
                        want ? "true" : "false");
}

/* Each element of the array list (an object) goes to check; list absent: fine. */
typedef int (*check_fn)(em_json *j, const char *file, em_error *err);

static int check_each(em_json *list, check_fn check, const char *what, const char *file, em_error *err)
{
    if (list->type != EM_JSON_ARRAY)
        return em_error_set(err, -EINVAL, "%s: %s must be a list", file, what);
    while (em_tokenizer_next_element(list)) {
        em_json element = *list;
        int r = check(&element, file, err);
        if (r < 0)
            return r;
        em_json_skip(list);
    }
    return 0;
}

static int check_normalizer(em_json *j, const char *file, em_error *err)
{
    if (is_absent(j))
        return 0;
    static const char *const names[] = {"type", "normalizers"};
    em_json found[2];
    int r = em_tokenizer_members(j, names, found, 2, "normalizer", file, err);
    if (r < 0)
        return r;
    if (!em_json_is(&found[0], "Sequence"))
        return refuse(file, "normalizer", &found[0], err);
    return check_each(&found[1], check_normalizer, "normalizer.normalizers", file, err);
}

/* One of the three Split steps. */
static int check_split(em_json *j, int i, const char *file, em_error *err)
{
    static const char *const names[] = {"type", "pattern", "behavior", "invert"};
    em_json found[4], regex;
    int r = em_tokenizer_members(j, names, found, 4, "a pre_tokenizer step", file, err);
    if (r < 0)
        return r;
    if (!em_json_is(&found[0], "Split"))
        return refuse(file, "pre_tokenizer", &found[0], err);
    static const char *const pattern_names[] = {"Regex"};
    r = em_tokenizer_members(&found[1], pattern_names, &regex, 1, "pre_tokenizer pattern", file, err);
    if (r < 0)
        return r;
    char text[512];
    if (em_json_string(&regex, text, sizeof text, NULL) < 0 || regex.has_nul || !em_pretokenizer_knows(i, text))
        return refuse(file, "pre_tokenizer pattern", &regex, err);
    if (!em_json_is(&found[2], "Isolated"))
        return refuse(file, "pre_tokenizer behavior", &found[2], err);
    return check_bool(&found[3], false, "pre_tokenizer invert", file, err);
}

static int check_byte_level(em_json *j, const char *file, em_error *err)
{
    static const char *const names[] = {"type", "add_prefix_space", "use_regex"};
    em_json found[3];
    int r = em_tokenizer_members(j, names, found, 3, "a pre_tokenizer step", file, err);
    if (r < 0)
        return r;
    if (!em_json_is(&found[0], "ByteLevel"))
        return refuse(file, "pre_tokenizer", &found[0], err);
    r = check_bool(&found[1], false, "pre_tokenizer add_prefix_space", file, err);
    return r < 0 ? r : check_bool(&found[2], false, "pre_tokenizer use_regex", file, err);
}

static int check_pre_tokenizer(em_json *j, const char *file, em_error *err)
{
    static const char *const names[] = {"type", "pretokenizers"};
    em_json found[2];
    int r = em_tokenizer_members(j, names, found, 2, "pre_tokenizer", file, err);
    if (r < 0)
        return r;
    if (!em_json_is(&found[0], "Sequence"))
        return refuse(file, "pre_tokenizer", &found[0], err);
    em_json *list = &found[1];
    if (list->type != EM_JSON_ARRAY)
        return em_error_set(err, -EINVAL, "%s: pre_tokenizer.pretokenizers must be a list", file);
    int n = 0;
    for (; em_tokenizer_next_element(list); n++) {
        em_json step = *list;
        r = n < 3 ? check_split(&step, n, file, err) : check_byte_level(&step, file, err);
        if (r < 0)
            return r;
        em_json_skip(list);
    }
    if (n != 4)
        return em_error_set(err, -ENOTSUP,
                            "%s: pre_tokenizer has %d steps; only three Split patterns and ByteLevel, as in "
                            "the DeepSeek family, are supported",
                            file, n);
    return 0;
}

/* An item of TemplateProcessing's "single": the text itself is fine, a token put around it is not. */
static int check_template_item(em_json *j, const char *file, em_error *err)
{
    static const char *const names[] = {"Sequence", "SpecialToken"};
    em_json found[2];
    int r = em_tokenizer_members(j, names, found, 2, "post_processor.single item", file, err);
    if (r < 0)
        return r;
    if (is_absent(&found[0]) || !is_absent(&found[1]))
        return em_error_set(err, -ENOTSUP,
                            "%s: post_processor adds tokens to every text, which is not supported; use "
                            "add_bos_token in tokenizer_config.json",
                            file);
    return 0;
}

static int check_post_processor(em_json *j, const char *file, em_error *err)
{
    if (is_absent(j))
        return 0;
    static const char *const names[] = {"type", "processors", "single"};
    em_json found[3];
    int r = em_tokenizer_members(j, names, found, 3, "post_processor", file, err);
    if (r < 0)
        return r;
    if (em_json_is(&found[0], "ByteLevel")) /* moves offsets only */
        return 0;
    if (em_json_is(&found[0], "Sequence"))
        return check_each(&found[1], check_post_processor, "post_processor.processors", file, err);
    if (em_json_is(&found[0], "TemplateProcessing"))
        return check_each(&found[2], check_template_item, "post_processor.single", file, err);
    return refuse(file, "post_processor", &found[0], err);
}

static int check_decoder(em_json *j, const char *file, em_error *err)
{
    static const char *const names[] = {"type"};
    em_json type;
    int r = em_tokenizer_members(j, names, &type, 1, "decoder", file, err);
    if (r < 0)
        return r;
    return em_json_is(&type, "ByteLevel") ? 0 : refuse(file, "decoder", &type, err);
}

/* A member that must be absent, null, or as good as that: an empty string, false, 0. */
static int check_unused(const em_json *j, const char *what, const char *file, em_error *err)
{
    double v;
    bool unused = is_absent(j) || j->type == EM_JSON_FALSE || (j->type == EM_JSON_STRING && j->raw_len == 0) ||
                  (j->type == EM_JSON_NUMBER && em_json_f64(j, &v) == 0 && v == 0);
    return unused ? 0 : em_error_set(err, -ENOTSUP, "%s: %s is set, which is not supported", file, what);
}

static int check_model(em_json *j, em_tokenizer_file *f, em_error *err)
{
    /* unk_token and fuse_unk have no effect: every byte must have a token, so nothing is unknown. */
    enum { TYPE, VOCAB, MERGES, N_READ, DROPOUT = N_READ, PREFIX, SUFFIX, FALLBACK, IGNORE, N };
    static const char *const names[N] = {
        "type",          "vocab",        "merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix",
        "byte_fallback", "ignore_merges"};
    static const char *const sentences[N] = {NULL,
                                             NULL,
                                             NULL,
                                             "model.dropout",
                                             "model.continuing_subword_prefix",
                                             "model.end_of_word_suffix",
                                             "model.byte_fallback",
                                             "model.ignore_merges"};
    em_json found[N];
    int r = em_tokenizer_members(j, names, found, N, "model", f->name, err);
    if (r < 0)
        return r;
    if (found[TYPE].type != EM_JSON_END && !em_json_is(&found[TYPE], "BPE"))
        return refuse(f->name, "model type", &found[TYPE], err);
    for (int i = N_READ; i < N; i++) {
        r = check_unused(&found[i], sentences[i], f->name, err);
        if (r < 0)
            return r;
    }
    if (found[VOCAB].type != EM_JSON_OBJECT)
        return em_error_set(err, -EINVAL, "%s: model.vocab must be an object", f->name);
    if (found[MERGES].type != EM_JSON_ARRAY)
        return em_error_set(err, -EINVAL, "%s: model.merges must be a list", f->name);
    f->vocab = found[VOCAB];
    f->merges = found[MERGES];
    return 0;
}

int em_tokenizer_check_file(const char *json, size_t len, const char *name, em_tokenizer_file *ret_file, em_error *err)
{
    enum { MODEL, PRE, NORM, POST, DECODER, ADDED, N };
    static const char *const names[N] = {"model",          "pre_tokenizer", "normalizer",
                                         "post_processor", "decoder",       "added_tokens"};
    em_json j, found[N];
    em_json_init(&j, json, len, MAX_DEPTH);
    em_json_next(&j);
    if (j.type == EM_JSON_ERROR)
        return em_error_set(err, -EINVAL, "%s is not valid JSON: %s at byte %zu", name, em_json_error(&j),
                            em_json_offset(&j));
    int r = em_tokenizer_members(&j, names, found, N, "the file", name, err);
    if (r < 0)
        return r;
    if (em_json_next(&j) != EM_JSON_END)
        return em_error_set(err, -EINVAL, "%s is not valid JSON: %s at byte %zu", name, em_json_error(&j),
                            em_json_offset(&j));
    em_tokenizer_file f = {.name = name, .added_tokens = found[ADDED]};
    if (f.added_tokens.type != EM_JSON_ARRAY && !is_absent(&f.added_tokens))
        return em_error_set(err, -EINVAL, "%s: added_tokens must be a list", name);
    r = check_model(&found[MODEL], &f, err);
    if (r == 0)
        r = check_normalizer(&found[NORM], name, err);
    if (r == 0)
        r = check_pre_tokenizer(&found[PRE], name, err);
    if (r == 0)
        r = check_post_processor(&found[POST], name, err);
    if (r == 0)
        r = check_decoder(&found[DECODER], name, err);
    if (r == 0)
        *ret_file = f;
    return r;
}
