/* SPDX-License-Identifier: MIT */
/*
 * Which CNI it is, and what it does to the source ports of what leaves the cluster: for each the
 * exact line that turns that off. What the nodes really do, "fixport-setup doctor" sees on a node;
 * here we only have what the cluster says of itself.
 */
#include "discover.h"

#include "../../common/shell.h"

#include <stdlib.h>
#include <string.h>

#define KEPT "The role node comes ahead of that, and the port stays"

/* In a cloud, whose own CNI gives pods addresses of its network unless there is another one. */
static bool is_vpc(const struct cni_facts *cni)
{
    return (cni->aws || cni->azure) && !cni->calico && !cni->cilium && !cni->flannel && !cni->ovn &&
           !cni->kube_ovn;
}

const char *cni_names(const struct cni_facts *cni)
{
    static char buf[120];
    const struct {
        bool seen;
        const char *name;
    } known[] = {
        {cni->calico, "Calico"},
        {cni->cilium, "Cilium"},
        {cni->flannel, "Flannel"},
        {cni->antrea, "Antrea"},
        {cni->ovn, "OVN-Kubernetes"},
        {cni->kube_ovn, "Kube-OVN"},
        {cni->kindnet && !cni->calico && !cni->cilium && !cni->flannel, "kindnet"},
        {is_vpc(cni) && cni->aws, "Amazon VPC CNI"},
        {is_vpc(cni) && cni->azure, "Azure CNI"},
    };
    size_t at = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].seen)
            at +=
                (size_t)snprintf(buf + at, sizeof(buf) - at, "%s%s", at ? ", " : "", known[i].name);
    return at ? buf : "none that is known";
}

/* ---- one for each ---- */

static void calico_notes(const struct cni_facts *cni, struct sentences *notes)
{
    const char *group = cni->calico_group ? cni->calico_group : "crd.projectcalico.org";
    if (cni->felix_bpf) {
        sentence_add(notes, "Calico",
                     "its eBPF data plane moves a source port only if two connections would clash "
                     "(bpfPSNATPorts)");
        return;
    }
    if (!cni->nat_pools && cni->plain_pools) {
        sentence_add(
            notes, "Calico",
            "no IPPool has natOutgoing: pods leave with their own addresses and ports; say "
            "[snat] mode = none");
        return;
    }
    if (cni->felix_nat_range)
        sentence_add(notes, "Calico",
                     "natPortRange moves source ports into a range of Calico's own. " KEPT);
    if (cni->felix_not_random)
        sentence_add(notes, "Calico",
                     "its MASQUERADE keeps a port that is free "
                     "(featureDetectOverride): nothing has to be turned off");
    else
        sentence_add(notes, "Calico",
                     "%s moves every connection to another port (MASQUERADE --random-fully). " KEPT
                     ". To turn it off: kubectl patch felixconfigurations.%s default --type merge "
                     "-p '{\"spec\":{\"featureDetectOverride\":"
                     "\"MASQFullyRandom=false,SNATFullyRandom=false\"}}'",
                     cni->nat_pools ? "an IPPool has natOutgoing, which"
                                    : "natOutgoing, if a pool has it,",
                     group);
}

static void flannel_notes(const struct cni_facts *cni, struct sentences *notes)
{
    if (cni->flannel_daemon && !cni->flannel_masq) {
        sentence_add(
            notes, "Flannel",
            "it runs without --ip-masq: pods leave with their own addresses and ports; say "
            "[snat] mode = none, unless another one masquerades");
        return;
    }
    if (cni->flannel_not_random) {
        sentence_add(notes, "Flannel",
                     "its MASQUERADE keeps a port that is free (--ip-masq-fully-random-disable): "
                     "nothing has to be turned off");
        return;
    }
    char *space = shell_quoted(*cni->flannel_namespace ? cni->flannel_namespace : "kube-flannel");
    char *name = shell_quoted(*cni->flannel_object ? cni->flannel_object : "kube-flannel-ds");
    sentence_add(notes, "Flannel",
                 "with --ip-masq it moves every connection to another port (MASQUERADE "
                 "--random-fully). " KEPT ". To turn it off, in releases since September 2025: "
                 "kubectl -n %s patch daemonset %s --type json -p '[{\"op\":\"add\",\"path\":"
                 "\"/spec/template/spec/containers/0/args/-\",\"value\":"
                 "\"--ip-masq-fully-random-disable\"}]'",
                 space, name);
    free(space);
    free(name);
}

static void cilium_notes(const struct cni_facts *cni, struct sentences *notes)
{
    if (!cni->cilium_config)
        sentence_add(notes, "Cilium",
                     "its settings (ConfigMap cilium-config) were not read: with "
                     "enable-bpf-masquerade it keeps source ports from 32768 to 65535 only");
    else if (!cni->cilium_masquerade)
        sentence_add(notes, "Cilium",
                     "it does not masquerade: pods leave with their own addresses "
                     "and ports; say [snat] mode = none");
    else if (cni->cilium_bpf_masquerade)
        sentence_add(notes, "Cilium",
                     "it masquerades in BPF, where [snat] cannot come before it, and keeps source "
                     "ports from 32768 to 65535 only: choose the ports of [pool] there. To turn it "
                     "off: kubectl -n kube-system patch configmap cilium-config --type merge -p "
                     "'{\"data\":{\"enable-ipv4-masquerade\":\"false\"}}'");
    else if (cni->cilium_random)
        sentence_add(notes, "Cilium",
                     "iptables-random-fully moves every connection to another port. " KEPT
                     ". To turn it off: kubectl -n kube-system patch configmap cilium-config "
                     "--type merge -p '{\"data\":{\"iptables-random-fully\":\"false\"}}'");
    else
        sentence_add(notes, "Cilium",
                     "its MASQUERADE keeps a port that is free: nothing has to be "
                     "turned off");
}

