/* SPDX-License-Identifier: MIT */
/*
 * The next connect(), close(), ... after this library's, which may be the C library's or another
 * preloaded library's. Looked up once. What cannot be found (a C library without the function, or
 * glibc before 2.34 in a program without libdl) is the bare system call: the same but for
 * cancellation points.
 */
#include "shim.h"

#include <dlfcn.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#ifndef SYS_close_range
#define SYS_close_range 436 /* newer than glibc 2.31 */
#endif

static int bare_connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return (int)SYS_BARE(connect, fd, address, length);
}

static int bare_bind(int fd, const struct sockaddr *address, socklen_t length)
{
    return (int)SYS_BARE(bind, fd, address, length);
}

static int bare_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    return (int)SYS_BARE(setsockopt, fd, level, name, value, length);
}

static int bare_socket(int domain, int type, int protocol)
{
    return (int)SYS_BARE(socket, domain, type, protocol);
}

static ssize_t bare_sendto(int fd, const void *data, size_t size, int flags,
                           const struct sockaddr *address, socklen_t length)
{
    return SYS_BARE(sendto, fd, data, size, flags, address, length);
}

static ssize_t bare_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return SYS_BARE(sendmsg, fd, message, flags);
}

static int bare_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    return (int)SYS_BARE(sendmmsg, fd, messages, count, flags);
}

static int bare_close(int fd)
{
    return (int)SYS_BARE(close, fd);
}

static int bare_close_range(unsigned first, unsigned last, int flags)
{
    return (int)SYS_BARE(close_range, first, last, flags);
}

static void bare_closefrom(int first)
{
    SYS_BARE(close_range, first < 0 ? 0u : (unsigned)first, ~0u, 0);
}

static int bare_dup2(int from, int to)
{
#ifdef SYS_dup2
    return (int)SYS_BARE(dup2, from, to);
#else
    if (from == to)
        return (int)SYS_BARE(fcntl, from, F_GETFD) < 0 ? -1 : to;
    return (int)SYS_BARE(dup3, from, to, 0);
#endif
}

static int bare_dup3(int from, int to, int flags)
{
    return (int)SYS_BARE(dup3, from, to, flags);
}

static int bare_mlockall(int flags)
{
    return (int)SYS_BARE(mlockall, flags);
}

static int bare_setns(int fd, int kind)
{
    return (int)SYS_BARE(setns, fd, kind);
}

static int bare_unshare(int flags)
{
    return (int)SYS_BARE(unshare, flags);
}

static int bare_sigsuspend(const sigset_t *set)
{
    return (int)SYS_BARE(rt_sigsuspend, set, 8);
}

/* The kernel writes to the timeouts of these, the C library's functions do not. */
static int bare_ppoll(struct pollfd *fds, unsigned long count, const struct timespec *timeout,
                      const sigset_t *set)
{
    struct timespec copy = timeout ? *timeout : (struct timespec){.tv_sec = 0};
    return (int)SYS_BARE(ppoll, fds, count, timeout ? &copy : NULL, set, 8);
}

static int bare_pselect(int count, fd_set *in, fd_set *out, fd_set *other,
                        const struct timespec *timeout, const sigset_t *set)
{
    struct timespec copy = timeout ? *timeout : (struct timespec){.tv_sec = 0};
    uintptr_t mask[2] = {(uintptr_t)set, 8};
    return (int)SYS_BARE(pselect6, count, in, out, other, timeout ? &copy : NULL, mask);
}

static int bare_epoll_pwait(int fd, struct epoll_event *events, int most, int timeout,
                            const sigset_t *set)
{
    return (int)SYS_BARE(epoll_pwait, fd, events, most, timeout, set, 8);
}

static int bare_epoll_pwait2(int fd, struct epoll_event *events, int most,
                             const struct timespec *timeout, const sigset_t *set)
{
    return (int)SYS_BARE(epoll_pwait2, fd, events, most, timeout, set, 8);
}

/* The masks of 4.2BSD: signals 1 to 32. */
static int bare_mask(int how, int mask)
{
    uint64_t set = (unsigned)mask, before = 0;
    long result = SYS_BARE(rt_sigprocmask, how, &set, &before, 8);
    return result < 0 ? -1 : (int)before;
}

static int bare_sigblock(int mask)
{
    return bare_mask(SIG_BLOCK, mask);
}

static int bare_sigsetmask(int mask)
{
    return bare_mask(SIG_SETMASK, mask);
}

static int bare_sighold(int number)
{
    uint64_t set = 1ull << ((unsigned)number - 1) % 64;
    return (int)SYS_BARE(rt_sigprocmask, SIG_BLOCK, &set, NULL, 8);
}

static int bare_pthread_attr_setsigmask_np(pthread_attr_t *attr, const sigset_t *set)
{
    (void)attr;
    (void)set;
    return ENOSYS;
}

/* Until real_init(), and for what it does not find. */
struct real real = {
    .connect = bare_connect,
    .bind = bare_bind,
    .setsockopt = bare_setsockopt,
    .socket = bare_socket,
    .sendto = bare_sendto,
    .sendmsg = bare_sendmsg,
    .sendmmsg = bare_sendmmsg,
    .close = bare_close,
    .close_range = bare_close_range,
    .closefrom = bare_closefrom,
    .dup2 = bare_dup2,
    .dup3 = bare_dup3,
    .mlockall = bare_mlockall,
    .setns = bare_setns,
    .unshare = bare_unshare,
    .sigsuspend = bare_sigsuspend,
    .ppoll = bare_ppoll,
    .pselect = bare_pselect,
    .epoll_pwait = bare_epoll_pwait,
    .epoll_pwait2 = bare_epoll_pwait2,
    .sigblock = bare_sigblock,
    .sigsetmask = bare_sigsetmask,
    .sighold = bare_sighold,
    .pthread_attr_setsigmask_np = bare_pthread_attr_setsigmask_np,
};

#define LOOK_UP(name)                                                                              \
    do {                                                                                           \
        void *found = dlsym(RTLD_NEXT, #name);                                                     \
        if (found)                                                                                 \
            real.name = (__typeof__(real.name))found;                                              \
    } while (0)

void real_init(void)
{
    real_init_signals();
    if (!dlsym)
        return;
    LOOK_UP(connect);
    LOOK_UP(bind);
    LOOK_UP(setsockopt);
    LOOK_UP(socket);
    LOOK_UP(sendto);
    LOOK_UP(sendmsg);
    LOOK_UP(sendmmsg);
    LOOK_UP(close);
    LOOK_UP(close_range);
    LOOK_UP(closefrom);
    LOOK_UP(dup2);
    LOOK_UP(dup3);
    LOOK_UP(mlockall);
    LOOK_UP(setns);
    LOOK_UP(unshare);
}

void real_init_signals(void)
{
    real.sigaction = __sigaction; /* glibc's; a system call alone does not do it */
    if (!dlsym)
        return;
    LOOK_UP(sigaction);
    LOOK_UP(signal);
    LOOK_UP(__sysv_signal);
    LOOK_UP(sigset);
    LOOK_UP(siginterrupt);
    LOOK_UP(sigprocmask);
    LOOK_UP(pthread_sigmask);
    LOOK_UP(sighold);
    LOOK_UP(sigblock);
    LOOK_UP(sigsetmask);
    LOOK_UP(sigsuspend);
    LOOK_UP(ppoll);
    LOOK_UP(pselect);
    LOOK_UP(epoll_pwait);
    LOOK_UP(epoll_pwait2);
    LOOK_UP(pthread_attr_setsigmask_np);
}
