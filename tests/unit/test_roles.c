/* SPDX-License-Identifier: MIT */
/*
 * What each role wants of a machine, for the reference network and for sites that are not so plain,
 * as text: whether the kernel likes it is tried elsewhere. The machine is faked: its addresses,
 * what is on a connected network, the values of its sysctls, its manifest.
 */
#include "../../tools/setup/roles/roles.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the machine ---- */

static const char *own[8];     /* addresses */
static const char *behind[8];  /* addresses that are behind a router; all others are connected */
static const char *nowhere[8]; /* addresses without a route */
static const char *routed[8];  /* where somebody else's routes lead, by whichever router is asked */
static const char *reserved;   /* ip_local_reserved_ports */
static const char *manifest;   /* the value of the option; NULL: absent */
static bool docker;
static bool masquerades;
static const char *source = ""; /* which address this machine sends from */
static const struct journal *journal;

static bool among(const char *const list[8], const uint8_t addr[16])
{
    char text[ADDR_TEXT];
    addr_print(addr, text, sizeof(text));
    for (int i = 0; i < 8 && list[i]; i++)
        if (strcmp(list[i], text) == 0)
            return true;
    return false;
}

int machine_look(struct machine *machine, struct setup_error *error)
{
    (void)error;
    *machine = (struct machine){.item = calloc(8, sizeof(*machine->item))};
    for (; machine->count < 8 && own[machine->count]; machine->count++) {
        const char *text = own[machine->count];
        struct machine_address *item = &machine->item[machine->count];
        cr_assert(address_parse(text, strlen(text), item->addr));
        item->prefix = address_is_v4(item->addr) ? 96 + 24 : 64;
        strcpy(item->device, "eth0");
    }
    return 0;
}

void machine_free(struct machine *machine)
{
    free(machine->item);
}

const struct machine_address *machine_has(const struct machine *machine, const uint8_t addr[16])
{
    for (size_t i = 0; i < machine->count; i++)
        if (memcmp(machine->item[i].addr, addr, 16) == 0)
            return &machine->item[i];
    return NULL;
}

const char *machine_networks(const struct machine *machine, int family, char *buf, size_t size)
{
    snprintf(buf, size, "%zu of IPv%d", machine->count, family);
    return buf;
}

int machine_path(const uint8_t addr[16], const uint8_t *from, struct machine_path *path,
                 struct setup_error *error)
{
    (void)from, (void)error;
    *path = (struct machine_path){.found = !among(nowhere, addr), .local = among(own, addr)};
    path->direct = path->found && !path->local && !among(behind, addr);
    strcpy(path->device, "eth0.5");
    strcpy(path->source, source);
    strcpy(path->router, path->direct ? "" : "192.168.31.1");
    strcpy(path->why, path->found ? "" : "Network is unreachable");
    return 0;
}

int machine_path_unrouted(const uint8_t addr[16], struct machine_path *path,
                          struct setup_error *error)
{
    return machine_path(addr, NULL, path, error);
}

int machine_has_route(const struct block *to, const uint8_t via[16], struct setup_error *error)
{
    (void)via, (void)error;
    return among(routed, to->addr);
}

void machine_pod(const struct machine *machine, const struct block *pods, uint8_t addr[16])
{
    (void)machine;
    block_sample(pods, addr);
}

int machine_marks(int family, uint32_t mark, char *rule, size_t size, struct setup_error *error)
{
    (void)error;
    snprintf(rule, size, "priority 100, fwmark 0x100");
    return family == 4 && mark == 0x100;
}

bool machine_translates(int family, char *rule, size_t size)
{
    snprintf(rule, size, "oifname \"eth0\" masquerade");
    return masquerades && family == 4;
}

const char *machine_sysctl(int family, const char *device, const char *setting, char *buf,
                           size_t size)
{
    snprintf(buf, size, "net.ipv%d.conf.%s.%s", family, device, setting);
    return buf;
}

bool machine_ra_device(const char *device)
{
    return strcmp(device, "eth0") == 0;
}

/* ---- the rest of setup ---- */

