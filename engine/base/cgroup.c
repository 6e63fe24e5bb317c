#include "engine/base/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* From base/group up to base. */
static void walk_up(const char *base, const char *group, int version, em_cgroup_fn fn, void *ctx)
{
    char dir[PATH_MAX];
    size_t base_len = strlen(base);
    if (snprintf(dir, sizeof(dir), "%s%s", base, group) >= (int)sizeof(dir))
        return;
    for (;;) {
        fn(ctx, dir, version);
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < base_len)
            return;
        *slash = '\0';
    }
}

/* Whether the comma-separated list holds the name. */
static bool names(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n == len && memcmp(p, name, n) == 0)
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

/* One line "ID:CONTROLLERS:/GROUP"; the controllers are empty in version 2. */
static void walk_line(char *line, const char *mount_dir, const char *controller, em_cgroup_fn fn, void *ctx)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return;
    *group++ = '\0';
    controllers++;
    group[strcspn(group, "\n")] = '\0';
    if (!*controllers) {
        walk_up(mount_dir, group, 2, fn, ctx);
        return;
    }
    if (!names(controllers, controller))
        return;
    /* mounted under the whole list, or under the controller's own name, or both as links */
    const char *const mounts[] = {controllers, controller};
    for (int i = 0; i < (strcmp(controllers, controller) == 0 ? 1 : 2); i++) {
        char base[PATH_MAX];
        if (snprintf(base, sizeof(base), "%s/%s", mount_dir, mounts[i]) < (int)sizeof(base))
            walk_up(base, group, 1, fn, ctx);
    }
}

void em_cgroup_walk(const char *cgroup_file, const char *mount_dir, const char *controller, em_cgroup_fn fn, void *ctx)
{
    FILE *f = fopen(cgroup_file, "re");
    if (!f)
        return;
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0)
        walk_line(line, mount_dir, controller, fn, ctx);
    free(line);
    fclose(f);
}
