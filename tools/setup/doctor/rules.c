/* SPDX-License-Identifier: MIT */
/*
 * The firewall as the doctor keeps it, and how iptables-save's text gets in there.
 *
 * Only what iptables-save itself prints must be understood, not all that iptables accepts. What is
 * not understood makes a rule uncertain instead of wrong.
 */
#include "doctor.h"

#include "../../../pool/address.h"

#include <stdlib.h>
#include <string.h>

/* ---- chains and rules ---- */

static void fw_names_free(struct fw_names *names)
{
    free(names->name);
}

static void fw_rule_free(struct fw_rule *rule)
{
    for (size_t i = 0; i < FW_MATCHES; i++) {
        free(rule->from[i].range);
        free(rule->to[i].range);
        free(rule->sport[i].range);
        free(rule->dport[i].range);
        free(rule->ipset[i].name);
    }
    fw_names_free(&rule->in);
    fw_names_free(&rule->out);
    free(rule->target);
    free(rule->text);
    free(rule->comment);
}

void fw_free(struct fw *fw)
{
    for (size_t i = 0; i < fw->chains; i++) {
        struct fw_chain *chain = &fw->chain[i];
        for (size_t r = 0; r < chain->rules; r++)
            fw_rule_free(&chain->rule[r]);
        free(chain->rule);
        free(chain->table_family);
        free(chain->table);
        free(chain->name);
    }
    free(fw->chain);
    json_decref(fw->sets);
    json_decref(fw->ipsets);
    *fw = (struct fw){0};
}

/* FNV-1a of the name; tables share the buckets. */
static size_t fw_hash(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash % FW_BUCKETS;
}

struct fw_chain *fw_chain_find(const struct fw *fw, enum fw_backend backend,
                               const char *table_family, const char *table, const char *name)
{
    size_t at = fw->bucket[fw_hash(name)];
    while (at) {
        struct fw_chain *chain = &fw->chain[at - 1];
        if (chain->backend == backend && strcmp(chain->name, name) == 0 &&
            strcmp(chain->table, table) == 0 && strcmp(chain->table_family, table_family) == 0)
            return chain;
        at = chain->next;
    }
    return NULL;
}

/* Room for twice as many whenever a power of two is full. */
static void *fw_more(void *memory, size_t count, size_t size)
{
    if (count & (count - 1))
        return memory;
    return state_grow(memory, (count ? 2 * count : 1) * size);
}

struct fw_chain *fw_chain_add(struct fw *fw, enum fw_backend backend, const char *table_family,
                              const char *table, const char *name)
{
    struct fw_chain *chain = fw_chain_find(fw, backend, table_family, table, name);
    size_t *bucket = &fw->bucket[fw_hash(name)];
    if (chain)
        return chain;
    fw->chain = fw_more(fw->chain, fw->chains, sizeof(*fw->chain));
    chain = &fw->chain[fw->chains++];
    *chain = (struct fw_chain){.backend = backend, .next = *bucket};
    *bucket = fw->chains;
    chain->table_family = state_copy(table_family);
    chain->table = state_copy(table);
    chain->name = state_copy(name);
    chain->family = strcmp(table_family, "ip") == 0 ? 4 : strcmp(table_family, "ip6") == 0 ? 6 : 0;
    return chain;
}

struct fw_rule *fw_rule_add(struct fw_chain *chain)
{
    chain->rule = fw_more(chain->rule, chain->rules, sizeof(*chain->rule));
    struct fw_rule *rule = &chain->rule[chain->rules++];
    *rule = (struct fw_rule){.handle = -1};
    return rule;
}

/* ---- matches ---- */

void fw_address_add(struct fw_addresses *match, const uint8_t lo[16], const uint8_t hi[16])
{
    match->range = fw_more(match->range, match->count, sizeof(*match->range));
    memcpy(match->range[match->count].lo, lo, 16);
    memcpy(match->range[match->count++].hi, hi, 16);
}

/* The last address of a block that begins at @addr: all host bits set. */
static void fw_block_end(const uint8_t addr[16], unsigned prefix, uint8_t end[16])
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned host = prefix >= 8 * (i + 1) ? 0 : prefix <= 8 * i ? 8 : 8 * (i + 1) - prefix;
        end[i] = addr[i] | (uint8_t)((1u << host) - 1);
    }
}

