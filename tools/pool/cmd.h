/* SPDX-License-Identifier: MIT */
/*
 * What the files of fixport-pool share, and fixport-run with them: where the pool is, and what the
 * options say it shall be.
 *
 * Functions that return an exit status have already said why on stderr.
 */
#ifndef FIXPORT_POOL_CMD_H
#define FIXPORT_POOL_CMD_H

#include "../config/config.h"
#include "../common/say.h"
#include "snapshot.h"

#include <limits.h>
#include <stdio.h>

/* ---- place.c: the folder of a pool, which others may write to ---- */

struct place {
    int folder; /* O_PATH */
    char path[NAME_MAX + 40]; /* the pool in that very folder, for open(2) and its kin */
    const char *name; /* the last of it */
};

/**
 * place_open - the folder that @path is in. Symlinks on the way are followed where only root or this
 * user can have put them; else it is -ELOOP.
 * @place: place_close() it. Return: 0 or -errno.
 */
int place_open(const char *path, struct place *place);

/** place_close - give the folder back. */
void place_close(struct place *place);

/** place_sweep - take away the shares of pools of that name, when there is none any more. */
void place_sweep(const struct place *place);

/** place_leave - after the removal of the pool at @path: take the folder away that was made for it. */
void place_leave(const struct place *place, const char *path);

/**
 * place_clear - take away whatever has the pool's name: a damaged pool, a link, somebody's file. A
 * folder with something in it is renamed. Programs that have a damaged pool mapped leave it.
 * Return: 0 or -errno.
 */
int place_clear(const struct place *place);

/* ---- target.c: which pool, and what it shall be ---- */

/* The command line, parsed (options.c). NULL: not given. */
struct pool_request {
    const char *pool;
    const char *config;
    const char *ports;
    const char *to;
    const char *holder; /* list: slot or host name */
    int port; /* list: 1..65535, 0: any */
    int listen; /* metrics: the port to serve them on; 0: print them */
    unsigned every; /* reclaim: s between looks, while there is no hurry; 0: look once */
    int state; /* list: enum word_state, 0: any */
    bool json;
    bool force;
    bool any; /* whatever there is under the pool's name by now */
};

/* A pool as the options and the configuration describe it. */
struct pool_plan {
    char path[PATH_MAX];
    struct config config;
};

/**
 * target_path - the pool that @request means.
 * --pool, $FIXPORT_POOL, the configuration's, /run/fixport/pool; for a user to whom that does not
 * exist /dev/shm/fixport-UID.
 * Return: 0 or an exit status.
 */
int target_path(const struct pool_request *request, char path[PATH_MAX]);

/** target_plan - what -c, or -p and -t, or else /etc/fixport.conf ask for. Return: as above. */
int target_plan(const struct pool_request *request, struct pool_plan *plan);

/** target_create - make the pool; @exists, if not NULL, receives that instead of an error. */
int target_create(const struct pool_plan *plan, bool *exists);

/**
 * target_reload - give the pool the plan's policy, and its mode and group where the configuration
 * says them. @same: it had all that already. @any: make it anew if it is none that can be used.
 */
int target_reload(const struct pool_plan *plan, bool any, bool *same);

/** target_warn - say the plan's warnings on stderr. */
void target_warn(const struct pool_plan *plan);

/**
 * target_rules - what -p and -t, or variables of the environment, say.
 * @where: what an error begins with. @to: NULL: everywhere but loopback. Return: as above.
 */
int target_rules(const char *where, const char *ports, const char *to, struct config *config);

/** target_default - /run/fixport/pool, or for a user without it /dev/shm/fixport-UID. */
void target_default(char path[PATH_MAX]);

/** target_has_config - whether /etc/fixport.conf is there. */
bool target_has_config(void);

/** target_snapshot - find and copy the pool that @request means. Return: as above. */
int target_snapshot(const struct pool_request *request, char path[PATH_MAX],
                    struct snapshot *snapshot);

