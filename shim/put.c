/* SPDX-License-Identifier: MIT */
/*
 * The three ways to put a port on a socket: by range, by bind, and by sharing. What each is good
 * for is told on top of port.c. Each says what became of it (enum outcome); what follows from that
 * is port.c's.
 */
#include "attempt.h"
#include "../pool/sockdiag.h"

#include <netinet/tcp.h>

#define FIRST_PORT_OF_ALL 1024 /* those below are root's */
#define ASK_EVERY 64 /* ports */

/*
 * Reads the namespace's ip_local_port_range, which /proc shows to threads that are in it. Where it
 * cannot be read (a changed root), bind() is sure. Return: 0 if it is not known.
 */
uint32_t put_local_range_read(const struct attempt *attempt)
{
    struct shim_netns *netns = attempt->netns;
    if (!netns_is_own(netns))
        return 0;
    uint32_t local = sysctl_local_range();
    if (!local)
        atomic_store(&netns->by_bind, 1);
    atomic_store_explicit(&netns->local, local, memory_order_relaxed);
    return local;
}

uint32_t put_local_range(const struct attempt *attempt)
{
    uint32_t local = atomic_load_explicit(&attempt->netns->local, memory_order_relaxed);
    return local ? local : put_local_range_read(attempt);
}

void put_range_back(const struct attempt *attempt)
{
    sock_set(attempt->fd, IPPROTO_IP, SOCK_RANGE, (int)attempt->range);
    if (attempt->early)
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 0); /* one that is connected refuses */
}

/* Whether it takes no SO_REUSEADDR once it is connected (mptcp_setsockopt_sol_socket()). */
static bool is_mptcp(const struct attempt *attempt)
{
    int protocol = 0;
    struct hint hint = hint_get(attempt->fd);
    if (hint.kind == HINT_FRESH)
        return hint.netns & FRESH_MPTCP;
    return sock_get(attempt->fd, SOL_SOCKET, SO_PROTOCOL, &protocol) == 0 &&
           protocol == IPPROTO_MPTCP;
}

static bool range_works(const struct attempt *attempt)
{
    if (attempt->by_bind || atomic_load_explicit(&attempt->netns->by_bind, memory_order_relaxed))
        return false;
    return port_in(put_local_range(attempt), attempt->lease.port);
}

/*
 * Binds to the lease's port at the address that the socket has. A bind() that is refused takes that
 * address away (inet_bind(), af_inet.c), so it is remembered from before the first. A connect() to
 * another family fails whatever the port, and must not leave the socket bound.
 */
static enum outcome bind_port(struct attempt *attempt)
{
    int saved = errno;
    attempt->error = -source_name(attempt);
    if (sys_may_not(-attempt->error))
        return OUTCOME_FORBIDDEN;
    if (attempt->error || attempt->name.ss_family != attempt->address.ss_family)
        return OUTCOME_NO_WAY;
    address_set_port(&attempt->name, attempt->lease.port);
    int result = real.bind(attempt->fd, (struct sockaddr *)&attempt->name, attempt->name_length);
    attempt->error = result ? errno : 0;
    errno = saved;
    switch (attempt->error) {
    case 0:
        attempt->binding = BINDING_OURS;
        return OUTCOME_DONE;
    case EADDRINUSE:
        return OUTCOME_TAKEN;
    case EINVAL:
        return OUTCOME_HAS_PORT;
    default:
        /* A privileged port is no fault of the library's surroundings. */
        return sys_may_not(-attempt->error) &&
                       (attempt->error != EACCES || attempt->lease.port >= FIRST_PORT_OF_ALL)
                   ? OUTCOME_FORBIDDEN
                   : OUTCOME_NO_WAY;
    }
}

/* After a bind() that was refused: gives the socket the address back that it had. */
static void restore_address(struct attempt *attempt)
{
    if (!attempt->name_length || addr_is_any((struct sockaddr *)&attempt->name))
        return;
    int no_port = 0;
    int result = sock_get(attempt->fd, IPPROTO_IP, SOCK_NO_PORT, &no_port);
    if (!result && !no_port)
        result = sock_set(attempt->fd, IPPROTO_IP, SOCK_NO_PORT, 1);
    if (result)
        return; /* the kernel would choose a port */
    address_set_port(&attempt->name, 0);
    SYS(bind, attempt->fd, &attempt->name, attempt->name_length);
    if (!no_port)
        sock_set(attempt->fd, IPPROTO_IP, SOCK_NO_PORT, 0);
}

