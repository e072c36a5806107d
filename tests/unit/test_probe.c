/* SPDX-License-Identifier: MIT */
/*
 * fixport-probe without a network: the words between the two sides, packets, marks, and verdicts.
 */
#include "../../tools/probe/probe.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define P "fixport-probe/1 "

static struct wire wire;

static int take(const char *line)
{
    return wire_read(line, strlen(line), &wire);
}

static void refuse(const char *line)
{
    cr_assert_eq(take(line), -EPROTO, "taken: %s", line);
}

static struct dest dest(const char *addr, uint16_t port)
{
    struct dest made = {.port = port};
    cr_assert(address_parse(addr, strlen(addr), made.addr));
    return made;
}

/* ---- words ---- */

/* What is read and written again is the same text. */
static void round_trip(const char *line)
{
    char buf[WIRE_LINE + 1], expected[WIRE_LINE + 1];
    cr_assert_eq(take(line), 0, "refused: %s", line);
    size_t length = wire_print(&wire, buf);
    snprintf(expected, sizeof(expected), "%s\n", line);
    cr_assert_str_eq(buf, expected);
    cr_assert_eq(length, strlen(expected));
}

Test(wire, each_word_is_written_as_it_was_read)
{
    round_trip(P "try 0123456789abcdef 3 inside 10.200.1.91 61001");
    round_trip(P "try 0000000000000001 15 plain fd00:200:1::91 0");
    round_trip(P "seen 1 192.168.31.17 61001");
    round_trip(P "report 1 61001-61099,61200");
    round_trip(P "report 0 -");
    round_trip(P "mine 2 outside 10.200.1.91 40000 rejected 0 192.168.31.2 3 13");
    round_trip(P "mine 2 plain - 0 local 101 - 0 0");
    round_trip(P "host 1 via 192.168.31.2 node1 192.168.31.17 10.200.1.0/24");
    round_trip(P "host 0 none - - - -");
    round_trip(P "host 0 direct - - fd00:31::17 fd00:200:1::/64");
    round_trip(P "saw 4 syn 192.168.31.17 41000 3 1 192.168.31.2 3 3");
    round_trip(P "saw 4 no - 0 0 0 - 0 0");
    round_trip(P "end");
}

Test(wire, members_have_their_values)
{
    cr_assert_eq(take(P "saw 4 syn 192.168.31.17 41000 3 2 192.168.31.2 3 3"), 0);
    cr_assert_eq(wire.index, 4);
    cr_assert_eq(wire.try.as.port, 41000);
    cr_assert_eq(wire.try.left, LEFT_RST);
    cr_assert(wire.try.bounce.is);
    cr_assert_eq(take(P "host 1 via 192.168.31.2 node1 192.168.31.17 10.200.1.0/24"), 0);
    cr_assert_str_eq(wire.host.node, "node1");
    cr_assert_eq(wire.host.block.prefix, 120);
    cr_assert(wire.host.configured);
}

