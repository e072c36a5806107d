/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool status --json: the same as for people, for programs. The fields are documented in
 * fixport-pool(8) and only ever added to. Durations are in seconds, sizes in bytes, points in time
 * in seconds since the epoch.
 */
#include "json.h"

#include <stdlib.h>
#include <string.h>

static json_t *json_rule_destinations(const struct policy *policy, const struct policy_rule *rule)
{
    json_t *list = json_array();
    char text[96];
    for (uint32_t i = 0; i < rule->dest_count; i++) {
        policy_dest_print(&policy->dest[rule->dest_first + i], text, sizeof(text));
        json_array_append_new(list, json_string(text));
    }
    return list;
}

/* A lane with its counts; null for a lane below 0. */
static json_t *json_lane(const struct snapshot *snapshot, int lane, const struct tally_count *count)
{
    char text[64];
    if (lane < 0)
        return json_null();
    json_t *object = json_count(count);
    snapshot_lane_text(snapshot, (uint32_t)lane, text, sizeof(text));
    json_put(object, "destination", json_string(text));
    return object;
}

static json_t *json_rule(const struct snapshot *snapshot, const struct tally *tally, uint32_t i)
{
    const struct policy_rule *rule = &snapshot->policy.rule[i];
    const struct tally_rule *use = &tally->rule[i];
    json_t *object = json_object();
    char ports[512];
    uint32_t next = tally_next_ms(use);
    portset_print(&rule->ports, ports, sizeof(ports));
    json_put_text(object, "name", rule->name, sizeof(rule->name));
    json_put(object, "ports", json_string(ports));
    json_put_number(object, "port_count", use->ports);
    json_put(object, "destinations", json_rule_destinations(&snapshot->policy, rule));
    json_put(object, "when_exhausted", json_string(show_exhausted(rule->exhausted)));
    json_put(object, "scope", json_string(show_scope(rule->scope)));
    json_put(object, "wait", json_real(rule->wait_ms / 1000.0));
    json_put_number(object, "destinations_in_use", use->lanes);
    json_put(object, "next_free",
             next == UINT32_MAX ? json_null() : json_real(next / 1000.0));
    uint32_t slot = use->rest.holder - 1;
    const struct pool_holder *holder =
        next && next != UINT32_MAX && slot < POOL_HOLDERS ? &snapshot->pool.holder[slot] : NULL;
    if (holder && holder->cookie)
        json_put_text(object, "next_free_holder", holder->host, sizeof(holder->host));
    else
        json_put(object, "next_free_holder", json_null());
    json_put(object, "let_go_per_second", json_real(tally_rate(snapshot, use)));
    json_put_number(object, "ports_needed", tally_needed(snapshot, use));
    json_put(object, "busiest", json_lane(snapshot, use->busiest_lane, &use->busiest));
    return object;
}

static json_t *json_rules(const struct snapshot *snapshot, const struct tally *tally)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < snapshot->policy.rule_count; i++)
        json_array_append_new(list, json_rule(snapshot, tally, i));
    return list;
}

static json_t *json_aliases(const struct policy *policy)
{
    json_t *list = json_array();
    char from[96], to[96];
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        policy_alias_print(&policy->alias[i].from, from, sizeof(from));
        policy_alias_print(&policy->alias[i].to, to, sizeof(to));
        if (strcmp(from, to) != 0)
            json_array_append_new(list, json_pack("{ssss}", "address", from, "server", to));
    }
    return list;
}

static json_t *json_lanes(const struct snapshot *snapshot, const struct tally *tally)
{
    const struct pool *pool = &snapshot->pool;
    json_t *object = json_object();
    json_put_number(object, "own", pool->lanes - pool->lanes_shared);
    json_put_number(object, "claimed", tally->lanes_claimed);
    json_put_number(object, "shared", pool->lanes_shared);
    return object;
}

static json_t *json_destinations(const struct snapshot *snapshot, const struct tally *tally)
{
    json_t *list = json_array();
    uint32_t *index = calloc(snapshot->pool.lanes, sizeof(*index));
    size_t count = index ? tally_lanes_sorted(snapshot, tally, index) : 0;
    for (size_t i = 0; i < count; i++) {
        const struct tally_count *of_lane = &tally->lane[index[i]].count;
        json_array_append_new(list, json_lane(snapshot, (int)index[i], of_lane));
    }
    free(index);
    return list;
}

