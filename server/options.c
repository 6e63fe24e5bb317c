/* One row per option. Only options that do something stand here. */
#include "server/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/engine.h" /* EM_REQUEST_MAX_SALT_BYTES */

#define SERVE EM_COMMAND_SERVE
#define GENERATE EM_COMMAND_GENERATE
#define PLAN EM_COMMAND_PLAN
#define SCORE EM_COMMAND_SCORE
#define BENCH EM_COMMAND_BENCH
#define PROBE EM_COMMAND_PROBE
#define INSPECT EM_COMMAND_ENGRAM_INSPECT
#define TRACE EM_COMMAND_ENGRAM_TRACE
#define MODEL (SERVE | GENERATE | PLAN | SCORE | BENCH | INSPECT) /* what opens one, or plans to */
#define ALL (MODEL | TRACE | PROBE)
#define AT(field) offsetof(em_config, field)
#define GIB(n) ((int64_t)(n) << 30)
#define DAY INT64_C(86400)

/* name, kind, commands, field, min, max, choices, default, value, help */
const em_option em_options[] = {
    {"model", EM_OPTION_TEXT, MODEL | TRACE, AT(model), 0, 0, NULL, NULL, "DIR",
     "folder of the checkpoint; the one that comes with the program when absent"},
    {"served-model-name", EM_OPTION_LIST, SERVE, AT(served_model_name), 0, 0, NULL, NULL, "NAME",
     "names that requests may use, the first is the one answered; the folder's name when absent"},
    {"max-model-len", EM_OPTION_INT, MODEL, AT(max_model_len), 0, INT32_MAX, NULL, "0", "N",
     "longest prompt plus answer in tokens; 0: the model's"},
    {"max-num-seqs", EM_OPTION_INT, SERVE | PLAN | INSPECT, AT(max_num_seqs), 1, 4096, NULL, "64", "N",
     "sequences that share a step"},
    {"max-num-batched-tokens", EM_OPTION_INT, MODEL, AT(max_num_batched_tokens), 1, 1 << 20, NULL, "512", "N",
     "tokens computed in one step"},
    {"kv-cache-bytes", EM_OPTION_BYTES, MODEL, AT(kv_cache_bytes), 0, INT64_MAX, NULL, "0", "BYTES",
     "memory for the state of sequences; 0: chosen for the model"},
    {"kv-block-tokens", EM_OPTION_INT, MODEL, AT(kv_block_tokens), 0, 65536, NULL, "0", "N",
     "tokens per block of that memory; 0: chosen for the model"},
    {"no-prefix-cache", EM_OPTION_BOOL, SERVE, AT(no_prefix_cache), 0, 0, NULL, "false", NULL,
     "compute every prompt in full, even when one begins like another"},
    {"prefix-snapshot-bytes", EM_OPTION_BYTES, SERVE, AT(prefix_snapshot_bytes), 0, INT64_MAX, NULL, "0", "BYTES",
     "memory for the states from which a cached prompt is continued; 0: chosen for the model"},
    {"engram-tier", EM_OPTION_CHOICE, MODEL, AT(engram_tier), 0, 0, "auto|ram|pinned|shared|mmap|nvme", "auto", NULL,
     "where the Engram tables are held"},
    {"engram-shared-dir", EM_OPTION_TEXT, MODEL, AT(engram_shared_dir), 0, 0, NULL, "/dev/shm", "DIR",
     "folder of the tables' one copy for all processes, with the shared tier"},
    {"engram-cache-bytes", EM_OPTION_BYTES, MODEL | TRACE, AT(engram_cache_bytes), 0, INT64_MAX, NULL, "256M", "BYTES",
     "memory for table rows read lately, with the nvme tier"},
    {"engram-prefault", EM_OPTION_BOOL, MODEL, AT(engram_prefault), 0, 0, NULL, "false", NULL,
     "read the tables into the page cache before serving, with the mmap tier"},
    {"engram-verify", EM_OPTION_BOOL, MODEL, AT(engram_verify), 0, 0, NULL, "false", NULL,
     "compare each table row with its file before it is used; slow, for finding out"},
    {"backend", EM_OPTION_CHOICE, MODEL, AT(backend), 0, 0, "auto|cpu|cuda", "auto", NULL,
     "what computes; auto: the GPU where one can be used, else the CPU"},
    {"cuda-module", EM_OPTION_TEXT, MODEL, AT(cuda_module), 0, 0, NULL, NULL, "FILE",
     "the CUDA backend; engramd-cuda.so beside the program or where it was installed when absent"},
    {"math", EM_OPTION_CHOICE, MODEL, AT(math), 0, 0, "f32", "f32", NULL, "precision of activations"},
    {"threads", EM_OPTION_INT, MODEL, AT(threads), 0, 1024, NULL, "0", "N",
     "compute threads; 0: as many as the process may use"},

    {"host", EM_OPTION_TEXT, SERVE | PROBE, AT(host), 0, 0, NULL, "127.0.0.1", "ADDRESS",
     "IPv4 or IPv6 address or name to listen on"},
    {"port", EM_OPTION_INT, SERVE | PROBE, AT(port), 0, 65535, NULL, "8080", "N", "port to listen on; 0: any free one"},
    {"allowed-host", EM_OPTION_LIST, SERVE, AT(allowed_host), 0, 0, NULL, NULL, "NAME",
     "names accepted in the Host header, besides the loopback names when bound to loopback"},
    {"api-key-file", EM_OPTION_TEXT, SERVE, AT(api_key_file), 0, 0, NULL, NULL, "FILE",
     "file of `name key` lines: requests need one of the keys, but /health, /ready and /; read again on SIGHUP"},
    {"public-metrics", EM_OPTION_BOOL, SERVE, AT(public_metrics), 0, 0, NULL, "false", NULL,
     "/metrics needs no key either"},
    {"no-page", EM_OPTION_BOOL, SERVE, AT(no_page), 0, 0, NULL, "false", NULL, "serve no page at /, only the API"},
    {"cors-origin", EM_OPTION_LIST, SERVE, AT(cors_origin), 0, 0, NULL, NULL, "ORIGIN",
     "origins whose pages may read answers, like https://app.example, or *; none when absent"},
    {"default-thinking", EM_OPTION_CHOICE, SERVE, AT(default_thinking), 0, 0, "auto|on|off", "auto", NULL,
     "whether chats reason where the request does not say; auto: default_thinking of generation_config.json, else on"},
    {"ignore-unknown-fields", EM_OPTION_BOOL, SERVE, AT(ignore_unknown_fields), 0, 0, NULL, "false", NULL,
     "accept requests with fields that nobody knows"},

    {"request-timeout", EM_OPTION_SECONDS, SERVE, AT(request_timeout), 0, 30 * DAY, NULL, "0", "S",
     "longest time of a request; 0: none"},
    {"drain-timeout", EM_OPTION_SECONDS, SERVE, AT(drain_timeout), 0, DAY, NULL, "30", "S",
     "how long running requests may go on after SIGTERM"},
    {"health-timeout", EM_OPTION_SECONDS, SERVE, AT(health_timeout), 1, DAY, NULL, "30", "S",
     "age of the step thread's last sign of life at which /health turns 503"},
    {"watchdog-timeout", EM_OPTION_SECONDS, SERVE, AT(watchdog_timeout), 0, DAY, NULL, "300", "S",
     "a step that takes longer ends the process, with exit code 3, after its state was written to stderr; 0: never"},
    {"keepalive-interval", EM_OPTION_SECONDS, SERVE, AT(keepalive_interval), 1, 3600, NULL, "5", "S",
     "silence in a stream after which a comment line is sent"},
    {"header-timeout", EM_OPTION_SECONDS, SERVE, AT(header_timeout), 1, 3600, NULL, "30", "S",
     "time a client may take to send the header of a request"},
    {"body-timeout", EM_OPTION_SECONDS, SERVE, AT(body_timeout), 1, 3600, NULL, "120", "S",
     "time a client may take to send the body of a request"},
    {"idle-timeout", EM_OPTION_SECONDS, SERVE, AT(idle_timeout), 1, 3600, NULL, "75", "S",
     "idle connections, and clients that read nothing, are closed after this time"},

    {"max-connections", EM_OPTION_INT, SERVE, AT(max_connections), 1, 1 << 20, NULL, "4096", "N",
     "connections; only /health and /ready are answered beyond"},
    {"max-connections-per-address", EM_OPTION_INT, SERVE, AT(max_connections_per_address), 0, 1 << 20, NULL, "2048",
     "N", "connections of one address (IPv6: of one /64 network); 0: no limit of its own"},
    {"max-header-bytes", EM_OPTION_BYTES, SERVE, AT(max_header_bytes), 1024, 1 << 20, NULL, "16K", "BYTES",
     "size of a request's line and headers"},
    {"max-body-bytes", EM_OPTION_BYTES, SERVE, AT(max_body_bytes), 1024, GIB(1), NULL, "16M", "BYTES",
     "size of a request's body"},
    {"max-total-body-bytes", EM_OPTION_BYTES, SERVE, AT(max_total_body_bytes), 1024, GIB(64), NULL, "256M", "BYTES",
     "bodies being received, all requests together"},
    {"max-output-bytes", EM_OPTION_BYTES, SERVE, AT(max_output_bytes), 1024, GIB(1), NULL, "1M", "BYTES",
     "unread bytes of a stream at which a slow reader is cut off"},
    {"max-reply-bytes", EM_OPTION_BYTES, SERVE, AT(max_reply_bytes), 1024, GIB(16), NULL, "64M", "BYTES",
     "size of an answer that is not streamed"},
    {"max-queue", EM_OPTION_INT, SERVE, AT(max_queue), 1, 1 << 20, NULL, "1024", "N",
     "requests waiting for a place; more are answered 429"},
    {"max-prompts", EM_OPTION_INT, SERVE, AT(max_prompts), 1, 65536, NULL, "1024", "N", "prompts in one request"},
    {"max-choices", EM_OPTION_INT, SERVE, AT(max_choices), 1, 65536, NULL, "1024", "N",
     "answers of one request: its prompts times n"},
    {"max-n", EM_OPTION_INT, SERVE, AT(max_n), 1, 128, NULL, "128", "N", "n of one request"},
    {"max-stops", EM_OPTION_INT, SERVE, AT(max_stops), 1, 1024, NULL, "16", "N", "stop strings of one request"},
    {"max-stop-bytes", EM_OPTION_BYTES, SERVE, AT(max_stop_bytes), 1, 65536, NULL, "1K", "BYTES",
     "size of one stop string"},
    {"max-logit-bias", EM_OPTION_INT, SERVE, AT(max_logit_bias), 0, EM_MAX_LOGIT_BIAS, NULL, "1024", "N",
     "entries of logit_bias"},
    {"max-logprobs", EM_OPTION_INT, SERVE, AT(max_logprobs), 0, 20, NULL, "20", "N", "alternatives per token"},
    {"max-cache-salt-bytes", EM_OPTION_BYTES, SERVE, AT(max_cache_salt_bytes), 1, EM_REQUEST_MAX_SALT_BYTES, NULL,
     "256", "BYTES", "size of cache_salt"},
    {"max-json-depth", EM_OPTION_INT, SERVE, AT(max_json_depth), 4, 128, NULL, "64", "N", "nesting of a body"},

    {"max-tokens", EM_OPTION_INT, GENERATE, AT(max_tokens), 0, INT32_MAX, NULL, "128", "N", "length of the answer"},
    {"temperature", EM_OPTION_REAL, GENERATE, AT(temperature), 0, 2, NULL, "0", "X",
     "0: always the most probable token"},
    {"top-p", EM_OPTION_REAL, GENERATE, AT(top_p), 0, 1, NULL, "1", "X",
     "draw from the most probable tokens of this mass"},
    {"top-k", EM_OPTION_INT, GENERATE, AT(top_k), -1, INT32_MAX, NULL, "0", "N",
     "draw from so many tokens; 0 or -1: all"},
    {"seed", EM_OPTION_INT, GENERATE, AT(seed), INT64_MIN, INT64_MAX, NULL, NULL, "N",
     "makes a draw repeatable; drawn when absent"},
    {"ignore-eos", EM_OPTION_BOOL, GENERATE, AT(ignore_eos), 0, 0, NULL, "false", NULL, "go on behind the end token"},

    {"json", EM_OPTION_BOOL, PLAN | SCORE | BENCH | INSPECT | TRACE, AT(json), 0, 0, NULL, "false", NULL,
     "print one JSON object"},
    {"batch", EM_OPTION_LIST, BENCH, AT(batch), 0, 0, NULL, "1,4,8,16,64", "N", "sequences in a decode step"},
    {"context", EM_OPTION_LIST, BENCH, AT(context), 0, 0, NULL, "128,4096,32768", "N",
     "tokens in front of a decode step; longer than the model are left out"},
    {"prompt-tokens", EM_OPTION_LIST, BENCH, AT(prompt_tokens), 0, 0, NULL, "64,512,2048", "N",
     "lengths of prompts to prefill"},
    {"seconds", EM_OPTION_SECONDS, BENCH, AT(seconds), 0, 3600, NULL, "2", "S", "time for one figure"},
    {"read-bytes", EM_OPTION_BYTES, BENCH, AT(read_bytes), 1 << 20, GIB(1024), NULL, "2G", "BYTES",
     "buffer whose reading tells the machine's read rate; larger than every cache"},
    {"svg", EM_OPTION_TEXT, TRACE, AT(svg), 0, 0, NULL, NULL, "FILE",
     "write a plot of the shares that caches would find"},

    {"log-format", EM_OPTION_CHOICE, ALL, AT(log_format), 0, 0, "text|json", "text", NULL, "form of log lines"},
    {"log-level", EM_OPTION_CHOICE, ALL, AT(log_level), 0, 0, "debug|info|warning|error", "info", NULL,
     "least important lines shown"},
    {"config", EM_OPTION_TEXT, ALL, AT(config), 0, 0, NULL, NULL, "FILE",
     "file of `name = value` lines whose names are these flags"},
};
const int em_n_options = (int)(sizeof(em_options) / sizeof(em_options[0]));
_Static_assert(sizeof(em_options) / sizeof(em_options[0]) <= EM_CONFIG_MAX_OPTIONS, "em_config.source is too short");

