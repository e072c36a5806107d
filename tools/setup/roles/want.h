/* SPDX-License-Identifier: MIT */
/*
 * What the engine needs of the roles.
 */
#ifndef FIXPORT_TOOLS_SETUP_WANT_H
#define FIXPORT_TOOLS_SETUP_WANT_H

#include "../engine/journal.h"

/* ---- setup/roles/roles.c: what a role wants of this machine ---- */

/**
 * roles_want - the resources that @roles of @site mean on this machine.
 * @journal: of an earlier apply, or NULL: what it has set stays wanted where the kernel itself
 *           gives no reason any more.
 * @config_path: absolute, of the site's file.
 * @resources: the result, free with resources_free() always.
 *
 * Looks at the machine: addresses, routes, chains. What cannot work there is an error: a gateway
 * or node address that is on no connected network, a pods' block that contains an address of this
 * machine (but for a node's own blocks), hosts without a route, no iptables, a manifest that is not an API server's.
 */
int roles_want(const struct site *site, unsigned roles, const struct journal *journal,
               const char *config_path, struct resources *resources, struct setup_error *error);

/* ---- setup/roles/machine.c ---- */

/** site_place - of a gateway with a leg in each network, choose the one that this machine sees. */
int site_place(struct site *site, struct setup_error *error);

#endif
