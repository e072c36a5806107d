/* SPDX-License-Identifier: MIT */
/*
 * Contradictions between the sections of a site: addresses that would be in two places.
 *
 * Blocks are aligned, so of two that meet one contains the other. Sorted by address, the larger
 * first, a block therefore stands before everything in it, and one pass finds what overlaps: there
 * may be tens of thousands. What is left over, without the single pods that are borrowed, shares no
 * address, and a search by halves answers whose an address is.
 */
#include "site-parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Blocks that share no address, sorted. */
struct ranked {
    struct placed **item;
    size_t count;
};

static int placed_compare(const void *left, const void *right)
{
    const struct placed *a = *(struct placed *const *)left, *b = *(struct placed *const *)right;
    int order = memcmp(a->block.addr, b->block.addr, sizeof(a->block.addr));
    if (order)
        return order;
    if (a->block.prefix != b->block.prefix)
        return a->block.prefix < b->block.prefix ? -1 : 1;
    return a < b ? -1 : a > b; /* in the file's order: qsort() alone keeps none */
}

static int rank_make(const struct draft *draft, struct placed_list *list, struct ranked *ranked)
{
    ranked->item = calloc(list->count + 1, sizeof(struct placed *));
    if (!ranked->item)
        return config_file_refuse_memory(draft->file);
    for (size_t i = 0; i < list->count; i++)
        ranked->item[i] = &list->item[i];
    ranked->count = list->count;
    qsort(ranked->item, ranked->count, sizeof(struct placed *), placed_compare);
    return 0;
}

/* Says of two that overlap, which is the later one's fault. */
static int refuse_overlap(const struct draft *draft, const struct placed *a, const struct placed *b)
{
    const struct placed *later = a > b ? a : b, *earlier = a > b ? b : a;
    char text[BLOCK_TEXT], place[CONFIG_PLACE];
    config_place(earlier->section, earlier->value->line, later->section, place);
    if (a->block.prefix == b->block.prefix)
        return placed_refuse(draft->file, later, "is given twice: it stands in %s already, in [%s]",
                             place, earlier->section->name);
    return placed_refuse(draft->file, later, "overlaps with %s, in %s, [%s]",
                         block_name(&earlier->block, text, sizeof(text)), place,
                         earlier->section->name);
}

/* Whether @inner, in @outer, is a pod that one node has lent the address to another. */
static bool is_borrowed(const struct placed *outer, const struct placed *inner)
{
    return inner->block.prefix == 128 && outer->block.prefix < 128 &&
           inner->section != outer->section;
}

/* Sorts the blocks, of one list, and takes those out that are borrowed; others may not overlap. */
static int rank(const struct draft *draft, struct placed_list *list, struct ranked *ranked)
{
    const struct placed *outer = NULL, *before = NULL;
    size_t kept = 0;
    int error = rank_make(draft, list, ranked);
    for (size_t i = 0; !error && i < ranked->count; i++) {
        struct placed *placed = ranked->item[i];
        bool inside = outer && blocks_overlap(&outer->block, &placed->block);
        bool again = before && before->borrowed && blocks_overlap(&before->block, &placed->block);
        if (again || (inside && !is_borrowed(outer, placed)))
            error = refuse_overlap(draft, again ? before : outer, placed);
        placed->borrowed = inside;
        if (!inside)
            outer = ranked->item[kept++] = placed;
        before = placed;
    }
    ranked->count = kept;
    return error;
}

/* The one that shares an address with @block; NULL: none does. */
static const struct placed *rank_find(const struct ranked *ranked, const struct block *block)
{
    size_t low = 0, high = ranked->count; /* those before low begin at or before @block */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memcmp(ranked->item[middle]->block.addr, block->addr, sizeof(block->addr)) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low && blocks_overlap(&ranked->item[low - 1]->block, block))
        return ranked->item[low - 1];
    if (low < ranked->count && blocks_overlap(&ranked->item[low]->block, block))
        return ranked->item[low];
    return NULL;
}

/* ---- each thing that may not be ---- */

