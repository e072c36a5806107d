/* SPDX-License-Identifier: MIT */
/* Leases that connection tracking has seen end: see tracked.c for when that is so. */
#ifndef FIXPORT_TRACKED_H
#define FIXPORT_TRACKED_H

#include "../../pool/pool.h"

/**
 * tracked_reclaim - have the leases rest that were let go and that the node's connection tracking has
 * seen end. To be called in the node's network namespace, with CAP_NET_ADMIN.
 * @unseen: the holders, by slot, whose leases are meant.
 * @unknown: is added to, by slot: leases that were let go more than @quarantine ms ago, and of which
 * connection tracking does not know what became.
 * Return: NULL; or why it could not be asked, and then nothing is changed.
 */
const char *tracked_reclaim(const struct pool *pool, const bool unseen[POOL_HOLDERS],
                            uint32_t quarantine, uint32_t unknown[POOL_HOLDERS]);

/**
 * tracked_holds - whether the node's connection tracking knows of a connection from a port to a
 * server. To be called in the node's network namespace, with CAP_NET_ADMIN; it may take seconds.
 * @server: as policy_server() has it.
 * Return: 1: it does; 0: it does not; -1: it could not be asked.
 */
int tracked_holds(const struct policy *policy, const struct dest *server, uint16_t port);

#endif
