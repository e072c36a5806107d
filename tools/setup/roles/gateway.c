/* SPDX-License-Identifier: MIT */
/*
 * The role "gateway": forwarding, and the firewall between pods and hosts.
 *
 * It judges TCP connections between a pod and a host of the configuration. What is not one keeps its
 * verdict: it is none of our business, and passes on to whatever rules there are.
 *
 *   FORWARD (or DOCKER-USER) ─ FIXPORT-FORWARD
 *       from a pod         ─ FIXPORT-PODS-OUT    to a pod or node: none of our business
 *                                to a host, tcp ─ FIXPORT-PODS-OUT-TCP     ports decide, else rejected
 *       from a node        ─ FIXPORT-NODES-OUT
 *                                to a host, tcp ─ FIXPORT-NODES-OUT-TCP    the pool's ports pass
 *       to a pod           ─ FIXPORT-PODS-IN
 *                                from a host, tcp ─ FIXPORT-PODS-IN-TCP    ports decide, else rejected
 *       to a node          ─ FIXPORT-NODES-IN
 *                                from a host, tcp ─ FIXPORT-NODES-IN-TCP   node ports, and answers
 *   INPUT, OUTPUT of a gateway that is a host itself ─ FIXPORT-HOST ─ the same four, for its address
 *
 * What a node translates leaves it under the node's address, and cannot be told from what the node
 * itself sends; so of that the pool's ports pass, and nothing is rejected: the node has done so
 * (node.c). With exclusive = yes nothing is none of our business, and everything else is rejected,
 * also between nodes and hosts.
 *
 * A connection that was opened to a NodePort or to whatever else is translated here (conntrack's
 * state DNAT) is not one to a pod's own address, and none of our business.
 *
 * On a node our jump stands behind those to network policies, which must still be able to say no.
 *
 * The first level is reached by "goto": a return from there leaves FIXPORT-FORWARD altogether, so
 * each direction is looked at once. Addresses and ports are matched in different chains, so N
 * addresses and M lists of ports are N + M rules, not N * M.
 *
 * stateful = yes: connection tracking knows the answers. stateful = no: rules for the answers are
 * the requests' mirrored, but a first packet (SYN without ACK) never is an answer, or a pod could
 * open connections to any port of a host from its service's port. Errors of ICMP are let through to
 * either side: without them connections with a smaller MTU on the way hang.
 *
 * All text is in the form in which iptables-save prints it (tried with 1.8.9, both backends).
 */
#include "roles.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MULTIPORT 15 /* XT_MULTI_PORTS; a range takes two */

/* One family's rules being written. */
struct firewall {
    const struct roles *roles;
    const char *pass;      /* the verdict of what passes */
    bool exclusive;        /* reject what is none of our business */
    const struct site *site;
    struct portset pool; /* source ports of pods */
    int family;
    FILE *out;
};

/* ---- rules ---- */

static void rule_end(const struct firewall *wall, const char *comment, const char *verdict)
{
    fprintf(wall->out, " -m comment --comment \"" SETUP_TAG "%s\" %s\n", comment, verdict);
}

static void rule_reject(const struct firewall *wall, const char *chain, const char *comment)
{
    fprintf(wall->out, "-A %s", chain);
    rule_end(wall, comment,
             wall->family == 4 ? "-j REJECT --reject-with icmp-port-unreachable"
                               : "-j REJECT --reject-with icmp6-port-unreachable");
}

/* One rule for each block of the family: "-A CHAIN -s BLOCK @match ...". */
static void rules_for(const struct firewall *wall, const char *chain, const char *direction,
                      const struct block_list *list, const char *match, const char *comment,
                      const char *verdict)
{
    char text[BLOCK_TEXT];
    for (size_t i = 0; i < list->count; i++) {
        if (block_family(&list->item[i]) != wall->family)
            continue;
        fprintf(wall->out, "-A %s %s %s%s", chain, direction,
                block_print(&list->item[i], text, sizeof(text)), match);
        rule_end(wall, comment, verdict);
    }
}

