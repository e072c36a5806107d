/* SPDX-License-Identifier: MIT */
/*
 * apply --confirm: who has locked himself out cannot type "undo". So before the first step somebody
 * is told to roll back when the time is over: systemd, by a timer that runs "fixport-setup expire",
 * or where it does not run a process of ours, the watcher. Both leave alone what was confirmed,
 * undone or applied anew meanwhile: the journal tells. After a reboot, in their place, boot rolls
 * back.
 *
 * The watcher belongs to no terminal and needs nothing of the process that made it. While it waits
 * it holds a lock of its own, so that status can tell whether it is still there.
 *
 * The roll-back comes whatever hangs: no tool may run beyond the deadline (run_until()), and an
 * apply that still has the lock some time after it, stopped or stuck, is killed with its tools.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define ROLLBACK_TRIES 10
#define ROLLBACK_PAUSE 3 /* s between tries */
#define ROLLBACK_WAIT 20 /* s for an apply that rolls back by itself at the deadline */
#define WATCHER_LOOK 2   /* s between looks at the journal */

/* Whether the journal of the apply that began at @when still waits to be confirmed. */
static bool keeper_concerns(const struct journal *journal, int64_t when)
{
    bool waits = journal->phase == JOURNAL_UNCONFIRMED || journal->phase == JOURNAL_APPLYING;
    return waits && journal->when == when && journal->deadline;
}

/* As above, of what is on disk; a journal that cannot be read may be. */
static bool keeper_looks(int64_t when)
{
    struct setup_error ignored;
    struct journal journal = {.count = 0};
    int result = journal_load(&journal, &ignored);
    bool concerns = result < 0 || (result == 1 && keeper_concerns(&journal, when));
    journal_free(&journal);
    return concerns;
}

/* Return: 0 if there is nothing left to do. */
static int rollback_try(int64_t when, struct setup_error *error)
{
    struct journal journal = {.count = 0};
    int result = journal_load(&journal, error);
    bool concerns = result == 1 && keeper_concerns(&journal, when);
    result = result < 0 ? -1 : 0;
    if (concerns) {
        syslog(LOG_WARNING, "not confirmed in time: rolling back");
        result = journal_use(&journal, error);
        if (result == 0)
            result = rollback_run(&journal, error);
    }
    journal_free(&journal);
    if (result)
        syslog(LOG_ERR, "%s", error->text);
    return result ? -1 : 0;
}

/* At the deadline. Return: 0 or -1. */
static int rollback_now(int64_t when, struct setup_error *error)
{
    struct timespec pause = {.tv_sec = ROLLBACK_PAUSE};
    signals_watch();
    openlog("fixport-setup", LOG_PID, LOG_DAEMON);
    int result = lock_take(ROLLBACK_WAIT, error);
    if (result < 0 && keeper_looks(when)) {
        syslog(LOG_ERR, "the apply that was not confirmed still has the lock: ending it");
        lock_break();
        result = lock_take(ROLLBACK_WAIT, error);
    }
    for (int i = 0; result == 0 && i < ROLLBACK_TRIES; i++) {
        result = rollback_try(when, error);
        if (result == 0)
            break;
        nanosleep(&pause, NULL);
        result = i + 1 < ROLLBACK_TRIES ? 0 : -1;
    }
    lock_end();
    return result;
}

/* ---- the watcher ---- */

/* Our end of the socket pair: a byte from there is "ready", one to there "it is on disk". */
static int watcher_fd = -1;

static const char *watcher_path(int64_t when)
{
    char name[64];
    snprintf(name, sizeof(name), SETUP_STATE_DIR "/watcher-%lld", (long long)when);
    return setup_path(name);
}

