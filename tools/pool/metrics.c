/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool metrics: Prometheus' text exposition format, version 0.0.4, for the textfile
 * collector of node_exporter or a script behind an HTTP server.
 *
 * Names follow prometheus.io/docs/practices/naming: what counts up ends in _total, units are
 * seconds and bytes. No label has as many values as there are destinations: those are many and
 * come and go, which a time series database does not like; rules are few. Pods say what a holder is
 * called, and how many there are: METRICS_HOLDERS have series, and all others one together, whose label
 * is "other" without a slot, so that sums are right.
 */
#include "cmd.h"

#include <inttypes.h>
#include <stdlib.h>

#define METRICS_HOLDERS 128 /* with series of their own: those with most leases */

static FILE *out;

static void metric_head(const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metric_one(const char *name, const char *type, const char *help, uint64_t value)
{
    metric_head(name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

/* A label's value: cleaned text, with backslash, quote and line feed escaped. */
static void metric_label(const char *text, size_t most)
{
    char clean[PATH_MAX];
    say_clean(text, most, true, clean, sizeof(clean));
    for (const char *c = clean; *c; c++) {
        if (*c == '\\' || *c == '"')
            fputc('\\', out);
        fputc(*c, out);
    }
}

static void metrics_pool(const char *path, const struct snapshot *snapshot,
                         const struct tally *tally)
{
    const struct pool_header *header = snapshot->pool.header;
    metric_head("fixport_pool_info", "gauge", "The pool file; always 1.");
    fprintf(out, "fixport_pool_info{path=\"");
    metric_label(path, PATH_MAX);
    fprintf(out, "\",format=\"%u\"} 1\n", header->version);
    metric_one("fixport_pool_size_bytes", "gauge", "Size of the pool file.", snapshot->pool.shared_size);
    metric_one("fixport_pool_created_timestamp_seconds", "gauge", "When the pool was made.",
               header->created);
    metric_one("fixport_pool_policy_generation", "gauge", "How often the policy was reloaded.",
               header->generation);
    metric_one("fixport_pool_ports", "gauge", "Ports of all rules, each counted once.",
               tally->ports);
    metric_one("fixport_pool_lanes", "gauge", "Destinations that can have a lane of their own.",
               snapshot->pool.lanes - snapshot->pool.lanes_shared);
    metric_one("fixport_pool_lanes_claimed", "gauge", "Destinations that have one.",
               tally->lanes_claimed);
    metric_head("fixport_pool_quarantine_seconds", "gauge",
                "Before another holder may have a port that was let go.");
    fprintf(out, "fixport_pool_quarantine_seconds %g\n", snapshot->policy.quarantine_ms / 1000.0);
}

static void metrics_leases(const struct tally *tally)
{
    metric_head("fixport_leases", "gauge", "Ports held towards a destination, by state.");
    fprintf(out, "fixport_leases{state=\"used\"} %u\n", tally->total.used);
    fprintf(out, "fixport_leases{state=\"letgo\"} %u\n", tally->total.letgo);
    fprintf(out, "fixport_leases{state=\"resting\"} %u\n", tally->total.resting);
}

static void metric_rule(const char *name, const struct policy_rule *rule, uint32_t value)
{
    fprintf(out, "%s{rule=\"", name);
    metric_label(rule->name, sizeof(rule->name));
    fprintf(out, "\"} %u\n", value);
}

/* @ms: UINT32_MAX: for ever. */
static void metric_rule_seconds(const char *name, const struct policy_rule *rule, uint32_t ms)
{
    fprintf(out, "%s{rule=\"", name);
    metric_label(rule->name, sizeof(rule->name));
    if (ms == UINT32_MAX)
        fprintf(out, "\"} +Inf\n");
    else
        fprintf(out, "\"} %g\n", ms / 1000.0);
}

static void metrics_rules(const struct snapshot *snapshot, const struct tally *tally)
{
    const struct policy *policy = &snapshot->policy;
    metric_head("fixport_rule_ports", "gauge", "Ports of a rule.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_ports", &policy->rule[i], tally->rule[i].ports);
    metric_head("fixport_rule_info", "gauge", "Whose a rule's ports are; always 1.");
    for (uint32_t i = 0; i < policy->rule_count; i++) {
        fprintf(out, "fixport_rule_info{rule=\"");
        metric_label(policy->rule[i].name, sizeof(policy->rule[i].name));
        fprintf(out, "\",scope=\"%s\"} 1\n", show_scope(policy->rule[i].scope));
    }
    metric_head("fixport_rule_busiest_leases", "gauge",
                "Leases of a rule towards its busiest destination.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_busiest_leases", &policy->rule[i],
                    tally_sum(&tally->rule[i].busiest));
    metric_head("fixport_rule_busiest_used", "gauge", "Of these, the ones in use.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_busiest_used", &policy->rule[i], tally->rule[i].busiest.used);
    metric_head("fixport_rule_needed_ports", "gauge",
                "Ports that a rule would need for the rate at which they are let go of, and its quarantine.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_needed_ports", &policy->rule[i],
                    tally_needed(snapshot, &tally->rule[i]));
    metric_head("fixport_rule_next_free_seconds", "gauge",
                "When a namespace that comes new finds a port towards the busiest destination; +Inf: not known.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule_seconds("fixport_rule_next_free_seconds", &policy->rule[i],
                            tally_next_ms(&tally->rule[i]));
}

/* @slot: POOL_HOLDERS: all others. */
static void metric_holder(const struct snapshot *snapshot, uint32_t slot, const char *name,
                          const char *more)
{
    char host[256];
    if (slot == POOL_HOLDERS) {
        fprintf(out, "%s{holder=\"other\",slot=\"\"%s} ", name, more);
        return;
    }
    fprintf(out, "%s{holder=\"", name);
    metric_label(show_holder(snapshot, (int)slot, true, host, sizeof(host)), sizeof(host));
    fprintf(out, "\",slot=\"%u\"%s} ", slot, more);
}

static int holders_order(const void *left, const void *right, void *arg)
{
    const struct tally *tally = arg;
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    uint32_t of_a = tally_sum(&tally->holder[a].count), of_b = tally_sum(&tally->holder[b].count);
    bool alive = tally->holder[a].alive;
    if (of_a != of_b)
        return of_a < of_b ? 1 : -1;
    return alive != tally->holder[b].alive ? (alive ? -1 : 1) : a < b ? -1 : a > b;
}

/* Anybody can write what a holder has taken: nothing that a number of 53 bits could not hold. */
static uint64_t taken(const struct snapshot *snapshot, uint32_t slot)
{
    uint64_t count = snapshot->pool.holder[slot].taken;
    return count < 1ull << 43 ? count : 1ull << 43;
}

static void metrics_holders(const struct snapshot *snapshot, const struct tally *tally)
{
    static const char *const states[] = {",state=\"used\"", ",state=\"letgo\"", ",state=\"resting\""};
    uint32_t slots[POOL_HOLDERS + 1], count = 0;
    uint64_t rest[] = {tally->total.used, tally->total.letgo, tally->total.resting}, taken_rest = 0;
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (snapshot->pool.holder[slot].cookie)
            slots[count++] = slot;
    qsort_r(slots, count, sizeof(*slots), holders_order, (void *)(uintptr_t)tally);
    for (uint32_t i = METRICS_HOLDERS; i < count; i++)
        taken_rest += taken(snapshot, slots[i]);
    count = count < METRICS_HOLDERS ? count : METRICS_HOLDERS;
    slots[count] = POOL_HOLDERS;

    metric_head("fixport_holders", "gauge", "Network namespaces that have a place in the pool.");
    fprintf(out, "fixport_holders{alive=\"true\"} %u\n", tally->holders_alive);
    fprintf(out, "fixport_holders{alive=\"false\"} %u\n", tally->holders_dead);
    metric_one("fixport_slots_locked_by_nobody", "gauge",
               "Places that are locked though no namespace has them: somebody does what no program with "
               "the library does.",
               tally->strange);
    metric_head("fixport_holder_leases", "gauge",
                "Leases of a holder, by state; other: of all further ones, of guests and of nobody.");
    for (uint32_t i = 0; i <= count; i++) {
        const struct tally_count *has = i < count ? &tally->holder[slots[i]].count : NULL;
        const uint64_t values[] = {has ? has->used : rest[0], has ? has->letgo : rest[1],
                                   has ? has->resting : rest[2]};
        for (int state = 0; state < 3; state++) {
            metric_holder(snapshot, slots[i], "fixport_holder_leases", states[state]);
            fprintf(out, "%" PRIu64 "\n", values[state]);
            rest[state] -= values[state];
        }
    }
    metric_head("fixport_ports_taken_total", "counter", "Ports taken by a holder.");
    for (uint32_t i = 0; i <= count; i++) {
        metric_holder(snapshot, slots[i], "fixport_ports_taken_total", "");
        fprintf(out, "%" PRIu64 "\n", i < count ? taken(snapshot, slots[i]) : taken_rest);
    }
}

static void metrics_counters(const struct pool_counters *counters)
{
    metric_one("fixport_retries_total", "counter",
               "Ports that the kernel refused, so that another was taken.", counters->retries);
    metric_one("fixport_exhausted_total", "counter", "Connects that found no port.",
               counters->exhausted);
    metric_one("fixport_waited_total", "counter", "Connects that waited for a port.",
               counters->waited);
    metric_one("fixport_passed_total", "counter",
               "Connects let through with a port outside the range.", counters->passed);
    metric_one("fixport_reconciliations_total", "counter",
               "Comparisons of a holder's leases with the kernel's sockets.", counters->reconciled);
    metric_one("fixport_leases_reclaimed_total", "counter", "Leases moved on by a comparison.",
               counters->reclaimed);
    metric_one("fixport_holders_buried_total", "counter",
               "Dead holders whose leases were taken back.", counters->buried);
    metric_one("fixport_guests_total", "counter", "Namespaces that found no place in the pool.",
               counters->guests);
    metric_one("fixport_connections_lost_total", "counter",
               "Connections undone because their lease had passed to another.", counters->lost);
}

int metrics_print(const struct pool_request *request, FILE *to)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    out = to;
    struct tally *tally = tally_take(&snapshot);
    if (tally) {
        metrics_pool(path, &snapshot, tally);
        metrics_leases(tally);
        metrics_rules(&snapshot, tally);
        metrics_holders(&snapshot, tally);
        metrics_counters(snapshot.pool.counters);
    }
    tally_free(tally);
    snapshot_free(&snapshot);
    return tally ? EXIT_OK : EXIT_FAILED;
}

/* It is little: it fits into a buffer, so that the limit is for the work and not for who reads. */
int command_metrics(const struct pool_request *request)
{
    char *text = NULL;
    size_t size = 0;
    if (request->listen)
        return serve_metrics(request);
    FILE *memory = open_memstream(&text, &size);
    int status = memory ? metrics_print(request, memory) : EXIT_FAILED;
    if (!memory || fclose(memory) != 0)
        status = say_error(EXIT_FAILED, "not enough memory");
    say_limit(0);
    if (!status)
        fwrite(text, 1, size, stdout);
    free(text);
    return status;
}
