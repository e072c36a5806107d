/* SPDX-License-Identifier: MIT */
/*
 * The policy: reading destinations, and matching them.
 *
 * Matching runs on every connect of every program, over memory that others may write: it is one
 * pass over the rules, with addresses compared as two 64-bit words under a mask, and each index
 * held against the array it goes into.
 */
#include "policy.h"
#include "address.h"

#include <errno.h>
#include <string.h>

static const uint8_t loopback_v4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127};
static const uint8_t loopback_v6[16] = {[15] = 1};

bool addr_is_loopback(const uint8_t addr[16])
{
    return memcmp(addr, loopback_v4, 13) == 0 || memcmp(addr, loopback_v6, 16) == 0;
}

/* ---- text to policy ---- */

static struct text reason(struct parse_reason *why)
{
    static const struct text nowhere;
    return why ? text_begin(why->text, sizeof(why->text)) : nowhere;
}

/* What somebody wrote, cut if it is long, printable ASCII only: it may go to a terminal. */
static void show(struct text *text, const char *item, size_t length)
{
    for (size_t i = 0; i < length && i < 48; i++)
        text_char(text, item[i] < ' ' || item[i] > '~' ? '?' : item[i]);
}

static void quote(struct text *text, const char *item, size_t length)
{
    text_char(text, '"');
    show(text, item, length);
    text_string(text, "\": ");
}

static int complain(const char *item, size_t length, const char *what, struct parse_reason *why)
{
    struct text text = reason(why);
    quote(&text, item, length);
    text_string(&text, what);
    return -EINVAL;
}

/* Decimal digits only, at most five. Return: -1 if it is not that. */
static long number(const char *string, size_t length)
{
    long value = 0;
    if (!length || length > 5)
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (string[i] < '0' || string[i] > '9')
            return -1;
        value = value * 10 + (string[i] - '0');
    }
    return value;
}

/* A destination's text, cut into its parts; nothing is NUL-terminated. */
struct parts {
    const char *item, *address, *prefix, *ports; /* prefix, ports: NULL if absent */
    size_t item_length, address_length, prefix_length, ports_length;
    bool exclude;
};

static void cut_prefix(struct parts *parts)
{
    const char *slash = NULL;
    for (size_t i = 0; i < parts->address_length; i++)
        if (parts->address[i] == '/')
            slash = parts->address + i;
    if (!slash)
        return;
    parts->prefix = slash + 1;
    parts->prefix_length = (size_t)(parts->address + parts->address_length - slash - 1);
    parts->address_length = (size_t)(slash - parts->address);
}

/* "[ADDRESS]:PORTS" */
static int cut_bracket(struct parts *parts, const char *at, const char *end,
                       struct parse_reason *why)
{
    const char *close = ++at;
    while (close < end && *close != ']')
        close++;
    if (close == end || (close + 1 < end && close[1] != ':'))
        return complain(parts->item, parts->item_length, "write [ADDRESS]:PORT", why);
    parts->address = at;
    parts->address_length = (size_t)(close - at);
    if (close + 1 < end) {
        parts->ports = close + 2;
        parts->ports_length = (size_t)(end - close - 2);
    }
    return 0;
}

/* "ADDRESS", "ADDRESS:PORTS"; an IPv6 address without brackets has no ports. */
static void cut_colon(struct parts *parts, const char *at, const char *end)
{
    const char *colon = NULL;
    size_t colons = 0;
    for (const char *c = at; c < end; c++) {
        if (*c == ':') {
            colon = c;
            colons++;
        }
    }
    parts->address = at;
    parts->address_length = (size_t)(end - at);
    if (colons != 1)
        return;
    parts->address_length = (size_t)(colon - at);
    parts->ports = colon + 1;
    parts->ports_length = (size_t)(end - colon - 1);
}

