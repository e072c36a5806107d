/* SPDX-License-Identifier: MIT */
/*
 * Who ended a connection, or translated it. It is tried again, alone in the twin, and whatever
 * counts or traces is read before and after:
 *
 * - iptables counts for every rule and policy. The rule that ends packets and has counted is it.
 * - nft counts only where a rule says so. There the packets are traced, by a table of our own that
 *   marks them first of all. The last event that ends a packet is it. Events come by netlink, and
 * nft is asked only for the rule's line.
 * - The kernel counts what rp_filter and conntrack do not let through, and tells its route.
 */
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRACE_TABLE "fixport-twin"
#define TRACE_BUFFER (16 << 20)
#define SOON_MS 120 /* a packet that is on its way should have counted by then */
#define LATE_MS 1500

/* What is looked for: targets of iptables, statements of nft. */
static const char *const ends[] = {"DROP", "REJECT", "TARPIT", "STEAL", "NFQUEUE", "QUEUE", NULL};
static const char *const sources[] = {"MASQUERADE", "SNAT", "NETMAP", "masquerade", "snat", NULL};
static const char *const destinations[] = {"REDIRECT", "DNAT", "NETMAP", "TPROXY",
                                           "redirect", "dnat", "tproxy", NULL};
/* What may send a packet astray by routing or conntrack. */
static const char *const touches[] = {"MARK", "CONNMARK", "CT", "NOTRACK", "notrack", "mark", NULL};

struct event {
    char table[NFT_NAME_MAXLEN], chain[NFT_NAME_MAXLEN];
    uint8_t family;
    uint64_t handle; /* of the rule; 0: it was the policy */
    bool ends;       /* the packet */
};

/* What there was before, and there is now. */
struct watch {
    struct twin *twin;
    bool six;
    char *save[2][TWIN_NFT]; /* by iptables-save, before and after */
    unsigned long rp_filter[2], conntrack[2];
    int trace; /* netlink; -1 */
    struct event *event;
    size_t events;
};

static bool listed(const char *const list[], const char *word, size_t length)
{
    for (; *list; list++)
        if (strlen(*list) == length && memcmp(*list, word, length) == 0)
            return true;
    return false;
}

