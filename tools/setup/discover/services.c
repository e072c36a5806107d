/* SPDX-License-Identifier: MIT */
/*
 * Services whose servers are hosts: for these the configuration gets an [alias NAME], since a node
 * translates the Service's address into the host's. Such a Service has no selector, and an
 * EndpointSlice that names addresses (kubernetes/api core/v1, discovery/v1). One of type
 * ExternalName is an alias of DNS alone: programs connect to the server's own address.
 *
 * Each port of a Service is an alias, for each of IPv4 and IPv6: its clusterIPs, externalIPs and
 * its load balancer's addresses lead to the servers that its slices have for that port.
 */
#include "discover.h"
#include "../resources/state.h"

#include "../../../pool/address.h"

#include <stdlib.h>
#include <string.h>

#define ADDRESSES_LINE                                                                             \
    900 /* bytes of a list: the servers have to stand in one line (CONFIG_LINE_MOST) */

/* ---- what objects say ---- */

static void object_keep(json_t **list, const struct object *object)
{
    if (!*list)
        *list = json_array();
    json_array_append_new(*list, json_deep_copy(object->json));
}

void object_service(struct discovery *discovery, const struct object *object)
{
    const json_t *spec = json_object_get(object->json, "spec");
    const char *type = json_word(spec, "type");
    discovery->services_known = true;
    if (!json_object_size(json_object_get(spec, "selector")) &&
        (!type || strcmp(type, "ExternalName") != 0))
        object_keep(&discovery->services, object);
}

static bool endpoint_is_pod(const json_t *endpoint)
{
    const char *kind = json_word(json_object_get(endpoint, "targetRef"), "kind");
    return kind && strcmp(kind, "Pod") == 0;
}

/* Those of pods say so, and are many. */
void object_slice(struct discovery *discovery, const struct object *object)
{
    const json_t *endpoint;
    size_t i;
    discovery->slices_known = true;
    json_array_foreach (json_object_get(object->json, "endpoints"), i, endpoint)
        if (!endpoint_is_pod(endpoint)) {
            object_keep(&discovery->slices, object);
            return;
        }
}

/* ---- lists of addresses ---- */

struct addresses {
    struct dest *item; /* sorted, each once, after addresses_sort() */
    size_t count;
};

static int dest_order(const void *left, const void *right)
{
    const struct dest *a = left, *b = right;
    int order = memcmp(a->addr, b->addr, sizeof(a->addr));
    return order ? order : (int)a->port - b->port;
}

static void addresses_sort(struct addresses *list)
{
    size_t kept = 0;
    if (list->count)
        qsort(list->item, list->count, sizeof(*list->item), dest_order);
    for (size_t i = 0; i < list->count; i++)
        if (!kept || dest_order(&list->item[kept - 1], &list->item[i]) != 0)
            list->item[kept++] = list->item[i];
    list->count = kept;
}

/* @family: 4 or 6; another's is left out. What is no address is told. */
static void address_add(struct discovery *discovery, struct addresses *list, const char *label,
                        const char *text, int family, uint16_t port)
{
    static const uint8_t nobody[16]; /* 0.0.0.0, :: */
    struct dest dest = {.port = port};
    int found = address_parse(text, strlen(text), dest.addr);
    if (!found)
        sentence_add(&discovery->warnings, label, "\"%.60s\" is no address: it is left out", text);
    else if (address_is_v4(dest.addr)) /* ::ffff:10.96.0.1, too */
        found = 4;
    if (found != family || addr_is_loopback(dest.addr))
        return;
    if (memcmp(dest.addr + (found == 4 ? 12 : 0), nobody, found == 4 ? 4 : 16) == 0) {
        sentence_add(&discovery->warnings, label, "\"%.60s\" is nobody's address: it is left out",
                     text);
        return;
    }
    if (!(list->count & (list->count - 1)))
        list->item =
            state_grow(list->item, sizeof(*list->item) * (list->count ? 2 * list->count : 1));
    list->item[list->count++] = dest;
}

static void addresses_add(struct discovery *discovery, struct addresses *list, const char *label,
                          const json_t *texts, int family, uint16_t port)
{
    size_t i;
    const json_t *text;
    json_array_foreach (texts, i, text)
        if (json_is_string(text) && strcmp(json_string_value(text), "None") != 0)
            address_add(discovery, list, label, json_string_value(text), family, port);
}

