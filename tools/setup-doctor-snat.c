/* SPDX-License-Identifier: MIT */
/*
 * Who changes the source port on its way out. A shim that binds the right port is worth nothing if
 * the node then takes another one, and nobody says so: connections simply do not come about.
 *
 * Each component is known by its chains and comments, with the one line that makes it keep ports.
 */
#include "setup-doctor.h"

#include <stdlib.h>
#include <string.h>

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
     "there [snat] mode = keep)"},
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

static void snat_mend(struct snat *snat, struct finding *finding, const struct fw_chain *chain,
                      const struct fw_rule *rule, const struct component *who)
{
    char *line = fw_rule_text(snat->facts, chain, rule);
    finding_line(finding, "%s", line);
    free(line);
    if (who && who->mend)
        finding_mend(finding, "%s", who->mend);
    else
        finding_mend(finding, "our own rule ahead of it: [snat] mode = keep in the configuration, "
                              "then fixport-setup --role node apply");
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
    snat_mend(snat, finding, chain, rule, who);
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
    finding_mend(finding,
                 "[pool] ports = %u-%u (Calico: FelixConfiguration natPortRange), or "
                 "[snat] mode = keep",
                 rule->nat_ports.lo, rule->nat_ports.hi);
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