static char *text_copy(const char *text, size_t length)
{
    char *copy = state_grow(NULL, length + 1);
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

/* ---- iptables ---- */

static const char *iptables_name(enum twin_backend backend, bool six)
{
    return backend == TWIN_IPTABLES_NFT ? (six ? "ip6tables-nft" : "iptables-nft")
                                        : (six ? "ip6tables-legacy" : "iptables-legacy");
}

static char *iptables_save(const struct watch *watch, enum twin_backend backend)
{
    char name[40], plain[40];
    snprintf(name, sizeof(name), "%s-save", iptables_name(backend, watch->six));
    snprintf(plain, sizeof(plain), "%s-save", watch->six ? "ip6tables" : "iptables");
    char *argv[] = {run_exists(name) ? name : plain, "-c", NULL};
    struct run_result result;
    if (!watch->twin->uses[backend])
        return state_copy("");
    (void)twin_tool(watch->twin, argv, NULL, &result);
    char *text = state_copy(result.output ? result.output : "");
    run_free(&result);
    return text;
}

/* The word behind @option of a rule's line, outside of quotes. Return: its length, 0 if there is
 * none. */
static size_t rule_word(const char *line, const char *option, const char **word)
{
    size_t length = strlen(option), found = 0;
    bool quoted = false;
    for (const char *at = line; *at; at++) {
        if (*at == '\\' && at[1])
            at++;
        else if (*at == '"')
            quoted = !quoted;
        else if (!quoted && *at == ' ' && strncmp(at + 1, option, length) == 0 &&
                 at[1 + length] == ' ') {
            *word = at + length + 2;
            found = strcspn(*word, " ");
        }
    }
    return found;
}

/* The text behind @option, without the quotes that it may have. Return: malloc'd, or NULL. */
static char *rule_comment(const char *line, const char *option)
{
    const char *at;
    char *text, quote;
    if (!rule_word(line, option, &at))
        return NULL;
    FILE *out = state_open(&text);
    for (quote = *at == '"' ? *at++ : ' '; *at && *at != quote; at++) {
        at += *at == '\\' && at[1];
        putc(*at, out);
    }
    state_close(out);
    return text;
}

/* Finds the rule or policy that has counted and does one of @wanted; the last, if there are
 * several. */
static bool blame_iptables(const struct watch *watch, const struct play *play,
                           enum twin_backend backend, const char *const wanted[],
                           struct blame *blame)
{
    const char *was_at = watch->save[0][backend], *is_at = watch->save[1][backend], *was, *is,
               *target;
    size_t was_length, is_length;
    char table[64] = "", chain[64];
    bool near = !play->in[0] || (play->arrived && !play->out[0]), found = false;
    while ((was = state_line(&was_at, &was_length)) && (is = state_line(&is_at, &is_length))) {
        char *line = text_copy(is, is_length), *rule = strstr(line, "] -A ");
        unsigned long before = 0, after = 0;
        bool policy =
            wanted == ends && *line == ':' && sscanf(line, ":%63s DROP [%lu:", chain, &after) == 2;
        if (*line == '*')
            snprintf(table, sizeof(table), "%s", line + 1);
        if (policy) {
            sscanf(was, ":%*s DROP [%lu:", &before);
        } else if (rule && sscanf(line, "[%lu:%*u] -A %63s", &after, chain) == 2) {
            sscanf(was, "[%lu:", &before);
            size_t length = rule_word(line, "-j", &target);
            if (!length || !listed(wanted, target, length))
                after = before;
        }
        /* What this machine says by itself (IPv6 neighbours) is not of a connection between others.
         */
        if (after > before && (near || strcmp(chain, "OUTPUT") != 0)) {
            const char *tool = iptables_name(backend, watch->six);
            blame_free(blame);
            blame->backend = backend;
            blame->is_rule = true;
            FILE *out = state_open(&blame->rule);
            if (policy)
                fprintf(out, "%s -t %s -P %s DROP", tool, table, chain);
            else
                fprintf(out, "%s -t %s %s", tool, table, rule + 2);
            state_close(out);
            snprintf(blame->table, sizeof(blame->table), "%s", table);
            snprintf(blame->chain, sizeof(blame->chain), "%s", chain);
            blame->comment = policy ? NULL : rule_comment(line, "--comment");
            found = true;
        }
        free(line);
    }
    return found;
}

/* ---- nft ---- */

/* Marks TCP of this machine and of those devices that it comes by, before all else. */
static void trace_begin(struct watch *watch, const struct play *play)
{
    const struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    const int group = NFNLGRP_NFTRACE, most = TRACE_BUFFER;
    struct run_result result;
    char *argv[] = {"nft", "-f", "-", NULL}, *text;
    watch->trace = -1;
    if (!watch->twin->uses[TWIN_NFT])
        return;
    twin_enter(watch->twin);
    watch->trace = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
    twin_leave(watch->twin);
    (void)bind(watch->trace, (const struct sockaddr *)&any, sizeof(any));
    (void)setsockopt(watch->trace, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most));
    (void)setsockopt(watch->trace, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group));
    for (int netdev = 1; netdev >= 0; netdev--) { /* not every kernel has it */
        const char *mark = "priority -1000000; meta l4proto tcp meta nftrace set 1; }";
        FILE *out = state_open(&text);
        fprintf(out,
                "table inet " TRACE_TABLE " {\nchain in { type filter hook prerouting %s\n"
                "chain out { type filter hook output %s\n}\n",
                mark, mark);
        for (int back = 0; netdev && back < 2; back++)
            if (back ? play->out[0] && strcmp(play->in, play->out) != 0 : play->in[0])
                fprintf(out,
                        "table netdev " TRACE_TABLE " {\nchain in%d { type filter hook ingress "
                        "device \"%s\" %s\n}\n",
                        back, back ? play->out : play->in, mark);
        state_close(out);
        int status = twin_tool(watch->twin, argv, text, &result);
        free(text);
        run_free(&result);
        if (status == 0)
            break;
    }
}

static void trace_end(struct watch *watch)
{
    char *argv[] = {"nft", "delete", "table", "inet", TRACE_TABLE, NULL};
    struct run_result result;
    if (watch->trace < 0)
        return;
    for (int netdev = 0; netdev < 2; netdev++) {
        argv[3] = netdev ? "netdev" : "inet";
        (void)twin_tool(watch->twin, argv, NULL, &result);
        run_free(&result);
    }
    close(watch->trace);
}

