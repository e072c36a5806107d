/* SPDX-License-Identifier: MIT */
/*
 * A pool with any bytes in it: a good one, its own file and then its shares, patched as the input
 * says, and then opened and used. What opening lets through must be safe to use, also if the bytes of
 * the shares change afterwards.
 *
 * Input: records of 6 bytes: where (4, little endian; its highest bit: after opening), what (1), how
 * many times (1).
 */
#include "holder.h"
#include "layout_size.h"
#include "lease.h"
#include "move.h"
#include "pool.h"
#include "sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char *good;
static size_t good_size; /* of both */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static struct policy policy;
    struct pool_options options = {.lanes = 2, .mode = 0600, .group = (gid_t)-1};
    struct pool pool;
    char path[64];
    (void)argc;
    (void)argv;
    snprintf(path, sizeof(path), "/dev/shm/fixport-fuzz-%d", getpid());
    policy_init(&policy);
    if (policy_add_rule(&policy, "one", "60001-60010", "10.0.0.0/8", NULL) != 0 ||
        policy_add_rule(&policy, "two", "60005-60030", NULL, NULL) != 0 ||
        policy_add_alias(&policy, "10.1.2.3:80", "10.1.2.4:80", NULL) != 0 ||
        pool_create(path, &policy, &options) != 0 || pool_open(path, &pool, NULL) != 0)
        abort();
    good_size = layout_pool_size() + pool.shared_size;
    good = malloc(good_size);
    if (!good)
        abort();
    memcpy(good, pool.header, layout_pool_size());
    memcpy(good + layout_pool_size(), pool.counters, pool.shared_size);
    pool_retire(path);
    pool_close(&pool);
    return 0;
}

static void patch(char *pool, const uint8_t *data, size_t size, bool later)
{
    for (; size >= 6; data += 6, size -= 6) {
        uint32_t where = data[0] | data[1] << 8 | data[2] << 16 | (uint32_t)data[3] << 24;
        if (where >> 31 != later)
            continue;
        where &= 0x7fffffff;
        size_t first = later ? layout_pool_size() : 0;
        for (unsigned i = 0; i < data[5]; i++)
            pool[first + (where + i) % (good_size - first)] = (char)data[4];
    }
}

/* Away from the aliases that it has, and to others. */
static void move(struct pool *pool, struct policy *now)
{
    static struct policy next;
    policy_init(&next);
    if (policy_add_rule(&next, "one", "60001-60010", NULL, NULL) != 0 ||
        policy_add_alias(&next, "10.1.2.5, 10.1.2.6", "10.1.2.3", NULL) != 0)
        abort();
    for (int published = 0; published < 2; published++)
        pool_move(pool, now, &next, 1, published);
    for (int published = 0; published < 2; published++)
        pool_move(pool, &next, now, 1, published);
}

static void use(struct pool *pool)
{
    static struct policy copy;
    struct policy_verdict verdict;
    struct dest dest = {.addr = {[10] = 0xff, [11] = 0xff, 10, 1, 2, 3}, .port = 80};
    pool_policy(pool, &copy);
    if (!pool_match(pool, &dest, &verdict))
        return;
    struct lease_search search;
    struct lease lease;
    uint32_t lane = (uint32_t)pool_lane_find(pool, &verdict.server, true);
    lease_search_begin(&search, pool, &verdict, 3, lane, sys_now_ms());
    search.last = 60003;
    lease_crowd_ms(&search, true);
    uint32_t holder;
    lease_next_ms(&search, &holder);
    for (int i = 0; i < 40 && lease_search_next(&search, &lease) == 0; i++) {
        if (!portset_has(&verdict.ports, lease.port))
            abort();
        if (i % 2)
            lease_hold(pool, &lease, sys_now_ms());
        lease_confirm(pool, &lease, sys_now_ms());
        if (i % 3)
            lease_refused(pool, &lease, sys_now_ms());
        else
            lease_return(pool, &lease, sys_now_ms());
        lease_hint(pool, 3, lane, lease.port);
    }
    lease_claim(&search, 60001, &lease);
    lease_follow(&search, pool, &lease);
    move(pool, &copy);
    lease_wanted(pool, 3, sys_now_ms());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pool pool;
    if (!size)
        return 0;
    char *bytes = aligned_alloc(64, (good_size + 63) / 64 * 64);
    if (!bytes)
        abort();
    memcpy(bytes, good, good_size);
    patch(bytes, data + 1, size - 1, false);
    if (pool_check(bytes, layout_pool_size(), &pool) == 0 &&
        pool.shared_size <= good_size - layout_pool_size()) {
        pool_share(&pool, bytes + layout_pool_size());
        use(&pool);
        patch(bytes, data + 1, size - 1, true);
        use(&pool);
    }
    free(bytes);
    return 0;
}
