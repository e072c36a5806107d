/* SPDX-License-Identifier: MIT */
/*
 * Which ports are the right ones here, and random ones of them to try.
 *
 * The range is looked for where programs and the shim have it from: the options, the environment,
 * the machine's pool, the configuration. A host's own environment and pool are for its way to the
 * pods; there, only what was named and the configuration's rules tell of the pods' ports.
 */
#include "probe.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define EPHEMERAL_PATH "/proc/sys/net/ipv4/ip_local_port_range"
#ifndef FIXPORT_SYSCONFDIR
#define FIXPORT_SYSCONFDIR "/etc"
#endif

#define CONFIG_DEFAULT FIXPORT_SYSCONFDIR "/fixport.conf"
#define LOWEST_OUTSIDE 32768 /* where the range has all that the kernel hands out: no NodePorts */
#define PICKS 128 /* random ports that are looked at, before one is looked for in order */

uint64_t ports_random(void)
{
    uint64_t bits = 0;
    while (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
        ;
    return bits;
}

/* ---- the range ---- */

/* A file that was not asked for may be broken: a diagnosis goes on without it. */
int ports_site(struct probe_options *options)
{
    struct config_error error;
    const char *path = options->config ? options->config : CONFIG_DEFAULT;
    if (!options->config && !target_has_config())
        return 0;
    if (site_load(path, &options->site, &error) == 0) {
        options->has_site = true;
        return 0;
    }
    if (options->config)
        return say_error(PROBE_ERROR, "%s", error.text);
    say_error(0, "warning: going on without the configuration: %s", error.text);
    return 0;
}

/* What a policy says for @to; if no rule is for it, all its ports. */
static void range_of(const struct policy *policy, const struct dest *to, struct portset *set)
{
    struct policy_verdict verdict;
    if (policy_match(policy, to, &verdict))
        *set = verdict.ports;
    else if (site_pool_ports(policy, NULL, set) != 0)
        set->count = 0;
}

static int range_given(const char *ports, struct portset *set)
{
    struct parse_reason why;
    if (portset_parse(ports, set, &why) == 0)
        return 0;
    return say_error(PROBE_ERROR, "--ports '%s': %s", ports, why.text);
}

static int range_environment(const char *ports, const struct dest *to, struct portset *set)
{
    static struct config config;
    const char *where = getenv("FIXPORT_TO");
    if (target_rules("FIXPORT_PORTS, FIXPORT_TO: ", ports, where && *where ? where : NULL, &config))
        return PROBE_ERROR;
    range_of(&config.policy, to, set);
    return 0;
}

/* Return: whether there is a pool. */
static bool range_pool(const struct dest *to, struct portset *set)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    const char *named = getenv("FIXPORT_POOL");
    if (named && *named)
        snprintf(path, sizeof(path), "%s", named);
    else
        target_default(path);
    if (snapshot_take(path, &snapshot) != 0)
        return false;
    range_of(&snapshot.policy, to, set);
    snapshot_free(&snapshot);
    return true;
}

int ports_range(const struct probe_options *options, const struct dest *to, bool listening,
                struct portset *set)
{
    const char *environment = listening ? NULL : getenv("FIXPORT_PORTS");
    set->count = 0;
    if (options->ports)
        return range_given(options->ports, set);
    if (!options->config && environment)
        return range_environment(environment, to, set);
    if (!options->config && !listening && range_pool(to, set))
        return 0;
    if (options->has_site)
        range_of(&options->site.config.policy, to, set);
    return 0;
}

/* ---- ports to try ---- */

/* The @index-th port of a set. */
static uint16_t set_port(const struct portset *set, uint32_t index)
{
    for (uint32_t i = 0; i < set->count; i++) {
        uint32_t size = (uint32_t)set->range[i].hi - set->range[i].lo + 1;
        if (index < size)
            return (uint16_t)(set->range[i].lo + index);
        index -= size;
    }
    return 0;
}

/* The ports that the kernel hands out by itself. */
static struct portrange ephemeral(void)
{
    struct portrange range = {32768, 60999};
    unsigned lo, hi;
    FILE *file = fopen(EPHEMERAL_PATH, "re");
    if (file && fscanf(file, "%u %u", &lo, &hi) == 2 && lo >= 1 && lo <= hi && hi <= 65535)
        range = (struct portrange){(uint16_t)lo, (uint16_t)hi};
    if (file)
        fclose(file);
    return range;
}

/* A port of @range that @set has not: at random, else the next one in order. */
static uint16_t pick_outside(struct portrange range, const struct portset *set)
{
    uint32_t size = (uint32_t)range.hi - range.lo + 1, index = 0;
    for (uint32_t i = 0; i < PICKS + size; i++) {
        index = i < PICKS ? (uint32_t)(ports_random() % size) : (index + 1) % size;
        if (!portset_has(set, (uint16_t)(range.lo + index)))
            return (uint16_t)(range.lo + index);
    }
    return 0;
}

uint16_t ports_pick(const struct portset *set, bool inside)
{
    uint32_t size = portset_size(set);
    if (inside)
        return size ? set_port(set, (uint32_t)(ports_random() % size)) : 0;
    uint16_t port = pick_outside(ephemeral(), set);
    return port ? port : pick_outside((struct portrange){LOWEST_OUTSIDE, 65535}, set);
}

/* ---- the shim ---- */

bool ports_shim(void)
{
    const char *off = getenv("FIXPORT_DISABLE");
    char line[PATH_MAX + 128];
    bool found = false;
    FILE *maps = off && *off && strcmp(off, "0") != 0 ? NULL : fopen("/proc/self/maps", "re");
    while (maps && !found && fgets(line, sizeof(line), maps))
        found = strstr(line, "/libfixport.so") != NULL;
    if (maps)
        fclose(maps);
    return found;
}
