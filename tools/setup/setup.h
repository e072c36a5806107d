/* SPDX-License-Identifier: MIT */
/*
 * fixport-setup inside. Theory of operation:
 *
 * Whatever setup changes on a machine is a *resource*: a file, a sysctl, the routes with our
 * protocol number, our chains in iptables, our table in nft, the value of one option in a
 * manifest, the pool. All resources have one form: they can be read, as a text (or are absent),
 * and there is a list of *steps* that brings one from one text to another. A step is one command
 * with its standard input, or one file replaced; steps are data, so that "plan" can show exactly
 * what "apply" would do.
 *
 * Everything else follows from that.
 *   plan    for each resource that the roles want: read it, compare, list the steps
 *   apply   write down in the journal what is there now, do the steps, read again and compare; if
 *           anything fails, roll back: steps from what is there to what was there, last first
 *   status  read, compare with the journal
 *   undo    the same with the texts from before the first apply
 *   boot    steps to what the journal wants, for what does not survive a reboot
 * The steps are always computed from what is really there. So whoever is killed in the middle of
 * anything leaves a journal that says what was going on, and rolling back from any point is
 * rolling back; doing it twice does nothing the second time.
 *
 * Nothing goes through a shell; nothing of the configuration reaches a tool but numbers and
 * addresses that were parsed and are printed again. Names of nodes appear in comments only, and
 * only with the characters [A-Za-z0-9._-].
 *
 * Functions here return 0, or -1 after having written one sentence to @error, unless they say
 * otherwise. Not for threads.
 */
#ifndef FIXPORT_TOOLS_SETUP_H
#define FIXPORT_TOOLS_SETUP_H

#include "../config/site.h"

#include <jansson.h>

#define SETUP_ROUTE_PROTOCOL 161 /* "fixport" in rt_protos.d: in use by nobody known */
#define SETUP_CHAIN "FIXPORT-FORWARD"
#define SETUP_TABLE "fixport" /* the nft table, family ip or ip6 */
#define SETUP_STATE_DIR "/var/lib/fixport" /* journals, backups */
#define SETUP_JOURNAL SETUP_STATE_DIR "/journal.json" /* mode 0600: it has others' files in it */
#define SETUP_PUBLIC SETUP_STATE_DIR "/public-journal.json" /* what anybody can read anyway */
#define SETUP_LOCK "/run/fixport-setup.lock" /* not /run/lock: anybody may write there */
#define SETUP_UNIT "/etc/systemd/system/fixport-setup.service"
#define SETUP_PROGRAM FIXPORT_SBINDIR "/fixport-setup" /* what the unit starts */
#define SETUP_TAG "fixport:" /* every iptables rule's comment begins so */

enum setup_exit {
    SETUP_OK = 0, /* plan, status: nothing to change */
    SETUP_ERROR = 1, /* and bad input: nothing was changed, or it was rolled back */
    SETUP_CHANGES = 2, /* plan: there is something to change; status: it is not as it should be */
};

struct setup_error {
    char text[1024];
};

