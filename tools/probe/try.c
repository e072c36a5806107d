/* SPDX-License-Identifier: MIT */
/*
 * One try: a socket that is bound as its kind says, marked, and connected; and what the system
 * says of it then. An ICMP error that ends a connection is told with its sender by IP_RECVERR
 * (ip(7)); an error without one came from this system, or was a RST.
 */
#include "probe.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#define STARTS_MOST 16 /* the same towards the destination */
#define BINDS_MOST 64  /* ports that are tried until one is free here */

socklen_t dest_sockaddr(const struct dest *dest, struct sockaddr_storage *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof(*address));
    if (address_is_v4(dest->addr)) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(dest->port);
        memcpy(&v4->sin_addr, dest->addr + 12, 4);
        return sizeof(*v4);
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(dest->port);
    memcpy(&v6->sin6_addr, dest->addr, 16);
    return sizeof(*v6);
}

void try_close(struct try_socket *socket)
{
    if (socket->fd >= 0)
        close(socket->fd);
    socket->fd = -1;
}

/* The end of a try has come. */
static void try_end(struct try_socket *socket, enum try_end end, int error)
{
    socket->try->end = end;
    socket->try->error = end == END_LOCAL ? error : 0;
    try_close(socket);
}

/*
 * Binds to a port of its kind. With SO_REUSEADDR, so that a small range can be probed again while
 * the last probe's connections are in TIME_WAIT; an established one refuses connect(). Return: 0
 * or -errno.
 */
static int try_bind(struct try_socket *socket, const struct dest *to, const struct portset *ports)
{
    struct dest any = {.port = 0};
    struct sockaddr_storage address;
    int error = -EADDRNOTAVAIL, on = 1;
    setsockopt(socket->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address_is_v4(to->addr))
        memset(any.addr + 10, 0xff, 2);
    for (int i = 0; i < BINDS_MOST; i++) {
        any.port = ports_pick(ports, socket->try->kind == KIND_INSIDE);
        if (!any.port)
            return -EADDRNOTAVAIL;
        socklen_t length = dest_sockaddr(&any, &address);
        error = bind(socket->fd, (struct sockaddr *)&address, length) ? -errno : 0;
        if (error != -EADDRINUSE)
            break;
    }
    socket->try->own.port = error ? 0 : any.port;
    return error;
}

/* Without these two a try still tells what it can: their failure is none. */
static void try_options(struct try_socket *socket, bool v4)
{
    int on = 1, mark = (int)mark_make(socket->try->kind, socket->try->own.port);
    setsockopt(socket->fd, IPPROTO_TCP, TCP_MAXSEG, &mark, sizeof(mark));
    if (v4)
        setsockopt(socket->fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on));
    else
        setsockopt(socket->fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on));
}

static void try_name(struct try_socket *socket)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);
    if (getsockname(socket->fd, (struct sockaddr *)&name, &length) == 0)
        dest_from_sockaddr((struct sockaddr *)&name, length, &socket->try->own);
}

/* Return: 0 if it is on its way, or -errno of what refused it. */
static int try_once(struct try_socket *try, const struct dest *to, const struct portset *ports)
{
    struct sockaddr_storage address;
    socklen_t length = dest_sockaddr(to, &address);
    try->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (try->fd < 0)
        return -errno;
    int error = try->try->kind == KIND_PLAIN ? 0 : try_bind(try, to, ports);
    if (error)
        return error;
    try_options(try, address_is_v4(to->addr));
    if (connect(try->fd, (struct sockaddr *)&address, length) != 0 && errno != EINPROGRESS)
        return -errno;
    try_name(try);
    return 0;
}

/* A bound port may be in use towards this very destination, as by another try: then another one. */
void try_start(struct try_socket *socket, const struct dest *to, const struct portset *ports)
{
    int error = try_once(socket, to, ports);
    for (int i = 0; i < STARTS_MOST && error == -EADDRNOTAVAIL && socket->try->kind != KIND_PLAIN;
         i++) {
        try_close(socket);
        error = try_once(socket, to, ports);
    }
    if (error)
        try_end(socket, error == -ECONNREFUSED ? END_REFUSED : END_LOCAL, -error);
}

/* Whether a control message is an ICMP error's; who sent it then. */
static bool try_icmp(const struct cmsghdr *control, struct icmp_error *error)
{
    const struct sock_extended_err *extended = (const void *)CMSG_DATA(control);
    bool known = (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_RECVERR) ||
                 (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_RECVERR);
    size_t room = control->cmsg_len - CMSG_LEN(sizeof(*extended));
    struct dest by;
    if (!known || control->cmsg_len < CMSG_LEN(sizeof(*extended)) ||
        (extended->ee_origin != SO_EE_ORIGIN_ICMP && extended->ee_origin != SO_EE_ORIGIN_ICMP6) ||
        !dest_from_sockaddr(SO_EE_OFFENDER(extended), (socklen_t)room, &by))
        return false;
    *error = (struct icmp_error){.is = true, .type = extended->ee_type, .code = extended->ee_code};
    memcpy(error->by, by.addr, 16);
    return true;
}

/* Takes in what waits in the socket's queue of errors. Return: whether an ICMP error did. */
static bool try_errors(struct try_socket *socket)
{
    bool found = false;
    for (int i = 0; i < 16; i++) {
        _Alignas(struct cmsghdr) char control[512];
        char data[64];
        struct iovec vector = {data, sizeof(data)};
        struct msghdr message = {.msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        if (recvmsg(socket->fd, &message, MSG_ERRQUEUE) < 0)
            break;
        for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at))
            found = try_icmp(at, &socket->try->reject) || found;
    }
    return found;
}

void try_settle(struct try_socket *socket)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof(int);
    int error = 0;
    bool icmp = try_errors(socket);
    if (getsockopt(socket->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    length = sizeof(peer);
    if (!error && getpeername(socket->fd, (struct sockaddr *)&peer, &length) == 0)
        socket->connected = true;
    else if (icmp && error)
        try_end(socket, END_REJECTED, error);
    else if (error == ECONNREFUSED || error == ECONNRESET)
        try_end(socket, END_REFUSED, error);
    else if (error == ETIMEDOUT)
        try_end(socket, END_SILENT, error);
    else if (error)
        try_end(socket, END_LOCAL, error);
}
