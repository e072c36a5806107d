/* SPDX-License-Identifier: MIT */
/*
 * Connections through the twin. Theory of operation:
 *
 * Connections are tried in waves, and those of a wave step by step together: the same packet of all
 * is sent, then all that comes out of the twin is read until everything has arrived or nothing more
 * comes. A far end is a tuple and a sequence number, its packets are written and read here. A near
 * end, one on this machine, is a socket in the twin. Whether a connection ends here is not asked
 * before: there is a listener for every destination, and if the kernel sends the packets elsewhere,
 * nothing ever comes to it.
 *
 * Whatever NAT does to addresses and ports, sequence numbers stay; by them a packet is known when
 * it comes out. Sockets that connect get theirs from here, too, by TCP_REPAIR.
 *
 * What waits for time is the loss of a packet only. So everything is tried with little time first.
 * What was lost then is tried again with more, by which a busy machine is not taken for a firewall.
 *
 * Connections that are independent must not meet each other: two with one source port, translated
 * to one address, would clash, and one of them would be given another port. Such ones are not
 * played in one wave if it can be told from what is known before, and otherwise played again apart.
 * After a wave all is closed, and conntrack forgets it: the twin's timeouts of closed connections
 * are 0.
 */
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DATA 8         /* bytes each way */
#define QUICK_MS 60    /* without any arrival, then the rest is lost */
#define SLOW_MS 1500   /* the same for the second try; a SYN/ACK is repeated after a second */
#define AGAIN_MS 400   /* the same for a single one whose fate is known */
#define POLL_MS 5      /* how often sockets are looked at */
#define SEQUENCES 4096 /* between the first sequence numbers of two connections */

/* The packets of a connection. The end that closes first is a far one, so that TIME_WAIT is
 * nobody's. */
static const struct step {
    enum play_packet packet;
    bool server; /* sends it; of PLAY_CLOSE: if the client closes first */
    uint8_t flags;
    size_t length;
    uint32_t seq, ack; /* relative to the first sequence numbers */
} steps[] = {
    {PLAY_SYN, false, TH_SYN, 0, 0, 0},
    {PLAY_SYN_ACK, true, TH_SYN | TH_ACK, 0, 0, 1},
    {PLAY_ACK, false, TH_ACK, 0, 1, 1},
    {PLAY_DATA, false, TH_PUSH | TH_ACK, DATA, 1, 1},
    {PLAY_ANSWER, true, TH_PUSH | TH_ACK, DATA, 1, 1 + DATA},
    {PLAY_CLOSE, false, TH_FIN | TH_ACK, 0, 1 + DATA, 1 + DATA},
    {PLAY_CLOSE, true, TH_FIN | TH_ACK, 0, 1 + DATA, 2 + DATA},
    {PLAY_CLOSE, false, TH_ACK, 0, 2 + DATA, 2 + DATA},
};
#define STEPS (sizeof steps / sizeof *steps)
#define STEPS_OPEN 5 /* the others close */
#define FLAGS (TH_SYN | TH_ACK | TH_FIN | TH_RST)

struct end {
    bool near, known;           /* on this machine; whether it is known where */
    size_t device;              /* a far one's: by which interface of the twin it is met */
    int fd;                     /* a near one's; -1 */
    uint8_t self[16], peer[16]; /* as it sees them */
    uint16_t port, peer_port;
    uint32_t seq; /* its first sequence number */
};

struct flow {
    struct play *play;
    struct end end[2]; /* client, server */
    size_t round;      /* of the wave; the earlier ones are open by then */
    size_t step;       /* that is being played */
    size_t reached;    /* so many packets have arrived */
    bool company;      /* another one of its wave had the same source port */
    bool over;
};

struct listener {
    uint8_t address[16];
    uint16_t port;
    int fd;
};

/* One wave, and what is the same for all. */
struct wave {
    struct twin *twin;
    uint32_t seq; /* of the next connection */
    struct flow *flow;
    size_t flows;
    struct listener *listener;
    size_t listeners;
    void (*tick)(void *arg);
    void *arg;
};

