/* Prometheus' text format, one sample at a time: a family first, then its samples. Pure; appends to a buffer, whose
 * `failed` tells at the end whether memory ran out. */
#ifndef EM_SERVER_PROMETHEUS_H
#define EM_SERVER_PROMETHEUS_H

#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/engine.h" /* em_histogram */

#define EM_PROMETHEUS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* A list of labels as it stands between braces, without them; empty: none. */
typedef struct em_labels {
    em_buf text;
} em_labels;

void em_labels_add(em_labels *l, const char *name, const char *value); /* value: any UTF-8 */
void em_labels_done(em_labels *l);

/* The two lines before the samples of a family. type: "counter", "gauge", "histogram". */
void em_prometheus_family(em_buf *out, const char *name, const char *type, const char *help);

/* labels may be NULL. */
void em_prometheus_u64(em_buf *out, const char *name, const em_labels *labels, uint64_t value);
void em_prometheus_real(em_buf *out, const char *name, const em_labels *labels, double value);
/* All samples of a histogram: buckets with what lies below counted in, sum and count. */
void em_prometheus_histogram(em_buf *out, const char *name, const em_labels *labels, const em_histogram *h);

#endif