static uint32_t attribute_number(const struct nlattr *attribute)
{
    uint32_t number = 0;
    if (attribute->nla_len >= NLA_HDRLEN + sizeof(number))
        memcpy(&number, (const char *)attribute + NLA_HDRLEN, sizeof(number));
    return ntohl(number);
}

/* One event: a rule that matched, or a policy. */
static void trace_take(struct watch *watch, const struct nlmsghdr *message)
{
    struct event event = {.family = ((const struct nfgenmsg *)NLMSG_DATA(message))->nfgen_family};
    const char *at = (const char *)NLMSG_DATA(message) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
    const char *end = (const char *)message + message->nlmsg_len;
    uint32_t type = 0, verdict = NF_ACCEPT, halves[2] = {0};
    while (end - at >= NLA_HDRLEN) {
        const struct nlattr *attribute = (const void *)at;
        const char *text = at + NLA_HDRLEN;
        int length = attribute->nla_len - NLA_HDRLEN, kind = attribute->nla_type & NLA_TYPE_MASK;
        if (length < 0 || length > end - text)
            break;
        if (kind == NFTA_TRACE_TABLE)
            snprintf(event.table, sizeof(event.table), "%.*s", length, text);
        else if (kind == NFTA_TRACE_CHAIN)
            snprintf(event.chain, sizeof(event.chain), "%.*s", length, text);
        else if (kind == NFTA_TRACE_RULE_HANDLE && length >= (int)sizeof(halves))
            memcpy(halves, text, sizeof(halves));
        else if (kind == NFTA_TRACE_TYPE)
            type = attribute_number(attribute);
        else if (kind == NFTA_TRACE_POLICY)
            verdict = attribute_number(attribute);
        else if (kind == NFTA_TRACE_VERDICT &&
                 length >= 2 * NLA_HDRLEN) /* the code is first in it */
            verdict = attribute_number((const void *)text);
        at += NLA_ALIGN(attribute->nla_len);
    }
    if (type == NFT_TRACETYPE_RULE)
        event.handle = (uint64_t)ntohl(halves[0]) << 32 | ntohl(halves[1]);
    verdict = verdict & 0x80000000 ? NF_ACCEPT : verdict & NF_VERDICT_MASK; /* negative: jumps */
    event.ends = verdict == NF_DROP || verdict == NF_STOLEN || verdict == NF_QUEUE;
    if ((type != NFT_TRACETYPE_RULE && type != NFT_TRACETYPE_POLICY) ||
        strcmp(event.table, TRACE_TABLE) == 0)
        return;
    watch->event = state_grow(watch->event, (watch->events + 1) * sizeof(event));
    watch->event[watch->events++] = event;
}

static void trace_read(struct watch *watch)
{
    _Alignas(struct nlmsghdr) char bytes[16384];
    ssize_t length;
    while (watch->trace >= 0 && ((length = recv(watch->trace, bytes, sizeof(bytes), 0)) > 0 ||
                                 errno == EINTR || errno == ENOBUFS)) {
        const struct nlmsghdr *message = (const void *)bytes;
        for (; length > 0 && NLMSG_OK(message, (size_t)length);
             message = NLMSG_NEXT(message, length))
            if (message->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE))
                trace_take(watch, message);
    }
}

/* The line of an event's rule, as nft prints it. Return: malloc'd, or NULL. */
static char *event_line(const struct watch *watch, const struct event *event, const char *family)
{
    char *argv[] = {"nft", "-a", "list", "ruleset", NULL}; /* a name may be a word of nft's */
    char head[16 + NFT_NAME_MAXLEN + 16], handle[40], *found = NULL;
    struct run_result result;
    bool inside = false;
    size_t length, mark = (size_t)snprintf(handle, sizeof(handle), " # handle %llu",
                                           (unsigned long long)event->handle);
    if (!event->handle)
        return state_copy("policy drop");
    snprintf(head, sizeof(head), "table %s %s {", family, event->table);
    (void)twin_tool(watch->twin, argv, NULL, &result);
    const char *at = result.output ? result.output : "", *line;
    while (!found && (line = state_line(&at, &length))) {
        size_t indent = strspn(line, "\t ");
        if (!indent && length > 1)
            inside = strncmp(line, head, strlen(head)) == 0;
        if (inside && length > mark + indent && memcmp(line + length - mark, handle, mark) == 0 &&
            line[length - mark - 1] != '{')
            found = text_copy(line + indent, length - mark - indent);
    }
    run_free(&result);
    return found;
}

