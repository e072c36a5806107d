/* SPDX-License-Identifier: MIT */
/*
 * Sets of ports: what is read, what is refused and in which words, and that a set from hostile
 * memory is harmless. The words are tested because people act on them.
 */
#include "portrange.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 20000

static void expect_set(const char *text, const char *printed)
{
    struct portset set;
    struct parse_reason why = {.text = ""};
    char buf[400];
    cr_assert_eq(portset_parse(text, &set, &why), 0, "'%s': %s", text, why.text);
    cr_expect(portset_valid(&set), "'%s' gives no valid set", text);
    cr_expect_eq(portset_print(&set, buf, sizeof(buf)), strlen(printed));
    cr_expect_str_eq(buf, printed);
}

/* @reason: the whole of it, or NULL for any. */
static void expect_refusal(const char *text, int error, const char *reason)
{
    struct portset set, before;
    struct parse_reason why;
    memset(&set, 0xa5, sizeof(set));
    memset(&why, 0xa5, sizeof(why));
    before = set;
    int result = portset_parse(text, &set, &why);
    cr_expect_eq(result, error, "'%s' gives %d", text, result);
    cr_expect_eq(portset_parse(text, &set, NULL), error);
    cr_expect_eq(memcmp(&set, &before, sizeof(set)), 0, "'%s' changed the set", text);
    cr_assert_neq(memchr(why.text, '\0', sizeof(why.text)), NULL, "'%s': not terminated", text);
    cr_expect_gt(strlen(why.text), 0, "'%s': no reason", text);
    if (reason)
        cr_expect_str_eq(why.text, reason);
    for (const char *at = why.text; *at; at++)
        cr_expect(*at >= ' ' && *at <= '~', "'%s': the reason has byte %d", text, *at);
}

Test(portrange, reads_what_people_write)
{
    expect_set("60001-60499, 60600-60999", "60001-60499,60600-60999");
    expect_set("1", "1");
    expect_set("65535", "65535");
    expect_set("1-65535", "1-65535");
    expect_set("7-7", "7");
    expect_set("60001~60999", "60001-60999");
    expect_set("60001:60999", "60001-60999");
    expect_set("  60001 - 60002 \t,\n 5 ", "5,60001-60002");
    expect_set("00080", "80");
}

Test(portrange, sorts)
{
    expect_set("9,5-7,1-2,65535", "1-2,5-7,9,65535");
    expect_set("3,2,1", "1,2,3");
}

Test(portrange, refuses_what_is_no_port)
{
    expect_refusal("60001-80001", -ERANGE, "80001 is not a port: ports end at 65535");
    expect_refusal("60001~80001", -ERANGE, "80001 is not a port: ports end at 65535");
    expect_refusal("0-10", -ERANGE, "0 is not a port: ports begin at 1");
    expect_refusal("0", -ERANGE, "0 is not a port: ports begin at 1");
    expect_refusal("65536", -ERANGE, "65536 is not a port: ports end at 65535");
    expect_refusal("080001", -ERANGE, "080001 is not a port: ports end at 65535");
    expect_refusal("4294967297", -ERANGE, "4294967297 is not a port: ports end at 65535");
    expect_refusal("18446744073709551617", -ERANGE,
                   "18446744073709551617 is not a port: ports end at 65535");
}

