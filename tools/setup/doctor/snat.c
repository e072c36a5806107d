/* SPDX-License-Identifier: MIT */
/*
 * Who changes the source port on its way out. A shim that binds the right port is worth nothing if
 * the node then takes another one, and nobody says so: connections simply do not come about.
 *
 * Each component is known by its chains and comments, with the one line that makes it keep ports.
 */
#include "doctor.h"

#include <stdlib.h>
#include <string.h>

#define OUR_PRIORITY 90 /* srcnat - 10: see setup/roles/node.c */

static const struct component {
    const char *name;
    const char *table;   /* nft's table */
    const char *chain;   /* begin of the chain's name */
    const char *comment; /* begin of the rule's comment */
    const char *mend;    /* NULL: it has nothing to turn off */
} components[] = {
    {"Calico", "calico", "cali-", "cali:",
     "kubectl patch felixconfiguration default --type=merge -p "
     "'{\"spec\":{\"featureDetectOverride\":\"MASQFullyRandom=false,SNATFullyRandom=false\"}}'"},
    {"Flannel", "flannel-", "FLANNEL-POSTRTG", "flanneld masq",
     "kubectl -n kube-flannel edit daemonset kube-flannel-ds: add "
     "--ip-masq-fully-random-disable to flanneld's arguments (not in k3s, nor before 0.27.4: "
     "there the role node has to come ahead of it)"},
    {"ip-masq-agent", NULL, "IP-MASQ-AGENT", "ip-masq-agent:",
     "kubectl -n kube-system edit daemonset ip-masq-agent: add --random-fully=false, or the "
     "hosts' addresses to nonMasqueradeCIDRs"},
    {"the AWS VPC CNI", NULL, "AWS-SNAT-CHAIN", "AWS, SNAT",
     "kubectl -n kube-system set env daemonset aws-node AWS_VPC_K8S_CNI_RANDOMIZESNAT=none"},
    {"Antrea", "antrea", "ANTREA-POSTROUTING",
     "Antrea:", "kubectl -n kube-system edit configmap antrea-config: snatFullyRandomPorts: false"},
    {"Cilium", NULL, "CILIUM_POST", "cilium",
     "kubectl -n kube-system patch configmap cilium-config --type=merge -p "
     "'{\"data\":{\"iptables-random-fully\":\"false\"}}'"},
    {"kube-proxy", "kube-proxy", "KUBE-POSTROUTING", "kubernetes service traffic", NULL},
    {"kube-router", NULL, "KUBE-ROUTER", "kube-router", NULL},
    {"Weave Net", NULL, "WEAVE", NULL, NULL},
    {"podman", "netavark", "NETAVARK", NULL, NULL},
    {"a CNI plugin", NULL, "CNI-", "name: \"", NULL},
    {"Docker", "docker-bridges", "DOCKER", NULL, NULL},
    {"firewalld", "firewalld", NULL, NULL, NULL},
    {"libvirt", "libvirt_network", "LIBVIRT", NULL, NULL},
};

static bool snat_begins(const char *text, const char *begin)
{
    return text && begin && strncmp(text, begin, strlen(begin)) == 0;
}

/* Chains first: a comment may be anybody's. */
static const struct component *snat_component(const struct fw_chain *chain,
                                              const struct fw_rule *rule)
{
    for (size_t i = 0; i < sizeof(components) / sizeof(components[0]); i++)
        if (snat_begins(chain->name, components[i].chain) ||
            (chain->backend == FW_NFT && snat_begins(chain->table, components[i].table)))
            return &components[i];
    for (size_t i = 0; i < sizeof(components) / sizeof(components[0]); i++)
        if (snat_begins(rule->comment, components[i].comment))
            return &components[i];
    return NULL;
}

struct snat {
    struct facts *facts;
    struct findings *findings;
    const struct fw_rule **seen; /* reported already */
    size_t count;
    uint32_t unmarked;
};

static bool snat_again(struct snat *snat, const struct fw_rule *rule)
{
    for (size_t i = 0; i < snat->count; i++)
        if (snat->seen[i] == rule)
            return true;
    snat->seen = state_grow(snat->seen, (snat->count + 1) * sizeof(rule));
    snat->seen[snat->count++] = rule;
    return false;
}

/* "from 10.200.1.0/24 to 192.168.31.67", or nothing if any are meant. */
static const char *snat_whom(const struct flow *flow, char *buf, size_t size)
{
    buf[0] = '\0';
    if (flow->from.prefix > (block_is_v4(&flow->from) ? 96 : 0))
        snprintf(buf, size, " from %s to %s", fact_block(&flow->from), fact_block(&flow->to));
    return buf;
}

