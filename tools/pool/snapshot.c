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
static int snapshot_read(int fd, void *memory, size_t size, size_t from)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = pread(fd, (char *)memory + done, size - done, (off_t)(from + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    memset((char *)memory + done, 0, size - done);
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
        error = snapshot_read(fd, snapshot->memory, size, 0);
        if (i && generation == ((struct pool_header *)snapshot->memory)->generation)
            break;
    }
    snapshot->fd = fd;
    if (!error)
        error = pool_check(snapshot->memory, (size_t)st.st_size, &snapshot->pool);
    if (!error && st.st_mode & 022)
        error = -EPERM;
    return error ? error : pool_policy(&snapshot->pool, &snapshot->policy);
}

static int snapshot_shares(const char *path, struct snapshot *snapshot)
{
    struct timespec wall;
    struct stat st;
    size_t size = layout_words(snapshot->pool.lanes);
    int fd = snapshot->shares_fd = pool_shares_open(path, &snapshot->pool, O_RDONLY);
    if (fd < 0)
        return fd;
    snapshot->shares = aligned_alloc(64, size);
    clock_gettime(CLOCK_REALTIME, &wall);
    snapshot->wall = (uint64_t)wall.tv_sec;
    snapshot->now = sys_now_ms();
    int error = fstat(fd, &st) < 0 ? -errno : !snapshot->shares ? -ENOMEM : 0;
    if (!error) {
        snapshot->mode = st.st_mode & 07777;
        snapshot->group = st.st_gid;
        pool_share(&snapshot->pool, snapshot->shares);
        snapshot->pool.word = NULL;
        error = snapshot_read(fd, snapshot->shares, size, 0);
    }
    return error;
}

int snapshot_take(const char *path, struct snapshot *snapshot)
{
    memset(snapshot, 0, sizeof(*snapshot));
    snapshot->fd = snapshot->shares_fd = -1;
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
    if (snapshot->shares_fd >= 0)
        close(snapshot->shares_fd);
    memset(snapshot, 0, sizeof(*snapshot));
    snapshot->fd = snapshot->shares_fd = -1;
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

bool snapshot_lease_address(const struct snapshot *snapshot, const struct snapshot_lease *lease,
                            struct dest *address)
{
    struct dest server = snapshot->pool.lane[lease->lane].dest;
    if (snapshot_lane_kind(snapshot, lease->lane) != LANE_DEST)
        return false;
    *address = server;
    return (!lease->name && !policy_server(&snapshot->policy, &server, &server)) ||
           policy_address(&snapshot->policy, &server, lease->name, address);
}

/* As lease.c judges: a port whose rest is over, or begins in a far future, is free. */
static bool snapshot_lease_read(const struct snapshot *snapshot, uint64_t word,
                                struct snapshot_lease *lease)
{
    uint64_t now = snapshot->now;
    lease->state = word_state(word) == WORD_CLOSING ? WORD_LETGO : word_state(word);
    lease->holder = word_holder(word);
    lease->name = (uint8_t)word_owner(word);
    lease->age = now > word_when(word) ? now - word_when(word) : 0;
    if (lease->state == WORD_RESTING)
        return lease->age < snapshot->policy.quarantine_ms && word_when(word) <= now + 1000;
    return lease->state == WORD_USED || lease->state == WORD_LETGO;
}

bool snapshot_lease(const struct snapshot *snapshot, uint32_t lane, uint16_t port,
                    struct snapshot_lease *lease)
{
    uint32_t place = snapshot->pool.header->pagemap[port / POOL_PAGE_PORTS];
    uint64_t word = 0;
    size_t at = ((size_t)place * snapshot->pool.lanes + lane) * POOL_PAGE_PORTS + port % POOL_PAGE_PORTS;
    lease->lane = lane;
    lease->port = port;
    return place < snapshot->pool.places &&
           snapshot_read(snapshot->shares_fd, &word, sizeof(word),
                         layout_words(snapshot->pool.lanes) + at * sizeof(word)) == 0 &&
           word && snapshot_lease_read(snapshot, word, lease);
}

/* The words of a page of ports in @count lanes from @lane on. Return: false: the page has none. */
static bool snapshot_words(const struct snapshot *snapshot, uint32_t page, uint32_t lane, uint32_t count,
                           uint64_t *words)
{
    uint32_t place = snapshot->pool.header->pagemap[page], lanes = snapshot->pool.lanes;
    if (place >= snapshot->pool.places)
        return false;
    size_t from = layout_words(lanes) + ((size_t)place * lanes + lane) * POOL_PAGE_BYTES;
    return snapshot_read(snapshot->shares_fd, words, (size_t)count * POOL_PAGE_BYTES, from) == 0;
}

/* Port 0 has a word that is never written. */
static void snapshot_word(const struct snapshot *snapshot, uint32_t lane, uint32_t port, uint64_t word,
                          snapshot_each each, void *arg)
{
    struct snapshot_lease lease = {.lane = lane, .port = (uint16_t)port};
    if (word && snapshot_lease_read(snapshot, word, &lease))
        each(&lease, arg);
}

void snapshot_each_lease(const struct snapshot *snapshot, snapshot_each each, void *arg)
{
    uint64_t words[POOL_PAGE_PORTS];
    for (uint32_t lane = 0; lane < snapshot->pool.lanes; lane++)
        for (uint32_t page = 0; page < POOL_PORT_PAGES; page++)
            for (uint32_t i = 0; i < POOL_PAGE_PORTS; i++) {
                if (!i && !snapshot_words(snapshot, page, lane, 1, words))
                    break;
                snapshot_word(snapshot, lane, page * POOL_PAGE_PORTS + i, words[i], each, arg);
            }
}

int snapshot_each_by_port(const struct snapshot *snapshot, snapshot_each each, void *arg)
{
    uint32_t lanes = snapshot->pool.lanes;
    uint64_t *words = malloc(layout_place_bytes(lanes));
    if (!words)
        return -ENOMEM;
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        if (!snapshot_words(snapshot, page, 0, lanes, words))
            continue;
        for (uint32_t i = 0; i < POOL_PAGE_PORTS; i++)
            for (uint32_t lane = 0; lane < lanes; lane++)
                snapshot_word(snapshot, lane, page * POOL_PAGE_PORTS + i,
                              words[(size_t)lane * POOL_PAGE_PORTS + i], each, arg);
    }
    free(words);
    return 0;
}
