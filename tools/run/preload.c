/* SPDX-License-Identifier: MIT */
/*
 * The library and LD_PRELOAD. Others preload too (jemalloc, faketime): what is there stays, ours
 * goes in front, and it goes there once, however often fixport-run is nested.
 */
#include "run.h"

#include "../pool/cmd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef FIXPORT_LIBDIR
#define FIXPORT_LIBDIR "/usr/local/lib"
#endif

#define LIBRARY_NAME "libfixport.so"

/* In a build tree the program lies in tools/, the library in shim/ or libtool's shim/.libs/. */
static bool library_beside(char path[PATH_MAX])
{
    static const char *const places[] = {"../shim/" LIBRARY_NAME, "../shim/.libs/" LIBRARY_NAME};
    char self[PATH_MAX], place[PATH_MAX + 64];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length <= 0)
        return false;
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(place, sizeof(place), "%s/%s", self, places[i]);
        if (realpath(place, path))
            return true;
    }
    return false;
}

int library_find(char path[PATH_MAX])
{
    static const char installed[] = FIXPORT_LIBDIR "/" LIBRARY_NAME;
    if (!library_beside(path))
        snprintf(path, PATH_MAX, "%s", installed);
    if (access(path, R_OK) < 0)
        return say_error(EXIT_FAILED, "%s is not there or not readable: install fixport", path);
    if (strpbrk(path, " \t\n\v\f\r:"))
        return say_error(EXIT_FAILED,
                         "'%s' has a space or a colon in it, which LD_PRELOAD cannot express: "
                         "install fixport elsewhere",
                         path);
    return 0;
}

/* Whether an entry of LD_PRELOAD is a shim, be it another copy: two would bind twice. */
static bool preload_is_shim(const char *entry, size_t length)
{
    size_t name = strlen(LIBRARY_NAME);
    char path[PATH_MAX];
    if (length < name || length >= sizeof(path) ||
        memcmp(entry + length - name, LIBRARY_NAME, name) != 0)
        return false;
    if (length == name) /* the loader looks in its own folders */
        return true;
    memcpy(path, entry, length);
    path[length] = '\0';
    return path[length - name - 1] == '/' && (strchr(path, '$') || access(path, R_OK) == 0);
}

static bool preload_has_shim(const char *value)
{
    while (*value) {
        size_t length = strcspn(value, " \t\n:");
        if (preload_is_shim(value, length))
            return true;
        value += length + (value[length] != '\0');
    }
    return false;
}

int preload_join(const char *library)
{
    const char *old = getenv("LD_PRELOAD");
    char *joined = NULL;
    if (old && preload_has_shim(old))
        return 0;
    if (asprintf(&joined, "%s%s%s", library, old && *old ? ":" : "", old ? old : "") < 0 ||
        setenv("LD_PRELOAD", joined, 1) < 0)
        return say_error(EXIT_FAILED, "not enough memory for LD_PRELOAD");
    free(joined);
    return 0;
}
