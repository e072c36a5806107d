/* SPDX-License-Identifier: MIT */
/*
 * Whether [rule]s and [hosts] agree. A gateway lets pods connect to the services of [hosts], from
 * the ports of the pool; a [rule] says which connections get such a port. So what one of them names
 * and the other does not is a connection that does not come through:
 *
 *   a rule's destination that [hosts] lacks    has a port of the range, and is rejected all the
 * same a host or service that no rule matches     leaves from any port, and is rejected
 *
 * A destination that is wider than hosts or services is normal, "everywhere" above all: only one
 * that shares nothing with them is meant here. What is for pods or nodes is not for hosts. And the
 * other way round nothing is said where [snat] moves any port into the range (mode = confine).
 *
 * It is said in sentences that plan, apply and doctor show, not refused: another firewall may let
 * these connections pass, and a host may be left out of the rules by intent. Refused is what cannot
 * be meant: a rule that names a port of a host which the site's own gateway rejects.
 */
#include "site-parts.h"

#include "../../pool/address.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALL_PORTS 65535

/* Where [hosts] says what. */
struct hosts_lines {
    const struct config_section *section;
    const struct config_value *services; /* NULL: none */
};

/* ---- sentences ---- */

static int __attribute__((format(printf, 3, 4)))
note_add(struct draft *draft, const struct config_section *section, const char *format, ...)
{
    struct site *site = draft->site;
    char text[1024];
    size_t at = (size_t)snprintf(text, sizeof(text), "%.300s: ", section->from->path);
    va_list args;
    va_start(args, format);
    vsnprintf(text + at, sizeof(text) - at, format, args);
    va_end(args);
    char **more = realloc(site->note, sizeof(*more) * (site->notes + 1));
    if (!more)
        return config_file_refuse_memory(draft->file);
    site->note = more;
    site->note[site->notes] = strdup(text);
    return site->note[site->notes++] ? 0 : config_file_refuse_memory(draft->file);
}

static unsigned hosts_line(const struct hosts_lines *lines)
{
    return lines->services ? lines->services->line : lines->section->line;
}

/* ---- a rule's destination ---- */

enum agreement { AGREES, LACKS_ADDRESS, LACKS_SERVICE };

static bool is_among(const struct block *block, const struct block_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (blocks_overlap(block, &list->item[i]))
            return true;
    return false;
}

static bool is_node(const struct site *site, const struct block *block)
{
    for (size_t i = 0; i < site->nodes; i++) {
        const struct address_pair *address = &site->node[i].address;
        if ((address->has4 && block_has(block, address->addr4)) ||
            (address->has6 && block_has(block, address->addr6)))
            return true;
    }
    return false;
}

/* Everything, or all of IPv4. */
static bool is_everything(const struct block *block)
{
    return block->prefix == 0 || (block->prefix == 96 && block_is_v4(block));
}

/* What a gateway sees of a destination that is translated before; NULL: itself. */
static const struct policy_alias *alias_of(const struct policy *policy,
                                           const struct dest_match *dest)
{
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        const struct dest *from = &policy->alias[i].from;
        if (memcmp(from->addr, dest->addr, sizeof(from->addr)) == 0 &&
            (!from->port || (dest->ports.lo <= from->port && from->port <= dest->ports.hi)))
            return &policy->alias[i];
    }
    return NULL;
}

static enum agreement dest_judge(const struct site *site, const struct dest_match *dest)
{
    struct block block = {.prefix = dest->prefix};
    struct portrange ports = dest->ports;
    const struct policy_alias *alias =
        dest->prefix == 128 ? alias_of(&site->config.policy, dest) : NULL;
    if (alias && alias->to.port)
        ports.lo = ports.hi = alias->to.port;
    memcpy(block.addr, alias ? alias->to.addr : dest->addr, sizeof(block.addr));
    if (is_everything(&block) || is_among(&block, &site->pods) || is_node(site, &block))
        return AGREES;
    if (!is_among(&block, &site->hosts))
        return addr_is_loopback(block.addr) ? AGREES : LACKS_ADDRESS;
    return portset_overlaps(&site->host_services, ports.lo, ports.hi) ? AGREES : LACKS_SERVICE;
}

