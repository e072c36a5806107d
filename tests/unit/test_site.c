/* SPDX-License-Identifier: MIT */
/*
 * The site: what is taken, and that whatever is not gets one clear line. What the sections [pool]
 * and [rule] may say is test_config.c's.
 */
#include "../../tools/config/site.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define POOL "[pool]\nports = 60001-60999\n"
#define NODE1 "[node node1]\naddress = 192.168.31.17\npods = 10.200.1.0/24\n"
#define NODE2 "[node node2]\naddress = 192.168.31.45\npods = 10.200.36.0/24\n"
#define ROUNDS 3000

static char path[64];
static struct site site;
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
    site_free(&site);
    unlink(path);
}

TestSuite(site, .init = begin, .fini = end);

static void write_bytes(const char *text, size_t length)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, length), (ssize_t)length);
    close(fd);
}

/* @text: without [pool]. */
static void take(const char *text)
{
    size_t size = strlen(text) + sizeof(POOL);
    char *whole = malloc(size);
    snprintf(whole, size, "%s%s", POOL, text);
    write_bytes(whole, size - 1);
    free(whole);
    site_free(&site);
    int result = site_load(path, &site, &error);
    cr_assert_eq(result, 0, "refused: %s", error.text);
    cr_assert_eq(config_load(path, &config, &error), 0, "config_load refused: %s", error.text);
    cr_assert_eq(memcmp(&config.policy, &site.config.policy, sizeof(config.policy)), 0);
}

