/* SPDX-License-Identifier: MIT */
/*
 * Whether packets go the way that the configuration means: the routes that the roles want against
 * what the kernel answers when it is asked, and the settings by which it drops or diverts what
 * comes along another way than it went.
 */
#include "../../config/site-parts.h"
#include "doctor.h"

#include <stdlib.h>
#include <string.h>

/* ---- the routes that are wanted ---- */

struct way {
    struct block to;
    uint8_t via[16];
};

/* "10.200.1.0/24 via 192.168.31.17" */
static bool way_read(const char *line, size_t length, struct way *way)
{
    const char *via = memmem(line, length, " via ", 5);
    char text[BLOCK_TEXT], why[128];
    if (!via || (size_t)(via - line) >= sizeof(text) ||
        !address_parse(via + 5, length - (size_t)(via + 5 - line), way->via))
        return false;
    snprintf(text, sizeof(text), "%.*s", (int)(via - line), line);
    return !block_parse(text, false, &way->to, why, sizeof(why));
}

/* All of them, malloc'd. */
static struct way *ways_wanted(const struct facts *facts, size_t *count)
{
    struct way *list = NULL, way;
    *count = 0;
    for (size_t i = 0; facts->has_wanted && i < facts->wanted.count; i++) {
        const struct resource *resource = &facts->wanted.item[i];
        const char *at = resource->wanted, *line;
        size_t length;
        if (resource->type != &resource_routes || !at || strstr(resource->name, " table "))
            continue; /* what is steered by a mark is no way for all packets */
        while ((line = state_line(&at, &length))) {
            if (!way_read(line, length, &way))
                continue;
            list = state_grow(list, (*count + 1) * sizeof(*list));
            list[(*count)++] = way;
        }
    }
    return list;
}

/* ---- against what the kernel has ---- */

struct way_check {
    struct facts *facts;
    struct findings *findings;
    json_t *table[2]; /* "ip route show table all", IPv4 and IPv6 */
    bool policy[2];   /* there are policy rules beside the three of every machine */
    const struct way *way;
    size_t ways;
};

static const char *way_family(const struct block *block)
{
    return block_is_v4(block) ? "-4" : "-6";
}

static bool way_is(const struct fact_route *route, const uint8_t via[16])
{
    return route->found && strcmp(route->gateway, fact_address(via)) == 0;
}

static const char *way_value(const json_t *route, const char *key)
{
    const char *text = json_string_value(json_object_get(route, key));
    return text ? text : "";
}

/* The destination of a route as a block; false: default, or not understood. */
static bool way_block(const json_t *route, struct block *block)
{
    struct way way;
    char line[128];
    int length = snprintf(line, sizeof(line), "%s via ::", way_value(route, "dst"));
    if (length >= (int)sizeof(line) || !way_read(line, (size_t)length, &way))
        return false;
    *block = way.to;
    return true;
}

static bool way_same(const struct block *a, const struct block *b)
{
    return a->prefix == b->prefix && memcmp(a->addr, b->addr, 16) == 0;
}

static bool way_is_wanted(const struct way_check *check, const struct block *block)
{
    for (size_t i = 0; i < check->ways; i++)
        if (way_same(&check->way[i].to, block))
            return true;
    return false;
}

static json_t *way_table(const struct way_check *check, const struct block *block)
{
    return check->table[block_is_v4(block) ? 0 : 1];
}

/* Whether table main has exactly this route. */
static bool way_is_set(const struct way_check *check, const struct way *way)
{
    struct block block;
    json_t *route;
    size_t i;
    json_array_foreach(way_table(check, &way->to), i, route)
    {
        if (!json_object_get(route, "table") && way_block(route, &block) &&
            way_same(&block, &way->to) &&
            strcmp(way_value(route, "gateway"), fact_address(way->via)) == 0)
            return true;
    }
    return false;
}

