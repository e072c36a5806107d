/* SPDX-License-Identifier: MIT */
/*
 * One fixport-setup at a time. The lock is flock(2) on a file beside the journal that it is about,
 * wherever that is mounted, so it goes with its holder, however that ends. It is inherited by the
 * tools that setup runs: when setup is killed, a tool that is still at work keeps the next setup
 * out until the machine stands still.
 *
 * The file goes with the last journal. So whoever has locked one looks whether it is the one that
 * is there, and who removes it does nothing afterwards.
 */
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_PAUSE 20000 /* us between tries */
#define LOCK_TRIES 10  /* lock_is_held() has the lock for a moment: that is no reason to give up */
#define LOCK_RACES 100 /* how often the file may be another one's by the time that we have it */

static int lock_fd = -1;
static char lock_folder[PATH_MAX]; /* the uppermost that was made for it, or "" */

/* Whether @path is @folder, or in it. */
static bool folder_is_in(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (!path[length] || path[length] == '/');
}

/* On a real system all but the last are there. */
static int lock_make_folders(void)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/", setup_folder(SETUP_STATE_DIR));
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        if (mkdir(path, at[1] ? 0755 : 0700) < 0 && errno != EEXIST)
            return -1;
        if (errno != EEXIST && !*lock_folder)
            snprintf(lock_folder, sizeof(lock_folder), "%s", path);
        *at = '/';
        errno = 0;
    }
    return 0;
}

static int lock_open(const char *path)
{
    int flags = O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    int fd = open(path, flags, 0600);
    if (fd < 0 && errno == ENOENT && lock_make_folders() == 0)
        fd = open(path, flags, 0600);
    return fd;
}

static int lock_get(int fd, unsigned seconds)
{
    unsigned tries = LOCK_TRIES + seconds * (1000000 / LOCK_PAUSE);
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EINTR && (errno != EWOULDBLOCK || tries-- == 0))
            return -1;
        usleep(LOCK_PAUSE);
    }
    return 0;
}

static bool lock_is_there(int fd, const char *path)
{
    struct stat ours, there;
    return fstat(fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_ino == there.st_ino &&
           ours.st_dev == there.st_dev;
}

int lock_take(unsigned seconds, struct setup_error *error)
{
    const char *path = setup_path(SETUP_LOCK);
    for (int i = 0; i < LOCK_RACES; i++) {
        int fd = lock_open(path);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return setup_fail(error, "%s: %s", path, strerror(errno));
        int why = lock_get(fd, seconds) < 0 ? errno : 0;
        bool there = lock_is_there(fd, path);
        if (!why && there) {
            lock_fd = setup_keep_fd = fd;
            return 0;
        }
        close(fd);
        if (there && why == EWOULDBLOCK)
            return setup_fail(error, "another fixport-setup is at work here (%s); try again later",
                              path);
        if (there)
            return setup_fail(error, "%s: %s", path, strerror(why));
    }
    return setup_fail(error, "%s is removed again and again", path);
}

bool lock_is_held(void)
{
    int fd = open(setup_path(SETUP_LOCK), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    bool held = flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

bool lock_made(const char *folder)
{
    return *lock_folder && folder_is_in(setup_folder(folder), lock_folder);
}

void lock_adopt(const char *folder)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s", setup_folder(folder));
    if (folder_is_in(setup_folder(SETUP_STATE_DIR), path) &&
        (!*lock_folder || strlen(path) < strlen(lock_folder)))
        memcpy(lock_folder, path, sizeof(path));
}

/* Nobody but root can have opened it: an apply, and the tools that inherited it. */
void lock_break(void)
{
    char path[64];
    struct stat lock, st;
    const struct dirent *process, *entry;
    DIR *all = opendir("/proc");
    if (stat(setup_path(SETUP_LOCK), &lock) < 0)
        lock = (struct stat){.st_ino = 0};
    while (all && (process = readdir(all))) {
        pid_t pid = (pid_t)strtol(process->d_name, NULL, 10);
        snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        DIR *fds = pid > 0 && pid != getpid() ? opendir(path) : NULL;
        while (fds && (entry = readdir(fds)))
            if (fstatat(dirfd(fds), entry->d_name, &st, 0) == 0 && st.st_ino == lock.st_ino &&
                st.st_dev == lock.st_dev) {
                kill(pid, SIGKILL);
                break;
            }
        if (fds)
            closedir(fds);
    }
    if (all)
        closedir(all);
}

void lock_forget(void)
{
    if (lock_fd >= 0)
        close(lock_fd);
    lock_fd = setup_keep_fd = -1;
}

void lock_end(void)
{
    char path[PATH_MAX];
    if (lock_fd < 0)
        return;
    snprintf(path, sizeof(path), "%s", setup_path(SETUP_JOURNAL));
    if (access(path, F_OK) < 0 && errno == ENOENT) {
        unlink(setup_path(SETUP_LOCK));
        snprintf(path, sizeof(path), "%s", setup_path(SETUP_STATE_DIR)); /* not what a link leads to */
        while (rmdir(path) == 0 && *lock_folder && strcmp(path, lock_folder) != 0)
            *strrchr(path, '/') = '\0';
    }
    lock_forget();
}
