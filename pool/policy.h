/* SPDX-License-Identifier: MIT */
/*
 * The policy: rules that say which destinations get their source port from which set of ports.
 *
 * It is compiled once, by a tool from the configuration or by the shim from its environment, into
 * one flat structure without pointers that lies in the pool (layout.h). Readers look at it where
 * it lies, in memory that another process may write at any time: policy_match() therefore clamps
 * every count it reads, and its answer is a copy.
 *
 * Addresses are IPv6 in network order; IPv4 is v4-mapped (::ffff:0:0/96, RFC 4291 2.5.5.2), because
 * programs reach IPv4 through AF_INET6 sockets too and both must meet the same rule.
 */
#ifndef FIXPORT_POLICY_H
#define FIXPORT_POLICY_H

#include "portrange.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define POLICY_RULES 32 /* rules in a policy */
#define POLICY_DESTS 256 /* destinations in all its rules together */
#define POLICY_NAME 32 /* bytes of a rule's name, with its NUL */
#define POLICY_ALIASES 250 /* addresses of servers that have several, together */
#define POLICY_NAMES 254 /* of an address among its server's: 1..POLICY_NAMES */

enum policy_exhausted {
    POLICY_FAIL = 0, /* connect() fails with EADDRNOTAVAIL */
    POLICY_WAIT = 1, /* a blocking connect() waits for wait_ms first */
    POLICY_PASS = 2, /* connect() goes ahead with a port of the kernel's choice */
};

/* Whose ports they are: what must not have one twice towards a destination. */
enum policy_scope {
    POLICY_NODE = 0, /* the node's: namespaces are behind one address of it */
    POLICY_ADDRESS = 1, /* each address': namespaces keep their own, and the kernel of each decides alone */
};

/* A destination as the shim meets it: port in host order. */
struct dest {
    uint8_t addr[16];
    uint16_t port;
};

/* An address block and a range of its ports; exclude: what matches is not the rule's. */
struct dest_match {
    uint8_t addr[16]; /* host bits zero */
    uint8_t prefix; /* 0..128; a v4 block of /n is 96+n; "any" is ::/0 */
    uint8_t exclude;
    uint8_t v6_only; /* 1: a wide block written as IPv6 (::/0), which does not mean IPv4 too */
    uint8_t reserved;
    struct portrange ports;
};

struct policy_rule {
    char name[POLICY_NAME];
    uint16_t dest_first; /* index into policy.dest */
    uint16_t dest_count; /* 0: everywhere but loopback */
    uint8_t exhausted; /* enum policy_exhausted */
    uint8_t scope; /* enum policy_scope */
    uint8_t reserved[2];
    uint32_t wait_ms; /* for POLICY_WAIT, 1..600000 */
    struct portset ports;
};

/*
 * One of several addresses of one server: something behind the client's namespace translates one into the
 * other (a Service's address). @to is the same for all of them, one of them, and an alias of itself. Port
 * 0: all ports of the address, then @to has port 0 too, and its is that of the destination.
 *
 * @name stands for @from in the words of the pool (layout.h), which outlive a policy. So it does not depend
 * on what else the policy has: it is a hash of @from, 1..POLICY_NAMES. Where a server has two addresses with
 * one hash, the one that is later in the order takes the next that is free. What a change of policy does to
 * words: pool/move.c.
 */
struct policy_alias {
    struct dest from, to;
    uint8_t name;
    uint8_t reserved[3];
};

struct policy {
    uint32_t rule_count; /* 1..POLICY_RULES in a valid policy */
    uint32_t dest_count;
    uint32_t quarantine_ms; /* 0..86400000: before another holder may have a port that was let go */
    uint32_t alias_count;
    struct policy_rule rule[POLICY_RULES];
    struct dest_match dest[POLICY_DESTS];
    struct policy_alias alias[POLICY_ALIASES]; /* ascending by .from, each once */
};

#define POLICY_QUARANTINE_MS 120000 /* a conntrack entry's TIME_WAIT (nf_conntrack_tcp.c) */
#define POLICY_QUARANTINE_MAX_MS 86400000
#define POLICY_WAIT_MAX_MS 600000

/* What policy_match() found; a copy, safe to use while the policy changes. */
struct policy_verdict {
    uint32_t rule; /* index */
    struct dest server; /* the destination, under the first of the names that its server has */
    uint8_t name; /* which of these it is, policy_alias.name; 0: the server has only this one */
    uint8_t exhausted;
    uint8_t scope;
    uint32_t generation; /* of the pool's policy: pool_match() */
    uint32_t wait_ms;
    uint32_t quarantine_ms;
    struct portset ports;
};

/** policy_init - an empty policy with the default quarantine; add rules to it. */
void policy_init(struct policy *policy);