/* Whether our own rule, at its place, would be asked before @base. */
static bool snat_keeps(const struct facts *facts, const struct fw_chain *base)
{
    return facts->roles & ROLE_NODE && facts->has_wanted &&
           (base->backend != FW_NFT || base->priority > OUR_PRIORITY);
}

static bool snat_is_quoted(const char *text, const char *at)
{
    bool quoted = false;
    for (; text < at; text++)
        quoted ^= *text == '"';
    return quoted;
}

/* Takes @word out of @text; of "a,b" what is left is a list still. Return: whether it was there. */
static bool snat_without(char *text, const char *word)
{
    size_t length = strlen(word);
    for (char *at = strstr(text, word); at; at = strstr(at + 1, word)) {
        if ((at[length] && at[length] != ' ' && at[length] != ',') || snat_is_quoted(text, at))
            continue;
        at += *at == ' ' && at[length] == ',';
        memmove(at, at + length, strlen(at + length) + 1);
        return true;
    }
    return false;
}

/* The line without what makes it random; malloc'd, NULL if that is not to be found in it. */
static char *snat_tame(const char *line)
{
    static const char *const words[] = {" --random-fully", " --random",     " fully-random",
                                        " random",         ",fully-random", ",random"};
    char *tame = state_copy(line);
    bool found = false;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        found |= snat_without(tame, words[i]);
    if (found)
        return tame;
    free(tame);
    return NULL;
}

/* "iptables-nft -t nat -A CHAIN rest" becomes a replacement of that line, where it stands. */
static void snat_replace_iptables(struct finding *finding, const struct fw_chain *chain,
                                  const struct fw_rule *rule, char *tame)
{
    char *word[WORDS_MAX], *command;
    size_t count = split_words(tame, word);
    bool placed = false;
    FILE *out = state_open(&command);
    for (size_t i = 0; i < count; i++) {
        char *quoted = shell_quoted(word[i]);
        bool here = !placed && i + 1 < count && strcmp(word[i], "-A") == 0;
        fprintf(out, "%s%s", i ? " " : "", here ? "-w -R" : quoted);
        free(quoted);
        if (!here)
            continue;
        quoted = shell_quoted(word[++i]);
        fprintf(out, " %s %zu", quoted, (size_t)(rule - chain->rule) + 1);
        free(quoted);
        placed = true;
    }
    state_close(out);
    if (placed && count < WORDS_MAX)
        finding_run(finding, "%s", command);
    free(command);
}

static void snat_replace_nft(struct finding *finding, const struct fw_chain *chain,
                             const struct fw_rule *rule, const char *tame)
{
    const char *text = strstr(tame, ": ");
    char *table = shell_quoted(chain->table), *name = shell_quoted(chain->name);
    char *quoted = shell_quoted(text ? text + 2 : "");
    if (text)
        finding_run(finding, "nft replace rule %s %s %s handle %lld %s", chain->table_family, table,
                    name, (long long)rule->handle, quoted);
    free(quoted);
    free(name);
    free(table);
}

/* Who made the rule has nothing to turn off, or is not known: so the rule itself. */
static void snat_replace(struct finding *finding, const struct fw_chain *chain,
                         const struct fw_rule *rule, const char *line)
{
    char *tame = snat_tame(line);
    if (tame && chain->backend == FW_NFT)
        snat_replace_nft(finding, chain, rule, tame);
    else if (tame)
        snat_replace_iptables(finding, chain, rule, tame);
    finding_mend(finding,
                 "take \"%s\" out of the rule: here, and where whoever made it has it from",
                 chain->backend == FW_NFT ? (rule->random_fully ? "fully-random" : "random")
                                          : (rule->random_fully ? "--random-fully" : "--random"));
    free(tame);
}

static void snat_mend(struct snat *snat, struct finding *finding, const struct walk *walk,
                      const struct fw_chain *chain, const struct fw_rule *rule)
{
    const struct component *who = snat_component(chain, rule);
    char *line = fw_rule_text(snat->facts, chain, rule);
    finding_line(finding, "%s", line);
    if (who && who->mend) {
        finding_mend(finding, "%s", who->mend);
    } else if (snat_keeps(snat->facts, walk->base)) {
        finding_mend(finding, "our own rule ahead of it");
        finding_apply(finding, snat->facts);
    } else {
        snat_replace(finding, chain, rule, line);
    }
    free(line);
}

