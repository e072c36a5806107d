/* SPDX-License-Identifier: MIT */
/*
 * Which CNI it is, and what it does to the source ports of what leaves the cluster: for each the
 * exact line that turns that off. What the nodes really do, "fixport-setup doctor" sees on a node;
 * here we only have what the cluster says of itself.
 */
#include "discover.h"

#include <string.h>

#define KEPT "[snat] mode = keep, the default, keeps the port ahead of that (role node)"

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
        {cni->kindnet && !cni->calico && !cni->cilium && !cni->flannel, "kindnet"},
        {cni->aws && !cni->calico && !cni->cilium && !cni->flannel, "Amazon VPC CNI"},
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
                     "natPortRange moves source ports into a range of Calico's own; " KEPT);
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
    sentence_add(notes, "Flannel",
                 "with --ip-masq it moves every connection to another port (MASQUERADE "
                 "--random-fully). " KEPT ". To turn it off, in releases since September 2025: "
                 "kubectl -n %s patch daemonset %s --type json -p '[{\"op\":\"add\",\"path\":"
                 "\"/spec/template/spec/containers/0/args/-\",\"value\":"
                 "\"--ip-masq-fully-random-disable\"}]'",
                 *cni->flannel_namespace ? cni->flannel_namespace : "kube-flannel",
                 *cni->flannel_object ? cni->flannel_object : "kube-flannel-ds");
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

/* A cluster whose nodes have no blocks: the CNI gives each pod an address of a network of all. */
static void pods_note(const struct discovery *discovery, struct sentences *notes)
{
    if (discovery->cni.aws && !discovery->cni.calico && !discovery->cni.cilium)
        sentence_add(notes, "Amazon VPC CNI",
                     "it moves source ports at random. To turn it off: kubectl -n kube-system set "
                     "env daemonset aws-node AWS_VPC_K8S_CNI_RANDOMIZESNAT=none");
    if (!discovery->claims)
        sentence_add(
            notes, NULL,
            "no node has a block of pods: if the CNI gives pods single addresses, 'kubectl "
            "get nodes,pods -A -o json | fixport-setup discover -' finds them");
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
    other_notes(cni, notes);
    pods_note(discovery, notes);
    if (cni->ovn && !discovery->claims)
        sentence_add(notes, "OVN-Kubernetes",
                     "its annotation k8s.ovn.org/node-subnets is not read: "
                     "write its blocks by hand");
    if (strcmp(cni_names(cni), "none that is known") == 0)
        sentence_add(notes, NULL,
                     "what becomes of source ports, 'fixport-setup doctor' says on a node");
}
