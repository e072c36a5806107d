/* SPDX-License-Identifier: MIT */
/*
 * when-exhausted = wait: a connect waits for a port as it would wait for its peer (connect(2)).
 *
 * A signal ends it with EINTR: always if SO_SNDTIMEO is set (sock_intr_errno(), net/sock.h), else if
 * its handler was installed without SA_RESTART. Neither may be missed nor taken for the other. So
 * signals are held while the pool is searched, and where the program has a handler that ends a
 * connect it waits by ppoll(), which lets them through and tells whether a handler has run; those
 * that do not end it come after each slice. A port that is let go of is seen at the slice's end then,
 * not at once. (While they are held, another thread may get a signal that is for the process.)
 *
 * The wait is part of SO_SNDTIMEO, and what is left of that is the call's. When it is over, the
 * error is the kernel's: EINPROGRESS, although nothing goes on.
 *
 * connect() is a cancellation point (pthreads(7)), and so is the wait. It holds nothing.
 */
#include "attempt.h"

#define SLICE_MS 200 /* a close may have been unseen */
#define SLICE_POLL_MS 20
#define OVER_NAP_MS 50 /* between the searches of one that has used its budget up */
#define SIGNALS 64

#ifdef SO_SNDTIMEO_OLD
#define SEND_TIMEOUT SO_SNDTIMEO_OLD /* the one with longs */
#else
#define SEND_TIMEOUT SO_SNDTIMEO
#endif

/* The signals whose handlers end a connect, and those whose do not. SIGBUS is this library's. */
static uint64_t ending(const struct attempt *attempt, uint64_t *others)
{
    uint64_t ends = 0;
    int saved = errno;
    *others = 0;
    if (!real.sigaction)
        return ~attempt->mask;
    for (int number = 1; number <= SIGNALS; number++) {
        struct sigaction action;
        uint64_t bit = 1ull << (number - 1);
        if (attempt->mask & bit || number == SIGBUS || real.sigaction(number, NULL, &action) != 0 ||
            action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)
            continue;
        if (attempt->send_ms || !(action.sa_flags & SA_RESTART))
            ends |= bit;
        else
            *others |= bit;
    }
    errno = saved;
    return ends;
}

void wait_end(struct attempt *attempt)
{
    if (attempt->held)
        guard_release(attempt->mask);
    attempt->held = false;
}

/*
 * Sleeps without the signals in @mask, which were held; a cancellation ends it. Return: whether a
 * handler has run.
 */
static bool sleep_without(struct attempt *attempt, uint64_t mask, uint32_t ms)
{
    int type = PTHREAD_CANCEL_DEFERRED;
    struct timespec time = {.tv_nsec = ms * 1000000l};
    guard_end(attempt->guarded);
    if (pthread_setcanceltype)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    bool ran = SYS(ppoll, NULL, 0, &time, &mask, sizeof(mask)) == -EINTR;
    if (pthread_setcanceltype)
        pthread_setcanceltype(type, &type);
    attempt->guarded = guard_begin();
    return ran;
}

/* The same with the program's own mask, and until this namespace lets go of a port of the lane. */
static void sleep_until_released(struct attempt *attempt, uint32_t ms)
{
    int type = PTHREAD_CANCEL_DEFERRED;
    wait_end(attempt);
    guard_end(attempt->guarded);
    if (pthread_setcanceltype)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    lease_wait(attempt->pool, attempt->netns->slot, attempt->lane, attempt->seen, ms);
    if (pthread_setcanceltype)
        pthread_setcanceltype(type, &type);
    attempt->guarded = guard_begin();
}

/* At most @ms. Signals are held before. Return: whether one has ended the connect. */
static bool nap(struct attempt *attempt, uint32_t ms)
{
    uint64_t others;
    uint64_t ends = ending(attempt, &others);
    bool over = lack_over_budget(attempt); /* whoever wakes all waiters would keep them busy */
    uint32_t slice = over ? OVER_NAP_MS : ends ? SLICE_POLL_MS : SLICE_MS;
    ms = ms < slice ? ms : slice;
    if (!ends && !over) {
        sleep_until_released(attempt, ms);
        return false;
    }
    bool ended = sleep_without(attempt, attempt->mask | (ends ? others : 0), ms);
    if (ends && others && !ended)
        sleep_without(attempt, attempt->mask | ends, 0);
    return ended && ends;
}

static void read_send_timeout(struct attempt *attempt)
{
    struct send_timeout *send = &attempt->send;
    socklen_t size = sizeof(*send);
    if (SYS(getsockopt, attempt->fd, SOL_SOCKET, SEND_TIMEOUT, send, &size) != 0 ||
        size != sizeof(*send) || (!send->seconds && !send->microseconds))
        return; /* none, or not known */
    attempt->send_ms = INT32_MAX;
    if (send->seconds >= 0 && send->seconds < INT32_MAX / 1000)
        attempt->send_ms = (uint32_t)(send->seconds * 1000 + send->microseconds / 1000) + 1;
}

bool wait_may(const struct attempt *attempt)
{
    long flags = attempt->at_once ? -1 : SYS(fcntl, attempt->fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* How many ms a connect that has a time for something may still take. */
static uint32_t left_of(const struct attempt *attempt, uint32_t ms)
{
    uint64_t waited = sys_now_ms() - attempt->began;
    return waited < ms ? ms - (uint32_t)waited : 0;
}

bool wait_more(struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    uint32_t left = left_of(attempt, attempt->verdict.wait_ms);
    if (attempt->verdict.exhausted != POLICY_WAIT || !left || !wait_may(attempt))
        return false;
    if (!attempt->waiting) {
        read_send_timeout(attempt);
        counter_add(&pool->counters->waited);
    }
    uint32_t send_left = attempt->send_ms ? left_of(attempt, attempt->send_ms) : left;
    if (!send_left)
        attempt->ended = EINPROGRESS;
    else if (attempt->waiting && nap(attempt, send_left < left ? send_left : left))
        attempt->ended = EINTR;
    if (attempt->ended)
        return false;
    if (!attempt->held)
        attempt->mask = guard_hold();
    attempt->held = true;
    attempt->waiting = true;
    attempt->seen = lease_wait_begin(pool, attempt->netns->slot, attempt->lane);
    return true;
}

static void set_send_timeout(const struct attempt *attempt, struct send_timeout send)
{
    SYS(setsockopt, attempt->fd, SOL_SOCKET, SEND_TIMEOUT, &send, sizeof(send));
}

void wait_count(const struct attempt *attempt)
{
    uint32_t left = left_of(attempt, attempt->send_ms);
    set_send_timeout(attempt, (struct send_timeout){left / 1000, left ? left % 1000 * 1000l : 1});
}

void wait_count_end(const struct attempt *attempt)
{
    set_send_timeout(attempt, attempt->send);
}
