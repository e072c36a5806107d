/* SPDX-License-Identifier: MIT */
/*
 * Who drops what our rules let pass. An ACCEPT ends its own chain only: firewalld's table, another
 * base chain of nft, the other iptables backend are asked all the same, and one DROP is enough.
 */
#include "setup-doctor.h"

#include <stdlib.h>
#include <string.h>

/* Bits of the mark that kube-proxy sets on what it wants masqueraded or dropped. */
#define FILTER_UNMARKED 0xc000u

struct filter {
    struct facts *facts;
    struct findings *findings;
    enum fw_hook hook;
    const void **seen; /* rules, and chains for their policy */
    size_t count;
    const struct fw_chain *by; /* where a rule of the chain in hand drops for certain */
    const struct fw_rule *rule;
};

static bool filter_again(struct filter *filter, const void *what)
{
    for (size_t i = 0; i < filter->count; i++)
        if (filter->seen[i] == what)
            return true;
    filter->seen = state_grow(filter->seen, (filter->count + 1) * sizeof(what));
    filter->seen[filter->count++] = what;
    return false;
}

/* Our own REJECT is meant so; what it lets pass is for "status" to say. */
static void filter_hit(struct walk *walk, const struct fw_chain *chain, const struct fw_rule *rule,
                       enum truth certain)
{
    struct filter *filter = walk->arg;
    if (rule->verdict == VERDICT_DROP && certain == YES &&
        strncmp(chain->name, "FIXPORT-", 8) != 0) {
        filter->by = chain;
        filter->rule = rule;
    }
}

static void filter_mend(struct finding *finding, const struct facts *facts,
                        const struct fw_chain *chain, const struct flow *flow)
{
    const char *tool = chain->family == 6 ? "ip6tables" : "iptables";
    const char *backend = chain->backend == FW_IPTABLES_LEGACY ? "legacy" : "nft";
    bool docker = fact_has_chain(facts, "DOCKER-USER") != NULL;
    if (strcmp(chain->table, "firewalld") == 0)
        finding_mend(finding,
                     "firewall-cmd --permanent --zone=trusted --add-source=%s --add-source=%s && "
                     "firewall-cmd --reload",
                     fact_block(&flow->from), fact_block(&flow->to));
    else if (chain->hook == HOOK_INPUT || chain->backend == FW_NFT)
        finding_mend(finding, "accept %s to %s in %s %s before it", fact_block(&flow->from),
                     fact_block(&flow->to), chain->table, chain->name);
    else if (facts->roles & ROLE_GATEWAY)
        finding_mend(finding, "fixport-setup --role gateway apply");
    else
        finding_mend(finding, "%s-%s -I %s 1 -s %s -d %s -j ACCEPT", tool, backend,
                     docker ? "DOCKER-USER" : "FORWARD", fact_block(&flow->from),
                     fact_block(&flow->to));
}

static void filter_found(struct filter *filter, const struct flow *flow,
                         const struct fw_chain *chain, const struct fw_rule *rule,
                         enum severity severity)
{
    bool forward = filter->hook == HOOK_FORWARD;
    if (filter_again(filter, rule ? (const void *)rule : chain))
        return;
    struct finding *finding = finding_add(
        filter->findings, forward ? "forward-dropped" : "input-dropped", severity,
        "connections from %s to %s %s by %s", fact_block(&flow->from), fact_block(&flow->to),
        severity == SEVERITY_INFO ? "may be dropped" : "are dropped",
        rule ? "a rule" : "a chain's policy");
    char *line = fw_rule_text(filter->facts, chain, rule);
    finding_line(finding, "%s", line);
    free(line);
    finding_why(finding, forward ? "what one chain accepts, every other chain of the same hook is "
                                   "asked about too, and one refusal is enough"
                                 : "the host refuses what the firewall between lets through");
    filter_mend(finding, filter->facts, chain, flow);
}

static void filter_chain(struct filter *filter, const struct flow *flow,
                         const struct fw_chain *chain)
{
    struct walk walk = {.fw = &filter->facts->fw, .flow = flow, .hit = filter_hit, .arg = filter};
    filter->rule = NULL;
    enum walk_end end = walk_chain(&walk, chain);
    if (filter->rule)
        filter_found(filter, flow, filter->by, filter->rule, SEVERITY_ERROR);
    else if (end == WALK_PASSED && chain->drop)
        filter_found(filter, flow, chain, NULL, walk.undecided ? SEVERITY_INFO : SEVERITY_ERROR);
}

static void filter_flow(struct facts *facts, const struct flow *flow, void *arg)
{
    struct filter *filter = arg;
    struct flow unmarked = *flow;
    size_t count;
    const struct fw_chain **list =
        walk_order(&facts->fw, filter->hook, false, block_family(&flow->from), &count);
    unmarked.unmarked = FILTER_UNMARKED;
    for (size_t i = 0; i < count; i++)
        filter_chain(filter, &unmarked, list[i]);
    free(list);
}

