/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as what a probe reads from the network: as lines of the other side, and as packets.
 * What is taken keeps every promise of probe.h; a line that is taken and written again is
 * read as the same; and any facts that can come of such lines can be judged and advised on.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../tools/probe/probe.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* Nothing but printable ASCII comes out, whatever went in. */
static void check_text(const char *text, size_t room)
{
    check(strnlen(text, room) < room);
    for (; *text; text++)
        check((*text >= ' ' && *text <= '~') || *text == '\n');
}

static void check_wire(const struct wire *wire)
{
    char again[WIRE_LINE + 1];
    bool indexed = wire->word == WIRE_TRY || wire->word == WIRE_SEEN || wire->word == WIRE_MINE ||
                   wire->word == WIRE_SAW;
    check(wire->word < WIRE_WORDS && wire->index <= PROBE_TRIES && (!indexed || wire->index));
    check(wire->try.kind < KINDS && wire->try.end < ENDS && wire->try.seen < SEENS);
    check(wire->try.left < LEFTS && wire->host.route < ROUTES);
    check(!wire->ports.count || portset_valid(&wire->ports));
    check_text(wire->host.node, sizeof(wire->host.node));
    size_t written = wire_print(wire, again);
    struct wire second;
    check(written < WIRE_LINE && again[written - 1] == '\n');
    check(wire_read(again, written - 1, &second) == 0);
    check(memcmp(wire, &second, sizeof(second)) == 0);
}

static void check_verdict(const struct probe_facts *facts)
{
    struct verdict_found found;
    struct advice advice[ADVICE_MOST];
    verdict_find(facts, &found);
    check(found.verdict < VERDICTS && found.status != PROBE_ERROR && found.good <= found.counts);
    check_text(found.text, sizeof(found.text));
    for (unsigned i = 0; i < found.notes; i++)
        check_text(found.note[i], sizeof(found.note[i]));
    unsigned count = advice_find(facts, &found, advice);
    check(count <= ADVICE_MOST);
    for (unsigned i = 0; i < count; i++)
        check_text(advice[i].line, sizeof(advice[i].line));
}

/* As the two sides put them together, but in any order. */
static void facts_add(struct probe_facts *facts, const struct wire *wire)
{
    struct probe_try *try = &facts->try[wire->index ? wire->index - 1 : 0];
    if (wire->index > facts->tries)
        facts->tries = wire->index;
    if (wire->word == WIRE_REPORT) {
        facts->shim = wire->shim;
        facts->ports = wire->ports;
    } else if (wire->word == WIRE_HOST) {
        facts->host = wire->host;
    } else if (wire->word == WIRE_END) {
        facts->contact = true;
    } else if (wire->word == WIRE_SAW) {
        struct dest own = try->own;
        enum try_end end = try->end;
        *try = wire->try;
        try->own = own;
        try->end = end;
    } else if (wire->word != WIRE_SEEN) {
        *try = wire->try;
    }
}

static void as_lines(const char *text, size_t size)
{
    struct probe_facts facts = {.to.port = PROBE_PORT};
    while (size) {
        const char *newline = memchr(text, '\n', size);
        size_t length = newline ? (size_t)(newline - text) : size;
        struct wire wire;
        if (wire_read(text, length, &wire) == 0) {
            check_wire(&wire);
            facts_add(&facts, &wire);
        }
        size -= length + (newline != NULL);
        text += length + (newline != NULL);
    }
    check_verdict(&facts);
}

static void as_packet(const uint8_t *data, size_t size)
{
    struct packet packet;
    packet_read(data, size, PROBE_PORT, &packet);
    check(packet.kind <= PACKET_BOUNCED && packet.mss <= 0xffff);
    check(packet.icmp.is == (packet.kind == PACKET_BOUNCED));
    if (packet.icmp.is)
        check_text(icmp_text(&packet.icmp), 120);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    as_packet(data, size);
    as_lines((const char *)data, size);
    return 0;
}