static bool all_zero(const void *at, size_t size)
{
    const char *bytes = at;
    return !size || (!*bytes && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* Return: what is said after the file's name. */
static const char *refused(const char *text)
{
    write_bytes(text, strlen(text));
    memset(&site, 0xa5, sizeof(site));
    cr_assert_eq(site_load(path, &site, &error), -EINVAL, "taken: %.200s", text);
    cr_assert(all_zero(&site, sizeof(site)));
    for (const char *at = error.text; *at; at++)
        cr_assert(*at >= ' ' && *at <= '~', "the line has byte %d", *at);
    cr_assert_eq(strncmp(error.text, path, strlen(path)), 0, "%s", error.text);
    return error.text + strlen(path) + 2;
}

static void expect_line(const char *text, const char *line)
{
    cr_expect_str_eq(refused(text), line);
}

static void expect_part(const char *text, const char *part)
{
    const char *line = refused(text);
    cr_expect_neq(strstr(line, part), NULL, "'%s' is not in: %s", part, line);
}

/* A key of a section that is refused; @section: with lines that shall stand before the key. */
static void expect_bad(const char *section, const char *key, const char *value, const char *part)
{
    char text[1500], line[1500], name[80];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(section, "]"), section);
    snprintf(text, sizeof(text), POOL "%s\n%s = %s\n", section, key, value);
    snprintf(line, sizeof(line), "%s] %s = \"%s\": ", name, key, value);
    const char *said = refused(text);
    cr_expect_eq(strncmp(said, line, strlen(line)), 0, "%s", said);
    cr_expect_neq(strstr(said + strlen(line), part), NULL, "'%s' is not in: %s", part, said);
}

static void expect_block(const struct block *block, const char *text)
{
    char buf[BLOCK_TEXT];
    cr_expect_str_eq(block_print(block, buf, sizeof(buf)), text);
}

static void expect_ports(const struct portset *set, const char *text)
{
    char buf[400] = "";
    portset_print(set, buf, sizeof(buf));
    cr_expect_str_eq(buf, text);
}

/* ---- what is taken ---- */

Test(site, the_least_there_can_be)
{
    take("");
    cr_expect_eq(site.machines, 0);
    cr_expect_eq(site.nodes, 0);
    cr_expect_eq(site.pods.count, 0);
    cr_expect_eq(site.hosts.count, 0);
    cr_expect_eq(site.pod_services.count, 0);
    cr_expect_eq(site.host_services.count, 0);
    cr_expect_eq(site.host_ports.count, 0);
    cr_expect(!site.gateway.has4 && !site.gateway.has6);
    cr_expect(site.stateful);
    cr_expect(!site.exclusive);
    cr_expect_eq(site.snat, SNAT_KEEP);
    cr_expect_eq(site.node_ports.lo, 0);
    cr_expect_str_eq(site.manifest, SITE_MANIFEST);
    cr_expect_eq(site.persist, PERSIST_OWN);
    cr_expect_eq(site.iptables, IPTABLES_AUTO);
    cr_expect(site.node_pool);
    cr_expect_str_eq(site.config.path, path);
    expect_ports(&site.config.policy.rule[0].ports, "60001-60999");
}

static const char everything[] = "[machine GW.example.com]\nroles = gateway, node\n"
                                 "[machine a]\nroles = host control-plane\n"
                                 "[node node1]\naddress = 192.168.31.17, fd00:31::17\n"
                                 "pods = 10.200.1.0/24, fd00:42::/64\n"
                                 "[Node node2]\nADDRESS = 192.168.31.45\n"
                                 "pods = 10.200.36.0/24\npods-2 = 10.200.1.91 ; borrowed\n"
                                 "pods-99 = 10.200.37.0/24, \\\n 10.200.38.0/24\n"
                                 "[pods]\nblocks = 10.200.0.0/16, fd00:42::/48\n"
                                 "services = 8088, 40002\n"
                                 "[hosts]\naddresses = 192.168.31.67, 192.168.31.128/25\n"
                                 "services = 60001, 5432-5440\nports = 60001-60999\n"
                                 "[gateway]\naddress = 192.168.31.2, fd00:31::2\n"
                                 "stateful = no\nexclusive = yes\n"
                                 "[snat]\nmode = confine\n"
                                 "[control-plane]\nnode-ports = 30000-32767\n"
                                 "manifest = /etc/k8s/kube-apiserver.yaml\n"
                                 "[setup]\npersist = distribution\niptables = legacy\nnode-pool = no\n"
                                 "[rule all]\nto = any\n";

Test(site, machines_and_nodes)
{
    take(everything);
    cr_assert_eq(site.machines, 2);
    cr_expect_str_eq(site.machine[0].name, "gw.example.com");
    cr_expect_eq(site.machine[0].roles, ROLE_GATEWAY | ROLE_NODE);
    cr_expect_eq(site.machine[1].roles, ROLE_HOST | ROLE_CONTROL_PLANE);
    cr_assert_eq(site.nodes, 2);
    cr_expect_str_eq(site.node[0].name, "node1");
    cr_expect(site.node[0].address.has4 && site.node[0].address.has6);
    cr_expect_eq(site.node[0].address.addr4[15], 17);
    cr_expect_eq(site.node[0].address.addr4[11], 0xff);
    cr_expect_eq(site.node[0].address.addr6[0], 0xfd);
    cr_expect(!site.node[1].address.has6);
    cr_assert_eq(site.node[0].pods.count, 2);
    expect_block(&site.node[0].pods.item[0], "10.200.1.0/24");
    expect_block(&site.node[0].pods.item[1], "fd00:42::/64");
    cr_assert_eq(site.node[1].pods.count, 4);
    expect_block(&site.node[1].pods.item[1], "10.200.1.91/32");
    expect_block(&site.node[1].pods.item[3], "10.200.38.0/24");
}

Test(site, everything_else)
{
    take(everything);
    cr_assert_eq(site.pods.count, 2);
    expect_block(&site.pods.item[0], "10.200.0.0/16");
    expect_ports(&site.pod_services, "8088,40002");
    cr_assert_eq(site.hosts.count, 2);
    expect_block(&site.hosts.item[1], "192.168.31.128/25");
    expect_ports(&site.host_services, "5432-5440,60001");
    expect_ports(&site.host_ports, "60001-60999");
    cr_expect(site.gateway.has4 && site.gateway.has6);
    cr_expect(!site.stateful);
    cr_expect(site.exclusive);
    cr_expect_eq(site.snat, SNAT_CONFINE);
    cr_expect_eq(site.node_ports.lo, 30000);
    cr_expect_eq(site.node_ports.hi, 32767);
    cr_expect_str_eq(site.manifest, "/etc/k8s/kube-apiserver.yaml");
    cr_expect_eq(site.persist, PERSIST_DISTRIBUTION);
    cr_expect_eq(site.iptables, IPTABLES_LEGACY);
    cr_expect(!site.node_pool);
    cr_expect_str_eq(site.config.policy.rule[0].name, "all");
}

/* All pods are the nodes', but a borrowed one is in its owner's block already. */
Test(site, pods_are_those_of_the_nodes_unless_said)
{
    take(NODE2 "pods-2 = 10.200.1.91\n" NODE1);
    cr_assert_eq(site.pods.count, 2);
    expect_block(&site.pods.item[0], "10.200.36.0/24");
    expect_block(&site.pods.item[1], "10.200.1.0/24");
    cr_expect_eq(site.node[0].pods.count, 2);
}

Test(site, lists_go_on_under_numbers)
{
    static char text[400000];
    size_t at = 0, blocks = 0;
    at += (size_t)sprintf(text + at, "[node a]\naddress = 192.168.31.17\n");
    for (int key = 1; key <= 99; key++) {
        at += (size_t)sprintf(text + at, key == 1 ? "pods" : "pods-%d", key);
        for (int i = 0; i < 40; i++, blocks++)
            at += (size_t)sprintf(text + at, "%s10.%zu.%zu.0/24", i ? ", " : " = ", blocks / 256,
                                  blocks % 256);
        at += (size_t)sprintf(text + at, "\n");
    }
    take(text);
    cr_expect_eq(site.node[0].pods.count, blocks);
    cr_expect_eq(site.pods.count, blocks);
    take("[hosts]\naddresses-7 = 10.0.0.1\naddresses = 10.0.0.2\n"
         "[pods]\nblocks = 10.1.0.0/16\nblocks-2 = 10.2.0.0/16\n");
    expect_block(&site.hosts.item[0], "10.0.0.1/32");
    cr_expect_eq(site.pods.count, 2);
}

/* 5,000 nodes with pods of both families, each with a borrowed one: no time is asserted, but
 * anything that looks at all for each would be far over this limit. */
Test(site, a_large_cluster)
{
    const struct rlimit limit = {20, 20};
    static char text[1500000];
    size_t at = 0;
    cr_assert_eq(setrlimit(RLIMIT_CPU, &limit), 0);
    for (int i = 0; i < 5000; i++)
        at += (size_t)sprintf(
            text + at,
            "[node worker-%d.example.com]\naddress = 10.20.%d.%d, fd00:31::%x\n"
            "pods = 10.%d.%d.0/26, 10.%d.%d.64/26, 10.%d.%d.130, fd00:42:%x::/64\n"
            "pods-2 = 10.%d.%d.%d\n",
            i, i / 250, i % 250 + 1, i + 1, 100 + i / 250, i % 250, 100 + i / 250, i % 250,
            100 + i / 250, i % 250, i, 100 + (i + 1) % 5000 / 250, (i + 1) % 250, 5);
    take(text);
    cr_expect_eq(site.nodes, 5000);
    cr_expect_eq(site.pods.count, 4 * 5000);
    cr_expect_eq(site.node[4999].pods.count, 5);
    cr_expect_str_eq(site.node[4999].name, "worker-4999.example.com");
}

Test(site, the_example_is_valid)
{
    const char *source = getenv("FIXPORT_SOURCE");
    char file[4096];
    snprintf(file, sizeof(file), "%s/contrib/examples/fixport.conf", source ? source : ".");
    if (access(file, R_OK) != 0)
        cr_skip_test("FIXPORT_SOURCE does not lead to it");
    cr_expect_eq(site_load(file, &site, &error), 0, "%s", error.text);
}

/* What is commented out of it by ';' must be valid too. */
Test(site, the_whole_example_is_valid)
{
    const char *source = getenv("FIXPORT_SOURCE");
    char file[4096], line[1024], text[20000] = "";
    snprintf(file, sizeof(file), "%s/contrib/examples/fixport.conf", source ? source : ".");
    FILE *example = fopen(file, "re");
    if (!example)
        cr_skip_test("FIXPORT_SOURCE does not lead to it");
    while (fgets(line, sizeof(line), example))
        if (strncmp(line, ";group", 6) != 0)
            strcat(text, line + (*line == ';'));
    fclose(example);
    write_bytes(text, strlen(text));
    cr_assert_eq(site_load(path, &site, &error), 0, "%s", error.text);
    cr_expect_eq(site.nodes, 2);
    cr_expect_geq(site.machines, 4);
    expect_ports(&site.pod_services, "8088,40002");
    cr_expect_eq(site_machine_roles(&site, "node1"), ROLE_NODE);
}

/* ---- roles ---- */

Test(site, roles_of_a_machine)
{
    take("[machine a]\nroles = host\n[machine a.example.com]\nroles = node\n"
         "[machine b.example.com]\nroles = gateway\n");
    cr_expect_eq(site_machine_roles(&site, "a"), ROLE_HOST);
    cr_expect_eq(site_machine_roles(&site, "A.Example.COM"), ROLE_NODE);
    cr_expect_eq(site_machine_roles(&site, "a.elsewhere.net"), ROLE_HOST);
    cr_expect_eq(site_machine_roles(&site, "b"), 0);
    cr_expect_eq(site_machine_roles(&site, "ab"), 0);
    cr_expect_eq(site_machine_roles(&site, ""), 0);
    cr_expect_eq(site_machine_roles(&site, ".example.com"), 0);
}

static void expect_no_roles(const char *text, const char *said)
{
    struct parse_reason why;
    cr_expect_eq(site_roles_parse(text, &why), 0);
    cr_expect_str_eq(why.text, said);
}

Test(site, roles_as_text)
{
    struct parse_reason why;
    cr_expect_eq(site_roles_parse("host", &why), ROLE_HOST);
    cr_expect_eq(site_roles_parse("  node ,control-plane gateway,host", &why),
                 ROLE_HOST | ROLE_GATEWAY | ROLE_NODE | ROLE_CONTROL_PLANE);
    expect_no_roles("", "no role is given: allowed are host, gateway, node, control-plane");
    expect_no_roles(" , ", "no role is given: allowed are host, gateway, node, control-plane");
    expect_no_roles("host, router",
                    "\"router\" is no role: allowed are host, gateway, node, control-plane");
    expect_no_roles("hosts",
                    "\"hosts\" is no role: allowed are host, gateway, node, control-plane");
    expect_no_roles("\n\x1b", "\"??\" is no role: allowed are host, gateway, node, control-plane");
    expect_no_roles("node,node", "\"node\" is given twice");
    for (unsigned bit = ROLE_HOST; bit <= ROLE_CONTROL_PLANE; bit <<= 1)
        cr_expect_eq(site_roles_parse(site_role_name((enum site_role)bit), &why), bit);
}

/* ---- what is refused: addresses ---- */

Test(site, bad_blocks)
{
    const char *node = "[node node1]\naddress = 192.168.31.17";
    expect_line(POOL "[node node1]\naddress = 192.168.31.17\npods = 10.200.1.0/33\n",
                "[node node1] pods = \"10.200.1.0/33\": 10.200.1.0/33 has a prefix length of 33: "
                "IPv4 ends at /32");
    expect_bad(node, "pods", "10.200.1.5/24",
               "10.200.1.5/24 is no block: write 10.200.1.0/24 for the block, 10.200.1.5 for the "
               "address");
    expect_bad(node, "pods-2", "fd00::1/64", "write fd00::/64 for the block, fd00::1 for the");
    expect_bad(node, "pods", "fd00::/129", "IPv6 ends at /128");
    expect_bad(node, "pods", "10.200.1.0/", "a number is needed behind '/'");
    expect_bad(node, "pods", "10.200.1.0/08", "a number is needed behind '/'");
    expect_bad(node, "pods", "10.200.1.0/-1", "a number is needed behind '/'");
    expect_bad(node, "pods", "10.200.1.0/24/8", "a number is needed behind '/'");
    expect_bad(node, "pods", "10.200.1.0/4294967320", "a number is needed behind '/'");
    expect_bad(node, "pods", "10.200.1/24", "10.200.1/24 is no block or address");
    expect_bad(node, "pods", "010.200.1.0/24", "is no block or address");
    expect_bad(node, "pods", "node2", "is no block or address");
    expect_bad(node, "pods", "10.200.1.0/24 10.200.2.0/24", "behind '/'");
    expect_bad(node, "pods", "10.200.1.0/24,", "before or behind a comma");
    expect_bad(node, "pods", ", 10.200.1.0/24", "before or behind a comma");
    expect_bad(node, "pods", "", "nothing is given");
    expect_bad(node, "pods", "::ffff:10.200.1.0/120", "write it as IPv4");
    expect_bad(node, "pods", "::ffff:0:0/96", "write it as IPv4");
    expect_bad(node, "pods", "10.200.1.0/24, --dport", "--dport is no block or address");
}

Test(site, addresses_that_no_machine_has)
{
    static const char *const blocks[][2] = {
        {"127.0.0.1", "127.0.0.1 is loopback"},
        {"126.0.0.0/7", "126.0.0.0/7 contains loopback"},
        {"0.0.0.0", "0.0.0.0 is unspecified"},
        {"0.0.0.0/0", "0.0.0.0/0 contains unspecified"},
        {"224.0.0.0/8", "contains multicast"},
        {"255.255.255.255", "is broadcast"},
        {"169.254.1.1", "is link-local"},
        {"::1", "is loopback"},
        {"::", "is unspecified"},
        {"::/0", "contains unspecified"},
        {"::/80", "contains unspecified"},
        {"ff02::1", "is multicast"},
        {"fe80::1", "is link-local"},
        {"8000::/1", "contains link-local"},
    };
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        expect_bad("[hosts]", "addresses", blocks[i][0], blocks[i][1]);
        expect_bad("[pods]", "blocks", blocks[i][0], blocks[i][1]);
    }
    expect_bad("[node a]", "address", "127.0.0.1", "is loopback");
    expect_bad("[gateway]", "address", "224.0.0.1", "is multicast");
    take("[hosts]\naddresses = 240.0.0.0/8\n"); /* some clouds' pods are there */
}

