/* SPDX-License-Identifier: MIT */
/*
 * What the configuration promises, tried in a twin. Each promise is a line of a table; what was
 * broken becomes a finding, one for each who broke it: the line that did it, and whose it is.
 *
 * Whether apply would mend it is tried, too, in the same twin.
 */
#include "../engine/rehearse.h"
#include "doctor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLAMES_MOST 16 /* connections that are traced: each takes up to a second or two */

static const char *const kept_ids[] = {
    [PROMISE_LOST] = "connections-lost",
    [PROMISE_REFUSED] = "connections-refused",
    [PROMISE_MOVED] = "port-moved",
    [PROMISE_ELSEWHERE] = "connections-diverted",
    [PROMISE_DISGUISED] = "address-changed",
    [PROMISE_PASSED] = "connections-let-through",
};

/* "2 of 27 connections are lost" */
static const char *const kept_words[] = {
    [PROMISE_LOST] = "lost",
    [PROMISE_REFUSED] = "refused",
    [PROMISE_MOVED] = "given another source port",
    [PROMISE_ELSEWHERE] = "sent to another address or port",
    [PROMISE_DISGUISED] = "sent from another address than this node's",
    [PROMISE_PASSED] = "let through",
};

static const char *const kept_whys[] = {
    [PROMISE_LOST] =
        "what one chain accepts, every other is asked about too, packet by packet; one "
        "that is dropped, and the program waits in vain",
    [PROMISE_REFUSED] =
        "what one chain accepts, every other is asked about too, and one refusal is "
        "enough",
    [PROMISE_MOVED] =
        "the port that was chosen is replaced on the way, and the firewall has no rule "
        "for the new one",
    [PROMISE_ELSEWHERE] =
        "the address that the program asked for is translated: it talks to somebody "
        "else, or to nobody",
    [PROMISE_DISGUISED] =
        "pods have to come under their node's address ([snat]): firewalls have no rule for others",
    [PROMISE_PASSED] = "the configuration does not allow them",
};

/* ---- playing ---- */

static void progress_tick(void *arg)
{
    progress_step(arg, 0, 0);
}

bool facts_twin(struct facts *facts)
{
    struct progress progress = {.what = "making a twin of this machine's network"};
    struct setup_error error;
    if (facts->twin.home >= 0 || facts->unplayed)
        return facts->twin.home >= 0;
    if (geteuid() != 0) {
        facts->unplayed = state_copy("only root may make a twin of the network");
        return false;
    }
    if (twin_make(&facts->twin, progress_tick, &progress, &error) < 0) {
        facts->unplayed = state_copy(error.text);
        twin_free(&facts->twin);
        facts->twin.home = -1;
    }
    progress_end(&progress);
    return facts->twin.home >= 0;
}

/* All in one go, so that what must be waited for is waited for once. */
static void play_promises(struct facts *facts)
{
    struct progress progress = {.what = "trying connections"};
    struct play *all = NULL;
    size_t count = 0;
    for (size_t i = 0; i < facts->promises.count; i++) {
        struct played *played = &facts->played[i];
        played->promise = &facts->promises.item[i];
        played->play = promise_plays(played->promise, &facts->twin, &played->count);
        all = state_grow(all, (count + played->count + 1) * sizeof(*all));
        for (size_t k = 0; k < played->count; k++) {
            if (played->play[k].group) /* of one promise only */
                played->play[k].group = (unsigned)i + 1;
            all[count++] = played->play[k];
        }
    }
    play_all(&facts->twin, all, count, progress_tick, &progress);
    count = 0;
    for (size_t i = 0; i < facts->promises.count; i++) {
        struct played *played = &facts->played[i];
        played->kept = state_grow(NULL, (played->count + 1) * sizeof(*played->kept));
        for (size_t k = 0; k < played->count; k++) {
            played->play[k] = all[count++];
            played->kept[k] = promise_judge(played->promise, &played->play[k]);
            played->of[played->kept[k]]++;
        }
    }
    free(all);
    progress_end(&progress);
}

/* ---- who did it ---- */

/* Those that broke with one kind of promise for one reason. */
struct culprit {
    enum promise_kept kept;
    const struct played *played; /* the first that it broke */
    struct play example;
    size_t count, tries;
    struct blame blame;
    const struct component *whose;
    bool mends; /* apply does */
};

