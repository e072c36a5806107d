/* SPDX-License-Identifier: MIT */
/*
 * What the roles ask of this machine: its addresses, and how it would send to one. Routes are
 * asked for with ip(8) rather than computed from addresses: policy routing, and whatever else the
 * kernel has, counts then.
 */
#include "roles.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <string.h>

/* ---- addresses ---- */

static unsigned mask_length(const struct sockaddr *mask, size_t offset, size_t bytes)
{
    const uint8_t *bits = (const uint8_t *)mask + offset;
    unsigned length = 0;
    while (length < bytes * 8 && bits[length / 8] & 0x80 >> length % 8)
        length++;
    return length;
}

static bool is_link_local(const uint8_t addr[16])
{
    return addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80;
}

/* Return: whether the entry is of interest. */
static bool address_take(const struct ifaddrs *entry, struct machine_address *found)
{
    struct dest dest;
    bool v4 = entry->ifa_addr && entry->ifa_addr->sa_family == AF_INET;
    bool v6 = entry->ifa_addr && entry->ifa_addr->sa_family == AF_INET6;
    if (!entry->ifa_netmask || (!v4 && !v6))
        return false;
    if (!dest_from_sockaddr(entry->ifa_addr,
                            v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6), &dest))
        return false;
    memcpy(found->addr, dest.addr, 16);
    found->prefix = (uint8_t)(v4 ? 96 + mask_length(entry->ifa_netmask,
                                                    offsetof(struct sockaddr_in, sin_addr), 4)
                                 : mask_length(entry->ifa_netmask,
                                               offsetof(struct sockaddr_in6, sin6_addr), 16));
    snprintf(found->device, sizeof(found->device), "%s", entry->ifa_name);
    return !addr_is_loopback(found->addr) && !is_link_local(found->addr);
}

int machine_look(struct machine *machine, struct setup_error *error)
{
    struct ifaddrs *list;
    *machine = (struct machine){.count = 0};
    if (getifaddrs(&list) < 0)
        return setup_fail(error, "the addresses of this machine: %m");
    for (const struct ifaddrs *at = list; at; at = at->ifa_next) {
        struct machine_address found;
        if (!address_take(at, &found))
            continue;
        size_t size = (machine->count + 1) * sizeof(found);
        machine->item = state_grow(machine->item, size);
        machine->item[machine->count++] = found;
    }
    freeifaddrs(list);
    return 0;
}

void machine_free(struct machine *machine)
{
    free(machine->item);
    *machine = (struct machine){.count = 0};
}

const struct machine_address *machine_has(const struct machine *machine, const uint8_t addr[16])
{
    for (size_t i = 0; i < machine->count; i++)
        if (memcmp(machine->item[i].addr, addr, 16) == 0)
            return &machine->item[i];
    return NULL;
}

static int gateway_suits(const uint8_t addr[16], const void *arg)
{
    const struct machine *machine = arg;
    if (machine_has(machine, addr))
        return 2;
    for (size_t i = 0; i < machine->count; i++) {
        struct block network = {.prefix = machine->item[i].prefix};
        memcpy(network.addr, machine->item[i].addr, 16);
        address_mask(network.addr, network.prefix);
        if (block_has(&network, addr))
            return 1;
    }
    return 0;
}

void machine_choose_gateway(const struct machine *machine, struct site *site)
{
    site_choose_gateway(site, gateway_suits, machine);
}

int site_place(struct site *site, struct setup_error *error)
{
    struct machine machine = {.count = 0};
    int result = machine_look(&machine, error);
    if (!result)
        machine_choose_gateway(&machine, site);
    machine_free(&machine);
    return result;
}

const char *machine_networks(const struct machine *machine, int family, char *buf, size_t size)
{
    char text[BLOCK_TEXT];
    size_t at = 0;
    snprintf(buf, size, "none");
    for (size_t i = 0; i < machine->count && at < size; i++) {
        struct block block = {.prefix = machine->item[i].prefix};
        memcpy(block.addr, machine->item[i].addr, 16);
        address_mask(block.addr, block.prefix);
        if (block_family(&block) == family)
            at +=
                (size_t)snprintf(buf + at, size - at, "%s%s (%s)", at ? ", " : "",
                                 block_print(&block, text, sizeof(text)), machine->item[i].device);
    }
    return buf;
}