/* ---- ports ---- */

/* The ranges from @first on that fit into one rule. Return: the index of the first that does not.
 */
static uint32_t ports_chunk(const struct portset *ports, uint32_t first, struct portset *chunk)
{
    unsigned places = MULTIPORT;
    *chunk = (struct portset){.count = 0};
    for (; first < ports->count; first++) {
        const struct portrange *range = &ports->range[first];
        unsigned takes = range->hi > range->lo ? 2 : 1;
        if (takes > places)
            break;
        places -= takes;
        chunk->range[chunk->count++] = *range;
    }
    return first;
}

static void range_print(FILE *out, const char *before, const struct portrange *range)
{
    fprintf(out, range->hi > range->lo ? "%s%u:%u" : "%s%u", before, range->lo, range->hi);
}

static void multiport_print(FILE *out, const char *option, const struct portset *ports)
{
    fprintf(out, " -m multiport %s", option);
    for (uint32_t i = 0; i < ports->count; i++)
        range_print(out, i ? "," : " ", &ports->range[i]);
}

/* Lists by multiport, single ranges and flags by tcp; an empty set is any port. */
static void ports_match(FILE *out, const struct portset *from, const struct portset *to,
                        bool answers)
{
    if (from->count > 1)
        multiport_print(out, "--sports", from);
    if (to->count > 1)
        multiport_print(out, "--dports", to);
    if (from->count == 1 || to->count == 1 || answers)
        fputs(" -m tcp", out);
    if (from->count == 1)
        range_print(out, " --sport ", &from->range[0]);
    if (to->count == 1)
        range_print(out, " --dport ", &to->range[0]);
    if (answers)
        fputs(" ! --tcp-flags SYN,ACK SYN", out);
}

/* Accept tcp from ports @from (empty: any) to ports @to, in as many rules as it takes. */
static void rules_ports(const struct firewall *wall, const char *chain, const struct portset *from,
                        const struct portset *to, bool answers, const char *comment)
{
    struct portset sources, targets;
    uint32_t source = 0, target;
    do {
        source = ports_chunk(from, source, &sources);
        target = 0;
        do {
            target = ports_chunk(to, target, &targets);
            fprintf(wall->out, "-A %s -p tcp", chain);
            ports_match(wall->out, &sources, &targets, answers);
            rule_end(wall, comment, wall->pass);
        } while (target < to->count);
    } while (source < from->count);
}

static const struct portset any_port;

static struct portset node_ports(const struct firewall *wall)
{
    struct portset ports = {.count = wall->site->node_ports.lo ? 1 : 0};
    ports.range[0] = wall->site->node_ports;
    return ports;
}

/* ---- chains ---- */

/* Errors about connections that are there, from wherever on the way. */
static void rules_errors(const struct firewall *wall, const char *chain)
{
    static const unsigned errors4[] = {3, 11, 12};  /* unreachable, time exceeded, bad parameter */
    static const unsigned errors6[] = {1, 2, 3, 4}; /* and packet too big */
    bool v4 = wall->family == 4;
    const char *icmp = v4 ? "icmp" : "ipv6-icmp";
    if (wall->site->stateful) {
        fprintf(wall->out, "-A %s -p %s -m conntrack --ctstate RELATED", chain, icmp);
        rule_end(wall, "errors", wall->pass);
        return;
    }
    for (size_t i = 0; i < (v4 ? sizeof(errors4) : sizeof(errors6)) / sizeof(unsigned); i++) {
        if (v4)
            fprintf(wall->out, "-A %s -p icmp -m icmp --icmp-type %u", chain, errors4[i]);
        else
            fprintf(wall->out, "-A %s -p ipv6-icmp -m icmp6 --icmpv6-type %u", chain, errors6[i]);
        rule_end(wall, "errors", wall->pass);
    }
}

