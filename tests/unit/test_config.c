/* SPDX-License-Identifier: MIT */
/*
 * The configuration: what is taken, and that whatever is not gets one clear line and changes
 * nothing. The lines are compared whole where the user's next step depends on them.
 */
#include "../../tools/config/config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 5000

static char path[64];
static struct config config;
static struct config_error error;

static void begin(void)
{
    snprintf(path, sizeof(path), "/tmp/fixport-unit-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}

static void end(void)
{
    unlink(path);
}

TestSuite(config, .init = begin, .fini = end);

static void write_bytes(const char *text, size_t length)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, length), (ssize_t)length);
    close(fd);
}

static void take(const char *text)
{
    write_bytes(text, strlen(text));
    int result = config_load(path, &config, &error);
    cr_assert_eq(result, 0, "refused: %s", error.text);
    cr_assert(policy_valid(&config.policy));
    cr_expect_str_eq(config.path, path);
}

/* One line, printable, and the result untouched. Return: what it says after the file's name. */
static const char *refused(const char *text, size_t length, int expected)
{
    static struct config before;
    memset(&config, 0xa5, sizeof(config));
    memset(&error, 0xa5, sizeof(error));
    before = config;
    write_bytes(text, length);
    int result = config_load(path, &config, &error);
    cr_assert_eq(result, expected, "'%s' gives %d", text, result);
    cr_assert_eq(memcmp(&config, &before, sizeof(config)), 0, "'%s' changed the result", text);
    cr_assert_neq(memchr(error.text, '\0', sizeof(error.text)), NULL);
    for (const char *at = error.text; *at; at++)
        cr_assert(*at >= ' ' && *at <= '~', "'%s': the line has byte %d", text, *at);
    cr_assert_eq(strncmp(error.text, path, strlen(path)), 0, "%s", error.text);
    return error.text + strlen(path) + 2;
}

/* @line: the whole line after "FILE: ". */
static void expect_line(const char *text, const char *line)
{
    cr_expect_str_eq(refused(text, strlen(text), -EINVAL), line);
}

/* @part: of the line. */
static void expect_part(const char *text, const char *part)
{
    const char *line = refused(text, strlen(text), -EINVAL);
    cr_expect_neq(strstr(line, part), NULL, "'%s' is not in: %s", part, line);
}

static void expect_ports(unsigned rule, const char *ports)
{
    char buf[400];
    portset_print(&config.policy.rule[rule].ports, buf, sizeof(buf));
    cr_expect_str_eq(buf, ports);
}

/* ---- what is taken ---- */

Test(config, the_least_there_can_be)
{
    take("[pool]\nports = 60001-60999\n");
    cr_expect_eq(config.policy.rule_count, 1);
    cr_expect_eq(config.policy.dest_count, 0);
    cr_expect_str_eq(config.policy.rule[0].name, "default");
    cr_expect_eq(config.policy.rule[0].exhausted, POLICY_FAIL);
    cr_expect_eq(config.policy.quarantine_ms, POLICY_QUARANTINE_MS);
    cr_expect_str_eq(config.pool_path, "");
    cr_expect_eq(config.options.mode, geteuid() == 0 ? 0666 : 0600);
    cr_expect_eq(config.options.group, (gid_t)-1);
    cr_expect_eq(config.options.lanes, 0);
    expect_ports(0, "60001-60999");
}

Test(config, everything_there_is)
{
    take("# a comment\n"
         "[pool]\n"
         "ports = 60001-60999\n"
         "path = \"/run/fixport/a pool\" ; with a space\n"
         "quarantine = 2m\n"
         "when-exhausted = wait 2\n"
         "mode = 0660\n"
         "group = 4711\n"
         "lanes = 64\n"
         "\n"
         "[Rule Databases]\n"
         "  To = 192.168.31.0/24:5432, !192.168.31.9\n"
         "PORTS=60001-60499\n"
         "when-exhausted = pass # really\n"
         "[rule rest]\n"
         "to = any\n");
    cr_expect_str_eq(config.pool_path, "/run/fixport/a pool");
    cr_expect_eq(config.policy.quarantine_ms, 120000);
    cr_expect_eq(config.options.mode, 0660);
    cr_expect_eq(config.options.group, 4711);
    cr_expect_eq(config.options.lanes, 64);
    cr_assert_eq(config.policy.rule_count, 2);
    cr_expect_str_eq(config.policy.rule[0].name, "databases");
    cr_expect_eq(config.policy.rule[0].dest_count, 2);
    cr_expect_eq(config.policy.rule[0].exhausted, POLICY_PASS);
    expect_ports(0, "60001-60499");
    cr_expect_str_eq(config.policy.rule[1].name, "rest");
    cr_expect_eq(config.policy.rule[1].exhausted, POLICY_WAIT);
    cr_expect_eq(config.policy.rule[1].wait_ms, 2000);
    expect_ports(1, "60001-60999");
}

Test(config, rules_keep_their_order_and_pool_may_come_last)
{
    char text[2000], name[8];
    size_t at = 0;
    for (int i = 0; i < POLICY_RULES; i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, "[rule r%d]\nto = 10.0.0.%d\n",
                               (i * 7) % 32, i + 1);
    snprintf(text + at, sizeof(text) - at, "[pool]\nports = 60001\n");
    take(text);
    cr_assert_eq(config.policy.rule_count, POLICY_RULES);
    for (int i = 0; i < POLICY_RULES; i++) {
        snprintf(name, sizeof(name), "r%d", (i * 7) % 32);
        cr_expect_str_eq(config.policy.rule[i].name, name);
        cr_expect_eq(config.policy.dest[config.policy.rule[i].dest_first].addr[15], i + 1);
    }
}

