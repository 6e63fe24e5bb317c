#include "server/mapped_fault.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 4352 /* of /proc/self/maps: a path and what stands before it */

/* Only what a signal handler may call from here on. */

static void say(const char *text)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

static const char *read_hex(const char *s, uintptr_t *ret)
{
    uintptr_t v = 0;
    for (;; s++) {
        char c = *s;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            break;
        v = v << 4 | (uintptr_t)digit;
    }
    *ret = v;
    return s;
}

/* The path in a line like "begin-end rights offset device inode   path" when the address lies in it; else NULL. */
static const char *path_in(const char *line, uintptr_t addr)
{
    uintptr_t begin, end;
    const char *rest = read_hex(line, &begin);
    if (*rest != '-')
        return NULL;
    read_hex(rest + 1, &end);
    return addr >= begin && addr < end ? strchr(line, '/') : NULL;
}

/* Reads a line; false at the end. What is too long is cut. */
static int next_line(int fd, char *line, size_t cap)
{
    size_t len = 0;
    char c;
    ssize_t n;
    while ((n = read(fd, &c, 1)) == 1 && c != '\n')
        if (len + 1 < cap)
            line[len++] = c;
    line[len] = '\0';
    return n == 1 || len > 0;
}

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
    char line[LINE_BYTES];
    const char *path = NULL;
    (void)sig, (void)context;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && !path && next_line(fd, line, sizeof(line)))
        path = path_in(line, (uintptr_t)info->si_addr);
    say("engramd: a page of ");
    say(path ? path : "a mapped file");
    say(" could not be read: the file was cut short, or its disk fails. Without it no answer would be right, so this "
        "process ends.\n");
    _exit(1);
}

void em_mapped_fault_install(void)
{
    struct sigaction sa = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigfillset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}
