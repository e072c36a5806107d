/* SPDX-License-Identifier: MIT */
/*
 * The shares of a pool can be truncated by whoever may write them, and the next touch of their
 * mapping raises SIGBUS. Nothing but a handler helps: sealing needs a memfd, which has no path that
 * pods could share, and chattr(1) +a forbids the mapping too. So SIGBUS has a handler from the
 * moment on that a pool is opened, for good. For a fault in a pool it puts zeros there, and the
 * pool is mapped again when it is next asked for (init.c). What else comes is the program's: it
 * goes to the handler that the program has set, or restores the default, with which it comes again.
 *
 * What the program sets for SIGBUS goes to the kernel with a stand-in in the place of its handler: one
 * function for each handler that it has ever set, so that which one counts, with which mask and flags,
 * is at every moment for the kernel to say, to all threads and to a child of vfork(2). What the program
 * asks for is put together from that. SIG_IGN stays what it is, since exec hands it on, and is taken
 * away for the time that a pool is looked at.
 *
 * A thread that has SIGBUS blocked would be killed by it. Most programs never block it; where one has
 * (by sigprocmask() and its kin, or from the start), it is let through for the time that a pool is
 * looked at. Many block all signals for a moment only, while they start a child: so a thread that turns
 * out not to have it blocked is not asked again in the same tick of the clock. Masks of handlers for other
 * signals are
 * given to the kernel without it.
 *
 * A handler that a bare system call has set is found when the pool's path is looked at, once a second,
 * and gets a stand-in then.
 */
#include "shim.h"
#include "../pool/layout_size.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>

#define BUS_BIT (1ull << (SIGBUS - 1)) /* in the kernel's set of signals */

/* A handler that the program has set, with what its flags had of those that ours needs. */
#define TAKEN (1ull << 63)     /* so that it is not 0 */
#define WITH_INFO (1ull << 62) /* it takes three arguments (SA_SIGINFO) */
#define ONCE (1ull << 61)      /* it is for one time (SA_RESETHAND) */
#define ON_STACK (1ull << 60)  /* SA_ONSTACK */
#define ADDRESS (ON_STACK - 1)

#define STANDINS 16 /* the last is for all that come when the others are taken */
#define LENGTHEN_TIMES 1000 /* in the life of an attachment */

typedef void (*handler_one)(int);
typedef void (*handler_three)(int, siginfo_t *, void *);

/* What guard_begin() has to look for, and what it has done. */
enum { BLOCKED = 1, IGNORED = 2 };

static _Atomic uint64_t handlers[STANDINS]; /* 0: not taken. The first are never changed */
static _Atomic uint32_t installed;
static _Atomic uint32_t alert; /* BLOCKED: some thread may have SIGBUS blocked; IGNORED: it was SIG_IGN */
static _Atomic uint32_t lookers; /* threads that look at a pool although SIGBUS is ignored */
static _Atomic uint64_t masks; /* whose handlers the program wants to have SIGBUS blocked */
static _Atomic uint32_t interrupts; /* siginterrupt(SIGBUS, 1) */
/* When this thread had it not blocked, ms. Its place is known when the program is loaded, without a call. */
static _Thread_local uint64_t open_ms __attribute__((tls_model("initial-exec")));

static bool is_in(uintptr_t fault, const void *memory, size_t size)
{
    uintptr_t base = (uintptr_t)memory;
    return base && fault >= base && fault - base < size;
}

