/* SPDX-License-Identifier: MIT */
/*
 * Lists of address blocks: joined, sorted, and as nft prints them. A site may name the same
 * addresses in several ways ([pods] blocks, the nodes' blocks, single pods inside of another
 * node's block); rules need each address once, in an order that does not depend on the file's, so
 * that what is read back can be compared with what was asked for.
 */
#include "roles.h"

#include <stdlib.h>
#include <string.h>

int block_family(const struct block *block)
{
    return block_is_v4(block) ? 4 : 6;
}

void blocks_add(struct block_list *list, const struct block_list *more)
{
    if (!more->count)
        return;
    size_t count = list->count + more->count;
    list->item = state_grow(list->item, count * sizeof(*list->item));
    memcpy(list->item + list->count, more->item, more->count * sizeof(*more->item));
    list->count = count;
}

/* By address, the larger block first: so what contains a block stands before it. */
static int block_compare(const void *left, const void *right)
{
    const struct block *a = left, *b = right;
    int order = memcmp(a->addr, b->addr, sizeof(a->addr));
    return order ? order : a->prefix - b->prefix;
}

void blocks_tidy(struct block_list *list)
{
    size_t kept = 0;
    if (list->count)
        qsort(list->item, list->count, sizeof(*list->item), block_compare);
    for (size_t i = 0; i < list->count; i++)
        if (!kept || !block_has(&list->item[kept - 1], list->item[i].addr))
            list->item[kept++] = list->item[i];
    list->count = kept;
}

bool blocks_have_family(const struct block_list *list, int family)
{
    for (size_t i = 0; i < list->count; i++)
        if (block_family(&list->item[i]) == family)
            return true;
    return false;
}

const struct block *blocks_with(const struct block_list *list, const uint8_t addr[16])
{
    for (size_t i = 0; i < list->count; i++)
        if (block_has(&list->item[i], addr))
            return &list->item[i];
    return NULL;
}

const uint8_t *pair_get(const struct address_pair *pair, int family)
{
    if (family == 4)
        return pair->has4 ? pair->addr4 : NULL;
    return pair->has6 ? pair->addr6 : NULL;
}

const char *addr_print(const uint8_t addr[16], char *buf, size_t size)
{
    struct text text = text_begin(buf, size);
    address_print(&text, addr);
    return buf;
}

void block_sample(const struct block *block, uint8_t addr[16])
{
    memcpy(addr, block->addr, 16);
    if (block->prefix < 127)
        addr[15] |= 1; /* the first address of a network is nobody's */
}

/* ---- intervals ---- */

struct interval {
    uint8_t lo[16];
    uint8_t hi[16];
};

static struct interval interval_of(const struct block *block)
{
    struct interval interval;
    memcpy(interval.lo, block->addr, 16);
    memcpy(interval.hi, block->addr, 16);
    for (unsigned bit = block->prefix; bit < 128; bit++)
        interval.hi[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    return interval;
}

/* Whether @next is the address after @addr. */
static bool follows(const uint8_t addr[16], const uint8_t next[16])
{
    uint8_t sum[16];
    memcpy(sum, addr, 16);
    for (int i = 15; i >= 0 && ++sum[i] == 0;)
        i--;
    return memcmp(sum, next, 16) == 0;
}

/* The prefix that is exactly this interval; -1: none. */
static int interval_prefix(const struct interval *interval)
{
    int prefix = 0;
    while (prefix < 128 &&
           !((interval->lo[prefix / 8] ^ interval->hi[prefix / 8]) & 0x80 >> prefix % 8))
        prefix++;
    struct block block = {.prefix = (uint8_t)prefix};
    memcpy(block.addr, interval->lo, 16);
    address_mask(block.addr, (unsigned)prefix);
    struct interval whole = interval_of(&block);
    return memcmp(&whole, interval, sizeof(whole)) == 0 ? prefix : -1;
}

static void interval_print(FILE *out, const struct interval *interval)
{
    char lo[ADDR_TEXT], hi[ADDR_TEXT];
    int prefix = interval_prefix(interval);
    int offset = address_is_v4(interval->lo) ? 96 : 0;
    addr_print(interval->lo, lo, sizeof(lo));
    addr_print(interval->hi, hi, sizeof(hi));
    if (prefix == 128)
        fputs(lo, out);
    else if (prefix >= 0)
        fprintf(out, "%s/%d", lo, prefix - offset);
    else
        fprintf(out, "%s-%s", lo, hi);
}

/* The interval that begins at item *@at of @family, with its neighbours; false: no more. */
static bool interval_next(const struct block_list *list, int family, size_t *at,
                          struct interval *interval)
{
    while (*at < list->count && block_family(&list->item[*at]) != family)
        ++*at;
    if (*at == list->count)
        return false;
    *interval = interval_of(&list->item[(*at)++]);
    for (; *at < list->count && block_family(&list->item[*at]) == family; ++*at) {
        struct interval next = interval_of(&list->item[*at]);
        if (!follows(interval->hi, next.lo))
            break;
        memcpy(interval->hi, next.hi, 16);
    }
    return true;
}

void nft_addresses(FILE *out, const struct block_list *list, int family)
{
    struct interval interval, another;
    size_t at = 0;
    if (!interval_next(list, family, &at, &interval))
        return;
    size_t probe = at;
    bool several = interval_next(list, family, &probe, &another);
    if (several || interval_prefix(&interval) < 0)
        fputs("{ ", out);
    interval_print(out, &interval);
    while (interval_next(list, family, &at, &another)) {
        fputs(", ", out);
        interval_print(out, &another);
    }
    if (several || interval_prefix(&interval) < 0)
        fputs(" }", out);
}
