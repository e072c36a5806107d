/* SPDX-License-Identifier: MIT */
/*
 * Making, changing and removing a pool: the rare operations.
 *
 * The shares of a new pool get a name of their own; its own file is filled while it has none
 * (O_TMPFILE, or a temporary name where the file system lacks that) and then linked to its path:
 * link(2) is atomic and fails if the path exists, so of many creators one wins and nobody ever opens
 * half a pool. A change of policy is written into the slot that nobody reads, then the generation
 * moves on; flock(2) keeps two who change it apart, on a file that only the pool's owner can open:
 * any other is one that a pod can hold the lock of, for ever.
 */
#include "layout_size.h"
#include "move.h"
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

/* As many as may be added later, if they all fit. Return: 0: not even those that are used do. */
static uint32_t places_for(uint32_t used, uint32_t lanes)
{
    uint32_t places = used + POOL_SPARE_PLACES;
    places = places > POOL_PORT_PAGES ? POOL_PORT_PAGES : places;
    while (places >= used && layout_shared_size(lanes, places) > POOL_SHARED_MAX)
        places--;
    return places >= used ? places : 0;
}

static uint64_t realtime(void)
{
    struct timespec now = {.tv_sec = 0};
    SYS_CLOCK(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec;
}

/* Return: 0 or -E2BIG. */
static int header_init(struct pool_header *header, const struct policy *policy, uint32_t lanes)
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
    header->places = places_for(places, header->lanes);
    header->holders = POOL_HOLDERS;
    header->file_size = layout_pool_size();
    header->created = realtime();
    SYS(getrandom, &header->seed, sizeof(header->seed), GRND_NONBLOCK);
    header->state = POOL_LIVE;
    return header->places ? 0 : -E2BIG;
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
static int shares_allocate(int fd, const struct pool_header *header)
{
    size_t size = layout_shared_size(header->lanes, header->places);
    size_t now = layout_words(header->lanes) +
                 pagemap_places(header->pagemap) * layout_place_bytes(header->lanes);
    int result = size_allowed(size);
    if (!result)
        result = (int)SYS(fallocate, fd, 0, 0, now);
    if (result == -EOPNOTSUPP)
        result = 0;
    return result ? result : (int)SYS(ftruncate, fd, size);
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

/* What is being made. */
struct making {
    int folder; /* O_PATH */
    const char *name; /* the pool's, in it */
    const struct policy *policy;
    const struct pool_options *options;
    int shares; /* still without a name; -1: they have it */
    int shares_folder;
    bool named; /* not even for a moment without a name: there is no /proc to give it one */
    struct pool_header header;
};

static int file_permit(int fd, const struct making *making, mode_t mode)
{
    int result = 0;
    if (making->options->group != (gid_t)-1)
        result = (int)SYS(fchown, fd, -1, making->options->group);
    return result ? result : (int)SYS(fchmod, fd, mode);
}

static int shares_fill(int fd, struct making *making)
{
    struct stat st;
    int result = shares_allocate(fd, &making->header);
    if (!result)
        result = file_permit(fd, making, making->options->mode);
    if (!result)
        result = (int)SYS(fstat, fd, &st);
    making->header.shared_inode = result ? 0 : st.st_ino;
    return result;
}

static const char *path_name(const char *path)
{
    size_t length = strlen(path);
    while (length && path[length - 1] != '/')
        length--;
    return path + length;
}

static int link_unnamed(int fd, int folder, const char *name)
{
    char self[40];
    struct text text = text_begin(self, sizeof(self));
    text_string(&text, "/proc/self/fd/");
    text_number(&text, (unsigned)fd, 10);
    return (int)SYS(linkat, AT_FDCWD, self, folder, name, AT_SYMLINK_FOLLOW);
}

/* In the folder "shared" if there is one, else beside the pool. */
static int shares_create(struct making *making)
{
    uint64_t tag = 0;
    struct text text = text_begin(making->header.shared, POOL_SHARED_NAME);
    int folder = (int)SYS(openat, making->folder, POOL_SHARED_FOLDER,
                          O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder >= 0)
        text_string(&text, POOL_SHARED_FOLDER "/");
    size_t name = text.length;
    SYS(getrandom, &tag, sizeof(tag), GRND_NONBLOCK);
    text_string_n(&text, making->name, 32);
    text_char(&text, '.');
    text_number(&text, tag | 1ull << 63, 16); /* POOL_SHARED_DIGITS */
    making->shares_folder = folder;
    folder = folder >= 0 ? folder : making->folder;
    int fd = making->shares =
        making->named ? -1 : (int)SYS(openat, folder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        fd = (int)SYS(openat, folder, making->header.shared + name,
                      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    int result = shares_fill(fd, making);
    if (making->shares < 0)
        SYS(close, fd);
    return result;
}

/* At the last moment: who is killed before leaves nothing behind. */
static int shares_link(const struct making *making)
{
    if (making->shares < 0)
        return 0;
    return making->shares_folder < 0
               ? link_unnamed(making->shares, making->folder, making->header.shared)
               : link_unnamed(making->shares, making->shares_folder, path_name(making->header.shared));
}

static int file_fill(int fd, const struct making *making)
{
    int result = size_allowed(layout_pool_size());
    if (!result)
        result = write_all(fd, making->policy, sizeof(*making->policy), layout_policy(0));
    if (!result) /* room for the rules of a reload, when the file system may be full */
        result = write_all(fd, making->policy, sizeof(*making->policy), layout_policy(1));
    if (!result)
        result = write_all(fd, &making->header, sizeof(making->header), 0);
    if (!result)
        result = (int)SYS(ftruncate, fd, layout_pool_size());
    return result ? result : file_permit(fd, making, making->options->mode & ~022u);
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

static int create_unnamed(const struct making *making)
{
    int fd = (int)SYS(openat, making->folder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        return fd;
    int result = file_fill(fd, making);
    if (!result)
        result = shares_link(making);
    if (!result)
        result = link_unnamed(fd, making->folder, making->name);
    SYS(close, fd);
    return result;
}

static int create_named(const struct making *making)
{
    char name[NAME_MAX + 1];
    uint64_t tag = 0;
    SYS(getrandom, &tag, sizeof(tag), GRND_NONBLOCK);
    struct text text = text_begin(name, sizeof(name));
    text_string_n(&text, making->name, 200);
    text_char(&text, '.');
    text_number(&text, tag, 16);
    int fd = (int)SYS(openat, making->folder, name,
                      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    int result = file_fill(fd, making);
    if (!result)
        result = link_unnamed(fd, making->folder, making->name); /* the name may be another file's by now */
    if (result == -ENOENT) /* no /proc */
        result = (int)SYS(linkat, making->folder, name, making->folder, making->name, 0);
    SYS(unlinkat, making->folder, name, 0);
    SYS(close, fd);
    return result;
}

/* Only the default folder is made: it lies on a tmpfs that every boot empties. */
static void make_default_folder(const char *folder)
{
    if (strcmp(folder, "/run/fixport/") == 0)
        SYS(mkdirat, AT_FDCWD, folder, 0755);
}

static int create_by_name(struct making *making)
{
    int result = 0;
    if (making->shares >= 0) {
        SYS(close, making->shares);
        if (making->shares_folder >= 0)
            SYS(close, making->shares_folder);
        making->named = true;
        result = shares_create(making);
    }
    return result ? result : create_named(making);
}

static int files_create(struct making *making)
{
    struct stat st;
    if (SYS(newfstatat, making->folder, making->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
    int result = header_init(&making->header, making->policy, making->options->lanes);
    if (result)
        return result;
    result = shares_create(making);
    if (!result)
        result = create_unnamed(making);
    if (result == -EOPNOTSUPP || result == -EISDIR || result == -ENOENT || result == -EINVAL)
        result = create_by_name(making);
    if (result && making->header.shared[0])
        SYS(unlinkat, making->folder, making->header.shared, 0);
    return result;
}

int pool_create(const char *path, const struct policy *policy, const struct pool_options *options)
{
    char folder[PATH_MAX];
    struct making making = {.policy = policy, .options = options, .shares = -1, .shares_folder = -1};
    int result = path_folder(path, folder);
    if (result)
        return result;
    make_default_folder(folder);
    making.name = path_name(path);
    making.folder = (int)SYS(openat, AT_FDCWD, folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (making.folder < 0)
        return making.folder;
    result = files_create(&making);
    SYS(close, making.folder);
    if (making.shares >= 0)
        SYS(close, making.shares);
    if (making.shares_folder >= 0)
        SYS(close, making.shares_folder);
    return result;
}

/*
 * Adds what a new policy needs to the page map, in a copy. Return: 0; 1: it is the one that is there;
 * -ENOSPC.
 */
static int pagemap_extend(const struct pool *pool, const struct policy *policy,
                          uint8_t pagemap[POOL_PORT_PAGES])
{
    if (memcmp(pool->policy[atomic_load(&pool->header->generation) & 1], policy, sizeof(*policy)) == 0)
        return 1;
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

/* What programs read is written by write(2), into a file that they have mapped; @fd: the pool's own. */
static int policy_write(int fd, const struct pool *pool, const struct policy *policy,
                        const uint8_t pagemap[POOL_PORT_PAGES])
{
    uint32_t next = atomic_load(&pool->header->generation) + 1;
    uint64_t since = sys_now_ms(), until = since + POOL_MOVE_MS, over = 0;
    const struct policy *before = pool->policy[(next - 1) & 1];
    bool moves = pool_moves(before, policy);
    int result = write_all(fd, policy, sizeof(*policy), layout_policy(next & 1));
    if (!result)
        result = write_all(fd, pagemap, POOL_PORT_PAGES, offsetof(struct pool_header, pagemap));
    if (!result && moves)
        result = write_all(fd, &until, sizeof(until), offsetof(struct pool_header, moving));
    if (!result && moves)
        pool_move(pool, before, policy, since, false);
    if (!result)
        result = write_all(fd, &next, sizeof(next), offsetof(struct pool_header, generation));
    if (!result && moves)
        pool_move(pool, before, policy, since, true);
    if (moves)
        write_all(fd, &over, sizeof(over), offsetof(struct pool_header, moving));
    return result;
}

static int policy_replace(const char *path, const struct pool *pool, int shares,
                          const struct policy *policy)
{
    uint8_t pagemap[POOL_PORT_PAGES];
    struct stat st;
    int result = pagemap_extend(pool, policy, pagemap);
    if (!result)
        result = places_allocate(pool, shares, pagemap_places(pagemap));
    if (result)
        return result;
    int fd = (int)SYS(openat, AT_FDCWD, path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fd;
    result = (int)SYS(fstat, fd, &st);
    if (!result && (st.st_dev != pool->device || st.st_ino != pool->inode))
        result = -ESTALE;
    if (!result)
        result = policy_write(fd, pool, policy, pagemap);
    SYS(close, fd);
    return result;
}

static int lock_path(const char *path, char name[PATH_MAX])
{
    struct text text = text_begin(name, PATH_MAX);
    text_string(&text, path);
    text_string(&text, ".lock");
    return text.length < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* One try. Return: a descriptor that has the lock; -EBUSY; -EPERM: others can open that file. */
static int lock_try(const char *name)
{
    struct stat st, there;
    int fd = (int)SYS(openat, AT_FDCWD, name,
                      O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (fd < 0)
        return fd;
    int result = (int)SYS(fstat, fd, &st);
    if (!result && (pool_trusted(&st) || st.st_mode & 077))
        result = -EPERM;
    if (!result)
        result = (int)SYS(flock, fd, LOCK_EX | LOCK_NB);
    if (!result) /* who had it before takes the file away */
        result = (int)SYS(newfstatat, AT_FDCWD, name, &there, AT_SYMLINK_NOFOLLOW);
    if (!result && there.st_ino == st.st_ino)
        return fd;
    SYS(close, fd);
    bool again = !result || result == -ENOENT || result == -EINTR || result == -EWOULDBLOCK;
    return again ? -EBUSY : result; /* EWOULDBLOCK is F_SETLEASE's: pool_strerror() */
}

static int lock_take(const char *name)
{
    static const struct timespec pause = {.tv_nsec = RELOAD_PAUSE_MS * 1000000l};
    int result = lock_try(name);
    for (int waited = 0; result == -EBUSY && waited < POOL_LOCK_MS; waited += RELOAD_PAUSE_MS) {
        SYS(nanosleep, &pause, NULL);
        result = lock_try(name);
    }
    return result;
}

int pool_reload(const char *path, const struct policy *policy)
{
    char name[PATH_MAX];
    struct pool pool;
    int shares;
    int result = lock_path(path, name);
    if (!result)
        result = pool_open(path, &pool, NULL);
    if (result)
        return result;
    shares = pool_shares_open(path, &pool, O_RDWR);
    int lock = shares < 0 ? shares : lock_take(name);
    result = lock < 0 ? lock : policy_replace(path, &pool, shares, policy);
    if (lock >= 0) {
        SYS(unlinkat, AT_FDCWD, name, 0);
        SYS(close, lock);
    }
    pool_close(&pool);
    if (shares >= 0)
        SYS(close, shares);
    return result;
}

static void shares_remove(const char *path, const struct pool_header *header)
{
    struct stat st;
    char name[PATH_MAX];
    struct text text = text_begin(name, sizeof(name));
    text_string_n(&text, path, (size_t)(path_name(path) - path));
    text_string_n(&text, header->shared, POOL_SHARED_NAME);
    if (text.length < sizeof(name) &&
        SYS(newfstatat, AT_FDCWD, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_ino == header->shared_inode)
        SYS(unlinkat, AT_FDCWD, name, 0);
}

int pool_retire(const char *path)
{
    struct pool_header header = {.magic = 0};
    struct stat st;
    uint32_t state = POOL_RETIRED;
    int fd = (int)SYS(openat, AT_FDCWD, path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool known = fd >= 0 && SYS(fstat, fd, &st) == 0 && st.st_nlink == 1 && pool_trusted(&st) == 0 &&
                 SYS(pread64, fd, &header, sizeof(header), 0) == sizeof(header) &&
                 header.magic == POOL_MAGIC;
    int result = (int)SYS(unlinkat, AT_FDCWD, path, 0);
    if (!result && known)
        write_all(fd, &state, sizeof(state), offsetof(struct pool_header, state));
    if (!result && known && header.version == POOL_VERSION)
        shares_remove(path, &header);
    if (fd >= 0)
        SYS(close, fd);
    return result;
}
