/* One table per kind of metric: name, help, and where its value lies. */
#include "server/metrics.h"

#include <stddef.h>
#include <string.h>

#include "engine/base/clock.h"
#include "server/engram_metrics.h"
#include "server/http.h"
#include "server/process_metrics.h"
#include "server/prometheus.h"

static const char *const methods[EM_METRICS_METHODS] = {"GET", "HEAD", "POST", "OPTIONS", "other"};

/* --- counting ------------------------------------------------------------------------------------------------- */

void em_http_counts_init(em_http_counts *c)
{
    *c = (em_http_counts){0};
    em_histogram_init(&c->params_n, EM_HISTOGRAM_LENGTH, 20);
    em_histogram_init(&c->params_max_tokens, EM_HISTOGRAM_LENGTH, INT32_MAX);
}

void em_http_counts_answer(em_http_counts *c, int handler, const char *method, int status)
{
    int m = 0;
    while (m < EM_METRICS_METHODS - 1 && strcmp(method, methods[m]) != 0)
        m++;
    c->requests[handler][m][(status >= 100 && status < 600 ? status / 100 : 5) - 1]++;
}

/* --- the engine's ---------------------------------------------------------------------------------------------- */

typedef struct metric {
    const char *name, *help;
    size_t offset; /* in em_engine_stats */
} metric;

#define AT(field) offsetof(em_engine_stats, field)

static const metric gauges[] = {
    /* int32_t */
    {"vllm:num_requests_running", "Choices in the running batch.", AT(running)},
    {"vllm:num_requests_waiting", "Choices that wait for a place in the batch.", AT(waiting)},
    {"engramd_grammars_waiting", "Grammars that are compiled or wait for it.", AT(grammars_waiting)},
    {"engramd_grammars_kept", "Compiled grammars that are kept.", AT(grammars_kept)},
};

static const metric counters[] = {
    /* uint64_t */
    {"vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", AT(prefix_queries)},
    {"vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", AT(prefix_hits)},
    {"vllm:num_preemptions_total", "Times a running choice was put back to make room.", AT(preemptions)},
    {"vllm:prompt_tokens_total", "Prompt tokens of the choices that ran.", AT(prompt_tokens)},
    {"vllm:generation_tokens_total", "Tokens generated.", AT(generation_tokens)},
    {"engramd_steps_total", "Steps of the engine.", AT(steps)},
    {"engramd_grammars_asked_total", "Requests whose answer is bound to a grammar.", AT(grammars_asked)},
    {"engramd_grammars_found_total", "Of them, those whose grammar was there, or under way.", AT(grammars_found)},
    {"engramd_grammars_compiled_total", "Grammars compiled.", AT(grammars_compiled)},
    {"engramd_grammars_refused_total", "Grammars that could not be compiled.", AT(grammars_failed)},
};

static const metric seconds[] = {
    /* uint64_t nanoseconds */
    {"engramd_step_seconds_total", "Time spent in steps.", AT(step_ns)},
    {"engramd_grammar_compile_seconds_total", "Time spent compiling grammars.", AT(grammar_compile_ns)},
};

