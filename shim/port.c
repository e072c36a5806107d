/* SPDX-License-Identifier: MIT */
/*
 * From a destination to a source port on a socket: theory of operation.
 *
 * A call that connects (connect(), a MSG_FASTOPEN send) goes through
 *
 *   port_begin    is it ours? A rule matches, it is a TCP socket that is not connected, the pool
 *                 is there. Everything else is passed on as it came.
 *   port_next     take a port from the pool and put it on the socket
 *   (the call)    the real one, with the program's own arguments
 *   port_settle   what became of it: keep the lease, or try the next port, or let go
 *
 * Three ways to put a port on a socket:
 *
 *   range   IP_LOCAL_PORT_RANGE from p to p (Linux 6.3). The socket stays unbound: the kernel picks
 *           "any" port at connect, and there is only one. If that 4-tuple is taken, connect() says
 *           EADDRNOTAVAIL and the next port can be tried; a failed connection leaves the socket as
 *           new; many destinations share a port as they do without this library. But the kernel
 *           ignores the option if p is outside ip_local_port_range, and skips reserved ports.
 *   bind    bind() to p where the first way does not work. A port in use anywhere in the namespace
 *           is refused by bind itself; once bound, the socket keeps its port for ever.
 *   share   bind() with SO_REUSEADDR, where one of the others was refused: beside sockets that are
 *           connected elsewhere, or over a TIME_WAIT (which the kernel lets a bound socket replace
 *           if both had the flag and TCP timestamps are on, tcp_ipv4.c tcp_twsk_unique()). Since a
 *           bound socket whose connect() is refused is spoilt, the kernel is asked about that very
 *           4-tuple before.
 *
 * For the sake of the third way sockets get SO_REUSEADDR: only so can another destination have the
 * port of one that was bound, and can a port be used again before its TIME_WAIT is over, which
 * inherits the flag. Those that are bound get it at once, so that they are in nobody's way while
 * they connect; or when they are connected, in lanes that destinations share: there only the
 * kernel's list of connections tells two threads with one port and destination apart, and one holds
 * the port from asking for that list until it is in it (lease_hold()). The others
 * get it unless ports are plenty and this process' connections leave no TIME_WAIT (linger.c).
 * Sockets of MPTCP take the option before they are connected only: they get it at once, whatever
 * the way.
 *
 * Ports that this namespace has let go of a moment ago are the usual case where there are few. If
 * the last one had a TIME_WAIT on it, the next is looked up before the first way is tried in vain.
 * That is not asked of what rests (lease.c): the kernel has said that it is over.
 *
 * None can be trusted blindly, so after the call by range the socket's name is looked at. If the
 * port is another one, either the program had bound the socket itself (then that is how it stays),
 * or ip_local_port_range was changed under us: then the connection is undone at once, and made
 * again by bind.
 *
 * Which namespace: the socket's (netns.c), since programs enter namespaces and pass sockets around
 * without this library seeing it.
 *
 * Both questions are a system call, and most of what a connect with this library costs more than
 * one without. So a socket that this process has just made is not asked again if one like it was
 * asked in the same tick of the clock (1 to 10 ms): that much later, at most, a change of the
 * sysctl is noticed.
 *
 * Is EADDRNOTAVAIL about the port at all? A destination without a source address says the same. A
 * datagram socket that is connected there tells (it also is how the 4-tuple's source is known):
 * if that fails too, ports are not the problem, and the error is the program's to have.
 *
 * Before that, what the program chose without knowing the destination is looked at: a port of
 * bind(addr, 0) is taken back (bind.c), a range of its own narrows the rule's ports, a port of its own stays.
 *
 * What became of putting a port on is said by one type (enum outcome), and port_next() draws the
 * conclusions. When no port is left: lack.c, and wait.c.
 */
#include "attempt.h"

#include <netinet/tcp.h>

