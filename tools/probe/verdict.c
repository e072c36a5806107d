/* SPDX-License-Identifier: MIT */
/*
 * From what both sides know to one verdict, in words. No side effects: both sides call it with the
 * same facts and must come to the same text.
 *
 * The tries that count are those from inside of the range; without a range, all. A changed port is
 * the worst, because it explains all else: a firewall that knows the range only cannot let the
 * answer through. Then comes what says most about where a connection ended.
 */
#include "probe.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define SPREAD_MOST 4096 /* ports that are so close together were not drawn from all */
#define SPREAD_TRIES 4   /* from so many on that is no accident: 1 in 900 */
#define LOW_PORT 32768   /* Cilium's masquerading keeps ports from here on */

const char *verdict_name(enum verdict verdict)
{
    static const char *const names[] = {
        "no-snat",   "snat-kept", "port-changed", "answer-blocked", "nothing-arrived",
        "no-answer", "rejected",  "refused",      "not-a-probe",    "not-sent"};
    return names[verdict];
}

const char *cause_name(enum cause cause)
{
    static const char *const names[] = {"none", "random", "range", "taken", "low-ports", "one-try"};
    return names[cause];
}

/* ---- which it is ---- */

/* Of a captured SYN that no connection came of, and of which the connector said nothing. */
static enum verdict judge_syn(const struct probe_try *try)
{
    return try->left == LEFT_RST && try->syns == 1 && !try->bounce.is ? VERDICT_REFUSED
                                                                      : VERDICT_BLOCKED;
}

/* What one try says, if it was not answered. */
static enum verdict judge_try(const struct probe_facts *facts, const struct probe_try *try)
{
    switch (try->end) {
    case END_LOCAL:
        return VERDICT_NOT_SENT;
    case END_REJECTED:
        return VERDICT_REJECTED;
    case END_REFUSED:
        return facts->contact ? VERDICT_REJECTED : VERDICT_REFUSED;
    case END_OPENED:
        return facts->contact ? VERDICT_BLOCKED : VERDICT_STRANGER;
    case END_UNKNOWN:
        return try->seen == SEEN_SYN ? judge_syn(try) : VERDICT_NO_ANSWER;
    default:
        if (try->seen != SEEN_NOT)
            return VERDICT_BLOCKED;
        return facts->contact && facts->host.captures ? VERDICT_NOTHING : VERDICT_NO_ANSWER;
    }
}

/* The try that explains most; NULL if all that count were answered. Fills in the counts. */
static const struct probe_try *judge_worst(const struct probe_facts *facts,
                                           struct verdict_found *found)
{
    static const uint8_t rank[VERDICTS] = {
        [VERDICT_BLOCKED] = 7,  [VERDICT_REJECTED] = 6, [VERDICT_NOTHING] = 5,
        [VERDICT_REFUSED] = 4,  [VERDICT_STRANGER] = 3, [VERDICT_NO_ANSWER] = 2,
        [VERDICT_NOT_SENT] = 1,
    };
    const struct probe_try *worst = NULL;
    for (unsigned i = 0; i < facts->tries; i++) {
        const struct probe_try *try = &facts->try[i];
        if (!facts_counts(facts, try))
            continue;
        found->counts++;
        found->good += try->end == END_ANSWERED;
        if (try->end == END_ANSWERED)
            continue;
        enum verdict verdict = judge_try(facts, try);
        if (!worst || rank[verdict] > rank[found->verdict]) {
            worst = try;
            found->verdict = verdict;
        }
    }
    return worst;
}

/* Whether the port of a try was taken by another try, which had been moved to it on the way. */
static bool try_ousted(const struct probe_facts *facts, const struct probe_try *try)
{
    for (unsigned i = 0; i < facts->tries; i++) {
        const struct probe_try *other = &facts->try[i];
        if (try->own.port && try_kept(other) == 0 && other->as.port == try->own.port &&
            memcmp(other->as.addr, try->as.addr, 16) == 0)
            return true;
    }
    return false;
}

