/* SPDX-License-Identifier: MIT */
/*
 * One iptables rule brought into the words in which iptables-save prints it, so that what a role
 * asks for can be compared with what is there. It is applied to both, so whatever this file does
 * not know is passed on as it stands and must then be written as iptables-save has it. Known are:
 *
 *   -s -d -i -o -p first, in this order; /32 and /128 at single addresses; 0.0.0.0/0 left out
 *   "-m tcp" before the first option of tcp (or udp, ...), --sport before --dport, 5:5 is 5
 *   --ctstate and --state in the kernel's order:
 * INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED,SNAT,DNAT
 *   --comment in double quotes unless it is all letters, digits, '-' and '_'
 *   --syn as --tcp-flags FIN,SYN,RST,ACK SYN
 *   -j last; REJECT with icmp-port-unreachable or icmp6-port-unreachable unless it says otherwise
 */
#include "state.h"

#include "../../../pool/address.h"

#include <stdlib.h>
#include <string.h>

/* ---- words ---- */

struct words {
    char **item; /* as they stand, with their quotes */
    size_t count;
};

/* The end of the word that begins at @at; NULL: its quote is not closed. */
static const char *word_end(const char *at, const char *end)
{
    if (*at != '"') {
        while (at < end && *at != ' ' && *at != '\t')
            at++;
        return at;
    }
    for (at++; at < end && *at != '"'; at++)
        at += *at == '\\' && at + 1 < end;
    return at < end ? at + 1 : NULL;
}

static void words_free(struct words *words)
{
    for (size_t i = 0; i < words->count; i++)
        free(words->item[i]);
    free(words->item);
}

static bool words_split(const char *text, size_t length, struct words *words)
{
    const char *end = text + length;
    *words = (struct words){.count = 0};
    for (;;) {
        while (text < end && (*text == ' ' || *text == '\t'))
            text++;
        const char *behind = text < end ? word_end(text, end) : text;
        if (!behind)
            words_free(words);
        if (text == end || !behind)
            return behind;
        words->item = state_grow(words->item, (words->count + 1) * sizeof(*words->item));
        char *word = state_grow(NULL, (size_t)(behind - text) + 1);
        memcpy(word, text, (size_t)(behind - text));
        word[behind - text] = '\0';
        words->item[words->count++] = word;
        text = behind;
    }
}

/* ---- values ---- */

/* "10.0.0.1" as "10.0.0.1/32"; NULL: everything. Others as they are. */
static const char *value_address(const char *value, char *buf, size_t size)
{
    uint8_t addr[16];
    size_t length = strcspn(value, "/");
    int family = address_parse(value, length, addr);
    unsigned long most = family == 4 ? 32 : 128, prefix = most;
    char *end = NULL;
    if (value[length])
        prefix = strtoul(value + length + 1, &end, 10);
    if (!family || (end && (*end || end == value + length + 1)) || prefix > most)
        return value;
    if (!prefix)
        return NULL;
    struct block block = {.prefix = (uint8_t)(prefix + 128 - most)};
    memcpy(block.addr, addr, sizeof(addr));
    address_mask(block.addr, block.prefix);
    return block_print(&block, buf, size);
}

/* "5:5" as "5", ":5" as "0:5", "5:" as "5:65535". */
static const char *value_ports(const char *value, char *buf, size_t size)
{
    const char *colon = strchr(value, ':');
    if (!colon)
        return value;
    int length = (int)(colon - value);
    if (length && strlen(colon + 1) == (size_t)length &&
        strncmp(value, colon + 1, (size_t)length) == 0)
        snprintf(buf, size, "%.*s", length, value);
    else
        snprintf(buf, size, "%.*s:%s", length ? length : 1, length ? value : "0",
                 colon[1] ? colon + 1 : "65535");
    return buf;
}

static bool list_has(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; *at; at += *at == ',') {
        size_t n = strcspn(at, ",");
        if (n == length && strncmp(at, name, n) == 0)
            return true;
        at += n;
    }
    return false;
}

static const char *value_states(const char *value, char *buf, size_t size)
{
    static const char *const order[] = {"INVALID",   "NEW",  "RELATED", "ESTABLISHED",
                                        "UNTRACKED", "SNAT", "DNAT"};
    size_t at = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
        if (list_has(value, order[i]) && at < size)
            at += (size_t)snprintf(buf + at, size - at, "%s%s", at ? "," : "", order[i]);
    return at ? buf : value;
}