/* Whether a line of nft has one of @wanted as a word. */
static bool line_does(const char *line, const char *const wanted[])
{
    for (size_t length; *line; line += length + (line[length] != '\0')) {
        length = strcspn(line, " ");
        if (listed(wanted, line, length))
            return true;
    }
    return false;
}

/* Finds the last event that ends a packet, or whose rule does one of @wanted. */
static bool blame_nft(const struct watch *watch, const char *const wanted[], struct blame *blame)
{
    static const char *const families[] = {[NFPROTO_INET] = "inet",
                                           [NFPROTO_IPV4] = "ip",
                                           [NFPROTO_NETDEV] = "netdev",
                                           [NFPROTO_BRIDGE] = "bridge",
                                           [NFPROTO_IPV6] = "ip6"};
    for (size_t i = watch->events; i-- > 0;) {
        const struct event *event = &watch->event[i];
        const char *family =
            event->family < sizeof(families) / sizeof(*families) ? families[event->family] : NULL;
        if (!family || (wanted == ends) != event->ends)
            continue;
        /* iptables has it already, in its own words. */
        if (blame->rule && strcmp(blame->table, event->table) == 0 &&
            strcmp(blame->chain, event->chain) == 0)
            return true;
        char *line = event_line(watch, event, family);
        if (line && (wanted == ends || line_does(line, wanted))) {
            blame_free(blame);
            blame->backend = TWIN_NFT;
            blame->is_rule = true;
            FILE *out = state_open(&blame->rule);
            fprintf(out, "nft table %s %s, chain %s: %s", family, event->table, event->chain, line);
            state_close(out);
            snprintf(blame->table, sizeof(blame->table), "%.63s", event->table);
            snprintf(blame->chain, sizeof(blame->chain), "%.63s", event->chain);
            blame->comment = rule_comment(line, "comment");
        }
        free(line);
        if (blame->rule)
            return true;
    }
    return false;
}

/* ---- the kernel ---- */

/* The sum of the columns of that name, in tables of /proc/net. In the twin. */
static unsigned long counter_read(const char *path, const char *name, int base)
{
    FILE *in = fopen(path, "re");
    char *line = NULL, *rest;
    size_t size = 0;
    unsigned long sum = 0;
    int column = 0; /* from 1 */
    while (in && getline(&line, &size, in) > 0) {
        int here = 0, number = 0;
        for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
            number++;
            if (strcmp(word, name) == 0)
                here = number;
            else if (number == column)
                sum += strtoul(word, NULL, base);
        }
        column = here || base == 10 ? here : column; /* netstat: of one line each */
    }
    free(line);
    if (in)
        fclose(in);
    return sum;
}

static bool setting_is_zero(const char *path)
{
    FILE *in = fopen(path, "re");
    bool zero = in && getc(in) == '0';
    if (in)
        fclose(in);
    return zero;
}

/* What the kernel says about the route of the packet that was lost. */
static void blame_route(const struct watch *watch, const struct play *play, bool back,
                        const char *device, struct blame *blame)
{
    char from[64], to[64], path[80];
    struct text from_text = text_begin(from, sizeof(from)), to_text = text_begin(to, sizeof(to));
    address_print(&from_text, back ? play->to : play->from);
    address_print(&to_text, back ? play->from : play->to);
    char sport[8], dport[8]; /* rules of policy routing look at them, too */
    snprintf(sport, sizeof(sport), "%u", back ? play->dport : play->sport);
    snprintf(dport, sizeof(dport), "%u", back ? play->sport : play->dport);
    char *argv[] = {"ip",      watch->six ? "-6" : "-4", "route", "get",   to,
                    "from",    from,                     "sport", sport,   "dport",
                    dport,     "ipproto",                "tcp",   "iif",   (char *)(uintptr_t)device,
                    NULL};
    if (!*device)
        argv[13] = NULL;
    struct run_result result;
    int status = twin_tool(watch->twin, argv, NULL, &result);
    const char *answer = result.errors ? strstr(result.errors, "answers: ") : NULL;
    bool local = status == 0 && strncmp(result.output, "local ", 6) == 0;
    snprintf(path, sizeof(path), "/proc/sys/net/ipv%d/conf/%s/forwarding", watch->six ? 6 : 4,
             watch->six ? "all" : device);
    twin_enter(watch->twin);
    FILE *out = state_open(&blame->rule);
    if (*device && !local && setting_is_zero(path))
        fprintf(out, "forwarding is off on %s", device);
    else if (status && answer)
        fprintf(out, "no route to %s from %s%s%s: %.*s", to, from, *device ? " by " : "", device,
                (int)strcspn(answer + 9, "\n"), answer + 9);
    state_close(out);
    twin_leave(watch->twin);
    run_free(&result);
    if (!*blame->rule)
        blame_free(blame);
}

