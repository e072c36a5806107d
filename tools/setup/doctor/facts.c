/* SPDX-License-Identifier: MIT */
/*
 * What the doctor knows before it judges: gathered once, by looking only.
 *
 * Looking must not change a machine: ss(8) loads modules of its own, so /proc/net/tcp is read instead.
 * How rules are read without making a table or loading a module, see twin/ruleset.c.
 */
#include "doctor.h"

#include "../../../pool/address.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef FIXPORT_SYSCONFDIR
#define FIXPORT_SYSCONFDIR "/etc"
#endif

/* ---- configuration, roles, ports ---- */

/* Without a configuration there is still much to look at; a bad one is an error. */
static int gather_site(struct facts *facts, const char *config)
{
    struct config_error error;
    facts->config = state_copy(config ? config : setup_path(FIXPORT_SYSCONFDIR "/fixport.conf"));
    if (!config && access(facts->config, F_OK) < 0 && errno == ENOENT)
        return 0;
    if (site_load(facts->config, &facts->site, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    facts->has_site = true;
    return 0;
}

/* Appends " OPTION VALUE". */
static void setup_option(struct facts *facts, const char *option, const char *value)
{
    char *quoted = shell_quoted(value);
    char *longer = text_format("%s %s %s", facts->setup, option, quoted);
    free(quoted);
    free(facts->setup);
    facts->setup = longer;
}

/* A command that is shown must mean the same configuration, roles and root as ours. */
static void gather_setup(struct facts *facts, const struct setup_options *options)
{
    char roles[80];
    size_t at = 0;
    facts->setup = state_copy("fixport-setup");
    if (*setup_root)
        setup_option(facts, "--root", setup_root);
    facts->setup_root = state_copy(facts->setup);
    if (options->config)
        setup_option(facts, "--config", options->config);
    if (!options->roles)
        return;
    for (const char *from = text_roles(options->roles); *from && at < sizeof(roles) - 1; from++)
        if (*from != ' ')
            roles[at++] = *from;
    roles[at] = '\0';
    setup_option(facts, "--role", roles);
}

static void gather_roles(struct facts *facts, unsigned roles)
{
    struct utsname uts;
    uname(&uts);
    facts->roles = roles;
    if (!roles && facts->has_site)
        facts->roles = site_machine_roles(&facts->site, uts.nodename);
    if (!facts->roles)
        facts->roles = ROLE_UNKNOWN;
    for (size_t i = 0; i < facts->site.nodes; i++) {
        const struct site_node *node = &facts->site.node[i];
        if ((node->address.has4 && machine_has(&facts->machine, node->address.addr4)) ||
            (node->address.has6 && machine_has(&facts->machine, node->address.addr6)))
            facts->self = node;
    }
}

static void ports_add(struct facts *facts, const char *name, const struct policy *policy,
                      const struct portset *set)
{
    struct fact_ports *ports = &facts->ports[facts->port_sets];
    ports->name = name;
    if (set)
        ports->set = *set;
    else if (site_pool_ports(policy, NULL, &ports->set) < 0)
        return;
    facts->port_sets += ports->set.count > 0;
}

/* Without a configuration the pool itself says which ports it is about. */
static void gather_ports(struct facts *facts)
{
    struct snapshot snapshot;
    const char *path = facts->site.config.pool_path;
    snprintf(facts->pool_path, sizeof(facts->pool_path), "%s",
             setup_path(*path ? path : POOL_DEFAULT_PATH));
    if (facts->has_site) {
        if (facts->roles & (ROLE_NODE | ROLE_CONTROL_PLANE | ROLE_GATEWAY | ROLE_UNKNOWN))
            ports_add(facts, "the pool's ports", &facts->site.config.policy, NULL);
        if (facts->roles & ROLE_HOST && facts->site.host_ports.count)
            ports_add(facts, "the hosts' ports", NULL, &facts->site.host_ports);
    } else if (snapshot_take(facts->pool_path, &snapshot) == 0) {
        ports_add(facts, "the pool's ports", &snapshot.policy, NULL);
        snapshot_free(&snapshot);
    }
}

void facts_denied(struct facts *facts, const char *what)
{
    char *before = facts->denied;
    facts->denied = before ? text_format("%s, %s", before, what) : state_copy(what);
    free(before);
}

/* ---- what was applied, and what would be ---- */

static void gather_journal(struct facts *facts)
{
    if (journal_hidden()) {
        facts_denied(facts, "what was applied");
        return;
    }
    facts->has_journal = journal_load(&facts->journal, &facts->journal_error);
}

static void gather_wanted(struct facts *facts)
{
    const struct journal *journal = facts->has_journal == 1 ? &facts->journal : NULL;
    if (!facts->has_site || facts->roles & ROLE_UNKNOWN)
        return;
    if (journal && journal_use(journal, &facts->wanted_error) < 0)
        return;
    facts->has_wanted = roles_want(&facts->site, facts->roles, journal, facts->site.config.path,
                                   &facts->wanted, &facts->wanted_error) == 0;
}

int facts_gather(struct facts *facts, const struct setup_options *options)
{
    struct setup_error error;
    memset(facts, 0, sizeof(*facts));
    facts->twin.home = -1;
    gather_setup(facts, options);
    if (gather_site(facts, options->config))
        return SETUP_ERROR;
    if (machine_look(&facts->machine, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    machine_choose_gateway(&facts->machine, &facts->site);
    gather_roles(facts, options->roles);
    gather_ports(facts);
    gather_journal(facts);
    gather_wanted(facts);
    return 0;
}

void facts_free(struct facts *facts)
{
    for (size_t i = 0; i < facts->routes; i++) {
        free(facts->route[i].key);
        free(facts->route[i].line);
    }
    free(facts->route);
    free(facts->setup);
    free(facts->setup_root);
    free(facts->config);
    free(facts->rules);
    free(facts->denied);
    played_free(facts);
    machine_free(&facts->machine);
    journal_free(&facts->journal);
    resources_free(&facts->wanted);
    site_free(&facts->site);
}
