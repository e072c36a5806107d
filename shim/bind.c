/* SPDX-License-Identifier: MIT */
/*
 * bind() with port 0: "any port", at an address of the program's choice. Design.
 *
 * What comes next decides: if the program connects, the port must be one of the destination's rule,
 * which is not known yet; if it listens, or asks for the number, any port will do, and must stay.
 * So the choice is the kernel's, made at once, as without this library: whoever asks (also by a
 * bare system call, or in a static child) is told the truth, and a listener keeps it. But it is a
 * choice that can be made again: the kernel remembers whether a port was named (SOCK_BINDPORT_LOCK,
 * inet_bind()), and takes one that was not back when the socket becomes closed (tcp_set_state()). A
 * bound socket is closed already, so it has to be something else before: it listens for a moment,
 * with no backlog, and is dissolved by connect(AF_UNSPEC); what that resets of the program's options
 * is set again. All kernels do that, with IPv4, IPv6 and MPTCP. Then it is unbound but for its
 * address, and gets a port as every other socket does (port.c). That is done when a rule matches, a
 * moment before the port is put on; never for other destinations.
 *
 * What a program can see of it (fixport(7)): after connect(), getsockname() tells another port than
 * before. If listen() is forbidden, the port cannot be taken back: the rule says what happens then.
 *
 * That a port was not named is written on the socket itself, as IP_BIND_ADDRESS_NO_PORT, which has
 * no meaning once the bind is done, so that it is known of a duplicate or an inherited descriptor
 * too; and in the table of hints, for sockets that do not take the option. A program that sets the
 * option itself has no port before it connects, and needs nothing of this.
 *
 * The kernel chooses within ip_local_port_range. Where rules have ports in there, listeners and
 * those who look for a free port would take them from connections (where bind() puts them on, at
 * all addresses; by range too, because the kernel does not share a bound port). So for the moment
 * of the bind the choice is narrowed to the longest run of ports that no rule has
 * (IP_LOCAL_PORT_RANGE, unless the program has set that itself). Before Linux 6.3 a port that a
 * rule has is given back, and the kernel asked again, a few times. If no port is left that way,
 * because the rules have all, a listener takes one of them.
 *
 * A socket that was bound to a port of a rule for a connect() that then failed (port.c: bind) keeps
 * that port: it was named. bind() to "any port" is content with it, if the address is that of the
 * socket.
 */
#include "shim.h"

#include <netinet/tcp.h>

#define TRIES 16 /* ports of rules that are given back to the kernel, before Linux 6.3 */

/* What bind(addr, 0) at some address has to take into account. */
struct care {
    uint32_t spared; /* ports that the kernel may choose and no rule has: lo | hi << 16; 0: all, or
                        none */
    bool mark;       /* a rule may match what the socket connects to */
};

static struct care care_of(const struct shim_pool *at, const uint8_t local[16])
{
    unsigned guarded = guard_begin();
    struct care care = {.mark = policy_may_match_address(pool_policy_now(&at->pool), local)};
    uint32_t range = atomic_load_explicit(&at->netns[0].local, memory_order_relaxed);
    if (!range)
        range = sysctl_local_range();
    uint16_t lo = (uint16_t)range, hi = (uint16_t)(range >> 16);
    if (range && policy_gap(pool_policy_now(&at->pool), &lo, &hi) && ((uint32_t)hi << 16 | lo) != range)
        care.spared = (uint32_t)hi << 16 | lo;
    guard_end(guarded);
    return care;
}

/* Whether a rule has the port that the kernel has chosen. */
static bool took_from_rule(const struct shim_pool *at, int fd)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (sock_name(fd, &name, &length) != 0)
        return false;
    uint16_t lo = address_port(&name), hi = lo;
    unsigned guarded = guard_begin();
    bool took = !policy_gap(pool_policy_now(&at->pool), &lo, &hi);
    guard_end(guarded);
    return took;
}