int setup_fail(struct setup_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

bool state_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

FILE *state_open(char **text)
{
    static size_t length;
    return open_memstream(text, &length);
}

void state_close(FILE *out)
{
    fclose(out);
}

void *state_grow(void *memory, size_t size)
{
    return realloc(memory, size);
}

bool run_exists(const char *tool)
{
    return strcmp(tool, "nft") == 0;
}

int iptables_choose(enum site_iptables which, struct setup_error *error)
{
    (void)which, (void)error;
    return 0;
}

unsigned iptables_position(int family, const char *chain)
{
    (void)family, (void)chain;
    return 1;
}

bool iptables_has_chain(int family, const char *chain)
{
    return docker && family == 4 && strcmp(chain, "DOCKER-USER") == 0;
}

char *file_state(unsigned mode, const char *bytes)
{
    char *state;
    cr_assert_geq(asprintf(&state, "%04o 0 0\n%s", mode, bytes), 0);
    return state;
}

char *pool_state_from_config(const struct config *config)
{
    char *state, ports[600], to[200] = "";
    const struct policy *policy = &config->policy;
    portset_print(&policy->rule[0].ports, ports, sizeof(ports));
    if (policy->dest_count)
        policy_dest_print(&policy->dest[0], to, sizeof(to));
    cr_assert_geq(asprintf(&state, "%u %s %s %u %s %u", policy->rule_count, policy->rule[0].name,
                           ports, policy->dest_count, to, policy->quarantine_ms),
                  0);
    return state;
}

static int fake_read(const char *name, char **state, struct setup_error *error)
{
    const char *value = strstr(name, "reserved_ports") ? reserved
                        : strstr(name, "accept_ra")    ? "1"
                        : strstr(name, "/kube-api")    ? manifest
                                                       : "7";
    (void)error;
    *state = value ? strdup(value) : NULL;
    return 0;
}

static int file_read(const char *name, char **state, struct setup_error *error)
{
    (void)name, (void)error;
    *state = strdup("0600 0 0\nthe manifest\n");
    return 0;
}

const struct resource_type resource_file = {.name = "file", .read = file_read},
                           resource_link = {.name = "link"},
                           resource_sysctl = {.name = "sysctl", .read = fake_read},
                           resource_routes = {.name = "routes"}, resource_rule = {.name = "rule"},
                           resource_iptables = {.name = "iptables"}, resource_nft = {.name = "nft"},
                           resource_nodeports = {.name = "nodeports", .read = fake_read},
                           resource_pool = {.name = "pool"};

struct journal_entry *journal_find(const struct journal *in, const struct resource_type *type,
                                   const char *name)
{
    for (size_t i = 0; in && i < in->count; i++)
        if (in->entry[i].type == type && strcmp(in->entry[i].name, name) == 0)
            return &in->entry[i];
    return NULL;
}

char *state_copy(const char *text)
{
    return text ? strdup(text) : NULL;
}

static char notes[4096]; /* a line each */

void resources_note(struct resources *resources, const char *format, ...)
{
    size_t length = strlen(notes);
    va_list args;
    (void)resources;
    va_start(args, format);
    vsnprintf(notes + length, sizeof(notes) - length, format, args);
    va_end(args);
    strncat(notes, "\n", sizeof(notes) - strlen(notes) - 1);
}

int resources_add(struct resources *resources, const struct resource_type *type, const char *name,
                  const char *wanted, const char *why, struct setup_error *error)
{
    for (size_t i = 0; i < resources->count; i++)
        if (resources->item[i].type == type && strcmp(resources->item[i].name, name) == 0)
            return setup_fail(error, "%s %s twice", type->name, name);
    resources->item = realloc(resources->item, (resources->count + 1) * sizeof(*resources->item));
    resources->item[resources->count++] =
        (struct resource){type, strdup(name), strdup(wanted), strdup(why)};
    return 0;
}

/* ---- asking ---- */

static char path[64];
static struct site site;
static struct resources wants;
static struct setup_error error;

static void begin(void)
{
    strcpy(path, "/tmp/fixport-roles-XXXXXX");
    close(mkstemp(path));
    reserved = "";
}

static void end(void)
{
    unlink(path);
}

TestSuite(roles, .init = begin, .fini = end);

static int ask(const char *text, unsigned roles)
{
    struct config_error why;
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
    int result = site_load(path, &site, &why);
    cr_assert_eq(result, 0, "%s", why.text);
    wants = (struct resources){.count = 0};
    return roles_want(&site, roles, journal, path, &wants, &error);
}

static void want(const char *text, unsigned roles)
{
    int result = ask(text, roles);
    cr_assert_eq(result, 0, "%s", error.text);
}

static void refused(const char *text, unsigned roles, const char *why)
{
    cr_assert_eq(ask(text, roles), -1, "taken, though: %s", why);
    cr_assert(strstr(error.text, why), "\"%s\" instead of \"%s\"", error.text, why);
    cr_assert_null(strchr(error.text, '\n'));
}

static const char *wanted(const char *type, const char *name)
{
    for (size_t i = 0; i < wants.count; i++)
        if (strcmp(wants.item[i].type->name, type) == 0 && strcmp(wants.item[i].name, name) == 0)
            return wants.item[i].wanted;
    return NULL;
}

static void expect(const char *type, const char *name, const char *state)
{
    const char *now = wanted(type, name);
    cr_assert(now, "%s %s is not wanted", type, name);
    cr_assert_str_eq(now, state, "%s %s is:\n%s\ninstead of:\n%s", type, name, now, state);
}

static size_t lines_with(const char *text, const char *word)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word))
        count++;
    return count;
}

/* A long list, forty items in each of the keys KEY-2, KEY-3 and so on. */
static void __attribute__((format(printf, 4, 5)))
list_item(FILE *out, const char *key, int i, const char *format, ...)
{
    va_list args;
    if (i % 40 == 0)
        fprintf(out, "\n%s-%d = ", key, 2 + i / 40);
    else
        fputs(", ", out);
    va_start(args, format);
    vfprintf(out, format, args);
    va_end(args);
}

#define POOL "[pool]\nports = 60001-60999\n"
#define NODES                                                                                      \
    "[node one]\naddress = 192.168.31.17\npods = 10.200.1.0/24\n"                                  \
    "[node two]\naddress = 192.168.31.45\npods = 10.200.36.0/24, 10.200.1.77\n"
#define HOSTS "[hosts]\naddresses = 192.168.31.67\nservices = 60001\nports = 61000-61099\n"
#define PODS "[pods]\nservices = 8088, 40002\n"
#define GATEWAY "[gateway]\naddress = 192.168.31.2\n"

/* ---- host ---- */

Test(roles, host)
{
    own[0] = "192.168.31.67";
    reserved = "8080,61050-61150";
    want(POOL NODES HOSTS PODS, ROLE_HOST);
    expect("routes", "ipv4",
           "10.200.1.0/24 via 192.168.31.17\n10.200.1.77/32 via 192.168.31.45\n"
           "10.200.36.0/24 via 192.168.31.45\n");
    expect("sysctl", "net.ipv4.ip_local_reserved_ports", "61000-61099");
    expect("pool", "/run/fixport/pool", "1 pods 61000-61099 2 10.200.1.0/24 120000");
    expect("file", "/etc/iproute2/rt_protos.d/fixport.conf", "0644 0 0\n161 fixport\n");
    expect("link", "/etc/systemd/system/multi-user.target.wants/fixport-setup.service",
           "/etc/systemd/system/fixport-setup.service");
    cr_assert(strstr(wanted("file", "/etc/systemd/system/fixport-setup.service"),
                     "\nExecStart=" FIXPORT_SBINDIR "/fixport-setup boot\n"));
    cr_assert(strstr(wanted("file", "/etc/systemd/system/fixport-setup.service"),
                     "\nPartOf=systemd-networkd.service nftables.service "));
    cr_assert_null(wanted("iptables", "ipv4"));
    cr_assert_str_eq(wants.item[wants.count - 1].type->name, "sysctl");
}

