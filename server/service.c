/* Loading on a thread of its own, so that /health and /ready answer meanwhile. */
#include "server/service.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/model_dir.h"

struct em_service {
    const em_config *config;
    em_engine_opts opts;
    void (*wake)(void *ctx);
    void *wake_ctx;

    pthread_t loader;
    bool loader_joined;

    pthread_mutex_t lock; /* guards the loader's side, down to `err` */
    char phase[96];
    double fraction;
    bool loaded;       /* the loader has finished, well or not */
    em_engine *opened; /* by the loader, until the HTTP thread takes it */
    int result;
    em_error err;

    /* HTTP thread */
    em_service_state state;
    em_engine *engine;
    em_api_context api;
    bool thinks; /* chats that do not say reason */
    char default_name[256];
    const char *default_names[1];
    int64_t created;
};

static void on_progress(void *ctx, const char *phase, double fraction)
{
    em_service *s = ctx;
    pthread_mutex_lock(&s->lock);
    bool new_phase = strcmp(s->phase, phase) != 0;
    snprintf(s->phase, sizeof(s->phase), "%s", phase);
    s->fraction = fraction;
    pthread_mutex_unlock(&s->lock);
    if (new_phase)
        em_log(EM_LOG_INFO, NULL, "loading: %s", phase);
}

/* What computes, and in the same line why it is not the GPU. */
static void log_backend(const em_engine *engine)
{
    em_engine_info info;
    em_engine_get_info(engine, &info);
    bool why = info.backend_why && info.backend_why[0];
    em_log(EM_LOG_INFO, NULL, "backend: %s%s%s", info.backend, why ? "; no GPU: " : "", why ? info.backend_why : "");
}

static void *load(void *arg)
{
    em_service *s = arg;
    em_engine *engine = NULL;
    em_error err = {0};
    int r = em_engine_open(&s->opts, &engine, &err);
    if (r == 0)
        log_backend(engine);
    pthread_mutex_lock(&s->lock);
    s->loaded = true;
    s->result = r;
    s->opened = r == 0 ? engine : NULL;
    s->err = err;
    pthread_mutex_unlock(&s->lock);
    s->wake(s->wake_ctx);
    return NULL;
}

static void fill_api_context(em_service *s)
{
    const em_config *c = s->config;
    s->api = (em_api_context){
        .engine = s->engine,
        .model_names = c->served_model_name.n ? (const char *const *)c->served_model_name.s : s->default_names,
        .n_model_names = c->served_model_name.n ? c->served_model_name.n : 1,
        .ignore_unknown_fields = c->ignore_unknown_fields,
        .max_prompts = (int32_t)c->max_prompts,
        .max_choices = (int32_t)c->max_choices,
        .max_n = (int32_t)c->max_n,
        .max_stops = (int32_t)c->max_stops,
        .max_stop_bytes = (int32_t)c->max_stop_bytes,
        .max_logprobs = (int32_t)c->max_logprobs,
        .max_logit_bias = (int32_t)c->max_logit_bias,
        .max_cache_salt_bytes = (int32_t)c->max_cache_salt_bytes,
        .max_depth = (int32_t)c->max_json_depth,
        .timeout_ns = c->request_timeout,
        .default_thinking = s->thinks,
    };
}

static int decide_thinking(const em_config *c, const char *model_dir, bool *ret_thinks, em_error *err)
{
    if (strcmp(c->default_thinking, "auto") == 0)
        return em_model_dir_thinks(model_dir, ret_thinks, err);
    *ret_thinks = strcmp(c->default_thinking, "on") == 0;
    return 0;
}

int em_service_new(const em_config *c, const char *model_dir, void (*wake)(void *ctx), void *wake_ctx,
                   em_service **ret_service, em_error *err)
{
    bool thinks = false;
    int r = decide_thinking(c, model_dir, &thinks, err);
    if (r)
        return r;
    em_service *s = calloc(1, sizeof(*s));
    if (!s)
        return em_error_set(err, -ENOMEM, "out of memory");
    s->config = c;
    s->thinks = thinks;
    s->wake = wake;
    s->wake_ctx = wake_ctx;
    s->created = (int64_t)time(NULL);
    pthread_mutex_init(&s->lock, NULL);
    em_model_dir_name(model_dir, s->default_name, sizeof(s->default_name));
    s->default_names[0] = s->default_name;
    em_config_engine_opts(c, model_dir, &s->opts);
    s->opts.on_progress = on_progress;
    s->opts.progress_ctx = s;
    r = pthread_create(&s->loader, NULL, load, s);
    if (r) {
        pthread_mutex_destroy(&s->lock);
        free(s);
        return em_error_set(err, -r, "cannot start a thread: %s", strerror(r));
    }
    *ret_service = s;
    return 0;
}

em_service *em_service_free(em_service *s)
{
    if (!s)
        return NULL;
    if (!s->loader_joined)
        pthread_join(s->loader, NULL);
    em_engine_close(s->engine ? s->engine : s->opened);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return NULL;
}

bool em_service_poll(em_service *s)
{
    if (s->loader_joined)
        return false;
    pthread_mutex_lock(&s->lock);
    bool loaded = s->loaded;
    pthread_mutex_unlock(&s->lock);
    if (!loaded)
        return false;
    pthread_join(s->loader, NULL);
    s->loader_joined = true;
    s->engine = s->opened;
    if (s->engine)
        fill_api_context(s);
    if (s->state == EM_SERVICE_LOADING)
        s->state = s->engine ? EM_SERVICE_READY : EM_SERVICE_FAILED;
    return true;
}

void em_service_drain(em_service *s)
{
    s->state = EM_SERVICE_DRAINING;
    if (s->engine)
        em_engine_drain(s->engine);
}

em_service_state em_service_get_state(const em_service *s)
{
    return s->state;
}

const char *em_service_error(const em_service *s)
{
    return s->err.text[0] ? s->err.text : "the model could not be loaded";
}

bool em_service_loading(const em_service *s)
{
    return !s->loader_joined;
}

em_engine *em_service_engine(const em_service *s)
{
    return s->engine;
}

const em_api_context *em_service_api(const em_service *s)
{
    return s->engine ? &s->api : NULL;
}

int64_t em_service_created(const em_service *s)
{
    return s->created;
}

bool em_service_alive(const em_service *s, uint64_t *ret_age_ns)
{
    *ret_age_ns = 0;
    if (!s->engine)
        return s->state != EM_SERVICE_FAILED;
    uint64_t beat = em_engine_heartbeat_ns(s->engine), now = em_now_ns(); /* in this order: an age is not negative */
    *ret_age_ns = now > beat ? now - beat : 0;
    return *ret_age_ns < s->config->health_timeout;
}

void em_service_progress(const em_service *s, char *phase, size_t cap, double *ret_fraction)
{
    em_service *locked = (em_service *)s; /* the lock is no part of what callers may not change */
    pthread_mutex_lock(&locked->lock);
    snprintf(phase, cap, "%s", s->phase);
    *ret_fraction = s->fraction;
    pthread_mutex_unlock(&locked->lock);
}