Test(site, bad_addresses)
{
    expect_bad("[node a]", "address", "192.168.31.0/24", "one address is needed, without '/'");
    expect_bad("[node a]", "address", "node1.example.com", "is no address");
    expect_bad("[node a]", "address", "10.0.0.1, 10.0.0.2", "10.0.0.2 is a second IPv4 address");
    expect_bad("[gateway]", "address", "", "nothing is given");
    expect_line(POOL "[node a]\npods = 10.1.0.0/16\n",
                "[node a]: no address is given: address = ADDRESS is needed");
}

/* ---- what is refused: contradictions ---- */

Test(site, overlapping_pods)
{
    expect_line(POOL NODE1 "[node node2]\naddress = 192.168.31.45\npods = 10.200.1.0/24\n",
                "[node node2] pods = \"10.200.1.0/24\": 10.200.1.0/24 is given twice: it stands in "
                "line 5 already, in [node node1]");
    expect_line(POOL NODE1 "[node node2]\naddress = 192.168.31.45\npods = 10.200.1.64/26\n",
                "[node node2] pods = \"10.200.1.64/26\": 10.200.1.64/26 overlaps with "
                "10.200.1.0/24, in line 5, [node node1]");
    expect_part(POOL NODE1 "[node node2]\naddress = 192.168.31.45\npods = 10.200.0.0/16\n",
                "[node node2] pods = \"10.200.0.0/16\": 10.200.0.0/16 overlaps with 10.200.1.0/24");
    expect_part(POOL NODE1 "pods-2 = 10.200.1.91\n", "10.200.1.91 overlaps with 10.200.1.0/24");
    expect_part(POOL NODE1 "pods-3 = 10.9.0.0/16, 10.9.0.0/16\n", "given twice");
}