/* "24", or a mask as old versions print it, which is not understood. Return: -1 for that. */
static int fw_prefix(const char *text, int family)
{
    char *end;
    unsigned long prefix = strtoul(text, &end, 10);
    if (end == text || *end || prefix > (family == 4 ? 32 : 128))
        return -1;
    return (int)prefix + (family == 4 ? 96 : 0);
}

int fw_address_text(struct fw_addresses *match, const char *text)
{
    uint8_t lo[16], hi[16];
    size_t length = strcspn(text, "/-");
    int family = address_parse(text, length, lo);
    if (!family)
        return -1;
    if (text[length] == '-') {
        if (address_parse(text + length + 1, strlen(text + length + 1), hi) != family ||
            memcmp(lo, hi, 16) > 0)
            return -1;
    } else {
        int prefix = text[length] ? fw_prefix(text + length + 1, family) : 128;
        if (prefix < 0)
            return -1;
        address_mask(lo, (unsigned)prefix);
        fw_block_end(lo, (unsigned)prefix, hi);
    }
    fw_address_add(match, lo, hi);
    return 0;
}

void fw_port_add(struct fw_ports *match, uint16_t lo, uint16_t hi)
{
    match->range = fw_more(match->range, match->count, sizeof(*match->range));
    match->range[match->count++] = (struct portrange){.lo = lo, .hi = hi};
}

void fw_name_add(struct fw_names *match, const char *name)
{
    match->name = fw_more(match->name, match->count, sizeof(*match->name));
    snprintf(match->name[match->count++], IFNAMSIZ + 1, "%s", name);
}

/* The first match of a kind that is not in use; NULL: none, the rule becomes uncertain. */
#define FW_SLOT(rule, kind)                                                                        \
    fw_slot((rule), (rule)->kind, sizeof((rule)->kind[0]),                                         \
            offsetof(__typeof__((rule)->kind[0]), set))

static void *fw_slot(struct fw_rule *rule, void *slots, size_t size, size_t set)
{
    for (size_t i = 0; i < FW_MATCHES; i++) {
        char *slot = (char *)slots + i * size;
        bool *used = (bool *)(slot + set);
        if (!*used) {
            *used = true;
            return slot;
        }
    }
    rule->uncertain = true;
    return NULL;
}

/* ---- options of one rule ---- */

/* One option with its value, as the parser meets it. */
struct option {
    const char *module; /* of the last -m */
    const char *value;
    const char *second; /* for those that take two; may be NULL */
    bool not ;
};

typedef void option_take(struct fw_rule *rule, const struct option *option);

static void take_addresses(struct fw_rule *rule, struct fw_addresses *match,
                           const struct option *option)
{
    if (!match)
        return;
    match->not = option->not ;
    if (fw_address_text(match, option->value) < 0) {
        match->set = false;
        rule->uncertain = true;
    }
}

static void take_from(struct fw_rule *rule, const struct option *option)
{
    take_addresses(rule, FW_SLOT(rule, from), option);
}

static void take_to(struct fw_rule *rule, const struct option *option)
{
    take_addresses(rule, FW_SLOT(rule, to), option);
}

/* "60001:60999", "1,2:5", "100-200". Return: false if it is not that. */
static bool take_range(const char *text, struct portrange *range)
{
    char *end;
    unsigned long lo = strtoul(text, &end, 10), hi = lo;
    if (end == text)
        return false;
    if (*end == ':' || *end == '-') {
        text = end + 1;
        hi = strtoul(text, &end, 10);
        if (end == text)
            return false;
    }
    if ((*end && *end != ',') || lo > hi || hi > 65535)
        return false;
    *range = (struct portrange){.lo = (uint16_t)lo, .hi = (uint16_t)hi};
    return true;
}

static void take_ports(struct fw_rule *rule, struct fw_ports *match, const struct option *option)
{
    struct portrange range;
    if (!match)
        return;
    match->not = option->not ;
    for (const char *at = option->value; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (take_range(at, &range)) {
            fw_port_add(match, range.lo, range.hi);
        } else {
            match->set = false;
            rule->uncertain = true;
            return;
        }
    }
}

static void take_sport(struct fw_rule *rule, const struct option *option)
{
    take_ports(rule, FW_SLOT(rule, sport), option);
}

static void take_dport(struct fw_rule *rule, const struct option *option)
{
    take_ports(rule, FW_SLOT(rule, dport), option);
}

