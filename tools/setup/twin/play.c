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

#include "../../../pool/policy.h"

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
#define POLL_MS 5      /* how often sockets are looked at */
#define READ_EVERY 64  /* packets that are sent, so that what comes out does not pile up */
#define KNOCK_POLLS 10 /* between two looks for a SYN at the listeners */
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
    {PLAY_DATA, false, TH_PUSH | TH_ACK, DATA, 1 + DATA, 1 + DATA},
    {PLAY_ANSWER, true, TH_PUSH | TH_ACK, DATA, 1 + DATA, 1 + 2 * DATA},
    {PLAY_CLOSE, false, TH_FIN | TH_ACK, 0, 1 + 2 * DATA, 1 + 2 * DATA},
    {PLAY_CLOSE, true, TH_FIN | TH_ACK, 0, 1 + 2 * DATA, 2 + 2 * DATA},
    {PLAY_CLOSE, false, TH_ACK, 0, 2 + 2 * DATA, 2 + 2 * DATA},
};
#define STEPS (sizeof steps / sizeof *steps)
#define STEPS_OPEN 5 /* then all are open at once; the others go on, and close */
#define FLAGS (TH_SYN | TH_ACK | TH_FIN | TH_RST)

struct end {
    bool near, known;   /* on this machine; whether that is known */
    size_t device;      /* a far one's: by which interface of the twin it is met */
    int fd;             /* a near one's; -1 */
    struct tuple sends; /* of its packets as it sends them */
    uint32_t seq;       /* its first sequence number */
};

struct flow {
    struct play *play;
    struct end end[2]; /* client, server */
    size_t round;      /* of the wave; the earlier ones are open by then */
    size_t step;       /* that is being played */
    size_t reached;    /* so many packets have arrived */
    bool knocked;      /* a listener had its SYN */
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
    void (*tick)(void *arg); /* may be NULL, as the next */
    void (*seen)(void *arg); /* when all fates are known, before everything is closed */
    void *arg;
    void (*between)(void *arg); /* when all are open; may be NULL */
    void *between_arg;
    bool *open; /* of each that is played: whether it was open then */
};

/* How much alike two connections may not be to be in one wave. */
enum apart { APART_SAME, APART_DESTINATION, APART_PORT };

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

static void flow_end(struct flow *flow, enum play_result result, const char *why)
{
    flow->play->result = result;
    flow->play->packet = steps[flow->step].packet;
    flow->play->why = why;
    flow->over = true;
}

/* Its SYN has got to the server, so. */
static void flow_seen(struct flow *flow, const struct tuple *tuple)
{
    flow->play->arrived = true;
    memcpy(flow->play->seen_from, tuple->from, 16);
    memcpy(flow->play->seen_to, tuple->to, 16);
    flow->play->seen_sport = tuple->sport;
    flow->play->seen_dport = tuple->dport;
}

/* Which end sends the packet of a step: true is the server. */
static bool flow_sender(const struct flow *flow, size_t step)
{
    return steps[step].server ^ (steps[step].packet == PLAY_CLOSE && flow->end[0].near);
}

/* The sequence number behind the packet of a step, relative. */
static uint32_t step_next(size_t step)
{
    return steps[step].seq + (uint32_t)steps[step].length +
           !!(steps[step].flags & (TH_SYN | TH_FIN));
}

/* ---- near ends: sockets in the twin ---- */

static socklen_t name_make(struct sockaddr_storage *name, const uint8_t address[16], uint16_t port)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    bool is_four = address_is_v4(address);
    memcpy(&four.sin_addr, address + 12, 4);
    memcpy(&six.sin6_addr, address, 16);
    *name = (struct sockaddr_storage){0};
    memcpy(name, is_four ? (void *)&four : (void *)&six, is_four ? sizeof(four) : sizeof(six));
    return is_four ? sizeof(four) : sizeof(six);
}

