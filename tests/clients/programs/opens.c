/* SPDX-License-Identifier: MIT */
/*
 * To be preloaded: says on stderr which libraries are opened with RTLD_DEEPBIND.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

void *dlopen(const char *path, int flags)
{
    void *(*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
    if (flags & RTLD_DEEPBIND)
        fprintf(stderr, "deepbind %s\n", path ? path : "");
    return next(path, flags);
}
