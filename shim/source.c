/* SPDX-License-Identifier: MIT */
/*
 * Where a connection will come from, and what the kernel has at its 4-tuple: see port.c. A bound
 * socket whose connect() is refused is spoilt, so this is asked before a port is shared.
 */
#include "attempt.h"
#include "../pool/address.h"
#include "../pool/sockdiag.h"

#include <netinet/tcp.h>

int source_name(struct attempt *attempt)
{
    if (attempt->name_length)
        return 0;
    if (!attempt->fresh) {
        int result = sock_name(attempt->fd, &attempt->name, &attempt->name_length);
        if (result)
            attempt->name_length = 0;
        return result;
    }
    bool v6 = attempt->set & FRESH_V6; /* and nothing is bound yet */
    attempt->name = (struct sockaddr_storage){.ss_family = v6 ? AF_INET6 : AF_INET};
    attempt->name_length = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    return 0;
}

/* Whether a new datagram socket goes the socket's way: no address, mark or device of its own. */
static bool routed_plainly(const struct attempt *attempt)
{
    int mark = 0, device = 0;
    if (attempt->fresh) /* setsockopt() would have seen them (close.c), and bind() an address */
        return true;
    return addr_is_any((const struct sockaddr *)&attempt->name) &&
           sock_get(attempt->fd, SOL_SOCKET, SO_MARK, &mark) == 0 && !mark &&
           sock_get(attempt->fd, SOL_SOCKET, SOCK_DEVICE, &device) == 0 && !device;
}

/*
 * The source of connections to a destination, remembered for the rest of a tick as the namespace is
 * (netns.c): the address << 32 | lane << 20 | entry << 16 | apart << 15 | tick. For IPv4 and for lanes of one
 * destination and name only, and for sockets that have nothing of their own that would lead them elsewhere.
 */
static _Atomic uint64_t source_seen;

static uint64_t source_key(const struct attempt *attempt)
{
    uint32_t entry = (uint32_t)(attempt->netns - attempt->at->netns);
    uint32_t apart = attempt->pool->apart;
    return attempt->lane << 20 | entry << 16 | apart << 15 | (attempt->began & 0x7fff);
}

_Static_assert(POOL_LANES_MAX <= 4096 && SHIM_NETNS == 16,
               "source_key() has 12 and 4 bits for them");

static bool source_recall(const struct attempt *attempt, struct dest *source)
{
    uint64_t last = atomic_load_explicit(&source_seen, memory_order_relaxed);
    if (!last || (uint32_t)last != source_key(attempt) || attempt->verdict.name || !routed_plainly(attempt))
        return false;
    for (int i = 0; i < 12; i++)
        source->addr[i] = i < 10 ? 0 : 0xff;
    for (int i = 0; i < 4; i++)
        source->addr[12 + i] = (uint8_t)(last >> (56 - 8 * i));
    return true;
}

static void source_remember(const struct attempt *attempt, const struct dest *source)
{
    uint64_t address = 0;
    if (!address_is_v4(source->addr) || attempt_shares_lane(attempt) || attempt->verdict.name || !routed_plainly(attempt))
        return;
    for (int i = 0; i < 4; i++)
        address = address << 8 | source->addr[12 + i];
    atomic_store_explicit(&source_seen, address << 32 | source_key(attempt), memory_order_relaxed);
}

/*
 * The address that a datagram to the destination would come from. Return: 0; -EXDEV: this thread is
 * in another namespace than the socket, or out of descriptors; -errno of connect(2).
 */
static int source_ask(const struct attempt *attempt, struct sockaddr_storage *name,
                      socklen_t *length)
{
    int result = -EXDEV;
    *name = attempt->address;
    *length = name->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    uint64_t mask = guard_hold();
    int fd = (int)SYS(socket, name->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        if (holder_netns(fd) == atomic_load(&attempt->netns->cookie))
            result = (int)SYS(connect, fd, name, *length);
        if (!result)
            result = sock_name(fd, name, length);
        SYS(close, fd);
    }
    guard_release(mask);
    return result;
}

