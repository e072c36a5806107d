/* SPDX-License-Identifier: MIT */
/*
 * Rules: reading addresses and destinations, which rule a destination meets, and that a policy of
 * any bytes whatever is harmless, because any process of a node may write into it.
 */
#include "address.h"
#include "policy.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 20000

static struct policy policy;
static struct parse_reason why;

static void begin(void)
{
    policy_init(&policy);
}

TestSuite(policy, .init = begin);

static void add(const char *name, const char *ports, const char *to)
{
    int result = policy_add_rule(&policy, name, ports, to, &why);
    cr_assert_eq(result, 0, "%s: '%s' is refused: %s", name, to ? to : "", why.text);
    cr_assert(policy_valid(&policy), "%s: '%s' makes an invalid policy", name, to ? to : "");
}

static struct dest dest_of(const char *address, uint16_t port)
{
    struct dest dest = {.port = port};
    cr_assert_neq(address_parse(address, strlen(address), dest.addr), 0, "%s", address);
    return dest;
}

/* Return: the rule's index, -1 if none matches. */
static int match(const char *address, uint16_t port)
{
    struct dest dest = dest_of(address, port);
    struct policy_verdict verdict;
    return policy_match(&policy, &dest, &verdict) ? (int)verdict.rule : -1;
}

/* ---- addresses ---- */

static void expect_address(const char *text, int family, const char *printed)
{
    uint8_t addr[16];
    char buf[64];
    cr_assert_eq(address_parse(text, strlen(text), addr), family, "%s", text);
    struct text out = text_begin(buf, sizeof(buf));
    address_print(&out, addr);
    cr_expect_str_eq(buf, printed);
}

Test(policy, reads_addresses)
{
    expect_address("0.0.0.0", 4, "0.0.0.0");
    expect_address("255.255.255.255", 4, "255.255.255.255");
    expect_address("192.168.31.67", 4, "192.168.31.67");
    expect_address("::", 6, "::");
    expect_address("::1", 6, "::1");
    expect_address("1::", 6, "1::");
    expect_address("fd00:0:0:1::5", 6, "fd00:0:0:1::5");
    expect_address("FD00::ABCD", 6, "fd00::abcd");
    expect_address("2001:0db8:0000:0000:0000:ff00:0042:8329", 6, "2001:db8::ff00:42:8329");
    expect_address("1:2:3:4:5:6:7::", 6, "1:2:3:4:5:6:7:0");
    expect_address("::2:3:4:5:6:7:8", 6, "0:2:3:4:5:6:7:8");
    expect_address("64:ff9b::192.0.2.33", 6, "64:ff9b::c000:221");
    expect_address("::ffff:10.0.0.1", 6, "10.0.0.1");
    expect_address("::ffff:a00:1", 6, "10.0.0.1");
    expect_address("1:2:3:4:5:6:1.2.3.4", 6, "1:2:3:4:5:6:102:304");
}

/* RFC 5952: the longest run, the first of equals, none of a single group. */
Test(policy, prints_the_canonical_form)
{
    expect_address("1:0:0:2:0:0:0:3", 6, "1:0:0:2::3");
    expect_address("1:0:0:2:0:0:3:4", 6, "1::2:0:0:3:4");
    expect_address("1:0:2:3:4:5:6:7", 6, "1:0:2:3:4:5:6:7");
    expect_address("0:0:1:0:0:0:0:0", 6, "0:0:1::");
}

Test(policy, refuses_what_is_no_address)
{
    static const char *const bad[] = {"",
                                      "1",
                                      "1.2.3",
                                      "1.2.3.4.5",
                                      "1.2.3.256",
                                      "01.2.3.4",
                                      "1.2.3.04",
                                      "1..2.3",
                                      "1.2.3.",
                                      ".1.2.3",
                                      "1.2.3.4 ",
                                      "0x1.2.3.4",
                                      ":",
                                      ":::",
                                      "1:2",
                                      "1::2::3",
                                      "1:2:3:4:5:6:7",
                                      "12345::",
                                      "g::",
                                      ":1::",
                                      "1:",
                                      "::1:",
                                      "1:2:3:4:5:6:7:8:9",
                                      "::1.2.3",
                                      "1.2.3.4::",
                                      "::1.2.3.4:5",
                                      "fe80::1%eth0",
                                      "::-1",
                                      "1:2:3:4:5:6:7:1.2.3.4",
                                      "1:2:3:4:5:6:7:8::",
                                      "+1.2.3.4"};
    uint8_t addr[16];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(address_parse(bad[i], strlen(bad[i]), addr), 0, "'%s' is taken", bad[i]);
}

/* The C library is the judge: what it prints we read, what we print it reads, to the same bytes. */
Test(policy, agrees_with_the_c_library_about_addresses)
{
    srand(1);
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t addr[16], again[16];
        char text[64], ours[64];
        for (int i = 0; i < 16; i++)
            addr[i] = rand() % 3 ? 0 : (uint8_t)rand();
        inet_ntop(AF_INET6, addr, text, sizeof(text));
        cr_assert_eq(address_parse(text, strlen(text), again), 6, "%s", text);
        cr_assert_eq(memcmp(addr, again, 16), 0, "%s", text);
        struct text out = text_begin(ours, sizeof(ours));
        address_print(&out, addr);
        cr_assert_eq(inet_pton(strchr(ours, ':') ? AF_INET6 : AF_INET, ours, again), 1, "%s", ours);
    }
}

