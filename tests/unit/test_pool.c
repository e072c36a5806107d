/* SPDX-License-Identifier: MIT */
/*
 * The pool without the shim: making, opening and checking files, leases, holders. Where two
 * namespaces are needed, two cookies will do: the pool only compares them.
 */
#include "holder.h"
#include "layout_size.h"
#include "lease.h"
#include "pool.h"
#include "sys.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64];
static struct policy policy;
static const struct pool_options options = {.lanes = 16, .mode = 0600, .group = (gid_t)-1};

static void make_pool(void)
{
    snprintf(path, sizeof(path), "/dev/shm/fixport-unit-%d", getpid());
    pool_retire(path);
    policy_init(&policy);
    policy.quarantine_ms = 1000;
    cr_assert_eq(policy_add_rule(&policy, "r", "60001-60010,60600-60609", "10.0.0.0/8", NULL), 0);
    cr_assert_eq(pool_create(path, &policy, &options), 0);
}

static void remove_pool(void)
{
    pool_retire(path);
}

TestSuite(pool, .init = make_pool, .fini = remove_pool);

static struct dest dest_of(uint8_t last, uint16_t port)
{
    return (struct dest){.addr = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = last}, .port = port};
}

static struct policy_verdict verdict_of(struct pool *pool, const struct dest *dest)
{
    struct policy_verdict verdict;
    cr_assert(pool_match(pool, dest, &verdict));
    return verdict;
}

/* Takes a port for @slot at time @now. Return: the port, or 0. */
static uint16_t take(struct pool *pool, uint32_t slot, uint32_t lane, uint64_t now,
                     struct lease *lease)
{
    struct dest dest = dest_of(1, 80);
    struct policy_verdict verdict = verdict_of(pool, &dest);
    struct lease_search search;
    struct lease unused;
    lease = lease ? lease : &unused;
    lease_search_begin(&search, pool, &verdict, slot, lane, now);
    return lease_search_next(&search, lease) == 0 ? lease->port : 0;
}

Test(pool, the_destinations_own_port_comes_last)
{
    struct pool pool;
    struct lease lease;
    struct lease_search search;
    struct dest dest = dest_of(1, 60600);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    struct policy_verdict verdict = verdict_of(&pool, &dest);
    lease_search_begin(&search, &pool, &verdict, 3, 0, 5000);
    search.last = dest.port;
    for (int i = 1; i <= 20; i++) {
        cr_assert_eq(lease_search_next(&search, &lease), 0);
        cr_assert_eq(lease.port == 60600, i == 20);
    }
    cr_assert_neq(lease_search_next(&search, &lease), 0);
    lease_let_go(&pool, &lease, 5000);
    lease_search_begin(&search, &pool, &verdict, 3, 0, 5000);
    search.last = dest.port;
    cr_assert_eq(lease_search_next(&search, &lease), 0);
    cr_assert_eq(lease.port, 60600, "let go, it comes again");
    pool_close(&pool);
}

Test(pool, opens_what_it_made)
{
    struct pool pool;
    struct policy copy;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_eq(pool.lanes, 16);
    cr_assert_eq(pool_policy(&pool, &copy), 0);
    cr_assert_eq(memcmp(&copy, &policy, sizeof(copy)), 0);
    pool_close(&pool);
    cr_assert_eq(pool_create(path, &policy, &options), -EEXIST);
}

static void patch(size_t offset, const void *data, size_t size)
{
    int fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, data, size, (off_t)offset), (ssize_t)size);
    close(fd);
}

/* The name of the pool's shares. */
static char *shares_path(void)
{
    static char name[160];
    struct pool pool;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    snprintf(name, sizeof(name), "/dev/shm/%s", pool.header->shared);
    pool_close(&pool);
    return name;
}

Test(pool, what_steers_is_its_owners_alone)
{
    struct pool pool;
    struct stat own, shares;
    const struct pool_options open_to_all = {.lanes = 16, .mode = 0666, .group = (gid_t)-1};
    pool_retire(path);
    cr_assert_eq(pool_create(path, &policy, &open_to_all), 0);
    cr_assert_eq(stat(path, &own), 0);
    cr_assert_eq(stat(shares_path(), &shares), 0);
    cr_assert_eq(own.st_mode & 0777, 0644);
    cr_assert_eq(shares.st_mode & 0777, 0666);
    cr_assert_eq(chmod(path, 0666), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), -EPERM, "anybody could have written it");
}

