/* SPDX-License-Identifier: MIT */
/*
 * The role "node": its pods' connections to the hosts must leave it with the source port that they
 * have, and pass the gateway if there is one. All of it is a table of our own in nft.
 *
 * postrouting. Most of what translates pods' addresses picks another port, always. A nat chain of
 * our own ahead of theirs (priority srcnat - 10) decides first: once an address translation is set
 * up for a connection, later rules do not change it.
 *   keep     masquerade: to the node's address; the port stays while it is free there, and the
 *            pool, which all pods of the node share, sees to that. The range that it is in must be
 *            named: else a port that the same pod used towards another address shortly before gets
 *            the translation that it had there, which is a random one of the CNI's (tried)
 *   none     "snat to ip saddr": a translation to what it is already. An accept would not do: the
 *            next chain would still be asked
 *   confine  keep, and any other port of a pod is moved into the range, so that programs without
 *            the shim get through the firewall too. One rule can give one range only: the longest,
 *            because it runs out last
 * In each mode the node's own addresses keep their ports of the pool as well: a program in the
 * node's network that asks for a Service which is a host is marked by kube-proxy to be masqueraded,
 * and would get a random port (tried). The address is named, so that it stays, too.
 *
 * prerouting, where the way to the hosts is not by the gateway anyway: the first packet of a
 * connection that a pod opens to a host, or a host to a pod's own address, puts a bit on the
 * connection (ct mark), and its packets from the pod get the same bit, which leads them to a
 * routing table of ours. It looks behind everybody's address translation (priority dstnat + 10): a
 * pod may have asked for a Service that is a host; a NodePort's connection was not opened to a
 * pod's address (ct original). What was open before has no bit and keeps its way; so does
 * everything that is not between a pod and a host.
 *
 * forward, with keep and a gateway: a pod's connection to a host that the gateway is to reject is
 * rejected here, because behind the node's address the gateway cannot tell it from the node's own.
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

/*
 * Whose connections are ours: this node's pods'. Others' pods may pass here too, on their way
 * through a NodePort of this node, and are translated so that they come back; but a gateway is for
 * all.
 */
static const struct block_list *pods_here(const struct roles *roles)
{
    return roles->roles & ROLE_GATEWAY || !roles->own_pods.count ? &roles->pods : &roles->own_pods;
}

/* Whether a block of hosts has nodes in it, which are no hosts. */
static bool hosts_have_nodes(const struct roles *roles, int family)
{
    for (size_t i = 0; i < roles->nodes.count; i++)
        if (block_family(&roles->nodes.item[i]) == family &&
            blocks_with(&roles->hosts, roles->nodes.item[i].addr))
            return true;
    return false;
}

/* " ip daddr { hosts } ", and if need be "ip daddr != { nodes } " */
static void rule_hosts(FILE *out, const struct roles *roles, int family)
{
    const char *ip = family == 4 ? "ip" : "ip6";
    fprintf(out, " %s daddr ", ip);
    nft_addresses(out, &roles->hosts, family);
    fputc(' ', out);
    if (!hosts_have_nodes(roles, family))
        return;
    fprintf(out, "%s daddr != ", ip);
    nft_addresses(out, &roles->nodes, family);
    fputc(' ', out);
}

/* "ip saddr { pods } ip daddr { hosts } ", and if need be "ip daddr != { nodes } " */
static void rule_begin(FILE *out, const struct roles *roles, int family)
{
    fprintf(out, "%s saddr ", family == 4 ? "ip" : "ip6");
    nft_addresses(out, pods_here(roles), family);
    rule_hosts(out, roles, family);
}

/* What the node itself, and pods in its network, have bound. */
static void rule_keep_own(FILE *out, const struct roles *roles, struct portrange range, int family)
{
    const struct address_pair *own = &roles->self->address;
    char addr[ADDR_TEXT];
    if (!(family == 4 ? own->has4 : own->has6))
        return;
    addr_print(family == 4 ? own->addr4 : own->addr6, addr, sizeof(addr));
    fprintf(out, "\t\t%s saddr %s", family == 4 ? "ip" : "ip6", addr);
    rule_hosts(out, roles, family);
    fputs("tcp sport ", out);
    range_print(out, range);
    fprintf(out, family == 4 ? " snat to %s:" : " snat to [%s]:", addr);
    range_print(out, range);
    fputs(" comment \"fixport: keep the node's own\"\n", out);
}

