/* SPDX-License-Identifier: MIT */
/*
 * systemd keeps its units in memory: after a unit of ours came or went it is told. That is no
 * resource: there is nothing to put back, and on a machine where systemd does not run, or under
 * another root, nothing to do.
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
