/* SPDX-License-Identifier: MIT */
/*
 * What is true of all that was read.
 *
 *   nodes    each once, with its addresses from the best source; none with another's address
 *   source   Calico's own blocks, if there are any, else Cilium's, else what the nodes say. What a
 *            node's podCIDR says is no fact where the CNI gives out addresses by itself: it is left
 *            out where the pods that were read lie elsewhere
 *   blocks   an IPAMBlock outweighs BlockAffinities of the same block; what is of a node that the
 *            cluster does not have is left out, what is said twice counts once
 *   overlaps one address behind two nodes: only if it is a single one, borrowed from the other's
 *            block; otherwise nobody knows which is right, and both are left out
 *
 * Everything is sorted first, so that 5,000 nodes and 20,000 blocks take no time.
 */
#include "discover.h"
#include "../resources/state.h"

#include <stdlib.h>
#include <string.h>

#define NAME_ALLOWED "abcdefghijklmnopqrstuvwxyz0123456789._-"

static const char *address_text(const uint8_t addr[16], char buf[BLOCK_TEXT])
{
    struct block block = {.prefix = 128};
    memcpy(block.addr, addr, sizeof(block.addr));
    return block_name(&block, buf, BLOCK_TEXT);
}

/* ---- nodes ---- */

static int node_compare(const void *left, const void *right)
{
    const struct found_node *a = left, *b = right;
    return strcmp(a->cluster_name, b->cluster_name);
}

struct found_node *discovery_node(const struct discovery *discovery, const char *name)
{
    struct found_node key = {.cluster_name = (char *)(uintptr_t)name};
    if (!discovery->nodes)
        return NULL;
    return bsearch(&key, discovery->node, discovery->nodes, sizeof(key), node_compare);
}

/* The better of two sources' addresses; of equals the first. */
static void address_merge(struct found_node *to, const struct found_node *from)
{
    if (from->address.has4 && (!to->address.has4 || from->source[0] < to->source[0])) {
        to->address.has4 = true;
        to->source[0] = from->source[0];
        memcpy(to->address.addr4, from->address.addr4, 16);
    }
    if (from->address.has6 && (!to->address.has6 || from->source[1] < to->source[1])) {
        to->address.has6 = true;
        to->source[1] = from->source[1];
        memcpy(to->address.addr6, from->address.addr6, 16);
    }
    to->listed |= from->listed;
}

/* Those of one name become one; what no Node tells of is not in the cluster. */
static void nodes_merge(struct discovery *discovery)
{
    size_t kept = 0;
    qsort(discovery->node, discovery->nodes, sizeof(*discovery->node), node_compare);
    for (size_t i = 0; i < discovery->nodes; i++) {
        struct found_node *node = &discovery->node[i];
        if (kept && node_compare(&discovery->node[kept - 1], node) == 0) {
            address_merge(&discovery->node[kept - 1], node);
            free(node->cluster_name);
        } else {
            discovery->node[kept++] = *node;
        }
    }
    discovery->nodes = kept;
    kept = 0;
    for (size_t i = 0; i < discovery->nodes; i++) {
        if (discovery->node[i].listed)
            discovery->node[kept++] = discovery->node[i];
        else
            free(discovery->node[i].cluster_name);
    }
    discovery->nodes = kept;
}

static void node_refuse(struct discovery *discovery, struct found_node *node, const char *why)
{
    char label[DISCOVER_OBJECT_NAME];
    snprintf(label, sizeof(label), "Node %s", node->cluster_name);
    sentence_add(&discovery->warnings, label, "%s: it is left out", why);
    node->unusable = true;
}

/* A name in the configuration is shorter than one in the cluster may be: then its first part does,
 * unless another node has that. */
static void node_name(struct discovery *discovery, struct found_node *node)
{
    const char *name = node->cluster_name;
    size_t length = strlen(name);
    char first[SITE_NAME];
    if (name[strspn(name, NAME_ALLOWED)] || *name == '-') {
        node_refuse(discovery, node,
                    "no node has such a name: letters a-z, digits, '.', '_' and '-' are allowed");
        return;
    }
    if (length >= SITE_NAME)
        length = strcspn(name, ".");
    snprintf(first, sizeof(first), "%.*s", (int)length, name);
    if (length >= SITE_NAME || (name[length] && discovery_node(discovery, first)))
        node_refuse(discovery, node, "its name is longer than 63 letters");
    else
        strcpy(node->name, first);
}