/* Nodes' pods that [pods] leaves out: the firewall would reject them. */
static int check_within(const struct draft *draft, const struct ranked *pods)
{
    for (size_t i = 0; draft->pods.count && i < draft->node_pods.count; i++) {
        const struct placed *placed = &draft->node_pods.item[i];
        const struct placed *all = rank_find(pods, &placed->block);
        if (!all || all->block.prefix > placed->block.prefix)
            return placed_refuse(draft->file, placed,
                                 "is not within the blocks of [pods]: all pods' addresses belong "
                                 "there");
    }
    return 0;
}

/* Machines' addresses among those of pods. @what: "the address of". */
static int check_apart(const struct draft *draft, const struct ranked *pods,
                       const struct placed_list *machines, const char *what)
{
    for (size_t i = 0; i < machines->count; i++) {
        const struct placed *machine = &machines->item[i];
        const struct placed *found = rank_find(pods, &machine->block);
        char text[BLOCK_TEXT];
        if (found)
            return placed_refuse(
                draft->file, found, "overlaps with %s, %s [%s]: pods have addresses of their own",
                block_name(&machine->block, text, sizeof(text)), what, machine->section->name);
    }
    return 0;
}

/* Blocks whose node cannot be reached in their family. */
static int check_families(const struct draft *draft)
{
    size_t at = 0;
    for (size_t i = 0; i < draft->site->nodes; i++) {
        const struct site_node *node = &draft->site->node[i];
        for (size_t k = 0; k < node->pods.count; k++, at++) {
            bool v4 = block_is_v4(&node->pods.item[k]);
            if (!(v4 ? node->address.has4 : node->address.has6))
                return placed_refuse(draft->file, &draft->node_pods.item[at],
                                     "is IPv%d, but the node's address is not: give it one of "
                                     "each",
                                     v4 ? 4 : 6);
        }
    }
    return 0;
}

static int check_ports(const struct draft *draft)
{
    const struct site *site = draft->site;
    const struct config_section *section = config_file_section(draft->file, SECTION_CONTROL_PLANE);
    const struct config_value *value = config_section_value(section, KEY_NODE_PORTS);
    struct portset pool;
    if (site_pool_ports(&site->config.policy, &site->config.slices, &pool) < 0)
        return config_file_refuse(draft->file, -EINVAL,
                                  "the rules' ports are more than 32 ranges together: a firewall "
                                  "is made for at most 32");
    if (!value)
        return 0;
    if (portset_overlaps(&pool, site->node_ports.lo, site->node_ports.hi))
        return config_file_refuse_value(draft->file, section, value,
                                        "overlaps with the ports of [pool] or a [rule NAME]: "
                                        "nodes would take answers for NodePorts");
    if (portset_overlaps(&site->host_ports, site->node_ports.lo, site->node_ports.hi))
        return config_file_refuse_value(draft->file, section, value,
                                        "overlaps with the ports of [hosts]");
    return 0;
}

static int check_pods(struct draft *draft, struct ranked *nodes, struct ranked *pods)
{
    int error = rank(draft, &draft->node_pods, nodes);
    if (!error)
        error = rank(draft, &draft->pods, pods);
    if (!error)
        error = check_within(draft, pods);
    return error ? error : check_families(draft);
}

static int check_machines(const struct draft *draft, const struct ranked *pods)
{
    int error = check_apart(draft, pods, &draft->nodes, "the address of");
    if (!error)
        error = check_apart(draft, pods, &draft->gateway, "the address of");
    return error ? error : check_apart(draft, pods, &draft->hosts, "one of");
}

int draft_check(struct draft *draft)
{
    struct ranked node_pods = {NULL, 0}, pods = {NULL, 0}, hosts = {NULL, 0}, nodes = {NULL, 0};
    int error = check_pods(draft, &node_pods, &pods);
    if (!error)
        error = rank(draft, &draft->hosts, &hosts);
    if (!error)
        error = rank(draft, &draft->nodes, &nodes); /* two nodes with one address */
    if (!error && draft->pods.count)
        error = check_machines(draft, &pods);
    if (!error)
        error = check_machines(draft, &node_pods);
    if (!error)
        error = check_ports(draft);
    free(node_pods.item);
    free(pods.item);
    free(hosts.item);
    free(nodes.item);
    return error;
}