const em_option *em_option_find(const char *name, size_t len)
{
    for (int i = 0; i < em_n_options; i++)
        if (strlen(em_options[i].name) == len && memcmp(em_options[i].name, name, len) == 0)
            return &em_options[i];
    return NULL;
}

static int out_of_range(const em_option *o, const char *text, const char *where, em_error *err)
{
    return em_error_set(err, -EINVAL, "%s: %s is outside %" PRId64 " to %" PRId64, where, text, o->min, o->max);
}

/* Bytes take K, M, G or T (powers of 1024), also as KiB or KB. */
static int suffix_shift(const char *s)
{
    static const char letters[] = "KMGT";
    if (!*s)
        return 0;
    char upper = *s >= 'a' && *s <= 'z' ? (char)(*s - 32) : *s;
    const char *at = strchr(letters, upper);
    if (!at || (strcmp(s + 1, "") != 0 && strcmp(s + 1, "iB") != 0 && strcmp(s + 1, "B") != 0))
        return -1;
    return 10 * ((int)(at - letters) + 1);
}

static int set_int(em_config *c, const em_option *o, const char *text, const char *where, em_error *err)
{
    const char *digits = *text == '-' || *text == '+' ? text + 1 : text;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    int shift = o->kind == EM_OPTION_BYTES ? suffix_shift(end) : *end ? -1 : 0;
    if (*digits < '0' || *digits > '9' || shift < 0)
        return em_error_set(err, -EINVAL, "%s: \"%s\" is not a %s", where, text,
                            o->kind == EM_OPTION_BYTES ? "size like 4096, 512M or 2G" : "whole number");
    if (errno == ERANGE || (shift && (v > (INT64_MAX >> shift) || v < 0)))
        return out_of_range(o, text, where, err);
    int64_t value = (int64_t)v * ((int64_t)1 << shift);
    if (value < o->min || value > o->max)
        return out_of_range(o, text, where, err);
    memcpy((char *)c + o->offset, &value, sizeof(value));
    return 0;
}

