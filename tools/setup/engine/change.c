/* SPDX-License-Identifier: MIT */
/*
 * One resource brought from what it is to what it shall be: the steps, shown and done, and the look
 * afterwards whether it worked. And the signals, which are heard between two steps: nothing is torn
 * in the middle by Ctrl-C, and nothing goes on after it.
 */
#include "engine.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t signal_first;
static volatile sig_atomic_t signal_deaf;

static void signal_note(int signal)
{
    if (signal != SIGPIPE && !signal_first && !signal_deaf)
        signal_first = signal;
}

/* What is ignored from the beginning (nohup) stays so. A closed stderr must not end us half-way. */
void signals_watch(void)
{
    static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    struct sigaction action = {.sa_handler = signal_note, .sa_flags = SA_RESTART}, old;
    for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
        if (sigaction(watched[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(watched[i], &action, NULL);
}

int signals_seen(void)
{
    return signal_first;
}

void signals_deaf(bool deaf)
{
    signal_deaf = deaf;
    signal_first = 0;
}

static bool state_nothing(const char *state)
{
    return !state || !*state;
}

/* "table there, nothing of ours" and "no table" differ only if that can be had (setup.h). */
bool state_fits(const char *now, const char *wanted)
{
    return state_equal(now, wanted) || (state_nothing(now) && state_nothing(wanted));
}

const char *entry_left(const struct journal_entry *entry)
{
    return entry->done ? entry->after : entry->wanted;
}

/* What it would be now if nobody had touched our part; malloc'd, or NULL. */
static char *entry_expected(const struct journal_entry *entry, const char *now)
{
    struct setup_error ignored;
    char *expected = NULL;
    if (state_merge(entry->type, entry->name, entry->before, entry_left(entry), now, &expected,
                    &ignored) < 0)
        expected = state_copy(entry_left(entry));
    return expected;
}

bool entry_fits(const struct journal_entry *entry, const char *now)
{
    char *expected = entry_expected(entry, now);
    bool fits = state_fits(now, expected);
    free(expected);
    return fits;
}

bool entry_is_ours(const struct journal_entry *entry, const char *now)
{
    char *expected = entry_expected(entry, now);
    bool fits = state_fits(now, expected);
    if (!fits && now && expected && entry->type->content) {
        char *have = entry->type->content(now), *had = entry->type->content(expected);
        fits = state_equal(have, had);
        free(have);
        free(had);
    }
    free(expected);
    return fits;
}

const char *type_label(const struct resource_type *type, const char *name)
{
    static char buffers[4][PATH_MAX + 64];
    static unsigned turn;
    char *buf = buffers[turn++ % 4];
    snprintf(buf, sizeof(buffers[0]), "%s %s", type->name, name);
    return buf;
}

void change_free(struct change *change)
{
    free(change->name);
    free(change->why);
    free(change->now);
    free(change->wanted);
    steps_free(&change->steps);
    *change = (struct change){.name = NULL};
}

int change_list(struct change *change, struct setup_error *error)
{
    if (change->type->steps(change->name, change->now, change->wanted, &change->steps, error) < 0)
        return -1;
    if (!change->steps.count && !state_fits(change->now, change->wanted))
        return setup_fail(error, "%s: there is no way from what it is to what it shall be",
                          type_label(change->type, change->name));
    return 0;
}

int change_do(const struct change *change, struct setup_error *error)
{
    for (size_t i = 0; i < change->steps.count; i++) {
        if (signals_seen())
            return setup_fail(error, "stopped by signal %d (%s)", signals_seen(),
                              strsignal(signals_seen()));
        step_print(&change->steps.item[i], stderr);
        fflush(stderr);
        if (step_do(&change->steps.item[i], error) < 0)
            return -1;
        systemd_note(change->type, change->name);
    }
    return 0;
}

int change_check(const struct resource_type *type, const char *name, const char *wanted, char **now,
                 struct setup_error *error)
{
    char *state = NULL;
    if (type->read(name, &state, error) < 0)
        return -1;
    bool good = state_fits(state, wanted);
    if (!good)
        text_difference(wanted, state, stderr);
    if (now)
        *now = state;
    else
        free(state);
    return good ? 0
                : setup_fail(error, "%s: all steps were done, and still it is not as asked",
                             type_label(type, name));
}

int change_to(const struct resource_type *type, const char *name, const char *wanted,
              struct setup_error *error)
{
    struct change change = {.type = type, .name = state_copy(name), .wanted = state_copy(wanted)};
    int result = type->read(name, &change.now, error);
    bool there = state_equal(change.now, wanted) || (!change.now && state_nothing(wanted));
    if (result == 0 && !there) {
        result = change_list(&change, error);
        if (result == 0)
            result = change_do(&change, error);
        if (result == 0 && change.steps.count)
            result = change_check(type, name, wanted, NULL, error);
        if (result == 0)
            result = change.steps.count != 0;
    }
    change_free(&change);
    return result;
}

int change_from(const struct resource_type *type, const char *name, const char *base,
                const char *to, struct setup_error *error)
{
    char *now = NULL, *merged = NULL;
    int result = type->read(name, &now, error);
    /* Of an interface that has gone there is no setting. */
    if (result == 0 && (now || type != &resource_sysctl)) {
        result = state_merge(type, name, base, to, now, &merged, error);
        if (result == 0)
            result = change_to(type, name, merged, error);
    }
    free(now);
    free(merged);
    return result;
}
