/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool metrics: Prometheus' text exposition format, version 0.0.4, for the textfile
 * collector of node_exporter or a script behind an HTTP server.
 *
 * Names follow prometheus.io/docs/practices/naming: what counts up ends in _total, units are
 * seconds and bytes. No label has as many values as there are destinations: those are many and
 * come and go, which a time series database does not like; rules and holders are few.
 */
#include "cmd.h"

#include <inttypes.h>

static void metric_head(const char *name, const char *type, const char *help)
{
    printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metric_one(const char *name, const char *type, const char *help, uint64_t value)
{
    metric_head(name, type, help);
    printf("%s %" PRIu64 "\n", name, value);
}

/* A label's value: cleaned text, with backslash, quote and line feed escaped. */
static void metric_label(const char *text, size_t most)
{
    char clean[PATH_MAX];
    say_clean(text, most, true, clean, sizeof(clean));
    for (const char *c = clean; *c; c++) {
        if (*c == '\\' || *c == '"')
            putchar('\\');
        putchar(*c);
    }
}

static void metrics_pool(const char *path, const struct snapshot *snapshot,
                         const struct tally *tally)
{
    const struct pool_header *header = snapshot->pool.header;
    metric_head("fixport_pool_info", "gauge", "The pool file; always 1.");
    printf("fixport_pool_info{path=\"");
    metric_label(path, PATH_MAX);
    printf("\",format=\"%u\"} 1\n", header->version);
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
    printf("fixport_pool_quarantine_seconds %g\n", snapshot->policy.quarantine_ms / 1000.0);
}

static void metrics_leases(const struct tally *tally)
{
    metric_head("fixport_leases", "gauge", "Ports held towards a destination, by state.");
    printf("fixport_leases{state=\"used\"} %u\n", tally->total.used);
    printf("fixport_leases{state=\"letgo\"} %u\n", tally->total.letgo);
    printf("fixport_leases{state=\"resting\"} %u\n", tally->total.resting);
}

static void metric_rule(const char *name, const struct policy_rule *rule, uint32_t value)
{
    printf("%s{rule=\"", name);
    metric_label(rule->name, sizeof(rule->name));
    printf("\"} %u\n", value);
}

static void metrics_rules(const struct snapshot *snapshot, const struct tally *tally)
{
    const struct policy *policy = &snapshot->policy;
    metric_head("fixport_rule_ports", "gauge", "Ports of a rule.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_ports", &policy->rule[i], tally->rule[i].ports);
    metric_head("fixport_rule_busiest_leases", "gauge",
                "Leases of a rule towards its busiest destination.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_busiest_leases", &policy->rule[i],
                    tally_sum(&tally->rule[i].busiest));
    metric_head("fixport_rule_busiest_used", "gauge", "Of these, the ones in use.");
    for (uint32_t i = 0; i < policy->rule_count; i++)
        metric_rule("fixport_rule_busiest_used", &policy->rule[i], tally->rule[i].busiest.used);
}

static void metric_holder(const struct snapshot *snapshot, uint32_t slot, const char *name,
                          const char *more)
{
    char host[256];
    printf("%s{holder=\"", name);
    metric_label(show_holder(snapshot, (int)slot, true, host, sizeof(host)), sizeof(host));
    printf("\",slot=\"%u\"%s} ", slot, more);
}

static void metrics_holders(const struct snapshot *snapshot, const struct tally *tally)
{
    metric_head("fixport_holders", "gauge", "Network namespaces that have a place in the pool.");
    printf("fixport_holders{alive=\"true\"} %u\n", tally->holders_alive);
    printf("fixport_holders{alive=\"false\"} %u\n", tally->holders_dead);
    metric_head("fixport_holder_leases", "gauge", "Leases of a holder, by state.");
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        const struct tally_count *count = &tally->holder[slot].count;
        const uint32_t values[] = {count->used, count->letgo, count->resting};
        const char *const states[] = {",state=\"used\"", ",state=\"letgo\"", ",state=\"resting\""};
        for (int i = 0; i < 3 && snapshot->pool.holder[slot].cookie; i++) {
            metric_holder(snapshot, slot, "fixport_holder_leases", states[i]);
            printf("%u\n", values[i]);
        }
    }
    metric_head("fixport_ports_taken_total", "counter", "Ports taken by a holder.");
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        if (!snapshot->pool.holder[slot].cookie)
            continue;
        metric_holder(snapshot, slot, "fixport_ports_taken_total", "");
        printf("%" PRIu64 "\n", snapshot->pool.holder[slot].taken);
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
    metric_one("fixport_connections_lost_total", "counter",
               "Connections undone because their lease had passed to another.", counters->lost);
}

int command_metrics(const struct pool_request *request)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    struct tally *tally = tally_take(&snapshot);
    say_limit(0);
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