/* How much alike two connections may not be to be in one wave. */
enum apart { APART_SAME, APART_DESTINATION, APART_PORT };

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

static bool is_v4(const uint8_t address[16])
{
    return IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)address);
}

static socklen_t address_make(struct sockaddr_storage *out, const uint8_t address[16],
                              uint16_t port)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memcpy(&four.sin_addr, address + 12, 4);
    memcpy(&six.sin6_addr, address, 16);
    *out = (struct sockaddr_storage){0};
    if (is_v4(address))
        memcpy(out, &four, sizeof four);
    else
        memcpy(out, &six, sizeof six);
    return is_v4(address) ? sizeof four : sizeof six;
}

static void address_take(const struct sockaddr_storage *from, uint8_t address[16], uint16_t *port)
{
    const struct sockaddr_in *four = (const void *)from;
    const struct sockaddr_in6 *six = (const void *)from;
    if (from->ss_family == AF_INET) {
        memcpy(address, (uint8_t[12]){[10] = 0xff, [11] = 0xff}, 12);
        memcpy(address + 12, &four->sin_addr, 4);
    } else {
        memcpy(address, &six->sin6_addr, 16);
    }
    *port = ntohs(from->ss_family == AF_INET ? four->sin_port : six->sin6_port);
}

static void flow_end(struct flow *flow, enum play_result result, const char *why)
{
    flow->play->result = result;
    flow->play->packet = steps[flow->step].packet;
    flow->play->why = why;
    flow->over = true;
}

/* ---- near ends: sockets in the twin ---- */

static void option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