static void take_names(struct fw_names *names, const struct option *option)
{
    names->set = true;
    names->not = option->not ;
    fw_name_add(names, option->value);
}

static void take_in(struct fw_rule *rule, const struct option *option)
{
    take_names(&rule->in, option);
}

static void take_out(struct fw_rule *rule, const struct option *option)
{
    take_names(&rule->out, option);
}

static void take_protocol(struct fw_rule *rule, const struct option *option)
{
    bool all = strcmp(option->value, "all") == 0 || strcmp(option->value, "0") == 0;
    bool tcp = strcmp(option->value, "tcp") == 0 || strcmp(option->value, "6") == 0;
    if ((all || tcp) == option->not )
        rule->not_tcp = true;
}

/*
 * Of the states a new connection's first packet has exactly one; and as flows are between the
 * addresses that they have in the end, none is DNAT's.
 */
static void take_state(struct fw_rule *rule, const struct option *option)
{
    bool new = strstr(option->value, "NEW") != NULL;
    if (!new && (strstr(option->value, "SNAT") || strstr(option->value, "UNTRACKED")))
        rule->uncertain = true;
    else if (new == option->not )
        rule->not_new = true;
}

/* "0x4000/0x4000", of the packet; a connection's mark is not known. */
static void take_mark(struct fw_rule *rule, const struct option *option)
{
    char *end;
    unsigned long mark = strtoul(option->value, &end, 0);
    unsigned long mask = *end == '/' ? strtoul(end + 1, &end, 0) : 0xffffffff;
    if (strcmp(option->module, "mark") != 0 || rule->has_mark || *end) {
        rule->uncertain = true;
        return;
    }
    rule->has_mark = true;
    rule->mark_not = option->not ;
    rule->mark = (uint32_t)mark;
    rule->mark_mask = (uint32_t)mask;
}

static void take_local(struct fw_rule *rule, struct fw_addresses *match,
                       const struct option *option)
{
    bool group = strcmp(option->value, "MULTICAST") == 0 || strcmp(option->value, "BROADCAST") == 0;
    if (strcmp(option->value, "LOCAL") != 0) {
        rule->not_tcp |= group && !option->not ; /* TCP is between two machines */
        rule->uncertain |= !group;
        if (match)
            match->set = false;
    } else if (match) {
        match->local = true;
        match->not = option->not ;
    }
}

static void take_from_type(struct fw_rule *rule, const struct option *option)
{
    take_local(rule, FW_SLOT(rule, from), option);
}

static void take_to_type(struct fw_rule *rule, const struct option *option)
{
    take_local(rule, FW_SLOT(rule, to), option);
}

/* --match-set NAME src: what sets of one dimension have, ipset can tell. */
static void take_ipset(struct fw_rule *rule, const struct option *option)
{
    bool to = option->second && strcmp(option->second, "dst") == 0;
    bool from = option->second && strcmp(option->second, "src") == 0;
    for (size_t i = 0; (to || from) && i < FW_MATCHES; i++) {
        if (rule->ipset[i].name)
            continue;
        rule->ipset[i] = (struct fw_ipset){state_copy(option->value), to, option->not };
        return;
    }
    rule->uncertain = true;
}

/* A connection's first packet has SYN, and no other of the flags that are looked at. */
static void take_flags(struct fw_rule *rule, const struct option *option)
{
    bool all = strcmp(option->value, "ALL") == 0;
    const char *has = all || strstr(option->value, "SYN") ? "SYN" : "NONE";
    bool matches = option->second && strcmp(option->second, has) == 0;
    if (!option->second)
        rule->uncertain = true;
    else if (matches == option->not )
        rule->not_new = true;
}

/* -m policy: "none" is a packet that IPsec has nothing to do with. */
static void take_policy(struct fw_rule *rule, const struct option *option)
{
    if (strcmp(option->value, "none") != 0 || option->not )
        rule->uncertain = true;
}

static void take_comment(struct fw_rule *rule, const struct option *option)
{
    free(rule->comment);
    rule->comment = state_copy(option->value);
}

static void take_nothing(struct fw_rule *rule, const struct option *option)
{
    (void)rule;
    (void)option;
}

static void take_random(struct fw_rule *rule, const struct option *option)
{
    (void)option;
    rule->random = true;
}

static void take_random_fully(struct fw_rule *rule, const struct option *option)
{
    (void)option;
    rule->random_fully = true;
}