#define FEW_PORTS 1024 /* a range so small is used up in a minute by 17 short connections a second */
#define MOVE_NAP_NS 500000
#define MOVE_NAPS 20 /* 10 ms in all */
#define LOST_TIMES 4 /* leases in one connect */
#define FORBIDDEN_TRIES 64 /* ports that the program may not bind to: some may be privileged */

enum port_answer port_refuse(const struct attempt *attempt)
{
    errno = attempt && attempt->ended ? attempt->ended : EADDRNOTAVAIL;
    return PORT_REFUSE;
}

/*
 * The state of a socket. Where the kernel may not be asked, what is remembered will do, however
 * old. Return: as sock_tcp_state().
 */
static int state_of(int fd, struct hint hint)
{
    int state = sock_tcp_state(fd);
    if (!sys_may_not(state) || hint.kind == HINT_NONE || hint_is_leased(hint))
        return state;
    return hint.kind == HINT_OTHER ? -ENOPROTOOPT : TCP_CLOSE;
}

enum port_answer port_faulty(bool meant)
{
    if (!fault_text())
        fault_set(shim.path, "another thread is opening it, and does not go on");
    fault_say();
    return shim.refuse && meant ? port_refuse(NULL) : PORT_PASS;
}

/* There is no pool. Loopback is left alone unless a known rule names it. */
static enum port_answer no_pool(int fd, const struct dest *dest)
{
    struct policy_verdict unused;
    int state = state_of(fd, hint_get(fd));
    if (state != TCP_CLOSE && !sys_may_not(state))
        return PORT_PASS;
    return port_faulty(shim.has_policy ? policy_match(&shim.policy, dest, &unused)
                                       : !addr_is_loopback(dest->addr));
}

/* A range of this library's, left on a socket that was connected by it. */
static bool is_one_port(uint32_t range)
{
    return (range & 0xffff) == range >> 16;
}

void port_pass(int fd)
{
    struct hint hint = hint_get(fd);
    if (!hint_is_leased(hint))
        return;
    /* Connected before, and perhaps not any more: what is left of that must not steer this call. */
    hint_let_go(hint);
    hint.kind = hint_is_bound(hint) ? HINT_BOUND : HINT_NONE;
    hint_set(fd, hint);
    int range = 0;
    if (sock_get(fd, IPPROTO_IP, SOCK_RANGE, &range) == 0 && is_one_port((uint32_t)range))
        sock_set(fd, IPPROTO_IP, SOCK_RANGE, 0);
}

static void search_begin(struct attempt *attempt, uint64_t now)
{
    lease_search_begin(&attempt->search, attempt->pool, &attempt->verdict,
                       attempt->netns->slot, attempt->lane, now);
    attempt->search.last = attempt->dest.port;
}

/* Whether the socket is a TCP socket that may be connected. A fresh one is, without asking. */
static enum port_answer connectable(const struct attempt *attempt, int fd)
{
    struct hint hint = hint_get(fd);
    int state = state_of(fd, hint);
    if (sys_may_not(state)) {
        const struct pool *pool = hint_is_leased(hint) ? hint_pool(attempt->at, hint) : NULL;
        if (pool && pool_lane_find(pool, &attempt->verdict.server, false) == (int)(hint.lane & ~HINT_APART))
            return PORT_PASS; /* to look whether it is connected by now */
        fault_set("getsockopt()", "the program may not ask whether a socket is one of TCP's");
        return port_faulty(true);
    }
    if (state != TCP_CLOSE)
        return PORT_PASS;
    if (hint_is_leased(hint)) /* that connection failed or was dissolved */
        hint_let_go(hint);
    return PORT_READY;
}

/* Lets a reload come to its end that moves ports which are in use: move.c. Return: look at the rules again? */
static bool wait_for_move(const struct attempt *attempt, int *naps)
{
    uint64_t until = atomic_load(&attempt->at->pool.header->moving);
    if (!until || until < sys_now_ms() || (*naps)++ >= MOVE_NAPS)
        return false;
    SYS(nanosleep, &(struct timespec){.tv_nsec = MOVE_NAP_NS}, NULL);
    return true;
}

