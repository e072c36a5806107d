/* SPDX-License-Identifier: MIT */
/*
 * boot: what the unit runs. The journal says what the machine shall be, and boot sets what does not
 * last by itself; files are there already. It reads no configuration: what comes up is what was
 * applied, not what somebody has written since. One resource that fails does not keep the others
 * from coming up, least of all the firewall's rules.
 */
#include "setup-engine.h"

static int boot_run(const struct journal *journal, size_t *changed, struct setup_error *error)
{
    bool failed = false;
    struct setup_error one = {.text = ""};
    if (journal_use(journal, error) < 0)
        return -1;
    for (size_t i = 0; i < journal->count; i++) {
        const struct journal_entry *entry = &journal->entry[i];
        int result =
            entry->type->lasting ? 0 : change_to(entry->type, entry->name, entry->wanted, &one);
        if (result < 0) {
            say_error(0, "%s", one.text);
            *error = one;
            failed = true;
        } else {
            *changed += (size_t)result;
        }
    }
    return failed ? setup_fail(error, "not everything that was applied could be set") : 0;
}

/* Nobody confirmed before the machine went down: that was the reason, perhaps. */
static int boot_begin(struct journal *journal, bool *has, struct setup_error *error)
{
    if (journal_begin(journal, has, error) < 0)
        return -1;
    if (!*has || journal->phase != JOURNAL_UNCONFIRMED)
        return 0;
    return rollback_reload(journal, has, "an earlier apply was not confirmed", error);
}

static int boot_said(const struct setup_options *options, int result, bool has, size_t changed,
                     const struct setup_error *error)
{
    const char *word = result < 0 ? "failed" : !has ? "nothing" : changed ? "set" : "unchanged";
    if (options->json)
        json_say(json_pack("{s:s, s:I, s:o}", "result", word, "changed", (json_int_t)changed,
                           "error", result < 0 ? json_error(error) : json_null()));
    if (result < 0)
        return say_error(SETUP_ERROR, "%s", error->text);
    if (!options->json && has)
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
    if (need_root("boot"))
        return SETUP_ERROR;
    signals_watch();
    int result = lock_take(LOCK_TRY, &error);
    if (result == 0)
        result = boot_begin(&journal, &has, &error);
    if (result == 0 && has && journal.phase == JOURNAL_UNDOING)
        result = undo_go_on(&journal, &changed, &error);
    else if (result == 0 && has)
        result = boot_run(&journal, &changed, &error);
    journal_free(&journal);
    return boot_said(options, result, has, changed, &error);
}