static int name_compare(const void *left, const void *right)
{
    const struct found_node *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

/* Two names that begin alike, both too long. */
static void names_apart(struct discovery *discovery, struct found_node **list)
{
    for (size_t i = 0; i < discovery->nodes; i++)
        list[i] = &discovery->node[i];
    qsort(list, discovery->nodes, sizeof(struct found_node *), name_compare);
    for (size_t i = 1; i < discovery->nodes; i++)
        if (*list[i]->name && name_compare(&list[i - 1], &list[i]) == 0)
            node_refuse(discovery, list[i],
                        "its name is longer than 63 letters, and up to the first dot another "
                        "node's");
}

/* ---- nodes' addresses ---- */

struct node_address {
    uint8_t addr[16];
    struct found_node *node;
};

static int node_address_compare(const void *left, const void *right)
{
    const struct node_address *a = left, *b = right;
    return memcmp(a->addr, b->addr, sizeof(a->addr));
}

/* Sorted, of those nodes that can be used. @list: two for each node. Return: how many. */
static size_t addresses_list(const struct discovery *discovery, struct node_address *list)
{
    size_t count = 0;
    for (size_t i = 0; i < discovery->nodes; i++) {
        struct found_node *node = &discovery->node[i];
        if (node->unusable)
            continue;
        list[count].node = list[count + 1].node = node;
        if (node->address.has4)
            memcpy(list[count++].addr, node->address.addr4, 16);
        list[count].node = node;
        if (node->address.has6)
            memcpy(list[count++].addr, node->address.addr6, 16);
    }
    qsort(list, count, sizeof(*list), node_address_compare);
    return count;
}

static void addresses_apart(struct discovery *discovery, const struct node_address *list,
                            size_t count)
{
    char why[300], address[BLOCK_TEXT];
    for (size_t i = 1; i < count; i++) {
        if (node_address_compare(&list[i - 1], &list[i]) != 0)
            continue;
        for (size_t k = i - 1; k <= i; k++) {
            snprintf(why, sizeof(why), "%s is also the address of node %.150s",
                     address_text(list[k].addr, address),
                     list[k == i ? i - 1 : i].node->cluster_name);
            if (!list[k].node->unusable)
                node_refuse(discovery, list[k].node, why);
        }
    }
}

static void nodes_check(struct discovery *discovery)
{
    for (size_t i = 0; i < discovery->nodes; i++)
        node_name(discovery, &discovery->node[i]);
    for (size_t i = 0; i < discovery->nodes; i++) {
        struct found_node *node = &discovery->node[i];
        if (!node->unusable && !node->address.has4 && !node->address.has6)
            node_refuse(discovery, node, "it has no address of type InternalIP");
    }
    struct found_node **list = state_grow(NULL, (discovery->nodes + 1) * sizeof(*list));
    names_apart(discovery, list);
    free(list);
}

/* ---- which source is the truth ---- */

static bool claims_have(const struct discovery *discovery, enum claim_source source)
{
    for (size_t i = 0; i < discovery->claims; i++)
        if (discovery->claim[i].source == source && !discovery->claim[i].left_out)
            return true;
    return false;
}

static void claims_drop(struct discovery *discovery, unsigned sources)
{
    for (size_t i = 0; i < discovery->claims; i++)
        if (sources >> discovery->claim[i].source & 1)
            discovery->claim[i].left_out = true;
}

#define SOURCE(name) (1u << CLAIM_##name)
#define SOURCES_CALICO (SOURCE(AFFINITY) | SOURCE(BLOCK) | SOURCE(BORROWED))
#define SOURCES_NODE (SOURCE(POD_CIDR) | SOURCE(ANNOTATION))

/* A node with an annotation of its CNI's has the blocks that this says. */
static void annotations_prefer(struct discovery *discovery)
{
    bool *has = state_grow(NULL, discovery->nodes * sizeof(*has));
    memset(has, 0, discovery->nodes * sizeof(*has));
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < discovery->claims; i++) {
            struct claim *claim = &discovery->claim[i];
            const struct found_node *node =
                claim->node ? discovery_node(discovery, claim->node) : NULL;
            if (!node || claim->source > CLAIM_ANNOTATION)
                continue;
            if (!turn)
                has[node - discovery->node] |= claim->source == CLAIM_ANNOTATION;
            else if (claim->source == CLAIM_POD_CIDR && has[node - discovery->node])
                claim->left_out = true;
        }
    }
    free(has);
}

/* What a node's pods say of its podCIDRs, by family: [1] is IPv4. */
struct proof {
    const struct claim *cidr[4]; /* more of them no node has */
    size_t cidrs;
    const struct claim *pod[2]; /* one that is there */
    bool used[2];               /* a podCIDR has a pod in it */
};

