/* SPDX-License-Identifier: MIT */
/*
 * A twin of this machine, as far as packets can tell. Theory of operation:
 *
 * No model of a firewall is ever complete; the kernel is. So what would become of a connection is
 * asked of it: in a scratch network namespace that has this machine's interfaces (veths of the same
 * names and numbers), addresses, routes, rules of policy routing, settings and firewall rules. The
 * other ends of its interfaces lie in a second namespace, "around", where everybody whom this machine
 * meets is played by one packet socket: packets are written to the end of the interface by which they
 * would come, and whatever leaves by any interface is read. The interfaces have no ARP (IFF_NOARP), so
 * no neighbour is needed. Where a connection begins or ends on this machine itself, that end is a real
 * socket in the twin.
 *
 *     around:  [packet socket] --- eth0' ------ eth0 [ twin: routes, rules, ] cni0 ------ cni0' --- [same]
 *                                                    [ iptables, nft, ct    ]
 *
 * Nothing of the real machine is touched: the namespaces are held by descriptors of this process only,
 * so they go with it, also when it is killed. Kernel modules are not loaded by the rules, since the
 * machine has the same ones; veth may be.
 *
 * What a twin lacks is told, as notes: what is loaded into interfaces and cgroups (BPF), who owns a
 * packet's socket, the packets that were there before, and rules that would not load.
 *
 * Not for threads: making and using a twin moves the process between namespaces for moments.
 */
#ifndef FIXPORT_TOOLS_SETUP_TWIN_H
#define FIXPORT_TOOLS_SETUP_TWIN_H

#include "../base/run.h"

#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>

/* One interface of the twin. */
struct twin_device {
    char name[IF_NAMESIZE];
    int index;  /* in the twin, as on the machine */
    int around; /* index of its other end, in the namespace around; 0: it has none (a vrf) */
    uint8_t address[6]; /* of the hardware, of both ends: frames must be sent to it */
};

/* What could not be judged, and why. */
struct twin_note {
    char *what; /* a sentence: "rules that look at a packet's owner (-m owner) never match here" */
    char *line; /* the first line that it is about, word for word; may be NULL */
    size_t count; /* of such lines; 0: it is not about lines */
};

enum twin_backend {
    TWIN_IPTABLES_NFT,
    TWIN_IPTABLES_LEGACY,
    TWIN_NFT,
};

struct twin {
    int home;    /* descriptor of the machine's network namespace; -1: there is no twin */
    int net;     /* of the twin's */
    int beyond;  /* of the namespace around it */
    int packets; /* AF_PACKET, SOCK_DGRAM, ETH_P_ALL, non-blocking, in the namespace around */
    struct twin_device *device;
    size_t devices;
    bool uses[TWIN_NFT + 1]; /* backends in which this machine has rules */
    struct twin_note *note;
    size_t notes;
    uint8_t names[8192]; /* a bit for each port that its rules name, and for those beside it */
};

/* ---- twin.c: to make one and to use it ---- */

/**
 * twin_make - make a twin of this machine.
 * @twin: twin_free() it in any case.
 * @tick: is called now and then while it goes on, for progress; NULL: nothing. Makes no promise about how often.
 *
 * What cannot be mirrored (a route the kernel refuses, a rule set that does not load, a setting that
 * cannot be written) becomes a note and the rest goes on.
 * Return: 0; -1 if there can be no twin at all: @error is one sentence (no right to make a network
 * namespace, no veth in the kernel, no ip(8)).
 */
int twin_make(struct twin *twin, void (*tick)(void *arg), void *arg, struct setup_error *error);

/** twin_free - give back; the namespaces go. A twin of zeros must have .home = -1. */
void twin_free(struct twin *twin);

/** twin_tool - as run_tool(), in the twin. Must not be used for tools that write outside of the network. */
int twin_tool(const struct twin *twin, char *const argv[], const char *input,
              struct run_result *result);

/**
 * twin_enter - this process is in the twin until twin_leave(): for sockets and /proc/sys/net.
 * Ends the program if it cannot come back.
 */
void twin_enter(const struct twin *twin);

/** twin_leave - back on the machine. */
void twin_leave(const struct twin *twin);