Test(portrange, refuses_what_is_no_range)
{
    expect_refusal("200-100", -EINVAL, "200-100 runs backwards: write 100-200");
    expect_refusal("61000-6109x", -EINVAL,
                   "\"61000-6109x\" is not a port or a range such as 61001-61999");
    static const char *const bad[] = {"a",   "-",   "1-",  "-1",    "1-2-3", "1--2", "+1",    "1 2",
                                      "1.5", "5x0", "1e3", "1-2;3", "1/2",   "http", "1,2-a", "–5"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_refusal(bad[i], -EINVAL, NULL);
}

Test(portrange, refuses_emptiness)
{
    static const char *const bad[] = {"", " ", "\t\n", ",", "1,", ",1", "1,,2"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct portset set;
        struct parse_reason why;
        expect_refusal(bad[i], -EINVAL, NULL);
        portset_parse(bad[i], &set, &why);
        cr_expect_eq(strncmp(why.text, "no port given", 13), 0, "'%s': %s", bad[i], why.text);
    }
}

Test(portrange, names_both_ranges_that_overlap)
{
    expect_refusal("60001-60499,60400-60999", -EINVAL, "60001-60499 and 60400-60999 overlap");
    expect_refusal("5,1-9", -EINVAL, "5 and 1-9 overlap");
    expect_refusal("1-9,20,9", -EINVAL, "1-9 and 9 overlap");
    expect_refusal("1-5,1-5", -EINVAL, "1-5 and 1-5 overlap");
}

Test(portrange, hides_control_characters)
{
    expect_refusal("\x1b[31m", -EINVAL, NULL);
    expect_refusal("1-\x9b\x7f", -EINVAL, NULL);
}

static void list_of(char *text, size_t size, int ranges)
{
    size_t at = 0;
    for (int i = 0; i < ranges; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%d", i ? "," : "", 2 * i + 1);
}

Test(portrange, takes_32_ranges_and_no_more)
{
    char text[400];
    struct portset set;
    list_of(text, sizeof(text), PORTRANGE_MAX);
    cr_expect_eq(portset_parse(text, &set, NULL), 0);
    cr_expect_eq(portset_size(&set), PORTRANGE_MAX);
    list_of(text, sizeof(text), PORTRANGE_MAX + 1);
    expect_refusal(text, -EINVAL, NULL);
}

Test(portrange, prints_into_any_buffer)
{
    struct portset set;
    char buf[32];
    cr_assert_eq(portset_parse("60001-60499,60600", &set, NULL), 0);
    for (size_t size = 0; size < sizeof(buf); size++) {
        memset(buf, 'x', sizeof(buf));
        cr_expect_eq(portset_print(&set, buf, size), 17);
        cr_expect_eq(buf[size], 'x', "wrote behind %zu bytes", size);
        if (size)
            cr_expect_eq(strncmp(buf, "60001-60499,60600", size - 1), 0);
        if (size)
            cr_expect_eq(strlen(buf), size - 1 < 17 ? size - 1 : 17);
    }
}

Test(portrange, counts_and_finds)
{
    struct portset set;
    cr_assert_eq(portset_parse("10-19,30,40-49", &set, NULL), 0);
    cr_expect_eq(portset_size(&set), 21);
    for (uint32_t port = 0; port <= 65535; port++) {
        bool in = (port >= 10 && port <= 19) || port == 30 || (port >= 40 && port <= 49);
        cr_expect_eq(portset_has(&set, (uint16_t)port), in, "port %u", port);
    }
    cr_expect(portset_overlaps(&set, 1, 10));
    cr_expect(portset_overlaps(&set, 19, 29));
    cr_expect(portset_overlaps(&set, 1, 65535));
    cr_expect(portset_overlaps(&set, 31, 40));
    cr_expect_not(portset_overlaps(&set, 20, 29));
    cr_expect_not(portset_overlaps(&set, 50, 65535));
    cr_assert_eq(portset_parse("1-65535", &set, NULL), 0);
    cr_expect_eq(portset_size(&set), 65535);
}

Test(portrange, knows_an_invalid_set)
{
    struct portset good, set;
    cr_assert_eq(portset_parse("10-19,30", &good, NULL), 0);
    cr_expect(portset_valid(&good));
    set = good, set.count = 0;
    cr_expect_not(portset_valid(&set));
    set = good, set.count = PORTRANGE_MAX + 1;
    cr_expect_not(portset_valid(&set));
    set = good, set.count = UINT32_MAX;
    cr_expect_not(portset_valid(&set));
    set = good, set.range[0].lo = 0;
    cr_expect_not(portset_valid(&set));
    set = good, set.range[0].hi = 9;
    cr_expect_not(portset_valid(&set));
    set = good, set.range[1].lo = 19;
    cr_expect_not(portset_valid(&set));
    set = good, set.count = 3;
    cr_expect_not(portset_valid(&set));
}

/* Round trip: what is printed reads as the same set. */
Test(portrange, prints_what_it_reads)
{
    srand(1);
    for (int round = 0; round < ROUNDS / 10; round++) {
        char text[400], again[400];
        struct portset set, same;
        size_t at = 0;
        uint32_t port = 1;
        for (int i = 1 + rand() % PORTRANGE_MAX; i > 0; i--) {
            uint32_t lo = port + (uint32_t)rand() % 1000, hi = lo + (uint32_t)rand() % 1000;
            at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%u-%u", at ? "," : "", lo, hi);
            port = hi + 2;
        }
        cr_assert_eq(portset_parse(text, &set, NULL), 0, "%s", text);
        portset_print(&set, again, sizeof(again));
        cr_assert_eq(portset_parse(again, &same, NULL), 0, "%s", again);
        cr_assert_eq(memcmp(&set, &same, sizeof(set)), 0, "%s", again);
    }
}

Test(portrange, survives_hostile_memory)
{
    char buf[64];
    srand(2);
    for (int round = 0; round < ROUNDS; round++) {
        struct portset *set = malloc(sizeof(*set)); /* apart, so that a sanitizer sees its end */
        for (size_t i = 0; i < sizeof(*set); i++)
            ((unsigned char *)set)[i] = (unsigned char)rand();
        if (round % 2)
            set->count = (uint32_t)rand() % (PORTRANGE_MAX + 2);
        cr_assert_leq(portset_size(set), 65535);
        portset_print(set, buf, sizeof(buf));
        portset_has(set, (uint16_t)rand());
        portset_overlaps(set, (uint16_t)rand(), (uint16_t)rand());
        portset_valid(set);
        free(set);
    }
}

Test(portrange, survives_any_text)
{
    static const char letters[] = "0123456789-~:, \tx\x1b\xff";
    srand(3);
    for (int round = 0; round < ROUNDS; round++) {
        char text[64];
        struct portset set;
        struct parse_reason why = {.text = ""};
        size_t length = (size_t)rand() % sizeof(text);
        for (size_t i = 0; i < length; i++)
            text[i] = letters[(size_t)rand() % (sizeof(letters) - 1)];
        text[length == sizeof(text) ? length - 1 : length] = '\0';
        int result = portset_parse(text, &set, &why);
        cr_assert(result == 0 || result == -EINVAL || result == -ERANGE);
        cr_assert(result ? why.text[0] != '\0' : portset_valid(&set));
    }
}

static void intersects(const char *a, const char *b, const char *expected)
{
    struct portset set, other;
    char text[256];
    cr_assert_eq(portset_parse(a, &set, NULL), 0);
    cr_assert_eq(portset_parse(b, &other, NULL), 0);
    cr_assert_eq(portset_intersect(&set, &other), 0);
    portset_print(&set, text, sizeof(text));
    cr_assert_str_eq(set.count ? text : "", expected, "%s and %s", a, b);
}

Test(portrange, intersection)
{
    intersects("10-20", "15-30", "15-20");
    intersects("10-20", "21-30", "");
    intersects("10-20,30-40", "1-65535", "10-20,30-40");
    intersects("1-65535", "10-20,30-40", "10-20,30-40");
    intersects("10-20,30-40,50", "20-30,40-50", "20,30,40,50");
    intersects("5", "5", "5");
}
