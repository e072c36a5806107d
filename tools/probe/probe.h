/* SPDX-License-Identifier: MIT */
/*
 * fixport-probe inside. Theory of operation:
 *
 * Two programs find out what the network between them does to a pod's connections. The connector
 * (connect.c) makes several tries at once, each from a source port of its own: some that any
 * program would have, some bound inside the range, some bound outside of it. The listener
 * (listen.c) notes under which address and port each arrives. Then both have one struct
 * probe_facts, and one function, verdict_find(), says what it means: so both say the same.
 *
 * How they get the same facts. On each connection the connector says which try it is, and the
 * listener answers what it saw (wire.c has the words). The first connection that works is
 * kept until all tries have come to an end; over it the connector reports how each try ended, also
 * those that failed, and the listener answers with what it knows of each, and of its routes. If
 * no try works, nothing can be told, and each side says what it knows alone.
 *
 * What a SYN tells by itself. A listener that captures (capture.c) sees SYNs whose answers
 * never come back. That such a SYN belongs to a certain try, and whether its port was changed on
 * the way, must be told by the SYN alone, and a connector without privileges has one field in it
 * that it may choose: the maximum segment size (TCP_MAXSEG). So it announces one between 599 and
 * 1111, which holds what kind of try it is and 8 bits of a hash of the port it was sent from
 * (mark_make()). Paths are wider than that, so nobody clamps it; NAT leaves it alone. The
 * listener compares the hash with the port it sees: changed ports are noticed in 255 of 256 cases
 * without a word having been exchanged.
 *
 * Why an answer does not come back has three explanations that the listener can tell apart when it
 * captures what it sends, too: nothing left this host (its own firewall, or no route back), it left
 * and an ICMP error came (a REJECT, and from whom), or it left and the SYN was sent again
 * (dropped).
 *
 * All that comes from the other side is a stranger's. The readers (wire.c, packet.c)
 * take bytes and give values of known ranges; text is never passed on. Nothing allocates by what a
 * stranger does: connections, sessions, SYNs and lines of output all have fixed limits, below.
 */
#ifndef FIXPORT_TOOLS_PROBE_H
#define FIXPORT_TOOLS_PROBE_H

#include "../../pool/address.h"
#include "../pool/cmd.h"
#include "../config/site.h"

#include <netinet/in.h>
#include <time.h>

#define PROBE_PORT 12345
#define PROBE_TRIES 15      /* of one run; their indices are 1 to 15 */
#define PROBE_ROUNDS_MOST 5 /* tries of each of the three kinds */
#define PROBE_WAIT_MS 4000  /* three SYNs: at 0, 1 and 3 s */

enum probe_status {
    PROBE_OK = 0,    /* the port is kept, and answers come */
    PROBE_ERROR = 1, /* options, configuration, the system */
    PROBE_BAD = 2,   /* it works but not as it should, or it does not work */
};

/* ---- what is known ---- */

enum try_kind {
    KIND_PLAIN,   /* as any program connects: the kernel, or the shim, chooses the port */
    KIND_INSIDE,  /* bound to a port of the range */
    KIND_OUTSIDE, /* bound to a port that is not */
    KINDS,
};

/* How a try ended for the connector. */
enum try_end {
    END_UNKNOWN,  /* only the connector knows, and did not say */
    END_ANSWERED, /* the listener's line came */
    END_OPENED,   /* connected, but no line came */
    END_REFUSED,  /* a RST came */
    END_REJECTED, /* an ICMP error came: reject */
    END_SILENT,   /* nothing came */
    END_LOCAL,    /* not sent: error */
    ENDS,
};

/* How a try was seen by the listener. */
enum try_seen {
    SEEN_NOT,
    SEEN_SYN,        /* captured, but no connection came of it */
    SEEN_CONNECTION, /* accepted */
    SEENS,
};

/* What was captured of the answer as it left the host. */
enum try_left { LEFT_NOT, LEFT_SYN_ACK, LEFT_RST, LEFTS };

/* An ICMP or ICMPv6 error; which of them, the try's addresses tell. */
struct icmp_error {
    bool is;
    uint8_t type;
    uint8_t code;
    uint8_t by[16]; /* who sent it */
};