Test(config, rules_need_no_pool_section)
{
    take("[rule a]\nports = 1-2\n");
    cr_expect_eq(config.policy.rule_count, 1);
    cr_expect_eq(config.policy.rule[0].dest_count, 0);
}

Test(config, lines_may_be_continued_and_end_in_any_way)
{
    take("[pool]\r\nports = 1-2, \\\r\n   5-6\r\n");
    expect_ports(0, "1-2,5-6");
    take("[pool]\nports = 1-2");
    expect_ports(0, "1-2");
    take("[pool]\n# a comment \\\nthat goes on\n\\\nports = 3\n");
    expect_ports(0, "3");
}

Test(config, quotes_and_comments)
{
    take("[pool]\nports = \"1-2\"   ; one\n");
    expect_ports(0, "1-2");
    take("[pool]\nports = '1-2' # two\n");
    expect_ports(0, "1-2");
    take("[pool]\nports = 1-2 ; three # four\npath = \"/run/a;b#c\"\n");
    cr_expect_str_eq(config.pool_path, "/run/a;b#c");
}

static void expect_duration(const char *text, uint32_t ms)
{
    char file[100];
    snprintf(file, sizeof(file), "[pool]\nports = 1\nquarantine = %s\n", text);
    take(file);
    cr_expect_eq(config.policy.quarantine_ms, ms, "%s gives %u", text, config.policy.quarantine_ms);
}

Test(config, durations)
{
    expect_duration("0", 0);
    expect_duration("120", 120000);
    expect_duration("120s", 120000);
    expect_duration("120 s", 120000);
    expect_duration("2m", 120000);
    expect_duration("500ms", 500);
    expect_duration("1h", 3600000);
    expect_duration("24h", POLICY_QUARANTINE_MAX_MS);
}

Test(config, a_group_by_name)
{
    take("[pool]\nports = 1\ngroup = root\n");
    cr_expect_eq(config.options.group, 0);
}

Test(config, a_pipe_will_do)
{
    int ends[2];
    char name[32];
    cr_assert_eq(pipe(ends), 0);
    cr_assert_gt(write(ends[1], "[pool]\nports = 7\n", 17), 0);
    close(ends[1]);
    snprintf(name, sizeof(name), "/dev/fd/%d", ends[0]);
    cr_expect_eq(config_load(name, &config, &error), 0, "%s", error.text);
    expect_ports(0, "7");
}

/* tolower('I') is no 'i' there. Where the locale is not installed this tests nothing new. */
Test(config, a_turkish_locale)
{
    if (!setlocale(LC_ALL, "tr_TR.ISO-8859-9"))
        setlocale(LC_ALL, "tr_TR.UTF-8");
    take("[RULE LIMITED]\nTO = any\nPORTS = 1\n");
    cr_expect_str_eq(config.policy.rule[0].name, "limited");
}

Test(config, the_example_is_valid)
{
    const char *source = getenv("FIXPORT_SOURCE");
    char file[4096];
    snprintf(file, sizeof(file), "%s/contrib/examples/fixport.conf", source ? source : ".");
    if (access(file, R_OK) != 0)
        cr_skip_test("FIXPORT_SOURCE does not lead to it");
    cr_expect_eq(config_load(file, &config, &error), 0, "%s", error.text);
    cr_expect_eq(config.policy.rule_count, 2);
}

/* ---- what is refused: values ---- */

Test(config, bad_ports)
{
    expect_line("[rule databases]\nports = 60001-80001\n",
                "[rule databases] ports = \"60001-80001\": 80001 is not a port: ports end at "
                "65535");
    expect_line("[pool]\nports = 0-10\n",
                "[pool] ports = \"0-10\": 0 is not a port: ports begin at 1");
    expect_line("[pool]\nports = 200-100\n",
                "[pool] ports = \"200-100\": 200-100 runs backwards: write 100-200");
    expect_line("[pool]\nports = 60001-60100, 60050-60200\n",
                "[pool] ports = \"60001-60100, 60050-60200\": 60001-60100 and 60050-60200 overlap");
    expect_part("[pool]\nports =\n", "[pool] ports = \"\": no port given");
    expect_part("[pool]\nports = ; none\n", "[pool] ports = \"\": no port given");
    expect_part("[pool]\nports = \"\"\n", "[pool] ports = \"\": no port given");
}

Test(config, bad_ports_of_pool_are_said_even_if_no_rule_uses_them)
{
    expect_part("[pool]\nports = x\n[rule a]\nports = 1\n", "[pool] ports = \"x\": ");
}

Test(config, no_ports)
{
    expect_line("[pool]\n", "[pool]: no ports are given: ports = LO-HI is needed");
    expect_line("[pool]\npath = /run/x\n[rule a]\nto = any\n",
                "[rule a]: no ports are given, here or in [pool]: ports = LO-HI is needed");
    expect_line("", "it is empty: [pool] and ports = LO-HI are needed");
    expect_line(" \n\t\r\n", "it is empty: [pool] and ports = LO-HI are needed");
    expect_line("# only a comment\n", "it says nothing: [pool] and ports = LO-HI are needed");
}

