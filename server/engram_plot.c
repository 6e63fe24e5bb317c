#include "server/engram_plot.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "engine/base/units.h"

/* The page, and the field in which the curves are. */
#define WIDTH 760
#define HEIGHT 460
#define LEFT 70
#define RIGHT 30
#define TOP 70
#define BOTTOM 70
#define MAX_TITLE 80 /* characters */

/* Colours that keep their contrast on both grounds; the sheet goes with the file, wherever it is shown. */
static const char sheet[] =
    "<style>\n"
    ":root { color-scheme: light dark; }\n"
    ".ground { fill: #ffffff; } .ink { fill: #1f2328; } .soft { fill: #57606a; } .grid { stroke: #d0d7de; }\n"
    ".lru { stroke: #0969da; fill: none; } .cache { stroke: #bc4c00; fill: none; }\n"
    ".lru-dot { fill: #0969da; } .cache-dot { fill: #bc4c00; } .mark { stroke: #8250df; } .mark-ink { fill: #8250df; "
    "}\n"
    "@media (prefers-color-scheme: dark) {\n"
    ".ground { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9198a1; } .grid { stroke: #30363d; }\n"
    ".lru { stroke: #58a6ff; } .cache { stroke: #f0883e; }\n"
    ".lru-dot { fill: #58a6ff; } .cache-dot { fill: #f0883e; } .mark { stroke: #d2a8ff; } .mark-ink { fill: #d2a8ff; "
    "}\n"
    "}\n"
    "text { font: 13px system-ui, sans-serif; } .small { font-size: 12px; } .title { font-size: 16px; font-weight: "
    "600; }\n"
    "</style>\n";

typedef struct plot {
    const em_trace_result *res;
    em_buf *out;
    double low, high; /* log2 of the sizes at both ends */
} plot;

static double x_of(const plot *p, uint64_t bytes)
{
    double at = (log2((double)bytes) - p->low) / (p->high - p->low);
    return LEFT + at * (WIDTH - LEFT - RIGHT);
}

static double y_of(double share)
{
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
}

static void put_text(em_buf *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        unsigned char b = (unsigned char)*c;
        if (b == '&' || b == '<' || b == '>' || b == '"')
            em_buf_printf(out, "&#%d;", b);
        else if (b < 32 || b == 127) /* not allowed in XML */
            em_buf_puts(out, "?");
        else
            em_buf_append(out, c, 1);
    }
}

/* Cut at a character when it is long. */
static void put_title(em_buf *out, const char *title)
{
    size_t n_chars = 0, len = 0;
    char cut[4 * MAX_TITLE + 8];
    for (; title[len] && len < sizeof(cut) - 8; len++) {
        n_chars += ((unsigned char)title[len] & 0xc0) != 0x80;
        if (n_chars > MAX_TITLE)
            break;
    }
    memcpy(cut, title, len);
    strcpy(cut + len, title[len] ? "\xe2\x80\xa6" : "");
    put_text(out, cut);
}

static void put_head(const plot *p, const char *title)
{
    const em_trace_result *res = p->res;
    em_buf_printf(p->out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
                  "role=\"img\">\n<title>",
                  WIDTH, HEIGHT, WIDTH, HEIGHT);
    put_title(p->out, title);
    em_buf_printf(p->out,
                  "</title>\n%s<rect class=\"ground\" width=\"%d\" height=\"%d\"/>\n<text class=\"ink title\" x=\"%d\" "
                  "y=\"26\">",
                  sheet, WIDTH, HEIGHT, LEFT);
    put_title(p->out, title);
    em_buf_printf(p->out,
                  "</text>\n<text class=\"soft\" x=\"%d\" y=\"48\">%" PRIu64 " tokens, %" PRIu64 " rows asked, %" PRIu64
                  " different",
                  LEFT, res->tokens, res->rows, res->unique);
    if (res->one_in > 1)
        em_buf_printf(p->out, " (estimated from one row in %u)", res->one_in);
    em_buf_puts(p->out, "</text>\n");
}

