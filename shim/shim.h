/* SPDX-License-Identifier: MIT */
/*
 * libfixport.so: what its files share.
 *
 * The library lives in other people's processes. Its rules (preload.md's lessons): it allocates
 * nothing, starts no thread, keeps no descriptor, keeps errno, never ends the process, prints one
 * line only if something is wrong; and whatever it does not understand, it passes on untouched.
 *
 * It is linked with -nostdlib and has no needed library, so that one file loads under glibc, musl
 * and in programs with neither. The few C library functions it uses are weak (weak.h): where they
 * are missing, the shim is inert. It brings its own memcpy() and kin (mem.c).
 *
 *   init.c     the environment, the pool
 *   netns.c    which namespace a socket is in; joining it as holder; setns(), unshare()
 *   check.c    the answer to fixport-run --check
 *   fault.c    the one line on stderr, and the log
 *   guard.c    a pool file truncated under us; sigaction(), signal(), ppoll() and kin for that
 *   real.c     the next connect(), close(), ... in line
 *   port.c     from a destination to a port on a socket: the heart; theory of operation on top;
 *              put.c, source.c, linger.c, lack.c and wait.c are its parts (attempt.h)
 *   connect.c  connect(), sendto(), sendmsg(), sendmmsg()
 *   bind.c     bind() with port 0; theory of operation on top
 *   close.c    close(), close_range(), closefrom(), dup2(), dup3(), socket(), setsockopt(): hints
 *   hint.c     what is remembered about descriptors, never relied on
 *   sock.c     facts about sockets and addresses; sysctl.c about the namespace; random.c; mem.c
 *   clock.c    the kernel's time
 *   lock.c     mlockall(): the pool's pages are left out
 */
#ifndef FIXPORT_SHIM_H
#define FIXPORT_SHIM_H

#include "../pool/holder.h"
#include "../pool/lease.h"
#include "../pool/pool.h"
#include "../pool/sys.h"

#include <signal.h>
#include <stddef.h>
#include <sys/select.h>
#include <sys/socket.h>

#define SHIM_EXPORT __attribute__((visibility("default")))

/* ---- real.c ---- */

/* The next definition of each intercepted call; the bare system calls until real_init(). */
struct epoll_event;
struct pollfd;
struct real {
    int (*connect)(int, const struct sockaddr *, socklen_t);
    int (*bind)(int, const struct sockaddr *, socklen_t);
    int (*setsockopt)(int, int, int, const void *, socklen_t);
    int (*socket)(int, int, int);
    ssize_t (*sendto)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    ssize_t (*sendmsg)(int, const struct msghdr *, int);
    int (*sendmmsg)(int, struct mmsghdr *, unsigned, int);
    int (*close)(int);
    int (*close_range)(unsigned, unsigned, int);
    void (*closefrom)(int);
    int (*dup2)(int, int);
    int (*dup3)(int, int, int);
    int (*mlockall)(int);
    int (*setns)(int, int);
    int (*unshare)(int);
    int (*sigaction)(int, const struct sigaction *, struct sigaction *); /* these may be NULL */
    void (*(*signal)(int, void (*)(int)))(int);
    void (*(*__sysv_signal)(int, void (*)(int)))(int);
    void (*(*sigset)(int, void (*)(int)))(int);
    int (*siginterrupt)(int, int);
    int (*sigprocmask)(int, const sigset_t *, sigset_t *);
    int (*pthread_sigmask)(int, const sigset_t *, sigset_t *);
    int (*sighold)(int);
    int (*sigblock)(int);
    int (*sigsetmask)(int);
    int (*sigsuspend)(const sigset_t *);
    int (*ppoll)(struct pollfd *, unsigned long, const struct timespec *, const sigset_t *);
    int (*pselect)(int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *);
    int (*epoll_pwait)(int, struct epoll_event *, int, int, const sigset_t *);
    int (*epoll_pwait2)(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);
    int (*pthread_attr_setsigmask_np)(pthread_attr_t *, const sigset_t *);
};
extern struct real real;

/** real_init - look the next symbols up; what is missing stays the bare system call. Once. */
void real_init(void);

