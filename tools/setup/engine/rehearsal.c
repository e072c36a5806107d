/* SPDX-License-Identifier: MIT */
/*
 * What a rehearsal has shown, for people and for scripts.
 */
#include "../resources/state.h"
#include "../roles/roles.h"
#include "rehearse.h"

#include <stdlib.h>
#include <string.h>

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
    if (stop->play.result == PLAY_PASSED)
        return "cut, though a new one would be let pass";
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
    for (size_t i = 0; i < rehearsal->stops && i < REHEARSAL_SHOWN; i++)
        stop_print(&rehearsal->stop[i], out);
    if (rehearsal->stops > REHEARSAL_SHOWN)
        fprintf(out, "# would stop working: %s more, which --json lists\n",
                text_count(rehearsal->stops - REHEARSAL_SHOWN, "connection"));
    if (all && !rehearsal->why_not && !rehearsal->failed) {
        if (!rehearsal->stops)
            fprintf(out, "# nothing stops working: %s in use or listened for here, tried\n",
                    text_count(rehearsal->people, "connection"));
        if (rehearsal->ending)
            fprintf(out, "# will be rejected if made anew: %s between pods and hosts, open now\n",
                    text_count(rehearsal->ending, "connection"));
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
    if (!rehearsal)
        return json_null();
    json_t *stops = json_array(), *promises = json_array(), *notes = json_array();
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
    return json_pack("{s:b, s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "done",
                     !rehearsal->why_not, "why-not", json_shown(rehearsal->why_not), "failed",
                     json_shown(rehearsal->failed), "connections", (json_int_t)rehearsal->people,
                     "ending", (json_int_t)rehearsal->ending, "not-judged",
                     (json_int_t)rehearsal->strange, "not-tried", (json_int_t)rehearsal->beyond,
                     "stops", stops, "promises", promises, "notes", notes);
}
