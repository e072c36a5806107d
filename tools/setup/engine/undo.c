/* SPDX-License-Identifier: MIT */
/*
 * Back: to where the last apply began (roll back) or to where the first did (undo). Both are the
 * same walk through the journal, last first, with steps made from what is really there, and both
 * go on with the next resource when one cannot be put back: nearer to what was is better than
 * half-way. The journal goes only when all is back, so the next undo tries the rest again.
 */
#include "../resources/state.h"
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The first failure is what @error tells; the others are said at once. */
static void walk_failed(bool *failed, const struct setup_error *one, struct setup_error *error)
{
    if (*failed)
        say_error(0, "%s", one->text);
    else
        *error = *one;
    *failed = true;
}

/* The half-written file of one that was killed. A manifest's lies in the folder above its own. */
static void walk_sweep(const struct journal_entry *entry)
{
    char above[PATH_MAX];
    if (entry->type == &resource_file)
        file_sweep(entry->name, NULL);
    if (entry->type != &resource_nodeports)
        return;
    snprintf(above, sizeof(above), "%s", entry->name);
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(above, '/');
        if (slash)
            *slash = '\0';
    }
    file_sweep(entry->name, *above ? above : "/");
}

static bool folder_in_use(const char *name)
{
    const struct dirent *entry = NULL;
    DIR *folder = opendir(setup_folder(name));
    bool used = false;
    while (folder && !used && (entry = readdir(folder)))
        used = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (folder)
        closedir(folder);
    return used;
}

static int walk_back(const struct journal_entry *entry, const char *from, const char *state,
                     struct setup_error *error)
{
    walk_sweep(entry);
    if (state_lost(entry->type, state))
        state = NULL;
    if (entry->type == &resource_folder && !state && folder_in_use(entry->name))
        return 0; /* by somebody else: what was ours in it has gone by now */
    return change_from(entry->type, entry->name, from, state, error);
}

/* Those above the journal's and the lock's are in use until these go. */
static void walk_folders(const struct journal *journal)
{
    for (size_t i = journal->count; i-- > 0;)
        if (journal->entry[i].type == &resource_folder && !journal->entry[i].before)
            lock_adopt(journal->entry[i].name);
}

/* What somebody has removed meanwhile is made again, and that needs the folder that it lies in. */
static bool walk_to_folder(const struct journal_entry *entry)
{
    return entry->type == &resource_folder && entry->previous;
}

int rollback_run(const struct journal *journal, struct setup_error *error)
{
    bool failed = false;
    struct setup_error one = {.text = ""};
    signals_deaf(true);
    run_until(0);
    for (size_t i = 0; i < journal->count; i++) {
        const struct journal_entry *entry = &journal->entry[i];
        if (walk_to_folder(entry) && walk_back(entry, entry->wanted, entry->previous, &one) < 0)
            walk_failed(&failed, &one, error);
    }
    for (size_t i = journal->count; i-- > 0;) {
        const struct journal_entry *entry = &journal->entry[i];
        if (walk_to_folder(entry))
            continue;
        if (walk_back(entry, entry->wanted, entry->previous, &one) < 0)
            walk_failed(&failed, &one, error);
    }
    signals_deaf(false);
    systemd_reload();
    if (failed)
        return -1;
    if (journal_restore(journal, error) < 0)
        return errno == ENOSPC || errno == EDQUOT ? 1 : -1;
    if (!journal->earlier)
        walk_folders(journal);
    if (journal->deadline)
        keeper_stop(journal->when);
    return 0;
}

/* Whether what @later's apply did to a resource is still there. Return: 1, 0, -1. */
static int rollback_missed(const struct journal_entry *earlier, const struct journal_entry *later,
                           struct setup_error *error)
{
    char *now = NULL;
    if (later->type->read(later->name, &now, error) < 0)
        return -1;
    int missed = !(earlier && entry_is_ours(earlier, now)) && entry_is_ours(later, now);
    free(now);
    return missed;
}

/*
 * To the earlier journal without its being on disk: there is no room for it, or where the last apply
 * began from cannot be made again. What that apply has left goes back with the rest.
 */
static int rollback_past(struct journal *journal, struct setup_error *error)
{
    struct journal earlier;
    int result = journal_earlier(journal, &earlier, error);
    for (size_t i = 0; result >= 0 && i < journal->count; i++) {
        const struct journal_entry *later = &journal->entry[i];
        struct journal_entry *entry = journal_find(&earlier, later->type, later->name);
        result = rollback_missed(entry, later, error);
        if (result != 1)
            continue;
        if (!entry) {
            entry = journal_add(&earlier, later->type, later->name, later->why);
            entry->before = state_copy(later->before);
        }
        free(entry->after);
        entry->after = state_copy(entry_left(later));
    }
    journal_free(journal);
    *journal = earlier;
    return result < 0 ? -1 : 0;
}

int rollback_reload(struct journal *journal, bool *has, const char *why, struct setup_error *error)
{
    say_error(0, "%s: rolling it back", why);
    int result = journal_use(journal, error);
    if (result == 0)
        result = rollback_run(journal, error);
    if (result && file_in_place && journal->earlier) { /* undo goes on from there, and removes it */
        if (result < 0)
            say_error(0, "%s", error->text);
        *has = true;
        return rollback_past(journal, error);
    }
    journal_free(journal);
    if (result)
        return -1;
    result = journal_load(journal, error);
    *has = result == 1;
    return result < 0 ? -1 : 0;
}