static void other_notes(const struct cni_facts *cni, struct sentences *notes)
{
    if (cni->proxy_masquerade_all)
        sentence_add(
            notes, "kube-proxy",
            "masqueradeAll moves every connection to a Service to another port. To turn it "
            "off: masqueradeAll: false in config.conf of ConfigMap kube-proxy, namespace "
            "kube-system");
    if (cni->masq_agent)
        sentence_add(notes, "ip-masq-agent",
                     "since 2.10 it moves every connection to another port (MASQUERADE "
                     "--random-fully). " KEPT ". To turn it off: its argument "
                     "--random-fully=false, or the hosts' network among nonMasqueradeCIDRs of "
                     "ConfigMap ip-masq-agent, namespace kube-system");
    if (cni->antrea)
        sentence_add(notes, "Antrea",
                     "it keeps a port that is free, unless snatFullyRandomPorts is "
                     "true in ConfigMap antrea-config");
}

static void ovn_notes(const struct cni_facts *cni, struct sentences *notes)
{
    if (cni->ovn)
        sentence_add(
            notes, "OVN-Kubernetes",
            "in its shared gateway mode it changes the source in Open vSwitch, where [snat] "
            "cannot come before it: fixport-probe says what becomes of a port. In local "
            "gateway mode [snat] mode = keep works");
    if (cni->kube_apart)
        sentence_add(notes, "Kube-OVN",
                     "%zu pod%s in VPCs other than ovn-cluster %s left out: no node routes to them",
                     cni->kube_apart, cni->kube_apart == 1 ? "" : "s",
                     cni->kube_apart == 1 ? "is" : "are");
    if (cni->kube_ovn && !cni->kube_nat && cni->kube_plain)
        sentence_add(
            notes, "Kube-OVN",
            "no Subnet has natOutgoing: pods leave with their own addresses and ports; say "
            "[snat] mode = none");
    else if (cni->kube_ovn)
        sentence_add(
            notes, "Kube-OVN",
            "%s moves every connection to another port (MASQUERADE --random-fully). " KEPT
            ". To turn it off: natOutgoing: false in the Subnet, with which pods leave with "
            "their own addresses, and [snat] mode = none",
            cni->kube_nat ? "a Subnet has natOutgoing, which" : "natOutgoing, if a Subnet has it,");
}

#define CHANGE                                                                                     \
    "gives pods single addresses, which change with every pod: what is written here is true of "   \
    "the pods that run now. "

/* What single addresses mean, and what to do instead of running after them. */
static void single_notes(const struct discovery *discovery, struct sentences *notes)
{
    const struct cni_facts *cni = &discovery->cni;
    const char *network = cni->aws ? "VPC" : "virtual network";
    if (is_vpc(cni))
        sentence_add(notes, cni->aws ? "Amazon VPC CNI" : "Azure CNI",
                     "it " CHANGE
                     "They are addresses of the %s, which routes them itself: hosts in "
                     "it need no routes and not the role host, only a pool (fixport-pool create), "
                     "and what they see is the pod's own address and port: say [snat] mode = none. "
                     "If pods have subnets of their own, name these as blocks in [pods], and write "
                     "each [node NAME] yourself, with its address alone; otherwise let a timer run "
                     "this with --write, and 'fixport-setup apply'",
                     network);
    else
        sentence_add(notes, cni->kube_ovn ? "Kube-OVN" : NULL,
                     "%s " CHANGE "Let a timer run this with --write, and 'fixport-setup apply' "
                     "on all machines; or choose a CNI, or a mode of it, in which each node has a "
                     "block",
                     cni->kube_ovn ? "it spreads a subnet's addresses over all nodes, and"
                                   : "the CNI");
}

static void pods_notes(const struct discovery *discovery, struct sentences *notes)
{
    bool single = false;
    for (size_t i = 0; !single && i < discovery->claims; i++)
        single = discovery->claim[i].source == CLAIM_POD;
    if (is_vpc(&discovery->cni) && discovery->cni.aws)
        sentence_add(
            notes, "Amazon VPC CNI",
            "what leaves the VPC it moves to random source ports. To turn it off: kubectl "
            "-n kube-system set env daemonset aws-node AWS_VPC_K8S_CNI_RANDOMIZESNAT=none");
    if (single)
        single_notes(discovery, notes);
    else if (!discovery->claims)
        sentence_add(notes, NULL,
                     "no node has a block of pods%s: if the CNI gives pods single addresses, "
                     "'kubectl get nodes,pods -A -o json | fixport-setup discover -' finds them",
                     discovery->pods ? "" : ", and no pods were read");
    if (discovery->unproven)
        sentence_add(notes, NULL,
                     "the nodes' podCIDRs are taken as they are: no running pods were read, which "
                     "would show whether the CNI uses them: 'kubectl get nodes,pods -A -o json | "
                     "fixport-setup discover -' looks");
}

void cni_notes(const struct discovery *discovery, struct sentences *notes)
{
    const struct cni_facts *cni = &discovery->cni;
    if (cni->calico && !(cni->flannel && !cni->calico_blocks && !cni->nat_pools))
        calico_notes(cni, notes);
    if (cni->flannel)
        flannel_notes(cni, notes);
    if (cni->cilium)
        cilium_notes(cni, notes);
    ovn_notes(cni, notes);
    other_notes(cni, notes);
    pods_notes(discovery, notes);
    if (strcmp(cni_names(cni), "none that is known") == 0)
        sentence_add(notes, NULL,
                     "what becomes of source ports, 'fixport-setup doctor' says on a node");
}
