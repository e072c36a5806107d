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

/**
 * roles_leave - what the configuration leaves to others of a machine with @roles: this kind of thing?
 * Return: the word of enum site_leave for it, or 0.
 */
unsigned roles_leave(const struct site *site, unsigned roles, const struct resource_type *type,
                     const char *name);

/* ---- setup/roles/elsewhere.c ---- */

/**
 * roles_elsewhere - where else the configuration has to be applied before @roles on this machine work:
 * "gw (gateway), node1 and node2 (node)". Return: malloc'd; NULL: nowhere.
 */
char *roles_elsewhere(const struct site *site, unsigned roles);

/* ---- setup/roles/machine.c ---- */

/** site_place - of a gateway with a leg in each network, choose the one that this machine sees. */
int site_place(struct site *site, struct setup_error *error);

#endif
