/* The table of keywords. What a schema says with a word that is not in it is refused: a schema that is half understood
 * would promise what it does not keep. */
#include "engine/grammar/schema_keywords.h"

#include <string.h>

#define STRING_KIND (1u << EM_JSON_STRING)
#define NUMBER_KIND (1u << EM_JSON_NUMBER)
#define ARRAY_KIND (1u << EM_JSON_ARRAY)
#define OBJECT_KIND (1u << EM_JSON_OBJECT)
#define SCHEMA_KIND (OBJECT_KIND | (1u << EM_JSON_TRUE) | (1u << EM_JSON_FALSE))
#define ANY_KIND 0xffffffffu

static const struct keyword {
    const char *name;
    uint32_t kinds;   /* of its value, bits of em_json_type */
    const char *want; /* for the sentence */
    uint32_t about;   /* types it says something about */
} keywords[EM_KW_COUNT] = {
    [EM_KW_TYPE] = {"type", STRING_KIND | ARRAY_KIND, "a name or a list of names", 0},
    [EM_KW_ENUM] = {"enum", ARRAY_KIND, "a list", 0},
    [EM_KW_CONST] = {"const", ANY_KIND, "a value", 0},
    [EM_KW_REF] = {"$ref", STRING_KIND, "a string", 0},
    [EM_KW_ANY_OF] = {"anyOf", ARRAY_KIND, "a list of schemas", 0},
    [EM_KW_ONE_OF] = {"oneOf", ARRAY_KIND, "a list of schemas", 0},
    [EM_KW_ALL_OF] = {"allOf", ARRAY_KIND, "a list of schemas", 0},
    [EM_KW_PROPERTIES] = {"properties", OBJECT_KIND, "an object", EM_TYPE_OBJECT},
    [EM_KW_REQUIRED] = {"required", ARRAY_KIND, "a list of names", EM_TYPE_OBJECT},
    [EM_KW_ADDITIONAL] = {"additionalProperties", SCHEMA_KIND, "a schema, true or false", EM_TYPE_OBJECT},
    [EM_KW_ITEMS] = {"items", SCHEMA_KIND, "a schema (for a list of schemas use prefixItems)", EM_TYPE_ARRAY},
    [EM_KW_PREFIX_ITEMS] = {"prefixItems", ARRAY_KIND, "a list of schemas", EM_TYPE_ARRAY},
    [EM_KW_MIN_ITEMS] = {"minItems", NUMBER_KIND, "a number", EM_TYPE_ARRAY},
    [EM_KW_MAX_ITEMS] = {"maxItems", NUMBER_KIND, "a number", EM_TYPE_ARRAY},
    [EM_KW_MIN_LENGTH] = {"minLength", NUMBER_KIND, "a number", EM_TYPE_STRING},
    [EM_KW_MAX_LENGTH] = {"maxLength", NUMBER_KIND, "a number", EM_TYPE_STRING},
    [EM_KW_PATTERN] = {"pattern", STRING_KIND, "a string", EM_TYPE_STRING},
    [EM_KW_FORMAT] = {"format", STRING_KIND, "a string", EM_TYPE_STRING},
    [EM_KW_MINIMUM] = {"minimum", NUMBER_KIND, "a number", EM_TYPE_NUMBER},
    [EM_KW_MAXIMUM] = {"maximum", NUMBER_KIND, "a number", EM_TYPE_NUMBER},
    [EM_KW_EXCLUSIVE_MINIMUM] = {"exclusiveMinimum", NUMBER_KIND, "a number", EM_TYPE_NUMBER},
    [EM_KW_EXCLUSIVE_MAXIMUM] = {"exclusiveMaximum", NUMBER_KIND, "a number", EM_TYPE_NUMBER},
};

/* Words that say nothing about which values are valid. */
static const char *const annotations[] = {
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "id",
    "$comment",
    "$defs",
    "definitions",
    "discriminator",
    "contentEncoding",
    "contentMediaType",
};

static const struct {
    const char *name;
    uint32_t bit;
} types[] = {
    {"null", EM_TYPE_NULL},     {"boolean", EM_TYPE_BOOLEAN}, {"integer", EM_TYPE_INTEGER}, {"number", EM_TYPE_NUMBER},
    {"string", EM_TYPE_STRING}, {"array", EM_TYPE_ARRAY},     {"object", EM_TYPE_OBJECT},
};

const char *em_keyword_name(em_keyword k)
{
    return keywords[k].name;
}

static bool is_annotation(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(annotations) / sizeof(annotations[0]); i++)
        if (strlen(annotations[i]) == len && !memcmp(annotations[i], name, len))
            return true;
    return false;
}

/* uniqueItems: false and the like restrict nothing. */
static bool is_void(const em_jtree *t, uint32_t node, const char *name, size_t len)
{
    return len == 11 && !memcmp(name, "uniqueItems", 11) && t->nodes[node].type == EM_JSON_FALSE;
}