Test(config, bad_destinations)
{
    expect_part("[rule a]\nports = 1\nto = 10.0.0.0/33\n",
                "[rule a] to = \"10.0.0.0/33\": \"10.0.0.0/33\": 33 is no prefix length: IPv4 ends "
                "at /32");
    expect_part("[rule a]\nports = 1\nto = any, 10.0.0.1/8\n", "10.0.0.0/8");
    expect_part("[rule a]\nports = 1\nto =\n", "[rule a] to = \"\": no destination given");
    expect_part("[rule a]\nports = 1\nto = \" \"\n", "no destination given");
}

/* @value is no good for @key. */
static void expect_bad(const char *key, const char *value, const char *allowed)
{
    char file[400], part[400];
    snprintf(file, sizeof(file), "[pool]\nports = 1\n%s = %s\n", key, value);
    snprintf(part, sizeof(part), "[pool] %s = \"%s\": ", key, value);
    const char *line = refused(file, strlen(file), -EINVAL);
    cr_expect_eq(strncmp(line, part, strlen(part)), 0, "%s", line);
    cr_expect_neq(strstr(line, allowed), NULL, "'%s' is not in: %s", allowed, line);
}

Test(config, bad_values)
{
    static const char *const durations[] = {
        "", "-1", "1.5", "2d", "soon", "1 2", "ms", "25h", "1e3", "86401", "99999999999999999999h"};
    static const char *const exhausted[] = {"",         "wait",   "waits 5", "wait 0", "wait 11m",
                                            "wait 5 x", "fail 5", "Pass",    "drop",   "wait5"};
    static const char *const scopes[] = {"", "Address", "pod", "node address", "addresses"};
    static const char *const modes[] = {"",      "0",    "0777",      "0400", "0066", "666x",
                                        "00666", "0668", "rw-rw-rw-", "0611", "1666"};
    static const char *const lanes[] = {"", "1", "4097", "-5", "many", "2 3", "4294967298"};
    static const char *const paths[] = {"", "pool", "./pool", "/", "/run/", "~/pool"};
    static const char *const groups[] = {"", "no-such-group-here", "4294967295", "-1"};
    for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++)
        expect_bad("quarantine", durations[i], "0 to 24h");
    for (size_t i = 0; i < sizeof(exhausted) / sizeof(exhausted[0]); i++)
        expect_bad("when-exhausted", exhausted[i], "allowed are");
    for (size_t i = 0; i < sizeof(scopes) / sizeof(scopes[0]); i++)
        expect_bad("scope", scopes[i], "allowed are node and address");
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        expect_bad("mode", modes[i], "allowed are 0600 to 0666");
    for (size_t i = 0; i < sizeof(lanes) / sizeof(lanes[0]); i++)
        expect_bad("lanes", lanes[i], "allowed are 2 to 4096");
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        expect_bad("path", paths[i], "absolute path");
    expect_bad("path", "/run/../etc/pool", "\"..\" is not allowed in a path");
    expect_bad("path", "/run/pool/.", "it names a folder, and a file is needed");
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
        expect_bad("group", groups[i], "group");
}

Test(config, a_path_longer_than_the_shim_remembers)
{
    char file[400] = "[pool]\nports = 1\npath = /";
    size_t begin_at = strlen(file), longest = CONFIG_POOL_PATH - 2;
    memset(file + begin_at, 'x', longest);
    take(file);
    cr_expect_eq(strlen(config.pool_path), CONFIG_POOL_PATH - 1);
    file[begin_at + longest] = 'x';
    expect_part(file, "at most 255 bytes");
}

/* ---- what is refused: names ---- */

Test(config, unknown_keys)
{
    expect_line("[pool]\nport = 60001\n",
                "[pool] port = \"60001\": unknown key: did you mean 'ports'?");
    expect_part("[pool]\nquarantaine = 1\n", "did you mean 'quarantine'?");
    expect_part("[pool]\nwhen_exhausted = fail\n", "did you mean 'when-exhausted'?");
    expect_part("[pool]\nwhen exhausted = fail\n", "did you mean 'when-exhausted'?");
    expect_part("[rule a]\ntoo = any\n", "did you mean 'to'?");
    expect_part("[pool]\ngruop = x\n", "did you mean 'group'?");
    expect_part(
        "[pool]\nnonsense = 1\n",
        "unknown key: allowed are ports, path, quarantine, when-exhausted, scope, mode, group, "
        "lanes");
    expect_part("[rule a]\nnonsense = 1\n",
                "unknown key: allowed are ports, to, when-exhausted, scope");
}

/* The scopes of the rules, a letter each. */
static void expect_scopes(const char *text, const char *scopes)
{
    char got[POLICY_RULES + 1] = "";
    take(text);
    for (uint32_t i = 0; i < config.policy.rule_count; i++)
        got[i] = config.policy.rule[i].scope == POLICY_ADDRESS ? 'a' : 'n';
    cr_expect_str_eq(got, scopes, "%s", text);
}