/* With exclusive: answers of all that is forwarded, as far as they can be known. */
static void rules_exclusive(const struct firewall *wall, const char *chain)
{
    if (!wall->exclusive || !wall->site->stateful)
        return;
    fprintf(wall->out, "-A %s -m conntrack --ctstate RELATED,ESTABLISHED", chain);
    rule_end(wall, "answers", wall->pass);
}

/* What was translated on this machine was not opened to, or by, a pod's own address. */
static void rule_translated(const struct firewall *wall, const char *chain, const char *direction)
{
    if (!wall->site->stateful && !wall->roles->self)
        return; /* nothing is translated where nothing is tracked */
    fprintf(wall->out, "-A %s -p tcp -m conntrack --ctstate DNAT --ctdir %s", chain, direction);
    rule_end(wall, "translated here", "-j RETURN");
}

static void rule_answers(const struct firewall *wall, const char *chain)
{
    if (!wall->site->stateful)
        return;
    fprintf(wall->out, "-A %s -p tcp -m conntrack --ctstate RELATED,ESTABLISHED", chain);
    rule_end(wall, "answers", wall->pass);
}

static void chain_forward(const struct firewall *wall, const char *chain)
{
    const struct block_list *pods = &wall->roles->pods, *nodes = &wall->roles->nodes;
    /* A bridge's machines cannot find each other without neighbour discovery (RFC 4861). */
    for (unsigned type = 133; type <= 136 && wall->exclusive && wall->family == 6; type++) {
        fprintf(wall->out, "-A %s -p ipv6-icmp -m icmp6 --icmpv6-type %u", chain, type);
        rule_end(wall, "neighbour discovery", "-j ACCEPT");
    }
    rules_for(wall, chain, "-s", pods, "", "from pods", "-g FIXPORT-PODS-OUT");
    rules_for(wall, chain, "-s", nodes, "", "from nodes", "-g FIXPORT-NODES-OUT");
    rules_for(wall, chain, "-d", pods, "", "to pods", "-g FIXPORT-PODS-IN");
    rules_for(wall, chain, "-d", nodes, "", "to nodes", "-g FIXPORT-NODES-IN");
    if (wall->exclusive)
        rule_reject(wall, chain, "nothing else is forwarded");
}

/* One rule for each pair of a side's block and an address of this machine that is a host's. */
static void rules_host(const struct firewall *wall, const char *chain,
                       const struct block_list *side, const char *out, const char *in)
{
    char block[BLOCK_TEXT], own[BLOCK_TEXT];
    for (size_t i = 0; i < wall->roles->machine.count; i++) {
        struct block one = {.prefix = 128};
        memcpy(one.addr, wall->roles->machine.item[i].addr, 16);
        if (block_family(&one) != wall->family || !blocks_with(&wall->roles->hosts, one.addr))
            continue;
        block_print(&one, own, sizeof(own));
        for (size_t k = 0; k < side->count; k++) {
            if (block_family(&side->item[k]) != wall->family)
                continue;
            block_print(&side->item[k], block, sizeof(block));
            fprintf(wall->out, "-A %s -s %s -d %s -p tcp", chain, block, own);
            rule_end(wall, "to this host", out);
            fprintf(wall->out, "-A %s -s %s -d %s -p tcp", chain, own, block);
            rule_end(wall, "from this host", in);
        }
    }
}

static void chain_host(const struct firewall *wall, const char *chain)
{
    rules_host(wall, chain, &wall->roles->pods, "-g FIXPORT-PODS-OUT-TCP",
               "-g FIXPORT-PODS-IN-TCP");
    if (!wall->exclusive) /* that is about what is forwarded */
        rules_host(wall, chain, &wall->roles->nodes, "-g FIXPORT-NODES-OUT-TCP",
                   "-g FIXPORT-NODES-IN-TCP");
}