/* Texts with a few letters changed: we take exactly what it takes. */
Test(policy, agrees_with_the_c_library_about_what_is_no_address)
{
    static const char letters[] = "0123:::...af";
    srand(2);
    for (int round = 0; round < 10 * ROUNDS; round++) {
        char text[24];
        uint8_t ours[16], theirs[16], v4[4];
        size_t length = (size_t)rand() % (sizeof(text) - 1);
        for (size_t i = 0; i < length; i++)
            text[i] = letters[(size_t)rand() % (sizeof(letters) - 1)];
        text[length] = '\0';
        int family = address_parse(text, length, ours);
        int expected = inet_pton(AF_INET, text, v4) == 1        ? 4
                       : inet_pton(AF_INET6, text, theirs) == 1 ? 6
                                                                : 0;
        cr_assert_eq(family, expected, "'%s'", text);
        if (family == 4)
            cr_assert_eq(memcmp(ours + 12, v4, 4), 0, "'%s'", text);
        if (family == 6)
            cr_assert_eq(memcmp(ours, theirs, 16), 0, "'%s'", text);
    }
}

Test(policy, masks)
{
    for (unsigned prefix = 0; prefix <= 255; prefix++) {
        uint8_t addr[16];
        memset(addr, 0xff, sizeof(addr));
        address_mask(addr, prefix);
        for (unsigned bit = 0; bit < 128; bit++)
            cr_assert_eq(addr[bit / 8] >> (7 - bit % 8) & 1, bit < prefix, "/%u bit %u", prefix,
                         bit);
    }
}

/* ---- destinations ---- */

static void expect_dest(const char *text, const char *printed)
{
    char buf[100];
    policy_init(&policy);
    add("r", "1", text);
    cr_assert_eq(policy.dest_count, 1);
    cr_expect_eq(policy_dest_print(&policy.dest[0], buf, sizeof(buf)), strlen(printed));
    cr_expect_str_eq(buf, printed);
}

Test(policy, reads_destinations)
{
    expect_dest("10.0.0.0/8", "10.0.0.0/8");
    expect_dest(" 10.0.0.0/8 ", "10.0.0.0/8");
    expect_dest("192.168.31.67", "192.168.31.67");
    expect_dest("192.168.31.67/32", "192.168.31.67");
    expect_dest("192.168.31.67:5432", "192.168.31.67:5432");
    expect_dest("192.168.31.67:5432-5440", "192.168.31.67:5432-5440");
    expect_dest("10.0.0.0/8:443", "10.0.0.0/8:443");
    expect_dest("0.0.0.0/0", "0.0.0.0/0");
    expect_dest("fd00::/64", "fd00::/64");
    expect_dest("[fd00::/64]", "fd00::/64");
    expect_dest("[fd00::/64]:80-90", "[fd00::/64]:80-90");
    expect_dest("[fd00::1]", "fd00::1");
    expect_dest("[fd00::1]:443", "[fd00::1]:443");
    expect_dest("::/0", "::/0");
    expect_dest("[::/0]:443", "[::/0]:443");
    expect_dest("::ffff:10.0.0.0/104", "10.0.0.0/8");
    expect_dest("any", "any");
    expect_dest("any:443", "any:443");
    expect_dest("!any:443", "!any:443");
    expect_dest("!192.168.31.9", "!192.168.31.9");
    expect_dest("! [fd00::1]:1-2", "![fd00::1]:1-2");
    expect_dest("10.0.0.1:1-65535", "10.0.0.1");
}

/* @reason: a part of it. */
static void expect_refusal(const char *to, const char *item, const char *reason)
{
    struct policy before;
    char begins[80];
    policy_init(&policy);
    add("first", "1", "10.0.0.1");
    before = policy;
    snprintf(begins, sizeof(begins), "\"%s\": ", item);
    int result = policy_add_rule(&policy, "r", "1", to, &why);
    cr_expect(result == -EINVAL || result == -ERANGE, "'%s' gives %d", to, result);
    cr_expect_eq(strncmp(why.text, begins, strlen(begins)), 0, "'%s': %s", to, why.text);
    cr_expect_neq(strstr(why.text, reason), NULL, "'%s': %s", to, why.text);
    cr_expect_eq(memcmp(&policy, &before, sizeof(policy)), 0, "'%s' changed the policy", to);
    cr_expect_eq(policy_add_rule(&policy, "r", "1", to, NULL), result);
    for (const char *at = why.text; *at; at++)
        cr_expect(*at >= ' ' && *at <= '~', "'%s': the reason has byte %d", to, *at);
}

Test(policy, refuses_bad_prefixes)
{
    expect_refusal("10.0.0.0/33", "10.0.0.0/33", "33 is no prefix length: IPv4 ends at /32");
    expect_refusal("fd00::/129", "fd00::/129", "129 is no prefix length: IPv6 ends at /128");
    expect_refusal("10.0.0.0/", "10.0.0.0/", "no prefix length");
    expect_refusal("10.0.0.0/8x", "10.0.0.0/8x", "no prefix length");
    expect_refusal("10.0.0.0/99999999999", "10.0.0.0/99999999999", "no prefix length");
    expect_refusal("10.0.0.0/-1", "10.0.0.0/-1", "no prefix length");
    expect_refusal("10.0.0.0/\x1b[m", "10.0.0.0/?[m", "no prefix length");
}

Test(policy, names_the_block_that_was_probably_meant)
{
    expect_refusal("10.0.0.1/8", "10.0.0.1/8", "10.0.0.0/8");
    expect_refusal("192.168.31.67/24:5432", "192.168.31.67/24:5432", "192.168.31.0/24");
    expect_refusal("fd00::1/64", "fd00::1/64", "fd00::/64");
    expect_refusal("1.2.3.4/0", "1.2.3.4/0", "0.0.0.0/0");
    expect_refusal("::ffff:10.0.0.1/104", "::ffff:10.0.0.1/104", "10.0.0.0/8");
}