static void proof_add(struct proof *proof, const struct claim *claim)
{
    bool v4 = block_is_v4(&claim->block);
    if (claim->source == CLAIM_POD_CIDR && proof->cidrs < 4) {
        proof->cidr[proof->cidrs++] = claim;
        return;
    }
    proof->pod[v4] = claim;
    for (size_t i = 0; i < proof->cidrs; i++)
        proof->used[v4] |= block_has(&proof->cidr[i]->block, claim->block.addr);
}

/* First all podCIDRs, then pods. Return: malloc'd, one for each node. */
static struct proof *proofs_make(const struct discovery *discovery)
{
    struct proof *proofs = state_grow(NULL, discovery->nodes * sizeof(*proofs));
    memset(proofs, 0, discovery->nodes * sizeof(*proofs));
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < discovery->claims; i++) {
            const struct claim *claim = &discovery->claim[i];
            const struct found_node *node =
                !claim->left_out && claim->source == (turn ? CLAIM_POD : CLAIM_POD_CIDR)
                    ? discovery_node(discovery, claim->node)
                    : NULL;
            if (node)
                proof_add(&proofs[node - discovery->node], claim);
        }
    }
    return proofs;
}

static void unused_tell(struct discovery *discovery, const struct claim *first, size_t count,
                        const struct claim *pod)
{
    char block[BLOCK_TEXT], address[BLOCK_TEXT];
    sentence_add(&discovery->warnings, NULL,
                 "podCIDRs of %zu node%s, such as %s of %.63s, are left out: none of the pods that "
                 "were read there lies in them, but for instance %.120s has %s. The CNI does not "
                 "use them; what is written instead are the pods' own addresses",
                 count, count == 1 ? "" : "s", block_name(&first->block, block, sizeof(block)),
                 first->node, pod->object, block_name(&pod->block, address, sizeof(address)));
}

/*
 * podCIDRs that the CNI does not use. Those of a node on which pods are, and none in them; if that
 * is so wherever pods are, those of nodes without pods as well.
 */
static void pod_cidrs_prove(struct discovery *discovery)
{
    struct proof *proofs = proofs_make(discovery);
    for (int v4 = 1; v4 >= 0; v4--) {
        const struct claim *first = NULL, *pod = NULL;
        size_t count = 0;
        bool used = false;
        for (size_t i = 0; i < discovery->nodes; i++) {
            used |= proofs[i].used[v4];
            pod = proofs[i].cidrs && proofs[i].pod[v4] && !proofs[i].used[v4] && !pod
                      ? proofs[i].pod[v4]
                      : pod;
        }
        for (size_t i = 0; pod && i < discovery->claims; i++) {
            struct claim *claim = &discovery->claim[i];
            const struct found_node *node = !claim->left_out && claim->source == CLAIM_POD_CIDR &&
                                                    block_is_v4(&claim->block) == (bool)v4
                                                ? discovery_node(discovery, claim->node)
                                                : NULL;
            const struct proof *proof = node ? &proofs[node - discovery->node] : NULL;
            if (!proof || proof->used[v4] || (used && !proof->pod[v4]))
                continue;
            claim->left_out = true;
            first = first ? first : claim;
            count += claim == proof->cidr[0] || block_is_v4(&proof->cidr[0]->block) != (bool)v4;
        }
        if (first)
            unused_tell(discovery, first, count, pod);
    }
    free(proofs);
}

static int sources_choose(struct discovery *discovery, struct setup_error *error)
{
    const struct cni_facts *cni = &discovery->cni;
    if (discovery->pod_cidrs) {
        claims_drop(discovery, SOURCES_CALICO | SOURCE(CILIUM) | SOURCE(ANNOTATION));
    } else if (cni->calico_blocks) {
        claims_drop(discovery, SOURCES_NODE | SOURCE(CILIUM));
    } else if (cni->calico && !cni->flannel && !cni->cilium && !discovery->blocks_asked) {
        return setup_fail(error,
                          "this cluster has Calico, which gives nodes blocks of its own, but "
                          "BlockAffinities and IPAMBlocks are not among what was read: read them, "
                          "too, see fixport-setup(8); or, if Calico takes the nodes' podCIDRs here "
                          "(host-local), say --pod-cidrs");
    } else if (claims_have(discovery, CLAIM_CILIUM)) {
        claims_drop(discovery, SOURCES_NODE);
    } else if (cni->kube_ovn && !cni->flannel && !cni->kindnet) {
        claims_drop(discovery, SOURCES_NODE);
    } else {
        annotations_prefer(discovery);
        pod_cidrs_prove(discovery);
        discovery->cni.azure &= !claims_have(discovery, CLAIM_POD_CIDR); /* kubenet, overlay */
        discovery->unproven = !discovery->pods && !cni->flannel && !cni->kindnet &&
                              claims_have(discovery, CLAIM_POD_CIDR);
    }
    return 0;
}

