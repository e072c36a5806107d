/* SPDX-License-Identifier: MIT */
/*
 * What makes and what lets go of sockets, watched for hints only: the call itself is passed on as it
 * came. The hint is taken before the call, because after it another thread may have the number.
 *
 * Whether connections leave a TIME_WAIT behind decides whether their sockets have to be prepared for
 * being replaced (port.c), which is a system call. So every 16th close of ours is looked at. Who
 * closes second, or by a reset, leaves none. That is believed after four such closes in a row, and
 * until one that is not.
 */
#include "shim.h"

#include <linux/close_range.h>
#include <netinet/tcp.h>

/* Newer than glibc 2.31 and its kernel's headers. */
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

#define LOOK_EVERY 16u
#define BELIEVE_AFTER 4u

static _Atomic uint32_t closes; /* of connections with a lease; a lost count does not matter */
static _Atomic uint32_t clean; /* looks in a row that found that there will be no TIME_WAIT */

bool close_lingers(void)
{
    return atomic_load_explicit(&clean, memory_order_relaxed) < BELIEVE_AFTER;
}

/* Before close(): whether it resets the connection. */
static bool resets(int fd)
{
    struct linger linger = {.l_onoff = 0};
    socklen_t size = sizeof(linger);
    return SYS(getsockopt, fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff &&
           linger.l_linger == 0;
}

static void close_look(int fd)
{
    uint32_t count = atomic_load_explicit(&closes, memory_order_relaxed);
    atomic_store_explicit(&closes, count + 1, memory_order_relaxed);
    if (count % LOOK_EVERY)
        return;
    int state = sock_tcp_state(fd);
    bool is_clean = state == TCP_CLOSE_WAIT || (state == TCP_ESTABLISHED && resets(fd));
    uint32_t before = atomic_load_explicit(&clean, memory_order_relaxed);
    uint32_t after = !is_clean ? 0 : before < BELIEVE_AFTER ? before + 1 : before;
    if (after != before)
        atomic_store_explicit(&clean, after, memory_order_relaxed);
}

SHIM_EXPORT int socket(int domain, int type, int protocol)
{
    if (!shim_enabled())
        return real.socket(domain, type, protocol);
    int fd = real.socket(domain, type, protocol);
    /* SOCK_STREAM with SOCK_NONBLOCK and SOCK_CLOEXEC masked, socket(2) */
    bool tcp = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
               (protocol == 0 || protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
    if (fd >= 0 && tcp)
        hint_fresh(fd, domain == AF_INET6, sys_now_ms());
    else if (fd >= 0)
        hint_set(fd, (struct hint){.kind = domain == AF_INET || domain == AF_INET6 ? HINT_OTHER
                                                                                   : HINT_NONE});
    return fd;
}

SHIM_EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    bool reuse = level == SOL_SOCKET && (name == SO_REUSEADDR || name == SO_REUSEPORT);
    bool range = level == IPPROTO_IP && name == SOCK_RANGE;
    if ((reuse || range) && shim_enabled()) {
        struct hint hint = hint_get(fd);
        hint.netns |= reuse ? SET_REUSE : SET_RANGE;
        if (hint.kind == HINT_FRESH)
            hint_set(fd, hint);
    }
    return real.setsockopt(fd, level, name, value, length);
}

/* Apart, so that for all other descriptors close() is a look and a jump. */
static __attribute__((noinline)) int close_ours(int fd)
{
    struct hint hint = hint_take(fd);
    if (hint_is_leased(hint))
        close_look(fd);
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
