/* SPDX-License-Identifier: MIT */
/*
 * One call that connects, on its way: what the files share that put a port on its socket.
 *
 *   port.c      begin, next, settle; theory of operation on top
 *   put.c       the three ways to put a port on the socket
 *   source.c    where the connection will come from, and what the kernel has there
 *   linger.c    whether connections leave a TIME_WAIT
 *   lack.c      when no port is left
 *   wait.c      when-exhausted = wait
 */
#ifndef FIXPORT_ATTEMPT_H
#define FIXPORT_ATTEMPT_H

#include "shim.h"

/* What became of putting a port on a socket, or of asking whether that can be done. */
enum outcome {
    OUTCOME_DONE,      /* the port is on the socket; or nothing stands against it */
    OUTCOME_TAKEN,     /* not this port: the kernel has something at the 4-tuple */
    OUTCOME_HELD,      /* not this port: the 4-tuple is free, but the port is held towards another
                          destination */
    OUTCOME_UNKNOWN,   /* that cannot be found out, or not in this way */
    OUTCOME_HAS_PORT,  /* the socket is bound, and stays so */
    OUTCOME_FORBIDDEN, /* the program may not bind to this port */
    OUTCOME_NO_WAY, /* no port would do: the call fails with attempt->error, or by itself if that is
                       0 */
};

/* Whose the socket's port is. */
enum binding {
    BINDING_NONE,    /* nobody's: it is chosen at connect */
    BINDING_OURS,    /* the lease's, by bind() */
    BINDING_PROGRAM, /* the lease's, and the program has bound it */
    BINDING_STUCK,   /* the kernel's choice for bind(addr, 0), that cannot be taken back */
};

/* SO_SNDTIMEO as the kernel has it, where a long has 64 bits, or the time of 32. */
struct send_timeout {
    long seconds;
    long microseconds;
};

/* On the caller's stack. The fields are these files' own. */
struct attempt {
    struct shim_pool *at;
    struct shim_netns *netns;
    const struct pool *pool; /* with the leases of the rule: netns_pool() */
    struct policy_verdict verdict;
    struct lease_search search;
    struct lease lease;
    struct sockaddr_storage address; /* the program's, copied */
    struct dest dest;                /* the same */
    struct sockaddr_storage name;    /* the socket's own, once name_length is set */
    socklen_t name_length;
    struct dest source; /* that the connection will have, once has_source is set; the port is not */
    uint64_t began;     /* ms */
    uint64_t mask; /* the thread's signals, while they are held */
    uint64_t budget;    /* ns of this thread's CPU time at the first setback; 0: there was none */
    int fd;
    int error; /* for OUTCOME_NO_WAY: errno */
    int ended; /* errno: a signal or SO_SNDTIMEO has ended the wait */
    int unknown; /* -errno: the kernel's connections could not be compared */
    uint32_t lane;
    uint32_t send_ms; /* SO_SNDTIMEO, of one that waits; 0: none */
    struct send_timeout send; /* the same */
    uint32_t range;      /* the program's own IP_LOCAL_PORT_RANGE, lo | hi << 16; 0: none */
    uint32_t seen;       /* for lease_wait() */
    uint32_t refusals;   /* ports that the kernel has refused */
    uint32_t forbidden;  /* ports that the program may not bind to */
    uint32_t lost;       /* connections undone because their lease had passed to another holder */
    uint32_t taken_back; /* comparisons with the kernel */
    uint32_t rounds;     /* searches made again because some of them come free soon */
    unsigned guarded; /* for guard_end() */
    enum binding binding;
    uint8_t set;  /* what options the program may have set, SET_..., and FRESH_... */
    bool early;   /* SO_REUSEADDR was set before the connection is made: put_port() */
    bool once;    /* the call carries data: it is not made twice */
    bool at_once; /* nor does it wait: MSG_DONTWAIT */
    bool fresh;   /* the socket was just made, as far as is known */
    bool sure;    /* the namespace and its range were looked at in this very tick */
    bool by_bind; /* the range does not work for this socket */
    bool undone;  /* the socket shows a port that it has no more: a connection was undone, or bind()
                   */
    bool again;   /* the port is on the socket already: make the call once more */
    bool ranged; /* the lease's port was put on by range */
    bool waiting;
    bool held; /* signals are, while one that waits searches */
    bool has_source;
    bool recycled; /* bound over a TIME_WAIT */
    bool soon;     /* some port was refused that may come free any moment */
    bool others;     /* at some time, because another socket was about to connect from it */
    bool asked;    /* and the kernel was asked about all of them */
    bool listed;   /* the kernel's connections were listed early: lack_next() */
};

/** attempt_has_bound - whether the socket is bound to the lease's port, by whomever. */
static inline bool attempt_has_bound(const struct attempt *attempt)
{
    return attempt->binding == BINDING_OURS || attempt->binding == BINDING_PROGRAM;
}

/** attempt_shares_lane - whether the lane is that of several destinations. */
static inline bool attempt_shares_lane(const struct attempt *attempt)
{
    const struct pool *pool = attempt->pool;
    return attempt->lane >= pool->lanes - pool->lanes_shared;
}