/* "10.96.0.1:80=10.7.0.1:70 ..." of the aliases, without the servers themselves. */
static void expect_aliases(const char *text, const char *aliases)
{
    char got[400] = "", from[80], to[80];
    take(text);
    for (uint32_t i = 0; i < config.policy.alias_count; i++) {
        policy_alias_print(&config.policy.alias[i].from, from, sizeof(from));
        policy_alias_print(&config.policy.alias[i].to, to, sizeof(to));
        if (strcmp(from, to) != 0)
            snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s=%s ", from, to);
    }
    cr_expect_str_eq(got, aliases, "%s", text);
}

Test(config, servers_with_several_addresses)
{
#define POOL "[pool]\nports = 1\n"
    expect_aliases(POOL, "");
    expect_aliases(POOL "[alias a]\nserver = 10.7.0.1:70\naddresses = 10.96.0.1:80, [fd00::1]:80\n",
                   "10.96.0.1:80=10.7.0.1:70 [fd00::1]:80=10.7.0.1:70 ");
    expect_aliases(POOL "[alias default.shop]\nserver = 10.7.0.1:70\naddresses = 10.96.0.1:80\n"
                        "addresses-3 = 10.96.0.3:80\n",
                   "10.96.0.1:80=10.7.0.1:70 10.96.0.3:80=10.7.0.1:70 ");
    /* Those without ports are read first, wherever they stand. */
    expect_aliases(POOL "[alias a]\nserver = 10.7.0.2:70\naddresses = 10.96.0.1:80\n"
                        "[alias b]\nserver = 10.7.0.1\naddresses = 10.7.0.2\n",
                   "10.7.0.2=10.7.0.1 10.7.0.2:70=10.7.0.1:70 10.96.0.1:80=10.7.0.1:70 ");
    expect_line(POOL "[alias a]\naddresses = 10.96.0.1:80\n",
                "[alias a]: no server is given: server = ADDRESS:PORT is needed");
    expect_line(
        POOL "[alias a]\nserver = 10.7.0.1:70\n",
        "[alias a]: no other address of the server is given: addresses = ADDRESS:PORT is needed");
    expect_line(
        POOL "[alias a]\nserver = 10.7.0.1:70-71\naddresses = 10.96.0.1:80\n",
        "[alias a] server = \"10.7.0.1:70-71\": \"10.7.0.1:70-71\": one port is allowed, or "
        "none for all of the address'");
    expect_line(
        POOL "[alias a]\nserver = 10.7.0.1:70\naddresses = 10.96.0.0/24\n",
        "[alias a] addresses = \"10.96.0.0/24\": \"10.96.0.0/24\": one address is needed, such "
        "as 10.96.0.1:80");
    expect_line(
        POOL "[alias a]\nserver = 10.7.0.1:70\naddresses = 10.96.0.1\n",
        "[alias a] addresses = \"10.96.0.1\": \"10.96.0.1\": give a port to all of an alias' "
        "addresses, or to none");
    expect_part(POOL "[alias a]\nserver = 10.7.0.1:70\naddresses =\n",
                "[alias a] addresses = \"\": ");
    expect_part(POOL "[alias a]\nservers = 10.7.0.1:70\n", "did you mean 'server'?");
    expect_part(POOL "server = 10.7.0.1:70\n", "this key belongs in a [alias NAME]");
    expect_part("[alias a]\nserver = 10.7.0.1:70\naddresses = 10.96.0.1:80\n", "it has no [pool]");
#undef POOL
}

Test(config, whose_the_ports_are)
{
#define HOSTS "[hosts]\naddresses = 10.9.0.0/24, fd00::9, 10.9.1.1\nservices = 80\n"
    expect_scopes("[pool]\nports = 1\n", "n");
    expect_scopes("[pool]\nports = 1\nscope = address\n", "a");
    expect_scopes("[pool]\nports = 1\nscope = address\n[rule a]\nscope = node\n[rule b]\n", "na");
    expect_scopes("[pool]\nports = 1\n" HOSTS "[snat]\nmode = none\n", "a");
    expect_scopes("[pool]\nports = 1\n" HOSTS "[snat]\nmode = keep\n", "n");
    expect_scopes("[pool]\nports = 1\n" HOSTS, "n");
    expect_scopes("[pool]\nports = 1\nscope = node\n" HOSTS "[snat]\nmode = none\n", "n");
    expect_scopes("[pool]\nports = 1\n[snat]\nmode = none\n", "n");
    /* Only what lies in [hosts] keeps its address for sure. */
    expect_scopes(
        "[pool]\nports = 1\n[rule a]\nto = 10.9.0.7:80, fd00::9\n[rule b]\nto = 10.9.0.0/23\n"
        "[rule c]\nto = 10.9.0.128/25, 10.8.0.1\n[rule d]\nto = 10.9.1.1, !10.9.1.1:81\n"
        "[rule e]\nto = !10.9.0.1\n[rule f]\n[rule g]\nto = any:80\n" HOSTS "[snat]\nmode = none\n",
        "annannn");
    expect_scopes("[rule a]\nports = 1\nscope = address\nto = 10.8.0.0/16\n" HOSTS
                  "[snat]\nmode = keep\n",
                  "a");
    expect_part("[rule a]\nports = 1\nscope = address\nto = 10.9.0.0/16\n" HOSTS
                "[snat]\nmode = keep\n",
                "[rule a] scope = \"address\": pods have the node's address towards [hosts]");
    expect_part("[pool]\nports = 1\nscope = address\n[rule a]\n" HOSTS "[snat]\nmode = confine\n",
                "[pool] scope = \"address\": pods have the node's address towards [hosts]");
#undef HOSTS
}