struct trial {
    struct facts *facts;
    struct culprit *culprit;
    size_t count;
    size_t blames;
    size_t untraced;
};

static struct culprit *culprit_same(struct trial *trial, enum promise_kept kept,
                                    const struct promise *promise, const struct blame *blame)
{
    for (size_t i = 0; i < trial->count; i++) {
        struct culprit *culprit = &trial->culprit[i];
        const struct promise *other = culprit->played->promise;
        if (culprit->kept == kept && state_equal(culprit->blame.rule, blame->rule) &&
            strcmp(other->name, promise->name) == 0 &&
            (blame->rule || other->family == promise->family))
            return culprit;
    }
    return NULL;
}

static void culprit_add(struct trial *trial, struct played *played, size_t k)
{
    struct progress progress = {.what = "looking for what broke a connection"};
    enum promise_kept kept = played->kept[k];
    struct play again = played->play[k];
    struct blame blame = {.rule = NULL};
    progress_step(&progress, trial->blames, 0);
    if (kept != PROMISE_PASSED)
        blame_play(&trial->facts->twin, &again,
                   kept == PROMISE_MOVED || kept == PROMISE_ELSEWHERE || kept == PROMISE_DISGUISED,
                   &blame);
    trial->blames++;
    progress_end(&progress);
    const struct component *whose = blame.is_rule ? component_of(&blame) : NULL;
    if (!played->rule && blame.rule) {
        played->rule = state_copy(blame.rule);
        played->whose = whose ? whose->name : NULL;
    }
    struct culprit *same = culprit_same(trial, kept, played->promise, &blame);
    if (same) {
        if (same->played != played) {
            same->count += played->of[kept];
            same->tries += played->count;
        }
        blame_free(&blame);
        return;
    }
    trial->culprit = state_grow(trial->culprit, (trial->count + 1) * sizeof(*trial->culprit));
    trial->culprit[trial->count++] = (struct culprit){
        .kept = kept,
        .played = played,
        .example = played->play[k],
        .count = played->of[kept],
        .tries = played->count,
        .blame = blame,
        .whose = whose,
    };
}

/* One of each kind is traced: by what became of it, at which packet, and to which service. */
static bool traced_already(const struct played *played, size_t k)
{
    for (size_t i = 0; i < k; i++)
        if (played->kept[i] == played->kept[k] &&
            played->play[i].packet == played->play[k].packet &&
            played->play[i].dport == played->play[k].dport)
            return true;
    return false;
}

static bool is_broken(const struct facts *facts, enum promise_kept kept)
{
    if (kept == PROMISE_PASSED) /* before apply nothing of ours stands in their way */
        return facts->has_journal == 1;
    return kept > PROMISE_UNKNOWN;
}

static void culprits_find(struct trial *trial)
{
    struct facts *facts = trial->facts;
    for (size_t i = 0; i < facts->promises.count; i++) {
        struct played *played = &facts->played[i];
        for (size_t k = 0; k < played->count; k++) {
            if (!is_broken(facts, played->kept[k]) || traced_already(played, k))
                continue;
            if (trial->blames < BLAMES_MOST)
                culprit_add(trial, played, k);
            else
                trial->untraced++;
        }
    }
}

/* ---- what apply would do ---- */

/* The steps of apply, in the twin: what passes then, it mends. */
static void culprits_mend(struct trial *trial)
{
    const struct resources *wanted = &trial->facts->wanted;
    struct setup_error error;
    for (size_t i = 0; trial->facts->has_wanted && i < wanted->count; i++) {
        const struct resource *resource = &wanted->item[i];
        struct change change = {.type = resource->type,
                                .name = state_copy(resource->name),
                                .wanted = state_copy(resource->wanted)};
        if (resource->type->read(resource->name, &change.now, &error) == 0 &&
            !state_fits(change.now, change.wanted) && change_list(&change, &error) == 0)
            rehearse_change(&trial->facts->twin, &change, &error);
        change_free(&change);
    }
    for (size_t i = 0; i < trial->count; i++) {
        struct culprit *culprit = &trial->culprit[i];
        struct play again = culprit->example;
        again.group = 0;
        play_all(&trial->facts->twin, &again, 1, NULL, NULL);
        culprit->mends = promise_judge(culprit->played->promise, &again) == PROMISE_KEPT;
    }
}

