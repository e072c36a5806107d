/* SPDX-License-Identifier: MIT */
/*
 * status: what is, beside what the journal says should be. Reads only, and waits for nobody: while
 * another fixport-setup is at work it says so and shows what it finds.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define UNREADABLE "unreadable"

struct status_line {
    const struct journal_entry *entry;
    const char *word;
    bool good;
    char *now;
};

struct status {
    struct journal journal;
    bool has;
    bool busy; /* another one is at work */
    bool interrupted;
    enum keeper keeper; /* while it waits to be confirmed */
    struct status_line *line;
    size_t bad;
};

static const char *word_applied(const struct journal_entry *entry, const char *now, bool *good)
{
    *good = entry_fits(entry, now);
    if (*good)
        return "as applied";
    if (!now && entry->after)
        return "missing";
    if (state_lost(entry->type, now))
        return "damaged";
    return state_fits(now, entry->before) ? "as before apply" : "changed since";
}

/* On the way from @from to @to when somebody ended it. */
static const char *word_interrupted(const char *from, const char *to, const char *now)
{
    return state_fits(now, to) ? "done" : state_fits(now, from) ? "not reached" : "half done";
}

static void status_entry(const struct status *status, struct status_line *line)
{
    struct setup_error error;
    const struct journal_entry *entry = line->entry;
    line->good = false;
    if (entry->type->read(entry->name, &line->now, &error) < 0) {
        line->word = UNREADABLE;
        say_error(0, "%s", error.text);
    } else if (status->journal.phase == JOURNAL_APPLYING) {
        line->word = word_interrupted(entry->previous, entry->wanted, line->now);
    } else if (status->journal.phase == JOURNAL_UNDOING) {
        line->word = word_interrupted(entry->after, entry->before, line->now);
    } else {
        line->word = word_applied(entry, line->now, &line->good);
    }
}

static int status_take(struct status *status, struct setup_error *error)
{
    const struct journal *journal = &status->journal;
    int result = journal_load(&status->journal, error);
    status->has = result == 1;
    if (result < 0 || journal_use(journal, error) < 0)
        return -1;
    bool under_way = journal->phase == JOURNAL_APPLYING || journal->phase == JOURNAL_UNDOING;
    status->busy = lock_is_held();
    status->interrupted = status->has && under_way && !status->busy;
    if (status->has && journal->deadline && journal->phase != JOURNAL_UNDOING)
        status->keeper = keeper_look(journal);
    status->line = state_grow(NULL, journal->count * sizeof(*status->line));
    for (size_t i = 0; i < journal->count; i++) {
        status->line[i] = (struct status_line){.entry = &journal->entry[i]};
        status_entry(status, &status->line[i]);
        status->bad += !status->line[i].good;
    }
    return 0;
}

static void status_free(struct status *status)
{
    for (size_t i = 0; status->line && i < status->journal.count; i++)
        free(status->line[i].now);
    free(status->line);
    journal_free(&status->journal);
}

static const char *status_going(const struct status *status)
{
    return status->busy ? "is under way" : "was interrupted";
}

static void status_keeper(const struct status *status)
{
    const struct journal *journal = &status->journal;
    const char *deadline = text_when(journal->deadline);
    bool late = time(NULL) >= journal->deadline;
    if (status->keeper == KEEPER_NOBODY && !status->busy)
        printf("%s is there to roll it back%s%s: the process that should have done it is gone. Confirm "
               "it with\n'fixport-setup confirm', or roll it back with 'fixport-setup boot'; a reboot "
               "does that too.\n",
               late ? "It was not confirmed in time, and nobody" : "Nobody", late ? "" : " at ",
               late ? "" : deadline);
    else
        printf("It is rolled back unless 'fixport-setup confirm' comes before %s: by %s.\n", deadline,
               status->keeper == KEEPER_SYSTEMD ? systemd_timer_name(journal->when)
                                                : "a process that waits for it");
}