Test(wire, anything_else_is_refused)
{
    static const char *const bad[] = {
        "",
        " ",
        "GET / HTTP/1.1",
        "fixport-probe",
        "fixport-probe/",
        P,
        "fixport-probe/1",
        P "end ",
        P " end",
        P "end end",
        "  " P "end",
        P "END",
        P "nothing",
        P "try 0123456789abcdeF 1 plain - 0",
        P "try 123 1 plain - 0",
        P "try 0123456789abcdef 0 plain - 0",
        P "try 0123456789abcdef 16 plain - 0",
        P "try 0123456789abcdef 01 plain - 0",
        P "try 0123456789abcdef 1 strange - 0",
        P "try 0123456789abcdef 1 plain 0.0.0.0 0",
        P "try 0123456789abcdef 1 plain :: 0",
        P "try 0123456789abcdef 1 plain 10.0.0.256 0",
        P "try 0123456789abcdef 1 plain - 65536",
        P "try 0123456789abcdef 1 plain - -1",
        P "try 0123456789abcdef 1 plain -",
        P "seen 1 192.168.31.17",
        P "seen 1 192.168.31.17 1 1",
        P "report 2 -",
        P "report 0 60001-80001",
        P "report 0 60001~60002",
        P "report 0 2-1",
        P "mine 2 plain - 0 local 5000 - 0 0",
        P "mine 2 plain - 0 local 1 - 256 0",
        P "host 0 none - Node1 - -",
        P "host 0 none - -node - -",
        P "host 0 none - a;b - -",
        P "host 0 none - - - 10.200.1.1/24",
        P "host 0 none - - - 10.200.1.0/33",
        P "host 0 none - - - 10.200.1.0/0",
        P "host 0 none - - - 10.200.1.0/",
        P "host 0 none - - - /8",
        P "saw 4 syn 1.1.1.1 1 100 1 - 0 0",
        P "saw 4 syn 1.1.1.1 1 1 3 - 0 0",
        P "try 0123456789abcdef 1 plain - 0\r",
        P "seen 1 192.168.31.17\t1",
        P "seen 1 \xc2\xa0 1",
        P "host 0 none - \x1b[2J - -",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refuse(bad[i]);
    cr_assert_eq(wire_read(P "end\0", strlen(P "end") + 1, &wire), -EPROTO);
}

Test(wire, another_version_is_told_apart)
{
    cr_assert_eq(take("fixport-probe/2 whatever it says"), -EPROTONOSUPPORT);
}

Test(wire, the_longest_line_fits)
{
    struct wire longest = {.word = WIRE_REPORT, .shim = true};
    char buf[WIRE_LINE + 1];
    for (unsigned i = 0; i < PORTRANGE_MAX; i++)
        longest.ports.range[longest.ports.count++] =
            (struct portrange){(uint16_t)(10000 + i * 10), (uint16_t)(10001 + i * 10)};
    size_t length = wire_print(&longest, buf);
    cr_assert_lt(length, WIRE_LINE);
    cr_assert_eq(buf[length - 1], '\n');
    cr_assert_eq(wire_read(buf, length - 1, &wire), 0);
    cr_assert_eq(wire.ports.count, PORTRANGE_MAX);
}

/* ---- marks ---- */

Test(mark, a_port_that_was_changed_is_noticed)
{
    unsigned unnoticed = 0, tried = 0;
    for (unsigned from = 61001; from <= 61999; from++) {
        for (unsigned as = 1024; as < 65536; as += 97) {
            enum try_kind kind;
            int kept = -1;
            cr_assert(
                mark_read(mark_make(KIND_INSIDE, (uint16_t)from), (uint16_t)as, &kind, &kept));
            cr_assert_eq(kind, KIND_INSIDE);
            cr_assert(kept == 1 || as != from);
            unnoticed += kept == 1 && as != from;
            tried++;
        }
    }
    cr_assert_lt(unnoticed, tried / 200, "%u of %u", unnoticed, tried);
}

Test(mark, is_one_that_every_path_takes)
{
    enum try_kind kind;
    int kept;
    for (unsigned port = 1; port < 65536; port++) {
        for (int k = 0; k < KINDS; k++) {
            unsigned mss = mark_make((enum try_kind)k, (uint16_t)port);
            cr_assert(mss >= 536 && mss <= 1220);
            cr_assert(mark_read(mss, (uint16_t)port, &kind, &kept) && (int)kind == k);
            cr_assert_eq(kept, k == KIND_PLAIN ? -1 : 1);
        }
    }
    cr_assert_not(mark_read(1460, 1, &kind, &kept));
    cr_assert_not(mark_read(536, 1, &kind, &kept));
}

/* ---- packets ---- */

/* A SYN from 10.200.1.91 port 61001 to 192.168.31.67 port 12345, with an MSS of 700. */
static const uint8_t syn[] = {0x45, 0,   0, 48, 0,   1,   0x40, 0,  64,   6,    0,    0,
                              10,   200, 1, 91, 192, 168, 31,   67, 0xee, 0x49, 0x30, 0x39,
                              1,    2,   3, 4,  0,   0,   0,    0,  0x70, 0x02, 0xff, 0xff,
                              0,    0,   0, 0,  1,   1,   2,    4,  0x02, 0xbc, 0,    0};

static struct packet packet;

static void read_bytes(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);
    memcpy(copy, bytes, length);
    packet_read(copy, length, 12345, &packet);
    free(copy);
}