static const metric histograms[] = {
    {"vllm:time_to_first_token_seconds", "From arrival to the first token of a choice.", AT(latencies.first_token)},
    {"vllm:inter_token_latency_seconds", "Between two tokens of a choice.", AT(latencies.inter_token)},
    {"vllm:request_time_per_output_token_seconds", "Mean time between the tokens of a choice.",
     AT(latencies.time_per_token)},
    {"vllm:e2e_request_latency_seconds", "From arrival to the end of a choice.", AT(latencies.e2e)},
    {"vllm:request_queue_time_seconds", "From arrival to the first step a choice took part in.", AT(latencies.queue)},
    {"vllm:request_inference_time_seconds", "From the first step of a choice to its end.", AT(latencies.inference)},
    {"vllm:request_prefill_time_seconds", "From the first step of a choice to its first token.", AT(latencies.prefill)},
    {"vllm:request_decode_time_seconds", "From the first token of a choice to its end.", AT(latencies.decode)},
    {"engramd_schedule_seconds", "Planning a step.", AT(latencies.schedule)},
    {"vllm:iteration_tokens_total", "Tokens computed in a step.", AT(latencies.step_tokens)},
    {"vllm:request_prompt_tokens", "Prompt tokens of a choice that has ended.", AT(latencies.prompt_len)},
    {"vllm:request_generation_tokens", "Tokens generated for a choice that has ended.", AT(latencies.generation_len)},
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static void write_tables(em_buf *out, const em_labels *model, const em_engine_stats *stats)
{
    const char *base = (const char *)stats;
    for (const metric *m = gauges; m < gauges + COUNT(gauges); m++) {
        em_prometheus_family(out, m->name, "gauge", m->help);
        em_prometheus_u64(out, m->name, model, (uint64_t) * (const int32_t *)(base + m->offset));
    }
    for (const metric *m = counters; m < counters + COUNT(counters); m++) {
        em_prometheus_family(out, m->name, "counter", m->help);
        em_prometheus_u64(out, m->name, model, *(const uint64_t *)(base + m->offset));
    }
    for (const metric *m = seconds; m < seconds + COUNT(seconds); m++) {
        em_prometheus_family(out, m->name, "counter", m->help);
        em_prometheus_real(out, m->name, model, (double)*(const uint64_t *)(base + m->offset) / 1e9);
    }
    for (const metric *m = histograms; m < histograms + COUNT(histograms); m++) {
        em_prometheus_family(out, m->name, "histogram", m->help);
        em_prometheus_histogram(out, m->name, model, (const em_histogram *)(base + m->offset));
    }
}

/* The labels of the model and one more. */
static void labelled_u64(em_buf *out, const char *name, const char *model, const char *label, const char *value,
                         uint64_t v)
{
    em_labels l = {0};
    em_labels_add(&l, "model_name", model);
    em_labels_add(&l, label, value);
    em_prometheus_u64(out, name, &l, v);
    em_labels_done(&l);
}

static void write_finished(em_buf *out, const char *model, const em_engine_stats *stats)
{
    static const char name[] = "vllm:request_success_total";
    const uint64_t *n = stats->finished;
    em_prometheus_family(out, name, "counter", "Choices that have ended, by reason.");
    labelled_u64(out, name, model, "finished_reason", "stop", n[EM_FINISH_STOP]);
    labelled_u64(out, name, model, "finished_reason", "length", n[EM_FINISH_LENGTH]);
    labelled_u64(out, name, model, "finished_reason", "abort", n[EM_FINISH_CANCEL] + n[EM_FINISH_TIMEOUT]);
    labelled_u64(out, name, model, "finished_reason", "error", n[EM_FINISH_ERROR]);
}

static void write_cache(em_buf *out, const char *model, const em_labels *labels, const em_engine_stats *stats,
                        const em_engine_info *info)
{
    char blocks[24], block_tokens[24];
    int32_t used = stats->kv_blocks - stats->kv_blocks_free;
    em_prometheus_family(out, "vllm:kv_cache_usage_perc", "gauge", "Share of the KV blocks that choices use, 0 to 1.");
    em_prometheus_real(out, "vllm:kv_cache_usage_perc", labels, stats->kv_blocks ? (double)used / stats->kv_blocks : 0);
    em_prometheus_family(out, "engramd_grammar_bytes", "gauge", "Size of the kept grammars with their masks.");
    em_prometheus_u64(out, "engramd_grammar_bytes", labels, stats->grammar_bytes);
    em_prometheus_family(out, "engramd_kv_blocks", "gauge", "KV blocks by what is in them.");
    labelled_u64(out, "engramd_kv_blocks", model, "state", "used", (uint64_t)used);
    labelled_u64(out, "engramd_kv_blocks", model, "state", "cached", (uint64_t)stats->kv_blocks_cached);
    labelled_u64(out, "engramd_kv_blocks", model, "state", "free",
                 (uint64_t)(stats->kv_blocks_free - stats->kv_blocks_cached));

    em_labels l = {0};
    snprintf(blocks, sizeof(blocks), "%d", (int)stats->kv_blocks);
    snprintf(block_tokens, sizeof(block_tokens), "%d", (int)info->kv_block_tokens);
    em_labels_add(&l, "model_name", model);
    em_labels_add(&l, "block_size", block_tokens);
    em_labels_add(&l, "num_gpu_blocks", blocks);
    em_prometheus_family(out, "vllm:cache_config_info", "gauge", "What the KV cache was set up with.");
    em_prometheus_u64(out, "vllm:cache_config_info", &l, 1);
    em_labels_done(&l);
}

static void write_memory(em_buf *out, const char *model, const em_engine_info *info)
{
    static const char name[] = "engramd_memory_bytes";
    em_prometheus_family(out, name, "gauge", "Memory by kind, as planned.");
    labelled_u64(out, name, model, "kind", "weights", info->weight_bytes);
    labelled_u64(out, name, model, "kind", "engram_tables", info->table_bytes);
    labelled_u64(out, name, model, "kind", "kv_cache", info->kv_bytes);
}

static void write_engine(em_http *h, em_buf *out)
{
    em_engine *engine = em_service_engine(h->service);
    const char *model = em_service_api(h->service)->model_names[0];
    em_engine_stats stats = {0};
    em_engram_stats engram = {0};
    em_engine_info info = {0};
    em_labels labels = {0};
    em_engine_get_info(engine, &info);
    em_engine_get_stats(engine, &stats);
    em_labels_add(&labels, "model_name", model);
    write_tables(out, &labels, &stats);
    write_finished(out, model, &stats);
    write_cache(out, model, &labels, &stats, &info);
    write_memory(out, model, &info);
    em_engine_get_engram_stats(engine, &engram);
    em_engram_metrics_write(out, model, info.engram_tier, &engram);
    em_prometheus_family(out, "vllm:request_params_n", "histogram", "n of submitted requests.");
    em_prometheus_histogram(out, "vllm:request_params_n", &labels, &h->counts.params_n);
    em_prometheus_family(out, "vllm:request_params_max_tokens", "histogram", "max_tokens of submitted requests.");
    em_prometheus_histogram(out, "vllm:request_params_max_tokens", &labels, &h->counts.params_max_tokens);
    em_labels_done(&labels);
}

/* --- the HTTP side's ------------------------------------------------------------------------------------------- */

static void write_requests(const em_http_counts *c, em_buf *out)
{
    static const char *const status[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
    em_prometheus_family(out, "http_requests_total", "counter", "Requests answered, by route, method and status.");
    for (int r = 0; r < EM_METRICS_HANDLERS; r++)
        for (int m = 0; m < EM_METRICS_METHODS; m++)
            for (int s = 0; s < 5; s++) {
                em_labels l = {0};
                if (c->requests[r][m][s] == 0)
                    continue; /* few of them ever occur */
                em_labels_add(&l, "handler", em_route_name(r));
                em_labels_add(&l, "method", methods[m]);
                em_labels_add(&l, "status", status[s]);
                em_prometheus_u64(out, "http_requests_total", &l, c->requests[r][m][s]);
                em_labels_done(&l);
            }
}

static void write_server(em_http *h, em_buf *out)
{
    uint64_t age_ns;
    em_service_alive(h->service, &age_ns);
    em_prometheus_family(out, "engramd_ready", "gauge", "1 when requests are served, as /ready.");
    em_prometheus_u64(out, "engramd_ready", NULL, em_service_get_state(h->service) == EM_SERVICE_READY);
    em_prometheus_family(out, "engramd_heartbeat_age_seconds", "gauge", "Time since the step thread last moved.");
    em_prometheus_real(out, "engramd_heartbeat_age_seconds", NULL, (double)age_ns / 1e9);
    em_prometheus_family(out, "engramd_http_connections", "gauge", "Open connections.");
    em_prometheus_u64(out, "engramd_http_connections", NULL, (uint64_t)h->n_peers);
    em_prometheus_family(out, "engramd_http_requests_in_progress", "gauge", "Requests not yet answered in full.");
    em_prometheus_u64(out, "engramd_http_requests_in_progress", NULL, (uint64_t)h->n_exchanges);
    em_prometheus_family(out, "engramd_requests_refused_total", "counter",
                         "Requests answered 429: the queue was full.");
    em_prometheus_u64(out, "engramd_requests_refused_total", NULL, h->counts.refused_busy);
    em_prometheus_family(out, "engramd_clients_left_total", "counter",
                         "Clients that left before their answer was complete.");
    em_prometheus_u64(out, "engramd_clients_left_total", NULL, h->counts.clients_left);
}

static void write_build(em_http *h, em_buf *out)
{
    em_labels l = {0};
    em_engine_info info = {.backend = "none"};
    if (em_service_engine(h->service))
        em_engine_get_info(em_service_engine(h->service), &info);
    em_labels_add(&l, "version", ENGRAMD_VERSION);
    em_labels_add(&l, "backend", info.backend);
    em_prometheus_family(out, "engramd_build_info", "gauge", "The program.");
    em_prometheus_u64(out, "engramd_build_info", &l, 1);
    em_labels_done(&l);
}

void em_metrics_write(em_http *h, em_buf *out)
{
    write_build(h, out);
    if (em_service_engine(h->service))
        write_engine(h, out);
    write_requests(&h->counts, out);
    write_server(h, out);
    em_process_metrics_write(out);
}