/**
 * policy_add_rule - append a rule.
 * @name: what status shows, 1..POLICY_NAME-1 printable characters.
 * @ports: text for portset_parse().
 * @to: destinations separated by commas: "10.0.0.0/8", "192.168.31.67:5432", "[fd00::/64]:80-90",
 *      "any:443", each may begin with '!' to exclude. NULL or empty: everywhere but loopback.
 *      Loopback (127.0.0.0/8, ::1) matches only what names it: a block inside loopback. A rule of
 *      exclusions alone means everywhere but loopback and those.
 * @why: the reason for a failure; may be NULL. For a bad @to it begins with the offending item.
 *
 * Return: 0; -EINVAL, -ERANGE as portset_parse(); -E2BIG if rules or destinations are too many.
 * The policy is unchanged on failure.
 */
int policy_add_rule(struct policy *policy, const char *name, const char *ports, const char *to,
                    struct parse_reason *why);

/**
 * policy_add_alias - addresses that lead to one server, or to several: they are one to the pool then.
 * @addresses, @servers: separated by commas, single addresses: all with one port each ("10.96.0.1:80",
 *      "[fd00::1]:80"), or all without. Those of servers that are known together already become one.
 *      Whole addresses have to be added before those with ports.
 * @why: as for policy_add_rule().
 *
 * Return: 0; -EINVAL, -ERANGE; -E2BIG if they are too many. The policy is unchanged on failure.
 */
int policy_add_alias(struct policy *policy, const char *addresses, const char *servers,
                     struct parse_reason *why);

/**
 * policy_server - the address under which the pool keeps a destination's server.
 * @server: the result; @dest itself if it has no other address. May be @dest.
 * Return: which of its addresses @dest is (policy_alias.name), or 0 if it has only this one. Bounded;
 * async-signal-safe; @policy may change meanwhile.
 */
uint8_t policy_server(const struct policy *policy, const struct dest *dest, struct dest *server);

/**
 * policy_address - the address that a server has by a name.
 * @server: as policy_server() has it, with its port. @address: the result.
 * Return: false: it has none by that name.
 */
bool policy_address(const struct policy *policy, const struct dest *server, uint8_t name,
                    struct dest *address);

/** dest_compare - an order of destinations. Return: < 0, 0 if they are the same, > 0. */
int dest_compare(const struct dest *one, const struct dest *other);

/**
 * policy_valid - whether a policy from untrusted memory keeps every promise above.
 */
bool policy_valid(const struct policy *policy);

/**
 * policy_match - the first rule for a destination; if there is none, that for its server's address.
 * @policy: may change under the reader; counts are clamped, so the worst is a wrong answer. Ports
 *          that are no valid set become none.
 * @dest: the destination.
 * @verdict: the result.
 *
 * Return: true if a rule matches. Allocates nothing, async-signal-safe.
 */
bool policy_match(const struct policy *policy, const struct dest *dest,
                  struct policy_verdict *verdict);

/**
 * policy_ports - the union of the ports of all rules, for sizing the pool and for warnings.
 * @mark: called with @arg for each range of each rule, in order.
 */
void policy_each_range(const struct policy *policy,
                       void (*mark)(const struct portrange *range, void *arg), void *arg);

/**
 * policy_gap - the longest run of ports, unprivileged ones if there are, that no rule has.
 * @lo, @hi: within these; the result. Return: false if there is none.
 */
bool policy_gap(const struct policy *policy, uint16_t *lo, uint16_t *hi);

/**
 * policy_may_match_address - whether any rule could match a connection from local address @addr.
 *
 * A socket bound to a loopback address reaches loopback only: if no rule names loopback, it will
 * never be matched. Used to leave bind(addr, 0) of such sockets alone.
 */
bool policy_may_match_address(const struct policy *policy, const uint8_t addr[16]);

/** policy_checksum - a 64-bit FNV-1a of a policy, to notice a garbled one. */
uint64_t policy_checksum(const struct policy *policy);

/** policy_dest_print - one destination as text ("10.0.0.0/8:443"), for status. As snprintf(3). */
size_t policy_dest_print(const struct dest_match *match, char *buf, size_t size);

/** policy_alias_print - a side of an alias: as dest_print(), a whole address without a port. As snprintf(3). */
size_t policy_alias_print(const struct dest *dest, char *buf, size_t size);

/**
 * dest_from_sockaddr - a destination from what the program passed to connect().
 * @sa: copied from the program, @len bytes valid.
 *
 * Return: true for AF_INET and AF_INET6 of sufficient length (an IPv4 address becomes v4-mapped;
 * 0.0.0.0 and :: become their loopback address, as the kernel treats them).
 */
bool dest_from_sockaddr(const struct sockaddr *sa, socklen_t len, struct dest *dest);

/** dest_print - "10.0.0.1:443", "[fd00::1]:443". As snprintf(3). */
size_t dest_print(const struct dest *dest, char *buf, size_t size);

/** addr_is_loopback - 127.0.0.0/8 (v4-mapped) or ::1. */
bool addr_is_loopback(const uint8_t addr[16]);

#endif