Test(config, keys_in_the_wrong_section)
{
    expect_part("[pool]\nto = any\n", "[pool] to = \"any\": this key belongs in a [rule NAME]");
    expect_part("[rule a]\nmode = 0666\n", "[rule a] mode = \"0666\": this key belongs in [pool]");
}

Test(config, repeated_keys)
{
    expect_line("[pool]\nports = 1\n\nports = 2\n",
                "[pool] ports = \"2\": given twice, in lines 2 and 4: once is allowed");
    expect_part("[pool]\nports = 1\nPorts = 1\n", "given twice");
    expect_part("[rule a]\nports = 1\n[rule b]\nports = 1\nports = 1\n", "[rule b] ports = ");
}

Test(config, repeated_sections)
{
    expect_line("[pool]\nports = 1\n[rule a]\n[pool]\n",
                "line 4: \"[pool]\": this section stands in line 1 already: one is allowed");
    expect_part("[rule a]\nports = 1\n[rule  A ]\nports = 2\n", "stands in line 1 already");
}

Test(config, unknown_sections)
{
    expect_line("[rules databases]\nports = 1\n",
                "line 1: \"[rules databases]\": unknown section: did you mean [rule NAME]?");
    expect_part("[pol]\nports = 1\n", "did you mean [pool]?");
    expect_part("[database]\nports = 1\n", "allowed are [pool], [rule NAME] and [alias NAME]");
    expect_part("[]\nports = 1\n", "unknown section");
    expect_part("[pool]\nports = 1\n[]\nports = 2\n", "unknown section");
    expect_part("[rule]\nports = 1\n", "a rule needs a name");
    expect_part("[rule a:b]\nports = 1\n", "allowed in a rule's name");
    expect_part("[rule a b]\nports = 1\n", "allowed in a rule's name");
    expect_part("[rule 01234567890123456789012345678901]\nports = 1\n", "at most 31");
    expect_part("[rule                                                                a]\n",
                "too many spaces");
}

Test(config, a_rule_too_many)
{
    char text[2000] = "[pool]\nports = 1\n";
    size_t at = strlen(text);
    for (int i = 0; i <= POLICY_RULES; i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, "[rule r%d]\n", i);
    expect_part(text, "32 are allowed");
}

Test(config, a_destination_too_many)
{
    char text[8192] = "[pool]\nports = 1\n";
    size_t at = strlen(text);
    for (int i = 0; i < 5; i++) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, "[rule r%d]\nto = 1.1.1.1", i);
        for (int j = 0; j < 63; j++)
            at += (size_t)snprintf(text + at, sizeof(text) - at, ",1.1.1.1");
        at += (size_t)snprintf(text + at, sizeof(text) - at, "\n");
    }
    expect_part(text, "256 destinations");
}

/* ---- what is refused: lines and files ---- */

Test(config, lines_that_are_neither)
{
    expect_line("[pool]\nports\n", "line 2: \"ports\": neither [SECTION] nor KEY = VALUE");
    expect_part("[pool]\n= 5\n", "neither");
    expect_part("x", "neither");
    expect_part("[pool]\nports = 1\nx", "line 3: \"x\": neither");
    expect_part("[pool\nports = 1\n", "line 1: \"[pool\": a section stands alone");
    expect_part("[pool] ; comment\nports = 1\n", "a section stands alone");
    expect_part("[po]ol]\n", "one '[' and one ']'");
    expect_part("ports = 1\n[pool]\n", "line 1: \"ports = 1\": outside of a section");
    expect_part("\xef\xbb\xbf[pool]\nports = 1\n", "line 1: ");
}

Test(config, values_that_would_be_misread)
{
    expect_part("[pool]\nports = 1;2\n", "[pool] ports = \"1;2\": what follows ';' or '#'");
    expect_part("[pool]\nports = \"1\n", "the quote is not closed");
    expect_part("[pool]\nports = \"1\" 2\n", "nothing may follow the closing quote");
    expect_part("[pool]\nports = 1, \\\n", "line 2: \"ports = 1, \\\": the next line");
    expect_part("[pool]\nports = 1\n\\", "the next line");
}

Test(config, lines_too_long_for_iniparser)
{
    char text[1200] = "[pool]\nports = 1";
    size_t begin_at = strlen(text), line = strlen("ports = 1"), longest = 1022;
    memset(text + begin_at, ' ', longest - line);
    strcpy(text + begin_at + longest - line, "\n");
    take(text);
    expect_ports(0, "1");
    strcpy(text + begin_at + longest - line, " \n");
    expect_line(text, "line 2: 1023 bytes are too long for a line: at most 1022 are allowed (a "
                      "long list can be spread over several rules)");
}

Test(config, continued_lines_too_long_for_iniparser)
{
    char text[1200] = "[pool]\nports = 1\n#";
    size_t at = strlen(text);
    memset(text + at, 'x', 600);
    strcpy(text + at + 600, "\\\n");
    at = strlen(text);
    memset(text + at, 'y', 500);
    expect_part(text, "line 3: 1101 bytes are too long");
}