/** twin_note - append a note, a copy of @format's text; @line: likewise, or NULL. The same text again counts. */
void twin_note(struct twin *twin, const char *line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** twin_device - by name, or NULL. */
const struct twin_device *twin_device(const struct twin *twin, const char *name);

/** twin_names - whether the machine's rules name a port, or the one before or after it. */
bool twin_names(const struct twin *twin, uint16_t port);

/** twin_name - take in the numbers of @text that may be ports. */
void twin_name(struct twin *twin, const char *text);

/* ---- mirror.c, ruleset.c, lacks.c: what twin_make() is made of ---- */

/** mirror_network - interfaces, addresses, routes, rules of policy routing, settings. Return: 0 or -1. */
int mirror_network(struct twin *twin, void (*tick)(void *arg), void *arg,
                   struct setup_error *error);

/* What the machine has, as its tools save it. */
struct ruleset {
    char *text[TWIN_NFT + 1][2]; /* of IPv4 and IPv6; nft: all in the first. Never NULL */
    char *tables; /* of nf_tables, "table ip filter", in the order in which they were made */
};

/**
 * ruleset_save - read the machine's rules, changing nothing on it.
 * @twin: gets the notes, and .uses; need not have been made. @ruleset: ruleset_free() it.
 */
void ruleset_save(struct twin *twin, struct ruleset *ruleset);

/** ruleset_free - give back. */
void ruleset_free(struct ruleset *ruleset);

/** lacks_note - note what a twin cannot show of the machine: rules about more than packets, BPF, ipvs. */
void lacks_note(struct twin *twin, const struct ruleset *ruleset);

/** ruleset_mirror - ipsets, and the rules of every backend in use. Failures are notes. */
void ruleset_mirror(struct twin *twin, void (*tick)(void *arg), void *arg);

/* ---- play.c: connections ---- */

enum play_result {
    PLAY_PASSED,   /* handshake, data both ways, and close */
    PLAY_LOST,     /* a packet of it went in and nothing came out */
    PLAY_REFUSED,  /* was answered by a reset or an ICMP error of this machine, or connect(2) failed */
    PLAY_NOT_PLAYED, /* see .why: nobody knows by which interface it would come, and the like */
};

/* The packet of a connection that was the last to be sent. */
enum play_packet {
    PLAY_SYN,
    PLAY_SYN_ACK,
    PLAY_ACK,
    PLAY_DATA,   /* of the client */
    PLAY_ANSWER, /* of the server */
    PLAY_CLOSE,
};

/*
 * A TCP connection to try. Addresses are v4-mapped for IPv4, ports in host order. Ends that are this
 * machine's own addresses are sockets in the twin, others are played from around.
 */
struct play {
    uint8_t from[16], to[16];
    uint16_t sport, dport;
    char in[IF_NAMESIZE]; /* by which interface it comes; empty: this machine begins it */
    unsigned group;       /* of those with one number the next begins while the earlier are open; 0: none */

    enum play_result result;
    enum play_packet packet; /* unless passed: the one that was lost or refused */
    const char *why;         /* PLAY_NOT_PLAYED: a constant */
    char out[IF_NAMESIZE];   /* by which interface it left; empty: it ended here, or did not get there */
    uint8_t seen_from[16], seen_to[16]; /* as it left, or as the socket here saw it; valid if its SYN arrived */
    uint16_t seen_sport, seen_dport;
    bool arrived; /* its SYN did */
};

/**
 * play_all - try @count connections and fill in the results; members of a group in their order.
 * What was lost is tried once more, with more time, before it is called lost. Connections that are not
 * of one group do not take each other's ports, even if a rule translates them to one address. The
 * answers to what leaves by an interface come back by the same one.
 * Sets the twin's timeouts of closed connections to 0, so that it forgets them.
 */
void play_all(struct twin *twin, struct play *play, size_t count, void (*tick)(void *arg), void *arg);

/**
 * play_within - as play_all(), in one try, with @patience ms for what is lost: for who tries again
 * himself what matters to him.
 */
void play_within(struct twin *twin, struct play *play, size_t count, int patience,
                 void (*tick)(void *arg), void *arg);

/**
 * play_across - make all @count connections at once, in one try, call @between with @arg while they
 * are open, and let them go on and close.
 * @open: of each, whether it was open then; what did not pass, though it was, did not go on.
 */
void play_across(struct twin *twin, struct play *play, size_t count, int patience, bool *open,
                 void (*between)(void *arg), void *arg);

/* ---- blame.c: who ended it ---- */

struct blame {
    char *rule; /* "iptables-nft -t filter -A INPUT -p tcp -j DROP", "nft table ip x, chain y: drop",
                   "rp_filter of eth1"; NULL: not found */
    char table[64], chain[64]; /* of a rule; empty: none */
    char *comment; /* the rule's; may be NULL */
    enum twin_backend backend;
    bool is_rule; /* false: routing, a setting */
};

/**
 * blame_play - try a connection again that was lost, refused or changed, and see who did it: by the
 * counters of iptables' rules, by nft's tracing (nftrace), by the kernel's own counters (nstat).
 * @play: as play_all() left it; its results are of the new try.
 * @changed: not who ended it, but who translated it: its source port or, if that stayed, its destination.
 */
void blame_play(struct twin *twin, struct play *play, bool changed, struct blame *blame);

/** blame_free - give back. */
void blame_free(struct blame *blame);

#endif
