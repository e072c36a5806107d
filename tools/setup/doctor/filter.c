/* SPDX-License-Identifier: MIT */
/*
 * Who drops what our rules let pass. An ACCEPT ends its own chain only: firewalld's table, another
 * base chain of nft, the other iptables backend are asked all the same, and one DROP is enough.
 */
#include "doctor.h"

#include <stdlib.h>
#include <string.h>

/* Bits of the mark that kube-proxy sets on what it wants masqueraded or dropped. */
#define FILTER_UNMARKED 0xc000u
#define MULTIPORT_RANGES 7 /* iptables' multiport has 15 places, and a range takes two */

/* A rule, or a chain's policy, that drops something, and all that it drops. */
struct drop {
    const struct fw_chain *base;  /* where the walk began */
    const struct fw_chain *chain; /* where the rule is */
    const struct fw_rule *rule;   /* NULL: the policy */
    enum severity severity;
    struct flow *flow;
    size_t flows;
};

struct filter {
    struct facts *facts;
    enum fw_hook hook;
    struct drop *drop;
    size_t count;
    const struct fw_chain *by; /* where a rule of the chain in hand drops for certain */
    const struct fw_rule *rule;
};

static struct drop *filter_drop(struct filter *filter, const struct fw_chain *chain,
                                const struct fw_rule *rule)
{
    for (size_t i = 0; i < filter->count; i++)
        if (filter->drop[i].chain == chain && filter->drop[i].rule == rule)
            return &filter->drop[i];
    filter->drop = state_grow(filter->drop, (filter->count + 1) * sizeof(*filter->drop));
    struct drop *drop = &filter->drop[filter->count++];
    *drop = (struct drop){.chain = chain, .rule = rule, .severity = SEVERITY_INFO};
    return drop;
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

static void filter_found(struct filter *filter, const struct flow *flow,
                         const struct fw_chain *base, enum severity severity)
{
    struct drop *drop = filter_drop(filter, filter->rule ? filter->by : base, filter->rule);
    drop->base = base;
    drop->severity = severity > drop->severity ? severity : drop->severity;
    drop->flow = state_grow(drop->flow, (drop->flows + 1) * sizeof(*drop->flow));
    drop->flow[drop->flows++] = *flow;
}

static void filter_chain(struct filter *filter, const struct flow *flow,
                         const struct fw_chain *chain)
{
    struct walk walk = {.fw = &filter->facts->fw, .flow = flow, .hit = filter_hit, .arg = filter};
    filter->rule = NULL;
    enum walk_end end = walk_chain(&walk, chain);
    if (filter->rule)
        filter_found(filter, flow, chain, SEVERITY_ERROR);
    else if (end == WALK_PASSED && chain->drop)
        filter_found(filter, flow, chain, walk.undecided ? SEVERITY_INFO : SEVERITY_ERROR);
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

/* ---- what lets it pass ---- */

/* "10.0.0.0/8,192.168.31.67": one side of a drop's flows, those of one family and one service. */
static char *pass_blocks(const struct drop *drop, const struct flow *like, bool to,
                         const char *separator)
{
    char *list = state_copy("");
    for (size_t i = 0; i < drop->flows; i++) {
        const struct flow *flow = &drop->flow[i];
        const struct block *block = to ? &flow->to : &flow->from;
        bool again =
            flow->dports != like->dports || block_family(&flow->from) != block_family(&like->from);
        for (size_t j = 0; j < i && !again; j++)
            again =
                drop->flow[j].dports == like->dports &&
                memcmp(to ? &drop->flow[j].to : &drop->flow[j].from, block, sizeof(*block)) == 0;
        if (again)
            continue;
        char *longer = text_format("%s%s%s", list, *list ? separator : "", fact_block(block));
        free(list);
        list = longer;
    }
    return list;
}

/* " -m multiport --dports 1:2,3", " tcp dport { 1-2, 3 }"; nothing if any are meant. */
static char *pass_ports(const struct portset *ports, bool nft)
{
    if (!ports || ports->count > MULTIPORT_RANGES)
        return state_copy("");
    char *text;
    FILE *out = state_open(&text);
    fputs(nft ? " tcp dport {" : " -m multiport --dports", out);
    for (uint32_t i = 0; i < ports->count; i++) {
        fputs(i ? "," : nft ? "" : " ", out);
        fprintf(out, nft ? " %u" : "%u", ports->range[i].lo);
        if (ports->range[i].hi > ports->range[i].lo)
            fprintf(out, nft ? "-%u" : ":%u", ports->range[i].hi);
    }
    fputs(nft ? " }" : "", out);
    state_close(out);
    return text;
}

static void pass_iptables(struct finding *finding, const struct drop *drop, const struct flow *flow)
{
    char *from = pass_blocks(drop, flow, false, ","), *to = pass_blocks(drop, flow, true, ",");
    char *ports = pass_ports(flow->dports, false);
    char *table = shell_quoted(drop->base->table), *chain = shell_quoted(drop->base->name);
    char *begin = text_format(
        "%s-%s -t %s -w -I %s 1 -p tcp", block_is_v4(&flow->from) ? "iptables" : "ip6tables",
        drop->base->backend == FW_IPTABLES_LEGACY ? "legacy" : "nft", table, chain);
    finding_run(finding, "%s -s %s -d %s%s -j ACCEPT", begin, from, to, ports);
    if (drop->base->hook == HOOK_FORWARD)
        finding_run(finding, "%s -s %s -d %s -m conntrack --ctstate ESTABLISHED -j ACCEPT", begin,
                    to, from);
    free(table);
    free(chain);
    free(begin);
    free(ports);
    free(from);
    free(to);
}

static void pass_nft(struct finding *finding, const struct drop *drop, const struct flow *flow)
{
    const char *ip = block_is_v4(&flow->from) ? "ip" : "ip6";
    char *from = pass_blocks(drop, flow, false, ", "), *to = pass_blocks(drop, flow, true, ", ");
    char *ports = pass_ports(flow->dports, true);
    char *table = shell_quoted(drop->base->table), *chain = shell_quoted(drop->base->name);
    char *at = text_format("%s %s %s", drop->base->table_family, table, chain);
    finding_run(finding, "nft insert rule %s '%s saddr { %s } %s daddr { %s }%s accept'", at, ip,
                from, ip, to, *ports ? ports : " meta l4proto tcp");
    if (drop->base->hook == HOOK_FORWARD)
        finding_run(finding,
                    "nft insert rule %s '%s saddr { %s } %s daddr { %s } meta l4proto tcp ct state "
                    "established accept'",
                    at, ip, to, ip, from);
    free(at);
    free(table);
    free(chain);
    free(ports);
    free(from);
    free(to);
}

/* Whether our own chain, at the head of this one, would decide before what drops. */
static bool pass_by_apply(const struct facts *facts, const struct drop *drop)
{
    enum fw_backend ours = iptables_is_legacy() ? FW_IPTABLES_LEGACY : FW_IPTABLES_NFT;
    return facts->roles & ROLE_GATEWAY && facts->has_wanted && drop->base->backend == ours &&
           strcmp(drop->base->table, "filter") == 0 && drop->base->hook == HOOK_FORWARD;
}

static void pass_firewalld(struct finding *finding, const struct drop *drop)
{
    char *sources = state_copy("");
    for (size_t i = 0; i < drop->flows; i++) {
        const struct block *side[] = {&drop->flow[i].from, &drop->flow[i].to};
        for (size_t j = 0; j < 2; j++) {
            char *word = text_format(" --add-source=%s", fact_block(side[j]));
            const char *there = strstr(sources, word);
            char *longer =
                text_format("%s%s", sources, there && strchr(" ", there[strlen(word)]) ? "" : word);
            free(word);
            free(sources);
            sources = longer;
        }
    }
    finding_mend(finding, "firewall-cmd --permanent --zone=trusted%s; firewall-cmd --reload",
                 sources);
    free(sources);
}

static void filter_mend(struct finding *finding, const struct facts *facts, const struct drop *drop)
{
    const struct fw_chain *base = drop->base;
    if (strcmp(base->table, "firewalld") == 0) {
        pass_firewalld(finding, drop);
        return;
    }
    if (pass_by_apply(facts, drop)) {
        finding_apply(finding, facts);
        return;
    }
    finding_mend(finding, "whoever made this chain may take the new rules away again: then they "
                          "belong into its configuration");
    for (size_t i = 0; i < drop->flows; i++) {
        bool again = false;
        for (size_t j = 0; j < i && !again; j++)
            again = drop->flow[j].dports == drop->flow[i].dports &&
                    block_family(&drop->flow[j].from) == block_family(&drop->flow[i].from);
        if (!again && base->backend == FW_NFT)
            pass_nft(finding, drop, &drop->flow[i]);
        else if (!again)
            pass_iptables(finding, drop, &drop->flow[i]);
    }
}

static void filter_say(const struct filter *filter, struct findings *findings,
                       const struct drop *drop)
{
    bool forward = filter->hook == HOOK_FORWARD;
    struct finding *finding =
        finding_add(findings, forward ? "forward-dropped" : "input-dropped", drop->severity,
                    "connections from %s to %s %s by %s", fact_block(&drop->flow[0].from),
                    fact_block(&drop->flow[0].to),
                    drop->severity == SEVERITY_INFO ? "may be dropped" : "are dropped",
                    drop->rule ? "a rule" : "a chain's policy");
    char *line = fw_rule_text(filter->facts, drop->chain, drop->rule);
    finding_line(finding, "%s", line);
    free(line);
    finding_why(finding, forward ? "what one chain accepts, every other chain of the same hook is "
                                   "asked about too, and one refusal is enough"
                                 : "the host refuses what the firewall between lets through");
    filter_mend(finding, filter->facts, drop);
}

static void filter_end(struct filter *filter, struct findings *findings)
{
    for (size_t i = 0; i < filter->count; i++) {
        filter_say(filter, findings, &filter->drop[i]);
        free(filter->drop[i].flow);
    }
    free(filter->drop);
}

void check_forward(struct facts *facts, struct findings *findings)
{
    struct filter filter = {.facts = facts, .hook = HOOK_FORWARD};
    flows_from_pods(facts, filter_flow, &filter);
    flows_to_pods(facts, filter_flow, &filter);
    filter_end(&filter, findings);
}

void check_input(struct facts *facts, struct findings *findings)
{
    struct filter filter = {.facts = facts, .hook = HOOK_INPUT};
    flows_in(facts, filter_flow, &filter);
    filter_end(&filter, findings);
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
        finding_mend(finding, "keep one. To move all to nft: iptables-legacy-save | "
                              "iptables-nft-restore --noflush, then for each table of the line: "
                              "iptables-legacy -t TABLE -w -F (IPv6: ip6tables-...)");
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
                 "--add-source=...), or stop firewalld and disable it");
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

static void docker_ours(struct facts *facts, struct findings *findings, const struct fw_chain *ours,
                        const struct fw_chain *user)
{
    struct finding *finding = finding_add(
        findings, "docker-forward", SEVERITY_WARNING,
        "Docker owns FORWARD (%s), and DOCKER-USER has no jump to our chain", ours->table_family);
    finding_line(finding, ":DOCKER-USER - in table filter, %zu rules", user->rules);
    finding_why(finding, "Docker puts its own rules in front whenever it starts; only what hangs "
                         "on DOCKER-USER stays ahead of them");
    finding_apply(finding, facts);
}

/* Nobody said what to let pass: so only that it is here. */
static void docker_here(struct facts *facts, struct findings *findings)
{
    const struct fw_chain *user = fact_has_chain(facts, "DOCKER-USER");
    if (!user)
        return;
    struct finding *finding = finding_add(findings, "docker", SEVERITY_INFO,
                                          "Docker's rules are in FORWARD of this machine");
    finding_line(finding, ":DOCKER-USER - in table filter, %zu rules", user->rules);
    finding_why(finding, "if packets between pods and hosts pass this machine, Docker's rules are "
                         "asked about them, and its policy is to drop");
    finding_mend(finding, "nothing, unless this machine forwards for pods: rules that let them "
                          "pass go into DOCKER-USER, where --role gateway puts its own");
}

void check_docker(struct facts *facts, struct findings *findings)
{
    for (size_t i = 0; i < facts->fw.chains; i++) {
        const struct fw_chain *ours = &facts->fw.chain[i];
        if (strcmp(ours->name, SETUP_CHAIN) != 0)
            continue;
        const struct fw_chain *user = jump_beside(facts, ours, "DOCKER-USER");
        if (user && !jump_position(user))
            docker_ours(facts, findings, ours, user);
    }
    if (facts->roles & ROLE_UNKNOWN)
        docker_here(facts, findings);
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
    finding_apply(finding, facts);
}

static void jump_gone(const struct facts *facts, const struct fw_chain *ours,
                      struct findings *findings)
{
    struct finding *finding = finding_add(findings, "jump-gone", SEVERITY_ERROR,
                                          "nothing leads to our chain " SETUP_CHAIN " (%s)",
                                          ours->family == 6 ? "IPv6" : "IPv4");
    finding_line(finding, ":" SETUP_CHAIN " - in table filter, %zu rules, no jump", ours->rules);
    finding_why(finding,
                "its rules are not asked: somebody has flushed FORWARD or written it anew");
    finding_apply(finding, facts);
}

static void jump_look(struct facts *facts, struct findings *findings, const struct fw_chain *ours)
{
    const struct fw_chain *forward = jump_beside(facts, ours, "FORWARD");
    const struct fw_chain *user = jump_beside(facts, ours, "DOCKER-USER");
    size_t in_forward = jump_position(forward), in_user = jump_position(user);
    if (!in_forward && !in_user)
        jump_gone(facts, ours, findings);
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
    finding_apply(finding, facts);
}

void check_jump(struct facts *facts, struct findings *findings)
{
    for (size_t i = 0; i < facts->fw.chains; i++)
        if (strcmp(facts->fw.chain[i].name, SETUP_CHAIN) == 0)
            jump_look(facts, findings, &facts->fw.chain[i]);
    for (size_t i = 0; facts->has_journal == 1 && i < facts->journal.count; i++)
        jump_entry(facts, findings, &facts->journal.entry[i]);
}
