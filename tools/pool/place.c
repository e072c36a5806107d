/* SPDX-License-Identifier: MIT */
/*
 * Where a pool lies. Its folder may be one that others write to: a node's is mounted into pods,
 * whose root can rename and link there as ours can. So the folder is opened once, and what is done
 * there is done in that very folder, by names that are not followed if they are symlinks; and
 * rights are given to descriptors only, after a look at what they are (target.c).
 */
#include "cmd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether nobody but root and this user can have put the link @st into the folder. */
static bool place_link_trusted(int folder, const struct stat *st)
{
    struct stat in;
    return (st->st_uid == 0 || st->st_uid == geteuid()) && fstat(folder, &in) == 0 &&
           (in.st_uid == 0 || in.st_uid == geteuid()) &&
           (!(in.st_mode & 022) || in.st_mode & S_ISVTX);
}

/* One component further; a symlink is put before the rest of the way instead. @from is closed. */
static int place_step(int from, const char *name, char rest[PATH_MAX])
{
    struct stat st;
    char target[PATH_MAX], all[2 * PATH_MAX];
    int to = openat(from, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int error = to < 0 || fstat(to, &st) < 0 ? errno : 0;
    if (!error && S_ISDIR(st.st_mode)) {
        close(from);
        return to;
    }
    ssize_t length = -1;
    if (!error && !S_ISLNK(st.st_mode))
        error = ENOTDIR;
    else if (!error && !place_link_trusted(from, &st))
        error = ELOOP;
    else if (!error && (length = readlinkat(to, "", target, sizeof(target) - 1)) < 0)
        error = errno;
    if (!error && snprintf(all, sizeof(all), "%.*s/%s", (int)length, target, rest) >= PATH_MAX)
        error = ENAMETOOLONG;
    if (to >= 0)
        close(to);
    if (!error) {
        strcpy(rest, all);
        to = openat(from, *rest == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        error = to < 0 ? errno : 0;
    }
    close(from);
    return error ? -error : to;
}

static int place_walk(const char *folder)
{
    char rest[PATH_MAX], name[NAME_MAX + 1];
    snprintf(rest, sizeof(rest), "%s", folder);
    int at = open(*rest == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; at >= 0; i++) {
        size_t begin = strspn(rest, "/"), length = strcspn(rest + begin, "/");
        if (!length)
            return at;
        if (length > NAME_MAX || i > PATH_MAX) { /* or links in a circle */
            close(at);
            return length > NAME_MAX ? -ENAMETOOLONG : -ELOOP;
        }
        memcpy(name, rest + begin, length);
        name[length] = '\0';
        memmove(rest, rest + begin + length, strlen(rest + begin + length) + 1);
        at = place_step(at, name, rest);
    }
    return at == -1 && errno ? -errno : at;
}

int place_open(const char *path, struct place *place)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    snprintf(folder, sizeof(folder), "%.*s", (int)(name - path), path);
    if (!*name || strlen(name) > NAME_MAX)
        return *name ? -ENAMETOOLONG : -EISDIR;
    place->folder = place_walk(folder);
    if (place->folder < 0)
        return place->folder;
    snprintf(place->path, sizeof(place->path), "/proc/self/fd/%d/%s", place->folder, name);
    place->name = strrchr(place->path, '/') + 1;
    return access("/proc/self/fd", X_OK) < 0 ? -ENOSYS : 0;
}

void place_close(struct place *place)
{
    close(place->folder);
}

/* What some pool of that name has left beside it, in one of the folders where that can be. */
static void place_sweep_in(int at, const char *folder, const char *name)
{
    size_t length = strnlen(name, 32);
    int fd = openat(at, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (!list && fd >= 0)
        close(fd);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        const char *tag = entry->d_name + length + 1;
        if (strlen(entry->d_name) == length + 1 + POOL_SHARED_DIGITS &&
            strncmp(entry->d_name, name, length) == 0 && tag[-1] == '.' &&
            strspn(tag, "0123456789abcdef") == POOL_SHARED_DIGITS)
            unlinkat(fd, entry->d_name, 0);
    }
    if (list)
        closedir(list);
}

void place_sweep(const struct place *place)
{
    place_sweep_in(place->folder, ".", place->name);
    place_sweep_in(place->folder, POOL_SHARED_FOLDER, place->name);
}

void place_leave(const struct place *place, const char *path)
{
    if (strncmp(path, "/run/fixport/", strlen("/run/fixport/")) == 0)
        unlinkat(place->folder, POOL_SHARED_FOLDER, AT_REMOVEDIR); /* if nothing is in it */
}

int place_clear(const struct place *place)
{
    char aside[NAME_MAX + 1];
    int error = pool_retire(place->path);
    place_sweep(place);
    if (error == 0 || error == -ENOENT)
        return 0;
    if (error != -EISDIR && error != -EPERM)
        return error;
    if (unlinkat(place->folder, place->name, AT_REMOVEDIR) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -errno;
    /* Whatever is in it: nothing of that is for us to walk through. */
    uint64_t tag = (uint64_t)getpid();
    (void)!getrandom(&tag, sizeof(tag), GRND_NONBLOCK);
    snprintf(aside, sizeof(aside), ".%.200s.%016" PRIx64, place->name, tag);
    return renameat(place->folder, place->name, place->folder, aside) < 0 ? -errno : 0;
}
