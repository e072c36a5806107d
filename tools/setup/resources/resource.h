/* SPDX-License-Identifier: MIT */
/*
 * Resources: all that fixport-setup can read, change and put back. Each type has its file.
 */
#ifndef FIXPORT_TOOLS_SETUP_RESOURCE_H
#define FIXPORT_TOOLS_SETUP_RESOURCE_H

#include "../../config/site.h"
#include "../base/base.h"
#include "../base/steps.h"

/* ---- setup/resources/resource.c and a file for each type ---- */

struct resource;

enum lost {
    LOST_NOT,
    LOST_DAMAGED, /* ours by its looks */
    LOST_FOREIGN, /* it may be somebody's: only what an earlier apply has made is replaced by it */
};

struct resource_type {
    const char *name; /* in the journal: "file", "sysctl", "routes", "iptables", "nft", ... */
    bool lasting; /* survives a reboot by itself */
    /**
     * read - the state now. @state: malloc'd text in canonical form, or NULL: absent.
     */
    int (*read)(const char *name, char **state, struct setup_error *error);
    /**
     * steps - append what brings it from @from to @to (either may be NULL: absent; they differ).
     */
    int (*steps)(const char *name, const char *from, const char *to, struct steps *steps,
                 struct setup_error *error);
    /**
     * canonical - @text, which a role asks for, as reading it back will have it. Called by
     * resources_add(); NULL: it is so already. @canonical: malloc'd, or NULL: absent.
     */
    int (*canonical)(const char *name, const char *text, char **canonical,
                     struct setup_error *error);
    /**
     * merge - what leads from @base to @to, done to @now: where ours is a part of what others add
     * to and take from as well. NULL: all of it is ours, so the result is @to. Any of the states
     * may be NULL. @merged: malloc'd, or NULL: absent.
     */
    int (*merge)(const char *name, const char *base, const char *to, const char *now,
                 char **merged, struct setup_error *error);
    /**
     * content - @state without what depends on others' doing around us: if nothing but that has
     * changed, undo takes ours away without being forced. NULL: nothing depends on others.
     * Return: malloc'd.
     */
    char *(*content)(const char *state);
    /**
     * lost - whether @state is nothing that anybody could have wanted or could put back, such as a
     * pool that somebody has scribbled on: it is replaced, and going back to it is to have nothing
     * there. NULL: no state is.
     */
    enum lost (*lost)(const char *state);
};

/*
 * The types, with what their names and states look like:
 *
 * folder     name: absolute path. State: "there". Those that were missing and that files, links and
 *            pools need are added by work.c, not by roles; undo leaves those that are in use.
 * file       name: absolute path. State: "0644 0 0\n" (mode, uid, gid) and the bytes. Text only:
 *            NUL or invalid UTF-8 is an error. Symlinks are not followed for the last component.
 * link       name: absolute path. State: the target of a symlink.
 * sysctl     name: "net.ipv4.ip_forward". State: value, white space squeezed, no newline. Absent:
 *            the kernel does not have it; setting it then is an error. By sysctl(8) "sysctl -w".
 *            Of ip_local_reserved_ports roles ask for their own ports only; others' stay, whenever
 *            they came.
 * routes     name: "ipv4" or "ipv6" for table main, "ipv4 table 161" for another one. State: one
 *            line a route with our protocol, "10.200.1.0/24 via 192.168.31.17", sorted (addresses numerically); "" and absent
 *            are the same (absent). By one "ip -batch -" (-4/-6); routes of others to the same
 *            destination are an error that names them.
 * rule       name: "ipv4" or "ipv6". State: the rules of policy routing with our protocol, as in
 *            "161: fwmark 0x2000/0x2000 lookup 161", one a line.
 * iptables   name: "ipv4" or "ipv6". State: lines of table filter, in the form of iptables-save:
 *            ":FIXPORT-FORWARD - [0:0]" and so on for each chain beginning with "FIXPORT-", then their
 *            rules "-A FIXPORT-FORWARD ...", then jumps "-A FORWARD ... -j FIXPORT-FORWARD" preceded
 *            by their position: "1 -A FORWARD -j FIXPORT-FORWARD" (or DOCKER-USER). Counters are
 *            left out. "": nothing of ours in others' table; absent: no table (iptables-nft makes
 *            it by our coming, and it goes with us if nobody else uses it then). A chain DOCKER-USER
 *            that is not there is made with its jump, as Docker does, and noted by an empty chain
 *            FIXPORT-NEW-...; position 0 in it: nothing leads there. Roles write rules as
 *            iptables-save prints them.
 *            One "iptables-restore -w 5 --noflush" for everything.
 * nft        name: "ip" or "ip6". State: "table ip fixport { ... }" as "nft -s list table" has it.
 *            By one "nft -f -".
 * nodeports  name: path of the API server's manifest. State: the value of
 *            --service-node-port-range; absent: no such option. (setup/resources/manifest.c)
 * pool       name: path of the pool. State: a configuration file that would make it, [pool] with
 *            quarantine, mode, group, lanes, and every [rule]; absent: no pool. "damaged: ..." or "foreign: ...": see .lost.
 *            By "fixport-pool create|reload|remove --pool PATH -c /dev/stdin".
 */