Test(pool, shares_that_were_cut_short_are_made_up_for)
{
    struct pool pool;
    struct stat st;
    char *shares = shares_path();
    cr_assert_eq(truncate(shares, 100), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_eq(stat(shares, &st), 0);
    cr_assert_eq((size_t)st.st_size, pool.shared_size);
    cr_assert_neq(take(&pool, 1, 2, 5000, NULL), 0);
    pool_close(&pool);
    cr_assert_eq(truncate(shares, (off_t)1 << 31), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_eq(pool.shared_size, layout_shared_size(16, 6), "what was added is not touched");
    pool_close(&pool);
}

Test(pool, another_file_is_not_taken_for_the_shares)
{
    struct pool pool;
    char other[200];
    char *shares = shares_path();
    snprintf(other, sizeof(other), "%s-other", shares);
    cr_assert_eq(rename(shares, other), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), -ENOLINK);
    cr_assert_null(pool.header);
    int fd = open(shares, O_RDWR | O_CREAT | O_EXCL, 0600);
    cr_assert_eq(ftruncate(fd, 1 << 20), 0);
    close(fd);
    cr_assert_eq(pool_open(path, &pool, NULL), -ENOLINK);
    cr_assert_eq(rename(other, shares), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    pool_close(&pool);
}

Test(pool, no_pool_is_larger_than_all_may_be)
{
    struct pool_options wide = {.lanes = POOL_LANES_MAX, .mode = 0600, .group = (gid_t)-1};
    struct policy all;
    struct pool pool;
    pool_retire(path);
    policy_init(&all);
    cr_assert_eq(policy_add_rule(&all, "r", "1-65535", NULL, NULL), 0);
    cr_assert_eq(pool_create(path, &all, &wide), -E2BIG);
    cr_assert_eq(pool_create(path, &policy, &wide), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_leq(pool.shared_size, POOL_SHARED_MAX);
    pool_close(&pool);
}

Test(pool, one_of_the_first_format_is_known_and_told)
{
    struct pool pool;
    uint32_t version = 1, state = 0;
    patch(offsetof(struct pool_header, version), &version, sizeof(version));
    cr_assert_eq(chmod(path, 0666), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), -EPROTO);
    int fd = open(path, O_RDONLY);
    cr_assert_eq(pool_retire(path), 0);
    cr_assert_eq(pread(fd, &state, sizeof(state), 192), (ssize_t)sizeof(state));
    cr_assert_eq(state, (uint32_t)POOL_RETIRED, "programs of the old version look for another");
    close(fd);
}

Test(pool, refuses_other_files)
{
    struct pool pool;
    char other[80];
    cr_assert_eq(pool_open("/nonexistent/pool", &pool, NULL), -ENOENT);
    cr_assert_eq(pool_open("/dev", &pool, NULL), -EISDIR);
    cr_assert_eq(pool_open("/dev/null", &pool, NULL), -EINVAL);
    snprintf(other, sizeof(other), "%s-link", path);
    unlink(other);
    cr_assert_eq(symlink(path, other), 0);
    cr_assert_eq(pool_open(other, &pool, NULL), -ELOOP);
    unlink(other);
    cr_assert_eq(truncate(path, 100), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), -EMEDIUMTYPE);
    cr_assert_null(pool.header);
}

Test(pool, refuses_damage)
{
    struct pool pool;
    uint32_t version = 99;
    patch(offsetof(struct pool_header, version), &version, sizeof(version));
    cr_assert_eq(pool_open(path, &pool, NULL), -EPROTO);
    version = POOL_VERSION;
    patch(offsetof(struct pool_header, version), &version, sizeof(version));
    uint32_t lanes = POOL_LANES_MAX + 1;
    patch(offsetof(struct pool_header, lanes), &lanes, sizeof(lanes));
    cr_assert_eq(pool_open(path, &pool, NULL), -EBADMSG);
    lanes = 16;
    patch(offsetof(struct pool_header, lanes), &lanes, sizeof(lanes));
    uint32_t rules = 0;
    patch(layout_policy(0), &rules, sizeof(rules));
    cr_assert_eq(pool_open(path, &pool, NULL), -EBADMSG);
}

static void *read_whole(const char *name, size_t size)
{
    char *memory = calloc(1, size);
    int fd = open(name, O_RDONLY);
    cr_assert_gt(read(fd, memory, size), 0);
    close(fd);
    return memory;
}

static void garble(char *memory, size_t area)
{
    for (int changes = 1 << random() % 10; changes > 0; changes--)
        memory[(size_t)random() % area] = (char)random();
}

Test(pool, random_bytes_never_crash)
{
    struct pool pool;
    size_t size = layout_pool_size(), shared = layout_shared_size(16, 6);
    char *own = read_whole(path, size), *good = read_whole(path, size);
    char *shares = read_whole(shares_path(), shared);
    srandom(1);
    for (int i = 0; i < 20000; i++) {
        memcpy(own, good, size);
        if (i % 2)
            garble(own, i % 4 == 1 ? 300 : size);
        if (i % 3 == 0)
            garble(shares, i % 2 ? layout_words(16) : shared);
        if (pool_check(own, size, &pool) != 0 || pool.shared_size > shared)
            continue;
        pool_share(&pool, shares);
        struct dest dest = dest_of((uint8_t)random(), 80);
        struct policy_verdict verdict;
        int lane = pool_lane_find(&pool, &dest, true);
        cr_assert(lane >= 0 && (uint32_t)lane < pool.lanes);
        if (pool_match(&pool, &dest, &verdict)) {
            struct lease lease;
            struct lease_search search;
            lease_search_begin(&search, &pool, &verdict, 3, (uint32_t)lane, 5000);
            if (lease_search_next(&search, &lease) == 0)
                lease_let_go(&pool, &lease, 6000);
        }
    }
    free(own);
    free(good);
    free(shares);
}

Test(pool, a_port_is_given_once)
{
    struct pool pool;
    bool seen[65536] = {false};
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    for (int i = 0; i < 20; i++) {
        uint16_t port = take(&pool, (uint32_t)i % 3, 2, 5000, NULL);
        cr_assert(portset_has(&policy.rule[0].ports, port), "port %d", port);
        cr_assert_not(seen[port], "port %d twice", port);
        seen[port] = true;
    }
    cr_assert_eq(take(&pool, 0, 2, 5000, NULL), 0, "there are only 20 ports");
    cr_assert_neq(take(&pool, 0, 3, 5000, NULL), 0, "another lane has all of them");
    pool_close(&pool);
}

Test(pool, what_is_let_go_is_the_holders_until_it_rests)
{
    struct pool pool;
    struct lease lease[20];
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    for (int i = 0; i < 20; i++)
        take(&pool, 0, 2, 5000, &lease[i]);
    lease_let_go(&pool, &lease[7], 5100);
    cr_assert_eq(take(&pool, 1, 2, 900000, NULL), 0, "a hint must not give it to another");
    cr_assert_eq(take(&pool, 0, 2, 5200, NULL), lease[7].port, "its holder may try it again");
    atomic_store(pool_word(&pool, 2, lease[8].port), word_make(WORD_RESTING, 1, 6000));
    cr_assert_eq(take(&pool, 1, 2, 6500, NULL), 0, "the quarantine is one second");
    cr_assert_eq(take(&pool, 1, 2, 7000, NULL), lease[8].port);
    pool_close(&pool);
}

/* All 20 ports of a lane are slot 0's, and closed. */
static void take_and_let_go_all(struct pool *pool, struct lease lease[20], uint64_t now)
{
    for (int i = 0; i < 20; i++)
        take(pool, 0, 2, now, &lease[i]);
    for (int i = 0; i < 20; i++)
        lease_let_go(pool, &lease[i], now);
}

/* Takes a port for @slot, which calls the server by @name. */
static uint16_t take_named(struct pool *pool, uint32_t slot, uint8_t name, uint64_t now,
                           struct lease *lease)
{
    struct dest dest = dest_of(1, 80);
    struct policy_verdict verdict = verdict_of(pool, &dest);
    struct lease_search search;
    verdict.name = name;
    lease_search_begin(&search, pool, &verdict, slot, 2, now);
    return lease_search_next(&search, lease) == 0 ? lease->port : 0;
}

Test(pool, another_name_of_the_server_has_to_wait_for_the_quarantine)
{
    struct pool pool;
    struct lease lease[20], other;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    for (int i = 0; i < 20; i++)
        cr_assert_neq(take_named(&pool, 0, 1, 5000, &lease[i]), 0);
    cr_assert_eq(take_named(&pool, 0, 2, 5000, &other), 0, "they are used by the same namespace");
    lease_let_go(&pool, &lease[3], 5100);
    cr_assert_eq(take_named(&pool, 0, 2, 900000, &other), 0,
                 "its kernel does not see two names as one");
    struct lease mine = lease[3];
    cr_assert(lease_confirm(&pool, &mine, 5150), "nobody has taken it");
    lease_let_go(&pool, &mine, 5160);
    cr_assert_eq(take_named(&pool, 0, 1, 5200, &mine), lease[3].port,
                 "the same name may have it at once");
    lease_let_go(&pool, &mine, 5300);
    _Atomic uint64_t *word = pool_word(&pool, 2, lease[3].port);
    atomic_store(word, word_moved(atomic_load(word), WORD_RESTING, 6000));
    cr_assert_eq(take_named(&pool, 0, 2, 6500, &other), 0, "in quarantine");
    cr_assert_eq(take_named(&pool, 0, 2, 7000, &other), lease[3].port);
    cr_assert_not(lease_confirm(&pool, &mine, 7001), "it is the other name's by now");
    cr_assert_eq(word_holder(atomic_load(word)), 1);
    pool_close(&pool);
}

/* What a lease was before says what the kernel may have there: put.c does not ask about what rests. */
Test(pool, what_another_name_has_had_is_no_rest_of_ones_own)
{
    struct pool pool;
    struct lease lease, all[20];
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    for (int i = 0; i < 20; i++)
        cr_assert_neq(take_named(&pool, 0, 1, 5000, &all[i]), 0);
    for (int i = 0; i < 20; i++) {
        _Atomic uint64_t *word = pool_word(&pool, 2, all[i].port);
        atomic_store(word, word_moved(atomic_load(word), WORD_RESTING, 6000));
    }
    cr_assert_neq(take_named(&pool, 0, 1, 6500, &lease), 0);
    cr_expect_eq(lease.before, WORD_RESTING, "the same name's");
    cr_assert_neq(take_named(&pool, 0, 2, 7500, &lease), 0);
    cr_expect_eq(lease.before, WORD_FREE, "another name's of the same holder");
    cr_assert_neq(take_named(&pool, 3, 1, 7500, &lease), 0);
    cr_expect_eq(lease.before, WORD_FREE, "another holder's");
    pool_close(&pool);
}

/* Sets so many words of a lane, from the @from-th port of 2,000 on. */
static void set_words(struct pool *pool, int from, int count, uint64_t word)
{
    for (int i = from; i < from + count; i++)
        atomic_store(pool_word(pool, 2, (uint16_t)(60001 + i)), word);
}

Test(pool, a_crowd_is_what_others_cannot_have_and_one_might_give_back)
{
    struct pool pool;
    struct policy large;
    struct lease_search search;
    struct dest dest = dest_of(1, 80);
    pool_retire(path);
    policy_init(&large);
    large.quarantine_ms = 1000;
    cr_assert_eq(policy_add_rule(&large, "r", "60001-62000", "10.0.0.0/8", NULL), 0);
    cr_assert_eq(pool_create(path, &large, &options), 0);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    struct policy_verdict verdict = verdict_of(&pool, &dest);
    lease_search_begin(&search, &pool, &verdict, 0, 2, 9000);
    cr_expect_eq(lease_crowd_ms(&search, true), UINT32_MAX, "all are free");
    set_words(&pool, 0, 2000, word_make(WORD_USED, 1, 8000));
    cr_expect_eq(lease_crowd_ms(&search, true), UINT32_MAX, "nothing can be given back");
    set_words(&pool, 0, 2000, word_make(WORD_LETGO, 2, 8000));
    cr_expect_eq(lease_crowd_ms(&search, true), UINT32_MAX, "not by this holder");
    set_words(&pool, 0, 100, word_make(WORD_LETGO, 1, 8000));
    cr_expect_eq(lease_crowd_ms(&search, true), 250, "a few");
    set_words(&pool, 0, 1000, word_make(WORD_LETGO, 1, 8000));
    cr_expect_eq(lease_crowd_ms(&search, true), 40, "many");
    cr_expect_eq(lease_crowd_ms(&search, false), 250, "that was done too often");
    set_words(&pool, 0, 1000, word_moved(1ull << 48 | 7ull << 40, WORD_CLOSING, 8000));
    cr_expect_eq(lease_crowd_ms(&search, true), 40, "by whichever name");
    set_words(&pool, 900, 1100, 0);
    cr_expect_eq(lease_crowd_ms(&search, true), UINT32_MAX, "less than half is taken");
    set_words(&pool, 900, 1100, word_make(WORD_RESTING, 2, 7900));
    cr_expect_eq(lease_crowd_ms(&search, true), UINT32_MAX, "what has rested is anybody's");
    set_words(&pool, 900, 1100, word_make(WORD_RESTING, 2, 8500));
    cr_expect_neq(lease_crowd_ms(&search, true), UINT32_MAX, "what rests is not");
    pool_close(&pool);
}

Test(pool, what_is_closing_is_tried_last)
{
    struct pool pool;
    struct lease lease, all[20];
    bool seen[65536] = {false};
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    take_and_let_go_all(&pool, all, 5000);
    for (int i = 0; i < 19; i++) {
        uint16_t port = take(&pool, 0, 2, 5001, &lease);
        cr_assert_not(seen[port], "port %d twice, though others were not refused yet", port);
        seen[port] = true;
        lease_refused(&pool, &lease, 5001);
        cr_assert_eq(word_state(atomic_load(pool_word(&pool, 2, port))), WORD_CLOSING);
    }
    uint16_t last = take(&pool, 0, 2, 5001, &lease);
    cr_assert_not(seen[last]);
    cr_assert(seen[take(&pool, 0, 2, 5001, &lease)], "only closing ones are left: they are tried");
    cr_assert_eq(take(&pool, 1, 2, 900000, NULL), 0, "they are nobody else's");
    pool_close(&pool);
}

Test(pool, what_cannot_be_had_just_now_is_put_back)
{
    struct pool pool;
    struct lease lease;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    take(&pool, 0, 2, 5000, &lease);
    lease_return(&pool, &lease, 5000);
    cr_assert_eq(atomic_load(pool_word(&pool, 2, lease.port)), 0);
    atomic_store(pool_word(&pool, 2, lease.port), word_make(WORD_USED, 9, 5000));
    lease_return(&pool, &lease, 5000);
    cr_assert_eq(word_holder(atomic_load(pool_word(&pool, 2, lease.port))), 9, "it was another's");
    pool_close(&pool);
}

Test(pool, who_has_enough_leaves_what_rests_to_others)
{
    struct pool pool;
    struct lease first, again, all[20];
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    take_and_let_go_all(&pool, all, 5000);
    for (int i = 0; i < 20; i++)
        atomic_store(pool_word(&pool, 2, all[i].port), word_make(WORD_RESTING, 1, 5000));
    lease_want(&pool, 5100);
    take(&pool, 0, 2, 5100, &first);
    lease_let_go(&pool, &first, 5100);
    for (int i = 0; i < 40; i++) {
        cr_assert_eq(take(&pool, 0, 2, 5101, &again), first.port, "one connection, one port");
        lease_let_go(&pool, &again, 5101);
    }
    take(&pool, 0, 2, 5102, NULL);
    cr_assert_neq(take(&pool, 0, 2, 5102, NULL), 0, "what rests is its own if it needs more");
    pool_close(&pool);
}

Test(pool, a_refused_time_wait_is_remembered_for_a_second)
{
    struct pool pool;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_not(lease_keeps(&pool, 2, 5000));
    lease_kept(&pool, 2, 5000);
    cr_assert(lease_keeps(&pool, 2, 5999));
    cr_assert_not(lease_keeps(&pool, 2, 6000));
    cr_assert_not(lease_keeps(&pool, 3, 5000), "another lane");
    pool_close(&pool);
}

Test(pool, times_from_the_future_are_long_ago)
{
    struct pool pool;
    struct lease lease;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    for (int i = 0; i < 20; i++)
        take(&pool, 0, 2, 5000, &lease);
    atomic_store(pool_word(&pool, 2, lease.port), word_make(WORD_RESTING, 9, 1ull << 39));
    cr_assert_eq(take(&pool, 1, 2, 6000, NULL), lease.port);
    pool_close(&pool);
}

Test(pool, confirming)
{
    struct pool pool;
    struct lease lease;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    take(&pool, 0, 2, 5000, &lease);
    _Atomic uint64_t *word = pool_word(&pool, 2, lease.port);
    cr_assert(lease_confirm(&pool, &lease, 5001));
    atomic_store(word, word_make(WORD_LETGO, 1, 6000));
    cr_assert(lease_confirm(&pool, &lease, 6001), "suspected, and taken back");
    cr_assert_eq(word_state(atomic_load(word)), WORD_USED);
    atomic_store(word, word_make(WORD_RESTING, 1, 6000));
    cr_assert(lease_confirm(&pool, &lease, 6001), "resting, and taken back");
    atomic_store(word, word_make(WORD_USED, 2, 6000));
    cr_assert_not(lease_confirm(&pool, &lease, 6001), "another holder's by now");
    atomic_store(word, 0);
    cr_assert_not(lease_confirm(&pool, &lease, 6001));
    pool_close(&pool);
}

Test(pool, more_destinations_than_lanes_share)
{
    struct pool pool;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    uint32_t keyed = pool.lanes - pool.lanes_shared;
    int found[64];
    for (int i = 0; i < 64; i++) {
        struct dest dest = dest_of((uint8_t)i, 443);
        cr_assert_eq(pool_lane_find(&pool, &dest, false), i < (int)keyed ? -ENOENT : (int)keyed +
                     (pool_lane_find(&pool, &dest, false) - (int)keyed));
        found[i] = pool_lane_find(&pool, &dest, true);
        cr_assert(found[i] >= 0 && found[i] < (int)pool.lanes);
        for (int k = 0; k < i && i < (int)keyed; k++)
            cr_assert_neq(found[i], found[k], "as long as there are lanes, each has its own");
    }
    for (int i = 0; i < 64; i++) {
        struct dest dest = dest_of((uint8_t)i, 443);
        cr_assert_eq(pool_lane_find(&pool, &dest, true), found[i], "for ever");
    }
    pool_close(&pool);
}

Test(pool, shared_lanes_let_a_namespace_use_a_port_for_several_destinations)
{
    struct pool pool;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    uint32_t lane = pool.lanes - 1;
    for (int i = 0; i < 20; i++)
        cr_assert_neq(take(&pool, 0, lane, 5000, NULL), 0);
    cr_assert_neq(take(&pool, 0, lane, 5000, NULL), 0, "the kernel decides inside the namespace");
    cr_assert_eq(take(&pool, 1, lane, 5000, NULL), 0, "another namespace must not");
    pool_close(&pool);
}

Test(pool, what_the_network_has_forgotten_is_anybodys)
{
    struct pool pool;
    struct lease lease;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    struct dest dest = dest_of(1, 80);
    uint32_t lane = (uint32_t)pool_lane_find(&pool, &dest, true);
    uint32_t quarantine = pool_policy_now(&pool)->quarantine_ms;
    uint64_t now = sys_now_ms();
    for (int i = 0; i < 20; i++)
        cr_assert_neq(take(&pool, 0, lane, now, &lease), 0);
    _Atomic uint64_t *word = pool_word(&pool, lane, lease.port);
    cr_assert_not(lease_free(&pool, lane, lease.port, lease.word, quarantine), "it is in use");
    lease_let_go(&pool, &lease, now);
    cr_assert_not(lease_free(&pool, lane, lease.port, atomic_load(word), quarantine), "it does not rest");
    cr_assert(lease_over(&pool, lane, lease.port, atomic_load(word), now));
    cr_assert_eq(take(&pool, 1, lane, now, NULL), 0, "it rests");
    uint64_t rests = atomic_load(word);
    cr_assert_not(lease_free(&pool, lane, lease.port, rests + 1, quarantine), "it was another word");
    cr_assert_eq(atomic_load(word), rests);
    cr_assert(lease_free(&pool, lane, lease.port, rests, quarantine));
    cr_assert_eq(take(&pool, 1, lane, now, NULL), lease.port);
    pool_close(&pool);
}

Test(pool, a_port_that_is_held_is_left_alone)
{
    struct pool pool;
    struct lease lease, other;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    uint32_t lane = pool.lanes - 1;
    uint64_t now = sys_now_ms();
    for (int i = 0; i < 20; i++)
        cr_assert_neq(take(&pool, 0, lane, now, &lease), 0);
    _Atomic uint64_t *word = pool_word(&pool, lane, lease.port);
    cr_assert(lease_hold(&pool, &lease, now));
    cr_assert(lease_hold(&pool, &lease, now), "once more");
    uint64_t held = atomic_load(word);
    struct dest dest = dest_of(1, 80);
    struct policy_verdict verdict = verdict_of(&pool, &dest);
    struct lease_search search;
    lease_search_begin(&search, &pool, &verdict, 0, lane, now);
    while (lease_search_next(&search, &other) == 0)
        cr_assert_neq(other.port, lease.port);
    cr_assert(search.passed_held);
    lease_hint(&pool, 0, lane, lease.port);
    lease_reconcile(&pool, 0, sys_now_ms() + 5000);
    cr_assert_eq(atomic_load(word), held, "neither a hint nor a dump changes it");
    cr_assert(lease_confirm(&pool, &lease, now));
    cr_assert_eq(atomic_load(word), word_make(WORD_USED, 1, now));

    cr_assert(lease_hold(&pool, &lease, now));
    lease_refused(&pool, &lease, now);
    cr_assert_eq(atomic_load(word), word_make(WORD_USED, 1, now), "by the kernel");
    lease.word = atomic_load(word);
    cr_assert(lease_hold(&pool, &lease, now - 10000));
    lease_search_begin(&search, &pool, &verdict, 0, lane, now);
    while (lease_search_next(&search, &other) == 0 && other.port != lease.port)
        ;
    cr_assert_eq(other.port, lease.port, "not for ever");
    cr_assert(lease_hold(&pool, &other, now));
    cr_assert_not(lease_hold(&pool, &lease, now), "another thread has taken it");
    pool_close(&pool);
}

Test(pool, reload_in_place)
{
    struct pool pool;
    struct policy other;
    struct policy_verdict verdict;
    struct dest dest = dest_of(1, 80);
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_eq(pool_reload(path, &policy), 1, "nothing changes");
    policy_init(&other);
    policy_add_rule(&other, "r", "40000-40005", "10.0.0.0/8", NULL);
    cr_assert_eq(pool_reload(path, &other), 0);
    cr_assert(pool_match(&pool, &dest, &verdict));
    cr_assert_eq(verdict.ports.range[0].lo, 40000, "an open pool sees it");
    cr_assert_not_null(pool_word(&pool, 0, 40000));
    policy_init(&other);
    policy_add_rule(&other, "r", "1-65535", "10.0.0.0/8", NULL);
    cr_assert_eq(pool_reload(path, &other), -ENOSPC, "no room for that many pages");
    cr_assert(pool_match(&pool, &dest, &verdict));
    cr_assert_eq(verdict.ports.range[0].lo, 40000, "nothing was changed");
    pool_close(&pool);
}

/* ---- a reload that changes which addresses are one server ---- */

static struct pool moving;

/* @aliases: of 10.0.0.9:80, or "SERVER=ADDRESSES"; NULL: none. */
static void reload_aliases(const char *aliases)
{
    static struct policy next;
    next = policy;
    if (aliases) {
        char text[200];
        snprintf(text, sizeof(text), "%s", aliases);
        char *addresses = strchr(text, '=');
        if (addresses)
            *addresses++ = '\0';
        cr_assert_eq(policy_add_alias(&next, addresses ? addresses : text, addresses ? text : "10.0.0.9:80", NULL), 0);
    }
    cr_assert_eq(pool_reload(path, &next), 0, "%s", aliases);
}

/* Takes a port for @slot towards 10.0.0.@last:80. Return: the port, or 0. */
static uint16_t dial(uint32_t slot, uint8_t last, uint64_t now, struct lease *lease)
{
    struct dest dest = dest_of(last, 80);
    struct policy_verdict verdict = verdict_of(&moving, &dest);
    struct lease_search search;
    struct lease unused;
    lease = lease ? lease : &unused;
    lease_search_begin(&search, &moving, &verdict, slot,
                       (uint32_t)pool_lane_find(&moving, &verdict.server, true), now);
    return lease_search_next(&search, lease) == 0 ? lease->port : 0;
}

/* The word of a port in the lane of the server of 10.0.0.@last:80. */
static uint64_t word_of(uint8_t last, uint16_t port)
{
    struct dest dest = dest_of(last, 80);
    struct policy_verdict verdict = verdict_of(&moving, &dest);
    int lane = pool_lane_find(&moving, &verdict.server, false);
    return lane < 0 ? 0 : atomic_load(pool_word(&moving, (uint32_t)lane, port));
}

static uint8_t name_in(uint64_t word)
{
    return (uint8_t)word_owner(word);
}

static uint8_t name_of(uint8_t last)
{
    struct dest dest = dest_of(last, 80);
    return verdict_of(&moving, &dest).name;
}

Test(pool, an_address_that_becomes_anothers_takes_its_ports_along)
{
    uint16_t port[20];
    cr_assert_eq(pool_open(path, &moving, NULL), 0);
    struct lease let_go;
    uint64_t now = sys_now_ms();
    for (int i = 0; i < 12; i++)
        port[i] = dial(1, 1, now, &let_go);
    lease_let_go(&moving, &let_go, now);
    reload_aliases("10.0.0.1:80");
    cr_assert_neq(name_of(1), 0);
    cr_assert_neq(name_of(1), name_of(9));
    for (int i = 0; i < 12; i++) {
        cr_expect_eq(word_holder(word_of(9, port[i])), 2, "port %u", port[i]);
        cr_expect_eq(name_in(word_of(9, port[i])), name_of(1));
        cr_expect_eq(word_state(word_of(9, port[i])), i == 11 ? WORD_LETGO : WORD_USED);
    }
    for (int i = 0; i < 8; i++) {
        uint16_t other = dial(0, 9, now, NULL);
        cr_assert_neq(other, 0);
        for (int k = 0; k < 12; k++)
            cr_expect_neq(other, port[k], "two holders have it towards one server");
    }
    cr_expect_eq(dial(0, 9, now, NULL), 0);
    cr_expect_eq(dial(1, 9, now, NULL), 0, "nor may the same holder by another name");
    cr_expect_eq(dial(1, 1, now, NULL), port[11], "the same name may have at once what it let go");
    pool_close(&moving);
}

Test(pool, an_address_that_is_a_server_of_its_own_again_takes_its_ports_along)
{
    struct dest service = dest_of(1, 80);
    cr_assert_eq(pool_open(path, &moving, NULL), 0);
    reload_aliases("10.0.0.1:80, 10.0.0.2:80");
    uint8_t service_name = name_of(1);
    uint64_t now = sys_now_ms();
    uint16_t by_service = dial(1, 1, now, NULL), own = dial(1, 9, now, NULL);
    uint16_t unknown = dial(2, 2, now, NULL);
    struct dest server = dest_of(9, 80);
    uint32_t lane = (uint32_t)pool_lane_find(&moving, &server, false);
    _Atomic uint64_t *word = pool_word(&moving, lane, unknown);
    atomic_store(word, atomic_load(word) | (uint64_t)WORD_NAME_UNKNOWN << 40);
    reload_aliases("10.0.0.2:80");
    cr_expect_eq(verdict_of(&moving, &service).name, 0);
    cr_expect_eq(word_holder(word_of(1, by_service)), 2);
    cr_expect_eq(name_in(word_of(1, by_service)), 0);
    cr_expect_eq(word_of(1, own), 0, "it is the server's only");
    cr_expect_eq(word_holder(word_of(1, unknown)), 3, "it might be");
    cr_expect_eq(name_in(word_of(9, by_service)), WORD_NAME_UNKNOWN, "not that of whoever comes");
    cr_expect_eq(name_in(word_of(9, own)), name_of(9));
    reload_aliases("10.0.0.3:80, 10.0.0.2:80, 10.0.0.1:80");
    cr_expect_eq(name_of(1), service_name, "as before");
    cr_expect_eq(name_in(word_of(9, own)), name_of(9));
    pool_close(&moving);
}

Test(pool, ports_of_a_server_go_where_its_first_address_goes)
{
    cr_assert_eq(pool_open(path, &moving, NULL), 0);
    reload_aliases("10.0.0.9:80=10.0.0.1:80");
    uint64_t now = sys_now_ms();
    uint16_t port = dial(1, 1, now, NULL), other = dial(1, 9, now, NULL);
    reload_aliases("10.0.0.1:80=10.0.0.9:80");
    cr_expect_eq(word_holder(word_of(9, port)), 2);
    cr_expect_eq(name_in(word_of(9, port)), name_of(1));
    cr_expect_eq(name_in(word_of(9, other)), name_of(9));
    reload_aliases(NULL);
    cr_expect_eq(name_in(word_of(1, port)), 0);
    cr_expect_eq(word_holder(word_of(1, port)), 2);
    cr_expect_eq(word_holder(word_of(9, other)), 2);
    cr_expect_eq(name_in(word_of(9, other)), 0, "nothing was left there");
    cr_expect_eq(name_in(word_of(1, other)), WORD_NAME_UNKNOWN, "translated it may be still");
    pool_close(&moving);
}

/* A whole address has as many lanes as ports that were used. */
Test(pool, whole_addresses_take_the_ports_of_all_lanes_along)
{
    cr_assert_eq(pool_open(path, &moving, NULL), 0);
    uint64_t now = sys_now_ms();
    uint16_t port = dial(1, 1, now, NULL);
    reload_aliases("10.0.0.9=10.0.0.1");
    cr_expect_eq(word_holder(word_of(9, port)), 2);
    cr_expect_eq(name_in(word_of(9, port)), name_of(1));
    pool_close(&moving);
}

Test(pool, what_shares_a_lane_may_be_of_any_that_moves)
{
    cr_assert_eq(pool_open(path, &moving, NULL), 0);
    uint64_t now = sys_now_ms();
    cr_assert_neq(dial(0, 9, now, NULL), 0);
    for (uint8_t last = 100; last < 200; last++) {
        struct dest dest = dest_of(last, 80);
        pool_lane_find(&moving, &dest, true);
    }
    uint16_t port = dial(1, 1, now, NULL);
    struct dest service = dest_of(1, 80);
    cr_assert_geq(pool_lane_find(&moving, &service, false),
                  (int)(moving.lanes - moving.lanes_shared), "it shares");
    reload_aliases("10.0.0.1:80");
    cr_expect_eq(word_holder(word_of(9, port)), 2);
    cr_expect_eq(name_in(word_of(9, port)), WORD_NAME_UNKNOWN);
    pool_close(&moving);
}

/* One that connects while the policy changes. */
Test(pool, a_lease_follows_its_address)
{
    struct dest service = dest_of(1, 80);
    struct lease lease, again;
    struct lease_search search;
    cr_assert_eq(pool_open(path, &moving, NULL), 0);
    uint64_t now = sys_now_ms();
    cr_assert_neq(dial(1, 1, now, &lease), 0);
    uint32_t old_lane = lease.lane;
    reload_aliases("10.0.0.1:80");
    struct policy_verdict verdict = verdict_of(&moving, &service);
    uint32_t lane = (uint32_t)pool_lane_find(&moving, &verdict.server, false);
    lease_search_begin(&search, &moving, &verdict, 1, lane, now);
    again = lease;
    lease_confirm(&moving, &lease, now);
    cr_assert(lease_follow(&search, &moving, &lease));
    cr_expect_eq(lease.lane, lane);
    cr_expect_neq(lane, old_lane);
    cr_expect_eq(atomic_load(pool_word(&moving, lane, lease.port)), lease.word);
    cr_expect_eq(name_in(lease.word), verdict.name);
    /* Another has it there by now. */
    lease = again;
    atomic_store(pool_word(&moving, lane, lease.port), word_make(WORD_USED, 5, now));
    cr_expect_not(lease_follow(&search, &moving, &lease));
    atomic_store(pool_word(&moving, lane, lease.port), word_make(WORD_USED, 2, now) | (uint64_t)WORD_NAME_UNKNOWN << 40);
    cr_expect(lease_follow(&search, &moving, &lease), "its own, left there");
    pool_close(&moving);
}

static bool places_differ(const struct pool *pool)
{
    const uint8_t *map = pool->header->pagemap;
    for (int i = 0; i < (int)POOL_PORT_PAGES; i++)
        for (int k = 0; k < i && map[i] != POOL_NO_PLACE; k++)
            if (map[k] == map[i])
                return false;
    return true;
}

Test(pool, a_reload_that_was_killed_while_it_wrote_the_map_leaves_no_two_pages_one_place)
{
    struct pool pool;
    struct policy other;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    /* 1 was not written any more */
    patch(offsetof(struct pool_header, pagemap) + 40000 / POOL_PAGE_PORTS, "\2", 1);
    policy_init(&other);
    policy_add_rule(&other, "r", "5000-5003,30000,40000", "10.0.0.0/8", NULL);
    cr_assert_eq(pool_reload(path, &other), 0);
    cr_assert_not_null(pool_word(&pool, 0, 30000));
    cr_assert(places_differ(&pool));
    pool_close(&pool);
}

Test(pool, removed_pools_are_retired)
{
    struct pool pool;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    cr_assert_eq(pool_retire(path), 0);
    cr_assert_eq(atomic_load(&pool.header->state), (uint32_t)POOL_RETIRED);
    cr_assert_eq(access(path, F_OK), -1);
    pool_close(&pool);
}

/* A process that joins as @cookie, takes all ports of lane 2 and waits to be killed. */
/* @ports: takes all that are free. */
static pid_t start_a_holder(uint64_t cookie, int *slot, bool ports)
{
    int report[2];
    cr_assert_eq(pipe(report), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct pool pool;
        int fd;
        pool_open(path, &pool, &fd);
        int mine = holder_join(&pool, fd, cookie, NULL);
        close(fd);
        while (ports && mine >= 0 && take(&pool, (uint32_t)mine, 2, sys_now_ms(), NULL))
            ;
        if (write(report[1], &mine, sizeof(mine)) == sizeof(mine))
            pause();
        _exit(1);
    }
    close(report[1]);
    cr_assert_eq(read(report[0], slot, sizeof(*slot)), (ssize_t)sizeof(*slot));
    close(report[0]);
    return pid;
}

static pid_t start_holder(uint64_t cookie, int *slot)
{
    return start_a_holder(cookie, slot, true);
}

Test(pool, the_dead_are_buried)
{
    struct pool pool;
    int slot, fd;
    cr_assert_eq(pool_open(path, &pool, &fd), 0);
    pid_t pid = start_holder(77, &slot);
    cr_assert_geq(slot, 0);
    cr_assert(holder_alive(fd, (uint32_t)slot), "with no descriptor of it left in the process");
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 0);
    cr_assert_eq(take(&pool, 999, 2, sys_now_ms(), NULL), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    cr_assert_not(holder_alive(fd, (uint32_t)slot));
    uint64_t now = sys_now_ms();
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 1);
    cr_assert_eq(take(&pool, 999, 2, now + 500, NULL), 0, "in quarantine");
    cr_assert_neq(take(&pool, 999, 2, now + 1000, NULL), 0);
    close(fd);
    pool_close(&pool);
}