static void chain_nodes_out(const struct firewall *wall, const char *chain)
{
    rules_exclusive(wall, chain);
    rules_errors(wall, chain);
    rules_for(wall, chain, "-d", &wall->roles->hosts, " -p tcp", "to hosts",
              "-g FIXPORT-NODES-OUT-TCP");
    if (!wall->exclusive)
        return;
    rules_for(wall, chain, "-d", &wall->roles->pods, "", "among pods and nodes", wall->pass);
    rules_for(wall, chain, "-d", &wall->roles->nodes, "", "among pods and nodes", wall->pass);
    rule_reject(wall, chain, "nodes to anything else");
}

/* Behind the nodes' addresses are pods, whose ports are the pool's, and the nodes themselves. */
static void chain_nodes_out_tcp(const struct firewall *wall, const char *chain)
{
    struct portset ports = node_ports(wall);
    const struct site *site = wall->site;
    if (site->host_services.count)
        rules_ports(wall, chain, &wall->pool, &site->host_services, false, "pods to services");
    if (ports.count)
        rules_ports(wall, chain, &ports, &any_port, true, "answers of node ports");
    if (wall->exclusive)
        rule_reject(wall, chain, "nodes to anything else");
}

static void chain_pods_out(const struct firewall *wall, const char *chain)
{
    const char *verdict = wall->exclusive ? wall->pass : "-j RETURN";
    rules_for(wall, chain, "-d", &wall->roles->pods, "", "among pods and nodes", verdict);
    rules_for(wall, chain, "-d", &wall->roles->nodes, "", "among pods and nodes", verdict);
    rules_exclusive(wall, chain);
    rules_errors(wall, chain);
    rules_for(wall, chain, "-d", &wall->roles->hosts, " -p tcp", "to hosts",
              "-g FIXPORT-PODS-OUT-TCP");
    if (wall->exclusive)
        rule_reject(wall, chain, "pods to anything else");
}

static void chain_pods_out_tcp(const struct firewall *wall, const char *chain)
{
    const struct site *site = wall->site;
    rule_translated(wall, chain, "REPLY");
    rule_answers(wall, chain);
    if (site->host_services.count)
        rules_ports(wall, chain, &wall->pool, &site->host_services, false, "pods to services");
    if (!site->stateful && site->pod_services.count)
        rules_ports(wall, chain, &site->pod_services, &site->host_ports, true, "answers of pods");
    rule_reject(wall, chain, "pods to other ports of hosts");
}

static void chain_pods_in(const struct firewall *wall, const char *chain)
{
    rules_exclusive(wall, chain);
    rules_errors(wall, chain);
    rules_for(wall, chain, "-s", &wall->roles->hosts, " -p tcp", "from hosts",
              "-g FIXPORT-PODS-IN-TCP");
    if (wall->exclusive)
        rule_reject(wall, chain, "anything else to pods");
}

static void chain_pods_in_tcp(const struct firewall *wall, const char *chain)
{
    const struct site *site = wall->site;
    rule_translated(wall, chain, "ORIGINAL");
    rule_answers(wall, chain);
    if (site->pod_services.count)
        rules_ports(wall, chain, &site->host_ports, &site->pod_services, false,
                    "hosts to services");
    if (!site->stateful && site->host_services.count)
        rules_ports(wall, chain, &site->host_services, &wall->pool, true, "answers of hosts");
    rule_reject(wall, chain, "hosts to other ports of pods");
}

static void chain_nodes_in(const struct firewall *wall, const char *chain)
{
    rules_exclusive(wall, chain);
    rules_errors(wall, chain);
    rules_for(wall, chain, "-s", &wall->roles->hosts, " -p tcp", "from hosts",
              "-g FIXPORT-NODES-IN-TCP");
    if (wall->exclusive)
        rule_reject(wall, chain, "anything else to nodes");
}

/* Node ports are how the cluster is reached without routes: from any port, the hosts' pool is for
   pods. Answers to pods whose address was translated come to the node too. */
