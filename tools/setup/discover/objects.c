/* SPDX-License-Identifier: MIT */
/*
 * What objects of Kubernetes say: nodes, pods, Cilium's nodes, and the settings of what changes
 * source ports. Calico's are in calico.c.
 *
 * The shapes are those of the projects' sources: kubernetes/api core/v1, flannel-io/flannel
 * pkg/subnet/kube/annotations.go, cilium/cilium pkg/annotation and pkg/k8s/apis/cilium.io/v2,
 * ovn-kubernetes go-controller/pkg/util/subnet_annotations.go, kubeovn/kube-ovn pkg/util/const.go
 * and pkg/apis/kubeovn/v1. A field of another type than there is one that is not there.
 */
#include "discover.h"

#include "../resources/state.h"

#include <stdlib.h>
#include <string.h>

/* ---- claims ---- */

void claim_put(struct discovery *discovery, const char *object, enum claim_source source,
               const char *node, const struct block *block)
{
    size_t count = discovery->claims;
    if (!(count & (count - 1)))
        discovery->claim =
            state_grow(discovery->claim, sizeof(*discovery->claim) * (count ? count * 2 : 1));
    discovery->claim[discovery->claims++] = (struct claim){
        .block = *block, .source = source, .node = state_copy(node), .object = state_copy(object)};
}

void claim_add(struct discovery *discovery, const struct object *object, enum claim_source source,
               const char *node, const char *text)
{
    struct block block;
    char why[200];
    const char *reason = block_parse(text, false, &block, why, sizeof(why));
    if (reason)
        sentence_add(&discovery->warnings, object->label, "\"%.60s\" %s: it is left out", text,
                     reason);
    else
        claim_put(discovery, object->label, source, node, &block);
}

static void claims_add_list(struct discovery *discovery, const struct object *object,
                            enum claim_source source, const char *node, const json_t *list)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item) if (json_is_string(item))
        claim_add(discovery, object, source, node, json_string_value(item));
}

/* ---- nodes ---- */

/* A name may come twice: discovery_resolve() brings the two together. */
static struct found_node *node_add(struct discovery *discovery, const char *name)
{
    size_t count = discovery->nodes;
    if (!(count & (count - 1)))
        discovery->node =
            state_grow(discovery->node, sizeof(*discovery->node) * (count ? count * 2 : 1));
    discovery->node[count] = (struct found_node){.cluster_name = state_copy(name)};
    return &discovery->node[discovery->nodes++];
}

/* Takes an address unless there is a better one. The first of several equals is kubelet's choice.
 */
static void address_take(struct discovery *discovery, const struct object *object,
                         struct found_node *node, enum address_source source, const char *text)
{
    struct block block;
    char why[200], one[BLOCK_TEXT];
    snprintf(one, sizeof(one), "%.*s", (int)strcspn(text, "/"), text); /* Calico's has a prefix */
    const char *reason = block_parse(one, true, &block, why, sizeof(why));
    if (reason) {
        sentence_add(&discovery->warnings, object->label, "its address \"%.60s\" %s", text, reason);
        return;
    }
    bool v4 = block_is_v4(&block);
    bool *has = v4 ? &node->address.has4 : &node->address.has6;
    uint8_t *to = v4 ? node->address.addr4 : node->address.addr6;
    if (*has && source == node->source[!v4] && memcmp(to, block.addr, 16) != 0)
        sentence_add(&discovery->warnings, object->label,
                     "has more than one address for IPv%d: %s is not taken", v4 ? 4 : 6, one);
    if (*has && source >= node->source[!v4])
        return;
    *has = true;
    node->source[!v4] = source;
    memcpy(to, block.addr, sizeof(block.addr));
}

static void addresses_take(struct discovery *discovery, const struct object *object,
                           struct found_node *node, enum address_source source, const json_t *list,
                           const char *key)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
    {
        const char *type = json_word(item, "type"), *address = json_word(item, key);
        if (type && address && strcmp(type, "InternalIP") == 0)
            address_take(discovery, object, node, source, address);
    }
}

