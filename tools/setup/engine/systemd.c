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
#include "engine.h"

#include <string.h>
#include <unistd.h>

#define UNITS "/etc/systemd/"

static bool units_changed;

static char *const reload_argv[] = {(char *)"systemctl", (char *)"daemon-reload", NULL};

static bool systemd_runs(void)
{
    return !*setup_root && access("/run/systemd/system", F_OK) == 0;
}

bool systemd_concerns(const struct resource_type *type, const char *name)
{
    return (type == &resource_file || type == &resource_link) &&
           strncmp(name, UNITS, strlen(UNITS)) == 0 && systemd_runs();
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

/* ---- the unit as it runs ---- */

#define UNIT_NAME "fixport-setup.service"

static bool journal_has_unit(const struct journal *journal)
{
    const struct journal_entry *entry = journal_find(journal, &resource_file, SETUP_UNIT);
    return entry && !entry->dropped && systemd_runs();
}

static bool unit_is_active(void)
{
    static char *const argv[] = {(char *)"systemctl", (char *)"--quiet", (char *)"is-active",
                                 (char *)UNIT_NAME, NULL};
    struct run_result result;
    bool active = run_tool(argv, NULL, &result) == 0;
    run_free(&result);
    return active;
}

/* @verb, and nobody else's units with it. */
static void unit_tell(const char *verb)
{
    char *const argv[] = {(char *)"systemctl", (char *)"--no-block",
                          (char *)"--job-mode=ignore-dependencies", (char *)verb,
                          (char *)UNIT_NAME, NULL};
    struct run_result result;
    struct setup_error error;
    fprintf(stderr, "[#] systemctl --no-block --job-mode=ignore-dependencies %s %s\n", verb,
            UNIT_NAME);
    if (run_tool(argv, NULL, &result) < 0) {
        run_explain(argv, &result, &error);
        say_error(0, "warning: %s", error.text);
    }
    run_free(&result);
}

/* ---- the timer that rolls back ---- */

const char *systemd_timer_name(int64_t when)
{
    static char name[64];
    snprintf(name, sizeof(name), "fixport-setup-expire-%lld.timer", (long long)when);
    return name;
}

int systemd_timer(int64_t when, unsigned seconds, struct setup_error *error)
{
    char self[PATH_MAX], unit[80], active[32], stamp[32];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    *error->text = '\0';
    if (!systemd_runs() || length <= 0)
        return -1;
    self[length] = '\0';
    snprintf(unit, sizeof(unit), "--unit=%s", systemd_timer_name(when));
    *strrchr(unit, '.') = '\0';
    snprintf(active, sizeof(active), "--on-active=%us", seconds);
    snprintf(stamp, sizeof(stamp), "%lld", (long long)when);
    char *const argv[] = {(char *)"systemd-run", (char *)"--quiet", (char *)"--collect", unit, active,
                          (char *)"--timer-property=AccuracySec=1s", self, (char *)"expire", stamp,
                          NULL};
    struct run_result result;
    int status = run_tool(argv, NULL, &result);
    if (status < 0)
        run_explain(argv, &result, error);
    run_free(&result);
    return status;
}

static int timer_tell(const char *verb, int64_t when)
{
    char *const argv[] = {(char *)"systemctl", (char *)"--quiet", (char *)verb,
                          (char *)systemd_timer_name(when), NULL};
    struct run_result result;
    int status = run_tool(argv, NULL, &result);
    run_free(&result);
    return status;
}

bool systemd_timer_is_set(int64_t when)
{
    return systemd_runs() && timer_tell("is-active", when) == 0;
}

void systemd_timer_stop(int64_t when)
{
    if (systemd_timer_is_set(when))
        timer_tell("stop", when);
}

/* ---- the unit, again ---- */

void systemd_start(const struct journal *journal)
{
    if (!journal_has_unit(journal) || unit_is_active())
        return;
    lock_forget();
    unit_tell("start");
}

void systemd_stop(const struct journal *journal)
{
    if (journal_has_unit(journal) && unit_is_active())
        unit_tell("stop");
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
    if (!*setup_root && !systemd_runs())
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