Test(config, bytes_that_are_no_text)
{
    cr_expect_str_eq(refused("[pool]\nports = 1\0\n", 18, -EINVAL),
                     "line 2: a NUL byte stands there, so it is no text file");
    expect_part("[pool]\nports = \x1b[31m1\x7f\n", "ports = \"?[31m1?\"");
    expect_part("[\x1b[31m]\n", "\"[?[31m]\"");
    expect_part("[pool]\n\x9bports = \xe2\x80\xae\n", "?ports = \"???\"");
}

Test(config, a_file_too_large)
{
    size_t size = (4u << 20) + 1;
    char *text = malloc(size);
    memset(text, '\n', size);
    cr_expect_str_eq(refused(text, size, -EFBIG),
                     "it is larger than 4 MiB, so it is no configuration");
    free(text);
}

Test(config, files_that_are_none)
{
    char whole[200];
    cr_expect_eq(config_load("/nonexistent/fixport.conf", &config, &error), -ENOENT);
    cr_expect_str_eq(error.text, "/nonexistent/fixport.conf: No such file or directory");
    cr_expect_eq(config_load("/tmp", &config, &error), -EISDIR);
    cr_expect_str_eq(error.text, "/tmp: it is a folder: a file is needed");
    cr_expect_eq(config_load("/dev/null", &config, &error), -EINVAL);
    cr_expect_eq(config_load("", &config, &error), -ENOENT);
    unlink(path);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(config_load(path, &config, &error), -EINVAL); /* and it does not hang */
    snprintf(whole, sizeof(whole), "%s: it is empty: [pool] and ports = LO-HI are needed", path);
    cr_expect_str_eq(error.text, whole);
}

/* ---- its parts: FILE.d ---- */

static char folder[70];

/* The folder with a part in it. */
static void part(const char *name, const char *text)
{
    char at[200];
    snprintf(folder, sizeof(folder), "%s.d", path);
    mkdir(folder, 0755);
    snprintf(at, sizeof(at), "%s/%s", folder, name);
    FILE *file = fopen(at, "w");
    cr_assert_neq(file, NULL);
    fputs(text, file);
    fclose(file);
}

static void parts_end(void)
{
    char command[100];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
    end();
}

TestSuite(parts, .init = begin, .fini = parts_end);

/* @expected: the line, with %s where the path of the file stands. */
static void __attribute__((format(printf, 2, 3)))
expect_refused(const char *text, const char *expected, ...)
{
    char line[1024];
    va_list args;
    va_start(args, expected);
    vsnprintf(line, sizeof(line), expected, args);
    va_end(args);
    write_bytes(text, strlen(text));
    cr_expect_lt(config_load(path, &config, &error), 0);
    cr_expect_str_eq(error.text, line);
}

Test(parts, are_read_in_the_order_of_their_names)
{
    part("b.conf", "[rule b]\nports = 3\n");
    part("a.conf", "[rule a]\nports = 2\n[pool]\nquarantine = 7");
    part(".hidden.conf", "[rule hidden]\nports = 5\n");
    part("a.conf.bak", "[rule bak]\nports = 5\n");
    part("empty.conf", "");
    part("note.conf", "# nothing\n");
    take("[rule z]\nports = 1\n");
    cr_assert_eq(config.policy.rule_count, 3);
    cr_expect_str_eq(config.policy.rule[0].name, "z");
    cr_expect_str_eq(config.policy.rule[1].name, "a");
    cr_expect_str_eq(config.policy.rule[2].name, "b");
    cr_expect_eq(config.policy.quarantine_ms, 7000);
    take("# the parts say it all\n");
    cr_expect_eq(config.policy.rule_count, 2);
}

Test(parts, what_is_wrong_in_one_is_said_with_its_name_and_line)
{
    part("a.conf", "# first\n[pool]\nports = 1-2\n");
    expect_refused(
        "\n[pool]\nports = 1\n",
        "%s/a.conf: line 2: \"[pool]\": this section stands in line 2 of %s already: one "
        "is allowed",
        folder, path);
    expect_refused("[rule x]\nports = 0\n",
                   "%s: [rule x] ports = \"0\": 0 is not a port: ports "
                   "begin at 1",
                   path);
    part("a.conf", "ports = 1\n");
    expect_refused("[pool]\n",
                   "%s/a.conf: line 1: \"ports = 1\": outside of a section: [pool] or "
                   "[rule NAME] comes first",
                   folder);
    part("a.conf", "[rule x]\nports = 60001-80001\n");
    expect_refused("[pool]\n",
                   "%s/a.conf: [rule x] ports = \"60001-80001\": 80001 is not a port: ports end at "
                   "65535",
                   folder);
    part("a.conf", "[rule x]\nport = 1\n");
    expect_refused("[pool]\n",
                   "%s/a.conf: [rule x] port = \"1\": unknown key: did you mean "
                   "'ports'?",
                   folder);
    part("a.conf", "[rule x]\n");
    expect_refused("[pool]\n",
                   "%s/a.conf: [rule x]: no ports are given, here or in [pool]: ports = "
                   "LO-HI is needed",
                   folder);
    part("a.conf", "[pool]\nports = 1\n");
    part("b.conf", "[rule x]\nto = 10.0.0.0/33\n");
    expect_refused("#\n",
                   "%s/b.conf: [rule x] to = \"10.0.0.0/33\": \"10.0.0.0/33\": 33 is no prefix "
                   "length: IPv4 ends at /32",
                   folder);
}

