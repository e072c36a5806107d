/* SPDX-License-Identifier: MIT */
/*
 * What a configuration may say, but people should know before they do: ports that somebody else
 * uses too.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

/* A range that somebody else uses too, and what can come of it. */
struct hazard {
    struct portrange range;
    const char *what; /* "ports WHAT (the ports): THEN" */
    const char *then;
};

/* The policy's ports in a hazard's range: one bit each. */
struct overlap {
    struct portrange range;
    uint8_t port[65536 / 8];
};

static void overlap_mark(const struct portrange *range, void *arg)
{
    struct overlap *overlap = arg;
    for (uint32_t port = range->lo; port <= range->hi; port++)
        if (port >= overlap->range.lo && port <= overlap->range.hi)
            overlap->port[port / 8] |= (uint8_t)(1u << port % 8);
}

static bool overlap_has(const struct overlap *overlap, uint32_t port)
{
    return port < 65536 && overlap->port[port / 8] >> port % 8 & 1;
}

/* "60001-60999, 61001", at most three ranges. Return: how many ranges there are. */
static int overlap_text(const struct overlap *overlap, char *buf, size_t size)
{
    int ranges = 0;
    size_t at = 0;
    buf[0] = '\0';
    for (uint32_t lo = 1; lo < 65536; lo++) {
        uint32_t hi = lo;
        if (!overlap_has(overlap, lo))
            continue;
        while (overlap_has(overlap, hi + 1))
            hi++;
        if (ranges == 3)
            at += (size_t)snprintf(buf + at, size - at, " and others");
        else if (ranges < 3)
            at += (size_t)snprintf(buf + at, size - at, hi > lo ? "%s%u-%u" : "%s%u",
                                   ranges ? ", " : "", lo, hi);
        ranges++;
        lo = hi;
    }
    return ranges;
}

static void hazard_warn(const struct config *config, const struct hazard *hazard,
                        config_warning *warn, void *arg)
{
    struct overlap overlap = {.range = hazard->range};
    char ports[80], sentence[480];
    policy_each_range(&config->policy, overlap_mark, &overlap);
    if (!overlap_text(&overlap, ports, sizeof(ports)))
        return;
    snprintf(sentence, sizeof(sentence), "ports %s (%s): %s", hazard->what, ports, hazard->then);
    warn(sentence, arg);
}

static void ephemeral_warn(const struct config *config, const struct portrange *ephemeral,
                           config_warning *warn, void *arg)
{
    char what[80];
    struct hazard hazard = {
        .range = *ephemeral,
        .what = what,
        .then = "the kernel gives them to other connections too, so fewer are left for the pool, "
                "and between pods behind one address such a connection can make address "
                "translation move one of ours out of the range"};
    snprintf(what, sizeof(what), "within net.ipv4.ip_local_port_range %u-%u", ephemeral->lo,
             ephemeral->hi);
    hazard_warn(config, &hazard, warn, arg);
}

void config_warnings_for(const struct config *config, const struct portrange *ephemeral,
                         config_warning *warn, void *arg)
{
    static const struct hazard hazards[] = {
        {{30000, 32767},
         "among Kubernetes' NodePorts 30000-32767",
         "where a service has such a port, its node may refuse it to a connection, or take the "
         "answers for the service"},
        {{1, 1023},
         "below 1024",
         "where net.ipv4.ip_unprivileged_port_start is not lower, programs without "
         "CAP_NET_BIND_SERVICE get none of them"},
        {{1024, 16383},
         "below 16384",
         "some kernels that forward a connection from such a port to a port from 32768 on move it "
         "to another source port"},
    };
    if (ephemeral)
        ephemeral_warn(config, ephemeral, warn, arg);
    for (size_t i = 0; i < sizeof(hazards) / sizeof(hazards[0]); i++)
        hazard_warn(config, &hazards[i], warn, arg);
}

void config_warnings(const struct config *config, config_warning *warn, void *arg)
{
    struct portrange ephemeral = {.lo = 0};
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    bool known = file && fscanf(file, "%hu %hu", &ephemeral.lo, &ephemeral.hi) == 2;
    if (file)
        fclose(file);
    config_warnings_for(config, known ? &ephemeral : NULL, warn, arg);
}