static int set_real(em_config *c, const em_option *o, const char *text, const char *where, em_error *err)
{
    char *end;
    double v = strtod(text, &end);
    /* strtod also takes "inf", "nan", hex and leading space */
    if (!*text || *end || text[strspn(text, "0123456789.eE+-")] || !isfinite(v))
        return em_error_set(err, -EINVAL, "%s: \"%s\" is not a number", where, text);
    if (v < (double)o->min || v > (double)o->max)
        return out_of_range(o, text, where, err);
    if (o->kind == EM_OPTION_REAL) {
        memcpy((char *)c + o->offset, &v, sizeof(v));
    } else {
        uint64_t ns = (uint64_t)(v * 1e9);
        memcpy((char *)c + o->offset, &ns, sizeof(ns));
    }
    return 0;
}

static int set_bool(em_config *c, const em_option *o, const char *text, const char *where, em_error *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (strcmp(text, words[i]) == 0) {
            bool v = i & 1;
            memcpy((char *)c + o->offset, &v, sizeof(v));
            return 0;
        }
    return em_error_set(err, -EINVAL, "%s: \"%s\" is neither true nor false", where, text);
}

static int set_text(em_config *c, const em_option *o, const char *text, em_error *err)
{
    char *copy = strdup(text);
    if (!copy)
        return em_error_set(err, -ENOMEM, "out of memory");
    char **field = (char **)((char *)c + o->offset);
    free(*field);
    *field = copy;
    return 0;
}