/*
 * The first try that counts and whose port was changed; NULL if none was. What the tries did to
 * each other does not count if others kept their ports.
 */
static const struct probe_try *judge_changed(const struct probe_facts *facts)
{
    const struct probe_try *ousted = NULL;
    bool kept = false;
    for (unsigned i = 0; i < facts->tries; i++) {
        const struct probe_try *try = &facts->try[i];
        if (!facts_counts(facts, try))
            continue;
        if (try_kept(try) == 0 && !try_ousted(facts, try))
            return try;
        kept |= try_kept(try) == 1;
        if (try_kept(try) == 0)
            ousted = try;
    }
    return kept ? NULL : ousted;
}

/* How ports were changed, over all tries. */
struct changes {
    unsigned kept;
    unsigned guessed; /* kept, as the mark says: one in 256 is not */
    unsigned changed;
    unsigned low_kept; /* below LOW_PORT */
    unsigned high_changed;
    struct portrange to;  /* as what the changed ones were seen */
    struct portrange all; /* as what all were seen */
};

static void range_widen(struct portrange *range, uint16_t port)
{
    if (!range->lo || port < range->lo)
        range->lo = port;
    if (port > range->hi)
        range->hi = port;
}

static void changes_add(struct changes *changes, const struct probe_try *try)
{
    int kept = try_kept(try);
    if (kept < 0)
        return;
    changes->kept += kept == 1;
    changes->guessed += kept == 1 && !addr_is_set(try->own.addr);
    changes->changed += kept == 0;
    changes->low_kept += kept == 1 && try->as.port < LOW_PORT;
    changes->high_changed += kept == 0 && try->own.port >= LOW_PORT;
    range_widen(&changes->all, try->as.port);
    if (kept == 0)
        range_widen(&changes->to, try->as.port);
}

/* A port that was inside of such a range by chance is kept. */
static bool changes_range(const struct changes *changes)
{
    return changes->changed > 1 && changes->changed + changes->kept >= SPREAD_TRIES &&
           changes->all.hi - changes->all.lo < SPREAD_MOST;
}

/* Whether a try from a low port was changed whose own port is known: what Cilium does to it. */
static bool changes_low(const struct probe_facts *facts, const struct changes *changes)
{
    bool low = false;
    for (unsigned i = 0; i < facts->tries; i++)
        low = low || (try_kept(&facts->try[i]) == 0 && facts->try[i].own.port &&
                      facts->try[i].own.port < LOW_PORT);
    return low && changes->kept && !changes->low_kept && !changes->high_changed;
}

static enum cause judge_cause(const struct probe_facts *facts, struct portrange *range)
{
    struct changes changes = {.kept = 0};
    for (unsigned i = 0; i < facts->tries; i++)
        changes_add(&changes, &facts->try[i]);
    *range = changes.to;
    if (changes_low(facts, &changes))
        return CAUSE_LOW;
    if (changes_range(&changes))
        return CAUSE_RANGE;
    if (changes.kept > changes.guessed || changes.guessed >= changes.changed)
        return CAUSE_TAKEN;
    return changes.changed > 1 ? CAUSE_RANDOM : CAUSE_ONE;
}

/* ---- words ---- */

