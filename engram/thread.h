/* Threads of this library take no signals: those belong to the program around it. */
#ifndef EM_ENGRAM_THREAD_H
#define EM_ENGRAM_THREAD_H

#include <pthread.h>
#include <signal.h>

/* 0 or the positive error number of pthread_create. */
static inline int em_thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a mapped page that cannot be read: blocked, it would end the process without a word */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!rc)
        pthread_setname_np(*thread, name);
    return rc;
}

#endif