struct probe_try {
    enum try_kind kind;
    struct dest own; /* where it was sent from, as the pod has it; port 0: not known */
    enum try_end end;
    int error; /* END_LOCAL: errno */
    struct icmp_error reject;
    enum try_seen seen;
    struct dest as; /* where it came from, as the host saw it; port 0: not known */
    bool moved;     /* own.port is not known, but it is another one than as.port */
    unsigned syns;  /* captured, 1..99; 0: not captured */
    enum try_left left;
    struct icmp_error bounce; /* what came back for that answer */
};

enum host_route {
    ROUTE_UNKNOWN,
    ROUTE_NONE,   /* the host has none to the pod's address */
    ROUTE_VIA,    /* through via */
    ROUTE_DIRECT, /* the address is on a network that the host is on, or its own */
    ROUTES,
};

/* What the listener knows of the way to the pod. Addresses: zero if not known. */
struct probe_host {
    bool captures; /* what it has not seen did not arrive */
    enum host_route route;
    uint8_t via[16];
    char node[SITE_NAME]; /* the node's name by its configuration; "": not known */
    uint8_t next[16];     /* through which the pod should be reached */
    bool configured;      /* next and block are the configuration's */
    struct block block;   /* the pods behind it, if configured */
};

struct probe_facts {
    struct dest to;                    /* the listener, as the pod calls it; its port as both do */
    bool contact;                      /* the two sides have exchanged what they know */
    bool shim;                         /* the connector ran with the shim */
    struct portset ports;              /* the range; count 0: not known */
    struct probe_try try[PROBE_TRIES]; /* try i has index i + 1 */
    unsigned tries;
    struct probe_host host;
};

/* ---- facts.c: small questions about them ---- */

/** try_kept - 1: the port is the same on both sides, 0: it is not, -1: not known. */
int try_kept(const struct probe_try *try);

/** facts_counts - whether a try is one of those that must work: inside the range, if there is one.
 */
bool facts_counts(const struct probe_facts *facts, const struct probe_try *try);

/** facts_pod - the pod's own address, NULL if no try tells it. */
const uint8_t *facts_pod(const struct probe_facts *facts);

/** facts_seen - the address as which the pod arrives, NULL if no try tells it. */
const uint8_t *facts_seen(const struct probe_facts *facts);

/** facts_no_way - whether the host has no route to where a try came from: there was no SNAT. */
bool facts_no_way(const struct probe_facts *facts, const struct probe_try *try);

/** addr_is_set - whether an address is one: not all zero, nor 0.0.0.0. */
bool addr_is_set(const uint8_t addr[16]);

/** addr_is_unicast - whether it can be a pod's or a host's, or something a route leads to. */
bool addr_is_unicast(const uint8_t addr[16]);

/** addr_text - an address; static storage, four at a time. */
const char *addr_text(const uint8_t addr[16]);

/** icmp_text - "REJECT by 10.0.0.7 (icmp admin prohibited)"; static storage. */
const char *icmp_text(const struct icmp_error *error);

/** kind_name, end_name, seen_name, route_name - one word each, for the wire and for JSON. */
const char *kind_name(enum try_kind kind);
const char *end_name(enum try_end end);
const char *seen_name(enum try_seen seen);
const char *route_name(enum host_route route);

/* ---- verdict.c: what it means ---- */

enum verdict {
    VERDICT_NO_SNAT,
    VERDICT_KEPT,      /* SNAT, the port kept */
    VERDICT_CHANGED,   /* another port */
    VERDICT_BLOCKED,   /* arrived, but the answer did not come back */
    VERDICT_NOTHING,   /* nothing arrived */
    VERDICT_NO_ANSWER, /* one of these two: the connector cannot know */
    VERDICT_REJECTED,  /* somebody said so */
    VERDICT_REFUSED,   /* nothing listens, or a REJECT that looks like it */
    VERDICT_STRANGER,  /* something else listens there */
    VERDICT_NOT_SENT,  /* the pod's own system refused */
    VERDICTS,
};

/* Who probably changed the port. */
enum cause {
    CAUSE_NONE,
    CAUSE_RANDOM, /* random-fully, or another translation that always chooses */
    CAUSE_RANGE,  /* masquerading to a range: lo to hi is what was seen of it */
    CAUSE_TAKEN,  /* only some ports: another connection has them */
    CAUSE_LOW,    /* ports below 32768 are changed, others kept: Cilium */
    CAUSE_ONE,    /* one try is not enough to say */
};