/* The address that the connection will have as its source: what the program bound, or that one. */
static enum outcome source_of(struct attempt *attempt, struct dest *source)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (source_recall(attempt, source))
        return OUTCOME_DONE;
    int result = source_ask(attempt, &name, &length);
    if (result == -EADDRNOTAVAIL || result == -ENETUNREACH || result == -EHOSTUNREACH) {
        attempt->error = -result;
        return routed_plainly(attempt) ? OUTCOME_NO_WAY : OUTCOME_UNKNOWN;
    }
    if (!result && !addr_is_any((const struct sockaddr *)&attempt->name)) {
        name = attempt->name;
        length = attempt->name_length;
    }
    if (result || !dest_from_sockaddr((struct sockaddr *)&name, length, source))
        return OUTCOME_UNKNOWN;
    source_remember(attempt, source);
    return OUTCOME_DONE;
}

/*
 * To ask about one 4-tuple costs six system calls, and about some more at once little more. So where the
 * ports that are used again have TIME_WAITs, those that come next are asked about as well, and which have
 * one is remembered, as the word that said then that the port was let go of: as long as it is the same,
 * nobody who asks the pool has used the port since.
 */
#define AHEAD_MOST 64
static _Atomic uint64_t ahead[AHEAD_MOST]; /* ahead_key(), by port */

static uint64_t ahead_key(uint32_t lane, uint16_t port, uint64_t word)
{
    return word ^ ((uint64_t)lane << 16 | port) * 0x9e3779b97f4a7c15ull;
}

/* Whether its source is that of the others. Words of the process' own say nothing of other processes. */
static bool ahead_counts(const struct attempt *attempt)
{
    return attempt->lease.before == WORD_LETGO && !attempt_is_kernels(attempt) && attempt->fresh;
}

bool source_is_over(const struct attempt *attempt)
{
    const struct lease *lease = &attempt->lease;
    return ahead_counts(attempt) &&
           atomic_load_explicit(&ahead[lease->port % AHEAD_MOST], memory_order_relaxed) ==
               ahead_key(lease->lane, lease->port, lease->was);
}

/* What the kernel has at the lease's 4-tuple. Return: as sockdiag_state(). */
static int ask(const struct attempt *attempt)
{
    uint16_t ports[SOCKDIAG_STATES] = {attempt->lease.port};
    uint64_t words[SOCKDIAG_STATES];
    int states[SOCKDIAG_STATES];
    uint32_t count = 1;
    if (ahead_counts(attempt) &&
        atomic_load_explicit(&attempt->netns->lingers, memory_order_relaxed) == LINGERS_LONG)
        count += lease_search_ahead(&attempt->search, ports + 1, words + 1, SOCKDIAG_STATES - 1);
    uint64_t mask = guard_hold();
    int result = sockdiag_states(&attempt->source, &attempt->dest, ports, states, count);
    guard_release(mask);
    for (uint32_t i = 1; !result && i < count; i++)
        if (states[i] == TCP_TIME_WAIT)
            atomic_store_explicit(&ahead[ports[i] % AHEAD_MOST],
                                  ahead_key(attempt->lane, ports[i], words[i]), memory_order_relaxed);
    return result ? result : states[0];
}

enum outcome source_state(struct attempt *attempt, int *state)
{
    attempt->error = -source_name(attempt);
    if (attempt->error)
        return sys_may_not(-attempt->error) ? OUTCOME_UNKNOWN : OUTCOME_NO_WAY;
    enum outcome outcome =
        attempt->has_source ? OUTCOME_DONE : source_of(attempt, &attempt->source);
    if (outcome != OUTCOME_DONE)
        return outcome;
    attempt->has_source = true;
    int found = ask(attempt);
    uint32_t lingers = found == TCP_TIME_WAIT ? LINGERS_LONG : sockdiag_is_closing(found) ? LINGERS : 0;
    atomic_store_explicit(&attempt->netns->lingers, lingers, memory_order_relaxed);
    *state = found == -ENOENT ? 0 : found;
    return *state < 0 ? OUTCOME_UNKNOWN : OUTCOME_DONE;
}
