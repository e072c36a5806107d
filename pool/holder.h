/* SPDX-License-Identifier: MIT */
/*
 * Holders: the network namespaces that use a pool, and whether they are alive.
 *
 * Theory of operation. A process proves that its namespace uses the pool by an open-file-description
 * lock (fcntl(2), F_OFD_SETLK), shared, on one byte per slot, far behind the file's end. The
 * lock belongs to the open file, and the mapping of that open file keeps it open after its
 * descriptor is closed: it needs no descriptor, survives closefrom() and fork, and the kernel drops
 * it at exec, exit or SIGKILL of the last process that has the mapping. Nobody has to clean up, and
 * nobody needs a pid, which would mean nothing in another pod's pid namespace.
 *
 * The file is the pool's own, which users of the pool can only read. An exclusive lock needs a file
 * that is open for writing, so whoever may use a pool can take shared locks alone, and these keep
 * nobody from taking his. What they can do is make a slot look alive. So a lock is never needed for
 * more than that; it is tried, and never waited for.
 *
 * A slot without a lock is taken by its cookie. To take or bury it, one condemns it first (a bit in
 * the cookie), and then looks at the lock once more. To join it, one takes the lock first, and then
 * looks at the cookie once more. So of the two at least one sees the other. Who is killed in between
 * leaves a slot that is dead, and condemned, and can be taken.
 *
 * Guests. If no slot can be had, because all are alive or somebody makes them look so, a namespace has
 * the number of a slot that the table lacks, chosen by its cookie. Words name it, and its lock tells
 * whether it lives, as for others. Nothing says whose it is: two guests with one number (of 3071)
 * share their ports, as one namespace does, and words are only buried if they are older than a look
 * at the lock.
 *
 * Burying takes the words of the dead holder into quarantine, and only then clears the slot; who
 * dies in between leaves a slot that is dead as before.
 */
#ifndef FIXPORT_HOLDER_H
#define FIXPORT_HOLDER_H

#include "pool.h"

/**
 * holder_netns - the identity of a socket's network namespace.
 * @fd: a socket.
 * Return: SO_NETNS_COOKIE (socket(7), Linux 5.14), before that, or where a seccomp filter refuses it,
 * the inode of the caller's /proc/thread-self/ns/net with bit 63 set; 0 if neither can be had.
 */
uint64_t holder_netns(int fd);

/** holder_netns_thread - the other name, of the namespace that this thread is in; 0: not known. */
uint64_t holder_netns_thread(void);

/**
 * holder_join - make this process one that keeps a namespace's holder alive.
 * @pool, @fd: from pool_open() or pool_file_open(); the lock lives as long as a mapping of @fd.
 * @cookie: from holder_netns(), not 0.
 * @is_new: whether the slot was not this namespace's before: it may have connections that the pool
 *          does not know of (lease_reconcile()). May be NULL.
 *
 * Return: the slot, below POOL_HOLDERS, or of a guest below POOL_SLOTS; -EAGAIN if the pool's owner has
 * it locked exclusively; -ENOLCK, -EINVAL if the file system has no such locks.
 */
int holder_join(const struct pool *pool, int fd, uint64_t cookie, bool *is_new);

/**
 * holder_bury_dead - find holders whose last process has gone and take their leases back; and words
 * that say that somebody has them who does not exist: whoever may write the shares can write those.
 * @fd: from pool_file_open(), for this call.
 * @patient: it may take HOLDER_PATIENCE_NS, else HOLDER_LOOK_NS; each time it begins with another one:
 *           the more locks a file has, the longer takes the look at one.
 * Return: how many were buried.
 */
int holder_bury_dead(const struct pool *pool, int fd, bool patient);

#define HOLDER_LOOK_NS 3000000ull /* of this thread's CPU time */
#define HOLDER_PATIENCE_NS 10000000000ull

/** holder_restore - say again who has @slot, whose lock this process has: the shares were truncated. */
void holder_restore(const struct pool *pool, uint32_t slot, uint64_t cookie);

/** holder_alive - whether some process holds @slot's lock. @fd: another open of the pool's own file. */
bool holder_alive(int fd, uint32_t slot);

#endif
