/* SPDX-License-Identifier: MIT */
/*
 * fixport-run --check: is the shim really in? A missing library, a noexec mount or another libc
 * leave no trace (musl says nothing at all), so the shim itself is asked.
 *
 * The program is started as in a real run, with FIXPORT_CHECK=R,W in its environment: two pipes.
 * The shim's constructor writes lines "key=value" and an empty line to W, and then waits on R, so
 * that the program's own code does not run; then the program is killed. Without an answer it is
 * killed too, after CHECK_MS: so long it may run, with nothing to read and its output thrown away.
 */
#include "run.h"

#include "../pool/cmd.h"

#include "../../pool/sys.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#define CHECK_MS 5000

struct check {
    int answer[2]; /* the shim writes, we read */
    int hold[2]; /* the shim waits until we are gone */
    char text[4096]; /* what it wrote */
    size_t length;
};

static bool check_pipes(struct check *check)
{
    return pipe2(check->answer, O_CLOEXEC) == 0 && pipe2(check->hold, O_CLOEXEC) == 0;
}

static void check_child(const struct check *check, const char *path, char **argv)
{
    char value[32];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    snprintf(value, sizeof(value), "%d,%d", check->hold[0], check->answer[1]);
    setenv("FIXPORT_CHECK", value, 1);
    setpgid(0, 0); /* so that what it may start is ended with it */
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    fcntl(check->hold[0], F_SETFD, 0);
    fcntl(check->answer[1], F_SETFD, 0);
    execvp(path, argv);
    say_error(0, "'%s' cannot be executed: %s", path, strerror(errno));
    _exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_REFUSED);
}

static bool check_complete(const struct check *check)
{
    return strstr(check->text, "\n\n") != NULL;
}

/* Reads until the empty line, the end, or @until. */
static bool check_read(struct check *check, uint64_t until)
{
    while (!check_complete(check) && check->length < sizeof(check->text) - 1) {
        uint64_t now = sys_now_ms();
        struct pollfd poll_fd = {.fd = check->answer[0], .events = POLLIN};
        int ready = now < until ? poll(&poll_fd, 1, (int)(until - now)) : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t got = ready > 0 ? read(check->answer[0], check->text + check->length,
                                       sizeof(check->text) - 1 - check->length)
                                : 0;
        if (got <= 0)
            break;
        check->length += (size_t)got;
        check->text[check->length] = '\0';
    }
    return check_complete(check);
}

/* The value of @key in the answer. Return: @buf, empty if there is none. */
static const char *check_value(const struct check *check, const char *key, char *buf, size_t size)
{
    size_t length = strlen(key);
    buf[0] = '\0';
    for (const char *line = check->text; line && *line;) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line += length + 1;
            return say_clean(line, strcspn(line, "\n"), say_utf8(), buf, size);
        }
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return buf;
}

static void check_table(const struct check *check, const char *path, const char *library,
                        const char *planned)
{
    static const char *const keys[] = {"version", "pool", "ports", "generation", "holder", "netns"};
    char value[PATH_MAX];
    printf("  %-11s %s\n  %-11s %s\n", "program", path, "library", library);
    if (planned)
        printf("  %-11s %s (a real run makes or reloads it)\n", "pool", planned);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (planned && strcmp(keys[i], "ports") != 0 && strcmp(keys[i], "version") != 0)
            continue;
        else if (*check_value(check, keys[i], value, sizeof(value)))
            printf("  %-11s %s\n", keys[i], value);
}

static int check_answered(const struct check *check, const char *path, const char *library,
                          const char *planned)
{
    char state[32], fault[1024];
    check_value(check, "state", state, sizeof(state));
    if (strcmp(state, "ok") == 0) {
        printf("The shim is in.\n");
        check_table(check, path, library, planned);
        return EXIT_OK;
    }
    if (strcmp(state, "disabled") == 0) {
        printf("The shim is loaded but does nothing: FIXPORT_DISABLE=%s is set.\n",
               getenv("FIXPORT_DISABLE") ? getenv("FIXPORT_DISABLE") : "");
    } else {
        printf("The shim is loaded but cannot work: %s\n",
               check_value(check, "fault", fault, sizeof(fault)));
    }
    check_table(check, path, library, planned);
    return EXIT_FAILED;
}

/* What may be the cause, from what can be seen afterwards. */
static int check_silent(const char *path, const char *library, int status)
{
    struct statvfs vfs;
    printf("The shim is not in '%s': ", path);
    if (statvfs(library, &vfs) == 0 && vfs.f_flag & ST_NOEXEC)
        printf("%s lies on a file system that is mounted noexec.\n", library);
    else if (WIFEXITED(status))
        printf("it ended with exit status %d and without a word from the shim.\n",
               WEXITSTATUS(status));
    else if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        printf("it was ended by signal %d (%s) before a word from the shim.\n", WTERMSIG(status),
               strsignal(WTERMSIG(status)));
    else
        printf("it ran for %d s without a word from the shim, and was then ended.\n",
               CHECK_MS / 1000);
    printf("What the loader said, if anything, stands above on stderr.\n");
    return EXIT_FAILED;
}

int check_run(const char *path, char **argv, const char *library, const char *planned)
{
    struct check check = {.length = 0};
    int status = 0;
    if (!check_pipes(&check))
        return say_error(EXIT_FAILED, "no pipe: %s", strerror(errno));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        check_child(&check, path, argv);
    if (child < 0)
        return say_error(EXIT_FAILED, "no new process: %s", strerror(errno));
    close(check.answer[1]);
    close(check.hold[0]);
    bool answered = check_read(&check, sys_now_ms() + CHECK_MS);
    if (waitpid(child, &status, WNOHANG) == 0) {
        kill(-child, SIGKILL);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    return answered ? check_answered(&check, path, library, planned) : check_silent(path, library, status);
}
