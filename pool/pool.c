/* SPDX-License-Identifier: MIT */
/*
 * Opening a pool, and looking things up in it.
 *
 * The file may be anything: somebody else's, truncated, garbled, of another version. Everything
 * that decides where memory is touched is taken from the header once, held against the file's
 * size, and from then on read from struct pool only.
 */
#include "layout_size.h"
#include "pool.h"
#include "sys.h"

#include <string.h>

static bool sizes_fit(const struct pool_header *header)
{
    return header->lanes >= POOL_LANES_MIN && header->lanes <= POOL_LANES_MAX &&
           header->lanes_shared >= 1 && header->lanes_shared < header->lanes &&
           header->places >= 1 && header->places <= POOL_PORT_PAGES &&
           header->holders == POOL_HOLDERS;
}

static int header_check(const struct pool_header *header, size_t size)
{
    if (size < POOL_HEADER_BYTES)
        return header->magic == POOL_MAGIC && size >= sizeof(*header) ? -EBADMSG : -EMEDIUMTYPE;
    if (header->magic != POOL_MAGIC)
        return -EMEDIUMTYPE;
    if (header->version != POOL_VERSION || header->header_size != sizeof(*header))
        return -EPROTO;
    if (!sizes_fit(header) || header->file_size != size ||
        layout_size(header->lanes, header->places) != size)
        return -EBADMSG;
    return 0;
}

static int policy_check(const struct pool *pool)
{
    uint32_t slot = atomic_load(&pool->header->generation) & 1;
    const struct policy *policy = pool->policy[slot];
    if (policy_checksum(policy) != pool->header->policy_checksum[slot] || !policy_valid(policy))
        return -EBADMSG;
    return 0;
}

static void pages_mark(const struct portrange *range, void *arg)
{
    bool *page = arg;
    for (uint32_t i = range->lo / POOL_PAGE_PORTS; i <= range->hi / POOL_PAGE_PORTS; i++)
        page[i] = true;
}

/* Each page of the rules' ports must have words, and no other page's. */
static int pagemap_check(const struct pool *pool)
{
    bool wanted[POOL_PORT_PAGES] = {false}, used[POOL_PORT_PAGES] = {false};
    const struct pool_header *header = pool->header;
    policy_each_range(pool->policy[atomic_load(&header->generation) & 1], pages_mark, wanted);
    for (uint32_t i = 0; i < POOL_PORT_PAGES; i++) {
        uint8_t place = header->pagemap[i];
        if (place == POOL_NO_PLACE ? wanted[i] : place >= pool->places || used[place])
            return -EBADMSG;
        if (place != POOL_NO_PLACE)
            used[place] = true;
    }
    return 0;
}

int pool_attach(void *memory, size_t size, struct pool *pool)
{
    struct pool_header *header = memory;
    char *base = memory;
    if (size < sizeof(*header))
        return -EMEDIUMTYPE;
    int result = header_check(header, size);
    if (result)
        return result;
    struct pool view = {.header = header,
                        .size = size,
                        .lanes = header->lanes,
                        .lanes_shared = header->lanes_shared,
                        .places = header->places,
                        .seed = header->seed};
    /* The header may have changed between check and copy: check the copy. */
    if (view.lanes > POOL_LANES_MAX || view.places > POOL_PORT_PAGES || view.lanes_shared < 1 ||
        view.lanes_shared >= view.lanes || layout_size(view.lanes, view.places) != size)
        return -EBADMSG;
    view.policy[0] = (const void *)(base + layout_policy(0));
    view.policy[1] = (const void *)(base + layout_policy(1));
    view.holder = (void *)(base + layout_holders());
    view.lane_key = (void *)(base + layout_lane_keys());
    view.lane = (void *)(base + layout_lanes(view.lanes));
    view.word = (void *)(base + layout_words(view.lanes));
    result = policy_check(&view);
    if (!result)
        result = pagemap_check(&view);
    if (result)
        return result;
    *pool = view;
    return 0;
}

/* Opens without following a link or waiting for a FIFO's other end. */
static int file_open(const char *path)
{
    return (int)SYS(openat, AT_FDCWD, path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                    0);
}

static int file_check(int fd, size_t *size)
{
    struct stat st;
    int result = (int)SYS(fstat, fd, &st);
    if (result)
        return result;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (st.st_uid != 0 && st.st_uid != (uid_t)SYS(geteuid))
        return -EPERM;
    if (st.st_size < (off_t)sizeof(struct pool_header))
        return -EMEDIUMTYPE;
    *size = (size_t)st.st_size;
    return *size > layout_size(POOL_LANES_MAX, POOL_PORT_PAGES) ? -EBADMSG : 0;
}

static int file_map(int fd, struct pool *pool)
{
    size_t size = 0;
    int result = file_check(fd, &size);
    if (result)
        return result;
    long at = SYS(mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at < 0 && at > -4096)
        return (int)at;
    /* Known to the caller before it is touched: its SIGBUS handler may need it. */
    *pool = (struct pool){.header = (void *)at, .size = size};
    result = pool_attach((void *)at, size, pool);
    if (!result && atomic_load(&pool->header->state) != POOL_LIVE)
        result = -ESTALE;
    if (result) {
        *pool = (struct pool){.header = NULL};
        SYS(munmap, (void *)at, size);
    }
    return result;
}

