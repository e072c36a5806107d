/* SPDX-License-Identifier: MIT */
/*
 * Opening a pool, and looking things up in it.
 *
 * The file may be anything: somebody else's, truncated, garbled, of another version. Everything
 * that decides where memory is touched is taken from the header once, held against the file's
 * size, and from then on read from struct pool only. Its shares may be anything at any time.
 */
#include "layout_size.h"
#include "pool.h"
#include "sys.h"
#include "text.h"

#include <limits.h>
#include <string.h>
#include <sys/resource.h>

static bool sizes_fit(const struct pool_header *header)
{
    return header->lanes >= POOL_LANES_MIN && header->lanes <= POOL_LANES_MAX &&
           header->lanes_shared >= 1 && header->lanes_shared < header->lanes &&
           header->places >= 1 && header->places <= POOL_PORT_PAGES &&
           header->holders == POOL_HOLDERS;
}

static int header_check(const struct pool_header *header, size_t size)
{
    if (size < sizeof(*header) || header->magic != POOL_MAGIC)
        return -EMEDIUMTYPE;
    if (header->version != POOL_VERSION || header->header_size != sizeof(*header))
        return -EPROTO;
    if (!sizes_fit(header) || size != layout_pool_size() || header->file_size != size ||
        layout_shared_size(header->lanes, header->places) > POOL_SHARED_MAX)
        return -EBADMSG;
    return 0;
}