static void way_missing(const struct way_check *check, const struct way *way,
                        const struct fact_route *route)
{
    struct finding *finding =
        finding_add(check->findings, "route-missing", SEVERITY_ERROR, "no route to %s via %s",
                    fact_block(&way->to), fact_address(way->via));
    finding_line(finding, "ip route get %s", route->line);
    finding_why(finding, "packets to these addresses go elsewhere or nowhere, and nobody answers");
    finding_apply(finding, check->facts);
}

static struct finding *way_shadowed(const struct way_check *check, const struct way *way,
                                    const struct fact_route *route, const char *how)
{
    struct finding *finding = finding_add(check->findings, "route-shadowed", SEVERITY_ERROR,
                                          "%s wins over the route to %s via %s", how,
                                          fact_block(&way->to), fact_address(way->via));
    finding_line(finding, "ip route get %s", route->line);
    finding_why(finding, "the route is there, so everything looks well, but the kernel takes "
                         "another one");
    return finding;
}

/* A policy rule's table gets the route, too: more specific than what it has, or instead of it. */
static bool way_add_to_table(struct finding *finding, const struct way *way,
                             const struct fact_route *route)
{
    if (!route->table[0] || strcmp(route->table, "main") == 0)
        return false;
    char *table = shell_quoted(route->table);
    finding_mend(finding,
                 "ip rule show says who is sent to table %s; what fills it may have to "
                 "know of the route, too",
                 route->table);
    finding_run(finding, "ip %s route replace %s via %s table %s", way_family(&way->to),
                fact_block(&way->to), fact_address(way->via), table);
    free(table);
    return true;
}

static void way_look(const struct way_check *check, const struct way *way)
{
    uint8_t addr[16];
    block_sample(&way->to, addr);
    const struct fact_route *route = fact_route(check->facts, addr, NULL, NULL);
    if (way_is(route, way->via) || route->local)
        return;
    if (!way_is_set(check, way)) {
        way_missing(check, way, route);
        return;
    }
    struct finding *finding = way_shadowed(check, way, route, "another route or policy rule");
    if (way_add_to_table(finding, way, route))
        return;
    finding_mend(finding,
                 "ip rule show; ip route show table all match %s: delete the one that is "
                 "not meant",
                 fact_address(addr));
}

/* "ip -4 route del blackhole 10.0.0.0/8 via 10.9.0.1 dev eth0 metric 20 table 7" */
static void way_delete(struct finding *finding, const json_t *route, const struct block *block)
{
    static const char *const keys[] = {"type", "dst", "gateway", "dev", "table"};
    static const char *const words[] = {"", "", "via ", "dev ", "table "};
    const json_t *metric = json_object_get(route, "metric");
    char *command;
    FILE *out = state_open(&command);
    fprintf(out, "ip %s route del", way_family(block));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        char *value = shell_quoted(way_value(route, keys[i]));
        if (*way_value(route, keys[i]))
            fprintf(out, " %s%s", words[i], value);
        free(value);
    }
    if (json_is_integer(metric))
        fprintf(out, " metric %lld", (long long)json_integer_value(metric));
    state_close(out);
    finding_run(finding, "%s", command);
    free(command);
}

/* A route inside the block that leads elsewhere; those of a node's own pods are other people's. */
static void way_inside(const struct way_check *check, const struct way *way, const json_t *route)
{
    const char *table = way_value(route, "table");
    struct block block;
    uint8_t addr[16];
    if (strcmp(table, "local") == 0 || !way_block(route, &block) ||
        block.prefix <= way->to.prefix || !block_has(&way->to, block.addr) ||
        way_is_wanted(check, &block))
        return;
    block_sample(&block, addr);
    const struct fact_route *real = fact_route(check->facts, addr, NULL, NULL);
    if (way_is(real, way->via) || real->local)
        return;
    struct finding *finding = way_shadowed(check, way, real, "a more specific route");
    way_delete(finding, route, &block);
}

