/* SPDX-License-Identifier: MIT */
/*
 * The doctor inside. Theory of operation:
 *
 * Facts are gathered first (facts.c): the firewall's rules of every backend in one
 * form, the machine's addresses, what the roles want, the journal. The checks are then functions
 * over these facts that write findings; what costs little (a sysctl, one route) they ask for by
 * itself through fact_...(). Nothing here changes anything, and nothing creates a table or loads a
 * module by looking: see facts_gather().
 *
 * The firewall (struct fw) is what iptables-nft-save, iptables-legacy-save and "nft -j list
 * ruleset" say, read into chains and rules with the few matches that matter to a TCP connection
 * between pods and hosts. Whether a rule matches a connection is "no", "maybe" or "yes": maybe when
 * the rule has a match that is not understood here, or when it matches some of the addresses. A
 * walk (fw_walk()) takes a flow through the chains of a hook as the kernel would, and reports each
 * verdict that it meets with that certainty. So a rule that a RETURN or our own table stands
 * before is not reported, without any knowledge of who made it.
 *
 * All text in here is other people's: it is cleaned when it is printed, never before.
 */
#ifndef FIXPORT_TOOLS_SETUP_DOCTOR_H
#define FIXPORT_TOOLS_SETUP_DOCTOR_H

#include "../../common/shell.h"
#include "../../pool/cmd.h"
#include "../engine/engine.h"
#include "../roles/roles.h"

#include <net/if.h>

/* ---- findings: doctor.c ---- */

enum severity {
    SEVERITY_INFO, /* good to know; does not count as a finding */
    SEVERITY_WARNING, /* harms some connections, or will under some circumstance */
    SEVERITY_ERROR, /* connections fail, or leave from a port outside of the range */
};

struct finding {
    const char *id;
    enum severity severity;
    char *what;
    const char *why;
    char *mend; /* what to do, for people: whose configuration, which line; NULL: .run says it */
    char **run; /* commands for a shell which, one after the other, make the finding go away */
    size_t runs;
    char *line; /* where it was seen, word for word; may be NULL */
    size_t order; /* in which it was found */
};

struct findings {
    struct finding *item;
    size_t count;
};

