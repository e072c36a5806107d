/* SPDX-License-Identifier: MIT */
/* What the node's connection tracking knows of leases: see tracked.c. */
#ifndef FIXPORT_TRACKED_H
#define FIXPORT_TRACKED_H

#include "../../pool/pool.h"

/* What came of it. Is added to. */
struct tracked_result {
    uint32_t freed;                 /* ports that were in quarantine, and are anybody's now */
    uint32_t unknown[POOL_HOLDERS]; /* by slot: let go for longer than the quarantine, and it does
                                     * not know what became of them */
};

/**
 * tracked_reclaim - have the leases rest that were let go and that the node's connection tracking
 * has seen end; and free those that rest, as soon as it has forgotten them, which this sees to.
 * Takes more than a second if there is something to forget. To be called in the node's network
 * namespace, with CAP_NET_ADMIN.
 * @unseen: the holders, by slot, of whose leases those are meant that were let go.
 * @quarantine: of the pool's policy, in ms.
 * Return: NULL; or why it could not be asked, and then nothing is changed.
 */
const char *tracked_reclaim(const struct pool *pool, const bool unseen[POOL_HOLDERS],
                            uint32_t quarantine, struct tracked_result *result);

/* What a look at connection tracking, or at namespaces, could be good for. */
enum tracked_need {
    TRACKED_NOTHING, /* all leases are in use, as far as is known */
    TRACKED_SOME,    /* some were let go, or rest */
    TRACKED_SHORT,   /* and more than half of a rule's ports are taken towards some destination */
};

/** tracked_need - look through the words. @quarantine: as above. */
enum tracked_need tracked_need(const struct pool *pool, uint32_t quarantine);

/**
 * tracked_holds - whether the node's connection tracking knows of a connection from a port to a
 * server. To be called in the node's network namespace, with CAP_NET_ADMIN; it may take seconds.
 * @server: as policy_server() has it.
 * Return: 1: it does; 0: it does not; -1: it could not be asked.
 */
int tracked_holds(const struct policy *policy, const struct dest *server, uint16_t port);

#endif