/*
 * Whether the kernel lets a TIME_WAIT be replaced in this namespace, which it does by the
 * timestamps that the connection had. Known for a second. The thread is in the namespace:
 * source_of() saw to it; or it is known.
 */
static uint32_t second_of(const struct attempt *attempt)
{
    return (uint32_t)(attempt->began / 1000) & INT32_MAX;
}

static bool has_timestamps(const struct attempt *attempt)
{
    uint32_t second = second_of(attempt);
    uint32_t known = atomic_load_explicit(&attempt->netns->stamps, memory_order_relaxed);
    if (known >> 1 != second) {
        known = second << 1 | sysctl_no_timestamps();
        atomic_store_explicit(&attempt->netns->stamps, known, memory_order_relaxed);
    }
    return !(known & 1);
}

/* Whether the kernel has room for the 4-tuple, where it has @state. */
static enum outcome tuple_room(struct attempt *attempt, int state)
{
    if (state == TCP_LISTEN) /* a server of this namespace: the look-up finds it, if nothing else is there */
        return OUTCOME_HELD;
    attempt->recycled = state == TCP_TIME_WAIT;
    attempt->soon |= sockdiag_is_closing(state);
    bool free = !state || (attempt->recycled && has_timestamps(attempt) &&
                           !lease_keeps(attempt->pool, attempt->lane, attempt->began));
    return free ? OUTCOME_DONE : OUTCOME_TAKEN;
}

/* The third way, the kernel having @state at the 4-tuple. */
static enum outcome share(struct attempt *attempt, int state)
{
    int reuse = 0;
    enum outcome outcome = tuple_room(attempt, state);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (attempt->ranged || !attempt->fresh)
        put_range_back(attempt);
    bool unset = attempt->fresh && !(attempt->set & SET_REUSE);
    if (!unset && sock_get(attempt->fd, SOL_SOCKET, SO_REUSEADDR, &reuse) != 0)
        return OUTCOME_UNKNOWN;
    if (!reuse)
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    outcome = bind_port(attempt);
    bool later = attempt_is_kernels(attempt) && !is_mptcp(attempt); /* must_share() */
    if (!reuse && (outcome != OUTCOME_DONE || later))
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 0);
    if (outcome == OUTCOME_TAKEN || outcome == OUTCOME_FORBIDDEN)
        restore_address(attempt);
    if (outcome != OUTCOME_TAKEN)
        return outcome;
    attempt->soon = attempt->others = true;
    return OUTCOME_HELD;
}

/*
 * In lanes that destinations share only the kernel's answer keeps threads apart, and a bound socket has
 * one try: nobody else may connect from the port between the question and the connection.
 */
static bool hold(struct attempt *attempt)
{
    if (!attempt_is_kernels(attempt) ||
        lease_hold(attempt->pool, &attempt->lease, sys_now_ms()))
        return true;
    attempt->soon = attempt->others = true;
    return false;
}

enum outcome put_by_sharing(struct attempt *attempt)
{
    int state;
    if (!hold(attempt))
        return OUTCOME_HELD;
    enum outcome outcome = source_state(attempt, &state);
    return outcome == OUTCOME_DONE ? share(attempt, state) : outcome;
}

void put_share_early(const struct attempt *attempt)
{
    if (!attempt_is_kernels(attempt) || is_mptcp(attempt))
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

static enum outcome put_alone(struct attempt *attempt)
{
    enum outcome outcome = bind_port(attempt);
    if (outcome == OUTCOME_TAKEN || outcome == OUTCOME_FORBIDDEN)
        restore_address(attempt);
    else if (outcome == OUTCOME_DONE)
        put_share_early(attempt);
    return outcome;
}

/* Without the options by which bind() would not say who else is there: for the moment of the bind.
 */
static enum outcome put_unshared(struct attempt *attempt, int reuse, int share)
{
    sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 0);
    sock_set(attempt->fd, SOL_SOCKET, SO_REUSEPORT, 0);
    enum outcome outcome = put_alone(attempt);
    if (reuse)
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (share)
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEPORT, 1);
    return outcome;
}