Test(site, a_pod_is_borrowed_by_one)
{
    take(NODE1 NODE2 "pods-2 = 10.200.1.91, 10.200.1.92\n");
    expect_part(POOL NODE1 NODE2 "pods-2 = 10.200.1.91\n"
                                 "[node c]\naddress = 192.168.31.46\npods = 10.200.1.91\n",
                "[node c] pods = \"10.200.1.91\": 10.200.1.91 is given twice");
    expect_part(POOL "[node c]\naddress = 192.168.31.46\npods = 10.7.7.7\n" NODE1
                     "pods-2 = 10.7.7.7\n",
                "10.7.7.7 is given twice");
}

Test(site, blocks_that_contain_machines)
{
    expect_line(POOL NODE1 "pods-2 = 192.168.31.0/24\n" NODE2,
                "[node node1] pods-2 = \"192.168.31.0/24\": 192.168.31.0/24 overlaps with "
                "192.168.31.17, the address of [node node1]: pods have addresses of their own");
    expect_part(POOL NODE1 "pods-2 = 192.168.31.45\n" NODE2, "the address of [node node2]");
    expect_part(POOL NODE1 "[gateway]\naddress = 10.200.1.1\n",
                "10.200.1.0/24 overlaps with 10.200.1.1, the address of [gateway]");
    expect_part(POOL NODE1 "[hosts]\naddresses = 10.200.1.5\n",
                "[node node1] pods = \"10.200.1.0/24\": 10.200.1.0/24 overlaps with 10.200.1.5, "
                "one of [hosts]");
    expect_part(POOL NODE1 "[hosts]\naddresses = 10.0.0.0/8\n", "with 10.0.0.0/8, one of [hosts]");
    expect_part(POOL "[pods]\nblocks = 192.168.0.0/16\n[node a]\naddress = 192.168.31.17\n",
                "[pods] blocks = ");
    take(NODE1 "[hosts]\naddresses = 192.168.31.0/24\n[gateway]\naddress = 192.168.31.17\n");
}

Test(site, other_contradictions)
{
    expect_part(POOL "[hosts]\naddresses = 10.0.0.0/8, 10.1.0.0/16\n", "overlaps with 10.0.0.0/8");
    expect_part(POOL "[pods]\nblocks = 10.0.0.0/8, 10.1.2.3\n", "overlaps with 10.0.0.0/8");
    expect_part(POOL NODE1 "[node b]\naddress = 192.168.31.17\n",
                "[node b] address = \"192.168.31.17\": 192.168.31.17 is given twice");
    expect_part(POOL NODE1 "[pods]\nblocks = 10.201.0.0/16\n",
                "10.200.1.0/24 is not within the blocks of [pods]");
    expect_part(POOL NODE1 "[pods]\nblocks = 10.200.1.0/25, 10.200.1.128/25\n", "is not within");
    expect_part(POOL NODE1 "pods-2 = fd00::/64\n",
                "[node node1] pods-2 = \"fd00::/64\": fd00::/64 is IPv6, but the node's address is "
                "not");
}

