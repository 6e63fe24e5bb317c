/* Reading the sources in their order, and telling what came out. */
#include "server/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/log.h"
#include "server/options.h"

#define ENV_PREFIX "ENGRAMD_"

/* A stronger source replaces a weaker one's list; within one source, repetition adds. */
static int apply(em_config *c, const em_option *o, const char *text, em_source source, const char *where, em_error *err)
{
    uint8_t *from = &c->source[o - em_options];
    if (o->kind == EM_OPTION_LIST && *from != source)
        em_option_clear(c, o);
    int r = em_option_set(c, o, text, where, err);
    if (r == 0)
        *from = (uint8_t)source;
    return r;
}

static int apply_defaults(em_config *c, em_error *err)
{
    for (int i = 0; i < em_n_options; i++) {
        const em_option *o = &em_options[i];
        const char *dflt = o->dflt;
        if (!dflt && o->kind == EM_OPTION_TEXT)
            dflt = "";
        int r = dflt ? apply(c, o, dflt, EM_SOURCE_DEFAULT, o->name, err) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- the file ------------------------------------------------------------------------------------------------ */

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    size_t len = strlen(s);
    while (len && strchr(" \t\r", s[len - 1]))
        len--;
    s[len] = '\0';
    return s;
}

static int apply_line(em_config *c, char *line, int number, em_error *err)
{
    char where[512];
    line = trim(line);
    if (!*line || *line == '#')
        return 0;
    char *eq = strchr(line, '=');
    if (!eq)
        return em_error_set(err, -EINVAL, "%s:%d: expected a line like `port = 8080`", c->config, number);
    *eq = '\0';
    char *name = trim(line), *value = trim(eq + 1);
    const em_option *o = em_option_find(name, strlen(name));
    if (!o || strcmp(name, "config") == 0)
        return em_error_set(err, -EINVAL, "%s:%d: there is no option \"%s\"", c->config, number, name);
    snprintf(where, sizeof(where), "%s:%d: %s", c->config, number, name);
    return apply(c, o, value, EM_SOURCE_FILE, where, err);
}

static int apply_file(em_config *c, em_error *err)
{
    char *text;
    size_t size;
    int r = em_file_read(c->config, EM_CONFIG_MAX_FILE, &text, &size, err);
    if (r < 0)
        return r;
    if (memchr(text, '\0', size))
        r = em_error_set(err, -EINVAL, "%s is not a text file", c->config);
    int number = 1;
    for (char *line = text; r == 0 && line; number++) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        r = apply_line(c, line, number, err);
        line = end ? end + 1 : NULL;
    }
    free(text);
    return r;
}

/* --- the environment: the only place that reads it ------------------------------------------------------------ */

void em_config_variable(const char *name, char *buf, size_t cap)
{
    snprintf(buf, cap, ENV_PREFIX "%s", name);
    for (char *p = buf; *p; p++)
        *p = *p == '-' ? '_' : *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
}