Test(roles, host_through_the_gateway)
{
    own[0] = "192.168.31.67";
    behind[0] = "192.168.31.17";
    want(POOL NODES HOSTS GATEWAY "[pods]\nblocks = 10.200.0.0/16\n[setup]\npersist = none\n",
         ROLE_HOST);
    expect("routes", "ipv4", "10.200.0.0/16 via 192.168.31.2\n");
    cr_assert_null(wanted("file", "/etc/systemd/system/fixport-setup.service"));
    cr_assert_null(wanted("sysctl", "net.ipv4.conf.all.send_redirects"));
}

Test(roles, a_node_whose_pool_somebody_else_makes)
{
    own[0] = "192.168.31.17";
    want(POOL NODES HOSTS "[setup]\nnode-pool = no\n", ROLE_NODE);
    cr_assert_null(wanted("pool", "/run/fixport/pool"));
    cr_assert(wanted("nft", "ip"));
    own[0] = "192.168.31.67";
    want(POOL NODES HOSTS GATEWAY "[setup]\nnode-pool = no\n", ROLE_HOST);
    cr_assert(wanted("pool", "/run/fixport/pool"), "a host's is not meant");
}

Test(roles, host_both_families)
{
    own[0] = "192.168.31.67";
    own[1] = "fd00:31::67";
    want(POOL
         "[node one]\naddress = 192.168.31.17, fd00:31::17\npods = 10.200.1.0/24, fd00:200:1::/64\n"
         "[hosts]\naddresses = 192.168.31.67, fd00:31::67\n[gateway]\naddress = fd00:31::2\n",
         ROLE_HOST);
    expect("routes", "ipv4", "10.200.1.0/24 via 192.168.31.17\n");
    expect("routes", "ipv6", "fd00:200:1::/64 via fd00:31::2\n");
    expect("sysctl", "net.ipv6.conf.eth0.5.accept_redirects", "0");
    cr_assert_null(wanted("pool", "/run/fixport/pool"));
}

Test(roles, host_refused)
{
    own[0] = "192.168.31.67";
    refused(POOL HOSTS, ROLE_HOST, "no pods to reach");
    refused(POOL HOSTS "[pods]\nblocks = 10.200.0.0/16\n", ROLE_HOST, "what the pods are behind");
    refused(POOL NODES HOSTS, ROLE_HOST | ROLE_NODE, "cannot have the roles host and node");
    behind[0] = "192.168.31.45";
    refused(
        POOL NODES HOSTS, ROLE_HOST,
        "[node two] address = 192.168.31.45 is on no network that this machine is connected to (it "
        "is behind 192.168.31.1)");
    behind[0] = "192.168.31.2";
    refused(POOL NODES HOSTS GATEWAY, ROLE_HOST,
            "[gateway] address = 192.168.31.2 is on no network");
    nowhere[0] = "192.168.31.2";
    refused(POOL NODES HOSTS GATEWAY, ROLE_HOST, "Network is unreachable");
    own[1] = "10.200.36.5";
    refused(
        POOL NODES HOSTS, ROLE_HOST,
        "[node two] pods = 10.200.36.0/24 contains 10.200.36.5, an address of this machine (eth0)");
    own[1] = "10.200.99.5";
    refused(POOL NODES HOSTS "[pods]\nblocks = 10.200.0.0/16\n", ROLE_HOST,
            "[pods] blocks = 10.200.0.0/16 contains 10.200.99.5");
    own[1] = "192.168.31.17";
    refused(POOL NODES HOSTS, ROLE_HOST, "that of [node one]");
}

Test(roles, host_with_more_blocks_than_a_pool_takes)
{
    char text[32768];
    FILE *out = fmemopen(text, sizeof(text), "w");
    fputs(POOL HOSTS "[node one]\naddress = 192.168.31.17\npods = 10.0.0.0/24\n", out);
    for (int i = 0; i < 256; i++)
        list_item(out, "pods", i, "10.%d.%d.0/24", 1 + i / 128, 2 * (i % 128));
    fclose(out);
    own[0] = "192.168.31.67";
    refused(text, ROLE_HOST, "257 blocks, and a host's pool takes at most 256: give [pods] blocks");
}

/* ---- gateway ---- */

