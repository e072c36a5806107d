/* SPDX-License-Identifier: MIT */
/*
 * Dumping the kernel's TCP sockets by NETLINK_SOCK_DIAG: sock_diag(7), linux/inet_diag.h.
 *
 * Spoken by hand, without libmnl, because the shim does it too and may need no library.
 *
 * What a dump costs is the walk of the kernel's table and then some us for each socket it lists. So
 * it uses the older request, TCPDIAG_GETSOCK, which alone gives both address families in one walk,
 * and the kernel's filter (bytecode, as ss(8) uses it) keeps a server's thousands of connections
 * out. All states are asked for, TIME_WAIT among them. The answers are read without blocking:
 * netlink puts the next part of a dump into the queue before the last has been read.
 */
#include "sockdiag.h"
#include "sys.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>

struct request {
    struct nlmsghdr header;
    struct inet_diag_req_v2 diag;
};

/* A local port from the first to the second: jumps count bytes, and 4 behind the end is "no". */
enum { PORT_GE, GE_VALUE, PORT_LE, LE_VALUE, FILTER_OPS };

struct dump_request {
    struct nlmsghdr header;
    struct inet_diag_req diag;
    struct nlattr filter_header;
    struct inet_diag_bc_op filter[FILTER_OPS];
};

static void addr_from_diag(uint8_t addr[16], uint8_t family, const __be32 *words)
{
    memset(addr, 0, 16);
    if (family == AF_INET6) {
        memcpy(addr, words, 16);
        return;
    }
    addr[10] = addr[11] = 0xff;
    memcpy(addr + 12, words, 4);
}

