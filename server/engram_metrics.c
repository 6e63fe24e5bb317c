#include "server/engram_metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "server/prometheus.h"

typedef struct family {
    const char *name, *type, *help;
    size_t offset; /* of a uint64_t in the struct that the table below is about */
} family;

#define AT(field) offsetof(em_engram_stats, field)
#define TABLE_AT(field) offsetof(em_engram_table_stats, field)
#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* Labels: model_name, tier. */
static const family counts[] = {
    {"engramd_engram_tokens_total", "counter", "Tokens whose table rows were asked for.", AT(tokens)},
    {"engramd_engram_rows_total", "counter", "Table rows asked for, over all tables.", AT(rows)},
    {"engramd_engram_bytes_total", "counter", "Bytes of table rows gathered.", AT(bytes)},
    {"engramd_engram_waits_total", "counter", "Times a layer found its rows not yet there.", AT(waits)},
    {"engramd_engram_rows_unique_total", "counter",
     "Rows brought without those wanted twice by one step; counted in the nvme tier only.", AT(rows_unique)},
    {"engramd_engram_cache_hits_total", "counter", "Rows found in the row cache of the nvme tier.", AT(rows_cached)},
    {"engramd_engram_rows_read_total", "counter", "Rows read from a disk in the nvme tier.", AT(rows_read)},
    {"engramd_engram_read_bytes_total", "counter", "Bytes of the blocks read for them.", AT(read_bytes)},
    {"engramd_engram_read_errors_total", "counter", "Groups of rows of a step of which some could not be read.",
     AT(read_errors)},
    {"engramd_engram_failed_total", "counter", "Times a layer found some of its rows lost.", AT(failed)},
    {"engramd_engram_verified_rows_total", "counter", "Rows compared with their file.", AT(rows_verified)},
    {"engramd_engram_wrong_rows_total", "counter", "Compared rows that were not what their file holds.",
     AT(rows_wrong)},
    {"engramd_engram_cache_bytes", "gauge", "Memory of the row cache.", AT(cache_bytes)},
    {"engramd_engram_staging_bytes", "gauge", "Memory for rows in flight.", AT(staging_bytes)},
};

static const family seconds[] = {
    {"engramd_engram_wait_seconds_total", "counter", "Time layers waited for rows.", AT(wait_ns)},
    {"engramd_engram_lead_seconds_total", "counter", "Time rows were ready before a layer took them, summed.",
     AT(lead_ns)},
};

/* Labels: model_name, tier, layer. */
static const family sizes[] = {
    {"engramd_engram_table_bytes", "gauge", "Size of an Engram table.", TABLE_AT(table_bytes)},
    {"engramd_engram_resident_bytes", "gauge", "What of the table is in memory, sampled; without the row cache.",
     TABLE_AT(resident_bytes)},
};

static uint64_t value_at(const void *base, size_t offset)
{
    uint64_t v;
    memcpy(&v, (const char *)base + offset, sizeof(v));
    return v;
}

/* layer < 0: of all. */
static em_labels labels_of(const char *model_name, const char *tier, int32_t layer)
{
    em_labels l = {0};
    char number[12];
    em_labels_add(&l, "model_name", model_name);
    em_labels_add(&l, "tier", tier);
    if (layer >= 0) {
        snprintf(number, sizeof(number), "%d", (int)layer);
        em_labels_add(&l, "layer", number);
    }
    return l;
}

/* The library's buckets: rising by factors of four from a microsecond. */
static void write_histogram(em_buf *out, const char *name, const em_labels *labels, const uint64_t *bucket, uint64_t ns)
{
    double bounds[EM_ENGRAM_N_BUCKETS - 1];
    em_histogram h = {.bounds = bounds, .n_bounds = EM_ENGRAM_N_BUCKETS - 1, .sum = (double)ns / 1e9};
    for (int i = 0; i < EM_ENGRAM_N_BUCKETS - 1; i++)
        bounds[i] = (double)EM_ENGRAM_BUCKET_NS(i) / 1e9;
    memcpy(h.count, bucket, EM_ENGRAM_N_BUCKETS * sizeof(*bucket));
    em_prometheus_histogram(out, name, labels, &h);
}

static void write_tables(em_buf *out, const char *model_name, const char *tier, const em_engram_stats *stats)
{
    em_labels l[EM_ENGRAM_MAX_TABLES];
    for (int32_t t = 0; t < stats->n_tables; t++)
        l[t] = labels_of(model_name, tier, stats->table[t].layer);
    for (const family *f = sizes; f < sizes + COUNT(sizes); f++) {
        em_prometheus_family(out, f->name, f->type, f->help);
        for (int32_t t = 0; t < stats->n_tables; t++)
            em_prometheus_u64(out, f->name, &l[t], value_at(&stats->table[t], f->offset));
    }
    em_prometheus_family(out, "engramd_engram_wait_seconds", "histogram",
                         "How long a layer waited for the rows of a step; nearly always not at all.");
    for (int32_t t = 0; t < stats->n_tables; t++)
        write_histogram(out, "engramd_engram_wait_seconds", &l[t], stats->table[t].wait_bucket,
                        stats->table[t].wait_ns);
    em_prometheus_family(out, "engramd_engram_lead_seconds", "histogram",
                         "How long the rows of a step were ready before their layer took them.");
    for (int32_t t = 0; t < stats->n_tables; t++)
        write_histogram(out, "engramd_engram_lead_seconds", &l[t], stats->table[t].lead_bucket,
                        stats->table[t].lead_ns);
    for (int32_t t = 0; t < stats->n_tables; t++)
        em_labels_done(&l[t]);
}

void em_engram_metrics_write(em_buf *out, const char *model_name, const char *tier, const em_engram_stats *stats)
{
    em_labels l = labels_of(model_name, tier, -1);
    for (const family *f = counts; f < counts + COUNT(counts); f++) {
        em_prometheus_family(out, f->name, f->type, f->help);
        em_prometheus_u64(out, f->name, &l, value_at(stats, f->offset));
    }
    for (const family *f = seconds; f < seconds + COUNT(seconds); f++) {
        em_prometheus_family(out, f->name, f->type, f->help);
        em_prometheus_real(out, f->name, &l, (double)value_at(stats, f->offset) / 1e9);
    }
    em_prometheus_family(out, "engramd_engram_reads_in_flight_max", "gauge", "Most reads of rows at a time, ever.");
    em_prometheus_u64(out, "engramd_engram_reads_in_flight_max", &l, stats->most_in_flight);
    em_labels_done(&l);
    write_tables(out, model_name, tier, stats);
}
