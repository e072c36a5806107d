/* SPDX-License-Identifier: MIT */
/*
 * What the library says: one line on stderr about a fault, another one if it was over in between, and,
 * if FIXPORT_LOG asks for it, a line for each decision.
 *
 * A daemon may have closed descriptor 2 and have a database there by the time there is something to
 * say. So what it was at the start is remembered, and if it is not that any more, nothing is said.
 */
#include "shim.h"
#include "../pool/text.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

#define AGAIN_MS 10000 /* whoever takes the pool away and puts it back does not fill logs by it */
#define LINES 4u /* that many threads may have something to say at a time */

/*
 * Nobody waits for anybody here: a thread may leave in the middle of it, by longjmp() or for good, and
 * a child of fork() may have been made then.
 */
static struct {
    char line[LINES][400];
    _Atomic uint32_t next;
    _Atomic uint32_t pending; /* which one is to be said, + 1; 0: none */
    _Atomic uint64_t said; /* ms: when one was said last; 0: never */
    _Atomic uint32_t over; /* the fault that was said is */
    uint64_t device, inode;
    bool has_stderr;
} fault;

void fault_init(void)
{
    struct stat st;
    fault.has_stderr = sys_fstat(2, &st) == 0;
    fault.device = st.st_dev;
    fault.inode = st.st_ino;
}

/* Text from outside gets no control characters onto a terminal. */
static void append_clean(struct text *text, const char *string)
{
    for (; *string; string++)
        text_char(text, (unsigned char)*string < ' ' || *string == 127 ? '?' : *string);
}

void fault_set(const char *what, const char *why)
{
    uint32_t mine = atomic_fetch_add(&fault.next, 1) % LINES;
    struct text text = text_begin(fault.line[mine], sizeof(fault.line[mine]));
    append_clean(&text, what);
    text_string(&text, ": ");
    append_clean(&text, why);
    atomic_store(&fault.pending, mine + 1);
}

void fault_clear(void)
{
    atomic_store(&fault.pending, 0);
    atomic_store(&fault.over, 1);
}

const char *fault_text(void)
{
    uint32_t pending = atomic_load(&fault.pending);
    return pending ? fault.line[pending - 1] : NULL;
}

static bool stderr_is_the_same(void)
{
    struct stat st;
    return fault.has_stderr && sys_fstat(2, &st) == 0 && st.st_dev == fault.device &&
           st.st_ino == fault.inode;
}

/*
 * What nobody reads must not stop the program, and whether it blocks is not ours to change: it is
 * everybody's who has it open. A terminal does not know RWF_NOWAIT, but can be opened once more; where
 * it cannot, it is asked whether it has room.
 */
static long write_at_once(int fd, const char *line, size_t length)
{
    struct stat st;
    struct iovec all = {.iov_base = (char *)(uintptr_t)line, .iov_len = length};
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    static const struct timespec none;
    if (SYS(fstat, fd, &st) != 0 || S_ISREG(st.st_mode))
        return SYS(write, fd, line, length);
    long result = SYS(pwritev2, fd, &all, 1, -1, -1, RWF_NOWAIT);
    if (result != -EOPNOTSUPP && result != -ENOSYS && result != -EINVAL)
        return result;
    if (SYS(ppoll, &room, 1, &none, NULL, 8) != 1 || room.revents & POLLNVAL)
        return -EAGAIN;
    int again = fd == 2 && S_ISCHR(st.st_mode)
                    ? (int)SYS(openat, AT_FDCWD, "/proc/self/fd/2",
                               O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0)
                    : -ENOTTY;
    result = SYS(write, again < 0 ? fd : again, line, length);
    if (again >= 0)
        SYS(close, again);
    return result;
}

long quiet_write(int fd, const char *line, size_t length)
{
    uint64_t pending = 0;
    uint64_t before = guard_hold();
    SYS(rt_sigpending, &pending, 8);
    long result = write_at_once(fd, line, length);
    uint64_t ours = (result == -EPIPE  ? 1ull << (SIGPIPE - 1)
                     : result == -EFBIG ? 1ull << (SIGXFSZ - 1)
                                        : 0) & ~pending;
    if (ours) /* it has come to this thread, and waits */
        SYS(rt_sigtimedwait, &ours, NULL, &(struct timespec){.tv_sec = 0}, 8);
    guard_release(before);
    return result;
}