Test(parts, are_regular_files_that_nobody_else_may_write)
{
    char at[100];
    part("a.conf", "[rule a]\nports = 2\n");
    snprintf(at, sizeof(at), "%s/l.conf", folder);
    cr_assert_eq(symlink("a.conf", at), 0);
    expect_refused("[pool]\nports = 1\n", "%s: it is a symlink: a file is needed here", at);
    unlink(at);
    cr_assert_eq(mkfifo(at, 0600), 0);
    expect_refused("[pool]\nports = 1\n", "%s: it is no regular file: one is needed here", at);
    unlink(at);
    snprintf(at, sizeof(at), "%s/a.conf", folder);
    chmod(at, 0666);
    expect_refused("[pool]\nports = 1\n",
                   "%s: every user may write to it: it is not read as a part of %s", at, path);
    chmod(at, 0664);
    take("[pool]\nports = 1\n");
    chmod(folder, 01777);
    expect_refused("[pool]\nports = 1\n",
                   "%s: every user may write to it: it is not read as a part of %s", folder, path);
    chmod(folder, 0755);
    if (geteuid() != 0)
        return;
    cr_assert_eq(chown(at, 12345, 0), 0);
    expect_refused("[pool]\nports = 1\n",
                   "%s: it belongs to user 12345, who is neither root nor the owner of %s: it is "
                   "not read as a part of that",
                   at, path);
    cr_assert_eq(chown(path, 12345, 0), 0);
    take("[pool]\nports = 1\n");
}

Test(parts, a_folder_that_is_none)
{
    snprintf(folder, sizeof(folder), "%s.d", path);
    cr_assert_eq(symlink("/etc", folder), 0);
    expect_refused("[pool]\nports = 1\n",
                   "%s: it is no folder: one with further parts of %s could be there", folder,
                   path);
    unlink(folder);
    for (int i = 0; i <= 100; i++) {
        char name[20];
        snprintf(name, sizeof(name), "%d.conf", i);
        part(name, "");
    }
    expect_refused("[pool]\nports = 1\n", "%s: more than 100 files ending in .conf are in it",
                   folder);
}

Test(parts, many_sections_are_all_read)
{
    char text[3000] = "";
    for (int i = 0; i < 16; i++)
        sprintf(text + strlen(text), "[rule a%d]\nports = %d\n", i, 100 + i);
    part("a.conf", text);
    *text = '\0';
    for (int i = 0; i < 16; i++)
        sprintf(text + strlen(text), "[rule b%d]\nports = %d\n", i, 200 + i);
    take(text);
    cr_assert_eq(config.policy.rule_count, 32);
    cr_expect_eq(config.policy.rule[15].ports.range[0].lo, 215);
    cr_expect_eq(config.policy.rule[31].ports.range[0].lo, 115);
}