void check_forward(struct facts *facts, struct findings *findings)
{
    struct filter filter = {.facts = facts, .findings = findings, .hook = HOOK_FORWARD};
    flows_from_pods(facts, filter_flow, &filter);
    flows_to_pods(facts, filter_flow, &filter);
    free(filter.seen);
}

void check_input(struct facts *facts, struct findings *findings)
{
    struct filter filter = {.facts = facts, .findings = findings, .hook = HOOK_INPUT};
    flows_in(facts, filter_flow, &filter);
    free(filter.seen);
}

/* ---- both backends ---- */

/* "filter, nat": the tables of a backend that have rules. */
static char *backend_tables(const struct facts *facts, enum fw_backend backend)
{
    char *list = state_copy("");
    for (size_t i = 0; i < facts->fw.chains; i++) {
        const struct fw_chain *chain = &facts->fw.chain[i];
        if (chain->backend != backend || !chain->rules)
            continue;
        char *name = text_format("%s %s", chain->family == 6 ? "ip6" : "ip", chain->table);
        if (!strstr(list, name)) {
            char *longer = text_format("%s%s%s", list, *list ? ", " : "", name);
            free(list);
            list = longer;
        }
        free(name);
    }
    return list;
}

void check_backends(struct facts *facts, struct findings *findings)
{
    char *nft = backend_tables(facts, FW_IPTABLES_NFT);
    char *legacy = backend_tables(facts, FW_IPTABLES_LEGACY);
    if (*nft && *legacy) {
        struct finding *finding = finding_add(findings, "both-backends", SEVERITY_WARNING,
                                              "iptables-nft and iptables-legacy both have rules");
        finding_line(finding, "iptables-nft: %s; iptables-legacy: %s", nft, legacy);
        finding_why(finding, "the kernel applies both, and each tool shows only its own: a packet "
                             "that one lets pass, the other may drop or rewrite");
        finding_mend(finding, "keep one: move the rules of the other over (iptables-legacy-save, "
                              "iptables-nft-restore), then iptables-legacy -t TABLE -F");
    }
    free(nft);
    free(legacy);
}

/* ---- firewalld and Docker ---- */

void check_firewalld(struct facts *facts, struct findings *findings)
{
    bool table = false;
    for (size_t i = 0; i < facts->fw.chains && !table; i++)
        table = strcmp(facts->fw.chain[i].table, "firewalld") == 0;
    if (!table && !fact_process("firewalld"))
        return;
    bool router = facts->roles & (ROLE_GATEWAY | ROLE_NODE);
    struct finding *finding =
        finding_add(findings, "firewalld", router ? SEVERITY_WARNING : SEVERITY_INFO,
                    "firewalld runs on this machine");
    finding_line(finding, table ? "nft table inet firewalld" : "process firewalld");
    finding_why(finding, "what our chain accepts, firewalld's zones may still reject; its reload "
                         "may take away rules of others");
    finding_mend(finding,
                 "let the zones accept pods and hosts (firewall-cmd --permanent --zone=trusted "
                 "--add-source=...), or: systemctl disable --now firewalld");
}

/* The position from 1 of the first rule in @chain that jumps to ours; 0: none. */
static size_t jump_position(const struct fw_chain *chain)
{
    for (size_t i = 0; chain && i < chain->rules; i++)
        if ((chain->rule[i].verdict == VERDICT_JUMP || chain->rule[i].verdict == VERDICT_GOTO) &&
            strcmp(chain->rule[i].target, SETUP_CHAIN) == 0)
            return i + 1;
    return 0;
}

static const struct fw_chain *jump_beside(const struct facts *facts, const struct fw_chain *ours,
                                          const char *name)
{
    return fw_chain_find(&facts->fw, ours->backend, ours->table_family, "filter", name);
}

void check_docker(struct facts *facts, struct findings *findings)
{
    for (size_t i = 0; i < facts->fw.chains; i++) {
        const struct fw_chain *ours = &facts->fw.chain[i];
        if (strcmp(ours->name, SETUP_CHAIN) != 0)
            continue;
        const struct fw_chain *user = jump_beside(facts, ours, "DOCKER-USER");
        if (!user || jump_position(user))
            continue;
        struct finding *finding =
            finding_add(findings, "docker-forward", SEVERITY_WARNING,
                        "Docker owns FORWARD (%s), and DOCKER-USER has no jump to our chain",
                        ours->table_family);
        finding_line(finding, ":DOCKER-USER - in table filter, %zu rules", user->rules);
        finding_why(finding, "Docker puts its own rules in front whenever it starts; only what "
                             "hangs on DOCKER-USER stays ahead of them");
        finding_mend(finding, "fixport-setup apply");
    }
}

/* ---- our own rules ---- */

/* Whether what stands before our jump may decide about anything between pods and hosts. */
struct before {
    struct fw_chain chain; /* cut off at the jump */
    bool decides;
};

