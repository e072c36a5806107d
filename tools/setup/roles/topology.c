/* SPDX-License-Identifier: MIT */
/*
 * Which kind of site the configuration describes, as seen from this machine. A firewall can only
 * judge a connection that passes it in both directions, so this decides what has to be steered:
 *
 *   routed        hosts - gateway - cluster, each in a network of its own: everything passes it
 *   nodes         no gateway's address, and nodes have the role gateway: each is the firewall for
 *                 its own pods. Hosts' routes lead to the nodes, and only the nodes forward
 *   inline        no gateway's address, and a machine of its own has the role: it stands between
 *                 hosts and nodes as a bridge does (or by proxy ARP), and nothing is routed to it
 *   one arm       the gateway is a third machine on the network that hosts and nodes share. A host
 *                 answers a node directly, so only pods under their own address pass it both ways,
 *                 and only if the node sends them there
 *   host gateway  one of the hosts is the gateway
 *
 * "One arm" is what a machine sees of its network: a node that has a host, or a host that has a
 * node, on a network that it is connected to itself, or a gateway that has both on one interface.
 */
#include "roles.h"

#include <string.h>

static bool site_has_role(const struct site *site, unsigned roles)
{
    for (size_t i = 0; i < site->machines; i++)
        if ((site->machine[i].roles & roles) == roles)
            return true;
    return false;
}

/* A block of hosts may well have the gateway in it; a host is what is named, or has both roles. */
static bool gateway_is_host(const struct roles *roles)
{
    bool both = (roles->roles & (ROLE_HOST | ROLE_GATEWAY)) == (ROLE_HOST | ROLE_GATEWAY) ||
                site_has_role(roles->site, ROLE_HOST | ROLE_GATEWAY);
    for (size_t i = 0; i < roles->site->gateways.count; i++) {
        const struct block *host = blocks_with(&roles->hosts, roles->site->gateways.item[i].addr);
        if (host && (both || host->prefix == 128))
            return true;
    }
    return false;
}

/* The gateway's address that is used from here: to that one the way is straight, and right. */
static bool is_gateway(const struct roles *roles, const struct block *block)
{
    const uint8_t *via = pair_get(&roles->site->gateway, block_family(block));
    return via && block->prefix == 128 && memcmp(via, block->addr, 16) == 0;
}

/*
 * One on a connected network, by whichever device; the gateway itself does not count. Our own
 * routes do not either: 0.1.0 had one on nodes to each host, by the gateway.
 */
static int find_direct(struct roles *roles, const struct block_list *list, int family,
                       const char *device, struct machine_path *found, uint8_t addr[16])
{
    for (size_t i = 0; i < list->count; i++) {
        if (block_family(&list->item[i]) != family || is_gateway(roles, &list->item[i]))
            continue;
        role_sample(roles, &list->item[i], addr);
        if (machine_path_unrouted(addr, found, roles->error) < 0)
            return -1;
        if (found->direct && (!device || strcmp(found->device, device) == 0))
            return 1;
    }
    return 0;
}

/* Whether hosts and nodes of @family would find each other without the gateway. */
static int look_one_arm(struct roles *roles, int family)
{
    struct machine_path host, node;
    uint8_t node_addr[16];
    bool own = !role_gateway(roles, family);
    if (!pair_get(&roles->site->gateway, family))
        return 0;
    if (!own && roles->roles & ROLE_NODE)
        return find_direct(roles, &roles->hosts, family, NULL, &host, roles->sample);
    if (!own && roles->roles & ROLE_HOST)
        return find_direct(roles, &roles->nodes, family, NULL, &node, roles->sample);
    int found = find_direct(roles, &roles->nodes, family, NULL, &node, node_addr);
    return found > 0 ? find_direct(roles, &roles->hosts, family, node.device, &host, roles->sample)
                     : found;
}