/* With policy rules the answer depends on who asks: on the sender and on where it came in. */
static void way_policy(const struct way_check *check, const struct way *way,
                       const struct block *from, const char *in)
{
    uint8_t addr[16], source[16];
    block_sample(&way->to, addr);
    block_sample(from, source);
    bool own = machine_has(&check->facts->machine, source);
    if (block_is_v4(from) != block_is_v4(&way->to) || (!own && !*in))
        return;
    const struct fact_route *route = fact_route(check->facts, addr, source, own ? NULL : in);
    if (way_is(route, way->via) || route->local)
        return;
    struct finding *finding = way_shadowed(check, way, route, "a policy rule");
    if (way_add_to_table(finding, way, route))
        return;
    finding_mend(finding,
                 "ip rule show: give the table of the rule that matches %s the route too: "
                 "ip route replace %s via %s table TABLE",
                 fact_address(source), fact_block(&way->to), fact_address(way->via));
}

static void way_policies(const struct way_check *check, const struct way *way)
{
    const struct block_list *hosts = &check->facts->site.hosts;
    const struct machine *machine = &check->facts->machine;
    size_t before = check->findings->count;
    for (size_t i = 0; i < machine->count && check->findings->count == before; i++) {
        struct block own = fact_single(machine->item[i].addr);
        way_policy(check, way, &own, "");
    }
    if (!(check->facts->roles & ROLE_GATEWAY))
        return;
    for (size_t i = 0; i < hosts->count && check->findings->count == before; i++)
        way_policy(check, way, &hosts->item[i], fact_device(check->facts, &hosts->item[i]));
}

static void way_check_one(const struct way_check *check, const struct way *way)
{
    size_t before = check->findings->count, i;
    json_t *route;
    way_look(check, way);
    if (check->findings->count != before)
        return;
    json_array_foreach(way_table(check, &way->to), i, route)
    {
        way_inside(check, way, route);
    }
    if (check->findings->count == before && check->policy[block_is_v4(&way->to) ? 0 : 1])
        way_policies(check, way);
}

void check_routes(struct facts *facts, struct findings *findings)
{
    static const char *const show[] = {"route", "show", "table", "all", NULL};
    static const char *const rules[] = {"rule", NULL};
    struct way_check check = {.facts = facts, .findings = findings};
    struct way *ways = ways_wanted(facts, &check.ways);
    check.way = ways;
    for (int i = 0; i < 2; i++) {
        check.table[i] = fact_ip(i ? 6 : 4, show);
        json_t *list = fact_ip(i ? 6 : 4, rules);
        check.policy[i] = json_array_size(list) > (i ? 2 : 3);
        json_decref(list);
    }
    for (size_t i = 0; i < check.ways; i++)
        way_check_one(&check, &ways[i]);
    json_decref(check.table[0]);
    json_decref(check.table[1]);
    free(ways);
}

bool fact_goes_by(struct facts *facts, const char *dev)
{
    size_t count;
    struct way *ways = ways_wanted(facts, &count);
    bool found = false;
    for (size_t i = 0; i < count && !found; i++) {
        struct block hop = fact_single(ways[i].via);
        found = strcmp(fact_device(facts, &hop), dev) == 0;
    }
    free(ways);
    return found;
}

/* ---- next hops ---- */

/* "FAILED" if nobody has answered; nothing is sent to find out. */
static bool neighbour_failed(const uint8_t addr[16])
{
    const char *words[] = {"neigh", "show", fact_address(addr), NULL};
    json_t *list = fact_ip(address_is_v4(addr) ? 4 : 6, words), *item, *state;
    bool failed = false;
    size_t i, j;
    json_array_foreach(list, i, item)
    {
        json_array_foreach(json_object_get(item, "state"), j, state)
        {
            const char *text = json_string_value(state);
            failed |= text && strcmp(text, "FAILED") == 0;
        }
    }
    json_decref(list);
    return failed;
}

