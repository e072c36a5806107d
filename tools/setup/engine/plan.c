/* SPDX-License-Identifier: MIT */
/*
 * plan: what apply would do, and why, and nothing else. Everything is on stdout, so that it can be
 * kept and compared; what is said of the plan itself is on stderr.
 */
#include "../resources/state.h"
#include "../roles/want.h"
#include "rehearse.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *change_json(const struct change *change)
{
    json_t *steps = json_array();
    for (size_t i = 0; i < change->steps.count; i++)
        json_array_append_new(steps, step_json(&change->steps.item[i]));
    return json_pack("{s:s, s:o, s:s, s:o, s:o, s:o}", "type", change->type->name, "name",
                     json_shown(change->name), "why", change->why, "now", json_shown(change->now),
                     "wanted", json_shown(change->wanted), "steps", steps);
}

static json_t *left_json(const struct resources *resources)
{
    json_t *left = json_array();
    for (size_t i = 0; i < resources->lefts; i++) {
        const struct resource *it = &resources->left[i];
        json_array_append_new(left, json_pack("{s:s, s:o, s:s, s:o}", "type", it->type->name, "name",
                                              json_shown(it->name), "why", it->why, "wanted",
                                              json_shown(it->wanted)));
    }
    return left;
}

json_t *work_json(const struct work *work)
{
    char *elsewhere = roles_elsewhere(&work->site, work->next.roles);
    json_t *changes = json_array();
    for (size_t i = 0; i < work->plan.count; i++)
        json_array_append_new(changes, change_json(&work->plan.change[i]));
    json_t *notes = json_array();
    for (size_t i = 0; i < work->resources.notes; i++)
        json_array_append_new(notes, json_shown(work->resources.note[i]));
    json_t *needed = json_shown(elsewhere);
    free(elsewhere);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:b, s:o, s:o}", "left",
                     left_json(&work->resources), "elsewhere", needed, "config", json_shown(work->config),
                     "roles", json_roles(work->next.roles), "topology",
                     json_shown(work->resources.topology), "notes", notes, "resources",
                     (json_int_t)work->plan.looked_at, "guessed", work->guessed, "changes", changes,
                     "rehearsal", rehearsal_json(work->rehearsal));
}

/* What kubeadm would undo with its next upgrade. */
void plan_snippet(const struct work *work, FILE *out)
{
    for (size_t i = 0; i < work->plan.count; i++) {
        const struct change *change = &work->plan.change[i];
        char *text = change->type == &resource_nodeports && change->wanted
                         ? kubeadm_snippet(&work->site.node_ports)
                         : NULL;
        if (text)
            fprintf(out, "%s\n", text);
        free(text);
    }
}

static void plan_print(const struct plan *plan)
{
    bool reload = false;
    for (size_t i = 0; i < plan->count; i++) {
        const struct change *change = &plan->change[i];
        printf("# %s: %s\n", type_label(change->type, change->name), change->why);
        for (size_t k = 0; k < change->steps.count; k++)
            step_print(&change->steps.item[k], stdout);
        putchar('\n');
        reload |= systemd_concerns(change->type, change->name);
    }
    if (reload)
        printf("# systemd reads its units again\n[#] systemctl daemon-reload\n\n");
}

void plan_site(const struct work *work)
{
    for (size_t i = 0; i < work->resources.notes; i++)
        say_error(0, "note: %s", work->resources.note[i]);
}

/* What apply would do or say before it came to this plan. */
static void plan_notes(const struct work *work)
{
    struct setup_error error;
    if (work->has_old && work->old.phase == JOURNAL_APPLYING && !lock_is_held())
        say_error(0, "note: an apply was interrupted here; apply rolls that back first");
    if (work->has_old && work->old.phase == JOURNAL_UNDOING && !lock_is_held())
        say_error(0, "note: an undo was interrupted here: apply sets again what it has put back");
    if (work->has_old && work->old.phase == JOURNAL_UNCONFIRMED)
        say_error(0, "note: an apply waits here for 'fixport-setup confirm' until %s",
                  text_when(work->old.deadline));
    plan_site(work);
    if (work->plan.count && geteuid() == 0)
        persist_note(work);
    systemd_notes(work);
    if (nodeports_check(&work->plan, &work->site.node_ports, &error) < 0)
        say_error(0, "note: apply will refuse: %s", error.text);
    if (rehearsal_refuses(work->rehearsal, &error) < 0)
        say_error(0, "note: apply will refuse: %s", error.text);
    if (work->guessed)
        say_error(0, "note: not everything can be read without root; what cannot is shown as if it "
                     "were not there");
}

/* As comments, because nothing of it is done. */
static void plan_left(const struct resources *resources)
{
    for (size_t i = 0; i < resources->lefts; i++) {
        const struct resource *it = &resources->left[i];
        const char *line, *at = it->wanted ? it->wanted : "nothing\n";
        size_t length;
        printf("# %s is left to others ([setup] leave). What is needed there, to %s:\n",
               type_label(it->type, it->name), it->why);
        while ((line = state_line(&at, &length))) {
            fputs("#     ", stdout);
            clean_print(line, length, stdout);
            putchar('\n');
        }
        putchar('\n');
    }
}

static void plan_say(const struct work *work)
{
    if (work->resources.topology)
        printf("# Topology: %s.\n\n", work->resources.topology);
    plan_left(&work->resources);
    plan_print(&work->plan);
    plan_snippet(work, stdout);
    rehearsal_print(work->rehearsal, true, stdout);
    if (!work->plan.count)
        printf("Nothing to change: %s as wanted for role %s.\n",
               text_are(work->plan.looked_at, "resource"), text_roles(work->next.roles));
    else
        printf("%s to change of %zu for role %s; 'fixport-setup apply' does it.\n",
               text_count(work->plan.count, "resource"), work->plan.looked_at,
               text_roles(work->next.roles));
}

int setup_plan(const struct setup_options *options)
{
    static struct work work;
    int status = work_begin(&work, options);
    if (!status) {
        if (!options->no_rehearsal)
            rehearse(&work);
        plan_notes(&work);
        if (options->json)
            json_say(work_json(&work));
        else
            plan_say(&work);
        status = work.plan.count ? SETUP_CHANGES : SETUP_OK;
    }
    work_end(&work);
    return status;
}