/* As xtables_save_string() does it. */
static void comment_print(FILE *out, const char *word)
{
    static const char plain[] = "_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t length = strlen(word);
    bool was = length >= 2 && *word == '"';
    const char *at = word + was, *end = word + length - was;
    bool quoted = at == end || strspn(at, plain) < (size_t)(end - at);
    fputs(quoted ? " \"" : " ", out);
    for (; at < end; at++) {
        at += was && *at == '\\' && at + 1 < end;
        if (strchr("\"\\'", *at))
            putc('\\', out);
        putc(*at, out);
    }
    if (quoted)
        putc('"', out);
}

/* ---- the rule ---- */

enum { FROM, TO, IN, OUT, PROTOCOL, HEADS };

static const struct {
    const char *name, *canonical;
    int head; /* -1: not one of those that come first */
} options[] = {
    {"-s", "-s", FROM},
    {"--source", "-s", FROM},
    {"--src", "-s", FROM},
    {"-d", "-d", TO},
    {"--destination", "-d", TO},
    {"--dst", "-d", TO},
    {"-i", "-i", IN},
    {"--in-interface", "-i", IN},
    {"-o", "-o", OUT},
    {"--out-interface", "-o", OUT},
    {"-p", "-p", PROTOCOL},
    {"--protocol", "-p", PROTOCOL},
    {"--source-port", "--sport", -1},
    {"--destination-port", "--dport", -1},
    {"--match", "-m", -1},
    {"--jump", "-j", -1},
    {"--goto", "-g", -1},
};

/* What the protocol's match has, in the order in which it is printed. */
enum { SPORT, DPORT, FLAGS, PARTS };

struct rule {
    int family;
    const struct words *words;
    size_t at;
    char *head[HEADS]; /* "! -s 10.0.0.1/32" */
    char protocol[32];
    char *part[PARTS]; /* "--sport 5", "--dport 6": held back until all are known */
    FILE *matches;
    FILE *target;
    bool in_target;
    bool loaded; /* "-m tcp" is there */
    bool reject; /* -j REJECT without --reject-with */
};

static char *rule_text(bool not, const char *key, const char *value)
{
    char *text = state_grow(NULL, strlen(key) + strlen(value) + 8);
    sprintf(text, "%s%s %s", not ? "! " : "", key, value);
    return text;
}

static const char *rule_value(struct rule *rule)
{
    return rule->at < rule->words->count ? rule->words->item[rule->at++] : "";
}

static void rule_flush(struct rule *rule)
{
    for (int i = 0; i < PARTS; i++) {
        if (rule->part[i])
            fprintf(rule->matches, " %s", rule->part[i]);
        free(rule->part[i]);
        rule->part[i] = NULL;
    }
}

static void rule_head(struct rule *rule, int head, const char *key, bool not )
{
    char buf[BLOCK_TEXT];
    const char *value = rule_value(rule);
    if (head == FROM || head == TO)
        value = value_address(value, buf, sizeof(buf));
    else if (head == PROTOCOL)
        snprintf(rule->protocol, sizeof(rule->protocol), "%s", value);
    free(rule->head[head]);
    rule->head[head] = value ? rule_text(not, key, value) : NULL;
}

/* Before an option that only the protocol's match has. */
static void rule_load(struct rule *rule)
{
    rule->in_target = false;
    if (!rule->loaded && rule->protocol[0]) {
        rule_flush(rule);
        fprintf(rule->matches, " -m %s", rule->protocol);
        rule->loaded = true;
    }
}

static void rule_match(struct rule *rule)
{
    const char *name = rule_value(rule);
    rule_flush(rule);
    rule->in_target = false;
    if (strcmp(name, rule->protocol) == 0)
        rule_load(rule);
    else
        fprintf(rule->matches, " -m %s", name);
}

static void rule_jump(struct rule *rule, const char *key)
{
    const char *name = rule_value(rule);
    rule_flush(rule);
    rule->in_target = true;
    rule->reject = strcmp(name, "REJECT") == 0;
    fprintf(rule->target, " %s %s", key, name);
}

/* Return: which part @key begins; PARTS: none. */
static int rule_part_find(const char *key)
{
    static const char *const keys[PARTS] = {"--sport", "--dport", "--tcp-flags"};
    int part = 0;
    while (part < PARTS && strcmp(key, keys[part]) != 0)
        part++;
    return part;
}

