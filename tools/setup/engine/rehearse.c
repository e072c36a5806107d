/* SPDX-License-Identifier: MIT */
/*
 * A plan rehearsed. The same connections are made in a twin of this machine before the plan's steps
 * and after them: what the configuration promises, and what people have who are there. The steps
 * are the plan's own, since the twin is as the machine is for which they were made; but what does
 * not concern packets, such as files, is not done there.
 *
 * Whatever keeps us from rehearsing keeps nobody from applying: a machine that may not make
 * namespaces, say a container, is set up as well as any other.
 */
#include "../resources/state.h"
#include "../roles/roles.h"
#include "rehearse.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMISE_MOST 12 /* connections of one promise; doctor tries them all */
#define BLAMES_MOST 10  /* of what stops working: each may take a second */

/* Without any packet for so many ms, what is under way is lost. */
#define PATIENCE 60
#define MORE_PATIENCE 200  /* if it matters: the machine may be busy */
#define MOST_PATIENCE 1500 /* if apply would be refused for it */

/* What is made before the steps, or after: the people's connections, and then the promises'. */
struct round {
    struct promises promises;
    struct play *play;
    const struct promise **promise; /* of each; NULL: a person's */
    size_t count;
};

struct trial {
    const struct work *work;
    struct rehearsal *result;
    struct twin twin;
    struct people people;
    struct round before, after;
    struct progress progress;
};

static bool change_concerns_packets(const struct change *change)
{
    static const char *const settings[] = {"net.ipv4.", "net.ipv6.", "net.netfilter."};
    for (size_t i = 0; i < 3 && change->type == &resource_sysctl; i++)
        if (strncmp(change->name, settings[i], strlen(settings[i])) == 0)
            return true;
    return change->type == &resource_routes || change->type == &resource_rule ||
           change->type == &resource_iptables || change->type == &resource_nft;
}

static void trial_tick(void *arg)
{
    progress_step(arg, 0, 0);
}

/* ---- the steps ---- */

/* A setting that only the machine's first namespace has, or that of an interface that is not there.
 */
static bool twin_lacks(struct twin *twin, const struct change *change)
{
    struct setup_error ignored;
    char *now = NULL;
    if (change->type != &resource_sysctl)
        return false;
    twin_enter(twin);
    int result = change->type->read(change->name, &now, &ignored);
    twin_leave(twin);
    bool lacks = result == 0 && !now;
    if (lacks)
        twin_note(twin, NULL, "the setting %s, which a twin does not have", change->name);
    free(now);
    return lacks;
}

int rehearse_change(struct twin *twin, const struct change *change, struct setup_error *error)
{
    int result = 0;
    if (!change_concerns_packets(change) || twin_lacks(twin, change))
        return 0;
    twin_enter(twin);
    for (size_t i = 0; i < change->steps.count && result == 0; i++)
        if (change->steps.item[i].argv)
            result = step_run(&change->steps.item[i], error);
    twin_leave(twin);
    return result;
}

static int trial_steps(struct trial *trial)
{
    const struct plan *plan = &trial->work->plan;
    struct setup_error error = {.text = ""};
    for (size_t i = 0; i < plan->count; i++) {
        const struct change *change = &plan->change[i];
        if (rehearse_change(&trial->twin, change, &error) < 0) {
            FILE *out = state_open(&trial->result->failed);
            fprintf(out, "%s: %s", type_label(change->type, change->name), error.text);
            state_close(out);
            return -1;
        }
        trial_tick(&trial->progress);
    }
    return 0;
}

/* ---- the connections ---- */

static void round_add(struct round *round, const struct promise *promise, const struct play *play)
{
    round->play = state_grow(round->play, (round->count + 1) * sizeof(*round->play));
    round->promise = state_grow(round->promise, (round->count + 1) * sizeof(*round->promise));
    round->play[round->count] = *play;
    round->promise[round->count++] = promise;
}

/* Some of each promise, from all over it; each by itself. */
static void round_promise(struct round *round, const struct promise *promise)
{
    size_t count;
    struct play *play = promise_plays(promise, &count);
    size_t some = count < PROMISE_MOST ? count : PROMISE_MOST;
    for (size_t i = 0; i < some; i++) {
        struct play *it = &play[some > 1 ? i * (count - 1) / (some - 1) : 0];
        if (!it->group)
            round_add(round, promise, it);
    }
    free(play);
}

static const struct play *round_find(const struct round *round, const struct play *play)
{
    for (size_t i = 0; i < round->count; i++) {
        const struct play *it = &round->play[i];
        if (it->sport == play->sport && it->dport == play->dport &&
            memcmp(it->from, play->from, 16) == 0 && memcmp(it->to, play->to, 16) == 0)
            return it;
    }
    return NULL;
}

