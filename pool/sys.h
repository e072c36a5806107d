/* SPDX-License-Identifier: MIT */
/*
 * System calls for code that the shim embeds: through the C library's syscall(2) wrapper, returning
 * -errno and leaving errno alone.
 *
 * Why not open(), fstat(), close()...: the shim itself exports close(); fstat() is no symbol of
 * glibc before 2.33; and each name would be one more that a C library might lack. In the shim
 * syscall() is a weak symbol: a program without a C library finds it missing and stays untouched.
 */
#ifndef FIXPORT_SYS_H
#define FIXPORT_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline long sys_keep(int saved, long result)
{
    int failed = errno;
    errno = saved;
    return result == -1 ? -failed : result;
}

/*
 * syscall() is variadic and takes every argument as a long: an int that is passed on the stack would
 * leave the upper half undefined. So each is cast, whatever it is.
 */
#define SYS_0(n) syscall(n)
#define SYS_1(n, a) syscall(n, (long)(a))
#define SYS_2(n, a, b) syscall(n, (long)(a), (long)(b))
#define SYS_3(n, a, b, c) syscall(n, (long)(a), (long)(b), (long)(c))
#define SYS_4(n, a, b, c, d) syscall(n, (long)(a), (long)(b), (long)(c), (long)(d))
#define SYS_5(n, a, b, c, d, e) syscall(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define SYS_6(n, a, b, c, d, e, f)                                                                 \
    syscall(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define SYS_PICK(_0, _1, _2, _3, _4, _5, _6, chosen, ...) chosen

/** SYS_BARE - make system call @name as syscall(2) does: -1 and errno on failure. */
#define SYS_BARE(name, ...)                                                                        \
    SYS_PICK(_, ##__VA_ARGS__, SYS_6, SYS_5, SYS_4, SYS_3, SYS_2, SYS_1, SYS_0)                    \
    (SYS_##name, ##__VA_ARGS__)

/** SYS - make system call @name; Return: its result, or -errno. errno is kept. Async-signal-safe. */
#define SYS(name, ...)                                                                             \
    ({                                                                                             \
        int sys_saved = errno;                                                                     \
        sys_keep(sys_saved, SYS_BARE(name, ##__VA_ARGS__));                                        \
    })

/**
 * sys_may_not - whether a system call's answer is that of a seccomp filter, or of a security
 * module.
 */
static inline bool sys_may_not(long result)
{
    return result == -EPERM || result == -EACCES || result == -ENOSYS;
}

/** sys_fstat - fstat(2), by either call that there is for it: filters often know only one. */
static inline int sys_fstat(int fd, struct stat *st)
{
    long result = SYS(fstat, fd, st);
    if (sys_may_not(result))
        result = SYS(newfstatat, fd, "", st, 0x1000 /* AT_EMPTY_PATH */);
    return result == -EPERM ? -EACCES : (int)result;
}

/* The shim has its own (weak.h): what programs are given is not always the kernel's. */
#ifndef SYS_CLOCK
#define SYS_CLOCK clock_gettime
#endif

/** sys_now_ms - CLOCK_MONOTONIC in ms, coarse (a tick, 1-10 ms), by the vDSO; never 0. */
static inline uint64_t sys_now_ms(void)
{
    struct timespec now = {.tv_sec = 0};
    SYS_CLOCK(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + 1;
}

#endif
