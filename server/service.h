/* What is served: the model being loaded, then the open engine and the context of api/.
 *
 * A loader thread opens the engine; everything else, state changes included, happens on the HTTP thread, which calls
 * em_service_poll after each wake-up. The engine belongs to the service. */
#ifndef EM_SERVER_SERVICE_H
#define EM_SERVER_SERVICE_H

#include "api/completion_request.h"
#include "engine/engine.h"
#include "server/config.h"

typedef enum em_service_state {
    EM_SERVICE_LOADING,
    EM_SERVICE_READY,
    EM_SERVICE_DRAINING, /* what runs goes on, nothing new begins */
    EM_SERVICE_FAILED,   /* loading did not work; em_service_error says why */
} em_service_state;

typedef struct em_service em_service;

/* model_dir and c must outlive the service. wake is called by the loader thread when there is something to poll. */
int em_service_new(const em_config *c, const char *model_dir, void (*wake)(void *ctx), void *wake_ctx,
                   em_service **ret_service, em_error *err);
/* Closes the engine and joins its threads; not while loading (em_service_loading tells). NULL is fine; returns NULL. */
em_service *em_service_free(em_service *s);

/* Takes over what the loader has done. True when the state changed. */
bool em_service_poll(em_service *s);
void em_service_drain(em_service *s);

em_service_state em_service_get_state(const em_service *s);
const char *em_service_error(const em_service *s);
/* The loader thread is still at work. */
bool em_service_loading(const em_service *s);

/* Valid from READY on; NULL before. */
em_engine *em_service_engine(const em_service *s);
const em_api_context *em_service_api(const em_service *s);
int64_t em_service_created(const em_service *s); /* Unix seconds at start */

/* Age of the step thread's last sign of life is below --health-timeout; true while there is no engine yet. */
bool em_service_alive(const em_service *s, uint64_t *ret_age_ns);
/* What the loader does now; the text is copied, cut to cap. */
void em_service_progress(const em_service *s, char *phase, size_t cap, double *ret_fraction);

#endif