Test(site, bad_ports)
{
    expect_line("[pool]\nports = 60001-80001\n",
                "[pool] ports = \"60001-80001\": 80001 is not a port: ports end at 65535");
    expect_bad("[hosts]", "ports", "60001~80001", "80001 is not a port: ports end at 65535");
    expect_bad("[hosts]", "services", "0", "ports begin at 1");
    expect_bad("[pods]", "services", "http", "is not a port");
    expect_bad("[pods]", "services", "", "no port given");
    expect_bad("[control-plane]", "node-ports", "30000-30999, 31500-32767", "one range is allowed");
    expect_bad("[control-plane]", "node-ports", "30000-80000", "80000 is not a port");
    expect_bad("[control-plane]", "node-ports", "60999-61000", "overlaps with the ports of [pool]");
    expect_part(POOL "[hosts]\nports = 30000-30010\n[control-plane]\nnode-ports = 30010\n",
                "[control-plane] node-ports = \"30010\": overlaps with the ports of [hosts]");
}

Test(site, rules_with_too_many_ranges)
{
    char text[2000] = "";
    for (int rule = 0; rule < 2; rule++) {
        sprintf(text + strlen(text), "[rule r%d]\nports = ", rule);
        for (int i = 0; i < 17; i++)
            sprintf(text + strlen(text), "%s%d", i ? "," : "", 1000 + rule * 100 + i * 2);
        strcat(text, "\n");
    }
    expect_part(text, "more than 32 ranges together");
}

/* ---- what is refused: words and names ---- */

Test(site, bad_words)
{
    expect_bad("[gateway]", "stateful", "maybe", "allowed are yes and no");
    expect_bad("[gateway]", "exclusive", "", "allowed are yes and no");
    expect_bad("[gateway]", "exclusive", "Yes", "allowed are yes and no");
    expect_bad("[snat]", "mode", "masquerade", "allowed are keep, none and confine");
    expect_bad("[setup]", "persist", "yes", "allowed are own, distribution and none");
    expect_bad("[setup]", "node-pool", "none", "allowed are yes and no");
    expect_bad("[setup]", "iptables", "nftables", "allowed are auto, nft and legacy");
    expect_bad("[machine a]", "roles", "router", "allowed are host, gateway, node, control-plane");
    expect_bad("[machine a]", "roles", "", "no role is given");
    expect_bad("[control-plane]", "manifest", "kube-apiserver.yaml", SITE_MANIFEST);
    expect_bad("[control-plane]", "manifest", "/etc/kubernetes/manifests/", "absolute path");
    expect_bad("[control-plane]", "manifest", "/etc/../kube-apiserver.yaml", "\"..\"");
    expect_bad("[control-plane]", "manifest", "/etc/kubernetes/..", "\"..\"");
    expect_line(POOL "[machine a]\n",
                "[machine a]: no roles are given: allowed are host, gateway, node, control-plane");
}

Test(site, bad_names)
{
    expect_line(POOL "[node -j]\naddress = 10.0.0.1\n",
                "line 3: \"[node -j]\": a node's name does not begin with '-'");
    expect_part(POOL "[machine -x]\nroles = host\n", "a machine's name does not begin with '-'");
    expect_part(POOL "[node a b]\n", "allowed in a node's name are letters, digits");
    expect_part(POOL "[node a;b]\n", "allowed in a node's name");
    expect_part(POOL "[node a\"b]\n", "allowed in a node's name");
    expect_part(POOL "[node a\\\n-j ACCEPT]\n", "allowed in a node's name");
    expect_part(POOL "[node a\rb]\n", "allowed in a node's name");
    expect_part(POOL "[node \xc3\xa4]\n", "allowed in a node's name");
    expect_part(POOL "[node]\n", "a node needs a name: [node NAME]");
    expect_part(POOL "[node 1234567890123456789012345678901234567890123456789012345678901234]\n",
                "a node's name has at most 63 letters");
    take("[node 123456789012345678901234567890123456789012345678901234567890123]\n"
         "address = 10.0.0.1\n");
}

Test(site, names_that_stand_twice)
{
    expect_line(POOL NODE1 "[node  NODE1]\naddress = 10.0.0.1\n",
                "line 6: \"[node  NODE1]\": this section stands in line 3 already: one is allowed");
    expect_part(POOL "[machine a]\nroles = host\n[machine a]\nroles = node\n", "stands in line 3");
    expect_part(POOL "[pods]\n[hosts]\n[pods]\n", "stands in line 3");
    expect_part(POOL
                "[pods]\nblocks = 10.1.0.0/16\nblocks-2 = 10.2.0.0/16\nblocks-2 = 10.3.0.0/16\n",
                "[pods] blocks-2 = \"10.3.0.0/16\": given twice, in lines 5 and 6");
    take("[node a]\naddress = 10.0.0.1\n[machine a]\nroles = node\n[rule a]\n");
}

static const char long_pods[] = "unknown key: a long list goes on in keys of its own, pods-2 to "
                                "pods-99";

Test(site, unknown_keys)
{
    expect_bad("[node a]", "adress", "10.0.0.1", "did you mean 'address'?");
    expect_bad("[hosts]", "address", "10.0.0.1", "did you mean 'addresses'?");
    expect_bad("[hosts]", "blocks", "10.0.0.0/8", "this key belongs in [pods]");
    expect_bad("[gateway]", "ports", "1", "belongs in [pool] or a [rule NAME] or [hosts]");
    expect_bad("[gateway]", "statefull", "yes", "did you mean 'stateful'?");
    expect_bad("[setup]", "nonsense", "1", "unknown key: allowed are persist, iptables, node-pool");
    expect_bad("[pods]", "pods-2", "10.0.0.0/8", "belongs in a [node NAME]");
    expect_bad("[node a]", "pods-1", "10.0.0.0/8", long_pods);
    expect_bad("[node a]", "pods-02", "10.0.0.0/8", long_pods);
    expect_bad("[node a]", "pods-100", "10.0.0.0/8", long_pods);
    expect_bad("[node a]", "pods2", "10.0.0.0/8", long_pods);
    expect_bad("[node a]", "pods-", "10.0.0.0/8", long_pods);
    expect_bad("[node a]", "address-2", "10.0.0.1", "did you mean 'address'?");
    expect_bad("[hosts]", "services-2", "1", "did you mean 'services'?");
}