/* How long a connection that was lost in a round deserves to be waited for; 0: it does not. */
static int round_patience(const struct round *round, size_t i, const struct round *first)
{
    const struct promise *promise = round->promise[i];
    const struct play *earlier = first ? round_find(first, &round->play[i]) : NULL;
    if (round->play[i].result != PLAY_LOST || (promise && promise->rejected))
        return 0;
    if (!first)
        return promise ? 0 : MORE_PATIENCE;
    if (earlier && earlier->result == PLAY_PASSED)
        return MOST_PATIENCE;
    return promise ? MORE_PATIENCE : 0;
}

/*
 * All at once, and once more what was lost, if it matters: most of what is promised is lost before
 * the steps, and much of it is to be rejected after them. @first: the round before, or NULL.
 */
static void round_play(struct trial *trial, struct round *round, const struct round *first)
{
    static const int patience[] = {MORE_PATIENCE, MOST_PATIENCE};
    struct play *again = state_grow(NULL, (round->count + 1) * sizeof(*again));
    size_t *of = state_grow(NULL, (round->count + 1) * sizeof(*of));
    play_within(&trial->twin, round->play, round->count, PATIENCE, trial_tick, &trial->progress);
    for (size_t k = 0; k < 2; k++) {
        size_t count = 0;
        for (size_t i = 0; i < round->count; i++)
            if (round_patience(round, i, first) == patience[k]) {
                again[count] = round->play[i];
                of[count++] = i;
            }
        if (count)
            play_within(&trial->twin, again, count, patience[k], trial_tick, &trial->progress);
        for (size_t i = 0; i < count; i++)
            round->play[of[i]] = again[i];
    }
    free(again);
    free(of);
}

/* In the twin: by which interface somebody comes may be another after the steps. */
static void trial_round(struct trial *trial, struct round *round, const struct round *first)
{
    const struct work *work = trial->work;
    struct setup_error ignored;
    for (size_t i = 0; i < trial->people.count; i++)
        round_add(round, NULL, &trial->people.play[i]);
    twin_enter(&trial->twin);
    if (roles_promise(&work->site, work->next.roles, work->config, &round->promises, &ignored) == 0)
        for (size_t i = 0; i < round->promises.count; i++)
            round_promise(round, &round->promises.item[i]);
    twin_leave(&trial->twin);
    round_play(trial, round, first);
}

static void round_free(struct round *round)
{
    promises_free(&round->promises);
    free(round->play);
    free(round->promise);
}

static bool promise_same(const struct promise *a, const struct promise *b)
{
    return a->family == b->family && strcmp(a->name, b->name) == 0 &&
           state_equal(a->rejected, b->rejected);
}

static size_t round_kept(const struct round *round, const struct promise *promise, size_t *tries)
{
    size_t kept = 0;
    for (size_t i = 0; i < round->count; i++)
        if (round->promise[i] && promise_same(round->promise[i], promise)) {
            enum promise_kept judged = promise_judge(round->promise[i], &round->play[i]);
            *tries += judged != PROMISE_UNKNOWN;
            kept += judged == PROMISE_KEPT;
        }
    return kept;
}

static void trial_outlook(struct trial *trial)
{
    struct rehearsal *result = trial->result;
    const struct promises *promises = &trial->after.promises;
    result->outlook = state_grow(NULL, (promises->count + 1) * sizeof(*result->outlook));
    for (size_t i = 0; i < promises->count; i++) {
        const struct promise *promise = &promises->item[i];
        struct outlook *it = &result->outlook[result->outlooks++];
        size_t ignored = 0;
        *it = (struct outlook){
            .name = promise->name, .rejected = promise->rejected, .family = promise->family};
        it->before = round_kept(&trial->before, promise, &ignored);
        it->after = round_kept(&trial->after, promise, &it->tries);
    }
}

/* ---- what stops working ---- */

/* It worked, and does not: unless the next try says that it does. */
static void stop_add(struct trial *trial, const char *what, const struct play *play)
{
    struct rehearsal *result = trial->result;
    struct stop stop = {.play = *play, .what = what};
    if (result->stops < BLAMES_MOST)
        blame_play(&trial->twin, &stop.play, false, &stop.blame);
    trial_tick(&trial->progress);
    if (stop.play.result == PLAY_PASSED) {
        blame_free(&stop.blame);
        return;
    }
    result->stop = state_grow(result->stop, (result->stops + 1) * sizeof(stop));
    result->stop[result->stops++] = stop;
}