/** real_init_signals - the part of it for guard.c, which may be called before. */
void real_init_signals(void);

/* ---- init.c ---- */

/* A network namespace that this process has joined as holder. Immutable as long as cookie is set. */
struct shim_netns {
    _Atomic uint64_t cookie; /* 0: unused entry */
    _Atomic uint64_t used; /* ms: when it was last looked for */
    uint64_t inode; /* its other name (holder_netns_thread()), if it is that of the start; or 0 */
    uintptr_t anchor; /* a page of the open file that has its lock; 0: there is none */
    bool later; /* the lock goes with the anchor: it is not the namespace of the start */
    uint32_t slot;
    _Atomic uint32_t by_bind; /* IP_LOCAL_PORT_RANGE does not work here: bind() instead */
    _Atomic uint32_t local; /* net.ipv4.ip_local_port_range: lo | hi << 16; 0: not read yet */
    _Atomic uint32_t stamps; /* second << 1 | net.ipv4.tcp_timestamps is 0, as it was read then */
    _Atomic uint64_t compared; /* ms: when it was last compared with the kernel by this process */
    _Atomic uint32_t generation; /* of the policy, when its connections were last compared, or it joined */
    _Atomic uint32_t lingers; /* what was on the last port that was asked about, LINGERS_... */
    _Atomic uintptr_t memory; /* of what follows: pool.shared_size bytes; 0: there is none yet */
    struct pool apart; /* for rules with scope = address; immutable once memory is set */
};

#define LINGERS 1u /* a connection that is closing */
#define LINGERS_LONG 2u /* a TIME_WAIT */

#define SHIM_NETNS 16 /* network namespaces that one process can use at a time */
#define SHIM_POOLS 64 /* pools that one process can use, one after the other */

/* What became of a pool's shares that were truncated under it. */
enum shim_torn {
    TORN_AWAY = 1, /* they are zeros of this process, and to be mapped again */
    TORN_EMPTIED = 2, /* they are as long again, and lack what this process knows */
};

/* One attachment to a pool file. Stays mapped: other threads may be in it. */
struct shim_pool {
    struct pool pool;
    _Atomic uint32_t broken; /* its own file was truncated under it, or replaced */
    _Atomic uint32_t torn; /* enum shim_torn, together */
    _Atomic uint32_t lengthened; /* how often that was all that could be done about it */
    struct shim_netns netns[SHIM_NETNS];
};

/* What the environment asked for, and where the process stands. */
struct shim {
    _Atomic uint32_t phase; /* enum shim_phase */
    _Atomic(struct shim_pool *) current; /* NULL: none */
    char path[256]; /* the pool's */
    char log[256]; /* FIXPORT_LOG; "" is none */
    uintptr_t stack_top; /* an address at the top of the first thread's stack; 0: not known */
    bool refuse; /* FIXPORT_ON_ERROR=fail */
    bool secure; /* a setuid program, that the environment must not steer (ld.so.preload) */
    bool private; /* path is that of the user's own pool for what the environment asks */
    bool has_policy; /* FIXPORT_PORTS is set and valid: policy says what it asks for */
    struct policy policy;
};
extern struct shim shim;
extern struct shim_pool shim_pools[SHIM_POOLS];

enum shim_phase { SHIM_NEW, SHIM_STARTING, SHIM_READY, SHIM_INERT };

/** shim_enabled - false while starting up, if disabled, or where the C library lacks something. */
static inline bool shim_enabled(void)
{
    return atomic_load_explicit(&shim.phase, memory_order_acquire) == SHIM_READY;
}

/** shim_start - as the constructor; for calls that come before it. Any thread. */
void shim_start(void);

/**
 * shim_pool - the pool to use now, or NULL: none (shim_fault_pending() says why).
 * @now: sys_now_ms().
 * Tries again, at most once a second, if there was none or it is no longer live. Any thread.
 */
struct shim_pool *shim_pool(uint64_t now);

/**
 * shim_pool_moved - look, once a second, whether another pool has taken the place of @at; then open
 * that one. Return: true: @at is not to be used any more, ask shim_pool() again.
 */
bool shim_pool_moved(struct shim_pool *at, uint64_t now);

