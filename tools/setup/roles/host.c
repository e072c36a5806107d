/* SPDX-License-Identifier: MIT */
/*
 * The role "host": a machine outside of the cluster. It needs routes to the pods, and, where it is
 * the one that connects, its own pool: source ports from [hosts] ports towards the pods, and only
 * towards them.
 */
#include "roles.h"

#include <stdlib.h>
#include <string.h>

/* "10.200.1.0/24,10.200.36.0/24": what policy_add_rule() reads; malloc'd. */
static char *host_destinations(const struct roles *roles)
{
    char *text = NULL, block[BLOCK_TEXT];
    FILE *out = state_open(&text);
    for (size_t i = 0; i < roles->pods.count; i++)
        fprintf(out, "%s%s", i ? "," : "", block_print(&roles->pods.item[i], block, sizeof(block)));
    state_close(out);
    return text;
}

/*
 * The host's pool: as [pool] says in all but its rules. What a rule does when its ports are
 * exhausted is that of the nodes' first rule, where [pool] when-exhausted has gone.
 */
static int host_config(struct roles *roles, struct config *config)
{
    char ports[16 * PORTRANGE_MAX];
    struct parse_reason why;
    const struct policy *nodes = &roles->site->config.policy;
    *config = roles->site->config;
    policy_init(&config->policy);
    config->policy.quarantine_ms = nodes->quarantine_ms;
    portset_print(&roles->site->host_ports, ports, sizeof(ports));
    if (roles->pods.count > POLICY_DESTS)
        return role_refuse(roles,
                           "the pods have %zu blocks, and a host's pool takes at most %d: give "
                           "[pods] blocks = the few large blocks that they all lie in",
                           roles->pods.count, POLICY_DESTS);
    char *to = host_destinations(roles);
    int result = policy_add_rule(&config->policy, "pods", ports, to, &why);
    free(to);
    if (result < 0)
        return role_refuse(roles, "[hosts] ports = \"%s\": %s", ports, why.text);
    config->policy.rule[0].exhausted = nodes->rule[0].exhausted;
    config->policy.rule[0].wait_ms = nodes->rule[0].wait_ms;
    return 0;
}

static int host_pool(struct roles *roles)
{
    if (!roles->site->host_ports.count)
        return 0;
    struct config *config = state_grow(NULL, sizeof(*config));
    int result = host_config(roles, config);
    if (result == 0)
        result = role_pool(roles, config, "hold the source ports of connections to pods");
    free(config);
    role_reserve(roles, &roles->site->host_ports);
    return result;
}

/*
 * A gateway on the same link tells whoever sends through it that the node is nearer; IPv4's can be
 * told not to, IPv6's cannot (there is no such sysctl), so here it is the host that must not
 * listen: or connections leave the firewall's way after the first packet.
 */
static int host_redirects(struct roles *roles)
{
    char name[SYSCTL_NAME];
    struct machine_path path;
    const uint8_t *via = role_gateway(roles, 6);
    if (!via || !blocks_have_family(&roles->pods, 6))
        return 0;
    if (machine_path(via, NULL, &path, roles->error) < 0)
        return -1;
    machine_sysctl(6, path.device, "accept_redirects", name, sizeof(name));
    return role_sysctl(roles, name, "0", "stay on the way through the gateway");
}

/* The gateway judges by address: who sends from another one is not the host that was named. */
static int host_source(struct roles *roles)
{
    for (int family = 4; family <= 6; family += 2) {
        uint8_t source[16];
        struct machine_path path;
        size_t i = 0;
        while (i < roles->routes && block_family(&roles->route[i].to) != family)
            i++;
        if (i == roles->routes || !blocks_have_family(&roles->hosts, family))
            continue;
        if (machine_path(roles->route[i].via, NULL, &path, roles->error) < 0)
            return -1;
        if (address_parse(path.source, strlen(path.source), source) &&
            !blocks_with(&roles->hosts, source))
            resources_note(roles->resources,
                           "this machine sends to pods from %s, which is not in [hosts] addresses: "
                           "such connections are not let through; add it there",
                           path.source);
    }
    return 0;
}

int host_want(struct roles *roles)
{
    if (!roles->pods.count)
        return role_refuse(roles, "role host: there are no pods to reach: add sections [node NAME] "
                                  "with address and pods, or [pods] blocks and [gateway] address");
    if (role_pod_routes(roles, true) < 0)
        return -1;
    if (!roles->routes && !(roles->roles & ROLE_GATEWAY))
        return role_refuse(roles, "role host: nothing says what the pods are behind: add sections "
                                  "[node NAME] with address and pods, or [gateway] address");
    if (host_source(roles) < 0 || host_pool(roles) < 0)
        return -1;
    return host_redirects(roles);
}