/* A socket of the address's family that hears of ICMP errors at once. In the twin. Return: -1. */
static int socket_make(const uint8_t address[16])
{
    int fd =
        socket(is_v4(address) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    option(fd, IPPROTO_IP, IP_RECVERR, 1);
    option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    return fd;
}

/* Sends nothing more, and leaves no TIME_WAIT. */
static void socket_close(int fd)
{
    struct linger at_once = {.l_onoff = 1};
    if (fd < 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

static int socket_state(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) ? 0 : info.tcpi_state;
}

/* Begins a connection of this machine's. In the twin. */
static void client_begin(struct flow *flow)
{
    struct end *end = &flow->end[0];
    struct sockaddr_storage from, to;
    socklen_t from_size = address_make(&from, flow->play->from, flow->play->sport);
    socklen_t to_size = address_make(&to, flow->play->to, flow->play->dport);
    end->fd = socket_make(flow->play->from);
    if (end->fd < 0 || bind(end->fd, (struct sockaddr *)&from, from_size)) {
        flow_end(flow, PLAY_NOT_PLAYED,
                 errno == EADDRNOTAVAIL ? "this machine does not have the source address"
                                        : "the source port cannot be bound");
        return;
    }
    option(end->fd, IPPROTO_TCP, TCP_REPAIR, 1);
    option(end->fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
    option(end->fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)end->seq);
    option(end->fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    if (connect(end->fd, (struct sockaddr *)&to, to_size) && errno != EINPROGRESS)
        flow_end(flow, PLAY_REFUSED, NULL); /* no route, or one that prohibits */
}

/* Listens where a connection goes, whether it ends here or not. In the twin. */
static void listener_make(struct wave *wave, const struct play *play)
{
    for (size_t i = 0; i < wave->listeners; i++) {
        if (wave->listener[i].port == play->dport &&
            memcmp(wave->listener[i].address, play->to, 16) == 0)
            return;
    }
    struct sockaddr_storage to;
    socklen_t size = address_make(&to, play->to, play->dport);
    int fd = socket_make(play->to);
    option(fd, IPPROTO_IP, IP_FREEBIND, 1);
    option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
    if (fd < 0 || bind(fd, (struct sockaddr *)&to, size) || listen(fd, SOMAXCONN)) {
        socket_close(fd);
        return;
    }
    wave->listener = state_grow(wave->listener, (wave->listeners + 1) * sizeof *wave->listener);
    struct listener *listener = &wave->listener[wave->listeners++];
    *listener = (struct listener){.port = play->dport, .fd = fd};
    memcpy(listener->address, play->to, 16);
}

/* Takes what has come to the listeners to the connections that it is of. */
static void listeners_accept(struct wave *wave)
{
    for (size_t i = 0; i < wave->listeners; i++) {
        int fd = accept4(wave->listener[i].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        uint32_t next = 0;
        socklen_t size = sizeof next;
        option(fd, IPPROTO_TCP, TCP_REPAIR, 1);
        option(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
        (void)getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &next, &size);
        option(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
        struct flow *flow = wave->flow;
        while (flow < wave->flow + wave->flows && (flow->over || flow->end[0].seq != next - 1))
            flow++;
        if (flow < wave->flow + wave->flows && flow->end[1].fd < 0) {
            struct sockaddr_storage name;
            flow->end[1].fd = fd;
            flow->end[1].near = flow->end[1].known = true;
            flow->play->arrived = true;
            size = sizeof name;
            if (getpeername(fd, (struct sockaddr *)&name, &size) == 0)
                address_take(&name, flow->play->seen_from, &flow->play->seen_sport);
            size = sizeof name;
            if (getsockname(fd, (struct sockaddr *)&name, &size) == 0)
                address_take(&name, flow->play->seen_to, &flow->play->seen_dport);
        } else {
            socket_close(fd);
        }
        i--; /* there may be another */
    }
}

/* Whether a listener has a SYN of @play's address, whose answer does not get through. In the twin.
 */
static bool listener_has(const struct play *play)
{
    char want[64], line[512];
    uint32_t word[4];
    memcpy(word, play->from, sizeof word);
    if (is_v4(play->from))
        snprintf(want, sizeof want, " %08X:%04X 03 ", word[3], play->sport);
    else
        snprintf(want, sizeof want, " %08X%08X%08X%08X:%04X 03 ", word[0], word[1], word[2],
                 word[3], play->sport);
    FILE *in = fopen(is_v4(play->from) ? "/proc/net/tcp" : "/proc/net/tcp6", "re");
    bool has = false;
    while (in && !has && fgets(line, sizeof line, in))
        has = strstr(line, want) != NULL;
    if (in)
        fclose(in);
    return has;
}

/* Looks at the near ends, whether the packet that is played has arrived or cannot. */
static void flow_look(struct flow *flow)
{
    const struct step *step = &steps[flow->step];
    bool server = step->server;
    bool swapped = step->packet == PLAY_CLOSE && flow->end[0].near;
    const struct end *to = &flow->end[!(server ^ swapped)], *from = &flow->end[server ^ swapped];
    char bytes[2 * DATA];
    if (from->near && from->fd >= 0) {
        int error = 0;
        socklen_t size = sizeof error;
        (void)getsockopt(from->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            flow_end(flow, PLAY_REFUSED, NULL);
        else if (step->packet == PLAY_SYN && socket_state(from->fd) == TCP_ESTABLISHED)
            flow_end(flow, PLAY_NOT_PLAYED, "it would not leave this machine");
    }
    if (!to->near || to->fd < 0 || flow->over)
        return;
    bool arrived = false;
    if (step->packet == PLAY_SYN_ACK) {
        arrived = socket_state(to->fd) == TCP_ESTABLISHED;
    } else if (step->packet == PLAY_ACK) {
        arrived = true; /* it could be accepted */
    } else if (flow->step == STEPS - 1) {
        arrived = socket_state(to->fd) == TCP_CLOSE;
    } else {
        ssize_t length = recv(to->fd, bytes, sizeof bytes, 0);
        arrived = length == (ssize_t)step->length;
        if (length < 0 && errno != EAGAIN)
            flow_end(flow, PLAY_REFUSED, NULL);
    }
    if (arrived && flow->reached <= flow->step)
        flow->reached = flow->step + 1;
}

/* ---- far ends: packets ---- */

/* Which end sends a packet. */
static bool flow_sender(const struct flow *flow, size_t step)
{
    return steps[step].server ^ (steps[step].packet == PLAY_CLOSE && flow->end[0].near);
}

static bool end_sends(struct wave *wave, struct flow *flow, const struct end *end,
                      struct packet *packet)
{
    const struct twin_device *device = &wave->twin->device[end->device];
    uint8_t bytes[PACKET_MOST];
    uint16_t protocol;
    memcpy(packet->from, end->self, 16);
    memcpy(packet->to, end->peer, 16);
    packet->sport = end->port;
    packet->dport = end->peer_port;
    size_t length = packet_write(packet, bytes, &protocol);
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(protocol),
        .sll_ifindex = device->around,
        .sll_halen = sizeof device->address,
    };
    memcpy(to.sll_addr, device->address, sizeof device->address);
    bool sent =
        sendto(wave->twin->packets, bytes, length, 0, (struct sockaddr *)&to, sizeof to) >= 0;
    if (!sent && (errno == ENETDOWN || errno == ENXIO) && !flow->over)
        flow_end(flow, PLAY_NOT_PLAYED, "the interface is down");
    return sent;
}

/* Sends the packet of the step that the connection is at. */
static void flow_send(struct wave *wave, struct flow *flow)
{
    const struct step *step = &steps[flow->step];
    bool server = flow_sender(flow, flow->step);
    const struct end *end = &flow->end[server];
    if (!end->near) {
        struct packet packet = {
            .seq = end->seq + step->seq, .flags = step->flags, .length = step->length};
        packet.ack = step->flags & TH_ACK ? flow->end[!server].seq + step->ack : 0;
        (void)end_sends(wave, flow, end, &packet);
    } else if (step->packet == PLAY_SYN) {
        twin_enter(wave->twin);
        client_begin(flow);
        twin_leave(wave->twin);
    } else if (step->length) {
        (void)!send(end->fd, "........", DATA, MSG_NOSIGNAL);
    } else if (step->flags & TH_FIN) {
        (void)shutdown(end->fd, SHUT_WR);
    }
}

/* A SYN has come out: where and as what, and so where the server is. */
static void flow_arrives(struct flow *flow, const struct packet *packet, size_t device,
                         const struct twin *twin)
{
    struct end *server = &flow->end[1];
    struct play *play = flow->play;
    server->known = true;
    server->device = device;
    memcpy(server->self, packet->to, 16);
    memcpy(server->peer, packet->from, 16);
    server->port = packet->dport;
    server->peer_port = packet->sport;
    play->arrived = true;
    memcpy(play->out, twin->device[device].name, sizeof play->out);
    memcpy(play->seen_from, packet->from, 16);
    memcpy(play->seen_to, packet->to, 16);
    play->seen_sport = packet->sport;
    play->seen_dport = packet->dport;
}

/* Whether @packet, of the sequence numbers of @step, has come to the end that it is for. */
static bool flow_takes(struct flow *flow, size_t step, const struct packet *packet, size_t device,
                       const struct twin *twin)
{
    bool from = flow_sender(flow, step);
    struct end *server = &flow->end[1], *to = &flow->end[!from];
    if (to->near && to->known)
        return false;
    if (step == 0 && !server->known)
        flow_arrives(flow, packet, device, twin);
    if (memcmp(packet->to, to->self, 16) || memcmp(packet->from, to->peer, 16) ||
        packet->dport != to->port || packet->sport != to->peer_port)
        return false;
    if (step == 1 && !server->known) { /* it is this machine that answers */
        server->near = server->known = true;
        server->seq = packet->seq;
        flow->play->arrived = true;
        memcpy(flow->play->seen_from, flow->play->from, 16);
        memcpy(flow->play->seen_to, flow->play->to, 16);
        flow->play->seen_sport = flow->play->sport;
        flow->play->seen_dport = flow->play->dport;
    }
    return true;
}

/* What @packet, which came out of a device, means to a connection. */
static void flow_read(struct flow *flow, const struct packet *packet, size_t device,
                      const struct twin *twin)
{
    const struct step *now = &steps[flow->step];
    const struct end *from = &flow->end[flow_sender(flow, flow->step)];
    uint32_t seq = from->seq + now->seq;
    uint32_t end = seq + (uint32_t)now->length + !!(now->flags & (TH_SYN | TH_FIN));
    if (packet->is_error || packet->flags & TH_RST) {
        bool about = packet->is_error
                         ? packet->seq == seq && packet->sport == from->port
                         : packet->dport == from->port && memcmp(packet->to, from->self, 16) == 0;
        bool answers = packet->is_error || packet->ack == end ||
                       (now->flags & TH_ACK &&
                        packet->seq == flow->end[!flow_sender(flow, flow->step)].seq + now->ack);
        if (!from->near && about && answers && flow->reached <= flow->step)
            flow_end(flow, PLAY_REFUSED, NULL);
        return;
    }
    for (size_t i = flow->step; i < STEPS; i++) {
        const struct end *sender = &flow->end[flow_sender(flow, i)];
        if (i > flow->step && !sender->near && (i != 1 || flow->end[1].known))
            continue; /* was not sent yet */
        bool same = i == 1 && !flow->end[1].known ? packet->ack == flow->end[0].seq + 1
                                                  : packet->seq == sender->seq + steps[i].seq;
        if (same && packet->length == steps[i].length &&
            !((packet->flags ^ steps[i].flags) & FLAGS) &&
            flow_takes(flow, i, packet, device, twin) && flow->reached <= i)
            flow->reached = i + 1;
    }
}

/* Reads all that has come out of the twin, and looks at the sockets. */
static void wave_read(struct wave *wave)
{
    uint8_t bytes[512];
    struct sockaddr_ll from;
    struct packet packet;
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t length = recvfrom(wave->twin->packets, bytes, sizeof bytes,
                                  MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &size);
        if (length < 0 && errno != EINTR)
            break;
        if (length < 0 || from.sll_pkttype == PACKET_OUTGOING)
            continue;
        size_t device = 0, there = (size_t)length < sizeof bytes ? (size_t)length : sizeof bytes;
        while (device < wave->twin->devices &&
               wave->twin->device[device].around != from.sll_ifindex)
            device++;
        if (device == wave->twin->devices ||
            !packet_read(bytes, there, ntohs(from.sll_protocol), &packet))
            continue;
        for (size_t i = 0; i < wave->flows; i++) {
            if (!wave->flow[i].over)
                flow_read(&wave->flow[i], &packet, device, wave->twin);
        }
    }
    listeners_accept(wave);
    for (size_t i = 0; i < wave->flows; i++) {
        if (!wave->flow[i].over)
            flow_look(&wave->flow[i]);
    }
}

/* ---- waves ---- */

/* Plays a step of all connections, of one round or (SIZE_MAX) of all. */
static void wave_step(struct wave *wave, size_t round, size_t step, int patience)
{
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        if (flow->over || (round != SIZE_MAX && flow->round != round))
            continue;
        flow->step = step;
        if (flow->reached <= step)
            flow_send(wave, flow);
        wave_read(wave);
    }
    size_t before = SIZE_MAX;
    for (long until = now_ms() + patience;;) {
        size_t waiting = 0;
        for (size_t i = 0; i < wave->flows; i++) {
            const struct flow *flow = &wave->flow[i];
            waiting +=
                !flow->over && (round == SIZE_MAX || flow->round == round) && flow->reached <= step;
        }
        if (waiting < before)
            until = now_ms() + patience;
        if (!waiting || now_ms() >= until)
            break;
        before = waiting;
        struct pollfd packets = {.fd = wave->twin->packets, .events = POLLIN};
        (void)poll(&packets, 1, POLL_MS);
        wave_read(wave);
        if (wave->tick)
            wave->tick(wave->arg);
    }
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        if (flow->over || (round != SIZE_MAX && flow->round != round) || flow->reached > step)
            continue;
        if (step == 0 && !flow->end[0].near) {
            twin_enter(wave->twin);
            if (listener_has(flow->play)) {
                flow->step = 1;
                flow->play->arrived = true;
                memcpy(flow->play->seen_from, flow->play->from, 16);
                memcpy(flow->play->seen_to, flow->play->to, 16);
                flow->play->seen_sport = flow->play->sport;
                flow->play->seen_dport = flow->play->dport;
            }
            twin_leave(wave->twin);
        }
        flow_end(flow, PLAY_LOST, NULL);
    }
}

/* Ends what is still open, so that neither the twin nor conntrack remembers it. */
static void wave_close(struct wave *wave)
{
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        for (int server = 0; server < 2; server++) {
            const struct end *end = &flow->end[server];
            size_t at = flow->step + (flow->play->result == PLAY_PASSED);
            uint32_t sent = 0; /* by this end, and by the other */
            uint32_t got = 0;
            for (size_t j = 0; j <= at && j < STEPS; j++) {
                uint32_t next = steps[j].seq + (uint32_t)steps[j].length +
                                !!(steps[j].flags & (TH_SYN | TH_FIN));
                uint32_t *side = flow_sender(flow, j) == server ? &sent : &got;
                *side = next > *side ? next : *side;
            }
            struct packet reset = {.flags = TH_RST | TH_ACK, .seq = end->seq + sent};
            reset.ack = got ? flow->end[!server].seq + got : 0;
            if (!end->near && end->known && flow->play->result != PLAY_NOT_PLAYED)
                (void)end_sends(wave, flow, end, &reset);
            socket_close(end->fd);
        }
    }
    for (size_t i = 0; i < wave->listeners; i++)
        socket_close(wave->listener[i].fd);
    wave->listeners = 0;
    wave_read(wave); /* nobody waits for what is left */
}

/* Makes a connection one of the wave. */
static void wave_add(struct wave *wave, struct play *play, size_t round)
{
    struct flow *flow = &wave->flow[wave->flows++];
    *flow = (struct flow){.play = play, .round = round};
    struct end *client = &flow->end[0], *server = &flow->end[1];
    client->fd = server->fd = -1;
    client->known = true;
    client->near = !play->in[0];
    memcpy(client->self, play->from, 16);
    memcpy(client->peer, play->to, 16);
    client->port = play->sport;
    client->peer_port = play->dport;
    client->seq = wave->seq += SEQUENCES;
    server->seq = wave->seq += SEQUENCES;
    play->out[0] = '\0';
    play->arrived = false;
    play->why = NULL;
    while (play->in[0] && client->device < wave->twin->devices &&
           strcmp(wave->twin->device[client->device].name, play->in) != 0)
        client->device++;
    if (client->device == wave->twin->devices && play->in[0])
        flow_end(flow, PLAY_NOT_PLAYED, "this machine has no such interface");
    else if (is_v4(play->from) != is_v4(play->to))
        flow_end(flow, PLAY_NOT_PLAYED, "its addresses are of two families");
    else
        listener_make(wave, play);
}

static void wave_play(struct wave *wave, int patience)
{
    size_t rounds = 0;
    for (size_t i = 0; i < wave->flows; i++)
        rounds = wave->flow[i].round >= rounds ? wave->flow[i].round + 1 : rounds;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t step = 0; step < STEPS_OPEN; step++)
            wave_step(wave, round, step, patience);
    }
    for (size_t step = STEPS_OPEN; step < STEPS; step++)
        wave_step(wave, SIZE_MAX, step, patience);
    for (size_t i = 0; i < wave->flows; i++) {
        if (!wave->flow[i].over)
            flow_end(&wave->flow[i], PLAY_PASSED, NULL);
    }
    wave_close(wave);
}