/** setup_fail - write a sentence to @error, cut to fit. Return: -1. */
int setup_fail(struct setup_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- path.c: paths under another root ---- */

/** setup_root - prefix of every path (--root DIR); "" by default. Set once, before all else. */
extern const char *setup_root;

/**
 * setup_path - @path under the root, in one of four static buffers used in turn.
 * The kernel's own files (/proc) are never under the root. Symlinks among the folders lead to where
 * they would if the root were "/": a root cannot be left. The last component is not looked up. Ends
 * the tool if a symlink leads to nothing there.
 */
const char *setup_path(const char *path);

/** setup_folder - as setup_path() for a folder: its last component is looked up too, if it is there. */
const char *setup_folder(const char *path);

/* ---- run.c: other people's tools ---- */

/** setup_keep_fd - a descriptor that tools inherit (the lock), so that it lasts as long as they do; -1. */
extern int setup_keep_fd;

struct run_result {
    int status; /* exit status; 128 + n: signal n; 127: could not be started, see errno_ */
    int errno_; /* why it could not be started, 0 */
    char *output; /* stdout, NUL-terminated, at most 64 MiB or the limit */
    size_t length; /* of output */
    char *errors; /* stderr, first 64 KiB, its first line is what people want to see */
};

/**
 * run_tool - run a program to its end, without a shell.
 * @argv: NULL-terminated; argv[0] is looked up in PATH, and in /usr/sbin and /sbin after that.
 * @input: its standard input; NULL: /dev/null.
 * @result: free with run_free(), always.
 *
 * In its own process group (Ctrl-C at the terminal does not hit it in the middle), LC_ALL=C,
 * without LD_PRELOAD, no descriptors of ours.
 * Return: 0 if it ran and exited with 0, else -1.
 */
int run_tool(char *const argv[], const char *input, struct run_result *result);

/* What a tool may take that asks others over the network. */
struct run_limits {
    unsigned seconds; /* then it and its children are killed, and errno_ is ETIMEDOUT; 0: no limit */
    off_t output;     /* bytes of its stdout; beyond that errno_ is EFBIG */
    void (*tick)(void *arg); /* called twice a second while it runs; NULL: nothing */
    void *arg;
};

/**
 * run_tool_within - as run_tool(), within limits. SIGINT, SIGTERM and SIGHUP end it, and then us.
 * Nobody else in this process may wait for SIGCHLD.
 */
int run_tool_within(char *const argv[], const char *input, const struct run_limits *limits,
                    struct run_result *result);

/** run_free - give back. */
void run_free(struct run_result *result);

/** run_exists - whether @tool is to be found. */
bool run_exists(const char *tool);

/** run_explain - "iptables-restore: line 3 failed" from a failed run: one line. Return: -1. */
int run_explain(char *const argv[], const struct run_result *result, struct setup_error *error);

/* ---- step.c: steps ---- */

/* Either a command (argv) or a file replaced (path). */
struct step {
    char **argv; /* NULL-terminated; NULL: a file */
    char *input; /* command: its stdin, or NULL */
    char *path; /* file: without the root */
    char *from; /* file: its state now and after, as RESOURCE_FILE has it; NULL: absent */
    char *to;
    char *staging; /* file: folder for the new file before it is renamed; NULL: the file's own */
};

struct steps {
    struct step *item;
    size_t count;
};

/** steps_command - append a command; the last argument is NULL. @input is copied; may be NULL. */
void steps_command(struct steps *steps, const char *input, const char *argv0, ...)
    __attribute__((sentinel));

/** steps_file - append the replacement of a file. */
void steps_file(struct steps *steps, const char *path, const char *from, const char *to,
                const char *staging);

/** steps_free - give back; zeros are fine. */
void steps_free(struct steps *steps);

/**
 * step_print - what a person sees: "[#] ip -batch -" and its input indented, or a unified diff.
 * @out: stdout for plan, stderr for apply.
 */
void step_print(const struct step *step, FILE *out);

/** step_json - {"command": [...], "input": "..."} or {"file": ..., "diff": "..."}; new reference. */
json_t *step_json(const struct step *step);

/**
 * json_shown - a JSON string, or null for NULL; what is no UTF-8 has no place in JSON and becomes '?'.
 * New reference. For what people and scripts see; what the journal keeps is json_text()'s.
 */
json_t *json_shown(const char *text);

/** step_do - do it. Files: written whole to a temporary file, fsync, rename, fsync of the folder. */
int step_do(const struct step *step, struct setup_error *error);

/* ---- setup/resources/resource.c and a file for each type ---- */

struct resource;

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
 * routes     name: "ipv4" or "ipv6". State: one line a route with our protocol in table main,
 *            "10.200.1.0/24 via 192.168.31.17", sorted (addresses numerically); "" and absent
 *            are the same (absent). By one "ip -batch -" (-4/-6); routes of others to the same
 *            destination are an error that names them.
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
 *            quarantine, mode, group, lanes, and every [rule]; absent: no pool. By "fixport-pool create|reload|remove
 *            --pool PATH -c /dev/stdin".
 */
extern const struct resource_type resource_folder, resource_file, resource_link, resource_sysctl,
    resource_routes, resource_iptables, resource_nft, resource_nodeports, resource_pool;

/** resource_type_find - by its name in the journal; NULL: unknown. */
const struct resource_type *resource_type_find(const char *name);

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
};

/** resources_add - append; strings are copied. A type and name that is there already: an error. */
int resources_add(struct resources *resources, const struct resource_type *type, const char *name,
                  const char *wanted, const char *why, struct setup_error *error);

/** resources_free - give back; zeros are fine. */
void resources_free(struct resources *resources);

/** state_equal - whether two states are the same; NULL only equals NULL. */
bool state_equal(const char *a, const char *b);

/* ---- setup/resources/iptables.c, setup/resources/pool.c, setup/resources/file.c: helpers for those that make states ---- */

/** iptables_choose - decide between the backends (site.iptables); before any other use. */
int iptables_choose(enum site_iptables which, struct setup_error *error);

/** iptables_tool - "iptables-nft-save", "ip6tables-restore" ...: @family 4 or 6, @what "save". */
const char *iptables_tool(int family, const char *what);

/** iptables_is_legacy - whether the backend chosen is iptables-legacy; the tool's name may not tell. */
bool iptables_is_legacy(void);

/** iptables_has_chain - whether table filter has the chain now ("DOCKER-USER"). */
bool iptables_has_chain(int family, const char *chain);

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

