/* SPDX-License-Identifier: MIT */
/*
 * apply --confirm: who has locked himself out cannot type "undo". So before the first step a
 * process is put aside that rolls back when the time is over, and leaves alone what was confirmed,
 * undone or applied anew meanwhile: the journal tells. It belongs to no terminal, holds no lock
 * while it waits, and needs nothing of the process that made it. After a reboot, in its place, boot
 * rolls back.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define WATCHER_TRIES 10
#define WATCHER_PAUSE 3 /* s between tries */
#define WATCHER_LOOK 2  /* s between looks at the journal */

static bool watcher_concerns(const struct journal *journal, int64_t when, int64_t deadline)
{
    bool waits = journal->phase == JOURNAL_UNCONFIRMED || journal->phase == JOURNAL_APPLYING;
    return waits && journal->when == when && journal->deadline == deadline;
}

/* Whether it is still ours to wait for; a journal that cannot be read may be. */
static bool watcher_looks(int64_t when, int64_t deadline)
{
    struct setup_error ignored;
    struct journal journal = {.count = 0};
    int result = journal_load(&journal, &ignored);
    bool concerns = result < 0 || (result == 1 && watcher_concerns(&journal, when, deadline));
    journal_free(&journal);
    return concerns;
}

/*
 * Until the journal is on disk there is nothing to look at: the apply says when, or ends without.
 * By a clock that runs on while the machine sleeps, and that nobody sets. What has nothing to do
 * with us any more is no reason to stay.
 */
static void watcher_wait(int64_t when, int64_t deadline, const struct timespec *until, int apply)
{
    struct pollfd begun = {.fd = apply, .events = POLLIN};
    struct timespec now;
    poll(&begun, 1, (int)(deadline - when) * 1000);
    close(apply);
    for (clock_gettime(CLOCK_BOOTTIME, &now); now.tv_sec < until->tv_sec;
         clock_gettime(CLOCK_BOOTTIME, &now)) {
        if (!watcher_looks(when, deadline))
            _exit(0);
        now.tv_sec += WATCHER_LOOK;
        clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, now.tv_sec < until->tv_sec ? &now : until,
                        NULL);
    }
}

/* Return: 0 if there is nothing left to do. */
static int watcher_try(int64_t when, int64_t deadline)
{
    struct setup_error error = {.text = ""};
    struct journal journal = {.count = 0};
    int result = journal_load(&journal, &error);
    if (result == 1 && watcher_concerns(&journal, when, deadline)) {
        syslog(LOG_WARNING, "not confirmed in time: rolling back");
        result = journal_use(&journal, &error);
        if (result == 0)
            result = rollback_run(&journal, &error);
    }
    journal_free(&journal);
    if (result < 0)
        syslog(LOG_ERR, "%s", error.text);
    return result < 0 ? -1 : 0;
}

/*
 * Own descriptors, so that no terminal, pipe or lock is kept; apart, so that no logout ends us.
 * TERM does: when the machine goes down, boot takes over.
 */
static void watcher_detach(void)
{
    setsid();
    if (chdir("/") < 0)
        syslog(LOG_WARNING, "/: %m");
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    lock_forget();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++)
        if (null < 0 || dup2(null, fd) < 0)
            close(fd);
    if (null > 2)
        close(null);
}

static void watcher_run(int64_t when, int64_t deadline, const struct timespec *until, int apply)
{
    struct setup_error error;
    struct timespec pause = {.tv_sec = WATCHER_PAUSE};
    watcher_detach();
    if (write(apply, "", 1) != 1)
        _exit(1);
    watcher_wait(when, deadline, until, apply);
    signals_watch();
    openlog("fixport-setup", LOG_PID, LOG_DAEMON);
    if (lock_take(LOCK_WAIT, &error) < 0)
        syslog(LOG_ERR, "%s", error.text);
    for (int i = 0; i < WATCHER_TRIES && watcher_try(when, deadline) < 0; i++)
        nanosleep(&pause, NULL);
    _exit(0);
}

/* Twice forked: no child of a process that may live on and never wait for it. */
static void watcher_fork(int64_t when, int64_t deadline, const struct timespec *until, int apply)
{
    pid_t pid = fork();
    if (pid == 0)
        watcher_run(when, deadline, until, apply);
    _exit(pid < 0);
}

/* Our end of the socket pair: a byte from there is "ready", one to there "it is on disk". */
static int watcher_fd = -1;

int watcher_start(int64_t when, int64_t deadline, unsigned seconds, struct setup_error *error)
{
    struct timespec until;
    int ends[2];
    char byte;
    fflush(NULL);
    clock_gettime(CLOCK_BOOTTIME, &until);
    until.tv_sec += seconds;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return setup_fail(error, "the roll back cannot be armed: %s", strerror(errno));
    pid_t pid = fork();
    int why = errno;
    if (pid == 0) {
        close(ends[0]);
        watcher_fork(when, deadline, &until, ends[1]);
    }
    close(ends[1]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    watcher_fd = ends[0];
    if (pid > 0 && read(watcher_fd, &byte, 1) == 1)
        return 0;
    return setup_fail(error, "the roll back cannot be armed: %s",
                      pid < 0 ? strerror(why) : "no process for it");
}

int watcher_begun(struct setup_error *error)
{
    if (watcher_fd < 0 || write(watcher_fd, "", 1) == 1)
        return 0;
    return setup_fail(error, "the process that would roll back is gone: %s", strerror(errno));
}

static int confirm_late(struct journal *journal, struct setup_error *error)
{
    bool has;
    if (rollback_reload(journal, &has, "the confirmation comes too late", error) < 0)
        return -1;
    return setup_fail(error,
                      "the confirmation came too late: everything is as it was before the apply");
}

static int confirm_run(struct journal *journal, struct setup_error *error)
{
    if (journal->phase != JOURNAL_UNCONFIRMED)
        return setup_fail(error, "no apply waits for a confirmation here");
    if (time(NULL) >= journal->deadline)
        return confirm_late(journal, error);
    return journal_keep(journal, error);
}

int setup_confirm(const struct setup_options *options)
{
    struct setup_error error = {.text = ""};
    struct journal journal = {.count = 0};
    signals_watch();
    int result = lock_take(LOCK_TRY, &error);
    if (result == 0)
        result = journal_load(&journal, &error);
    if (result == 0)
        result =
            setup_fail(&error, "no apply waits for a confirmation here: nothing is applied (it "
                               "may have been rolled back)");
    else if (result == 1)
        result = confirm_run(&journal, &error);
    if (result == 0)
        systemd_start(&journal);
    journal_free(&journal);
    if (options->json)
        json_say(json_pack("{s:s, s:o}", "result", result < 0 ? "failed" : "confirmed", "error",
                           result < 0 ? json_error(&error) : json_null()));
    if (result < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    if (!options->json)
        printf("Confirmed: it is kept.\n");
    return SETUP_OK;
}
