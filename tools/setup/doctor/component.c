/* SPDX-License-Identifier: MIT */
/*
 * Whose a rule is, where its chain, table or comment tells, and the one setting or command of its
 * owner's by which it would do what the configuration says. Never more than that: a trusted zone,
 * an accept for any port, would open what nobody asked for.
 */
#include "doctor.h"

#include <stdlib.h>
#include <string.h>

static const struct component components[] = {
    {"fixport", "fixport", "FIXPORT-", "fixport: ", NULL, NULL},
    {"Calico", "calico", "cali-", "cali:",
     "kubectl patch felixconfiguration default --type=merge -p "
     "'{\"spec\":{\"featureDetectOverride\":\"MASQFullyRandom=false,SNATFullyRandom=false\"}}'",
     "a NetworkPolicy (for pods) or GlobalNetworkPolicy (for machines) that allows these ports"},
    {"Flannel", "flannel-", "FLANNEL-", "flanneld ",
     "kubectl -n kube-flannel edit daemonset kube-flannel-ds: add "
     "--ip-masq-fully-random-disable to flanneld's arguments (not in k3s, nor before 0.27.4: "
     "there the role node has to come ahead of it)",
     NULL},
    {"ip-masq-agent", NULL, "IP-MASQ-AGENT", "ip-masq-agent:",
     "kubectl -n kube-system edit daemonset ip-masq-agent: add --random-fully=false, or the "
     "hosts' addresses to nonMasqueradeCIDRs",
     NULL},
    {"the AWS VPC CNI", NULL, "AWS-", "AWS, ",
     "kubectl -n kube-system set env daemonset aws-node AWS_VPC_K8S_CNI_RANDOMIZESNAT=none", NULL},
    {"Antrea", "antrea", "ANTREA-", "Antrea:",
     "kubectl -n kube-system edit configmap antrea-config: snatFullyRandomPorts: false", NULL},
    {"Cilium", NULL, "CILIUM_", "cilium",
     "kubectl -n kube-system patch configmap cilium-config --type=merge -p "
     "'{\"data\":{\"iptables-random-fully\":\"false\"}}'",
     "a CiliumNetworkPolicy that allows these ports"},
    {"kube-proxy", "kube-proxy", "KUBE-", "kubernetes ", NULL,
     "if the line says \"invalid\": kube-proxy's conntrack.tcpBeLiberal: true"},
    {"kube-router", NULL, "KUBE-ROUTER", "kube-router", NULL, NULL},
    {"kube-router", NULL, "KUBE-POD-FW", NULL, NULL, "a NetworkPolicy that allows these ports"},
    {"Weave Net", NULL, "WEAVE", NULL, NULL, NULL},
    {"podman", "netavark", "NETAVARK", NULL, NULL, NULL},
    {"a CNI plugin", NULL, "CNI-", "name: \"", NULL, NULL},
    {"Docker", "docker-bridges", "DOCKER", NULL, NULL,
     "rules that let these connections pass belong into the chain DOCKER-USER, which Docker leaves "
     "alone: --role gateway puts its own there"},
    {"firewalld", "firewalld", NULL, NULL, NULL,
     "firewall-cmd --permanent --add-rich-rule 'rule family=\"...\" source address=\"...\" port "
     "port=\"...\" protocol=\"tcp\" accept' with just these addresses and ports; for what is "
     "forwarded, a policy between the two zones (firewall-cmd --new-policy)"},
    {"ufw", NULL, "ufw", NULL, NULL,
     "ufw allow proto tcp from ADDRESSES to any port PORTS, or for what is forwarded ufw route "
     "allow "
     "proto tcp from ADDRESSES to ADDRESSES port PORTS"},
    {"fail2ban", "f2b-table", "f2b-", NULL, NULL, "fail2ban-client unban ADDRESS"},
    {"libvirt", "libvirt_network", "LIBVIRT", NULL, NULL, NULL},
    {"Istio", NULL, "ISTIO_", NULL, NULL, NULL},
    {"OpenStack Neutron", NULL, "neutron-", NULL, NULL,
     "a rule of the port's security group, or allowed-address-pairs"},
    {"Shorewall", NULL, "shorewall", NULL, NULL, "a rule in /etc/shorewall/rules"},
};

static bool begins(const char *text, const char *begin)
{
    return text && begin && strncmp(text, begin, strlen(begin)) == 0;
}

/* kube-router's chains begin as kube-proxy's do: the longer name is meant. */
static bool longer(const struct component *one, const struct component *other)
{
    return !other || strlen(one->chain) > strlen(other->chain);
}

const struct component *component_of(const struct blame *blame)
{
    const struct component *found = NULL;
    size_t count = sizeof(components) / sizeof(components[0]);
    for (size_t i = 0; i < count; i++)
        if (begins(blame->chain, components[i].chain) && longer(&components[i], found))
            found = &components[i];
    for (size_t i = 0; i < count && !found; i++)
        if (blame->backend == TWIN_NFT && begins(blame->table, components[i].table))
            found = &components[i];
    for (size_t i = 0; i < count && !found; i++) /* last: a comment may be anybody's */
        if (begins(blame->comment, components[i].comment))
            found = &components[i];
    return found;
}
