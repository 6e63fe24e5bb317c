/* Making events. */
#ifndef EM_ENGINE_EVENT_H
#define EM_ENGINE_EVENT_H

#include "engine/engine.h"

/* Copies a draft with its text, tokens, alternatives and error into one block that em_event_free frees; NULL: out of
 * memory. */
em_event *em_event_new(const em_event *draft);

#endif
