/* SPDX-License-Identifier: MIT */
/*
 * When no port is left: compare with the kernel (the namespace's own leases that were closed
 * unseen), bury dead holders, look again; then what the rule says: fail, wait or pass.
 */
#include "attempt.h"

#define REFUSALS_MANY 256  /* a connect that met so many looks no further */
#define REFUSALS_LIST 64   /* a connect that met so many has the kernel list all */
#define ROUND_NAP_NS 50000 /* before it looks once more; then twice as long, and so on */
#define ROUNDS 6 /* 3 ms in all */
#define ROUNDS_OTHERS 10 /* 50 ms: another socket holds the port until it is connected */
#define ROUNDS_HELD 13 /* 400 ms: a thread of it may have to wait for a processor: lease_hold() */
#define BUDGET_NS 5000000  /* of our own work in one connect that meets with setbacks, and as much
                              again once the kernel was asked about all ports */
#define BUDGET_EVERY 16    /* refusals: a look at the clock is a system call */
#define COMPARE_MS 100     /* at most so often, whatever the pool says of the last time */
#define COMPARE_TIMES 3    /* in one connect that does not wait */
#define CROWD_SHARE 128 /* of the time goes into comparing for others, */
#define CROWD_MOST_MS 2000 /* but it is done so often at least */
#define CROWD_PRICE_MS 4000 /* on the long run one early comparison comes in so long a time, */
#define CROWD_CREDIT_MS 12000 /* but a burst may have those that it has not made before */

/*
 * Compares the namespace's leases with its sockets, if this thread can see them. Return: whether
 * that was done: a search is then worth while even if no port came free, because ports that were
 * closed a moment ago no longer stand among others that only seemed to be.
 */
static bool reconcile(struct attempt *attempt, uint64_t now)
{
    if (!netns_is_own(attempt->netns))
        return false;
    uint64_t mask = guard_hold();
    int found = lease_reconcile(attempt->pool, attempt->netns->slot, now);
    guard_release(mask);
    if (found < 0 && found != -EINTR)
        attempt->unknown = found;
    return found >= 0;
}

