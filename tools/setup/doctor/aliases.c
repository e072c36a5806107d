/* SPDX-License-Identifier: MIT */
/*
 * Servers with two addresses: rules that translate connections to one of [hosts], of which no
 * [alias NAME] says so.
 *
 * The rules are read, not tried: which address is translated stands, if at all, some chains away
 * (KUBE-SVC, verdict maps), and any of them would do. What is read is where a rule leads: an
 * address, a range, a block, the values of a map, with or without ports, as iptables-save and
 * nft(8) print them. Of a rule that translates and of which that cannot be read, and of ipvs, it is
 * said that they were not looked at. REDIRECT leads to the machine itself, where the connection
 * ends.
 */
#include "doctor.h"

#include "../../../pool/address.h"
#include "../../common/say.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RULE 400 /* characters of a rule that are shown, and of a map's element that are read */
#define MAP_ELEMENTS 4096 /* values of a map that are looked at */

/* Where a rule leads. port: the first; 0: that of the connection. */
struct target {
    uint8_t lo[16], hi[16];
    uint16_t port;
};

struct reading {
    const struct site *site;
    const char *table; /* the rest of the text, from the table's line on */
    size_t found, unread;
    struct dest other; /* of the first that was found */
    char rule[RULE], unread_rule[RULE];
};

/* Reads an address; "[" and "]" around it, or around two of them, are passed over. Return: what
 * follows, or NULL. */
static const char *address_read(const char *at, uint8_t addr[16])
{
    at += *at == '[';
    size_t length = strspn(at, "0123456789abcdefABCDEF:.");
    const char *dot = memchr(at, '.', length), *colon = memchr(at, ':', length);
    if (dot && colon && dot < colon) /* IPv4, and a port */
        length = (size_t)(colon - at);
    return length && address_parse(at, length, addr) ? at + length : NULL;
}

/* "A", "A:P", "A-B:P-Q", "[A]:P", "[A-B]:P", "[A]-[B]:P", "A . P", "A/LENGTH". Return: false: it is
 * none. */
static bool target_read(const char *text, struct target *target)
{
    const char *at = address_read(text, target->lo);
    if (!at)
        return false;
    memcpy(target->hi, target->lo, 16);
    target->port = 0;
    at += *at == ']';
    if (*at == '-')
        at = address_read(at + 1, target->hi);
    if (!at)
        return false;
    if (*at == '/') {
        unsigned bits = (unsigned)strtoul(at + 1, NULL, 10);
        bits += address_is_v4(target->lo) ? 96 : 0;
        if (bits > 128)
            return false;
        address_mask(target->lo, bits);
        for (unsigned i = bits; i < 128; i++)
            target->hi[i / 8] |= (uint8_t)(0x80 >> i % 8);
    }
    at += *at == ']';
    at += strncmp(at, " . ", 3) == 0 ? 2 : 0;
    if (*at == ':' || *at == ' ')
        target->port = (uint16_t)strtoul(at + 1, NULL, 10);
    return true;
}

/* The first of [hosts] that @target leads to, if pods get ports towards it and no alias names it.
 */