Test(pool, one_namespace_one_slot)
{
    struct pool pool;
    int first, second, other, fd;
    cr_assert_eq(pool_open(path, &pool, &fd), 0);
    pid_t a = start_holder(77, &first), b = start_holder(77, &second), c = start_holder(78, &other);
    cr_assert_eq(first, second);
    cr_assert_neq(first, other);
    kill(a, SIGKILL);
    waitpid(a, NULL, 0);
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 0, "the other process keeps it alive");
    kill(b, SIGKILL);
    kill(c, SIGKILL);
    waitpid(b, NULL, 0);
    waitpid(c, NULL, 0);
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 2);
    close(fd);
    pool_close(&pool);
}

static void lock_slots(int fd, short type, uint32_t first, uint32_t count)
{
    struct flock lock = {.l_type = type,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(POOL_HOLDER_LOCK_BASE + first),
                         .l_len = count};
    cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
}

Test(pool, locks_of_others_take_no_slot_but_make_a_guest)
{
    struct pool pool;
    int home, slot, again, other, fd, hostile;
    cr_assert_eq(pool_open(path, &pool, &hostile), 0);
    pid_t before = start_a_holder(5, &home, false);
    kill(before, SIGKILL);
    waitpid(before, NULL, 0);
    cr_assert_eq(holder_bury_dead(&pool, hostile, false), 1);
    /* A few further on than where it looks first: the time it looks for is short on a busy machine. */
    uint32_t free_one = ((uint32_t)home + 8) % POOL_HOLDERS;
    lock_slots(hostile, F_RDLCK, 0, POOL_HOLDERS);
    lock_slots(hostile, F_UNLCK, free_one, 1);
    pid_t first = start_holder(5, &slot);
    cr_assert_eq(slot, (int)free_one, "one was not locked");
    lock_slots(hostile, F_RDLCK, 0, 2 * POOL_SLOTS);
    pid_t second = start_holder(5, &again), guest = start_holder(6, &other);
    cr_assert_eq(again, slot, "who has a slot already gets in");
    cr_assert_geq(other, (int)POOL_HOLDERS);
    cr_assert_lt(other, (int)POOL_SLOTS);
    fd = pool_file_open(path, &pool);
    cr_assert_eq(holder_bury_dead(&pool, fd, true), 0);
    kill(first, SIGKILL);
    kill(second, SIGKILL);
    kill(guest, SIGKILL);
    waitpid(first, NULL, 0);
    waitpid(second, NULL, 0);
    waitpid(guest, NULL, 0);
    cr_assert_eq(holder_bury_dead(&pool, fd, true), 0, "they seem alive");
    cr_assert_eq(take(&pool, 999, 2, sys_now_ms(), NULL), 0);
    lock_slots(hostile, F_UNLCK, 0, 2 * POOL_SLOTS);
    uint64_t now = sys_now_ms();
    while (sys_now_ms() == now)
        ; /* the clock is a coarse one */
    cr_assert_gt(holder_bury_dead(&pool, fd, false), 0);
    cr_assert_eq(take(&pool, 999, 2, now + 500, NULL), 0, "in quarantine");
    cr_assert_neq(take(&pool, 999, 2, now + 1100, NULL), 0);
    close(fd);
    close(hostile);
    pool_close(&pool);
}

