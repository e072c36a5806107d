/* SPDX-License-Identifier: MIT */
/* Opens a library in the way that plugin hosts (php, database servers) do, and lets it connect. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_DEEPBIND);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    int (*reach)(const char *) = (int (*)(const char *))dlsym(library, "reach");
    return reach ? reach(argv[2]) : 2;
}
