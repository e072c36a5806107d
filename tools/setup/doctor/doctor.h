/* SPDX-License-Identifier: MIT */
/*
 * The doctor inside. Theory of operation:
 *
 * Facts are gathered first (facts.c): the machine's addresses, what the roles want, the journal. The checks are then functions
 * over these facts that write findings; what costs little (a sysctl, one route) they ask for by
 * itself through fact_...(). Nothing here changes anything, and nothing creates a table or loads a
 * module by looking: see facts_gather().
 *
 * What becomes of packets is not judged from rules: it is tried, in a twin of this machine's network
 * (twin/twin.h), with the connections that the configuration promises (roles/promise.h). A finding about
 * them says what happened to which, and who did it; and what could not be judged is said, too.
 *
 * All text in here is other people's: it is cleaned when it is printed, never before.
 */
#ifndef FIXPORT_TOOLS_SETUP_DOCTOR_H
#define FIXPORT_TOOLS_SETUP_DOCTOR_H

#include "../../common/shell.h"
#include "../../pool/cmd.h"
#include "../engine/engine.h"
#include "../roles/promise.h"
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

/** text_clean - @text without what could play tricks on a terminal (say_clean()); malloc'd. */
char *text_clean(const char *text, bool utf8);

/** finding_string - cleaned, too: JSON is valid UTF-8, and what reads it may print it. Or null. */
json_t *finding_string(const char *text);

#define ROUTERS (ROLE_GATEWAY | ROLE_NODE)

/* ---- whose a rule is: component.c ---- */

struct component {
    const char *name;
    const char *table;   /* begin of the name of nft's table; NULL: none, and so on */
    const char *chain;   /* begin of the chain's name */
    const char *comment; /* begin of the rule's comment */
    const char *keep;    /* what makes it leave source ports alone */
    const char *pass;    /* what makes it let connections pass */
};

/** component_of - whose the rule is, or NULL. */
const struct component *component_of(const struct blame *blame);

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

    struct fact_route *route; /* asked so far */
    size_t routes;

    struct journal journal;
    int has_journal; /* as journal_load() */
    struct setup_error journal_error;

    struct resources wanted;
    bool has_wanted;
    struct setup_error wanted_error;

    struct twin twin;           /* .home is -1 if there is none */
    char *rules;                /* all that iptables-save prints; NULL: not asked yet */
    bool uses[TWIN_NFT + 1];    /* backends that have rules; valid with .rules */
    struct promises promises;
    struct played *played;      /* one for each promise */
    char *unplayed;             /* why nothing was tried; NULL: it was */

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

/** facts_rules - all that iptables-save prints, of both families and backends, and then nft. Sets .uses, too. */
const char *facts_rules(struct facts *facts);

/**
 * fact_rule - the first of iptables' rules (IPv4 and IPv6, both backends) that begins with @begin, such
 * as "-A KUBE-NODEPORTS " or ":CILIUM_".
 * @after: the one after which to look, NULL: from the begin. Return: a line, which ends with a newline.
 */
const char *fact_rule(struct facts *facts, const char *begin, const char *after);

/** fact_process - whether a process of that name runs. */
bool fact_process(const char *name);

/* ---- what was tried: played.c ---- */

/* What became of one promise. */
struct played {
    const struct promise *promise;
    struct play *play;
    enum promise_kept *kept; /* of each play */
    size_t count;
    size_t of[PROMISE_PASSED + 1]; /* how many were kept, lost, ... */
    char *rule;                    /* who broke it, the first that was found; NULL: nobody, or not known */
    const char *whose;             /* NULL: not known */
};

/** played_print - a table of what was tried, and what could not be judged. */
void played_print(const struct facts *facts);

/** played_json - the same, as "played" and "not-judged" of @object. */
void played_json(const struct facts *facts, json_t *object);

/** played_free - give back. */
void played_free(struct facts *facts);

/* ---- the checks ---- */

typedef void check_run(struct facts *facts, struct findings *findings);

check_run check_played, check_backends; /* played.c */
check_run check_routes, check_neighbours, check_rp_filter, check_forwarding,
    check_redirects; /* route.c */
check_run check_ephemeral, check_node_ports, check_listening, check_cilium,
    check_low_ports, check_aliases; /* ports.c */
check_run check_pool, check_library, check_kernel, check_timestamps, check_conntrack, check_journal,
    check_wanted, check_configuration, check_manifest; /* state.c */
check_run check_unit, check_networkd;                  /* boot.c */

#endif
