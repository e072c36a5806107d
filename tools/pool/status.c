/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool status: everything about a pool on one screen. What it is, how near each rule is to
 * exhaustion and towards whom, who has the leases, and what has happened so far.
 */
#include "cmd.h"
#include "tracked.h"

#include <stdlib.h>
#include <string.h>

#define STATUS_DESTINATIONS 10 /* lines; --json has all */
#define STATUS_PROCESSES 3 /* names on a holder's line; --json has all */
#define STATUS_BAR 20
#define STATUS_HOST 32 /* columns of a host name */

static void status_pool(const char *path, const struct snapshot *snapshot,
                        const struct tally *tally)
{
    const struct pool_header *header = snapshot->pool.header;
    char age[32], ports[1024], name[PATH_MAX];
    uint64_t seconds = snapshot->wall > header->created ? snapshot->wall - header->created : 0;
    printf("Pool        %s\n", say_clean(path, PATH_MAX, say_utf8(), name, sizeof(name)));
    printf("State       %s, made %s ago, policy generation %u, %.1f MiB\n",
           header->state == POOL_LIVE ? "live" : "retired", say_age(seconds, age, sizeof(age)),
           header->generation, (double)snapshot->pool.shared_size / (1 << 20));
    printf("Ports       %s (%u)\n", show_ports(tally, ports, sizeof(ports)), tally->ports);
    printf("Quarantine  %g s\n", snapshot->policy.quarantine_ms / 1000.0);
}

static void status_rule_to(const struct policy *policy, const struct policy_rule *rule)
{
    char dest[96];
    if (!rule->dest_count)
        printf("everywhere but loopback");
    for (uint32_t i = 0; i < rule->dest_count; i++) {
        policy_dest_print(&policy->dest[rule->dest_first + i], dest, sizeof(dest));
        printf("%s%s", i ? ", " : "", dest);
    }
}

static void status_rule_exhausted(const struct policy_rule *rule)
{
    if (rule->exhausted == POLICY_WAIT)
        printf("wait, at most %g s", rule->wait_ms / 1000.0);
    else if (rule->exhausted == POLICY_PASS)
        printf("pass, with any port");
    else
        printf("fail");
}

/* ", held by conntrack for POD", where that is known. */
static void status_rest(const struct snapshot *snapshot, const struct tally_rule *use)
{
    const struct dest *dest = &snapshot->pool.lane[use->busiest_lane].dest;
    bool asked = snapshot_lane_kind(snapshot, (uint32_t)use->busiest_lane) == LANE_DEST;
    bool holds = asked && tracked_holds(&snapshot->policy, dest, use->rest.port) == 1;
    char host[256];
    if (use->rest.holder)
        printf(", %s %s", holds ? "held by conntrack for" : "let go of by",
               show_holder(snapshot, (int)use->rest.holder - 1, say_utf8(), host, sizeof(host)));
    else
        printf(", %s a namespace that has ended", holds ? "held by conntrack for" : "left by");
    putchar('\n');
}

/* When a newcomer will find a port, if not now; and whether the ports can be enough. */
static void status_rule_next(const struct snapshot *snapshot, const struct tally_rule *use)
{
    uint32_t next = tally_next_ms(use), needed = tally_needed(snapshot, use);
    if (next == UINT32_MAX)
        printf("     %*s no port is free, and none is about to be: none rests\n", STATUS_BAR + 2, "");
    else if (next) {
        printf("     %*s first port free in %u s", STATUS_BAR + 2, "",
               next / 1000 + (next % 1000 != 0));
        status_rest(snapshot, use);
    }
    if (needed > use->ports)
        printf("     warning: %g ports a second are let go of; with a quarantine of %g s and %u in use "
               "that takes %u ports\n",
               tally_rate(snapshot, use), snapshot->policy.quarantine_ms / 1000.0,
               use->busiest.used, needed);
}

static void status_rule_use(const struct snapshot *snapshot, const struct tally_rule *use)
{
    char bar[STATUS_BAR * 4 + 1], dest[64];
    printf("     [%s] ", map_bar(&use->busiest, use->ports, STATUS_BAR, bar, sizeof(bar)));
    if (use->busiest_lane < 0) {
        printf("no leases\n");
        return;
    }
    snapshot_lane_text(snapshot, (uint32_t)use->busiest_lane, dest, sizeof(dest));
    printf("%u used, %u let go, %u resting of %u\n", use->busiest.used, use->busiest.letgo,
           use->busiest.resting, use->ports);
    printf("     %*s towards %s, the busiest of %u\n", STATUS_BAR + 2, "", dest, use->lanes);
    status_rule_next(snapshot, use);
}

