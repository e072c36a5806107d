/* SPDX-License-Identifier: MIT */
/*
 * The pool, the library, the kernel's limits, what an earlier apply has left behind.
 */
#include "doctor.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef FIXPORT_LIBDIR
#define FIXPORT_LIBDIR "/usr/local/lib"
#endif

#ifndef FIXPORT_DOCDIR
#define FIXPORT_DOCDIR "/usr/local/share/doc/fixport"
#endif

#define EXAMPLE FIXPORT_DOCDIR "/fixport.conf"
#define LIBRARY FIXPORT_LIBDIR "/libfixport.so"
#define NEARLY_FULL 90 /* per cent */
#define MANIFEST_BYTES (1 << 20)
#define OPTION_PORT_RANGE 51 /* IP_LOCAL_PORT_RANGE: newer than many headers */

/* ---- the pool ---- */

/* A host without ports of its own needs none. */
static bool pool_is_needed(const struct facts *facts)
{
    if (!facts->has_site)
        return false; /* nobody said where it would be */
    return facts->roles & ROLE_NODE || (facts->roles & ROLE_HOST && facts->site.host_ports.count);
}

static void pool_unusable(const struct facts *facts, struct findings *findings, int error)
{
    bool missing = error == -ENOENT;
    const char *why = pool_strerror(error);
    if (strcmp(why, pool_strerror(0)) == 0)
        why = strerror(-error);
    struct finding *finding =
        finding_add(findings, missing ? "pool-missing" : "pool-unusable", SEVERITY_ERROR,
                    missing ? "there is no pool" : "the pool cannot be used");
    finding_line(finding, "%s: %s", facts->pool_path, why);
    finding_why(finding,
                "without it the shim fails connections, or lets them go out from any port");
    if (!missing) {
        char *path = shell_quoted(facts->pool_path);
        finding_mend(finding, "who has connections through it is not known any more: programs that "
                              "run with the shim are to be started again");
        finding_run(finding, "mv -f %s %s.unusable", path, path);
        free(path);
    }
    if (facts->has_site)
        finding_apply(finding, facts);
    else if (missing)
        finding_mend(finding, "fixport-pool create makes it");
}

static void pool_mode(const struct facts *facts, struct findings *findings)
{
    const struct pool_options *options = &facts->site.config.options;
    mode_t mode = options->mode & ~022u; /* what steers is its owner's to write */
    struct stat st;
    if (!facts->has_site || stat(facts->pool_path, &st) < 0 ||
        ((st.st_mode & 07777) == mode &&
         (options->group == (gid_t)-1 || st.st_gid == options->group)))
        return;
    struct finding *finding =
        finding_add(findings, "pool-mode", SEVERITY_WARNING,
                    "the pool's mode is %04o, and the configuration says %04o%s",
                    (unsigned)(st.st_mode & 07777), (unsigned)mode,
                    options->group != (gid_t)-1 && st.st_gid != options->group
                        ? "; its group is another one too"
                        : "");
    finding_line(finding, "%s: mode %04o, group %u", facts->pool_path,
                 (unsigned)(st.st_mode & 07777), (unsigned)st.st_gid);
    finding_why(finding, "a program that may not read the pool gets no port from it; one that "
                         "should not may take all");
    char *path = shell_quoted(facts->pool_path);
    if (options->group != (gid_t)-1)
        finding_run(finding, "chgrp %u %s", (unsigned)options->group, path);
    finding_run(finding, "chmod %04o %s", (unsigned)mode, path);
    free(path);
}

static void pool_outdated(const struct facts *facts, struct findings *findings,
                          const struct snapshot *snapshot)
{
    struct portset now;
    if (!facts->has_site || !facts->port_sets || site_pool_ports(&snapshot->policy, NULL, &now) < 0)
        return;
    const struct fact_ports *ports = &facts->ports[facts->port_sets - 1];
    if (strcmp(fact_set(&now), fact_set(&ports->set)) == 0)
        return;
    struct finding *finding = finding_add(findings, "pool-outdated", SEVERITY_WARNING,
                                          "the pool has ports %s, and the configuration says %s",
                                          fact_set(&now), fact_set(&ports->set));
    finding_line(finding, "%s: ports %s", facts->pool_path, fact_set(&now));
    finding_why(finding, "connections leave from ports for which the firewall has no rule");
    finding_apply(finding, facts);
}

