/* SPDX-License-Identifier: MIT */
/*
 * What makes and what lets go of sockets, watched for hints only: the call itself is passed on as it
 * came. The hint is taken before the call, because after it another thread may have the number.
 */
#include "shim.h"

#include <linux/close_range.h>

SHIM_EXPORT int socket(int domain, int type, int protocol)
{
    if (!shim_enabled())
        return real.socket(domain, type, protocol);
    int fd = real.socket(domain, type, protocol);
    /* SOCK_STREAM with SOCK_NONBLOCK and SOCK_CLOEXEC masked, socket(2) */
    bool tcp = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
               (protocol == 0 || protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
    if (fd >= 0 && tcp)
        hint_fresh(fd, sys_now_ms());
    else if (fd >= 0)
        hint_set(fd, (struct hint){.kind = HINT_NONE});
    return fd;
}

SHIM_EXPORT int close(int fd)
{
    if (!shim_enabled() || !hint_exists(fd))
        return real.close(fd);
    struct hint hint = hint_take(fd);
    int result = real.close(fd);
    hint_let_go(hint);
    return result;
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