static void status_rule(const struct snapshot *snapshot, const struct tally *tally, uint32_t i)
{
    const struct policy_rule *rule = &snapshot->policy.rule[i];
    char name[POLICY_NAME], ports[512];
    portset_print(&rule->ports, ports, sizeof(ports));
    printf("  %u. %s: ports %s (%u)\n     towards ", i + 1,
           say_clean(rule->name, sizeof(rule->name), say_utf8(), name, sizeof(name)), ports,
           tally->rule[i].ports);
    status_rule_to(&snapshot->policy, rule);
    printf("; when exhausted: ");
    status_rule_exhausted(rule);
    if (rule->scope == POLICY_ADDRESS)
        printf("; scope: address\n     each address has all these ports; they are not in the pool");
    putchar('\n');
    if (rule->scope == POLICY_NODE)
        status_rule_use(snapshot, &tally->rule[i]);
}

static void status_rules(const struct snapshot *snapshot, const struct tally *tally)
{
    printf("\nRules\n");
    for (uint32_t i = 0; i < snapshot->policy.rule_count; i++)
        status_rule(snapshot, tally, i);
}

static void status_aliases(const struct policy *policy)
{
    char from[96], to[96];
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        policy_alias_print(&policy->alias[i].from, from, sizeof(from));
        policy_alias_print(&policy->alias[i].to, to, sizeof(to));
        if (!i)
            printf("\nAliases\n");
        if (strcmp(from, to) != 0)
            printf("  %s counts as %s\n", from, to);
    }
}

static void status_destination(const struct snapshot *snapshot, const struct tally *tally,
                               uint32_t lane)
{
    const struct tally_count *count = &tally->lane[lane].count;
    char dest[64];
    snapshot_lane_text(snapshot, lane, dest, sizeof(dest));
    printf("  %-32s %8u %8u %8u\n", dest, count->used, count->letgo, count->resting);
}

static void status_destinations(const struct snapshot *snapshot, const struct tally *tally)
{
    const struct pool *pool = &snapshot->pool;
    uint32_t *index = calloc(pool->lanes, sizeof(*index));
    size_t count = index ? tally_lanes_sorted(snapshot, tally, index) : 0;
    printf("\nDestinations: %zu with leases; %u of %u lanes have one of their own, %u are shared\n",
           count, tally->lanes_claimed, pool->lanes - pool->lanes_shared, pool->lanes_shared);
    if (tally->lanes_claimed >= pool->lanes - pool->lanes_shared)
        printf("  Further destinations share lanes, and so ports between namespaces: see lanes in "
               "fixport.conf(5)\n");
    if (count)
        printf("  %-32s %8s %8s %8s\n", "DESTINATION", "USED", "LET GO", "RESTING");
    for (size_t i = 0; i < count && i < STATUS_DESTINATIONS; i++)
        status_destination(snapshot, tally, index[i]);
    if (count > STATUS_DESTINATIONS)
        printf("  ... and %zu more (list, or status --json, shows them)\n",
               count - STATUS_DESTINATIONS);
    free(index);
}

/* "3 (1234 curl, 1240 curl, ...)" of the processes of @slot, -1: of no holder. */
static void status_processes(const struct proc_list *procs, int slot)
{
    size_t count = 0, shown = 0;
    char name[32];
    for (size_t i = 0; i < procs->count; i++)
        count += procs->entry[i].slot == slot;
    printf("%zu", count);
    for (size_t i = 0; i < procs->count && shown < STATUS_PROCESSES; i++) {
        const struct proc_entry *entry = &procs->entry[i];
        if (entry->slot != slot)
            continue;
        say_clean(entry->command, sizeof(entry->command), say_utf8(), name, sizeof(name));
        printf("%s%d %s%s", shown++ ? ", " : " (", entry->pid, name,
               entry->visitor ? ", which is elsewhere" : "");
    }
    printf("%s\n", !shown ? "" : count > shown ? ", ...)" : ")");
}

/* As wide as the longest name, up to a limit. */
static int status_host_width(const struct snapshot *snapshot)
{
    int width = (int)strlen("HOST");
    char host[256];
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        show_holder(snapshot, (int)slot, say_utf8(), host, sizeof(host));
        int wide = say_width(host);
        width = wide > width ? wide : width;
    }
    return width < STATUS_HOST ? width : STATUS_HOST;
}

static void status_holder(const struct snapshot *snapshot, const struct tally *tally,
                          const struct proc_list *procs, uint32_t slot, int width)
{
    const struct pool_holder *holder = &snapshot->pool.holder[slot];
    const struct tally_count *count = &tally->holder[slot].count;
    char host[256], command[64];
    say_clean(holder->command, sizeof(holder->command), say_utf8(), command, sizeof(command));
    printf("  %4u  ", slot);
    say_cell(show_holder(snapshot, (int)slot, say_utf8(), host, sizeof(host)), width);
    say_cell(command, 15);
    printf("%7u %11llu %-5s %7u  ", holder->pid, (unsigned long long)holder->netns,
           tally->holder[slot].alive ? "alive" : "dead", count->used + count->letgo);
    status_processes(procs, (int)slot);
}

