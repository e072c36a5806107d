/* SPDX-License-Identifier: MIT */
/*
 * Plays connections in a twin of the network namespace that it is started in, for test_play.py.
 * Reads lines "IN FROM SPORT TO DPORT GROUP" (IN is "-" if the connection begins here) until the
 * input ends; prints the result of each as a line of JSON, with --blame also who did it to those
 * that did not pass, or whose source port or destination was changed.
 */
#include "../../pool/address.h"
#include "../../tools/setup/twin/twin.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const results[] = {"passed", "lost", "refused", "not played"};
static const char *const packets[] = {"SYN", "SYN/ACK", "ACK", "data", "answer", "close"};
static const char *const backends[] = {"iptables-nft", "iptables-legacy", "nft"};

static json_t *address_text(const uint8_t address[16], bool valid)
{
    char text[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, address, text, sizeof text);
    return valid ? json_string(strncmp(text, "::ffff:", 7) == 0 ? text + 7 : text) : json_null();
}

static void play_print(const struct play *play, const struct blame *blame)
{
    json_t *line = json_pack(
        "{s:s, s:s, s:s?, s:b, s:s, s:o, s:o, s:i, s:i}", "result", results[play->result], "packet",
        packets[play->packet], "why", play->why, "arrived", play->arrived, "out", play->out,
        "seen_from", address_text(play->seen_from, play->arrived), "seen_to",
        address_text(play->seen_to, play->arrived), "seen_sport",
        play->arrived ? play->seen_sport : 0, "seen_dport", play->arrived ? play->seen_dport : 0);
    if (blame) {
        json_object_set_new(line, "blame",
                            json_pack("{s:s?, s:s, s:s, s:s?, s:s, s:b}", "rule", blame->rule,
                                      "table", blame->table, "chain", blame->chain, "comment",
                                      blame->comment, "backend", backends[blame->backend],
                                      "is_rule", blame->is_rule));
    }
    json_dumpf(line, stdout, JSON_SORT_KEYS);
    putchar('\n');
    json_decref(line);
}

int main(int argc, char **argv)
{
    bool blaming = argc > 1 && strcmp(argv[1], "--blame") == 0;
    struct play *play = NULL;
    size_t count = 0;
    char in[16], from[64], to[64];
    unsigned sport, dport, group;
    while (scanf("%15s %63s %u %63s %u %u", in, from, &sport, to, &dport, &group) == 6) {
        play = state_grow(play, (count + 1) * sizeof *play);
        struct play *next = &play[count++];
        *next = (struct play){.sport = (uint16_t)sport, .dport = (uint16_t)dport, .group = group};
        if (strcmp(in, "-") != 0)
            memcpy(next->in, in, sizeof in);
        if (!address_parse(from, strlen(from), next->from) ||
            !address_parse(to, strlen(to), next->to))
            return fprintf(stderr, "line %zu: not an address\n", count), 1;
    }
    struct twin twin;
    struct setup_error error;
    if (twin_make(&twin, NULL, NULL, &error) < 0)
        return fprintf(stderr, "%s\n", error.text), 1;
    for (size_t i = 0; i < twin.notes; i++)
        fprintf(stderr, "note: %s: %s\n", twin.note[i].what,
                twin.note[i].line ? twin.note[i].line : "");
    play_all(&twin, play, count, NULL, NULL);
    for (size_t i = 0; i < count; i++) {
        struct play again = play[i];
        struct blame blame = {0};
        bool changed =
            play[i].result == PLAY_PASSED &&
            (play[i].seen_sport != play[i].sport || play[i].seen_dport != play[i].dport ||
             memcmp(play[i].seen_to, play[i].to, 16) != 0);
        bool guilty =
            blaming && (changed || play[i].result == PLAY_LOST || play[i].result == PLAY_REFUSED);
        if (guilty)
            blame_play(&twin, &again, changed, &blame);
        play_print(&play[i], guilty ? &blame : NULL);
        if (guilty)
            blame_free(&blame);
    }
    twin_free(&twin);
    free(play);
    return 0;
}
