/* SPDX-License-Identifier: MIT */
/*
 * Reading a pool without trusting it: its files are copied with pread(2), the copies are checked by
 * pool_check(), and nothing is written. Reports work on pools that others keep changing.
 */
#include "snapshot.h"

#include "../../pool/layout_size.h"
#include "../../pool/sys.h"

#include <stdlib.h>
#include <string.h>

#define SNAPSHOT_TRIES 5

/* What is cut off of the shares reads as zeros, which is what is made of it when they are opened. */
static int snapshot_read(int fd, char *memory, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = pread(fd, memory + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    memset(memory + done, 0, size - done);
    return 0;
}

/* Of the copies of its own file the second one counts: a reload may have come between. */
static int snapshot_pool(const char *path, struct snapshot *snapshot)
{
    struct stat st;
    size_t size = layout_pool_size();
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int error = fd < 0 || fstat(fd, &st) < 0 ? -errno : pool_trusted(&st);
    if (!error && (uint64_t)st.st_size < sizeof(struct pool_header))
        error = -EMEDIUMTYPE;
    for (int i = 0; !error && i < SNAPSHOT_TRIES; i++) {
        uint32_t generation = ((struct pool_header *)snapshot->memory)->generation;
        error = snapshot_read(fd, snapshot->memory, size);
        if (i && generation == ((struct pool_header *)snapshot->memory)->generation)
            break;
    }
    if (fd >= 0)
        close(fd);
    if (!error)
        error = pool_check(snapshot->memory, (size_t)st.st_size, &snapshot->pool);
    if (!error && st.st_mode & 022)
        error = -EPERM;
    return error ? error : pool_policy(&snapshot->pool, &snapshot->policy);
}

static int snapshot_shares(const char *path, struct snapshot *snapshot)
{
    struct timespec wall;
    snapshot->fd = pool_shares_open(path, &snapshot->pool, O_RDONLY);
    if (snapshot->fd < 0)
        return snapshot->fd;
    snapshot->shares = aligned_alloc(64, snapshot->pool.shared_size);
    if (!snapshot->shares)
        return -ENOMEM;
    clock_gettime(CLOCK_REALTIME, &wall);
    snapshot->wall = (uint64_t)wall.tv_sec;
    snapshot->now = sys_now_ms();
    pool_share(&snapshot->pool, snapshot->shares);
    return snapshot_read(snapshot->fd, snapshot->shares, snapshot->pool.shared_size);
}

int snapshot_take(const char *path, struct snapshot *snapshot)
{
    memset(snapshot, 0, sizeof(*snapshot));
    snapshot->fd = -1;
    snapshot->memory = aligned_alloc(64, layout_pool_size()); /* whole pages */
    int error = snapshot->memory ? snapshot_pool(path, snapshot) : -ENOMEM;
    if (!error)
        error = snapshot_shares(path, snapshot);
    if (error)
        snapshot_free(snapshot);
    return error;
}

void snapshot_free(struct snapshot *snapshot)
{
    free(snapshot->memory);
    free(snapshot->shares);
    if (snapshot->fd >= 0)
        close(snapshot->fd);
    memset(snapshot, 0, sizeof(*snapshot));
    snapshot->fd = -1;
}

enum lane_kind snapshot_lane_kind(const struct snapshot *snapshot, uint32_t lane)
{
    const struct pool *pool = &snapshot->pool;
    if (lane >= pool->lanes - pool->lanes_shared)
        return LANE_SHARED;
    if (pool->lane_key[lane] == 0)
        return LANE_UNUSED;
    if (pool_lane_find(pool, &pool->lane[lane].dest, false) == (int)lane)
        return LANE_DEST;
    return LANE_UNKNOWN;
}

size_t snapshot_lane_text(const struct snapshot *snapshot, uint32_t lane, char *buf, size_t size)
{
    enum lane_kind kind = snapshot_lane_kind(snapshot, lane);
    if (kind == LANE_DEST)
        return dest_print(&snapshot->pool.lane[lane].dest, buf, size);
    const char *text = kind == LANE_SHARED ? "shared" : kind == LANE_UNUSED ? "unused" : "unknown";
    size_t length = strlen(text);
    if (size) {
        size_t n = length < size ? length : size - 1;
        memcpy(buf, text, n);
        buf[n] = '\0';
    }
    return length;
}

/* As lease.c judges: a port whose rest is over, or begins in a far future, is free. */
static bool snapshot_lease_read(const struct snapshot *snapshot, uint64_t word,
                                struct snapshot_lease *lease)
{
    uint64_t now = snapshot->now;
    lease->state = word_state(word) == WORD_CLOSING ? WORD_LETGO : word_state(word);
    lease->holder = word_holder(word);
    lease->age = now > word_when(word) ? now - word_when(word) : 0;
    if (lease->state == WORD_RESTING)
        return lease->age < snapshot->policy.quarantine_ms && word_when(word) <= now + 1000;
    return lease->state == WORD_USED || lease->state == WORD_LETGO;
}

bool snapshot_lease(const struct snapshot *snapshot, uint32_t lane, uint16_t port,
                    struct snapshot_lease *lease)
{
    _Atomic uint64_t *at = pool_word(&snapshot->pool, lane, port);
    uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
    lease->lane = lane;
    lease->port = port;
    return word && snapshot_lease_read(snapshot, word, lease);
}

/* @words: of the page's ports in the lane. Port 0 has none that is ever written. */
static void snapshot_page(const struct snapshot *snapshot, uint32_t lane, uint32_t page,
                          _Atomic uint64_t *words,
                          void (*each)(const struct snapshot_lease *lease, void *arg), void *arg)
{
    struct snapshot_lease lease = {.lane = lane};
    for (uint32_t i = 0; i < POOL_PAGE_PORTS; i++) {
        uint64_t word = atomic_load_explicit(&words[i], memory_order_relaxed);
        lease.port = (uint16_t)(page * POOL_PAGE_PORTS + i);
        if (word && snapshot_lease_read(snapshot, word, &lease))
            each(&lease, arg);
    }
}

void snapshot_each_lease(const struct snapshot *snapshot,
                         void (*each)(const struct snapshot_lease *lease, void *arg), void *arg)
{
    for (uint32_t lane = 0; lane < snapshot->pool.lanes; lane++) {
        for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
            uint16_t first = (uint16_t)(page * POOL_PAGE_PORTS);
            _Atomic uint64_t *words = pool_word(&snapshot->pool, lane, first);
            if (words)
                snapshot_page(snapshot, lane, page, words, each, arg);
        }
    }
}