static const struct {
    const char *key;
    enum address_source source;
} address_notes[] = {
    {"projectcalico.org/IPv4Address", ADDRESS_CALICO},
    {"projectcalico.org/IPv6Address", ADDRESS_CALICO},
    {"flannel.alpha.coreos.com/public-ip", ADDRESS_FLANNEL},
    {"flannel.alpha.coreos.com/public-ipv6", ADDRESS_FLANNEL},
};

static const char *const cilium_notes[] = {
    "network.cilium.io/ipv4-pod-cidr",
    "network.cilium.io/ipv6-pod-cidr",
    "io.cilium.network.ipv4-pod-cidr", /* before Cilium 1.13 */
    "io.cilium.network.ipv6-pod-cidr",
};

/* OVN-Kubernetes': {"default":"10.244.0.0/24"}, or a list for both families. Other keys are
 * networks that are not the cluster's. */
static void ovn_take(struct discovery *discovery, const struct object *object, const char *text)
{
    json_t *networks = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *own = json_object_get(networks, "default");
    discovery->cni.ovn = true;
    if (json_is_string(own))
        claim_add(discovery, object, CLAIM_ANNOTATION, object->name, json_string_value(own));
    else if (json_array_size(own))
        claims_add_list(discovery, object, CLAIM_ANNOTATION, object->name, own);
    else
        sentence_add(&discovery->warnings, object->label,
                     "its annotation k8s.ovn.org/node-subnets has no block of the network "
                     "\"default\": \"%.80s\"",
                     text);
    json_decref(networks);
}

static void notes_take(struct discovery *discovery, const struct object *object,
                       struct found_node *node, const json_t *notes)
{
    const char *ovn = json_word(notes, "k8s.ovn.org/node-subnets");
    if (ovn)
        ovn_take(discovery, object, ovn);
    for (size_t i = 0; i < sizeof(address_notes) / sizeof(address_notes[0]); i++) {
        const char *address = json_word(notes, address_notes[i].key);
        if (address)
            address_take(discovery, object, node, address_notes[i].source, address);
    }
    for (size_t i = 0; i < sizeof(cilium_notes) / sizeof(cilium_notes[0]); i++) {
        const char *block = json_word(notes, cilium_notes[i]);
        if (block)
            claim_add(discovery, object, CLAIM_ANNOTATION, object->name, block);
        discovery->cni.cilium |= block != NULL;
    }
}

static bool begins(const char *text, const char *with)
{
    return text && strncmp(text, with, strlen(with)) == 0;
}

static void cni_take(struct cni_facts *cni, const json_t *notes, const json_t *spec)
{
    const char *backend = json_word(notes, "flannel.alpha.coreos.com/backend-type");
    const char *provider = json_word(spec, "providerID");
    if (backend) {
        cni->flannel = true;
        snprintf(cni->flannel_backend, sizeof(cni->flannel_backend), "%s", backend);
    }
    cni->calico |= json_word(notes, "projectcalico.org/IPv4Address") ||
                   json_word(notes, "projectcalico.org/IPv6Address");
    cni->antrea |= json_word(notes, "node.antrea.io/mac-address") != NULL;
    cni->kube_ovn |= json_word(notes, "ovn.kubernetes.io/logical_switch") != NULL;
    cni->kindnet |= begins(provider, "kind://");
    cni->aws |= begins(provider, "aws://");
    cni->azure |= begins(provider, "azure://");
}

static void object_node(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    const json_t *notes = json_path(object->json, "metadata", "annotations", NULL);
    const json_t *many = json_object_get(spec, "podCIDRs");
    const char *one = json_word(spec, "podCIDR");
    if (!*object->name) {
        sentence_add(&discovery->warnings, object->label, "is passed over");
        return;
    }
    struct found_node *node = node_add(discovery, object->name);
    node->listed = true;
    discovery->listed++;
    addresses_take(discovery, object, node, ADDRESS_INTERNAL,
                   json_path(object->json, "status", "addresses", NULL), "address");
    notes_take(discovery, object, node, notes);
    cni_take(&discovery->cni, notes, spec);
    if (json_array_size(many))
        claims_add_list(discovery, object, CLAIM_POD_CIDR, object->name, many);
    else if (one)
        claim_add(discovery, object, CLAIM_POD_CIDR, object->name, one);
}

/* ---- pods ---- */

