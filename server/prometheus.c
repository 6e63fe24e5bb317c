#include "server/prometheus.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void em_labels_add(em_labels *l, const char *name, const char *value)
{
    em_buf_printf(&l->text, "%s%s=\"", l->text.len ? "," : "", name);
    for (const char *p = value; *p; p++) {
        if (*p == '\n')
            em_buf_puts(&l->text, "\\n");
        else
            em_buf_printf(&l->text, "%s%c", *p == '"' || *p == '\\' ? "\\" : "", *p);
    }
    em_buf_puts(&l->text, "\"");
}

void em_labels_done(em_labels *l)
{
    em_buf_done(&l->text);
    *l = (em_labels){0};
}

void em_prometheus_family(em_buf *out, const char *name, const char *type, const char *help)
{
    em_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Shortest text that reads back as the same number; a whole one with ".0", as the Python client of Prometheus writes
 * bounds, since queries compare them as text. */
static const char *real_text(double v, char buf[32])
{
    if (isinf(v) || isnan(v))
        return isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf";
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, 32, "%.*g", digits, v);
        double back;
        if (sscanf(buf, "%lf", &back) == 1 && back == v)
            break;
    }
    if (fabs(v) < 1e15 && v == floor(v))
        snprintf(buf, 32, "%.1f", v);
    return buf;
}

static void sample_name(em_buf *out, const char *name, const char *suffix, const em_labels *labels, const char *le)
{
    const char *text = labels && labels->text.len ? labels->text.data : "";
    em_buf_printf(out, "%s%s", name, suffix);
    if (*text || le)
        em_buf_printf(out, "{%s%s%s%s%s}", text, *text && le ? "," : "", le ? "le=\"" : "", le ? le : "",
                      le ? "\"" : "");
    em_buf_puts(out, " ");
    if (labels && labels->text.failed)
        out->failed = true; /* half a list of labels would be another series */
}

void em_prometheus_u64(em_buf *out, const char *name, const em_labels *labels, uint64_t value)
{
    sample_name(out, name, "", labels, NULL);
    em_buf_printf(out, "%" PRIu64 "\n", value);
}

void em_prometheus_real(em_buf *out, const char *name, const em_labels *labels, double value)
{
    char buf[32];
    sample_name(out, name, "", labels, NULL);
    em_buf_printf(out, "%s\n", real_text(value, buf));
}

void em_prometheus_histogram(em_buf *out, const char *name, const em_labels *labels, const em_histogram *h)
{
    char buf[32];
    uint64_t below = 0;
    for (int32_t i = 0; i <= h->n_bounds; i++) {
        below += h->count[i];
        sample_name(out, name, "_bucket", labels, i < h->n_bounds ? real_text(h->bounds[i], buf) : "+Inf");
        em_buf_printf(out, "%" PRIu64 "\n", below);
    }
    sample_name(out, name, "_sum", labels, NULL);
    em_buf_printf(out, "%s\n", real_text(h->sum, buf));
    sample_name(out, name, "_count", labels, NULL);
    em_buf_printf(out, "%" PRIu64 "\n", below);
}