static bool is_apart(const struct play *a, const struct play *b, enum apart apart)
{
    if (a->sport != b->sport)
        return true;
    if (apart >= APART_PORT)
        return false;
    if (a->dport != b->dport || memcmp(a->to, b->to, 16) != 0)
        return true;
    return apart == APART_SAME && memcmp(a->from, b->from, 16) != 0;
}

/*
 * Plays what is to be played (@todo), in as many waves as are needed for all to be @apart. Groups
 * are played whole. @company becomes true of those that had the source port of another one, not of
 * their group.
 */
static void play_waves(struct wave *wave, struct play *play, size_t count, bool *todo,
                       bool *company, enum apart apart, int patience)
{
    size_t *lane = state_grow(NULL, (count + 1) * sizeof *lane); /* what begins it, of everyone */
    for (size_t i = 0; i < count; i++) {
        lane[i] = i;
        for (size_t j = 0; j < i && play[i].group && lane[i] == i; j++)
            lane[i] = play[j].group == play[i].group ? lane[j] : i;
        todo[lane[i]] |= todo[i];
    }
    for (size_t i = 0; i < count; i++)
        todo[i] = todo[lane[i]];
    for (size_t left = 1; left;) {
        size_t *member = state_grow(NULL, (count + 1) * sizeof *member);
        left = wave->flows = 0;
        twin_enter(wave->twin);
        for (size_t i = 0; i < count; i++) {
            if (!todo[i] || lane[i] != i)
                continue;
            bool fits = true;
            for (size_t j = i; fits && j < count; j++) {
                for (size_t k = 0; fits && lane[j] == i && k < wave->flows; k++)
                    fits = is_apart(&play[j], wave->flow[k].play, apart);
            }
            left += !fits;
            for (size_t j = i, round = 0; fits && j < count; j++) {
                if (lane[j] != i)
                    continue;
                todo[j] = false;
                member[wave->flows] = j;
                wave_add(wave, &play[j], round++);
            }
        }
        twin_leave(wave->twin);
        for (size_t i = 0; i < wave->flows; i++) {
            for (size_t j = 0; j < i; j++) {
                size_t a = member[i], b = member[j];
                bool meets = lane[a] != lane[b] && play[a].sport == play[b].sport;
                company[a] |= meets;
                company[b] |= meets;
            }
        }
        wave_play(wave, patience);
        if (wave->tick)
            wave->tick(wave->arg);
        free(member);
    }
    free(lane);
}

