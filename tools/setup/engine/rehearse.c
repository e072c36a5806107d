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
    bool *cut; /* of people's, whether they are open and do not go on */
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

static void trial_steps(void *arg)
{
    struct trial *trial = arg;
    const struct plan *plan = &trial->work->plan;
    struct setup_error error = {.text = ""};
    for (size_t i = 0; i < plan->count && !trial->result->failed; i++) {
        const struct change *change = &plan->change[i];
        if (rehearse_change(&trial->twin, change, &error) < 0) {
            FILE *out = state_open(&trial->result->failed);
            fprintf(out, "%s: %s", type_label(change->type, change->name), error.text);
            state_close(out);
        }
        trial_tick(&trial->progress);
    }
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
    struct play *play = promise_plays(promise, NULL, &count);
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

/* The steps, while what is open now is open there, too. */
static void trial_across(struct trial *trial)
{
    const struct people *people = &trial->people;
    struct play *play = state_grow(NULL, (people->count + 1) * sizeof(*play));
    size_t *of = state_grow(NULL, (people->count + 1) * sizeof(*of)), count = 0;
    bool *open = state_grow(NULL, people->count + 1);
    for (size_t i = 0; i < people->count; i++)
        if (people->why[i] == PERSON_CONNECTED && trial->before.play[i].result == PLAY_PASSED) {
            play[count] = trial->before.play[i];
            of[count++] = i;
        }
    play_across(&trial->twin, play, count, MOST_PATIENCE, open, trial_steps, trial);
    trial->cut = state_grow(NULL, people->count + 1);
    memset(trial->cut, false, people->count);
    for (size_t i = 0; i < count; i++)
        trial->cut[of[i]] = open[i] && play[i].result != PLAY_PASSED;
    free(play);
    free(of);
    free(open);
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
    for (size_t i = 0, k; i < promises->count; i++) {
        const struct promise *promise = &promises->item[i];
        for (k = 0; k < i && !promise_same(&promises->item[k], promise);)
            k++;
        if (k < i) /* of another role, and counted with it */
            continue;
        struct outlook *it = &result->outlook[result->outlooks++];
        size_t ignored = 0;
        *it = (struct outlook){
            .name = promise->name, .rejected = promise->rejected, .family = promise->family};
        it->before = round_kept(&trial->before, promise, &ignored);
        it->after = round_kept(&trial->after, promise, &it->tries);
    }
}

/* ---- what stops working ---- */

/* It worked, and does not: unless the next try says that it does. @cut: while it is open. */
static void stop_add(struct trial *trial, const char *what, const struct play *play, bool cut)
{
    struct rehearsal *result = trial->result;
    struct stop stop = {.play = *play, .what = what, .cut = cut};
    if (result->stops < REHEARSAL_SHOWN && play->result != PLAY_PASSED)
        blame_play(&trial->twin, &stop.play, false, &stop.blame);
    trial_tick(&trial->progress);
    if (stop.play.result == PLAY_PASSED && !cut) {
        blame_free(&stop.blame);
        return;
    }
    result->stop = state_grow(result->stop, (result->stops + 1) * sizeof(stop));
    result->stop[result->stops++] = stop;
}

/* Between a pod and a host: the configuration says what is to become of it. */
static bool play_is_promised(const struct site *site, const struct play *play)
{
    bool from = blocks_with(&site->hosts, play->from), to = blocks_with(&site->hosts, play->to);
    const uint8_t *pod = from ? play->to : play->from;
    bool is_pod = blocks_with(&site->pods, pod);
    for (size_t i = 0; i < site->nodes && !is_pod; i++)
        is_pod = blocks_with(&site->node[i].pods, pod);
    return from != to && is_pod;
}

static void trial_compare(struct trial *trial)
{
    static const char *const why[] = {
        [PERSON_CONNECTED] = "open now",
        [PERSON_NODE_PORT] = "a node port",
        [PERSON_LISTENS] = "somebody listens there",
    };
    for (size_t i = 0; i < trial->before.count; i++) {
        const struct play *before = &trial->before.play[i];
        const struct promise *promise = trial->before.promise[i];
        const struct play *after = round_find(&trial->after, before);
        bool passed = before->result == PLAY_PASSED, cut = !promise && trial->cut[i];
        bool lost = after && passed && after->result != PLAY_PASSED;
        trial->result->people += !promise && passed;
        trial->result->strange += !promise && !passed;
        if (promise && lost && !promise->rejected)
            stop_add(trial, promise->name, after, false);
        else if (!promise && lost && !cut && play_is_promised(&trial->work->site, before))
            trial->result->ending++;
        else if (!promise && after && (lost || cut))
            stop_add(trial, why[trial->people.why[i]], after, cut);
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
    if (trial->people.blind)
        twin_note(&trial->twin, NULL,
                  "open connections that this machine forwards: only conntrack(8) could list them");
    if (!signals_seen())
        trial_round(trial, &trial->before, NULL);
    if (!signals_seen())
        trial_across(trial);
    if (!signals_seen() && !result->failed) {
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
    free(trial.cut);
    twin_free(&trial.twin);
}
