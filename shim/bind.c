/* SPDX-License-Identifier: MIT */
/*
 * bind() with port 0: "any port", at an address of the program's choice. What comes next decides: if
 * the program connects, the port must come from the pool; if it listens, or asks for the port, the
 * kernel's choice is as good as ever. So the choice is put off (IP_BIND_ADDRESS_NO_PORT, ip(7)),
 * and made up for when the program asks, by getsockname(), or binds again. connect() and listen()
 * on a socket without a port choose one by themselves.
 *
 * That a bind was put off is written on the socket itself, as an IP_LOCAL_PORT_RANGE that the kernel
 * ignores (1-1 lies outside any ip_local_port_range that can be set to a use), so that it is known of
 * a duplicate or an inherited descriptor too. Kernels without that option have the table of hints.
 */
#include "shim.h"

#include <string.h>

static bool is_deferred(int fd)
{
    int range = 0;
    int no_port = 0;
    int result = sock_get(fd, IPPROTO_IP, SOCK_RANGE, &range);
    if (result == -ENOPROTOOPT)
        return hint_get(fd).kind == HINT_DEFERRED;
    return result == 0 && range == SOCK_DEFERRED &&
           sock_get(fd, IPPROTO_IP, SOCK_NO_PORT, &no_port) == 0 && no_port;
}

/* The socket as bind() would have left it, but for the port. */
static void undo_defer(int fd)
{
    sock_set(fd, IPPROTO_IP, SOCK_RANGE, 0);
    sock_set(fd, IPPROTO_IP, SOCK_NO_PORT, 0);
}

/* Makes the choice that was put off, the kernel's way, at the address in @name. */
static void choose_any(int fd, const struct sockaddr_storage *name, socklen_t length)
{
    undo_defer(fd);
    hint_set(fd, (struct hint){.kind = HINT_NONE});
    SYS(bind, fd, name, length);
}

#define POOL_TRIES 64 /* ports in use in this namespace that are met before giving up */
#define POOL_WORDS (1u << 16) /* looked at in one call: a ms */

/*
 * The same with a port of the pool, where that can be. Others may have it towards where the program
 * connects, if none seems to be unused: then it is refused there. So it is if this namespace has all
 * of them, and the choice is the kernel's. Return: whether the socket has a port.
 */
static bool choose_from_pool(int fd, struct sockaddr_storage name, socklen_t length)
{
    int reuse = 0;
    struct pool_any rule;
    struct sockaddr_storage any = name;
    struct shim_pool *at = shim_pool(sys_now_ms());
    struct shim_netns *netns = at ? netns_of(at, fd) : NULL;
    if (!netns || sock_get(fd, SOL_SOCKET, SO_REUSEADDR, &reuse) != 0 || !pool_any_rule(&at->pool, &rule))
        return false;
    undo_defer(fd);
    if (reuse) /* or bind() would not say who else is there */
        sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 0);
    uint32_t words = POOL_WORDS;
    long result = -EADDRINUSE;
    for (int tries = 0; result && tries < POOL_TRIES; tries++) {
        address_set_port(&name, lease_unused_port(&at->pool, &rule, netns->slot, random_next(), &words));
        result = SYS(bind, fd, &name, length);
    }
    if (result)
        SYS(bind, fd, &any, length);
    if (reuse)
        sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    hint_set(fd, (struct hint){.kind = HINT_CHOSEN});
    return true;
}

static bool may_match(const struct shim_pool *at, const uint8_t addr[16])
{
    uint32_t generation = atomic_load_explicit(&at->pool.header->generation, memory_order_acquire);
    return policy_may_match_address(at->pool.policy[generation & 1], addr);
}

/* Whether a bind to @address may be followed by a connect that a rule matches. */
static bool concerns_us(int fd, const struct sockaddr *address, socklen_t length,
                        struct sockaddr_storage *copy)
{
    struct dest local;
    struct shim_pool *at = shim_pool_peek();
    if (!at || !address_copy(copy, address, length) ||
        !dest_from_sockaddr((struct sockaddr *)copy, length, &local))
        return false;
    return (addr_is_any((struct sockaddr *)copy) || may_match(at, local.addr)) &&
           sock_tcp_state(fd) >= 0;
}

/* Puts the choice of a port off. Return: false if that cannot be done, and nothing was changed. */
static bool defer(int fd)
{
    int no_port = 0;
    if (sock_get(fd, IPPROTO_IP, SOCK_NO_PORT, &no_port) != 0 || no_port ||
        sock_set(fd, IPPROTO_IP, SOCK_NO_PORT, 1) != 0)
        return false; /* the program does it itself, or the kernel cannot */
    sock_set(fd, IPPROTO_IP, SOCK_RANGE, SOCK_DEFERRED);
    return true;
}

SHIM_EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    struct sockaddr_storage copy, name;
    socklen_t name_length;
    if (!shim_enabled())
        return real.bind(fd, address, length);
    if (hint_get(fd).kind == HINT_FRESH)
        hint_set(fd, (struct hint){.kind = HINT_NONE}); /* not any more, whatever is bound */
    if (!concerns_us(fd, address, length, &copy))
        return real.bind(fd, address, length);
    hint_set(fd, (struct hint){.kind = HINT_NONE}); /* nor connected */
    if (is_deferred(fd)) {
        /* A second bind is an error, and it is the first one's port that stays. */
        if (sock_name(fd, &name, &name_length) == 0)
            choose_any(fd, &name, name_length);
        return real.bind(fd, address, length);
    }
    if (address_port(&copy) != 0 || !defer(fd))
        return real.bind(fd, address, length);
    int result = real.bind(fd, address, length);
    if (result != 0) {
        int saved = errno;
        undo_defer(fd);
        errno = saved;
    } else {
        hint_set(fd, (struct hint){.kind = HINT_DEFERRED});
    }
    return result;
}

SHIM_EXPORT int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    struct sockaddr_storage name;
    socklen_t name_length;
    if (!shim_enabled() || sock_name(fd, &name, &name_length) != 0 ||
        (name.ss_family != AF_INET && name.ss_family != AF_INET6) || address_port(&name) != 0 ||
        !is_deferred(fd))
        return real.getsockname(fd, address, length);
    bool was_blocked = guard_begin();
    bool chosen = choose_from_pool(fd, name, name_length);
    guard_end(was_blocked);
    if (!chosen)
        choose_any(fd, &name, name_length);
    return real.getsockname(fd, address, length);
}