__attribute__((format(printf, 2, 3))) static void say(struct verdict_found *found,
                                                      const char *format, ...)
{
    size_t used = strlen(found->text);
    va_list args;
    va_start(args, format);
    vsnprintf(found->text + used, sizeof(found->text) - used, format, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void note(struct verdict_found *found,
                                                       const char *format, ...)
{
    va_list args;
    if (found->notes == sizeof(found->note) / sizeof(found->note[0]))
        return;
    va_start(args, format);
    vsnprintf(found->note[found->notes++], sizeof(found->note[0]), format, args);
    va_end(args);
}

/* "SNAT to 192.168.31.17 (node node1)", or that there is none; nothing if that is not known. */
static void say_snat(const struct probe_facts *facts, struct verdict_found *found)
{
    const uint8_t *pod = facts_pod(facts), *seen = facts_seen(facts);
    if (!seen)
        return;
    if (!pod)
        say(found, "It arrives from %s", addr_text(seen));
    else if (memcmp(pod, seen, 16) == 0)
        say(found, "No SNAT: it arrives from the pod's own address %s", addr_text(pod));
    else
        say(found, "SNAT to %s", addr_text(seen));
    if (*facts->host.node && (!pod || memcmp(pod, seen, 16) != 0))
        say(found, " (node %s)", facts->host.node);
}

static void say_cause(const struct probe_facts *facts, struct verdict_found *found)
{
    switch (found->cause) {
    case CAUSE_RANDOM:
        say(found, " Every port was changed, and none is like the other: this is what MASQUERADE "
                   "--random-fully does (Calico, Flannel and others by default).");
        break;
    case CAUSE_RANGE:
        say(found,
            " Ports became some of %u-%u: this is what MASQUERADE --to-ports does, or Calico's "
            "natPortRange.",
            found->range.lo, found->range.hi);
        break;
    case CAUSE_TAKEN:
        say(found, " Other ports were kept: so this one was taken, by a connection of another pod "
                   "or of the node itself to the same port of the host.");
        break;
    case CAUSE_LOW:
        say(found, " Only ports below 32768 were changed: Cilium's masquerading keeps no others.");
        break;
    default:
        say(found, " One try does not tell by whom: make more (--tries).");
    }
    if (facts->ports.count && portset_has(&facts->ports, found->range.lo) &&
        portset_has(&facts->ports, found->range.hi))
        say(found, " They are still inside the range.");
}

static void say_changed(const struct probe_facts *facts, const struct probe_try *changed,
                        struct verdict_found *found)
{
    say_snat(facts, found);
    if (changed->own.port)
        say(found, "; the port was changed on the way: %u became %u.", changed->own.port,
            changed->as.port);
    else
        say(found, "; the port was changed on the way: %u is not the one that it left from.",
            changed->as.port);
    say_cause(facts, found);
    if (found->good < found->counts)
        say(found, " %u of %u got no answer.", found->counts - found->good, found->counts);
}

/* Why the answer to what arrived did not come back. */
static void say_blocked(const struct probe_facts *facts, const struct probe_try *try,
                        struct verdict_found *found)
{
    say_snat(facts, found);
    say(found,
        "%s; but the answer did not come back: ", try_kept(try) == 1 ? ", the port is kept" : "");
    if (facts_no_way(facts, try))
        say(found, "the host has no route to %s.", addr_text(try->as.addr));
    else if (try->bounce.is)
        say(found, "%s.", icmp_text(&try->bounce));
    else if (try->syns && try->left == LEFT_NOT)
        say(found, "none left the host, whose own firewall or reverse path filter drops it.");
    else
        say(found, "something between drops it, as a firewall does with ports that it does not "
                   "know.");
}

static void say_rejected(const struct probe_facts *facts, const struct probe_try *try,
                         struct verdict_found *found)
{
    if (try->end == END_REFUSED)
        say(found,
            "The connection was reset on the way, as by REJECT --reject-with tcp-reset, while "
            "others were answered.");
    else if (try->seen == SEEN_NOT && facts->host.captures)
        say(found, "%s: it did not get to the host.", icmp_text(&try->reject));
    else
        say(found, "%s.", icmp_text(&try->reject));
}

static void say_unanswered(const struct probe_facts *facts, const struct probe_try *try,
                           struct verdict_found *found)
{
    switch (found->verdict) {
    case VERDICT_BLOCKED:
        say_blocked(facts, try, found);
        break;
    case VERDICT_NOTHING:
        say(found, "Nothing arrived: what the pod sent was dropped on its way to the host.");
        break;
    case VERDICT_REJECTED:
        say_rejected(facts, try, found);
        break;
    case VERDICT_REFUSED:
        say(found,
            "Refused: the way is open, but nothing listens on port %u there (or a firewall rejects "
            "with tcp-reset).",
            facts->to.port);
        break;
    case VERDICT_STRANGER:
        say(found,
            "What listens on port %u there is no fixport-probe of this version, or its words "
            "do not come through.",
            facts->to.port);
        break;
    case VERDICT_NOT_SENT:
        say(found, "The pod's own system did not send it: %s.", strerror(try->error));
        if (facts->shim && try->error == EADDRNOTAVAIL)
            say(found, " The shim found no port: see 'fixport-pool status'.");
        break;
    default:
        say(found,
            "No answer. From here one cannot tell whether nothing arrived or the answer was "
            "dropped: 'fixport-probe listen --capture --port %u' on the host can.",
            facts->to.port);
    }
    if (found->good)
        say(found, " (%u of %u tries; the others were answered.)", found->counts - found->good,
            found->counts);
}

/* ---- what else should be known ---- */

/* A range that nothing confines is half of the work; but on loopback nobody would. */
static void note_outside(const struct probe_facts *facts, struct verdict_found *found)
{
    unsigned tried = 0, answered = 0, moved = 0;
    for (unsigned i = 0; i < facts->tries; i++) {
        const struct probe_try *try = &facts->try[i];
        if (try->kind != KIND_OUTSIDE || !facts->ports.count || try->end == END_LOCAL)
            continue;
        /* A random port is in the range now and then: the firewall has seen a good one. */
        bool into = try_kept(try) == 0 && portset_has(&facts->ports, try->as.port);
        tried++;
        answered += try->end == END_ANSWERED && !into;
        moved += into;
    }
    if (tried && found->good && moved == tried)
        note(found, "Ports outside of the range are moved into it on the way.");
    else if (tried && found->good && !answered)
        note(found, "Ports outside of the range do not get through, as it should be.");
    else if (answered) {
        note(found, "Ports outside of the range get through, too: no firewall confines them here.");
        if (!addr_is_loopback(facts->to.addr))
            found->status = PROBE_BAD;
    }
}

/* Which ports programs have in this pod. */
static void note_plain(const struct probe_facts *facts, struct verdict_found *found)
{
    for (unsigned i = 0; i < facts->tries; i++) {
        const struct probe_try *try = &facts->try[i];
        if (try->kind != KIND_PLAIN || !try->own.port || !facts->ports.count ||
            portset_has(&facts->ports, try->own.port))
            continue;
        if (facts->shim)
            note(found,
                 "The shim is loaded, but programs leave from port %u, outside of the range: see "
                 "'fixport-run --check'.",
                 try->own.port);
        else
            note(found,
                 "Without the shim, programs here leave from ports like %u, outside of the range.",
                 try->own.port);
        if (facts->shim && facts->contact)
            found->status = PROBE_BAD;
        return;
    }
}

static void note_range(const struct probe_facts *facts, struct verdict_found *found)
{
    if (!facts->ports.count && found->good)
        note(found, "No range of ports is known (--ports, FIXPORT_PORTS, a pool, a configuration): "
                    "whether the ports are the right ones was not judged.");
}

void verdict_find(const struct probe_facts *facts, struct verdict_found *found)
{
    const uint8_t *pod = facts_pod(facts), *seen = facts_seen(facts);
    const struct probe_try *changed = judge_changed(facts);
    *found = (struct verdict_found){.status = PROBE_BAD, .verdict = VERDICT_NO_ANSWER};
    found->worst = judge_worst(facts, found);
    if (changed) {
        found->verdict = VERDICT_CHANGED;
        found->cause = judge_cause(facts, &found->range);
        found->worst = changed;
        say_changed(facts, changed, found);
    } else if (found->worst || !found->counts) {
        say_unanswered(facts, found->worst, found);
    } else {
        bool same = pod && seen && memcmp(pod, seen, 16) == 0;
        found->verdict = same ? VERDICT_NO_SNAT : VERDICT_KEPT;
        found->status = PROBE_OK;
        say_snat(facts, found);
        say(found, same ? ", and its port is kept." : "; the port is kept.");
    }
    note_outside(facts, found);
    note_plain(facts, found);
    note_range(facts, found);
}
