/* SPDX-License-Identifier: MIT */
/*
 * What the doctor's checks ask for one by one: sysctls, routes, processes, a rule's text. And the
 * flows, which say what connections are all about.
 */
#include "doctor.h"

#include "../../../pool/address.h"

#include <ctype.h>
#include <dirent.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define COMM_MOST 15  /* characters of a process's name that the kernel keeps */
#define FLOWS_MAX 256 /* pairs of blocks that are looked at; rules seldom tell more apart */

char *text_format(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0)
        exit(say_error(SETUP_ERROR, "out of memory"));
    return text;
}

/* ---- addresses and blocks ---- */

static char *ask_buffer(size_t *size)
{
    static char buffers[8][512];
    static unsigned turn;
    *size = sizeof(buffers[0]);
    return buffers[turn++ % 8];
}

const char *fact_address(const uint8_t addr[16])
{
    size_t size;
    char *buf = ask_buffer(&size);
    struct text text = text_begin(buf, size);
    address_print(&text, addr);
    return buf;
}

const char *fact_block(const struct block *block)
{
    size_t size;
    char *buf = ask_buffer(&size);
    if (block->prefix == 128)
        return fact_address(block->addr);
    return block_print(block, buf, size);
}

const char *fact_set(const struct portset *set)
{
    size_t size;
    char *buf = ask_buffer(&size);
    portset_print(set, buf, size);
    return buf;
}

struct block fact_single(const uint8_t addr[16])
{
    struct block block = {.prefix = 128};
    memcpy(block.addr, addr, 16);
    return block;
}

/* ---- sysctls and processes ---- */

/* The first line of a file of /proc. */
static bool ask_line(const char *path, char *buf, size_t size)
{
    FILE *file = fopen(path, "re");
    bool good = file && fgets(buf, (int)size, file);
    if (file)
        fclose(file);
    if (good)
        buf[strcspn(buf, "\n")] = '\0';
    return good;
}

bool fact_sysctl(const char *name, char *buf, size_t size)
{
    static const char root[] = "/proc/sys/";
    char path[256];
    if ((size_t)snprintf(path, sizeof(path), "%s%s", root, name) >= sizeof(path))
        return false;
    for (char *c = path + sizeof(root) - 1; *c; c++)
        *c = *c == '.' ? '/' : *c == '/' ? '.' : *c;
    return ask_line(path, buf, size);
}

long fact_number(const char *name, long otherwise)
{
    char buf[64], *end;
    if (!fact_sysctl(name, buf, sizeof(buf)))
        return otherwise;
    long number = strtol(buf, &end, 10);
    return end == buf ? otherwise : number;
}

const char *fact_setting(int family, const char *dev, const char *key)
{
    size_t size;
    char *buf = ask_buffer(&size);
    return machine_sysctl(family, dev, key, buf, size);
}

long fact_conf(int family, const char *dev, const char *key, long otherwise)
{
    return *dev ? fact_number(fact_setting(family, dev, key), otherwise) : otherwise;
}

bool fact_process(const char *name)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    char path[300], comm[64];
    bool found = false;
    while (proc && !found && (entry = readdir(proc))) {
        snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
        found = isdigit((unsigned char)entry->d_name[0]) && ask_line(path, comm, sizeof(comm)) &&
                strncmp(comm, name, COMM_MOST) == 0;
    }
    if (proc)
        closedir(proc);
    return found;
}

/* ---- ip(8) ---- */

static char *const *ask_argv(int family, const char *const words[])
{
    static char *argv[16];
    size_t count = 0;
    argv[count++] = "ip";
    argv[count++] = family == 4 ? "-4" : "-6";
    argv[count++] = "-j";
    for (size_t i = 0; words[i] && count < 15; i++)
        argv[count++] = (char *)words[i];
    argv[count] = NULL;
    return argv;
}

json_t *fact_ip(int family, const char *const words[])
{
    struct run_result result;
    json_t *json = NULL;
    if (run_tool(ask_argv(family, words), NULL, &result) == 0)
        json = json_loads(*result.output ? result.output : "[]", 0, NULL);
    run_free(&result);
    return json;
}

static void route_text(const json_t *route, const char *key, char *buf, size_t size)
{
    const char *text = json_string_value(json_object_get(route, key));
    snprintf(buf, size, "%s", text ? text : "");
}

/* "10.200.1.1 via 10.9.0.5 dev eth0", as ip prints it for people. */
static char *route_line(const json_t *route)
{
    static const char *const keys[] = {"type", "dst", "from", "gateway", "dev", "table"};
    static const char *const words[] = {"", "", "from ", "via ", "dev ", "table "};
    char *line = state_copy("");
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const char *value = json_string_value(json_object_get(route, keys[i]));
        if (!value)
            continue;
        char *longer = text_format("%s%s%s%s", line, *line ? " " : "", words[i], value);
        free(line);
        line = longer;
    }
    return line;
}

