/* SPDX-License-Identifier: MIT */
/*
 * What the library says: at most one line about a fault on stderr, and, if FIXPORT_LOG asks for it,
 * a line for each decision.
 *
 * A daemon may have closed descriptor 2 and have a database there by the time there is something to
 * say. So what it was at the start is remembered, and if it is not that any more, nothing is said.
 */
#include "shim.h"
#include "../pool/text.h"

#include <signal.h>
#include <string.h>

static struct {
    char line[400];
    _Atomic uint32_t writing;
    _Atomic uint32_t pending; /* line is a sentence */
    _Atomic uint32_t said;
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
    if (atomic_exchange(&fault.writing, 1))
        return;
    struct text text = text_begin(fault.line, sizeof(fault.line));
    append_clean(&text, what);
    text_string(&text, ": ");
    append_clean(&text, why);
    atomic_store(&fault.pending, 1);
    atomic_store(&fault.writing, 0);
}

void fault_clear(void)
{
    atomic_store(&fault.pending, 0);
}

const char *fault_text(void)
{
    return atomic_load(&fault.pending) ? fault.line : NULL;
}

static bool stderr_is_the_same(void)
{
    struct stat st;
    return fault.has_stderr && sys_fstat(2, &st) == 0 && st.st_dev == fault.device &&
           st.st_ino == fault.inode;
}

long quiet_write(int fd, const char *line, size_t length)
{
    static const uint64_t signals = 1ull << (SIGPIPE - 1) | 1ull << (SIGXFSZ - 1) | 1ull << (SIGTTOU - 1);
    uint64_t before = 0, pending = 0;
    SYS(rt_sigprocmask, SIG_BLOCK, &signals, &before, 8);
    SYS(rt_sigpending, &pending, 8);
    long result = SYS(write, fd, line, length);
    uint64_t ours = (result == -EPIPE  ? 1ull << (SIGPIPE - 1)
                     : result == -EFBIG ? 1ull << (SIGXFSZ - 1)
                                        : 0) & ~pending;
    if (ours) /* it has come to this thread, and waits */
        SYS(rt_sigtimedwait, &ours, NULL, &(struct timespec){.tv_sec = 0}, 8);
    SYS(rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
    return result;
}

void fault_say(void)
{
    char line[512];
    if (!atomic_load(&fault.pending) || atomic_exchange(&fault.said, 1) || !stderr_is_the_same())
        return;
    struct text text = text_begin(line, sizeof(line));
    text_string(&text, "fixport: ");
    text_string(&text, fault.line);
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
    say(what, why, "; nothing is logged\n");
}

static void log_write(const char *line, size_t length)
{
    if (strcmp(shim.log, "stderr") == 0) {
        if (stderr_is_the_same())
            quiet_write(2, line, length);
        return;
    }
    int fd = (int)SYS(openat, AT_FDCWD, shim.log,
                      O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
                      0600);
    if (fd < 0) {
        log_failed(fd == -EMFILE ? "the program has too many open files" : "it cannot be opened");
        return;
    }
    long wrote = quiet_write(fd, line, length);
    if (wrote != (long)length)
        log_failed(wrote >= 0 || wrote == -ENOSPC ? "no space left" : "it cannot be written");
    SYS(close, fd);
}

void shim_log(const char *what, const struct dest *dest, uint32_t port)
{
    char line[256];
    if (!shim.log[0])
        return;
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
    text_char(&text, '\n');
    log_write(line, text.length);
}
