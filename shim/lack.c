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
#define BUDGET_NS 10000000 /* of our own work in one connect, once it has met with setbacks */
#define BUDGET_EVERY 16    /* refusals: a look at the clock is a system call */
#define COMPARE_MS 100     /* at most so often, whatever the pool says of the last time */
#define COMPARE_TIMES 3    /* in one connect that does not wait */
#define OVER_NAP_MS 50     /* between the searches of one that waits, and has used its budget up */

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
 */
static bool over_budget(struct attempt *attempt)
{
    uint64_t now = thread_ns();
    if (!attempt->budget)
        attempt->budget = now;
    return now - attempt->budget > BUDGET_NS;
}

static bool comparison_due(const struct attempt *attempt, uint64_t now)
{
    uint64_t before = atomic_load_explicit(&attempt->netns->compared, memory_order_relaxed);
    return now - before >= COMPARE_MS &&
           (attempt->pool->apart || lease_reconcile_due(attempt->pool, attempt->netns->slot, now)) &&
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
        !comparison_due(attempt, now))
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

static bool blocking(int fd)
{
    long flags = SYS(fcntl, fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* How many ms a waiting connect may still wait. */
static uint32_t wait_left(const struct attempt *attempt)
{
    uint64_t waited = sys_now_ms() - attempt->began;
    return waited < attempt->verdict.wait_ms ? attempt->verdict.wait_ms - (uint32_t)waited : 0;
}

/* Waits until a port is let go, or a while: a close may have been unseen. Return: search again? */
bool lack_wait(struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    uint32_t left = wait_left(attempt);
    if (attempt->verdict.exhausted != POLICY_WAIT || !left || !blocking(attempt->fd))
        return false;
    if (attempt->waiting &&
        over_budget(attempt)) /* whoever wakes all waiters would keep them busy */
        SYS(nanosleep, &(struct timespec){.tv_nsec = OVER_NAP_MS * 1000000l}, NULL);
    else if (attempt->waiting)
        lease_wait(pool, attempt->netns->slot, attempt->lane, attempt->seen,
                   left < 200 ? left : 200);
    else
        counter_add(&pool->counters->waited);
    attempt->waiting = true;
    attempt->seen = lease_wait_begin(pool, attempt->netns->slot, attempt->lane);
    return true;
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

enum port_answer lack_exhausted(struct attempt *attempt)
{
    struct pool_counters *counters = attempt->pool->counters;
    counter_add(&counters->exhausted);
    put_range_back(attempt);
    if (attempt->forbidden)
        return forbidden(attempt);
    shim_log("exhausted", &attempt->dest, 0);
    if (attempt->unknown)
        fault_note("NETLINK_SOCK_DIAG",
                   sys_may_not(attempt->unknown)
                       ? "the program may not ask which connections there are"
                       : pool_strerror(attempt->unknown),
                   "; ports that were closed unseen are not taken back\n");
    if (attempt->verdict.exhausted != POLICY_PASS)
        return port_refuse();
    counter_add(&counters->passed);
    return PORT_PASS;
}

/*
 * Ports that were refused only because their last connection is just closing, or because another
 * thread is just connecting from them, come free any moment: a connection that may block looks a
 * few times more. A search tries some only of those that were let go: so before it is refused, the
 * kernel is asked about all of them, however short a while ago that was. So it is where words are this
 * process' own (lease.c: addresses apart), and others may have closed what they had. Return: search again?
 */
static bool try_again(struct attempt *attempt)
{
    attempt->others |= attempt->search.passed_held;
    bool soon = (attempt->soon || attempt->search.passed_held) && blocking(attempt->fd);
    if (attempt->asked || !(soon || attempt->search.cut || attempt->pool->apart))
        return false;
    attempt->soon = false;
    uint32_t most = attempt->search.passed_held ? ROUNDS_HELD : attempt->others ? ROUNDS_OTHERS : ROUNDS;
    bool enough = attempt->rounds >= most || (!attempt->others && attempt->refusals > REFUSALS_MANY);
    if (!soon || enough) {
        attempt->asked = true;
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

enum port_answer lack_next(struct attempt *attempt)
{
    enum port_answer answer = list_early(attempt);
    if (answer != PORT_READY)
        return answer;
    bool over = !attempt->pool->apart && attempt->refusals % BUDGET_EVERY == BUDGET_EVERY - 1 && over_budget(attempt);
    while (over || lease_search_next(&attempt->search, &attempt->lease) != 0) {
        if (attempt->forbidden || port_has(attempt))
            return port_has(attempt) ? port_already_bound(attempt) : lack_exhausted(attempt);
        over = !attempt->pool->apart && over_budget(attempt); /* nobody else writes what is apart */
        /* Who waits goes on comparing: that is limited in time (comparison_due()). */
        bool again = ((!over || attempt->waiting) && take_back(attempt)) ||
                     (!over && try_again(attempt)) || lack_wait(attempt);
        over = false;
        answer = again ? search_again(attempt) : lack_exhausted(attempt);
        if (answer != PORT_READY)
            return answer;
    }
    return PORT_READY;
}

void lack_give_back(struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    if (!pool->apart && lease_wanted(pool, attempt->netns->slot, attempt->began) &&
        comparison_due(attempt, attempt->began))
        reconcile(attempt, attempt->began);
}
