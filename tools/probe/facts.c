/* SPDX-License-Identifier: MIT */
/*
 * Small questions about what a probe has found, and the words for it.
 */
#include "probe.h"

#include <string.h>

int try_kept(const struct probe_try *try)
{
    if (try->moved)
        return 0;
    if (!try->own.port || !try->as.port)
        return -1;
    return try->own.port == try->as.port;
}

/* Whether any try was made from inside of the range, as its mark says. */
static bool facts_has_inside(const struct probe_facts *facts)
{
    for (unsigned i = 0; i < facts->tries; i++)
        if (facts->try[i].kind == KIND_INSIDE)
            return true;
    return false;
}

bool facts_counts(const struct probe_facts *facts, const struct probe_try *try)
{
    if (try->kind == KIND_INSIDE || (!facts->ports.count && !facts_has_inside(facts)))
        return true;
    return try->kind == KIND_PLAIN && facts->shim &&
           (try->end == END_LOCAL || portset_has(&facts->ports, try->own.port));
}

const uint8_t *facts_pod(const struct probe_facts *facts)
{
    for (unsigned i = 0; i < facts->tries; i++)
        if (addr_is_set(facts->try[i].own.addr))
            return facts->try[i].own.addr;
    return NULL;
}

bool facts_no_way(const struct probe_facts *facts, const struct probe_try *try)
{
    const uint8_t *pod = facts_pod(facts);
    return facts->host.route == ROUTE_NONE && (!pod || memcmp(pod, try->as.addr, 16) == 0);
}

const uint8_t *facts_seen(const struct probe_facts *facts)
{
    for (unsigned i = 0; i < facts->tries; i++)
        if (addr_is_set(facts->try[i].as.addr))
            return facts->try[i].as.addr;
    return NULL;
}

bool addr_is_set(const uint8_t addr[16])
{
    static const uint8_t zeros[16];
    static const uint8_t any4[16] = {[10] = 0xff, [11] = 0xff};
    return memcmp(addr, zeros, 16) != 0 && memcmp(addr, any4, 16) != 0;
}

bool addr_is_unicast(const uint8_t addr[16])
{
    if (!addr_is_set(addr) || addr_is_loopback(addr))
        return false;
    if (address_is_v4(addr))
        return addr[12] != 0 && addr[12] < 224;
    return addr[0] != 0xff && !(addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80);
}

const char *addr_text(const uint8_t addr[16])
{
    static char texts[4][48];
    static unsigned next;
    char *buf = texts[next++ % 4];
    struct text text = text_begin(buf, sizeof(texts[0]));
    address_print(&text, addr);
    return buf;
}

/* The errors that a firewall or a router sends; what is not in here has its numbers shown. */
static const struct {
    bool v6;
    uint8_t type;
    uint8_t code;
    bool reject; /* by somebody's rule; otherwise by the state of the network */
    const char *text;
} icmp_words[] = {
    {false, 3, 0, false, "network unreachable"}, {false, 3, 1, false, "host unreachable"},
    {false, 3, 2, true, "protocol unreachable"}, {false, 3, 3, true, "port unreachable"},
    {false, 3, 9, true, "network prohibited"},   {false, 3, 10, true, "host prohibited"},
    {false, 3, 13, true, "admin prohibited"},    {true, 1, 0, false, "no route"},
    {true, 1, 1, true, "admin prohibited"},      {true, 1, 3, false, "address unreachable"},
    {true, 1, 4, true, "port unreachable"},      {true, 1, 5, true, "policy fail"},
    {true, 1, 6, true, "reject route"},
};

const char *icmp_text(const struct icmp_error *error)
{
    static char text[120];
    bool v6 = !address_is_v4(error->by);
    for (size_t i = 0; i < sizeof(icmp_words) / sizeof(icmp_words[0]); i++) {
        if (icmp_words[i].v6 != v6 || icmp_words[i].type != error->type ||
            icmp_words[i].code != error->code)
            continue;
        snprintf(text, sizeof(text), "%s by %s (icmp%s %s)",
                 icmp_words[i].reject ? "REJECT" : "unreachable", addr_text(error->by),
                 v6 ? "6" : "", icmp_words[i].text);
        return text;
    }
    snprintf(text, sizeof(text), "unreachable by %s (icmp%s type %u code %u)", addr_text(error->by),
             v6 ? "6" : "", error->type, error->code);
    return text;
}

const char *kind_name(enum try_kind kind)
{
    static const char *const names[KINDS] = {"plain", "inside", "outside"};
    return names[kind];
}

const char *end_name(enum try_end end)
{
    static const char *const names[ENDS] = {"unknown",  "answered", "opened", "refused",
                                            "rejected", "silent",   "local"};
    return names[end];
}

const char *seen_name(enum try_seen seen)
{
    static const char *const names[SEENS] = {"no", "syn", "connection"};
    return names[seen];
}

const char *route_name(enum host_route route)
{
    static const char *const names[ROUTES] = {"unknown", "none", "via", "direct"};
    return names[route];
}
