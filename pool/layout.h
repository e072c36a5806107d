/* SPDX-License-Identifier: MIT */
/*
 * The format of a pool: what processes of one node agree on. Two files:
 *
 *   the pool      header | policy 0 | policy 1                   for its owner to write, for others to read
 *   its shares    counters | holders | lane keys | lanes | words   for all that use the pool to write
 *
 * What steers a process lies in the first, which programs map read-only: that one is trusted, and
 * checked for mistakes only. The second holds nothing to believe: whatever somebody writes there can
 * cost others a retry or a port, and every index read from it is checked at use. The first names
 * the second (header.shared), which lies beside it or in the folder "shared" there, so that a pod can
 * have the one mounted read-only and the other not.
 *
 * Both sizes follow from the header, are bounded by POOL_SHARED_MAX, and never change. Shares that
 * were cut short are made as long again by whoever opens them; zeros are what new ones have.
 *
 * Words. For each port of the policy's ranges and each lane there is one 64-bit word:
 *
 *   63..60 state | 59..48 holder (slot + 1) | 47..40 name | 39..0 when, in ms of CLOCK_MONOTONIC
 *
 * A word gives one holder (a network namespace) the sole right to use that port towards the
 * lane's destinations. The name is 0, but for a server with several addresses (aliases, policy.h): there
 * it is the one that the holder uses, and the right is towards that one only; or it is not known which.
 * All zeros is a free word, so new shares need no initialising.
 *
 * Word blocks. The port space is cut into 128 pages of 512 ports. Only pages that the policy
 * touches have words: pagemap gives each its place. words[(place * lanes + lane) * 512 + port % 512].
 *
 * Lanes. A lane belongs to one destination (its key is a 64-bit hash of address and port) from the
 * first connection there until the pool is made anew: keys are only ever inserted, by one
 * compare-and-swap, which is what makes two processes agree without a lock. The last
 * lanes_shared lanes have no key: destinations that come after all keys are taken share them by
 * hash. Sharing means fewer ports, never a clash: a port that one namespace has there is not to be
 * had by another towards any destination of the lane. Within a namespace nothing is lost.
 *
 * Lanes are not freed, though one without a word in use looks free. Who takes a port has found the
 * lane before, so all would have to look at its key once more afterwards, as lease_confirm() does
 * at the word, and only one may free at a time, or the key is another's and then the first one's
 * again unseen. A freed key must not end the search of others, nor may two processes give one
 * destination two lanes, one in the gap and one behind it. And a destination that moves from a shared
 * lane to its own must be kept apart from the connections it has in the first: a second word to
 * take in each connect, and a proof that no order of deaths tears the two apart. Against that, a lane
 * costs 4 KiB for 512 ports, there may be 4096, and a pool in /run is new with each start.
 */
#ifndef FIXPORT_LAYOUT_H
#define FIXPORT_LAYOUT_H

#include "policy.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define POOL_MAGIC 0x314c4f4f50504946ull /* "FIPPOOL1" */
#define POOL_VERSION 2u /* 1: fixport 0.1.0, one file */

#define POOL_PAGE_PORTS 512u
#define POOL_PORT_PAGES 128u
#define POOL_NO_PLACE 0xffu

#define POOL_LANES_MIN 2u
#define POOL_LANES_MAX 4096u
#define POOL_LANES_BUDGET (4u << 20) /* bytes of words that a new pool aims at */
#define POOL_SHARED_MAX (128u << 20) /* bytes of shares that a pool may have */
#define POOL_SHARED_FOLDER "shared" /* for the shares, if it is there beside the pool */
#define POOL_SHARED_DIGITS 16u /* of the tag that tells a pool's shares from another's */
#define POOL_SHARED_NAME 64u /* bytes of header.shared, with its NUL */
#define POOL_SPARE_PLACES 4u /* pages that a reload may add */

#define POOL_HOLDERS 1024u
#define POOL_SLOTS 4095u /* that a word can name; those from POOL_HOLDERS on are guests' (holder.h) */

/* Byte offset of the lock of slot 0 in the pool's own file (holder.h); far past any file's end. */
#define POOL_HOLDER_LOCK_BASE (1ull << 40)

/* A mapping of the pool's own file at (slot + 1) times this says which slot a process keeps. */
#define POOL_ANCHOR_STEP 65536u

enum word_state {
    WORD_FREE = 0, /* nobody's */
    WORD_USED = 1, /* the holder has a socket there, or is about to; when: taken; or a time to come:
                    * until then a thread of the holder's keeps others away (lease_hold()) */
    WORD_LETGO = 2, /* the holder's still, but probably closed (a hint); when: of the hint */
    WORD_RESTING = 3, /* in quarantine since when; the last holder may have it at once */
    WORD_CLOSING = 4, /* as LETGO, but the kernel, asked then, said that it is not over */
};

#define WORD_WHEN_MASK ((1ull << 40) - 1)
#define WORD_HOLDER_MASK 0xfffull
#define WORD_OWNER_MASK 0xfffffull
#define WORD_NAME_UNKNOWN 0xffu /* some name of the server's: not any that is asked for */

/* holder: slot + 1, or 0 for nobody. when: ms. The name is 0. */
static inline uint64_t word_make(enum word_state state, uint32_t holder, uint64_t when)
{
    return (uint64_t)state << 60 | (holder & WORD_HOLDER_MASK) << 48 | (when & WORD_WHEN_MASK);
}