/* The rule for the destination, in the pool that is there now. Return: READY, or what to do instead. */
static enum port_answer find_rule(struct attempt *attempt, int fd, uint64_t now)
{
    int naps = 0;
    do {
        attempt->at = shim_pool(now);
        if (!attempt->at)
            return no_pool(fd, &attempt->dest);
        if (!pool_match(&attempt->at->pool, &attempt->dest, &attempt->verdict)) {
            port_pass(fd);
            return PORT_PASS;
        }
    } while (shim_pool_moved(attempt->at, now) || wait_for_move(attempt, &naps));
    return PORT_READY;
}

/* The lane of the destination, among the leases of the rule. Return: false: there is no memory for them. */
static bool find_lane(struct attempt *attempt)
{
    attempt->pool = netns_pool(attempt->at, attempt->netns, attempt->verdict.scope);
    if (attempt->pool)
        attempt->lane = (uint32_t)pool_lane_find(attempt->pool, &attempt->verdict.server, true);
    return attempt->pool != NULL;
}

/* The namespace, and whether its settings may be taken as known. Return: false: it has no holder. */
static bool find_netns(struct attempt *attempt, int fd)
{
    attempt->netns = attempt->fresh ? netns_of_fresh(attempt->at, fd, attempt->began,
                                                     attempt->verdict.rule, &attempt->sure)
                                    : netns_of(attempt->at, fd);
    return attempt->netns != NULL;
}

/*
 * A range that the program has set itself is a choice as its own port would be: the rule's ports that
 * lie in it are used, and if none does, the program's choice stays. Where the kernel ignores it
 * (inet_sk_get_local_port_range()), it is no choice. Return: READY or PASS.
 */
static enum port_answer confine(struct attempt *attempt)
{
    int value = 0;
    attempt->range = 0;
    if (!(attempt->set & SET_RANGE) || sock_get(attempt->fd, IPPROTO_IP, SOCK_RANGE, &value) != 0 ||
        (is_one_port((uint32_t)value) && !attempt->fresh))
        return PORT_READY;
    attempt->range = (uint32_t)value;
    uint32_t local = put_local_range(attempt);
    uint16_t lo = (uint16_t)value, hi = (uint16_t)((uint32_t)value >> 16);
    if (!port_in(local, lo) && !port_in(local, hi))
        return PORT_READY;
    struct portset both = attempt->verdict.ports, own = {.count = 1};
    own.range[0].lo = port_in(local, lo) ? lo : (uint16_t)local;
    own.range[0].hi = port_in(local, hi) ? hi : (uint16_t)(local >> 16);
    if (portset_intersect(&both, &own) == 0 && both.count) {
        attempt->verdict.ports = both;
        return PORT_READY;
    }
    shim_log("bound-by-program", &attempt->dest, own.range[0].lo);
    return PORT_PASS;
}

/*
 * Takes back a port that the kernel chose for bind(addr, 0): bind.c. What cannot be taken back stays, and
 * is not of the rule's, as far as is known.
 */
static void release_any(struct attempt *attempt)
{
    int no_port = 0;
    struct sockaddr_storage name;
    socklen_t length;
    struct hint hint = hint_get(attempt->fd);
    if (hint.kind != HINT_ANY && (hint.kind != HINT_NONE ||
                                  sock_get(attempt->fd, IPPROTO_IP, SOCK_NO_PORT, &no_port) != 0 ||
                                  !no_port))
        return;
    if (sock_name(attempt->fd, &name, &length) != 0 || !address_port(&name))
        return;
    if (sock_release(attempt->fd)) {
        sock_set(attempt->fd, IPPROTO_IP, SOCK_NO_PORT, 0);
        hint_set(attempt->fd, (struct hint){.kind = HINT_NONE});
        attempt->undone = true;
    } else {
        attempt->binding = BINDING_STUCK;
        attempt->by_bind = true;
    }
}