static void chain_nodes_in_tcp(const struct firewall *wall, const char *chain)
{
    struct portset ports = node_ports(wall);
    const struct site *site = wall->site;
    if (ports.count)
        rules_ports(wall, chain, &any_port, &ports, false, "hosts to node ports");
    if (site->host_services.count)
        rules_ports(wall, chain, &site->host_services, &wall->pool, true, "answers of hosts");
    if (wall->exclusive)
        rule_reject(wall, chain, "anything else to nodes");
}

enum { HAS_PODS = 1, HAS_NODES = 2, HAS_HOSTS = 4, HAS_SELF = 8 };

/* Sorted. Each is there if something of its family leads to it: one of @sides, and all of @and. */
static const struct {
    const char *name;
    unsigned sides;
    unsigned and;
    void (*rules)(const struct firewall *wall, const char *chain);
} chains[] = {
    {SETUP_CHAIN, 0, 0, chain_forward},
    {"FIXPORT-HOST", HAS_SELF, HAS_SELF, chain_host},
    {"FIXPORT-NODES-IN", HAS_NODES, 0, chain_nodes_in},
    {"FIXPORT-NODES-IN-TCP", HAS_NODES, HAS_HOSTS, chain_nodes_in_tcp},
    {"FIXPORT-NODES-OUT", HAS_NODES, 0, chain_nodes_out},
    {"FIXPORT-NODES-OUT-TCP", HAS_NODES, HAS_HOSTS, chain_nodes_out_tcp},
    {"FIXPORT-PODS-IN", HAS_PODS, 0, chain_pods_in},
    {"FIXPORT-PODS-IN-TCP", HAS_PODS, HAS_HOSTS, chain_pods_in_tcp},
    {"FIXPORT-PODS-OUT", HAS_PODS, 0, chain_pods_out},
    {"FIXPORT-PODS-OUT-TCP", HAS_PODS, HAS_HOSTS, chain_pods_out_tcp},
};
#define CHAINS (sizeof(chains) / sizeof(chains[0]))

/* Whether this machine is itself one of the hosts, in this family. */
static bool gateway_is_host(const struct firewall *wall)
{
    const struct machine *machine = &wall->roles->machine;
    for (size_t i = 0; wall->roles->roles & ROLE_HOST && i < machine->count; i++)
        if (address_is_v4(machine->item[i].addr) == (wall->family == 4) &&
            blocks_with(&wall->roles->hosts, machine->item[i].addr))
            return true;
    return false;
}

static bool chain_used(const struct firewall *wall, size_t i)
{
    unsigned has = (blocks_have_family(&wall->roles->pods, wall->family) ? HAS_PODS : 0) |
                   (blocks_have_family(&wall->roles->nodes, wall->family) ? HAS_NODES : 0) |
                   (blocks_have_family(&wall->roles->hosts, wall->family) ? HAS_HOSTS : 0) |
                   (gateway_is_host(wall) ? HAS_SELF : 0);
    return (!chains[i].sides || has & chains[i].sides) && (has & chains[i].and) == chains[i].and;
}

/*
 * Where Docker owns FORWARD, its own chain for administrators is the place to be. Where Docker is
 * installed it will, when it is started: what stood in FORWARD would then be below its rules.
 */
static void jump_print(const struct firewall *wall)
{
    bool docker = run_exists("dockerd") || iptables_has_chain(wall->family, "DOCKER-USER");
    const char *from = docker ? "DOCKER-USER" : "FORWARD";
    fprintf(wall->out, "%u -A %s", docker ? 1 : iptables_position(wall->family, from), from);
    rule_end(wall, "between pods and hosts", "-j " SETUP_CHAIN);
    for (size_t i = 0; gateway_is_host(wall) && i < 2; i++) {
        fprintf(wall->out, "1 -A %s", i ? "OUTPUT" : "INPUT");
        rule_end(wall, "between pods and this host", "-j FIXPORT-HOST");
    }
}