/**
 * attempt_is_kernels - whether only the kernel keeps others of the namespace away from the lease's port:
 * in such lanes, and in words of the process' own.
 */
static inline bool attempt_is_kernels(const struct attempt *attempt)
{
    return attempt->pool->apart || attempt_shares_lane(attempt);
}

/** counter_add - one more of what the pool counts for people. */
static inline void counter_add(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* ---- connect.c calls these ---- */

enum port_answer {
    PORT_PASS,   /* not this library's business: make the call */
    PORT_READY,  /* make the call, then port_settle() */
    PORT_REFUSE, /* fail with errno, which is set */
};

/** port_begin - whether a call that connects @fd to @address is to be given a port. */
enum port_answer port_begin(struct attempt *attempt, int fd, const struct sockaddr *address,
                            socklen_t length);

/** port_next - put a port on the socket. */
enum port_answer port_next(struct attempt *attempt);

/**
 * port_settle - after the call: keep or let go.
 * @failed: whether it returned -1 (errno set; kept or set by this function).
 * Return: 0: done, return the call's result; 1: port_next() and make the call again; -1: the
 * connection was undone, return -1 (errno is set).
 */
int port_settle(struct attempt *attempt, bool failed);

/* ---- port.c, for lack.c ---- */

/** port_refuse - errno and the answer of a connect that is to get no port. NULL: it came to no search. */
enum port_answer port_refuse(const struct attempt *attempt);

/** port_faulty - this library cannot do its work: say so (fault_set()). @meant: a rule matches. */
enum port_answer port_faulty(bool meant);

/** port_search - begin a search by the rule that is there now. Return: READY, or what to do
 * instead. */
enum port_answer port_search(struct attempt *attempt, uint64_t now);

/** port_has - whether the socket has a port now. */
bool port_has(const struct attempt *attempt);

/** port_already_bound - the answer for a socket that has one, and keeps it. */
enum port_answer port_already_bound(struct attempt *attempt);

/* ---- put.c ---- */

/** put_port - put the lease's port on the socket, in the way that works. Return: never UNKNOWN. */
enum outcome put_port(struct attempt *attempt);

/** put_by_sharing - the third way only, after the kernel has refused the first. */
enum outcome put_by_sharing(struct attempt *attempt);

/** put_share_early - let the socket's port be shared from now on, where that is safe. */
void put_share_early(const struct attempt *attempt);

/** put_range_back - the program's own IP_LOCAL_PORT_RANGE, or none, after one of this library's. */
void put_range_back(const struct attempt *attempt);

/**
 * put_local_range - net.ipv4.ip_local_port_range of the socket's namespace, lo | hi << 16; 0: not
 * known. put_local_range_read - the same, read anew.
 */
uint32_t put_local_range(const struct attempt *attempt);
uint32_t put_local_range_read(const struct attempt *attempt);

/** port_in - whether lo | hi << 16 has a port. */
static inline bool port_in(uint32_t local, uint16_t port)
{
    return (local & 0xffff) <= port && port <= local >> 16;
}

/* ---- source.c ---- */

/**
 * source_state - what the kernel has at the 4-tuple of the lease.
 * @state: 0: nothing; TCP_ESTABLISHED...
 * Return: DONE; UNKNOWN, also where nobody may ask for sockets; NO_WAY.
 */
enum outcome source_state(struct attempt *attempt, int *state);

/**
 * source_is_over - whether it is known without asking that the lease's 4-tuple had a TIME_WAIT, and
 * nothing else since. One load.
 */
bool source_is_over(const struct attempt *attempt);

/** source_name - the socket's own address, once. Return: 0 or -errno. */
int source_name(struct attempt *attempt);

/* ---- linger.c ---- */

/** linger_expected - whether connections that this process closes may leave a TIME_WAIT. One load. */
bool linger_expected(void);

/** linger_look - at a connection that was made: now and then, find that out. */
void linger_look(const struct attempt *attempt);

/* ---- lack.c ---- */

/** lack_next - take the next port, look for more, or wait. Return: READY, or what to do instead. */
enum port_answer lack_next(struct attempt *attempt);

/** lack_exhausted - the rule has no port for this connection: log, count, and do what it says. */
enum port_answer lack_exhausted(struct attempt *attempt);

/** lack_over_budget - whether it has done so much that it is to do no more. */
bool lack_over_budget(struct attempt *attempt);

/** lack_give_back - another namespace has found no port, or may soon: see what this one can spare (lease.c). */
void lack_give_back(struct attempt *attempt);

/* ---- wait.c ---- */

/** wait_may - whether the call may take its time: not on a non-blocking socket. A system call. */
bool wait_may(const struct attempt *attempt);

/**
 * wait_more - wait for a port to come free, if the rule says so.
 * Return: true: a search is worth while, wait_end() to be called after it; false: it does not wait,
 * or no longer; attempt->ended is set if not the rule's time has ended it.
 */
bool wait_more(struct attempt *attempt);

/** wait_end - let the signals through that were held since. */
void wait_end(struct attempt *attempt);

/** wait_count - before the call: what is left of SO_SNDTIMEO. wait_count_end - after it: as it was. */
void wait_count(const struct attempt *attempt);
void wait_count_end(const struct attempt *attempt);

#endif