static int cut(struct parts *parts, const char *item, size_t length, struct parse_reason *why)
{
    const char *end = item + length;
    *parts = (struct parts){.item = item, .item_length = length};
    if (length && *item == '!') {
        parts->exclude = true;
        for (item++; item < end && *item == ' ';)
            item++;
    }
    int result = 0;
    if (item < end && *item == '[')
        result = cut_bracket(parts, item, end, why);
    else
        cut_colon(parts, item, end);
    if (!result)
        cut_prefix(parts);
    return result;
}

static int set_ports(const struct parts *parts, struct dest_match *match, struct parse_reason *why)
{
    char copy[16];
    struct portset set;
    struct parse_reason inner;
    match->ports = (struct portrange){1, 65535};
    if (!parts->ports)
        return 0;
    struct text text = text_begin(copy, sizeof(copy));
    text_string_n(&text, parts->ports, parts->ports_length);
    int result = text.length < sizeof(copy) ? portset_parse(copy, &set, &inner) : -EINVAL;
    if (!result) {
        match->ports = set.range[0];
        return 0;
    }
    struct text out = reason(why);
    quote(&out, parts->item, parts->item_length);
    text_string(&out, text.length < sizeof(copy) ? inner.text : "write ADDRESS:PORT or :LO-HI");
    return result;
}

static int bad_prefix(const struct parts *parts, int family, struct parse_reason *why)
{
    struct text text = reason(why);
    quote(&text, parts->item, parts->item_length);
    show(&text, parts->prefix, parts->prefix_length < 20 ? parts->prefix_length : 20);
    text_string(&text, family == 4 ? " is no prefix length: IPv4 ends at /32"
                                   : " is no prefix length: IPv6 ends at /128");
    return -ERANGE;
}

static void print_block(struct text *text, const struct dest_match *match)
{
    bool v4 = address_is_v4(match->addr) && match->prefix >= 96;
    address_print(text, match->addr);
    if (match->prefix >= 128)
        return;
    text_char(text, '/');
    text_number(text, v4 ? match->prefix - 96u : match->prefix, 10);
}

static int host_bits(const struct parts *parts, const struct dest_match *block,
                     struct parse_reason *why)
{
    struct text text = reason(why);
    quote(&text, parts->item, parts->item_length);
    text_string(&text, "bits are set after the prefix: did you mean ");
    print_block(&text, block);
    text_char(&text, '?');
    return -EINVAL;
}

/* Connections to the unspecified address go to loopback, so nothing would ever match it. */
static bool unspecified(const struct dest_match *match)
{
    static const uint8_t zeros[16];
    return match->prefix == 128 && memcmp(match->addr + 12, zeros, 4) == 0 &&
           (address_is_v4(match->addr) || memcmp(match->addr, zeros, 16) == 0);
}

static int set_address(const struct parts *parts, struct dest_match *match,
                       struct parse_reason *why)
{
    if (parts->address_length == 3 && memcmp(parts->address, "any", 3) == 0 && !parts->prefix)
        return 0; /* ::/0, all zeros already */
    int family = address_parse(parts->address, parts->address_length, match->addr);
    if (!family)
        return complain(parts->item, parts->item_length,
                        "not an address or a block such as 10.0.0.0/8 (names are not looked up)",
                        why);
    long most = family == 4 ? 32 : 128;
    long prefix = parts->prefix ? number(parts->prefix, parts->prefix_length) : most;
    if (prefix < 0 || prefix > most)
        return bad_prefix(parts, family, why);
    match->prefix = (uint8_t)(prefix + 128 - most);
    match->v6_only = match->prefix < 96;
    if (unspecified(match))
        return complain(parts->item, parts->item_length,
                        "no destination: write 0.0.0.0/0, ::/0, or any for both", why);
    struct dest_match block = *match;
    address_mask(block.addr, block.prefix);
    return memcmp(block.addr, match->addr, 16) ? host_bits(parts, &block, why) : 0;
}

static int parse_item(const char *item, size_t length, struct dest_match *match,
                      struct parse_reason *why)
{
    struct parts parts;
    *match = (struct dest_match){.prefix = 0};
    int result = cut(&parts, item, length, why);
    if (!result && !parts.address_length)
        result =
            complain(item, length, "no address given: write any, or one such as 10.0.0.1", why);
    if (!result)
        result = set_address(&parts, match, why);
    if (!result)
        result = set_ports(&parts, match, why);
    match->exclude = parts.exclude;
    return result;
}