Test(roles, gateway_stateful)
{
    own[0] = "192.168.31.2";
    want(POOL "[node one]\naddress = 192.168.31.17\npods = 10.200.1.0/24\n" HOSTS PODS GATEWAY,
         ROLE_GATEWAY);
    expect("routes", "ipv4", "10.200.1.0/24 via 192.168.31.17\n");
    expect("sysctl", "net.ipv4.ip_forward", "1");
    expect("sysctl", "net.ipv4.conf.all.send_redirects", "0");
    expect("sysctl", "net.ipv4.conf.eth0.5.send_redirects", "0");
    cr_assert_null(wanted("sysctl", "net.ipv6.conf.all.forwarding"));
    cr_assert_null(wanted("iptables", "ipv6"));
    expect("iptables", "ipv4",
           ":FIXPORT-FORWARD - [0:0]\n"
           ":FIXPORT-NODES-IN - [0:0]\n"
           ":FIXPORT-NODES-IN-TCP - [0:0]\n"
           ":FIXPORT-NODES-OUT - [0:0]\n"
           ":FIXPORT-NODES-OUT-TCP - [0:0]\n"
           ":FIXPORT-PODS-IN - [0:0]\n"
           ":FIXPORT-PODS-IN-TCP - [0:0]\n"
           ":FIXPORT-PODS-OUT - [0:0]\n"
           ":FIXPORT-PODS-OUT-TCP - [0:0]\n"
           "-A FIXPORT-FORWARD -s 10.200.1.0/24 -m comment --comment \"fixport:from pods\" -g "
           "FIXPORT-PODS-OUT\n"
           "-A FIXPORT-FORWARD -s 192.168.31.17/32 -m comment --comment \"fixport:from nodes\" -g "
           "FIXPORT-NODES-OUT\n"
           "-A FIXPORT-FORWARD -d 10.200.1.0/24 -m comment --comment \"fixport:to pods\" -g "
           "FIXPORT-PODS-IN\n"
           "-A FIXPORT-FORWARD -d 192.168.31.17/32 -m comment --comment \"fixport:to nodes\" -g "
           "FIXPORT-NODES-IN\n"
           "-A FIXPORT-NODES-IN -p icmp -m conntrack --ctstate RELATED -m comment --comment "
           "\"fixport:errors\" -j ACCEPT\n"
           "-A FIXPORT-NODES-IN -s 192.168.31.67/32 -p tcp -m comment --comment \"fixport:from "
           "hosts\" -g FIXPORT-NODES-IN-TCP\n"
           "-A FIXPORT-NODES-IN-TCP -p tcp -m tcp --sport 60001 --dport 60001:60999 ! --tcp-flags "
           "SYN,ACK SYN -m comment --comment \"fixport:answers of hosts\" -j ACCEPT\n"
           "-A FIXPORT-NODES-OUT -p icmp -m conntrack --ctstate RELATED -m comment --comment "
           "\"fixport:errors\" -j ACCEPT\n"
           "-A FIXPORT-NODES-OUT -d 192.168.31.67/32 -p tcp -m comment --comment \"fixport:to "
           "hosts\" -g FIXPORT-NODES-OUT-TCP\n"
           "-A FIXPORT-NODES-OUT-TCP -p tcp -m tcp --sport 60001:60999 --dport 60001 -m comment "
           "--comment \"fixport:pods to services\" -j ACCEPT\n"
           "-A FIXPORT-PODS-IN -p icmp -m conntrack --ctstate RELATED -m comment --comment "
           "\"fixport:errors\" -j ACCEPT\n"
           "-A FIXPORT-PODS-IN -s 192.168.31.67/32 -p tcp -m comment --comment \"fixport:from "
           "hosts\" -g FIXPORT-PODS-IN-TCP\n"
           "-A FIXPORT-PODS-IN-TCP -p tcp -m conntrack --ctstate DNAT --ctdir ORIGINAL -m comment "
           "--comment \"fixport:translated here\" -j RETURN\n"
           "-A FIXPORT-PODS-IN-TCP -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -m comment "
           "--comment \"fixport:answers\" -j ACCEPT\n"
           "-A FIXPORT-PODS-IN-TCP -p tcp -m multiport --dports 8088,40002 -m tcp --sport "
           "61000:61099 -m comment --comment \"fixport:hosts to services\" -j ACCEPT\n"
           "-A FIXPORT-PODS-IN-TCP -m comment --comment \"fixport:hosts to other ports of pods\" "
           "-j REJECT --reject-with icmp-port-unreachable\n"
           "-A FIXPORT-PODS-OUT -d 10.200.1.0/24 -m comment --comment \"fixport:among pods and "
           "nodes\" -j RETURN\n"
           "-A FIXPORT-PODS-OUT -d 192.168.31.17/32 -m comment --comment \"fixport:among pods and "
           "nodes\" -j RETURN\n"
           "-A FIXPORT-PODS-OUT -p icmp -m conntrack --ctstate RELATED -m comment --comment "
           "\"fixport:errors\" -j ACCEPT\n"
           "-A FIXPORT-PODS-OUT -d 192.168.31.67/32 -p tcp -m comment --comment \"fixport:to "
           "hosts\" -g FIXPORT-PODS-OUT-TCP\n"
           "-A FIXPORT-PODS-OUT-TCP -p tcp -m conntrack --ctstate DNAT --ctdir REPLY -m comment "
           "--comment \"fixport:translated here\" -j RETURN\n"
           "-A FIXPORT-PODS-OUT-TCP -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -m comment "
           "--comment \"fixport:answers\" -j ACCEPT\n"
           "-A FIXPORT-PODS-OUT-TCP -p tcp -m tcp --sport 60001:60999 --dport 60001 -m comment "
           "--comment \"fixport:pods to services\" -j ACCEPT\n"
           "-A FIXPORT-PODS-OUT-TCP -m comment --comment \"fixport:pods to other ports of hosts\" "
           "-j REJECT --reject-with icmp-port-unreachable\n"
           "1 -A FORWARD -m comment --comment \"fixport:between pods and hosts\" -j "
           "FIXPORT-FORWARD\n");
}

Test(roles, gateway_stateless)
{
    own[0] = "192.168.31.2";
    docker = true;
    want(POOL NODES HOSTS PODS "[gateway]\nstateful = no\nexclusive = yes\n"
                               "[control-plane]\nnode-ports = 30000-32767\n",
         ROLE_GATEWAY);
    const char *rules = wanted("iptables", "ipv4");
    cr_assert_null(strstr(rules, "conntrack"));
    cr_assert_null(wanted("sysctl", "net.ipv4.conf.all.send_redirects"),
                   "without [gateway] address");
    cr_assert_eq(lines_with(rules, "-p icmp -m icmp --icmp-type 3 "), 4);
    cr_assert(strstr(
        rules,
        "-A FIXPORT-PODS-IN-TCP -p tcp -m tcp --sport 60001 --dport 60001:60999 ! --tcp-flags "
        "SYN,ACK SYN -m comment --comment \"fixport:answers of hosts\" -j ACCEPT\n"));
    cr_assert(strstr(rules, "-A FIXPORT-PODS-OUT-TCP -p tcp -m multiport --sports 8088,40002 -m "
                            "tcp --dport 61000:61099 "
                            "! --tcp-flags SYN,ACK SYN -m comment"));
    cr_assert(
        strstr(rules, "-A FIXPORT-NODES-IN-TCP -p tcp -m tcp --dport 30000:32767 -m comment"));
    cr_assert(strstr(
        rules,
        "-d 10.200.36.0/24 -m comment --comment \"fixport:among pods and nodes\" -j ACCEPT\n"));
    cr_assert(strstr(
        rules,
        "-A FIXPORT-FORWARD -m comment --comment \"fixport:nothing else is forwarded\" -j REJECT"));
    cr_assert(strstr(rules, "\n1 -A DOCKER-USER "));
    cr_assert_null(strstr(rules, "10.200.1.77"), "it is inside of another block");
}