Test(packet, a_syn_is_read)
{
    struct dest from = dest("10.200.1.91", 61001);
    read_bytes(syn, sizeof(syn));
    cr_assert_eq(packet.kind, PACKET_SYN);
    cr_assert_eq(packet.peer.port, 61001);
    cr_assert_arr_eq(packet.peer.addr, from.addr, 16);
    cr_assert_eq(packet.mss, 700);
    cr_assert_eq(packet.sequence, 0x01020304);
}

Test(packet, one_that_is_cut_is_none)
{
    for (size_t length = 0; length < sizeof(syn); length++) {
        read_bytes(syn, length);
        cr_assert_eq(packet.kind, PACKET_OTHER, "of %zu bytes", length);
    }
}

Test(packet, fragments_and_other_ports_are_none)
{
    uint8_t bytes[sizeof(syn)];
    memcpy(bytes, syn, sizeof(syn));
    bytes[7] = 1;
    read_bytes(bytes, sizeof(bytes));
    cr_assert_eq(packet.kind, PACKET_OTHER);
    memcpy(bytes, syn, sizeof(syn));
    bytes[23]++;
    read_bytes(bytes, sizeof(bytes));
    cr_assert_eq(packet.kind, PACKET_OTHER);
}

Test(packet, options_that_lie_give_no_mss)
{
    uint8_t bytes[sizeof(syn)];
    for (unsigned kind = 0; kind < 256; kind++) {
        for (unsigned length = 0; length < 256; length++) {
            memcpy(bytes, syn, sizeof(syn));
            bytes[42] = (uint8_t)kind;
            bytes[43] = (uint8_t)length;
            read_bytes(bytes, sizeof(bytes));
            cr_assert_eq(packet.kind, PACKET_SYN);
            cr_assert(packet.mss == 0 || (kind == 2 && length == 4));
        }
    }
}

/* "Administratively prohibited" by 192.168.31.2, about the SYN-ACK to 10.200.1.91 port 61001. */
Test(packet, an_icmp_error_tells_of_which_connection_it_is)
{
    static const uint8_t icmp[] = {
        0x45, 0, 0,   56,  0,  1,  0,  0,   64, 1,    0,    0,    192,  168,  31, 2, 192, 168, 31,
        67,   3, 13,  0,   0,  0,  0,  0,   0,  0x45, 0,    0,    44,   0,    1,  0, 0,   64,  6,
        0,    0, 192, 168, 31, 67, 10, 200, 1,  91,   0x30, 0x39, 0xee, 0x49, 0,  0, 0,   0};
    read_bytes(icmp, sizeof(icmp));
    cr_assert_eq(packet.kind, PACKET_BOUNCED);
    cr_assert_eq(packet.peer.port, 61001);
    cr_assert_str_eq(icmp_text(&packet.icmp), "REJECT by 192.168.31.2 (icmp admin prohibited)");
    for (size_t length = 0; length < sizeof(icmp); length++) {
        read_bytes(icmp, length);
        cr_assert_eq(packet.kind, PACKET_OTHER, "of %zu bytes", length);
    }
}

/* ---- verdicts ---- */

static struct probe_facts facts;
static struct verdict_found found;

static void begin(void)
{
    struct parse_reason why;
    facts = (struct probe_facts){.to = dest("192.168.31.67", 12345), .contact = true};
    facts.host.captures = true;
    cr_assert_eq(portset_parse("61001-61999", &facts.ports, &why), 0);
}

