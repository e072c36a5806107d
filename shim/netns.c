/* SPDX-License-Identifier: MIT */
/*
 * Which network namespace a socket is in, and being counted there as alive (holder.h).
 *
 * A socket belongs to the namespace that its thread was in when it was made, for ever. The socket
 * itself can be asked (SO_NETNS_COOKIE), and is, with one exception that saves a system call in most
 * connects: a socket that socket() has made in this tick of the clock (some ms) is where the last
 * such one was, if the process has never called setns() or unshare(). Wrong can that be about a
 * child that clone(CLONE_NEWNET) made, a bare setns(), or a socket received at the number of one
 * that was closed unseen, and all that within one tick. Then the lease is the wrong namespace's:
 * no clash comes of it before that one is reconciled and the quarantine is over.
 */
#include "shim.h"

#include <sched.h>

#define LOCK_YIELDS 1000 /* then by naps of 1 ms */
#define LOCK_NAPS 100 /* joining takes a few ms; somebody is stopped in the middle of it */
#define FORK_NAPS 20
#define IDLE_MS 60000 /* an entry without a connection ends after that */
#define IDLE_FULL_MS 100 /* or after that, if all are taken */

static uint64_t owner_mask; /* the signals that the owner had blocked */
static _Atomic uint64_t owner; /* pid << 32 | tid of the thread that is joining; 0: nobody */
static _Atomic uint32_t wanders; /* the process changes namespaces: ask every socket */
static _Atomic uint64_t seen; /* the last fresh socket: tick << 9 | rule << 4 | entry */

/* What a wait for the lock may meet. */
enum holding { HELD_BY_OTHER, HELD_BY_ME, HELD_BY_OTHER_PROCESS };

static enum holding holding(uint64_t now, uint64_t mine)
{
    if (now == mine)
        return HELD_BY_ME; /* a handler for a fault in the pool connects */
    return now >> 32 == mine >> 32 ? HELD_BY_OTHER : HELD_BY_OTHER_PROCESS;
}

/*
 * Nothing may come in between while the lock is held: a handler that leaves by longjmp(), or a
 * cancellation, would keep it for ever. A fault is no such thing.
 */
static uint64_t mask_all(void)
{
    uint64_t all = ~0ull, before = 0;
    static const uint8_t faults[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof(faults); i++)
        all &= ~(1ull << (faults[i] - 1));
    SYS(rt_sigprocmask, SIG_BLOCK, &all, &before, 8);
    return before;
}

