/* SPDX-License-Identifier: MIT */
/*
 * A preload library that fakes a system on which something fails, for errors that do not come by
 * themselves. It stands between the shim and the C library: the shim's own system calls go through
 * syscall(3), the program's connect() through connect().
 *
 *   FAKE="CALL[/LEVEL/NAME]=ERRNO[@FROM[-TO]],..."
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
    const char *text = getenv("FAKE");
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
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
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