TestSuite(verdict, .init = begin);

static struct probe_try *add(enum try_kind kind, uint16_t own, enum try_end end, const char *as,
                             uint16_t port)
{
    struct probe_try *try = &facts.try[facts.tries++];
    *try = (struct probe_try){.kind = kind, .own = dest("10.200.1.91", own), .end = end};
    if (as) {
        try->seen = end == END_ANSWERED ? SEEN_CONNECTION : SEEN_SYN;
        try->as = dest(as, port);
        try->syns = 1;
        try->left = LEFT_SYN_ACK;
    }
    return try;
}

static void judge(enum verdict verdict, enum cause cause, enum probe_status status)
{
    verdict_find(&facts, &found);
    cr_assert_str_eq(verdict_name(found.verdict), verdict_name(verdict), "%s", found.text);
    cr_assert_str_eq(cause_name(found.cause), cause_name(cause), "%s", found.text);
    cr_assert_eq(found.status, status, "%s", found.text);
}

Test(verdict, only_ports_inside_of_the_range_count)
{
    add(KIND_INSIDE, 61001, END_ANSWERED, "10.200.1.91", 61001);
    add(KIND_OUTSIDE, 40000, END_SILENT, NULL, 0);
    add(KIND_PLAIN, 40001, END_SILENT, NULL, 0);
    judge(VERDICT_NO_SNAT, CAUSE_NONE, PROBE_OK);
    cr_assert(strstr(found.note[0], "as it should be"));
}

Test(verdict, nothing_is_to_be_done_if_all_is_well)
{
    add(KIND_INSIDE, 61001, END_ANSWERED, "192.168.31.17", 61001);
    add(KIND_OUTSIDE, 40000, END_SILENT, NULL, 0);
    judge(VERDICT_KEPT, CAUSE_NONE, PROBE_OK);
    cr_assert(strstr(advice_head(&facts, &found), "Nothing to do, unless"));
    cr_assert(strstr(advice_head(&facts, &found), "as long as the pod lives"));
    add(KIND_INSIDE, 61002, END_ANSWERED, "192.168.31.17", 40000);
    judge(VERDICT_CHANGED, CAUSE_TAKEN, PROBE_BAD);
    cr_assert_str_eq(advice_head(&facts, &found), "To do:");
}

Test(verdict, a_range_that_nothing_confines_on_loopback)
{
    facts.to = dest("127.0.0.1", 12345);
    add(KIND_INSIDE, 61001, END_ANSWERED, "127.0.0.1", 61001);
    add(KIND_OUTSIDE, 40000, END_ANSWERED, "127.0.0.1", 40000);
    facts.try[0].own = dest("127.0.0.1", 61001);
    judge(VERDICT_NO_SNAT, CAUSE_NONE, PROBE_OK);
}

Test(verdict, a_port_that_is_in_the_range_by_chance_shows_no_gap)
{
    add(KIND_INSIDE, 61001, END_ANSWERED, "192.168.31.17", 61001);
    add(KIND_OUTSIDE, 40000, END_SILENT, NULL, 0);
    add(KIND_OUTSIDE, 40001, END_ANSWERED, "192.168.31.17", 61442);
    judge(VERDICT_KEPT, CAUSE_NONE, PROBE_OK);
    cr_assert(strstr(found.note[0], "as it should be"), "%s", found.note[0]);
    add(KIND_OUTSIDE, 40002, END_ANSWERED, "192.168.31.17", 40002);
    judge(VERDICT_KEPT, CAUSE_NONE, PROBE_BAD);
    cr_assert(strstr(found.note[0], "get through, too"), "%s", found.note[0]);
}