Test(site, unknown_sections)
{
    expect_line(POOL "[nodes a]\n", "line 3: \"[nodes a]\": unknown section: did you mean "
                                    "[node NAME]?");
    expect_part(POOL "[controlplane]\n", "did you mean [control-plane]?");
    expect_part(POOL "[gateways]\n", "did you mean [gateway]?");
    expect_part(POOL "[hosts a]\n", "did you mean [hosts]?");
    expect_part(POOL "[firewall]\n",
                "allowed are [pool], [rule NAME] and [alias NAME], and for the site [machine "
                "NAME], [node NAME], "
                "[pods], [hosts], [gateway], [snat], [control-plane], [setup]");
}

/* The pool's tools pass over what the site's sections mean, but not over what they are. */
Test(site, the_pool_alone_is_strict_about_names)
{
    write_bytes(POOL "[gatway]\n", strlen(POOL "[gatway]\n"));
    cr_expect_eq(config_load(path, &config, &error), -EINVAL);
    cr_expect_neq(strstr(error.text, "did you mean [gateway]?"), NULL, "%s", error.text);
    write_bytes(POOL "[gateway]\nadress = 1\n", strlen(POOL "[gateway]\nadress = 1\n"));
    cr_expect_eq(config_load(path, &config, &error), -EINVAL);
    cr_expect_neq(strstr(error.text, "did you mean 'address'?"), NULL, "%s", error.text);
    write_bytes(POOL "[gateway]\naddress = ?\n", strlen(POOL "[gateway]\naddress = ?\n"));
    cr_expect_eq(config_load(path, &config, &error), 0);
    expect_line("[gateway]\naddress = 10.0.0.1\n",
                "it has no [pool]: [pool] and ports = LO-HI are needed");
    cr_expect_eq(config_load(path, &config, &error), -EINVAL);
}

Test(site, lines_too_long)
{
    char text[3000] = POOL NODE1 "pods-2 = 10.1.0.0/16";
    while (strlen(text) < 1500)
        strcat(text, ", \\\n 10.1.0.0/16");
    const char *line = refused(text);
    cr_expect_neq(strstr(line, "(a long list goes on in keys of its own, pods-2 to pods-99)"), NULL,
                  "%s", line);
}

Test(site, no_file)
{
    memset(&site, 0xa5, sizeof(site));
    cr_expect_eq(site_load("/nonexistent/fixport.conf", &site, &error), -ENOENT);
    cr_expect(all_zero(&site, sizeof(site)));
    cr_expect_str_eq(error.text, "/nonexistent/fixport.conf: No such file or directory");
    site_free(&site);
}

/* ---- blocks ---- */

/* @text: "10.0.0.0/8", through the file's reader. */
static struct block block_of(const char *text)
{
    char file[200];
    snprintf(file, sizeof(file), "[hosts]\naddresses = %s\n", text);
    take(file);
    return site.hosts.item[0];
}

static bool overlap(const char *a, const char *b)
{
    struct block left = block_of(a), right = block_of(b);
    cr_expect_eq(blocks_overlap(&left, &right), blocks_overlap(&right, &left));
    return blocks_overlap(&left, &right);
}

Test(site, blocks)
{
    struct block four = block_of("10.1.0.0/16"), six = block_of("fd00::/16");
    struct block one = block_of("10.1.255.255");
    cr_expect(block_is_v4(&four));
    cr_expect(!block_is_v4(&six));
    cr_expect(block_has(&four, one.addr));
    cr_expect(!block_has(&one, four.addr));
    expect_block(&one, "10.1.255.255/32");
    cr_expect(overlap("10.0.0.0/8", "10.1.0.0/16"));
    cr_expect(!overlap("10.0.0.0/16", "10.1.0.0/16"));
    cr_expect(overlap("10.0.0.1", "10.0.0.1"));
    cr_expect(!overlap("10.0.0.0/8", "fd00::/64"));
}

/* ---- all ports ---- */

Test(site, ports_of_all_rules)
{
    struct portset set;
    take("[rule a]\nports = 5-6, 65535\n[rule b]\nports = 1, 7-9, 100\n[rule c]\nports = 8-12\n");
    cr_assert_eq(site_pool_ports(&site.config.policy, &site.config.slices, &set), 0);
    cr_expect(portset_valid(&set));
    expect_ports(&set, "1,5-12,100,65535");
    take("[rule a]\nports = 1-65535\n");
    cr_assert_eq(site_pool_ports(&site.config.policy, &site.config.slices, &set), 0);
    expect_ports(&set, "1-65535");
    take("slices = 61000-61049, 62000\n");
    cr_assert_eq(site_pool_ports(&site.config.policy, &site.config.slices, &set), 0);
    expect_ports(&set, "60001-61049,62000");
    cr_assert_eq(site_pool_ports(&site.config.policy, NULL, &set), 0);
    expect_ports(&set, "60001-60999");
    cr_expect(strstr(refused("[pool]\nports = 61001-61899\nslices = 61899-61949\n"),
                     "[pool] slices = \"61899-61949\": overlaps with the ports of [pool]"));
    cr_expect(strstr(refused("[pool]\nports = 61001\nslices = 60001-80001\n"),
                     "80001 is not a port"));
}

/* ---- the gateway ---- */

/* Suits as much as its last byte says. */
static int last_byte(const uint8_t addr[16], const void *arg)
{
    (void)arg;
    return addr[15];
}