/* Per destination: what counts is a rule's busiest one. */
static void pool_rule(const struct facts *facts, struct findings *findings,
                      const struct policy_rule *policy, const struct tally_rule *rule)
{
    uint32_t taken = tally_sum(&rule->busiest);
    if (!rule->ports || taken * 100 < rule->ports * NEARLY_FULL)
        return;
    bool full = taken >= rule->ports;
    struct finding *finding = finding_add(
        findings, full ? "pool-full" : "pool-nearly-full", full ? SEVERITY_ERROR : SEVERITY_WARNING,
        "rule %.*s: %u of %u ports are taken towards one destination", POLICY_NAME, policy->name,
        taken, rule->ports);
    finding_line(finding, "%s: %u used, %u let go, %u resting", facts->pool_path,
                 rule->busiest.used, rule->busiest.letgo, rule->busiest.resting);
    finding_why(finding, "when the last is taken, connections there fail or wait");
    finding_mend(finding, rule->busiest.resting > taken / 2
                              ? "a shorter [pool] quarantine, or more ports; fixport-pool list "
                                "shows who had them"
                              : "more ports in [pool] ports; fixport-pool list shows who has them");
}

static void pool_fullness(const struct facts *facts, struct findings *findings,
                          const struct snapshot *snapshot)
{
    struct tally *tally = tally_take(snapshot);
    for (uint32_t i = 0; tally && i < snapshot->policy.rule_count; i++)
        pool_rule(facts, findings, &snapshot->policy.rule[i], &tally->rule[i]);
    tally_free(tally);
}

void check_pool(struct facts *facts, struct findings *findings)
{
    struct snapshot snapshot;
    int error = snapshot_take(facts->pool_path, &snapshot);
    if (error == -EACCES) {
        facts_denied(facts, "the pool");
    } else if (error) {
        if (pool_is_needed(facts) || (error != -ENOENT && facts->roles & ROLE_UNKNOWN))
            pool_unusable(facts, findings, error);
    } else {
        if (!(facts->roles & ROLE_UNKNOWN)) {
            pool_mode(facts, findings);
            pool_outdated(facts, findings, &snapshot);
        }
        pool_fullness(facts, findings, &snapshot);
        snapshot_free(&snapshot);
    }
}

void check_library(struct facts *facts, struct findings *findings)
{
    const char *path = setup_path(LIBRARY);
    bool host = facts->roles & ROLE_HOST;
    if (!pool_is_needed(facts) || access(path, R_OK) == 0)
        return;
    const char *reason = strerror(errno);
    struct finding *finding =
        finding_add(findings, "library-missing", host ? SEVERITY_WARNING : SEVERITY_INFO,
                    "libfixport.so is not where it is installed");
    finding_line(finding, "%s: %s", path, reason);
    finding_why(finding, host ? "the loader only complains and starts the program without it, from "
                                "any port"
                              : "pods may get it from their image or a volume: then all is well");
    finding_mend(finding, "install it, or give LD_PRELOAD the path where it is");
}

/* ---- the kernel ---- */

void check_kernel(struct facts *facts, struct findings *findings)
{
    uint32_t range = 0;
    (void)facts;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool missing =
        fd >= 0 && setsockopt(fd, IPPROTO_IP, OPTION_PORT_RANGE, &range, sizeof(range)) < 0;
    if (fd >= 0)
        close(fd);
    if (!missing)
        return;
    struct finding *finding = finding_add(findings, "no-local-port-range", SEVERITY_INFO,
                                          "this kernel has no IP_LOCAL_PORT_RANGE");
    finding_line(finding, "setsockopt(IPPROTO_IP, %d): not supported", OPTION_PORT_RANGE);
    finding_why(finding, "it came with Linux 6.3; programs that choose their ports by it do not "
                         "work here, the shim does");
    finding_mend(finding, "nothing needs to be done");
}

