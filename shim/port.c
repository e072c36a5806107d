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
 * kernel's list of connections tells two threads with one port and destination apart. The others
 * get it unless ports are plenty and this process' connections leave no TIME_WAIT (close.c).
 *
 * Ports that this namespace has let go of a moment ago are the usual case where there are few. If
 * the last one had a TIME_WAIT on it, the next is looked up before the first way is tried in vain.
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
 * When no port is left: compare with the kernel (its own leases that were closed unseen), bury dead
 * holders, look again; then what the rule says: fail, wait or pass.
 */
#include "shim.h"
#include "../pool/address.h"
#include "../pool/sockdiag.h"

#include <netinet/tcp.h>
#include <string.h>

#define FEW_PORTS 1024 /* a range so small is used up in a minute by 17 short connections a second */
#define REFUSALS_MANY 256 /* a connect that met so many looks no further */
#define ROUND_NAP_NS 50000 /* before it looks once more; then twice as long, and so on */
#define ROUNDS 6 /* 3 ms in all */
#define BUDGET_NS 10000000 /* of our own work in one connect, once it has met with setbacks */
#define BUDGET_EVERY 16 /* refusals: a look at the clock is a system call */
#define COMPARE_MS 100 /* at most so often, whatever the pool says of the last time */
#define COMPARE_TIMES 3 /* in one connect that does not wait */
#define LOST_TIMES 4 /* leases in one connect */
#define OVER_NAP_MS 50 /* between the searches of one that waits, and has used its budget up */

static enum port_answer no_port(void)
{
    errno = EADDRNOTAVAIL;
    return PORT_REFUSE;
}