void check_neighbours(struct facts *facts, struct findings *findings)
{
    size_t count;
    struct way *ways = ways_wanted(facts, &count);
    for (size_t i = 0; i < count; i++) {
        bool again = false;
        for (size_t j = 0; j < i && !again; j++)
            again = memcmp(ways[i].via, ways[j].via, 16) == 0;
        if (again || !neighbour_failed(ways[i].via))
            continue;
        struct finding *finding =
            finding_add(findings, "next-hop-failed", SEVERITY_ERROR,
                        "%s does not answer on its network", fact_address(ways[i].via));
        finding_line(finding, "ip neigh show %s: FAILED", fact_address(ways[i].via));
        finding_why(finding,
                    "routes lead to it, so what is for the pods or hosts behind it is lost");
        finding_mend(finding,
                     "is it up, and is the address in [node] or [gateway] right? then: "
                     "ip neigh flush to %s",
                     fact_address(ways[i].via));
    }
    free(ways);
}

/* A name may have a device's in it, which can be anything but a slash and spaces. */
static void setting_run(struct finding *finding, const char *name, int value)
{
    char *quoted = shell_quoted(name);
    finding_run(finding, "sysctl -w %s=%d", quoted, value);
    free(quoted);
}

/* ---- rp_filter ---- */

/* Strict: a packet must come in where the answer would go out. */
static bool rp_is_strict(const char *dev)
{
    long all = fact_conf(4, "all", "rp_filter", 0), own = fact_conf(4, dev, "rp_filter", 0);
    return (all > own ? all : own) == 1;
}

/* What comes from @from arrives on the interface that leads to @next. */
static void rp_look(struct facts *facts, struct findings *findings, const struct block *from,
                    const uint8_t *next)
{
    char in[IFNAMSIZ];
    if (!next || !block_is_v4(from) || machine_has(&facts->machine, next))
        return;
    struct block hop = fact_single(next);
    snprintf(in, sizeof(in), "%s", fact_device(facts, &hop));
    const char *out = fact_device(facts, from);
    if (!*in || !*out || strcmp(in, out) == 0 || !rp_is_strict(in))
        return;
    struct finding *finding = finding_add(
        findings, "rp-filter", SEVERITY_ERROR,
        "packets from %s come in by %s, but the way to them is %s: rp_filter drops them",
        fact_block(from), in, out);
    finding_line(finding, "%s = %ld (all: %ld)", fact_setting(4, in, "rp_filter"),
                 fact_conf(4, in, "rp_filter", 0), fact_conf(4, "all", "rp_filter", 0));
    finding_why(finding, "a strict reverse path filter drops without a word what does not come in "
                         "where the answer would go out");
    finding_mend(finding, FACT_LASTING);
    setting_run(finding, fact_setting(4, in, "rp_filter"), 2);
}

/* Nobody said which way packets come: so only that it is strict where packets are passed on. */
static void rp_anywhere(struct findings *findings)
{
    struct if_nameindex *list = if_nameindex();
    const char *first = NULL;
    size_t count = 0;
    for (size_t i = 0; list && list[i].if_index; i++)
        if (strcmp(list[i].if_name, "lo") != 0 && rp_is_strict(list[i].if_name) && !count++)
            first = list[i].if_name;
    if (count && fact_number("net.ipv4.ip_forward", 0)) {
        struct finding *finding =
            finding_add(findings, "rp-filter-strict", SEVERITY_INFO,
                        "rp_filter is strict on %s of this router", text_count(count, "interface"));
        finding_line(finding, "%s = %ld (all: %ld)", fact_setting(4, first, "rp_filter"),
                     fact_conf(4, first, "rp_filter", 0), fact_conf(4, "all", "rp_filter", 0));
        finding_why(finding, "what does not come in where the answer would go out is dropped "
                             "without a word; whether that happens here, a configuration tells");
        finding_mend(finding, "nothing, if packets between pods and hosts go both ways by the same "
                              "interfaces; else 2 (loose) instead of 1");
    }
    if (list)
        if_freenameindex(list);
}