static bool has_gateway(const struct site *site)
{
    bool found = site->gateways.count > 0;
    for (size_t i = 0; !found && i < site->machines; i++)
        found = site->machine[i].roles & ROLE_GATEWAY;
    return found;
}

static int dest_refuse(const struct draft *draft, const struct config_section *rule,
                       const struct dest_match *dest, const struct hosts_lines *lines)
{
    char text[BLOCK_TEXT + 20], place[CONFIG_PLACE], why[CONFIG_PLACE + 200];
    policy_dest_print(dest, text, sizeof(text));
    snprintf(why, sizeof(why),
             "%s is none of the services of [hosts], %s, and the gateway lets pods connect to no "
             "others: add it there, or leave it out here",
             text, config_place(lines->section, hosts_line(lines), rule, place));
    return config_file_refuse_value(draft->file, rule, config_section_value(rule, KEY_TO), why);
}

/* One sentence for all of a rule's destinations that lack the same. */
static int dests_note(struct draft *draft, const struct config_section *rule,
                      const struct dest_match *first, size_t count, enum agreement lack,
                      const struct hosts_lines *lines)
{
    const struct config_value *addresses = config_section_value(lines->section, KEY_ADDRESSES);
    unsigned line = lack == LACKS_ADDRESS && addresses ? addresses->line : hosts_line(lines);
    char text[BLOCK_TEXT + 20], place[CONFIG_PLACE], more[40] = "";
    policy_dest_print(first, text, sizeof(text));
    if (count > 1)
        snprintf(more, sizeof(more), " and %zu other%s", count - 1, count > 2 ? "s" : "");
    return note_add(draft, rule,
                    "line %u: [%s] has %s%s, but %s of [hosts], %s, %s: a gateway lets "
                    "pods connect to these only",
                    config_section_value(rule, KEY_TO)->line, rule->name, text, more,
                    lack == LACKS_ADDRESS ? "the addresses" : "the services",
                    config_place(lines->section, line, rule, place),
                    count > 1 ? "have none of them" : "do not have it");
}

static int rule_agree(struct draft *draft, const struct config_section *section,
                      const struct policy_rule *rule, const struct hosts_lines *lines)
{
    const struct policy *policy = &draft->site->config.policy;
    const struct dest_match *first[LACKS_SERVICE + 1] = {NULL};
    size_t count[LACKS_SERVICE + 1] = {0};
    int error = 0;
    for (uint32_t i = 0; i < rule->dest_count; i++) {
        const struct dest_match *dest = &policy->dest[rule->dest_first + i];
        enum agreement found = dest->exclude ? AGREES : dest_judge(draft->site, dest);
        bool named = dest->ports.hi - dest->ports.lo < ALL_PORTS - 1;
        if (found == LACKS_SERVICE && named && lines->services && has_gateway(draft->site))
            return dest_refuse(draft, section, dest, lines);
        first[found] = first[found] ? first[found] : dest;
        count[found]++;
    }
    for (enum agreement lack = LACKS_ADDRESS; !error && lack <= LACKS_SERVICE; lack++)
        if (first[lack])
            error = dests_note(draft, section, first[lack], count[lack], lack, lines);
    return error;
}

/* ---- hosts that no rule matches ---- */

/* The ports at which the rules' answer can change: where a service or a destination begins. */
struct edges {
    uint16_t port[PORTRANGE_MAX + 2 * POLICY_DESTS];
    size_t count;
};

static void edge_add(struct edges *edges, const struct portset *services, uint32_t port)
{
    for (size_t i = 0; i < edges->count; i++)
        if (edges->port[i] == port)
            return;
    if (port <= ALL_PORTS && portset_overlaps(services, (uint16_t)port, (uint16_t)port))
        edges->port[edges->count++] = (uint16_t)port;
}