static void name_take(int got, const struct sockaddr_storage *name, uint8_t address[16],
                      uint16_t *port)
{
    struct dest dest;
    if (got == 0 && dest_from_sockaddr((const struct sockaddr *)name, sizeof(*name), &dest)) {
        memcpy(address, dest.addr, 16);
        *port = dest.port;
    }
}

static void option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof(value));
}

/* A socket of the address's family that hears of ICMP errors at once. In the twin. Return: -1. */
static int socket_make(const uint8_t address[16])
{
    int family = address_is_v4(address) ? AF_INET : AF_INET6;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    option(fd, IPPROTO_IP, IP_RECVERR, 1);
    option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    return fd;
}

/* Closes it without a TIME_WAIT. */
static void socket_close(int fd)
{
    struct linger at_once = {.l_onoff = 1};
    if (fd < 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(fd);
}

static int socket_state(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) ? 0 : info.tcpi_state;
}

/* The next sequence number of a socket's queue; it is set to @seq unless that is 0. */
static uint32_t socket_sequence(int fd, int queue, uint32_t seq)
{
    socklen_t size = sizeof(seq);
    option(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
    option(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);
    if (seq)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, size);
    (void)getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, &size);
    option(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    option(fd, SOL_SOCKET, SO_REUSEADDR, 1); /* the end of the repair takes it away */
    return seq;
}

/* Begins a connection of this machine's. In the twin. */
static void client_begin(struct flow *flow)
{
    struct end *end = &flow->end[0];
    struct sockaddr_storage from, to;
    socklen_t from_size = name_make(&from, flow->play->from, flow->play->sport);
    socklen_t to_size = name_make(&to, flow->play->to, flow->play->dport);
    end->fd = socket_make(flow->play->from);
    if (bind(end->fd, (struct sockaddr *)&from, from_size)) {
        bool foreign = errno == EADDRNOTAVAIL;
        flow_end(flow, PLAY_NOT_PLAYED,
                 foreign ? "this machine does not have the source address"
                         : "the source port cannot be bound");
        return;
    }
    (void)socket_sequence(end->fd, TCP_SEND_QUEUE, end->seq);
    if (connect(end->fd, (struct sockaddr *)&to, to_size) && errno != EINPROGRESS)
        flow_end(flow, PLAY_REFUSED, NULL); /* no route, or one that prohibits */
}

/* Listens where a connection goes, whether it ends here or not. In the twin. */
static void listener_make(struct wave *wave, const struct play *play)
{
    for (size_t i = 0; i < wave->listeners; i++)
        if (wave->listener[i].port == play->dport &&
            memcmp(wave->listener[i].address, play->to, 16) == 0)
            return;
    struct sockaddr_storage to;
    socklen_t size = name_make(&to, play->to, play->dport);
    int fd = socket_make(play->to);
    option(fd, IPPROTO_IP, IP_FREEBIND, 1);
    option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
    if (bind(fd, (struct sockaddr *)&to, size) || listen(fd, SOMAXCONN)) {
        socket_close(fd);
        return;
    }
    wave->listener = state_grow(wave->listener, (wave->listeners + 1) * sizeof(*wave->listener));
    struct listener *listener = &wave->listener[wave->listeners++];
    *listener = (struct listener){.port = play->dport, .fd = fd};
    memcpy(listener->address, play->to, 16);
}

/* Takes what has come to a listener to the connections that it is of. */
static void listener_accept(const struct wave *wave, const struct listener *listener)
{
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct flow *flow = wave->flow, *end = wave->flow + wave->flows;
        uint32_t seq = socket_sequence(fd, TCP_RECV_QUEUE, 0) - 1;
        while (flow < end && (flow->over || flow->end[0].seq != seq || flow->end[1].fd >= 0))
            flow++;
        if (flow == end) {
            socket_close(fd);
            continue;
        }
        struct play *play = flow->play;
        struct sockaddr_storage name;
        socklen_t size = sizeof(name);
        flow->end[1].fd = fd;
        flow->end[1].near = flow->end[1].known = play->arrived = true;
        name_take(getpeername(fd, (struct sockaddr *)&name, &size), &name, play->seen_from,
                  &play->seen_sport);
        size = sizeof(name);
        name_take(getsockname(fd, (struct sockaddr *)&name, &size), &name, play->seen_to,
                  &play->seen_dport);
    }
}

