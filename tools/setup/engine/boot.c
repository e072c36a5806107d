/* SPDX-License-Identifier: MIT */
/*
 * boot: what the unit runs. The journal says what the machine shall be, and boot sets what does not
 * last by itself; files are there already. It reads no configuration: what comes up is what was
 * applied, not what somebody has written since. One resource that fails does not keep the others
 * from coming up, least of all the firewall's rules; but without these nothing is forwarded.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* Whether setting it lets packets through the machine. */
static bool boot_opens(const struct journal_entry *entry)
{
    size_t length = strlen(entry->name);
    static const char suffix[] = "forwarding";
    return entry->type == &resource_sysctl &&
           (strcmp(entry->name, "net.ipv4.ip_forward") == 0 ||
            (length >= sizeof(suffix) - 1 &&
             strcmp(entry->name + length - (sizeof(suffix) - 1), suffix) == 0));
}

static int boot_run(const struct journal *journal, size_t *changed, struct setup_error *error)
{
    bool failed = false, unguarded = false;
    struct setup_error one = {.text = ""};
    if (journal_use(journal, error) < 0)
        return -1;
    for (size_t i = 0; i < journal->count; i++) {
        const struct journal_entry *entry = &journal->entry[i];
        if (entry->type->lasting || (unguarded && boot_opens(entry)))
            continue;
        int result = change_from(entry->type, entry->name, entry->before, entry->wanted, &one);
        if (result < 0) {
            say_error(0, "%s", one.text);
            *error = one;
            failed = true;
            unguarded |= entry->type == &resource_iptables || entry->type == &resource_nft;
        } else {
            *changed += (size_t)result;
        }
    }
    if (unguarded)
        say_error(0, "the firewall's rules are not there: forwarding is not turned on");
    return failed ? setup_fail(error, "not everything that was applied could be set") : 0;
}

static int boot_said(const struct setup_options *options, int result, bool has, bool undone,
                     size_t changed, const struct setup_error *error)
{
    const char *word = result < 0 ? "failed"
                       : !has     ? "nothing"
                       : undone   ? "undone"
                       : changed  ? "set"
                                  : "unchanged";
    if (options->json)
        json_say(json_pack("{s:s, s:I, s:o}", "result", word, "changed", (json_int_t)changed,
                           "error", result < 0 ? json_error(error) : json_null()));
    if (result < 0)
        return say_error(SETUP_ERROR, "%s", error->text);
    if (!options->json && undone)
        printf("An undo was interrupted; it is done now: %s.\n", text_count(changed, "change"));
    else if (!options->json && has)
        printf("Set what was applied: %s.\n", text_count(changed, "change"));
    else if (!options->json)
        printf("Nothing to set: nothing is applied here.\n");
    return SETUP_OK;
}

int setup_boot(const struct setup_options *options)
{
    struct setup_error error = {.text = ""};
    struct journal journal = {.count = 0};
    bool has = false;
    size_t changed = 0;
    signals_watch();
    int result = lock_take(0, &error);
    if (result == 0)
        result = journal_begin(&journal, &has, &error);
    if (result == 0 && has && journal.phase == JOURNAL_UNCONFIRMED) /* perhaps for a reason */
        result = rollback_reload(&journal, &has, "an earlier apply was not confirmed", &error);
    bool undone = has && journal.phase == JOURNAL_UNDOING;
    if (result == 0 && undone)
        say_error(0, "an earlier undo was interrupted: going on from there");
    if (result == 0 && undone)
        result = undo_go_on(&journal, &changed, &error);
    else if (result == 0 && has)
        result = boot_run(&journal, &changed, &error);
    journal_free(&journal);
    lock_end();
    return boot_said(options, result, has, undone, changed, &error);
}