/* ---- routes ---- */

static void copy_word(const json_t *object, const char *key, char *buf, size_t size)
{
    const char *word = json_string_value(json_object_get(object, key));
    snprintf(buf, size, "%s", word ? word : "");
}

/* One object of "ip -j route get". */
static void path_fill(const json_t *route, struct machine_path *path)
{
    char type[32];
    const json_t *via = json_object_get(route, "via");
    copy_word(route, "type", type, sizeof(type));
    copy_word(route, "dev", path->device, sizeof(path->device));
    copy_word(route, "gateway", path->router, sizeof(path->router));
    copy_word(route, "prefsrc", path->source, sizeof(path->source));
    if (via)
        copy_word(via, "host", path->router, sizeof(path->router));
    path->local = strcmp(type, "local") == 0;
    path->found = path->local || !*type || strcmp(type, "unicast") == 0;
    path->direct = path->found && !path->local && !*path->router;
    if (!path->found)
        snprintf(path->why, sizeof(path->why), "it is a %s address", type);
}

/* "RTNETLINK answers: Network is unreachable": what is behind the colon. */
static void path_why(const char *errors, struct machine_path *path)
{
    const char *colon = strstr(errors, "answers: ");
    const char *why = colon ? colon + strlen("answers: ") : errors;
    snprintf(path->why, sizeof(path->why), "%.*s", (int)strcspn(why, "\n"), why);
}

/* @from, @device: of a packet that is forwarded; NULL: this machine's own. */
static int path_ask(const uint8_t addr[16], const char *from, const char *device,
                    struct machine_path *path, struct setup_error *error)
{
    char text[ADDR_TEXT];
    char *argv[] = {(char *)"ip",  (char *)(address_is_v4(addr) ? "-4" : "-6"),
                    (char *)"-j",  (char *)"route",
                    (char *)"get", text,
                    NULL,          (char *)(uintptr_t)from,
                    (char *)"iif", (char *)(uintptr_t)device,
                    NULL};
    struct run_result result;
    int status = 0;
    if (from)
        argv[6] = (char *)"from";
    addr_print(addr, text, sizeof(text));
    *path = (struct machine_path){.found = false};
    if (run_tool(argv, NULL, &result) == 0) {
        json_t *list = json_loads(result.output, 0, NULL);
        const json_t *route = json_array_get(list, 0);
        if (json_is_object(route))
            path_fill(route, path);
        else
            status = setup_fail(error, "ip route get %s: its answer is not understood", text);
        json_decref(list);
    } else if (result.status == 2) { /* the kernel's answer was an error */
        path_why(result.errors, path);
    } else {
        status = run_explain(argv, &result, error);
    }
    run_free(&result);
    return status;
}

int machine_path(const uint8_t addr[16], const uint8_t *from, struct machine_path *path,
                 struct setup_error *error)
{
    char text[ADDR_TEXT];
    struct machine_path pod;
    if (!from)
        return path_ask(addr, NULL, NULL, path, error);
    if (path_ask(from, NULL, NULL, &pod, error) < 0)
        return -1;
    /* Before the network of pods is there, or if nothing is forwarded yet, the kernel refuses. */
    if (pod.found && !pod.local &&
        path_ask(addr, addr_print(from, text, sizeof(text)), pod.device, path, error) == 0 &&
        path->found)
        return 0;
    return path_ask(addr, NULL, NULL, path, error);
}