Test(verdict, with_the_shim_every_program_counts)
{
    facts.shim = true;
    add(KIND_INSIDE, 61001, END_ANSWERED, "10.200.1.91", 61001);
    add(KIND_PLAIN, 61002, END_SILENT, NULL, 0);
    judge(VERDICT_NOTHING, CAUSE_NONE, PROBE_BAD);
}

Test(verdict, a_shim_that_gives_no_port_of_the_range_is_not_as_it_should_be)
{
    facts.shim = true;
    add(KIND_INSIDE, 61001, END_ANSWERED, "10.200.1.91", 61001);
    add(KIND_PLAIN, 40001, END_ANSWERED, "10.200.1.91", 40001);
    judge(VERDICT_NO_SNAT, CAUSE_NONE, PROBE_BAD);
}

Test(verdict, a_shim_without_a_port_left_is_told)
{
    facts.shim = true;
    add(KIND_INSIDE, 61001, END_ANSWERED, "10.200.1.91", 61001);
    add(KIND_PLAIN, 0, END_LOCAL, NULL, 0)->error = EADDRNOTAVAIL;
    judge(VERDICT_NOT_SENT, CAUSE_NONE, PROBE_BAD);
    cr_assert(strstr(found.text, "fixport-pool status"));
}

Test(verdict, causes_of_changed_ports)
{
    add(KIND_INSIDE, 61001, END_ANSWERED, "192.168.31.17", 9000);
    judge(VERDICT_CHANGED, CAUSE_ONE, PROBE_BAD);
    add(KIND_INSIDE, 61002, END_ANSWERED, "192.168.31.17", 53000);
    judge(VERDICT_CHANGED, CAUSE_RANDOM, PROBE_BAD);
    facts.try[1].as.port = 61002;
    judge(VERDICT_CHANGED, CAUSE_TAKEN, PROBE_BAD);
    facts.try[0].as.port = 61001;
    judge(VERDICT_KEPT, CAUSE_NONE, PROBE_OK);
}

/* Of SYNs alone, one in 256 looks as if its port had been kept. */
Test(verdict, a_mark_that_fits_by_accident_is_no_other_cause)
{
    facts.contact = false;
    for (uint16_t i = 0; i < 4; i++) {
        struct probe_try *try =
            add(KIND_INSIDE, 0, END_UNKNOWN, "192.168.31.17", (uint16_t)(9000 + 12000 * i));
        memset(try->own.addr, 0, 16);
        try->moved = i != 2;
        try->own.port = i == 2 ? try->as.port : 0;
    }
    judge(VERDICT_CHANGED, CAUSE_RANDOM, PROBE_BAD);
    facts.try[0].moved = facts.try[1].moved = false;
    facts.try[0].own.port = facts.try[0].as.port;
    facts.try[1].own.port = facts.try[1].as.port;
    judge(VERDICT_CHANGED, CAUSE_TAKEN, PROBE_BAD);
}

Test(verdict, ports_that_are_close_together_are_of_a_range)
{
    for (uint16_t i = 0; i < 4; i++)
        add(KIND_INSIDE, (uint16_t)(61001 + i), END_ANSWERED, "192.168.31.17",
            (uint16_t)(45000 + i * 300));
    judge(VERDICT_CHANGED, CAUSE_RANGE, PROBE_BAD);
    cr_assert(strstr(found.text, "45000-45900"));
    add(KIND_PLAIN, 45500, END_ANSWERED, "192.168.31.17", 45500);
    judge(VERDICT_CHANGED, CAUSE_RANGE, PROBE_BAD);
    add(KIND_PLAIN, 33000, END_ANSWERED, "192.168.31.17", 33000);
    judge(VERDICT_CHANGED, CAUSE_TAKEN, PROBE_BAD);
}