/* ---- saying it ---- */

static const char *play_text(const struct play *play, char *buf, size_t size)
{
    snprintf(buf, size, "%s port %u to %s port %u", fact_address(play->from), play->sport,
             fact_address(play->to), play->dport);
    return buf;
}

/* "; the first, 10.200.1.1 port 62000 to 192.168.31.67 port 60001, left from port 40123" */
static char *culprit_example(const struct culprit *culprit)
{
    static const char *const packets[] = {
        "its first packet", "the answer to its first packet", "the handshake's last",
        "its data",         "the answer to its data",         "its end"};
    char text[160];
    const struct play *play = &culprit->example;
    play_text(play, text, sizeof(text));
    if (culprit->kept == PROMISE_MOVED)
        return text_format("%s left from port %u", text, play->seen_sport);
    if (culprit->kept == PROMISE_ELSEWHERE)
        return text_format("%s went to %s port %u", text, fact_address(play->seen_to),
                           play->seen_dport);
    if (culprit->kept == PROMISE_DISGUISED)
        return text_format("%s left from %s", text, fact_address(play->seen_from));
    if (culprit->kept == PROMISE_PASSED)
        return text_format("%s, %s", text, culprit->played->promise->rejected);
    return text_format("%s: %s", text, packets[play->packet]);
}

/* Who knows the cause has said it, and what mends it. */
static bool culprit_is_known(const struct findings *findings, const struct culprit *culprit)
{
    static const char *const causes[] = {"route-missing",  "route-shadowed",  "rp-filter",
                                         "forwarding-off", "next-hop-failed", "conntrack-full"};
    for (size_t i = 0; i < findings->count && !culprit->blame.is_rule; i++)
        for (size_t k = 0; k < sizeof(causes) / sizeof(causes[0]); k++)
            if (strcmp(findings->item[i].id, causes[k]) == 0)
                return true;
    return false;
}

static void culprit_mend(const struct facts *facts, struct finding *finding,
                         const struct culprit *culprit)
{
    const struct component *whose = culprit->whose;
    const struct promise *promise = culprit->played->promise;
    const char *how = !whose                           ? NULL
                      : culprit->kept == PROMISE_MOVED ? whose->keep
                      : culprit->kept == PROMISE_LOST || culprit->kept == PROMISE_REFUSED
                          ? whose->pass
                          : NULL;
    if (culprit->mends)
        finding_apply(finding, facts);
    else if (how)
        finding_mend(finding, "%s", how);
    else if (!culprit->blame.rule)
        finding_mend(finding,
                     culprit->kept == PROMISE_PASSED
                         ? "what accepts them stands before our rules, or they are not there: "
                           "fixport-setup status"
                         : "no rule was found that did it: fixport-setup twin makes the same "
                           "twin, to look further");
    else if (!culprit->blame.is_rule)
        finding_mend(finding,
                     "see the line: it is no rule, but the kernel's routing or a setting of it");
    else if (culprit->kept == PROMISE_DISGUISED)
        finding_mend(finding,
                     "%s must leave connections from %s to %s alone: their address is changed by "
                     "the role node",
                     whose ? whose->name : "whoever made this rule", promise->from_text,
                     promise->to_text);
    else if (culprit->kept == PROMISE_MOVED)
        finding_mend(finding,
                     "%s must leave the source port of connections from %s to %s alone: no random "
                     "ports, no other range",
                     whose ? whose->name : "whoever made this rule", promise->from_text,
                     promise->to_text);
    else
        finding_mend(finding,
                     "%s must let TCP connections from %s to %s%s%s pass; what is changed here by "
                     "hand may be overwritten",
                     whose ? whose->name : "whoever made this rule", promise->from_text,
                     promise->to_text, promise->dports.count ? ", ports " : "",
                     promise->dports.count ? fact_set(&promise->dports) : "");
}

static void culprit_say(struct facts *facts, struct findings *findings,
                        const struct culprit *culprit)
{
    const struct promise *promise = culprit->played->promise;
    char *example = culprit_example(culprit);
    struct finding *finding = finding_add(
        findings, kept_ids[culprit->kept], SEVERITY_ERROR,
        "%s: %zu of %zu connections from %s to %s are %s%s%s (%s)", promise->name, culprit->count,
        culprit->tries, promise->from_text, promise->to_text, kept_words[culprit->kept],
        culprit->whose ? " by " : "", culprit->whose ? culprit->whose->name : "", example);
    finding_why(finding, kept_whys[culprit->kept]);
    if (culprit->blame.rule)
        finding_line(finding, "%s", culprit->blame.rule);
    culprit_mend(facts, finding, culprit);
    free(example);
}