static inline enum word_state word_state(uint64_t word)
{
    return (enum word_state)(word >> 60);
}

static inline uint32_t word_holder(uint64_t word)
{
    return word >> 48 & WORD_HOLDER_MASK;
}

/* The holder and the name that it uses. */
static inline uint32_t word_owner(uint64_t word)
{
    return word >> 40 & WORD_OWNER_MASK;
}

/* The name that the holder uses. */
static inline uint8_t word_alias_name(uint64_t word)
{
    return (uint8_t)(word >> 40);
}

/* How near it is to being had by others; 0 too for a state that makes no sense. */
static inline int word_freedom(uint64_t word)
{
    static const int order[] = {
        [WORD_USED] = 0, [WORD_CLOSING] = 1, [WORD_LETGO] = 2, [WORD_RESTING] = 3, [WORD_FREE] = 4};
    return word_state(word) <= WORD_CLOSING ? order[word_state(word)] : 0;
}

/* The same owner's in another state. */
static inline uint64_t word_moved(uint64_t word, enum word_state state, uint64_t when)
{
    return (uint64_t)state << 60 | (word & WORD_OWNER_MASK << 40) | (when & WORD_WHEN_MASK);
}

static inline uint64_t word_when(uint64_t word)
{
    return word & WORD_WHEN_MASK;
}

enum pool_state {
    POOL_LIVE = 1,
    POOL_RETIRED = 2, /* removed or replaced: look at the path again */
};

struct pool_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_size; /* sizeof(struct pool_header): another layout is another version */
    uint64_t file_size; /* of the pool, layout_pool_size() */
    uint32_t lanes; /* all lanes, POOL_LANES_MIN..POOL_LANES_MAX */
    uint32_t lanes_shared; /* the last of them, 1..lanes-1 */
    uint32_t places; /* pages of words there is room for, 1..POOL_PORT_PAGES */
    uint32_t holders; /* POOL_HOLDERS */
    uint64_t seed; /* secret of the lane hash */
    uint64_t created; /* CLOCK_REALTIME, seconds */
    uint8_t pagemap[POOL_PORT_PAGES]; /* port / 512 -> place, or POOL_NO_PLACE */

    _Alignas(64) _Atomic uint32_t state; /* enum pool_state; where version 1 had it */
    _Atomic uint32_t generation; /* of the policy; policy[generation & 1] is the one */
    uint64_t shared_inode; /* of the shares: no other file is taken for them */
    char shared[POOL_SHARED_NAME]; /* their name in the pool's folder: "pool.1f3a", "shared/pool.1f3a" */
    _Atomic uint64_t moving; /* CLOCK_MONOTONIC ms: until then a reload moves words (move.c), or 0 */
};

/* The begin of the shares. Anybody's to write: for people, and to ask others for ports. */
struct pool_counters {
    _Atomic uint64_t wanted; /* CLOCK_MONOTONIC ms of the last search that found no port: see lease.c */
    _Atomic uint64_t exhausted; /* connects that found no port */
    _Atomic uint64_t passed; /* of these, let through unbound (when-exhausted = pass) */
    _Atomic uint64_t waited; /* of these, waited first */
    _Atomic uint64_t retries; /* ports that the kernel refused, so that another was taken */
    _Atomic uint64_t reconciled; /* times a namespace's leases were compared with the kernel */
    _Atomic uint64_t reclaimed; /* leases taken back by that */
    _Atomic uint64_t buried; /* holders found dead */
    _Atomic uint64_t lost; /* connections undone because their lease had passed to another */
    _Atomic uint64_t guests; /* times that a process found no slot for its namespace */
};

/* A holder: one network namespace. Alive as long as some process holds its lock (holder.h). */
struct pool_holder {
    _Atomic uint64_t cookie; /* SO_NETNS_COOKIE of the namespace, or see holder.c; 0: slot unused */
    _Atomic uint64_t taken; /* ports taken, ever */
    _Atomic uint64_t reconciled_ms; /* CLOCK_MONOTONIC of the last reconciliation */
    uint64_t netns; /* inode of /proc/self/ns/net, or 0 if not known */
    uint64_t since; /* CLOCK_REALTIME, seconds */
    uint32_t pid; /* of the first process, in its own pid namespace */
    uint32_t uid; /* of the first process */
    char host[64]; /* the host name the first process saw: a pod's name. Untrusted text */
    char command[16]; /* the first process' name. Untrusted text */
};

/* A lane's other side; what people see, and what waiters wait on. The key is apart (lane_key). */
struct pool_lane {
    struct dest dest; /* untrusted; belongs to the key once its hash agrees */
    uint8_t reserved[2];
    _Atomic uint32_t released; /* counts words let go: a futex for POLICY_WAIT */
    _Atomic uint32_t waiting; /* a bit for each holder (slot + 1, modulo 32) that may wait */
    _Atomic uint32_t hand; /* counts searches: see lease.c */
    uint8_t reserved2[8];
    _Atomic uint64_t kept; /* CLOCK_MONOTONIC ms: the kernel refused to reuse a TIME_WAIT */
    uint8_t reserved3[16];
};

_Static_assert(offsetof(struct pool_header, state) == 192, "version 1 can be told that it is retired");
_Static_assert(sizeof(struct dest) == 18, "dest is part of the format");
_Static_assert(sizeof(struct pool_lane) == 64, "one cache line a lane");
_Static_assert(sizeof(struct pool_holder) == 128, "two cache lines a holder");

#endif