static const char *snat_how(const struct fw_rule *rule)
{
    return rule->random_fully ? "random-fully" : "random";
}

static void snat_random(struct snat *snat, const struct walk *walk, const struct fw_chain *chain,
                        const struct fw_rule *rule, enum truth certain)
{
    char whom[160];
    const struct component *who = snat_component(chain, rule);
    const char *name = who ? who->name : "a rule of unknown origin";
    bool known = snat->facts->has_site && certain == YES;
    struct finding *finding;
    if (snat->unmarked)
        finding =
            finding_add(snat->findings, "snat-random", known ? SEVERITY_ERROR : SEVERITY_WARNING,
                        "%s gives connections%s %s source port (%s)", name,
                        snat_whom(walk->flow, whom, sizeof(whom)),
                        known ? "another" : "possibly another", snat_how(rule));
    else
        finding = finding_add(snat->findings, "snat-random-marked", SEVERITY_INFO,
                              "%s gives marked connections another source port (%s)", name,
                              snat_how(rule));
    finding_why(finding, snat->unmarked
                             ? "the port that the shim has bound is replaced on the way out, and "
                               "the firewall has no rule for the new one"
                             : "only what carries the rule's mark is concerned: connections to "
                               "services and NodePorts, not those of pods to hosts");
    snat_mend(snat, finding, walk, chain, rule);
}

/* --to-ports LO-HI: a port outside is moved into it. */
static void snat_confined(struct snat *snat, const struct walk *walk, const struct fw_chain *chain,
                          const struct fw_rule *rule)
{
    char whom[160];
    const struct component *who = snat_component(chain, rule);
    struct finding *finding = finding_add(
        snat->findings, "snat-ports", SEVERITY_WARNING,
        "%s moves connections%s to ports %u-%u: not all of %s are inside",
        who ? who->name : "a rule of unknown origin", snat_whom(walk->flow, whom, sizeof(whom)),
        rule->nat_ports.lo, rule->nat_ports.hi, fact_set(walk->flow->sports));
    finding_why(finding, "a port outside of the rule's range is replaced by one inside, whatever "
                         "the shim has bound");
    char *line = fw_rule_text(snat->facts, chain, rule);
    finding_line(finding, "%s", line);
    free(line);
    finding_mend(finding, "%s[pool] ports = %u-%u (Calico: FelixConfiguration natPortRange)",
                 snat_keeps(snat->facts, walk->base) ? "our own rule ahead of it, or " : "",
                 rule->nat_ports.lo, rule->nat_ports.hi);
    if (snat_keeps(snat->facts, walk->base))
        finding_apply(finding, snat->facts);
}

static bool snat_inside(const struct portset *set, const struct portrange *range)
{
    for (uint32_t i = 0; i < set->count; i++)
        if (set->range[i].lo < range->lo || set->range[i].hi > range->hi)
            return false;
    return true;
}

static void snat_hit(struct walk *walk, const struct fw_chain *chain, const struct fw_rule *rule,
                     enum truth certain)
{
    struct snat *snat = walk->arg;
    if (rule->verdict != VERDICT_SNAT)
        return;
    const struct portset *ports = walk->flow->sports;
    bool random = rule->random || rule->random_fully;
    bool confined = !random && rule->nat_ports.lo && ports && snat->unmarked &&
                    !snat_inside(ports, &rule->nat_ports);
    if ((!random && !confined) || snat_again(snat, rule))
        return;
    if (random)
        snat_random(snat, walk, chain, rule, certain);
    else
        snat_confined(snat, walk, chain, rule);
}

static void snat_flow(struct facts *facts, const struct flow *flow, void *arg)
{
    struct snat *snat = arg;
    struct flow marked = *flow;
    struct walk walk = {.fw = &facts->fw, .flow = &marked, .hit = snat_hit, .arg = snat};
    marked.unmarked = snat->unmarked;
    walk_nat(&walk);
}

/*
 * What matters is what the firewall sees, which is between: the source of what comes from it to a
 * pod may change. First without any mark, as pods' packets to hosts are; then what concerns
 * marked ones only.
 */
void check_snat(struct facts *facts, struct findings *findings)
{
    struct snat snat = {.facts = facts, .findings = findings, .unmarked = UINT32_MAX};
    flows_from_pods(facts, snat_flow, &snat);
    flows_out(facts, snat_flow, &snat);
    snat.unmarked = 0;
    flows_from_pods(facts, snat_flow, &snat);
    free(snat.seen);
}