/* Why there is nothing to try; NULL: there is. */
static char *unplayed_why(struct facts *facts)
{
    struct setup_error error;
    if (!facts->has_site)
        return state_copy(
            "there is no configuration that says which connections are meant (--config)");
    if (facts->roles & ROLE_UNKNOWN)
        return state_copy("nobody says what this machine is (--role)");
    if (!(facts->roles & (ROUTERS | ROLE_HOST)))
        return state_copy("no connection between pods and hosts meets this machine");
    if (roles_promise(&facts->site, facts->roles, facts->site.config.path, &facts->promises,
                      &error) < 0)
        return state_copy(error.text);
    return facts->promises.count
               ? NULL
               : state_copy("the configuration names no pods and hosts of one family");
}

void check_played(struct facts *facts, struct findings *findings)
{
    struct trial trial = {.facts = facts};
    char *why = facts->unplayed ? NULL : unplayed_why(facts);
    if (why || !facts_twin(facts)) {
        if (why)
            facts->unplayed = why;
        return;
    }
    facts->played = state_grow(NULL, facts->promises.count * sizeof(*facts->played));
    memset(facts->played, 0, facts->promises.count * sizeof(*facts->played));
    play_promises(facts);
    culprits_find(&trial);
    if (trial.count)
        culprits_mend(&trial);
    for (size_t i = 0; i < trial.count; i++) {
        if (!culprit_is_known(findings, &trial.culprit[i]))
            culprit_say(facts, findings, &trial.culprit[i]);
        blame_free(&trial.culprit[i].blame);
    }
    if (trial.untraced)
        twin_note(&facts->twin, NULL,
                  "%zu more kinds of connections that were broken are not traced to a rule",
                  trial.untraced);
    free(trial.culprit);
}

void check_backends(struct facts *facts, struct findings *findings)
{
    fact_rule(facts, "*", NULL);
    if (!facts->uses[TWIN_IPTABLES_NFT] || !facts->uses[TWIN_IPTABLES_LEGACY])
        return;
    struct finding *finding = finding_add(findings, "both-backends", SEVERITY_WARNING,
                                          "iptables-nft and iptables-legacy both have rules");
    finding_line(finding, "iptables-nft-save; iptables-legacy-save");
    finding_why(finding, "the kernel applies both, and each tool shows only its own: a packet "
                         "that one lets pass, the other may drop or rewrite");
    finding_mend(finding, "keep one. To move all to nft: iptables-legacy-save | "
                          "iptables-nft-restore --noflush, then for each table: "
                          "iptables-legacy -t TABLE -w -F (IPv6: ip6tables-...)");
}

/* ---- the table ---- */

/* "27 pass", "25 pass, 2 lost", "9 rejected, as they must be". */
static char *played_result(const struct played *played)
{
    const size_t *of = played->of;
    const char *why = NULL;
    char *text;
    FILE *out = state_open(&text);
    if (of[PROMISE_KEPT])
        fprintf(out, "%zu %s", of[PROMISE_KEPT],
                played->promise->rejected ? "rejected, as they must be" : "pass");
    for (size_t k = PROMISE_LOST; k <= PROMISE_PASSED; k++)
        if (of[k])
            fprintf(out, "%s%zu %s", ftell(out) ? ", " : "", of[k], kept_words[k]);
    for (size_t i = 0; i < played->count && !why; i++)
        why = played->kept[i] == PROMISE_UNKNOWN ? played->play[i].why : NULL;
    if (of[PROMISE_UNKNOWN])
        fprintf(out, "%s%zu not tried (%s)", ftell(out) ? ", " : "", of[PROMISE_UNKNOWN],
                why ? why : "why is not known");
    state_close(out);
    return text;
}

/* The columns of a row's name and ends; malloc'd. */
static void played_cells(const struct played *played, char *cell[2])
{
    const struct promise *promise = played->promise;
    cell[0] = text_format("%s%s%s", promise->name, promise->rejected ? ", " : "",
                          promise->rejected ? promise->rejected : "");
    cell[1] = text_format("%s to %s", promise->from_text, promise->to_text);
}