static int policy_check(const struct pool *pool)
{
    uint32_t slot = atomic_load(&pool->header->generation) & 1;
    return policy_valid(pool->policy[slot]) ? 0 : -EBADMSG;
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

int pool_check(const void *memory, size_t size, struct pool *pool)
{
    const struct pool_header *header = memory;
    const char *base = memory;
    int result = header_check(header, size);
    if (result)
        return result;
    struct pool view = {.header = header,
                        .policy = {(const void *)(base + layout_policy(0)),
                                   (const void *)(base + layout_policy(1))},
                        .shared_size = layout_shared_size(header->lanes, header->places),
                        .lanes = header->lanes,
                        .lanes_shared = header->lanes_shared,
                        .places = header->places,
                        .seed = header->seed};
    result = policy_check(&view);
    if (!result)
        result = pagemap_check(&view);
    if (!result)
        *pool = view;
    return result;
}

void pool_share(struct pool *pool, void *memory)
{
    char *base = memory;
    pool->counters = memory;
    pool->holder = (void *)(base + layout_holders());
    pool->lane_key = (void *)(base + layout_lane_keys());
    pool->lane = (void *)(base + layout_lanes(pool->lanes));
    pool->word = (void *)(base + layout_words(pool->lanes));
}

void pool_apart(const struct pool *pool, void *memory, uint64_t seed, struct pool *apart)
{
    *apart = *pool;
    pool_share(apart, memory);
    apart->counters = pool->counters;
    apart->holder = pool->holder;
    apart->seed = seed;
    apart->apart = true;
}

#define OVERFLOW_UID 65534 /* /proc/sys/kernel/overflowuid */

/*
 * In a user namespace that does not map the owner, it shows as the overflow uid (user_namespaces(7));
 * nobody has that uid there, but in the first namespace somebody can.
 */
static bool owner_is_unmapped(uid_t owner)
{
    static const char all[] = "         0          0 4294967295\n";
    char map[64];
    int fd = owner == OVERFLOW_UID
                 ? (int)SYS(openat, AT_FDCWD, "/proc/self/uid_map", O_RDONLY | O_CLOEXEC, 0)
                 : -ENOENT;
    if (fd < 0)
        return false;
    long got = SYS(read, fd, map, sizeof(map));
    SYS(close, fd);
    return got > 0 && (got != sizeof(all) - 1 || memcmp(map, all, sizeof(all) - 1) != 0);
}

int pool_trusted(const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL;
    if (st->st_uid != 0 && st->st_uid != (uid_t)SYS(geteuid) && !owner_is_unmapped(st->st_uid))
        return -EPERM;
    return 0;
}

/* Opens without following a link or waiting for a FIFO's other end. */
static int file_open(const char *path, int flags)
{
    int fd =
        (int)SYS(openat, AT_FDCWD, path, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
    return fd == -EPERM ? -EACCES : fd; /* EPERM is pool_trusted()'s */
}

#define ALLOCATE_MOST (8u << 20) /* bytes: it counts as the memory of whoever does it */

int pool_shares_allocate(const struct pool *pool, int fd)
{
    uint32_t used = 0;
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        uint32_t place = pool->header->pagemap[page];
        if (place < pool->places && place >= used)
            used = place + 1;
    }
    size_t size = layout_words(pool->lanes) + used * layout_place_bytes(pool->lanes);
    int result = (int)SYS(fallocate, fd, 0, 0, size < ALLOCATE_MOST ? size : ALLOCATE_MOST);
    return result == -EOPNOTSUPP || result == -EINTR || sys_may_not(result) ? 0 : result;
}

/* ftruncate() past RLIMIT_FSIZE would raise SIGXFSZ in a program that never asked for a file. */
static int shares_lengthen(int fd, const struct pool *pool)
{
    struct rlimit limit;
    if (SYS(prlimit64, 0, RLIMIT_FSIZE, NULL, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < pool->shared_size)
        return -EFBIG;
    int result = (int)SYS(ftruncate, fd, pool->shared_size);
    return result ? result : pool_shares_allocate(pool, fd);
}

/*
 * Opens the shares, and nothing else that may have their name by now: to open a device can do something.
 * Not sure if there is no /proc, or only one descriptor left. (/proc/self/fd is where a file is found
 * that was looked at, without its name.)
 */
static int shares_open(const char *name, const struct pool *pool, int flags)
{
    char self[40];
    struct stat st;
    struct text text = text_begin(self, sizeof(self));
    int path = file_open(name, O_PATH);
    if (path < 0)
        return path;
    text_string(&text, "/proc/self/fd/");
    text_number(&text, (unsigned)path, 10);
    int fd = sys_fstat(path, &st);
    if (!fd && (!S_ISREG(st.st_mode) || st.st_ino != pool->header->shared_inode))
        fd = -ENOLINK;
    if (!fd)
        fd = (int)SYS(openat, AT_FDCWD, self, flags | O_CLOEXEC | O_NONBLOCK, 0);
    SYS(close, path);
    if (fd == -EPERM)
        return -EACCES;
    return fd == -ENOENT || fd == -EMFILE ? file_open(name, flags) : fd;
}

/* Errors of open(2) that somebody who has the shares' folder can bring about. */
static bool shares_are_lost(int error)
{
    static const int lost[] = {ENOENT, ELOOP, ENOTDIR, EISDIR, ENXIO, ENODEV, ETXTBSY, EAGAIN /* a lease */};
    for (size_t i = 0; i < sizeof(lost) / sizeof(lost[0]); i++)
        if (error == -lost[i])
            return true;
    return false;
}

/* Whoever may write the shares can cut them short: then they are made as long again. */
static int shares_check(int fd, const struct pool *pool, int flags)
{
    struct stat st;
    int result = sys_fstat(fd, &st);
    if (result)
        return result;
    if (!S_ISREG(st.st_mode) || st.st_ino != pool->header->shared_inode)
        return -ENOLINK;
    if ((uint64_t)st.st_size < pool->shared_size && flags != O_RDONLY)
        return shares_lengthen(fd, pool);
    return 0;
}

int pool_shares_open(const char *path, const struct pool *pool, int flags)
{
    size_t folder = strlen(path);
    while (folder && path[folder - 1] != '/')
        folder--;
    if (folder >= PATH_MAX - POOL_SHARED_NAME)
        return -ENAMETOOLONG;
    char name[folder + POOL_SHARED_NAME + 1]; /* no more: a handler may have a small stack */
    struct text text = text_begin(name, sizeof(name));
    text_string_n(&text, path, folder);
    text_string_n(&text, pool->header->shared, POOL_SHARED_NAME);
    int fd = shares_open(name, pool, flags);
    if (fd < 0)
        return shares_are_lost(fd) ? -ENOLINK : fd;
    int result = shares_check(fd, pool, flags);
    if (!result)
        return fd;
    SYS(close, fd);
    return result;
}

/* An mmap() that would lock more than may be locked says EAGAIN, which is F_SETLEASE's here. */
int pool_map_error(long result)
{
    return result == -EAGAIN ? -EDQUOT : (int)result;
}

static bool is_address(long result)
{
    return result > 0 || result < -4095;
}

/*
 * Where the overflow uid is mapped, too, somebody here may be the owner after all: what could be
 * written is not trusted.
 */
static bool owner_is_doubtful(const char *path, const struct stat *st)
{
    return st->st_uid == OVERFLOW_UID && SYS(geteuid) != OVERFLOW_UID &&
           SYS(faccessat, AT_FDCWD, path, W_OK) == 0;
}

/* @pool->header and then @pool->counters are known to the caller, whose SIGBUS handler may need it. */
static int file_map(const char *path, int file, struct pool *pool)
{
    struct stat st;
    int result = sys_fstat(file, &st);
    if (!result)
        result = pool_trusted(&st);
    if (!result && owner_is_doubtful(path, &st))
        result = -EPERM;
    if (!result && st.st_size < (off_t)sizeof(struct pool_header))
        result = -EMEDIUMTYPE;
    if (result)
        return result;
    long at = SYS(mmap, NULL, layout_pool_size(), PROT_READ, MAP_SHARED, file, 0);
    if (!is_address(at))
        return pool_map_error(at);
    pool->header = (const void *)at;
    result = pool_check((const void *)at, (size_t)st.st_size, pool);
    if (!result && st.st_mode & 022) /* after the version: 1 had such pools */
        result = -EPERM;
    if (!result && atomic_load(&pool->header->state) != POOL_LIVE)
        result = -ESTALE;
    pool->device = st.st_dev;
    pool->inode = st.st_ino;
    return result;
}

static int shares_map(const char *path, struct pool *pool)
{
    int fd = pool_shares_open(path, pool, O_RDWR);
    if (fd < 0)
        return fd;
    long at = SYS(mmap, NULL, pool->shared_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SYS(close, fd);
    if (!is_address(at))
        return pool_map_error(at);
    pool_share(pool, (void *)at);
    return 0;
}

int pool_file_open(const char *path, const struct pool *pool)
{
    struct stat st;
    int fd = file_open(path, O_RDONLY);
    if (fd < 0)
        return fd;
    int result = (int)SYS(fstat, fd, &st);
    if (!result && (st.st_dev != pool->device || st.st_ino != pool->inode))
        result = -ESTALE;
    if (!result)
        return fd;
    SYS(close, fd);
    return result;
}

/* The mapping is of the open file that @fd stands for: a lock on it lives as long as the mapping. */
static int file_keep(const char *path, struct pool *pool, int *fd)
{
    *fd = pool_file_open(path, pool);
    if (*fd < 0)
        return *fd;
    long at = SYS(mmap, pool->header, layout_pool_size(), PROT_READ, MAP_SHARED | MAP_FIXED, *fd, 0);
    if (is_address(at))
        return 0;
    SYS(close, *fd);
    return pool_map_error(at);
}

int pool_open(const char *path, struct pool *pool, int *fd)
{
    *pool = (struct pool){.header = NULL};
    int file = file_open(path, O_RDONLY);
    if (file < 0)
        return file;
    int result = file_map(path, file, pool);
    SYS(close, file); /* one descriptor at a time: a program may have no more left */
    if (!result)
        result = shares_map(path, pool);
    if (!result && fd)
        result = file_keep(path, pool, fd);
    if (result)
        pool_close(pool);
    return result;
}

void pool_close(struct pool *pool)
{
    if (pool->header)
        SYS(munmap, pool->header, layout_pool_size());
    if (pool->counters)
        SYS(munmap, pool->counters, pool->shared_size);
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
        {EPERM, "its owner is neither root nor this user, or others may write it"},
        {ENOLINK, "its shares are not there, not its own, or cannot be opened: the folder must be there, not "
                  "the file alone; or remove it and create it again"},
        {EMFILE, "the program has too many open files"},
        {ENFILE, "the system has too many open files"},
        {E2BIG, "so many lanes for so many ports would need more than 128 MiB"},
        {EMEDIUMTYPE, "it is not a fixport pool"},
        {EPROTO, "it is a pool of another version of fixport: remove it and create it again"},
        {EBADMSG, "it is damaged (truncated or overwritten): remove it and create it again"},
        {ESTALE, "it has just been removed"},
        {EEXIST, "it exists already"},
        {ENOSPC, "no space left"},
        {EFBIG, "the limit on file sizes (ulimit -f) is too small for it"},
        {ENOMEM, "not enough memory to map it"},
        {EDQUOT, "the limit on locked memory (ulimit -l) is too small for it"},
        {EROFS, "the file system is read-only"},
        {ENOTDIR, "part of the path is not a directory"},
        {ENAMETOOLONG, "the path is too long"},
        {ENOLCK, "the file system has no open-file-description locks"},
        {ENOSYS, "the program may not make the system calls for it"},
        {EKEYREJECTED,
         "it is not this user's alone (mode 0600, one link), or has other rules than are asked "
         "for"},
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
        verdict->generation = generation;
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&pool->header->generation, memory_order_relaxed) == generation)
            break;
    }
    return found;
}

