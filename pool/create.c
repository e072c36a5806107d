/* SPDX-License-Identifier: MIT */
/*
 * Making, changing and removing a pool: the rare operations.
 *
 * A new pool is filled in a file that has no name yet (O_TMPFILE, or a temporary name where the
 * file system lacks that) and then linked to its path: link(2) is atomic and fails if the path
 * exists, so of many creators one wins and nobody ever opens half a pool. A change of policy is
 * written into the slot that nobody reads, then the generation moves on; flock(2) keeps two who
 * change it apart, but not for ever: a change takes milliseconds, and any user of the pool can hold
 * that lock.
 */
#include "layout_size.h"
#include "pool.h"
#include "sys.h"
#include "text.h"

#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>

#define RELOAD_PAUSE_MS 20

static bool place_is_used(const uint8_t pagemap[POOL_PORT_PAGES], uint32_t place)
{
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++)
        if (pagemap[page] == place)
            return true;
    return false;
}

/*
 * Gives each page of ports in a range that has none a place: the first that is not used. There may
 * be gaps, if a reload was killed while it wrote the map.
 */
static void pagemap_add(const struct portrange *range, void *arg)
{
    uint8_t *pagemap = arg;
    for (uint32_t page = range->lo / POOL_PAGE_PORTS; page <= range->hi / POOL_PAGE_PORTS; page++) {
        uint8_t place = 0;
        if (pagemap[page] != POOL_NO_PLACE)
            continue;
        while (place_is_used(pagemap, place))
            place++;
        pagemap[page] = place;
    }
}

/* How many places there must be for a map. */
static uint32_t pagemap_places(const uint8_t pagemap[POOL_PORT_PAGES])
{
    uint32_t places = 0;
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++)
        if (pagemap[page] != POOL_NO_PLACE && pagemap[page] >= places)
            places = pagemap[page] + 1u;
    return places;
}

static uint32_t lanes_for(uint32_t places)
{
    uint32_t lanes = POOL_LANES_BUDGET / (places * POOL_PAGE_BYTES);
    return lanes < 16 ? 16 : lanes > 256 ? 256 : lanes;
}

static uint32_t places_for(uint32_t used)
{
    uint32_t places = used + POOL_SPARE_PLACES;
    return places > POOL_PORT_PAGES ? POOL_PORT_PAGES : places;
}

static uint64_t realtime(void)
{
    struct timespec now = {.tv_sec = 0};
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec;
}

static void header_init(struct pool_header *header, const struct policy *policy, uint32_t lanes)
{
    memset(header, 0, sizeof(*header));
    memset(header->pagemap, POOL_NO_PLACE, sizeof(header->pagemap));
    policy_each_range(policy, pagemap_add, header->pagemap);
    uint32_t places = pagemap_places(header->pagemap);

    header->magic = POOL_MAGIC;
    header->version = POOL_VERSION;
    header->header_size = sizeof(*header);
    header->lanes = lanes ? lanes : lanes_for(places);
    header->lanes_shared = header->lanes < 8 ? 1 : header->lanes / 8;
    header->places = places_for(places);
    header->holders = POOL_HOLDERS;
    header->file_size = layout_size(header->lanes, header->places);
    header->created = realtime();
    SYS(getrandom, &header->seed, sizeof(header->seed), GRND_NONBLOCK);
    header->state = POOL_LIVE;
    header->policy_checksum[0] = policy_checksum(policy);
}