static size_t item_length(const char *item)
{
    size_t length = 0;
    while (item[length] && item[length] != ',')
        length++;
    return length;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Reads all items of @to into dest[*count]... Return: 0 or -errno; @count is what was read. */
static int parse_to(const char *to, struct dest_match *dest, uint32_t *count, uint32_t most,
                    struct parse_reason *why)
{
    *count = 0;
    while (is_space(*to))
        to++;
    if (!*to)
        return 0;
    for (;; to++) {
        while (is_space(*to))
            to++;
        size_t whole = item_length(to), length = whole;
        while (length && is_space(to[length - 1]))
            length--;
        if (*count == most) {
            struct text text = reason(why);
            text_string(&text, "more than 256 destinations in all rules together");
            return -E2BIG;
        }
        int result = parse_item(to, length, &dest[*count], why);
        if (result)
            return result;
        ++*count;
        to += whole;
        if (!*to)
            return 0;
    }
}

void policy_init(struct policy *policy)
{
    memset(policy, 0, sizeof(*policy));
    policy->quarantine_ms = POLICY_QUARANTINE_MS;
}

static int set_name(struct policy_rule *rule, const char *name, struct parse_reason *why)
{
    size_t length = strlen(name);
    bool printable = length > 0;
    for (size_t i = 0; i < length; i++)
        printable = printable && name[i] >= ' ' && name[i] <= '~';
    if (!printable || length >= POLICY_NAME)
        return complain(name, length, "a rule's name has 1 to 31 printable characters", why);
    memcpy(rule->name, name, length + 1);
    return 0;
}

int policy_add_rule(struct policy *policy, const char *name, const char *ports, const char *to,
                    struct parse_reason *why)
{
    struct policy_rule rule;
    uint32_t count = 0;
    memset(&rule, 0, sizeof(rule));
    if (policy->rule_count >= POLICY_RULES || policy->dest_count > POLICY_DESTS) {
        struct text text = reason(why);
        text_string(&text, "more than 32 rules");
        return -E2BIG;
    }
    uint32_t first = policy->dest_count;
    int result = set_name(&rule, name, why);
    if (!result)
        result = portset_parse(ports, &rule.ports, why);
    if (!result && to)
        result = parse_to(to, policy->dest + first, &count, POLICY_DESTS - first, why);
    if (result) {
        memset(policy->dest + first, 0, (POLICY_DESTS - first) * sizeof(policy->dest[0]));
        return result;
    }
    rule.dest_first = (uint16_t)first;
    rule.dest_count = (uint16_t)count;
    policy->dest_count += count;
    policy->rule[policy->rule_count++] = rule;
    return 0;
}

/* ---- aliases ---- */

static uint64_t big_endian(const uint8_t bytes[8])
{
    uint64_t value;
    memcpy(&value, bytes, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

int dest_compare(const struct dest *one, const struct dest *other)
{
    for (size_t i = 0; i < sizeof(one->addr); i += 8) {
        uint64_t a = big_endian(one->addr + i), b = big_endian(other->addr + i);
        if (a != b)
            return a < b ? -1 : 1;
    }
    return (int)one->port - other->port;
}

/* The first alias that is not before @from; alias_count if there is none. */
static uint32_t alias_place(const struct policy *policy, const struct dest *from)
{
    uint32_t lo = 0, hi = policy->alias_count;
    hi = hi < POLICY_ALIASES ? hi : POLICY_ALIASES;
    while (lo < hi) {
        uint32_t middle = (lo + hi) / 2;
        if (dest_compare(&policy->alias[middle].from, from) < 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

static uint8_t alias_find(const struct policy *policy, const struct dest *from, struct dest *to)
{
    uint32_t at = alias_place(policy, from);
    if (at >= policy->alias_count || at >= POLICY_ALIASES ||
        dest_compare(&policy->alias[at].from, from) != 0)
        return 0;
    *to = policy->alias[at].to;
    return policy->alias[at].name;
}

/* Most destinations are no alias, and one search says so: all of an address are neighbours. */
uint8_t policy_server(const struct policy *policy, const struct dest *dest, struct dest *server)
{
    struct dest whole = *dest;
    uint16_t port = dest->port;
    *server = *dest;
    whole.port = 0;
    uint32_t at = policy->alias_count ? alias_place(policy, &whole) : POLICY_ALIASES;
    if (at >= policy->alias_count || at >= POLICY_ALIASES ||
        memcmp(policy->alias[at].from.addr, whole.addr, sizeof(whole.addr)) != 0)
        return 0;
    uint8_t name = alias_find(policy, dest, server);
    if (name)
        return name;
    name = alias_find(policy, &whole, server);
    server->port = port;
    return name;
}

bool policy_address(const struct policy *policy, const struct dest *server, uint8_t name,
                    struct dest *address)
{
    struct dest found;
    for (uint32_t i = 0; i < policy->alias_count && i < POLICY_ALIASES; i++) {
        if (policy->alias[i].name != name ||
            (policy->alias[i].to.port && policy->alias[i].to.port != server->port))
            continue;
        *address = policy->alias[i].from;
        address->port = address->port ? address->port : server->port;
        policy_server(policy, address, &found);
        if (dest_compare(&found, server) == 0)
            return true;
    }
    return false;
}

/* FNV-1a (Fowler, Noll, Vo). */
static uint8_t alias_hash(const struct dest *from)
{
    uint32_t hash = 0x811c9dc5u;
    for (size_t i = 0; i < sizeof(from->addr); i++)
        hash = (hash ^ from->addr[i]) * 0x01000193u;
    hash = (hash ^ from->port >> 8) * 0x01000193u;
    hash = (hash ^ (from->port & 0xff)) * 0x01000193u;
    return (uint8_t)((hash ^ hash >> 16) % POLICY_NAMES);
}

/* No server has as many addresses as there are names. */
static void aliases_name(struct policy *policy)
{
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        bool used[POLICY_NAMES] = {false};
        for (uint32_t k = 0; k < i; k++)
            if (dest_compare(&policy->alias[k].to, &policy->alias[i].to) == 0)
                used[policy->alias[k].name - 1] = true;
        uint8_t name = alias_hash(&policy->alias[i].from);
        while (used[name])
            name = (uint8_t)((name + 1) % POLICY_NAMES);
        policy->alias[i].name = name + 1;
    }
}

/* Return: whether there was room. */
static bool alias_set(struct policy *policy, const struct dest *from, const struct dest *to)
{
    uint32_t at = alias_place(policy, from);
    bool known = at < policy->alias_count && dest_compare(&policy->alias[at].from, from) == 0;
    if (!known && policy->alias_count == POLICY_ALIASES)
        return false;
    if (!known) {
        memmove(&policy->alias[at + 1], &policy->alias[at],
                (policy->alias_count - at) * sizeof(policy->alias[0]));
        policy->alias[at].from = *from;
        policy->alias_count++;
        policy->alias[at].name = 1; /* until all are known: aliases_name() */
    }
    policy->alias[at].to = *to;
    return true;
}

/* As alias_set(), and under all names that the address itself has. */
static bool alias_set_all(struct policy *policy, const struct dest *from, const struct dest *to)
{
    struct dest whole = *from, each = *from, same;
    whole.port = 0;
    if (!alias_set(policy, from, to))
        return false;
    for (uint32_t i = 0; from->port && i < policy->alias_count; i++) {
        each = policy->alias[i].from;
        if (each.port || dest_compare(&policy->alias[i].to, &whole) != 0)
            continue;
        each.port = from->port;
        if (!alias_find(policy, &each, &same)) {
            if (!alias_set(policy, &each, to))
                return false;
            i = UINT32_MAX; /* they have moved */
        }
    }
    return true;
}

/* Makes the servers of two addresses one, which is known by that of @first. Return: whether there
 * was room. */
static bool alias_join(struct policy *policy, const struct dest *first, const struct dest *other)
{
    struct dest to, from;
    policy_server(policy, first, &to);
    if (!alias_find(policy, &to, &from) && !alias_set_all(policy, &to, &to))
        return false;
    policy_server(policy, other, &from);
    for (uint32_t i = 0; i < policy->alias_count; i++)
        if (dest_compare(&policy->alias[i].to, &from) == 0)
            policy->alias[i].to = to;
    return dest_compare(&from, &to) == 0 || alias_set_all(policy, &from, &to);
}

static int alias_refuse_many(struct parse_reason *why)
{
    struct text text = reason(why);
    text_string(&text, "more than 250 addresses in all aliases together");
    return -E2BIG;
}

/* Reads one list of an alias. Return: 0 or -errno. */
static int alias_parse(const char *text, struct dest_match *match, uint32_t *count,
                       struct parse_reason *why)
{
    int result = parse_to(text, match, count, POLICY_ALIASES, why);
    if (result == -E2BIG)
        return alias_refuse_many(why);
    if (!result && !*count)
        return complain(text, strlen(text), "no address given: write one such as 10.96.0.1:80",
                        why);
    for (uint32_t i = 0; !result && i < *count; i++) {
        char item[80];
        size_t length = policy_dest_print(&match[i], item, sizeof(item));
        bool whole = match[i].ports.lo == 1 && match[i].ports.hi == 65535;
        if (match[i].exclude || match[i].prefix < 128)
            result = complain(item, length, "one address is needed, such as 10.96.0.1:80", why);
        else if (!whole && match[i].ports.lo != match[i].ports.hi)
            result =
                complain(item, length, "one port is allowed, or none for all of the address'", why);
        else if (addr_is_loopback(match[i].addr))
            result = complain(item, length, "loopback is in each namespace another server", why);
    }
    return result;
}

static struct dest alias_dest(const struct dest_match *match)
{
    struct dest dest = {.port = match->ports.lo == match->ports.hi ? match->ports.lo : 0};
    memcpy(dest.addr, match->addr, sizeof(dest.addr));
    return dest;
}

int policy_add_alias(struct policy *policy, const char *addresses, const char *servers,
                     struct parse_reason *why)
{
    struct dest_match match[2 * POLICY_ALIASES];
    struct policy before = *policy;
    uint32_t count = 0, more = 0;
    bool room = true;
    int result = alias_parse(servers, match, &count, why);
    if (!result)
        result = alias_parse(addresses, match + count, &more, why);
    if (result)
        return result;
    struct dest first = alias_dest(&match[0]);
    for (uint32_t i = 0; i < policy->alias_count; i++)
        if (!first.port && policy->alias[i].from.port)
            return complain(servers, strlen(servers),
                            "whole addresses come before those with ports", why);
    for (uint32_t i = 1; i < count + more; i++) {
        struct dest other = alias_dest(&match[i]);
        if (!first.port != !other.port) {
            char item[80];
            size_t length = policy_dest_print(&match[i], item, sizeof(item));
            result = complain(item, length, "give a port to all of an alias' addresses, or to none",
                              why);
            break;
        }
        room = room && alias_join(policy, &first, &other);
    }
    if (!room)
        result = alias_refuse_many(why);
    if (result)
        *policy = before;
    else
        aliases_name(policy);
    return result;
}

/* ---- validity ---- */

static bool aliases_valid(const struct policy *policy)
{
    struct dest again;
    if (policy->alias_count > POLICY_ALIASES)
        return false;
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        const struct policy_alias *alias = &policy->alias[i];
        if ((i && dest_compare(&policy->alias[i - 1].from, &alias->from) >= 0) ||
            !alias->from.port != !alias->to.port || alias->name < 1 ||
            alias->name > POLICY_NAMES || !alias_find(policy, &alias->to, &again) ||
            dest_compare(&again, &alias->to) != 0)
            return false;
    }
    return true;
}

static bool dest_valid(const struct dest_match *match)
{
    uint8_t block[16];
    memcpy(block, match->addr, 16);
    if (match->prefix > 128 || match->exclude > 1 || match->v6_only > 1 || match->ports.lo < 1 ||
        match->ports.lo > match->ports.hi)
        return false;
    address_mask(block, match->prefix);
    return memcmp(block, match->addr, 16) == 0;
}

static bool name_valid(const char name[POLICY_NAME])
{
    size_t length = 0;
    while (length < POLICY_NAME && name[length] >= ' ' && name[length] <= '~')
        length++;
    return length > 0 && length < POLICY_NAME && !name[length];
}

static bool rule_valid(const struct policy *policy, const struct policy_rule *rule)
{
    return name_valid(rule->name) && rule->exhausted <= POLICY_PASS &&
           rule->scope <= POLICY_ADDRESS &&
           (rule->exhausted != POLICY_WAIT ||
            (rule->wait_ms >= 1 && rule->wait_ms <= POLICY_WAIT_MAX_MS)) &&
           rule->dest_first <= policy->dest_count &&
           rule->dest_count <= policy->dest_count - rule->dest_first && portset_valid(&rule->ports);
}

bool policy_valid(const struct policy *policy)
{
    if (policy->rule_count < 1 || policy->rule_count > POLICY_RULES ||
        policy->dest_count > POLICY_DESTS || policy->quarantine_ms > POLICY_QUARANTINE_MAX_MS ||
        !aliases_valid(policy))
        return false;
    for (uint32_t i = 0; i < policy->rule_count && i < POLICY_RULES; i++)
        if (!rule_valid(policy, &policy->rule[i]))
            return false;
    for (uint32_t i = 0; i < policy->dest_count && i < POLICY_DESTS; i++)
        if (!dest_valid(&policy->dest[i]))
            return false;
    return true;
}

/* ---- matching ---- */

struct halves {
    uint64_t high, low;
    bool v4;
};

/* How many bits the two have in common from the start: cheaper than making masks. */
static unsigned common_bits(const uint8_t block[16], struct halves addr)
{
    uint64_t high = big_endian(block) ^ addr.high;
    uint64_t low = big_endian(block + 8) ^ addr.low;
    if (high)
        return (unsigned)__builtin_clzll(high);
    return low ? 64 + (unsigned)__builtin_clzll(low) : 128;
}

static bool block_has(const struct dest_match *match, struct halves addr)
{
    return common_bits(match->addr, addr) >= match->prefix && !(match->v6_only && addr.v4);
}

/* Loopback is matched by what names it only: a block that lies in 127.0.0.0/8, or ::1. */
static bool names_loopback(const struct dest_match *match)
{
    return addr_is_loopback(match->addr) && match->prefix >= 96 + 8;
}

static bool dest_matches(const struct dest_match *match, struct halves addr, uint16_t port,
                         bool loopback)
{
    return match->ports.lo <= port && port <= match->ports.hi && block_has(match, addr) &&
           (!loopback || match->exclude || names_loopback(match));
}

static bool rule_matches(const struct policy *policy, const struct policy_rule *rule,
                         struct halves addr, uint16_t port, bool loopback)
{
    uint32_t first = rule->dest_first, count = rule->dest_count;
    bool included = false, only_exclusions = true;
    for (uint32_t i = first; i < first + count && i < POLICY_DESTS; i++) {
        const struct dest_match *match = &policy->dest[i];
        only_exclusions = only_exclusions && match->exclude;
        if (!dest_matches(match, addr, port, loopback))
            continue;
        if (match->exclude)
            return false;
        included = true;
    }
    return included || (only_exclusions && !loopback);
}

static uint32_t at_most(uint32_t value, uint32_t most)
{
    return value < most ? value : most;
}

/* A copy with every value in its bounds: garbled memory may cost a port, not hours of waiting. */
static void set_verdict(struct policy_verdict *verdict, const struct policy *policy, uint32_t index)
{
    const struct policy_rule *rule = &policy->rule[index];
    verdict->rule = index;
    verdict->exhausted = rule->exhausted;
    if (verdict->exhausted > POLICY_PASS)
        verdict->exhausted = POLICY_FAIL;
    verdict->scope = rule->scope == POLICY_ADDRESS ? POLICY_ADDRESS : POLICY_NODE;
    verdict->wait_ms = at_most(rule->wait_ms, POLICY_WAIT_MAX_MS);
    verdict->quarantine_ms = at_most(policy->quarantine_ms, POLICY_QUARANTINE_MAX_MS);
    verdict->ports.count = at_most(rule->ports.count, PORTRANGE_MAX);
    for (uint32_t i = 0; i < verdict->ports.count; i++)
        verdict->ports.range[i] = rule->ports.range[i];
    if (!portset_valid(&verdict->ports))
        verdict->ports.count = 0;
}

/* Return: whether there is one. */
static bool rule_find(const struct policy *policy, const struct dest *dest,
                      struct policy_verdict *verdict)
{
    struct halves addr = {big_endian(dest->addr), big_endian(dest->addr + 8),
                          address_is_v4(dest->addr)};
    bool loopback = addr_is_loopback(dest->addr);
    for (uint32_t i = 0; i < policy->rule_count && i < POLICY_RULES; i++) {
        const struct policy_rule *rule = &policy->rule[i];
        if (!rule_matches(policy, rule, addr, dest->port, loopback))
            continue;
        set_verdict(verdict, policy, i);
        return true;
    }
    return false;
}

bool policy_match(const struct policy *policy, const struct dest *dest,
                  struct policy_verdict *verdict)
{
    bool found = rule_find(policy, dest, verdict);
    if (!found && !policy->alias_count)
        return false;
    verdict->name = policy_server(policy, dest, &verdict->server);
    if (!found)
        found = verdict->name && rule_find(policy, &verdict->server, verdict);
    if (verdict->name)
        verdict->scope = POLICY_NODE; /* what translates addresses sees all namespaces' */
    return found;
}

bool policy_may_match_address(const struct policy *policy, const uint8_t addr[16])
{
    if (!addr_is_loopback(addr))
        return true;
    for (uint32_t i = 0; i < policy->dest_count && i < POLICY_DESTS; i++)
        if (!policy->dest[i].exclude && names_loopback(&policy->dest[i]))
            return true;
    return false;
}

void policy_each_range(const struct policy *policy,
                       void (*mark)(const struct portrange *range, void *arg), void *arg)
{
    for (uint32_t i = 0; i < policy->rule_count && i < POLICY_RULES; i++)
        for (uint32_t k = 0; k < policy->rule[i].ports.count && k < PORTRANGE_MAX; k++)
            mark(&policy->rule[i].ports.range[k], arg);
}

/* How far the ports from @lo on, up to @hi, are in no rule's; less than @lo if @lo is in one. */
static uint32_t gap_end(const struct policy *policy, uint32_t lo, uint32_t hi)
{
    for (uint32_t i = 0; i < policy->rule_count && i < POLICY_RULES; i++)
        for (uint32_t k = 0; k < policy->rule[i].ports.count && k < PORTRANGE_MAX; k++) {
            const struct portrange *range = &policy->rule[i].ports.range[k];
            if (range->hi >= lo && range->lo <= hi)
                hi = range->lo <= lo ? lo - 1 : range->lo - 1u;
        }
    return hi;
}

struct gap {
    const struct policy *policy;
    uint32_t hi, best_lo, best_hi;
};

static void gap_try(struct gap *gap, uint32_t lo)
{
    uint32_t end = lo <= gap->hi ? gap_end(gap->policy, lo, gap->hi) : 0;
    if (end >= lo && (!gap->best_lo || end - lo > gap->best_hi - gap->best_lo)) {
        gap->best_lo = lo;
        gap->best_hi = end;
    }
}

bool policy_gap(const struct policy *policy, uint16_t *lo, uint16_t *hi)
{
    struct gap gap = {.policy = policy, .hi = *hi};
    uint32_t first = *lo < 1024 && *hi >= 1024 ? 1024 : *lo;
    gap_try(&gap, first);
    for (uint32_t i = 0; i < policy->rule_count && i < POLICY_RULES; i++)
        for (uint32_t k = 0; k < policy->rule[i].ports.count && k < PORTRANGE_MAX; k++)
            if (policy->rule[i].ports.range[k].hi >= first)
                gap_try(&gap, policy->rule[i].ports.range[k].hi + 1u);
    *lo = (uint16_t)gap.best_lo;
    *hi = (uint16_t)gap.best_hi;
    return gap.best_lo != 0;
}

_Static_assert(sizeof(struct policy) % 8 == 0, "policy_checksum() goes by words");

/* FNV-1a (Fowler, Noll, Vo), by 64-bit words: it runs at the start of every process. */
uint64_t policy_checksum(const struct policy *policy)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    const char *at = (const char *)policy;
    for (size_t i = 0; i < sizeof(*policy); i += 8) {
        uint64_t word;
        memcpy(&word, at + i, 8);
        hash = (hash ^ word) * 0x100000001b3ull;
        hash ^= hash >> 32;
    }
    return hash;
}

/* ---- policy to text ---- */

static void print_ports(struct text *text, struct portrange ports)
{
    if (ports.lo == 1 && ports.hi == 65535)
        return;
    text_char(text, ':');
    text_number(text, ports.lo, 10);
    if (ports.hi == ports.lo)
        return;
    text_char(text, '-');
    text_number(text, ports.hi, 10);
}

size_t policy_dest_print(const struct dest_match *match, char *buf, size_t size)
{
    struct text text = text_begin(buf, size);
    bool any = match->prefix == 0 && !match->v6_only;
    bool bracket = !any && !address_is_v4(match->addr) &&
                   !(match->ports.lo == 1 && match->ports.hi == 65535);
    if (match->exclude)
        text_char(&text, '!');
    if (bracket)
        text_char(&text, '[');
    if (any)
        text_string(&text, "any");
    else
        print_block(&text, match);
    if (bracket)
        text_char(&text, ']');
    print_ports(&text, match->ports);
    return text.length;
}

/* ---- destinations ---- */

bool dest_from_sockaddr(const struct sockaddr *sa, socklen_t len, struct dest *dest)
{
    static const uint8_t zeros[16];
    const unsigned char *raw = (const void *)sa;
    if (len < sizeof(sa->sa_family))
        return false;
    if (sa->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        memcpy(dest->addr, loopback_v4, 12);
        memcpy(dest->addr + 12, raw + offsetof(struct sockaddr_in, sin_addr), 4);
    } else if (sa->sa_family == AF_INET6 && len >= 24) { /* SIN6_LEN_RFC2133, linux/ipv6.h */
        memcpy(dest->addr, raw + offsetof(struct sockaddr_in6, sin6_addr), 16);
        if (memcmp(dest->addr, zeros, 16) == 0)
            dest->addr[15] = 1;
    } else {
        return false;
    }
    if (address_is_v4(dest->addr) && memcmp(dest->addr + 12, zeros, 4) == 0)
        memcpy(dest->addr + 12, "\x7f\0\0\1", 4);
    dest->port = (uint16_t)(raw[2] << 8 | raw[3]);
    return true;
}

size_t dest_print(const struct dest *dest, char *buf, size_t size)
{
    struct text text = text_begin(buf, size);
    bool v4 = address_is_v4(dest->addr);
    if (!v4)
        text_char(&text, '[');
    address_print(&text, dest->addr);
    text_string(&text, v4 ? ":" : "]:");
    text_number(&text, dest->port, 10);
    return text.length;
}

size_t policy_alias_print(const struct dest *dest, char *buf, size_t size)
{
    if (dest->port)
        return dest_print(dest, buf, size);
    struct text text = text_begin(buf, size);
    address_print(&text, dest->addr);
    return text.length;
}