static void edges_find(struct edges *edges, const struct site *site)
{
    const struct policy *policy = &site->config.policy;
    edges->count = 0;
    for (uint32_t i = 0; i < site->host_services.count; i++)
        edge_add(edges, &site->host_services, site->host_services.range[i].lo);
    for (uint32_t i = 0; i < policy->dest_count; i++) {
        edge_add(edges, &site->host_services, policy->dest[i].ports.lo);
        edge_add(edges, &site->host_services, policy->dest[i].ports.hi + 1u);
    }
}

/* Whether rules match all services of an address; @dest: the first that they do not. */
static bool address_matched(const struct site *site, const struct edges *edges,
                            const uint8_t addr[16], struct dest *dest)
{
    struct policy_verdict verdict;
    memcpy(dest->addr, addr, sizeof(dest->addr));
    for (size_t i = 0; i < edges->count; i++) {
        dest->port = edges->port[i];
        if (!policy_match(&site->config.policy, dest, &verdict))
            return false;
    }
    return true;
}

/* The address behind a block's last. Return: false if there is none. */
static bool block_next(const struct dest_match *block, uint8_t addr[16])
{
    memcpy(addr, block->addr, 16);
    for (unsigned bit = block->prefix; bit < 128; bit++)
        addr[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    for (int i = 15; i >= 0; i--)
        if (++addr[i])
            return true;
    return false;
}

/* As address_matched() for all of a block: where destinations in it begin and end, too. */
static bool block_matched(const struct site *site, const struct edges *edges,
                          const struct block *block, struct dest *dest)
{
    const struct policy *policy = &site->config.policy;
    uint8_t next[16];
    if (!address_matched(site, edges, block->addr, dest))
        return false;
    for (uint32_t i = 0; block->prefix < 128 && i < policy->dest_count; i++) {
        const struct dest_match *inner = &policy->dest[i];
        if (inner->prefix <= block->prefix || !block_has(block, inner->addr))
            continue;
        if (!address_matched(site, edges, inner->addr, dest) ||
            (block_next(inner, next) && block_has(block, next) &&
             !address_matched(site, edges, next, dest)))
            return false;
    }
    return true;
}

static int hosts_agree(struct draft *draft, const struct config_section *rule,
                       const struct hosts_lines *lines)
{
    const struct site *site = draft->site;
    static struct edges edges;
    struct dest first, dest;
    size_t count = 0;
    char text[BLOCK_TEXT + 20], place[CONFIG_PLACE], more[60] = "";
    edges_find(&edges, site);
    for (size_t i = 0; i < site->hosts.count; i++)
        if (!block_matched(site, &edges, &site->hosts.item[i], &dest) && !count++)
            first = dest;
    if (!count)
        return 0;
    dest_print(&first, text, sizeof(text));
    if (count > 1)
        snprintf(more, sizeof(more), ", nor for %zu other entr%s there", count - 1,
                 count > 2 ? "ies" : "y");
    return note_add(
        draft, lines->section,
        "line %u: no [rule] is for %s, a service of [hosts]%s (the first rule is in %s): "
        "pods would connect to it from any port, which a gateway rejects",
        hosts_line(lines), text, more, config_place(rule, rule->line, lines->section, place));
}

/* ---- all of it ---- */

int draft_agree(struct draft *draft)
{
    const struct site *site = draft->site;
    const struct policy *policy = &site->config.policy;
    struct hosts_lines lines = {.section = config_file_section(draft->file, SECTION_HOSTS)};
    const struct config_section *first = NULL;
    int error = 0;
    if (!site->hosts.count || !draft->file->count[SECTION_RULE])
        return 0; /* without a [rule] the destinations are the hosts */
    lines.services = config_section_value(lines.section, KEY_SERVICES);
    for (uint32_t i = 0; !error && i < policy->rule_count; i++) {
        const struct config_section *section =
            config_file_named(draft->file, SECTION_RULE, policy->rule[i].name);
        first = first ? first : section;
        if (config_section_value(section, KEY_TO))
            error = rule_agree(draft, section, &policy->rule[i], &lines);
    }
    if (!error && first && lines.services && site->snat != SNAT_CONFINE)
        error = hosts_agree(draft, first, &lines);
    return error;
}