Test(pool, a_guests_leases_are_buried_with_it_and_no_younger_ones)
{
    struct pool pool;
    int slot, fd, hostile;
    cr_assert_eq(pool_open(path, &pool, &hostile), 0);
    lock_slots(hostile, F_RDLCK, 0, POOL_HOLDERS);
    pid_t guest = start_holder(6, &slot);
    fd = pool_file_open(path, &pool);
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 0, "it lives");
    kill(guest, SIGKILL);
    waitpid(guest, NULL, 0);
    _Atomic uint64_t *word = pool_word(&pool, 2, 60001);
    while (sys_now_ms() <= word_when(atomic_load(pool_word(&pool, 2, 60002))))
        ; /* the clock is a coarse one */
    uint64_t young = word_make(WORD_USED, (uint32_t)slot + 1, sys_now_ms() + 10000);
    atomic_store(word, young);
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 1);
    cr_assert_eq(atomic_load(word), young, "taken since the look at the lock");
    cr_assert_eq(word_state(atomic_load(pool_word(&pool, 2, 60002))), WORD_RESTING);
    close(fd);
    close(hostile);
    pool_close(&pool);
}

Test(pool, a_slot_that_was_being_buried_is_not_lost)
{
    struct pool pool;
    int slot, again, fd;
    cr_assert_eq(pool_open(path, &pool, &fd), 0);
    pid_t pid = start_holder(77, &slot);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    atomic_fetch_or(&pool.holder[slot].cookie, 1ull << 62); /* and whoever did it was killed */
    pid = start_holder(77, &again);
    cr_assert_neq(again, slot, "nobody joins it any more");
    cr_assert_eq(holder_bury_dead(&pool, fd, false), 1);
    cr_assert_eq(atomic_load(&pool.holder[slot].cookie), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(fd);
    pool_close(&pool);
}

Test(pool, the_table_of_holders_can_be_full)
{
    struct pool pool;
    int fd;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    for (uint32_t i = 0; i < POOL_HOLDERS; i++) {
        struct pool again;
        cr_assert_eq(pool_open(path, &again, &fd), 0);
        cr_assert_geq(holder_join(&again, fd, 1000 + i, NULL), 0, "holder %u", i);
        close(fd); /* the mapping keeps the lock */
    }
    cr_assert_eq(pool_open(path, &pool, &fd), 0);
    cr_assert_geq(holder_join(&pool, fd, 7, NULL), (int)POOL_HOLDERS, "a guest");
    cr_assert_lt(holder_join(&pool, fd, 1500, NULL), (int)POOL_HOLDERS, "who has one already gets in");
}

Test(pool, waiting_ends_when_a_port_is_let_go)
{
    struct pool pool;
    struct lease lease;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    take(&pool, 0, 2, 5000, &lease);
    uint32_t seen = lease_wait_begin(&pool, 0, 2);
    cr_assert_eq(lease_wait(&pool, 0, 2, seen, 10), -ETIMEDOUT);
    struct lease other;
    take(&pool, 1, 2, 5000, &other);
    lease_let_go(&pool, &other, 5050);
    cr_assert_eq(atomic_load(&pool.lane[2].released), seen, "another's port is not for the waiter");
    pid_t pid = fork();
    if (pid == 0) {
        lease_let_go(&pool, &lease, 5100);
        _exit(0);
    }
    cr_assert_eq(lease_wait(&pool, 0, 2, seen, 10000), 0);
    waitpid(pid, NULL, 0);
    pool_close(&pool);
}

Test(pool, a_wish_is_heard_once)
{
    struct pool pool;
    cr_assert_eq(pool_open(path, &pool, NULL), 0);
    uint64_t now = 100000;
    cr_assert_not(lease_wanted(&pool, 3, now), "nobody has asked");
    lease_want(&pool, now);
    cr_assert(lease_wanted(&pool, 3, now + 1));
    cr_assert(lease_reconcile_due(&pool, 3, now + 1, 0));
    cr_assert_not(lease_wanted(&pool, 3, now + 5000), "answered");
    lease_want(&pool, now + 500);
    cr_assert_not(lease_wanted(&pool, 3, now + 600), "not twice a second");
    cr_assert(lease_wanted(&pool, 3, now + 1600));
    cr_assert(lease_wanted(&pool, 4, now + 1600), "each namespace for itself");
    pool_close(&pool);
}