static char *firewall_text(struct firewall *wall)
{
    char *text = NULL;
    wall->out = state_open(&text);
    for (size_t i = 0; i < CHAINS; i++)
        if (chain_used(wall, i))
            fprintf(wall->out, ":%s - [0:0]\n", chains[i].name);
    for (size_t i = 0; i < CHAINS; i++)
        if (chain_used(wall, i))
            chains[i].rules(wall, chains[i].name);
    jump_print(wall);
    state_close(wall->out);
    return text;
}

/* With exclusive = yes the pods' family is not all that is forwarded. */
static bool family_wanted(const struct roles *roles, int family)
{
    bool there = family == 4 || access("/proc/sys/net/ipv6/conf/all/forwarding", F_OK) == 0;
    return blocks_have_family(&roles->pods, family) || (roles->site->exclusive && there);
}

static int gateway_rules(struct roles *roles, int family, const struct portset *pool)
{
    struct firewall wall = {
        .roles = roles,
        .site = roles->site,
        .pass = "-j ACCEPT",
        .exclusive = roles->site->exclusive,
        .pool = *pool,
        .family = family,
    };
    if (!family_wanted(roles, family))
        return 0;
    char *text = firewall_text(&wall);
    int result = role_add(roles, &resource_iptables, family == 4 ? "ipv4" : "ipv6", text,
                          "let pass what the configuration names between pods and hosts, and "
                          "nothing else");
    free(text);
    return result;
}

/* ---- source addresses ---- */

static void translates_table(FILE *out, const struct roles *roles, int family)
{
    const struct block_list *from[] = {&roles->pods, &roles->hosts};
    const char *ip = family == 4 ? "ip" : "ip6";
    fprintf(out,
            "table %s " SETUP_TABLE " {\n\tchain postrouting {\n"
            "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n",
            ip);
    for (size_t i = 0; i < 2; i++) {
        fprintf(out, "\t\t%s saddr ", ip);
        nft_addresses(out, from[i], family);
        fprintf(out, " %s daddr ", ip);
        nft_addresses(out, from[!i], family);
        fprintf(out, " meta l4proto tcp snat to %s saddr comment \"fixport: as it is\"\n", ip);
    }
    fputs("\t}\n}\n", out);
}

/*
 * A gateway that masquerades would give pods on two nodes one address, and the second one another
 * port. Between pods and hosts, which have routes to each other, nothing needs to be translated: a
 * rule of ours ahead of the others' leaves address and port. Behind nodes' addresses we cannot
 * know whether hosts have a way back, so that is only said.
 */
static int gateway_translates(struct roles *roles)
{
    int result = 0;
    for (int family = 4; family <= 6 && result == 0; family += 2) {
        char rule[200], *text = NULL;
        if (!roles->site->stateful || !blocks_have_family(&roles->pods, family) ||
            !blocks_have_family(&roles->hosts, family) ||
            !machine_translates(family, rule, sizeof(rule)))
            continue;
        resources_note(roles->resources,
                       "this gateway translates source addresses (%s): connections between pods "
                       "and hosts are kept out of that%s",
                       rule,
                       roles->snat == SNAT_NONE
                           ? ""
                           : ", but those that arrive under a node's address ([snat] mode = keep) "
                             "are not, and two nodes that use one port will meet: mode = none "
                             "avoids it");
        FILE *out = state_open(&text);
        translates_table(out, roles, family);
        state_close(out);
        result = role_add(roles, &resource_nft, family == 4 ? "ip" : "ip6", text,
                          "leave address and port of connections between pods and hosts");
        free(text);
    }
    return result;
}

/* ---- forwarding ---- */

/* The interfaces towards the nodes, or the hosts; each once. */
struct devices {
    char name[16][IF_NAMESIZE];
    size_t count;
};

static void devices_add(struct devices *devices, const char *name)
{
    for (size_t i = 0; i < devices->count; i++)
        if (strcmp(devices->name[i], name) == 0)
            return;
    if (devices->count < sizeof(devices->name) / sizeof(devices->name[0]))
        snprintf(devices->name[devices->count++], IF_NAMESIZE, "%s", name);
}