/** finding_add - append a finding. Return: it, until the next is added. */
struct finding *finding_add(struct findings *findings, const char *id, enum severity severity,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/** finding_why - why it matters: a constant. */
void finding_why(struct finding *finding, const char *why);

/**
 * finding_mend - what mends it, as a sentence: what no command can do, or what is to be known about
 * those of finding_run().
 */
void finding_mend(struct finding *finding, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

struct facts;

/**
 * finding_run - append a command for a POSIX shell, run as root. Promise: when all of them have
 * been run, in order, the finding is not made again; tests do just that with each. What may have
 * any other character than a name has, goes through shell_quoted() before.
 */
void finding_run(struct finding *finding, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** finding_apply - append "fixport-setup ... apply" with the options that this doctor has. */
void finding_apply(struct finding *finding, const struct facts *facts);

/** finding_line - the line that was seen. */
void finding_line(struct finding *finding, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** text_format - asprintf that ends the program when there is no memory. */
char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- the firewall: rules.c, nft.c ---- */

enum truth { NO, MAYBE, YES };

enum fw_backend { FW_IPTABLES_NFT, FW_IPTABLES_LEGACY, FW_NFT };

enum fw_hook { HOOK_NONE, HOOK_INPUT, HOOK_FORWARD, HOOK_POSTROUTING, HOOK_OTHER };

enum fw_verdict {
    VERDICT_NONE, /* goes on with the next rule: LOG, MARK, ... */
    VERDICT_ACCEPT,
    VERDICT_DROP, /* or REJECT */
    VERDICT_RETURN,
    VERDICT_JUMP,
    VERDICT_GOTO,
    VERDICT_SNAT, /* or MASQUERADE, or NETMAP */
    VERDICT_OTHER, /* ends the walk in a way that is not known: NFQUEUE, a map of verdicts */
};

/* Addresses that a rule names: v4 is v4-mapped, as everywhere. */
struct fw_range {
    uint8_t lo[16];
    uint8_t hi[16];
};

struct fw_addresses {
    struct fw_range *range;
    size_t count;
    bool set; /* the rule has this match */
    bool not;
    bool local; /* "any address of this machine" instead of ranges */
};

struct fw_ports {
    struct portrange *range;
    size_t count;
    bool set;
    bool not;
};

struct fw_names {
    char (*name)[IFNAMSIZ + 1]; /* a '+' or '*' at the end stands for anything */
    size_t count;
    bool set;
    bool not;
};

/* An ipset that a rule asks for; which addresses it has, ipset(8) knows. */
struct fw_ipset {
    char *name;
    bool to; /* the destination is looked up, otherwise the source */
    bool not;
};

#define FW_MATCHES 3 /* of one kind in one rule; more make it uncertain */

struct fw_rule {
    struct fw_addresses from[FW_MATCHES];
    struct fw_addresses to[FW_MATCHES];
    struct fw_ports sport[FW_MATCHES];
    struct fw_ports dport[FW_MATCHES];
    struct fw_names in;
    struct fw_names out;
    struct fw_ipset ipset[FW_MATCHES];
    bool not_tcp; /* another protocol only */
    bool not_new; /* not for a connection's first packet */
    bool family4, family6; /* only that family */
    bool uncertain; /* has a match that is not understood */
    bool has_mark, mark_not;
    uint32_t mark, mark_mask;

    enum fw_verdict verdict;
    char *target; /* chain of a jump, or name of the target */
    bool random, random_fully;
    struct portrange nat_ports; /* lo 0: not said */
    char *text; /* as iptables-save prints it; NULL: nft, see fw_rule_text() */
    char *comment; /* may be NULL */
    int64_t handle; /* nft's */
};

struct fw_chain {
    enum fw_backend backend;
    int family; /* 4, 6, or 0: both */
    char *table_family; /* nft: "ip", "ip6", "inet", "bridge"... */
    char *table;
    char *name;
    enum fw_hook hook; /* HOOK_NONE: only by jumps */
    int priority;
    bool nat;
    bool drop; /* policy */
    struct fw_rule *rule;
    size_t rules;
    size_t next; /* in the chain of chains of one hash; SIZE_MAX ends it */
};

#define FW_BUCKETS 4096

struct fw {
    struct fw_chain *chain;
    size_t chains;
    size_t bucket[FW_BUCKETS]; /* index + 1 of the first chain with that hash */
    json_t *sets; /* nft's named sets: "FAMILY TABLE NAME" to their elements */
    json_t *ipsets; /* what ipset(8) has answered: "NAME ADDRESS" to a boolean, or null */
};

/** fw_free - give back. */
void fw_free(struct fw *fw);

/** fw_chain_find - by its name in one table. Return: NULL if there is none. */
struct fw_chain *fw_chain_find(const struct fw *fw, enum fw_backend backend,
                               const char *table_family, const char *table, const char *name);

/** fw_chain_add - the chain of that name, made if need be; valid until the next is added. */
struct fw_chain *fw_chain_add(struct fw *fw, enum fw_backend backend, const char *table_family,
                              const char *table, const char *name);

/** fw_rule_add - an empty rule at the end of a chain; valid until the next is added. */
struct fw_rule *fw_rule_add(struct fw_chain *chain);

#define WORDS_MAX 256

/**
 * split_words - split a line of iptables-save, whose quotes are "..." with \" and \\ inside.
 * @text: is written to. @word: point into it. Return: how many words.
 */
size_t split_words(char *text, char *word[WORDS_MAX]);

/** fw_read_save - read what iptables-save printed. @family: 4 or 6. Garbled lines are left out. */
void fw_read_save(struct fw *fw, enum fw_backend backend, int family, const char *text);

/**
 * fw_read_nft - read what "nft -j list ruleset" printed.
 * Tables that iptables-nft-save has explained already are left out.
 * Return: 0; -1 if it is not that JSON.
 */
int fw_read_nft(struct fw *fw, const char *text);

/** fw_address_add - a range of addresses for a match. */
void fw_address_add(struct fw_addresses *match, const uint8_t lo[16], const uint8_t hi[16]);

/** fw_address_text - "10.0.0.0/8", "10.0.0.1-10.0.0.9", "fd00::/64". Return: 0 or -1. */
int fw_address_text(struct fw_addresses *match, const char *text);

/** fw_port_add - a range of ports for a match. */
void fw_port_add(struct fw_ports *match, uint16_t lo, uint16_t hi);

/** fw_name_add - an interface for a match. */
void fw_name_add(struct fw_names *match, const char *name);

/* ---- a connection's way: walk.c ---- */

/* A TCP connection's first packet, or a class of such. */
struct flow {
    struct block from, to; /* of one family; /0 (or /96): anything */
    bool from_here, to_here; /* that is an address of this machine */
    const struct portset *sports; /* NULL: anything */
    const struct portset *dports; /* NULL: anything */
    char in[IFNAMSIZ], out[IFNAMSIZ]; /* empty: not known */
    uint32_t unmarked; /* bits that its mark is known not to have */
};

struct walk;

/** walk_hit - a verdict that @walk met. @certain: YES or MAYBE. */
typedef void walk_hit(struct walk *walk, const struct fw_chain *chain, const struct fw_rule *rule,
                      enum truth certain);

struct walk {
    const struct fw *fw;
    const struct flow *flow;
    walk_hit *hit; /* for accept, drop and SNAT */
    void *arg;
    const struct fw_chain *base; /* the base chain in hand */
    bool undecided; /* a verdict may have ended it before: what follows is MAYBE */
    bool mapped; /* an address translation is certain: no other chain is asked for one */
    unsigned budget; /* rules that may still be looked at */
};

enum walk_end { WALK_PASSED, WALK_ENDED };

/**
 * walk_chain - take a flow through one base chain.
 * Return: WALK_ENDED if a rule certainly ended it; WALK_PASSED: the policy, or the next chain.
 */
enum walk_end walk_chain(struct walk *walk, const struct fw_chain *chain);

/** walk_nat - through all postrouting chains of nat, by priority: the first SNAT decides. */
void walk_nat(struct walk *walk);

/** walk_order - base chains of @hook for @family, nat or not, by priority. malloc'd; @count. */
const struct fw_chain **walk_order(const struct fw *fw, enum fw_hook hook, bool nat, int family,
                                   size_t *count);

/* ---- facts: facts.c ---- */

struct fact_route {
    char *key; /* the arguments of "ip route get" */
    bool found;
    char gateway[64]; /* empty: on the link */
    char dev[IFNAMSIZ];
    bool local;
    char table[64]; /* empty: main, or not known */
    char *line; /* as ip prints it for people, or what it complained */
};

/* A set of source ports that this machine's programs or pods use. */
struct fact_ports {
    const char *name; /* "[pool] ports", for people */
    struct portset set;
};

#define ROLE_UNKNOWN (1u << 8) /* nobody said what this machine is */

struct facts {
    char *setup; /* "fixport-setup --role node": how to call it with this doctor's options */
    char *setup_root; /* the same for what takes neither configuration nor roles: undo, confirm */
    char *config; /* where the configuration is, or would be */
    bool has_site;
    struct site site; /* zeros without */
    unsigned roles; /* enum site_role, or ROLE_UNKNOWN */
    struct machine machine;
    const struct site_node *self; /* this machine's node; NULL: none, or not known */
    struct fact_ports ports[2];
    size_t port_sets;
    char pool_path[PATH_MAX];

    struct fw fw;
    bool fw_seen[FW_NFT + 1]; /* the backends that could be read, or that the kernel has not got */
    char *ruleset; /* "nft -a list ruleset", when needed */

    struct fact_route *route; /* asked so far */
    size_t routes;

    struct journal journal;
    int has_journal; /* as journal_load() */
    struct setup_error journal_error;

    struct resources wanted;
    bool has_wanted;
    struct setup_error wanted_error;

    char *denied; /* "the rules of iptables-nft, ...": for want of root */
};

/** facts_gather - look at everything. @options as setup_doctor(). Return: 0 or SETUP_ERROR. */
int facts_gather(struct facts *facts, const struct setup_options *options);

/** facts_free - give back. */
void facts_free(struct facts *facts);

/** facts_denied - remember that @what could not be looked at for want of a privilege. */
void facts_denied(struct facts *facts, const char *what);

/** fact_sysctl - "net.ipv4.ip_forward", as sysctl(8) writes names. False: it is not there. */
bool fact_sysctl(const char *name, char *buf, size_t size);

/** fact_number - a sysctl that is one number; @otherwise if it is not there. */
long fact_number(const char *name, long otherwise);

/** fact_setting - the name of an interface's setting; in a buffer as fact_address(). */
const char *fact_setting(int family, const char *dev, const char *key);

/* What a sentence beside "sysctl -w" has to say. */
#define FACT_LASTING "to last over a reboot, the setting belongs into a file of /etc/sysctl.d, too"

/** fact_conf - net.ipvN.conf.DEV.KEY; @otherwise if it is not there. @family 4 or 6. */
long fact_conf(int family, const char *dev, const char *key, long otherwise);

/**
 * fact_route - how this machine sends to @addr. Valid until the next question.
 * @from: from this address, which is the machine's own unless @in is given; NULL: any.
 * @in: as if it had come in by this interface; NULL or empty: as its own.
 */
const struct fact_route *fact_route(struct facts *facts, const uint8_t addr[16],
                                    const uint8_t *from, const char *in);

/** fact_device - the interface to @block; empty: none. Valid until the next question. */
const char *fact_device(struct facts *facts, const struct block *block);

/** fact_goes_by - whether one of the routes that the roles want leads to interface @dev. */
bool fact_goes_by(struct facts *facts, const char *dev);

/** fact_single - a block of one address. */
struct block fact_single(const uint8_t addr[16]);

/** fact_ip - run "ip -j ..." and read it. Return: new reference, NULL: failed or no JSON. */
json_t *fact_ip(int family, const char *const words[]);

/** fact_address - @addr as text in one of eight static buffers used in turn. */
const char *fact_address(const uint8_t addr[16]);

/** fact_block - @block as text, likewise. */
const char *fact_block(const struct block *block);

/** fact_set - @set as text, likewise. */
const char *fact_set(const struct portset *set);

/** fact_has_chain - whether any table has a chain whose name begins with @prefix. */
const struct fw_chain *fact_has_chain(const struct facts *facts, const char *prefix);

/** fact_process - whether a process of that name runs. */
bool fact_process(const char *name);

/** fw_rule_text - "nft ip nat POSTROUTING: masquerade", "iptables-nft -t nat -A ...": new text. */
char *fw_rule_text(struct facts *facts, const struct fw_chain *chain, const struct fw_rule *rule);

/** flow_each - is called with each kind of connection. */
typedef void flow_each(struct facts *facts, const struct flow *flow, void *arg);

/** flows_from_pods - what a node or gateway passes on to hosts; anything if nothing is known. */
void flows_from_pods(struct facts *facts, flow_each *each, void *arg);

/** flows_to_pods - what a node or gateway passes on from hosts. */
void flows_to_pods(struct facts *facts, flow_each *each, void *arg);

/** flows_out - those that leave a host for pods. */
void flows_out(struct facts *facts, flow_each *each, void *arg);

/** flows_in - those that come to a host from pods. */
void flows_in(struct facts *facts, flow_each *each, void *arg);

/* ---- the checks ---- */

typedef void check_run(struct facts *facts, struct findings *findings);

check_run check_snat; /* snat.c */
check_run check_forward, check_input, check_backends, check_firewalld, check_docker,
    check_jump; /* filter.c */
check_run check_routes, check_neighbours, check_rp_filter, check_forwarding,
    check_redirects; /* route.c */
check_run check_ephemeral, check_node_ports, check_listening, check_cilium,
    check_low_ports; /* ports.c */
check_run check_pool, check_library, check_kernel, check_timestamps, check_conntrack, check_journal,
    check_wanted, check_configuration, check_manifest; /* state.c */
check_run check_unit, check_networkd;                  /* boot.c */

#endif
