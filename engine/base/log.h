/* Log lines on stderr. Library code may only use debug; server/ uses the rest. Any thread; one write(2) a line.
 * Prompt text never goes into a log. */
#ifndef EM_BASE_LOG_H
#define EM_BASE_LOG_H

#include <stdbool.h>

typedef enum em_log_level { EM_LOG_DEBUG, EM_LOG_INFO, EM_LOG_WARN, EM_LOG_ERROR } em_log_level;

/* Set once at start, before threads. json: one object per line. */
void em_log_init(em_log_level min_level, bool json);

/* request_id may be NULL. The message is one line; control characters in it are escaped. */
__attribute__((format(printf, 3, 4))) void em_log(em_log_level level, const char *request_id, const char *fmt, ...);

#endif
