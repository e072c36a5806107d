/* SPDX-License-Identifier: MIT */
/*
 * The shares of a pool can be truncated by whoever may write them, and the next touch of their
 * mapping raises SIGBUS. Nothing but a handler helps: sealing needs a memfd, which has no path that
 * pods could share, and chattr(1) +a forbids the mapping too. So SIGBUS has a handler from the
 * moment on that a pool is opened, for good. For a fault in a pool it puts zeros there, and the
 * pool is mapped again when it is next asked for (init.c). What else comes is the program's: it
 * goes to the handler that the program has set, or restores the default, with which it comes again.
 *
 * What the program sets for SIGBUS is remembered here, and is what it is told when it asks; its
 * mask and its flags are the kernel's to know. A child of vfork(2) sets handlers for itself, in its
 * parent's memory: its own go to the kernel as they are.
 *
 * A thread that has SIGBUS blocked would be killed by it. Most programs never block it; where one
 * has (by sigprocmask(), pthread_sigmask(), or from the start), it is let through for the time that
 * a pool is looked at. Many block all signals for a moment only, while they start a child: so a
 * thread that turns out not to have it blocked is not asked again in the same tick of the clock.
 */
#include "shim.h"
#include "../pool/layout_size.h"

#include <signal.h>

#define BUS_BIT (1ull << (SIGBUS - 1)) /* in the kernel's set of signals */
#define WITH_INFO (1ull << 63)         /* the program's handler takes three arguments */
#define ONCE (1ull << 62)              /* and is for one time (SA_RESETHAND) */
#define LENGTHEN_TIMES 1000            /* in the life of an attachment */

typedef void (*handler_one)(int);
typedef void (*handler_three)(int, siginfo_t *, void *);

static _Atomic uint64_t program; /* its handler for SIGBUS, with these bits; SIG_DFL is 0 */
static _Atomic uint32_t installed;
static _Atomic uint32_t blocked; /* some thread may have SIGBUS blocked */
/* When this thread had it not, ms. Its place is known when the program is loaded, without a call.
 */
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
    int fd = pool_shares_open(shim.path, &at->pool, O_RDWR);
    if (fd >= 0)
        SYS(close, fd);
    return fd >= 0;
}

/* Whether a fault was in some pool, and will not come again: there are zeros from now on. */
static bool is_ours(uintptr_t fault)
{
    for (int i = 0; i < SHIM_POOLS; i++) {
        struct shim_pool *at = &shim_pools[i];
        if (is_in(fault, at->pool.counters, at->pool.shared_size)) {
            bool zeros = put_zeros(at->pool.counters, at->pool.shared_size);
            if (!zeros && !lengthen(at))
                return false;
            atomic_fetch_or(&at->torn, zeros ? TORN_AWAY : TORN_EMPTIED);
            return true;
        }
        if (is_in(fault, at->pool.header, layout_pool_size())) {
            atomic_store(&at->broken, 1); /* its owner's doing */
            return put_zeros(at->pool.header, layout_pool_size());
        }
    }
    return false;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    if (info->si_code > 0 && is_ours((uintptr_t)info->si_addr))
        return;
    uint64_t its = atomic_load(&program);
    uintptr_t address = (uintptr_t)(its & ~(WITH_INFO | ONCE));
    if (its & ONCE)
        atomic_store(&program, 0);
    if (address > (uintptr_t)SIG_IGN) {
        if (its & WITH_INFO)
            ((handler_three)address)(number, info, context);
        else
            ((handler_one)address)(number);
        return;
    }
    if (address == (uintptr_t)SIG_IGN && info->si_code <= 0)
        return;
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    real.sigaction(number, &fallback, NULL);
    if (info->si_code <= 0) { /* sent by kill(2): it does not come again by itself */
        long process = SYS(getpid);
        long thread = SYS(gettid);
        SYS(tgkill, process, thread, number);
    }
}

