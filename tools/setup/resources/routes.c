/* SPDX-License-Identifier: MIT */
/*
 * Our routes: those of table main, or of a table of ours, that carry our protocol's number. "ip -json"
 * says what is there, one "ip -batch" makes what shall be.
 *
 * A destination and its metric can have one route. If somebody else's has the place, or one that
 * the kernel would prefer to ours, setup refuses and names it: replacing it would cut off whoever
 * made it, and keeping both would do nothing. What has a larger metric than ours may stay, and
 * comes into its own again when ours is gone.
 *
 * A state has one line for each route: "10.200.1.0/24 via 192.168.31.17". Ours have no more; what
 * somebody else has put under our number is told with " dev NAME", " onlink" and " metric N" where
 * that is needed to make it again, so that undo brings it back.
 */
#include "state.h"

#include "../../../pool/address.h"

#include <stdlib.h>
#include <string.h>

#define DEVICE 16 /* IFNAMSIZ */

struct route {
    struct block to;
    uint32_t metric;
    bool has_via;
    bool onlink;
    uint8_t via[16];
    char device[DEVICE]; /* empty: whichever leads to via */
    char *foreign;       /* somebody else's: how to name it */
};

struct routes {
    struct route *item;
    size_t count;
};

static void routes_free(struct routes *routes)
{
    for (size_t i = 0; i < routes->count; i++)
        free(routes->item[i].foreign);
    free(routes->item);
    *routes = (struct routes){.count = 0};
}

static void routes_add(struct routes *routes, const struct route *route)
{
    if ((routes->count & (routes->count + 1)) == 0) /* 0, 1, 3, 7, ...: room for twice as many */
        routes->item = state_grow(routes->item, (2 * routes->count + 1) * sizeof(*routes->item));
    routes->item[routes->count++] = *route;
}

static int block_order(const struct block *a, const struct block *b)
{
    int order = memcmp(a->addr, b->addr, sizeof(a->addr));
    return order ? order : a->prefix - b->prefix;
}

/* By destination, then metric. */
static int route_order(const void *a, const void *b)
{
    const struct route *x = a, *y = b;
    int order = block_order(&x->to, &y->to);
    return order ? order : (x->metric > y->metric) - (x->metric < y->metric);
}

static void routes_sort(struct routes *routes)
{
    if (routes->count)
        qsort(routes->item, routes->count, sizeof(*routes->item), route_order);
}

static const struct route *routes_find(const struct routes *routes, const struct route *key)
{
    return routes->count ? bsearch(key, routes->item, routes->count, sizeof(*key), route_order)
                         : NULL;
}

/* ---- text ---- */

static int family_number(const char *name)
{
    return strncmp(name, "ipv6", 4) == 0 ? 6 : 4;
}

static const char *family_option(const char *name)
{
    return family_number(name) == 6 ? "-6" : "-4";
}

/* "ipv4 table 161": what stands behind "table". */
static const char *table_name(const char *name)
{
    const char *table = strstr(name, " table ");
    return table ? table + strlen(" table ") : "main";
}

/* What a route has for which no metric was named. */
static uint32_t family_metric(int family)
{
    return family == 6 ? 1024 : 0;
}

static bool block_parse(const char *text, int family, struct block *block)
{
    size_t length = strcspn(text, "/");
    unsigned most = family == 4 ? 32 : 128, prefix = most;
    if (strcmp(text, "default") == 0)
        return block_parse(family == 4 ? "0.0.0.0/0" : "::/0", family, block);
    if (address_parse(text, length, block->addr) != family)
        return false;
    if (text[length]) {
        char *end;
        unsigned long number = strtoul(text + length + 1, &end, 10);
        if (end == text + length + 1 || *end || number > most)
            return false;
        prefix = (unsigned)number;
    }
    block->prefix = (uint8_t)(prefix + 128 - most);
    return true;
}

static void route_print(FILE *out, const struct route *route, int family)
{
    char buf[BLOCK_TEXT];
    struct text text = text_begin(buf, sizeof(buf));
    fputs(block_print(&route->to, buf, sizeof(buf)), out);
    if (route->has_via) {
        address_print(&text, route->via);
        fprintf(out, " via %s", buf);
    }
    if (route->device[0])
        fprintf(out, " dev %s", route->device);
    if (route->onlink)
        fputs(" onlink", out);
    if (route->metric != family_metric(family))
        fprintf(out, " metric %u", route->metric);
}

