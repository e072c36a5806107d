/* SPDX-License-Identifier: MIT */
/*
 * Seeing what arrives at a port, whether or not anything listens there or is heard: a packet
 * socket (packet(7)) with a filter in the kernel, that sees packets before the firewall does and
 * after it did.
 *
 * "Cooked" (SOCK_DGRAM), so that packets begin with their IP header on every kind of interface;
 * ETH_P_ALL, because only so can what leaves be seen too. The filter lets through TCP packets with
 * SYN or RST from or to the port, and ICMP errors about packets from it; what gets through is read
 * by packet_read(), which believes nothing.
 */
#include "probe.h"
#include "../../pool/sys.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>

#define CAPTURE_BYTES 256   /* enough for IPv6, ICMPv6 and the packet in it */
#define CAPTURE_BATCH 256   /* packets taken in at once */
#define RESENT_AFTER_MS 400 /* a SYN seen again sooner was seen on two interfaces */

/* ---- the filter ---- */

#define LOAD8(at) BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (at))
#define LOAD16(at) BPF_STMT(BPF_LD | BPF_H | BPF_ABS, (at))
#define LOAD8X(at) BPF_STMT(BPF_LD | BPF_B | BPF_IND, (at))
#define LOAD16X(at) BPF_STMT(BPF_LD | BPF_H | BPF_IND, (at))
#define HEADER_LENGTH(at) BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, (at)) /* X = 4 * (byte & 15) */
#define SET_X(value) BPF_STMT(BPF_LDX | BPF_IMM, (value))
#define AND(bits) BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (bits))
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define IF_BITS(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (bits), (yes), (no))
#define JUMP(to) BPF_STMT(BPF_JMP | BPF_JA, (to))
#define TAKE BPF_STMT(BPF_RET | BPF_K, CAPTURE_BYTES)
#define LEAVE BPF_STMT(BPF_RET | BPF_K, 0)

