/* SPDX-License-Identifier: MIT */
/*
 * Paths under another root (--root DIR). What lies there is an image of a system: its symlinks mean
 * its own places, "/srv" is DIR/srv. The kernel looks a path up like that (openat2(2),
 * RESOLVE_IN_ROOT, Linux 5.6), and tells then where it has ended. So what is opened, written or
 * given to a tool is a path without symlinks that lies below DIR, or the tool ends.
 *
 * Where the kernel cannot, folders are entered one after the other, and a symlink is refused.
 *
 * It is a look before a use: DIR must not be somebody's who moves its folders meanwhile.
 */
#include "path.h"

#include "../../common/say.h"
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#endif

#define PATH_ROOM (2 * PATH_MAX) /* for a root and a path; what is too long, open(2) says */
#define LOOKUP_TRIES 100000 /* of a few microseconds each */
#define FOLDER_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)

const char *setup_root = "";

static void __attribute__((noreturn)) root_left(const char *path, const char *why)
{
    exit(say_error(SETUP_ERROR, "--root '%s': %s: %s", setup_root, path, why));
}

/* ---- a folder under the root: a descriptor, or -1 with errno ---- */

static int folder_lookup(int root, const char *folder)
{
#if defined(RESOLVE_IN_ROOT) && defined(SYS_openat2)
    struct open_how how = {
        .flags = FOLDER_FLAGS,
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    /* EAGAIN: something was renamed or mounted meanwhile, anywhere on the machine, so that the kernel
     * cannot vouch for a ".."; a busy kubelet does that all the time. */
    int found, tries = 0;
    do
        found = (int)syscall(SYS_openat2, root, folder, &how, sizeof(how));
    while (found < 0 && errno == EAGAIN && ++tries < LOOKUP_TRIES);
    return found;
#else
    (void)root;
    (void)folder;
    errno = ENOSYS;
    return -1;
#endif
}

/* One folder further; @from is given back. */
static int folder_enter(int from, const char *name)
{
    struct stat st;
    int to = -1;
    if (strcmp(name, "..") == 0 ||
        (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)))
        errno = ELOOP;
    else
        to = openat(from, name, FOLDER_FLAGS | O_NOFOLLOW);
    int why = errno;
    close(from);
    errno = why;
    return to;
}

static int folder_walk(int root, const char *folder)
{
    char path[PATH_MAX], *rest;
    int at = openat(root, ".", FOLDER_FLAGS);
    snprintf(path, sizeof(path), "%s", folder);
    for (char *name = strtok_r(path, "/", &rest); name && at >= 0;
         name = strtok_r(NULL, "/", &rest))
        at = folder_enter(at, name);
    return at;
}

/* EPERM: a filter for system calls that does not know the call. */
static int folder_open(int root, const char *folder)
{
    int found = root < 0 ? -1 : folder_lookup(root, *folder ? folder : "/");
    if (root >= 0 && found < 0 && (errno == ENOSYS || errno == EPERM))
        found = folder_walk(root, folder);
    return found;
}

/* ---- spelling it ---- */

/* The name that @rest begins with must not be there: the lookup has ended before it. */
static void rest_check(const char *path, char *buf, size_t length, const char *rest, bool whole)
{
    struct stat st;
    size_t first = 1 + strcspn(rest + 1, "/");
    if (!rest[first] && !whole)
        return;
    snprintf(buf + length, PATH_ROOM - length, "%.*s", (int)first, rest);
    if (lstat(buf, &st) == 0 && S_ISLNK(st.st_mode))
        root_left(path, "a symlink on the way leads to nothing under the root");
}

/* Where a descriptor's folder really is, and @rest behind that. */
static void root_spell(int folder, const char *path, const char *rest, bool whole, char *buf)
{
    char link[32];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, buf, PATH_MAX);
    if (length < 0)
        root_left(path, strerror(errno));
    if (*rest)
        rest_check(path, buf, (size_t)length, rest, whole);
    snprintf(buf + length, PATH_ROOM - (size_t)length, "%s", rest);
}

/* Without the last name of @folder, @length bytes long. Return: its length then. */
static size_t folder_above(char *folder, size_t length)
{
    while (length > 0 && folder[--length] != '/')
        ;
    folder[length] = '\0';
    return length;
}

/* The longest part of @path that is there is looked up, the rest is appended. */
static void root_path(const char *path, bool whole, char *buf)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", path);
    int root = open(setup_root, FOLDER_FLAGS);
    size_t cut = whole ? strlen(folder) : folder_above(folder, strlen(folder));
    int found = folder_open(root, folder);
    while (found < 0 && errno == ENOENT && cut > 0) {
        cut = folder_above(folder, cut);
        found = folder_open(root, folder);
    }
    if (found < 0)
        root_left(path, errno == ELOOP ? "this symlink cannot be followed" : strerror(errno));
    root_spell(found, path, path + cut, whole, buf);
    close(found);
    close(root);
}

static const char *path_spell(const char *path, bool whole)
{
    static char buffers[4][PATH_ROOM];
    static unsigned turn;
    char *buf = buffers[turn++ % 4];
    bool kernel = strncmp(path, "/proc/", strlen("/proc/")) == 0;
    if (*setup_root && !kernel && strlen(path) < PATH_MAX)
        root_path(path, whole, buf);
    else
        snprintf(buf, PATH_ROOM, "%s", path);
    return buf;
}

const char *setup_path(const char *path)
{
    return path_spell(path, false);
}

const char *setup_folder(const char *path)
{
    return path_spell(path, true);
}
