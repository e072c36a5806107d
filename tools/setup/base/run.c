/* SPDX-License-Identifier: MIT */
/*
 * Other people's tools, run without a shell. All three standard streams are files in memory: a tool
 * cannot block on us nor we on it, whatever it writes, and a child that it leaves behind with our
 * pipe in its hand cannot keep us waiting. Files in memory have a size that we set before; what
 * goes beyond that cannot be written.
 */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MOST (64l << 20)
#define ERRORS_MOST 65536
#define NOT_STARTED 127
#define RUN_SECONDS 30 /* a tool that has not ended by then waits for something */

int setup_keep_fd = -1;
int run_namespace = -1;

/* ---- finding a tool ---- */

/* Administrators' tools are often not in the PATH of cron, su or a service. */
static const char *run_path(void)
{
    static char path[2 * PATH_MAX];
    const char *given = getenv("PATH");
    snprintf(path, sizeof(path), "PATH=%s:/usr/sbin:/sbin",
             given && *given ? given : "/usr/bin:/bin");
    return path;
}

/* Return: whether @tool was found; its place is in @found then. */
static bool run_find(const char *tool, char *found, size_t size)
{
    const char *at = run_path() + strlen("PATH=");
    if (strchr(tool, '/'))
        return (size_t)snprintf(found, size, "%s", tool) < size && access(found, X_OK) == 0;
    for (;; at++) {
        size_t length = strcspn(at, ":");
        if (length && *at == '/' &&
            (size_t)snprintf(found, size, "%.*s/%s", (int)length, at, tool) < size &&
            access(found, X_OK) == 0)
            return true;
        at += length;
        if (!*at)
            return false;
    }
}

bool run_exists(const char *tool)
{
    char found[PATH_MAX];
    return run_find(tool, found, sizeof(found));
}

/* ---- running it ---- */

static bool run_begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Our environment, but in plain English, with the tools' folders, and without a preload library. */
static char **run_environment(void)
{
    static char english[] = "LC_ALL=C";
    size_t count = 0, kept = 0;
    while (environ[count])
        count++;
    char **copy = state_grow(NULL, (count + 3) * sizeof(*copy));
    for (size_t i = 0; i < count; i++)
        if (!run_begins(environ[i], "LC_ALL=") && !run_begins(environ[i], "PATH=") &&
            !run_begins(environ[i], "LD_PRELOAD="))
            copy[kept++] = environ[i];
    copy[kept++] = english;
    copy[kept++] = (char *)(uintptr_t)run_path();
    copy[kept] = NULL;
    return copy;
}