static void put_axes(const plot *p)
{
    char text[EM_UNITS_TEXT];
    for (int i = 0; i <= 5; i++) {
        double y = y_of(i / 5.0);
        em_buf_printf(p->out,
                      "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n"
                      "<text class=\"soft small\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d %%</text>\n",
                      LEFT, WIDTH - RIGHT, y, y, LEFT - 8, y + 4, 20 * i);
    }
    int first = (int)ceil(p->low), last = (int)floor(p->high), step = (last - first) / 9 + 1;
    for (int i = first; i <= last; i += step) {
        double x = x_of(p, UINT64_C(1) << i);
        em_buf_printf(p->out,
                      "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n"
                      "<text class=\"soft small\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                      x, x, TOP, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 18, em_bytes_text(UINT64_C(1) << i, text));
    }
    em_buf_printf(p->out,
                  "<text class=\"ink\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">size of the row cache</text>\n"
                  "<text class=\"ink\" transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">rows found in "
                  "it</text>\n",
                  (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 40, (TOP + HEIGHT - BOTTOM) / 2);
}

static void put_curve(const plot *p, const char *name, bool own)
{
    const char *sep = "";
    em_buf_printf(p->out, "<polyline class=\"%s\" stroke-width=\"2\" points=\"", name);
    for (int32_t i = 0; i < p->res->n_points; i++) {
        const em_trace_point *at = &p->res->point[i];
        if (!at->known)
            continue;
        em_buf_printf(p->out, "%s%.1f,%.1f", sep, x_of(p, at->bytes), y_of(own ? at->cache : at->lru));
        sep = " ";
    }
    em_buf_puts(p->out, "\"/>\n");
    for (int32_t i = 0; i < p->res->n_points; i++) {
        const em_trace_point *at = &p->res->point[i];
        if (at->known)
            em_buf_printf(p->out, "<circle class=\"%s-dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", name,
                          x_of(p, at->bytes), y_of(own ? at->cache : at->lru));
    }
}

static void put_configured(const plot *p)
{
    char text[EM_UNITS_TEXT];
    for (int32_t i = 0; i < p->res->n_points; i++) {
        const em_trace_point *at = &p->res->point[i];
        double x = x_of(p, at->bytes);
        bool right = x > (LEFT + WIDTH) / 2.0;
        if (at->configured)
            em_buf_printf(
                p->out,
                "<line class=\"mark\" stroke-dasharray=\"5 4\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n"
                "<text class=\"mark-ink small\" x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%s configured</text>\n",
                x, x, TOP, HEIGHT - BOTTOM, right ? x - 6 : x + 6, HEIGHT - BOTTOM - 8, right ? "end" : "start",
                em_bytes_text(at->bytes, text));
    }
}

static void put_legend(const plot *p)
{
    static const struct {
        const char *name, *text;
        int x;
    } entries[] = {{"cache", "the nvme tier's cache", LEFT}, {"lru", "rows asked last (LRU)", LEFT + 200}};
    for (size_t i = 0; i < sizeof(entries) / sizeof(*entries); i++)
        em_buf_printf(p->out,
                      "<line class=\"%s\" stroke-width=\"2\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n"
                      "<text class=\"ink small\" x=\"%d\" y=\"%d\">%s</text>\n",
                      entries[i].name, entries[i].x, entries[i].x + 24, HEIGHT - 14, HEIGHT - 14, entries[i].x + 30,
                      HEIGHT - 10, entries[i].text);
}

void em_engram_plot(const em_trace_result *res, const char *title, em_buf *out)
{
    plot p = {.res = res, .out = out};
    p.low = log2((double)res->point[0].bytes);
    p.high = log2((double)res->point[res->n_points - 1].bytes);
    if (p.high < p.low + 1) /* a single size, or two that are close */
        p.high = p.low + 1;
    put_head(&p, title);
    put_axes(&p);
    put_curve(&p, "lru", false);
    put_curve(&p, "cache", true);
    put_configured(&p);
    put_legend(&p);
    em_buf_puts(out, "</svg>\n");
}