static bool alias_is_missing(const struct site *site, const struct target *target, struct dest *to)
{
    for (size_t i = 0; i < site->hosts.count; i++) {
        const struct block *block = &site->hosts.item[i];
        struct dest server;
        struct policy_verdict verdict;
        uint8_t last[16];
        memcpy(last, block->addr, 16);
        for (unsigned bit = block->prefix; bit < 128; bit++)
            last[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
        bool inside = memcmp(target->lo, block->addr, 16) >= 0;
        if (memcmp(target->lo, last, 16) > 0 || memcmp(target->hi, block->addr, 16) < 0)
            continue;
        *to = (struct dest){.port = target->port};
        memcpy(to->addr, inside ? target->lo : block->addr, 16);
        struct dest asked = *to;
        if (!asked.port && site->host_services.count)
            asked.port = site->host_services.range[0].lo;
        if (policy_match(&site->config.policy, &asked, &verdict) &&
            !policy_server(&site->config.policy, &asked, &server))
            return true;
    }
    return false;
}

/* Takes in one that a rule leads to. */
static void target_take(struct reading *reading, const char *rule, const char *text, uint16_t port)
{
    struct target target;
    struct dest to;
    if (!target_read(text, &target)) {
        if (!reading->unread++)
            snprintf(reading->unread_rule, RULE, "%s", rule);
        return;
    }
    target.port = target.port ? target.port : port;
    if (!alias_is_missing(reading->site, &target, &to) || reading->found++)
        return;
    reading->other = to;
    snprintf(reading->rule, RULE, "%s", rule);
}

/* The values of "{ KEY : VALUE, ... }", which may go over lines. */
static void map_take(struct reading *reading, const char *rule, const char *elements, uint16_t port)
{
    const char *end = elements + strcspn(elements, "}");
    for (int i = 0; i < MAP_ELEMENTS && elements < end; i++) {
        char text[RULE], *value = text, *next;
        size_t length = strcspn(elements, ",}");
        snprintf(text, sizeof(text), "%.*s", (int)(length < RULE ? length : RULE - 1), elements);
        while ((next = strstr(value, " : ")))
            value = next + 3;
        target_take(reading, rule, value, port);
        elements += length + (elements[length] == ',');
    }
    if (elements < end && !reading->unread++)
        snprintf(reading->unread_rule, RULE, "%s", rule);
}

/* The elements of a map of the table that is read, behind their "{"; NULL: it is not there. */
static const char *map_find(const char *table, const char *name)
{
    char begin[160];
    snprintf(begin, sizeof(begin), "\tmap %.128s {", name);
    const char *end = strstr(table, "\n}"), *at = strstr(table, begin);
    const char *close = at ? strstr(at, "\n\t}") : NULL;
    const char *elements = at ? strstr(at, "elements = {") : NULL;
    if (!at || !end || at > end || !close)
        return NULL;
    return elements && elements < close ? elements + strlen("elements = {") : "}"; /* it has none */
}

/* @to: what a rule of nft's has behind "dnat ... to". */
static void nft_take(struct reading *reading, const char *rule, const char *to)
{
    char name[129] = "";
    const char *map = strstr(to, " map "), *end;
    if (!map) {
        target_take(reading, rule, to, 0);
        return;
    }
    map += strlen(" map ");
    if (*map == '{') {
        end = strchr(map, '}');
        map_take(reading, rule, map + 1,
                 end && end[1] == ':' ? (uint16_t)strtoul(end + 2, NULL, 10) : 0);
        return;
    }
    end = map + strcspn(map, ": ");
    sscanf(map, "@%128[^: ]", name);
    map = *name && reading->table ? map_find(reading->table, name) : NULL;
    if (map)
        map_take(reading, rule, map, *end == ':' ? (uint16_t)strtoul(end + 1, NULL, 10) : 0);
    else
        target_take(reading, rule, "", 0);
}

/* iptables' is behind a comment, if there is one, and nft's before it. */
static void rule_take(struct reading *reading, char *rule)
{
    static const char *const words[] = {"-j DNAT --to-destination ", "-j NETMAP --to "};
    const char *at, *last = rule;
    for (const char *next = rule; (next = strstr(next, " -j "));)
        last = ++next;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strncmp(last, words[i], strlen(words[i])) == 0) {
            target_take(reading, rule, last + strlen(words[i]), 0);
            return;
        }
    char *comment = strstr(rule, " comment \"");
    if (comment && strncmp(rule, "-A ", 3) != 0)
        *comment = '\0';
    at = strncmp(rule, "dnat ", 5) == 0 ? rule : strstr(rule, " dnat ");
    if (strncmp(rule, "-A ", 3) == 0) {
        if (strncmp(last, "-j DNAT", 7) == 0) /* in a way that is not known */
            target_take(reading, rule, "", 0);
    } else if (at && (at = strstr(at, " to "))) {
        nft_take(reading, rule, at + strlen(" to "));
    }
}

static bool has_ipvs(void)
{
    FILE *file = fopen("/proc/net/ip_vs", "re");
    char line[256];
    bool has = false;
    while (file && !has && fgets(line, sizeof(line), file))
        has = strncmp(line, "TCP ", 4) == 0 || strncmp(line, "FWM ", 4) == 0;
    if (file)
        fclose(file);
    return has;
}

static void say_unread(const struct reading *reading, struct findings *findings)
{
    bool ipvs = has_ipvs();
    if (!reading->unread && !ipvs)
        return;
    struct finding *finding =
        finding_add(findings, "alias-not-looked-at", SEVERITY_INFO,
                    "whether connections are translated to hosts was not looked at in %s",
                    !ipvs             ? "rules that cannot be read"
                    : reading->unread ? "ipvs, and in rules that cannot be read"
                                      : "ipvs");
    finding_line(finding, "%s", reading->unread ? reading->unread_rule : "/proc/net/ip_vs");
    finding_why(
        finding,
        "a host with a second address needs an [alias NAME]: else a pod that uses the one and "
        "a pod that uses the other can get the same port");
    finding_mend(
        finding,
        "see where they lead; fixport-setup discover --write makes the aliases of Services");
}

void check_aliases(struct facts *facts, struct findings *findings)
{
    struct reading reading = {.site = &facts->site};
    const char *line, *at = facts_rules(facts);
    char shown[80] = "";
    size_t length;
    while ((line = state_line(&at, &length))) {
        if (strncmp(line, "table ", 6) == 0)
            reading.table = line;
        while (length && isspace((unsigned char)*line))
            line++, length--;
        char *rule = strndup(line, length);
        if (rule)
            rule_take(&reading, rule);
        free(rule);
    }
    say_unread(&reading, findings);
    if (!reading.found)
        return;
    policy_alias_print(&reading.other, shown, sizeof(shown));
    struct finding *finding = finding_add(
        findings, "alias-missing", SEVERITY_WARNING,
        "connections to another address are translated to %s here%s, and no [alias NAME] says "
        "so",
        shown, reading.found > 1 ? ", others to other hosts" : "");
    finding_line(finding, "%s", reading.rule);
    finding_why(finding,
                "a pod that uses that address and one that uses the host's own can get the same "
                "port, and the second connection is moved to another one");
    finding_mend(finding,
                 "fixport-setup discover --write, if it is a Service's; or a section [alias NAME] "
                 "with server = "
                 "%s and addresses = the other one; then fixport-setup apply",
                 shown);
}
