/* SPDX-License-Identifier: MIT */
/*
 * One fixport-setup at a time. The lock is flock(2) on a file, so it goes with its holder, however
 * that ends. It is inherited by the tools that setup runs: when setup is killed, a tool that is
 * still at work keeps the next setup out until the machine stands still.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES 10
#define LOCK_PAUSE 20000 /* us between tries */

static int lock_fd = -1;

/* The folders of the lock under the root: on a real system they are there. */
static void lock_make_folders(void)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s", setup_path(SETUP_LOCK));
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(path, 0755);
        *at = '/';
    }
}

static int lock_open(struct setup_error *error)
{
    const char *path = setup_path(SETUP_LOCK);
    int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    int fd = open(path, flags, 0600);
    if (fd < 0 && errno == ENOENT) {
        lock_make_folders();
        fd = open(path, flags, 0600);
    }
    return fd < 0 ? setup_fail(error, "%s: %s", path, strerror(errno)) : fd;
}

/* lock_is_held() has the lock for a moment: that is no reason to give up. */
static int lock_get(int fd, enum lock_wait wait)
{
    int result = -1, tries = 0;
    errno = EINTR;
    while (result < 0 && (errno == EINTR || (errno == EWOULDBLOCK && tries++ < LOCK_TRIES))) {
        if (errno == EWOULDBLOCK)
            usleep(LOCK_PAUSE);
        result = flock(fd, wait == LOCK_TRY ? LOCK_EX | LOCK_NB : LOCK_EX);
    }
    return result;
}

int lock_take(enum lock_wait wait, struct setup_error *error)
{
    int fd = lock_open(error);
    if (fd < 0)
        return -1;
    if (lock_get(fd, wait) < 0) {
        int why = errno;
        close(fd);
        if (why == EWOULDBLOCK)
            return setup_fail(error, "another fixport-setup is at work here (%s); try again later",
                              setup_path(SETUP_LOCK));
        return setup_fail(error, "%s: %s", setup_path(SETUP_LOCK), strerror(why));
    }
    lock_fd = fd;
    setup_keep_fd = fd;
    return 0;
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

void lock_forget(void)
{
    close(lock_fd);
    lock_fd = -1;
    setup_keep_fd = -1;
}
