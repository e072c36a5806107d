/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool list: every lease, one a line, by port: what one greps when a firewall's log shows
 * a port and the question is whose it was. There are as many as somebody has written words into the
 * shares, millions perhaps: each is printed and forgotten.
 */
#include "json.h"

#include <string.h>

struct list {
    const struct pool_request *request;
    const struct snapshot *snapshot;
    size_t count;
};

static int list_slot(const struct snapshot_lease *lease)
{
    return lease->holder >= 1 && lease->holder <= POOL_HOLDERS ? (int)lease->holder - 1 : -1;
}

/* --holder: a slot's number or a host name, as list and status print them. */
static bool list_holder_wanted(const struct list *list, const struct snapshot_lease *lease)
{
    const char *want = list->request->holder;
    char text[256];
    if (!want)
        return true;
    snprintf(text, sizeof(text), "%d", list_slot(lease));
    if (strcmp(want, text) == 0)
        return true;
    show_holder(list->snapshot, list_slot(lease), true, text, sizeof(text));
    return strcmp(want, text) == 0;
}

static bool list_wanted(const struct list *list, const struct snapshot_lease *lease)
{
    const struct pool_request *request = list->request;
    return (!request->port || request->port == lease->port) &&
           (!request->state || request->state == (int)lease->state) &&
           list_holder_wanted(list, lease);
}

static void list_print(const struct list *list, const struct snapshot_lease *lease)
{
    char dest[64], host[256], age[32];
    snapshot_lane_text(list->snapshot, lease->lane, dest, sizeof(dest));
    show_holder(list->snapshot, list_slot(lease), say_utf8(), host, sizeof(host));
    printf("%5u  %-28s %-8s ", lease->port, dest, show_state(lease->state));
    say_cell(host, 24);
    printf("%s\n", say_age(lease->age / 1000, age, sizeof(age)));
}

static json_t *list_json_lease(const struct list *list, const struct snapshot_lease *lease)
{
    int slot = list_slot(lease);
    const struct pool_holder *holder = slot < 0 ? NULL : &list->snapshot->pool.holder[slot];
    json_t *object = json_object();
    char dest[64];
    snapshot_lane_text(list->snapshot, lease->lane, dest, sizeof(dest));
    json_put_number(object, "port", lease->port);
    json_put(object, "destination", json_string(dest));
    json_put(object, "state", json_string(show_state(lease->state)));
    json_put(object, "age", json_real(lease->age / 1000.0));
    json_put(object, "slot", slot < 0 ? json_null() : json_integer(slot));
    if (holder && holder->cookie)
        json_put_text(object, "holder", holder->host, sizeof(holder->host));
    else
        json_put(object, "holder", json_null());
    return object;
}

static void list_json(const struct list *list, const struct snapshot_lease *lease)
{
    json_t *object = list_json_lease(list, lease);
    printf("%s\n    ", list->count ? "," : "");
    json_dumpf(object, stdout, JSON_REAL_PRECISION(12));
    json_decref(object);
}

static void list_port(struct list *list, uint16_t port)
{
    struct snapshot_lease lease;
    for (uint32_t lane = 0; lane < list->snapshot->pool.lanes; lane++) {
        if (!snapshot_lease(list->snapshot, lane, port, &lease) || !list_wanted(list, &lease))
            continue;
        if (list->request->json)
            list_json(list, &lease);
        else
            list_print(list, &lease);
        list->count++;
    }
}

int command_list(const struct pool_request *request)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    struct list list = {.request = request, .snapshot = &snapshot};
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    if (request->json)
        printf("{\n  \"leases\": [");
    else
        printf("%-5s  %-28s %-8s %-24s %s\n", "PORT", "DESTINATION", "STATE", "HOLDER", "SINCE");
    for (uint32_t port = 1; port <= UINT16_MAX; port++)
        list_port(&list, (uint16_t)port);
    if (request->json)
        printf("%s]\n}\n", list.count ? "\n  " : "");
    snapshot_free(&snapshot);
    return status;
}
