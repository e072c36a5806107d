/* SPDX-License-Identifier: MIT */
/*
 * A private copy of a pool, for tools that only look.
 *
 * Why a copy: whoever may write the shares may also truncate them, and touching a truncated mapping is
 * SIGBUS. What has been read with pread(2) cannot change any more. It is not taken at one instant: words
 * that change meanwhile may be seen before or after. Of words, which may be 128 MiB, there is no copy:
 * they are read once for each walk through the leases.
 */
#ifndef FIXPORT_SNAPSHOT_H
#define FIXPORT_SNAPSHOT_H

#include "../../pool/pool.h"

struct snapshot {
    struct pool pool; /* of the copies, not of the files */
    struct policy policy; /* the current one, verified */
    void *memory; /* the pool's own file */
    void *shares; /* all but the words; pool.word is NULL */
    int shares_fd;
    int fd; /* of the pool's own file: for holder_alive() */
    mode_t mode; /* of the shares */
    gid_t group;
    uint64_t now; /* sys_now_ms() when the copy was begun */
    uint64_t wall; /* CLOCK_REALTIME then, seconds */
};

/* What a lane's other side is (snapshot_lane_kind). */
enum lane_kind {
    LANE_UNUSED, /* nobody has connected through it */
    LANE_DEST, /* lane.dest is its destination: the hash agrees */
    LANE_SHARED, /* by all destinations that found no lane of their own */
    LANE_UNKNOWN, /* has a key, but its dest does not belong to it: being made, or garbled */
};

/**
 * snapshot_take - copy and check a pool.
 * Return: 0, or an error of pool_open() or read(2).
 */
int snapshot_take(const char *path, struct snapshot *snapshot);

/** snapshot_free - give back what snapshot_take() got. */
void snapshot_free(struct snapshot *snapshot);

/** snapshot_lane_kind - what @lane (< pool.lanes) leads to. */
enum lane_kind snapshot_lane_kind(const struct snapshot *snapshot, uint32_t lane);

/** snapshot_lane_text - "10.0.0.1:443", "shared" or "unknown". As snprintf(3). */
size_t snapshot_lane_text(const struct snapshot *snapshot, uint32_t lane, char *buf, size_t size);

/* A lease as the copy has it. state is WORD_USED, WORD_LETGO or WORD_RESTING. */
struct snapshot_lease {
    enum word_state state;
    uint32_t holder; /* slot + 1, or 0; unchecked */
    uint32_t lane;
    uint16_t port;
    uint8_t name; /* by which address of the server: of the word, unchecked */
    uint64_t age; /* ms in this state */
};

/**
 * snapshot_lease_address - the address of the server by which the lease's holder has taken the port.
 * @address: the result.
 * Return: false: it is not known, or the lane has no destination.
 */
bool snapshot_lease_address(const struct snapshot *snapshot, const struct snapshot_lease *lease,
                            struct dest *address);

typedef void (*snapshot_each)(const struct snapshot_lease *lease, void *arg);

/** snapshot_lease - the lease of a port (1..65535) in a lane (< pool.lanes). Return: false: there is none. */
bool snapshot_lease(const struct snapshot *snapshot, uint32_t lane, uint16_t port,
                    struct snapshot_lease *lease);

/**
 * snapshot_each_lease - call @each with @arg for every lease, lane by lane, ports ascending.
 * A port whose quarantine is over is free and not reported.
 */
void snapshot_each_lease(const struct snapshot *snapshot, snapshot_each each, void *arg);

/** snapshot_each_by_port - the same, port by port, lanes ascending. Return: 0; -ENOMEM, for up to 16 MiB. */
int snapshot_each_by_port(const struct snapshot *snapshot, snapshot_each each, void *arg);

#endif
