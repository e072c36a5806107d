/* SPDX-License-Identifier: MIT */
/*
 * What is remembered about descriptors: a small table, indexed by the descriptor's low bits, that
 * may forget and may be out of date. Nothing is decided by it alone. Its size does not depend on
 * any limit, and asking about a descriptor that is not in it is one load.
 *
 * It is private memory: after fork each process has its own. A vfork child shares its parent's and
 * closes descriptors of its own table: the parent's entries are lost then, which costs a
 * reconciliation later (lease.c).
 */
#include "shim.h"

_Atomic uint64_t hints[HINTS];

static _Atomic uint32_t lost; /* a bit for each netns: a connection of it was forgotten for another one */

static uint64_t pack(int fd, struct hint hint)
{
    return ((uint64_t)(unsigned)fd + 1) << 40 | (uint64_t)(hint.kind & 15) << 36 |
           (uint64_t)(hint.netns & 15) << 32 | (uint64_t)hint.lane << 16 | hint.port;
}

static struct hint unpack(uint64_t packed)
{
    return (struct hint){.port = (uint16_t)packed,
                         .lane = (uint16_t)(packed >> 16),
                         .netns = packed >> 32 & 15,
                         .kind = packed >> 36 & 15};
}

void hint_set(int fd, struct hint hint)
{
    if (fd < 0 || fd >= 1 << 23)
        return;
    _Atomic uint64_t *at = &hints[(unsigned)fd % HINTS];
    uint64_t before = atomic_load_explicit(at, memory_order_relaxed);
    if (before && !hint_is_about(before, fd) && unpack(before).kind >= HINT_LEASED)
        atomic_fetch_or_explicit(&lost, 1u << unpack(before).netns, memory_order_relaxed);
    atomic_store_explicit(at, hint.kind == HINT_NONE ? 0 : pack(fd, hint), memory_order_relaxed);
}

struct hint hint_get(int fd)
{
    uint64_t packed = atomic_load_explicit(&hints[(unsigned)fd % HINTS], memory_order_relaxed);
    return hint_is_about(packed, fd) ? unpack(packed) : (struct hint){.kind = HINT_NONE};
}

struct hint hint_take(int fd)
{
    _Atomic uint64_t *at = &hints[(unsigned)fd % HINTS];
    uint64_t packed = atomic_load_explicit(at, memory_order_relaxed);
    if (!hint_is_about(packed, fd))
        return (struct hint){.kind = HINT_NONE};
    atomic_store_explicit(at, 0, memory_order_relaxed);
    return unpack(packed);
}

void hint_fresh(int fd, unsigned what, uint64_t now)
{
    hint_set(fd, (struct hint){.kind = HINT_FRESH,
                               .netns = (uint8_t)what,
                               .lane = (uint16_t)(now >> 16),
                               .port = (uint16_t)now});
}

bool hint_is_fresh(struct hint hint, uint64_t now)
{
    return hint.kind == HINT_FRESH && ((uint32_t)hint.lane << 16 | hint.port) == (uint32_t)now;
}

const struct pool *hint_pool(const struct shim_pool *at, struct hint hint)
{
    const struct shim_netns *netns = &at->netns[hint.netns];
    if (!atomic_load_explicit(&netns->cookie, memory_order_acquire))
        return NULL;
    if (!(hint.lane & HINT_APART))
        return &at->pool;
    return atomic_load_explicit(&netns->memory, memory_order_acquire) ? &netns->apart : NULL;
}

void hint_let_go(struct hint hint)
{
    if (hint.kind < HINT_LEASED)
        return;
    struct shim_pool *at = shim_pool_peek();
    const struct pool *pool = at ? hint_pool(at, hint) : NULL;
    if (!pool)
        return;
    unsigned guarded = guard_begin();
    lease_hint(pool, at->netns[hint.netns].slot, hint.lane & ~HINT_APART, hint.port);
    guard_end(guarded);
}

bool hint_has_netns(uint32_t netns)
{
    if (atomic_load_explicit(&lost, memory_order_relaxed) & 1u << netns)
        return true;
    for (unsigned i = 0; i < HINTS; i++) {
        struct hint hint = unpack(atomic_load_explicit(&hints[i], memory_order_relaxed));
        if (hint.kind >= HINT_LEASED && hint.netns == netns)
            return true;
    }
    return false;
}

void hint_range(unsigned first, unsigned last)
{
    for (unsigned i = 0; i < HINTS; i++) {
        uint64_t packed = atomic_load_explicit(&hints[i], memory_order_relaxed);
        uint64_t fd = (packed >> 40) - 1;
        if (!packed || fd < first || fd > last)
            continue;
        atomic_store_explicit(&hints[i], 0, memory_order_relaxed);
        hint_let_go(unpack(packed));
    }
}