static void read_member(em_gr_build *b, const em_jtree *t, uint32_t node, em_keywords *kw)
{
    const char *name = em_jtree_key(t, node);
    size_t len = t->nodes[node].key_len;
    char path[160];
    for (uint32_t k = 0; k < EM_KW_COUNT; k++) {
        if (strlen(keywords[k].name) != len || memcmp(keywords[k].name, name, len) != 0)
            continue;
        if (!(keywords[k].kinds & (1u << t->nodes[node].type))) {
            em_jtree_path(t, kw->node, path, sizeof(path));
            em_gr_fail(b, -EINVAL, "The schema's \"%s\" at %s must be %s.", keywords[k].name, path, keywords[k].want);
        }
        kw->at[k] = node;
        kw->given |= 1u << k;
        return;
    }
    if (is_annotation(name, len) || is_void(t, node, name, len))
        return;
    em_jtree_path(t, node, path, sizeof(path));
    em_gr_fail(b, -EINVAL, "The schema keyword at %s is not supported; docs/structured_output.md lists those that are.",
               path);
}

static uint32_t type_bit(em_gr_build *b, const em_jtree *t, uint32_t node)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (em_jtree_is(t, node, types[i].name))
            return types[i].bit;
    char path[160];
    em_jtree_path(t, node, path, sizeof(path));
    em_gr_fail(b, -EINVAL, "The schema's type at %s is none of null, boolean, integer, number, string, array, object.",
               path);
    return 0;
}

static uint32_t read_types(em_gr_build *b, const em_jtree *t, const em_keywords *kw)
{
    uint32_t node = kw->at[EM_KW_TYPE], bits = 0;
    if (node == EM_JNODE_NONE) {
        for (uint32_t k = 0; k < EM_KW_COUNT; k++)
            if (kw->given & (1u << k))
                bits |= keywords[k].about;
        return bits ? bits : EM_TYPE_ALL;
    }
    if (t->nodes[node].type == EM_JSON_STRING)
        return type_bit(b, t, node);
    for (uint32_t i = t->nodes[node].first; i != EM_JNODE_NONE; i = t->nodes[i].next)
        bits |= type_bit(b, t, i);
    return bits;
}

int em_keywords_read(em_gr_build *b, const em_jtree *t, uint32_t node, em_keywords *ret_kw)
{
    em_keywords kw = {.node = node};
    for (uint32_t k = 0; k < EM_KW_COUNT; k++)
        kw.at[k] = EM_JNODE_NONE;
    for (uint32_t i = t->nodes[node].first; i != EM_JNODE_NONE && em_gr_step(b, 1); i = t->nodes[i].next)
        read_member(b, t, i, &kw);
    if (!b->rc)
        kw.types = read_types(b, t, &kw);
    if (b->rc)
        return b->rc;
    *ret_kw = kw;
    return 0;
}

em_keyword em_keywords_besides(const em_keywords *kw, uint32_t allowed)
{
    for (uint32_t k = 0; k < EM_KW_COUNT; k++)
        if ((kw->given & ~allowed) & (1u << k))
            return (em_keyword)k;
    return EM_KW_COUNT;
}

/* Has a number of this text a fraction? 1.0 and 1e2 have none. */
static bool is_whole(const char *text, size_t len)
{
    em_json j;
    int64_t value;
    em_json_init(&j, text, len, 0);
    return em_json_next(&j) == EM_JSON_NUMBER && em_json_i64(&j, &value) != -EINVAL;
}

uint32_t em_type_of(const em_jtree *t, uint32_t node)
{
    switch (t->nodes[node].type) {
    case EM_JSON_NULL: return EM_TYPE_NULL;
    case EM_JSON_TRUE:
    case EM_JSON_FALSE: return EM_TYPE_BOOLEAN;
    case EM_JSON_STRING: return EM_TYPE_STRING;
    case EM_JSON_ARRAY: return EM_TYPE_ARRAY;
    case EM_JSON_OBJECT: return EM_TYPE_OBJECT;
    default: break;
    }
    bool whole = is_whole(em_jtree_value(t, node), t->nodes[node].value_len);
    return EM_TYPE_NUMBER | (whole ? EM_TYPE_INTEGER : 0);
}

/* --- formats ------------------------------------------------------------------------------------------------ */

/* The 29th of February is left out, so that no year has to be looked at. */
#define DATE                                                                                                           \
    "[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2["  \
    "0-8]))"
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define HEX4 "[0-9A-Fa-f]{1,4}"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)"
                 "(T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))?"
                 "|T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))$"},
    {"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16}){0,2}@" LABEL "(\\." LABEL "){1,3}$"},
    {"hostname", "^" LABEL "(\\." LABEL "){0,6}$"},
    {"ipv4", "^" OCTET "(\\." OCTET "){3}$"},
    {"ipv6", "^(" HEX4 ":){7}" HEX4 "$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
};

const char *em_format_pattern(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (strlen(formats[i].name) == len && !memcmp(formats[i].name, name, len))
            return formats[i].pattern;
    return NULL;
}