/* Return: a descriptor that has the lock; -1 if somebody else has, or it is not there. */
static int watcher_lock(int64_t when, int flags, int operation)
{
    int fd = open(watcher_path(when), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
    if (fd >= 0 && flock(fd, operation | LOCK_NB) == 0)
        return fd;
    int why = errno;
    if (fd >= 0)
        close(fd);
    errno = why;
    return -1;
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
    run_until(0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++)
        if (null < 0 || dup2(null, fd) < 0)
            close(fd);
    if (null > 2)
        close(null);
}

/*
 * Until the journal is on disk there is nothing to look at: the apply says when, or ends without.
 * By a clock that runs on while the machine sleeps, and that nobody sets. What has nothing to do
 * with us any more is no reason to stay.
 */
static void __attribute__((noreturn))
watcher_run(int64_t when, const struct timespec *until, int apply)
{
    struct setup_error error;
    struct timespec now;
    struct pollfd begun = {.fd = apply, .events = POLLIN};
    watcher_detach();
    if (watcher_lock(when, O_CREAT, LOCK_EX) < 0 || write(apply, "", 1) != 1)
        _exit(1);
    clock_gettime(CLOCK_BOOTTIME, &now);
    poll(&begun, 1, (int)(until->tv_sec - now.tv_sec) * 1000);
    close(apply);
    for (clock_gettime(CLOCK_BOOTTIME, &now); now.tv_sec < until->tv_sec;
         clock_gettime(CLOCK_BOOTTIME, &now)) {
        if (!keeper_looks(when)) {
            unlink(watcher_path(when));
            _exit(0);
        }
        now.tv_sec += WATCHER_LOOK;
        clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, now.tv_sec < until->tv_sec ? &now : until,
                        NULL);
    }
    _exit(rollback_now(when, &error) < 0);
}

/* Twice forked: no child of a process that may live on and never wait for it. */
static int watcher_start(int64_t when, unsigned seconds, struct setup_error *error)
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
        pid = fork();
        if (pid == 0)
            watcher_run(when, &until, ends[1]);
        _exit(pid < 0);
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

/* ---- who it is ---- */

int keeper_start(int64_t when, unsigned seconds, struct setup_error *error)
{
    if (systemd_timer(when, seconds, error) == 0)
        return 0;
    if (*error->text)
        say_error(0, "note: systemd keeps no timer for the roll back (%s): a process does",
                  error->text);
    return watcher_start(when, seconds, error);
}

int keeper_begun(struct setup_error *error)
{
    if (watcher_fd < 0 || write(watcher_fd, "", 1) == 1)
        return 0;
    return setup_fail(error, "the process that would roll back is gone: %s", strerror(errno));
}

enum keeper keeper_look(const struct journal *journal)
{
    if (systemd_timer_is_set(journal->when))
        return KEEPER_SYSTEMD;
    int fd = watcher_lock(journal->when, 0, LOCK_SH);
    if (fd < 0)
        return errno == EWOULDBLOCK ? KEEPER_PROCESS : KEEPER_NOBODY;
    close(fd);
    return KEEPER_NOBODY;
}

void keeper_stop(int64_t when)
{
    unlink(watcher_path(when)); /* if it was killed; else it goes by itself */
    systemd_timer_stop(when);
}

/* ---- the subcommands ---- */

static int confirm_run(struct journal *journal, struct setup_error *error)
{
    bool has;
    if (journal->phase != JOURNAL_UNCONFIRMED)
        return setup_fail(error, "no apply waits for a confirmation here");
    if (time(NULL) < journal->deadline)
        return journal_keep(journal, error);
    if (rollback_reload(journal, &has, "the confirmation comes too late", error) < 0)
        return -1;
    return setup_fail(error,
                      "the confirmation came too late: everything is as it was before the apply");
}

int setup_confirm(const struct setup_options *options)
{
    struct setup_error error = {.text = ""};
    struct journal journal = {.count = 0};
    signals_watch();
    int result = lock_take(0, &error);
    if (result == 0)
        result = journal_load(&journal, &error);
    if (result == 0)
        result =
            setup_fail(&error, "no apply waits for a confirmation here: nothing is applied (it "
                               "may have been rolled back)");
    else if (result == 1)
        result = confirm_run(&journal, &error);
    if (result == 0) {
        keeper_stop(journal.when);
        systemd_start(&journal);
    }
    journal_free(&journal);
    lock_end();
    if (options->json)
        json_say(json_pack("{s:s, s:o}", "result", result < 0 ? "failed" : "confirmed", "error",
                           result < 0 ? json_error(&error) : json_null()));
    if (result < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    if (!options->json)
        printf("Confirmed: it is kept.\n");
    return SETUP_OK;
}

int setup_expire(const struct setup_options *options)
{
    struct setup_error error = {.text = ""};
    return rollback_now(options->when, &error) < 0 ? say_error(SETUP_ERROR, "%s", error.text)
                                                   : SETUP_OK;
}