Test(site, of_several_gateways_the_one_that_suits)
{
    take("[gateway]\naddress = 192.168.31.2, 10.0.0.9, fd00::1, 10.1.0.9, fd00:1::7\n");
    cr_assert_eq(site.gateways.count, 5);
    cr_assert(site.gateway.has4 && site.gateway.has6);
    cr_expect_eq(site.gateway.addr4[15], 2, "the first, as long as nobody has chosen");
    cr_expect_eq(site.gateway.addr6[15], 1);
    site_choose_gateway(&site, last_byte, NULL);
    cr_expect_eq(site.gateway.addr4[13], 0, "of equals the first");
    cr_expect_eq(site.gateway.addr4[15], 9);
    cr_expect_eq(site.gateway.addr6[15], 7);
    take("[gateway]\nstateful = no\n");
    cr_expect(!site.gateway.has4 && !site.gateway.has6);
}

/* ---- rules and hosts ---- */

static void expect_dest(uint32_t index, const char *text)
{
    char buf[100];
    cr_assert_lt(index, site.config.policy.dest_count);
    policy_dest_print(&site.config.policy.dest[index], buf, sizeof(buf));
    cr_expect_str_eq(buf, text);
}

Test(site, without_a_rule_the_pool_is_for_the_hosts)
{
    take("[hosts]\naddresses = 192.168.31.67, 192.168.31.128/25\naddresses-2 = fd00::67\n"
         "services = 60001, 5432-5440\n");
    cr_expect_eq(site.config.policy.rule_count, 1);
    cr_assert_eq(site.config.policy.dest_count, 6);
    expect_dest(0, "192.168.31.67:5432-5440");
    expect_dest(1, "192.168.31.67:60001");
    expect_dest(2, "192.168.31.128/25:5432-5440");
    expect_dest(5, "[fd00::67]:60001");
    cr_expect_eq(site.notes, 0);
    take("[hosts]\naddresses = 192.168.31.67\n");
    cr_assert_eq(site.config.policy.dest_count, 1);
    expect_dest(0, "192.168.31.67");
    take("[hosts]\nservices = 60001\n");
    cr_expect_eq(site.config.policy.dest_count, 0, "no hosts: everywhere");
    take("[hosts]\naddresses = 192.168.31.67\nservices = 60001\n"
         "[rule r]\nto = 192.168.31.0/24\n");
    cr_expect_eq(site.config.policy.dest_count, 1, "a rule says it itself");
}

/* More destinations than a policy holds. */
Test(site, without_a_rule_and_with_many_hosts)
{
    char text[6000] = "[hosts]\nservices = 1, 3, 5\n";
    for (unsigned i = 0; i < 20; i++) {
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "addresses-%u = 10.0.%u.0",
                 i + 2, i);
        for (unsigned k = 1; k < (i < 8 ? 15 : 10); k++)
            snprintf(text + strlen(text), sizeof(text) - strlen(text), ", 10.0.%u.%u", i, k);
        strcat(text, "\n");
        if (i == 4) {
            take(text);
            cr_expect_eq(site.config.policy.dest_count, 3 * 75);
        }
        if (i == 5) {
            take(text);
            cr_expect_eq(site.config.policy.dest_count, 90, "addresses alone");
        }
    }
    strcat(text,
           "addresses-50 = 10.1.0.0/29, 10.1.0.9, 10.1.0.11, 10.1.0.13, 10.1.0.15, 10.1.0.17, "
           "10.1.0.19, 10.1.0.21, 10.1.0.23, 10.1.0.25, 10.1.0.27, 10.1.0.29, 10.1.0.31, "
           "10.1.0.33, 10.1.0.35, 10.1.0.37\n");
    take(text);
    cr_expect_eq(site.config.policy.dest_count, 256);
    strcat(text, "addresses-51 = 10.2.0.1\n");
    take(text);
    cr_expect_eq(site.config.policy.dest_count, 0, "everywhere");
}

/* What is said of @rules and [hosts], after the file's name; "" is nothing. @hosts: from line 4. */
static void expect_notes(const char *hosts, const char *rules, const char *said)
{
    char text[2000];
    snprintf(text, sizeof(text), "[hosts]\n%s%s", hosts, rules);
    take(text);
    cr_assert_eq(site.notes, *said ? 1 : 0, "%s: %s", rules, site.notes ? site.note[0] : "nothing");
    if (*said)
        cr_expect_str_eq(site.note[0] + strlen(path) + 2, said);
}

#define HOST "addresses = 192.168.31.67, fd00:31::67\nservices = 5432, 60001-60005\n"
#define NETS "[node n]\naddress = 192.168.31.17\npods = 10.200.1.0/24\n"

