/* SPDX-License-Identifier: MIT */
/*
 * Sysctls: read from /proc/sys, set by sysctl(8), which is what an administrator would type. Names
 * are as there: whichever of '.' and '/' comes first parts them, the other one is a character.
 *
 * One of them is a set to which everybody adds his own, net.ipv4.ip_local_reserved_ports: there
 * what is asked for is added to what is there at that moment, and taken out of it again.
 */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define VALUE_MOST (1u << 20)

/* Return: 0, or -1 if @name can be no sysctl's. */
static int sysctl_path(const char *name, char *path, size_t size, struct setup_error *error)
{
    size_t first = strcspn(name, "./");
    int length = snprintf(path, size, "/proc/sys/%s", name);
    char *key = path + strlen("/proc/sys/");
    if (length < 0 || (size_t)length >= size)
        return setup_fail(error, "%.60s...: the name is too long for a sysctl", name);
    for (char *at = key; name[first] == '.' && *at; at++)
        *at = *at == '.' ? '/' : *at == '/' ? '.' : *at;
    if (!*key || *key == '/' || *key == '-' || strstr(key, "..") || strpbrk(key, " \t\n="))
        return setup_fail(error, "'%.100s' is no name of a sysctl", name);
    return 0;
}

/* Words with one space between; no newline. In place. */
static void sysctl_squeeze(char *value)
{
    char *out = value;
    for (char *at = value; *at; at++) {
        bool space = strchr(" \t\r\n", *at) != NULL;
        if (!space)
            *out++ = *at;
        else if (out > value && out[-1] != ' ')
            *out++ = ' ';
    }
    if (out > value && out[-1] == ' ')
        out--;
    *out = '\0';
}

/* Return: malloc'd; NULL with errno. The kernel gives long values in several pieces. */
static char *sysctl_slurp(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    char *value = state_grow(NULL, VALUE_MOST + 1);
    size_t length = 0;
    ssize_t n;
    do {
        n = read(fd, value + length, VALUE_MOST - length);
        length += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    int why = errno;
    close(fd);
    value[length] = '\0';
    if (n < 0) {
        free(value);
        errno = why;
        return NULL;
    }
    return value;
}

static int sysctl_read(const char *name, char **state, struct setup_error *error)
{
    char path[PATH_MAX];
    *state = NULL;
    if (sysctl_path(name, path, sizeof(path), error) < 0)
        return -1;
    char *value = sysctl_slurp(path);
    if (!value && errno == ENOENT)
        return 0;
    if (!value)
        return setup_fail(error, "sysctl %s: %s", name, strerror(errno));
    sysctl_squeeze(value);
    *state = state_grow(value, strlen(value) + 1);
    return 0;
}

static int sysctl_steps(const char *name, const char *from, const char *to, struct steps *steps,
                        struct setup_error *error)
{
    char path[PATH_MAX];
    struct statvfs fs;
    if (sysctl_path(name, path, sizeof(path), error) < 0)
        return -1;
    if (!from)
        return setup_fail(error, "this kernel does not have the sysctl %s", name);
    if (!to)
        return setup_fail(error, "the sysctl %s was not there before; a kernel cannot lose it",
                          name);
    if (statvfs(path, &fs) == 0 && (fs.f_flag & ST_RDONLY))
        return setup_fail(error,
                          "/proc/sys is read-only here, so %s cannot be set: that is done on the "
                          "machine itself, or in a privileged container when it starts",
                          name);
    char *setting = state_grow(NULL, strlen(name) + strlen(to) + 2);
    sprintf(setting, "%s=%s", name, to);
    steps_command(steps, NULL, "sysctl", "-w", setting, NULL);
    free(setting);
    return 0;
}

/* ---- lists of ports ---- */

#define PORTS 65536

static bool is_ports(const char *name)
{
    return strstr(name, "reserved_ports");
}

/* Which ports are in "8080,60001-60999". Return: whether it is a list of ports; NULL is empty. */
static bool ports_parse(const char *text, bool has[PORTS])
{
    char *end;
    memset(has, 0, PORTS * sizeof(*has));
    for (const char *at = text ? text : ""; *at; at = *end ? end + 1 : end) {
        unsigned long lo = strtoul(at, &end, 10), hi = lo;
        if (*end == '-')
            hi = strtoul(end + 1, &end, 10);
        if ((*end && *end != ',') || hi >= PORTS)
            return false;
        for (; lo <= hi; lo++)
            has[lo] = true;
    }
    return true;
}

/* As the kernel prints the set: sorted, and neighbours joined. */
static char *ports_print(const bool has[PORTS])
{
    char *list;
    const char *comma = "";
    FILE *out = state_open(&list);
    for (unsigned lo = 0, hi; lo < PORTS; lo = hi + 1) {
        for (hi = lo; has[lo] && hi + 1 < PORTS && has[hi + 1];)
            hi++;
        if (has[lo])
            fprintf(out, hi > lo ? "%s%u-%u" : "%s%u", comma, lo, hi);
        comma = has[lo] ? "," : comma;
    }
    state_close(out);
    return list;
}

static int ports_refuse(const char *name, const char *text, struct setup_error *error)
{
    return setup_fail(error, "sysctl %s: '%.60s' is no list of ports", name, text);
}

/* ---- the resource ---- */

static int sysctl_canonical(const char *name, const char *text, char **canonical,
                            struct setup_error *error)
{
    char path[PATH_MAX];
    if (sysctl_path(name, path, sizeof(path), error) < 0)
        return -1;
    *canonical = state_copy(text);
    sysctl_squeeze(*canonical);
    if (!is_ports(name))
        return 0;
    bool has[PORTS];
    bool good = ports_parse(*canonical, has);
    free(*canonical);
    *canonical = good ? ports_print(has) : NULL;
    return good ? 0 : ports_refuse(name, text, error);
}

/* Reserved ports are everybody's: ours come and go, and the others' stay as they are now. */
static int sysctl_merge(const char *name, const char *base, const char *to, const char *now,
                        char **merged, struct setup_error *error)
{
    bool was[PORTS], shall[PORTS], has[PORTS];
    if (!is_ports(name) || !now) {
        *merged = state_copy(to);
        return 0;
    }
    if (!ports_parse(base, was))
        return ports_refuse(name, base, error);
    if (!ports_parse(to, shall))
        return ports_refuse(name, to, error);
    if (!ports_parse(now, has))
        return ports_refuse(name, now, error);
    for (unsigned port = 0; port < PORTS; port++)
        has[port] = was[port] == shall[port] ? has[port] : shall[port];
    *merged = ports_print(has);
    return 0;
}

const struct resource_type resource_sysctl = {
    .name = "sysctl",
    .lasting = false,
    .read = sysctl_read,
    .steps = sysctl_steps,
    .canonical = sysctl_canonical,
    .merge = sysctl_merge,
};