struct verdict_found {
    enum verdict verdict;
    enum cause cause;
    struct portrange range; /* CAUSE_RANGE */
    enum probe_status status;
    unsigned good;                 /* tries that count and were answered */
    unsigned counts;               /* tries that count */
    const struct probe_try *worst; /* the one that explains the verdict; NULL: all are well */
    char text[600];                /* a sentence or three */
    char note[3][300];             /* what else should be known */
    unsigned notes;
};

/** verdict_find - judge. Pure: the same facts give the same words. */
void verdict_find(const struct probe_facts *facts, struct verdict_found *found);

/** verdict_name - "snat-kept" and so on; cause_name - "random" and so on. */
const char *verdict_name(enum verdict verdict);
const char *cause_name(enum cause cause);

/* ---- advice.c: what to do ---- */

struct advice {
    const char *where; /* "host", "firewall", "node", "pod", "configuration" */
    char line[240];    /* a command, or lines of fixport.conf with \n between */
};

#define ADVICE_MOST 8

/** advice_find - at most ADVICE_MOST things to do. Return: how many. */
unsigned advice_find(const struct probe_facts *facts, const struct verdict_found *found,
                     struct advice advice[ADVICE_MOST]);

/** advice_head - what stands above it for people, without a newline at the end. */
const char *advice_head(const struct probe_facts *facts, const struct verdict_found *found);

/* ---- wire.c: the words between the two sides ---- */

#define WIRE_LINE 512 /* bytes of a line, with its newline */

enum wire_word {
    WIRE_TRY,    /* connector: this connection is that try */
    WIRE_SEEN,   /* listener: and I saw it so */
    WIRE_REPORT, /* connector: now comes all I know */
    WIRE_MINE,   /* connector: of one try */
    WIRE_HOST,   /* listener: what I know of the way back */
    WIRE_SAW,    /* listener: of one try */
    WIRE_END,    /* both: that was all */
    WIRE_WORDS,
};

/* A line, read. Which members have a meaning, the word says. */
struct wire {
    enum wire_word word;
    uint64_t nonce; /* TRY: of the run */
    unsigned index; /* TRY, SEEN, MINE, SAW: 1..PROBE_TRIES */
    struct probe_try try;
    bool shim;              /* REPORT */
    struct portset ports;   /* REPORT */
    struct probe_host host; /* HOST */
};

/**
 * wire_read - read one line without its newline.
 * @line: @length bytes of anything.
 * @wire: the result, every member in its range; undefined on failure.
 * Return: 0, -EPROTO if this is no line of ours, -EPROTONOSUPPORT if it is one of another version.
 */
int wire_read(const char *line, size_t length, struct wire *wire);

/** wire_print - write a line with its newline. Return: its length, at most WIRE_LINE. */
size_t wire_print(const struct wire *wire, char buf[WIRE_LINE + 1]);

/* ---- packet.c: packets ---- */

#define MARK_PLAIN 599
#define MARK_INSIDE 600  /* + hash: 0..255 */
#define MARK_OUTSIDE 856 /* + hash */

/** mark_make - the maximum segment size that a try announces. @port: 0 for KIND_PLAIN. */
unsigned mark_make(enum try_kind kind, uint16_t port);

/**
 * mark_read - what a maximum segment size tells of a SYN that came from @port.
 * @kept: whether it was sent from that port; -1 for KIND_PLAIN, which does not tell.
 * Return: false if it is not one of ours.
 */
bool mark_read(unsigned mss, uint16_t port, enum try_kind *kind, int *kept);

enum packet_kind {
    PACKET_OTHER,
    PACKET_SYN,     /* to the listener */
    PACKET_SYN_ACK, /* from the listener */
    PACKET_RST,     /* from the listener */
    PACKET_BOUNCED, /* an ICMP error about what the listener sent */
};

struct packet {
    enum packet_kind kind;
    struct dest peer;       /* the other side's address and port */
    uint8_t local[16];      /* the listener's address */
    uint32_t sequence;      /* SYN */
    unsigned mss;           /* SYN; 0: not announced */
    struct icmp_error icmp; /* BOUNCED */
};