Test(site, rules_that_agree_with_hosts)
{
    static const char *const rules[] = {
        "[rule r]\n",
        "[rule r]\nto = any\n",
        "[rule r]\nto = 0.0.0.0/0, ::/0\n",
        "[rule r]\nto = !192.168.31.9\n",
        "[rule r]\nto = 192.168.31.0/24, fd00:31::/64\n",
        "[rule r]\nto = 192.168.31.67, fd00:31::67\n",
        "[rule r]\nto = 192.168.31.67:5432\n[rule rest]\n",
        "[rule r]\nto = 192.168.31.67:5000-60000\n[rule rest]\nto = any\n",
        "[rule r]\nto = any:5432, any:60001-60005\n",
        "[rule a]\nto = 192.168.31.67:5432, 192.168.31.67:60001-60002\n"
        "[rule b]\nto = 192.168.31.67:60003-60005, fd00:31::67\n",
        "[rule pods]\nto = 10.200.0.0/16\n[rule node]\nto = 192.168.31.17:22\n[rule rest]\n" NETS,
        "[rule lo]\nto = 127.0.0.1:8080\n[rule rest]\n",
        "[rule r]\nto = 10.96.0.1:80, 10.96.0.2\n[rule rest]\n[alias a]\nserver = "
        "192.168.31.67:5432\n"
        "addresses = 10.96.0.1:80, 10.96.0.2:443\n",
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        expect_notes(HOST, rules[i], "");
    expect_notes("addresses = 192.168.31.0/24\nservices = 1-65535\n",
                 "[rule a]\nto = 192.168.31.0/25\n[rule b]\nto = 192.168.31.128/25\n", "");
    expect_notes("addresses = 192.168.31.0/24\nservices = 1\n",
                 "[rule a]\nto = 192.168.31.0/24, !192.168.31.9\n"
                 "[snat]\nmode = confine\n",
                 "");
}

Test(site, a_destination_that_is_no_host)
{
    expect_notes(HOST, "[rule r]\nto = 192.168.31.68, 192.168.31.67, fd00:31::67\n",
                 "line 7: [rule r] has 192.168.31.68, but the addresses of [hosts], line 4, do not "
                 "have it: a gateway lets pods connect to these only");
    expect_notes(HOST, "[rule r]\nto = 192.168.32.0/24, 10.9.9.9:5432, 10.9.9.8\n[rule rest]\n",
                 "line 7: [rule r] has 192.168.32.0/24 and 2 others, but the addresses of [hosts], "
                 "line 4, have none of them: a gateway lets pods connect to these only");
    expect_notes(
        HOST, "[rule r]\nto = 192.168.31.67:22\n[rule rest]\n",
        "line 7: [rule r] has 192.168.31.67:22, but the services of [hosts], line 5, do not "
        "have it: a gateway lets pods connect to these only");
    expect_notes(HOST,
                 "[rule r]\nto = 10.96.0.1:80\n[rule rest]\n[alias a]\nserver = 192.168.31.67:22\n"
                 "addresses = 10.96.0.1:80\n",
                 "line 7: [rule r] has 10.96.0.1:80, but the services of [hosts], line 5, do not "
                 "have it: a gateway lets pods connect to these only");
    expect_notes("addresses = 192.168.31.67\n", "[rule r]\nto = 192.168.31.67\n",
                 "line 6: [rule r] has 192.168.31.67, but the services of [hosts], line 3, do not "
                 "have it: a gateway lets pods connect to these only");
}

Test(site, a_service_that_a_rule_cannot_have)
{
    const char *why =
        "[rule r] to = \"192.168.31.67:22\": 192.168.31.67:22 is none of the services "
        "of [hosts], line 3, and the gateway lets pods connect to no others: add it "
        "there, or leave it out here";
    expect_line("[hosts]\n" HOST "[rule r]\nto = 192.168.31.67:22\n[rule rest]\n[machine gw]\n"
                "roles = gateway\n" POOL,
                why);
    expect_line("[hosts]\n" HOST "[rule r]\nto = 192.168.31.67:22\n[rule rest]\n[gateway]\n"
                "address = 192.168.31.2\n" POOL,
                why);
}

Test(site, a_host_that_no_rule_matches)
{
    expect_notes(
        HOST, "[rule r]\nto = 192.168.31.67\n",
        "line 5: no [rule] is for [fd00:31::67]:5432, a service of [hosts] (the first rule "
        "is in line 6): pods would connect to it from any port, which a gateway rejects");
    expect_notes(
        HOST, "[rule r]\nto = 192.168.31.67:5432, any:60001-60004\n",
        "line 5: no [rule] is for 192.168.31.67:60005, a service of [hosts], nor for 1 other "
        "entry there (the first rule is in line 6): pods would connect to it from any port, "
        "which a gateway rejects");
    expect_notes(
        "addresses = 192.168.31.0/24\nservices = 1\n",
        "[rule a]\nto = 192.168.31.0/24, !192.168.31.9\n",
        "line 5: no [rule] is for 192.168.31.9:1, a service of [hosts] (the first rule is in "
        "line 6): pods would connect to it from any port, which a gateway rejects");
    expect_notes(
        "addresses = 192.168.31.0/24\nservices = 1\n",
        "[rule a]\nto = 192.168.31.0/25, 192.168.31.129, 192.168.31.130/31, "
        "192.168.31.132/30, 192.168.31.136/29, 192.168.31.144/28, 192.168.31.160/27, "
        "192.168.31.192/26\n",
        "line 5: no [rule] is for 192.168.31.128:1, a service of [hosts] (the first rule is "
        "in line 6): pods would connect to it from any port, which a gateway rejects");
}

/* ---- anything at all ---- */

/* Nearly right ones get further than noise does. */
Test(site, survives_a_few_wrong_bytes, .timeout = 120)
{
    static const char letters[] = "[]=\n\\ \"';#,-!/.:\t\r\0\xff"
                                  "a019";
    char text[sizeof(everything) + sizeof(POOL) + 8];
    srand(3);
    for (int round = 0; round < ROUNDS; round++) {
        size_t length = (size_t)snprintf(text, sizeof(text), "%s%s", POOL, everything);
        for (int i = 1 + rand() % 3; i > 0; i--) {
            size_t at = (size_t)rand() % length;
            if (rand() % 3 == 0)
                memmove(text + at, text + at + 1, --length - at);
            else if (rand() % 2 && length < sizeof(text))
                memmove(text + at + 1, text + at, length++ - at);
            text[at] = letters[(size_t)rand() % (sizeof(letters) - 1)];
        }
        write_bytes(text, length);
        bool taken = site_load(path, &site, &error) == 0;
        cr_assert(taken || (error.text[0] && !strchr(error.text, '\n')));
        cr_assert_eq(strstr(error.text, "iniparser finds"), NULL, "%s\n%.*s", error.text,
                     (int)length, text);
        site_free(&site);
    }
}
