/* SPDX-License-Identifier: MIT */
/*
 * Starts programs and kills or stops them at random moments.
 *
 *   storm kill COUNT PARALLEL MICROSECONDS SEED NETNS COMMAND...
 *   storm stop COUNT PARALLEL MICROSECONDS SEED NETNS COMMAND...
 *
 * A COMMAND is one argument, its words separated by blanks; words of the form NAME=VALUE at its
 * begin are its environment. Each program is started in the network namespace NETNS (a file) with
 * LD_PRELOAD as FIXPORT_STORM_PRELOAD says. kill: each gets SIGKILL after a random time below
 * MICROSECONDS. stop: each gets SIGSTOP, then the first COMMAND has to come to its end beside it
 * within 20 s, then it is killed.
 *
 * It prints "started= killed= ended= crashed= bad= hung=": those that had ended before the signal;
 * of those the ones that another signal ended; stop: first COMMANDs that failed, or did not end.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS 32
#define PARALLEL 16
#define HANG_MS 20000

struct victim {
    pid_t pid;
    int64_t due;
};

static char **commands;
static int command_count;
static uint64_t state;
static long longest, started, killed, ended, crashed, bad, hung;

static uint64_t random_next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int64_t now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000ll + time.tv_nsec / 1000;
}

static void nap(int64_t us)
{
    if (us > 0)
        nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL);
}

static void run(char *command)
{
    char *word[WORDS + 1];
    int count = 0;
    const char *preload = getenv("FIXPORT_STORM_PRELOAD");
    for (char *at = strtok(command, " "); at && count < WORDS; at = strtok(NULL, " ")) {
        if (count == 0 && strchr(at, '='))
            putenv(at);
        else
            word[count++] = at;
    }
    word[count] = NULL;
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(nowhere, STDIN_FILENO);
    dup2(nowhere, STDOUT_FILENO);
    if (preload)
        setenv("LD_PRELOAD", preload, 1);
    execv(word[0], word);
    _exit(127);
}

static pid_t start(const char *command)
{
    pid_t pid = fork();
    if (pid == 0) {
        char *copy = strdup(command);
        if (copy)
            run(copy);
        _exit(126);
    }
    if (pid > 0)
        started++;
    return pid;
}

/* Some other signal than ours: it has crashed. */
static void note_end(int status)
{
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        killed++;
        return;
    }
    ended++;
    crashed += WIFSIGNALED(status);
}

static void finish(struct victim *victim)
{
    int status = 0;
    kill(victim->pid, SIGKILL);
    if (waitpid(victim->pid, &status, 0) == victim->pid)
        note_end(status);
    victim->pid = 0;
}

static void kill_one(struct victim *victim)
{
    if (victim->pid > 0) {
        nap(victim->due - now_us());
        finish(victim);
    }
    victim->pid = start(commands[random_next() % (unsigned)command_count]);
    victim->due = now_us() + (int64_t)(random_next() % (unsigned)longest);
}

static void kill_storm(long count, int parallel)
{
    struct victim victims[PARALLEL] = {{.pid = 0}};
    for (long i = 0; i < count; i++)
        kill_one(&victims[i % parallel]);
    for (int i = 0; i < parallel; i++)
        if (victims[i].pid > 0)
            finish(&victims[i]);
}

static bool comes_to_end(pid_t pid, int *status)
{
    for (int ms = 0; ms < HANG_MS; ms++) {
        if (waitpid(pid, status, WNOHANG) == pid)
            return true;
        nap(1000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, status, 0);
    return false;
}

static void stop_storm(long count, int parallel)
{
    struct victim victims[PARALLEL] = {{.pid = 0}};
    for (long i = 0; i < count; i++) {
        int status = 0;
        struct victim *victim = &victims[i % parallel];
        if (victim->pid > 0)
            finish(victim);
        victim->pid = start(commands[random_next() % (unsigned)command_count]);
        nap((int64_t)(random_next() % (unsigned)longest));
        kill(victim->pid, SIGSTOP);
        if (!comes_to_end(start(commands[0]), &status))
            hung++;
        else
            bad += status != 0;
    }
    for (int i = 0; i < parallel; i++)
        if (victims[i].pid > 0)
            finish(&victims[i]);
}

int main(int argc, char **argv)
{
    if (argc < 8)
        return 2;
    long count = atol(argv[2]);
    int parallel = atoi(argv[3]);
    longest = atol(argv[4]);
    state = strtoull(argv[5], NULL, 10) * 2 + 1;
    commands = argv + 7;
    command_count = argc - 7;
    int netns = open(argv[6], O_RDONLY | O_CLOEXEC);
    if (netns < 0 || setns(netns, CLONE_NEWNET) != 0 || parallel < 1 || parallel > PARALLEL ||
        longest < 1)
        return 1;
    if (strcmp(argv[1], "stop") == 0)
        stop_storm(count, parallel);
    else
        kill_storm(count, parallel);
    printf("started=%ld killed=%ld ended=%ld crashed=%ld bad=%ld hung=%ld\n", started, killed,
           ended, crashed, bad, hung);
    return 0;
}