/* Those of holder @slot; -1: of none. */
static json_t *json_processes(const struct proc_list *procs, int slot)
{
    json_t *list = json_array();
    for (size_t i = 0; i < procs->count; i++) {
        const struct proc_entry *entry = &procs->entry[i];
        if (entry->slot != slot)
            continue;
        json_t *object = json_object();
        json_put_number(object, "pid", (uint64_t)entry->pid);
        json_put_text(object, "command", entry->command, sizeof(entry->command));
        json_put(object, "elsewhere", json_boolean(entry->visitor));
        json_array_append_new(list, object);
    }
    return list;
}

static json_t *json_holder(const struct snapshot *snapshot, const struct tally *tally,
                           const struct proc_list *procs, uint32_t slot)
{
    const struct pool_holder *holder = &snapshot->pool.holder[slot];
    json_t *object = json_object();
    json_put_number(object, "slot", slot);
    json_put_text(object, "host", holder->host, sizeof(holder->host));
    json_put_text(object, "command", holder->command, sizeof(holder->command));
    json_put_number(object, "pid", holder->pid);
    json_put_number(object, "uid", holder->uid);
    json_put_number(object, "netns", holder->netns);
    json_put_number(object, "since", holder->since);
    json_put(object, "alive", json_boolean(tally->holder[slot].alive));
    json_put_number(object, "taken", holder->taken);
    json_put(object, "leases", json_count(&tally->holder[slot].count));
    json_put(object, "processes", json_processes(procs, (int)slot));
    return object;
}

static json_t *json_holders(const struct snapshot *snapshot, const struct tally *tally,
                            const struct proc_list *procs)
{
    json_t *list = json_array();
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (snapshot->pool.holder[slot].cookie)
            json_array_append_new(list, json_holder(snapshot, tally, procs, slot));
    return list;
}

static json_t *json_locks(const struct tally *tally, const struct proc_list *procs)
{
    json_t *object = json_object(), *list = json_array();
    for (size_t i = 0; i < procs->lockers && i < PROCS_LOCKERS; i++) {
        json_t *locker = json_object();
        json_put_number(locker, "pid", (uint64_t)procs->locker[i].pid);
        json_put_text(locker, "command", procs->locker[i].command, sizeof(procs->locker[i].command));
        json_put_number(locker, "slots", procs->locker[i].slots);
        json_array_append_new(list, locker);
    }
    json_put_number(object, "strange", tally->strange);
    json_put(object, "lockers", list);
    return object;
}

static json_t *json_counters(const struct pool_counters *counters)
{
    json_t *object = json_object();
    json_put_number(object, "retries", counters->retries);
    json_put_number(object, "exhausted", counters->exhausted);
    json_put_number(object, "waited", counters->waited);
    json_put_number(object, "passed", counters->passed);
    json_put_number(object, "reconciled", counters->reconciled);
    json_put_number(object, "reclaimed", counters->reclaimed);
    json_put_number(object, "buried", counters->buried);
    json_put_number(object, "lost", counters->lost);
    return object;
}

int status_json(const char *path, const struct snapshot *snapshot, const struct tally *tally,
                const struct proc_list *procs)
{
    const struct pool_header *header = snapshot->pool.header;
    json_t *root = json_object();
    char ports[1024];
    json_put_text(root, "path", path, PATH_MAX);
    json_put(root, "state", json_string(header->state == POOL_LIVE ? "live" : "retired"));
    json_put_number(root, "size", snapshot->pool.shared_size);
    json_put_number(root, "created", header->created);
    json_put_number(root, "generation", header->generation);
    json_put(root, "ports", json_string(show_ports(tally, ports, sizeof(ports))));
    json_put_number(root, "port_count", tally->ports);
    json_put(root, "quarantine", json_real(snapshot->policy.quarantine_ms / 1000.0));
    json_put(root, "leases", json_count(&tally->total));
    json_put(root, "rules", json_rules(snapshot, tally));
    json_put(root, "aliases", json_aliases(&snapshot->policy));
    json_put(root, "lanes", json_lanes(snapshot, tally));
    json_put(root, "destinations", json_destinations(snapshot, tally));
    json_put(root, "holders", json_holders(snapshot, tally, procs));
    json_put(root, "guests", json_count(&tally->guests));
    json_put(root, "strangers", json_processes(procs, -1));
    json_put(root, "locks", json_locks(tally, procs));
    json_put(root, "counters", json_counters(snapshot->pool.counters));
    return json_say(root);
}
