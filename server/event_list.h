/* Events on their way from the step thread to a command that waits for them. */
#ifndef EM_SERVER_EVENT_LIST_H
#define EM_SERVER_EVENT_LIST_H

#include <pthread.h>

#include "engine/engine.h"

typedef struct em_event_list {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    em_event *head, **tail;
} em_event_list;

void em_event_list_init(em_event_list *l);
void em_event_list_done(em_event_list *l); /* frees what nobody took */
/* A sink that appends; the list must live until the event with `last`. */
em_sink em_event_list_sink(em_event_list *l);
/* Waits for the next event; the caller frees it. */
em_event *em_event_list_next(em_event_list *l);

#endif
