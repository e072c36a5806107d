/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a policy in shared memory, and any text as ports, destinations and aliases (two
 * lines for each: addresses, servers). What a valid policy prints must read as the same again.
 */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(const struct portrange *range, void *arg)
{
    (void)range;
    (void)arg;
}

static void ask(const struct policy *policy, const struct dest *dest)
{
    struct policy_verdict verdict;
    policy_checksum(policy);
    policy_may_match_address(policy, dest->addr);
    policy_gap(policy, &(uint16_t){1}, &(uint16_t){65535});
    policy_each_range(policy, nothing, NULL);
    if (policy_match(policy, dest, &verdict) &&
        (verdict.rule >= POLICY_RULES || verdict.exhausted > POLICY_PASS ||
         verdict.scope > POLICY_ADDRESS || verdict.ports.count > PORTRANGE_MAX))
        abort();
}

static void print_and_read(const struct dest_match *match)
{
    static struct policy again;
    char text[100];
    if (policy_dest_print(match, text, sizeof(text)) >= sizeof(text))
        abort();
    policy_init(&again);
    if (policy_add_rule(&again, "again", "1", text, NULL) != 0 ||
        memcmp(&again.dest[0], match, sizeof(*match)) != 0)
        abort();
}

static bool dest_same(const struct dest *one, const struct dest *other)
{
    return one->port == other->port && memcmp(one->addr, other->addr, sizeof(one->addr)) == 0;
}

/* Each leads to its server, which is its own, and what is printed reads as the same again. */
static void check_aliases(const struct policy *policy)
{
    static struct policy again;
    char from[100], to[100];
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        const struct policy_alias *alias = &policy->alias[i];
        struct dest server, itself;
        if (!policy_server(policy, &alias->from, &server) || !dest_same(&server, &alias->to) ||
            !policy_server(policy, &server, &itself) || !dest_same(&server, &itself))
            abort();
        if (policy_alias_print(&alias->from, from, sizeof(from)) >= sizeof(from) ||
            policy_alias_print(&alias->to, to, sizeof(to)) >= sizeof(to))
            abort();
        policy_init(&again);
        if (policy_add_alias(&again, from, to, NULL) == 0 &&
            (!policy_server(&again, &alias->from, &server) || !dest_same(&server, &alias->to)))
            abort();
    }
}

static void as_memory(const uint8_t *data, size_t size)
{
    struct policy *policy = calloc(1, sizeof(*policy)); /* apart: a sanitizer sees its end */
    struct dest dest = {.port = 80};
    if (!policy)
        return;
    memcpy(policy, data, size < sizeof(*policy) ? size : sizeof(*policy));
    memcpy(dest.addr, data, size < sizeof(dest.addr) ? size : sizeof(dest.addr));
    policy_valid(policy);
    ask(policy, &dest);
    policy_init(policy);
    policy_add_rule(policy, "all", "1", NULL, NULL);
    memcpy(&policy->alias_count, data, size < 1 ? 0 : 1);
    memcpy(policy->alias, data, size < sizeof(policy->alias) ? size : sizeof(policy->alias));
    ask(policy, &dest);
    if (policy_valid(policy))
        check_aliases(policy);
    free(policy);
}

/* Two lines for each. @text is changed. */
static void as_aliases(char *text)
{
    static struct policy policy;
    struct parse_reason why = {.text = ""};
    policy_init(&policy);
    policy_add_rule(&policy, "r", "1", NULL, NULL);
    for (char *addresses = strsep(&text, "\n"); text; addresses = strsep(&text, "\n")) {
        const char *servers = strsep(&text, "\n");
        if (policy_add_alias(&policy, addresses, servers, &why) != 0 && !why.text[0])
            abort();
        if (!policy_valid(&policy))
            abort();
        check_aliases(&policy);
    }
}

static void as_text(const uint8_t *data, size_t size)
{
    static struct policy policy;
    struct parse_reason why = {.text = ""};
    struct portset ports;
    char *text = malloc(size + 1);
    if (!text)
        return;
    memcpy(text, data, size);
    text[size] = '\0';
    if (portset_parse(text, &ports, &why) == 0 ? !portset_valid(&ports) : !why.text[0])
        abort();
    policy_init(&policy);
    if (policy_add_rule(&policy, "r", "1", text, NULL) == 0) {
        if (!policy_valid(&policy))
            abort();
        for (uint32_t i = 0; i < policy.dest_count; i++)
            print_and_read(&policy.dest[i]);
    }
    as_aliases(text);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    as_memory(data, size);
    as_text(data, size);
    return 0;
}