Test(policy, refuses_bad_destinations)
{
    expect_refusal("10.0.0.1, 10.0.0.256", "10.0.0.256", "not an address");
    expect_refusal("db.example.com:5432", "db.example.com:5432", "names are not looked up");
    expect_refusal("10.0.0.1:80,443", "443", "not an address");
    expect_refusal("[fd00::1", "[fd00::1", "[ADDRESS]:PORT");
    expect_refusal("[fd00::1]443", "[fd00::1]443", "[ADDRESS]:PORT");
    expect_refusal("10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", "not an address");
    expect_refusal("any,", "", "no address");
    expect_refusal(",any", "", "no address");
    expect_refusal("!", "!", "no address");
    expect_refusal("any/8", "any/8", "not an address");
    expect_refusal("everywhere", "everywhere", "not an address");
    expect_refusal("0.0.0.0", "0.0.0.0", "0.0.0.0/0");
    expect_refusal("[::]:80", "[::]:80", "::/0");
}

Test(policy, refuses_bad_ports_of_destinations)
{
    expect_refusal("10.0.0.1:80001", "10.0.0.1:80001", "80001 is not a port: ports end at 65535");
    expect_refusal("10.0.0.1:0", "10.0.0.1:0", "0 is not a port: ports begin at 1");
    expect_refusal("any:9-3", "any:9-3", "9-3 runs backwards: write 3-9");
    expect_refusal("any:", "any:", "no port given");
    expect_refusal("[::1]:x", "[::1]:x", "not a port");
}

Test(policy, refuses_bad_names_and_ports)
{
    struct policy before = policy;
    cr_expect_eq(policy_add_rule(&policy, "", "1", NULL, &why), -EINVAL);
    cr_expect_eq(policy_add_rule(&policy, "a\nb", "1", NULL, &why), -EINVAL);
    cr_expect_eq(policy_add_rule(&policy, "0123456789012345678901234567890x", "1", NULL, &why),
                 -EINVAL);
    cr_expect_eq(policy_add_rule(&policy, "a", "", NULL, &why), -EINVAL);
    cr_expect_eq(policy_add_rule(&policy, "a", "60001-80001", NULL, &why), -ERANGE);
    cr_expect_str_eq(why.text, "80001 is not a port: ports end at 65535");
    cr_expect_eq(memcmp(&policy, &before, sizeof(policy)), 0);
    add("0123456789012345678901234567890", "1", NULL);
}

Test(policy, takes_32_rules_and_256_destinations)
{
    char to[(POLICY_DESTS + 2) * 8] = "";
    for (int i = 0; i < POLICY_RULES; i++)
        add("r", "1", NULL);
    cr_expect_eq(policy_add_rule(&policy, "r", "1", NULL, &why), -E2BIG);
    cr_expect(policy_valid(&policy));
    for (int i = 0; i < POLICY_DESTS; i++)
        strcat(to, i ? ",1.1.1.1" : "1.1.1.1");
    policy_init(&policy);
    add("r", "1", to);
    cr_expect_eq(policy.dest_count, POLICY_DESTS);
    struct policy before = policy;
    cr_expect_eq(policy_add_rule(&policy, "r", "1", "1.1.1.1", &why), -E2BIG);
    cr_expect_eq(memcmp(&policy, &before, sizeof(policy)), 0);
    strcat(to, ",1.1.1.1");
    policy_init(&policy);
    cr_expect_eq(policy_add_rule(&policy, "r", "1", to, &why), -E2BIG);
}