extern const struct resource_type resource_folder, resource_file, resource_link, resource_sysctl,
    resource_routes, resource_rule, resource_iptables, resource_nft, resource_nodeports,
    resource_pool;

/* One thing that a role wants. */
struct resource {
    const struct resource_type *type;
    char *name;
    char *wanted; /* state; NULL: absent */
    char *why; /* for people: "let packets pass between the LAN and the pods" */
};

struct resources {
    struct resource *item; /* in the order in which they are applied */
    size_t count;
    char *topology; /* a sentence for people, or NULL */
    char **note;    /* sentences for people: what is as it should not be, but no error */
    size_t notes;
    struct resource *left; /* what roles want and leave to others: for people */
    size_t lefts;
};

/** resources_note - append a sentence to the notes. */
void resources_note(struct resources *resources, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** resources_add - append; strings are copied. A type and name that is there already: an error. */
int resources_add(struct resources *resources, const struct resource_type *type, const char *name,
                  const char *wanted, const char *why, struct setup_error *error);

/** resources_free - give back; zeros are fine. */
void resources_free(struct resources *resources);

/* ---- setup/resources/iptables.c, setup/resources/pool.c, setup/resources/file.c: helpers for those that make states ---- */

/** iptables_choose - decide between the backends (site.iptables); before any other use. */
int iptables_choose(enum site_iptables which, struct setup_error *error);

/** iptables_tool - "iptables-nft-save", "ip6tables-restore" ...: @family 4 or 6, @what "save". */
const char *iptables_tool(int family, const char *what);

/** iptables_is_legacy - whether the backend chosen is iptables-legacy; the tool's name may not tell. */
bool iptables_is_legacy(void);

/** iptables_has_chain - whether table filter has the chain now ("DOCKER-USER"). */
bool iptables_has_chain(int family, const char *chain);

/**
 * iptables_table - what iptables-save says of a table, which it does not make by being asked.
 * Return: malloc'd, "" if there is none; NULL: @error says.
 */
char *iptables_table(int family, const char *table, struct setup_error *error);

/**
 * iptables_position - where in @chain of table filter a jump of ours belongs: on top (1), but behind
 * the jumps there to chains of network policies, which may say no to what we would accept.
 */
unsigned iptables_position(int family, const char *chain);

/** pool_state_from_config - the state for resource_pool that a configuration asks for; malloc'd. */
char *pool_state_from_config(const struct config *config);

/** file_sweep - take away what a replacement of @path that was killed may have left. */
void file_sweep(const char *path, const char *staging);

/** file_state - the state for resource_file: @mode such as 0644, owner root; malloc'd. */
char *file_state(unsigned mode, const char *bytes);

/**
 * kubeadm_snippet - what to write into kubeadm's configuration, for plan and apply to print of a
 * control-plane machine: "kubeadm upgrade" makes the manifest anew from that. (setup/resources/manifest.c)
 * Return: malloc'd text of whole lines, both forms of extraArgs; NULL: no memory.
 */
char *kubeadm_snippet(const struct portrange *ports);

/* ---- resource.c: for the engine ---- */

/**
 * state_merge - as resource_type.merge: @to for a type that has none.
 * @merged: malloc'd, or NULL.
 */
int state_merge(const struct resource_type *type, const char *name, const char *base,
                const char *to, const char *now, char **merged, struct setup_error *error);

/** state_lost - as resource_type.lost; of a type or state without it LOST_NOT. */
enum lost state_lost(const struct resource_type *type, const char *state);

#endif
