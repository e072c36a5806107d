/* SPDX-License-Identifier: MIT */
/*
 * systemd keeps its units in memory: after a unit of ours came or went it is told. That is no
 * resource: there is nothing to put back, and on a machine where systemd does not run, or under
 * another root, nothing to do.
 *
 * A unit alone does not bring anything back after a reboot: what it starts must be there, and
 * somebody must start it. Where that is not so, plan and apply say what is left to do; and likewise
 * where somebody else manages the routes.
 */
#include "setup-engine.h"

#include <string.h>
#include <unistd.h>

#define UNITS "/etc/systemd/"

static bool units_changed;

static char *const reload_argv[] = {(char *)"systemctl", (char *)"daemon-reload", NULL};

bool systemd_concerns(const struct resource_type *type, const char *name)
{
    return (type == &resource_file || type == &resource_link) &&
           strncmp(name, UNITS, strlen(UNITS)) == 0 && !*setup_root &&
           access("/run/systemd/system", F_OK) == 0;
}

void systemd_note(const struct resource_type *type, const char *name)
{
    units_changed |= systemd_concerns(type, name);
}

/* If it fails, the next boot reads the units anyway: a warning. */
void systemd_reload(void)
{
    struct run_result result;
    struct setup_error error;
    if (!units_changed)
        return;
    units_changed = false;
    fprintf(stderr, "[#] systemctl daemon-reload\n");
    if (run_tool(reload_argv, NULL, &result) < 0) {
        run_explain(reload_argv, &result, &error);
        say_error(0, "warning: %s", error.text);
    }
    run_free(&result);
}

/* ---- what is left to the administrator ---- */

static bool work_wants(const struct work *work, const struct resource_type *type, const char *name)
{
    for (size_t i = 0; i < work->next.count; i++) {
        const struct journal_entry *entry = &work->next.entry[i];
        if (entry->type == type && entry->wanted && !entry->dropped &&
            (!name || strcmp(entry->name, name) == 0))
            return true;
    }
    return false;
}

static void notes_unit(void)
{
    const char *program = setup_path(SETUP_PROGRAM);
    if (access(program, X_OK) < 0)
        say_error(0,
                  "note: the unit starts %s, which is not there or cannot be executed: install it, "
                  "or nothing is set again after a reboot",
                  program);
    if (!*setup_root && access("/run/systemd/system", F_OK) < 0)
        say_error(0, "note: systemd does not run here: have what starts this machine run "
                     "'fixport-setup boot', after the network and other firewalls");
}

/* NetworkManager leaves routes with a protocol like ours alone, the kernel does not. */
static void notes_routes(bool unit)
{
    if (access("/run/systemd/netif/state", F_OK) == 0)
        say_error(0,
                  "note: systemd-networkd drops routes of others when it %sconfigures an interface "
                  "anew ('networkctl reconfigure'): run 'fixport-setup boot' after that",
                  unit ? "" : "is restarted or ");
    if (access("/run/NetworkManager", F_OK) == 0)
        say_error(0, "note: when NetworkManager takes a connection down, routes through it go: run "
                     "'fixport-setup boot' when it is up again");
}

void systemd_notes(const struct work *work)
{
    bool unit = work_wants(work, &resource_file, SETUP_UNIT);
    if (unit)
        notes_unit();
    if (!*setup_root && work_wants(work, &resource_routes, NULL))
        notes_routes(unit);
}