/* ftruncate() past RLIMIT_FSIZE would raise SIGXFSZ in a program that never asked for a file. */
static int size_allowed(uint64_t size)
{
    struct rlimit limit;
    if (SYS(prlimit64, 0, RLIMIT_FSIZE, NULL, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < size)
        return -EFBIG;
    return 0;
}

/* Allocates all that the policy uses; spare places stay holes until a reload needs them. */
static int file_allocate(int fd, const struct pool_header *header)
{
    size_t now = layout_words(header->lanes) +
                 pagemap_places(header->pagemap) * layout_place_bytes(header->lanes);
    int result = (int)SYS(fallocate, fd, 0, 0, now);
    if (result == -EOPNOTSUPP)
        result = 0;
    return result ? result : (int)SYS(ftruncate, fd, header->file_size);
}

static int write_all(int fd, const void *data, size_t size, size_t offset)
{
    const char *at = data;
    while (size) {
        long wrote = SYS(pwrite64, fd, at, size, offset);
        if (wrote == -EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? (int)wrote : -EIO;
        at += wrote;
        offset += (size_t)wrote;
        size -= (size_t)wrote;
    }
    return 0;
}

static int file_fill(int fd, const struct policy *policy, const struct pool_options *options)
{
    struct pool_header header;
    header_init(&header, policy, options->lanes);
    int result = size_allowed(header.file_size);
    if (!result)
        result = file_allocate(fd, &header);
    if (!result)
        result = write_all(fd, policy, sizeof(*policy), layout_policy(0));
    if (!result)
        result = write_all(fd, &header, sizeof(header), 0);
    if (!result && options->group != (gid_t)-1)
        result = (int)SYS(fchown, fd, -1, options->group);
    if (!result)
        result = (int)SYS(fchmod, fd, options->mode);
    return result;
}

/* The folder of a path, "." if it has none. Return: 0 or -ENAMETOOLONG. */
static int path_folder(const char *path, char folder[PATH_MAX])
{
    size_t length = strlen(path);
    if (length >= PATH_MAX)
        return -ENAMETOOLONG;
    while (length && path[length - 1] != '/')
        length--;
    struct text text = text_begin(folder, PATH_MAX);
    if (length)
        text_string_n(&text, path, length);
    else
        text_char(&text, '.');
    return 0;
}

static int link_unnamed(int fd, const char *path)
{
    char self[40];
    struct text text = text_begin(self, sizeof(self));
    text_string(&text, "/proc/self/fd/");
    text_number(&text, (unsigned)fd, 10);
    return (int)SYS(linkat, AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

static int create_unnamed(const char *folder, const char *path, const struct policy *policy,
                          const struct pool_options *options)
{
    int fd = (int)SYS(openat, AT_FDCWD, folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        return fd;
    int result = file_fill(fd, policy, options);
    if (!result)
        result = link_unnamed(fd, path);
    SYS(close, fd);
    return result;
}

static int create_named(const char *path, const struct policy *policy,
                        const struct pool_options *options)
{
    char name[PATH_MAX];
    uint64_t tag = 0;
    SYS(getrandom, &tag, sizeof(tag), GRND_NONBLOCK);
    struct text text = text_begin(name, sizeof(name));
    text_string(&text, path);
    text_char(&text, '.');
    text_number(&text, tag, 16);
    if (text.length >= sizeof(name))
        return -ENAMETOOLONG;
    int fd = (int)SYS(openat, AT_FDCWD, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    int result = file_fill(fd, policy, options);
    if (!result)
        result = link_unnamed(fd, path); /* the name may be another file's by now */
    if (result == -ENOENT) /* no /proc */
        result = (int)SYS(linkat, AT_FDCWD, name, AT_FDCWD, path, 0);
    SYS(unlinkat, AT_FDCWD, name, 0);
    SYS(close, fd);
    return result;
}

/* Only the default folder is made: it lies on a tmpfs that every boot empties. */
static void make_default_folder(const char *folder)
{
    if (strcmp(folder, "/run/fixport/") == 0)
        SYS(mkdirat, AT_FDCWD, folder, 0755);
}

int pool_create(const char *path, const struct policy *policy, const struct pool_options *options)
{
    char folder[PATH_MAX];
    struct stat st;
    int result = path_folder(path, folder);
    if (result)
        return result;
    make_default_folder(folder);
    if (SYS(newfstatat, AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
    result = create_unnamed(folder, path, policy, options);
    if (result == -EOPNOTSUPP || result == -EISDIR || result == -ENOENT || result == -EINVAL)
        result = create_named(path, policy, options);
    return result;
}

/* Adds what a new policy needs to the page map, in a copy. Return: 0 or -ENOSPC. */
static int pagemap_extend(const struct pool *pool, const struct policy *policy,
                          uint8_t pagemap[POOL_PORT_PAGES])
{
    memcpy(pagemap, pool->header->pagemap, POOL_PORT_PAGES);
    policy_each_range(policy, pagemap_add, pagemap);
    return pagemap_places(pagemap) <= pool->places ? 0 : -ENOSPC;
}

static int places_allocate(const struct pool *pool, int fd, uint32_t places)
{
    uint32_t before = pagemap_places(pool->header->pagemap);
    if (places <= before)
        return 0;
    size_t bytes = layout_place_bytes(pool->lanes);
    int result = (int)SYS(fallocate, fd, 0, layout_words(pool->lanes) + before * bytes,
                          (places - before) * bytes);
    return result == -EOPNOTSUPP ? 0 : result;
}

static int policy_replace(const struct pool *pool, int fd, const struct policy *policy)
{
    struct pool_header *header = pool->header;
    uint8_t pagemap[POOL_PORT_PAGES];
    uint32_t generation = atomic_load(&header->generation);
    if (memcmp(pool->policy[generation & 1], policy, sizeof(*policy)) == 0)
        return 1;
    int result = pagemap_extend(pool, policy, pagemap);
    if (!result)
        result = places_allocate(pool, fd, pagemap_places(pagemap));
    if (result)
        return result;
    uint32_t slot = (generation + 1) & 1;
    memcpy((void *)(uintptr_t)pool->policy[slot], policy, sizeof(*policy));
    header->policy_checksum[slot] = policy_checksum(policy);
    memcpy(header->pagemap, pagemap, sizeof(header->pagemap));
    atomic_store(&header->generation, generation + 1);
    return 0;
}

/* Anybody who may open the pool can hold this lock, for ever. */
static int reload_lock(int fd)
{
    static const struct timespec pause = {.tv_nsec = RELOAD_PAUSE_MS * 1000000l};
    int result = -EINTR;
    for (int waited = 0; result == -EINTR || result == -EWOULDBLOCK; waited += RELOAD_PAUSE_MS) {
        result = (int)SYS(flock, fd, LOCK_EX | LOCK_NB);
        if (result == -EWOULDBLOCK && waited >= POOL_LOCK_MS)
            return result;
        if (result == -EWOULDBLOCK)
            SYS(nanosleep, &pause, NULL);
    }
    return result;
}

int pool_reload(const char *path, const struct policy *policy, bool locked)
{
    struct pool pool;
    int fd;
    int result = pool_open(path, &pool, &fd);
    if (result)
        return result;
    if (locked)
        result = reload_lock(fd);
    if (!result)
        result = policy_replace(&pool, fd, policy);
    pool_close(&pool);
    SYS(close, fd);
    return result;
}

int pool_remove(const char *path)
{
    struct pool pool;
    int result = pool_open(path, &pool, NULL);
    if (result)
        return result;
    result = (int)SYS(unlinkat, AT_FDCWD, path, 0);
    if (!result)
        atomic_store(&pool.header->state, POOL_RETIRED);
    pool_close(&pool);
    return result;
}
