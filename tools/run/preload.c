/* SPDX-License-Identifier: MIT */
/*
 * The library and LD_PRELOAD. Others preload too (jemalloc, faketime): what is there stays, ours
 * goes behind it, and it goes there once, however often fixport-run is nested. Behind, because one
 * that sends connections elsewhere (torsocks, proxychains) calls the next connect() with the
 * address that it has chosen, and that is the connection's destination. Only the C library's own
 * parts, which somebody may have preloaded, have to stay behind ours: their connect() is the last.
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
#define SEPARATORS " \t\n:"

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
        size_t length = strcspn(value, SEPARATORS);
        if (preload_is_shim(value, length))
            return true;
        value += length + (value[length] != '\0');
    }
    return false;
}

/* Whether an entry is a part of the C library that may have connect(): of glibc up to 2.33 two do.
 */
static bool preload_is_libc(const char *entry, size_t length)
{
    static const char *const names[] = {"libc.so", "libpthread.so", "libc.musl-", "ld-musl-"};
    const char *slash = memrchr(entry, '/', length);
    size_t skip = slash ? (size_t)(slash + 1 - entry) : 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (length - skip >= strlen(names[i]) &&
            memcmp(entry + skip, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* How much of @value stands before ours: all of it, or up to the C library. */
static size_t preload_place(const char *value)
{
    size_t at = 0, length;
    for (; value[at]; at += length + (value[at + length] != '\0')) {
        length = strcspn(value + at, SEPARATORS);
        if (preload_is_libc(value + at, length))
            break;
    }
    return at;
}

int preload_join(const char *library)
{
    const char *old = getenv("LD_PRELOAD");
    char *joined = NULL;
    if (old && preload_has_shim(old))
        return 0;
    old = old ? old : "";
    size_t place = preload_place(old);
    const char *before = place && !strchr(SEPARATORS, old[place - 1]) ? ":" : "";
    if (asprintf(&joined, "%.*s%s%s%s%s", (int)place, old, before, library, old[place] ? ":" : "",
                 old + place) < 0 ||
        setenv("LD_PRELOAD", joined, 1) < 0)
        return say_error(EXIT_FAILED, "not enough memory for LD_PRELOAD");
    free(joined);
    return 0;
}