void check_rp_filter(struct facts *facts, struct findings *findings)
{
    const struct site *site = &facts->site;
    if (!facts->has_site) {
        rp_anywhere(findings);
        return;
    }
    for (size_t i = 0; i < site->nodes; i++) {
        const struct site_node *node = &site->node[i];
        for (size_t j = 0; node != facts->self && j < node->pods.count; j++) {
            const struct block *pods = &node->pods.item[j];
            size_t before = findings->count;
            rp_look(facts, findings, pods, pair_get(&node->address, block_family(pods)));
            if (findings->count == before && !(facts->roles & ROLE_GATEWAY))
                rp_look(facts, findings, pods, pair_get(&site->gateway, block_family(pods)));
        }
    }
    for (size_t i = 0; facts->roles & ROLE_NODE && i < site->hosts.count; i++)
        rp_look(facts, findings, &site->hosts.item[i],
                pair_get(&site->gateway, block_family(&site->hosts.item[i])));
}

/* ---- forwarding ---- */

/* Whether apply sets it here: on a gateway it does, a node's forwarding is the kubelet's matter. */
static bool forwarding_is_ours(const struct facts *facts, const char *name)
{
    for (size_t i = 0; facts->has_wanted && i < facts->wanted.count; i++)
        if (facts->wanted.item[i].type == &resource_sysctl &&
            strcmp(facts->wanted.item[i].name, name) == 0)
            return true;
    return false;
}

static void forwarding_off(const struct facts *facts, struct findings *findings, const char *name)
{
    struct finding *finding =
        finding_add(findings, "forwarding-off", SEVERITY_ERROR, "this machine does not forward");
    finding_line(finding, "%s = 0", name);
    finding_why(finding, "packets between pods and hosts end here");
    if (forwarding_is_ours(facts, name)) {
        finding_apply(finding, facts);
        return;
    }
    finding_mend(finding, FACT_LASTING);
    setting_run(finding, name, 1);
}

static bool forwarding_needs(const struct facts *facts, int family)
{
    if (!facts->has_site)
        return family == 4;
    return blocks_have_family(&facts->site.pods, family) &&
           blocks_have_family(&facts->site.hosts, family);
}

/* One interface can be off while the machine is on. */
static void forwarding_device(struct facts *facts, struct findings *findings,
                              const struct block_list *blocks)
{
    for (size_t i = 0; i < blocks->count; i++) {
        const char *dev = block_is_v4(&blocks->item[i]) ? fact_device(facts, &blocks->item[i]) : "";
        if (!*dev || fact_conf(4, dev, "forwarding", 1) != 0)
            continue;
        forwarding_off(facts, findings, fact_setting(4, dev, "forwarding"));
        return;
    }
}

void check_forwarding(struct facts *facts, struct findings *findings)
{
    if (forwarding_needs(facts, 4) && fact_number("net.ipv4.ip_forward", 1) == 0) {
        forwarding_off(facts, findings, "net.ipv4.ip_forward");
    } else if (facts->has_site) {
        forwarding_device(facts, findings, &facts->site.hosts);
        forwarding_device(facts, findings, &facts->site.pods);
    }
    if (forwarding_needs(facts, 6) && fact_number("net.ipv6.conf.all.forwarding", 1) == 0)
        forwarding_off(facts, findings, "net.ipv6.conf.all.forwarding");
}

/* ---- redirects ---- */

static void redirects_line(struct finding *finding, int family, const char *dev, const char *key)
{
    finding_line(finding, "%s = %ld (all: %ld)", fact_setting(family, dev, key),
                 fact_conf(family, dev, key, 0), fact_conf(family, "all", key, 0));
    finding_mend(finding, FACT_LASTING);
    setting_run(finding, fact_setting(family, "all", key), 0);
    setting_run(finding, fact_setting(family, dev, key), 0);
}

static bool redirects_are_sent(const char *dev)
{
    return fact_conf(4, "all", "send_redirects", 0) || fact_conf(4, dev, "send_redirects", 0);
}