enum port_answer port_begin(struct attempt *attempt, int fd, const struct sockaddr *address,
                            socklen_t length)
{
    if (!address_copy(&attempt->address, address, length) ||
        !dest_from_sockaddr((struct sockaddr *)&attempt->address, length, &attempt->dest))
        return PORT_PASS;
    attempt->began = sys_now_ms();
    enum port_answer answer = find_rule(attempt, fd, attempt->began);
    if (answer != PORT_READY)
        return answer;
    struct hint hint = hint_get(fd);
    attempt->fresh = hint_is_fresh(hint, attempt->began);
    if (!attempt->fresh)
        answer = connectable(attempt, fd);
    if (answer != PORT_READY)
        return answer;
    attempt->fd = fd;
    attempt->sure = attempt->waiting = attempt->again = attempt->undone = false;
    attempt->recycled = attempt->soon = attempt->has_source = attempt->asked = false;
    attempt->others = attempt->listed = attempt->held = attempt->ranged = attempt->early = false;
    attempt->send_ms = 0;
    attempt->refusals = attempt->forbidden = attempt->rounds = attempt->lost = 0;
    attempt->taken_back = 0;
    attempt->budget = 0;
    attempt->error = attempt->unknown = attempt->ended = 0;
    attempt->binding = BINDING_NONE;
    if (!find_netns(attempt, fd) || !find_lane(attempt))
        return port_faulty(true);
    attempt->by_bind = hint_is_bound(hint);
    attempt->name_length = 0;
    attempt->set = attempt->fresh ? hint.netns : SET_REUSE | SET_RANGE;
    if (!attempt->fresh)
        release_any(attempt);
    answer = confine(attempt);
    if (answer == PORT_READY)
        search_begin(attempt, attempt->began);
    return answer;
}

/*
 * The socket has a port that it keeps: one that this library bound for an earlier call, one of
 * bind(addr, 0) that cannot be taken back, or the program's own. If that lies in the range, other
 * namespaces must know. If not, the program's own stays; with another the rule has no port left.
 */
enum port_answer port_already_bound(struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (sock_name(attempt->fd, &name, &length) != 0)
        return PORT_PASS;
    uint16_t port = address_port(&name);
    bool own = attempt->binding != BINDING_STUCK && !hint_is_bound(hint_get(attempt->fd));
    if (portset_has(&attempt->verdict.ports, port) &&
        lease_claim(&attempt->search, port, &attempt->lease) == 0) {
        attempt->binding = own ? BINDING_PROGRAM : BINDING_OURS;
        put_share_early(attempt);
        return PORT_READY;
    }
    if (!own)
        return lack_exhausted(attempt);
    if (port)
        shim_log("bound-by-program", &attempt->dest, port);
    return PORT_PASS;
}

bool port_has(const struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    return !attempt->undone && sock_name(attempt->fd, &name, &length) == 0 && address_port(&name) != 0;
}

enum port_answer port_search(struct attempt *attempt, uint64_t now)
{
    const struct shim_pool *before = attempt->at;
    enum port_answer answer = find_rule(attempt, attempt->fd, now);
    if (answer != PORT_READY)
        return answer;
    if (attempt->at != before)
        attempt->netns = netns_of(attempt->at, attempt->fd);
    if (!attempt->netns || !find_lane(attempt))
        return port_faulty(true);
    answer = confine(attempt);
    if (answer == PORT_READY)
        search_begin(attempt, now);
    return answer;
}

/* The kernel refuses the lease's port. */
static void not_this_port(struct attempt *attempt, enum outcome outcome)
{
    attempt->refusals++;
    if (outcome == OUTCOME_HELD)
        lease_return(attempt->pool, &attempt->lease, sys_now_ms());
    else
        lease_refused(attempt->pool, &attempt->lease, sys_now_ms());
}

