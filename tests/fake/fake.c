/* SPDX-License-Identifier: MIT */
/*
 * A preload library that fakes a system on which something fails, for errors that do not come by
 * themselves. It stands between the shim and the C library: the shim's own system calls go through
 * syscall(3), the program's connect() through connect().
 *
 *   FAKE="CALL[/LEVEL/NAME]=ERRNO[@FROM[-TO]],..."
 *
 *   FAKE_CLOCK="frozen" or "+SECONDS": all clocks stand still, or are ahead, as with libfaketime
 *   FAKE_SLOW=US           each system call takes so much more of the thread's CPU time
 *
 * CALL is the number or name of a system call below; LEVEL and NAME are its 2nd and 3rd argument
 * (for socket options), each a number or "*". @FROM-TO limits it to the FROM-th to TO-th such
 * call of the process, from 1. ERRNO is a number.
 *
 * fake_calls() says how many system calls have gone through syscall(3).
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define RULES 16

static struct rule {
    long call;
    long level, name; /* -1: any */
    int error;
    unsigned from, to;
    _Atomic unsigned seen;
} rules[RULES];
static int rule_count;
static _Atomic unsigned long made; /* calls */

static const struct {
    const char *name;
    long number;
} calls[] = {
    {"socket", SYS_socket},     {"setsockopt", SYS_setsockopt}, {"getsockopt", SYS_getsockopt},
    {"fcntl", SYS_fcntl},       {"mmap", SYS_mmap},             {"fallocate", SYS_fallocate},
    {"openat", SYS_openat},     {"linkat", SYS_linkat},         {"sendto", SYS_sendto},
    {"recvfrom", SYS_recvfrom}, {"getrandom", SYS_getrandom},   {"ftruncate", SYS_ftruncate},
    {"connect", SYS_connect},   {"bind", SYS_bind},             {"fchmod", SYS_fchmod},
    {"getsockname", SYS_getsockname},
};

static const char *fake_clock; /* NULL: none */
static long slow; /* us */

/* What the faked clock says when the kernel's says @now. */
static void clock_fake(struct timespec *now)
{
    if (!fake_clock || !now)
        return;
    if (*fake_clock == '+')
        now->tv_sec += strtol(fake_clock, NULL, 10);
    else
        *now = (struct timespec){.tv_sec = 1000};
}

static long call_number(const char *name)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        if (strcmp(calls[i].name, name) == 0)
            return calls[i].number;
    return strtol(name, NULL, 10);
}

static long argument(char **at)
{
    if (!*at)
        return -1;
    char *next = strchr(*at, '/');
    if (next)
        *next++ = '\0';
    long value = strcmp(*at, "*") == 0 ? -1 : strtol(*at, NULL, 0);
    *at = next;
    return value;
}

static void add_rule(char *text)
{
    char *error = strchr(text, '=');
    if (!error || rule_count == RULES)
        abort(); /* the test is wrong */
    *error++ = '\0';
    struct rule *rule = &rules[rule_count++];
    char *arguments = strchr(text, '/');
    if (arguments)
        *arguments++ = '\0';
    rule->call = call_number(text);
    rule->level = argument(&arguments);
    rule->name = argument(&arguments);
    rule->error = (int)strtol(error, &error, 10);
    rule->from = *error == '@' ? (unsigned)strtoul(error + 1, &error, 10) : 1;
    rule->to = *error == '-' ? (unsigned)strtoul(error + 1, &error, 10) : ~0u;
}

__attribute__((constructor(101))) static void begin(void)
{
    static char copy[1024];
    fake_clock = getenv("FAKE_CLOCK");
    const char *text = getenv("FAKE");
    slow = getenv("FAKE_SLOW") ? strtol(getenv("FAKE_SLOW"), NULL, 10) : 0;
    if (!text || strlen(text) >= sizeof(copy))
        return;
    strcpy(copy, text);
    for (char *item = strtok(copy, ","); item; item = strtok(NULL, ","))
        add_rule(item);
}

unsigned long fake_calls(void);

unsigned long fake_calls(void)
{
    return atomic_load(&made);
}

/* The errno that a call is to fail with, or 0. */
static int fails(long call, long level, long name)
{
    for (int i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (rule->call != call || (rule->level >= 0 && rule->level != level) ||
            (rule->name >= 0 && rule->name != name))
            continue;
        unsigned seen = atomic_fetch_add(&rule->seen, 1) + 1;
        if (seen >= rule->from && seen <= rule->to)
            return rule->error;
    }
    return 0;
}

static void burn(void)
{
    struct timespec now = {0}, end = {0};
    if (!slow)
        return;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    end.tv_nsec += slow * 1000; /* compared as one number */
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - end.tv_sec) * 1000000000 + now.tv_nsec < end.tv_nsec);
}

long syscall(long number, ...);

long syscall(long number, ...)
{
    static long (*next)(long, ...);
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    atomic_fetch_add(&made, 1);
    int error = fails(number, a[1], a[2]);
    if (error) {
        errno = error;
        return -1;
    }
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    burn();
    long result = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (number == SYS_clock_gettime && result == 0)
        clock_fake((struct timespec *)a[1]);
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*next)(clockid_t, struct timespec *);
    if (!next)
        next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, now);
    if (result == 0)
        clock_fake(now);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at;
    int result = clock_gettime(CLOCK_REALTIME, &at);
    (void)zone;
    if (result == 0)
        *now = (struct timeval){.tv_sec = at.tv_sec, .tv_usec = at.tv_nsec / 1000};
    return result;
}

time_t time(time_t *now)
{
    struct timespec at = {.tv_sec = 0};
    clock_gettime(CLOCK_REALTIME, &at);
    if (now)
        *now = at.tv_sec;
    return at.tv_sec;
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    static int (*next)(int, const struct sockaddr *, socklen_t);
    int error = fails(SYS_connect, 0, 0);
    if (error) {
        errno = error;
        return -1;
    }
    if (!next)
        next = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    return next(fd, address, length);
}