int run_input(const char *text)
{
    int fd = memfd_create("input", MFD_CLOEXEC);
    size_t length = strlen(text), done = 0;
    while (fd >= 0 && done < length) {
        ssize_t n = write(fd, text + done, length - done);
        if (n < 0 && errno != EINTR) {
            close(fd);
            return -1;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        lseek(fd, 0, SEEK_SET);
    return fd;
}

/* It has its full size from the beginning, all holes, and cannot grow: how much was written, the
 * position tells, which the tool shares with us. */
static int run_output(off_t most)
{
    int fd = memfd_create("output", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 &&
        (ftruncate(fd, most) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Return: 0 or errno. */
static int run_open(int streams[3], const char *input, off_t most)
{
    streams[0] = input ? run_input(input) : open("/dev/null", O_RDONLY | O_CLOEXEC);
    streams[1] = run_output(most);
    streams[2] = run_output(OUTPUT_MOST);
    for (int i = 0; i < 3; i++)
        if (streams[i] < 0)
            return errno ? errno : EIO;
    return 0;
}

int run_enter(int namespace)
{
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    /* Coming back can be forbidden where going is not: with the rights of a user namespace only. */
    if (home < 0 || setns(home, CLONE_NEWNET) < 0 ||
        (namespace < 0 ? unshare(CLONE_NEWNET) : setns(namespace, CLONE_NEWNET)) < 0) {
        int error = errno;
        if (home >= 0)
            close(home);
        errno = error;
        return -1;
    }
    return home;
}

void run_leave(int home)
{
    /* Going on in the wrong namespace would be worse than not going on. */
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
    close(home);
}

/* Return: 0 or errno. */
static int run_spawn(char *const argv[], const int streams[3], pid_t *pid)
{
    char found[PATH_MAX];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t set;
    if (!run_find(argv[0], found, sizeof(found)))
        return ENOENT;
    posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_adddup2(&actions, streams[i], i);
    if (setup_keep_fd >= 0) /* onto itself: not closed on exec */
        posix_spawn_file_actions_adddup2(&actions, setup_keep_fd, setup_keep_fd);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF);
    sigemptyset(&set);
    posix_spawnattr_setsigmask(&attributes, &set);
    sigaddset(&set, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &set);
    char **environment = run_environment();
    int home = run_namespace < 0 ? -1 : run_enter(run_namespace);
    if (run_namespace >= 0 && home < 0)
        abort(); /* it would be done to the machine */
    int error = posix_spawn(pid, found, &actions, &attributes, argv, environment);
    if (home >= 0)
        run_leave(home);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return error;
}

static int run_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return NOT_STARTED;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static long run_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec;
}

/* Killed with its children; one that waits for a disk that does not answer stays behind. */
static void run_kill(pid_t pid)
{
    static const struct timespec pause = {0, 10000000};
    siginfo_t state = {.si_pid = 0};
    kill(-pid, SIGKILL);
    for (int i = 0; i < 200; i++) {
        if (waitid(P_PID, (id_t)pid, &state, WEXITED | WNOHANG) < 0 || state.si_pid)
            return;
        nanosleep(&pause, NULL);
    }
}

static long run_end_at; /* 0: none */

void run_until(unsigned seconds)
{
    run_end_at = seconds ? run_clock() + (long)seconds : 0;
}

/* What one tool may take. */
static unsigned run_seconds(void)
{
    const char *text = getenv("FIXPORT_SETUP_SECONDS");
    long left, seconds = text ? strtol(text, NULL, 10) : 0;
    if (seconds < 1 || seconds > 3600)
        seconds = RUN_SECONDS;
    left = run_end_at ? run_end_at - run_clock() : seconds;
    return left < 1 ? 1 : (unsigned)(left < seconds ? left : seconds);
}

/* A signal for us is one for the tool and its children, which are in a group of their own. */
static void run_end(pid_t pid, int signal, const sigset_t *before)
{
    run_kill(pid);
    sigprocmask(SIG_SETMASK, before, NULL);
    raise(signal);
}

/* As run_wait(), but no longer than that. Return: -1 if it had to be killed. @set is blocked. */
static int run_wait_within(pid_t pid, const struct run_limits *limits, const sigset_t *set,
                           const sigset_t *before)
{
    static const struct timespec tick = {0, 500000000};
    long until = run_clock() + (long)limits->seconds;
    for (;;) {
        siginfo_t state = {.si_pid = 0};
        if (waitid(P_PID, (id_t)pid, &state, WEXITED | WNOHANG | WNOWAIT) < 0 || state.si_pid)
            return run_wait(pid);
        if (limits->seconds && run_clock() >= until) {
            run_kill(pid);
            return -1;
        }
        int signal = sigtimedwait(set, NULL, &tick);
        if (signal > 0 && signal != SIGCHLD)
            run_end(pid, signal, before);
        if (limits->tick)
            limits->tick(limits->arg);
    }
}

/* What was written, at most @most bytes of it; NUL-terminated. @full: whether nothing more went in.
 */
static char *run_collect(int fd, off_t most, bool *full, size_t *written)
{
    off_t length = fd >= 0 ? lseek(fd, 0, SEEK_CUR) : 0, done = 0;
    *full = length >= most;
    length = length < 0 ? 0 : length < most ? length : most;
    char *text = state_grow(NULL, (size_t)length + 1);
    while (done < length) {
        ssize_t n = pread(fd, text + done, (size_t)(length - done), done);
        if (n <= 0 && errno != EINTR)
            break;
        done += n > 0 ? n : 0;
    }
    text[done] = '\0';
    if (written)
        *written = (size_t)done;
    return text;
}

int run_tool_within(char *const argv[], const char *input, const struct run_limits *limits,
                    struct run_result *result)
{
    /* What run_wait_within() waits for is blocked before there is a child. */
    static const int signals[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};
    int streams[3] = {-1, -1, -1};
    bool full = false, ignored, within = limits->seconds || limits->tick;
    sigset_t set, before;
    pid_t pid = -1;
    *result = (struct run_result){.status = NOT_STARTED};
    errno = 0;
    result->errno_ = run_open(streams, input, limits->output);
    sigemptyset(&set);
    for (size_t i = 0; within && i < (limits->tick ? 4 : 1); i++)
        sigaddset(&set, signals[i]);
    sigprocmask(SIG_BLOCK, &set, &before);
    if (!result->errno_)
        result->errno_ = run_spawn(argv, streams, &pid);
    if (!result->errno_)
        result->status = within ? run_wait_within(pid, limits, &set, &before) : run_wait(pid);
    if (result->status < 0) {
        result->status = NOT_STARTED;
        result->errno_ = ETIMEDOUT;
        result->seconds = limits->seconds;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    result->output = run_collect(streams[1], limits->output, &full, &result->length);
    result->errors = run_collect(streams[2], ERRORS_MOST, &ignored, NULL);
    for (int i = 0; i < 3; i++)
        if (streams[i] >= 0)
            close(streams[i]);
    if (full) {
        result->status = NOT_STARTED;
        result->errno_ = EFBIG;
    }
    return result->status == 0 && !result->errno_ ? 0 : -1;
}

int run_tool(char *const argv[], const char *input, struct run_result *result)
{
    struct run_limits limits = {.seconds = run_seconds(), .output = OUTPUT_MOST};
    return run_tool_within(argv, input, &limits, result);
}

void run_free(struct run_result *result)
{
    free(result->output);
    free(result->errors);
    *result = (struct run_result){.status = 0};
}

/* ---- what went wrong ---- */

/* "E1123 08:58:12.301838   19655 memcache.go:265] ...": kubectl logs for its developers, line upon
 * line, before it says the sentence that is for people. */
static bool line_is_log(const char *line, size_t length)
{
    size_t digits = length ? strspn(line + 1, "0123456789") : 0;
    return length > 5 && strchr("IWEF", *line) && digits == 4 && line[5] == ' ';
}

/* The first line that tells something: warnings come before what they have nothing to do with. */
static const char *run_complaint(const char *errors, size_t *length)
{
    const char *line, *at = errors;
    while ((line = state_line(&at, length)))
        if (*length && *line != '#' && !run_begins(line, "Warning:") && !line_is_log(line, *length))
            return line;
    at = errors;
    line = state_line(&at, length);
    return line && *length ? line : NULL;
}

static void __attribute__((format(printf, 2, 3))) text_append(struct setup_error *error,
                                                              const char *format, ...)
{
    size_t used = strlen(error->text);
    va_list args;
    va_start(args, format);
    vsnprintf(error->text + used, sizeof(error->text) - used, format, args);
    va_end(args);
}

int run_explain(char *const argv[], const struct run_result *result, struct setup_error *error)
{
    const char *slash = strrchr(argv[0], '/'), *tool = slash ? slash + 1 : argv[0];
    size_t length = 0;
    const char *line = run_complaint(result->errors, &length);
    if (result->errno_ == ENOENT)
        return setup_fail(error, "'%s' is needed here and not installed", tool);
    if (result->errno_ == EFBIG)
        return setup_fail(error, "%s: it writes more than %zu MiB", tool, result->length >> 20);
    if (result->errno_ == ETIMEDOUT) {
        setup_fail(error, "'%s", tool);
        for (char *const *arg = argv + 1; *arg; arg++)
            text_append(error, " %s", *arg);
        text_append(error, "' had not ended after %u s and was stopped: what it waits for may be a "
                    "lock that another process holds (lslocks(8) shows them), or a disk or a "
                    "network that does not answer", result->seconds);
        return -1;
    }
    if (result->errno_)
        return setup_fail(error, "%s: it cannot be started: %s", tool, strerror(result->errno_));
    if (line)
        return setup_fail(error, "%s%s%.*s", run_begins(line, tool) ? "" : tool,
                          run_begins(line, tool) ? "" : ": ", (int)length, line);
    if (result->status > 128)
        return setup_fail(error, "%s was ended by signal %d (%s)", tool, result->status - 128,
                          strsignal(result->status - 128));
    return setup_fail(error, "%s ended with status %d and did not say why", tool, result->status);
}

/* ---- a namespace for trying something ---- */

bool run_apart(int (*work)(void *arg), void *arg, int *result)
{
    int home = run_enter(-1);
    if (home < 0)
        return false;
    *result = work(arg);
    run_leave(home);
    return true;
}