int journal_begin(struct journal *journal, bool *has, struct setup_error *error)
{
    int result = journal_load(journal, error);
    unlink(setup_path(SETUP_PUBLIC));
    *has = result == 1;
    if (result < 0)
        return -1;
    if (!*has)
        return journal_remove(error); /* and what a killed one left in the folder */
    if (journal->phase == JOURNAL_APPLYING)
        return rollback_reload(journal, has, "an earlier apply was interrupted", error);
    return 0;
}

/* Ours was changed by somebody since: neither as we left it nor as before. Return: 1, 0, -1. */
static int undo_drifted(const struct journal_entry *entry, struct setup_error *error)
{
    char *now = NULL;
    if (entry->type->read(entry->name, &now, error) < 0)
        return -1;
    bool gone = entry->type == &resource_sysctl && !now;
    bool drifted = !gone && !entry_is_ours(entry, now) && !state_fits(now, entry->before) &&
                   !state_lost(entry->type, now);
    if (drifted) {
        say_error(0, "%s was changed since:", type_label(entry->type, entry->name));
        text_difference(entry->after, now, stderr);
    }
    free(now);
    return drifted;
}

static int undo_check(const struct journal *journal, struct setup_error *error)
{
    size_t drifted = 0;
    for (size_t i = 0; i < journal->count; i++) {
        int result = undo_drifted(&journal->entry[i], error);
        if (result < 0)
            return -1;
        drifted += (size_t)result;
    }
    if (!drifted)
        return 0;
    return setup_fail(error,
                      "%s not as fixport-setup left %s; nothing was undone. --force undoes it all "
                      "the same",
                      text_are(drifted, "resource"), drifted == 1 ? "it" : "them");
}

static int undo_walk(const struct journal *journal, size_t *changed, struct setup_error *error)
{
    bool failed = false;
    struct setup_error one = {.text = ""};
    for (size_t i = journal->count; i-- > 0 && !signals_seen();) {
        const struct journal_entry *entry = &journal->entry[i];
        int result = walk_back(entry, entry_left(entry), entry->before, &one);
        if (result < 0)
            walk_failed(&failed, &one, error);
        else
            *changed += (size_t)result;
    }
    systemd_reload();
    return failed || signals_seen() ? -1 : 0;
}

int undo_go_on(const struct journal *journal, size_t *changed, struct setup_error *error)
{
    if (journal_use(journal, error) < 0 || undo_walk(journal, changed, error) < 0)
        return -1;
    if (journal_remove(error) < 0)
        return -1;
    walk_folders(journal);
    return 0;
}

static int undo_run(struct journal *journal, bool force, size_t *changed, struct setup_error *error)
{
    if (journal->phase == JOURNAL_UNDOING) {
        say_error(0, "an earlier undo was interrupted: going on from there");
        return undo_go_on(journal, changed, error);
    }
    if (journal_use(journal, error) < 0 || (!force && undo_check(journal, error) < 0))
        return -1;
    journal->phase = JOURNAL_UNDOING;
    if (journal_save(journal, error) < 0) {
        if (errno != ENOSPC && errno != EDQUOT)
            return -1;
        say_error(0, "note: there is no room to note that an undo is under way; if it is interrupted, "
                     "run it again");
    }
    return undo_go_on(journal, changed, error);
}

static int undo_failed(const struct setup_options *options, const struct setup_error *error)
{
    int signal = signals_seen();
    if (options->json)
        json_say(json_pack("{s:s, s:o}", "result", "failed", "error",
                           signal ? json_string(strsignal(signal)) : json_error(error)));
    if (!signal)
        return say_error(SETUP_ERROR, "%s", error->text);
    return say_error(128 + signal,
                     "stopped by signal %d (%s): 'fixport-setup undo' goes on from here", signal,
                     strsignal(signal));
}

static int undo_done(const struct setup_options *options, size_t resources, size_t changed)
{
    if (options->json)
        json_say(json_pack("{s:s, s:I, s:I, s:n}", "result", resources ? "undone" : "unchanged",
                           "resources", (json_int_t)resources, "changed", (json_int_t)changed,
                           "error"));
    else if (resources)
        printf("Undone: %s as before; %s.\n", text_are(resources, "resource"),
               changed ? text_count(changed, "change") : "nothing had to be changed");
    else
        printf("Nothing to undo: nothing is applied here.\n");
    return SETUP_OK;
}

int setup_undo(const struct setup_options *options)
{
    struct setup_error error = {.text = ""};
    struct journal journal = {.count = 0};
    bool has = false;
    size_t changed = 0;
    signals_watch();
    file_in_place = true;
    int result = lock_take(0, &error);
    if (result == 0)
        result = journal_begin(&journal, &has, &error);
    size_t resources = journal.count;
    if (result == 0 && has && !options->force)
        result = journal_owned(&journal, options->owner, &error);
    if (result == 0 && has)
        result = undo_run(&journal, options->force, &changed, &error);
    if (result == 0 && journal.deadline)
        keeper_stop(journal.when);
    if (result == 0)
        systemd_stop(&journal);
    journal_free(&journal);
    lock_end();
    return result < 0 ? undo_failed(options, &error) : undo_done(options, resources, changed);
}