enum port_answer port_next(struct attempt *attempt)
{
    if (attempt->again) {
        attempt->again = false;
        return PORT_READY;
    }
    for (;;) {
        enum port_answer answer = lack_next(attempt);
        if (answer != PORT_READY)
            return answer;
        enum outcome outcome = put_port(attempt);
        switch (outcome) {
        case OUTCOME_DONE:
            return PORT_READY;
        case OUTCOME_HAS_PORT:
            lease_let_go(attempt->pool, &attempt->lease, attempt->began);
            return port_already_bound(attempt);
        case OUTCOME_NO_WAY: /* the kernel says why, or would */
            lease_let_go(attempt->pool, &attempt->lease, attempt->began);
            put_range_back(attempt);
            if (!attempt->error)
                return PORT_PASS;
            errno = attempt->error;
            return PORT_REFUSE;
        case OUTCOME_FORBIDDEN:
            lease_return(attempt->pool, &attempt->lease, sys_now_ms());
            if (attempt->forbidden++ >= FORBIDDEN_TRIES)
                return lack_exhausted(attempt);
            break;
        default:
            not_this_port(attempt, outcome);
        }
    }
}

/* ---- after the call ---- */

static void let_go(struct attempt *attempt)
{
    lease_let_go(attempt->pool, &attempt->lease, sys_now_ms());
}

static void remember(const struct attempt *attempt, enum hint_kind kind)
{
    hint_set(attempt->fd, (struct hint){.kind = (uint8_t)kind,
                                        .port = attempt->lease.port,
                                        .lane = (uint16_t)(attempt->lane |
                                                           (attempt->pool->apart ? HINT_APART : 0)),
                                        .netns = (uint8_t)(attempt->netns - attempt->at->netns)});
}

/* The socket has @port, not the one it was given. Return: as port_settle(). */
static int other_port(struct attempt *attempt, uint16_t port)
{
    uint32_t local = put_local_range_read(attempt);
    bool honoured = local && port_in(local, attempt->lease.port);
    let_go(attempt);
    put_range_back(attempt);
    if (honoured) {
        shim_log("bound-by-program", &attempt->dest, port);
        hint_set(attempt->fd, (struct hint){.kind = HINT_NONE});
        if (portset_has(&attempt->verdict.ports, port) &&
            lease_claim(&attempt->search, port, &attempt->lease) == 0)
            remember(attempt, HINT_LEASED);
        return 0;
    }
    sock_disconnect(attempt->fd);
    attempt->by_bind = attempt->undone = true;
    return 1;
}

/* Whether it, or its TIME_WAIT, may have to make room for another connection, see above. */
static bool must_share(const struct attempt *attempt)
{
    if (attempt_has_bound(attempt))
        return attempt_is_kernels(attempt); /* others have shared early */
    if (attempt->search.size <= FEW_PORTS)
        return true;
    linger_look(attempt);
    return attempt->lease.before != WORD_FREE || attempt->search.step > 8 || linger_expected();
}

/*
 * The port that the socket has, if it may be another than the one it was given; else 0.
 */
static uint16_t port_in_doubt(const struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    bool bound = attempt_has_bound(attempt);
    if (attempt->sure || (!bound && sock_name(attempt->fd, &name, &length) != 0))
        return 0;
    uint16_t port = bound ? attempt->lease.port : address_port(&name);
    if (port != attempt->lease.port)
        return port;
    if (attempt->fresh)
        netns_remember(attempt->at, attempt->netns, attempt->began, attempt->verdict.rule, bound);
    return 0;
}

/*
 * The lease has passed to another holder, as somebody has it: another port a few times, then what the
 * rule says. Return: as port_settle().
 */