static void trial_compare(struct trial *trial)
{
    static const char *const why[] = {
        [PERSON_CONNECTED] = "open now",
        [PERSON_NODE_PORT] = "a node port",
        [PERSON_LISTENS] = "somebody listens there",
    };
    for (size_t i = 0; i < trial->before.count; i++) {
        const struct promise *promise = trial->before.promise[i];
        const struct play *after = round_find(&trial->after, &trial->before.play[i]);
        bool passed = trial->before.play[i].result == PLAY_PASSED;
        trial->result->people += !promise && passed;
        trial->result->strange += !promise && !passed;
        if (passed && after && after->result != PLAY_PASSED && (!promise || !promise->rejected))
            stop_add(trial, promise ? promise->name : why[trial->people.why[i]], after);
    }
}

/* ---- all of it ---- */

static void trial_run(struct trial *trial)
{
    struct rehearsal *result = trial->result;
    struct setup_error error;
    if (*setup_root || geteuid() != 0) {
        result->why_not = state_copy(*setup_root ? "with --root nothing is"
                                                 : "only root may make a twin of the network");
        return;
    }
    trial_tick(&trial->progress);
    if (twin_make(&trial->twin, trial_tick, &trial->progress, &error) < 0) {
        result->why_not = state_copy(error.text);
        return;
    }
    people_look(&trial->work->site, &trial->people);
    result->beyond = trial->people.beyond;
    if (!signals_seen())
        trial_round(trial, &trial->before, NULL);
    if (!signals_seen() && trial_steps(trial) == 0) {
        trial_round(trial, &trial->after, &trial->before);
        trial_compare(trial);
        trial_outlook(trial);
    }
    result->note = trial->twin.note;
    result->notes = trial->twin.notes;
    trial->twin.note = NULL;
    trial->twin.notes = 0;
}

void rehearse(struct work *work)
{
    struct trial trial = {
        .work = work, .twin = {.home = -1}, .progress = {.what = "rehearsing the plan"}};
    size_t concerned = 0;
    for (size_t i = 0; i < work->plan.count; i++)
        concerned += change_concerns_packets(&work->plan.change[i]);
    if (!concerned)
        return;
    trial.result = work->rehearsal = state_grow(NULL, sizeof(*trial.result));
    *trial.result = (struct rehearsal){.stops = 0};
    trial_run(&trial);
    progress_end(&trial.progress);
    round_free(&trial.before);
    round_free(&trial.after);
    people_free(&trial.people);
    twin_free(&trial.twin);
}

void rehearsal_free(struct rehearsal *rehearsal)
{
    for (size_t i = 0; rehearsal && i < rehearsal->stops; i++)
        blame_free(&rehearsal->stop[i].blame);
    for (size_t i = 0; rehearsal && i < rehearsal->notes; i++) {
        free(rehearsal->note[i].what);
        free(rehearsal->note[i].line);
    }
    if (rehearsal) {
        free(rehearsal->why_not);
        free(rehearsal->failed);
        free(rehearsal->outlook);
        free(rehearsal->stop);
        free(rehearsal->note);
    }
    free(rehearsal);
}

/* ---- saying it ---- */

int rehearsal_refuses(const struct rehearsal *rehearsal, struct setup_error *error)
{
    if (rehearsal && rehearsal->failed)
        return setup_fail(error, "a step fails (tried in a twin of this machine's network): %s",
                          rehearsal->failed);
    if (rehearsal && rehearsal->stops)
        return setup_fail(error,
                          "%s would stop working (tried in a twin of this machine's network); "
                          "--force applies it all the same",
                          text_count(rehearsal->stops, "connection"));
    return 0;
}

/* "192.168.31.67 port 51000 to 192.168.31.17 port 22". */
static void play_print(const struct play *play, FILE *out)
{
    char from[ADDR_TEXT], to[ADDR_TEXT];
    fprintf(out, "%s port %u to %s port %u", addr_print(play->from, from, sizeof(from)),
            play->sport, addr_print(play->to, to, sizeof(to)), play->dport);
}

static const char *stop_result(const struct stop *stop)
{
    return stop->play.result == PLAY_REFUSED ? "refused" : "lost";
}

static void stop_print(const struct stop *stop, FILE *out)
{
    fputs("# would stop working: ", out);
    play_print(&stop->play, out);
    fprintf(out, " (%s): %s", stop->what, stop_result(stop));
    if (stop->blame.rule) {
        fputs(" by ", out);
        clean_print(stop->blame.rule, strlen(stop->blame.rule), out);
    }
    putc('\n', out);
}