/* Something is wrong with the pool. Loopback is left alone unless a known rule names it. */
static enum port_answer faulty(int fd, const struct dest *dest)
{
    struct policy_verdict unused;
    int state = sock_tcp_state(fd);
    if (state != TCP_CLOSE && !sock_may_not(state))
        return PORT_PASS;
    fault_say();
    bool meant = shim.has_policy ? policy_match(&shim.policy, dest, &unused)
                                 : !addr_is_loopback(dest->addr);
    return shim.refuse && meant ? no_port() : PORT_PASS;
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

/* The program's own range, or none, after one of this library's. */
static void range_back(const struct attempt *attempt)
{
    sock_set(attempt->fd, IPPROTO_IP, SOCK_RANGE, (int)attempt->range);
}

static void search_begin(struct attempt *attempt)
{
    lease_search_begin(&attempt->search, &attempt->at->pool, &attempt->verdict,
                       attempt->netns->slot, attempt->lane, attempt->began);
}

/* Whether the socket is a TCP socket that may be connected. A fresh one is, without asking. */
static enum port_answer connectable(int fd, const struct dest *dest)
{
    struct hint hint = hint_get(fd);
    int state = sock_tcp_state(fd);
    if (sock_may_not(state)) {
        fault_set("getsockopt()", "the program may not ask whether a socket is one of TCP's");
        return faulty(fd, dest);
    }
    if (state != TCP_CLOSE)
        return PORT_PASS;
    if (hint_is_leased(hint)) /* that connection failed or was dissolved */
        hint_let_go(hint);
    return PORT_READY;
}

/* The rule for the destination, in the pool that is there now. Return: READY, or what to do instead. */
static enum port_answer find_rule(struct attempt *attempt, int fd, uint64_t now)
{
    do {
        attempt->at = shim_pool(now);
        if (!attempt->at)
            return faulty(fd, &attempt->dest);
        if (!pool_match(&attempt->at->pool, &attempt->dest, &attempt->verdict)) {
            port_pass(fd);
            return PORT_PASS;
        }
    } while (shim_pool_moved(attempt->at, now));
    return PORT_READY;
}

/* The namespace, and whether its settings may be taken as known. Return: false: it has no holder. */
static bool find_netns(struct attempt *attempt, int fd)
{
    attempt->netns = attempt->fresh ? netns_of_fresh(attempt->at, fd, attempt->began,
                                                     attempt->verdict.rule, &attempt->sure)
                                    : netns_of(attempt->at, fd);
    return attempt->netns != NULL;
}

static bool port_in(uint32_t local, uint16_t port)
{
    return (local & 0xffff) <= port && port <= local >> 16;
}

/*
 * Reads the namespace's ip_local_port_range, which /proc shows to threads that are in it. Where it
 * cannot be read (a changed root), bind() is sure. Return: 0 if it is not known.
 */
static uint32_t local_range_read(const struct attempt *attempt)
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

static uint32_t local_range(const struct attempt *attempt)
{
    uint32_t local = atomic_load_explicit(&attempt->netns->local, memory_order_relaxed);
    return local ? local : local_range_read(attempt);
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
    uint32_t local = local_range(attempt);
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
        attempt->kept = attempt->by_bind = true;
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
        answer = connectable(fd, &attempt->dest);
    if (answer != PORT_READY)
        return answer;
    attempt->fd = fd;
    attempt->sure = attempt->waiting = attempt->bound = attempt->again = false;
    attempt->held = attempt->recycled = attempt->soon = attempt->has_source = false;
    attempt->asked = attempt->undone = attempt->own = attempt->kept = false;
    attempt->refusals = attempt->rounds = attempt->lost = attempt->taken_back = 0;
    attempt->budget = 0;
    if (!find_netns(attempt, fd))
        return faulty(fd, &attempt->dest);
    attempt->lane = (uint32_t)pool_lane_find(&attempt->at->pool, &attempt->dest, true);
    attempt->by_bind = hint_is_bound(hint);
    attempt->name_length = 0;
    attempt->set = attempt->fresh ? hint.netns : SET_REUSE | SET_RANGE;
    if (!attempt->fresh)
        release_any(attempt);
    answer = confine(attempt);
    if (answer == PORT_READY)
        search_begin(attempt);
    return answer;
}

/* ---- putting a port on the socket ---- */

static bool range_works(const struct attempt *attempt)
{
    if (attempt->by_bind || atomic_load_explicit(&attempt->netns->by_bind, memory_order_relaxed))
        return false;
    return port_in(local_range(attempt), attempt->lease.port);
}

static int learn_name(struct attempt *attempt)
{
    return attempt->name_length ? 0
                                : sock_name(attempt->fd, &attempt->name, &attempt->name_length);
}

/*
 * Binds to the lease's port at the address that the socket has. A bind() that is refused takes that
 * address away (inet_bind(), af_inet.c), so it is remembered from before the first.
 * Return: 0, or -errno as bind(2).
 */
static int bind_port(struct attempt *attempt)
{
    int result = learn_name(attempt);
    if (result)
        return result;
    address_set_port(&attempt->name, attempt->lease.port);
    int saved = errno;
    result = real.bind(attempt->fd, (struct sockaddr *)&attempt->name, attempt->name_length);
    result = result ? -errno : 0;
    errno = saved;
    return result;
}

/* After a bind() that was refused: gives the socket the address back that it had. */
static void restore_address(struct attempt *attempt)
{
    if (!attempt->name_length || attempt->bound || addr_is_any((struct sockaddr *)&attempt->name))
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

/* Whether a new datagram socket goes the socket's way: no address, mark or device of its own. */
static bool routed_plainly(const struct attempt *attempt)
{
    int mark = 0, device = 0;
    return addr_is_any((const struct sockaddr *)&attempt->name) &&
           sock_get(attempt->fd, SOL_SOCKET, SO_MARK, &mark) == 0 && !mark &&
           sock_get(attempt->fd, SOL_SOCKET, SOCK_DEVICE, &device) == 0 && !device;
}

/*
 * The source of connections to a destination, remembered for the rest of a tick as the namespace is
 * (netns.c): the address << 32 | lane << 20 | entry << 16 | tick. For IPv4 and for lanes of one
 * destination only, and for sockets that have nothing of their own that would lead them elsewhere.
 */
static _Atomic uint64_t source_seen;

static bool lane_is_shared(const struct attempt *attempt)
{
    const struct pool *pool = &attempt->at->pool;
    return attempt->lane >= pool->lanes - pool->lanes_shared;
}

static uint64_t source_key(const struct attempt *attempt)
{
    uint32_t entry = (uint32_t)(attempt->netns - attempt->at->netns);
    return attempt->lane << 20 | entry << 16 | (attempt->began & 0xffff);
}

_Static_assert(POOL_LANES_MAX <= 4096 && SHIM_NETNS == 16, "source_key() has 12 and 4 bits for them");

static bool source_recall(const struct attempt *attempt, struct dest *source)
{
    uint64_t last = atomic_load_explicit(&source_seen, memory_order_relaxed);
    if (!last || (uint32_t)last != source_key(attempt) || !routed_plainly(attempt))
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
    if (!address_is_v4(source->addr) || lane_is_shared(attempt) || !routed_plainly(attempt))
        return;
    for (int i = 0; i < 4; i++)
        address = address << 8 | source->addr[12 + i];
    atomic_store_explicit(&source_seen, address << 32 | source_key(attempt), memory_order_relaxed);
}

/* The address that a datagram to the destination would come from. Return: as source_of(). */
static int source_ask(const struct attempt *attempt, struct sockaddr_storage *name,
                      socklen_t *length)
{
    int result = -EXDEV; /* this thread is in another namespace than the socket */
    *name = attempt->address;
    *length = name->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    int fd = (int)SYS(socket, name->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return result;
    if (holder_netns(fd) == atomic_load(&attempt->netns->cookie))
        result = (int)SYS(connect, fd, name, *length);
    if (!result)
        result = sock_name(fd, name, length);
    SYS(close, fd);
    return result;
}

/*
 * The address that the connection will have as its source: what the program bound, or what a
 * datagram to the destination would have. Return: 0; -EXDEV: that cannot be found out; -errno: there
 * is no way to the destination, from whatever port.
 */
static int source_of(const struct attempt *attempt, struct dest *source)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (source_recall(attempt, source))
        return 0;
    int result = source_ask(attempt, &name, &length);
    if (!result && !addr_is_any((const struct sockaddr *)&attempt->name)) {
        name = attempt->name;
        length = attempt->name_length;
    }
    if (!result && !dest_from_sockaddr((struct sockaddr *)&name, length, source))
        result = -EXDEV;
    if (!result)
        source_remember(attempt, source);
    bool no_way = result == -EADDRNOTAVAIL || result == -ENETUNREACH || result == -EHOSTUNREACH;
    return !result || (no_way && routed_plainly(attempt)) ? result : -EXDEV;
}

/*
 * What the kernel has at the 4-tuple. Return: 0: nothing; TCP_ESTABLISHED..; as source_of(), and
 * -EXDEV also where nobody may ask for sockets.
 */
static int tuple_state(struct attempt *attempt)
{
    int result = learn_name(attempt);
    if (!result && !attempt->has_source)
        result = source_of(attempt, &attempt->source);
    if (result)
        return result;
    attempt->has_source = true;
    attempt->source.port = attempt->lease.port;
    int state = sockdiag_state(&attempt->source, &attempt->dest);
    atomic_store_explicit(&attempt->netns->lingers, state == TCP_TIME_WAIT, memory_order_relaxed);
    return state == -ENOENT ? 0 : state > 0 ? state : -EXDEV;
}

/*
 * Whether the kernel lets a TIME_WAIT be replaced in this namespace, which it does by the timestamps
 * that the connection had. Known for a second. The thread is in the namespace: source_of() saw to it.
 */
static bool has_timestamps(const struct attempt *attempt)
{
    uint32_t second = (uint32_t)(attempt->began / 1000) & INT32_MAX;
    uint32_t known = atomic_load_explicit(&attempt->netns->stamps, memory_order_relaxed);
    if (known >> 1 != second) {
        known = second << 1 | sysctl_no_timestamps();
        atomic_store_explicit(&attempt->netns->stamps, known, memory_order_relaxed);
    }
    return !(known & 1);
}

static bool is_closing(int state)
{
    return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING ||
           state == TCP_LAST_ACK;
}

/* Whether the kernel has room for the 4-tuple. Return: 0; -EADDRINUSE; as tuple_state(). */
static int tuple_room(struct attempt *attempt, int state)
{
    const struct pool *pool = &attempt->at->pool;
    attempt->recycled = state == TCP_TIME_WAIT;
    attempt->soon |= is_closing(state);
    if (attempt->recycled && has_timestamps(attempt) &&
        !lease_keeps(pool, attempt->lane, attempt->began))
        return 0;
    return state > 0 ? -EADDRINUSE : state;
}

/*
 * The third way, the kernel having @state at the 4-tuple. Return: 0; -EADDRINUSE: not this port;
 * -EXDEV: it cannot be found out; other: no port would do.
 */
static int share(struct attempt *attempt, int state)
{
    int reuse = 0;
    int result = tuple_room(attempt, state);
    if (!result)
        result = sock_get(attempt->fd, SOL_SOCKET, SO_REUSEADDR, &reuse);
    if (result)
        return result;
    range_back(attempt);
    if (!reuse)
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    result = bind_port(attempt);
    attempt->bound = result == 0;
    attempt->held = result == -EADDRINUSE;
    attempt->soon |= attempt->held;
    if (!reuse && (result || lane_is_shared(attempt)))
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 0); /* until it is connected: must_share() */
    if (result)
        restore_address(attempt);
    return result;
}

static int put_by_sharing(struct attempt *attempt)
{
    return share(attempt, tuple_state(attempt));
}

static void share_early(const struct attempt *attempt)
{
    if (!lane_is_shared(attempt))
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

static int put_alone(struct attempt *attempt)
{
    int result = bind_port(attempt);
    attempt->bound = result == 0;
    if (result && result != -EINVAL)
        restore_address(attempt);
    if (!result)
        share_early(attempt);
    return result;
}

/*
 * With SO_REUSEADDR or SO_REUSEPORT, which a program may have set itself, bind() would not say who
 * else is there. If the kernel cannot be asked, they are taken away for the moment of the bind.
 */
static int put_by_bind(struct attempt *attempt)
{
    int reuse = 0, share = 0, result = 0;
    if (attempt->set & SET_REUSE) {
        result = sock_get(attempt->fd, SOL_SOCKET, SO_REUSEADDR, &reuse);
        sock_get(attempt->fd, SOL_SOCKET, SO_REUSEPORT, &share);
    }
    if (result && !sock_may_not(result))
        return result;
    result = reuse || share ? put_by_sharing(attempt) : put_alone(attempt);
    if ((reuse || share) && result == -EXDEV) {
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 0);
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEPORT, 0);
        result = put_alone(attempt);
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, reuse);
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEPORT, share);
    } else if (!(reuse || share) && result == -EADDRINUSE) {
        result = put_by_sharing(attempt);
    }
    return result == -EXDEV ? -EADDRINUSE : result;
}