static int lost(struct attempt *attempt)
{
    counter_add(&attempt->pool->counters->lost);
    bool again = !attempt->once && !attempt_has_bound(attempt) &&
                 (attempt->lost++ < LOST_TIMES || wait_more(attempt));
    if (!again && attempt->verdict.exhausted == POLICY_PASS) {
        counter_add(&attempt->pool->counters->passed);
        shim_log("passed", &attempt->dest, attempt->lease.port);
        hint_set(attempt->fd, (struct hint){.kind = HINT_NONE});
        return 0;
    }
    sock_disconnect(attempt->fd);
    put_range_back(attempt);
    attempt->undone = true;
    if (again)
        return 1;
    port_refuse(attempt);
    return -1;
}

/*
 * Whether the port is this namespace's, now that the kernel shows the connection. A reload may have made
 * the address another server's since the search (move.c).
 */
static bool keep_lease(struct attempt *attempt)
{
    struct policy_verdict now;
    const struct pool *before = attempt->pool;
    bool kept = lease_confirm(attempt->pool, &attempt->lease, attempt->began);
    if (attempt->verdict.generation == atomic_load(&attempt->at->pool.header->generation) ||
        !pool_match(&attempt->at->pool, &attempt->dest, &now) ||
        (now.name == attempt->verdict.name &&
         dest_compare(&now.server, &attempt->verdict.server) == 0))
        return kept;
    attempt->verdict = now;
    if (!find_lane(attempt)) {
        attempt->pool = before;
        return kept;
    }
    search_begin(attempt, attempt->began);
    return lease_follow(&attempt->search, before, &attempt->lease);
}

static int connected(struct attempt *attempt)
{
    uint16_t other = port_in_doubt(attempt);
    if (other)
        return other_port(attempt, other);
    if (!keep_lease(attempt))
        return lost(attempt);
    if (attempt->range)
        put_range_back(attempt);
    if (must_share(attempt))
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    remember(attempt, attempt->binding == BINDING_OURS ? HINT_LEASED_BOUND : HINT_LEASED);
    shim_log("connect", &attempt->dest, attempt->lease.port);
    lack_give_back(attempt);
    return 0;
}

/* By range, the kernel says that the 4-tuple is taken. Return: as port_settle(). */
static int refused(struct attempt *attempt)
{
    enum outcome outcome = attempt->lease.comes_again ? OUTCOME_TAKEN : put_by_sharing(attempt);
    switch (outcome) {
    case OUTCOME_DONE:
        attempt->again = true; /* the same port, the other way */
        if (attempt->lease.before == WORD_FREE && sysctl_reserved(attempt->lease.port))
            atomic_store(&attempt->netns->by_bind, 1); /* the kernel's own choice skips our ports */
        return 1;
    case OUTCOME_HAS_PORT: /* it is the program's own that is taken */
    case OUTCOME_NO_WAY:
        let_go(attempt);
        put_range_back(attempt);
        errno = EADDRNOTAVAIL;
        return 0;
    case OUTCOME_FORBIDDEN: /* to share: others may come by range */
        not_this_port(attempt, OUTCOME_HELD);
        return 1;
    default:
        not_this_port(attempt, outcome);
        return 1;
    }
}

/* A call that failed leaves the socket as it was, or bound for ever. */
static int failed(struct attempt *attempt)
{
    if (attempt->binding == BINDING_OURS) {
        remember(attempt, HINT_BOUND);
        return 0;
    }
    let_go(attempt);
    put_range_back(attempt);
    return 0;
}

int port_settle(struct attempt *attempt, bool has_failed)
{
    int error = has_failed ? errno : 0;
    switch (error) {
    case 0:
    case EINPROGRESS:
    case EINTR: /* it goes on in the background, connect(2) */
        return connected(attempt);
    case EADDRNOTAVAIL:
        if (attempt_has_bound(attempt) && attempt->recycled)
            lease_kept(attempt->pool, attempt->lane, sys_now_ms());
        return attempt_has_bound(attempt) ? failed(attempt) : refused(attempt);
    case EALREADY:
    case EISCONN: /* another thread was faster */
        let_go(attempt);
        return 0;
    default:
        return failed(attempt);
    }
}