static void status_heading(const struct status *status)
{
    const struct journal *journal = &status->journal;
    const char *roles = text_roles(journal->roles), *when = text_when(journal->when);
    if (status->busy)
        printf("Another fixport-setup is at work here.\n");
    if (journal->phase == JOURNAL_APPLYING)
        printf("An apply %s for role %s, begun %s%s\n", status_going(status), roles, when,
               status->interrupted ? ": the next apply or undo rolls it back first." : ".");
    else if (journal->phase == JOURNAL_UNDOING)
        printf("An undo %s for role %s%s\n", status_going(status), roles,
               status->interrupted ? ": the next undo goes on with it; an apply sets again what it "
                                     "has put back."
                                   : ".");
    else
        printf("Applied %s from %s for role %s%s%s.\n", when, journal->config, roles,
               *journal->owner && strcmp(journal->owner, JOURNAL_HAND) != 0 ? ", by " : "",
               strcmp(journal->owner, JOURNAL_HAND) != 0 ? journal->owner : "");
    if (journal->phase == JOURNAL_UNCONFIRMED)
        status_keeper(status);
}

static void status_table(const struct status *status)
{
    int width = 8;
    for (size_t i = 0; i < status->journal.count; i++) {
        const struct journal_entry *entry = status->line[i].entry;
        int needs = say_width(type_label(entry->type, entry->name));
        width = needs > width && needs <= 72 ? needs : width;
    }
    putchar('\n');
    say_cell("RESOURCE", width);
    say_cell("STATE", 15);
    printf("WHAT FOR\n");
    for (size_t i = 0; i < status->journal.count; i++) {
        const struct status_line *line = &status->line[i];
        say_cell(type_label(line->entry->type, line->entry->name), width);
        say_cell(line->word, 15);
        printf("%s\n", line->entry->why ? line->entry->why : "");
    }
}

static void status_differences(const struct status *status)
{
    bool under_way =
        status->journal.phase == JOURNAL_APPLYING || status->journal.phase == JOURNAL_UNDOING;
    for (size_t i = 0; !under_way && i < status->journal.count; i++) {
        const struct status_line *line = &status->line[i];
        if (line->good || strcmp(line->word, UNREADABLE) == 0)
            continue;
        printf("\n%s:\n", type_label(line->entry->type, line->entry->name));
        text_difference(line->entry->after, line->now, stdout);
    }
}

static void status_say(const struct status *status)
{
    if (!status->has) {
        printf("Nothing is applied here%s.\n",
               status->busy ? " yet; another fixport-setup is at work" : "");
        return;
    }
    status_heading(status);
    status_table(status);
    status_differences(status);
    if (status->bad && !status->interrupted && !status->busy)
        printf("\n%s not as applied; 'fixport-setup apply' mends it.\n",
               text_are(status->bad, "resource"));
}

static json_t *status_lines(const struct status *status)
{
    json_t *list = json_array();
    for (size_t i = 0; i < status->journal.count; i++) {
        const struct status_line *line = &status->line[i];
        const struct journal_entry *entry = line->entry;
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:s, s:b, s:o, s:o}", "type",
                                              entry->type->name, "name", entry->name, "why",
                                              json_text(entry->why), "state", line->word, "good",
                                              line->good, "applied", json_text(entry->after), "now",
                                              json_shown(line->now)));
    }
    return list;
}

static json_t *status_object(const struct status *status)
{
    static const char *const phases[] = {"applying", "unconfirmed", "applied", "undoing"};
    static const char *const keepers[] = {"nobody", "process", "systemd"};
    const struct journal *journal = &status->journal;
    const char *phase = !status->has ? "none" : phases[journal->phase];
    if (!status->has)
        return json_pack("{s:s, s:b, s:[]}", "phase", phase, "busy", status->busy, "resources");
    return json_pack("{s:s, s:b, s:b, s:s?, s:s, s:o, s:I, s:o, s:o}", "phase", phase, "busy",
                     status->busy, "interrupted", status->interrupted, "keeper",
                     journal->deadline ? keepers[status->keeper] : NULL, "config", journal->config, "roles", json_roles(journal->roles), "when",
                     (json_int_t)journal->when, "deadline",
                     journal->deadline ? json_integer(journal->deadline) : json_null(), "resources",
                     status_lines(status));
}

int setup_status(const struct setup_options *options)
{
    struct status status = {.has = false};
    struct setup_error error = {.text = ""};
    int result = status_take(&status, &error);
    if (result == 0 && options->json)
        json_say(status_object(&status));
    else if (result == 0)
        status_say(&status);
    bool good = !status.bad && !status.interrupted && status.journal.phase != JOURNAL_UNCONFIRMED;
    bool settled = !status.has || (good && status.journal.phase == JOURNAL_APPLIED);
    status_free(&status);
    if (result < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    return settled ? SETUP_OK : SETUP_CHANGES;
}
