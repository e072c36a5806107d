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
#define IDLE_MS 10000 /* an entry without a connection ends after that */
#define IDLE_FULL_MS 100 /* or after that, if all are taken; who needs one waits for it */

#define UNKNOWN \
    "SO_NETNS_COOKIE", "the program may not ask in which network namespace a socket is"

static uint64_t owner_mask; /* the signals that the owner had blocked */
static _Atomic uint64_t owner; /* pid << 32 | tid of the thread that is joining; 0: nobody */
static _Atomic uint32_t wanders; /* the process changes namespaces: ask every socket */
static _Atomic uint64_t seen; /* the last fresh socket: tick << 10 | bound << 9 | rule << 4 | entry */

/* What a wait for the lock may meet. */
enum holding { HELD_BY_OTHER, HELD_BY_ME, HELD_BY_OTHER_PROCESS };

static enum holding holding(uint64_t now, uint64_t mine)
{
    if (now == mine)
        return HELD_BY_ME; /* a handler for a fault in the pool connects */
    return now >> 32 == mine >> 32 ? HELD_BY_OTHER : HELD_BY_OTHER_PROCESS;
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
    uint64_t mask = guard_hold();
    if (lock()) {
        owner_mask = mask;
        return true;
    }
    guard_release(mask);
    return false;
}

void netns_unlock(void)
{
    uint64_t mask = owner_mask;
    atomic_store(&owner, 0);
    guard_release(mask);
}