/* Return: false: the process may map no more memory, of one kind or of any. */
static bool put_zeros(const void *memory, size_t size)
{
    static const int kinds[] = {MAP_PRIVATE, MAP_SHARED}; /* the first counts as data, the second not */
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (SYS(mmap, memory, size, PROT_READ | PROT_WRITE,
                kinds[i] | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == (long)memory)
            return true;
    return false;
}

/*
 * Where nothing can be mapped, the file is made long again. Not without end: if it is the file system
 * that is full, that does not help.
 */
static bool lengthen(struct shim_pool *at)
{
    if (atomic_fetch_add(&at->lengthened, 1) >= LENGTHEN_TIMES)
        return false;
    uint64_t mask = guard_hold();
    int fd = pool_shares_open(shim.path, &at->pool, O_RDWR);
    if (fd >= 0)
        SYS(close, fd);
    guard_release(mask);
    return fd >= 0;
}

/* Whether a fault was in some pool, and will not come again: there are zeros from now on. */
static bool is_ours(uintptr_t fault)
{
    for (int i = 0; i < SHIM_POOLS; i++) {
        struct shim_pool *at = &shim_pools[i];
        if (is_in(fault, at->pool.counters, at->pool.shared_size)) {
            bool zeros = put_zeros(at->pool.counters, at->pool.shared_size);
            lock_spare(at);
            if (!zeros && !lengthen(at))
                return false;
            atomic_fetch_or(&at->torn, zeros ? TORN_AWAY : TORN_EMPTIED);
            return true;
        }
        if (is_in(fault, at->pool.header, layout_pool_size())) {
            atomic_store(&at->broken, 1); /* its owner's doing */
            bool zeros = put_zeros(at->pool.header, layout_pool_size());
            lock_spare(at);
            return zeros;
        }
    }
    return false;
}

/* This thread has SIGBUS blocked from now on, or may have. */
static void note(bool blocks)
{
    if (!blocks)
        return;
    open_ms = 0;
    atomic_fetch_or_explicit(&alert, BLOCKED, memory_order_relaxed);
}

static void on_sigbus(unsigned standin, int number, siginfo_t *info, void *context);

#define STANDIN(n)                                                                                 \
    static void standin_##n(int number, siginfo_t *info, void *context)                            \
    {                                                                                              \
        on_sigbus(n, number, info, context);                                                       \
    }
#define EACH_STANDIN(X)                                                                            \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
EACH_STANDIN(STANDIN)
#define STANDIN_NAME(n) standin_##n,

static const handler_three standins[STANDINS] = {EACH_STANDIN(STANDIN_NAME)};

/* Return: STANDINS: it is none of ours. */
static unsigned standin_index(const struct sigaction *action)
{
    unsigned i = 0;
    while (i < STANDINS && action->sa_sigaction != standins[i])
        i++;
    return i;
}

static unsigned standin_for(uint64_t packed)
{
    for (unsigned i = 0; i < STANDINS - 1; i++) {
        uint64_t before = 0;
        if (atomic_compare_exchange_strong(&handlers[i], &before, packed) || before == packed)
            return i;
    }
    atomic_store(&handlers[STANDINS - 1], packed);
    return STANDINS - 1;
}

static bool is_function(handler_one handler)
{
    return handler != SIG_DFL && handler != SIG_IGN;
}

/* Puts a stand-in in the place of the handler. */
static void standin_put(struct sigaction *action)
{
    uint64_t packed = TAKEN | ((uint64_t)(uintptr_t)action->sa_handler & ADDRESS) |
                      (action->sa_flags & SA_SIGINFO ? WITH_INFO : 0) |
                      ((unsigned)action->sa_flags & (unsigned)SA_RESETHAND ? ONCE : 0) |
                      (action->sa_flags & SA_ONSTACK ? ON_STACK : 0);
    if (!is_function(action->sa_handler))
        action->sa_flags |= SA_ONSTACK;
    action->sa_flags = (int)((unsigned)(action->sa_flags | SA_SIGINFO) & ~(unsigned)SA_RESETHAND);
    action->sa_sigaction = standins[standin_for(packed)];
}

static uint64_t standin_packed(const struct sigaction *action)
{
    unsigned index = standin_index(action);
    return index < STANDINS ? atomic_load(&handlers[index]) : 0;
}

/* The program's action again, if the handler is a stand-in. */
static void standin_take(struct sigaction *action)
{
    uint64_t packed = standin_packed(action);
    if (!packed)
        return;
    unsigned flags = (unsigned)action->sa_flags & ~((unsigned)SA_SIGINFO | (unsigned)SA_ONSTACK);
    flags |= packed & WITH_INFO ? (unsigned)SA_SIGINFO : 0;
    flags |= packed & ONCE ? (unsigned)SA_RESETHAND : 0;
    flags |= packed & ON_STACK ? (unsigned)SA_ONSTACK : 0;
    action->sa_handler = (handler_one)(uintptr_t)(packed & ADDRESS);
    action->sa_flags = (int)flags;
}

/* The program's handler was for one time: the default is next, unless it has set another meanwhile. */
static void forget(unsigned standin)
{
    struct sigaction now;
    if (real.sigaction(SIGBUS, NULL, &now) != 0 || standin_index(&now) != standin)
        return;
    standin_take(&now);
    now.sa_handler = SIG_DFL;
    standin_put(&now);
    real.sigaction(SIGBUS, &now, NULL);
}

/* Without a handler of the program's. A fault comes again by itself. */
static void fall_back(int number, bool sent)
{
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    real.sigaction(number, &fallback, NULL);
    if (sent) {
        long process = SYS(getpid);
        long thread = SYS(gettid);
        SYS(tgkill, process, thread, number);
    }
}

static void on_sigbus(unsigned standin, int number, siginfo_t *info, void *context)
{
    bool sent = info->si_code <= 0; /* by kill(2) */
    if (!sent && is_ours((uintptr_t)info->si_addr))
        return;
    uint64_t its = atomic_load(&handlers[standin]);
    handler_one handler = (handler_one)(uintptr_t)(its & ADDRESS);
    if (handler == SIG_DFL || (handler == SIG_IGN && !sent)) {
        fall_back(number, sent);
    } else if (handler != SIG_IGN) {
        note(true); /* while it runs: it may connect */
        if (its & ONCE)
            forget(standin);
        if (its & WITH_INFO)
            ((handler_three)(uintptr_t)handler)(number, info, context);
        else
            handler(number);
    }
}

/* Puts a stand-in where the kernel has a handler of the program's. */
static bool stand_in(void)
{
    struct sigaction now;
    if (real.sigaction(SIGBUS, NULL, &now) != 0)
        return false;
    if (now.sa_handler == SIG_IGN)
        atomic_fetch_or(&alert, IGNORED);
    if (now.sa_handler == SIG_IGN || standin_index(&now) < STANDINS)
        return true;
    standin_put(&now);
    return real.sigaction(SIGBUS, &now, NULL) == 0;
}

void guard_install(void)
{
    uint64_t mask = 0;
    if (!real.sigaction || atomic_load(&installed))
        return;
    guard_renew();
    atomic_store(&installed, 1);
    if (SYS(rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8) == 0 && mask & BUS_BIT)
        atomic_fetch_or(&alert, BLOCKED);
}

void guard_renew(void)
{
    int saved = errno;
    if (real.sigaction)
        stand_in();
    errno = saved;
}

/* With @listen: a stand-in where SIGBUS is ignored; without: SIG_IGN again. */
static void ignore_or(bool listen)
{
    struct sigaction now;
    int saved = errno;
    if (real.sigaction(SIGBUS, NULL, &now) == 0) {
        handler_one kernels = now.sa_handler;
        standin_take(&now);
        bool is_ignored = now.sa_handler == SIG_IGN;
        if (is_ignored && listen)
            standin_put(&now);
        if (is_ignored && now.sa_handler != kernels)
            real.sigaction(SIGBUS, &now, NULL);
    }
    errno = saved;
}

unsigned guard_begin(void)
{
    uint64_t bus = BUS_BIT, before = 0;
    unsigned what = atomic_load_explicit(&alert, memory_order_relaxed);
    if (!what)
        return 0;
    if (what & IGNORED) {
        atomic_fetch_add(&lookers, 1);
        ignore_or(true);
    }
    if (!(what & BLOCKED))
        return what;
    uint64_t now = sys_now_ms();
    if (open_ms == now || SYS(rt_sigprocmask, SIG_UNBLOCK, &bus, &before, 8) != 0)
        return what & ~(unsigned)BLOCKED;
    if (!(before & BUS_BIT))
        open_ms = now;
    return before & BUS_BIT ? what : what & ~(unsigned)BLOCKED;
}

void guard_end(unsigned what)
{
    uint64_t bus = BUS_BIT;
    if (what & BLOCKED)
        SYS(rt_sigprocmask, SIG_BLOCK, &bus, NULL, 8);
    if (what & IGNORED && atomic_fetch_sub(&lookers, 1) == 1) {
        ignore_or(false);
        if (atomic_load(&lookers)) /* one has come in between, and relied on what was there */
            ignore_or(true);
    }
}

/* A fault cannot be held: blocked, it kills. */
uint64_t guard_hold(void)
{
    uint64_t all = ~0ull, before = 0;
    static const uint8_t faults[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof(faults); i++)
        all &= ~(1ull << (faults[i] - 1));
    SYS(rt_sigprocmask, SIG_BLOCK, &all, &before, 8);
    return before;
}

void guard_release(uint64_t mask)
{
    SYS(rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}

/* ---- what the program sets ---- */

static bool has_bus(const sigset_t *set)
{
    return set && *(const unsigned long *)set & BUS_BIT;
}

/* What the kernel is given for another signal: a mask without SIGBUS. Return: whether it had it. */
static bool unmask(int number, struct sigaction *action)
{
    uint64_t bit = 1ull << (number - 1);
    bool had = atomic_load(&masks) & bit;
    bool has = action && has_bus(&action->sa_mask);
    if (!action || (!had && !has) || !random_same_process())
        return had;
    if (has) {
        atomic_fetch_or(&masks, bit);
        *(unsigned long *)&action->sa_mask &= ~BUS_BIT;
    } else {
        atomic_fetch_and(&masks, ~bit);
    }
    return had;
}

/* As sigaction(2), with the program's actions. @old is set if the call succeeds. */
static int exchange(int number, struct sigaction *action, struct sigaction *old)
{
    bool is_bus = number == SIGBUS && atomic_load(&installed);
    bool had = false;
    if (is_bus && action && action->sa_handler == SIG_IGN)
        atomic_fetch_or(&alert, IGNORED);
    else if (is_bus && action)
        standin_put(action);
    else if (number != SIGBUS && number > 0 && number <= 64)
        had = unmask(number, action);
    int result = real.sigaction(number, action, old);
    if (result == 0 && is_bus)
        standin_take(old);
    if (result == 0 && had)
        *(unsigned long *)&old->sa_mask |= BUS_BIT;
    return result;
}

SHIM_EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    struct sigaction its, before;
    if (!real.sigaction)
        real_init_signals();
    if (!real.sigaction) {
        errno = ENOSYS;
        return -1;
    }
    if (action)
        its = *action;
    int result = exchange(number, action ? &its : NULL, &before);
    if (result == 0 && old)
        *old = before;
    return result;
}

static handler_one set_simply(handler_one (*next)(int, handler_one), int number,
                              handler_one handler, int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct sigaction old;
    if (next && (number != SIGBUS || !atomic_load(&installed)))
        return next(number, handler);
    if (flags == SA_RESTART && __sigaction) { /* as glibc's signal() has it */
        *(unsigned long *)&action.sa_mask = 1ul << (number - 1);
        action.sa_flags = number == SIGBUS && atomic_load(&interrupts) ? 0 : flags;
    }
    return sigaction(number, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

#define SYSTEM_V ((int)SA_RESETHAND | SA_NODEFER)

/* sys/cdefs.h and signal.h declare these variously, or not. */
handler_one bsd_signal(int number, handler_one handler);
handler_one ssignal(int number, handler_one handler);
handler_one sysv_signal(int number, handler_one handler);
handler_one __sysv_signal(int number, handler_one handler);

SHIM_EXPORT handler_one signal(int number, handler_one handler)
{
    return set_simply(real.signal, number, handler, SA_RESTART);
}

SHIM_EXPORT handler_one bsd_signal(int number, handler_one handler)
{
    return set_simply(real.signal, number, handler, SA_RESTART);
}

SHIM_EXPORT handler_one ssignal(int number, handler_one handler)
{
    return set_simply(real.signal, number, handler, SA_RESTART);
}

SHIM_EXPORT handler_one sysv_signal(int number, handler_one handler)
{
    return set_simply(real.__sysv_signal, number, handler, SYSTEM_V);
}

SHIM_EXPORT handler_one __sysv_signal(int number, handler_one handler)
{
    return set_simply(real.__sysv_signal, number, handler, SYSTEM_V);
}

/* sigset(3): SIG_HOLD, and a signal that was held, are masks. */
SHIM_EXPORT handler_one sigset(int number, handler_one handler)
{
    struct sigaction action = {.sa_handler = handler}, old;
    sigset_t set, before;
    if (real.sigset && (number != SIGBUS || !atomic_load(&installed)))
        return real.sigset(number, handler);
    memset(&set, 0, sizeof(set));
    *(unsigned long *)&set = 1ul << (number - 1);
    bool hold = handler == SIG_HOLD;
    if (sigaction(number, hold ? NULL : &action, &old) != 0 ||
        sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, &before) != 0)
        return SIG_ERR;
    return has_bus(&before) ? SIG_HOLD : old.sa_handler;
}

SHIM_EXPORT int sigignore(int number)
{
    struct sigaction action = {.sa_handler = SIG_IGN};
    return sigaction(number, &action, NULL);
}

SHIM_EXPORT int siginterrupt(int number, int interrupt)
{
    struct sigaction now;
    if (number == SIGBUS)
        atomic_store(&interrupts, interrupt != 0);
    if (real.siginterrupt)
        return real.siginterrupt(number, interrupt);
    if (sigaction(number, NULL, &now) != 0)
        return -1;
    now.sa_flags = interrupt ? now.sa_flags & ~SA_RESTART : now.sa_flags | SA_RESTART;
    return sigaction(number, &now, NULL);
}

/* ---- what the program blocks ---- */

SHIM_EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    sigset_t unused;
    note(how != SIG_UNBLOCK && has_bus(set));
    return real.sigprocmask ? real.sigprocmask(how, set, old)
                            : (int)SYS_BARE(rt_sigprocmask, how, set, old ? old : &unused, 8);
}

SHIM_EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    note(how != SIG_UNBLOCK && has_bus(set));
    return real.pthread_sigmask ? real.pthread_sigmask(how, set, old)
                                : (int)-SYS(rt_sigprocmask, how, set, old, 8);
}