/* Return: malloc'd, "10.96.0.1:80, 10.96.0.2:80". */
static char *addresses_text(const struct addresses *list)
{
    char *text = NULL, one[80];
    FILE *out = state_open(&text);
    for (size_t i = 0; i < list->count; i++) {
        dest_print(&list->item[i], one, sizeof(one));
        fprintf(out, "%s%s", i ? ", " : "", one);
    }
    state_close(out);
    return text;
}

/* ---- a port of a Service ---- */

static bool is_tcp(const json_t *port)
{
    const char *protocol = json_word(port, "protocol");
    return !protocol || strcmp(protocol, "TCP") == 0;
}

/* Return: 0 if it is none. */
static uint16_t port_number(const json_t *port)
{
    json_int_t number = json_integer_value(json_object_get(port, "port"));
    return number > 0 && number < 65536 ? (uint16_t)number : 0;
}

static bool same_word(const json_t *a, const json_t *b, const char *key)
{
    const char *one = json_word(a, key), *other = json_word(b, key);
    return strcmp(one ? one : "", other ? other : "") == 0;
}

/* A slice, by the Service that it is of; "" is not known. */
struct slice {
    const char *space, *service;
    const json_t *json;
};

static int slice_order(const void *left, const void *right)
{
    const struct slice *a = left, *b = right;
    int order = strcmp(a->space, b->space);
    return order ? order : strcmp(a->service, b->service);
}

struct slices {
    struct slice *item; /* sorted */
    size_t count;
};

static const char *word_or_empty(const json_t *object, const char *key)
{
    const char *word = json_word(object, key);
    return word ? word : "";
}

static struct slices slices_sorted(const struct discovery *discovery)
{
    struct slices slices = {.count = json_array_size(discovery->slices)};
    const json_t *slice;
    size_t i;
    slices.item = slices.count ? state_grow(NULL, slices.count * sizeof(*slices.item)) : NULL;
    json_array_foreach (discovery->slices, i, slice) {
        const json_t *meta = json_object_get(slice, "metadata");
        slices.item[i] = (struct slice){
            word_or_empty(meta, "namespace"),
            word_or_empty(json_object_get(meta, "labels"), "kubernetes.io/service-name"), slice};
    }
    if (slices.count)
        qsort(slices.item, slices.count, sizeof(*slices.item), slice_order);
    return slices;
}

/* The first of a Service's slices; those that follow it may be, too. Return: slices->count: it has
 * none. */
