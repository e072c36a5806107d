/* SPDX-License-Identifier: MIT */
/*
 * How "nft -j list ruleset" gets into the doctor's firewall (libnftables-json(5)).
 *
 * Any expression that is not known here makes its rule uncertain. A vmap becomes one uncertain
 * rule for each of its verdicts.
 */
#include "doctor.h"

#include "../../../pool/address.h"

#include <stdlib.h>
#include <string.h>

static const char *nft_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* The only key of an object such as {"match": {...}}; NULL if it is none. */
static const char *nft_kind(json_t *object, json_t **value)
{
    void *at = json_object_iter(object);
    *value = at ? json_object_iter_value(at) : NULL;
    return at ? json_object_iter_key(at) : NULL;
}

/* What a rule's @set refers to: the elements, or NULL. Key: "FAMILY TABLE NAME". */
static json_t *nft_set(const struct fw *fw, const struct fw_chain *chain, const char *name)
{
    char *key = text_format("%s %s %s", chain->table_family, chain->table, name);
    json_t *elements = json_object_get(fw->sets, key);
    free(key);
    return elements;
}

static void nft_set_add(struct fw *fw, const json_t *set)
{
    char *key = text_format("%s %s %s", nft_text(set, "family"), nft_text(set, "table"),
                            nft_text(set, "name"));
    json_t *elements = json_object_get(set, "elem");
    if (!fw->sets)
        fw->sets = json_object();
    json_object_set_new(fw->sets, key, elements ? json_incref(elements) : json_array());
    free(key);
}

/* ---- the right side of a match ---- */

struct nft_right {
    struct fw_rule *rule;
    void *match; /* struct fw_addresses, fw_ports, fw_names */
    bool (*take)(void *match, json_t *value);
};

/* {"elem": {"val": X, "timeout": ...}} is X with properties. */
static json_t *nft_value(json_t *value)
{
    json_t *element = json_object_get(value, "elem");
    json_t *inner = json_object_get(element, "val");
    return inner ? inner : value;
}

/* One value or a set of such, anonymous or named. Return: false if one was not understood. */
static bool nft_each(const struct fw *fw, const struct fw_chain *chain, json_t *value,
                     const struct nft_right *right)
{
    const char *text = json_string_value(value);
    json_t *list = json_is_array(value) ? value : json_object_get(value, "set");
    json_t *item;
    size_t i;
    bool good = true;
    if (text && text[0] == '@') {
        list = nft_set(fw, chain, text + 1);
        if (!list)
            return false;
    }
    if (!json_is_array(list))
        return right->take(right->match, nft_value(list ? list : value));
    json_array_foreach(list, i, item)
    {
        good = right->take(right->match, nft_value(item)) && good;
    }
    return good;
}

static bool nft_address(void *match, json_t *value)
{
    json_t *prefix = json_object_get(value, "prefix"), *range = json_object_get(value, "range");
    char text[128];
    if (prefix)
        snprintf(text, sizeof(text), "%s/%lld", nft_text(prefix, "addr"),
                 (long long)json_integer_value(json_object_get(prefix, "len")));
    else if (json_array_size(range) == 2 && json_is_string(json_array_get(range, 0)) &&
             json_is_string(json_array_get(range, 1)))
        snprintf(text, sizeof(text), "%s-%s", json_string_value(json_array_get(range, 0)),
                 json_string_value(json_array_get(range, 1)));
    else if (json_is_string(value))
        snprintf(text, sizeof(text), "%s", json_string_value(value));
    else
        return false;
    return fw_address_text(match, text) == 0;
}

static bool nft_range(json_t *value, struct portrange *ports)
{
    json_t *range = json_object_get(value, "range");
    json_t *first = range ? json_array_get(range, 0) : value;
    json_t *last = range ? json_array_get(range, 1) : value;
    json_int_t lo = json_integer_value(first), hi = json_integer_value(last);
    if (!json_is_integer(first) || !json_is_integer(last) || lo < 0 || lo > hi || hi > 65535)
        return false;
    *ports = (struct portrange){.lo = (uint16_t)lo, .hi = (uint16_t)hi};
    return true;
}

static bool nft_port(void *match, json_t *value)
{
    struct portrange range;
    if (!nft_range(value, &range))
        return false;
    fw_port_add(match, range.lo, range.hi);
    return true;
}

static bool nft_name(void *match, json_t *value)
{
    if (!json_is_string(value))
        return false;
    fw_name_add(match, json_string_value(value));
    return true;
}