static int put_by_range(struct attempt *attempt)
{
    uint32_t port = attempt->lease.port;
    return sock_set(attempt->fd, IPPROTO_IP, SOCK_RANGE, (int)(port | port << 16));
}

/* Return: 0; -EADDRINUSE: not this port; -EXDEV: there is no TIME_WAIT, or it cannot be found out. */
static int put_over_time_wait(struct attempt *attempt)
{
    bool let_go = attempt->lease.before == WORD_LETGO || attempt->lease.before == WORD_CLOSING;
    if (!let_go || !atomic_load_explicit(&attempt->netns->lingers, memory_order_relaxed))
        return -EXDEV;
    int state = tuple_state(attempt);
    return state > 0 ? share(attempt, state) : -EXDEV;
}

static int put(struct attempt *attempt)
{
    attempt->held = attempt->recycled = false;
    if (range_works(attempt)) {
        int result = put_over_time_wait(attempt);
        if (result != -EXDEV)
            return result;
        result = put_by_range(attempt);
        if (!result)
            return 0;
        if (result == -ENOPROTOOPT) /* before Linux 6.3 */
            atomic_store(&attempt->netns->by_bind, 1);
    }
    attempt->by_bind = true;
    return put_by_bind(attempt);
}

static enum port_answer exhausted(struct attempt *attempt);

