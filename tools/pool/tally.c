/* SPDX-License-Identifier: MIT */
/*
 * Counting a snapshot once, so that status, its JSON form and the metrics tell the same numbers.
 *
 * A word does not say which rule took it. What is certain: a lane with a destination belongs to
 * the rule that matches this destination; a shared lane may serve any rule, so there a lease counts
 * for each rule whose ports it is in.
 */
#include "cmd.h"

#include "../../pool/holder.h"
#include "../../pool/sys.h"

#include <stdlib.h>
#include <string.h>

#define TALLY_LOCKS_MS 2000

struct tally_walk {
    const struct snapshot *snapshot;
    struct tally *tally;
    uint32_t lane; /* that rule[] is about */
    struct tally_count rule[POLICY_RULES]; /* leases of this lane in the rule's ports */
    struct tally_rest rest[POLICY_RULES]; /* the same */
};

static const struct tally_rest nothing_rests = {.next_ms = UINT32_MAX};

static void tally_rest(struct tally_rest *rest, uint32_t quarantine,
                       const struct snapshot_lease *lease)
{
    if (lease->state != WORD_USED)
        rest->recent += lease->age <= TALLY_RECENT_MS;
    if (lease->state != WORD_RESTING || lease->age >= quarantine ||
        quarantine - lease->age >= rest->next_ms)
        return;
    rest->next_ms = quarantine - (uint32_t)lease->age;
    rest->holder = lease->holder;
    rest->port = lease->port;
}

static void tally_add(struct tally_count *count, enum word_state state)
{
    count->used += state == WORD_USED;
    count->letgo += state == WORD_LETGO;
    count->resting += state == WORD_RESTING;
}

uint32_t tally_sum(const struct tally_count *count)
{
    return count->used + count->letgo + count->resting;
}

/* The lane is done: does it make some rule's busiest? */
static void tally_lane_end(struct tally_walk *walk)
{
    for (uint32_t i = 0; i < walk->snapshot->policy.rule_count; i++) {
        struct tally_rule *rule = &walk->tally->rule[i];
        struct tally_count *count = &walk->rule[i];
        if (tally_sum(count)) {
            rule->lanes++;
            if (rule->busiest_lane < 0 || tally_sum(count) > tally_sum(&rule->busiest)) {
                rule->busiest = *count;
                rule->busiest_lane = (int)walk->lane;
                rule->rest = walk->rest[i];
            }
        }
        *count = (struct tally_count){0};
        walk->rest[i] = nothing_rests;
    }
}

/* WORD_USED is stronger than WORD_LETGO, that than WORD_RESTING: their numbers ascend instead. */
static void tally_port(struct tally *tally, uint16_t port, enum word_state state)
{
    if (tally->port[port] == WORD_FREE || state < (enum word_state)tally->port[port])
        tally->port[port] = (uint8_t)state;
}

static void tally_lease(const struct snapshot_lease *lease, void *arg)
{
    struct tally_walk *walk = arg;
    const struct policy *policy = &walk->snapshot->policy;
    struct tally *tally = walk->tally;
    if (lease->lane != walk->lane)
        tally_lane_end(walk);
    walk->lane = lease->lane;
    for (uint32_t i = 0; i < policy->rule_count; i++) {
        int only = tally->lane[lease->lane].rule;
        if ((only < 0 || only == (int)i) && portset_has(&policy->rule[i].ports, lease->port)) {
            tally_add(&walk->rule[i], lease->state);
            tally_rest(&walk->rest[i], policy->quarantine_ms, lease);
        }
    }
    tally_add(&tally->total, lease->state);
    tally_add(&tally->lane[lease->lane].count, lease->state);
    if (lease->holder >= 1 && lease->holder <= POOL_HOLDERS)
        tally_add(&tally->holder[lease->holder - 1].count, lease->state);
    else if (lease->holder)
        tally_add(&tally->guests, lease->state);
    tally_port(tally, lease->port, lease->state);
}

/* A server that no rule names may be named by another of its addresses. */
static bool lane_match(const struct policy *policy, const struct dest *dest,
                       struct policy_verdict *verdict)
{
    struct dest from, server;
    bool found = policy_match(policy, dest, verdict);
    for (uint32_t i = 0; !found && i < policy->alias_count; i++) {
        from = policy->alias[i].from;
        from.port = from.port ? from.port : dest->port;
        policy_server(policy, &from, &server);
        found = memcmp(&server, dest, sizeof(server)) == 0 && policy_match(policy, &from, verdict);
    }
    return found;
}