/* Kube-OVN's: the default VPC is "ovn-cluster". In others addresses may be the same again. */
static bool pod_is_apart(struct discovery *discovery, const struct object *object)
{
    const json_t *notes = json_path(object->json, "metadata", "annotations", NULL);
    const char *router = json_word(notes, "ovn.kubernetes.io/logical_router");
    discovery->cni.kube_ovn |= router != NULL;
    return router && strcmp(router, "ovn-cluster") != 0;
}

/* Only those that run, and have a network of their own. */
static void object_pod(struct discovery *discovery, const struct object *object)
{
    const json_t *status = json_object_get(object->json, "status"), *item;
    const json_t *spec = json_object_get(object->json, "spec");
    const json_t *many = json_object_get(status, "podIPs");
    const char *phase = json_word(status, "phase"), *node = json_word(spec, "nodeName");
    const char *one = json_word(status, "podIP");
    size_t i;
    if (!node || !phase || strcmp(phase, "Running") != 0 ||
        json_is_true(json_object_get(spec, "hostNetwork")))
        return;
    if (pod_is_apart(discovery, object)) {
        discovery->cni.kube_apart++;
        return;
    }
    discovery->pods += one || json_array_size(many);
    json_array_foreach(many, i, item) if (json_word(item, "ip"))
        claim_add(discovery, object, CLAIM_POD, node, json_word(item, "ip"));
    if (one && !json_array_size(many))
        claim_add(discovery, object, CLAIM_POD, node, one);
}

/* ---- Cilium ---- */

/* Its blocks: cluster-pool's in podCIDRs, multi-pool's in pools; its addresses are InternalIPs. */
static void object_cilium_node(struct discovery *discovery, const struct object *object)
{
    const json_t *ipam = json_path(object->json, "spec", "ipam", NULL), *pool;
    size_t i;
    if (!*object->name)
        return;
    discovery->cni.cilium = true;
    addresses_take(discovery, object, node_add(discovery, object->name), ADDRESS_CILIUM,
                   json_path(object->json, "spec", "addresses", NULL), "ip");
    claims_add_list(discovery, object, CLAIM_CILIUM, object->name,
                    json_object_get(ipam, "podCIDRs"));
    json_array_foreach(json_path(ipam, "pools", "allocated", NULL), i, pool) claims_add_list(
        discovery, object, CLAIM_CILIUM, object->name, json_object_get(pool, "cidrs"));
}

static bool is_true(const json_t *data, const char *key, bool otherwise)
{
    const char *word = json_word(data, key);
    return word ? strcmp(word, "true") == 0 : otherwise;
}

/* ---- settings ---- */

/* A line "KEY: true" of YAML; a parser would be much for one word. */
static bool yaml_is_true(const char *yaml, const char *key)
{
    const char *line, *at = yaml ? yaml : "";
    size_t length, name = strlen(key);
    while ((line = state_line(&at, &length))) {
        const char *end = line + length;
        while (line < end && *line == ' ')
            line++;
        if ((size_t)(end - line) <= name || strncmp(line, key, name) != 0 || line[name] != ':')
            continue;
        line += name + 1;
        line += strspn(line, " ");
        if (end - line >= 4 && strncmp(line, "true", 4) == 0)
            return true;
    }
    return false;
}

static void object_config_map(struct discovery *discovery, const struct object *object)
{
    struct cni_facts *cni = &discovery->cni;
    const json_t *data = json_object_get(object->json, "data");
    if (strcmp(object->name, "cilium-config") == 0) {
        cni->cilium = cni->cilium_config = true;
        cni->cilium_bpf_masquerade = is_true(data, "enable-bpf-masquerade", false);
        cni->cilium_masquerade = is_true(data, "enable-ipv4-masquerade", true);
        cni->cilium_random = is_true(data, "iptables-random-fully", false);
    } else if (strcmp(object->name, "kube-proxy") == 0) {
        cni->proxy = true;
        cni->proxy_masquerade_all = yaml_is_true(json_word(data, "config.conf"), "masqueradeAll");
    } else if (strcmp(object->name, "ip-masq-agent") == 0) {
        cni->masq_agent = true;
    }
}