/* Routes of table main that @how ("match", "exact") selects; a JSON list, or NULL. */
static json_t *routes_select(const char *how, const struct block *to, struct setup_error *error)
{
    char text[BLOCK_TEXT];
    char *argv[] = {(char *)"ip",   (char *)(block_is_v4(to) ? "-4" : "-6"),
                    (char *)"-j",   (char *)"route",
                    (char *)"show", (char *)"table",
                    (char *)"main", (char *)(uintptr_t)how,
                    text,           NULL};
    struct run_result result;
    json_t *list = NULL;
    block_print(to, text, sizeof(text));
    if (run_tool(argv, NULL, &result) < 0) {
        run_explain(argv, &result, error);
    } else {
        list = result.output[strspn(result.output, " \n")] ? json_loads(result.output, 0, NULL)
                                                           : json_array();
        if (!list)
            setup_fail(error, "ip route show: its answer is not understood");
    }
    run_free(&result);
    return list;
}

static bool route_is_ours(const json_t *route)
{
    char protocol[16], number[8];
    copy_word(route, "protocol", protocol, sizeof(protocol));
    snprintf(number, sizeof(number), "%d", SETUP_ROUTE_PROTOCOL);
    return strcmp(protocol, number) == 0 || strcmp(protocol, "fixport") == 0;
}

/* How long the prefix of a route's destination is: "10.0.0.0/8" 8, an address 128, "default" 0. */
static int route_length(const json_t *route)
{
    char to[BLOCK_TEXT];
    copy_word(route, "dst", to, sizeof(to));
    const char *slash = strchr(to, '/');
    return strcmp(to, "default") == 0 ? 0 : slash ? atoi(slash + 1) : 128;
}

/* The first pod that has a route of its own in the block, as Calico gives each. */
static bool pod_routed(const struct block *pods, uint8_t addr[16])
{
    struct setup_error ignored;
    size_t i;
    json_t *route, *list = routes_select("root", pods, &ignored);
    bool found = false;
    json_array_foreach(list, i, route)
    {
        char to[BLOCK_TEXT], via[64];
        copy_word(route, "dst", to, sizeof(to));
        copy_word(route, "gateway", via, sizeof(via));
        found = !*via && !strchr(to, '/') && address_parse(to, strlen(to), addr);
        if (found)
            break;
    }
    json_decref(list);
    return found;
}

void machine_pod(const struct machine *machine, const struct block *pods, uint8_t addr[16])
{
    struct setup_error ignored;
    struct machine_path path;
    uint8_t routed[16];
    block_sample(pods, addr);
    while (machine_has(machine, addr) && addr[15] < 254) /* the bridge's own */
        addr[15]++;
    if (machine_path(addr, NULL, &path, &ignored) < 0 || !path.found || !path.direct)
        if (pod_routed(pods, routed))
            memcpy(addr, routed, 16);
}

int machine_path_unrouted(const uint8_t addr[16], struct machine_path *path,
                          struct setup_error *error)
{
    struct block one = {.prefix = 128};
    const json_t *best = NULL;
    bool ours = false;
    size_t i;
    json_t *route;
    memcpy(one.addr, addr, 16);
    json_t *list = routes_select("match", &one, error);
    if (!list)
        return -1;
    json_array_foreach(list, i, route)
    {
        if (route_is_ours(route))
            ours = true;
        else if (!best || route_length(route) > route_length(best))
            best = route;
    }
    if (ours) {
        *path = (struct machine_path){.why = "Network is unreachable"};
        if (best)
            path_fill(best, path);
    }
    json_decref(list);
    return ours ? 0 : machine_path(addr, NULL, path, error);
}

int machine_has_route(const struct block *to, const uint8_t via[16], struct setup_error *error)
{
    char router[64], wanted[ADDR_TEXT];
    bool found = false, ours = false;
    size_t i;
    json_t *route, *list = routes_select("exact", to, error);
    if (!list)
        return -1;
    json_array_foreach(list, i, route)
    {
        copy_word(route, "gateway", router, sizeof(router));
        ours = ours || route_is_ours(route);
        found = found || strcmp(router, addr_print(via, wanted, sizeof(wanted))) == 0;
    }
    json_decref(list);
    return found && !ours;
}

const char *machine_sysctl(int family, const char *device, const char *setting, char *buf,
                           size_t size)
{
    char swapped[IF_NAMESIZE];
    snprintf(swapped, sizeof(swapped), "%s", device);
    for (char *at = swapped; *at; at++)
        if (*at == '.')
            *at = '/';
    snprintf(buf, size, "net.ipv%d.conf.%s.%s", family, swapped, setting);
    return buf;
}