/* Under the nodes' address the hosts' answers go past the gateway. */
static int refuse_snat(struct roles *roles)
{
    char addr[ADDR_TEXT];
    return role_refuse(
        roles,
        "[snat] mode = %s: hosts and nodes are on one network (%s is, seen from here), so answers "
        "to a node's address go past the gateway: allowed with [gateway] address is mode = none; "
        "or leave the address out: if the nodes are the firewall (roles = node, gateway), or if "
        "the gateway stands between the two sides like a bridge",
        roles->site->snat == SNAT_KEEP ? "keep" : "confine",
        addr_print(roles->sample, addr, sizeof(addr)));
}

int topology_look(struct roles *roles)
{
    const struct site *site = roles->site;
    bool gateway = roles->roles & ROLE_GATEWAY || site_has_role(site, ROLE_GATEWAY);
    bool nodes = (roles->roles & (ROLE_GATEWAY | ROLE_NODE)) == (ROLE_GATEWAY | ROLE_NODE) ||
                 site_has_role(site, ROLE_GATEWAY | ROLE_NODE);
    for (int family = 4; family <= 6 && !roles->one_arm; family += 2) {
        int found = look_one_arm(roles, family);
        if (found < 0)
            return -1;
        roles->one_arm = found;
    }
    if (!site->gateways.count)
        roles->topology = !gateway ? TOPOLOGY_OPEN : nodes ? TOPOLOGY_NODES : TOPOLOGY_INLINE;
    else if (gateway_is_host(roles))
        roles->topology = TOPOLOGY_HOST_GATEWAY;
    else
        roles->topology = roles->one_arm ? TOPOLOGY_ONE_ARM : TOPOLOGY_ROUTED;
    roles->snat = site->snat_given ? site->snat : roles->one_arm ? SNAT_NONE : SNAT_KEEP;
    roles->judged = gateway;
    return roles->one_arm && roles->snat != SNAT_NONE ? refuse_snat(roles) : 0;
}

/* ---- what is said of it ---- */

/* One family has a gateway, and the other does not. */
static void note_family(struct roles *roles)
{
    for (int family = 4; family <= 6 && roles->site->gateways.count; family += 2)
        if (!pair_get(&roles->site->gateway, family) && blocks_have_family(&roles->pods, family) &&
            blocks_have_family(&roles->hosts, family))
            resources_note(roles->resources,
                           "pods and hosts have IPv%d addresses, and [gateway] address has none: "
                           "their IPv%d connections are not sent through the gateway",
                           family, family);
}

/* Nodes that nobody is the firewall for, where nodes are. */
static void note_nodes(struct roles *roles)
{
    const struct site *site = roles->site;
    for (size_t i = 0; i < site->machines; i++)
        if (site->machine[i].roles & ROLE_NODE && !(site->machine[i].roles & ROLE_GATEWAY))
            resources_note(roles->resources,
                           "[machine %s] has the role node and not gateway: the connections of its "
                           "pods pass no firewall, and hosts' to them neither; roles = node, "
                           "gateway makes it one",
                           site->machine[i].name);
}

void topology_note(struct roles *roles)
{
    static const char *const kinds[] = {
        [TOPOLOGY_OPEN] = "no gateway: the configuration names none, so nothing is rejected",
        [TOPOLOGY_NODES] = "the nodes are the firewall: hosts' routes lead to the nodes, and each "
                           "node judges the connections of its own pods",
        [TOPOLOGY_INLINE] = "a gateway without [gateway] address: it must stand between hosts and "
                            "nodes like a bridge, since nothing is routed to it",
        [TOPOLOGY_ROUTED] = "routed: the gateway is the way between the hosts' network and the "
                            "cluster's, and everything passes it",
        [TOPOLOGY_ONE_ARM] = "one network, a gateway with one arm: connections between pods and "
                             "hosts are steered through it, pods keep their own address; all else "
                             "goes as before",
        [TOPOLOGY_HOST_GATEWAY] = "a host is the gateway: it judges what it forwards between pods "
                                  "and hosts, and what is its own",
    };
    if (!(roles->roles & ~(unsigned)ROLE_CONTROL_PLANE))
        return;
    free(roles->resources->topology);
    roles->resources->topology = state_copy(kinds[roles->topology]);
    if (roles->topology == TOPOLOGY_NODES)
        note_nodes(roles);
    note_family(roles);
}
