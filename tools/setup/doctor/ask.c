/* SPDX-License-Identifier: MIT */
/*
 * What the doctor's checks ask for one by one: sysctls, routes, processes, rules.
 */
#include "doctor.h"

#include "../../../pool/address.h"

#include <ctype.h>
#include <dirent.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define COMM_MOST 15 /* characters of a process's name that the kernel keeps */

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

char *text_clean(const char *text, bool utf8)
{
    size_t size = strlen(text) + 1;
    char *clean = state_grow(NULL, size);
    say_clean(text, size, utf8, clean, size);
    return clean;
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

/* ---- rules ---- */

/* All that iptables-save has to say, of both families and backends, and then nft. */
const char *facts_rules(struct facts *facts)
{
    struct twin nobody = {.home = -1};
    struct ruleset ruleset;
    if (facts->rules)
        return facts->rules;
    FILE *out = state_open(&facts->rules);
    ruleset_save(&nobody, &ruleset);
    for (size_t i = TWIN_IPTABLES_NFT; i <= TWIN_NFT; i++)
        for (size_t k = 0; k < 2; k++)
            fputs(ruleset.text[i][k], out);
    state_close(out);
    memcpy(facts->uses, nobody.uses, sizeof(facts->uses));
    if (nobody.notes)
        facts_denied(facts, "all rules of iptables and nft");
    ruleset_free(&ruleset);
    twin_free(&nobody);
    return facts->rules;
}

const char *fact_rule(struct facts *facts, const char *begin, const char *after)
{
    const char *line = after ? strchr(after, '\n') : facts_rules(facts);
    if (after && line)
        line++;
    while (line && *line) {
        if (strncmp(line, begin, strlen(begin)) == 0)
            return line;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return NULL;
}