/** packet_read - read an IP packet of @length bytes, of which any may be wrong. @port: ours. */
void packet_read(const uint8_t *bytes, size_t length, uint16_t port, struct packet *packet);

/* ---- capture.c ---- */

#define CAPTURE_SYNS 256 /* remembered; the oldest make room */

/* SYNs from one address and port with one sequence number. */
struct capture_syn {
    struct dest peer;
    uint8_t local[16];
    uint32_t sequence;
    uint64_t first; /* sys_now_ms(); 0: unused */
    uint64_t last;
    unsigned mss;
    uint8_t mac[6]; /* of who put it on the wire */
    bool has_mac;
    struct probe_try try; /* syns, left and bounce of it */
    bool claimed;         /* by a connection, or by a session, or it was told of */
};

struct capture {
    int fd; /* -1: not capturing */
    uint16_t port;
    struct capture_syn syn[CAPTURE_SYNS];
};

/** capture_open - look at TCP packets of @port. Return: 0, or -errno (-EPERM: CAP_NET_RAW). */
int capture_open(struct capture *capture, uint16_t port);

/** capture_close - stop. */
void capture_close(struct capture *capture);

/** capture_read - take in what has come, a bounded amount. @now: sys_now_ms(). */
void capture_read(struct capture *capture, uint64_t now);

/** capture_find - the SYN of a connection that was accepted; NULL if it was not seen. */
struct capture_syn *capture_find(struct capture *capture, const struct dest *peer);

/* ---- route.c ---- */

/** route_find - how this host would send to @addr. @via: with ROUTE_VIA. */
enum host_route route_find(const uint8_t addr[16], uint8_t via[16]);

/** route_neighbour - the address, of @like's family, of who has @mac. Return: whether it is known.
 */
bool route_neighbour(const uint8_t mac[6], const uint8_t like[16], uint8_t addr[16]);

/* ---- ports.c ---- */

/* Options, as main read them. */
struct probe_options {
    bool json;
    bool capture;
    bool no_listen;
    bool only4;
    bool only6;
    uint16_t port;
    unsigned rounds;   /* connect: tries of each kind */
    unsigned wait_ms;  /* connect: for an answer */
    unsigned count;    /* listen: runs until it ends; 0: any number */
    unsigned timeout;  /* listen: seconds; 0: for ever */
    const char *ports; /* NULL: not given */
    const char *config;
    const char *address; /* listen: to listen on; NULL: all */
    const char *host;    /* connect */
    struct site site;    /* all zero: there is none */
    bool has_site;
};

/** ports_site - read the configuration, if there is one. Return: 0 or PROBE_ERROR. */
int ports_site(struct probe_options *options);

/**
 * ports_range - the range towards @to: --ports, --config, $FIXPORT_PORTS, the pool, /etc.
 * @listening: the pool and the environment of a host are not the pods'.
 * @set: count 0 if nobody says. Return: 0 or PROBE_ERROR.
 */
int ports_range(const struct probe_options *options, const struct dest *to, bool listening,
                struct portset *set);

/** ports_pick - a random port inside (or outside of) @set; 0: there is none. */
uint16_t ports_pick(const struct portset *set, bool inside);

/** ports_shim - whether the shim is in this process, and not disabled. */
bool ports_shim(void);

/** ports_random - 64 random bits. */
uint64_t ports_random(void);

/* ---- try.c: one try's socket ---- */

struct try_socket {
    int fd; /* -1: none */
    bool connected;
    struct probe_try *try;
    unsigned index;
    char line[WIRE_LINE];
    size_t used;
};

/** dest_sockaddr - @dest as a socket address. Return: its length. */
socklen_t dest_sockaddr(const struct dest *dest, struct sockaddr_storage *address);

/** try_start - bind and connect; kind is set in @socket->try. Its end is set if it has come. */
void try_start(struct try_socket *socket, const struct dest *to, const struct portset *ports);

/** try_settle - poll(2) says that something happened to one that was connecting. */
void try_settle(struct try_socket *socket);

/** try_close - close it. */
void try_close(struct try_socket *socket);

/* ---- runs.c: what the listener remembers ---- */

