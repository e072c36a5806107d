/* SPDX-License-Identifier: MIT */
/*
 * Sysctls: read from /proc/sys, set by sysctl(8), which is what an administrator would type. Names
 * are as there: whichever of '.' and '/' comes first parts them, the other one is a character.
 */
#include "setup-state.h"

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
                          "/proc/sys is read-only here, so %s cannot be set: run setup on the "
                          "machine itself, not in a container",
                          name);
    char *setting = state_grow(NULL, strlen(name) + strlen(to) + 2);
    sprintf(setting, "%s=%s", name, to);
    steps_command(steps, NULL, "sysctl", "-w", setting, NULL);
    free(setting);
    return 0;
}

static void ports_print(FILE *out, const char *before, unsigned lo, unsigned hi)
{
    fprintf(out, "%s%u", before, lo);
    if (hi > lo)
        fprintf(out, "-%u", hi);
}

/* A list of ports, as the kernel prints the same set: sorted, and neighbours joined. */
static char *ports_canonical(const char *text)
{
    char *list, *end;
    char *has = memset(state_grow(NULL, 65537), 0, 65537);
    for (const char *at = text; *at; at = *end ? end + 1 : end) {
        unsigned long lo = strtoul(at, &end, 10), hi = lo;
        if (*end == '-')
            hi = strtoul(end + 1, &end, 10);
        if ((*end && *end != ',') || hi > 65535) {
            free(has);
            return NULL;
        }
        for (; lo <= hi; lo++)
            has[lo] = 1;
    }
    FILE *out = state_open(&list);
    for (unsigned lo = 0, hi, any = 0; lo < 65536; lo = hi + 1) {
        for (hi = lo; has[lo] && has[hi + 1];)
            hi++;
        if (has[lo])
            ports_print(out, any++ ? "," : "", lo, hi);
    }
    state_close(out);
    free(has);
    return list;
}

static int sysctl_canonical(const char *name, const char *text, char **canonical,
                            struct setup_error *error)
{
    char path[PATH_MAX];
    if (sysctl_path(name, path, sizeof(path), error) < 0)
        return -1;
    *canonical = state_copy(text);
    sysctl_squeeze(*canonical);
    if (strstr(name, "reserved_ports")) {
        char *squeezed = *canonical;
        *canonical = ports_canonical(squeezed);
        free(squeezed);
    }
    return *canonical ? 0 : setup_fail(error, "sysctl %s: '%.60s' is no list of ports", name, text);
}

const struct resource_type resource_sysctl = {
    .name = "sysctl",
    .lasting = false,
    .read = sysctl_read,
    .steps = sysctl_steps,
    .canonical = sysctl_canonical,
};
