/* engramd serve [MODEL_DIR] */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "server/commands.h"
#include "server/http.h"
#include "server/listen.h"
#include "server/model_dir.h"

static const char usage[] =
    "Usage: engramd serve [OPTIONS] [MODEL_DIR]\n"
    "Serves the model over an OpenAI-compatible HTTP API; without MODEL_DIR the one that comes with the program.\n"
    "Once it is ready, a line on stderr says where it listens. SIGTERM lets running requests finish, a second one "
    "aborts.\n"
    "\n";

/* Blocked before any thread starts, so that every thread inherits it and only the loop reads them. */
static int take_signals(const em_config *c, em_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    /* without a key file there is nothing to read again, and a closed terminal ends the program as usual; but a service
     * has no terminal, and `systemctl reload` must not end it */
    if (*c->api_key_file || getenv("NOTIFY_SOCKET"))
        sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    int fd = sigprocmask(SIG_BLOCK, &set, NULL) == 0 ? signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC) : -1;
    return fd >= 0 ? fd : em_error_set(err, -errno, "cannot take signals: %s", strerror(errno));
}

static int run(const em_config *c, const char *model_dir, int listen_fd, int signal_fd, em_error *err)
{
    em_http *h;
    em_service *service;
    if (em_http_new(c, listen_fd, signal_fd, &h, err) < 0)
        return -1;
    if (em_service_new(c, model_dir, em_http_wake, h, &service, err) < 0) {
        em_http_free(h);
        return -1;
    }
    int code = em_http_run(h, service);
    em_http_stop(h);
    /* a loader cannot be interrupted, and an engine that does not answer cannot be joined: the process just ends */
    if (em_service_loading(service) || h->n_jobs)
        _exit(code);
    em_service_free(service);
    em_http_free(h);
    em_log(EM_LOG_INFO, NULL, "stopped");
    return code;
}

static int serve(em_config *c, em_error *err)
{
    char *model_dir = NULL;
    int listen_fd;
    const char *given = c->argument ? c->argument : c->model;
    if (em_model_dir_find(given, &model_dir, err) < 0)
        return -1;
    int signal_fd = take_signals(c, err);
    int code = -1;
    if (signal_fd >= 0 && em_listen(c->host, (int)c->port, &listen_fd, err) == 0) {
        em_config_log(c, EM_COMMAND_SERVE, EM_LOG_INFO);
        em_log(EM_LOG_INFO, NULL, "engramd " ENGRAMD_VERSION " loads %s", model_dir);
        code = run(c, model_dir, listen_fd, signal_fd, err);
    }
    if (signal_fd >= 0)
        close(signal_fd);
    free(model_dir);
    return code;
}

int em_cmd_serve(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    int code = em_command_begin(EM_COMMAND_SERVE, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    code = serve(c, &err);
    if (code < 0)
        code = em_command_fail("serve", 1, &err);
    em_config_free(c);
    return code;
}