/* ---- whose is which ---- */

/* By address, the wider first; of one block the weightiest source first. */
static int claim_compare(const void *left, const void *right)
{
    const struct claim *a = left, *b = right;
    int order = memcmp(a->block.addr, b->block.addr, sizeof(a->block.addr));
    if (!order)
        order = (a->block.prefix > b->block.prefix) - (a->block.prefix < b->block.prefix);
    if (!order)
        order = (a->source < b->source) - (a->source > b->source);
    return order ? order : (a->owner > b->owner) - (a->owner < b->owner);
}

static void claim_free(struct claim *claim)
{
    free(claim->node);
    free(claim->object);
}

static void claims_squeeze(struct discovery *discovery)
{
    size_t kept = 0;
    for (size_t i = 0; i < discovery->claims; i++) {
        if (discovery->claim[i].left_out)
            claim_free(&discovery->claim[i]);
        else
            discovery->claim[kept++] = discovery->claim[i];
    }
    discovery->claims = kept;
}

/* Affinities of a block for which there is an IPAMBlock; what is nobody's has done its work then.
 * Sorted: the IPAMBlock comes first. */
static void blocks_outweigh(struct discovery *discovery)
{
    const struct claim *block = NULL;
    for (size_t i = 0; i < discovery->claims; i++) {
        struct claim *claim = &discovery->claim[i];
        if (claim->source == CLAIM_BLOCK)
            block = claim;
        else if (block && claim->source == CLAIM_AFFINITY &&
                 block->block.prefix == claim->block.prefix &&
                 memcmp(block->block.addr, claim->block.addr, 16) == 0)
            claim->left_out = true;
    }
    for (size_t i = 0; i < discovery->claims; i++)
        discovery->claim[i].left_out |= !discovery->claim[i].node;
}

/* Claims of nodes that are not there, or cannot be used; the former are told, once for each. */
static void owners_find(struct discovery *discovery)
{
    const char *told = "";
    for (size_t i = 0; i < discovery->claims; i++) {
        struct claim *claim = &discovery->claim[i];
        const struct found_node *node = claim->node ? discovery_node(discovery, claim->node) : NULL;
        if (node)
            claim->owner = (size_t)(node - discovery->node);
        if (claim->node && !node && strcmp(claim->node, told) != 0) {
            char text[BLOCK_TEXT];
            sentence_add(
                &discovery->warnings, claim->object,
                "says that %s is behind node %.100s, which is not among the nodes: what is "
                "that node's is left out",
                block_name(&claim->block, text, sizeof(text)), claim->node);
            told = claim->node;
        }
        claim->left_out |= claim->node && (!node || node->unusable);
    }
}

/* By the node's name: so that the same name comes once. */
static int claim_node_compare(const void *left, const void *right)
{
    const struct claim *a = left, *b = right;
    int order = strcmp(a->node ? a->node : "", b->node ? b->node : "");
    return order ? order : claim_compare(left, right);
}

/* ---- what does not fit ---- */

/* Blocks that their node cannot be asked for: it has no address of that family. */
static void families_check(struct discovery *discovery)
{
    for (size_t i = 0; i < discovery->claims; i++) {
        struct claim *claim = &discovery->claim[i];
        const struct address_pair *address = &discovery->node[claim->owner].address;
        bool v4 = block_is_v4(&claim->block);
        char text[BLOCK_TEXT];
        if (v4 ? address->has4 : address->has6)
            continue;
        sentence_add(&discovery->warnings, claim->object,
                     "%s is IPv%d, but node %.100s has no such address: it is left out",
                     block_name(&claim->block, text, sizeof(text)), v4 ? 4 : 6,
                     discovery->node[claim->owner].name);
        claim->left_out = true;
    }
}