static uint16_t port_from_diag(__be16 port)
{
    uint8_t bytes[2];
    memcpy(bytes, &port, 2);
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void report(const struct inet_diag_msg *message,
                   void (*each)(const struct sockdiag_socket *socket, void *arg), void *arg)
{
    struct sockdiag_socket socket = {.port = port_from_diag(message->id.idiag_sport),
                                     .state = message->idiag_state};
    socket.peer.port = port_from_diag(message->id.idiag_dport);
    if (socket.peer.port)
        addr_from_diag(socket.peer.addr, message->idiag_family, message->id.idiag_dst);
    each(&socket, arg);
}

/* Return: 1 at the dump's end, 0 if there is more, -errno. */
static int parse(const char *buffer, size_t size,
                 void (*each)(const struct sockdiag_socket *socket, void *arg), void *arg)
{
    while (size >= sizeof(struct nlmsghdr)) {
        const struct nlmsghdr *header = (const void *)buffer;
        if (header->nlmsg_len < sizeof(*header) || header->nlmsg_len > size)
            return -EBADMSG;
        if (header->nlmsg_flags & NLM_F_DUMP_INTR)
            return -EINTR;
        if (header->nlmsg_type == NLMSG_DONE) {
            /* It carries the dump's own error, such as "no module for that". */
            int error = 0;
            if (header->nlmsg_len >= NLMSG_LENGTH(sizeof(error)))
                memcpy(&error, NLMSG_DATA(header), sizeof(error));
            return error < 0 ? error : 1;
        }
        if (header->nlmsg_type == NLMSG_ERROR) {
            int error = header->nlmsg_len >= NLMSG_LENGTH(sizeof(int))
                            ? ((const struct nlmsgerr *)NLMSG_DATA(header))->error
                            : 0;
            return error < 0 ? error : -EBADMSG;
        }
        if ((header->nlmsg_type == SOCK_DIAG_BY_FAMILY || header->nlmsg_type == TCPDIAG_GETSOCK) &&
            header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
            report(NLMSG_DATA(header), each, arg);
        size_t step = NLMSG_ALIGN(header->nlmsg_len);
        if (step > size)
            break;
        buffer += step;
        size -= step;
    }
    return 0;
}

static int dump(int fd, uint16_t first, uint16_t last, void *buffer,
                void (*each)(const struct sockdiag_socket *socket, void *arg), void *arg)
{
    struct dump_request request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = TCPDIAG_GETSOCK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .diag = {.idiag_states = ~0u},
        .filter_header = {.nla_len = sizeof(request.filter_header) + sizeof(request.filter),
                          .nla_type = INET_DIAG_REQ_BYTECODE},
        .filter = {[PORT_GE] = {.code = INET_DIAG_BC_S_GE, .yes = 8, .no = 16 + 4},
                   [GE_VALUE] = {.no = first},
                   [PORT_LE] = {.code = INET_DIAG_BC_S_LE, .yes = 8, .no = 8 + 4},
                   [LE_VALUE] = {.no = last}}};
    long sent = SYS(sendto, fd, &request, sizeof(request), 0, NULL, 0);
    if (sent < 0)
        return (int)sent;
    for (;;) {
        long got = SYS(recvfrom, fd, buffer, SOCKDIAG_BUFFER, MSG_DONTWAIT | MSG_TRUNC, NULL, NULL);
        if (got == -EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? (int)got : -EBADMSG;
        if (got > SOCKDIAG_BUFFER)
            return -EMSGSIZE;
        int result = parse(buffer, (size_t)got, each, arg);
        if (result)
            return result > 0 ? 0 : result;
    }
}

int sockdiag_dump(uint16_t first, uint16_t last, void *buffer,
                  void (*each)(const struct sockdiag_socket *socket, void *arg), void *arg)
{
    int fd = (int)SYS(socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        return fd;
    int result = dump(fd, first, last, buffer, each, arg);
    SYS(close, fd);
    return result;
}

static __be16 port_to_diag(uint16_t port)
{
    uint8_t bytes[2] = {(uint8_t)(port >> 8), (uint8_t)port};
    __be16 out;
    memcpy(&out, bytes, 2);
    return out;
}

static void addr_to_diag(__be32 *words, uint8_t family, const uint8_t addr[16])
{
    memcpy(words, family == AF_INET ? addr + 12 : addr, family == AF_INET ? 4 : 16);
}

static uint8_t family_of(const uint8_t addr[16])
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(addr, prefix, sizeof(prefix)) == 0 ? AF_INET : AF_INET6;
}

static void note_state(const struct sockdiag_socket *socket, void *arg)
{
    *(int *)arg = socket->state;
}

/* An answer names its question by its number: one may be lost if there is no room for it. */
static int read_states(int fd, int *states, uint32_t count)
{
    _Alignas(struct nlmsghdr) char buffer[1024];
    for (uint32_t i = 0; i < count; i++) {
        long got = SYS(recvfrom, fd, buffer, sizeof(buffer), MSG_DONTWAIT, NULL, NULL);
        if (got < (long)sizeof(struct nlmsghdr))
            return i ? 0 : got < 0 ? (int)got : -EBADMSG;
        uint32_t number = ((const struct nlmsghdr *)buffer)->nlmsg_seq;
        int state = -ENOENT;
        int result = parse(buffer, (size_t)got, note_state, &state);
        if (number < count)
            states[number] = result < 0 ? result : state;
    }
    return 0;
}

int sockdiag_states(const struct dest *local, const struct dest *peer, const uint16_t *ports,
                    int *states, uint32_t count)
{
    uint8_t family = family_of(peer->addr);
    struct request requests[SOCKDIAG_STATES];
    if (family_of(local->addr) != family)
        return -EAFNOSUPPORT;
    for (uint32_t i = 0; i < count; i++) {
        states[i] = -EBADMSG;
        requests[i] =
            (struct request){.header = {.nlmsg_len = sizeof(*requests),
                                        .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                                        .nlmsg_flags = NLM_F_REQUEST,
                                        .nlmsg_seq = i},
                             .diag = {.sdiag_family = family,
                                      .sdiag_protocol = IPPROTO_TCP,
                                      .idiag_states = ~0u,
                                      .id = {.idiag_sport = port_to_diag(ports[i]),
                                             .idiag_dport = port_to_diag(peer->port),
                                             .idiag_cookie = {INET_DIAG_NOCOOKIE,
                                                              INET_DIAG_NOCOOKIE}}}};
        addr_to_diag(requests[i].diag.id.idiag_src, family, local->addr);
        addr_to_diag(requests[i].diag.id.idiag_dst, family, peer->addr);
    }
    int fd = (int)SYS(socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        return fd;
    long sent = SYS(sendto, fd, requests, count * sizeof(*requests), 0, NULL, 0);
    int result = sent < 0 ? (int)sent : read_states(fd, states, count);
    SYS(close, fd);
    return result;
}

int sockdiag_state(const struct dest *local, const struct dest *peer)
{
    int state;
    int result = sockdiag_states(local, peer, &local->port, &state, 1);
    return result ? result : state;
}