/* ---- tally.c: counting what a snapshot has ---- */

struct tally_count {
    uint32_t used;
    uint32_t letgo;
    uint32_t resting;
};

struct tally_lane {
    struct tally_count count;
    int rule; /* that its destination matches, -1: none or several */
};

#define TALLY_RECENT_MS 10000 /* or the quarantine, if that is shorter: what has rested is not seen */

/* What a newcomer has to wait for in a lane, and how fast its ports are used up. */
struct tally_rest {
    uint32_t next_ms; /* until the first of those that rest is anybody's; UINT32_MAX: none rests */
    uint32_t holder; /* that had it: slot + 1, unchecked; 0: nobody known */
    uint16_t port;
    uint32_t recent; /* let go of in the last TALLY_RECENT_MS */
};

/* How far a rule is from exhaustion: that is a matter of its busiest destination. */
struct tally_rule {
    uint32_t ports;
    struct tally_count busiest;
    int busiest_lane; /* -1: none */
    uint32_t lanes; /* with at least one lease */
    struct tally_rest rest; /* towards the busiest */
};

struct tally_holder {
    struct tally_count count;
    bool alive;
};

struct tally {
    struct tally_count total;
    uint32_t ports; /* of all rules together, each once */
    uint32_t lanes_claimed; /* lanes that have got a destination */
    uint32_t holders_alive;
    uint32_t holders_dead;
    uint32_t strange; /* locks on slots that are nobody's */
    bool hurried; /* locks were so slow to look at that the rest is taken for alive */
    struct tally_count guests; /* leases of namespaces that have no slot */
    struct tally_lane *lane; /* pool.lanes of them */
    struct tally_rule rule[POLICY_RULES];
    struct tally_holder holder[POOL_HOLDERS];
    bool in_range[65536]; /* a port of some rule */
    uint8_t port[65536]; /* enum word_state: USED if it is so in any lane, else LETGO... */
};

/** tally_take - count @snapshot. Return: NULL if there is no memory; free with tally_free(). */
struct tally *tally_take(const struct snapshot *snapshot);

/** tally_free - give @tally back; NULL is fine. */
void tally_free(struct tally *tally);

/** tally_sum - leases in all states. */
uint32_t tally_sum(const struct tally_count *count);

/**
 * tally_next_ms - when a newcomer finds a port of a rule towards its busiest destination.
 * Return: 0: now; UINT32_MAX: nobody knows; else in so many ms.
 */
uint32_t tally_next_ms(const struct tally_rule *rule);

/** tally_rate - ports that were let go of lately towards a rule's busiest destination, a second. */
double tally_rate(const struct snapshot *snapshot, const struct tally_rule *rule);

/** tally_needed - ports that a rule would need for the rate at which they were let go lately. */
uint32_t tally_needed(const struct snapshot *snapshot, const struct tally_rule *rule);

/** tally_lanes_sorted - indexes of lanes with leases, most leases first. Return: how many. */
size_t tally_lanes_sorted(const struct snapshot *snapshot, const struct tally *tally,
                          uint32_t *index);

/* ---- procs.c: who maps a pool, as far as /proc shows it ---- */

struct proc_entry {
    int pid;
    uint64_t netns; /* inode; 0: not known */
    int slot; /* that it keeps alive, below POOL_SLOTS; -1: none */
    bool visitor; /* it is in another namespace than the slot's holder */
    char command[16];
};

/* A process that holds locks by an open descriptor, as no program with this library does. */
struct proc_locker {
    int pid;
    uint32_t slots; /* that it has locked */
    char command[16];
};

#define PROCS_LOCKERS 8
#define PROCS_MOST 65536u /* entries */
#define PROCS_MS 5000 /* how long /proc is looked at */