void check_timestamps(struct facts *facts, struct findings *findings)
{
    (void)facts;
    if (fact_number("net.ipv4.tcp_timestamps", 1) != 0)
        return;
    struct finding *finding =
        finding_add(findings, "timestamps-off", SEVERITY_WARNING, "TCP timestamps are off");
    finding_line(finding, "net.ipv4.tcp_timestamps = 0");
    finding_why(finding, "without them a port cannot be used again towards the same destination "
                         "for a minute: many short connections run out of ports");
    finding_mend(finding, FACT_LASTING);
    finding_run(finding, "sysctl -w net.ipv4.tcp_timestamps=1");
}

static void conntrack_full(struct findings *findings)
{
    long count = fact_number("net.netfilter.nf_conntrack_count", 0);
    long max = fact_number("net.netfilter.nf_conntrack_max", 0);
    if (max <= 0 || count < max / 100 * NEARLY_FULL + max % 100 * NEARLY_FULL / 100)
        return;
    bool full = count >= max;
    struct finding *finding =
        finding_add(findings, full ? "conntrack-full" : "conntrack-nearly-full",
                    full ? SEVERITY_ERROR : SEVERITY_WARNING,
                    "connection tracking has %ld of at most %ld entries", count, max);
    finding_line(finding, "net.netfilter.nf_conntrack_count = %ld, nf_conntrack_max = %ld", count,
                 max);
    finding_why(finding, "when the table is full, new connections are dropped");
    finding_mend(finding, FACT_LASTING);
    finding_run(finding, "sysctl -w net.netfilter.nf_conntrack_max=%ld", 2 * max);
}

void check_conntrack(struct facts *facts, struct findings *findings)
{
    conntrack_full(findings);
    if (!(facts->roles & ROLE_GATEWAY) || !facts->site.stateful ||
        fact_number("net.netfilter.nf_conntrack_tcp_loose", 1) != 0)
        return;
    struct finding *finding = finding_add(findings, "conntrack-strict", SEVERITY_INFO,
                                          "connection tracking takes up no connection half-way");
    finding_line(finding, "net.netfilter.nf_conntrack_tcp_loose = 0");
    finding_why(finding, "connections that are there when the rules are loaded, or after a restart "
                         "of this gateway, are rejected");
    finding_mend(finding, "this, or [gateway] stateful = no; " FACT_LASTING);
    finding_run(finding, "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1");
}

/* ---- the journal ---- */

static void journal_phase(const struct facts *facts, struct findings *findings)
{
    const struct journal *journal = &facts->journal;
    bool late = journal->phase == JOURNAL_UNCONFIRMED && journal->deadline < (int64_t)time(NULL);
    if (journal->phase == JOURNAL_APPLIED || lock_is_held())
        return;
    struct finding *finding;
    if (journal->phase == JOURNAL_UNCONFIRMED && !late) {
        finding =
            finding_add(findings, "unconfirmed", SEVERITY_INFO,
                        "an apply waits to be confirmed until %s", text_when(journal->deadline));
        finding_why(finding, "then everything is rolled back");
        finding_run(finding, "%s confirm", facts->setup_root);
    } else {
        finding = finding_add(findings, "interrupted", SEVERITY_ERROR, "%s was interrupted",
                              journal->phase == JOURNAL_UNDOING ? "undo"
                              : late ? "rolling back an apply that nobody confirmed"
                                     : "apply");
        finding_why(finding, "some of it is done and some is not");
        bool undoing = journal->phase == JOURNAL_UNDOING;
        finding_mend(finding, undoing ? "undo goes on where it was"
                                      : "apply goes on; undo goes back to what was before");
        if (undoing)
            finding_run(finding, "%s undo", facts->setup_root);
        else
            finding_apply(finding, facts);
    }
    finding_line(finding, "%s of %s", setup_path(SETUP_JOURNAL), text_when(journal->when));
}