/* "0100007F:1F90", as /proc/net/tcp has it. */
static void name_hex(char out[40], const uint8_t address[16], uint16_t port)
{
    uint32_t word[4];
    memcpy(word, address, sizeof(word));
    if (address_is_v4(address))
        snprintf(out, 40, "%08X:%04X", word[3], port);
    else
        snprintf(out, 40, "%08X%08X%08X%08X:%04X", word[0], word[1], word[2], word[3], port);
}

/* Whether a listener has the SYN of @play, so that it was the answer that was lost. In the twin. */
static bool listener_has(const struct play *play)
{
    bool has = false;
    char from[40], to[40], want[100], line[512];
    name_hex(from, play->from, play->sport);
    name_hex(to, play->to, play->dport);
    snprintf(want, sizeof(want), " %s %s 03 ", to, from);
    FILE *in =
        fopen(address_is_v4(play->from) ? "/proc/self/net/tcp" : "/proc/self/net/tcp6", "re");
    while (in && !has && fgets(line, sizeof(line), in))
        has = strstr(line, want) != NULL;
    if (in)
        fclose(in);
    return has;
}

/* Looks at the near ends, whether the packet that is played has arrived or cannot. */
static void flow_look(struct flow *flow)
{
    const struct step *step = &steps[flow->step];
    const struct end *from = &flow->end[flow_sender(flow, flow->step)];
    const struct end *to = &flow->end[!flow_sender(flow, flow->step)];
    char bytes[2 * DATA];
    if (from->near && from->fd >= 0) {
        int error = 0;
        socklen_t size = sizeof(error);
        (void)getsockopt(from->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            flow_end(flow, PLAY_REFUSED, NULL);
        else if (flow->step == 0 && socket_state(from->fd) == TCP_ESTABLISHED)
            flow_end(flow, PLAY_NOT_PLAYED, "it would not leave this machine");
    }
    if (!to->near || to->fd < 0 || flow->over)
        return;
    bool arrived = step->packet == PLAY_ACK; /* it could be accepted */
    if (step->packet == PLAY_SYN_ACK) {
        arrived = socket_state(to->fd) == TCP_ESTABLISHED;
    } else if (flow->step == STEPS - 1) {
        arrived = socket_state(to->fd) == TCP_CLOSE;
    } else if (!arrived) {
        ssize_t length = recv(to->fd, bytes, sizeof(bytes), 0);
        arrived = length == (ssize_t)step->length;
        if (length < 0 && errno != EAGAIN)
            flow_end(flow, PLAY_REFUSED, NULL);
    }
    if (arrived)
        flow->reached = flow->step + 1;
}

/* ---- far ends: packets ---- */

static void end_sends(const struct wave *wave, struct flow *flow, const struct end *end,
                      struct packet *packet)
{
    const struct twin_device *device = &wave->twin->device[end->device];
    uint8_t bytes[PACKET_MOST];
    uint16_t protocol;
    packet->tuple = end->sends;
    size_t length = packet_write(packet, bytes, &protocol);
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(protocol),
        .sll_ifindex = device->around,
        .sll_halen = sizeof(device->address),
    };
    memcpy(to.sll_addr, device->address, sizeof(device->address));
    if (sendto(wave->twin->packets, bytes, length, 0, (struct sockaddr *)&to, sizeof(to)) < 0 &&
        (errno == ENETDOWN || errno == ENXIO) && !flow->over)
        flow_end(flow, PLAY_NOT_PLAYED, "the interface is down");
}