static void rule_part(struct rule *rule, int part, const char *key, bool not )
{
    char buf[64];
    const char *value = rule_value(rule);
    if (part == FLAGS)
        snprintf(buf, sizeof(buf), "%.30s %.30s", value, rule_value(rule));
    rule_load(rule);
    free(rule->part[part]);
    rule->part[part] =
        rule_text(not, key, part == FLAGS ? buf : value_ports(value, buf, sizeof(buf)));
}

static void rule_syn(struct rule *rule, bool not )
{
    rule_load(rule);
    free(rule->part[FLAGS]);
    rule->part[FLAGS] = rule_text(not, "--tcp-flags", "FIN,SYN,RST,ACK SYN");
}

/* Any other word: of a match, or of the target. */
static void rule_other(struct rule *rule, const char *key, bool not )
{
    char buf[80];
    rule_flush(rule);
    FILE *out = rule->in_target ? rule->target : rule->matches;
    fprintf(out, "%s %s", not ? " !" : "", key);
    if (strcmp(key, "--comment") == 0)
        comment_print(out, rule_value(rule));
    else if (strcmp(key, "--ctstate") == 0 || strcmp(key, "--state") == 0)
        fprintf(out, " %s", value_states(rule_value(rule), buf, sizeof(buf)));
    else if (strcmp(key, "--reject-with") == 0)
        rule->reject = false;
}

static void rule_option(struct rule *rule, const char *key, int head, bool not )
{
    if (head >= 0) {
        rule_head(rule, head, key, not );
    } else if (strcmp(key, "-m") == 0) {
        rule_match(rule);
    } else if (strcmp(key, "-j") == 0 || strcmp(key, "-g") == 0) {
        rule_jump(rule, key);
    } else if (strcmp(key, "--syn") == 0) {
        rule_syn(rule, not );
    } else if (rule_part_find(key) < PARTS) {
        rule_part(rule, rule_part_find(key), key, not );
    } else {
        rule_other(rule, key, not );
    }
}

static void rule_walk(struct rule *rule)
{
    while (rule->at < rule->words->count) {
        const char *key = rule_value(rule);
        bool not = strcmp(key, "!") == 0;
        int head = -1;
        if (not )
            key = rule_value(rule);
        for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
            if (strcmp(key, options[i].name) != 0)
                continue;
            key = options[i].canonical;
            head = options[i].head;
            break;
        }
        rule_option(rule, key, head, not );
    }
    rule_flush(rule);
    if (rule->reject)
        fprintf(rule->target, " --reject-with icmp%s-port-unreachable",
                rule->family == 6 ? "6" : "");
}

static char *rule_join(struct rule *rule, const char *matches, const char *target)
{
    char *text;
    FILE *out = state_open(&text);
    const char *separator = "";
    for (int i = 0; i < HEADS; i++) {
        if (rule->head[i])
            fprintf(out, "%s%s", separator, rule->head[i]);
        separator = rule->head[i] ? " " : separator;
        free(rule->head[i]);
    }
    fprintf(out, "%s", *separator ? matches : *matches ? matches + 1 : "");
    fprintf(out, "%s", *separator || *matches ? target : *target ? target + 1 : "");
    state_close(out);
    return text;
}

char *rule_canonical(int family, const char *text, size_t length)
{
    struct words words;
    char *matches, *target;
    if (!words_split(text, length, &words))
        return NULL;
    struct rule rule = {.family = family, .words = &words};
    rule.matches = state_open(&matches);
    rule.target = state_open(&target);
    rule_walk(&rule);
    state_close(rule.matches);
    state_close(rule.target);
    char *joined = rule_join(&rule, matches, target);
    free(matches);
    free(target);
    words_free(&words);
    return joined;
}

/* The target comes last, and a quoted word cannot begin in "-j". */
size_t rule_target(const char *rule, const char **target)
{
    const char *end = rule + strlen(rule), *next;
    for (const char *at = rule; at < end; at = next) {
        next = word_end(at, end);
        if (!next)
            return 0;
        if (next - at == 2 && (strncmp(at, "-j", 2) == 0 || strncmp(at, "-g", 2) == 0)) {
            *target = next + strspn(next, " ");
            return strcspn(*target, " ");
        }
        next += *next == ' ';
    }
    return 0;
}