/* What no program with the library does. */
static void status_locks(const struct tally *tally, const struct proc_list *procs)
{
    char name[32];
    if (tally->strange)
        printf("  %u slots are locked though nobody has them: namespaces that come are guests\n",
               tally->strange);
    if (tally->hurried)
        printf("  there are so many locks that not all could be looked at: the rest is taken for "
               "alive\n");
    for (size_t i = 0; i < procs->lockers && i < PROCS_LOCKERS; i++) {
        const struct proc_locker *locker = &procs->locker[i];
        say_clean(locker->command, sizeof(locker->command), say_utf8(), name, sizeof(name));
        printf("  %d %s holds locks on %u slots, and so makes them look alive\n", locker->pid, name,
               locker->slots);
    }
    if (procs->lockers > PROCS_LOCKERS)
        printf("  ... and %zu more processes\n", procs->lockers - PROCS_LOCKERS);
    if (procs->cut)
        printf("  there are more processes than can be looked at in %d s\n", PROCS_MS / 1000);
}

static void status_holders(const struct snapshot *snapshot, const struct tally *tally,
                           const struct proc_list *procs)
{
    int width = status_host_width(snapshot);
    bool strangers = false;
    printf("\nHolders (network namespaces): %u alive, %u dead\n", tally->holders_alive,
           tally->holders_dead);
    if (tally->holders_alive + tally->holders_dead)
        printf("  %4s  %-*s %-15s %7s %11s %-5s %7s  %s\n", "SLOT", width, "HOST", "FIRST COMMAND",
               "ITS PID", "NETNS", "STATE", "LEASES", "PROCESSES SEEN");
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (snapshot->pool.holder[slot].cookie)
            status_holder(snapshot, tally, procs, slot, width);
    for (size_t i = 0; i < procs->count; i++)
        strangers |= procs->entry[i].slot < 0;
    if (strangers) {
        printf("  processes of no known namespace that have it mapped: ");
        status_processes(procs, -1);
    }
    if (tally_sum(&tally->guests))
        printf("  guests, namespaces that found no slot: %u leases\n",
               tally->guests.used + tally->guests.letgo);
    status_locks(tally, procs);
}

static void status_counter(const char *name, uint64_t value, const char *meaning)
{
    printf("  %-12s %12llu  %s\n", name, (unsigned long long)value, meaning);
}

static void status_counters(const struct snapshot *snapshot, const struct tally *tally)
{
    const struct pool_counters *counters = snapshot->pool.counters;
    uint64_t taken = 0;
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (snapshot->pool.holder[slot].cookie)
            taken += snapshot->pool.holder[slot].taken;
    printf("\nNow\n");
    status_counter("used", tally->total.used, "leases with a connection");
    status_counter("let go", tally->total.letgo, "closed a short while ago, as far as was seen");
    status_counter("quarantined", tally->total.resting, "at rest before another holder has them");
    printf("\nSo far\n");
    status_counter("taken", taken, "ports taken by the holders above");
    status_counter("retries", counters->retries, "ports the kernel refused, so another was taken");
    status_counter("exhausted", counters->exhausted, "connects that found no port");
    status_counter("waited", counters->waited, "of these, waited for one");
    status_counter("passed", counters->passed, "of these, let through with any port");
    status_counter("reconciled", counters->reconciled, "comparisons with the kernel's sockets");
    status_counter("reclaimed", counters->reclaimed, "leases moved on by these");
    status_counter("buried", counters->buried, "dead holders whose leases were taken back");
    status_counter("lost", counters->lost, "connections undone because their lease had gone");
}

static void status_print(const char *path, const struct snapshot *snapshot,
                         const struct tally *tally, const struct proc_list *procs)
{
    status_pool(path, snapshot, tally);
    status_rules(snapshot, tally);
    status_aliases(&snapshot->policy);
    putchar('\n');
    map_print(tally);
    status_destinations(snapshot, tally);
    status_holders(snapshot, tally, procs);
    status_counters(snapshot, tally);
}

int command_status(const struct pool_request *request)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    struct proc_list procs;
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    struct tally *tally = tally_take(&snapshot);
    if (!tally) {
        snapshot_free(&snapshot);
        return EXIT_FAILED;
    }
    procs_mapping(&snapshot, tally, &procs);
    say_limit(0);
    if (request->json)
        status = status_json(path, &snapshot, tally, &procs);
    else
        status_print(path, &snapshot, tally, &procs);
    procs_free(&procs);
    tally_free(tally);
    snapshot_free(&snapshot);
    return status;
}