Test(roles, gateway_rules_do_not_multiply)
{
    static char text[65536];
    FILE *out = fmemopen(text, sizeof(text), "w");
    fputs(POOL PODS "[gateway]\nstateful = no\n[hosts]\nservices = 1000", out);
    for (int i = 1; i < 32; i++)
        fprintf(out, ", %d-%d", 1000 + 10 * i, 1001 + 10 * i);
    fputs("\naddresses = 192.168.31.1\n", out);
    for (int i = 0; i < 99; i++)
        list_item(out, "addresses", i, "192.168.31.%d", 2 * i + 3);
    for (int i = 0; i < 200; i++)
        fprintf(out, "\n[node n%d]\naddress = 192.168.32.%d\npods = 10.%d.0.0/16", i, i + 1, i);
    fclose(out);
    own[0] = "192.168.30.2";
    want(text, ROLE_GATEWAY);
    size_t rules = lines_with(wanted("iptables", "ipv4"), "\n-A ");
    cr_assert_lt(rules, 1700, "%zu rules", rules);
}

Test(roles, gateway_ipv6)
{
    own[0] = "fd00:31::2";
    want(POOL "[node one]\naddress = fd00:31::17\npods = fd00:200::/64\n[hosts]\naddresses = "
              "fd00:31::67\n"
              "services = 443\n[gateway]\nstateful = no\n",
         ROLE_GATEWAY);
    const char *rules = wanted("iptables", "ipv6");
    cr_assert_null(wanted("iptables", "ipv4"));
    cr_assert_null(wanted("sysctl", "net.ipv4.ip_forward"));
    expect("sysctl", "net.ipv6.conf.all.forwarding", "1");
    expect("sysctl", "net.ipv6.conf.eth0.accept_ra", "2");
    cr_assert(strstr(rules, "-p ipv6-icmp -m icmp6 --icmpv6-type 2 "));
    cr_assert(strstr(rules, "--reject-with icmp6-port-unreachable"));
    cr_assert(strstr(rules, "-d fd00:31::67/128 -p tcp "));
}

Test(roles, gateway_refused)
{
    own[0] = "192.168.31.2";
    refused(POOL HOSTS GATEWAY, ROLE_GATEWAY, "[node NAME]");
    refused(POOL NODES GATEWAY, ROLE_GATEWAY, "add [hosts] addresses");
    refused(POOL NODES "[hosts]\naddresses = 192.168.31.67\n" GATEWAY, ROLE_GATEWAY,
            "nothing would be let through");
    nowhere[0] = "192.168.31.67";
    refused(POOL NODES HOSTS GATEWAY, ROLE_GATEWAY,
            "[hosts] addresses = 192.168.31.67/32: this machine has no route to it (Network is "
            "unreachable)");
}

/* ---- node ---- */

Test(roles, node)
{
    own[0] = "192.168.31.17";
    own[1] = "10.200.1.1";
    want(POOL NODES "[hosts]\naddresses = 192.168.31.66, 192.168.31.128/25, 192.168.31.65\n",
         ROLE_NODE);
    expect("nft", "ip",
           "table ip fixport {\n\tchain postrouting {\n"
           "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n"
           "\t\tip saddr 10.200.1.0/24 ip daddr { 192.168.31.65-192.168.31.66, "
           "192.168.31.128/25 } tcp sport 60001-60999 masquerade to :60001-60999 "
           "comment \"fixport: keep the port\"\n"
           "\t\tip saddr 192.168.31.17 ip daddr { 192.168.31.65-192.168.31.66, "
           "192.168.31.128/25 } tcp sport 60001-60999 snat to 192.168.31.17:60001-60999 "
           "comment \"fixport: keep the node's own\"\n"
           "\t}\n}\n");
    expect("sysctl", "net.ipv4.ip_local_reserved_ports", "60001-60999");
    expect("pool", "/run/fixport/pool", "1 default 60001-60999 3 192.168.31.66 120000");
    cr_assert_null(wanted("routes", "ipv4"));
    cr_assert_str_eq(wants.item[wants.count - 1].type->name, "sysctl");
}

Test(roles, node_keeps_the_ports_of_slices)
{
    own[0] = "192.168.31.17";
    want("[pool]\nports = 61001-61899\nslices = 61900-61999\n" NODES
         "[hosts]\naddresses = 192.168.31.67\n",
         ROLE_NODE);
    cr_assert(strstr(wanted("nft", "ip"), "tcp sport 61001-61999 masquerade to :61001-61999"));
    expect("sysctl", "net.ipv4.ip_local_reserved_ports", "61001-61999");
    expect("pool", "/run/fixport/pool", "1 default 61001-61899 1 192.168.31.67 120000");
}

Test(roles, node_confines_in_a_routed_site)
{
    own[0] = "192.168.31.17";
    nowhere[0] = "192.168.30.67";
    want("[pool]\npath = /run/x/pool\n[rule a]\nto = 192.168.30.67\nports = 40000, 50000-50009\n"
         "[rule b]\nports = 60001-60100\n" NODES
         "[hosts]\naddresses = 192.168.30.67\nservices = 60001\n" GATEWAY
         "[snat]\nmode = confine\n",
         ROLE_NODE);
    expect("routes", "ipv4", "192.168.30.67/32 via 192.168.31.2\n");
    cr_assert_null(wanted("rule", "ipv4"));
    const char *table = wanted("nft", "ip");
    cr_assert(strstr(table, "tcp sport 40000 masquerade to :40000 comment"));
    cr_assert(strstr(table, "tcp sport 50000-50009 masquerade to :50000-50009 comment"));
    cr_assert(strstr(table, "tcp sport 60001-60100 masquerade to :60001-60100 comment"));
    cr_assert(strstr(table, "meta l4proto tcp masquerade to :60001-60100 comment"));
    cr_assert_null(strstr(table, "prerouting"));
    cr_assert_null(strstr(table, "reject"), "nobody has the role gateway");
    expect("sysctl", "net.ipv4.ip_local_reserved_ports", "40000,50000-50009,60001-60100");
    cr_assert(wanted("pool", "/run/x/pool"));
}

