/* SPDX-License-Identifier: MIT */
/*
 * The pool as one process sees it: a checked mapping of a pool file (layout.h).
 *
 * Functions return 0 (or what they say) or -errno, never print, never exit, keep errno. pool.c
 * (open, look up) and create.c (create, reload, remove) are embedded in the shim too, which makes a
 * private pool when the environment asks for one.
 */
#ifndef FIXPORT_POOL_H
#define FIXPORT_POOL_H

#include "layout.h"

#include <sys/stat.h>
#include <sys/types.h>

#define POOL_DEFAULT_PATH "/run/fixport/pool"

/*
 * A mapped pool. The sizes were read once and checked against the file; only these are used, never
 * again the header's. Immutable after pool_open(), so any thread may use it.
 */
struct pool {
    const struct pool_header *header; /* NULL: not open; of layout_pool_size() bytes */
    const struct policy *policy[2];
    struct pool_counters *counters; /* the begin of the shares */
    struct pool_holder *holder;
    _Atomic uint64_t *lane_key;
    struct pool_lane *lane;
    _Atomic uint64_t *word;
    size_t shared_size; /* bytes of the shares */
    uint32_t lanes;
    uint32_t lanes_shared;
    uint32_t places;
    uint64_t seed;
    uint64_t device, inode; /* of the pool's file */
    bool apart; /* its words are one namespace's own: for rules of POLICY_ADDRESS, others' are for the rest */
};

/* What pool_create() needs beyond the policy. */
struct pool_options {
    uint32_t lanes; /* 0: as many as POOL_LANES_BUDGET gives */
    mode_t mode; /* 0600..0666: of the shares; the pool itself is for its owner alone to write */
    gid_t group; /* (gid_t)-1: the creator's */
};

/**
 * pool_open - open, check and map a pool.
 * @path: not followed if its last component is a symlink.
 * @pool: the result; pool->header is NULL on failure.
 * @fd: if not NULL, receives a descriptor of the very open file of the pool's own that is mapped, which the
 *      caller closes (holder_join() needs it); else it is closed.
 *
 * Return: 0, or
 *   -ENOENT, -EACCES, ...  as open(2);
 *   -ELOOP     it is a symlink;
 *   -EISDIR    it is a directory; -EINVAL not a regular file;
 *   -EPERM     its owner is neither root nor this user, or others may write it (pool_trusted());
 *   -EMEDIUMTYPE  no pool: no magic number, or too short for a header;
 *   -EPROTO    a pool of another version;
 *   -EBADMSG   truncated, or sizes or policy that do not fit;
 *   -ENOLINK   its shares are not there, another file is in their place, or somebody keeps them from being opened;
 *   -ESTALE    retired (removed while it was being opened).
 * pool_strerror() says these in words.
 */
int pool_open(const char *path, struct pool *pool, int *fd);

/**
 * pool_trusted - whether what a file says may steer this process: it is a regular file that nobody
 * can write but root, this user, or whoever a user namespace does not know.
 * Return: 0, -EISDIR, -EINVAL, -EPERM.
 */
int pool_trusted(const struct stat *st);

/**
 * pool_check - hold @size bytes of a pool's own file against the format and fill @pool but for its
 * shares. @pool is untouched on failure. Return: as pool_open().
 */
int pool_check(const void *memory, size_t size, struct pool *pool);

/** pool_share - the rest of it: the shares, pool->shared_size bytes at @memory. */
void pool_share(struct pool *pool, void *memory);

/**
 * pool_apart - a view of @pool with lanes and words of its own, at @memory: pool->shared_size bytes, zeros.
 * Holders and counters are those of @pool. @seed: of the lanes' hash; they begin elsewhere with each.
 */
void pool_apart(const struct pool *pool, void *memory, uint64_t seed, struct pool *apart);

/**
 * pool_shares_open - open the shares of a pool at @path; what was cut off of them is made up for.
 * @flags: O_RDWR or O_RDONLY. Return: a descriptor; -ENOLINK, others of open(2).
 */