/* Round trip: what is printed reads as the same destination. */
Test(policy, prints_what_it_reads)
{
    srand(3);
    for (int round = 0; round < ROUNDS; round++) {
        bool v4 = rand() % 2;
        struct dest_match dest = {.exclude = rand() % 2,
                                  .prefix = (uint8_t)(v4 ? 97 + rand() % 32 : 1 + rand() % 128),
                                  .ports = {.lo = (uint16_t)(1 + rand() % 65535)}};
        char text[100];
        for (int i = 0; i < 16; i++)
            dest.addr[i] = rand() % 2 ? (uint8_t)(1 + rand() % 255) : 0;
        if (v4)
            memcpy(dest.addr, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
        address_mask(dest.addr, dest.prefix);
        dest.v6_only = dest.prefix < 96;
        dest.ports.hi = (uint16_t)(dest.ports.lo + rand() % (65536 - dest.ports.lo));
        policy_dest_print(&dest, text, sizeof(text));
        policy_init(&policy);
        if (policy_add_rule(&policy, "r", "1", text, &why) != 0) {
            cr_assert_neq(strstr(why.text, "no destination"), NULL, "%s: %s", text, why.text);
            continue; /* the unspecified address came up */
        }
        cr_assert_eq(memcmp(&policy.dest[0], &dest, sizeof(dest)), 0, "%s", text);
    }
}

Test(policy, survives_any_text)
{
    static const char letters[] = "0123456789abf.:/[]!-, any\x1b\xff";
    srand(4);
    for (int round = 0; round < 10 * ROUNDS; round++) {
        char text[48];
        size_t length = (size_t)rand() % (sizeof(text) - 1);
        for (size_t i = 0; i < length; i++)
            text[i] = letters[(size_t)rand() % (sizeof(letters) - 1)];
        text[length] = '\0';
        policy_init(&policy);
        if (policy_add_rule(&policy, "r", "1", text, &why) == 0)
            cr_assert(policy_valid(&policy), "'%s'", text);
    }
}

/* ---- matching ---- */

Test(policy, without_destinations_matches_all_but_loopback)
{
    add("all", "1", NULL);
    cr_expect_eq(match("10.0.0.1", 80), 0);
    cr_expect_eq(match("2001:db8::1", 65535), 0);
    cr_expect_eq(match("127.0.0.1", 80), -1);
    cr_expect_eq(match("127.255.255.255", 80), -1);
    cr_expect_eq(match("::1", 80), -1);
    cr_expect_eq(match("128.0.0.0", 80), 0);
    cr_expect_eq(match("::2", 80), 0);
}

Test(policy, loopback_is_matched_by_what_names_it_only)
{
    add("wide", "1", "any, 0.0.0.0/0, ::/0, 126.0.0.0/7, ::/127");
    cr_expect_eq(match("127.0.0.1", 80), -1);
    cr_expect_eq(match("::1", 80), -1);
    cr_expect_eq(match("126.0.0.1", 80), 0);
    add("named", "1", "127.0.0.0/8:80, ::1");
    cr_expect_eq(match("127.0.0.1", 80), 1);
    cr_expect_eq(match("127.9.9.9", 80), 1);
    cr_expect_eq(match("127.0.0.1", 81), -1);
    cr_expect_eq(match("::1", 81), 1);
    policy_init(&policy);
    add("part", "1", "127.0.0.2");
    cr_expect_eq(match("127.0.0.2", 1), 0);
    cr_expect_eq(match("127.0.0.1", 1), -1);
}

Test(policy, prefixes_end_where_they_end)
{
    add("v4", "1", "10.32.0.0/11");
    add("v6", "2", "fd00:0:0:8000::/49");
    add("v6 long", "3", "2001:db8::ff00/120");
    cr_expect_eq(match("10.31.255.255", 1), -1);
    cr_expect_eq(match("10.32.0.0", 1), 0);
    cr_expect_eq(match("10.63.255.255", 1), 0);
    cr_expect_eq(match("10.64.0.0", 1), -1);
    cr_expect_eq(match("fd00:0:0:7fff::1", 1), -1);
    cr_expect_eq(match("fd00:0:0:ffff::1", 1), 1);
    cr_expect_eq(match("fd00:0:1::", 1), -1);
    cr_expect_eq(match("2001:db8::ff7f", 1), 2);
    cr_expect_eq(match("2001:db8::fe00", 1), -1);
}

/* Every prefix length against bit after bit, by another way of comparing. */
Test(policy, compares_all_bits)
{
    srand(5);
    for (unsigned prefix = 1; prefix <= 128; prefix++) {
        policy_init(&policy);
        add("r", "1", "2001:db8::1");
        policy.dest[0].prefix = (uint8_t)prefix;
        policy.dest[0].v6_only = 0;
        for (int i = 0; i < 16; i++)
            policy.dest[0].addr[i] = (uint8_t)(0x40 | rand());
        for (unsigned bit = 0; bit < 128; bit++) {
            struct dest dest = {.port = 1};
            struct policy_verdict verdict;
            memcpy(dest.addr, policy.dest[0].addr, 16);
            cr_assert(policy_match(&policy, &dest, &verdict));
            dest.addr[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
            cr_assert_eq(policy_match(&policy, &dest, &verdict), bit >= prefix, "/%u bit %u",
                         prefix, bit);
        }
    }
}

Test(policy, families_stay_apart)
{
    add("v6", "1", "::/0");
    cr_expect_eq(match("10.0.0.1", 1), -1);
    cr_expect_eq(match("::ffff:10.0.0.1", 1), -1);
    cr_expect_eq(match("2001:db8::1", 1), 0);
    policy_init(&policy);
    add("v4", "1", "0.0.0.0/0");
    cr_expect_eq(match("10.0.0.1", 1), 0);
    cr_expect_eq(match("2001:db8::1", 1), -1);
    policy_init(&policy);
    add("all but v6", "1", "any, !::/0");
    cr_expect_eq(match("10.0.0.1", 1), 0);
    cr_expect_eq(match("2001:db8::1", 1), -1);
    policy_init(&policy);
    add("any", "1", "any:443");
    cr_expect_eq(match("10.0.0.1", 443), 0);
    cr_expect_eq(match("2001:db8::1", 443), 0);
    cr_expect_eq(match("2001:db8::1", 442), -1);
}

Test(policy, ports_of_destinations)
{
    add("r", "1", "10.0.0.1:80-90, 10.0.0.2:443");
    cr_expect_eq(match("10.0.0.1", 79), -1);
    cr_expect_eq(match("10.0.0.1", 80), 0);
    cr_expect_eq(match("10.0.0.1", 90), 0);
    cr_expect_eq(match("10.0.0.1", 91), -1);
    cr_expect_eq(match("10.0.0.1", 443), -1);
    cr_expect_eq(match("10.0.0.2", 443), 0);
}

Test(policy, an_exclusion_goes_on_to_the_next_rule)
{
    add("first", "1", "10.0.0.0/8, !10.1.0.0/16, !any:22");
    add("second", "2", "10.1.0.0/16");
    cr_expect_eq(match("10.2.0.1", 80), 0);
    cr_expect_eq(match("10.1.0.1", 80), 1);
    cr_expect_eq(match("10.1.0.1", 22), 1);
    cr_expect_eq(match("10.2.0.1", 22), -1);
    cr_expect_eq(match("11.0.0.1", 80), -1);
}

Test(policy, exclusions_win_wherever_they_stand)
{
    add("r", "1", "!10.0.0.1, 10.0.0.0/8, !10.0.0.2, 10.0.0.2");
    cr_expect_eq(match("10.0.0.1", 1), -1);
    cr_expect_eq(match("10.0.0.2", 1), -1);
    cr_expect_eq(match("10.0.0.3", 1), 0);
}

Test(policy, exclusions_alone_mean_all_but_them_and_loopback)
{
    add("r", "1", "!10.0.0.0/8, !127.0.0.2");
    cr_expect_eq(match("10.0.0.1", 1), -1);
    cr_expect_eq(match("11.0.0.1", 1), 0);
    cr_expect_eq(match("fd00::1", 1), 0);
    cr_expect_eq(match("127.0.0.1", 1), -1);
    policy_init(&policy);
    add("loopback in part", "1", "127.0.0.0/8, !127.0.0.2");
    cr_expect_eq(match("127.0.0.1", 1), 0);
    cr_expect_eq(match("127.0.0.2", 1), -1);
}

Test(policy, the_first_rule_decides)
{
    struct dest dest = dest_of("10.0.0.1", 5432);
    struct policy_verdict verdict;
    add("databases", "60001-60010", "10.0.0.0/8:5432");
    add("rest", "60100", NULL);
    policy.rule[0].exhausted = POLICY_WAIT;
    policy.rule[0].wait_ms = 500;
    policy.quarantine_ms = 7000;
    cr_assert(policy_match(&policy, &dest, &verdict));
    cr_expect_eq(verdict.rule, 0);
    cr_expect_eq(verdict.exhausted, POLICY_WAIT);
    cr_expect_eq(verdict.wait_ms, 500);
    cr_expect_eq(verdict.quarantine_ms, 7000);
    cr_expect_eq(portset_size(&verdict.ports), 10);
    dest.port = 5433;
    cr_assert(policy_match(&policy, &dest, &verdict));
    cr_expect_eq(verdict.rule, 1);
    cr_expect_eq(portset_size(&verdict.ports), 1);
}

Test(policy, knows_which_local_addresses_may_matter)
{
    struct dest lan = dest_of("10.0.0.1", 0), v4 = dest_of("127.0.0.1", 0), v6 = dest_of("::1", 0);
    add("all", "1", "any, !127.0.0.1");
    cr_expect(policy_may_match_address(&policy, lan.addr));
    cr_expect_not(policy_may_match_address(&policy, v4.addr));
    cr_expect_not(policy_may_match_address(&policy, v6.addr));
    add("loopback", "1", "127.0.0.5");
    cr_expect(policy_may_match_address(&policy, v4.addr));
}

static void gap_is(uint16_t lo, uint16_t hi, uint16_t first, uint16_t last)
{
    bool found = policy_gap(&policy, &lo, &hi);
    cr_expect_eq(found, first != 0);
    if (first)
        cr_expect(lo == first && hi == last, "%u-%u instead of %u-%u", lo, hi, first, last);
}

Test(policy, finds_the_longest_run_of_ports_without_a_rule)
{
    add("a", "50000-50099,60000-65535", "10.0.0.0/8");
    add("b", "50100-50199", "any");
    gap_is(32768, 49999, 32768, 49999);
    gap_is(1, 1000, 1, 1000);
    gap_is(50000, 50000, 0, 0);
    gap_is(32768, 60999, 32768, 49999);
    gap_is(49990, 60999, 50200, 59999);
    gap_is(50150, 50200, 50200, 50200);
    gap_is(50000, 50199, 0, 0);
    gap_is(60000, 65535, 0, 0);
    gap_is(1, 65535, 1024, 49999);
    add("c", "1024-49999,50200-59999", "any");
    gap_is(1024, 65535, 0, 0);
}

static void count_range(const struct portrange *range, void *arg)
{
    *(uint32_t *)arg += range->hi - range->lo + 1u;
}

Test(policy, goes_through_all_ranges)
{
    uint32_t ports = 0;
    add("a", "1-10,20", NULL);
    add("b", "5-6", NULL);
    policy_each_range(&policy, count_range, &ports);
    cr_expect_eq(ports, 13);
}

Test(policy, checksum_sees_every_bit)
{
    add("a", "1-10,20", "10.0.0.0/8");
    uint64_t sum = policy_checksum(&policy);
    cr_expect_eq(policy_checksum(&policy), sum);
    for (size_t bit = 0; bit < 8 * sizeof(policy); bit++) {
        ((unsigned char *)&policy)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        cr_assert_neq(policy_checksum(&policy), sum, "bit %zu", bit);
        ((unsigned char *)&policy)[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
}

/* ---- what programs pass to connect() ---- */

static bool from_v4(const char *address, uint16_t port, struct dest *dest)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &in.sin_addr);
    return dest_from_sockaddr((struct sockaddr *)&in, sizeof(in), dest);
}

static bool from_v6(const char *address, uint16_t port, struct dest *dest)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(AF_INET6, address, &in6.sin6_addr);
    return dest_from_sockaddr((struct sockaddr *)&in6, sizeof(in6), dest);
}

static void expect_printed(const struct dest *dest, const char *printed)
{
    char buf[64];
    cr_expect_eq(dest_print(dest, buf, sizeof(buf)), strlen(printed));
    cr_expect_str_eq(buf, printed);
}

Test(policy, takes_socket_addresses)
{
    struct dest dest;
    cr_assert(from_v4("10.0.0.1", 443, &dest));
    expect_printed(&dest, "10.0.0.1:443");
    cr_assert(from_v6("fd00::1", 443, &dest));
    expect_printed(&dest, "[fd00::1]:443");
    cr_assert(from_v6("::ffff:10.0.0.1", 80, &dest));
    expect_printed(&dest, "10.0.0.1:80");
}

/* As the kernel does: tcp_v4_connect(), tcp_v6_connect(). */
Test(policy, unspecified_is_loopback)
{
    struct dest dest;
    cr_assert(from_v4("0.0.0.0", 1, &dest));
    expect_printed(&dest, "127.0.0.1:1");
    cr_assert(from_v6("::", 1, &dest));
    expect_printed(&dest, "[::1]:1");
    cr_assert(from_v6("::ffff:0.0.0.0", 1, &dest));
    expect_printed(&dest, "127.0.0.1:1");
}

Test(policy, leaves_other_socket_addresses_alone)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct dest dest;
    cr_expect(dest_from_sockaddr((struct sockaddr *)&in6, 24, &dest)); /* RFC 2133's length */
    cr_expect_not(dest_from_sockaddr((struct sockaddr *)&in6, 23, &dest));
    cr_expect_not(dest_from_sockaddr((struct sockaddr *)&in, sizeof(in) - 1, &dest));
    cr_expect_not(dest_from_sockaddr((struct sockaddr *)&in, 1, &dest));
    cr_expect_not(dest_from_sockaddr((struct sockaddr *)&in, 0, &dest));
    in.sin_family = AF_UNIX;
    cr_expect_not(dest_from_sockaddr((struct sockaddr *)&in, sizeof(in), &dest));
    in.sin_family = AF_UNSPEC;
    cr_expect_not(dest_from_sockaddr((struct sockaddr *)&in, sizeof(in), &dest));
}