/* What "ip route get" answered. */
static void route_read(struct fact_route *route, const json_t *answer)
{
    const json_t *first = json_array_get(answer, 0);
    const char *type = json_string_value(json_object_get(first, "type"));
    route_text(first, "gateway", route->gateway, sizeof(route->gateway));
    route_text(first, "dev", route->dev, sizeof(route->dev));
    route_text(first, "table", route->table, sizeof(route->table));
    route->local = type && strcmp(type, "local") == 0;
    route->found = route->dev[0] && (!type || route->local || strcmp(type, "unicast") == 0);
    route->line = route_line(first);
}

/* @question: the words behind "ip route get", NULL-terminated. */
static void route_ask(struct fact_route *route, int family, const char *const question[])
{
    const char *words[10] = {"route", "get"};
    struct run_result result;
    json_t *answer = NULL;
    for (size_t i = 0; i < 6 && question[i]; i++)
        words[i + 2] = question[i];
    if (run_tool(ask_argv(family, words), NULL, &result) == 0)
        answer = json_loads(result.output, 0, NULL);
    if (answer) {
        route_read(route, answer);
    } else {
        result.errors[strcspn(result.errors, "\n")] = '\0';
        route->line = text_format("%s: %s", question[0], result.errors);
    }
    json_decref(answer);
    run_free(&result);
}

const struct fact_route *fact_route(struct facts *facts, const uint8_t addr[16],
                                    const uint8_t *from, const char *in)
{
    const char *to = fact_address(addr), *source = from ? fact_address(from) : "";
    const char *question[7] = {to};
    char dev[IFNAMSIZ];
    size_t words = 1;
    snprintf(dev, sizeof(dev), "%s", in ? in : "");
    char *key = text_format("%s %s %s", to, source, dev);
    for (size_t i = 0; i < facts->routes; i++) {
        if (strcmp(facts->route[i].key, key) == 0) {
            free(key);
            return &facts->route[i];
        }
    }
    for (int i = 0; from && i < 2; i++)
        question[words++] = i ? source : "from";
    for (int i = 0; *dev && i < 2; i++)
        question[words++] = i ? dev : "iif";
    facts->route = state_grow(facts->route, (facts->routes + 1) * sizeof(*facts->route));
    struct fact_route *route = &facts->route[facts->routes++];
    *route = (struct fact_route){.key = key};
    route_ask(route, address_is_v4(addr) ? 4 : 6, question);
    return route;
}

/* Of a block that is this machine's own, routes to single pods tell: the first that has a device.
 */
static const char *device_inside(const struct block *block)
{
    const char *words[] = {"route", "show", "root", fact_block(block), NULL};
    json_t *list = fact_ip(block_family(block), words), *route;
    size_t i, size;
    char *buf = ask_buffer(&size);
    buf[0] = '\0';
    json_array_foreach(list, i, route)
    {
        if (!buf[0])
            route_text(route, "dev", buf, IFNAMSIZ);
    }
    json_decref(list);
    return buf;
}

const char *fact_device(struct facts *facts, const struct block *block)
{
    uint8_t addr[16];
    if (block->prefix <= (block_is_v4(block) ? 96 : 0))
        return "";
    block_sample(block, addr);
    const struct fact_route *route = fact_route(facts, addr, NULL, NULL);
    if (route->found && !route->local)
        return route->dev;
    return block->prefix < 128 ? device_inside(block) : "";
}

/* ---- the firewall ---- */

const struct fw_chain *fact_has_chain(const struct facts *facts, const char *prefix)
{
    for (size_t i = 0; i < facts->fw.chains; i++)
        if (strncmp(facts->fw.chain[i].name, prefix, strlen(prefix)) == 0)
            return &facts->fw.chain[i];
    return NULL;
}

/* The text of all rules with their handles: asked for when the first rule is to be shown. */
static const char *ask_ruleset(struct facts *facts)
{
    char *argv[] = {"nft", "-a", "list", "ruleset", NULL};
    struct run_result result;
    if (!facts->ruleset) {
        bool good = run_tool(argv, NULL, &result) == 0;
        facts->ruleset = state_copy(good ? result.output : "");
        run_free(&result);
    }
    return facts->ruleset;
}

/* Whether a line of nft's ends in "# handle N"; then it is cut off there. */
static bool ask_handle(char *line, int64_t handle)
{
    char *at = strstr(line, "# handle "), *next;
    while (at && (next = strstr(at + 1, "# handle ")))
        at = next;
    if (!at || strtoll(at + 9, NULL, 10) != handle)
        return false;
    while (at > line && at[-1] == ' ')
        at--;
    *at = '\0';
    return true;
}

/* A rule stands deeper than its chain, and that deeper than its table. */
static char *ask_rule(struct facts *facts, const struct fw_chain *chain, int64_t handle)
{
    char *copy = state_copy(ask_ruleset(facts)), *rest = copy, *line, *found = NULL;
    char *head = text_format("table %s %s {", chain->table_family, chain->table);
    bool inside = false;
    while (!found && (line = strsep(&rest, "\n"))) {
        if (line[0] && line[0] != '\t')
            inside = strncmp(line, head, strlen(head)) == 0;
        else if (inside && line[0] == '\t' && line[1] == '\t' && ask_handle(line, handle))
            found = state_copy(line + 2);
    }
    free(head);
    free(copy);
    return found;
}

