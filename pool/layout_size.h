/* SPDX-License-Identifier: MIT */
/*
 * Where the parts of a pool's two files lie: the arithmetic of layout.h, for pool.c and create.c.
 * Offsets are in bytes from the file's begin. Callers pass sizes that were checked.
 */
#ifndef FIXPORT_LAYOUT_SIZE_H
#define FIXPORT_LAYOUT_SIZE_H

#include "layout.h"

#include <stddef.h>

#define POOL_PAGE_BYTES 4096u
#define POOL_HEADER_BYTES POOL_PAGE_BYTES

_Static_assert(sizeof(struct pool_header) <= POOL_HEADER_BYTES, "the header has one page");
_Static_assert(sizeof(struct pool_counters) <= POOL_PAGE_BYTES, "so have the counters");

/** layout_round - @bytes rounded up to whole pages. */
static inline size_t layout_round(size_t bytes)
{
    return (bytes + POOL_PAGE_BYTES - 1) / POOL_PAGE_BYTES * POOL_PAGE_BYTES;
}

/** layout_policy - where policy @which (0, 1) lies. */
static inline size_t layout_policy(unsigned which)
{
    return POOL_HEADER_BYTES + which * layout_round(sizeof(struct policy));
}

/** layout_pool_size - the size of the pool's own file. */
static inline size_t layout_pool_size(void)
{
    return layout_policy(2);
}

/** layout_holders - where the table of holders lies. */
static inline size_t layout_holders(void)
{
    return POOL_PAGE_BYTES;
}

/** layout_lane_keys - where the keys of the lanes lie. */
static inline size_t layout_lane_keys(void)
{
    return layout_holders() + POOL_HOLDERS * sizeof(struct pool_holder);
}

/** layout_lanes - where the lanes lie, if there are @lanes. */
static inline size_t layout_lanes(uint32_t lanes)
{
    return layout_lane_keys() + layout_round(lanes * sizeof(uint64_t));
}

/** layout_words - where the words lie. */
static inline size_t layout_words(uint32_t lanes)
{
    return layout_lanes(lanes) + layout_round(lanes * sizeof(struct pool_lane));
}

/** layout_place_bytes - the words of one page of ports, in all lanes. */
static inline size_t layout_place_bytes(uint32_t lanes)
{
    return (size_t)lanes * POOL_PAGE_PORTS * sizeof(uint64_t);
}

/** layout_shared_size - the size of the shares. */
static inline size_t layout_shared_size(uint32_t lanes, uint32_t places)
{
    return layout_words(lanes) + places * layout_place_bytes(lanes);
}

#endif