/* Calls that block it for some time, in which handlers run, or for a new thread; older kin. */
#define WATCH(name, blocks, parameters, ...)                                                       \
    SHIM_EXPORT int name parameters                                                                \
    {                                                                                              \
        note(blocks);                                                                              \
        int result = real.name(__VA_ARGS__);                                                       \
        open_ms = 0; /* the mask is another one again */                                           \
        return result;                                                                             \
    }

int sigblock(int mask);
int sigsetmask(int mask);
int pthread_attr_setsigmask_np(pthread_attr_t *attr, const sigset_t *set);

WATCH(sighold, number == SIGBUS, (int number), number)
WATCH(sigblock, mask & (int)BUS_BIT, (int mask), mask)
WATCH(sigsetmask, mask & (int)BUS_BIT, (int mask), mask)
WATCH(sigsuspend, has_bus(set), (const sigset_t *set), set)
WATCH(ppoll, has_bus(set),
      (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *set), fds,
      count, timeout, set)
WATCH(pselect, has_bus(set),
      (int count, fd_set *in, fd_set *out, fd_set *other, const struct timespec *timeout,
       const sigset_t *set),
      count, in, out, other, timeout, set)
WATCH(epoll_pwait, has_bus(set),
      (int fd, struct epoll_event *events, int most, int timeout, const sigset_t *set), fd, events,
      most, timeout, set)
WATCH(epoll_pwait2, has_bus(set),
      (int fd, struct epoll_event *events, int most, const struct timespec *timeout,
       const sigset_t *set),
      fd, events, most, timeout, set)
WATCH(pthread_attr_setsigmask_np, has_bus(set), (pthread_attr_t * attr, const sigset_t *set), attr,
      set)