/* Blocks with a node's address in them: a route to them would cut that node off. */
static void machines_check(struct discovery *discovery, const struct node_address *list,
                           size_t count)
{
    for (size_t i = 0; i < discovery->claims; i++) {
        struct claim *claim = &discovery->claim[i];
        size_t low = 0, high = count;
        char block[BLOCK_TEXT], address[BLOCK_TEXT];
        while (low < high) { /* the first address at or behind the block's begin */
            size_t middle = low + (high - low) / 2;
            if (memcmp(list[middle].addr, claim->block.addr, 16) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == count || !block_has(&claim->block, list[low].addr))
            continue;
        sentence_add(&discovery->warnings, claim->object,
                     "%s contains %s, the address of node %.100s: it is left out",
                     block_name(&claim->block, block, sizeof(block)),
                     address_text(list[low].addr, address), list[low].node->name);
        claim->left_out = true;
    }
}

static void contradiction_add(struct discovery *discovery, struct claim *a, struct claim *b)
{
    char first[BLOCK_TEXT], second[BLOCK_TEXT];
    sentence_add(&discovery->warnings, a->object,
                 "says that %s is behind node %.63s, and %s that %s is behind node %.63s: nobody "
                 "knows which is right, so both are left out",
                 block_name(&a->block, first, sizeof(first)), discovery->node[a->owner].name,
                 b->object, block_name(&b->block, second, sizeof(second)),
                 discovery->node[b->owner].name);
    a->left_out = b->left_out = true;
}

static bool is_single(const struct claim *claim)
{
    return claim->block.prefix == 128;
}

/* Sorted: whatever is inside of a block comes behind it, and one after the other. */
static void overlaps_check(struct discovery *discovery)
{
    struct claim *outer = NULL, *before = NULL;
    for (size_t i = 0; i < discovery->claims; i++) {
        struct claim *claim = &discovery->claim[i];
        bool inside = outer && blocks_overlap(&outer->block, &claim->block);
        bool again = before && is_single(before) && is_single(claim) &&
                     memcmp(before->block.addr, claim->block.addr, 16) == 0;
        if (!inside)
            outer = claim;
        if (again && before->owner == claim->owner)
            claim->left_out = true;
        else if (again && before != outer)
            contradiction_add(discovery, before, claim);
        else if (inside && outer->owner == claim->owner)
            claim->left_out = true;
        else if (inside && (!is_single(claim) || is_single(outer)))
            contradiction_add(discovery, outer, claim);
        before = claim;
    }
}

/* ---- all of it ---- */

static int owner_compare(const void *left, const void *right)
{
    const struct claim *a = left, *b = right;
    int order = (a->owner > b->owner) - (a->owner < b->owner);
    if (!order) /* IPv4 first: its addresses are mapped to ::ffff:0:0 and would be behind others */
        order = block_is_v4(&b->block) - block_is_v4(&a->block);
    if (!order) /* blocks first, then single addresses */
        order = is_single(a) - is_single(b);
    return order ? order : claim_compare(left, right);
}

static void claims_sort(struct discovery *discovery, int (*compare)(const void *, const void *))
{
    claims_squeeze(discovery);
    if (discovery->claims)
        qsort(discovery->claim, discovery->claims, sizeof(*discovery->claim), compare);
}

static void claims_share_out(struct discovery *discovery)
{
    for (size_t i = 0; i < discovery->claims; i++) {
        struct found_node *node = &discovery->node[discovery->claim[i].owner];
        if (!node->claims++)
            node->first_claim = i;
    }
}

static void claims_settle(struct discovery *discovery)
{
    struct node_address *list = state_grow(NULL, (2 * discovery->nodes + 2) * sizeof(*list));
    size_t count = addresses_list(discovery, list);
    addresses_apart(discovery, list, count);
    count = addresses_list(discovery, list);
    claims_sort(discovery, claim_compare);
    blocks_outweigh(discovery);
    claims_sort(discovery, claim_node_compare);
    owners_find(discovery);
    claims_squeeze(discovery);
    families_check(discovery);
    machines_check(discovery, list, count);
    claims_sort(discovery, claim_compare);
    overlaps_check(discovery);
    claims_sort(discovery, owner_compare);
    claims_share_out(discovery);
    free(list);
}

static void passed_tell(struct discovery *discovery)
{
    for (size_t i = 0; i < discovery->passed_kinds; i++)
        sentence_add(&discovery->warnings, NULL, "%zu object%s of kind %.60s: not of use here",
                     discovery->passed[i].count, discovery->passed[i].count == 1 ? "" : "s",
                     discovery->passed[i].name);
}

int discovery_resolve(struct discovery *discovery, struct setup_error *error)
{
    if (discovery->nodes)
        nodes_merge(discovery);
    if (!discovery->nodes)
        return setup_fail(error,
                          discovery->claims
                              ? "what was read says where pods are, but there is no Node in it, "
                                "which has the address that they are behind: 'kubectl get "
                                "nodes,pods -A -o json' has both"
                              : "there is no Node in what was read: 'kubectl get nodes -o json' is "
                                "the least that is needed");
    nodes_check(discovery);
    if (sources_choose(discovery, error) < 0)
        return -1;
    claims_settle(discovery);
    passed_tell(discovery);
    return 0;
}