static void outlook_print(const struct outlook *it, FILE *out)
{
    const char *how = it->rejected ? "rejected" : "work";
    if (it->after > it->before)
        fprintf(out, "# will %s%s: ", it->rejected ? "be " : "", how);
    else if (it->after == it->tries || it->rejected)
        return;
    else
        fprintf(out, "# will not %s: ", how);
    fprintf(out, "%s, IPv%d%s%s (%zu of %zu)\n", it->name, it->family, it->rejected ? ", " : "",
            it->rejected ? it->rejected : "",
            it->after > it->before ? it->after : it->tries - it->after, it->tries);
}

void rehearsal_print(const struct rehearsal *rehearsal, bool all, FILE *out)
{
    if (!rehearsal)
        return;
    if (all && rehearsal->why_not)
        fprintf(out, "# Not rehearsed: %s.\n", rehearsal->why_not);
    else if (all && rehearsal->failed)
        fprintf(out, "# Rehearsed in a twin of this machine's network: a step fails there.\n");
    else if (all)
        fprintf(out, "# Rehearsed in a twin of this machine's network:\n");
    for (size_t i = 0; all && i < rehearsal->outlooks; i++)
        outlook_print(&rehearsal->outlook[i], out);
    for (size_t i = 0; i < rehearsal->stops && i < BLAMES_MOST; i++)
        stop_print(&rehearsal->stop[i], out);
    if (rehearsal->stops > BLAMES_MOST)
        fprintf(out, "# would stop working: %s more, which --json lists\n",
                text_count(rehearsal->stops - BLAMES_MOST, "connection"));
    if (all && !rehearsal->why_not && !rehearsal->failed) {
        if (!rehearsal->stops)
            fprintf(out, "# nothing stops working: %s in use or listened for here, tried\n",
                    text_count(rehearsal->people, "connection"));
        if (rehearsal->strange)
            fprintf(out, "# not judged: %s, which could not be made anew even now\n",
                    text_count(rehearsal->strange, "connection"));
        if (rehearsal->beyond)
            fprintf(out, "# not tried: %s more\n", text_count(rehearsal->beyond, "connection"));
        for (size_t i = 0; i < rehearsal->notes; i++) {
            fputs("# not judged: ", out);
            clean_print(rehearsal->note[i].what, strlen(rehearsal->note[i].what), out);
            putc('\n', out);
        }
    }
    if (all)
        putc('\n', out);
}

static json_t *stop_json(const struct stop *stop)
{
    char from[ADDR_TEXT], to[ADDR_TEXT];
    return json_pack("{s:s, s:i, s:s, s:i, s:s, s:s, s:s, s:o}", "from",
                     addr_print(stop->play.from, from, sizeof(from)), "source-port",
                     stop->play.sport, "to", addr_print(stop->play.to, to, sizeof(to)), "port",
                     stop->play.dport, "in", stop->play.in, "what", stop->what, "result",
                     stop_result(stop), "rule", json_shown(stop->blame.rule));
}

json_t *rehearsal_json(const struct rehearsal *rehearsal)
{
    json_t *stops = json_array(), *promises = json_array(), *notes = json_array();
    if (!rehearsal) {
        json_decref(stops);
        return json_null();
    }
    for (size_t i = 0; i < rehearsal->stops; i++)
        json_array_append_new(stops, stop_json(&rehearsal->stop[i]));
    for (size_t i = 0; i < rehearsal->outlooks; i++) {
        const struct outlook *it = &rehearsal->outlook[i];
        json_array_append_new(promises,
                              json_pack("{s:s, s:i, s:s?, s:I, s:I, s:I}", "name", it->name,
                                        "family", it->family, "rejected", it->rejected, "before",
                                        (json_int_t)it->before, "after", (json_int_t)it->after,
                                        "tries", (json_int_t)it->tries));
    }
    for (size_t i = 0; i < rehearsal->notes; i++)
        json_array_append_new(notes,
                              json_pack("{s:o, s:o}", "what", json_shown(rehearsal->note[i].what),
                                        "line", json_shown(rehearsal->note[i].line)));
    return json_pack(
        "{s:b, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o}", "done", !rehearsal->why_not, "why-not",
        json_shown(rehearsal->why_not), "failed", json_shown(rehearsal->failed), "connections",
        (json_int_t)rehearsal->people, "not-judged", (json_int_t)rehearsal->strange, "not-tried",
        (json_int_t)rehearsal->beyond, "stops", stops, "promises", promises, "notes", notes);
}