static void before_hit(struct walk *walk, const struct fw_chain *chain, const struct fw_rule *rule,
                       enum truth certain)
{
    struct before *before = walk->arg;
    (void)chain, (void)rule, (void)certain;
    before->decides = true;
}

static void before_flow(struct facts *facts, const struct flow *flow, void *arg)
{
    struct before *before = arg;
    struct flow any = *flow;
    struct walk walk = {.fw = &facts->fw, .flow = &any, .hit = before_hit, .arg = before};
    any.sports = any.dports = NULL;
    if (before->chain.family == block_family(&flow->from))
        walk_chain(&walk, &before->chain);
    before->decides |= walk.undecided;
}

static void jump_pushed(struct facts *facts, struct findings *findings,
                        const struct fw_chain *chain, size_t position)
{
    struct before before = {.chain = *chain};
    before.chain.rules = position - 1;
    flows_from_pods(facts, before_flow, &before);
    flows_to_pods(facts, before_flow, &before);
    struct finding *finding =
        finding_add(findings, "jump-pushed-down", before.decides ? SEVERITY_WARNING : SEVERITY_INFO,
                    "our jump is rule %zu of %s, no longer the first", position, chain->name);
    char *line = fw_rule_text(facts, chain, &chain->rule[0]);
    finding_line(finding, "%s", line);
    free(line);
    finding_why(finding, before.decides
                             ? "what stands before it decides first: it may drop what we let pass, "
                               "or accept what we reject"
                             : "what stands before it decides nothing between pods and hosts yet");
    finding_mend(finding, "fixport-setup apply");
}

static void jump_gone(const struct fw_chain *ours, struct findings *findings)
{
    struct finding *finding = finding_add(findings, "jump-gone", SEVERITY_ERROR,
                                          "nothing leads to our chain " SETUP_CHAIN " (%s)",
                                          ours->family == 6 ? "IPv6" : "IPv4");
    finding_line(finding, ":" SETUP_CHAIN " - in table filter, %zu rules, no jump", ours->rules);
    finding_why(finding,
                "its rules are not asked: somebody has flushed FORWARD or written it anew");
    finding_mend(finding, "fixport-setup apply");
}

static void jump_look(struct facts *facts, struct findings *findings, const struct fw_chain *ours)
{
    const struct fw_chain *forward = jump_beside(facts, ours, "FORWARD");
    const struct fw_chain *user = jump_beside(facts, ours, "DOCKER-USER");
    size_t in_forward = jump_position(forward), in_user = jump_position(user);
    if (!in_forward && !in_user)
        jump_gone(ours, findings);
    else if (in_user > 1)
        jump_pushed(facts, findings, user, in_user);
    else if (!in_user && in_forward > 1)
        jump_pushed(facts, findings, forward, in_forward);
}

/* Whether what an entry of the journal made is there at all. */
static bool jump_is_there(const struct facts *facts, const struct journal_entry *entry)
{
    bool nft = entry->type == &resource_nft;
    int family = strstr(entry->name, "6") ? 6 : 4;
    for (size_t i = 0; i < facts->fw.chains; i++) {
        const struct fw_chain *chain = &facts->fw.chain[i];
        if (chain->family == family &&
            strcmp(nft ? chain->table : chain->name, nft ? SETUP_TABLE : SETUP_CHAIN) == 0)
            return true;
    }
    return false;
}

/* Whether it would have been seen. */
static bool jump_is_seen(const struct facts *facts, bool nft)
{
    bool legacy = facts->journal.iptables == IPTABLES_LEGACY;
    return facts->fw_seen[nft ? FW_NFT : legacy ? FW_IPTABLES_LEGACY : FW_IPTABLES_NFT];
}

static void jump_entry(struct facts *facts, struct findings *findings,
                       const struct journal_entry *entry)
{
    bool nft = entry->type == &resource_nft;
    const char *after = entry->after;
    if ((!nft && entry->type != &resource_iptables) || !after || !*after ||
        !jump_is_seen(facts, nft) || jump_is_there(facts, entry))
        return;
    struct finding *finding =
        finding_add(findings, nft ? "table-gone" : "chain-gone", SEVERITY_ERROR,
                    "our %s (%s) was applied and is gone",
                    nft ? "nft table " SETUP_TABLE : "chain " SETUP_CHAIN, entry->name);
    finding_why(finding, nft ? "the CNI's rules decide alone again what source port connections get"
                             : "nothing lets connections between pods and hosts pass, and nothing "
                               "rejects the others");
    finding_mend(finding, "fixport-setup apply");
}

void check_jump(struct facts *facts, struct findings *findings)
{
    for (size_t i = 0; i < facts->fw.chains; i++)
        if (strcmp(facts->fw.chain[i].name, SETUP_CHAIN) == 0)
            jump_look(facts, findings, &facts->fw.chain[i]);
    for (size_t i = 0; facts->has_journal == 1 && i < facts->journal.count; i++)
        jump_entry(facts, findings, &facts->journal.entry[i]);
}