static void tally_lanes(const struct snapshot *snapshot, struct tally *tally)
{
    struct policy_verdict verdict;
    for (uint32_t i = 0; i < snapshot->pool.lanes; i++) {
        enum lane_kind kind = snapshot_lane_kind(snapshot, i);
        tally->lanes_claimed += kind == LANE_DEST || kind == LANE_UNKNOWN;
        tally->lane[i].rule = -1;
        if (kind == LANE_DEST &&
            lane_match(&snapshot->policy, &snapshot->pool.lane[i].dest, &verdict))
            tally->lane[i].rule = (int)verdict.rule;
    }
}

/* The more locks a file has, the longer takes a look at one; and anybody can lock. */
static void tally_holders(const struct snapshot *snapshot, struct tally *tally)
{
    uint64_t until = sys_now_ms() + TALLY_LOCKS_MS;
    for (uint32_t i = 0; i < POOL_HOLDERS; i++) {
        tally->hurried |= sys_now_ms() >= until;
        bool alive = tally->hurried || holder_alive(snapshot->fd, i);
        if (snapshot->pool.holder[i].cookie == 0) {
            tally->strange += alive && !tally->hurried;
            continue;
        }
        tally->holder[i].alive = alive;
        tally->holders_alive += tally->holder[i].alive;
        tally->holders_dead += !tally->holder[i].alive;
    }
}

static void tally_range(const struct portrange *range, void *arg)
{
    struct tally *tally = arg;
    for (uint32_t port = range->lo; port <= range->hi; port++) {
        tally->ports += !tally->in_range[port];
        tally->in_range[port] = true;
    }
}

struct tally *tally_take(const struct snapshot *snapshot)
{
    struct tally *tally = calloc(1, sizeof(*tally));
    struct tally_walk walk = {.snapshot = snapshot, .tally = tally};
    if (tally)
        tally->lane = calloc(snapshot->pool.lanes, sizeof(*tally->lane));
    if (!tally || !tally->lane) {
        free(tally);
        say_error(EXIT_FAILED, "not enough memory");
        return NULL;
    }
    for (uint32_t i = 0; i < snapshot->policy.rule_count; i++) {
        tally->rule[i].ports = portset_size(&snapshot->policy.rule[i].ports);
        tally->rule[i].busiest_lane = -1;
        tally->rule[i].rest = walk.rest[i] = nothing_rests;
    }
    policy_each_range(&snapshot->policy, tally_range, tally);
    tally_lanes(snapshot, tally);
    tally_holders(snapshot, tally);
    snapshot_each_lease(snapshot, tally_lease, &walk);
    tally_lane_end(&walk);
    return tally;
}

uint32_t tally_next_ms(const struct tally_rule *rule)
{
    return tally_sum(&rule->busiest) < rule->ports ? 0 : rule->rest.next_ms;
}

double tally_rate(const struct snapshot *snapshot, const struct tally_rule *rule)
{
    uint32_t quarantine = snapshot->policy.quarantine_ms;
    uint32_t window = quarantine < TALLY_RECENT_MS ? quarantine : TALLY_RECENT_MS;
    return window ? rule->rest.recent * 1000.0 / window : 0;
}

uint32_t tally_needed(const struct snapshot *snapshot, const struct tally_rule *rule)
{
    double resting = tally_rate(snapshot, rule) * snapshot->policy.quarantine_ms / 1000;
    return rule->busiest.used + (uint32_t)resting;
}

void tally_free(struct tally *tally)
{
    if (tally)
        free(tally->lane);
    free(tally);
}

static int tally_lane_order(const void *left, const void *right, void *arg)
{
    const struct tally *tally = arg;
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    uint32_t of_a = tally_sum(&tally->lane[a].count), of_b = tally_sum(&tally->lane[b].count);
    return of_a != of_b ? (of_a < of_b ? 1 : -1) : a < b ? -1 : a > b;
}

size_t tally_lanes_sorted(const struct snapshot *snapshot, const struct tally *tally,
                          uint32_t *index)
{
    size_t count = 0;
    for (uint32_t i = 0; i < snapshot->pool.lanes; i++)
        if (tally_sum(&tally->lane[i].count))
            index[count++] = i;
    qsort_r(index, count, sizeof(*index), tally_lane_order, (void *)(uintptr_t)tally);
    return count;
}