static bool device_set(struct route *route, const char *name)
{
    bool good = *name && strlen(name) < DEVICE && !strpbrk(name, " \t\n/");
    if (good)
        strcpy(route->device, name);
    return good;
}

/* One attribute of a line, of which @value is the word behind it. */
static bool route_attribute(struct route *route, const char *key, const char *value, int family)
{
    char *end;
    if (strcmp(key, "via") == 0) {
        route->has_via = address_parse(value, strlen(value), route->via) == family;
        return route->has_via;
    }
    if (strcmp(key, "dev") == 0)
        return device_set(route, value);
    if (strcmp(key, "metric") != 0 || *value < '0' || *value > '9')
        return false;
    route->metric = (uint32_t)strtoul(value, &end, 10);
    return !*end;
}

static bool route_parse(char *line, int family, struct route *route)
{
    char *rest, *word = strtok_r(line, " ", &rest);
    *route = (struct route){.metric = family_metric(family)};
    if (!word || !block_parse(word, family, &route->to))
        return false;
    while ((word = strtok_r(NULL, " ", &rest))) {
        char *value = strcmp(word, "onlink") == 0 ? NULL : strtok_r(NULL, " ", &rest);
        if (value && !route_attribute(route, word, value, family))
            return false;
        if (!value && strcmp(word, "onlink") != 0)
            return false;
        route->onlink = route->onlink || !value;
    }
    return route->has_via || route->device[0];
}

/* A state or what a role wants; sorted afterwards. */
static int routes_parse(const char *state, int family, struct routes *routes,
                        struct setup_error *error)
{
    const char *line, *at = state ? state : "";
    size_t length;
    *routes = (struct routes){.count = 0};
    while ((line = state_line(&at, &length))) {
        char copy[256];
        struct route route;
        snprintf(copy, sizeof(copy), "%.*s", (int)length, line);
        if (length >= sizeof(copy) || !route_parse(copy, family, &route)) {
            routes_free(routes);
            return setup_fail(error, "'%.*s' is no route", (int)(length < 100 ? length : 100),
                              line);
        }
        routes_add(routes, &route);
    }
    routes_sort(routes);
    return 0;
}

static char *routes_print(const struct routes *routes, int family)
{
    char *state;
    if (!routes->count)
        return NULL;
    FILE *out = state_open(&state);
    for (size_t i = 0; i < routes->count; i++) {
        route_print(out, &routes->item[i], family);
        putc('\n', out);
    }
    state_close(out);
    return state;
}

static int routes_twice(const struct routes *routes, struct setup_error *error)
{
    char buf[BLOCK_TEXT];
    for (size_t i = 1; i < routes->count; i++)
        if (route_order(&routes->item[i - 1], &routes->item[i]) == 0)
            return setup_fail(error, "two routes to %s are wanted",
                              block_print(&routes->item[i].to, buf, sizeof(buf)));
    return 0;
}

static int routes_canonical(const char *name, const char *text, char **canonical,
                            struct setup_error *error)
{
    struct routes routes;
    int family = family_number(name);
    if (routes_parse(text, family, &routes, error) < 0)
        return -1;
    int result = routes_twice(&routes, error);
    *canonical = result == 0 ? routes_print(&routes, family) : NULL;
    routes_free(&routes);
    return result;
}

/* ---- what ip says ---- */

static const char *json_word(const json_t *object, const char *key)
{
    const char *word = json_string_value(json_object_get(object, key));
    return word ? word : "";
}

static bool json_flag(const json_t *object, const char *flag)
{
    size_t i;
    json_t *value;
    json_array_foreach(json_object_get(object, "flags"), i,
                       value) if (json_is_string(value) &&
                                  strcmp(json_string_value(value), flag) == 0) return true;
    return false;
}

/* "blackhole 10.4.0.0/16", "10.1.0.0/16 via 192.168.31.1 dev eth0 proto static". */
static char *route_describe(const json_t *object)
{
    static const struct {
        const char *key, *before;
    } parts[] = {
        {"type", ""}, {"dst", ""}, {"gateway", "via "}, {"dev", "dev "}, {"protocol", "proto "}};
    char *text;
    FILE *out = state_open(&text);
    const char *separator = "";
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        const char *word = json_word(object, parts[i].key);
        if (!*word)
            continue;
        fprintf(out, "%s%s%s", separator, parts[i].before, word);
        separator = " ";
    }
    state_close(out);
    return text;
}

