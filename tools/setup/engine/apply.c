/* SPDX-License-Identifier: MIT */
/*
 * apply: all of the plan or nothing. The journal is on disk before the first step, with all that is
 * needed to come back: so whatever ends this process, the next one (or the watcher of --confirm, or
 * boot) rolls back. When all steps are done everything is read again; only what then is as it was
 * asked for is kept.
 */
#include "../roles/want.h"
#include "rehearse.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static int apply_steps(const struct work *work, struct setup_error *error)
{
    for (size_t i = 0; i < work->plan.count; i++) {
        const struct change *change = &work->plan.change[i];
        fprintf(stderr, "# %s: %s\n", type_label(change->type, change->name), change->why);
        if (change_do(change, error) < 0)
            return -1;
    }
    systemd_reload();
    return 0;
}

/* What the distribution's tool has saved is as wanted, whatever it is: but ours must be in it. */
static int apply_check_saved(const struct work *work, struct journal_entry *entry,
                             struct setup_error *error)
{
    free(entry->wanted);
    entry->wanted = NULL;
    if (entry->type->read(entry->name, &entry->wanted, error) < 0 ||
        persist_check_saved(work, entry, error) < 0)
        return -1;
    entry->after = state_copy(entry->wanted);
    return 0;
}

/*
 * Read again, is it as asked? What a later step has changed as well is set once more: the kernel
 * sets some of its settings with others.
 */
static int apply_check_entry(struct journal_entry *entry, struct setup_error *error)
{
    if (change_to(entry->type, entry->name, entry->wanted, error) < 0)
        return -1;
    return change_check(entry->type, entry->name, entry->wanted, &entry->after, error);
}

static int apply_check(struct work *work, struct setup_error *error)
{
    for (size_t i = 0; i < work->next.count; i++) {
        struct journal_entry *entry = &work->next.entry[i];
        bool saved = persist_is_saved(entry, work->next.persist);
        if ((saved ? apply_check_saved(work, entry, error) : apply_check_entry(entry, error)) < 0)
            return -1;
        entry->done = true;
    }
    if (!signals_seen())
        return 0;
    return setup_fail(error, "stopped by signal %d (%s)", signals_seen(),
                      strsignal(signals_seen()));
}

static int apply_begin(struct work *work, unsigned confirm, struct setup_error *error)
{
    struct journal *next = &work->next;
    next->phase = JOURNAL_APPLYING;
    next->when = time(NULL);
    next->deadline = confirm ? next->when + confirm : 0;
    next->earlier = work->has_old ? journal_to_json(&work->old) : NULL;
    if (confirm && keeper_start(next->when, confirm, error) < 0)
        return -1;
    run_until(confirm);
    return journal_save(next, error) < 0 ? -1 : keeper_begun(error);
}

static int apply_try(struct work *work, struct setup_error *error)
{
    if (apply_steps(work, error) < 0 || apply_check(work, error) < 0)
        return -1;
    if (!work->next.deadline)
        return journal_keep(&work->next, error);
    work->next.phase = JOURNAL_UNCONFIRMED;
    return journal_save(&work->next, error);
}

static int apply_failed(const struct setup_options *options, bool rolled, int status,
                        const struct setup_error *error)
{
    if (options->json)
        json_say(json_pack("{s:s, s:o}", "result", rolled ? "rolled-back" : "failed", "error",
                           json_error(error)));
    if (rolled)
        return say_error(status, "not applied: everything is as it was before");
    return say_error(status, "not all is as it was before: 'fixport-setup undo' tries again");
}

static int apply_back(const struct setup_options *options, const struct work *work,
                      const struct setup_error *error)
{
    struct setup_error worse;
    int signal = signals_seen();
    say_error(0, "%s: rolling back", error->text);
    bool rolled = rollback_run(&work->next, &worse) == 0;
    if (!rolled)
        say_error(0, "rolling back failed too: %s", worse.text);
    return apply_failed(options, rolled, signal ? 128 + signal : SETUP_ERROR, error);
}

/* The journal could not be written: if it is not there, there is nothing to roll back. */
static int apply_not_begun(const struct setup_options *options, const struct work *work,
                           const struct setup_error *error)
{
    struct setup_error ignored;
    struct journal journal = {.count = 0};
    bool begun = journal_load(&journal, &ignored) == 1 && journal.phase == JOURNAL_APPLYING;
    journal_free(&journal);
    if (begun)
        return apply_back(options, work, error);
    say_error(0, "%s", error->text);
    return apply_failed(options, true, SETUP_ERROR, error);
}

/* What this machine's part is not enough for. */
static void apply_elsewhere(const struct work *work)
{
    char *elsewhere = roles_elsewhere(&work->site, work->next.roles);
    for (size_t i = 0; i < work->resources.lefts; i++)
        printf("%s%s%s", i ? ", " : "Left to others: ",
               type_label(work->resources.left[i].type, work->resources.left[i].name),
               i + 1 < work->resources.lefts ? "" : "; 'fixport-setup plan' shows what is needed.\n");
    if (elsewhere)
        printf("It works once it is applied there, too: %s.\nWhether it is cannot be known from here.\n",
               elsewhere);
    free(elsewhere);
}