/* Whether a value or list of them has @word. */
static bool nft_has(json_t *value, const char *word)
{
    json_t *list = json_is_object(value) ? json_object_get(value, "set") : value;
    json_t *item;
    size_t i;
    if (json_is_string(list))
        return strcmp(json_string_value(list), word) == 0;
    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), word) == 0)
            return true;
    }
    return false;
}

/* ---- one match ---- */

struct nft_match {
    struct fw *fw;
    const struct fw_chain *chain;
    struct fw_rule *rule;
    json_t *right;
    bool not ;
};

static void nft_sources(const struct nft_match *match, struct fw_addresses slot[FW_MATCHES])
{
    for (size_t i = 0; i < FW_MATCHES; i++) {
        struct nft_right right = {match->rule, &slot[i], nft_address};
        if (slot[i].set)
            continue;
        slot[i].not = match->not ;
        slot[i].set = nft_each(match->fw, match->chain, match->right, &right);
        match->rule->uncertain |= !slot[i].set;
        return;
    }
    match->rule->uncertain = true;
}

static void nft_ports(const struct nft_match *match, struct fw_ports slot[FW_MATCHES])
{
    for (size_t i = 0; i < FW_MATCHES; i++) {
        struct nft_right right = {match->rule, &slot[i], nft_port};
        if (slot[i].set)
            continue;
        slot[i].not = match->not ;
        slot[i].set = nft_each(match->fw, match->chain, match->right, &right);
        match->rule->uncertain |= !slot[i].set;
        return;
    }
    match->rule->uncertain = true;
}

static void nft_names(const struct nft_match *match, struct fw_names *names)
{
    struct nft_right right = {match->rule, names, nft_name};
    if (names->set) {
        match->rule->uncertain = true;
        return;
    }
    names->not = match->not ;
    names->set = nft_each(match->fw, match->chain, match->right, &right);
    match->rule->uncertain |= !names->set;
}

static void nft_protocol(const struct nft_match *match)
{
    if (nft_has(match->right, "tcp") == match->not )
        match->rule->not_tcp = true;
}

static void nft_payload(const struct nft_match *match, const json_t *payload)
{
    const char *protocol = nft_text(payload, "protocol"), *field = nft_text(payload, "field");
    bool ip = strcmp(protocol, "ip") == 0, ip6 = strcmp(protocol, "ip6") == 0;
    bool tcp = strcmp(protocol, "tcp") == 0 || strcmp(protocol, "th") == 0;
    match->rule->family4 |= ip;
    match->rule->family6 |= ip6;
    if ((ip || ip6) && strcmp(field, "saddr") == 0)
        nft_sources(match, match->rule->from);
    else if ((ip || ip6) && strcmp(field, "daddr") == 0)
        nft_sources(match, match->rule->to);
    else if (tcp && strcmp(field, "sport") == 0)
        nft_ports(match, match->rule->sport);
    else if (tcp && strcmp(field, "dport") == 0)
        nft_ports(match, match->rule->dport);
    else if (ip && strcmp(field, "protocol") == 0)
        nft_protocol(match);
    else if (ip6 && strcmp(field, "nexthdr") == 0)
        nft_protocol(match);
    else if (!ip && !ip6 && !tcp)
        match->rule->not_tcp = true;
    else
        match->rule->uncertain = true;
}

static void nft_mark(const struct nft_match *match, uint32_t mask)
{
    if (!json_is_integer(match->right) || match->rule->has_mark) {
        match->rule->uncertain = true;
        return;
    }
    match->rule->has_mark = true;
    match->rule->mark_not = match->not ;
    match->rule->mark = (uint32_t)json_integer_value(match->right);
    match->rule->mark_mask = mask;
}

static void nft_meta(const struct nft_match *match, const json_t *meta)
{
    const char *key = nft_text(meta, "key");
    if (strcmp(key, "iifname") == 0 || strcmp(key, "iif") == 0)
        nft_names(match, &match->rule->in);
    else if (strcmp(key, "oifname") == 0 || strcmp(key, "oif") == 0)
        nft_names(match, &match->rule->out);
    else if (strcmp(key, "l4proto") == 0)
        nft_protocol(match);
    else if (strcmp(key, "mark") == 0)
        nft_mark(match, 0xffffffff);
    else if (strcmp(key, "nfproto") == 0 && nft_has(match->right, "ipv4") != match->not )
        match->rule->family4 = true;
    else if (strcmp(key, "nfproto") == 0)
        match->rule->family6 = true;
    else
        match->rule->uncertain = true;
}