int pool_policy(const struct pool *pool, struct policy *copy)
{
    for (int tries = 0; tries < 8; tries++) {
        uint32_t generation = atomic_load(&pool->header->generation);
        memcpy(copy, pool->policy[generation & 1], sizeof(*copy));
        if (atomic_load(&pool->header->generation) == generation)
            break;
    }
    return policy_valid(copy) ? 0 : -EBADMSG;
}

_Atomic uint64_t *pool_word(const struct pool *pool, uint32_t lane, uint16_t port)
{
    uint32_t place = pool->header->pagemap[port / POOL_PAGE_PORTS];
    if (place >= pool->places || lane >= pool->lanes)
        return NULL;
    return &pool->word[((size_t)place * pool->lanes + lane) * POOL_PAGE_PORTS +
                       port % POOL_PAGE_PORTS];
}

void pool_held(const struct pool *pool, uint32_t place, uint8_t held[POOL_LANES_MAX])
{
    long result = -ENOSYS;
#ifdef __x86_64__ /* a lane's words are a page: elsewhere one may be larger */
    result = SYS(mincore, &pool->word[(size_t)place * pool->lanes * POOL_PAGE_PORTS],
                 layout_place_bytes(pool->lanes), held);
#endif
    if (result)
        memset(held, 1, POOL_LANES_MAX);
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