/*
 * The socket has a port that it keeps: one that this library bound for an earlier call, one of
 * bind(addr, 0) that cannot be taken back, or the program's own. If that lies in the range, other
 * namespaces must know. If not, the program's own stays; with another the rule has no port left.
 */
static enum port_answer already_bound(struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (sock_name(attempt->fd, &name, &length) != 0)
        return PORT_PASS;
    uint16_t port = address_port(&name);
    attempt->own = !attempt->kept && !hint_is_bound(hint_get(attempt->fd));
    if (portset_has(&attempt->verdict.ports, port) &&
        lease_claim(&attempt->search, port, &attempt->lease) == 0) {
        attempt->bound = true;
        share_early(attempt);
        return PORT_READY;
    }
    if (!attempt->own)
        return exhausted(attempt);
    if (port)
        shim_log("bound-by-program", &attempt->dest, port);
    return PORT_PASS;
}

/* ---- when no port is left ---- */

/*
 * Compares the namespace's leases with its sockets, if this thread can see them. Return: whether that
 * was done: a search is then worth while even if no port came free, because ports that were closed
 * a moment ago no longer stand among others that only seemed to be.
 */
static bool reconcile(const struct attempt *attempt, uint64_t now)
{
    return netns_is_own(attempt->netns) &&
           lease_reconcile(&attempt->at->pool, attempt->netns->slot, now) >= 0;
}