static void nft_ct(const struct nft_match *match, const json_t *ct)
{
    const char *key = nft_text(ct, "key");
    bool fresh = nft_has(match->right, "new");
    bool dnat = strcmp(key, "status") == 0 && json_is_string(match->right) &&
                nft_has(match->right, "dnat"); /* see take_state() */
    if (!dnat && (strcmp(key, "state") != 0 || (!fresh && nft_has(match->right, "untracked"))))
        match->rule->uncertain = true;
    else if (fresh == match->not )
        match->rule->not_new = true;
}

/* fib daddr type local */
static void nft_fib(const struct nft_match *match, json_t *fib)
{
    json_t *flags = json_object_get(fib, "flags");
    bool type = strcmp(nft_text(fib, "result"), "type") == 0;
    bool local = type && nft_has(match->right, "local");
    bool group = type && json_is_string(match->right) &&
                 (nft_has(match->right, "multicast") || nft_has(match->right, "broadcast"));
    struct fw_addresses *slot = nft_has(flags, "daddr")   ? match->rule->to
                                : nft_has(flags, "saddr") ? match->rule->from
                                                          : NULL;
    for (size_t i = 0; local && slot && i < FW_MATCHES; i++) {
        if (slot[i].set)
            continue;
        slot[i] = (struct fw_addresses){.set = true, .local = true, .not = match->not };
        return;
    }
    match->rule->not_tcp |= group && !match->not ; /* TCP is between two machines */
    match->rule->uncertain |= !group;
}

/* "meta mark & 0x4000 == 0" and tcp flags, of which only what --syn means is understood. */
static void nft_and(const struct nft_match *match, json_t *list)
{
    json_t *inner = json_array_get(list, 0), *mask = json_array_get(list, 1), *value;
    const char *kind = nft_kind(inner, &value);
    if (kind && strcmp(kind, "meta") == 0 && strcmp(nft_text(value, "key"), "mark") == 0 &&
        json_is_integer(mask))
        nft_mark(match, (uint32_t)json_integer_value(mask));
    else
        match->rule->uncertain = true;
}

static void nft_match(struct fw *fw, const struct fw_chain *chain, struct fw_rule *rule,
                      json_t *expression)
{
    const char *op = nft_text(expression, "op");
    struct nft_match match = {fw, chain, rule, json_object_get(expression, "right"),
                              strcmp(op, "!=") == 0};
    json_t *value;
    const char *kind = nft_kind(json_object_get(expression, "left"), &value);
    if (!kind || (strcmp(op, "==") != 0 && strcmp(op, "!=") != 0 && strcmp(op, "in") != 0))
        rule->uncertain = true;
    else if (strcmp(kind, "payload") == 0)
        nft_payload(&match, value);
    else if (strcmp(kind, "meta") == 0)
        nft_meta(&match, value);
    else if (strcmp(kind, "ct") == 0)
        nft_ct(&match, value);
    else if (strcmp(kind, "fib") == 0)
        nft_fib(&match, value);
    else if (strcmp(kind, "&") == 0)
        nft_and(&match, value);
    else
        rule->uncertain = true;
}

/* ---- statements ---- */

static const struct {
    const char *name;
    enum fw_verdict verdict;
} verdicts[] = {
    {"accept", VERDICT_ACCEPT}, {"drop", VERDICT_DROP},       {"reject", VERDICT_DROP},
    {"return", VERDICT_RETURN}, {"jump", VERDICT_JUMP},       {"goto", VERDICT_GOTO},
    {"snat", VERDICT_SNAT},     {"masquerade", VERDICT_SNAT}, {"queue", VERDICT_OTHER},
    {"xt", VERDICT_OTHER},      {"continue", VERDICT_NONE},
};

/* Statements that say nothing of whether a packet goes on. */
static const char *const neutral[] = {"counter", "log", "mangle", "notrack", "comment"};

static void nft_verdict(struct fw_rule *rule, enum fw_verdict verdict, json_t *value)
{
    json_t *flags = json_object_get(value, "flags");
    rule->verdict = verdict;
    rule->uncertain |= verdict == VERDICT_OTHER;
    rule->random = nft_has(flags, "random");
    rule->random_fully = nft_has(flags, "fully-random");
    if (verdict == VERDICT_SNAT)
        nft_range(json_object_get(value, "port"), &rule->nat_ports);
    if (!rule->target)
        rule->target = state_copy(nft_text(value, "target"));
}

static bool nft_statement(struct fw_rule *rule, const char *kind, json_t *value)
{
    for (size_t i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++) {
        if (strcmp(verdicts[i].name, kind) == 0) {
            nft_verdict(rule, verdicts[i].verdict, value);
            return true;
        }
    }
    for (size_t i = 0; i < sizeof(neutral) / sizeof(neutral[0]); i++)
        if (strcmp(neutral[i], kind) == 0)
            return true;
    return false;
}

