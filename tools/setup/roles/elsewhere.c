/* SPDX-License-Identifier: MIT */
/*
 * What else has to be done before a role works. A connection between a pod and a host passes
 * several machines, and each of them has its part; only one is this one. Whether the others have
 * theirs cannot be known from here.
 */
#include "roles.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

#define NAMED_MOST 6

struct elsewhere {
    FILE *out;
    size_t count;
};

static void name_add(struct elsewhere *elsewhere, const char *name)
{
    if (elsewhere->count < NAMED_MOST)
        fprintf(elsewhere->out, "%s%s", elsewhere->count ? ", " : "", name);
    elsewhere->count++;
}

static bool name_is_here(const char *name)
{
    struct utsname uts;
    uname(&uts);
    size_t length = strcspn(uts.nodename, ".");
    return strcasecmp(name, uts.nodename) == 0 ||
           (strncasecmp(name, uts.nodename, length) == 0 && !name[length]);
}

/* The machines that have one of the roles; for nodes without any, what [node NAME] says. */
static void names_with(struct elsewhere *elsewhere, const struct site *site, unsigned role,
                       const struct machine *here)
{
    char text[BLOCK_TEXT];
    size_t before = elsewhere->count;
    bool given = false;
    for (size_t i = 0; i < site->machines; i++)
        if (site->machine[i].roles & role) {
            given = true;
            snprintf(text, sizeof(text), "%.40s (%s)", site->machine[i].name,
                     site_role_name((enum site_role)role));
            if (!name_is_here(site->machine[i].name))
                name_add(elsewhere, text);
        }
    for (size_t i = 0; !given && role == ROLE_NODE && i < site->nodes; i++) {
        const struct address_pair *address = &site->node[i].address;
        if ((address->has4 && machine_has(here, address->addr4)) ||
            (address->has6 && machine_has(here, address->addr6)))
            continue;
        snprintf(text, sizeof(text), "%.40s (node)", site->node[i].name);
        name_add(elsewhere, text);
    }
    if (given || elsewhere->count != before)
        return;
    if (role == ROLE_HOST && site->hosts.count)
        name_add(elsewhere, "the hosts of [hosts] addresses (host)");
    for (size_t i = 0; role == ROLE_GATEWAY && i < site->gateways.count; i++)
        if (machine_has(here, site->gateways.item[i].addr))
            return;
    if (role == ROLE_GATEWAY && site->gateways.count)
        name_add(elsewhere, "the machine of [gateway] address (gateway)");
}

char *roles_elsewhere(const struct site *site, unsigned roles)
{
    static const unsigned order[] = {ROLE_GATEWAY, ROLE_NODE, ROLE_HOST};
    struct setup_error ignored;
    struct machine here = {.count = 0};
    struct elsewhere elsewhere = {.count = 0};
    char *text = NULL;
    unsigned needed = 0;
    if (roles & ROLE_HOST)
        needed |= ROLE_GATEWAY | ROLE_NODE;
    if (roles & ROLE_NODE)
        needed |= ROLE_GATEWAY | ROLE_HOST;
    if (roles & ROLE_GATEWAY)
        needed |= ROLE_NODE | ROLE_HOST;
    elsewhere.out = state_open(&text);
    if (machine_look(&here, &ignored) == 0)
        for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
            if (needed & order[i])
                names_with(&elsewhere, site, order[i], &here);
    machine_free(&here);
    if (elsewhere.count > NAMED_MOST)
        fprintf(elsewhere.out, " and %zu more", elsewhere.count - NAMED_MOST);
    state_close(elsewhere.out);
    if (elsewhere.count)
        return text;
    free(text);
    return NULL;
}
