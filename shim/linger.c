/* SPDX-License-Identifier: MIT */
/*
 * Whether connections leave a TIME_WAIT behind decides whether their sockets have to be prepared
 * for being replaced (port.c), which is a system call. That is found out from connect(), never from
 * close(): a program that has sandboxed itself may be killed for what it never asked itself.
 *
 * So one connection in 16, and later in 256, is remembered, and a later connect that sees that it
 * was closed asks the kernel what is left of it. Who closes second, or by a reset, leaves no
 * TIME_WAIT. That is believed after four such in a row, and until one that is not.
 */
#include "attempt.h"
#include "../pool/sockdiag.h"

#include <netinet/tcp.h>

#define LOOK_EVERY 16u
#define LOOK_SELDOM 256u /* once SETTLED connects have agreed */
#define SETTLED 256u
#define BELIEVE_AFTER 4u

static _Atomic uint32_t connects; /* with a lease; a lost count does not matter */
static _Atomic uint32_t clean;    /* looks in a row that found that there is no TIME_WAIT */
static _Atomic uint32_t busy;     /* a thread is at what follows */
static _Atomic(const struct shim_netns *) seen_netns; /* NULL: none is remembered */
static struct {
    const struct pool *pool;
    struct dest source, dest;
    uint64_t word;
    uint32_t lane;
    uint16_t port;
} seen;

bool linger_expected(void)
{
    return atomic_load_explicit(&clean, memory_order_relaxed) < BELIEVE_AFTER;
}

static void remember(const struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (attempt_shares_lane(attempt) || sock_name(attempt->fd, &name, &length) != 0 ||
        !dest_from_sockaddr((struct sockaddr *)&name, length, &seen.source))
        return;
    seen_netns = attempt->netns;
    seen.pool = attempt->pool;
    seen.dest = attempt->dest;
    seen.word = attempt->lease.word;
    seen.lane = attempt->lane;
    seen.port = attempt->lease.port;
}

/* What is left of the connection that is remembered. */
static void look(void)
{
    if (!netns_is_own(seen_netns))
        return;
    uint64_t mask = guard_hold();
    int state = sockdiag_state(&seen.source, &seen.dest);
    guard_release(mask);
    uint32_t before = atomic_load_explicit(&clean, memory_order_relaxed);
    if (state == -ENOENT || state == TCP_LAST_ACK)
        atomic_store_explicit(&clean, before < BELIEVE_AFTER ? before + 1 : before,
                              memory_order_relaxed);
    else if (state == TCP_TIME_WAIT || sockdiag_is_closing(state))
        atomic_store_explicit(&clean, 0, memory_order_relaxed);
}

/* Whether the @count-th connect is to be remembered. */
static bool is_turn(uint32_t count)
{
    uint32_t known = atomic_load_explicit(&clean, memory_order_relaxed);
    bool settled = count > SETTLED && (!known || known == BELIEVE_AFTER);
    return count % (settled ? LOOK_SELDOM : LOOK_EVERY) == 0;
}

void linger_look(const struct attempt *attempt)
{
    uint32_t count = atomic_load_explicit(&connects, memory_order_relaxed);
    atomic_store_explicit(&connects, count + 1, memory_order_relaxed);
    bool turn = is_turn(count);
    if ((!turn && !seen_netns) || atomic_exchange(&busy, 1))
        return;
    bool elsewhere = seen_netns && seen.pool != attempt->pool;
    _Atomic uint64_t *at =
        seen_netns && !elsewhere ? pool_word(seen.pool, seen.lane, seen.port) : NULL;
    uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
    bool open = (elsewhere || (at && word == seen.word)) && !turn;
    if (at && word_state(word) == WORD_LETGO && word_owner(word) == word_owner(seen.word))
        look();
    if (!open)
        seen_netns = NULL;
    if (turn)
        remember(attempt);
    atomic_store(&busy, 0);
}