static void rule_keep(FILE *out, const struct roles *roles, struct portrange range, int family)
{
    fputs("\t\t", out);
    rule_begin(out, roles, family);
    fputs("tcp sport ", out);
    range_print(out, range);
    fputs(" masquerade to :", out);
    range_print(out, range);
    fputs(" comment \"fixport: keep the port\"\n", out);
}

static void rules_snat(FILE *out, const struct roles *roles, const struct portset *ports,
                       int family)
{
    fputs("\tchain postrouting {\n"
          "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n",
          out);
    if (roles->snat == SNAT_NONE) {
        fputs("\t\t", out);
        rule_begin(out, roles, family);
        fprintf(out, "meta l4proto tcp snat to %s saddr comment \"fixport: as it is\"\n",
                family == 4 ? "ip" : "ip6");
    } else {
        for (uint32_t i = 0; i < ports->count; i++)
            rule_keep(out, roles, ports->range[i], family);
    }
    for (uint32_t i = 0; i < ports->count; i++)
        rule_keep_own(out, roles, ports->range[i], family);
    if (roles->snat == SNAT_CONFINE) {
        fputs("\t\t", out);
        rule_begin(out, roles, family);
        fputs("meta l4proto tcp masquerade to :", out);
        range_print(out, longest(ports));
        fputs(" comment \"fixport: into the range\"\n", out);
    }
    fputs("\t}\n", out);
}

static void rules_steer(FILE *out, const struct roles *roles, int family)
{
    const char *ip = family == 4 ? "ip" : "ip6";
    unsigned mark = roles->site->mark;
    fputs("\tchain prerouting {\n"
          "\t\ttype filter hook prerouting priority dstnat + 10; policy accept;\n"
          "\t\tct state new ct direction original ct status & snat == 0 ",
          out);
    rule_begin(out, roles, family);
    fprintf(out,
            "meta l4proto tcp ct mark set ct mark | 0x%08x comment \"fixport: pod to host\"\n"
            "\t\tct state new ct direction original ct original %s daddr ",
            mark, ip);
    nft_addresses(out, pods_here(roles), family);
    fprintf(out, " %s saddr ", ip);
    nft_addresses(out, &roles->hosts, family);
    fprintf(out, " %s daddr ", ip);
    nft_addresses(out, pods_here(roles), family);
    fprintf(out,
            " meta l4proto tcp ct mark set ct mark | 0x%08x comment \"fixport: host to pod\"\n"
            "\t\tct mark & 0x%08x == 0x%08x %s saddr ",
            mark, mark, mark, ip);
    nft_addresses(out, pods_here(roles), family);
    fprintf(out,
            " meta mark set meta mark | 0x%08x comment \"fixport: by the gateway\"\n"
            "\t}\n",
            mark);
}

/* One rule: pods' connections to hosts whose "sport" or "dport" is none of @ports. */
static void rule_reject(FILE *out, const struct roles *roles, const char *what,
                        const struct portset *ports, const char *comment, int family)
{
    fputs("\t\tct state new ct direction original ", out);
    rule_begin(out, roles, family);
    fputs(ports->count ? "tcp " : "meta l4proto tcp", out);
    for (uint32_t i = 0; i < ports->count; i++) {
        fprintf(out, i ? ", " : "%s != { ", what);
        range_print(out, ports->range[i]);
    }
    fprintf(out, "%s reject comment \"fixport: %s\"\n", ports->count ? " }" : "", comment);
}

