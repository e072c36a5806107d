/* SPDX-License-Identifier: MIT */
#include "packet.h"

#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <string.h>

#define HOPS 64
#define WINDOW 64240
#define DATA_MOST 32

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

/* Adds 16-bit words in network order to a sum (RFC 1071). */
static uint32_t sum_add(uint32_t sum, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < length; i++)
        sum += i % 2 ? at[i] : (uint32_t)at[i] << 8;
    return sum;
}

static uint16_t sum_end(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

size_t packet_write(const struct packet *packet, uint8_t bytes[PACKET_MOST], uint16_t *protocol)
{
    bool four = address_is_v4(packet->tuple.from);
    size_t head = four ? sizeof(struct iphdr) : sizeof(struct ip6_hdr);
    size_t options = packet->flags & TH_SYN ? 4 : 0;
    size_t data = packet->length < DATA_MOST ? packet->length : DATA_MOST;
    size_t length = sizeof(struct tcphdr) + options + data;
    struct tcphdr tcp = {
        .source = htons(packet->tuple.sport),
        .dest = htons(packet->tuple.dport),
        .seq = htonl(packet->seq),
        .ack_seq = htonl(packet->ack),
        .doff = (sizeof(struct tcphdr) + options) / 4,
        .window = htons(WINDOW),
    };
    tcp.th_flags = packet->flags;
    uint8_t *at = bytes + head;
    memcpy(at, &tcp, sizeof tcp);
    uint16_t mss = four ? 1460 : 1440;
    if (options)
        memcpy(at + sizeof tcp, (uint8_t[]){TCPOPT_MAXSEG, 4, (uint8_t)(mss >> 8), (uint8_t)mss},
               4);
    memset(at + sizeof tcp + options, '.', data);
    size_t skip = four ? sizeof mapped : 0;
    uint32_t sum = sum_add(IPPROTO_TCP + (uint32_t)length, packet->tuple.from + skip, 16 - skip);
    sum = sum_add(sum, packet->tuple.to + skip, 16 - skip);
    tcp.check = sum_end(sum_add(sum, at, length));
    memcpy(at, &tcp, sizeof tcp);
    if (four) {
        struct iphdr ip = {
            .version = 4, .ihl = sizeof ip / 4, .ttl = HOPS, .protocol = IPPROTO_TCP};
        ip.tot_len = htons((uint16_t)(head + length));
        ip.frag_off = htons(IP_DF);
        memcpy(&ip.saddr, packet->tuple.from + 12, 4);
        memcpy(&ip.daddr, packet->tuple.to + 12, 4);
        ip.check = sum_end(sum_add(0, &ip, sizeof ip));
        memcpy(bytes, &ip, sizeof ip);
    } else {
        struct ip6_hdr ip = {.ip6_flow = htonl(6U << 28), .ip6_nxt = IPPROTO_TCP, .ip6_hlim = HOPS};
        ip.ip6_plen = htons((uint16_t)length);
        memcpy(&ip.ip6_src, packet->tuple.from, 16);
        memcpy(&ip.ip6_dst, packet->tuple.to, 16);
        memcpy(bytes, &ip, sizeof ip);
    }
    *protocol = four ? ETH_P_IP : ETH_P_IPV6;
    return head + length;
}

/* The header of IP. Return: its length, 0 if it is none or a fragment; *@length: of the packet. */
static size_t read_ip(const uint8_t *bytes, size_t *length, struct packet *packet, uint8_t *next)
{
    struct iphdr four;
    struct ip6_hdr six;
    if (*length >= sizeof six && bytes[0] >> 4 == 6) {
        memcpy(&six, bytes, sizeof six);
        memcpy(packet->tuple.from, &six.ip6_src, 16);
        memcpy(packet->tuple.to, &six.ip6_dst, 16);
        *next = six.ip6_nxt;
        *length = sizeof six + ntohs(six.ip6_plen);
        return sizeof six;
    }
    if (*length < sizeof four || bytes[0] >> 4 != 4)
        return 0;
    memcpy(&four, bytes, sizeof four);
    memcpy(packet->tuple.from, mapped, sizeof mapped);
    memcpy(packet->tuple.from + 12, &four.saddr, 4);
    memcpy(packet->tuple.to, mapped, sizeof mapped);
    memcpy(packet->tuple.to + 12, &four.daddr, 4);
    *next = four.protocol;
    *length = ntohs(four.tot_len);
    return ntohs(four.frag_off) & (IP_OFFMASK | IP_MF) || four.ihl < 5 ? 0 : four.ihl * 4U;
}

bool packet_read(const uint8_t *bytes, size_t length, uint16_t protocol, struct packet *packet)
{
    *packet = (struct packet){0};
    if (protocol != ETH_P_IP && protocol != ETH_P_IPV6)
        return false;
    const uint8_t *end = bytes + length; /* of what is there, the headers may promise more */
    for (;;) {
        uint8_t next;
        size_t whole = (size_t)(end - bytes);
        size_t head = read_ip(bytes, &whole, packet, &next);
        if (!head || head + 8 > (size_t)(end - bytes))
            return false;
        const uint8_t *at = bytes + head;
        if (next == IPPROTO_TCP) {
            struct tcphdr tcp = {0};
            size_t there = (size_t)(end - at);
            memcpy(&tcp, at, there < sizeof tcp ? there : sizeof tcp);
            packet->tuple.sport = ntohs(tcp.source);
            packet->tuple.dport = ntohs(tcp.dest);
            packet->seq = ntohl(tcp.seq);
            if (packet->is_error)
                return true;
            packet->ack = ntohl(tcp.ack_seq);
            packet->flags = tcp.th_flags;
            size_t heads = head + tcp.doff * 4U;
            packet->length = whole > heads ? whole - heads : 0;
            return there >= sizeof tcp;
        }
        /* An error has the packet that it is about behind its eight bytes; a redirect is none. */
        bool error = next == IPPROTO_ICMP
                         ? at[0] == ICMP_DEST_UNREACH || at[0] == ICMP_TIME_EXCEEDED ||
                               at[0] == ICMP_PARAMETERPROB
                         : next == IPPROTO_ICMPV6 && at[0] && at[0] < 128;
        if (!error || packet->is_error)
            return false;
        packet->is_error = true;
        bytes = at + 8;
    }
}
