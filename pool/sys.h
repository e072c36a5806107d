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

/** SYS - make system call @name; Return: its result, or -errno. errno is kept. Async-signal-safe. */
#define SYS(name, ...)                                                                             \
    ({                                                                                             \
        int sys_saved = errno;                                                                     \
        sys_keep(sys_saved, syscall(SYS_##name, ##__VA_ARGS__));                                   \
    })

/** sys_now_ms - CLOCK_MONOTONIC in ms, coarse (a tick, 1-10 ms), by the vDSO; never 0. */
static inline uint64_t sys_now_ms(void)
{
    struct timespec now = {.tv_sec = 0};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + 1;
}

#endif