/* ---- aliases ---- */

static struct parse_reason why_alias;

static int alias(const char *addresses, const char *servers)
{
    int result = policy_add_alias(&policy, addresses, servers, &why_alias);
    cr_expect(result || policy_valid(&policy) || !policy.rule_count);
    return result;
}

/* The server of "10.0.0.1" and 80; "10.0.0.9:7000". @name: what it is called, 0 if it has one name.
 */
static void expect_server(const char *address, uint16_t port, const char *server, bool named)
{
    char buf[100];
    struct dest dest = dest_of(address, port), found;
    cr_expect_eq(policy_server(&policy, &dest, &found) != 0, named, "%s:%u", address, port);
    dest_print(&found, buf, sizeof(buf));
    cr_expect_str_eq(buf, server, "of %s:%u", address, port);
}

Test(policy, addresses_of_one_server)
{
    add("r", "1", NULL);
    expect_server("10.96.0.1", 80, "10.96.0.1:80", false);
    cr_assert_eq(alias("10.96.0.1:80, 10.96.0.2:443", "10.77.9.2:7000"), 0);
    cr_assert_eq(alias("[fd00::1]:80", "[fd00::9]:7000"), 0);
    expect_server("10.96.0.1", 80, "10.77.9.2:7000", true);
    expect_server("10.96.0.2", 443, "10.77.9.2:7000", true);
    expect_server("10.77.9.2", 7000, "10.77.9.2:7000", true);
    expect_server("fd00::1", 80, "[fd00::9]:7000", true);
    expect_server("10.96.0.1", 81, "10.96.0.1:81", false);
    expect_server("10.77.9.2", 7001, "10.77.9.2:7001", false);
    expect_server("10.96.0.3", 80, "10.96.0.3:80", false);
    cr_expect_eq(policy.alias_count, 5);
    /* Every one has a name of its own. */
    static const char *const addresses[] = {"10.96.0.1", "10.96.0.2", "10.77.9.2"};
    static const uint16_t ports[] = {80, 443, 7000};
    bool seen[256] = {false};
    for (int i = 0; i < 3; i++) {
        struct dest dest = dest_of(addresses[i], ports[i]), server;
        uint8_t name = policy_server(&policy, &dest, &server);
        cr_expect_not(seen[name]);
        seen[name] = true;
    }
    cr_assert_eq(alias("10.96.0.1:80", "10.77.9.2:7000"), 0, "the same again is no news");
    cr_expect_eq(policy.alias_count, 5);
}