static uint64_t thread_ns(void)
{
    struct timespec used = {.tv_sec = 0};
    if (SYS(clock_gettime, CLOCK_THREAD_CPUTIME_ID, &used) != 0)
        SYS_CLOCK(CLOCK_MONOTONIC, &used); /* which is longer, and never refused */
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

/* Anybody can have others do more than they would, by what he writes to the pool; but not for ever.
 * Nobody else writes what is apart. */
bool lack_over_budget(struct attempt *attempt)
{
    if (attempt->pool->apart)
        return false;
    uint64_t now = thread_ns();
    if (!attempt->budget)
        attempt->budget = now;
    return now - attempt->budget > BUDGET_NS;
}

static bool comparison_due(const struct attempt *attempt, uint64_t now, uint32_t ms)
{
    uint64_t before = atomic_load_explicit(&attempt->netns->compared, memory_order_relaxed);
    const struct pool *pool = attempt->pool;
    return now - before >= ms &&
           (pool->apart || lease_reconcile_due(pool, attempt->netns->slot, now, ms)) &&
           atomic_compare_exchange_strong(&attempt->netns->compared, &before, now);
}

/* Looks for ports that are free and not known to be. Return: whether to search once more. */
static bool take_back(struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    uint64_t now = sys_now_ms();
    if (pool->apart && !attempt->waiting)
        return false; /* others cannot help, and try_again() asks */
    if (!pool->apart)
        lease_want(pool, now);
    if ((!attempt->waiting && attempt->taken_back++ >= COMPARE_TIMES) ||
        !comparison_due(attempt, now, COMPARE_MS))
        return false;
    uint64_t began = thread_ns();
    bool again = reconcile(attempt, now);
    attempt->budget += thread_ns() - began; /* nobody else can make that longer */
    if (pool->apart)
        return again;
    uint64_t mask = guard_hold();
    int fd = pool_file_open(shim.path, pool);
    if (fd >= 0) {
        again |= holder_bury_dead(pool, fd, false) > 0;
        SYS(close, fd);
    }
    guard_release(mask);
    return again;
}

/*
 * The program may not bind: it is in a sandbox, or the ports are privileged ones. That is no lack
 * of ports but a fault: FIXPORT_ON_ERROR says what becomes of the connection.
 */
static enum port_answer forbidden(struct attempt *attempt)
{
    shim_log("not-permitted", &attempt->dest, attempt->lease.port);
    fault_set("bind()", "the program may not give a socket a port of the range");
    enum port_answer answer = port_faulty(true);
    if (answer == PORT_PASS)
        counter_add(&attempt->pool->counters->passed);
    return answer;
}

static void log_lack(const struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    uint32_t holder;
    if (!shim_logs())
        return;
    uint32_t ms = lease_next_ms(&attempt->search, &holder);
    shim_log_next(attempt->ended == EINTR ? "interrupted" : "exhausted", &attempt->dest, ms,
                  holder >= 1 && holder <= POOL_HOLDERS ? pool->holder[holder - 1].host : NULL);
}

enum port_answer lack_exhausted(struct attempt *attempt)
{
    struct pool_counters *counters = attempt->pool->counters;
    counter_add(&counters->exhausted);
    put_range_back(attempt);
    if (attempt->forbidden)
        return forbidden(attempt);
    log_lack(attempt);
    if (attempt->unknown)
        fault_note("NETLINK_SOCK_DIAG",
                   sys_may_not(attempt->unknown)
                       ? "the program may not ask which connections there are"
                       : pool_strerror(attempt->unknown),
                   "; ports that were closed unseen are not taken back\n");
    if (attempt->verdict.exhausted != POLICY_PASS)
        return port_refuse(attempt);
    counter_add(&counters->passed);
    return PORT_PASS;
}

/*
 * Ports that were refused only because their last connection is just closing, or because another
 * thread is just connecting from them, come free any moment: a connection that may block looks a
 * few times more. A search tries some only of those that were let go, or no more because that has
 * taken long (a machine that is busy): so before it is refused, the kernel is asked about all of
 * them, however short a while ago that was. So it is where words are this process' own (lease.c:
 * addresses apart), and others may have closed what they had. Return: search again?
 */
static bool try_again(struct attempt *attempt, bool over)
{
    attempt->others |= attempt->search.passed_held;
    bool soon = !over && (attempt->soon || attempt->search.passed_held) && wait_may(attempt);
    bool untried = attempt->search.cut || attempt->pool->apart || (over && attempt->refusals);
    if (attempt->asked || !(soon || untried))
        return false;
    attempt->soon = false;
    uint32_t most = attempt->search.passed_held ? ROUNDS_HELD : attempt->others ? ROUNDS_OTHERS : ROUNDS;
    bool enough = attempt->rounds >= most || (!attempt->others && attempt->refusals > REFUSALS_MANY);
    if (!soon || enough) {
        attempt->asked = true;
        attempt->budget = 0;
        return reconcile(attempt, sys_now_ms());
    }
    SYS(nanosleep, &(struct timespec){.tv_nsec = ROUND_NAP_NS << attempt->rounds++}, NULL);
    return true;
}

/*
 * A search that begins again may have waited for minutes: the rules may be others by now, or the
 * pool be another, and the ports of the old one are not to be had any more.
 */
static enum port_answer search_again(struct attempt *attempt)
{
    uint64_t now = sys_now_ms();
    attempt->sure = false;
    atomic_store_explicit(&attempt->netns->used, now, memory_order_relaxed);
    put_range_back(attempt);
    return port_search(attempt, now);
}

/*
 * In words of its own a process does not see what others of its namespace have. After some refusals a
 * list is cheaper than to go on, and right.
 */
static enum port_answer list_early(struct attempt *attempt)
{
    if (!attempt->pool->apart || attempt->listed || attempt->refusals < REFUSALS_LIST)
        return PORT_READY;
    attempt->listed = true;
    return reconcile(attempt, sys_now_ms()) ? search_again(attempt) : PORT_READY;
}

/* Whether the rules have changed since the search, which may have made the address another server's. */
static bool is_outdated(const struct attempt *attempt)
{
    return attempt->verdict.generation != atomic_load(&attempt->at->pool.header->generation);
}

/* Takes the next port, or what to do instead: lack_next(), with signals held if it has waited. */
static enum port_answer next(struct attempt *attempt)
{
    enum port_answer answer = list_early(attempt);
    if (answer != PORT_READY)
        return answer;
    bool over = attempt->refusals % BUDGET_EVERY == BUDGET_EVERY - 1 && lack_over_budget(attempt);
    for (;;) {
        if (!over && lease_search_next(&attempt->search, &attempt->lease) == 0) {
            if (!is_outdated(attempt))
                return PORT_READY;
            lease_return(attempt->pool, &attempt->lease, sys_now_ms());
            answer = search_again(attempt);
            if (answer != PORT_READY)
                return answer;
            continue;
        }
        if (attempt->forbidden || port_has(attempt))
            return port_has(attempt) ? port_already_bound(attempt) : lack_exhausted(attempt);
        over = lack_over_budget(attempt);
        /* Who waits goes on comparing: that is limited in time (comparison_due()). */
        bool again = ((!over || attempt->waiting) && take_back(attempt)) ||
                     try_again(attempt, over) || wait_more(attempt);
        over = false;
        answer = again ? search_again(attempt) : lack_exhausted(attempt);
        if (answer != PORT_READY)
            return answer;
    }
}

enum port_answer lack_next(struct attempt *attempt)
{
    enum port_answer answer = next(attempt);
    wait_end(attempt);
    return answer;
}

/*
 * Nobody has asked yet, but the lane is crowded. A namespace that falls idle shall have given back what
 * was over, so the first comparisons come early; one that goes on makes some in a second, or fewer where
 * each takes long (the kernel walks the connections of all namespaces): it has a share of the time only.
 */
static void give_back_early(struct attempt *attempt, uint64_t now)
{
    static _Atomic uint64_t looked, paid; /* ms; the second may lie ahead */
    static _Atomic uint32_t usual = LEASE_CROWD_MS;
    uint64_t before = atomic_load_explicit(&paid, memory_order_relaxed);
    uint64_t compared = atomic_load_explicit(&attempt->netns->compared, memory_order_relaxed);
    uint32_t later = atomic_load_explicit(&usual, memory_order_relaxed);
    bool early = before <= now + CROWD_CREDIT_MS;
    if (now - compared < (early ? LEASE_CROWD_EARLY_MS : later) ||
        atomic_load_explicit(&looked, memory_order_relaxed) == now)
        return; /* a look once a tick */
    atomic_store_explicit(&looked, now, memory_order_relaxed);
    uint32_t ms = lease_crowd_ms(&attempt->search, early);
    early = ms < LEASE_CROWD_MS;
    if (ms == UINT32_MAX || !comparison_due(attempt, now, early || ms > later ? ms : later))
        return;
    before = before > now ? before : now;
    if (early)
        atomic_store_explicit(&paid, before + CROWD_PRICE_MS, memory_order_relaxed);
    uint64_t began = thread_ns();
    reconcile(attempt, now);
    uint64_t share = (thread_ns() - began) * CROWD_SHARE / 1000000;
    later = share < LEASE_CROWD_MS ? LEASE_CROWD_MS : share > CROWD_MOST_MS ? CROWD_MOST_MS : (uint32_t)share;
    atomic_store_explicit(&usual, later, memory_order_relaxed);
}

void lack_give_back(struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    uint64_t now = attempt->began;
    uint32_t generation =
        atomic_load_explicit(&attempt->at->pool.header->generation, memory_order_relaxed);
    /* A reload may have made addresses one server's: connections there have to be in its lane (move.c). */
    bool moved = attempt->verdict.name && generation != attempt->netns->generation;
    if (pool->apart)
        return; /* to nobody */
    if (!moved && !lease_wanted(pool, attempt->netns->slot, now))
        give_back_early(attempt, now);
    else if (comparison_due(attempt, now, COMPARE_MS) && reconcile(attempt, now))
        attempt->netns->generation = generation;
}