static int bind_sparing(const struct shim_pool *at, int fd, const struct sockaddr *address,
                        socklen_t length, uint32_t spared)
{
    int own = 0;
    bool unknown = sock_get(fd, IPPROTO_IP, SOCK_RANGE, &own) != 0;
    if (own)
        return real.bind(fd, address, length);
    int saved = errno;
    bool narrow = !unknown && sock_set(fd, IPPROTO_IP, SOCK_RANGE, (int)spared) == 0;
    int result = real.bind(fd, address, length);
    if (narrow)
        sock_set(fd, IPPROTO_IP, SOCK_RANGE, 0);
    if (narrow && result < 0 && errno == EADDRINUSE) {
        errno = saved;
        return real.bind(fd, address, length);
    }
    for (int i = 0; !narrow && i < TRIES && !result && took_from_rule(at, fd) && sock_release(fd);
         i++)
        result = real.bind(fd, address, length);
    return result;
}

static int bind_any(const struct shim_pool *at, int fd, const struct sockaddr *address,
                    socklen_t length, const uint8_t local[16])
{
    int no_port = 0;
    bool ours = false;
    struct care care = care_of(at, local);
    if (care.mark || care.spared)
        sock_get(fd, IPPROTO_IP, SOCK_NO_PORT, &no_port);
    if (no_port && hint_get(fd).kind == HINT_ANY) { /* it is this library's, of a bind before */
        sock_set(fd, IPPROTO_IP, SOCK_NO_PORT, 0);
        no_port = 0;
        ours = true;
    }
    if (no_port)
        return real.bind(fd, address, length); /* the program puts the choice off itself */
    int result = care.spared ? bind_sparing(at, fd, address, length, care.spared)
                             : real.bind(fd, address, length);
    if ((result == 0 && care.mark) || (result < 0 && ours)) {
        sock_set(fd, IPPROTO_IP, SOCK_NO_PORT, 1);
        hint_set(fd, (struct hint){.kind = HINT_ANY});
    }
    return result;
}

/*
 * Whether bind() to any port asks for what the socket has already: a port of this library's, for a
 * connection that failed or was dissolved.
 */
static bool is_bound_so(int fd, const struct sockaddr_storage *wanted)
{
    struct sockaddr_storage name;
    socklen_t length;
    if (!hint_is_bound(hint_get(fd)) || sock_tcp_state(fd) != TCP_CLOSE ||
        sock_name(fd, &name, &length) != 0 || name.ss_family != wanted->ss_family)
        return false;
    address_set_port(&name, 0);
    return addr_is_any((const struct sockaddr *)wanted) ||
           address_same((const struct sockaddr *)&name, (const struct sockaddr *)wanted);
}

static bool is_tcp(int fd, const struct sockaddr *address, socklen_t length,
                   struct sockaddr_storage *copy, struct dest *local)
{
    return address_copy(copy, address, length) &&
           dest_from_sockaddr((struct sockaddr *)copy, length, local) && sock_tcp_state(fd) >= 0;
}

SHIM_EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    struct dest local;
    struct sockaddr_storage copy;
    if (!shim_enabled())
        return real.bind(fd, address, length);
    struct hint before = hint_get(fd);
    if (before.kind == HINT_FRESH)
        hint_set(fd, (struct hint){.kind = HINT_NONE}); /* not any more, whatever is bound */
    struct shim_pool *at = shim_pool_peek();
    if (!at || !is_tcp(fd, address, length, &copy, &local))
        return real.bind(fd, address, length);
    int saved = errno;
    int result;
    if (address_port(&copy) == 0) {
        result = bind_any(at, fd, address, length, local.addr);
    } else {
        result = real.bind(fd, address, length);
        if (result == 0)
            hint_set(fd, (struct hint){.kind = HINT_OWN});
    }
    if (result < 0 && errno == EINVAL && address_port(&copy) == 0 && is_bound_so(fd, &copy)) {
        errno = saved;
        result = 0;
    }
    return result;
}