static void wave_open(struct wave *wave, struct twin *twin, size_t count)
{
    static const char *const forget[] = {"time_wait", "close"};
    *wave = (struct wave){.twin = twin};
    wave->flow = state_grow(NULL, (count + 1) * sizeof *wave->flow);
    if (getrandom(&wave->seq, sizeof wave->seq, 0) != sizeof wave->seq)
        wave->seq = (uint32_t)now_ms() << 8;
    twin_enter(twin);
    for (size_t i = 0; i < sizeof forget / sizeof *forget; i++) {
        char path[80];
        snprintf(path, sizeof path, "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_%s",
                 forget[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC); /* not there: no conntrack */
        if (fd >= 0) {
            (void)!write(fd, "0\n", 2);
            close(fd);
        }
    }
    twin_leave(twin);
}

static void wave_free(struct wave *wave)
{
    free(wave->flow);
    free(wave->listener);
}

void play_all(struct twin *twin, struct play *play, size_t count, void (*tick)(void *arg),
              void *arg)
{
    struct wave wave;
    bool *todo = state_grow(NULL, (count + 1) * sizeof *todo);
    bool *company = state_grow(NULL, (count + 1) * sizeof *company);
    wave_open(&wave, twin, count);
    wave.tick = tick;
    wave.arg = arg;
    memset(company, false, count + 1);
    memset(todo, true, count + 1);
    play_waves(&wave, play, count, todo, company, APART_DESTINATION, QUICK_MS);
    for (size_t i = 0; i < count; i++)
        todo[i] = play[i].result == PLAY_LOST;
    play_waves(&wave, play, count, todo, company, APART_SAME, SLOW_MS);
    for (size_t i = 0; i < count; i++)
        todo[i] = company[i] && play[i].arrived && play[i].seen_sport != play[i].sport;
    play_waves(&wave, play, count, todo, company, APART_PORT, SLOW_MS);
    wave_free(&wave);
    free(todo);
    free(company);
}

void play_again(struct twin *twin, struct play *play)
{
    struct wave wave;
    bool todo = true, company = false;
    wave_open(&wave, twin, 1);
    play_waves(&wave, play, 1, &todo, &company, APART_SAME, AGAIN_MS);
    wave_free(&wave);
}