bool machine_ra_device(const char *device)
{
    char *argv[] = {(char *)"ip",
                    (char *)"-6",
                    (char *)"-j",
                    (char *)"route",
                    (char *)"show",
                    (char *)"default",
                    (char *)"proto",
                    (char *)"ra",
                    (char *)"dev",
                    (char *)device,
                    NULL};
    struct run_result result;
    bool found = false;
    if (run_tool(argv, NULL, &result) == 0) {
        json_t *list = json_loads(result.output, 0, NULL);
        found = json_array_size(list) > 0;
        json_decref(list);
    }
    run_free(&result);
    return found;
}

int machine_marks(int family, uint32_t mark, char *rule, size_t size, struct setup_error *error)
{
    char *argv[] = {(char *)"ip", (char *)(family == 4 ? "-4" : "-6"), (char *)"-j",
                    (char *)"-Numeric", (char *)"rule", NULL}; /* as in resources/rule.c */
    struct run_result result;
    size_t i;
    int found = 0;
    json_t *one, *list = NULL;
    if (run_tool(argv, NULL, &result) < 0)
        found = run_explain(argv, &result, error);
    else
        list = json_loads(result.output, 0, NULL);
    run_free(&result);
    json_array_foreach(list, i, one)
    {
        char value[32], mask[32];
        copy_word(one, "fwmark", value, sizeof(value));
        copy_word(one, "fwmask", mask, sizeof(mask));
        if (route_is_ours(one) || !(strtoul(value, NULL, 0) & mark))
            continue;
        snprintf(rule, size, "priority %lld, fwmark %s%s%s",
                 (long long)json_integer_value(json_object_get(one, "priority")), value,
                 *mask ? "/" : "", mask);
        found = 1;
        break;
    }
    json_decref(list);
    return found;
}

/* The first line of nft's ruleset outside of our table that translates sources. */
static bool ruleset_translates(const char *ruleset, int family, char *rule, size_t size)
{
    const char *line, *at = ruleset;
    size_t length;
    bool concerned = false, source = false;
    while ((line = state_line(&at, &length))) {
        char text[400];
        snprintf(text, sizeof(text), "%.*s", (int)length, line);
        if (strncmp(text, "table ", 6) == 0)
            concerned = (strncmp(text, family == 4 ? "table ip " : "table ip6 ", 9) == 0 ||
                         strncmp(text, "table inet ", 11) == 0) &&
                        !strstr(text, " " SETUP_TABLE " {");
        source = strstr(text, "masquerade") || strstr(text, "snat to ") ||
                 strstr(text, "snat ip to ") || strstr(text, "snat ip6 to ") ||
                 strstr(text, "\"MASQUERADE\"") || strstr(text, "\"SNAT\"");
        if (concerned && source && !strstr(text, "chain ")) {
            snprintf(rule, size, "%s", text + strspn(text, " \t"));
            return true;
        }
    }
    return false;
}

bool machine_translates(int family, char *rule, size_t size)
{
    char *nft[] = {(char *)"nft", (char *)"-s", (char *)"list", (char *)"ruleset", NULL};
    struct run_result result;
    bool found =
        run_tool(nft, NULL, &result) == 0 && ruleset_translates(result.output, family, rule, size);
    bool installed = result.status == 0;
    run_free(&result);
    if (found || !installed)
        return found;
    /* Older nft has no word for what ip6tables-nft has made. */
    struct setup_error ignored;
    char *text = iptables_table(family, "nat", &ignored);
    const char *line, *at = text ? text : "";
    size_t length;
    while (!found && (line = state_line(&at, &length)))
        found = *line == '-' &&
                (memmem(line, length, "-j MASQUERADE", 13) || memmem(line, length, "-j SNAT", 7)) &&
                snprintf(rule, size, "%.*s", (int)length, line) > 0;
    free(text);
    return found;
}