/* Destination and metric: all that matters of others' routes. */
static bool route_place(const json_t *object, int family, struct route *route)
{
    *route = (struct route){.metric = 0};
    const json_t *metric = json_object_get(object, "metric");
    if (json_is_integer(metric))
        route->metric = (uint32_t)json_integer_value(metric);
    return block_parse(json_word(object, "dst"), family, &route->to);
}

/* A route that one line of a state cannot say. */
static bool route_unusual(const json_t *object)
{
    static const char *const keys[] = {"nexthops", "via",  "prefsrc", "tos",
                                       "metrics",  "nhid", "encap",   "src"};
    const char *type = json_word(object, "type");
    bool unusual = *type && strcmp(type, "unicast") != 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        unusual = unusual || json_object_get(object, keys[i]);
    return unusual;
}

static bool route_own(const json_t *object, int family, struct route *route)
{
    const char *via = json_word(object, "gateway");
    if (!route_place(object, family, route) || route_unusual(object))
        return false;
    route->onlink = json_flag(object, "onlink");
    if (*via)
        route->has_via = address_parse(via, strlen(via), route->via) == family;
    bool local = route->has_via && route->via[0] == 0xfe && (route->via[1] & 0xc0) == 0x80;
    if (!route->has_via || route->onlink || local)
        return device_set(route, json_word(object, "dev"));
    return true;
}

static int routes_own(const json_t *list, int family, struct routes *routes,
                      struct setup_error *error)
{
    size_t i;
    json_t *object;
    json_array_foreach(list, i, object)
    {
        struct route route;
        if (!route_own(object, family, &route)) {
            char *text = route_describe(object);
            setup_fail(error,
                       "a route with fixport's protocol number (%d) is not of fixport's making: "
                       "'%s': delete it",
                       SETUP_ROUTE_PROTOCOL, text);
            free(text);
            return -1;
        }
        routes_add(routes, &route);
    }
    return 0;
}

/* Those that are at no place of @own. */
static void routes_foreign(const json_t *list, int family, const struct routes *own,
                           struct routes *routes)
{
    size_t i;
    json_t *object;
    json_array_foreach(list, i, object)
    {
        struct route route;
        if (!route_place(object, family, &route) || routes_find(own, &route))
            continue;
        route.foreign = route_describe(object);
        routes_add(routes, &route);
    }
}

/* Older ones say nothing for an empty list. */
static json_t *routes_json(const char *output, struct setup_error *error)
{
    json_error_t why;
    if (!output[strspn(output, " \n")])
        return json_array();
    json_t *list = json_loads(output, 0, &why);
    if (list && !json_is_array(list)) {
        json_decref(list);
        list = NULL;
        snprintf(why.text, sizeof(why.text), "not a list");
    }
    if (!list)
        setup_fail(error, "ip -json: its output cannot be read: %s", why.text);
    return list;
}

/* @own: only what has our protocol. Return: a JSON list, or NULL. */
static json_t *routes_list(const char *name, bool own, struct setup_error *error)
{
    char protocol[8];
    snprintf(protocol, sizeof(protocol), "%d", SETUP_ROUTE_PROTOCOL);
    char *argv[] = {"ip",    "-json", (char *)(uintptr_t)family_option(name),
                    "route", "show",  "table",
                    (char *)(uintptr_t)table_name(name),
                    "proto", protocol,
                    NULL};
    struct run_result result;
    json_t *list = NULL;
    if (!own)
        argv[7] = NULL;
    if (run_tool(argv, NULL, &result) < 0 && strstr(result.errors, "table does not exist"))
        list = json_array(); /* the kernel makes a table with its first route */
    else if (result.status)
        run_explain(argv, &result, error);
    else
        list = routes_json(result.output, error);
    run_free(&result);
    return list;
}

static int routes_load(const char *name, struct routes *own, struct setup_error *error)
{
    *own = (struct routes){.count = 0};
    json_t *list = routes_list(name, true, error);
    int result = list ? routes_own(list, family_number(name), own, error) : -1;
    json_decref(list);
    routes_sort(own);
    if (result < 0)
        routes_free(own);
    return result;
}