Test(config, an_unreadable_file)
{
    write_bytes("[pool]\nports = 1\n", 17);
    cr_assert_eq(chmod(path, 0), 0);
    pid_t child = fork();
    if (child == 0) { /* as a user who is bound by modes */
        if (geteuid() == 0 && setuid(65534) < 0)
            _exit(2);
        _exit(config_load(path, &config, &error) == -EACCES &&
                      strcmp(error.text + strlen(path), ": Permission denied") == 0
                  ? 0
                  : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_eq(status, 0);
}

Test(config, long_names_and_values_are_cut)
{
    char name[3000], text[1100] = "[pool]\nports = ";
    memset(text + strlen(text), '1', 1000);
    expect_part(text, "111...\": ");
    memset(name, 'x', sizeof(name));
    memcpy(name, "/none/\n", 7);
    name[sizeof(name) - 1] = '\0';
    for (size_t i = 100; i < sizeof(name) - 1; i += 100)
        name[i] = '/';
    cr_expect_neq(config_load(name, &config, &error), 0);
    cr_expect_lt(strlen(error.text), 400);
    cr_expect_eq(strchr(error.text, '\n'), NULL);
    cr_expect_eq(strncmp(error.text, "...", 3), 0);
}

/* iniparser would speak on stderr; a tool's refusal is one line. */
Test(config, nothing_is_printed)
{
    char printed[64];
    int ends[2], saved[2] = {dup(1), dup(2)};
    cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    expect_part("[pool]\nports\n", "neither");
    expect_part("ports", "neither");
    expect_part("[pool]\nports = 1\nports = 2\n", "twice");
    take("[pool]\nports = 1\n");
    fflush(NULL);
    dup2(saved[0], 1);
    dup2(saved[1], 2);
    cr_expect_lt(read(ends[0], printed, sizeof(printed)), 0);
}

Test(config, no_descriptor_is_left_open)
{
    int before = dup(0);
    close(before);
    take("[pool]\nports = 1\n");
    expect_part("[pool]\nports\n", "neither");
    cr_expect_eq(config_load("/tmp", &config, &error), -EISDIR);
    int after = dup(0);
    cr_expect_eq(after, before);
    close(after);
}

/* ---- -p and -t ---- */

Test(config, from_text)
{
    cr_assert_eq(config_from_text("60001-60010", "10.0.0.0/8:443", &config, &error), 0);
    cr_expect(policy_valid(&config.policy));
    cr_expect_eq(config.policy.rule_count, 1);
    cr_expect_eq(config.policy.dest_count, 1);
    cr_expect_str_eq(config.policy.rule[0].name, "default");
    cr_expect_str_eq(config.path, "");
    cr_expect_str_eq(config.pool_path, "");
    cr_assert_eq(config_from_text("60001-60010", NULL, &config, &error), 0);
    cr_expect_eq(config.policy.dest_count, 0);
}

Test(config, from_bad_text)
{
    cr_expect_eq(config_from_text("60001-80001", NULL, &config, &error), -ERANGE);
    cr_expect_str_eq(error.text, "ports \"60001-80001\": 80001 is not a port: ports end at 65535");
    cr_expect_eq(config_from_text("", NULL, &config, &error), -EINVAL);
    cr_expect_neq(strstr(error.text, "no port given"), NULL);
    cr_expect_neq(config_from_text("1", "10.0.0.0/33", &config, &error), 0);
    cr_expect_str_eq(error.text, "destinations \"10.0.0.0/33\": \"10.0.0.0/33\": 33 is no prefix "
                                 "length: IPv4 ends at /32");
    cr_expect_eq(config_from_text("1", "", &config, &error), -EINVAL);
    cr_expect_neq(strstr(error.text, "none given"), NULL);
}

/* ---- warnings ---- */

static char warned[2048];

static void note(const char *sentence, void *arg)
{
    cr_expect_eq(arg, warned);
    cr_expect_eq(strpbrk(sentence, "\n"), NULL);
    strcat(warned, sentence);
    strcat(warned, "\n");
}

/* Return: how many there were. */
static int warnings(const char *ports)
{
    const struct portrange ephemeral = {.lo = 32768, .hi = 60999};
    int count = 0;
    warned[0] = '\0';
    cr_assert_eq(config_from_text(ports, NULL, &config, &error), 0);
    config_warnings_for(&config, &ephemeral, note, warned);
    for (const char *at = warned; *at; at++)
        count += *at == '\n';
    return count;
}

static void expect_warning(const char *ports, const char *part)
{
    cr_expect_eq(warnings(ports), 1, "%s", warned);
    cr_expect_neq(strstr(warned, part), NULL, "%s", warned);
}

Test(config, warns_of_ports_that_others_use)
{
    cr_expect_eq(warnings("61000-65535"), 0);
    cr_expect_eq(warnings("16384-29999"), 0);
    expect_warning("60001-61000", "ip_local_port_range 32768-60999 (60001-60999): ");
    expect_warning("30000,32767", "NodePorts 30000-32767 (30000, 32767): ");
    expect_warning("1000-1023", "below 1024 (1000-1023): ");
    expect_warning("16383-16384", "below 16384 (16383): ");
    expect_warning("1,3,5,7,9", "(1, 3, 5 and others)");
    cr_expect_eq(warnings("1-65535"), 4);
}

Test(config, warns_of_all_rules_together)
{
    warned[0] = '\0';
    take("[rule a]\nports = 100-110\n[rule b]\nports = 105-120\n[rule c]\nports = 65000\n");
    config_warnings_for(&config, NULL, note, warned);
    cr_expect_neq(strstr(warned, "(100-120)"), NULL, "%s", warned);
    config_warnings(&config, note, warned); /* with what this kernel says */
}

/* ---- anything at all ---- */

/* Whatever the bytes: taken and valid, or one line. */
static void expect_sane(const char *text, size_t length)
{
    write_bytes(text, length);
    int result = config_load(path, &config, &error);
    if (result == 0)
        cr_assert(policy_valid(&config.policy));
    else
        cr_assert(error.text[0] && !strchr(error.text, '\n'));
}

Test(config, survives_random_bytes, .timeout = 120)
{
    char text[200];
    srand(1);
    for (int round = 0; round < ROUNDS; round++) {
        size_t length = (size_t)rand() % sizeof(text);
        for (size_t i = 0; i < length; i++)
            text[i] = (char)rand();
        expect_sane(text, length);
    }
}

/* Nearly right ones get further than noise does; iniparser must never see more than we do. */
Test(config, survives_a_few_wrong_bytes, .timeout = 120)
{
    static const char good[] = "[pool]\nports = 60001-60999\npath = \"/run/x\" ; c\nmode = 0666\n"
                               "quarantine = 2m\n[rule a]\nto = 10.0.0.0/8, \\\n !10.0.0.1:80\n"
                               "when-exhausted = wait 500ms\n[rule b]\n";
    static const char letters[] = "[]=\n\\ \"';#,-!\t\r\0\xff"
                                  "a1";
    char text[sizeof(good) + 8];
    srand(2);
    for (int round = 0; round < 2 * ROUNDS; round++) {
        size_t length = sizeof(good) - 1;
        memcpy(text, good, length);
        for (int i = 1 + rand() % 4; i > 0; i--) {
            size_t at = (size_t)rand() % length;
            if (rand() % 3 == 0)
                memmove(text + at, text + at + 1, --length - at);
            else if (rand() % 2 && length < sizeof(text))
                memmove(text + at + 1, text + at, length++ - at);
            text[at] = letters[(size_t)rand() % (sizeof(letters) - 1)];
        }
        expect_sane(text, length);
        cr_assert_eq(strstr(error.text, "iniparser finds"), NULL, "%s\n%.*s", error.text,
                     (int)length, text);
    }
}