Test(verdict, a_port_that_another_try_was_moved_to_says_nothing)
{
    add(KIND_PLAIN, 49024, END_ANSWERED, "192.168.31.17", 61991);
    add(KIND_INSIDE, 61991, END_ANSWERED, "192.168.31.17", 61433);
    judge(VERDICT_CHANGED, CAUSE_RANDOM, PROBE_BAD);
    add(KIND_INSIDE, 61691, END_ANSWERED, "192.168.31.17", 61691);
    judge(VERDICT_KEPT, CAUSE_NONE, PROBE_OK);
    facts.try[0].as.port = 61990;
    judge(VERDICT_CHANGED, CAUSE_TAKEN, PROBE_BAD);
}

Test(verdict, cilium_changes_low_ports_only)
{
    struct parse_reason why;
    cr_assert_eq(portset_parse("20001-20999", &facts.ports, &why), 0);
    add(KIND_INSIDE, 20001, END_ANSWERED, "192.168.31.17", 51000);
    add(KIND_INSIDE, 20002, END_ANSWERED, "192.168.31.17", 38000);
    add(KIND_OUTSIDE, 40000, END_ANSWERED, "192.168.31.17", 40000);
    judge(VERDICT_CHANGED, CAUSE_LOW, PROBE_BAD);
}

Test(verdict, a_changed_port_explains_a_lost_answer)
{
    add(KIND_INSIDE, 61001, END_SILENT, "192.168.31.17", 9000);
    add(KIND_INSIDE, 61002, END_SILENT, "192.168.31.17", 53000);
    judge(VERDICT_CHANGED, CAUSE_RANDOM, PROBE_BAD);
    cr_assert(strstr(found.text, "2 of 2 got no answer"));
}

Test(verdict, the_connector_alone_cannot_tell_and_says_so)
{
    facts.contact = false;
    facts.host.captures = false;
    add(KIND_INSIDE, 61001, END_SILENT, NULL, 0);
    judge(VERDICT_NO_ANSWER, CAUSE_NONE, PROBE_BAD);
    cr_assert(strstr(found.text, "--capture"));
}

Test(verdict, a_listener_that_does_not_capture_cannot_tell_either)
{
    facts.host.captures = false;
    add(KIND_INSIDE, 61001, END_SILENT, NULL, 0);
    add(KIND_OUTSIDE, 40001, END_ANSWERED, "192.168.31.17", 40001);
    judge(VERDICT_NO_ANSWER, CAUSE_NONE, PROBE_BAD);
}

Test(verdict, nothing_is_advised_that_leads_elsewhere)
{
    struct advice advice[ADVICE_MOST];
    static const char *const never[] = {"127.0.0.1", "224.0.0.5", "255.255.255.255",
                                        "fe80::1",   "ff02::1",   "::1"};
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
        facts.tries = 0;
        add(KIND_INSIDE, 61001, END_ANSWERED, "192.168.31.17", 61001);
        facts.try[0].own = dest(never[i], 61001);
        facts.host.route = ROUTE_NONE;
        memcpy(facts.host.next, facts.try[0].as.addr, 16);
        verdict_find(&facts, &found);
        cr_assert_eq(advice_find(&facts, &found, advice), 0, "%s: %s", never[i], advice[0].line);
    }
}

Test(verdict, advice_is_not_cut)
{
    struct advice advice[ADVICE_MOST];
    struct parse_reason why;
    const char *longest = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    cr_assert_eq(
        portset_parse("61001-61099,62001-62099,63001-63099,64001-64099", &facts.ports, &why), 0);
    facts.to = dest(longest, 12345);
    for (int left = 0; left < LEFTS; left++) {
        facts.tries = 0;
        add(KIND_INSIDE, 61001, END_SILENT, longest, 61001)->left = (enum try_left)left;
        verdict_find(&facts, &found);
        unsigned count = advice_find(&facts, &found, advice);
        cr_assert_gt(count, 0);
        for (unsigned i = 0; i < count; i++)
            cr_assert_lt(strlen(advice[i].line), sizeof(advice[i].line) - 1, "%s", advice[i].line);
        cr_assert_lt(strlen(found.text), sizeof(found.text) - 1);
    }
}