static bool lock(void)
{
    uint64_t mine = (uint64_t)SYS(getpid) << 32 | (uint64_t)SYS(gettid);
    for (unsigned tries = 0;; tries++) {
        uint64_t now = 0;
        if (atomic_compare_exchange_strong(&owner, &now, mine))
            return true;
        enum holding who = holding(now, mine);
        /* Forked in the middle: the owner is not in this process. (A vfork child may meet its
         * parent's owner, who needs less than this wait.) */
        if (who == HELD_BY_OTHER_PROCESS && tries >= LOCK_YIELDS + FORK_NAPS &&
            atomic_compare_exchange_strong(&owner, &now, mine))
            return true;
        if (who == HELD_BY_ME || tries >= LOCK_YIELDS + LOCK_NAPS)
            return false;
        if (tries < LOCK_YIELDS)
            SYS(sched_yield);
        else
            SYS(nanosleep, &(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

bool netns_lock(void)
{
    uint64_t mask = mask_all();
    if (lock()) {
        owner_mask = mask;
        return true;
    }
    SYS(rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
    return false;
}

void netns_unlock(void)
{
    uint64_t mask = owner_mask;
    atomic_store(&owner, 0);
    SYS(rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}

static uint32_t unused_entry(const struct shim_pool *at)
{
    for (uint32_t i = 0; i < SHIM_NETNS; i++)
        if (!atomic_load(&at->netns[i].cookie))
            return i;
    return SHIM_NETNS;
}

/*
 * An agent that enters one namespace after another would keep all of them alive as holders, also those
 * that have ended. So who joins another one leaves those that it met later than its own, and has not
 * been in for a while, and has no connection in that it knows of.
 */
static void leave_idle(struct shim_pool *at)
{
    uint64_t now = sys_now_ms();
    uint64_t idle = unused_entry(at) == SHIM_NETNS ? IDLE_FULL_MS : IDLE_MS;
    for (uint32_t i = 0; i < SHIM_NETNS; i++) {
        struct shim_netns *netns = &at->netns[i];
        if (!atomic_load(&netns->cookie) || !netns->anchor ||
            now - atomic_load(&netns->used) < idle || hint_has_netns(i))
            continue;
        atomic_store(&netns->cookie, 0);
        SYS(munmap, netns->anchor, 1);
    }
}

/* The namespace that this thread is in; 0 if that cannot be found out. */
static uint64_t own_cookie(void)
{
    int sock = (int)SYS(socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return 0;
    uint64_t cookie = holder_netns(sock);
    SYS(close, sock);
    return cookie;
}

bool netns_is_own(const struct shim_netns *netns)
{
    return own_cookie() == atomic_load(&netns->cookie);
}

/* Joins the namespace @cookie. @fd: an open pool file, kept open by a mapping of the caller's. */
static struct shim_netns *join(struct shim_pool *at, int fd, uint64_t cookie, uintptr_t anchor,
                               bool *is_new)
{
    uint32_t index = unused_entry(at);
    if (index == SHIM_NETNS) {
        fault_set(shim.path, "one process uses more than 16 network namespaces at a time");
        return NULL;
    }
    int slot = holder_join(&at->pool, fd, cookie, is_new);
    if (slot < 0) {
        fault_set(shim.path, slot == -ENOSPC ? "1024 network namespaces use it already"
                                             : pool_strerror(slot));
        return NULL;
    }
    struct shim_netns *netns = &at->netns[index];
    netns->slot = (uint32_t)slot;
    netns->anchor = anchor;
    atomic_store(&netns->used, sys_now_ms());
    atomic_store(&netns->local, 0); /* read when it is needed */
    atomic_store(&netns->by_bind, 0);
    atomic_store(&netns->stamps, 0);
    atomic_store(&netns->lingers, 0);
    atomic_store(&netns->compared, 0);
    atomic_store_explicit(&netns->cookie, cookie, memory_order_release);
    return netns;
}

/*
 * A namespace that is new to the pool may have connections that the pool does not know of: they are
 * taken in. So may one that is known, if this process comes from another pool at the same path.
 */
void netns_join_own(struct shim_pool *at, int fd)
{
    /* The lock must outlive the other mapping of this open file, if that is torn. */
    SYS(mmap, NULL, 1, PROT_NONE, MAP_SHARED, fd, 0);
    bool is_new = false;
    uint64_t cookie = own_cookie();
    atomic_store(&seen, 0); /* entries of another pool */
    /* If it cannot be found out, the first connection's socket will do. */
    struct shim_netns *netns = cookie ? join(at, fd, cookie, 0, &is_new) : NULL;
    if (netns && (is_new || atomic_load(&shim.current)))
        lease_reconcile(&at->pool, netns->slot, sys_now_ms());
}

/* A namespace met later (setns, a socket passed from elsewhere): its lock needs its own open file. */
static struct shim_netns *join_later(struct shim_pool *at, uint64_t cookie)
{
    bool is_new = false;
    struct shim_netns *netns = NULL;
    leave_idle(at);
    int fd = pool_shares_open(shim.path, &at->pool, O_RDWR);
    if (fd < 0) {
        fault_set(shim.path, pool_strerror(fd));
        return NULL;
    }
    long anchor = SYS(mmap, NULL, 1, PROT_NONE, MAP_SHARED, fd, 0);
    bool mapped = anchor > 0 || anchor < -4095;
    if (mapped)
        netns = join(at, fd, cookie, (uintptr_t)anchor, &is_new);
    if (!netns && mapped)
        SYS(munmap, anchor, 1);
    SYS(close, fd);
    if (netns && is_new && netns_is_own(netns))
        lease_reconcile(&at->pool, netns->slot, sys_now_ms());
    return netns;
}

static _Atomic uint64_t mended_ms;

static bool mend(struct shim_pool *at, int fd)
{
    uint64_t now = sys_now_ms(), before = atomic_load(&mended_ms);
    uint32_t torn = atomic_exchange(&at->torn, 0); /* before: what tears it from now on says so again */
    if (torn & TORN_AWAY && SYS(mmap, at->pool.counters, at->pool.shared_size, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_FIXED, fd, 0) != (long)at->pool.counters) {
        atomic_fetch_or(&at->torn, torn);
        return false;
    }
    for (uint32_t i = 0; i < SHIM_NETNS; i++) {
        if (!atomic_load(&at->netns[i].cookie))
            continue;
        holder_restore(&at->pool, at->netns[i].slot, atomic_load(&at->netns[i].cookie));
        if (now - before >= 1000 && netns_is_own(&at->netns[i])) {
            atomic_store(&mended_ms, now);
            lease_reconcile(&at->pool, at->netns[i].slot, now);
        }
    }
    fault_clear();
    return true;
}

bool netns_mend(struct shim_pool *at)
{
    if (!netns_lock())
        return false;
    int fd = atomic_load(&at->torn) ? pool_shares_open(shim.path, &at->pool, O_RDWR) : -EALREADY;
    bool mended = fd == -EALREADY || (fd >= 0 && mend(at, fd));
    if (fd >= 0)
        SYS(close, fd);
    if (!mended)
        fault_set(shim.path, "its shares were truncated, and are out of reach");
    netns_unlock();
    return mended;
}

static struct shim_netns *find(struct shim_pool *at, uint64_t cookie)
{
    for (uint32_t i = 0; i < SHIM_NETNS; i++) {
        uint64_t known = atomic_load_explicit(&at->netns[i].cookie, memory_order_acquire);
        if (known != cookie)
            continue;
        atomic_store_explicit(&at->netns[i].used, sys_now_ms(), memory_order_relaxed);
        return &at->netns[i];
    }
    return NULL;
}

static struct shim_netns *find_or_join(struct shim_pool *at, uint64_t cookie)
{
    struct shim_netns *netns = find(at, cookie);
    if (netns || !netns_lock())
        return netns;
    netns = find(at, cookie);
    if (!netns)
        netns = join_later(at, cookie);
    netns_unlock();
    return netns;
}

struct shim_netns *netns_of(struct shim_pool *at, int fd)
{
    uint64_t cookie = holder_netns(fd);
    if (cookie)
        return find_or_join(at, cookie);
    /* Nobody says; but a process that has not gone elsewhere is where it was when it started. */
    if (atomic_load(&at->netns[0].cookie) && !at->netns[0].anchor && !atomic_load(&wanders))
        return &at->netns[0];
    fault_set("SO_NETNS_COOKIE", "the program may not ask in which network namespace a socket is");
    return NULL;
}

/* What is remembered in @seen, without the entry. */
static uint64_t seen_at(uint64_t now, uint32_t rule)
{
    return now << 5 | (rule & (POLICY_RULES - 1));
}

_Static_assert(POLICY_RULES == 32 && SHIM_NETNS == 16, "seen has 5 bits for one, 4 for the other");

struct shim_netns *netns_of_fresh(struct shim_pool *at, int fd, uint64_t now, uint32_t rule,
                                  bool *sure)
{
    uint64_t last = atomic_load_explicit(&seen, memory_order_relaxed);
    struct shim_netns *netns = &at->netns[last & (SHIM_NETNS - 1)];
    *sure = last >> 4 == seen_at(now, rule) &&
            !atomic_load_explicit(&wanders, memory_order_relaxed) &&
            atomic_load_explicit(&netns->cookie, memory_order_acquire);
    return *sure ? netns : netns_of(at, fd);
}

void netns_remember(const struct shim_pool *at, const struct shim_netns *netns, uint64_t now,
                    uint32_t rule)
{
    if (!atomic_load_explicit(&wanders, memory_order_relaxed))
        atomic_store_explicit(&seen, seen_at(now, rule) << 4 | (uint64_t)(netns - at->netns),
                              memory_order_relaxed);
}

static void wander(void)
{
    atomic_store(&wanders, 1);
    atomic_store(&seen, 0);
}

SHIM_EXPORT int setns(int fd, int kind)
{
    wander();
    return real.setns(fd, kind);
}

SHIM_EXPORT int unshare(int flags)
{
    if (flags & CLONE_NEWNET)
        wander();
    return real.unshare(flags);
}
