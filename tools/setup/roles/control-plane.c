/* SPDX-License-Identifier: MIT */
/*
 * The role "control-plane": the range of node ports in the API server's manifest, and the manifest
 * as it was before, kept outside of the manifests' folder: the kubelet would start a copy in it.
 */
#include "roles.h"

#include <stdlib.h>
#include <string.h>

#define BACKUP SETUP_STATE_DIR "/kube-apiserver.yaml.before"

/* Node ports that the kernel also gives to other connections fail now and then, silently. */
static int check_ephemeral(struct roles *roles)
{
    const struct portrange *ports = &roles->site->node_ports;
    unsigned lo, hi;
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    bool known = file && fscanf(file, "%u %u", &lo, &hi) == 2;
    if (file)
        fclose(file);
    if (!known || ports->lo > hi || ports->hi < lo)
        return 0;
    return role_refuse(roles,
                       "[control-plane] node-ports = %u-%u overlaps this machine's "
                       "net.ipv4.ip_local_port_range %u-%u, from which other connections get their "
                       "source ports: nothing would keep the two apart",
                       ports->lo, ports->hi, lo, hi);
}

/* The manifest's bytes as a file of ours, which root alone may read: malloc'd; NULL: @error. */
static char *backup_state(struct roles *roles)
{
    char *now = NULL;
    if (resource_file.read(roles->site->manifest, &now, roles->error) < 0)
        return NULL;
    const char *bytes = now ? strchr(now, '\n') : NULL;
    char *state = file_state(0600, bytes ? bytes + 1 : "");
    free(now);
    return state;
}

/* What an earlier apply has put away stays; without a change there is nothing to put away. */
static int backup_add(struct roles *roles, bool changes)
{
    const struct journal_entry *entry = journal_find(roles->journal, &resource_file, BACKUP);
    if (!changes && !entry)
        return 0;
    char *made = entry && entry->wanted ? NULL : backup_state(roles);
    const char *state = made ? made : entry ? entry->wanted : NULL;
    int result = state ? role_add(roles, &resource_file, BACKUP, state,
                                  "keep the API server's manifest as it was")
                       : -1;
    free(made);
    return result;
}

int control_plane_want(struct roles *roles)
{
    char wanted[16];
    char *now = NULL;
    const struct site *site = roles->site;
    if (!site->node_ports.lo)
        return role_refuse(roles, "role control-plane: there is nothing to do: add [control-plane] "
                                  "node-ports = LO-HI, such as 30000-32767");
    if (check_ephemeral(roles) < 0 ||
        resource_nodeports.read(site->manifest, &now, roles->error) < 0)
        return -1;
    snprintf(wanted, sizeof(wanted), "%u-%u", site->node_ports.lo, site->node_ports.hi);
    int result = backup_add(roles, !state_equal(now, wanted));
    free(now);
    if (result < 0)
        return -1;
    return role_add(roles, &resource_nodeports, site->manifest, wanted,
                    "set the range of the cluster's node ports");
}
