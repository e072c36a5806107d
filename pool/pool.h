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

#include <sys/types.h>

#define POOL_DEFAULT_PATH "/run/fixport/pool"

/*
 * A mapped pool. The sizes were read once and checked against the file; only these are used, never
 * again the header's. Immutable after pool_open(), so any thread may use it.
 */
struct pool {
    struct pool_header *header; /* NULL: not open */
    const struct policy *policy[2];
    struct pool_holder *holder;
    _Atomic uint64_t *lane_key;
    struct pool_lane *lane;
    _Atomic uint64_t *word;
    size_t size; /* bytes mapped: the whole file */
    uint32_t lanes;
    uint32_t lanes_shared;
    uint32_t places;
    uint64_t seed;
};

/* What pool_create() needs beyond the policy. */
struct pool_options {
    uint32_t lanes; /* 0: as many as POOL_LANES_BUDGET gives */
    mode_t mode; /* 0600..0666 */
    gid_t group; /* (gid_t)-1: the creator's */
};

/**
 * pool_open - open, check and map a pool file.
 * @path: not followed if its last component is a symlink.
 * @pool: the result; pool->header is NULL on failure.
 * @fd: if not NULL, receives a descriptor of the very open file that is mapped, which the caller
 *      closes (holder_join() needs it); else it is closed.
 *
 * Return: 0, or
 *   -ENOENT, -EACCES, ...  as open(2);
 *   -ELOOP     it is a symlink;
 *   -EISDIR    it is a directory; -EINVAL not a regular file;
 *   -EPERM     its owner is neither root nor this user;
 *   -EMEDIUMTYPE  no pool: no magic number, or too short for a header;
 *   -EPROTO    a pool of another version;
 *   -EBADMSG   truncated, or sizes or policy that do not fit;
 *   -ESTALE    retired (removed while it was being opened).
 * pool_strerror() says these in words.
 */
int pool_open(const char *path, struct pool *pool, int *fd);

/**
 * pool_attach - as pool_open() for a buffer: check @size bytes at @memory and fill @pool.
 * @pool is untouched on failure.
 */
int pool_attach(void *memory, size_t size, struct pool *pool);

/** pool_close - unmap. The locks that its open file anchors go with it. */
void pool_close(struct pool *pool);

/** pool_strerror - what a pool_open() result means, the second half of a sentence. */
const char *pool_strerror(int error);

/**
 * pool_match - the current policy's rule for a destination, stable under a concurrent reload.
 * Return: true if a rule matches. Any thread; async-signal-safe.
 */
bool pool_match(const struct pool *pool, const struct dest *dest, struct policy_verdict *verdict);

/* What a socket needs that must have a port before its destination is known. */
struct pool_any {
    struct portset ports; /* that suit as many rules as can be, the first ones first */
    uint32_t quarantine_ms;
};

/** pool_any_rule - ports for a socket whose rule is not known yet. Return: false if there are none. */
bool pool_any_rule(const struct pool *pool, struct pool_any *any);

/** pool_policy - a copy of the current policy, checksum verified. Return: 0 or -EBADMSG. */
int pool_policy(const struct pool *pool, struct policy *copy);

/**
 * pool_word - the word of a port in a lane.
 * @lane: < pool->lanes. @port: 1..65535.
 * Return: NULL if the pool has no words for that port.
 */
_Atomic uint64_t *pool_word(const struct pool *pool, uint32_t lane, uint16_t port);

/**
 * pool_lane_find - the lane of a destination.
 * @insert: claim a lane if it has none yet.
 * Return: an index < pool->lanes; without @insert -ENOENT if it has none and none is shared by it.
 */
int pool_lane_find(const struct pool *pool, const struct dest *dest, bool insert);

/**
 * pool_create - make a new pool file, whole or not at all.
 * @path: must not exist. A pool under /run/fixport gets that folder made (0755).
 * The file is filled under a temporary name and linked to its own, so nobody sees half a pool, and
 * its pages are allocated now: later writes cannot fail for lack of space.
 *
 * Return: 0; -EEXIST; -ENOSPC; -EFBIG (RLIMIT_FSIZE); other errors of open(2), link(2).
 */
int pool_create(const char *path, const struct policy *policy, const struct pool_options *options);

#define POOL_LOCK_MS 3000 /* how long a change waits for another one to end */

/**
 * pool_reload - give a live pool another policy, in place.
 * @locked: under flock(2). Without, two who do it at once can leave a damaged pool.
 * Return: 0; 1 if it was the same already; -EWOULDBLOCK if somebody held the lock for POOL_LOCK_MS;
 * -ENOSPC if its ports need more pages than the pool has room for (make a new pool then); errors of
 * pool_open().
 */
int pool_reload(const char *path, const struct policy *policy, bool locked);

/** pool_remove - retire a pool and unlink its file. Return: 0 or an error of pool_open(). */
int pool_remove(const char *path);

#endif
