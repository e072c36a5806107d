/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool list: every lease, one a line, by port: what one greps when a firewall's log shows
 * a port and the question is whose it was.
 */
#include "json.h"

#include <stdlib.h>
#include <string.h>

struct list {
    const struct pool_request *request;
    const struct snapshot *snapshot;
    struct snapshot_lease *lease;
    size_t count;
    size_t room;
    bool failed; /* no memory */
};

static int list_slot(const struct snapshot_lease *lease)
{
    return lease->holder >= 1 && lease->holder <= POOL_SLOTS ? (int)lease->holder - 1 : -1;
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

static void list_add(const struct snapshot_lease *lease, void *arg)
{
    struct list *list = arg;
    if (list->failed || !list_wanted(list, lease))
        return;
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 1024;
        struct snapshot_lease *more = realloc(list->lease, room * sizeof(*more));
        if (!more) {
            list->failed = true;
            return;
        }
        list->lease = more;
        list->room = room;
    }
    list->lease[list->count++] = *lease;
}

static int list_order(const void *left, const void *right)
{
    const struct snapshot_lease *a = left, *b = right;
    if (a->port != b->port)
        return a->port < b->port ? -1 : 1;
    return a->lane < b->lane ? -1 : a->lane > b->lane;
}

static void list_print(const struct list *list)
{
    char dest[64], host[256], age[32];
    printf("%-5s  %-28s %-8s %-24s %s\n", "PORT", "DESTINATION", "STATE", "HOLDER", "SINCE");
    for (size_t i = 0; i < list->count; i++) {
        const struct snapshot_lease *lease = &list->lease[i];
        snapshot_lane_text(list->snapshot, lease->lane, dest, sizeof(dest));
        show_holder(list->snapshot, list_slot(lease), say_utf8(), host, sizeof(host));
        printf("%5u  %-28s %-8s ", lease->port, dest, show_state(lease->state));
        say_cell(host, 24);
        printf("%s\n", say_age(lease->age / 1000, age, sizeof(age)));
    }
}

static json_t *list_json_lease(const struct list *list, const struct snapshot_lease *lease)
{
    int slot = list_slot(lease);
    const struct pool_holder *holder =
        slot < 0 || slot >= (int)POOL_HOLDERS ? NULL : &list->snapshot->pool.holder[slot];
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

static int list_json(const struct list *list)
{
    json_t *root = json_object();
    json_t *array = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(array, list_json_lease(list, &list->lease[i]));
    json_put(root, "leases", array);
    return json_say(root);
}

int command_list(const struct pool_request *request)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    struct list list = {.request = request, .snapshot = &snapshot};
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    snapshot_each_lease(&snapshot, list_add, &list);
    if (list.count)
        qsort(list.lease, list.count, sizeof(*list.lease), list_order);
    if (list.failed)
        status = say_error(EXIT_FAILED, "not enough memory for the list");
    else if (request->json)
        status = list_json(&list);
    else
        list_print(&list);
    free(list.lease);
    snapshot_free(&snapshot);
    return status;
}