static int routes_read(const char *name, char **state, struct setup_error *error)
{
    struct routes own;
    *state = NULL;
    if (routes_load(name, &own, error) < 0)
        return -1;
    *state = routes_print(&own, family_number(name));
    routes_free(&own);
    return 0;
}

/* ---- steps ---- */

static bool route_equal(const struct route *a, const struct route *b)
{
    return route_order(a, b) == 0 && a->has_via == b->has_via && a->onlink == b->onlink &&
           memcmp(a->via, b->via, sizeof(a->via)) == 0 && strcmp(a->device, b->device) == 0;
}

static void batch_line(FILE *out, const char *verb, const struct route *route, const char *name)
{
    fprintf(out, "route %s ", verb);
    route_print(out, route, family_number(name));
    fprintf(out, " proto %d table %s\n", SETUP_ROUTE_PROTOCOL, table_name(name));
}

/* Nothing is taken away before what comes instead is there. */
static char *batch_text(const struct routes *from, const struct routes *to, const char *name)
{
    char *text;
    FILE *out = state_open(&text);
    for (size_t i = 0; i < to->count; i++) {
        const struct route *now = routes_find(from, &to->item[i]);
        if (!now || !route_equal(now, &to->item[i]))
            batch_line(out, now ? "replace" : "add", &to->item[i], name);
    }
    for (size_t i = 0; i < from->count; i++)
        if (!routes_find(to, &from->item[i]))
            batch_line(out, "del", &from->item[i], name);
    state_close(out);
    return text;
}

/* Others' routes to one destination stand together, by metric: the first is the one that counts. */
static const struct route *foreign_find(const struct routes *foreign, const struct route *route)
{
    size_t low = 0, high = foreign->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (block_order(&foreign->item[middle].to, &route->to) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    const struct route *found = low < foreign->count ? &foreign->item[low] : NULL;
    return found && block_order(&found->to, &route->to) == 0 && found->metric <= route->metric
               ? found
               : NULL;
}

static int routes_clash(const struct routes *foreign, const struct routes *from,
                        const struct routes *to, struct setup_error *error)
{
    char buf[BLOCK_TEXT];
    for (size_t i = 0; i < to->count; i++) {
        const struct route *route = &to->item[i];
        const struct route *other = routes_find(from, route) ? NULL : foreign_find(foreign, route);
        if (other)
            return setup_fail(error,
                              "there is a route to %s already that is not fixport's: '%s'; delete "
                              "it, or leave that block out",
                              block_print(&route->to, buf, sizeof(buf)), other->foreign);
    }
    return 0;
}

static int routes_free_places(const char *name, const struct routes *from, const struct routes *to,
                              struct setup_error *error)
{
    struct routes foreign = {.count = 0};
    json_t *list = routes_list(name, false, error);
    if (!list)
        return -1;
    routes_foreign(list, family_number(name), from, &foreign);
    json_decref(list);
    routes_sort(&foreign);
    int result;
    if (strcmp(table_name(name), "main") != 0 && foreign.count)
        result = setup_fail(error,
                            "routing table %s has a route that is not fixport's ('%s'), and is needed "
                            "for steered connections alone: use another table for that",
                            table_name(name), foreign.item[0].foreign);
    else
        result = routes_clash(&foreign, from, to, error);
    routes_free(&foreign);
    return result;
}

static int routes_steps(const char *name, const char *from, const char *to, struct steps *steps,
                        struct setup_error *error)
{
    struct routes now, wanted = {.count = 0};
    int family = family_number(name);
    if (routes_parse(from, family, &now, error) < 0)
        return -1;
    int result = routes_parse(to, family, &wanted, error);
    if (!result && wanted.count)
        result = routes_free_places(name, &now, &wanted, error);
    char *batch = result == 0 ? batch_text(&now, &wanted, name) : NULL;
    if (batch && *batch)
        steps_command(steps, batch, "ip", family_option(name), "-batch", "-", NULL);
    free(batch);
    routes_free(&now);
    routes_free(&wanted);
    return result;
}

const struct resource_type resource_routes = {
    .name = "routes",
    .lasting = false,
    .read = routes_read,
    .steps = routes_steps,
    .canonical = routes_canonical,
};
