/* SPDX-License-Identifier: MIT */
/*
 * Holders: the network namespaces that use a pool, and whether they are alive.
 *
 * Theory of operation. A process proves that its namespace uses the pool by an open-file-description
 * lock (fcntl(2), F_OFD_SETLK), shared, on one byte per holder slot, far behind the file's end. The
 * lock belongs to the open file, and the mapping of that open file keeps it open after its
 * descriptor is closed: it needs no descriptor, survives closefrom() and fork, and the kernel drops
 * it at exec, exit or SIGKILL of the last process that has the mapping. Nobody has to clean up, and
 * nobody needs a pid, which would mean nothing in another pod's pid namespace.
 *
 * The same lock, exclusive, is what one needs to write a slot: to take an unused slot for a
 * namespace, and to bury a holder that has died. It can only be had while no process of the holder
 * lives, so a live holder's slot never changes. It is only ever tried, never waited for, and goes
 * with its owner: a process that is killed or stopped at any point keeps nobody from going on with
 * another slot.
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

/**
 * holder_join - make this process one that keeps a namespace's holder alive.
 * @pool, @fd: from pool_open(); the lock lives as long as a mapping of @fd.
 * @cookie: from holder_netns(), not 0.
 * @is_new: whether the slot was not this namespace's before: it may have connections that the pool
 *          does not know of (lease_reconcile()). May be NULL.
 *
 * Return: the slot, 0..POOL_HOLDERS-1; -ENOSPC if every slot is alive; -ENOLCK, -EINVAL if the file
 * system has no such locks.
 */
int holder_join(const struct pool *pool, int fd, uint64_t cookie, bool *is_new);

/**
 * holder_bury_dead - find holders whose last process has gone and take their leases back; and words
 * that say that somebody has them who does not exist: whoever may write the shares can write those.
 * @fd: a descriptor of the pool file, opened for this call.
 * @now: sys_now_ms().
 * Return: how many were buried.
 */
int holder_bury_dead(const struct pool *pool, int fd, uint64_t now);

/** holder_restore - say again who has @slot, whose lock this process has: the shares were truncated. */
void holder_restore(const struct pool *pool, uint32_t slot, uint64_t cookie);

/** holder_alive - whether some process holds @slot's lock. @fd: another open of the pool file. */
bool holder_alive(int fd, uint32_t slot);

#endif
