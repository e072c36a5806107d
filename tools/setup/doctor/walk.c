/* SPDX-License-Identifier: MIT */
/*
 * A connection's way through the firewall.
 *
 * The kernel's rules: within one hook the chains run by priority. ACCEPT ends its own chain only,
 * the next chain runs all the same; DROP ends everything. For NAT the first chain that sets a
 * mapping up decides, and the rest is not asked (which is why our rule can stand before a CNI's,
 * and an ACCEPT there could not).
 */
#include "doctor.h"

#include <stdlib.h>
#include <string.h>

#define WALK_DEPTH 32
#define WALK_BUDGET 200000 /* rules for one walk: a kernel's ruleset has no loops, its text may */

/* ---- one match ---- */

static enum truth truth_not(enum truth truth, bool not )
{
    return !not ? truth : truth == YES ? NO : truth == NO ? YES : MAYBE;
}

static enum truth truth_and(enum truth a, enum truth b)
{
    return a < b ? a : b;
}

/* The last address of a block. */
static void block_end(const struct block *block, uint8_t end[16])
{
    memcpy(end, block->addr, 16);
    for (unsigned bit = block->prefix; bit < 128; bit++)
        end[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
}

/* All of the block, some of it, or nothing of it in one of the ranges. */
static enum truth match_addresses(const struct fw_addresses *match, const struct block *block,
                                  bool here)
{
    enum truth truth = NO;
    uint8_t end[16];
    if (match->local)
        return truth_not(here ? YES : NO, match->not );
    block_end(block, end);
    for (size_t i = 0; i < match->count && truth != YES; i++) {
        const struct fw_range *range = &match->range[i];
        if (memcmp(range->lo, block->addr, 16) <= 0 && memcmp(end, range->hi, 16) <= 0)
            truth = YES;
        else if (memcmp(range->lo, end, 16) <= 0 && memcmp(block->addr, range->hi, 16) <= 0)
            truth = MAYBE;
    }
    return truth_not(truth, match->not );
}

static enum truth match_range(const struct fw_ports *match, const struct portrange *range)
{
    enum truth truth = NO;
    for (size_t i = 0; i < match->count && truth != YES; i++) {
        if (match->range[i].lo <= range->lo && range->hi <= match->range[i].hi)
            truth = YES;
        else if (match->range[i].lo <= range->hi && range->lo <= match->range[i].hi)
            truth = MAYBE;
    }
    return truth;
}

static enum truth match_ports(const struct fw_ports *match, const struct portset *set)
{
    enum truth all = YES, any = NO;
    if (!set)
        return MAYBE;
    for (uint32_t i = 0; i < set->count; i++) {
        enum truth truth = match_range(match, &set->range[i]);
        all = truth < all ? truth : all;
        any = truth > any ? truth : any;
    }
    return truth_not(all == YES ? YES : any == NO ? NO : MAYBE, match->not );
}

static enum truth match_names(const struct fw_names *match, const char *name)
{
    bool found = false;
    if (!name[0])
        return MAYBE;
    for (size_t i = 0; i < match->count && !found; i++) {
        const char *pattern = match->name[i];
        size_t length = strlen(pattern);
        if (length && (pattern[length - 1] == '+' || pattern[length - 1] == '*'))
            found = strncmp(pattern, name, length - 1) == 0;
        else
            found = strcmp(pattern, name) == 0;
    }
    return truth_not(found ? YES : NO, match->not );
}

/* Some bits are known to be clear; a rule that asks for others cannot be judged. */
static enum truth match_mark(const struct fw_rule *rule, const struct flow *flow)
{
    enum truth truth = MAYBE;
    if (rule->mark & rule->mark_mask & flow->unmarked)
        truth = NO;
    else if ((rule->mark_mask & ~flow->unmarked) == 0)
        truth = rule->mark & ~rule->mark_mask ? NO : YES;
    return truth_not(truth, rule->mark_not);
}

/* Asks ipset(8). Return: true, false, or null if it cannot tell; new reference. */
static json_t *ipset_test(char *name, char *addr)
{
    char *argv[] = {"ipset", "-q", "test", name, addr, NULL};
    struct run_result result;
    json_t *answer = json_null();
    if (name[0] == '-')
        return answer;
    if (run_tool(argv, NULL, &result) == 0)
        answer = json_true();
    else if (result.status == 1)
        answer = json_false();
    run_free(&result);
    return answer;
}

/* About one address of the block: sets hold blocks, and so do we. Each question is asked once. */
static enum truth match_ipset(const struct walk *walk, const struct fw_ipset *set)
{
    const struct block *block = set->to ? &walk->flow->to : &walk->flow->from;
    uint8_t addr[16];
    if (block->prefix <= (block_is_v4(block) ? 96 : 0))
        return MAYBE;
    block_sample(block, addr);
    char *text = state_copy(fact_address(addr));
    char *key = text_format("%s %s", set->name, text);
    json_t *answer = json_object_get(walk->fw->ipsets, key);
    if (!answer) {
        answer = ipset_test(set->name, text);
        json_object_set_new(walk->fw->ipsets, key, answer);
    }
    enum truth truth = json_is_true(answer) ? YES : json_is_false(answer) ? NO : MAYBE;
    free(key);
    free(text);
    return truth_not(truth, set->not );
}

static enum truth match_lists(const struct fw_rule *rule, const struct flow *flow)
{
    enum truth truth = YES;
    for (size_t i = 0; i < FW_MATCHES; i++) {
        if (rule->from[i].set)
            truth = truth_and(truth, match_addresses(&rule->from[i], &flow->from, flow->from_here));
        if (rule->to[i].set)
            truth = truth_and(truth, match_addresses(&rule->to[i], &flow->to, flow->to_here));
        if (rule->sport[i].set)
            truth = truth_and(truth, match_ports(&rule->sport[i], flow->sports));
        if (rule->dport[i].set)
            truth = truth_and(truth, match_ports(&rule->dport[i], flow->dports));
    }
    return truth;
}

static enum truth match_rule(const struct walk *walk, const struct fw_rule *rule)
{
    const struct flow *flow = walk->flow;
    bool v4 = block_is_v4(&flow->from);
    if (rule->not_tcp || rule->not_new || (rule->family4 && !v4) || (rule->family6 && v4))
        return NO;
    enum truth truth = match_lists(rule, flow);
    if (rule->in.set)
        truth = truth_and(truth, match_names(&rule->in, flow->in));
    if (rule->out.set)
        truth = truth_and(truth, match_names(&rule->out, flow->out));
    if (rule->has_mark)
        truth = truth_and(truth, match_mark(rule, flow));
    for (size_t i = 0; truth != NO && i < FW_MATCHES && rule->ipset[i].name; i++)
        truth = truth_and(truth, match_ipset(walk, &rule->ipset[i]));
    return rule->uncertain ? truth_and(truth, MAYBE) : truth;
}

/* ---- one chain ---- */

/* What is known while in one chain: a RETURN that may have matched concerns this chain only. */
struct walk_here {
    const struct fw_chain *chain;
    bool undecided;
    unsigned depth;
};

static enum walk_end walk_rules(struct walk *walk, const struct fw_chain *chain, enum truth certain,
                                unsigned depth);

/* A rule that ends the walk, if it matches. */
static enum walk_end walk_final(struct walk *walk, const struct walk_here *here,
                                const struct fw_rule *rule, enum truth certain)
{
    if (rule->verdict != VERDICT_OTHER)
        walk->hit(walk, here->chain, rule, certain);
    if (certain == YES) {
        walk->mapped |= rule->verdict == VERDICT_SNAT;
        return WALK_ENDED;
    }
    walk->undecided = true;
    return WALK_PASSED;
}

static enum walk_end walk_jump(struct walk *walk, const struct walk_here *here,
                               const struct fw_rule *rule, enum truth certain)
{
    const struct fw_chain *to =
        fw_chain_find(walk->fw, here->chain->backend, here->chain->table_family, here->chain->table,
                      rule->target);
    if (!to || here->depth >= WALK_DEPTH)
        return WALK_PASSED;
    return walk_rules(walk, to, certain, here->depth + 1);
}

/* Return: WALK_ENDED: certainly ended. @leave: set if the rest of this chain is not reached. */
static enum walk_end walk_rule(struct walk *walk, struct walk_here *here,
                               const struct fw_rule *rule, enum truth certain, bool *leave)
{
    enum truth matches = match_rule(walk, rule);
    if (walk->undecided || here->undecided)
        certain = truth_and(certain, MAYBE);
    if (matches == NO || rule->verdict == VERDICT_NONE)
        return WALK_PASSED;
    certain = truth_and(certain, matches);
    if (rule->verdict == VERDICT_RETURN) {
        *leave = matches == YES;
        here->undecided |= matches == MAYBE;
        return WALK_PASSED;
    }
    if (rule->verdict != VERDICT_JUMP && rule->verdict != VERDICT_GOTO) {
        *leave = matches == YES;
        return walk_final(walk, here, rule, certain);
    }
    *leave = matches == YES && rule->verdict == VERDICT_GOTO;
    return walk_jump(walk, here, rule, certain);
}

static enum walk_end walk_rules(struct walk *walk, const struct fw_chain *chain, enum truth certain,
                                unsigned depth)
{
    struct walk_here here = {.chain = chain, .depth = depth};
    bool leave = false;
    for (size_t i = 0; i < chain->rules && !leave; i++) {
        if (walk->budget == 0) {
            walk->undecided = true;
            return WALK_PASSED;
        }
        walk->budget--;
        if (walk_rule(walk, &here, &chain->rule[i], certain, &leave) == WALK_ENDED)
            return WALK_ENDED;
    }
    return WALK_PASSED;
}

enum walk_end walk_chain(struct walk *walk, const struct fw_chain *chain)
{
    walk->budget = WALK_BUDGET;
    walk->base = chain;
    return walk_rules(walk, chain, walk->undecided ? MAYBE : YES, 0);
}

/* ---- all chains of a hook ---- */

static int walk_earlier(const void *left, const void *right)
{
    const struct fw_chain *const *a = left, *const *b = right;
    return ((*a)->priority > (*b)->priority) - ((*a)->priority < (*b)->priority);
}

const struct fw_chain **walk_order(const struct fw *fw, enum fw_hook hook, bool nat, int family,
                                   size_t *count)
{
    const struct fw_chain **list = state_grow(NULL, (fw->chains + 1) * sizeof(*list));
    *count = 0;
    for (size_t i = 0; i < fw->chains; i++) {
        const struct fw_chain *chain = &fw->chain[i];
        if (chain->hook == hook && chain->nat == nat && (!chain->family || chain->family == family))
            list[(*count)++] = chain;
    }
    qsort(list, *count, sizeof(*list), walk_earlier);
    return list;
}

void walk_nat(struct walk *walk)
{
    size_t count;
    const struct fw_chain **list =
        walk_order(walk->fw, HOOK_POSTROUTING, true, block_family(&walk->flow->from), &count);
    for (size_t i = 0; i < count && !walk->mapped; i++)
        walk_chain(walk, list[i]);
    free(list);
}