static void rules_reject(FILE *out, const struct roles *roles, const struct portset *ports,
                         int family)
{
    fputs("\tchain forward {\n"
          "\t\ttype filter hook forward priority filter - 5; policy accept;\n",
          out);
    if (roles->snat == SNAT_KEEP) /* confine: every port becomes one of the pool's */
        rule_reject(out, roles, "sport", ports, "not from the pool", family);
    rule_reject(out, roles, "dport", &roles->site->host_services, "not to a service", family);
    fputs("\t}\n", out);
}

/* Nearly as "nft -s list table" prints it. */
static char *table_text(const struct roles *roles, const struct portset *ports, int family)
{
    char *text = NULL;
    FILE *out = state_open(&text);
    fprintf(out, "table %s " SETUP_TABLE " {\n", family == 4 ? "ip" : "ip6");
    if (roles->steers[family == 6])
        rules_steer(out, roles, family);
    if (roles->judged && roles->snat != SNAT_NONE && !(roles->roles & ROLE_GATEWAY))
        rules_reject(out, roles, ports, family);
    rules_snat(out, roles, ports, family);
    fputs("}\n", out);
    state_close(out);
    return text;
}

static int node_table(struct roles *roles, const struct portset *ports, int family)
{
    if (!blocks_have_family(pods_here(roles), family) ||
        !blocks_have_family(&roles->hosts, family))
        return 0;
    if (!run_exists("nft"))
        return setup_fail(roles->error, "nft is needed to keep the source ports of pods, and is "
                                        "not there: install nftables");
    char *text = table_text(roles, ports, family);
    int result = role_add(roles, &resource_nft, family == 4 ? "ip" : "ip6", text,
                          roles->steers[family == 6]
                              ? "steer connections between pods and hosts through the gateway, and "
                                "leave them their address and port"
                          : roles->snat == SNAT_NONE
                              ? "leave address and port of pods' connections to the hosts"
                              : "keep the source port of pods' connections to the hosts");
    free(text);
    return result;
}

/* ---- the way through the gateway ---- */