/* Anybody can have others do more than they would, by what he writes to the pool; but not for ever. */
static bool over_budget(struct attempt *attempt)
{
    struct timespec used = {.tv_sec = 0};
    SYS(clock_gettime, CLOCK_THREAD_CPUTIME_ID, &used);
    uint64_t now = (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
    if (!attempt->budget)
        attempt->budget = now;
    return now - attempt->budget > BUDGET_NS;
}

static bool comparison_due(const struct attempt *attempt, uint64_t now)
{
    uint64_t before = atomic_load_explicit(&attempt->netns->compared, memory_order_relaxed);
    return now - before >= COMPARE_MS &&
           lease_reconcile_due(&attempt->at->pool, attempt->netns->slot, now) &&
           atomic_compare_exchange_strong(&attempt->netns->compared, &before, now);
}

/* Looks for ports that are free and not known to be. Return: whether to search once more. */
static bool take_back(struct attempt *attempt)
{
    const struct pool *pool = &attempt->at->pool;
    uint64_t now = sys_now_ms();
    lease_want(pool, now);
    if ((!attempt->waiting && attempt->taken_back++ >= COMPARE_TIMES) || !comparison_due(attempt, now))
        return false;
    bool again = reconcile(attempt, now);
    int fd = pool_shares_open(shim.path, pool, O_RDWR);
    if (fd >= 0) {
        again |= holder_bury_dead(pool, fd, now) > 0;
        SYS(close, fd);
    }
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

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* Waits until a port is let go, or a while: a close may have been unseen. Return: search again? */
static bool wait_for_port(struct attempt *attempt)
{
    const struct pool *pool = &attempt->at->pool;
    uint32_t left = wait_left(attempt);
    if (attempt->verdict.exhausted != POLICY_WAIT || !left || !blocking(attempt->fd))
        return false;
    if (attempt->waiting && over_budget(attempt)) /* whoever wakes all waiters would keep them busy */
        SYS(nanosleep, &(struct timespec){.tv_nsec = OVER_NAP_MS * 1000000l}, NULL);
    else if (attempt->waiting)
        lease_wait(pool, attempt->netns->slot, attempt->lane, attempt->seen,
                   left < 200 ? left : 200);
    else
        count(&pool->counters->waited);
    attempt->waiting = true;
    attempt->seen = lease_wait_begin(pool, attempt->netns->slot, attempt->lane);
    return true;
}

static enum port_answer exhausted(struct attempt *attempt)
{
    struct pool_counters *counters = attempt->at->pool.counters;
    count(&counters->exhausted);
    shim_log("exhausted", &attempt->dest, 0);
    range_back(attempt);
    if (attempt->verdict.exhausted != POLICY_PASS)
        return no_port();
    count(&counters->passed);
    return PORT_PASS;
}

/*
 * Ports that were refused only because their last connection is just closing, or because another
 * thread is just connecting from them, come free any moment: a connection that may block looks a
 * few times more. A search tries some only of those that were let go: so before it is refused, the
 * kernel is asked about all of them, however short a while ago that was. Return: search again?
 */
static bool try_again(struct attempt *attempt)
{
    bool soon = attempt->soon && blocking(attempt->fd);
    if (attempt->asked || !(soon || attempt->search.cut))
        return false;
    attempt->soon = false;
    if (!soon || attempt->refusals > REFUSALS_MANY || attempt->rounds >= ROUNDS) {
        attempt->asked = true;
        return reconcile(attempt, sys_now_ms());
    }
    SYS(nanosleep, &(struct timespec){.tv_nsec = ROUND_NAP_NS << attempt->rounds++}, NULL);
    return true;
}

static bool has_port(const struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    return !attempt->undone && sock_name(attempt->fd, &name, &length) == 0 && address_port(&name) != 0;
}

/*
 * A search that begins again may have waited for minutes: the rules may be others by now, or the
 * pool be another, and the ports of the old one are not to be had any more.
 */
static enum port_answer search_again(struct attempt *attempt)
{
    const struct shim_pool *before = attempt->at;
    uint64_t now = sys_now_ms();
    attempt->sure = false;
    atomic_store_explicit(&attempt->netns->used, now, memory_order_relaxed);
    enum port_answer answer = find_rule(attempt, attempt->fd, now);
    if (answer == PORT_READY && attempt->at != before) {
        attempt->netns = netns_of(attempt->at, attempt->fd);
        if (!attempt->netns)
            answer = faulty(attempt->fd, &attempt->dest);
    }
    if (answer != PORT_READY) {
        range_back(attempt);
        return answer;
    }
    attempt->lane = (uint32_t)pool_lane_find(&attempt->at->pool, &attempt->dest, true);
    range_back(attempt);
    answer = confine(attempt);
    search_begin(attempt);
    attempt->search.now = now;
    return answer;
}

/* Takes the next port. Return: false: there is none; @instead: what to do. */
static bool search_next(struct attempt *attempt, enum port_answer *instead)
{
    bool over = attempt->refusals % BUDGET_EVERY == BUDGET_EVERY - 1 && over_budget(attempt);
    while (over || lease_search_next(&attempt->search, &attempt->lease) != 0) {
        if (has_port(attempt)) {
            *instead = already_bound(attempt); /* and needs none */
            return false;
        }
        over = over_budget(attempt);
        bool again = (!over && (take_back(attempt) || try_again(attempt))) || wait_for_port(attempt);
        over = false;
        *instead = again ? search_again(attempt) : exhausted(attempt);
        if (*instead != PORT_READY)
            return false;
    }
    return true;
}

/* The kernel refuses the lease's port. */
static void not_this_port(struct attempt *attempt)
{
    attempt->refusals++;
    if (attempt->held)
        lease_return(&attempt->at->pool, &attempt->lease, sys_now_ms());
    else
        lease_refused(&attempt->at->pool, &attempt->lease, sys_now_ms());
}

enum port_answer port_next(struct attempt *attempt)
{
    if (attempt->again) {
        attempt->again = false;
        return PORT_READY;
    }
    for (;;) {
        enum port_answer instead;
        if (!search_next(attempt, &instead))
            return instead;
        int result = put(attempt);
        if (result == 0)
            return PORT_READY;
        if (result == -EINVAL) {
            lease_let_go(&attempt->at->pool, &attempt->lease, attempt->began);
            return already_bound(attempt);
        }
        if (result != -EADDRINUSE) {
            /* EACCES for ports below 1024, no route, or a socket that cannot be bound at all. */
            lease_let_go(&attempt->at->pool, &attempt->lease, attempt->began);
            range_back(attempt);
            errno = -result;
            return PORT_REFUSE;
        }
        not_this_port(attempt);
    }
}

/* ---- after the call ---- */

static void let_go(struct attempt *attempt)
{
    lease_let_go(&attempt->at->pool, &attempt->lease, sys_now_ms());
}

static void remember(const struct attempt *attempt, enum hint_kind kind)
{
    hint_set(attempt->fd, (struct hint){.kind = (uint8_t)kind,
                                        .port = attempt->lease.port,
                                        .lane = (uint16_t)attempt->lane,
                                        .netns = (uint8_t)(attempt->netns - attempt->at->netns)});
}

/* The socket has @port, not the one it was given. Return: as port_settle(). */
static int other_port(struct attempt *attempt, uint16_t port)
{
    uint32_t local = local_range_read(attempt);
    bool honoured = local && port_in(local, attempt->lease.port);
    let_go(attempt);
    range_back(attempt);
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

/* Another namespace has found no port: see what this one can spare (lease.c). */
static void give_back(const struct attempt *attempt)
{
    const struct pool *pool = &attempt->at->pool;
    if (lease_wanted(pool, attempt->netns->slot, attempt->began) &&
        comparison_due(attempt, attempt->began))
        reconcile(attempt, attempt->began);
}

/* Whether it, or its TIME_WAIT, may have to make room for another connection, see above. */
static bool must_share(const struct attempt *attempt)
{
    if (attempt->bound)
        return lane_is_shared(attempt); /* others have shared early */
    return attempt->search.size <= FEW_PORTS || attempt->lease.before != WORD_FREE ||
           attempt->search.step > 8 || close_lingers();
}

/*
 * The port that the socket has, if it may be another than the one it was given; else 0.
 */
static uint16_t port_in_doubt(const struct attempt *attempt)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (attempt->bound || attempt->sure || sock_name(attempt->fd, &name, &length) != 0)
        return 0;
    uint16_t port = address_port(&name);
    if (port != attempt->lease.port)
        return port;
    if (attempt->fresh)
        netns_remember(attempt->at, attempt->netns, attempt->began, attempt->verdict.rule);
    return 0;
}

/*
 * The lease has passed to another holder, as somebody has it: another port a few times, then what the
 * rule says. Return: as port_settle().
 */
static int lost(struct attempt *attempt)
{
    count(&attempt->at->pool.counters->lost);
    bool again = !attempt->once && !attempt->bound &&
                 (attempt->lost++ < LOST_TIMES || wait_for_port(attempt));
    if (!again && attempt->verdict.exhausted == POLICY_PASS) {
        count(&attempt->at->pool.counters->passed);
        shim_log("passed", &attempt->dest, attempt->lease.port);
        hint_set(attempt->fd, (struct hint){.kind = HINT_NONE});
        return 0;
    }
    sock_disconnect(attempt->fd);
    range_back(attempt);
    attempt->undone = true;
    if (again)
        return 1;
    errno = EADDRNOTAVAIL;
    return -1;
}

static int connected(struct attempt *attempt)
{
    uint16_t other = port_in_doubt(attempt);
    if (other)
        return other_port(attempt, other);
    if (!lease_confirm(&attempt->at->pool, &attempt->lease, attempt->began))
        return lost(attempt);
    if (attempt->range)
        range_back(attempt);
    if (must_share(attempt))
        sock_set(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    remember(attempt, attempt->bound && !attempt->own ? HINT_LEASED_BOUND : HINT_LEASED);
    shim_log("connect", &attempt->dest, attempt->lease.port);
    give_back(attempt);
    return 0;
}

/* By range, the kernel says that the 4-tuple is taken. Return: as port_settle(). */
static int refused(struct attempt *attempt)
{
    int result = attempt->lease.comes_again ? -EADDRINUSE : put_by_sharing(attempt);
    if (result == 0) {
        attempt->again = true; /* the same port, the other way */
        if (attempt->lease.before == WORD_FREE && sysctl_reserved(attempt->lease.port))
            atomic_store(&attempt->netns->by_bind, 1); /* the kernel's own choice skips our ports */
        return 1;
    }
    if (result != -EADDRINUSE && result != -EXDEV) { /* EINVAL: it is the program's own port */
        let_go(attempt);
        range_back(attempt);
        errno = EADDRNOTAVAIL;
        return 0;
    }
    not_this_port(attempt);
    return 1;
}

/* A call that failed leaves the socket as it was, or bound for ever. */
static int failed(struct attempt *attempt)
{
    if (attempt->bound && !attempt->own) {
        remember(attempt, HINT_BOUND);
        return 0;
    }
    let_go(attempt);
    range_back(attempt);
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
        if (attempt->bound && attempt->recycled)
            lease_kept(&attempt->at->pool, attempt->lane, sys_now_ms());
        return attempt->bound ? failed(attempt) : refused(attempt);
    case EALREADY:
    case EISCONN: /* another thread was faster */
        let_go(attempt);
        return 0;
    default:
        return failed(attempt);
    }
}