static uint8_t name_of(const char *address, uint16_t port)
{
    struct dest dest = dest_of(address, port), server, again;
    uint8_t name = policy_server(&policy, &dest, &server);
    if (name) {
        cr_expect(policy_address(&policy, &server, name, &again), "%s:%u", address, port);
        cr_expect_eq(dest_compare(&again, &dest), 0, "%s:%u", address, port);
    }
    return name;
}

/* Words in the pool outlive a policy. */
Test(policy, a_name_stays_whatever_else_there_is)
{
    static const char *const orders[] = {"10.96.0.1:80, 10.96.0.7:80, 10.77.0.1:5",
                                         "10.77.0.1:5, 10.96.0.7:80, 10.96.0.1:80",
                                         "10.96.0.1:80, 10.0.0.1:1, 10.96.0.7:80, 10.99.0.1:1, [fd00::1]:9"};
    uint8_t one = 0, other = 0, server = 0;
    for (int i = 0; i < 3; i++) {
        policy_init(&policy);
        add("r", "1", NULL);
        cr_assert_eq(alias("10.1.1.1:80", "10.2.2.2:80"), 0);
        cr_assert_eq(alias(orders[i], "10.77.9.2:7000"), 0);
        cr_expect(!i || one == name_of("10.96.0.1", 80));
        cr_expect(!i || other == name_of("10.96.0.7", 80));
        cr_expect(!i || server == name_of("10.77.9.2", 7000));
        one = name_of("10.96.0.1", 80);
        other = name_of("10.96.0.7", 80);
        server = name_of("10.77.9.2", 7000);
    }
    struct dest found, to = dest_of("10.77.9.2", 7000), none = dest_of("10.77.9.2", 7001);
    cr_expect_not(policy_address(&policy, &to, 0, &found));
    cr_expect_not(policy_address(&policy, &to, 255, &found));
    cr_expect_not(policy_address(&policy, &none, server, &found));
}