/* Routes, the pool and the manifest have checks that say more. */
static bool journal_is_plain(const struct resource_type *type)
{
    return type == &resource_file || type == &resource_link || type == &resource_sysctl ||
           type == &resource_iptables || type == &resource_nft || type == &resource_rule;
}

static void journal_drift(const struct facts *facts, struct findings *findings)
{
    char *list = state_copy("");
    size_t count = 0;
    for (size_t i = 0; i < facts->journal.count; i++) {
        const struct journal_entry *entry = &facts->journal.entry[i];
        struct setup_error error;
        char *now = NULL;
        if (!entry->done || !journal_is_plain(entry->type) ||
            entry->type->read(entry->name, &now, &error) < 0 || entry_fits(entry, now)) {
            free(now);
            continue;
        }
        char *longer =
            text_format("%s%s%s %s", list, count++ ? ", " : "", entry->type->name, entry->name);
        free(list);
        free(now);
        list = longer;
    }
    if (count) {
        struct finding *finding =
            finding_add(findings, "changed-since", SEVERITY_WARNING,
                        "%s not as apply has left them", text_count(count, "thing"));
        finding_line(finding, "%s", list);
        finding_why(finding, "somebody else has changed them, and the setup counts on them");
        finding_mend(finding, "fixport-setup status shows how; apply sets them again");
        finding_apply(finding, facts);
    }
    free(list);
}

void check_journal(struct facts *facts, struct findings *findings)
{
    if (facts->has_journal == 1) {
        journal_phase(facts, findings);
        if (facts->journal.phase == JOURNAL_APPLIED)
            journal_drift(facts, findings);
    } else if (facts->has_journal < 0) {
        struct finding *finding = finding_add(findings, "journal-unusable", SEVERITY_ERROR,
                                              "the journal of what was applied cannot be used");
        finding_line(finding, "%s", facts->journal_error.text);
        finding_why(finding, "neither apply nor undo can know what was there before");
        finding_mend(finding, "restore %s from a backup, or take it away and what it made by hand",
                     setup_path(SETUP_JOURNAL));
    }
}

/* What can be found without one is found: nothing is judged by defaults that nobody chose. */
void check_configuration(struct facts *facts, struct findings *findings)
{
    if (facts->has_site)
        return;
    struct finding *finding =
        finding_add(findings, "no-configuration", SEVERITY_INFO, "there is no configuration");
    finding_line(finding, "%s: %s", facts->config, strerror(ENOENT));
    finding_why(finding,
                "what pods, hosts and ports are meant is not known: only what concerns any "
                "machine was looked at");
    finding_mend(finding,
                 "copy " EXAMPLE " to %s and write the site into it, or name another file "
                 "by --config",
                 facts->config);
}

static void site_disagrees(const struct facts *facts, struct findings *findings)
{
    for (size_t i = 0; facts->has_site && i < facts->site.notes; i++) {
        struct finding *finding =
            finding_add(findings, "rules-and-hosts", SEVERITY_WARNING,
                        "the configuration's [rule] and [hosts] do not agree");
        finding_line(finding, "%s", facts->site.note[i]);
        finding_why(finding, "only what both name gets a port of the range and is let through");
        finding_mend(finding, "name it in both; without any [rule] the pool is for [hosts]");
    }
}

