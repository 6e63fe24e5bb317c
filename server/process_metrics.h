/* The process as the kernel sees it, under the names that Prometheus' own client libraries give. */
#ifndef EM_SERVER_PROCESS_METRICS_H
#define EM_SERVER_PROCESS_METRICS_H

#include "engine/base/buf.h"

/* What cannot be read is left out. */
void em_process_metrics_write(em_buf *out);

#endif