/* Sends the packet of the step that the connection is at; what follows by itself is left to it. */
static void flow_send(struct wave *wave, struct flow *flow)
{
    const struct step *step = &steps[flow->step];
    bool server = flow_sender(flow, flow->step);
    const struct end *end = &flow->end[server];
    if (!end->near) {
        struct packet packet = {
            .seq = end->seq + step->seq, .flags = step->flags, .length = step->length};
        if (step->flags & TH_ACK)
            packet.ack = flow->end[!server].seq + step->ack;
        end_sends(wave, flow, end, &packet);
    } else if (flow->step == 0) {
        twin_enter(wave->twin);
        client_begin(flow);
        twin_leave(wave->twin);
    } else if (step->length) {
        (void)!send(end->fd, "........", DATA, MSG_NOSIGNAL);
    } else if (step->flags & TH_FIN) {
        (void)shutdown(end->fd, SHUT_WR);
    }
}

static bool tuple_answers(const struct tuple *a, const struct tuple *b)
{
    return a->sport == b->dport && a->dport == b->sport && memcmp(a->from, b->to, 16) == 0 &&
           memcmp(a->to, b->from, 16) == 0;
}

/* Whether @packet, of the sequence numbers of @step, is at the end that it is for: it may have been
 * translated. */
static bool flow_takes(struct flow *flow, size_t step, const struct packet *packet, size_t device,
                       const struct twin *twin)
{
    struct end *client = &flow->end[0], *server = &flow->end[1];
    const struct tuple *at = &packet->tuple;
    if (step == 0 && !server->known) { /* that is how the server is met */
        server->known = true;
        server->device = device;
        server->sends = (struct tuple){.sport = at->dport, .dport = at->sport};
        memcpy(server->sends.from, at->to, 16);
        memcpy(server->sends.to, at->from, 16);
        memcpy(flow->play->out, twin->device[device].name, sizeof(flow->play->out));
        flow_seen(flow, at);
    }
    const struct end *to = &flow->end[!flow_sender(flow, step)];
    if (to->near || !tuple_answers(at, &to->sends))
        return false;
    if (step == 1 && !server->known) { /* it is this machine that answers */
        server->near = server->known = true;
        server->seq = packet->seq;
        flow_seen(flow, &client->sends);
    }
    return true;
}

/* What @packet, which came out of a device, means to a connection. */
static void flow_read(struct flow *flow, const struct packet *packet, size_t device,
                      const struct twin *twin)
{
    const struct step *now = &steps[flow->step];
    bool server = flow_sender(flow, flow->step), known = flow->end[1].known;
    const struct end *from = &flow->end[server];
    if (packet->is_error || packet->flags & TH_RST) {
        bool about = packet->is_error
                         ? packet->seq == from->seq + now->seq
                         : tuple_answers(&packet->tuple, &from->sends) &&
                               (packet->ack == from->seq + step_next(flow->step) ||
                                (now->ack && packet->seq == flow->end[!server].seq + now->ack));
        if (about && !from->near && flow->reached <= flow->step)
            flow_end(flow, PLAY_REFUSED, NULL);
        return;
    }
    for (size_t i = flow->step; i < STEPS; i++) {
        const struct end *sender = &flow->end[flow_sender(flow, i)];
        bool first = i == 1 && !known; /* whose sequence number nobody knows */
        if (i > flow->step && !sender->near && !first)
            continue; /* was not sent yet */
        if ((first ? packet->ack == flow->end[0].seq + 1
                   : packet->seq == sender->seq + steps[i].seq) &&
            packet->length == steps[i].length && !((packet->flags ^ steps[i].flags) & FLAGS) &&
            flow_takes(flow, i, packet, device, twin) && flow->reached <= i)
            flow->reached = i + 1;
    }
}