static int devices_towards(struct roles *roles, const struct block_list *list, int family,
                           struct devices *devices)
{
    *devices = (struct devices){.count = 0};
    for (size_t i = 0; i < list->count; i++) {
        uint8_t addr[16];
        struct machine_path path;
        if (block_family(&list->item[i]) != family)
            continue;
        role_sample(roles, &list->item[i], addr);
        if (machine_path(addr, NULL, &path, roles->error) < 0)
            return -1;
        if (path.found && !path.local)
            devices_add(devices, path.device);
    }
    return 0;
}

/*
 * A router that sends a packet out where it came in tells the sender of the shorter way: hosts on
 * the nodes' own network would go around the firewall after their first packet. The kernel does so
 * if "all" or the interface says so, hence both; other interfaces keep their own setting.
 */
static int gateway_redirects(struct roles *roles)
{
    static const char why[] = "not tell hosts the way around the firewall";
    char name[SYSCTL_NAME];
    struct devices nodes, hosts;
    bool all = false;
    if (!roles->site->gateway.has4)
        return 0;
    if (devices_towards(roles, &roles->nodes, 4, &nodes) < 0 ||
        devices_towards(roles, &roles->hosts, 4, &hosts) < 0)
        return -1;
    for (size_t i = 0; i < nodes.count * hosts.count; i++) {
        const char *device = nodes.name[i / hosts.count];
        if (strcmp(device, hosts.name[i % hosts.count]) != 0)
            continue;
        if (!all && role_sysctl(roles, "net.ipv4.conf.all.send_redirects", "0", why) < 0)
            return -1;
        all = true;
        machine_sysctl(4, device, "send_redirects", name, sizeof(name));
        if (role_sysctl(roles, name, "0", why) < 0)
            return -1;
    }
    return 0;
}

/*
 * An interface with accept_ra = 1 forgets its default route when the machine becomes a router
 * (2 means: listen all the same). What an earlier apply has set stays set.
 */
static int gateway_accept_ra(struct roles *roles, const char *device)
{
    char name[SYSCTL_NAME];
    char *now = NULL;
    machine_sysctl(6, device, "accept_ra", name, sizeof(name));
    if (resource_sysctl.read(name, &now, roles->error) < 0)
        return -1;
    bool needed = journal_find(roles->journal, &resource_sysctl, name) ||
                  (now && strcmp(now, "1") == 0 && machine_ra_device(device));
    free(now);
    return needed ? role_sysctl(roles, name, "2", "keep the router's own default route") : 0;
}

/* Those that forwarded already, or did before us. */
static int gateway_interfaces(struct roles *roles, int family, bool ours)
{
    char folder[64], name[SYSCTL_NAME];
    const struct dirent *entry;
    int result = 0;
    snprintf(folder, sizeof(folder), "/proc/sys/net/ipv%d/conf", family);
    DIR *list = opendir(folder);
    while (list && result == 0 && (entry = readdir(list))) {
        char *now = NULL;
        if (*entry->d_name == '.' || strcmp(entry->d_name, "all") == 0)
            continue;
        machine_sysctl(family, entry->d_name, "forwarding", name, sizeof(name));
        result = resource_sysctl.read(name, &now, roles->error);
        if (result == 0 && (journal_find(roles->journal, &resource_sysctl, name) ||
                            (!ours && now && strcmp(now, "1") == 0)))
            result = role_sysctl(roles, name, "1", "know what it was, for the way back");
        free(now);
    }
    if (list)
        closedir(list);
    return result;
}

/*
 * When a machine becomes a router or ceases to be one, the kernel sets more than it was asked for:
 * whether it listens to redirects (IPv4), and the forwarding of every interface, whatever that was.
 * So these are resources too, and stand before @master: on the way back, last first, they are put
 * right after it.
 */