static void take_to_ports(struct fw_rule *rule, const struct option *option)
{
    take_range(option->value, &rule->nat_ports);
}

/* "1.2.3.4-1.2.3.9:100-200", "[fd00::1]:100-200": the ports stand behind the last colon. */
static void take_to_source(struct fw_rule *rule, const struct option *option)
{
    const char *bracket = strchr(option->value, ']');
    const char *colon = strchr(bracket ? bracket : option->value, ':');
    bool v6 = !bracket && colon && strchr(colon + 1, ':');
    if (colon && !v6 && !take_range(colon + 1, &rule->nat_ports))
        rule->nat_ports = (struct portrange){0};
}

static const struct {
    const char *name;
    unsigned values;
    option_take *take;
} options[] = {
    {"-s", 1, take_from},
    {"-d", 1, take_to},
    {"-i", 1, take_in},
    {"-o", 1, take_out},
    {"-p", 1, take_protocol},
    {"--src-range", 1, take_from},
    {"--dst-range", 1, take_to},
    {"--sport", 1, take_sport},
    {"--dport", 1, take_dport},
    {"--sports", 1, take_sport},
    {"--dports", 1, take_dport},
    {"--ctstate", 1, take_state},
    {"--state", 1, take_state},
    {"--mark", 1, take_mark},
    {"--src-type", 1, take_from_type},
    {"--dst-type", 1, take_to_type},
    {"--match-set", 2, take_ipset},
    {"--tcp-flags", 2, take_flags},
    {"--dir", 1, take_nothing},
    {"--pol", 1, take_policy},
    {"--comment", 1, take_comment},
};

static const struct {
    const char *name;
    unsigned values;
    option_take *take;
} target_options[] = {
    {"--random", 0, take_random},
    {"--random-fully", 0, take_random_fully},
    {"--to-ports", 1, take_to_ports},
    {"--to-source", 1, take_to_source},
};

static const struct {
    const char *name;
    enum fw_verdict verdict;
} targets[] = {
    {"ACCEPT", VERDICT_ACCEPT}, {"DROP", VERDICT_DROP},       {"REJECT", VERDICT_DROP},
    {"RETURN", VERDICT_RETURN}, {"MASQUERADE", VERDICT_SNAT}, {"SNAT", VERDICT_SNAT},
    {"NETMAP", VERDICT_SNAT},   {"QUEUE", VERDICT_OTHER},     {"NFQUEUE", VERDICT_OTHER},
};

/* ---- one line ---- */

size_t split_words(char *text, char *word[WORDS_MAX])
{
    size_t count = 0;
    while (count < WORDS_MAX) {
        text += strspn(text, " \t");
        if (!*text)
            break;
        bool quoted = *text == '"';
        char *out = text;
        word[count++] = out;
        text += quoted;
        while (*text && (quoted ? *text != '"' : *text != ' ')) {
            text += quoted && *text == '\\' && text[1];
            *out++ = *text++;
        }
        text += *text != '\0';
        *out = '\0';
    }
    return count;
}

struct words {
    char *word[WORDS_MAX];
    size_t count;
    size_t at;
};

static const char *words_take(struct words *words)
{
    return words->at < words->count ? words->word[words->at++] : NULL;
}

/* An option that nobody knows: over its values. */
static void words_skip(struct words *words)
{
    while (words->at < words->count && words->word[words->at][0] != '-' &&
           strcmp(words->word[words->at], "!") != 0)
        words->at++;
}

static void option_apply(struct fw_rule *rule, struct words *words, struct option *option,
                         unsigned values, option_take *take)
{
    option->value = values > 0 ? words_take(words) : "";
    option->second = values > 1 ? words_take(words) : NULL;
    if (option->value)
        take(rule, option);
    else
        rule->uncertain = true;
}

static void take_target(struct fw_rule *rule, struct words *words, bool go)
{
    const char *target = words_take(words);
    rule->target = state_copy(target ? target : "");
    rule->verdict = go ? VERDICT_GOTO : VERDICT_JUMP;
    for (size_t i = 0; !go && i < sizeof(targets) / sizeof(targets[0]); i++)
        if (strcmp(targets[i].name, rule->target) == 0)
            rule->verdict = targets[i].verdict;
    for (const char *word; (word = words_take(words));) {
        struct option option = {.module = ""};
        for (size_t i = 0; i < sizeof(target_options) / sizeof(target_options[0]); i++)
            if (strcmp(target_options[i].name, word) == 0)
                option_apply(rule, words, &option, target_options[i].values,
                             target_options[i].take);
    }
}

