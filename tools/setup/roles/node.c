/* SPDX-License-Identifier: MIT */
/*
 * The role "node": its pods' connections to the hosts must leave it with the source port that they
 * have.
 *
 * Most of what translates pods' addresses picks another port, always. A nat chain of our own ahead
 * of theirs (priority srcnat - 10) decides first: once an address translation is set up for a
 * connection, later rules do not change it.
 *   keep     masquerade: to the node's address; the port stays while it is free there, and the
 *            pool, which all pods of the node share, sees to that. The range that it is in must be
 *            named: else a port that the same pod used towards another address shortly before gets
 *            the translation that it had there, which is a random one of the CNI's (tried)
 *   none     "snat to ip saddr": a translation to what it is already. An accept would not do: the
 *            next chain would still be asked
 *   confine  keep, and any other port of a pod is moved into the range, so that programs without
 *            the shim get through the firewall too. One rule can give one range only: the longest,
 *            because it runs out last
 */
#include "roles.h"

#include <stdlib.h>
#include <string.h>

static struct portrange longest(const struct portset *ports)
{
    struct portrange best = ports->range[0];
    for (uint32_t i = 1; i < ports->count; i++)
        if (ports->range[i].hi - ports->range[i].lo > best.hi - best.lo)
            best = ports->range[i];
    return best;
}

static void range_print(FILE *out, struct portrange range)
{
    fprintf(out, range.hi > range.lo ? "%u-%u" : "%u", range.lo, range.hi);
}

/* "ip saddr { pods } ip daddr { hosts } " */
static void rule_begin(FILE *out, const struct roles *roles, int family)
{
    const char *ip = family == 4 ? "ip" : "ip6";
    fprintf(out, "\t\t%s saddr ", ip);
    nft_addresses(out, &roles->pods, family);
    fprintf(out, " %s daddr ", ip);
    nft_addresses(out, &roles->hosts, family);
    fputc(' ', out);
}

static void rule_keep(FILE *out, const struct roles *roles, struct portrange range, int family)
{
    rule_begin(out, roles, family);
    fputs("tcp sport ", out);
    range_print(out, range);
    fputs(" masquerade to :", out);
    range_print(out, range);
    fputs(" comment \"fixport: keep the port\"\n", out);
}

static void rules_print(FILE *out, const struct roles *roles, const struct portset *ports,
                        int family)
{
    if (roles->site->snat == SNAT_NONE) {
        rule_begin(out, roles, family);
        fprintf(out, "meta l4proto tcp snat to %s saddr comment \"fixport: as it is\"\n",
                family == 4 ? "ip" : "ip6");
        return;
    }
    for (uint32_t i = 0; i < ports->count; i++)
        rule_keep(out, roles, ports->range[i], family);
    if (roles->site->snat != SNAT_CONFINE)
        return;
    rule_begin(out, roles, family);
    fputs("meta l4proto tcp masquerade to :", out);
    range_print(out, longest(ports));
    fputs(" comment \"fixport: into the range\"\n", out);
}

/* As "nft -s list table" prints it. */
static char *table_text(const struct roles *roles, const struct portset *ports, int family)
{
    char *text = NULL;
    FILE *out = state_open(&text);
    fprintf(out,
            "table %s " SETUP_TABLE " {\n"
            "\tchain postrouting {\n"
            "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n",
            family == 4 ? "ip" : "ip6");
    rules_print(out, roles, ports, family);
    fputs("\t}\n}\n", out);
    state_close(out);
    return text;
}

static int node_table(struct roles *roles, const struct portset *ports, int family)
{
    if (!blocks_have_family(&roles->pods, family) || !blocks_have_family(&roles->hosts, family))
        return 0;
    if (!run_exists("nft"))
        return setup_fail(roles->error, "nft is needed to keep the source ports of pods, and is "
                                        "not there: install nftables");
    char *text = table_text(roles, ports, family);
    int result = role_add(roles, &resource_nft, family == 4 ? "ip" : "ip6", text,
                          roles->site->snat == SNAT_NONE
                              ? "leave address and port of pods' connections to the hosts"
                              : "keep the source port of pods' connections to the hosts");
    free(text);
    return result;
}

/* A route to @block via the gateway must not catch what is between us and the gateway. */
static int node_route_check(struct roles *roles, const struct block *block, const uint8_t *via)
{
    char text[BLOCK_TEXT], addr[ADDR_TEXT];
    const char *whose = block_has(block, via) ? "[gateway] address" : NULL;
    const uint8_t *inside = via;
    for (size_t i = 0; i < roles->machine.count && !whose; i++) {
        inside = roles->machine.item[i].addr;
        whose = block_has(block, inside) ? "this machine's address" : NULL;
    }
    for (size_t i = 0; i < roles->nodes.count && !whose; i++) {
        inside = roles->nodes.item[i].addr;
        whose = block_has(block, inside) ? "a node's address" : NULL;
    }
    if (!whose)
        return 0;
    return role_refuse(roles,
                       "[hosts] addresses = %s contains %s %s, so it cannot be routed via the "
                       "gateway: give the hosts' own addresses, or smaller blocks",
                       block_print(block, text, sizeof(text)), whose,
                       addr_print(inside, addr, sizeof(addr)));
}

static int node_routes_family(struct roles *roles, int family, const uint8_t *via)
{
    int result = role_next_hop(roles, "[gateway] address", via);
    for (size_t i = 0; i < roles->hosts.count && result == 0; i++) {
        const struct block *block = &roles->hosts.item[i];
        if (block_family(block) != family)
            continue;
        result = node_route_check(roles, block, via);
        if (result == 0)
            role_route(roles, block, via);
    }
    return result;
}

static int node_routes(struct roles *roles)
{
    for (int family = 4; family <= 6; family += 2) {
        const uint8_t *via = role_gateway(roles, family);
        if (via && blocks_have_family(&roles->hosts, family) &&
            node_routes_family(roles, family, via) < 0)
            return -1;
    }
    return role_hosts_path(roles, true);
}

static int node_check(struct roles *roles)
{
    char networks[400];
    if (!roles->self)
        return role_refuse(roles,
                           "role node: no [node NAME] has an address of this machine: add one with "
                           "address and pods; this machine is connected to %s",
                           machine_networks(&roles->machine, 4, networks, sizeof(networks)));
    if (!roles->hosts.count)
        return role_refuse(roles, "role node: there are no hosts towards which ports are to be "
                                  "kept: add [hosts] addresses");
    return 0;
}

int node_want(struct roles *roles)
{
    struct portset ports;
    if (node_check(roles) < 0 || node_routes(roles) < 0)
        return -1;
    if (site_pool_ports(&roles->site->config.policy, &ports) < 0)
        return role_refuse(roles, "[pool] and [rule] have more than %d ranges of ports together",
                           PORTRANGE_MAX);
    role_reserve(roles, &ports);
    if (roles->site->node_pool &&
        role_pool(roles, &roles->site->config, "hold the source ports of pods' connections") < 0)
        return -1;
    return node_table(roles, &ports, 4) < 0 ? -1 : node_table(roles, &ports, 6);
}