static int gateway_switch(struct roles *roles, int family, const char *master)
{
    char *now = NULL;
    const struct journal_entry *ours = journal_find(roles->journal, &resource_sysctl, master);
    if (resource_sysctl.read(master, &now, roles->error) < 0)
        return -1;
    bool switched = state_equal(ours ? ours->before : now, "0");
    free(now);
    if (switched && gateway_interfaces(roles, family, ours != NULL) < 0)
        return -1;
    if (switched && family == 4 &&
        role_sysctl(roles, "net.ipv4.conf.all.accept_redirects", "0",
                    "not be told ways around the firewall") < 0)
        return -1;
    return role_sysctl(roles, master, "1", "pass packets on between pods and hosts");
}

static int gateway_forwarding6(struct roles *roles)
{
    struct devices seen = {.count = 0};
    for (size_t i = 0; i < roles->machine.count; i++)
        if (!address_is_v4(roles->machine.item[i].addr))
            devices_add(&seen, roles->machine.item[i].device);
    for (size_t i = 0; i < seen.count; i++)
        if (gateway_accept_ra(roles, seen.name[i]) < 0)
            return -1;
    return gateway_switch(roles, 6, "net.ipv6.conf.all.forwarding");
}

static int gateway_forwarding(struct roles *roles)
{
    if (blocks_have_family(&roles->pods, 4) && gateway_switch(roles, 4, "net.ipv4.ip_forward") < 0)
        return -1;
    if (blocks_have_family(&roles->pods, 6) && gateway_forwarding6(roles) < 0)
        return -1;
    return gateway_redirects(roles);
}

/* ---- the role ---- */

/* The [gateway] address is this machine's; if another has it now, it is at least a neighbour. */
static int gateway_check_address(struct roles *roles)
{
    bool own = !roles->site->gateways.count;
    for (size_t i = 0; i < roles->site->gateways.count; i++)
        own = own || machine_has(&roles->machine, roles->site->gateways.item[i].addr);
    if (!own)
        resources_note(roles->resources,
                       "role gateway: this machine has none of [gateway] address now, so nothing "
                       "is sent through it: right only if it takes such an address over later "
                       "(VRRP); else give the machine's own");
    for (int family = 4; family <= 6; family += 2) {
        const uint8_t *addr = role_gateway(roles, family);
        if (addr && role_next_hop(roles, "[gateway] address", addr) < 0)
            return -1;
    }
    return 0;
}

static int gateway_check(struct roles *roles)
{
    const struct site *site = roles->site;
    if (!roles->pods.count)
        return role_refuse(roles, "role gateway: there are no pods to let through: add sections "
                                  "[node NAME] with address and pods, or [pods] blocks");
    if (!roles->hosts.count)
        return role_refuse(roles, "role gateway: there are no hosts to let through: add [hosts] "
                                  "addresses");
    if (!site->host_services.count && !site->pod_services.count && !site->node_ports.lo)
        return role_refuse(roles,
                           "role gateway: nothing would be let through: add [hosts] services "
                           "(ports that pods may connect to), or [pods] services");
    if (gateway_check_address(roles) < 0)
        return -1;
    return role_hosts_path(roles, false);
}

int gateway_want(struct roles *roles)
{
    struct portset pool;
    if (gateway_check(roles) < 0 || iptables_choose(roles->site->iptables, roles->error) < 0)
        return -1;
    if (site_pool_ports(&roles->site->config.policy, &roles->site->config.slices, &pool) < 0)
        return role_refuse(roles, "[pool] and [rule] have more than %d ranges of ports together",
                           PORTRANGE_MAX);
    /* On a node the CNI has made the routes to all pods already. */
    if (!roles->self && role_pod_routes(roles, false) < 0)
        return -1;
    if (gateway_forwarding(roles) < 0 || (!roles->self && gateway_translates(roles) < 0))
        return -1;
    return gateway_rules(roles, 4, &pool) < 0 ? -1 : gateway_rules(roles, 6, &pool);
}