/* ---- journal.c: what was there before, on disk ---- */

enum journal_phase {
    JOURNAL_APPLYING, /* an apply was under way: status says it was interrupted */
    JOURNAL_UNCONFIRMED, /* applied, waits for "confirm" until .deadline */
    JOURNAL_APPLIED,
    JOURNAL_UNDOING,
};

struct journal_entry {
    const struct resource_type *type;
    char *name;
    char *why;
    char *before; /* before the first apply: where undo leads */
    char *previous; /* at the beginning of the last apply: where a roll back leads */
    char *wanted; /* what the last apply asked for */
    char *after; /* what was read when it was done; NULL and !done while applying */
    bool done;
    bool hidden; /* in a .partial journal: its states are not told; all are NULL */
    bool dropped; /* nobody wants it any more: .wanted is .before, and the entry goes when kept */
};

struct journal {
    enum journal_phase phase;
    unsigned roles;
    char config[PATH_MAX]; /* the file it was made from */
    int64_t when; /* seconds since 1970 */
    int64_t deadline; /* JOURNAL_UNCONFIRMED: seconds since 1970 */
    enum site_persist persist;
    enum site_iptables iptables;
    struct journal_entry *entry;
    size_t count;
    bool partial; /* the copy for everybody: some entries are .hidden */
    json_t *earlier; /* the journal that a roll back restores; NULL: none */
};

/**
 * journal_load - read SETUP_JOURNAL.
 * @journal: free with journal_free(). Return: 1: there is one; 0: none; -1: unusable, @error says.
 * Hostile or garbled content is an error, never half taken.
 */
int journal_load(struct journal *journal, struct setup_error *error);

/** journal_save - replace it and its public copy, fsync'd; mode 0600, and 0644 for the copy. */
int journal_save(const struct journal *journal, struct setup_error *error);

/** journal_remove - take it away, and SETUP_STATE_DIR if it is empty. */
int journal_remove(struct setup_error *error);

/** journal_free - give back; zeros are fine. */
void journal_free(struct journal *journal);

/** journal_find - the entry of a resource, or NULL. @journal may be NULL. */
struct journal_entry *journal_find(const struct journal *journal,
                                   const struct resource_type *type, const char *name);

/* ---- setup/roles/roles.c: what a role wants of this machine ---- */

/**
 * roles_want - the resources that @roles of @site mean on this machine.
 * @journal: of an earlier apply, or NULL: what it has set stays wanted where the kernel itself
 *           gives no reason any more.
 * @config_path: absolute, of the site's file.
 * @resources: the result, free with resources_free() always.
 *
 * Looks at the machine: addresses, routes, chains. What cannot work there is an error: a gateway
 * or node address that is on no connected network, a pods' block that contains an address of this
 * machine (but for a node's own blocks), hosts without a route, no iptables, a manifest that is not an API server's.
 */
int roles_want(const struct site *site, unsigned roles, const struct journal *journal,
               const char *config_path, struct resources *resources, struct setup_error *error);

/* ---- setup/roles/machine.c ---- */

/** site_place - of a gateway with a leg in each network, choose the one that this machine sees. */
int site_place(struct site *site, struct setup_error *error);

/* ---- apply.c: plan, apply, roll back, undo, boot ---- */

/* One resource that is not as it shall be. */
struct change {
    const struct resource_type *type;
    char *name;
    char *why;
    char *now; /* state */
    char *wanted;
    struct steps steps;
};

struct plan {
    struct change *change; /* only what differs */
    size_t count;
    size_t looked_at; /* resources that were read */
};

/**
 * nodeports_check - if @plan sets the API server's range to @ports: do Services have others? kubectl
 * is asked, for some seconds at most. Where it cannot be, that is said on stderr and is no error.
 * (setup/roles/nodeports.c)
 */
int nodeports_check(const struct plan *plan, const struct portrange *ports,
                    struct setup_error *error);

struct discover_options;

struct setup_options {
    const char *config; /* path */
    unsigned roles; /* 0: as the configuration names for this machine */
    bool json;
    bool force;
    unsigned confirm; /* seconds, 0: not asked for */
    const struct discover_options *discover; /* setup/discover/discover.h */
};

/* The subcommands; each returns enum setup_exit, having said everything. */
int setup_plan(const struct setup_options *options);
int setup_apply(const struct setup_options *options);
int setup_confirm(const struct setup_options *options);
int setup_undo(const struct setup_options *options);
int setup_status(const struct setup_options *options);
int setup_boot(const struct setup_options *options);
int setup_doctor(const struct setup_options *options); /* setup/doctor/doctor.c */
int setup_discover(const struct setup_options *options); /* setup/discover/discover.c */

#endif