/* @result: "applied", "unchanged". */
static int apply_said(const struct setup_options *options, const struct work *work,
                      const char *result)
{
    json_t *object = work_json(work);
    plan_site(work);
    if (work->plan.count)
        systemd_notes(work);
    if (!work->next.deadline)
        systemd_start(&work->next);
    json_object_set_new(object, "result", json_string(result));
    json_object_set_new(object, "deadline",
                        work->next.deadline ? json_integer(work->next.deadline) : json_null());
    if (options->json) {
        json_say(object);
        return SETUP_OK;
    }
    json_decref(object);
    plan_snippet(work, stdout);
    if (!work->plan.count)
        printf("Nothing to change: all is as wanted for role %s.\n", text_roles(work->next.roles));
    else
        printf("Applied: %s for role %s.\n", text_count(work->plan.count, "change"),
               text_roles(work->next.roles));
    if (work->next.deadline)
        printf("It is kept if 'fixport-setup confirm' comes before %s; else it is rolled back.\n",
               text_when(work->next.deadline));
    apply_elsewhere(work);
    return SETUP_OK;
}

/* Nothing to do here; but perhaps the configuration has other words for it, or there is no journal
 * yet. If not, nothing is written at all. */
static int apply_nothing(const struct setup_options *options, struct work *work)
{
    struct setup_error error;
    if (work->has_old && journal_equal(&work->old, &work->next))
        return apply_said(options, work, "unchanged");
    work->next.when = time(NULL);
    for (size_t i = 0; i < work->next.count; i++) {
        struct journal_entry *entry = &work->next.entry[i];
        entry->after = state_copy(entry->previous);
        entry->done = true;
    }
    if (journal_keep(&work->next, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    return apply_said(options, work, "unchanged");
}

/* After a reboot there would be nobody to roll back. */
static int apply_check_confirm(const struct setup_options *options, const struct work *work)
{
    if (!options->confirm ||
        (work->next.persist != PERSIST_NONE &&
         !roles_leave(&work->site, work->next.roles, &resource_file, SETUP_UNIT)))
        return SETUP_OK;
    return say_error(SETUP_ERROR,
                     "%s: --confirm does not go with [setup] %s: after a reboot nobody would roll "
                     "back what was not confirmed; use persist = own for it",
                     work->config,
                     work->next.persist == PERSIST_NONE ? "persist = none" : "leave = unit");
}

/* Refuses what would fail, or would take a connection from somebody. */
static int apply_rehearse(const struct setup_options *options, struct work *work)
{
    struct setup_error error = {.text = ""};
    if (!options->no_rehearsal)
        rehearse(work);
    if (signals_seen())
        return say_error(128 + signals_seen(), "stopped by signal %d (%s): nothing was changed",
                         signals_seen(), strsignal(signals_seen()));
    if (work->rehearsal && work->rehearsal->why_not && !*setup_root)
        say_error(0, "note: not rehearsed: %s", work->rehearsal->why_not);
    rehearsal_print(work->rehearsal, false, stderr);
    if (options->force || rehearsal_refuses(work->rehearsal, &error) == 0)
        return SETUP_OK;
    if (options->json)
        json_say(json_pack("{s:s, s:o, s:o}", "result", "refused", "error", json_error(&error),
                           "rehearsal", rehearsal_json(work->rehearsal)));
    return say_error(SETUP_ERROR, "%s", error.text);
}

static int apply_all(const struct setup_options *options, struct work *work)
{
    struct setup_error error = {.text = ""};
    if (apply_check_confirm(options, work))
        return SETUP_ERROR;
    if (work->next.persist == PERSIST_DISTRIBUTION && work->plan.count &&
        persist_check(options->force, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    if (!options->force && nodeports_check(&work->plan, &work->site.node_ports, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    if (!work->plan.count)
        return apply_nothing(options, work);
    int status = apply_rehearse(options, work);
    if (status)
        return status;
    if (apply_begin(work, options->confirm, &error) < 0)
        return apply_not_begun(options, work, &error);
    if (apply_try(work, &error) == 0)
        return apply_said(options, work, "applied");
    return apply_back(options, work, &error);
}

/* An apply that waits for its confirmation is to be confirmed, undone or too late. */
static int apply_unconfirmed(struct journal *journal, bool *has, struct setup_error *error)
{
    if (*has && journal->phase == JOURNAL_UNDOING)
        say_error(0, "an earlier undo was interrupted: what it has put back is applied again");
    if (!*has || journal->phase != JOURNAL_UNCONFIRMED)
        return 0;
    if (time(NULL) >= journal->deadline)
        return rollback_reload(journal, has, "an earlier apply was not confirmed in time", error);
    return setup_fail(error,
                      "an apply waits for its confirmation until %s: confirm or undo it first",
                      text_when(journal->deadline));
}

int setup_apply(const struct setup_options *options)
{
    static struct work work;
    struct setup_error error = {.text = ""};
    struct journal journal = {.count = 0};
    bool has = false;
    signals_watch();
    int status = lock_take(0, &error);
    if (status == 0)
        status = journal_begin(&journal, &has, &error);
    if (status == 0)
        status = apply_unconfirmed(&journal, &has, &error);
    journal_free(&journal);
    if (status < 0) {
        lock_end();
        return say_error(SETUP_ERROR, "%s", error.text);
    }
    status = work_begin(&work, options);
    if (!status)
        status = apply_all(options, &work);
    work_end(&work);
    lock_end();
    return status;
}