/* Whether it is time for a line; then this thread is to write it. */
static bool is_news(void)
{
    uint64_t now = sys_now_ms();
    uint64_t last = atomic_load(&fault.said);
    if (last && (!atomic_load(&fault.over) || now - last < AGAIN_MS))
        return false;
    if (!atomic_compare_exchange_strong(&fault.said, &last, now))
        return false;
    atomic_store(&fault.over, 0);
    return true;
}

void fault_say(void)
{
    char line[512];
    const char *what = fault_text();
    if (!what || !is_news() || !stderr_is_the_same())
        return;
    struct text text = text_begin(line, sizeof(line));
    text_string(&text, "fixport: ");
    text_string(&text, what);
    text_string(&text, shim.refuse ? "; connections are refused (FIXPORT_ON_ERROR=fail)\n"
                                   : "; source ports are not restricted\n");
    quiet_write(2, line, text.length < sizeof(line) ? text.length : sizeof(line) - 1);
}

static void say(const char *what, const char *why, const char *so)
{
    char line[512];
    if (!stderr_is_the_same())
        return;
    struct text text = text_begin(line, sizeof(line));
    text_string(&text, "fixport: ");
    append_clean(&text, what);
    text_string(&text, ": ");
    text_string(&text, why);
    text_string(&text, so);
    quiet_write(2, line, text.length < sizeof(line) ? text.length : sizeof(line) - 1);
}

void fault_note(const char *what, const char *why, const char *so)
{
    static _Atomic uint32_t noted;
    if (!atomic_exchange(&noted, 1))
        say(what, why, so);
}

/* Said once: a log that stays empty says that there is nothing to say. */
static void log_failed(const char *why)
{
    char what[300];
    static _Atomic uint32_t said;
    if (atomic_exchange(&said, 1))
        return;
    struct text text = text_begin(what, sizeof(what));
    text_string(&text, "FIXPORT_LOG=");
    text_string(&text, shim.log);
    say(what, why, "; lines are missing\n");
}

static void log_write(const char *line, size_t length)
{
    if (strcmp(shim.log, "stderr") == 0) {
        if (stderr_is_the_same())
            quiet_write(2, line, length);
        return;
    }
    uint64_t mask = guard_hold();
    int fd = (int)SYS(openat, AT_FDCWD, shim.log,
                      O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
                      0600);
    if (fd < 0) {
        log_failed(fd == -EMFILE ? "the program has too many open files" : "it cannot be opened");
    } else {
        long wrote = quiet_write(fd, line, length);
        if (wrote != (long)length && wrote != -EAGAIN)
            log_failed(wrote >= 0 || wrote == -ENOSPC ? "no space left" : "it cannot be written");
        SYS(close, fd);
    }
    guard_release(mask);
}

static void log_line(const char *what, const struct dest *dest, uint32_t port, uint32_t ms,
                     const char host[64])
{
    char line[256];
    struct text text = text_begin(line, sizeof(line));
    text_string(&text, "fixport[");
    text_number(&text, (uint64_t)SYS(getpid), 10);
    text_string(&text, "] ");
    text_string(&text, what);
    text_char(&text, ' ');
    text.length += dest_print(dest, line + text.length, sizeof(line) - text.length);
    if (port) {
        text_string(&text, " port ");
        text_number(&text, port, 10);
    }
    if (ms != UINT32_MAX) {
        text_string(&text, " first port free in ");
        text_number(&text, (uint64_t)ms / 1000 + (ms % 1000 != 0), 10);
        text_string(&text, " s");
        if (host && *host)
            text_string(&text, ", let go of by ");
        for (int i = 0; host && i < 64 && host[i];
             i++) /* no text of others' is a line of this log */
            text_char(&text, host[i] > ' ' && host[i] <= '~' ? host[i] : '?');
    }
    text_char(&text, '\n');
    log_write(line, text.length);
}

void shim_log(const char *what, const struct dest *dest, uint32_t port)
{
    if (shim_logs())
        log_line(what, dest, port, UINT32_MAX, NULL);
}

void shim_log_next(const char *what, const struct dest *dest, uint32_t ms, const char host[64])
{
    if (shim_logs())
        log_line(what, dest, 0, ms, host);
}
