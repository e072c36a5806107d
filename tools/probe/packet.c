/* SPDX-License-Identifier: MIT */
/*
 * Reading packets that were captured: from a network that anybody can write to, so every length in
 * them is compared with what is there. Only what a probe needs is understood: TCP in IPv4 or IPv6
 * without extension headers, and the ICMP errors about it; nothing else is ours.
 */
#include "probe.h"

#include <string.h>

#define IP4_HEADER 20
#define IP6_HEADER 40
#define TCP_HEADER 20
#define ICMP_HEADER 8
#define ICMP_QUOTED 8 /* bytes of the packet that an ICMP error quotes at least (RFC 792) */

#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

/* ---- marks ---- */

/* 8 bits that neighbouring ports do not share. */
static unsigned mark_hash(uint16_t port)
{
    return (port * 40503u >> 8) & 0xff;
}

unsigned mark_make(enum try_kind kind, uint16_t port)
{
    if (kind == KIND_PLAIN)
        return MARK_PLAIN;
    return (kind == KIND_INSIDE ? MARK_INSIDE : MARK_OUTSIDE) + mark_hash(port);
}

bool mark_read(unsigned mss, uint16_t port, enum try_kind *kind, int *kept)
{
    if (mss < MARK_PLAIN || mss > MARK_OUTSIDE + 0xff)
        return false;
    *kind = mss == MARK_PLAIN ? KIND_PLAIN : mss < MARK_OUTSIDE ? KIND_INSIDE : KIND_OUTSIDE;
    *kept = *kind == KIND_PLAIN ? -1 : mss == mark_make(*kind, port);
    return true;
}

/* ---- packets ---- */

/* What is left of a packet, from one header to the next. */
struct view {
    const uint8_t *at;
    size_t left;
    uint8_t from[16];
    uint8_t to[16];
    uint8_t protocol;
};

static unsigned read16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static uint32_t read32(const uint8_t *at)
{
    return (uint32_t)read16(at) << 16 | read16(at + 2);
}

static void read_v4(const uint8_t *at, uint8_t addr[16])
{
    memset(addr, 0, 10);
    memset(addr + 10, 0xff, 2);
    memcpy(addr + 12, at, 4);
}

static bool view_skip(struct view *view, size_t bytes)
{
    if (view->left < bytes)
        return false;
    view->at += bytes;
    view->left -= bytes;
    return true;
}

/* The rest of a packet that is fragmented is of no use. */
static bool view_ip4(struct view *view)
{
    const uint8_t *ip = view->at;
    if (view->left < IP4_HEADER || (read16(ip + 6) & 0x1fff) || (ip[0] & 15) < 5)
        return false;
    view->protocol = ip[9];
    read_v4(ip + 12, view->from);
    read_v4(ip + 16, view->to);
    return view_skip(view, (size_t)(ip[0] & 15) * 4);
}

static bool view_ip6(struct view *view)
{
    const uint8_t *ip = view->at;
    if (view->left < IP6_HEADER)
        return false;
    view->protocol = ip[6];
    memcpy(view->from, ip + 8, 16);
    memcpy(view->to, ip + 24, 16);
    return view_skip(view, IP6_HEADER);
}

static bool view_ip(struct view *view)
{
    if (!view->left)
        return false;
    return view->at[0] >> 4 == 4 ? view_ip4(view) : view->at[0] >> 4 == 6 && view_ip6(view);
}

/* The maximum segment size among a SYN's options, 0: none. */
static unsigned syn_mss(const uint8_t *option, size_t left)
{
    while (left >= 2 && option[0] != 0) {
        size_t length = option[0] == 1 ? 1 : option[1];
        if (!length || length > left)
            return 0;
        if (option[0] == 2 && length == 4)
            return read16(option + 2);
        if (option[0] != 1 && length < 2)
            return 0;
        option += length;
        left -= length;
    }
    return 0;
}

static void tcp_syn(const struct view *view, size_t header, struct packet *packet)
{
    packet->kind = PACKET_SYN;
    memcpy(packet->peer.addr, view->from, 16);
    memcpy(packet->local, view->to, 16);
    packet->peer.port = (uint16_t)read16(view->at);
    packet->sequence = read32(view->at + 4);
    packet->mss = syn_mss(view->at + TCP_HEADER, header - TCP_HEADER);
}

/* To whom something of ours went: for a reply, and for the ICMP error that quotes it. */
static void tcp_ours(const struct view *view, enum packet_kind kind, struct packet *packet)
{
    packet->kind = kind;
    memcpy(packet->peer.addr, view->to, 16);
    memcpy(packet->local, view->from, 16);
    packet->peer.port = (uint16_t)read16(view->at + 2);
}

static void read_tcp(const struct view *view, uint16_t port, struct packet *packet)
{
    if (view->left < TCP_HEADER)
        return;
    size_t header = (size_t)(view->at[12] >> 4) * 4;
    unsigned flags = view->at[13] & (FLAG_SYN | FLAG_RST | FLAG_ACK);
    if (header < TCP_HEADER || header > view->left)
        return;
    if (flags == FLAG_SYN && read16(view->at + 2) == port)
        tcp_syn(view, header, packet);
    else if ((flags & FLAG_RST || flags == (FLAG_SYN | FLAG_ACK)) && read16(view->at) == port)
        tcp_ours(view, flags & FLAG_RST ? PACKET_RST : PACKET_SYN_ACK, packet);
}

/* "Destination unreachable", and the beginning of the packet that it is about. */
static void read_icmp(struct view *view, uint16_t port, struct packet *packet)
{
    const uint8_t *icmp = view->at;
    bool v6 = view->protocol == IPPROTO_ICMPV6;
    struct icmp_error error = {.is = true};
    if (view->left < ICMP_HEADER || icmp[0] != (v6 ? 1 : 3))
        return;
    error.type = icmp[0];
    error.code = icmp[1];
    memcpy(error.by, view->from, 16);
    if (!view_skip(view, ICMP_HEADER) || !view_ip(view) || view->protocol != IPPROTO_TCP ||
        view->left < ICMP_QUOTED || read16(view->at) != port)
        return;
    tcp_ours(view, PACKET_BOUNCED, packet);
    packet->icmp = error;
}

void packet_read(const uint8_t *bytes, size_t length, uint16_t port, struct packet *packet)
{
    struct view view = {.at = bytes, .left = length};
    *packet = (struct packet){.kind = PACKET_OTHER};
    if (!view_ip(&view))
        return;
    if (view.protocol == IPPROTO_TCP)
        read_tcp(&view, port, packet);
    else if (view.protocol == (bytes[0] >> 4 == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
        read_icmp(&view, port, packet);
}