/** shim_pool_peek - the pool as it is, without trying. */
static inline struct shim_pool *shim_pool_peek(void)
{
    return atomic_load_explicit(&shim.current, memory_order_acquire);
}

/* ---- netns.c ---- */

/**
 * netns_of - this process' entry for the network namespace of the socket @fd.
 * Joins it as holder if it is new. Return: NULL if that failed (see fault_text()).
 */
struct shim_netns *netns_of(struct shim_pool *at, int fd);

/**
 * netns_of_fresh - the same for a socket that socket() has made in this process in this tick.
 * @now: sys_now_ms(). @rule: that matches. @sure: whether it was known from another socket of this
 *       rule in the same tick, and so was all that netns_remember() vouched for.
 */
struct shim_netns *netns_of_fresh(struct shim_pool *at, int fd, uint64_t now, uint32_t rule,
                                  bool *sure);

/**
 * netns_remember - a fresh socket was in @netns in this tick, and got the port it should have.
 * @bound: by bind(), which vouches for the namespace only.
 */
void netns_remember(const struct shim_pool *at, const struct shim_netns *netns, uint64_t now,
                    uint32_t rule, bool bound);

/**
 * netns_pool - where a rule's leases in @netns are: the pool, or with POLICY_ADDRESS memory of this process.
 * Return: NULL if there is none left (fault_set()).
 */
const struct pool *netns_pool(struct shim_pool *at, struct shim_netns *netns, uint8_t scope);

/** netns_own - the namespace that this thread is in; 0: not known. Needs a descriptor. */
uint64_t netns_own(void);

/**
 * netns_join_own - join the namespace that the process starts in.
 * @fd: the open pool file. @cookie: netns_own().
 */
void netns_join_own(struct shim_pool *at, int fd, uint64_t cookie);

/** netns_check - set the fault that the first connection would meet, if it is known of @at by now. */
void netns_check(const struct shim_pool *at);

/** netns_leave_idle - leave the namespaces met later that this process has no more to do with. */
void netns_leave_idle(struct shim_pool *at, uint64_t now);

/** netns_is_own - whether this thread is in that namespace now: a few system calls. */
bool netns_is_own(const struct shim_netns *netns);

/**
 * netns_mend - map the shares of a pool again that were truncated under it, and say there what this
 * process knows. Return: false if they are out of reach.
 */
bool netns_mend(struct shim_pool *at);

/**
 * netns_lock - one thread at a time attaches to pools and joins namespaces.
 * Return: true: call netns_unlock(); false: this very thread has it, below a signal handler, or
 * somebody else for seconds.
 */
bool netns_lock(void);
void netns_unlock(void);

/** netns_locked - whether some thread is at it. */
bool netns_locked(void);

/* ---- check.c ---- */

/** check_answer - tell fixport-run --check how the shim fares, if it asks; then wait to be killed. */
void check_answer(void);

/* ---- fault.c ---- */

/**
 * quiet_write - write(2) that raises no signal, not SIGPIPE, SIGXFSZ or SIGTTOU, and waits for nobody:
 * what cannot be written at once is not. Return: as write(2), or -errno; -EAGAIN: it would have waited.
 */
long quiet_write(int fd, const char *line, size_t length);

/** fault_init - remember what stderr is, so that nothing else is ever written to. */
void fault_init(void);

/**
 * fault_set - something is wrong: to be said at the first connection.
 * @what: "/run/fixport/pool", "FIXPORT_PORTS=0-10". @why: the second half of the sentence.
 */
void fault_set(const char *what, const char *why);

/** fault_clear - it is not wrong any more. */
void fault_clear(void);

/**
 * fault_say - say the pending fault in one line on stderr. Once; again if fault_clear() was called since,
 * 10 s after the last line at the earliest.
 */
void fault_say(void);

/**
 * fault_note - say in one line on stderr what is wrong, though ports are restricted nonetheless; once
 * in the process' life. @what, @why: as fault_set(). @so: what comes of it.
 */
void fault_note(const char *what, const char *why, const char *so);

/** fault_text - the pending fault, or NULL. */
const char *fault_text(void);