static int set_choice(em_config *c, const em_option *o, const char *text, const char *where, em_error *err)
{
    size_t len = strlen(text);
    for (const char *p = o->choices; len && p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, text, len) == 0 && (p[len] == '|' || p[len] == '\0'))
            return set_text(c, o, text, err);
    return em_error_set(err, -EINVAL, "%s: \"%s\" is not one of %s", where, text, o->choices);
}

static int add_to_list(em_strings *list, const char *s, size_t len, const char *where, em_error *err)
{
    if (len == 0)
        return em_error_set(err, -EINVAL, "%s: a value is empty", where);
    if (list->n >= EM_CONFIG_MAX_LIST)
        return em_error_set(err, -EINVAL, "%s: more than %d values", where, EM_CONFIG_MAX_LIST);
    char **grown = realloc(list->s, sizeof(*grown) * (size_t)(list->n + 1));
    if (grown)
        list->s = grown;
    char *copy = grown ? strndup(s, len) : NULL;
    if (!copy)
        return em_error_set(err, -ENOMEM, "out of memory");
    list->s[list->n++] = copy;
    return 0;
}

static int set_list(em_config *c, const em_option *o, const char *text, const char *where, em_error *err)
{
    em_strings *list = (em_strings *)((char *)c + o->offset);
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        int r = add_to_list(list, p, len, where, err);
        if (r < 0)
            return r;
        p += len;
        if (!*p)
            return 0;
    }
}