/* ---- topologies ---- */

#define MACHINE_GW "[machine gw]\nroles = gateway\n"

/* Whether plan would say @text of the site. */
static bool topology_says(const char *text)
{
    return wants.topology && strstr(wants.topology, text);
}

Test(roles, one_arm)
{
    own[0] = "192.168.31.17";
    want(POOL NODES HOSTS PODS GATEWAY MACHINE_GW, ROLE_NODE);
    cr_assert(topology_says("one network, a gateway with one arm"), "%s", wants.topology);
    cr_assert_null(wanted("routes", "ipv4"), "the node's own traffic goes as before");
    expect("routes", "ipv4 table 161", "192.168.31.67/32 via 192.168.31.2\n");
    expect("rule", "ipv4", "5: from 10.200.1.0/24 fwmark 0x2000/0x2000 lookup 161\n");
    expect("nft", "ip",
           "table ip fixport {\n\tchain prerouting {\n"
           "\t\ttype filter hook prerouting priority dstnat + 10; policy accept;\n"
           "\t\tct state new ct direction original ct status & snat == 0 ip saddr 10.200.1.0/24 "
           "ip daddr 192.168.31.67 meta l4proto tcp ct mark set ct mark | 0x00002000 comment "
           "\"fixport: pod to host\"\n"
           "\t\tct state new ct direction original ct original ip daddr 10.200.1.0/24 "
           "ip saddr 192.168.31.67 ip daddr 10.200.1.0/24 "
           "meta l4proto tcp ct mark set ct mark | 0x00002000 comment \"fixport: host to pod\"\n"
           "\t\tct mark & 0x00002000 == 0x00002000 ip saddr 10.200.1.0/24 "
           "meta mark set meta mark | 0x00002000 comment \"fixport: by the gateway\"\n"
           "\t}\n\tchain postrouting {\n"
           "\t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n"
           "\t\tip saddr 10.200.1.0/24 ip daddr 192.168.31.67 meta l4proto "
           "tcp snat to ip saddr comment \"fixport: as it is\"\n"
           "\t\tip saddr 192.168.31.17 ip daddr 192.168.31.67 tcp sport 60001-60999 snat to "
           "192.168.31.17:60001-60999 comment \"fixport: keep the node's own\"\n\t}\n}\n");
    want(POOL NODES HOSTS PODS GATEWAY "[setup]\nmark = 0x200\n", ROLE_NODE);
    expect("rule", "ipv4", "5: from 10.200.1.0/24 fwmark 0x200/0x200 lookup 161\n");
    refused(
        POOL NODES HOSTS PODS GATEWAY "[setup]\nmark = 0x100\n", ROLE_NODE,
        "[setup] mark = 0x100 is in use here: a rule of policy routing looks at it (priority 100, "
        "fwmark 0x100): give another bit");
    own[0] = "192.168.31.67";
    want(POOL NODES HOSTS PODS GATEWAY MACHINE_GW, ROLE_HOST);
    cr_assert(topology_says("one arm"), "%s", wants.topology);
    own[0] = "192.168.31.2";
    want(POOL NODES HOSTS PODS GATEWAY MACHINE_GW, ROLE_GATEWAY);
    cr_assert(topology_says("one arm"), "%s", wants.topology);
}

Test(roles, hosts_in_one_block_with_nodes_and_gateway)
{
    own[0] = "192.168.31.17";
    want(POOL NODES "[hosts]\naddresses = 192.168.31.0/24\nservices = 60001\n" PODS MACHINE_GW,
         ROLE_NODE);
    cr_assert(strstr(wanted("nft", "ip"),
                     "ip saddr 10.200.1.0/24 ip daddr 192.168.31.0/24 ip daddr != { 192.168.31.17, "
                     "192.168.31.45 } tcp dport != { 60001 } reject"));
    own[0] = "192.168.31.2";
    want(POOL NODES
         "[hosts]\naddresses = 192.168.31.0/29\nservices = 60001\n" PODS GATEWAY MACHINE_GW,
         ROLE_GATEWAY);
    cr_assert(topology_says("one arm"), "not a host, though in a block of them: %s",
              wants.topology);
    expect("sysctl", "net.ipv4.conf.all.send_redirects", "0");
}

Test(roles, a_node_without_pods_of_a_family)
{
    own[0] = "192.168.31.17";
    own[1] = "fd00:31::17";
    want(POOL "[node one]\naddress = 192.168.31.17, fd00:31::17\npods = 10.200.1.0/24\n[node "
              "two]\naddress = 192.168.31.45, fd00:31::45\npods = fd00:200:1::/64\n[hosts]\n"
              "addresses = 192.168.31.67, fd00:31::67\n"
              "[gateway]\naddress = 192.168.31.2, fd00:31::2\n",
         ROLE_NODE);
    cr_assert(wanted("nft", "ip") && wanted("rule", "ipv4"));
    cr_assert_null(wanted("nft", "ip6"));
    cr_assert_null(wanted("rule", "ipv6"));
    cr_assert_null(wanted("routes", "ipv6 table 161"));
}

Test(roles, confined_pods_reach_services_alone)
{
    own[0] = "192.168.31.17";
    want(POOL NODES HOSTS PODS MACHINE_GW "[snat]\nmode = confine\n", ROLE_NODE);
    cr_assert(strstr(wanted("nft", "ip"), "tcp dport != { 60001 } reject"));
    cr_assert_null(strstr(wanted("nft", "ip"), "tcp sport != "));
}