/* The program may have set SO_REUSEADDR or SO_REUSEPORT itself: then the kernel is asked before. */
static enum outcome put_by_bind(struct attempt *attempt)
{
    int reuse = 0, share = 0;
    if (!hold(attempt))
        return OUTCOME_HELD;
    if (attempt->set & SET_REUSE) {
        sock_get(attempt->fd, SOL_SOCKET, SO_REUSEADDR, &reuse);
        sock_get(attempt->fd, SOL_SOCKET, SO_REUSEPORT, &share);
    }
    bool shares = reuse || share;
    enum outcome outcome = shares ? put_by_sharing(attempt) : put_alone(attempt);
    if (outcome == OUTCOME_UNKNOWN)
        outcome = put_unshared(attempt, reuse, share);
    else if (outcome == OUTCOME_TAKEN && !shares)
        outcome = put_by_sharing(attempt);
    return outcome == OUTCOME_UNKNOWN ? OUTCOME_TAKEN : outcome;
}

/*
 * Whether it is known, without asking, that all that can be at the 4-tuple is a TIME_WAIT: what rests
 * was seen to be over, and only this process can have used it since, or others would be in its word; and
 * of some that were let go of it was asked ahead. Now and then it is asked nonetheless, whether there are
 * any at all.
 */
static bool is_over(const struct attempt *attempt)
{
    uint32_t known = atomic_load_explicit(&attempt->netns->stamps, memory_order_relaxed);
    if (known >> 1 != second_of(attempt) || attempt_is_kernels(attempt))
        return false;
    return attempt->lease.before == WORD_RESTING ? attempt->lease.port % ASK_EVERY : source_is_over(attempt);
}

/* A port that was let go of a moment ago is likely to have a TIME_WAIT, if the last one had. */
static enum outcome put_over_time_wait(struct attempt *attempt)
{
    int state = TCP_TIME_WAIT;
    enum outcome outcome = OUTCOME_DONE;
    if (attempt->lease.before == WORD_FREE || attempt->lease.before == WORD_USED ||
        !atomic_load_explicit(&attempt->netns->lingers, memory_order_relaxed))
        return OUTCOME_UNKNOWN;
    if (!hold(attempt))
        return OUTCOME_HELD;
    if (is_over(attempt))
        outcome = source_name(attempt) ? OUTCOME_UNKNOWN : OUTCOME_DONE;
    else
        outcome = source_state(attempt, &state);
    if (outcome != OUTCOME_DONE)
        return outcome;
    outcome = state ? share(attempt, state) : OUTCOME_UNKNOWN;
    return outcome == OUTCOME_FORBIDDEN ? OUTCOME_HELD : outcome; /* others come by range */
}

static void set_early(struct attempt *attempt)
{
    int reuse = 0;
    if (!attempt->early && is_mptcp(attempt))
        attempt->early = sock_get(attempt->fd, SOL_SOCKET, SO_REUSEADDR, &reuse) == 0 && !reuse;
    if (attempt->early)
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

enum outcome put_port(struct attempt *attempt)
{
    attempt->recycled = false;
    bool by_range = range_works(attempt);
    enum outcome outcome = put_over_time_wait(attempt);
    if (outcome != OUTCOME_UNKNOWN)
        return outcome;
    if (by_range) {
        uint32_t port = attempt->lease.port;
        int result = sock_set(attempt->fd, IPPROTO_IP, SOCK_RANGE, (int)(port | port << 16));
        attempt->ranged = true;
        if (!result) {
            set_early(attempt);
            return OUTCOME_DONE;
        }
        if (result == -ENOPROTOOPT) /* before Linux 6.3 */
            atomic_store(&attempt->netns->by_bind, 1);
    }
    attempt->by_bind = true;
    return put_by_bind(attempt);
}
