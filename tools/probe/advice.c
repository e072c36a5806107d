/* SPDX-License-Identifier: MIT */
/*
 * What to do about a verdict: the exact command or the lines of fixport.conf, and where.
 *
 * Addresses in these lines come partly from the other side, which may be anybody. So a route is
 * advised only to what can be a pod: a unicast address, and if there is a configuration that knows
 * the pods, one of them (struct probe_host .configured). The lines are shown, never carried out.
 */
#include "probe.h"

#include <stdarg.h>
#include <string.h>

#define RANGES_SHOWN 3 /* of a range of ports: a rule each */

struct list {
    const struct probe_facts *facts;
    struct advice *advice;
    unsigned count;
};

__attribute__((format(printf, 3, 4))) static void add(struct list *list, const char *where,
                                                      const char *format, ...)
{
    va_list args;
    if (list->count == ADVICE_MOST)
        return;
    struct advice *advice = &list->advice[list->count++];
    advice->where = where;
    va_start(args, format);
    vsnprintf(advice->line, sizeof(advice->line), format, args);
    va_end(args);
}

static const char *iptables(const uint8_t addr[16])
{
    return address_is_v4(addr) ? "iptables" : "ip6tables";
}

/* Of SYNs that were captured, only the address that they came from is known. */
static const uint8_t *pod_address(const struct probe_facts *facts)
{
    return facts_pod(facts) ? facts_pod(facts) : facts_seen(facts);
}

/* What routes lead to: the configuration's block, or the pod alone. */
static const char *pod_block(const struct probe_facts *facts, char buf[BLOCK_TEXT])
{
    struct block block = {.prefix = 128};
    if (facts->host.configured)
        return block_print(&facts->host.block, buf, BLOCK_TEXT);
    memcpy(block.addr, pod_address(facts), 16);
    return block_print(&block, buf, BLOCK_TEXT);
}

/* So that the host reaches the pod, under its own address. */
static void add_route(struct list *list)
{
    const struct probe_host *host = &list->facts->host;
    const uint8_t *pod = pod_address(list->facts);
    char block[BLOCK_TEXT];
    if (!pod || !addr_is_unicast(pod) || host->route == ROUTE_DIRECT ||
        host->route == ROUTE_UNKNOWN)
        return;
    if (!addr_is_unicast(host->next)) {
        if (host->route == ROUTE_NONE)
            add(list, "host",
                "ip route replace %s via NODE   # the pod's node: kubectl get pod -o "
                "wide",
                pod_block(list->facts, block));
        return;
    }
    if (host->route == ROUTE_VIA && memcmp(host->via, host->next, 16) == 0)
        return;
    add(list, "host", "ip route replace %s via %s", pod_block(list->facts, block),
        addr_text(host->next));
    if (!host->configured)
        add(list, "configuration", "[node %s]\naddress = %s\npods = %s",
            *host->node ? host->node : "NAME", addr_text(host->next),
            pod_block(list->facts, block));
}

/* Requests or answers let through by a firewall that is only iptables. */
static void add_accept(struct list *list, bool answers)
{
    const struct probe_facts *facts = list->facts;
    const uint8_t *from = facts_seen(facts) ? facts_seen(facts) : facts_pod(facts);
    const struct portset *ports = &facts->ports;
    const char *source = answers ? "-s" : "-d", *to = answers ? "-d" : "-s";
    char range[32] = "";
    if (!from || !addr_is_set(facts->to.addr))
        return;
    for (uint32_t i = 0; i < (ports->count ? ports->count : 1) && i < RANGES_SHOWN; i++) {
        if (ports->count)
            snprintf(range, sizeof(range), " --%cport %u:%u", answers ? 'd' : 's',
                     ports->range[i].lo, ports->range[i].hi);
        add(list, "firewall", "%s -I FORWARD 1 -p tcp %s %s --%cport %u %s %s%s -j ACCEPT",
            iptables(from), source, addr_text(facts->to.addr), answers ? 's' : 'd', facts->to.port,
            to, addr_text(from), range);
    }
}

/* The same by fixport-setup, on the gateway. */
static void add_service(struct list *list)
{
    add(list, "configuration", "[hosts]\naddresses = %s\nservices = %u",
        addr_is_set(list->facts->to.addr) ? addr_text(list->facts->to.addr) : "HOST",
        list->facts->to.port);
}

static void add_blocked(struct list *list, const struct probe_try *try)
{
    const struct probe_facts *facts = list->facts;
    if (facts_no_way(facts, try)) {
        add_route(list);
        return;
    }
    if (try->syns && try->left == LEFT_NOT) {
        add(list, "host", "%s -I INPUT 1 -p tcp --dport %u -j ACCEPT", iptables(try->as.addr),
            facts->to.port);
        add(list, "host",
            "sysctl net.ipv4.conf.all.rp_filter   # 1: answers must leave where "
            "requests came in; see 'ip route get %s'",
            addr_text(try->as.addr));
        return;
    }
    add_accept(list, true);
    add_service(list);
}

static void add_changed(struct list *list, const struct verdict_found *found)
{
    if (found->cause == CAUSE_TAKEN)
        add(list, "node",
            "fixport-pool status   # is it the pod's pool, too? All pods of a node "
            "share one: mount /run/fixport");
    add(list, "configuration", "[snat]\nmode = keep   # none, where nodes steer through a gateway");
    if (found->cause == CAUSE_RANDOM)
        add(list, "cluster",
            "kubectl patch felixconfiguration default --type=merge -p "
            "'{\"spec\":{\"featureDetectOverride\":\"MASQFullyRandom=false,"
            "SNATFullyRandom=false\"}}'   # Calico");
    if (found->cause == CAUSE_LOW)
        add(list, "configuration", "[pool]\nports = 61001-61999   # any above 32767");
}

unsigned advice_find(const struct probe_facts *facts, const struct verdict_found *found,
                     struct advice advice[ADVICE_MOST])
{
    struct list list = {.facts = facts, .advice = advice};
    switch (found->verdict) {
    case VERDICT_NO_SNAT:
    case VERDICT_KEPT:
        add_route(&list);
        break;
    case VERDICT_CHANGED:
        add_changed(&list, found);
        break;
    case VERDICT_BLOCKED:
        add_blocked(&list, found->worst);
        break;
    case VERDICT_NOTHING:
    case VERDICT_REJECTED:
        add_accept(&list, false);
        add_service(&list);
        break;
    case VERDICT_NO_ANSWER:
        add(&list, "host", "fixport-probe listen --capture --port %u", facts->to.port);
        break;
    case VERDICT_REFUSED:
        add(&list, "host", "fixport-probe listen --port %u", facts->to.port);
        break;
    case VERDICT_STRANGER:
        add(&list, "host", "ss -ltnp 'sport = :%u'   # who listens there", facts->to.port);
        break;
    case VERDICT_NOT_SENT:
        add(&list, "pod", "ip route get %s", addr_text(facts->to.addr));
        break;
    default:
        break;
    }
    return list.count;
}

/* If all is well, what is left is for the other direction, and good as long as the address is. */
const char *advice_head(const struct probe_facts *facts, const struct verdict_found *found)
{
    if (found->verdict != VERDICT_NO_SNAT && found->verdict != VERDICT_KEPT)
        return "To do:";
    return facts->host.configured
               ? "Nothing to do, unless hosts are to connect to pods by their own addresses:"
               : "Nothing to do, unless hosts are to connect to pods by their own addresses. This "
                 "one is the pod's\nas long as the pod lives; 'fixport-setup discover' finds the "
                 "node's whole block:";
}