struct proc_list {
    struct proc_entry *entry;
    size_t count;
    size_t room;
    struct proc_locker locker[PROCS_LOCKERS]; /* those with most locks first */
    size_t lockers; /* in all */
    bool cut; /* there are more than could be looked at */
};

/**
 * procs_mapping - the processes that map the snapshot's file, one entry for each slot that a process
 * keeps alive; and those that hold locks in another way. Empty if /proc tells nothing.
 */
void procs_mapping(const struct snapshot *snapshot, const struct tally *tally,
                   struct proc_list *list);

/** procs_everyone - all processes whose namespace this user may see; slot is -1. */
void procs_everyone(struct proc_list *list);

/** procs_free - give the list back. */
void procs_free(struct proc_list *list);

/* ---- show.c: texts that several subcommands share ---- */

/** show_state - "used", "letgo", "resting". */
const char *show_state(enum word_state state);

/** show_exhausted - "fail", "wait", "pass". */
const char *show_exhausted(uint8_t exhausted);

/** show_scope - "node", "address". */
const char *show_scope(uint8_t scope);

/** show_ports - the ports of all rules together, "60001-60999"; cut with "..." if long. */
const char *show_ports(const struct tally *tally, char *buf, size_t size);

/** show_holder - a holder's host name, cleaned; "-" for nobody. @slot: -1 or < POOL_SLOTS. */
const char *show_holder(const struct snapshot *snapshot, int slot, bool utf8, char *buf,
                        size_t size);

/* ---- map.c: pictures ---- */

/** map_bar - a bar of @width characters for @count of @size. Return: @buf. */
const char *map_bar(const struct tally_count *count, uint32_t size, unsigned width, char *buf,
                    size_t bytes);

/** map_print - the ports of all rules, one character for a block of neighbours. */
void map_print(const struct tally *tally);

/* ---- the subcommands; each returns the exit status ---- */

/* What one may take until it prints; each has shorter limits of its own. say_limit(0) then. */
#define POOL_COMMAND_S 60

/* What a subcommand takes besides --pool and -c. */
enum {
    TAKES_POLICY = 1 << 0, /* -p, -t */
    TAKES_JSON = 1 << 1,
    TAKES_FORCE = 1 << 2,
    TAKES_FILTER = 1 << 3, /* --port, --holder, --state */
    TAKES_ANY = 1 << 4,
    TAKES_SERVE = 1 << 5,
    TAKES_EVERY = 1 << 6,
};

struct pool_command {
    const char *name; /* NULL ends a table */
    const char *arguments;
    const char *summary;
    unsigned takes;
    int (*run)(const struct pool_request *request);
};

/** options_parse - find @command in @commands and fill @request in. Return: 0, EXIT_BAD_INPUT. */
int options_parse(int argc, char **argv, const struct pool_command *commands,
                  const struct pool_command **command, struct pool_request *request);

int command_create(const struct pool_request *request);
int command_reload(const struct pool_request *request);
int command_status(const struct pool_request *request);
int command_list(const struct pool_request *request);
int command_metrics(const struct pool_request *request);
int command_reclaim(const struct pool_request *request);

/* ---- reclaim.c, follow.c ---- */

/** reclaim_once - one look. @quiet: only what could not be done is said. Return: an exit status. */
int reclaim_once(const struct pool_request *request, bool quiet);

/** follow_reclaim - look again and again, until SIGTERM. Return: an exit status, if it could not begin. */
int follow_reclaim(const struct pool_request *request);
int command_remove(const struct pool_request *request);

/** metrics_print - the metrics of the pool that @request means, on @to. Return: an exit status. */
int metrics_print(const struct pool_request *request, FILE *to);

/** serve_metrics - answer HTTP with them on request->listen. Return: only if that cannot be. */
int serve_metrics(const struct pool_request *request);

/** status_json - the JSON form of status. */
int status_json(const char *path, const struct snapshot *snapshot, const struct tally *tally,
                const struct proc_list *procs);

#endif