static const char *env_get(char **env, const char *name)
{
    size_t len = strlen(name);
    for (; env && *env; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
            return *env + len + 1;
    return NULL;
}

static int apply_environment(em_config *c, char **env, const char *only, em_error *err)
{
    char name[80];
    for (int i = 0; i < em_n_options; i++) {
        const em_option *o = &em_options[i];
        if ((strcmp(o->name, "config") == 0) != (only != NULL))
            continue; /* the file must be known before the rest is read */
        em_config_variable(o->name, name, sizeof(name));
        const char *value = env_get(env, name);
        /* Kubernetes gives every container ENGRAMD_PORT=tcp://... when a service is called engramd */
        if (!value || !*value || (strcmp(o->name, "port") == 0 && strncmp(value, "tcp://", 6) == 0))
            continue;
        int r = apply(c, o, value, EM_SOURCE_ENVIRONMENT, name, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- flags --------------------------------------------------------------------------------------------------- */

/* Splits argv[*i] into an option and its value, which may be the next word. -EINVAL with a sentence. */
static int read_flag(em_command command, int argc, char **argv, int *i, const em_option **ret_option,
                     const char **ret_value, em_error *err)
{
    const char *flag = argv[*i], *eq = strchr(flag, '=');
    size_t len = eq ? (size_t)(eq - flag) : strlen(flag);
    const em_option *o = strncmp(flag, "--", 2) == 0 ? em_option_find(flag + 2, len - 2) : NULL;
    if (!o || !(o->commands & (unsigned)command))
        return em_error_set(err, -EINVAL, "unknown option %.*s; --help lists all", (int)(len < 200 ? len : 200), flag);
    *ret_option = o;
    if (eq)
        *ret_value = eq + 1;
    else if (o->kind == EM_OPTION_BOOL)
        *ret_value = "true";
    else if (*i + 1 < argc)
        *ret_value = argv[++*i];
    else
        return em_error_set(err, -EINVAL, "--%s needs a value", o->name);
    return 0;
}

/* Two passes: the first takes only --config, so that flags still win over the file. */
static int apply_flags(em_config *c, em_command command, int argc, char **argv, bool only_config, em_error *err)
{
    bool flags_ended = false;
    char where[80];
    c->argument = c->second_argument = NULL;
    for (int i = 0; i < argc; i++) {
        const em_option *o = NULL;
        const char *value = NULL;
        if (!flags_ended && strcmp(argv[i], "--") == 0) {
            flags_ended = true;
        } else if (!flags_ended && argv[i][0] == '-' && argv[i][1]) {
            int r = read_flag(command, argc, argv, &i, &o, &value, err);
            if (r < 0)
                return r;
            snprintf(where, sizeof(where), "--%s", o->name);
            if ((strcmp(o->name, "config") == 0) == only_config)
                r = apply(c, o, value, EM_SOURCE_FLAG, where, err);
            if (r < 0)
                return r;
        } else if (!c->argument) {
            c->argument = argv[i];
        } else if (command == EM_COMMAND_ENGRAM_TRACE && !c->second_argument) {
            c->second_argument = argv[i];
        } else {
            return em_error_set(err, -EINVAL, "one argument too many: \"%.200s\"", argv[i]);
        }
    }
    return 0;
}

int em_config_load(em_command command, int argc, char **argv, char **env, em_config **ret_config, em_error *err)
{
    em_config *c = calloc(1, sizeof(*c));
    if (!c)
        return em_error_set(err, -ENOMEM, "out of memory");
    int r = apply_defaults(c, err);
    if (r == 0)
        r = apply_environment(c, env, "config", err);
    if (r == 0)
        r = apply_flags(c, command, argc, argv, true, err);
    if (r == 0 && *c->config)
        r = apply_file(c, err);
    if (r == 0)
        r = apply_environment(c, env, NULL, err);
    if (r == 0)
        r = apply_flags(c, command, argc, argv, false, err);
    if (r < 0) {
        em_config_free(c);
        return r;
    }
    *ret_config = c;
    return 0;
}

em_config *em_config_free(em_config *c)
{
    if (!c)
        return NULL;
    for (int i = 0; i < em_n_options; i++)
        em_option_clear(c, &em_options[i]);
    free(c);
    return NULL;
}

bool em_config_is_set(const em_config *c, const char *name)
{
    const em_option *o = em_option_find(name, strlen(name));
    return o && c->source[o - em_options] != EM_SOURCE_DEFAULT;
}

/* --- telling ------------------------------------------------------------------------------------------------- */

void em_config_log(const em_config *c, em_command command, int level)
{
    static const char *const from[] = {"", " (file)", " (environment)", " (flag)"};
    char line[1024] = "", value[256];
    size_t at = 0;
    for (int i = 0; i < em_n_options; i++) {
        const em_option *o = &em_options[i];
        if (!(o->commands & (unsigned)command))
            continue;
        em_option_print(c, o, value, sizeof(value));
        if (at > 700) {
            em_log((em_log_level)level, NULL, "options: %s", line);
            at = 0;
        }
        at += (size_t)snprintf(line + at, sizeof(line) - at, "%s%s=%s%s", at ? " " : "", o->name, *value ? value : "-",
                               from[c->source[i]]);
    }
    em_log((em_log_level)level, NULL, "options: %s", line);
}

void em_config_help(FILE *out, em_command command)
{
    char left[128], name[80];
    fprintf(out, "Options (also as ENGRAMD_NAME in the environment, or in a file):\n");
    for (int i = 0; i < em_n_options; i++) {
        const em_option *o = &em_options[i];
        if (!(o->commands & (unsigned)command))
            continue;
        const char *value = o->kind == EM_OPTION_CHOICE ? o->choices : o->value;
        snprintf(left, sizeof(left), "--%s%s%s", o->name, value ? " " : "", value ? value : "");
        fprintf(out, "  %-34s %s", left, o->help);
        if (o->dflt && o->kind != EM_OPTION_BOOL)
            fprintf(out, " [%s]", o->dflt);
        fprintf(out, "\n");
    }
    em_config_variable("port", name, sizeof(name));
    fprintf(out, "Strength: defaults, then the file of --config, then the environment (%s=9000), then flags.\n", name);
    fprintf(out, "Sizes take K, M, G and T; lists take commas or repetition; times are seconds.\n");
}