/* X is where the TCP or ICMP header begins. A load beyond the packet's end leaves it, too. */
static int filter_attach(int fd, uint16_t port)
{
    struct sock_filter code[] = {
        /* 0 */ LOAD8(0),
        /* 1 */ AND(0xf0),
        /* 2 */ IF_EQUAL(0x40, 0, 7), /* not IPv4: 10 */
        /* 3 */ LOAD16(6),
        /* 4 */ IF_BITS(0x1fff, 19, 0), /* a later fragment: 24 */
        /* 5 */ HEADER_LENGTH(0),
        /* 6 */ LOAD8(9),
        /* 7 */ IF_EQUAL(IPPROTO_TCP, 7, 0),   /* 15 */
        /* 8 */ IF_EQUAL(IPPROTO_ICMP, 13, 0), /* 22 */
        /* 9 */ LEAVE,
        /* 10 */ IF_EQUAL(0x60, 0, 13), /* nor IPv6: 24 */
        /* 11 */ SET_X(40),
        /* 12 */ LOAD8(6),
        /* 13 */ IF_EQUAL(IPPROTO_TCP, 1, 0),    /* 15 */
        /* 14 */ IF_EQUAL(IPPROTO_ICMPV6, 7, 9), /* 22, 24 */
        /* 15 */ LOAD8X(13),
        /* 16 */ IF_BITS(0x06, 0, 7), /* neither SYN nor RST: 24 */
        /* 17 */ LOAD16X(0),
        /* 18 */ IF_EQUAL(port, 4, 0), /* 23 */
        /* 19 */ LOAD16X(2),
        /* 20 */ IF_EQUAL(port, 2, 3), /* 23, 24 */
        /* 21 */ LEAVE,
        /* 22 */ LOAD8X(7), /* any whole ICMP header; packet_read() knows the rest */
        /* 23 */ TAKE,
        /* 24 */ LEAVE,
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

int capture_open(struct capture *capture, uint16_t port)
{
    struct sockaddr_ll every = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    memset(capture, 0, sizeof(*capture));
    capture->port = port;
    /* Of no protocol it receives nothing until it is bound: so nothing comes unfiltered. */
    capture->fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (capture->fd < 0)
        return -errno;
    int error = filter_attach(capture->fd, port);
    if (!error && bind(capture->fd, (struct sockaddr *)&every, sizeof(every)) < 0)
        error = -errno;
    if (error)
        capture_close(capture);
    return error;
}

void capture_close(struct capture *capture)
{
    if (capture->fd >= 0)
        close(capture->fd);
    capture->fd = -1;
}

/* ---- what was seen ---- */

struct capture_syn *capture_find(struct capture *capture, const struct dest *peer)
{
    struct capture_syn *found = NULL;
    for (size_t i = 0; i < CAPTURE_SYNS; i++) {
        struct capture_syn *syn = &capture->syn[i];
        if (syn->first && syn->peer.port == peer->port &&
            memcmp(syn->peer.addr, peer->addr, 16) == 0 && (!found || syn->last > found->last))
            found = syn;
    }
    return found;
}

/* One that is not used, or the oldest. */
static struct capture_syn *capture_room(struct capture *capture)
{
    struct capture_syn *oldest = &capture->syn[0];
    for (size_t i = 0; i < CAPTURE_SYNS; i++)
        if (capture->syn[i].last < oldest->last)
            oldest = &capture->syn[i];
    return oldest;
}

static void syn_begin(struct capture_syn *syn, const struct packet *packet, uint64_t now)
{
    int kept = -1;
    *syn = (struct capture_syn){.peer = packet->peer,
                                .sequence = packet->sequence,
                                .mss = packet->mss,
                                .first = now,
                                .last = now,
                                .try = {.seen = SEEN_SYN, .as = packet->peer, .syns = 1}};
    memcpy(syn->local, packet->local, 16);
    if (!mark_read(packet->mss, packet->peer.port, &syn->try.kind, &kept))
        syn->mss = 0;
    syn->try.moved = kept == 0;
    if (kept == 1)
        syn->try.own.port = packet->peer.port;
}

static void note_syn(struct capture *capture, const struct packet *packet,
                     const struct sockaddr_ll *from, uint64_t now)
{
    struct capture_syn *syn = capture_find(capture, &packet->peer);
    if (!syn || syn->sequence != packet->sequence)
        syn_begin(syn = capture_room(capture), packet, now);
    else if (now - syn->last >= RESENT_AFTER_MS) {
        syn->last = now;
        syn->try.syns += syn->try.syns < 99;
    }
    if (from->sll_halen == sizeof(syn->mac)) {
        memcpy(syn->mac, from->sll_addr, sizeof(syn->mac));
        syn->has_mac = true;
    }
}

static void note_packet(struct capture *capture, const struct packet *packet,
                        const struct sockaddr_ll *from, uint64_t now)
{
    bool leaves = from->sll_pkttype == PACKET_OUTGOING;
    struct capture_syn *syn = capture_find(capture, &packet->peer);
    if (packet->kind == PACKET_SYN && from->sll_pkttype == PACKET_HOST)
        note_syn(capture, packet, from, now);
    else if (packet->kind == PACKET_SYN_ACK && leaves && syn)
        syn->try.left = LEFT_SYN_ACK;
    else if (packet->kind == PACKET_RST && leaves && syn && syn->try.left == LEFT_NOT)
        syn->try.left = LEFT_RST;
    else if (packet->kind == PACKET_BOUNCED && !leaves && syn)
        syn->try.bounce = packet->icmp;
}

void capture_read(struct capture *capture, uint64_t now)
{
    for (int i = 0; i < CAPTURE_BATCH; i++) {
        uint8_t bytes[CAPTURE_BYTES];
        struct sockaddr_ll from = {.sll_family = AF_PACKET};
        socklen_t size = sizeof(from);
        struct packet packet;
        ssize_t got =
            recvfrom(capture->fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &size);
        if (got < 0)
            return;
        packet_read(bytes, (size_t)got, capture->port, &packet);
        note_packet(capture, &packet, &from, now);
    }
}
