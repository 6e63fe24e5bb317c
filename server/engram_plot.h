/* The plot of a trace: what caches of growing size would find, as SVG for light and dark pages. Pure. */
#ifndef EM_SERVER_ENGRAM_PLOT_H
#define EM_SERVER_ENGRAM_PLOT_H

#include "engine/base/buf.h"
#include "engine/engine.h"

/* title: UTF-8, shown as it is. out->failed when out of memory. */
void em_engram_plot(const em_trace_result *res, const char *title, em_buf *out);

#endif
