/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool reclaim --every: the helper of a node, which stays.
 *
 * Twice a second it looks whether there is something to do: a holder that has died; a rule of whose
 * ports more than half are taken towards a destination, not all of them in use: then somebody may
 * soon find none, and what can be had is made so within about a second. Else what is let go or
 * rests can wait for SECONDS. That look costs some hundred us. However much there is to do, it
 * rests for longer than it works.
 *
 * Each look is a child's: whoever may write the shares can also truncate them, and who has them
 * mapped then is ended by SIGBUS. What it says is passed on if it is not what the last one said.
 */
#include "cmd.h"
#include "tracked.h"

#include "../../pool/holder.h"
#include "../../pool/sys.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define FOLLOW_MS 500
#define FOLLOW_SHORT_MS 1000 /* between looks that are in a hurry */
#define FOLLOW_REST 20       /* times as long as it has worked */
#define FOLLOW_SAID 4096     /* bytes of what a look says; there is no more of it */
#define FOLLOW_NOTHING 9     /* exit status of a child that found nothing to do */

struct follow {
    const struct pool_request *request;
    uint64_t looked; /* sys_now_ms() of the last look; 0: none yet */
    char said[FOLLOW_SAID];
};

/* It may be a container's first process, which the kernel ends by no signal that has no handler. */
static void follow_end(int signal)
{
    (void)signal;
    _exit(EXIT_OK);
}

static bool any_is_dead(const struct pool *pool, int fd)
{
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (atomic_load_explicit(&pool->holder[slot].cookie, memory_order_relaxed) &&
            !holder_alive(fd, slot))
            return true;
    return false;
}

/* Return: FOLLOW_NOTHING, or what a look would come to if it said nothing but what is wrong. */
static int follow_child(const struct follow *follow)
{
    char path[PATH_MAX];
    struct policy policy;
    struct pool pool;
    int fd, status = target_path(follow->request, path);
    if (status)
        return status;
    int error = pool_open(path, &pool, &fd);
    if (!error)
        error = pool_policy(&pool, &policy);
    if (error)
        return say_pool_error(path, error);
    uint64_t since = sys_now_ms() - follow->looked;
    enum tracked_need need =
        any_is_dead(&pool, fd) ? TRACKED_SHORT : tracked_need(&pool, policy.quarantine_ms);
    uint64_t apart = need == TRACKED_SHORT ? FOLLOW_SHORT_MS : 1000ull * follow->request->every;
    pool_close(&pool);
    close(fd);
    return need == TRACKED_NOTHING || (follow->looked && since < apart)
               ? FOLLOW_NOTHING
               : reclaim_once(follow->request, true);
}

/* Passes on what is new. */
static void follow_say(struct follow *follow, const char *said)
{
    if (strcmp(follow->said, said) == 0)
        return;
    strcpy(follow->said, said);
    fputs(said, stderr);
    fflush(stderr);
}

/* Return: for how many ms to rest now. */
static uint64_t follow_turn(struct follow *follow)
{
    int pipes[2], status = 0;
    struct rusage used = {.ru_maxrss = 0};
    char said[FOLLOW_SAID];
    size_t got = 0;
    if (pipe2(pipes, O_CLOEXEC) != 0)
        return FOLLOW_SHORT_MS;
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        if (getppid() != self || dup2(pipes[1], STDOUT_FILENO) < 0 ||
            dup2(pipes[1], STDERR_FILENO) < 0)
            _exit(EXIT_FAILED);
        say_limit(POOL_COMMAND_S);
        status = follow_child(follow);
        fflush(stdout);
        _exit(status);
    }
    close(pipes[1]);
    for (ssize_t n = child < 0 ? 0 : 1; n > 0 && got<sizeof(said) - 1; got += n> 0 ? (size_t)n : 0)
        n = read(pipes[0], said + got, sizeof(said) - 1 - got);
    close(pipes[0]);
    said[got] = '\0';
    while (child > 0 && wait4(child, &status, 0, &used) < 0 && errno == EINTR)
        ;
    if (child < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != FOLLOW_NOTHING) {
        follow->looked = sys_now_ms();
        follow_say(follow, child < 0 ? "fixport-pool: there can be no child now\n" : said);
    }
    uint64_t worked = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
                      (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
    return worked * FOLLOW_REST > FOLLOW_MS ? worked * FOLLOW_REST : FOLLOW_MS;
}

int follow_reclaim(const struct pool_request *request)
{
    static struct follow follow;
    struct sigaction end = {.sa_handler = follow_end};
    follow.request = request;
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGINT, &end, NULL);
    say_limit(0);
    for (;;) {
        uint64_t ms = follow_turn(&follow);
        nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)}, NULL);
    }
}
