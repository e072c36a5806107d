/* SPDX-License-Identifier: MIT */
/*
 * Reading a pool without trusting it: the file is copied with pread(2), the copy is checked by
 * pool_attach(), and nothing is written. Reports work on pools that others keep changing.
 */
#include "snapshot.h"

#include "../../pool/layout_size.h"
#include "../../pool/sys.h"

#include <stdlib.h>
#include <string.h>

/* A reload between our first and last pread(2) garbles the policy: look again a few times. */
#define SNAPSHOT_TRIES 5
#define SNAPSHOT_PAUSE_NS 20000000

/* The same refusals, in the same order, as pool_open(). */
static int snapshot_open(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int error = 0;
    if (fd < 0)
        return -errno;
    if (fstat(fd, st) < 0)
        error = -errno;
    else if (S_ISDIR(st->st_mode))
        error = -EISDIR;
    else if (!S_ISREG(st->st_mode))
        error = -EINVAL;
    else if (st->st_uid != 0 && st->st_uid != geteuid())
        error = -EPERM;
    else if ((uint64_t)st->st_size < sizeof(struct pool_header))
        error = -EMEDIUMTYPE;
    else if ((uint64_t)st->st_size > layout_size(POOL_LANES_MAX, POOL_PORT_PAGES))
        error = -EBADMSG;
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

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
            return -EBADMSG; /* truncated while we read */
        done += (size_t)n;
    }
    return 0;
}

/* A quick look at the header first: no gigabytes are read of a file that is no pool. */
static int snapshot_is_pool(int fd)
{
    uint64_t magic = 0;
    int error = snapshot_read(fd, (char *)&magic, sizeof(magic));
    return error ? error : magic == POOL_MAGIC ? 0 : -EMEDIUMTYPE;
}

static int snapshot_copy(int fd, struct snapshot *snapshot)
{
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    snapshot->wall = (uint64_t)wall.tv_sec;
    snapshot->now = sys_now_ms();
    int error = snapshot_read(fd, snapshot->memory, snapshot->size);
    if (!error)
        error = pool_attach(snapshot->memory, snapshot->size, &snapshot->pool);
    if (!error)
        error = pool_policy(&snapshot->pool, &snapshot->policy);
    return error;
}

static int snapshot_fill(int fd, struct snapshot *snapshot)
{
    int error = snapshot_is_pool(fd);
    for (int i = 0; !error && i < SNAPSHOT_TRIES; i++) {
        error = snapshot_copy(fd, snapshot);
        if (error != -EBADMSG)
            return error;
        if (i + 1 < SNAPSHOT_TRIES) {
            nanosleep(&(struct timespec){.tv_nsec = SNAPSHOT_PAUSE_NS}, NULL);
            error = 0;
        }
    }
    return error;
}

int snapshot_take(const char *path, struct snapshot *snapshot)
{
    struct stat st;
    memset(snapshot, 0, sizeof(*snapshot));
    snapshot->fd = snapshot_open(path, &st);
    if (snapshot->fd < 0)
        return snapshot->fd;
    snapshot->size = (size_t)st.st_size;
    size_t whole = (snapshot->size + 63) & ~(size_t)63;
    snapshot->memory = aligned_alloc(64, whole);
    int error = snapshot->memory ? snapshot_fill(snapshot->fd, snapshot) : -ENOMEM;
    if (error)
        snapshot_free(snapshot);
    return error;
}

void snapshot_free(struct snapshot *snapshot)
{
    free(snapshot->memory);
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