static size_t slices_of(const struct slices *slices, const struct slice *key)
{
    size_t lo = 0, hi = slices->count;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        if (slice_order(&slices->item[middle], key) < 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    return *key->service ? lo : slices->count;
}

static void service_addresses(struct discovery *discovery, const json_t *service, const char *label,
                              int family, uint16_t port, struct addresses *list)
{
    const json_t *spec = json_object_get(service, "spec"), *ingress;
    const char *one = json_word(spec, "clusterIP");
    size_t i;
    addresses_add(discovery, list, label, json_object_get(spec, "clusterIPs"), family, port);
    if (one && !json_array_size(json_object_get(spec, "clusterIPs")) && strcmp(one, "None") != 0)
        address_add(discovery, list, label, one, family, port);
    addresses_add(discovery, list, label, json_object_get(spec, "externalIPs"), family, port);
    json_array_foreach (json_path(service, "status", "loadBalancer", "ingress", NULL), i, ingress) {
        const char *mode = json_word(ingress, "ipMode"), *ip = json_word(ingress, "ip");
        if (ip && (!mode || strcmp(mode, "Proxy") != 0))
            address_add(discovery, list, label, ip, family, port);
    }
    addresses_sort(list);
}

/* Whether a pod has it, as far as is known: then it is no host. */
static bool is_pods(const struct discovery *discovery, const struct dest *dest)
{
    for (size_t i = 0; i < discovery->claims; i++)
        if (block_has(&discovery->claim[i].block, dest->addr))
            return true;
    return false;
}

static void service_servers(struct discovery *discovery, const struct slices *slices,
                            const json_t *service, const json_t *port, const char *label,
                            int family, struct addresses *list)
{
    const json_t *at, *endpoint, *meta = json_object_get(service, "metadata");
    struct slice key = {word_or_empty(meta, "namespace"), word_or_empty(meta, "name"), NULL};
    size_t i, k, n, kept = 0;
    for (i = slices_of(slices, &key); i < slices->count && !slice_order(&slices->item[i], &key);
         i++) {
        const json_t *slice = slices->item[i].json;
        json_array_foreach (json_object_get(slice, "ports"), k, at) {
            if (!is_tcp(at) || !port_number(at) || !same_word(at, port, "name"))
                continue;
            json_array_foreach (json_object_get(slice, "endpoints"), n, endpoint)
                if (!endpoint_is_pod(endpoint))
                    addresses_add(discovery, list, label, json_object_get(endpoint, "addresses"),
                                  family, port_number(at));
        }
    }
    addresses_sort(list);
    for (i = 0; i < list->count; i++)
        if (!is_pods(discovery, &list->item[i]))
            list->item[kept++] = list->item[i];
    list->count = kept;
}

/* "default.shop.80", "default.shop.80.ipv6". Return: false: it cannot stand in the configuration.
 */
static bool alias_name(const json_t *service, uint16_t port, int family, char *buf, size_t size)
{
    const json_t *meta = json_object_get(service, "metadata");
    const char *space = json_word(meta, "namespace"), *name = json_word(meta, "name");
    size_t length = (size_t)snprintf(buf, size, "%s.%s.%u%s", space ? space : "default",
                                     name ? name : "", port, family == 6 ? ".ipv6" : "");
    return name && length < size && strspn(buf, "abcdefghijklmnopqrstuvwxyz0123456789.-") == length;
}

/* Leaves out what is a server itself. */
static void names_strip(struct addresses *names, const struct addresses *servers)
{
    size_t kept = 0;
    for (size_t i = 0; i < names->count; i++)
        if (!servers->count || !bsearch(&names->item[i], servers->item, servers->count,
                                        sizeof(*servers->item), dest_order))
            names->item[kept++] = names->item[i];
    names->count = kept;
}

static void alias_make(struct discovery *discovery, const struct slices *slices,
                       const json_t *service, const json_t *port, int family)
{
    struct addresses names = {.count = 0}, servers = {.count = 0};
    struct found_alias alias = {.servers = NULL};
    char label[DISCOVER_OBJECT_NAME];
    const char *name = json_word(json_object_get(service, "metadata"), "name");
    snprintf(label, sizeof(label), "Service %.100s", name ? name : "");
    service_addresses(discovery, service, label, family, port_number(port), &names);
    service_servers(discovery, slices, service, port, label, family, &servers);
    names_strip(&names, &servers);
    if (!names.count || !servers.count) {
        free(names.item);
        free(servers.item);
        return;
    }
    alias.count = names.count + servers.count;
    alias.addresses = addresses_text(&names);
    alias.servers = addresses_text(&servers);
    free(names.item);
    free(servers.item);
    bool named = alias_name(service, port_number(port), family, alias.name, sizeof(alias.name));
    if (named && strlen(alias.servers) < ADDRESSES_LINE &&
        strlen(alias.addresses) < ADDRESSES_LINE) {
        size_t count = discovery->aliases;
        if (!(count & (count - 1)))
            discovery->alias =
                state_grow(discovery->alias, sizeof(*discovery->alias) * (count ? 2 * count : 1));
        discovery->alias[discovery->aliases++] = alias;
        return;
    }
    sentence_add(&discovery->warnings, label,
                 named ? "it has too many addresses for an alias, so it has none"
                       : "it has no name for the configuration, so there is "
                         "no alias for it");
    free(alias.addresses);
    free(alias.servers);
}

static int alias_order(const void *left, const void *right)
{
    const struct found_alias *a = left, *b = right;
    return strcmp(a->name, b->name);
}

void services_resolve(struct discovery *discovery)
{
    const json_t *service, *port;
    size_t i, k, kept = 0;
    struct slices slices = slices_sorted(discovery);
    json_array_foreach (discovery->services, i, service)
        json_array_foreach (json_path(service, "spec", "ports", NULL), k, port)
            for (int family = 4; is_tcp(port) && port_number(port) && family <= 6; family += 2)
                alias_make(discovery, &slices, service, port, family);
    free(slices.item);
    if (discovery->aliases)
        qsort(discovery->alias, discovery->aliases, sizeof(*discovery->alias), alias_order);
    for (i = 0; i < discovery->aliases; i++) { /* an object that came twice */
        if (kept && alias_order(&discovery->alias[kept - 1], &discovery->alias[i]) == 0) {
            free(discovery->alias[i].addresses);
            free(discovery->alias[i].servers);
        } else {
            discovery->alias[kept++] = discovery->alias[i];
        }
    }
    discovery->aliases = kept;
}
