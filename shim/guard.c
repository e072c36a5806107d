/* SPDX-License-Identifier: MIT */
/*
 * A pool file can be truncated by whoever may write it, and the next touch of its mapping raises
 * SIGBUS. Nothing but a handler helps: sealing needs a memfd, which has no path that pods could
 * share. So while this library touches a pool, and from the first connection on that is given a
 * port, SIGBUS has a handler, if the program has none of its own. For a fault in a pool it puts
 * zeros there and the pool is given up; for any other it restores the default and lets the
 * instruction fault again, so that the program dies as it would have.
 */
#include "shim.h"
#include "../pool/layout_size.h"

#include <signal.h>

/* Whether a fault was in those @size bytes; then they are zeros from now on. */
static bool give_up(struct shim_pool *at, uintptr_t fault, const void *memory, size_t size)
{
    uintptr_t base = (uintptr_t)memory;
    if (!base || fault < base || fault - base >= size)
        return false;
    atomic_store(&at->broken, 1);
    SYS(mmap, base, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return true;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (int i = 0; i < SHIM_POOLS && info->si_code > 0; i++) {
        struct shim_pool *at = &shim_pools[i];
        if (give_up(at, address, at->pool.header, layout_pool_size()) ||
            give_up(at, address, at->pool.counters, at->pool.shared_size))
            return;
    }
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    sigaction(number, &fallback, NULL);
    if (info->si_code <= 0) { /* sent by kill(2): it does not come again by itself */
        long process = SYS(getpid);
        long thread = SYS(gettid);
        SYS(tgkill, process, thread, number);
    }
}

static _Atomic uint32_t for_good;
static _Atomic uint32_t users; /* threads between guard_install() and guard_remove() */

static void handler_set(void)
{
    struct sigaction before;
    struct sigaction ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int saved = errno;
    if (sigaction && sigaction(SIGBUS, NULL, &before) == 0 && !(before.sa_flags & SA_SIGINFO) &&
        before.sa_handler == SIG_DFL)
        sigaction(SIGBUS, &ours, NULL);
    errno = saved;
}

static bool needed(void)
{
    return atomic_load(&users) || atomic_load(&for_good);
}

static void handler_reset(void)
{
    struct sigaction now;
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    int saved = errno;
    if (sigaction && sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
        now.sa_sigaction == on_sigbus)
        sigaction(SIGBUS, &fallback, NULL);
    errno = saved;
}

void guard_install(void)
{
    atomic_fetch_add(&users, 1);
    handler_set();
}

void guard_remove(void)
{
    atomic_fetch_sub(&users, 1);
    if (needed())
        return;
    handler_reset();
    if (needed())
        handler_set(); /* another thread has come to need it in between */
}

void guard_once(void)
{
    if (!atomic_load_explicit(&for_good, memory_order_relaxed) && !atomic_exchange(&for_good, 1))
        handler_set();
}