Test(policy, no_server_has_a_name_twice)
{
    bool seen[256] = {false};
    add("r", "1", NULL);
    for (int i = 0; i < POLICY_ALIASES - 1; i++) {
        char text[40];
        snprintf(text, sizeof(text), "10.96.%d.%d:80", i / 200, i % 200 + 1);
        cr_assert_eq(alias(text, "10.7.0.1:70"), 0);
    }
    for (uint32_t i = 0; i < policy.alias_count; i++) {
        uint8_t name = policy.alias[i].name;
        cr_expect(name >= 1 && name <= POLICY_NAMES);
        cr_expect_not(seen[name], "%u twice", name);
        seen[name] = true;
    }
    cr_expect_neq(name_of("10.96.0.9", 80), 0);
}

Test(policy, several_servers_of_one_address_are_one)
{
    add("r", "1", NULL);
    cr_assert_eq(alias("10.96.0.1:80", "10.7.0.1:70, 10.7.0.2:70"), 0);
    cr_assert_eq(alias("10.96.0.2:80", "10.7.0.3:70, 10.7.0.4:70"), 0);
    expect_server("10.7.0.2", 70, "10.7.0.1:70", true);
    expect_server("10.7.0.4", 70, "10.7.0.3:70", true);
    cr_assert_eq(alias("10.96.0.3:80", "10.7.0.4:70, 10.7.0.2:70"), 0, "leads to both");
    expect_server("10.96.0.1", 80, "10.7.0.3:70", true);
    expect_server("10.7.0.1", 70, "10.7.0.3:70", true);
    expect_server("10.7.0.2", 70, "10.7.0.3:70", true);
    expect_server("10.96.0.2", 80, "10.7.0.3:70", true);
    expect_server("10.96.0.3", 80, "10.7.0.3:70", true);
    cr_assert_eq(alias("10.7.0.9:1", "10.96.0.1:80"), 0, "an alias of an alias");
    expect_server("10.7.0.9", 1, "10.7.0.3:70", true);
}

Test(policy, whole_addresses_of_one_server)
{
    add("r", "1", NULL);
    cr_assert_eq(alias("10.5.0.67, fd00::67", "192.168.31.67"), 0);
    cr_assert_eq(alias("10.96.0.1:80", "10.5.0.67:7000"), 0);
    expect_server("10.5.0.67", 443, "192.168.31.67:443", true);
    expect_server("192.168.31.67", 443, "192.168.31.67:443", true);
    expect_server("fd00::67", 443, "192.168.31.67:443", true);
    expect_server("10.96.0.1", 80, "192.168.31.67:7000", true);
    expect_server("10.5.0.67", 7000, "192.168.31.67:7000", true);
    expect_server("192.168.31.67", 7000, "192.168.31.67:7000", true);
    expect_server("fd00::67", 7000, "192.168.31.67:7000", true);
    name_of("fd00::67", 443);
    name_of("fd00::67", 7000);
    cr_assert_eq(alias("10.6.0.1", "10.6.0.2"), -EINVAL, "the order is its caller's");
}

static void expect_alias_refused(const char *addresses, const char *servers, const char *part)
{
    struct policy before = policy;
    cr_expect_lt(alias(addresses, servers), 0, "%s", addresses);
    cr_expect_neq(strstr(why_alias.text, part), NULL, "'%s' is not in: %s", part, why_alias.text);
    cr_expect_eq(memcmp(&before, &policy, sizeof(policy)), 0, "%s", addresses);
}

Test(policy, aliases_that_are_none)
{
    add("r", "1", NULL);
    expect_alias_refused("10.96.0.1:80", "", "no address given");
    expect_alias_refused("", "10.7.0.1:70", "no address given");
    expect_alias_refused("10.96.0.0/24:80", "10.7.0.1:70", "one address is needed");
    expect_alias_refused("any:80", "10.7.0.1:70", "one address is needed");
    expect_alias_refused("!10.96.0.1:80", "10.7.0.1:70", "one address is needed");
    expect_alias_refused("10.96.0.1:80-81", "10.7.0.1:70", "one port is allowed");
    expect_alias_refused("10.96.0.1:80001", "10.7.0.1:70", "ports end at 65535");
    expect_alias_refused("10.96.0.1", "10.7.0.1:70", "give a port to all");
    expect_alias_refused("10.96.0.1:80, 10.96.0.2", "10.7.0.1:70",
                         "\"10.96.0.2\": give a port to all");
    expect_alias_refused("127.0.0.1:80", "10.7.0.1:70", "loopback");
    expect_alias_refused("shop.default:80", "10.7.0.1:70", "names are not looked up");
    for (int i = 0; i < POLICY_ALIASES - 1; i++) {
        char text[40];
        snprintf(text, sizeof(text), "10.96.%d.%d:80", i / 200, i % 200 + 1);
        cr_assert_eq(alias(text, "10.7.0.1:70"), 0);
    }
    cr_assert_eq(policy.alias_count, POLICY_ALIASES);
    expect_alias_refused("10.96.9.1:80", "10.7.0.1:70", "more than 250 addresses");
    expect_server("10.96.1.49", 80, "10.7.0.1:70", true);
}

Test(policy, a_rule_for_the_server_is_for_its_other_addresses)
{
    struct policy_verdict verdict;
    struct dest dest = dest_of("10.96.0.1", 80), server = dest_of("10.7.0.1", 70);
    add("server", "60001", "10.7.0.1:70");
    add("service", "60002", "10.96.0.2");
    policy.rule[0].scope = POLICY_ADDRESS;
    cr_expect_eq(match("10.96.0.1", 80), -1);
    cr_assert_eq(alias("10.96.0.1:80, 10.96.0.2:80", "10.7.0.1:70"), 0);
    cr_expect_eq(match("10.96.0.1", 80), 0, "as no rule is for itself");
    cr_expect_eq(match("10.96.0.2", 80), 1, "its own rule comes first");
    cr_expect_eq(match("10.96.0.1", 81), -1);
    cr_assert(policy_match(&policy, &dest, &verdict));
    cr_expect_eq(memcmp(&verdict.server, &server, sizeof(server)), 0);
    cr_expect_neq(verdict.name, 0);
    cr_expect_eq(verdict.scope, POLICY_NODE, "what translates sees all namespaces");
}