/* Each verdict of an anonymous map as a rule that may match; a named map may do anything. */
static void nft_vmap(struct fw_chain *chain, json_t *vmap)
{
    json_t *set = json_object_get(json_object_get(vmap, "data"), "set"), *pair, *value;
    size_t i;
    if (!set) {
        struct fw_rule *rule = fw_rule_add(chain);
        rule->uncertain = true;
        rule->verdict = VERDICT_OTHER;
    }
    json_array_foreach(set, i, pair)
    {
        const char *kind = nft_kind(json_array_get(pair, 1), &value);
        struct fw_rule *rule = fw_rule_add(chain);
        rule->uncertain = true;
        if (!kind || !nft_statement(rule, kind, value))
            rule->verdict = VERDICT_OTHER;
    }
}

static void nft_rule(struct fw *fw, struct fw_chain *chain, const json_t *object)
{
    struct fw_rule *rule = fw_rule_add(chain);
    json_t *item, *value, *vmap = NULL;
    const char *comment = nft_text(object, "comment");
    size_t i;
    rule->handle = json_integer_value(json_object_get(object, "handle"));
    rule->comment = *comment ? state_copy(comment) : NULL;
    json_array_foreach(json_object_get(object, "expr"), i, item)
    {
        const char *kind = nft_kind(item, &value);
        if (kind && strcmp(kind, "match") == 0)
            nft_match(fw, chain, rule, value);
        else if (kind && strcmp(kind, "vmap") == 0)
            vmap = value;
        else if (!kind || !nft_statement(rule, kind, value))
            rule->uncertain = true;
    }
    if (vmap)
        nft_vmap(chain, vmap);
}

/* ---- the whole ruleset ---- */

static enum fw_hook nft_hook(const char *hook)
{
    if (!*hook)
        return HOOK_NONE;
    return strcmp(hook, "forward") == 0       ? HOOK_FORWARD
           : strcmp(hook, "input") == 0       ? HOOK_INPUT
           : strcmp(hook, "postrouting") == 0 ? HOOK_POSTROUTING
                                              : HOOK_OTHER;
}

static bool nft_is_ip(const json_t *object)
{
    const char *family = nft_text(object, "family");
    return strcmp(family, "ip") == 0 || strcmp(family, "ip6") == 0 || strcmp(family, "inet") == 0;
}

/* Whether iptables-nft-save has told of this chain. */
static bool nft_is_explained(const struct fw *fw, const json_t *object)
{
    return fw_chain_find(fw, FW_IPTABLES_NFT, nft_text(object, "family"), nft_text(object, "table"),
                         nft_text(object, "name")) != NULL;
}

static void nft_chain(struct fw *fw, const json_t *object)
{
    struct fw_chain *chain = fw_chain_add(fw, FW_NFT, nft_text(object, "family"),
                                          nft_text(object, "table"), nft_text(object, "name"));
    chain->hook = nft_hook(nft_text(object, "hook"));
    chain->priority = (int)json_integer_value(json_object_get(object, "prio"));
    chain->nat = strcmp(nft_text(object, "type"), "nat") == 0;
    chain->drop = strcmp(nft_text(object, "policy"), "drop") == 0;
}

static void nft_rule_of(struct fw *fw, const json_t *object)
{
    struct fw_chain *chain = fw_chain_find(fw, FW_NFT, nft_text(object, "family"),
                                           nft_text(object, "table"), nft_text(object, "chain"));
    if (chain)
        nft_rule(fw, chain, object);
}

/* Sets first, then chains, then rules: a rule may name what the list has later. */
static void nft_pass(struct fw *fw, json_t *list, const char *what)
{
    json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        json_t *object = json_object_get(item, what);
        if (!object || !nft_is_ip(object))
            continue;
        if (strcmp(what, "set") == 0)
            nft_set_add(fw, object);
        else if (strcmp(what, "chain") == 0 && !nft_is_explained(fw, object))
            nft_chain(fw, object);
        else if (strcmp(what, "rule") == 0)
            nft_rule_of(fw, object);
    }
}

int fw_read_nft(struct fw *fw, const char *text)
{
    json_t *root = json_loads(text, JSON_ALLOW_NUL, NULL);
    json_t *list = json_object_get(root, "nftables");
    bool good = json_is_array(list);
    nft_pass(fw, list, "set");
    nft_pass(fw, list, "chain");
    nft_pass(fw, list, "rule");
    json_decref(root);
    return good ? 0 : -1;
}
