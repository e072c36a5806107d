/* SPDX-License-Identifier: MIT */
/*
 * TCP segments as bytes, and what blame.c needs of play.c.
 */
#ifndef FIXPORT_TOOLS_SETUP_PACKET_H
#define FIXPORT_TOOLS_SETUP_PACKET_H

#include "../../../pool/address.h"
#include "twin.h"

#define PACKET_MOST 128 /* bytes that packet_write() needs */

/* Where a packet is from and where it goes. Addresses are v4-mapped for IPv4, ports in host order.
 */
struct tuple {
    uint8_t from[16], to[16];
    uint16_t sport, dport;
};

/* A TCP segment, or what an ICMP error says about one. */
struct packet {
    struct tuple tuple;
    uint32_t seq, ack; /* ack: 0 in errors, of which it is often not a part */
    uint8_t flags;     /* TH_SYN etc. */
    size_t length;     /* of its data */
    bool is_error;     /* ICMP says that it could not be delivered */
};

/**
 * packet_write - make an IP packet of @packet, with checksums; its data is filler.
 * Return: its length; *@protocol is ETH_P_IP or ETH_P_IPV6.
 */
size_t packet_write(const struct packet *packet, uint8_t bytes[PACKET_MOST], uint16_t *protocol);

/**
 * packet_read - the opposite, of anything that came. Checksums are not looked at: a packet that has
 * not left the machine may be without.
 * Return: whether it is a TCP segment or an ICMP error about one.
 */
bool packet_read(const uint8_t *bytes, size_t length, uint16_t protocol, struct packet *packet);

/**
 * play_again - try one connection once, as play_all() would, without a second try of what is lost.
 * @patience: milliseconds without an arrival until it is lost.
 * @seen: is called with @arg when its fate is known and before what is left of it is closed.
 */
void play_again(struct twin *twin, struct play *play, int patience, void (*seen)(void *arg),
                void *arg);

#endif
