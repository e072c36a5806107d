/* SPDX-License-Identifier: MIT */
/*
 * What Calico's objects say. Both forms are read: those of crd.projectcalico.org/v1, which it keeps
 * in the cluster, and those of projectcalico.org/v3, which its own API server shows, and which
 * newer releases keep. They differ in little: "deleted" is a string in one, a truth value in the
 * other. Names may be hashes: only what stands in spec counts.
 *
 * The shapes are those of projectcalico/calico, api/pkg/apis/projectcalico/v3 (blockaffinity.go,
 * ipamblocks.go, ippool.go, felixconfig.go) and libcalico-go/lib/apis/internalapi.
 */
#include "discover.h"

#include <string.h>

#define AFFINITY_HOST "host:"
#define ALLOCATIONS_MOST 65536 /* Calico's largest block is a /20 */

/* A truth value, or a word for it. */
static bool is_set(const json_t *value)
{
    const char *word = json_string_value(value);
    return json_is_true(value) || (word && strcmp(word, "true") == 0);
}

/* ---- BlockAffinity ---- */

/* Only "confirmed" means that the block is the node's: before that it may become another's. */
void object_affinity(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    const char *state = json_word(spec, "state"), *type = json_word(spec, "type");
    const char *node = json_word(spec, "node"), *block = json_word(spec, "cidr");
    discovery->cni.calico = true;
    if (!node || !block) {
        sentence_add(&discovery->warnings, object->label, "has no %s in its spec: it is left out",
                     node ? "cidr" : "node");
        return;
    }
    if (type && strcmp(type, "host") != 0) {
        if (strcmp(type, "virtual") != 0)
            sentence_add(&discovery->warnings, object->label,
                         "is of type \"%.40s\", which is not known: it is left out", type);
        return;
    }
    if (is_set(json_object_get(spec, "deleted")))
        return;
    if (!state || strcmp(state, "confirmed") != 0) {
        sentence_add(&discovery->warnings, object->label,
                     "%.45s of node %.60s is not confirmed (state \"%.40s\"): it is left out",
                     block, node, state ? state : "");
        return;
    }
    discovery->cni.calico_blocks = true;
    claim_add(discovery, object, CLAIM_AFFINITY, node, block);
}

/* ---- IPAMBlock ---- */

/* The address number @index of a block. Return: false if the block does not have so many. */
static bool block_address(const struct block *block, uint64_t index, struct block *address)
{
    unsigned bits = 128u - block->prefix;
    if (bits < 32 && index >> bits)
        return false;
    *address = *block;
    address->prefix = 128;
    for (int i = 15; i >= 0 && index; i--, index >>= 8)
        address->addr[i] |= (uint8_t)index;
    return true;
}

/* The node that an address is used on; NULL: none, or nobody can say. */
static const char *allocation_node(const json_t *attribute)
{
    const json_t *owner = json_object_get(attribute, "secondary");
    const json_t *released = json_object_get(attribute, "releasedAt");
    if ((released && !json_is_null(released)) || json_word(owner, "type")) /* a tunnel's end */
        return NULL;
    return json_word(owner, "node");
}

/* Addresses that are used on another node than the block's. @node: the block's, NULL: it has none.
 */
static void borrowed_take(struct discovery *discovery, const struct object *object,
                          const json_t *spec, const struct block *block, const char *node)
{
    const json_t *allocations = json_object_get(spec, "allocations"), *item;
    const json_t *attributes = json_object_get(spec, "attributes");
    size_t i;
    struct block address;
    json_array_foreach(allocations, i, item)
    {
        json_int_t at = json_is_integer(item) ? json_integer_value(item) : -1;
        const char *user = at >= 0 ? allocation_node(json_array_get(attributes, (size_t)at)) : NULL;
        if (i == ALLOCATIONS_MOST)
            break;
        if (user && (!node || strcmp(user, node) != 0) && block_address(block, i, &address))
            claim_put(discovery, object->label, CLAIM_BORROWED, user, &address);
    }
}

/* "host:NODE". Return: the node; NULL: nobody's, or (*@other) not a node's. */
static const char *affinity_node(const json_t *spec, bool *other)
{
    const char *affinity = json_word(spec, "affinity");
    bool host = affinity && strncmp(affinity, AFFINITY_HOST, strlen(AFFINITY_HOST)) == 0;
    *other = affinity && !host;
    return host && affinity[strlen(AFFINITY_HOST)] ? affinity + strlen(AFFINITY_HOST) : NULL;
}

void object_ipam_block(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    const char *text = json_word(spec, "cidr");
    char why[200];
    struct block block;
    bool other;
    discovery->cni.calico = true;
    if (is_set(json_object_get(spec, "deleted")))
        return;
    const char *reason =
        text ? block_parse(text, false, &block, why, sizeof(why)) : "is missing in its spec";
    if (reason) {
        sentence_add(&discovery->warnings, object->label, "%s%.60s%s %s: it is left out",
                     text ? "\"" : "", text ? text : "cidr", text ? "\"" : "", reason);
        return;
    }
    const char *node = affinity_node(spec, &other);
    discovery->cni.calico_blocks = true;
    claim_put(discovery, object->label, CLAIM_BLOCK, node, &block);
    if (!other) /* load balancers' addresses are behind no node */
        borrowed_take(discovery, object, spec, &block, node);
}

/* ---- settings ---- */

void object_ip_pool(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    discovery->cni.calico = true;
    if (is_set(json_object_get(spec, "disabled")))
        return;
    if (is_set(json_object_get(spec, "natOutgoing")))
        discovery->cni.nat_pools++;
    else
        discovery->cni.plain_pools++;
}

void object_felix(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    const char *detect = json_word(spec, "featureDetectOverride");
    const json_t *range = json_object_get(spec, "natPortRange");
    struct cni_facts *cni = &discovery->cni;
    cni->calico = cni->felix = true;
    cni->felix_bpf |= is_set(json_object_get(spec, "bpfEnabled"));
    cni->felix_not_random |= detect && strstr(detect, "MASQFullyRandom=false");
    cni->felix_nat_range |= range && !json_is_null(range);
}