/** shim_log - a line "fixport[PID] WHAT DEST PORT" to FIXPORT_LOG, if that is set. errno is kept. */
void shim_log(const char *what, const struct dest *dest, uint32_t port);

/**
 * shim_log_next - the same, and in how many ms the first port is free; UINT32_MAX: not known.
 * @host: pool_holder.host of who has let go of it, anybody's to write; NULL: not known.
 */
void shim_log_next(const char *what, const struct dest *dest, uint32_t ms, const char host[64]);

/** shim_logs - whether there is a log. */
static inline bool shim_logs(void)
{
    return shim.log[0] != '\0';
}

/* ---- clock.c ---- */

/** clock_init - find the kernel's clock for shim_clock() (weak.h), which makes a system call until then. */
void clock_init(void);

/* ---- lock.c ---- */

/**
 * lock_spare - a pool was mapped in a program that may have all its memory locked: not this.
 * Async-signal-safe.
 */
void lock_spare(const struct shim_pool *at);

/* ---- random.c ---- */

/** random_next - 32 unpredictable bits (RFC 6056, 3.2). Any thread. */
uint32_t random_next(void);

/**
 * random_same_process - false in a child of vfork(2), which has its parent's memory. For rare calls.
 */
bool random_same_process(void);

/* ---- sysctl.c ---- */

/** sysctl_local_range - net.ipv4.ip_local_port_range, lo | hi << 16; 0 if it cannot be read. */
uint32_t sysctl_local_range(void);

/** sysctl_no_timestamps - whether net.ipv4.tcp_timestamps is 0; false if it cannot be read. */
bool sysctl_no_timestamps(void);

/** sysctl_reserved - whether a port is in net.ipv4.ip_local_reserved_ports. */
bool sysctl_reserved(uint16_t port);

/* ---- guard.c ---- */

/** guard_install - survive the truncation of a pool's files (SIGBUS) from now on. One thread. */
void guard_install(void);

/** guard_renew - the same where a bare system call has set a handler meanwhile: one system call. */
void guard_renew(void);

/**
 * guard_begin - before a pool is looked at: let SIGBUS through to this thread. Usually one load.
 * Return: what guard_end() takes, when that is done.
 */
unsigned guard_begin(void);
void guard_end(unsigned what);

/**
 * guard_hold - for as long as a descriptor, a mapping or a lock is held that the process would keep if
 * a handler left by longjmp(), or the thread were cancelled. Two system calls, so not in each connect.
 * Return: what guard_release() takes, when that is done.
 */
uint64_t guard_hold(void);
void guard_release(uint64_t mask);

/* ---- hint.c ---- */

enum hint_kind {
    HINT_NONE = 0,
    HINT_FRESH = 1, /* socket() made it: TCP, not bound, as far as is known; when: lane, port */
    HINT_OTHER = 2, /* socket() made it, and it is not one of TCP */
    HINT_ANY = 3, /* the program has bound it to port 0: bind.c */
    HINT_OWN = 4, /* the program has bound it to a port */
    HINT_LEASED = 5, /* connected with a lease */
    HINT_BOUND = 6, /* bound by this library with a lease, and not connected: the connection failed */
    HINT_LEASED_BOUND = 7, /* bound by this library, and connected */
};

/* What may be known about a descriptor. 64 bits, so that it is read and written at once. */
struct hint {
    uint16_t port;
    uint16_t lane;
    uint8_t netns; /* index into shim_pool.netns; of HINT_FRESH: SET_... and FRESH_... */
    uint8_t kind; /* enum hint_kind */
};

#define SET_REUSE 1u /* the program has set SO_REUSEADDR or SO_REUSEPORT */
#define SET_RANGE 2u /* the program has set IP_LOCAL_PORT_RANGE */
#define FRESH_V6 4u /* it is of AF_INET6 */
#define FRESH_MPTCP 8u

#define HINTS 4096u

/* fd + 1 (24 bits) | kind (4) | netns (4) | lane (16) | port (16); 0: empty */
extern _Atomic uint64_t hints[HINTS];

static inline bool hint_is_about(uint64_t packed, int fd)
{
    return packed >> 40 == (uint64_t)(unsigned)fd + 1;
}