static uint64_t pack(const struct sigaction *action)
{
    return (uint64_t)(uintptr_t)action->sa_handler |
           (action->sa_flags & SA_SIGINFO ? WITH_INFO : 0) |
           (action->sa_flags & SA_RESETHAND ? ONCE : 0);
}

/* An action of the program's with our handler in its place. */
static struct sigaction ours_for(const struct sigaction *action)
{
    struct sigaction ours = *action;
    ours.sa_sigaction = on_sigbus;
    ours.sa_flags = (int)((unsigned)(action->sa_flags | SA_SIGINFO) & ~(unsigned)SA_RESETHAND);
    if (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN)
        ours.sa_flags |= SA_ONSTACK;
    return ours;
}

void guard_install(void)
{
    struct sigaction before;
    uint64_t mask = 0;
    if (!real.sigaction || atomic_load(&installed))
        return;
    int saved = errno;
    if (real.sigaction(SIGBUS, NULL, &before) == 0) {
        struct sigaction ours = ours_for(&before);
        atomic_store(&program, pack(&before));
        if (random_same_process() && real.sigaction(SIGBUS, &ours, NULL) == 0)
            atomic_store(&installed, 1);
    }
    errno = saved;
    if (SYS(rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8) == 0 && mask & BUS_BIT)
        atomic_store(&blocked, 1);
}

bool guard_begin(void)
{
    uint64_t bus = BUS_BIT, before = 0;
    if (!atomic_load_explicit(&blocked, memory_order_relaxed))
        return false;
    uint64_t now = sys_now_ms();
    if (open_ms == now || SYS(rt_sigprocmask, SIG_UNBLOCK, &bus, &before, 8) != 0)
        return false;
    if (!(before & BUS_BIT))
        open_ms = now;
    return before & BUS_BIT;
}

void guard_end(bool was_blocked)
{
    uint64_t bus = BUS_BIT;
    if (was_blocked)
        SYS(rt_sigprocmask, SIG_BLOCK, &bus, NULL, 8);
}

/* ---- what the program sets ---- */

SHIM_EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    struct sigaction ours, before;
    if (!real.sigaction)
        real_init_signals();
    if (!real.sigaction) {
        errno = ENOSYS;
        return -1;
    }
    if (number != SIGBUS || !atomic_load(&installed) || !random_same_process())
        return real.sigaction(number, action, old);
    uint64_t its = atomic_load(&program);
    if (action) {
        ours = ours_for(action);
        its = atomic_exchange(&program, pack(action));
    }
    int result = real.sigaction(number, action ? &ours : NULL, &before);
    if (result < 0 && action)
        atomic_store(&program, its);
    if (result < 0 || !old)
        return result;
    *old = before;
    old->sa_handler = (handler_one)(uintptr_t)(its & ~(WITH_INFO | ONCE));
    old->sa_flags = (int)((unsigned)before.sa_flags & ~(unsigned)SA_SIGINFO) |
                    (its & WITH_INFO ? SA_SIGINFO : 0) | (its & ONCE ? (int)SA_RESETHAND : 0);
    return 0;
}

static handler_one set_simply(handler_one (*next)(int, handler_one), int number,
                              handler_one handler, int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct sigaction old;
    if (next && (number != SIGBUS || !atomic_load(&installed)))
        return next(number, handler);
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

static void note(int how, const sigset_t *set, int result)
{
    if (result != 0 || !set || how == SIG_UNBLOCK || !(*(const unsigned long *)set & BUS_BIT))
        return;
    open_ms = 0;
    atomic_store_explicit(&blocked, 1, memory_order_relaxed);
}

SHIM_EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    sigset_t unused;
    int result = real.sigprocmask ? real.sigprocmask(how, set, old)
                                  : (int)SYS_BARE(rt_sigprocmask, how, set, old ? old : &unused, 8);
    note(how, set, result);
    return result;
}

SHIM_EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    int result = real.pthread_sigmask ? real.pthread_sigmask(how, set, old)
                                      : (int)-SYS(rt_sigprocmask, how, set, old, 8);
    note(how, set, result);
    return result;
}