static bool has_argument(const json_t *container, const char *argument)
{
    static const char *const lists[] = {"command", "args"};
    const json_t *item;
    size_t i, length = strlen(argument);
    for (size_t k = 0; k < 2; k++)
        json_array_foreach(json_object_get(container, lists[k]), i, item)
        {
            const char *text = json_string_value(item);
            if (begins(text, argument) && (!text[length] || strcmp(text + length, "=true") == 0))
                return true;
        }
    return false;
}

/* Flannel's own says how it masquerades; kindnet's says that it is there. */
static void object_daemon_set(struct discovery *discovery, const struct object *object)
{
    struct cni_facts *cni = &discovery->cni;
    const char *space = json_word(json_object_get(object->json, "metadata"), "namespace");
    const json_t *container;
    size_t i;
    cni->kindnet |= strcmp(object->name, "kindnet") == 0;
    if (!begins(object->name, "kube-flannel"))
        return;
    cni->flannel = cni->flannel_daemon = true;
    snprintf(cni->flannel_object, sizeof(cni->flannel_object), "%.63s", object->name);
    snprintf(cni->flannel_namespace, sizeof(cni->flannel_namespace), "%.63s",
             space ? space : "kube-flannel");
    json_array_foreach(json_path(object->json, "spec", "template", "spec", "containers", NULL), i,
                       container)
    {
        cni->flannel_masq |= has_argument(container, "--ip-masq");
        cni->flannel_not_random |= has_argument(container, "--ip-masq-fully-random-disable");
    }
}

/* Kube-OVN's Subnet: its addresses are spread over all nodes, so only the SNAT is of interest. */
static void object_subnet(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    const char *vpc = json_word(spec, "vpc");
    struct cni_facts *cni = &discovery->cni;
    cni->kube_ovn = true;
    if ((vpc && strcmp(vpc, "ovn-cluster") != 0) || strcmp(object->name, "join") == 0)
        return;
    *(json_is_true(json_object_get(spec, "natOutgoing")) ? &cni->kube_nat : &cni->kube_plain) += 1;
}

/* ---- which object is whose ---- */

static void object_known(struct discovery *discovery, const struct object *object)
{
    (void)discovery;
    (void)object;
}

static const struct {
    const char *group; /* what apiVersion begins with */
    const char *kind;
    void (*take)(struct discovery *discovery, const struct object *object);
} kinds[] = {
    {"v1", "Node", object_node},
    {"v1", "Pod", object_pod},
    {"v1", "Service", object_service},
    {"discovery.k8s.io/", "EndpointSlice", object_slice},
    {"v1", "ConfigMap", object_config_map},
    {"apps/", "DaemonSet", object_daemon_set},
    {"cilium.io/", "CiliumNode", object_cilium_node},
    {"kubeovn.io/", "Subnet", object_subnet},
    {"crd.projectcalico.org/", "BlockAffinity", object_affinity},
    {"projectcalico.org/", "BlockAffinity", object_affinity},
    {"crd.projectcalico.org/", "IPAMBlock", object_ipam_block},
    {"projectcalico.org/", "IPAMBlock", object_ipam_block},
    {"crd.projectcalico.org/", "IPPool", object_ip_pool},
    {"projectcalico.org/", "IPPool", object_ip_pool},
    {"crd.projectcalico.org/", "FelixConfiguration", object_felix},
    {"projectcalico.org/", "FelixConfiguration", object_felix},
    {"crd.projectcalico.org/", "IPAMHandle", object_known}, /* says what IPAMBlocks say */
    {"projectcalico.org/", "IPAMHandle", object_known},
};

bool object_take(struct discovery *discovery, const struct object *object, const char *kind)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        bool whole = strcmp(kinds[i].group, "v1") == 0;
        if (strcmp(kinds[i].kind, kind) != 0 ||
            (whole ? strcmp(object->group, "v1") != 0 : !begins(object->group, kinds[i].group)))
            continue;
        if (strstr(kinds[i].group, "projectcalico.org") && !discovery->cni.calico_group)
            discovery->cni.calico_group =
                *kinds[i].group == 'c' ? "crd.projectcalico.org" : "projectcalico.org";
        kinds[i].take(discovery, object);
        return true;
    }
    return false;
}