#define RUNS_MOST 128 /* runs of connectors; the oldest that has no connection makes room */

struct probe_run {
    uint64_t nonce; /* 0: unused, or of SYNs alone */
    struct probe_facts facts;
    struct verdict_found found;
    uint64_t began; /* sys_now_ms(); 0: unused */
    uint64_t last;
    time_t clock;  /* when it began, for people */
    unsigned open; /* connections */
    bool done;     /* judged */
};

struct probe_runs {
    struct probe_run run[RUNS_MOST];
    unsigned finished;        /* ever */
    unsigned count[VERDICTS]; /* of each verdict */
    enum probe_status worst;  /* of all that are finished */
};

/** runs_find - the run of @nonce, begun if it is new. Never NULL; it may be done. */
struct probe_run *runs_find(struct probe_runs *runs, uint64_t nonce, uint64_t now);

/** runs_wait - whether a run is not done yet. */
bool runs_wait(const struct probe_runs *runs);

/** runs_begin - a run of its own, of SYNs that nobody says anything of. */
struct probe_run *runs_begin(struct probe_runs *runs, uint64_t now);

/** run_take - what the connector says of one of its tries. */
void run_take(struct probe_run *run, const struct wire *wire);

/** run_match - fill in from captured SYNs what no connection told. */
void run_match(struct probe_run *run, struct capture *capture);

/** run_host - fill in what this host knows of the way back. @site: NULL: no configuration. */
void run_host(struct probe_run *run, const struct capture *capture, const struct site *site);

/** runs_finish - judge a run. */
void runs_finish(struct probe_runs *runs, struct probe_run *run);

/* ---- peers.c: the listener's connections ---- */

#define PEERS_MOST 64        /* connections at once: fewer than runs, so that one can make room */
#define PEER_HELLO_MS 5000   /* until it has said what it is */
#define PEER_MOST_MS 60000   /* altogether */
#define PEER_MOST_BYTES 8192 /* taken from it */

struct peer {
    int fd; /* -1: unused */
    struct dest from;
    uint8_t local[16];
    uint64_t since;        /* sys_now_ms() */
    struct probe_run *run; /* NULL: has not said what it is */
    bool reports;
    size_t bytes;
    size_t used;
    char line[WIRE_LINE];
};

struct listener {
    const struct probe_options *options;
    struct capture capture;
    struct probe_runs runs;
    struct peer peer[PEERS_MOST];
    unsigned strangers;   /* connections that were no probe's */
    unsigned results;     /* of connectors that may still be shown */
    unsigned lines;       /* that may still be shown about them */
    uint64_t refilled;    /* when lines was added to */
    unsigned hidden;      /* lines that were not shown */
    struct portset ports; /* count 0: not known here */
    struct progress progress;
};

/** peers_accept - take a connection from @fd, a listening socket. */
void peers_accept(struct listener *listener, int fd, uint64_t now);

/** peer_read - take in what a connection says, and answer. */
void peer_read(struct listener *listener, struct peer *peer, uint64_t now);

/** peers_expire - end connections whose time is over. */
void peers_expire(struct listener *listener, uint64_t now);

/** listener_result - a run is finished: judge it and show it. */
void listener_result(struct listener *listener, struct probe_run *run);

/**
 * listener_line - a line about something that is no probe, if not too many were shown.
 */
void listener_line(struct listener *listener, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- say.c, json.c: results ---- */

/** say_result - what is known, the verdict, what to do: for people. */
void say_result(const struct probe_facts *facts, const struct verdict_found *found);

/** json_result - the same as one line of JSON. @side: "connect" or "listen". */
void json_result(const char *side, const struct probe_facts *facts,
                 const struct verdict_found *found);

/**
 * json_summary - the listener's last line.
 * @strangers: connections that were no probe's. @hidden: results that were not shown.
 */
void json_summary(const struct probe_runs *runs, unsigned strangers, unsigned hidden,
                  enum probe_status status);

/** say_summary - the same as a table. */
void say_summary(const struct probe_runs *runs, unsigned strangers);

/* ---- listen.c, connect.c: the subcommands ---- */

/** probe_listen, probe_connect - do it. Return: enum probe_status. */
int probe_listen(struct probe_options *options);
int probe_connect(struct probe_options *options);

#endif