int em_option_set(em_config *c, const em_option *o, const char *text, const char *where, em_error *err)
{
    if (!em_utf8_valid(text, strlen(text)))
        return em_error_set(err, -EINVAL, "%s: the value is not valid UTF-8", where);
    switch (o->kind) {
    case EM_OPTION_INT:
    case EM_OPTION_BYTES: return set_int(c, o, text, where, err);
    case EM_OPTION_SECONDS:
    case EM_OPTION_REAL: return set_real(c, o, text, where, err);
    case EM_OPTION_BOOL: return set_bool(c, o, text, where, err);
    case EM_OPTION_TEXT: return set_text(c, o, text, err);
    case EM_OPTION_CHOICE: return set_choice(c, o, text, where, err);
    case EM_OPTION_LIST: return set_list(c, o, text, where, err);
    }
    return -EINVAL;
}

void em_option_clear(em_config *c, const em_option *o)
{
    char *field = (char *)c + o->offset;
    if (o->kind == EM_OPTION_TEXT || o->kind == EM_OPTION_CHOICE) {
        free(*(char **)field);
        *(char **)field = NULL;
    } else if (o->kind == EM_OPTION_LIST) {
        em_strings *list = (em_strings *)field;
        for (int i = 0; i < list->n; i++)
            free(list->s[i]);
        free(list->s);
        *list = (em_strings){0};
    }
}

static void print_list(const em_strings *list, char *buf, size_t cap)
{
    size_t at = 0;
    buf[0] = '\0';
    for (int i = 0; i < list->n && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? "," : "", list->s[i]);
}

void em_option_print(const em_config *c, const em_option *o, char *buf, size_t cap)
{
    const char *field = (const char *)c + o->offset;
    const char *text;
    switch (o->kind) {
    case EM_OPTION_INT:
    case EM_OPTION_BYTES: snprintf(buf, cap, "%" PRId64, *(const int64_t *)field); break;
    case EM_OPTION_SECONDS: snprintf(buf, cap, "%g", (double)*(const uint64_t *)field / 1e9); break;
    case EM_OPTION_REAL: snprintf(buf, cap, "%g", *(const double *)field); break;
    case EM_OPTION_BOOL: snprintf(buf, cap, "%s", *(const bool *)field ? "true" : "false"); break;
    case EM_OPTION_TEXT:
    case EM_OPTION_CHOICE:
        text = *(char *const *)field;
        snprintf(buf, cap, "%s", text ? text : "");
        break;
    case EM_OPTION_LIST: print_list((const em_strings *)field, buf, cap); break;
    }
}