/* Reads all that has come out of the twin, and looks at the sockets. */
static void wave_read(struct wave *wave)
{
    const struct twin *twin = wave->twin;
    uint8_t bytes[512];
    struct sockaddr_ll from;
    struct packet packet;
    for (;;) {
        socklen_t size = sizeof(from);
        ssize_t length = recvfrom(twin->packets, bytes, sizeof(bytes), MSG_DONTWAIT,
                                  (struct sockaddr *)&from, &size);
        if (length < 0 && errno != EINTR)
            break;
        size_t device = 0;
        while (device < twin->devices && twin->device[device].around != from.sll_ifindex)
            device++;
        if (length < 0 || from.sll_pkttype == PACKET_OUTGOING || device == twin->devices ||
            !packet_read(bytes, (size_t)length, ntohs(from.sll_protocol), &packet))
            continue;
        for (size_t i = 0; i < wave->flows; i++)
            if (!wave->flow[i].over)
                flow_read(&wave->flow[i], &packet, device, twin);
    }
    for (size_t i = 0; i < wave->listeners; i++)
        listener_accept(wave, &wave->listener[i]);
    for (size_t i = 0; i < wave->flows; i++)
        if (!wave->flow[i].over && wave->flow[i].reached <= wave->flow[i].step)
            flow_look(&wave->flow[i]);
}

/* ---- waves ---- */

/* Whether a step of @round is for a connection, and has still to be done; SIZE_MAX: of all rounds.
 */
static bool flow_waits(const struct flow *flow, size_t round, size_t step)
{
    return !flow->over && (round == SIZE_MAX || flow->round == round) && flow->reached <= step;
}

/* Looks whose SYN has come to a listener though no answer got through. The kernel gives such a one
 * up when it cannot repeat the answer either, so this is looked at while there is time. */
static void wave_knock(struct wave *wave, size_t round)
{
    twin_enter(wave->twin);
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        if (flow_waits(flow, round, 0) && !flow->end[0].near)
            flow->knocked = flow->knocked || listener_has(flow->play);
    }
    twin_leave(wave->twin);
}

static void wave_step(struct wave *wave, size_t round, size_t step, int patience)
{
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        if (!flow_waits(flow, round, step))
            continue;
        flow->step = step;
        flow_send(wave, flow);
        if (i % READ_EVERY == 0)
            wave_read(wave);
    }
    wave_read(wave);
    size_t before = SIZE_MAX, polls = 0;
    for (long until = 0;;) {
        size_t waiting = 0;
        for (size_t i = 0; i < wave->flows; i++)
            waiting += flow_waits(&wave->flow[i], round, step);
        if (waiting < before)
            until = now_ms() + patience;
        if (!waiting || now_ms() >= until)
            break;
        before = waiting;
        struct pollfd packets = {.fd = wave->twin->packets, .events = POLLIN};
        (void)poll(&packets, 1, POLL_MS);
        wave_read(wave);
        if (step == 0 && polls++ % KNOCK_POLLS == 0)
            wave_knock(wave, round);
        if (wave->tick)
            wave->tick(wave->arg);
    }
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        if (!flow_waits(flow, round, step))
            continue;
        if (flow->knocked) {
            flow->step = 1;
            flow_seen(flow, &flow->end[0].sends);
        }
        flow_end(flow, PLAY_LOST, NULL);
    }
}

/* Resets what is still open, from both ends: what was lost may have been on either side of
 * conntrack. A reset is without ACK, since conntrack may not know what it would acknowledge. */
static void wave_close(struct wave *wave)
{
    for (size_t i = 0; i < wave->flows; i++) {
        struct flow *flow = &wave->flow[i];
        uint32_t sent[2] = {0};
        for (size_t j = 0; j <= flow->step; j++)
            sent[flow_sender(flow, j)] = step_next(j);
        for (int server = 0; server < 2; server++) {
            const struct end *end = &flow->end[server];
            struct packet reset = {.flags = TH_RST, .seq = end->seq + sent[server]};
            if (!end->near && end->known && flow->play->result != PLAY_NOT_PLAYED)
                end_sends(wave, flow, end, &reset);
            socket_close(end->fd);
        }
    }
    for (size_t i = 0; i < wave->listeners; i++)
        socket_close(wave->listener[i].fd);
    wave->listeners = 0;
    wave_read(wave); /* nobody waits for what is left */
}