/* Two sides on one wire: the gateway tells each of the direct way to the other. */
static bool redirects_sent(struct facts *facts, struct findings *findings, const char *dev)
{
    const struct block_list *pods = &facts->site.pods;
    for (size_t i = 0; i < pods->count; i++) {
        if (!block_is_v4(&pods->item[i]) || strcmp(fact_device(facts, &pods->item[i]), dev) != 0)
            continue;
        struct finding *finding =
            finding_add(findings, "redirects-sent", SEVERITY_WARNING,
                        "hosts and pods are both behind %s: this gateway tells each of the direct "
                        "way to the other",
                        dev);
        finding_why(finding, "whoever believes an ICMP redirect goes round the firewall, in one "
                             "direction only, and connection tracking then sees half");
        redirects_line(finding, 4, dev, "send_redirects");
        return true;
    }
    return false;
}

static void redirects_gateway(struct facts *facts, struct findings *findings)
{
    const struct block_list *hosts = &facts->site.hosts;
    /* Where nodes are the firewall there is no shorter way than to the node. */
    for (size_t i = 0; i < hosts->count && facts->site.gateways.count; i++) {
        char dev[IFNAMSIZ];
        snprintf(dev, sizeof(dev), "%s",
                 block_is_v4(&hosts->item[i]) ? fact_device(facts, &hosts->item[i]) : "");
        if (*dev && redirects_are_sent(dev) && redirects_sent(facts, findings, dev))
            return;
    }
}

/* A router asks for both settings, everybody else for one of them; IPv6 has its own only. */
static bool redirects_are_accepted(int family, const char *dev)
{
    bool all = fact_conf(family, "all", "accept_redirects", 0) != 0;
    bool own = fact_conf(family, dev, "accept_redirects", 0) != 0;
    bool router = fact_conf(family, dev, "forwarding", 0) != 0;
    if (family == 6)
        return own && !router;
    return router ? all && own : all || own;
}

/* Whether @addr is on the link @dev: then a redirect may name it. */
static bool redirects_near(struct facts *facts, const uint8_t *addr, const char *dev)
{
    if (!addr || machine_has(&facts->machine, addr))
        return false;
    const struct fact_route *route = fact_route(facts, addr, NULL, NULL);
    return route->found && !route->gateway[0] && strcmp(route->dev, dev) == 0;
}

/* Whether what is behind the gateway is on the gateway's own link. */
static bool redirects_short_cut(struct facts *facts, int family, const char *dev)
{
    const struct site *site = &facts->site;
    bool near = false;
    for (size_t i = 0; i < site->nodes && !near; i++)
        near = redirects_near(facts, pair_get(&site->node[i].address, family), dev);
    return near;
}

/* Hosts alone: what a node steers to the gateway has a pod's address, and so has the redirect. */
static void redirects_accepted(struct facts *facts, struct findings *findings, int family)
{
    const uint8_t *gateway = pair_get(&facts->site.gateway, family);
    char dev[IFNAMSIZ];
    if (!gateway || machine_has(&facts->machine, gateway))
        return;
    struct block hop = fact_single(gateway);
    snprintf(dev, sizeof(dev), "%s", fact_device(facts, &hop));
    if (!*dev || !redirects_are_accepted(family, dev) || !redirects_short_cut(facts, family, dev))
        return;
    struct finding *finding =
        finding_add(findings, "redirects-accepted",
                    family == 4 ? SEVERITY_INFO : SEVERITY_WARNING, /* our gateway sends none */
                    "this machine believes ICMP redirects on %s, where the gateway and what is "
                    "behind it both are",
                    dev);
    finding_why(finding, "one redirect, and it goes round the firewall");
    redirects_line(finding, family, dev, "accept_redirects");
}

void check_redirects(struct facts *facts, struct findings *findings)
{
    if (facts->roles & ROLE_GATEWAY)
        redirects_gateway(facts, findings);
    if (facts->roles & ROLE_HOST) {
        redirects_accepted(facts, findings, 4);
        redirects_accepted(facts, findings, 6);
    }
}