static void take_option(struct fw_rule *rule, struct words *words, const char *word,
                        struct option *option)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strcmp(options[i].name, word) == 0) {
            option_apply(rule, words, option, options[i].values, options[i].take);
            return;
        }
    }
    rule->uncertain = true;
    words_skip(words);
}

/* The words behind "-A CHAIN". */
static void take_rule(struct fw_rule *rule, struct words *words)
{
    struct option option = {.module = ""};
    for (const char *word; (word = words_take(words));) {
        if (strcmp(word, "!") == 0) {
            option.not = true;
            continue;
        }
        if (strcmp(word, "-j") == 0 || strcmp(word, "-g") == 0) {
            take_target(rule, words, word[1] == 'g');
            return;
        }
        if (strcmp(word, "-m") == 0) {
            const char *module = words_take(words);
            option.module = module ? module : "";
        } else {
            take_option(rule, words, word, &option);
        }
        option.not = false;
    }
}

/* ---- the whole text ---- */

struct save {
    struct fw *fw;
    enum fw_backend backend;
    const char *family; /* "ip", "ip6" */
    char table[64];
};

static const struct {
    const char *table;
    const char *chain;
    enum fw_hook hook;
    int priority;
} builtin[] = {
    {"raw", "*", HOOK_OTHER, -300},
    {"mangle", "INPUT", HOOK_INPUT, -150},
    {"mangle", "FORWARD", HOOK_FORWARD, -150},
    {"mangle", "POSTROUTING", HOOK_POSTROUTING, -150},
    {"nat", "INPUT", HOOK_INPUT, 100},
    {"nat", "POSTROUTING", HOOK_POSTROUTING, 100},
    {"filter", "INPUT", HOOK_INPUT, 0},
    {"filter", "FORWARD", HOOK_FORWARD, 0},
    {"security", "INPUT", HOOK_INPUT, 50},
    {"security", "FORWARD", HOOK_FORWARD, 50},
};

static void save_builtin(struct fw_chain *chain)
{
    chain->hook = HOOK_OTHER;
    chain->nat = strcmp(chain->table, "nat") == 0;
    for (size_t i = 0; i < sizeof(builtin) / sizeof(builtin[0]); i++) {
        if (strcmp(builtin[i].table, chain->table) == 0 &&
            strcmp(builtin[i].chain, chain->name) == 0) {
            chain->hook = builtin[i].hook;
            chain->priority = builtin[i].priority;
        }
    }
}

/* ":FORWARD DROP [0:0]", ":cali-FORWARD - [0:0]". */
static void save_chain(struct save *save, char *line)
{
    char *name = strtok(line + 1, " "), *policy = strtok(NULL, " ");
    if (!name || !policy)
        return;
    struct fw_chain *chain = fw_chain_add(save->fw, save->backend, save->family, save->table, name);
    if (strcmp(policy, "-") != 0)
        save_builtin(chain);
    chain->drop = strcmp(policy, "DROP") == 0;
}

static void save_rule(struct save *save, char *line)
{
    struct words words = {.at = 0};
    char *text = state_copy(line);
    words.count = split_words(line, words.word);
    words_take(&words);
    const char *name = words_take(&words);
    struct fw_chain *chain =
        name ? fw_chain_find(save->fw, save->backend, save->family, save->table, name) : NULL;
    if (!chain) {
        free(text);
        return;
    }
    struct fw_rule *rule = fw_rule_add(chain);
    rule->text = text;
    rule->uncertain = words.count == WORDS_MAX;
    take_rule(rule, &words);
}

void fw_read_save(struct fw *fw, enum fw_backend backend, int family, const char *text)
{
    struct save save = {.fw = fw, .backend = backend, .family = family == 4 ? "ip" : "ip6"};
    char *copy = state_copy(text), *rest = copy, *line;
    while ((line = strsep(&rest, "\n"))) {
        if (line[0] == '*')
            snprintf(save.table, sizeof(save.table), "%s", line + 1);
        else if (line[0] == ':')
            save_chain(&save, line);
        else if (strncmp(line, "-A ", 3) == 0)
            save_rule(&save, line);
    }
    free(copy);
}
