/* SPDX-License-Identifier: MIT */
/*
 * What the kernel is asked: a dump shows each socket on the ports that were named, of both families
 * and in every state that matters, and none on others; a question about one connection gets its
 * state. On loopback, next to whatever else there is.
 */
#include "sockdiag.h"
#include "sys.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A listener and a connection to it. */
struct pair {
    int listener, client, server;
    uint16_t listens, connects; /* the two ports */
};

union any {
    struct sockaddr plain;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static uint16_t port_of(int fd)
{
    union any any;
    socklen_t size = sizeof(any);
    cr_assert_eq(getsockname(fd, &any.plain, &size), 0);
    return ntohs(any.plain.sa_family == AF_INET ? any.v4.sin_port : any.v6.sin6_port);
}

static bool pair_open(struct pair *pair, int family)
{
    union any any = {.plain.sa_family = (sa_family_t)family};
    socklen_t size = family == AF_INET ? sizeof(any.v4) : sizeof(any.v6);
    if (family == AF_INET)
        any.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        any.v6.sin6_addr = in6addr_loopback;
    pair->listener = socket(family, SOCK_STREAM, 0);
    if (pair->listener < 0 || bind(pair->listener, &any.plain, size))
        return false;
    cr_assert_eq(listen(pair->listener, 1), 0);
    cr_assert_eq(getsockname(pair->listener, &any.plain, &size), 0);
    pair->client = socket(family, SOCK_STREAM, 0);
    cr_assert_eq(connect(pair->client, &any.plain, size), 0);
    pair->server = accept(pair->listener, NULL, NULL);
    cr_assert_geq(pair->server, 0);
    pair->listens = port_of(pair->listener);
    pair->connects = port_of(pair->client);
    return true;
}

static void pair_close(struct pair *pair)
{
    close(pair->client);
    close(pair->server);
    close(pair->listener);
}

/* What a dump says of the ports of one pair. */
struct seen {
    const struct pair *pair;
    unsigned listening, client, server, others;
    uint8_t client_state;
    struct dest client_peer;
};

static void note(const struct sockdiag_socket *socket, void *arg)
{
    struct seen *seen = arg;
    if (socket->port == seen->pair->listens && !socket->peer.port)
        seen->listening++;
    else if (socket->port == seen->pair->listens && socket->peer.port == seen->pair->connects)
        seen->server++;
    else if (socket->port == seen->pair->connects && socket->peer.port == seen->pair->listens) {
        seen->client++;
        seen->client_state = socket->state;
        seen->client_peer = socket->peer;
    } else {
        seen->others++;
    }
}

static struct seen look(const struct pair *pair, uint16_t first, uint16_t last)
{
    struct seen seen = {.pair = pair};
    char *buffer = aligned_alloc(64, SOCKDIAG_BUFFER);
    cr_assert_eq(sockdiag_dump(first, last, buffer, note, &seen), 0);
    free(buffer);
    return seen;
}

static void expect_all(const struct pair *pair)
{
    struct seen all = look(pair, 0, 65535);
    cr_expect_eq(all.listening, 1);
    cr_expect_eq(all.client, 1);
    cr_expect_eq(all.server, 1);
    cr_expect_eq(all.client_state, TCP_ESTABLISHED);
    struct seen client = look(pair, pair->connects, pair->connects);
    cr_expect_eq(client.client, 1);
    cr_expect_eq(client.listening + client.server, 0);
    struct seen server = look(pair, pair->listens, pair->listens);
    cr_expect_eq(server.client, 0);
    cr_expect_eq(server.listening, 1);
    cr_expect_eq(server.server, 1);
}

Test(sockdiag, a_dump_is_of_both_families_and_of_the_ports_alone)
{
    static const int family[] = {AF_INET, AF_INET6};
    for (unsigned i = 0; i < 2; i++) {
        struct pair pair;
        if (!pair_open(&pair, family[i])) {
            cr_assert_eq(family[i], AF_INET6, "no IPv4 on loopback"); /* IPv6 may be off */
            continue;
        }
        expect_all(&pair);
        struct seen below = look(&pair, 0, pair.connects - 1);
        struct seen above = look(&pair, pair.connects + 1, 65535);
        cr_expect_eq(below.client + above.client, 0);
        cr_expect_eq(below.listening + above.listening, 1);
        cr_expect_eq(look(&pair, 1, 0).others, 0, "no ports, and yet a socket");
        pair_close(&pair);
    }
}

Test(sockdiag, what_is_over_is_seen_as_such)
{
    struct pair pair;
    cr_assert(pair_open(&pair, AF_INET));
    shutdown(pair.client, SHUT_WR);
    shutdown(pair.server, SHUT_WR);
    pair_close(&pair);
    struct seen seen = look(&pair, pair.connects, pair.connects);
    cr_expect_eq(seen.client, 1);
    cr_expect_eq(seen.client_state, TCP_TIME_WAIT);
    cr_expect_eq(seen.client_peer.addr[10], 0xff);
    cr_expect_eq(seen.client_peer.addr[12], 127);
    struct dest local = seen.client_peer;
    local.port = pair.connects;
    cr_expect_eq(sockdiag_state(&local, &seen.client_peer), TCP_TIME_WAIT);
    local.port = pair.listens;
    cr_expect_eq(sockdiag_state(&local, &seen.client_peer), -ENOENT);
}

Test(sockdiag, several_connections_are_asked_about_at_once)
{
    struct pair pair;
    uint16_t ports[SOCKDIAG_STATES];
    int states[SOCKDIAG_STATES];
    cr_assert(pair_open(&pair, AF_INET));
    struct dest peer = look(&pair, pair.connects, pair.connects).client_peer;
    for (int i = 0; i < SOCKDIAG_STATES; i++)
        ports[i] = i % 3 ? pair.listens : pair.connects;
    cr_assert_eq(sockdiag_states(&peer, &peer, ports, states, SOCKDIAG_STATES), 0);
    for (int i = 0; i < SOCKDIAG_STATES; i++)
        cr_expect_eq(states[i], i % 3 ? TCP_LISTEN : TCP_ESTABLISHED, "%d: %d", i, states[i]);
    pair_close(&pair);
}