bool netns_locked(void)
{
    return atomic_load(&owner) != 0;
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
 * that have ended. So a process leaves those that it met later than its own, and has not been in for a
 * while, and has no connection in that it knows of: when it joins another one, and with one of its
 * connects in each second.
 */
static bool is_idle(const struct shim_netns *netns, uint64_t now, uint64_t idle)
{
    return atomic_load(&netns->cookie) && netns->later && now - atomic_load(&netns->used) >= idle;
}

static void leave_idle(struct shim_pool *at, uint64_t idle)
{
    uint64_t now = sys_now_ms();
    for (uint32_t i = 0; i < SHIM_NETNS; i++) {
        struct shim_netns *netns = &at->netns[i];
        if (!is_idle(netns, now, idle) || hint_has_netns(i))
            continue;
        atomic_store(&netns->cookie, 0);
        SYS(munmap, netns->anchor, 1);
    }
}

void netns_leave_idle(struct shim_pool *at, uint64_t now)
{
    bool any = false;
    for (uint32_t i = 0; i < SHIM_NETNS; i++)
        any |= is_idle(&at->netns[i], now, IDLE_MS);
    if (!any || !netns_lock())
        return;
    leave_idle(at, IDLE_MS);
    netns_unlock();
}

/* Makes room. It takes some ms only if all entries were used a short while ago. */
static void leave_some(struct shim_pool *at)
{
    leave_idle(at, IDLE_MS);
    for (int ms = 0; unused_entry(at) == SHIM_NETNS && ms <= IDLE_FULL_MS; ms++) {
        if (ms)
            SYS(nanosleep, &(struct timespec){.tv_nsec = 1000000}, NULL);
        leave_idle(at, IDLE_FULL_MS);
    }
}

uint64_t netns_own(void)
{
    uint64_t cookie = 0;
    uint64_t mask = guard_hold();
    int sock = (int)SYS(socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock >= 0) {
        cookie = holder_netns(sock);
        SYS(close, sock);
    }
    guard_release(mask);
    return cookie;
}

bool netns_is_own(const struct shim_netns *netns)
{
    uint64_t own = netns_own();
    own = own ? own : holder_netns_thread(); /* no descriptor is left */
    return own && (own == atomic_load(&netns->cookie) || own == netns->inode);
}

/*
 * Keeps an open file, and so its lock, by a mapping that nobody touches. For people who look into
 * /proc/PID/maps its offset says which slot: from there fixport-pool knows who keeps a holder alive.
 * Return: 0 if there is no memory.
 */
static uintptr_t anchor_slot(int fd, uint32_t slot)
{
    long at = SYS(mmap, NULL, 1, PROT_NONE, MAP_SHARED, fd, (slot + 1) * POOL_ANCHOR_STEP);
    return at > 0 || at < -4095 ? (uintptr_t)at : 0;
}

/* Joins the namespace @cookie. @fd: an open pool file; @later: that nothing keeps open but an anchor. */
static struct shim_netns *join(struct shim_pool *at, int fd, uint64_t cookie, bool later,
                               bool *is_new)
{
    uint32_t index = unused_entry(at);
    if (index == SHIM_NETNS) {
        fault_set(shim.path, "one process uses more than 16 network namespaces at a time");
        return NULL;
    }
    int slot = holder_join(&at->pool, fd, cookie, is_new);
    if (slot < 0) {
        fault_set(shim.path, sys_may_not(slot) ? "the program may not lock its part of it (fcntl)"
                                               : pool_strerror(slot));
        return NULL;
    }
    uintptr_t anchor = anchor_slot(fd, (uint32_t)slot);
    if (later && !anchor) {
        fault_set(shim.path, pool_strerror(-ENOMEM));
        return NULL;
    }
    struct shim_netns *netns = &at->netns[index];
    netns->slot = (uint32_t)slot;
    netns->generation = atomic_load(&at->pool.header->generation);
    netns->inode = 0;
    netns->later = later;
    netns->anchor = anchor;
    if (atomic_load(&netns->memory)) /* of the namespace that had this entry */
        SYS(madvise, atomic_load(&netns->memory), at->pool.shared_size, MADV_DONTNEED);
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
 * Children of the process go on with what is known of its own namespace. An entry that is met later may
 * become another namespace's, but not in the children: their memory is their own.
 */
static bool apart_map(struct shim_pool *at, struct shim_netns *netns)
{
    int how = MAP_ANONYMOUS | MAP_NORESERVE | (netns->later ? MAP_PRIVATE : MAP_SHARED);
    long memory = SYS(mmap, NULL, at->pool.shared_size, PROT_READ | PROT_WRITE, how, -1, 0);
    if (memory < 0 && memory > -4096) {
        fault_set(shim.path, pool_strerror(pool_map_error(memory)));
        return false;
    }
    pool_apart(&at->pool, (void *)memory, (uint64_t)random_next() << 32 | random_next(), &netns->apart);
    atomic_store_explicit(&netns->memory, (uintptr_t)memory, memory_order_release);
    lock_spare(at);
    return true;
}

/* Whether any rule needs memory of this process: it is made before a program can lock all it gets. */
static bool has_apart(const struct pool *pool)
{
    const struct policy *policy = pool_policy_now(pool);
    for (uint32_t i = 0; i < policy->rule_count && i < POLICY_RULES; i++)
        if (policy->rule[i].scope == POLICY_ADDRESS)
            return true;
    return false;
}

/*
 * A namespace that is new to the pool may have connections that the pool does not know of: they are
 * taken in. So may one that is known, if this process comes from another pool at the same path.
 */
void netns_join_own(struct shim_pool *at, int fd, uint64_t cookie)
{
    bool is_new = false;
    atomic_store(&seen, 0); /* entries of another pool */
    /* If it cannot be found out, the first connection's socket will do. */
    struct shim_netns *netns = cookie ? join(at, fd, cookie, false, &is_new) : NULL;
    if (netns)
        netns->inode = holder_netns_thread(); /* in case that sockets may not be asked later */
    if (netns && has_apart(&at->pool))
        apart_map(at, netns); /* if it fails, a connection says so */
    if (netns && (is_new || atomic_load(&shim.current)))
        lease_reconcile(&at->pool, netns->slot, sys_now_ms());
}

const struct pool *netns_pool(struct shim_pool *at, struct shim_netns *netns, uint8_t scope)
{
    if (scope == POLICY_NODE)
        return &at->pool;
    if (atomic_load_explicit(&netns->memory, memory_order_acquire))
        return &netns->apart;
    if (!netns_lock()) {
        fault_set(shim.path, "another thread is at it, and does not go on");
        return NULL;
    }
    bool mapped = atomic_load(&netns->memory) || apart_map(at, netns);
    netns_unlock();
    return mapped ? &netns->apart : NULL;
}

/* A namespace met later (setns, a socket passed from elsewhere): its lock needs its own open file. */
static struct shim_netns *join_later(struct shim_pool *at, uint64_t cookie)
{
    bool is_new = false;
    struct shim_netns *netns = NULL;
    leave_some(at);
    int fd = pool_file_open(shim.path, &at->pool);
    if (fd < 0) {
        fault_set(shim.path, pool_strerror(fd));
        return NULL;
    }
    netns = join(at, fd, cookie, true, &is_new);
    SYS(close, fd);
    if (netns && is_new && netns_is_own(netns))
        lease_reconcile(&at->pool, netns->slot, sys_now_ms());
    return netns;
}

static _Atomic uint64_t mended_ms;

/* Return: 0 or -errno of mmap(2). */
static int mend(struct shim_pool *at, int fd)
{
    uint64_t now = sys_now_ms(), before = atomic_load(&mended_ms);
    uint32_t torn = atomic_exchange(&at->torn, 0); /* before: what tears it from now on says so again */
    long mapped = (long)at->pool.counters;
    if (torn & TORN_AWAY)
        mapped = SYS(mmap, at->pool.counters, at->pool.shared_size, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_FIXED, fd, 0);
    if (mapped != (long)at->pool.counters) {
        atomic_fetch_or(&at->torn, torn);
        return pool_map_error(mapped);
    }
    lock_spare(at);
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
    return 0;
}

bool netns_mend(struct shim_pool *at)
{
    if (!netns_lock())
        return false;
    int fd = atomic_load(&at->torn) ? pool_shares_open(shim.path, &at->pool, O_RDWR) : -EALREADY;
    int result = fd < 0 ? fd : pool_shares_allocate(&at->pool, fd);
    if (fd >= 0 && !result)
        result = mend(at, fd);
    if (fd >= 0)
        SYS(close, fd);
    bool mended = !result || result == -EALREADY;
    if (!mended)
        fault_set(shim.path, result == -ENOLINK ? "its shares were truncated, and are out of reach"
                                                : pool_strerror(result));
    netns_unlock();
    return mended;
}

static struct shim_netns *find(struct shim_pool *at, uint64_t cookie)
{
    for (uint32_t i = 0; i < SHIM_NETNS; i++) {
        uint64_t known = atomic_load_explicit(&at->netns[i].cookie, memory_order_acquire);
        if (!known || (known != cookie && at->netns[i].inode != cookie))
            continue;
        atomic_store_explicit(&at->netns[i].used, sys_now_ms(), memory_order_relaxed);
        return &at->netns[i];
    }
    return NULL;
}

static struct shim_netns *find_or_join(struct shim_pool *at, uint64_t cookie)
{
    struct shim_netns *netns = find(at, cookie);
    if (netns)
        return netns;
    if (!netns_lock()) {
        fault_set(shim.path, "another thread is at it, and does not go on");
        return NULL;
    }
    netns = find(at, cookie);
    if (!netns)
        netns = join_later(at, cookie);
    netns_unlock();
    return netns;
}

struct shim_netns *netns_of(struct shim_pool *at, int fd)
{
    uint64_t cookie = holder_netns(fd);
    struct shim_netns *own = &at->netns[0];
    bool unsaid = !cookie || (cookie >> 63 && !own->inode);
    /* Nobody says; but a process that has not gone elsewhere is where it was when it started. */
    if (unsaid && atomic_load(&own->cookie) && !own->later && !atomic_load(&wanders))
        return own;
    if (cookie)
        return find_or_join(at, cookie);
    fault_set(UNKNOWN);
    return NULL;
}

void netns_check(const struct shim_pool *at)
{
    if (!atomic_load(&at->netns[0].cookie) && !netns_own())
        fault_set(UNKNOWN);
}

/* What is remembered in @seen, without the entry. */
static uint64_t seen_at(uint64_t now, uint32_t rule, bool bound)
{
    return now << 6 | (uint64_t)bound << 5 | (rule & (POLICY_RULES - 1));
}

_Static_assert(POLICY_RULES == 32 && SHIM_NETNS == 16, "seen has 5 bits for one, 4 for the other");

struct shim_netns *netns_of_fresh(struct shim_pool *at, int fd, uint64_t now, uint32_t rule,
                                  bool *sure)
{
    uint64_t last = atomic_load_explicit(&seen, memory_order_relaxed);
    struct shim_netns *netns = &at->netns[last & (SHIM_NETNS - 1)];
    bool by_range = last >> 4 == seen_at(now, rule, false);
    bool known = (by_range || last >> 4 == seen_at(now, rule, true)) &&
                 !atomic_load_explicit(&wanders, memory_order_relaxed) &&
                 atomic_load_explicit(&netns->cookie, memory_order_acquire);
    *sure = known && by_range;
    return known ? netns : netns_of(at, fd);
}

void netns_remember(const struct shim_pool *at, const struct shim_netns *netns, uint64_t now,
                    uint32_t rule, bool bound)
{
    if (!atomic_load_explicit(&wanders, memory_order_relaxed))
        atomic_store_explicit(&seen, seen_at(now, rule, bound) << 4 | (uint64_t)(netns - at->netns),
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