/* Makes a connection one of the wave. In the twin. */
static void wave_add(struct wave *wave, struct play *play, size_t round)
{
    struct flow *flow = &wave->flow[wave->flows++];
    *flow = (struct flow){.play = play, .round = round};
    struct end *client = &flow->end[0], *server = &flow->end[1];
    *client = (struct end){.fd = -1, .known = true, .near = !play->in[0]};
    *server = (struct end){.fd = -1};
    client->sends = (struct tuple){.sport = play->sport, .dport = play->dport};
    memcpy(client->sends.from, play->from, 16);
    memcpy(client->sends.to, play->to, 16);
    client->seq = wave->seq += SEQUENCES;
    server->seq = wave->seq += SEQUENCES;
    play->out[0] = '\0';
    play->arrived = false;
    const struct twin_device *device = twin_device(wave->twin, play->in);
    if (device)
        client->device = (size_t)(device - wave->twin->device);
    if (play->in[0] && (!device || !device->around))
        flow_end(flow, PLAY_NOT_PLAYED, "this machine has no such interface");
    else if (address_is_v4(play->from) != address_is_v4(play->to))
        flow_end(flow, PLAY_NOT_PLAYED, "its addresses are of two families");
    else
        listener_make(wave, play);
}

static void wave_play(struct wave *wave, int patience)
{
    size_t rounds = 0;
    for (size_t i = 0; i < wave->flows; i++)
        rounds = wave->flow[i].round >= rounds ? wave->flow[i].round + 1 : rounds;
    for (size_t round = 0; round < rounds; round++)
        for (size_t step = 0; step < STEPS_OPEN; step++)
            wave_step(wave, round, step, patience);
    for (size_t i = 0; wave->between && i < wave->flows; i++)
        wave->open[i] = !wave->flow[i].over;
    if (wave->between)
        wave->between(wave->between_arg);
    for (size_t step = STEPS_OPEN; step < STEPS; step++)
        wave_step(wave, SIZE_MAX, step, patience);
    for (size_t i = 0; i < wave->flows; i++)
        if (!wave->flow[i].over)
            flow_end(&wave->flow[i], PLAY_PASSED, NULL);
    if (wave->seen)
        wave->seen(wave->arg);
    wave_close(wave);
}

static bool is_apart(const struct play *a, const struct play *b, enum apart apart)
{
    if (a->sport != b->sport || apart == APART_PORT)
        return a->sport != b->sport;
    if (a->dport != b->dport || memcmp(a->to, b->to, 16) != 0)
        return true;
    return apart == APART_SAME && memcmp(a->from, b->from, 16) != 0;
}

/*
 * Plays what is to be played (@todo), in as many waves as are needed for all to be @apart; of a
 * group all. @company becomes true of those that had the source port of another one, not of their
 * group.
 */
static void play_waves(struct wave *wave, struct play *play, size_t count, bool *todo,
                       bool *company, enum apart apart, int patience)
{
    size_t *first = state_grow(NULL, (count + 1) * sizeof(*first)); /* of everyone's group */
    size_t *member = state_grow(NULL, (count + 1) * sizeof(*member));
    for (size_t i = 0; i < count; i++) {
        first[i] = i;
        for (size_t j = 0; j < i && play[i].group && first[i] == i; j++)
            first[i] = play[j].group == play[i].group ? j : i;
        todo[first[i]] |= todo[i];
    }
    for (size_t left = 1; left;) {
        left = wave->flows = 0;
        twin_enter(wave->twin);
        for (size_t i = 0; i < count; i++) {
            bool fits = todo[i] && first[i] == i;
            left += fits;
            for (size_t j = i; fits && j < count; j++)
                for (size_t k = 0; fits && first[j] == i && k < wave->flows; k++)
                    fits = is_apart(&play[j], wave->flow[k].play, apart);
            left -= fits;
            for (size_t j = i, round = 0; fits && j < count; j++) {
                if (first[j] != i)
                    continue;
                todo[j] = false;
                member[wave->flows] = j;
                wave_add(wave, &play[j], round++);
            }
        }
        twin_leave(wave->twin);
        for (size_t i = 0; i < wave->flows; i++)
            for (size_t j = 0, a = member[i]; j < wave->flows; j++)
                company[a] |=
                    first[a] != first[member[j]] && play[a].sport == play[member[j]].sport;
        if (wave->flows)
            wave_play(wave, patience);
    }
    free(first);
    free(member);
}

