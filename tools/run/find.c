/* SPDX-License-Identifier: MIT */
/*
 * Finding a program as execvp(3) does, because it must be looked at before it is started.
 */
#include "run.h"

#include "../pool/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Return: 0, or the errno that exec would give. */
static int find_try(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return errno;
    if (S_ISDIR(st.st_mode))
        return EISDIR;
    if (!S_ISREG(st.st_mode) || faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0)
        return EACCES;
    return 0;
}

/* One folder of PATH; an empty one is the current folder. */
static int find_in(const char *folder, size_t length, const char *name, char path[PATH_MAX])
{
    const char *slash = length ? "/" : "./";
    int wrote = snprintf(path, PATH_MAX, "%.*s%s%s", (int)length, folder, slash, name);
    return wrote >= PATH_MAX ? ENAMETOOLONG : find_try(path);
}

/* Return: 0, EACCES if the only files of that name cannot be executed, else ENOENT. */
static int find_on_path(const char *name, char path[PATH_MAX])
{
    char standard[256];
    const char *folders = getenv("PATH");
    int error = ENOENT;
    if (!folders && confstr(_CS_PATH, standard, sizeof(standard)))
        folders = standard;
    while (folders) {
        size_t length = strcspn(folders, ":");
        int tried = find_in(folders, length, name, path);
        if (tried == 0)
            return 0;
        if (tried == EACCES && access(path, F_OK) == 0) /* else the folder is what is closed */
            error = EACCES;
        folders = folders[length] ? folders + length + 1 : NULL;
    }
    return error;
}

int program_find(const char *name, char path[PATH_MAX])
{
    int error;
    if (!*name)
        error = ENOENT;
    else if (!strchr(name, '/'))
        error = find_on_path(name, path);
    else if (snprintf(path, PATH_MAX, "%s", name) >= PATH_MAX)
        error = ENAMETOOLONG;
    else
        error = find_try(path);
    if (error == ENOENT || error == ENOTDIR)
        return say_error(EXIT_NOT_FOUND, "'%s': command not found", name);
    if (error)
        return say_error(EXIT_REFUSED, "'%s' cannot be executed: %s", name, strerror(error));
    return 0;
}