char *fw_rule_text(struct facts *facts, const struct fw_chain *chain, const struct fw_rule *rule)
{
    static const char *const tools[] = {"iptables-nft", "iptables-legacy", "ip6tables-nft",
                                        "ip6tables-legacy"};
    if (rule && rule->text)
        return text_format("%s -t %s %s", tools[chain->backend + (chain->family == 6 ? 2 : 0)],
                           chain->table, rule->text);
    if (chain->backend != FW_NFT)
        return text_format("%s -t %s -P %s DROP",
                           tools[chain->backend + (chain->family == 6 ? 2 : 0)], chain->table,
                           chain->name);
    char *rule_line = rule ? ask_rule(facts, chain, rule->handle) : state_copy("policy drop");
    char *text = text_format("nft table %s %s, chain %s: %s", chain->table_family, chain->table,
                             chain->name, rule_line ? rule_line : "(not listed any more)");
    free(rule_line);
    return text;
}

/* ---- flows ---- */

struct flows {
    struct facts *facts;
    flow_each *each;
    void *arg;
    unsigned left;
    bool from_here, to_here;
};

static void flow_pair(struct flows *flows, const struct block *from, const struct block *to,
                      const struct portset *sports, const struct portset *dports)
{
    struct flow flow = {*from, *to, flows->from_here, flows->to_here, sports, dports, "", "", 0};
    if (block_is_v4(from) != block_is_v4(to) || flows->left == 0)
        return;
    flows->left--;
    snprintf(flow.in, sizeof(flow.in), "%s", fact_device(flows->facts, from));
    snprintf(flow.out, sizeof(flow.out), "%s", fact_device(flows->facts, to));
    flows->each(flows->facts, &flow, flows->arg);
}

static void flow_pairs(struct flows *flows, const struct block_list *from,
                       const struct block_list *to, const struct portset *sports,
                       const struct portset *dports)
{
    flows->left = FLOWS_MAX;
    for (size_t a = 0; a < from->count; a++)
        for (size_t b = 0; b < to->count; b++)
            flow_pair(flows, &from->item[a], &to->item[b], sports, dports);
}

static const struct portset *flow_set(const struct portset *set)
{
    return set->count ? set : NULL;
}

/* Nothing is known: any address to any address. */
static void flow_anything(struct flows *flows)
{
    static const struct block any4 = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96};
    static const struct block any6 = {{0}, 0};
    const struct portset *sports = flows->facts->port_sets ? &flows->facts->ports[0].set : NULL;
    flows->left = 2;
    flow_pair(flows, &any4, &any4, sports, NULL);
    flow_pair(flows, &any6, &any6, sports, NULL);
}

static const struct block_list *flow_pods(const struct facts *facts)
{
    bool own = facts->self && !(facts->roles & ROLE_GATEWAY);
    return own ? &facts->self->pods : &facts->site.pods;
}

void flows_from_pods(struct facts *facts, flow_each *each, void *arg)
{
    const struct site *site = &facts->site;
    struct flows flows = {.facts = facts, .each = each, .arg = arg};
    struct portset pool = {.count = 0};
    if (!facts->has_site || facts->roles & ROLE_UNKNOWN || !site->hosts.count) {
        flow_anything(&flows);
        return;
    }
    if (!(facts->roles & (ROLE_NODE | ROLE_GATEWAY)))
        return;
    site_pool_ports(&site->config.policy, &pool);
    flow_pairs(&flows, flow_pods(facts), &site->hosts, flow_set(&pool),
               flow_set(&site->host_services));
}

void flows_to_pods(struct facts *facts, flow_each *each, void *arg)
{
    const struct site *site = &facts->site;
    struct flows flows = {.facts = facts, .each = each, .arg = arg};
    if (facts->roles & (ROLE_NODE | ROLE_GATEWAY) && site->pod_services.count)
        flow_pairs(&flows, &site->hosts, flow_pods(facts), flow_set(&site->host_ports),
                   &site->pod_services);
}

void flows_out(struct facts *facts, flow_each *each, void *arg)
{
    const struct site *site = &facts->site;
    struct flows flows = {.facts = facts, .each = each, .arg = arg, .from_here = true};
    if (facts->roles & ROLE_HOST && site->host_ports.count)
        flow_pairs(&flows, &site->hosts, &site->pods, &site->host_ports,
                   flow_set(&site->pod_services));
}

void flows_in(struct facts *facts, flow_each *each, void *arg)
{
    const struct site *site = &facts->site;
    struct flows flows = {.facts = facts, .each = each, .arg = arg, .to_here = true};
    struct portset pool = {.count = 0};
    if (!(facts->roles & ROLE_HOST) || !site->host_services.count)
        return;
    site_pool_ports(&site->config.policy, &pool);
    flow_pairs(&flows, &site->pods, &site->hosts, flow_set(&pool), &site->host_services);
}