/* ---- hostile memory ---- */

Test(policy, knows_an_invalid_one)
{
    struct policy good;
    add("r", "60001-60010", "10.0.0.0/8, !10.0.0.1:80");
    cr_assert_eq(alias("10.96.0.1:80", "10.7.0.1:70"), 0);
    good = policy;
#define BROKEN(change)                                                                             \
    do {                                                                                           \
        policy = good;                                                                             \
        policy.change;                                                                             \
        cr_expect_not(policy_valid(&policy), "valid with " #change);                               \
    } while (0)
    BROKEN(rule_count = 0);
    BROKEN(rule_count = 2);
    BROKEN(rule_count = POLICY_RULES + 1);
    BROKEN(dest_count = POLICY_DESTS + 1);
    BROKEN(dest_count = 1);
    BROKEN(quarantine_ms = POLICY_QUARANTINE_MAX_MS + 1);
    BROKEN(rule[0].name[0] = '\0');
    BROKEN(rule[0].name[0] = '\x1b');
    BROKEN(rule[0].dest_first = 1);
    BROKEN(rule[0].dest_first = 3);
    BROKEN(rule[0].dest_count = 0xffff);
    BROKEN(rule[0].exhausted = POLICY_PASS + 1);
    BROKEN(rule[0].exhausted = POLICY_WAIT); /* and wait_ms 0 */
    BROKEN(rule[0].ports.count = 0);
    BROKEN(rule[0].ports.range[0].lo = 0);
    BROKEN(rule[0].scope = POLICY_ADDRESS + 1);
    BROKEN(alias_count = POLICY_ALIASES + 1);
    BROKEN(alias_count = 3); /* the third is before the second */
    BROKEN(alias[0].from.port = 0);
    BROKEN(alias[0].to.port = 71);
    BROKEN(alias[0].name = 0);
    BROKEN(alias[0].name = POLICY_NAMES + 1);
    BROKEN(alias[0] = policy.alias[1]);
    BROKEN(dest[0].prefix = 129);
    BROKEN(dest[0].prefix = 7 + 96 - 1); /* 10.0.0.0/6 has host bits */
    BROKEN(dest[0].exclude = 2);
    BROKEN(dest[0].v6_only = 2);
    BROKEN(dest[1].ports.lo = 0);
    BROKEN(dest[1].ports.hi = 79);
    policy = good;
    memset(policy.rule[0].name, 'x', POLICY_NAME);
    cr_expect_not(policy_valid(&policy), "valid with a name without end");
    cr_expect(policy_valid(&good));
}

/* All that may be asked of a policy; what comes out must be within its bounds. */
static void ask(const struct policy *hostile)
{
    struct policy_verdict verdict;
    struct dest dest = {.port = (uint16_t)rand()};
    char buf[100];
    uint32_t ports = 0;
    for (int i = 0; i < 16; i++)
        dest.addr[i] = (uint8_t)(i < 10 ? 0 : rand());
    policy_valid(hostile);
    policy_checksum(hostile);
    policy_may_match_address(hostile, dest.addr);
    policy_may_match_address(hostile, (const uint8_t[16]){[15] = 1});
    policy_each_range(hostile, count_range, &ports);
    policy_dest_print(&hostile->dest[rand() % POLICY_DESTS], buf, sizeof(buf));
    if (!policy_match(hostile, &dest, &verdict))
        return;
    cr_assert_lt(verdict.rule, POLICY_RULES);
    cr_assert_leq(verdict.exhausted, POLICY_PASS);
    cr_assert_leq(verdict.scope, POLICY_ADDRESS);
    cr_assert_leq(verdict.name, POLICY_ALIASES);
    cr_assert_leq(verdict.wait_ms, POLICY_WAIT_MAX_MS);
    cr_assert_leq(verdict.quarantine_ms, POLICY_QUARANTINE_MAX_MS);
    cr_assert(verdict.ports.count == 0 || portset_valid(&verdict.ports));
}

Test(policy, survives_random_bytes)
{
    srand(6);
    for (int round = 0; round < ROUNDS; round++) {
        struct policy *hostile = malloc(sizeof(*hostile)); /* apart: a sanitizer sees its end */
        for (size_t i = 0; i + sizeof(uint32_t) <= sizeof(*hostile); i += sizeof(uint32_t)) {
            uint32_t word = (uint32_t)rand() ^ (uint32_t)rand() << 16;
            memcpy((char *)hostile + i, &word, sizeof(word));
        }
        if (round % 2)
            hostile->rule_count = (uint32_t)rand() % (POLICY_RULES + 2);
        ask(hostile);
        free(hostile);
    }
}

/* Nearly right ones get further than noise does. */
Test(policy, survives_a_few_wrong_bytes)
{
    srand(7);
    add("a", "60001-60010,60100", "10.0.0.0/8, !10.0.0.1:80, fd00::/64");
    add("b", "1-65535", NULL);
    for (int round = 0; round < ROUNDS; round++) {
        struct policy *hostile = malloc(sizeof(*hostile));
        memcpy(hostile, &policy, sizeof(policy));
        for (int i = 1 + rand() % 4; i > 0; i--) {
            size_t in_dests = offsetof(struct policy, dest) + (size_t)rand() % (4 * 24);
            size_t in_rules = (size_t)rand() % (16 + 2 * sizeof(struct policy_rule));
            ((unsigned char *)hostile)[rand() % 4 ? in_rules : in_dests] = (unsigned char)rand();
        }
        ask(hostile);
        free(hostile);
    }
}