static void played_row(const struct played *played, const int width[2])
{
    char *cell[2], *result = played_result(played);
    played_cells(played, cell);
    printf("  ");
    for (size_t k = 0; k < 2; k++) {
        say_cell(cell[k], width[k] + 1);
        free(cell[k]);
    }
    printf("%s\n", result);
    if (played->rule) {
        char *rule = text_clean(played->rule, say_utf8());
        printf("      by %s%s%s\n", played->whose ? played->whose : "", played->whose ? ": " : "",
               rule);
        free(rule);
    }
    free(result);
}

static void played_rows(const struct facts *facts)
{
    int width[2] = {0, 0};
    for (size_t i = 0; i < facts->promises.count; i++) {
        char *cell[2];
        played_cells(&facts->played[i], cell);
        for (size_t k = 0; k < 2; k++) {
            width[k] = say_width(cell[k]) > width[k] ? say_width(cell[k]) : width[k];
            free(cell[k]);
        }
    }
    for (size_t i = 0; i < facts->promises.count; i++)
        played_row(&facts->played[i], width);
}

void played_print(const struct facts *facts)
{
    const struct twin *twin = &facts->twin;
    if (facts->unplayed)
        printf("No connection was tried: %s.\n", facts->unplayed);
    else
        printf("Tried in a twin of this machine's network:\n");
    if (facts->played)
        played_rows(facts);
    if (twin->notes)
        printf("What could not be judged there:\n");
    for (size_t i = 0; i < twin->notes; i++) {
        const struct twin_note *note = &twin->note[i];
        char *what = text_clean(note->what, say_utf8());
        char *line = text_clean(note->line ? note->line : "", say_utf8());
        printf("  - %s", what);
        if (*line)
            printf(" (%s%s)", note->count > 1 ? "the first: " : "", line);
        printf("\n");
        free(line);
        free(what);
    }
    printf("\n");
}

static json_t *played_object(const struct played *played)
{
    const struct promise *promise = played->promise;
    const size_t *of = played->of;
    return json_pack(
        "{s:s, s:i, s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "name",
        promise->name, "family", promise->family, "from", promise->from_text, "to",
        promise->to_text, "expected", promise->rejected ? "rejected" : "passes", "because",
        finding_string(promise->rejected), "tries", (json_int_t)played->count, "good",
        (json_int_t)of[PROMISE_KEPT], "lost", (json_int_t)of[PROMISE_LOST], "refused",
        (json_int_t)of[PROMISE_REFUSED], "moved", (json_int_t)of[PROMISE_MOVED], "diverted",
        (json_int_t)of[PROMISE_ELSEWHERE], "readdressed",
        (json_int_t)of[PROMISE_DISGUISED], "passed", (json_int_t)of[PROMISE_PASSED], "unknown",
        (json_int_t)of[PROMISE_UNKNOWN], "rule", finding_string(played->rule), "whose",
        finding_string(played->whose));
}

void played_json(const struct facts *facts, json_t *object)
{
    json_t *list = json_array(), *notes = json_array();
    for (size_t i = 0; facts->played && i < facts->promises.count; i++)
        json_array_append_new(list, played_object(&facts->played[i]));
    if (facts->unplayed)
        json_array_append_new(notes,
                              json_pack("{s:o, s:n, s:i}", "what", finding_string(facts->unplayed),
                                        "line", "count", 0));
    for (size_t i = 0; i < facts->twin.notes; i++) {
        const struct twin_note *note = &facts->twin.note[i];
        json_array_append_new(
            notes, json_pack("{s:o, s:o, s:I}", "what", finding_string(note->what), "line",
                             finding_string(note->line), "count", (json_int_t)note->count));
    }
    json_object_set_new(object, "played", list);
    json_object_set_new(object, "not-judged", notes);
}

void played_free(struct facts *facts)
{
    for (size_t i = 0; facts->played && i < facts->promises.count; i++) {
        free(facts->played[i].play);
        free(facts->played[i].kept);
        free(facts->played[i].rule);
    }
    free(facts->played);
    free(facts->unplayed);
    promises_free(&facts->promises);
    twin_free(&facts->twin);
}