int pool_open(const char *path, struct pool *pool, int *fd)
{
    *pool = (struct pool){.header = NULL};
    int file = file_open(path);
    if (file < 0)
        return file;
    int result = file_map(file, pool);
    if (!result && fd)
        *fd = file;
    else
        SYS(close, file);
    return result;
}

void pool_close(struct pool *pool)
{
    if (pool->header)
        SYS(munmap, pool->header, pool->size);
    *pool = (struct pool){.header = NULL};
}

const char *pool_strerror(int error)
{
    static const struct {
        int error;
        const char *text;
    } known[] = {
        {ENOENT, "there is no such file"},
        {EACCES, "permission denied: reading and writing it must be allowed (see mode and group)"},
        {ELOOP, "it is a symbolic link: only the file itself is used"},
        {EISDIR, "it is a directory"},
        {EINVAL, "it is not a regular file"},
        {ENXIO, "it is not a regular file"},
        {EAGAIN, "somebody holds a lease on it (fcntl F_SETLEASE)"},
        {EPERM, "its owner is neither root nor this user"},
        {EMEDIUMTYPE, "it is not a fixport pool"},
        {EPROTO, "it is a pool of another version of fixport: remove it and create it again"},
        {EBADMSG, "it is damaged (truncated or overwritten): remove it and create it again"},
        {ESTALE, "it has just been removed"},
        {EEXIST, "it exists already"},
        {ENOSPC, "no space left"},
        {EFBIG, "the limit on file sizes (ulimit -f) is too small for it"},
        {ENOMEM, "not enough memory to map it"},
        {EROFS, "the file system is read-only"},
        {ENOTDIR, "part of the path is not a directory"},
        {ENAMETOOLONG, "the path is too long"},
        {ENOLCK, "the file system has no open-file-description locks"},
        {ENODATA, "it has not been opened yet"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].error == -error)
            return known[i].text;
    return "the system refused";
}

bool pool_match(const struct pool *pool, const struct dest *dest, struct policy_verdict *verdict)
{
    bool found = false;
    /* Two reloads during one match overwrite what is being read: look again, but not for ever. */
    for (int tries = 0; tries < 8; tries++) {
        uint32_t generation = atomic_load_explicit(&pool->header->generation, memory_order_acquire);
        found = policy_match(pool->policy[generation & 1], dest, verdict);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&pool->header->generation, memory_order_relaxed) == generation)
            break;
    }
    return found;
}

bool pool_any_rule(const struct pool *pool, struct pool_any *any)
{
    uint32_t generation = atomic_load_explicit(&pool->header->generation, memory_order_acquire);
    const struct policy *policy = pool->policy[generation & 1];
    uint32_t rules = policy->rule_count;
    any->quarantine_ms = policy->quarantine_ms;
    memcpy(&any->ports, &policy->rule[0].ports, sizeof(any->ports));
    if (!portset_valid(&any->ports))
        return false;
    for (uint32_t i = 1; i < rules && i < POLICY_RULES; i++) {
        struct portset both = any->ports, other;
        memcpy(&other, &policy->rule[i].ports, sizeof(other));
        if (portset_valid(&other) && portset_intersect(&both, &other) == 0 && both.count)
            any->ports = both;
    }
    return true;
}

int pool_policy(const struct pool *pool, struct policy *copy)
{
    for (int tries = 0; tries < 8; tries++) {
        uint32_t slot = atomic_load(&pool->header->generation) & 1;
        memcpy(copy, pool->policy[slot], sizeof(*copy));
        if (policy_checksum(copy) == pool->header->policy_checksum[slot] && policy_valid(copy))
            return 0;
    }
    return -EBADMSG;
}

_Atomic uint64_t *pool_word(const struct pool *pool, uint32_t lane, uint16_t port)
{
    uint32_t place = pool->header->pagemap[port / POOL_PAGE_PORTS];
    if (place >= pool->places || lane >= pool->lanes)
        return NULL;
    return &pool->word[((size_t)place * pool->lanes + lane) * POOL_PAGE_PORTS +
                       port % POOL_PAGE_PORTS];
}

/* The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* Never 0, which is a lane without a key. A collision only makes two destinations share a lane. */
static uint64_t dest_hash(uint64_t seed, const struct dest *dest)
{
    uint64_t half[2];
    memcpy(half, dest->addr, sizeof(half));
    uint64_t hash = mix(half[0] ^ seed);
    hash = mix(hash ^ half[1]);
    hash = mix(hash + dest->port);
    return hash ? hash : 1;
}

int pool_lane_find(const struct pool *pool, const struct dest *dest, bool insert)
{
    uint32_t keyed = pool->lanes - pool->lanes_shared;
    uint64_t hash = dest_hash(pool->seed, dest);
    for (uint32_t i = 0, at = hash % keyed; i < keyed; i++, at = at + 1 < keyed ? at + 1 : 0) {
        uint64_t key = atomic_load_explicit(&pool->lane_key[at], memory_order_acquire);
        if (key == 0) {
            if (!insert)
                return -ENOENT;
            if (atomic_compare_exchange_strong(&pool->lane_key[at], &key, hash)) {
                pool->lane[at].dest = *dest; /* for people only */
                return (int)at;
            }
        }
        if (key == hash)
            return (int)at;
    }
    return (int)(keyed + hash % pool->lanes_shared);
}