Test(roles, one_family_only_has_a_gateway)
{
    own[0] = "192.168.31.17";
    own[1] = "fd00:31::17";
    want(POOL "[node one]\naddress = 192.168.31.17, fd00:31::17\npods = 10.200.1.0/24, "
              "fd00:200:1::/64\n[hosts]\naddresses = 192.168.31.67, fd00:31::67\n" GATEWAY,
         ROLE_NODE);
    cr_assert(strstr(notes, "pods and hosts have IPv6 addresses, and [gateway] address has none"));
}

Test(roles, one_arm_needs_the_pods_addresses)
{
    static const struct {
        const char *own;
        unsigned role;
    } each[] = {
        {"192.168.31.17", ROLE_NODE}, {"192.168.31.67", ROLE_HOST}, {"192.168.31.2", ROLE_GATEWAY}};
    for (size_t i = 0; i < 3; i++) {
        own[0] = each[i].own;
        refused(POOL NODES HOSTS PODS GATEWAY MACHINE_GW "[snat]\nmode = keep\n", each[i].role,
                "[snat] mode = keep: hosts and nodes are on one network");
        refused(POOL NODES HOSTS PODS GATEWAY MACHINE_GW "[snat]\nmode = confine\n", each[i].role,
                "allowed with [gateway] address is mode = none");
    }
}

Test(roles, routed)
{
    own[0] = "192.168.31.17";
    behind[0] = "192.168.31.67"; /* by 192.168.31.1 */
    want(POOL NODES HOSTS PODS "[gateway]\naddress = 192.168.31.1\n" MACHINE_GW, ROLE_NODE);
    cr_assert(topology_says("routed"), "%s", wants.topology);
    cr_assert_null(wanted("routes", "ipv4"));
    cr_assert_null(wanted("rule", "ipv4"));
    cr_assert(strstr(wanted("nft", "ip"), "tcp sport 60001-60999 masquerade to :60001-60999"));
    cr_assert(strstr(wanted("nft", "ip"), "tcp sport != { 60001-60999 } reject"));
    cr_assert(strstr(wanted("nft", "ip"), "tcp dport != { 60001 } reject"));
    want(POOL NODES HOSTS PODS "[gateway]\naddress = 192.168.31.2\n" MACHINE_GW, ROLE_NODE);
    expect("routes", "ipv4 table 161", "192.168.31.67/32 via 192.168.31.2\n");
}

Test(roles, an_exclusive_host_gateway_leaves_its_own_to_others)
{
    own[0] = "192.168.31.67";
    want(POOL NODES "[hosts]\naddresses = 192.168.31.67, 192.168.31.68\nservices = 60001\nports = "
                    "61000-61099\n" PODS "[gateway]\naddress = 192.168.31.67\nexclusive = yes\n",
         ROLE_HOST | ROLE_GATEWAY);
    cr_assert_null(strstr(wanted("iptables", "ipv4"), "-A FIXPORT-HOST -s 192.168.31.17/32"));
}

Test(roles, nodes_are_the_firewall)
{
    own[0] = "192.168.31.17";
    want(POOL NODES HOSTS PODS "[machine one]\nroles = node, gateway\n"
                               "[machine two]\nroles = node\n",
         ROLE_NODE | ROLE_GATEWAY);
    cr_assert(topology_says("the nodes are the firewall"), "%s", wants.topology);
    cr_assert(strstr(notes, "[machine two] has the role node and not gateway"), "%s", notes);
    cr_assert(wanted("iptables", "ipv4"));
    cr_assert_null(strstr(wanted("nft", "ip"), "reject"), "the chain does that");
    cr_assert_null(wanted("sysctl", "net.ipv4.conf.all.send_redirects"));
    cr_assert_null(wanted("routes", "ipv4"));
}

Test(roles, a_gateway_without_an_address)
{
    own[0] = "192.168.31.17";
    want(POOL NODES HOSTS PODS MACHINE_GW "[snat]\nmode = keep\n", ROLE_NODE);
    cr_assert(topology_says("like a bridge"), "%s", wants.topology);
    want(POOL NODES HOSTS PODS, ROLE_NODE);
    cr_assert(topology_says("no gateway"), "%s", wants.topology);
}

Test(roles, a_host_is_the_gateway)
{
    own[0] = "192.168.31.67";
    want(POOL NODES "[hosts]\naddresses = 192.168.31.67, 192.168.31.68\nservices = 60001\nports = "
                    "61000-61099\n" PODS "[gateway]\naddress = 192.168.31.67\n",
         ROLE_HOST | ROLE_GATEWAY);
    const char *rules = wanted("iptables", "ipv4");
    cr_assert(topology_says("a host is the gateway"), "%s", wants.topology);
    cr_assert(strstr(rules,
                     "-A FIXPORT-HOST -s 10.200.1.0/24 -d 192.168.31.67/32 -p tcp -m comment "
                     "--comment \"fixport:to this host\" -g FIXPORT-PODS-OUT-TCP\n"));
    cr_assert(strstr(rules,
                     "-A FIXPORT-HOST -s 192.168.31.67/32 -d 10.200.1.0/24 -p tcp -m comment "
                     "--comment \"fixport:from this host\" -g FIXPORT-PODS-IN-TCP\n"));
    cr_assert_null(strstr(rules, "-A FIXPORT-HOST -s 10.200.1.0/24 -d 192.168.31.68/32"));
    cr_assert(strstr(rules, "\n1 -A INPUT ") && strstr(rules, "\n1 -A OUTPUT "));
    own[0] = "192.168.31.17";
    want(POOL NODES "[hosts]\naddresses = 192.168.31.67, 192.168.31.68\n"
                    "[gateway]\naddress = 192.168.31.67\n",
         ROLE_NODE);
    expect("routes", "ipv4 table 161", "192.168.31.68/32 via 192.168.31.67\n");
    want(POOL NODES "[hosts]\naddresses = 192.168.31.67\n[gateway]\naddress = 192.168.31.67\n"
                    "[snat]\nmode = keep\n",
         ROLE_NODE);
    cr_assert_null(wanted("rule", "ipv4"), "to the gateway itself the way is straight");
}