/* A block of hosts that has nodes in it would steer what is for the nodes as well. */
static int steer_check(struct roles *roles, const struct block *block)
{
    char text[BLOCK_TEXT], addr[ADDR_TEXT];
    const char *whose = NULL;
    const uint8_t *inside = NULL;
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

/*
 * Answers come from the gateway's interface. If this machine's own way to the host is by another
 * one, a strict check of the source address (ip-sysctl, rp_filter) drops them.
 */
static int steer_check_filter(struct roles *roles, const struct block *block, const char *device,
                              const char *gateway_device)
{
    char text[BLOCK_TEXT], name[SYSCTL_NAME];
    const char *const devices[] = {"all", gateway_device};
    int most = 0;
    if (block_family(block) == 6 || !*device || strcmp(device, gateway_device) == 0)
        return 0;
    for (size_t i = 0; i < 2; i++) {
        char *value = NULL;
        machine_sysctl(4, devices[i], "rp_filter", name, sizeof(name));
        if (resource_sysctl.read(name, &value, roles->error) < 0)
            return -1;
        most = value && atoi(value) > most ? atoi(value) : most;
        free(value);
    }
    if (most != 1)
        return 0;
    return role_refuse(roles,
                       "%s is 1 here, and the way to [hosts] addresses = %s is by %s: answers that "
                       "come through the gateway on %s would be dropped; set it to 2 (loose)",
                       name, block_print(block, text, sizeof(text)), device, gateway_device);
}

/*
 * How pods' packets to a block of hosts go by themselves decides what is to be done. To the
 * gateway: nothing. Nowhere: a route for all, which takes nothing away from anybody. Elsewhere, be
 * it straight to the host: only connections between pods and hosts are taken to the gateway
 * (table_steer()).
 */
static int node_way(struct roles *roles, const struct block *block, const uint8_t *via,
                    const struct machine_path *gateway)
{
    uint8_t addr[16], pod[16];
    char router[ADDR_TEXT], text[BLOCK_TEXT];
    struct machine_path own, pods;
    int family = block_family(block);
    const struct block *from = NULL;
    role_sample(roles, block, addr);
    for (size_t i = 0; i < roles->self->pods.count && !from; i++)
        if (block_family(&roles->self->pods.item[i]) == family)
            from = &roles->self->pods.item[i];
    if (from)
        machine_pod(&roles->machine, from, pod);
    if (machine_path_unrouted(addr, &own, roles->error) < 0)
        return -1;
    if (!own.found) {
        if (steer_check(roles, block) < 0)
            return -1;
        role_route(roles, block, via, false);
        return 0;
    }
    if (!from) /* no pods of this family are here */
        return 0;
    if (machine_path(addr, pod, &pods, roles->error) < 0)
        return -1;
    if (block->prefix == 128 && memcmp(block->addr, via, 16) == 0)
        return 0;
    addr_print(via, router, sizeof(router));
    if (strcmp(own.router, router) == 0 && strcmp(pods.router, router) == 0)
        return 0;
    if (steer_check(roles, block) < 0 ||
        steer_check_filter(roles, block, own.device, gateway->device) < 0)
        return -1;
    if (strcmp(own.router, router) == 0)
        resources_note(
            roles->resources,
            "a rule of policy routing (ip rule) sends pods' packets for %s elsewhere than "
            "this machine's: to the gateway they are steered ahead of it",
            block_print(block, text, sizeof(text)));
    role_route(roles, block, via, true);
    roles->steers[family == 6] = true;
    return 0;
}

static int node_routes(struct roles *roles)
{
    for (int family = 4; family <= 6; family += 2) {
        const uint8_t *via = role_gateway(roles, family);
        struct machine_path gateway;
        if (!via || !blocks_have_family(&roles->hosts, family))
            continue;
        if (role_next_hop(roles, "[gateway] address", via) < 0 ||
            machine_path(via, NULL, &gateway, roles->error) < 0)
            return -1;
        for (size_t i = 0; i < roles->hosts.count; i++)
            if (block_family(&roles->hosts.item[i]) == family &&
                node_way(roles, &roles->hosts.item[i], via, &gateway) < 0)
                return -1;
    }
    /* Said while it is still time to do it in another order. */
    if ((roles->steers[0] || roles->steers[1]) &&
        !journal_find(roles->journal, &resource_rule, roles->steers[0] ? "ipv4" : "ipv6"))
        resources_note(
            roles->resources,
            "once this is applied, new connections of this node's pods to hosts go through "
            "the gateway, and hosts answer the pods' own addresses: hosts and gateway "
            "should be applied first");
    return role_hosts_path(roles, true);
}

/* What translates NodePorts without connection tracking leaves no trace of it on a connection. */
static void note_translators(struct roles *roles)
{
    static const char *const devices[] = {"cilium_host", "kube-ipvs0"};
    for (size_t i = 0; i < 2; i++)
        if (if_nametoindex(devices[i]) && (roles->judged || roles->steers[0] || roles->steers[1]))
            resources_note(
                roles->resources,
                "%s is here: what it does to NodePorts cannot be told from connections to "
                "pods' own addresses; try one from a host after apply --confirm",
                devices[i]);
}

/* The pool's rules are read from the file by others too, who do not see the topology. */
static void note_scope(struct roles *roles)
{
    if (roles->snat == SNAT_NONE && !roles->site->snat_given)
        resources_note(
            roles->resources,
            "pods keep their own addresses on the way to hosts, as [snat] mode = none would "
            "say: with that in the file each pod has all ports of [pool] to itself ([pool] "
            "scope = address), without it they share them");
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
    note_translators(roles);
    note_scope(roles);
    if (site_pool_ports(&roles->site->config.policy, &roles->site->config.slices, &ports) < 0)
        return role_refuse(roles, "[pool] and [rule] have more than %d ranges of ports together",
                           PORTRANGE_MAX);
    role_reserve(roles, &ports);
    if (role_pool(roles, &roles->site->config, "hold the source ports of pods' connections") < 0)
        return -1;
    return node_table(roles, &ports, 4) < 0 ? -1 : node_table(roles, &ports, 6);
}
