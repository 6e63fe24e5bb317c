/* The part of /metrics about Engram tables. */
#ifndef EM_SERVER_ENGRAM_METRICS_H
#define EM_SERVER_ENGRAM_METRICS_H

#include "engine/base/buf.h"
#include "engine/engine.h"

/* Every family is written, with zeros where there are no tables or the tier has none of it. tier: em_engine_info's. */
void em_engram_metrics_write(em_buf *out, const char *model_name, const char *tier, const em_engram_stats *stats);

#endif