/** hint_exists - whether anything is known about @fd: one load, for the many that are not ours. */
static inline bool hint_exists(int fd)
{
    return hint_is_about(atomic_load_explicit(&hints[(unsigned)fd % HINTS], memory_order_relaxed),
                         fd);
}

#define HINT_APART 0x8000u /* in hint.lane: it is one of shim_netns.apart */

/** hint_is_bound - whether this library has bound the socket to a port: that it keeps for ever. */
static inline bool hint_is_bound(struct hint hint)
{
    return hint.kind == HINT_BOUND || hint.kind == HINT_LEASED_BOUND;
}

/** hint_is_leased - whether it was connected, with a lease. */
static inline bool hint_is_leased(struct hint hint)
{
    return hint.kind == HINT_LEASED || hint.kind == HINT_LEASED_BOUND;
}

/** hint_set, hint_get - remember, recall. Any thread; a lost or stale hint is allowed for. */
void hint_set(int fd, struct hint hint);
struct hint hint_get(int fd);

/** hint_take - recall and forget, for a descriptor that is being closed. */
struct hint hint_take(int fd);

/** hint_fresh - socket() has made @fd. @what: FRESH_V6 and FRESH_MPTCP, or 0. @now: sys_now_ms().
 */
void hint_fresh(int fd, unsigned what, uint64_t now);

/** hint_is_fresh - whether @hint says so of this very tick: later, much may have happened unseen. */
bool hint_is_fresh(struct hint hint, uint64_t now);

/** hint_has_netns - whether a connection of namespace @netns (an index) is known, or was. For rare calls. */
bool hint_has_netns(uint32_t netns);

/** hint_range - let go of all descriptors first..last. */
void hint_range(unsigned first, unsigned last);

/** hint_pool - where the lease of @hint is; NULL: nobody knows any more. */
const struct pool *hint_pool(const struct shim_pool *at, struct hint hint);

/** hint_let_go - the descriptor that had @hint is closed: tell the pool. */
void hint_let_go(struct hint hint);

/* ---- port.c ---- */

/** port_pass - a call that is passed on: no range may be left on the socket from before. */
void port_pass(int fd);

/* ---- sock.c ---- */

/** address_copy - copy what the program passed, without a fault if it points nowhere. */
bool address_copy(struct sockaddr_storage *copy, const void *address, socklen_t length);

/** address_port - the port of an AF_INET or AF_INET6 address, host order; address_set_port(). */
uint16_t address_port(const struct sockaddr_storage *address);
void address_set_port(struct sockaddr_storage *address, uint16_t port);

/** address_same - whether two AF_INET or AF_INET6 addresses of one family are the same but for the port. */
bool address_same(const struct sockaddr *one, const struct sockaddr *other);

/** addr_is_any - whether an AF_INET or AF_INET6 address is the wildcard. */
bool addr_is_any(const struct sockaddr *address);

/* Socket options, by bare system calls; Return: 0 or -errno. */
int sock_set(int fd, int level, int name, int value);
int sock_get(int fd, int level, int name, int *value);

/** sock_name - getsockname(2) by a bare system call. Return: 0 or -errno. */
int sock_name(int fd, struct sockaddr_storage *address, socklen_t *length);

/** sock_tcp_state - TCP_CLOSE...; -errno if it is no TCP or MPTCP socket. */
int sock_tcp_state(int fd);

/** sock_disconnect - connect(AF_UNSPEC): abort and make unconnected again. */
void sock_disconnect(int fd);

/**
 * sock_release - take the port back that the kernel has chosen for bind(addr, 0): see bind.c.
 * Return: whether it was taken back. getsockname() shows it as before; a port that was named stays.
 */
bool sock_release(int fd);

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262 /* newer than glibc 2.31 */
#endif
#define SOCK_RANGE 51 /* IP_LOCAL_PORT_RANGE, linux/in.h since 6.3 */
#define SOCK_DEVICE 62 /* SO_BINDTOIFINDEX, asm-generic/socket.h since 5.1 */
#define SOCK_NO_PORT 24 /* IP_BIND_ADDRESS_NO_PORT */

#endif
