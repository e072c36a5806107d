/* SPDX-License-Identifier: MIT */
/*
 * What the kernel says exists: the TCP sockets of the caller's network namespace, by
 * NETLINK_SOCK_DIAG (sock_diag(7)). Needs no privilege.
 */
#ifndef FIXPORT_SOCKDIAG_H
#define FIXPORT_SOCKDIAG_H

#include "policy.h"

#include <netinet/tcp.h>

/* One socket. peer is all zeros for listening and unconnected sockets. */
struct sockdiag_socket {
    struct dest peer;
    uint16_t port; /* local, host order */
    uint8_t state; /* TCP_ESTABLISHED... of <netinet/tcp.h> */
};

/** sockdiag_is_closing - whether a TCP state is one of a connection that is ending, but for TIME_WAIT. */
static inline bool sockdiag_is_closing(int state)
{
    return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING ||
           state == TCP_LAST_ACK;
}

#define SOCKDIAG_BUFFER 32768 /* bytes that a dump needs from its caller */

/**
 * sockdiag_dump - this namespace's TCP and MPTCP sockets on some ports, TIME_WAIT included.
 * @first, @last: the local ports, 0..65535.
 * @buffer: SOCKDIAG_BUFFER bytes, aligned as malloc(3) does.
 * @each: called for each socket, with @arg.
 *
 * Return: 0; -errno if the kernel gave no complete answer (then nothing may be concluded from a
 * socket's absence). Opens and closes one descriptor. Costs a walk of the kernel's table: ms.
 */
int sockdiag_dump(uint16_t first, uint16_t last, void *buffer,
                  void (*each)(const struct sockdiag_socket *socket, void *arg), void *arg);

/**
 * sockdiag_state - the state of one connection of this namespace, by its exact 4-tuple.
 * @local, @peer: both IPv4 (v4-mapped) or both IPv6.
 * Return: TCP_ESTABLISHED..., TCP_TIME_WAIT; -ENOENT: there is none; -errno: not known. Opens and
 * closes one descriptor; some us.
 */
int sockdiag_state(const struct dest *local, const struct dest *peer);

#define SOCKDIAG_STATES 16 /* 4-tuples in one question */

/**
 * sockdiag_states - the same for several local ports at once: less than 1 us for each.
 * @local: its port is not looked at. @ports, @count: 1..SOCKDIAG_STATES.
 * @states: what sockdiag_state() returns, for each port.
 * Return: 0; -errno: none is known.
 */
int sockdiag_states(const struct dest *local, const struct dest *peer, const uint16_t *ports,
                    int *states, uint32_t count);

#endif