int pool_shares_open(const char *path, const struct pool *pool, int flags);

/**
 * pool_shares_allocate - make sure that what is used of the shares can be touched, which raises
 * SIGBUS where a hole cannot be filled. @fd: of the shares. Return: 0 or -ENOSPC.
 */
int pool_shares_allocate(const struct pool *pool, int fd);

/** pool_file_open - open the own file of @pool at @path again, to read. Return: a descriptor; -ESTALE: that
 * is another one; errors of open(2). */
int pool_file_open(const char *path, const struct pool *pool);

/** pool_close - unmap. The locks that its open file anchors go with it. */
void pool_close(struct pool *pool);

/** pool_map_error - what mmap(2) said, as pool_strerror() takes it. */
int pool_map_error(long result);

/** pool_strerror - what a pool_open() result means, the second half of a sentence. */
const char *pool_strerror(int error);

/**
 * pool_match - the current policy's rule for a destination, stable under a concurrent reload.
 * Return: true if a rule matches. Any thread; async-signal-safe.
 */
bool pool_match(const struct pool *pool, const struct dest *dest, struct policy_verdict *verdict);

/** pool_policy_now - the current policy where it lies: it may change meanwhile. */
static inline const struct policy *pool_policy_now(const struct pool *pool)
{
    return pool->policy[atomic_load_explicit(&pool->header->generation, memory_order_acquire) & 1];
}

/** pool_policy - a copy of the current policy, checked. Return: 0 or -EBADMSG. */
int pool_policy(const struct pool *pool, struct policy *copy);

/**
 * pool_word - the word of a port in a lane.
 * @lane: < pool->lanes. @port: 1..65535.
 * Return: NULL if the pool has no words for that port.
 */
_Atomic uint64_t *pool_word(const struct pool *pool, uint32_t lane, uint16_t port);

/**
 * pool_held - which lanes have words of a page of ports in memory. Whoever may write the shares can make
 * holes in them, which read as free words; and to read one allocates it, at the expense of the reader's
 * control group: so whoever reads them all leaves out what is not there.
 * @place: < pool->places. @held: for each lane whether it has. All have if the kernel does not say.
 */
void pool_held(const struct pool *pool, uint32_t place, uint8_t held[POOL_LANES_MAX]);

/**
 * pool_lane_find - the lane of a destination.
 * @dest: as policy_server() has it, so that all addresses of a server lead to one.
 * @insert: claim a lane if it has none yet.
 * Return: an index < pool->lanes; without @insert -ENOENT if it has none and none is shared by it.
 */
int pool_lane_find(const struct pool *pool, const struct dest *dest, bool insert);

/**
 * pool_create - make a new pool, whole or not at all.
 * @path: must not exist. A pool under /run/fixport gets that folder made (0755). The files are filled before they have names, the pool's last, so nobody sees half a
 * pool; and their pages are allocated now: later writes cannot fail for lack of space.
 *
 * Return: 0; -EEXIST; -ENOSPC; -EFBIG (RLIMIT_FSIZE); -E2BIG (POOL_SHARED_MAX); other errors of
 * open(2), link(2).
 */
int pool_create(const char *path, const struct policy *policy, const struct pool_options *options);

#define POOL_LOCK_MS 3000 /* how long a change waits for another one to end */

/**
 * pool_reload - give a live pool another policy, in place. For its owner: the lock lies in a file
 * beside it that nobody else can open.
 * Return: 0; 1 if it was the same already; -EBUSY if another change took POOL_LOCK_MS;
 * -ENOSPC if its ports need more pages than the pool has room for (make a new pool then); errors of
 * pool_open().
 */
int pool_reload(const char *path, const struct policy *policy);

/**
 * pool_retire - unlink what is at @path, whatever it is; if it is a pool, also one of version 1, tell the
 * programs that use it that it is one no more, and unlink what belongs to it. Return: as unlink(2).
 */
int pool_retire(const char *path);

#endif
