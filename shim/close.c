/* SPDX-License-Identifier: MIT */
/*
 * What makes and what lets go of sockets, watched for hints only: the call itself is passed on as it
 * came. The hint is taken before the call, because after it another thread may have the number.
 *
 * Nothing is asked of the kernel here: a program that has sandboxed itself since it connected may
 * be killed for a call that it never makes.
 */
#include "shim.h"

#include <linux/close_range.h>
#include <netinet/in.h>

/* Newer than glibc 2.31 and its kernel's headers. */
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

SHIM_EXPORT int socket(int domain, int type, int protocol)
{
    if (!shim_enabled())
        return real.socket(domain, type, protocol);
    int fd = real.socket(domain, type, protocol);
    /* SOCK_STREAM with SOCK_NONBLOCK and SOCK_CLOEXEC masked, socket(2) */
    bool tcp = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
               (protocol == 0 || protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
    if (fd >= 0 && tcp)
        hint_fresh(
            fd, (domain == AF_INET6 ? FRESH_V6 : 0) | (protocol == IPPROTO_MPTCP ? FRESH_MPTCP : 0),
            sys_now_ms());
    else if (fd >= 0)
        hint_set(fd, (struct hint){.kind = domain == AF_INET || domain == AF_INET6 ? HINT_OTHER
                                                                                   : HINT_NONE});
    return fd;
}

SHIM_EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    bool reuse = level == SOL_SOCKET && (name == SO_REUSEADDR || name == SO_REUSEPORT);
    bool range = level == IPPROTO_IP && name == SOCK_RANGE;
    bool route = level == SOL_SOCKET &&
                 (name == SO_MARK || name == SO_BINDTODEVICE || name == SOCK_DEVICE);
    if ((reuse || range || route) && shim_enabled()) {
        struct hint hint = hint_get(fd);
        hint.netns |= reuse ? SET_REUSE : range ? SET_RANGE : 0;
        if (route)
            hint.lane = hint.port = 0; /* of long ago: it goes another way than others (source.c) */
        if (hint.kind == HINT_FRESH)
            hint_set(fd, hint);
    }
    return real.setsockopt(fd, level, name, value, length);
}

/* Apart, so that for all other descriptors close() is a look and a jump. */
static __attribute__((noinline)) int close_ours(int fd)
{
    struct hint hint = hint_take(fd);
    int result = real.close(fd);
    hint_let_go(hint);
    return result;
}

SHIM_EXPORT int close(int fd)
{
    return shim_enabled() && hint_exists(fd) ? close_ours(fd) : real.close(fd);
}

SHIM_EXPORT int dup2(int from, int to)
{
    if (!shim_enabled())
        return real.dup2(from, to);
    int result = real.dup2(from, to);
    if (result >= 0 && from != to)
        hint_let_go(hint_take(to));
    return result;
}

SHIM_EXPORT int dup3(int from, int to, int flags)
{
    if (!shim_enabled())
        return real.dup3(from, to, flags);
    int result = real.dup3(from, to, flags);
    if (result >= 0)
        hint_let_go(hint_take(to));
    return result;
}

SHIM_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    if (!shim_enabled())
        return real.close_range(first, last, flags);
    int result = real.close_range(first, last, flags);
    if (result == 0 && !(flags & CLOSE_RANGE_CLOEXEC))
        hint_range(first, last);
    return result;
}

SHIM_EXPORT void closefrom(int first)
{
    real.closefrom(first);
    if (shim_enabled())
        hint_range(first < 0 ? 0u : (unsigned)first, ~0u);
}
