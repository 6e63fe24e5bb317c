#include "server/event_list.h"

void em_event_list_init(em_event_list *l)
{
    *l = (em_event_list){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    l->tail = &l->head;
}

void em_event_list_done(em_event_list *l)
{
    while (l->head) {
        em_event *ev = l->head;
        l->head = ev->next;
        em_event_free(ev);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
}

static void on_event(void *ctx, em_event *ev)
{
    em_event_list *l = ctx;
    pthread_mutex_lock(&l->lock);
    ev->next = NULL;
    *l->tail = ev;
    l->tail = &ev->next;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

em_sink em_event_list_sink(em_event_list *l)
{
    return (em_sink){.on_event = on_event, .ctx = l};
}

em_event *em_event_list_next(em_event_list *l)
{
    pthread_mutex_lock(&l->lock);
    while (!l->head)
        pthread_cond_wait(&l->changed, &l->lock);
    em_event *ev = l->head;
    l->head = ev->next;
    if (!l->head)
        l->tail = &l->head;
    pthread_mutex_unlock(&l->lock);
    return ev;
}