/* Reads all that counts: the first time (@now 0) and the second. */
static void watch_read(struct watch *watch, int now)
{
    for (enum twin_backend i = 0; i < TWIN_NFT; i++)
        watch->save[now][i] = iptables_save(watch, i);
    twin_enter(watch->twin);
    watch->rp_filter[now] = counter_read("/proc/self/net/netstat", "IPReversePathFilter", 10);
    watch->conntrack[now] = counter_read("/proc/self/net/stat/nf_conntrack", "insert_failed", 16);
    twin_leave(watch->twin);
}

static void watch_seen(void *arg)
{
    trace_read(arg);
    watch_read(arg, 1);
}

static void blame_find(const struct watch *watch, const struct play *play,
                       const char *const wanted[], struct blame *blame)
{
    for (enum twin_backend i = 0; i < TWIN_NFT; i++)
        (void)blame_iptables(watch, play, i, wanted, blame);
    (void)blame_nft(watch, wanted, blame);
}

static void blame_once(struct twin *twin, struct play *play, const char *const wanted[],
                       int patience, struct blame *blame)
{
    struct watch watch = {.twin = twin, .six = !address_is_v4(play->from)};
    trace_begin(&watch, play);
    watch_read(&watch, 0);
    play_again(twin, play, patience, watch_seen, &watch);
    trace_end(&watch);
    bool failed = play->result == PLAY_LOST || play->result == PLAY_REFUSED;
    bool back = play->packet == PLAY_SYN_ACK || play->packet == PLAY_ANSWER;
    const char *device = back ? play->out : play->in;
    if (wanted != ends || failed)
        blame_find(&watch, play, wanted, blame);
    if (wanted == ends && failed && !blame->rule) {
        bool rp_filter = watch.rp_filter[1] > watch.rp_filter[0];
        FILE *out = state_open(&blame->rule);
        if (rp_filter)
            fprintf(out, "rp_filter of %s", device);
        else if (watch.conntrack[1] > watch.conntrack[0])
            fprintf(out, "conntrack: another connection has the same addresses and ports");
        state_close(out);
        if (!*blame->rule)
            blame_free(blame);
    }
    if (wanted == ends && failed && !blame->rule)
        blame_find(&watch, play, destinations, blame); /* it was sent to where nobody is */
    if (wanted == ends && failed && !blame->rule)
        blame_route(&watch, play, back, device, blame);
    if (wanted == ends && failed && !blame->rule)
        blame_find(&watch, play, touches, blame);
    for (int now = 0; now < 2; now++)
        for (enum twin_backend i = 0; i < TWIN_NFT; i++)
            free(watch.save[now][i]);
    free(watch.event);
}

void blame_play(struct twin *twin, struct play *play, bool changed, struct blame *blame)
{
    bool source = play->arrived && play->seen_sport != play->sport;
    bool moved = play->arrived &&
                 (play->seen_dport != play->dport || memcmp(play->seen_to, play->to, 16) != 0);
    const char *const *wanted = !changed ? ends : source || !moved ? sources : destinations;
    *blame = (struct blame){0};
    blame_once(twin, play, wanted, SOON_MS, blame);
    if (!blame->rule && play->result != PLAY_PASSED)
        blame_once(twin, play, wanted, LATE_MS, blame); /* maybe its packets were late */
}

void blame_free(struct blame *blame)
{
    free(blame->rule);
    free(blame->comment);
    *blame = (struct blame){0};
}
