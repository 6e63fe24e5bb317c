/* engramd generate [--model DIR] PROMPT: no HTTP, the text as it comes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/base/utf8.h"
#include "engine/engine.h"
#include "server/commands.h"
#include "server/event_list.h"
#include "server/model_dir.h"
#include "server/progress.h"

#define MAX_STDIN (64u << 20)

static const char usage[] =
    "Usage: engramd generate [OPTIONS] PROMPT\n"
    "Prints what the model says behind PROMPT, as it comes; PROMPT - is read from standard input.\n"
    "\n";

/* Prints until the last event; -1 with a sentence when the engine or the output failed. */
static int print_answer(em_engine *e, em_event_list *events, uint64_t id, em_error *err)
{
    int r = 0;
    bool last = false;
    while (!last) {
        em_event *ev = em_event_list_next(events);
        if (r == 0 && ev->text_len &&
            (fwrite(ev->text, 1, ev->text_len, stdout) != ev->text_len || fflush(stdout) != 0)) {
            r = em_error_set(err, -EIO, "cannot write the answer: %s", strerror(errno));
            em_engine_cancel(e, id);
        }
        if (r == 0 && ev->finish == EM_FINISH_ERROR)
            r = em_error_set(err, -EIO, "%s", ev->error ? ev->error : "the engine failed");
        last = ev->last;
        em_event_free(ev);
    }
    if (r == 0 && (putchar('\n') == EOF || fflush(stdout) != 0))
        r = em_error_set(err, -EIO, "cannot write the answer: %s", strerror(errno));
    return r < 0 ? -1 : 0;
}

/* PROMPT, or all of standard input. */
static int read_prompt(const char *argument, char **ret_text, size_t *ret_len, em_error *err)
{
    size_t len = 0, cap = 65536;
    bool from_stdin = strcmp(argument, "-") == 0;
    char *text = from_stdin ? malloc(cap) : strdup(argument);
    if (text && !from_stdin)
        len = strlen(text);
    for (size_t n = 1; text && from_stdin && n > 0 && len <= MAX_STDIN;) {
        n = fread(text + len, 1, cap - len, stdin);
        len += n;
        if (len == cap) {
            char *grown = realloc(text, cap *= 2);
            if (!grown)
                free(text);
            text = grown;
        }
    }
    int r = 0;
    if (!text)
        r = em_error_set(err, -ENOMEM, "out of memory");
    else if (len > MAX_STDIN)
        r = em_error_set(err, -E2BIG, "the prompt is larger than %u bytes", MAX_STDIN);
    else if (!em_utf8_valid(text, len))
        r = em_error_set(err, -EINVAL, "the prompt is not valid UTF-8");
    if (r < 0) {
        free(text);
        return r;
    }
    *ret_text = text;
    *ret_len = len;
    return 0;
}

static int prompt_ids(const em_engine *e, const char *text, size_t len, em_prompt *ret_prompt, em_error *err)
{
    em_engine_info info;
    em_ids ids = {0};
    em_engine_get_info(e, &info);
    int r = info.add_bos || len == 0 ? (info.bos_id >= 0 ? em_ids_push(&ids, info.bos_id) : 0) : 0;
    if (r == 0)
        r = em_engine_tokenize(e, text, len, true, (size_t)info.max_len, &ids);
    if (r == -E2BIG || (r == 0 && ids.n >= (size_t)info.max_len))
        r = em_error_set(err, -E2BIG, "the prompt is too long: the model takes %d tokens, answer included",
                         info.max_len);
    else if (r == -ENOTSUP)
        em_error_set(err, r, "the model has no tokenizer.json; it can only be served, with token ids as prompts");
    else if (r < 0)
        em_error_set(err, r, "cannot tokenize the prompt: %s", strerror(-r));
    else if (ids.n == 0)
        r = em_error_set(err, -EINVAL, "the prompt is empty, and the model has no token to begin with");
    if (r < 0) {
        em_ids_done(&ids);
        return r;
    }
    *ret_prompt = (em_prompt){.ids = ids.id, .n_ids = (int32_t)ids.n};
    return 0;
}

static int make_request(const em_config *c, const em_engine *e, const char *text, size_t len, em_request **ret_request,
                        em_error *err)
{
    em_request *r = calloc(1, sizeof(*r));
    em_prompt *prompts = calloc(1, sizeof(*prompts));
    if (!r || !prompts) {
        free(r);
        free(prompts);
        return em_error_set(err, -ENOMEM, "out of memory");
    }
    snprintf(r->id, sizeof(r->id), "generate");
    r->prompts = prompts;
    r->n_prompts = r->n = 1;
    r->max_tokens = (int32_t)c->max_tokens;
    r->ignore_eos = c->ignore_eos;
    r->logprobs = -1;
    r->sampling = (em_sampling){.temperature = (float)c->temperature,
                                .top_p = (float)c->top_p,
                                .top_k = (int32_t)c->top_k,
                                .seed = (uint64_t)c->seed};
    if (!em_config_is_set(c, "seed") && getrandom(&r->sampling.seed, sizeof(r->sampling.seed), 0) < 0)
        r->sampling.seed = (uint64_t)getpid();
    int result = prompt_ids(e, text, len, &r->prompts[0], err);
    if (result < 0) {
        em_request_free(r);
        return result;
    }
    *ret_request = r;
    return 0;
}

static int answer(const em_config *c, em_engine *e, const char *text, size_t len, em_error *err)
{
    em_event_list events;
    em_request *request = NULL;
    uint64_t id;
    if (make_request(c, e, text, len, &request, err) < 0)
        return -1;
    em_event_list_init(&events);
    int r = em_engine_submit(e, request, em_event_list_sink(&events), &id, err);
    if (r < 0)
        em_request_free(request);
    else
        r = print_answer(e, &events, id, err);
    em_event_list_done(&events);
    return r;
}

static int generate(const em_config *c, em_error *err)
{
    char *model_dir = NULL, *text = NULL;
    size_t len = 0;
    em_engine *e = NULL;
    em_engine_opts opts;
    em_progress progress;
    int code = -1;
    if (em_model_dir_find(c->model, &model_dir, err) < 0 || read_prompt(c->argument, &text, &len, err) < 0)
        goto Exit;
    em_config_log(c, EM_COMMAND_GENERATE, EM_LOG_DEBUG);
    em_config_engine_opts(c, model_dir, &opts);
    opts.max_seqs = 1;
    opts.max_queue = 1;
    opts.on_progress = em_progress_show;
    opts.progress_ctx = &progress;
    em_progress_begin(&progress);
    int r = em_engine_open(&opts, &e, err);
    em_progress_end(&progress);
    if (r == 0)
        code = answer(c, e, text, len, err);
Exit:
    em_engine_close(e);
    free(text);
    free(model_dir);
    return code;
}

int em_cmd_generate(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    int code = em_command_begin(EM_COMMAND_GENERATE, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    if (!c->argument) {
        em_error_set(&err, -EINVAL, "a PROMPT is missing; - reads it from standard input");
        code = em_command_fail("generate", 2, &err);
    } else {
        code = generate(c, &err);
        if (code < 0)
            code = em_command_fail("generate", 1, &err);
    }
    em_config_free(c);
    return code;
}