void check_wanted(struct facts *facts, struct findings *findings)
{
    site_disagrees(facts, findings);
    if (facts->roles & ROLE_UNKNOWN) {
        struct finding *finding =
            finding_add(findings, "no-role", SEVERITY_INFO,
                        "the configuration does not say what this machine is");
        finding_why(finding, "only what concerns any machine was looked at");
        finding_mend(finding, "--role ROLE, or a section [machine NAME] in the configuration");
    } else if (!facts->has_wanted && geteuid() != 0 && strstr(facts->wanted_error.text, "ermi")) {
        facts_denied(facts, "what apply would do");
    } else if (!facts->has_wanted) {
        struct finding *finding = finding_add(findings, "cannot-apply", SEVERITY_ERROR,
                                              "fixport-setup apply would refuse here");
        finding_line(finding, "%s", facts->wanted_error.text);
        finding_why(finding,
                    "what the configuration asks for cannot work on this machine as it is");
        finding_mend(finding, "mend what the line says, then: %s plan", facts->setup);
    } else if (!facts->has_journal && geteuid() == 0) {
        struct finding *finding = finding_add(findings, "not-applied", SEVERITY_INFO,
                                              "nothing has been applied on this machine yet");
        finding_why(finding, "findings about what is missing may go away with it");
        finding_mend(finding, "%s plan shows what apply would do", facts->setup);
        finding_apply(finding, facts);
    }
}

/* ---- the API server's manifest ---- */

static bool manifest_is_server(const char *folder, const char *name)
{
    char *path = text_format("%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    char *text = state_grow(NULL, MANIFEST_BYTES + 1);
    size_t length = file ? fread(text, 1, MANIFEST_BYTES, file) : 0;
    text[length] = '\0';
    bool server =
        strstr(text, "kind: Pod") && strstr(text, "kube-apiserver") && strstr(text, "command:");
    if (file)
        fclose(file);
    free(text);
    free(path);
    return server;
}

/* The kubelet reads every file that does not begin with a dot, whatever its ending. */
static void manifest_twins(struct findings *findings, const char *path)
{
    const char *own = strrchr(path, '/');
    char *folder = text_format("%.*s", own ? (int)(own - path) : 1, own ? path : ".");
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.' || (own && strcmp(entry->d_name, own + 1) == 0) ||
            !manifest_is_server(folder, entry->d_name))
            continue;
        struct finding *finding = finding_add(findings, "manifest-twice", SEVERITY_ERROR,
                                              "a second file is a manifest of the API server");
        finding_line(finding, "%s/%s", folder, entry->d_name);
        finding_why(finding, "the kubelet reads every file there, whatever its ending, and an old "
                             "copy may win");
        char *from = text_format("%s/%s", folder, entry->d_name);
        char *to = text_format("%s/../not-a-manifest.%s", folder, entry->d_name);
        char *from_word = shell_quoted(from), *to_word = shell_quoted(to);
        finding_run(finding, "mv -n %s %s", from_word, to_word);
        free(from_word);
        free(to_word);
        free(from);
        free(to);
    }
    if (dir)
        closedir(dir);
    free(folder);
}

static void manifest_range(const struct facts *facts, struct findings *findings)
{
    const struct portrange *wanted = &facts->site.node_ports;
    char *state = NULL, text[32];
    struct setup_error error;
    if (!wanted->lo || access(setup_path(facts->site.manifest), R_OK) < 0 ||
        resource_nodeports.read(facts->site.manifest, &state, &error) < 0)
        return;
    snprintf(text, sizeof(text), "%u-%u", wanted->lo, wanted->hi);
    if (!state || strcmp(state, text) != 0) {
        struct finding *finding =
            finding_add(findings, "manifest-range", SEVERITY_ERROR,
                        "the API server's range of NodePorts is %s, and the configuration says %s",
                        state ? state : "the default, 30000-32767", text);
        finding_line(finding, "%s: --service-node-port-range%s%s", setup_path(facts->site.manifest),
                     state ? "=" : " is missing", state ? state : "");
        finding_why(finding, "services get ports for which the firewall has no rule; \"kubeadm "
                             "upgrade\" takes back what was written into the manifest by hand");
        finding_mend(finding, "the extraArgs that apply prints belong into kubeadm's "
                              "configuration, too");
        finding_apply(finding, facts);
    }
    free(state);
}

void check_manifest(struct facts *facts, struct findings *findings)
{
    manifest_range(facts, findings);
    manifest_twins(findings, setup_path(facts->has_site ? facts->site.manifest : SITE_MANIFEST));
}