Test(roles, a_gateway_that_masquerades)
{
    own[0] = "192.168.31.2";
    masquerades = true;
    want(POOL NODES HOSTS PODS GATEWAY, ROLE_GATEWAY);
    cr_assert(strstr(wanted("nft", "ip"),
                     "\t\tip saddr { 10.200.1.0/24, 10.200.36.0/24 } ip daddr 192.168.31.67 meta "
                     "l4proto tcp snat to ip saddr comment \"fixport: as it is\"\n"
                     "\t\tip saddr 192.168.31.67 ip daddr { 10.200.1.0/24, 10.200.36.0/24 } meta "
                     "l4proto tcp snat to ip saddr comment \"fixport: as it is\"\n"));
    cr_assert(strstr(notes, "translates source addresses (oifname \"eth0\" masquerade)"));
    cr_assert_null(strstr(notes, "two nodes that use one port"), "pods keep their addresses here");
}

Test(roles, routes_that_somebody_else_has_made)
{
    own[0] = "192.168.31.67";
    routed[0] = "10.200.1.0";
    want(POOL NODES HOSTS PODS, ROLE_HOST);
    expect("routes", "ipv4",
           "10.200.1.77/32 via 192.168.31.45\n10.200.36.0/24 via 192.168.31.45\n");
    cr_assert(strstr(notes, "the route to 10.200.1.0/24 that is wanted is there already"), "%s",
              notes);
}

Test(roles, a_host_that_sends_from_another_address)
{
    own[0] = "192.168.31.66";
    own[1] = "192.168.31.67";
    source = "192.168.31.67";
    want(POOL NODES HOSTS PODS, ROLE_HOST);
    cr_assert_str_eq(notes, "");
    source = "192.168.31.66";
    want(POOL NODES HOSTS PODS, ROLE_HOST);
    cr_assert(strstr(notes, "sends to pods from 192.168.31.66, which is not in [hosts] addresses"),
              "%s", notes);
}

Test(roles, a_machine_that_is_not_what_its_role_says)
{
    own[0] = "192.168.31.99";
    refused(POOL NODES HOSTS PODS, ROLE_HOST,
            "role host: [hosts] addresses has none of this machine's addresses");
    want(POOL NODES HOSTS PODS GATEWAY, ROLE_GATEWAY);
    cr_assert(strstr(notes, "this machine has none of [gateway] address"), "%s", notes);
}

Test(roles, node_without_translation)
{
    own[0] = "fd00:31::17";
    want(POOL "[node one]\naddress = fd00:31::17\npods = fd00:200::/64, fd00:200:0:1::/64\n"
              "[hosts]\naddresses = fd00:31::67\n[snat]\nmode = none\n",
         ROLE_NODE);
    cr_assert(strstr(wanted("nft", "ip6"),
                     "\t\tip6 saddr fd00:200::/63 ip6 daddr fd00:31::67 meta l4proto tcp "
                     "snat to ip6 saddr comment"));
    cr_assert_null(wanted("nft", "ip"));
}

Test(roles, node_refused)
{
    own[0] = "192.168.31.99";
    refused(POOL NODES HOSTS, ROLE_NODE, "no [node NAME] has an address of this machine");
    own[0] = "192.168.31.17";
    refused(POOL NODES, ROLE_NODE, "add [hosts] addresses");
    own[1] = "10.200.36.1";
    refused(POOL NODES HOSTS, ROLE_NODE, "[node two] pods = 10.200.36.0/24 contains 10.200.36.1");
    own[1] = NULL;
    refused(POOL NODES "[hosts]\naddresses = 192.168.31.16/29\n" GATEWAY, ROLE_NODE,
            "192.168.31.16/29 contains this machine's address 192.168.31.17");
    refused(POOL NODES "[hosts]\naddresses = 192.168.31.40/29\n" GATEWAY, ROLE_NODE,
            "contains a node's address 192.168.31.45");
    nowhere[0] = "192.168.31.67";
    refused(POOL NODES HOSTS, ROLE_NODE, "no route");
}

Test(roles, gateway_that_is_a_node)
{
    own[0] = "192.168.31.17";
    want(POOL NODES HOSTS PODS "[gateway]\naddress = 192.168.31.17\n", ROLE_GATEWAY | ROLE_NODE);
    cr_assert_null(wanted("routes", "ipv4"), "those are the CNI's");
    cr_assert(wanted("nft", "ip"));
    cr_assert(wanted("iptables", "ipv4"));
}

/* ---- control-plane ---- */

#define MANIFEST "/etc/kubernetes/manifests/kube-apiserver.yaml"
#define BACKUP "/var/lib/fixport/kube-apiserver.yaml.before"

Test(roles, control_plane)
{
    own[0] = "192.168.31.17";
    want(POOL NODES "[control-plane]\nnode-ports = 20000-29999\n", ROLE_CONTROL_PLANE);
    cr_assert_not_null(wanted("file", "/etc/systemd/system/fixport-setup.service"));
    expect("nodeports", MANIFEST, "20000-29999");
    expect("file", BACKUP, "0600 0 0\nthe manifest\n");
    cr_assert_eq(wants.count, 4);
    manifest = "20000-29999";
    want(POOL NODES "[control-plane]\nnode-ports = 20000-29999\n", ROLE_CONTROL_PLANE);
    cr_assert_null(wanted("file", BACKUP), "there is nothing to change");
    struct journal_entry entry = {
        .type = &resource_file, .name = (char *)BACKUP, .wanted = (char *)"0600 0 0\nolder\n"};
    struct journal before = {.entry = &entry, .count = 1};
    journal = &before;
    want(POOL NODES "[control-plane]\nnode-ports = 20000-29999\n", ROLE_CONTROL_PLANE);
    expect("file", BACKUP, "0600 0 0\nolder\n");
}

Test(roles, control_plane_refused)
{
    refused(POOL NODES, ROLE_CONTROL_PLANE, "add [control-plane] node-ports");
}