static void wave_open(struct wave *wave, struct twin *twin, size_t count)
{
    /* Every refusal is told, not one a second; what is over is forgotten. */
    static const struct {
        const char *path, *value;
    } settings[] = {
        {"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "0"},
        {"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "0"},
        {"/proc/sys/net/ipv4/icmp_ratelimit", "0"},
        {"/proc/sys/net/ipv4/icmp_msgs_per_sec", "1000000"},
        {"/proc/sys/net/ipv4/icmp_msgs_burst", "100000"},
        {"/proc/sys/net/ipv6/icmp/ratelimit", "0"},
    };
    *wave = (struct wave){.twin = twin};
    wave->flow = state_grow(NULL, (count + 1) * sizeof(*wave->flow));
    if (getrandom(&wave->seq, sizeof(wave->seq), 0) != sizeof(wave->seq))
        wave->seq = (uint32_t)now_ms() << 8;
    twin_enter(twin);
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        int fd = open(settings[i].path, O_WRONLY | O_CLOEXEC); /* not there: no conntrack */
        if (fd >= 0) {
            (void)!write(fd, settings[i].value, strlen(settings[i].value));
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

/* @again: what was lost, or may have been moved for the sake of another, is tried once more. */
static void play_some(struct twin *twin, struct play *play, size_t count, int patience, bool again,
                      void (*tick)(void *arg), void *arg)
{
    struct wave wave;
    bool *todo = state_grow(NULL, (count + 1) * sizeof(*todo));
    bool *company = state_grow(NULL, (count + 1) * sizeof(*company));
    wave_open(&wave, twin, count);
    wave.tick = tick;
    wave.arg = arg;
    memset(company, false, count + 1);
    memset(todo, true, count + 1);
    play_waves(&wave, play, count, todo, company, APART_DESTINATION, patience);
    for (size_t i = 0; i < count && again; i++)
        todo[i] = play[i].result == PLAY_LOST;
    if (again)
        play_waves(&wave, play, count, todo, company, APART_SAME, SLOW_MS);
    for (size_t i = 0; i < count && again; i++)
        todo[i] = company[i] && play[i].arrived && play[i].seen_sport != play[i].sport;
    if (again)
        play_waves(&wave, play, count, todo, company, APART_PORT, SLOW_MS);
    wave_free(&wave);
    free(todo);
    free(company);
}

void play_all(struct twin *twin, struct play *play, size_t count, void (*tick)(void *arg),
              void *arg)
{
    play_some(twin, play, count, QUICK_MS, true, tick, arg);
}

void play_within(struct twin *twin, struct play *play, size_t count, int patience,
                 void (*tick)(void *arg), void *arg)
{
    play_some(twin, play, count, patience, false, tick, arg);
}

void play_across(struct twin *twin, struct play *play, size_t count, int patience, bool *open,
                 void (*between)(void *arg), void *arg)
{
    struct wave wave;
    wave_open(&wave, twin, count);
    wave.between = between;
    wave.between_arg = arg;
    wave.open = open;
    twin_enter(twin);
    for (size_t i = 0; i < count; i++)
        wave_add(&wave, &play[i], 0);
    twin_leave(twin);
    wave_play(&wave, patience);
    wave_free(&wave);
}

void play_again(struct twin *twin, struct play *play, int patience, void (*seen)(void *arg),
                void *arg)
{
    struct wave wave;
    bool todo = true, company = false;
    wave_open(&wave, twin, 1);
    wave.seen = seen;
    wave.arg = arg;
    play_waves(&wave, play, 1, &todo, &company, APART_SAME, patience);
    wave_free(&wave);
}
