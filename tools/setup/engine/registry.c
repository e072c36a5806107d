/* SPDX-License-Identifier: MIT */
/*
 * The types of resources by their names in the journal.
 */
#include "journal.h"

#include <string.h>

static const struct resource_type *const types[] = {
    &resource_folder, &resource_file,     &resource_link, &resource_sysctl,    &resource_routes,
    &resource_rule,   &resource_iptables, &resource_nft,  &resource_nodeports, &resource_pool,
};

const struct resource_type *resource_type_find(const char *name)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strcmp(types[i]->name, name) == 0)
            return types[i];
    return NULL;
}
