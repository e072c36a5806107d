/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool list: every lease, one a line, by port: what one greps when a firewall's log shows
 * a port and the question is whose it was.
 */
#include "json.h"

#include <stdlib.h>
#include <string.h>

/* So many lines nobody reads: there may be 16 million, if somebody writes to all words. */
#define LIST_MOST 250000u

struct list {
    const struct pool_request *request;
    const struct snapshot *snapshot;
    char (*lane)[64]; /* what each leads to, as text */
    uint32_t shown;
    uint32_t left_out;
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

/* "SERVER", "SERVER by ADDRESS" if the holder uses another address of it, "SERVER by ?" if none knows which. */
static void list_destination(const struct list *list, const struct snapshot_lease *lease, char *buf,
                             size_t size)
{
    struct dest address;
    char by[64] = "?";
    const char *server = list->lane[lease->lane];
    if (snapshot_lease_address(list->snapshot, lease, &address))
        dest_print(&address, by, sizeof(by));
    else if (snapshot_lane_kind(list->snapshot, lease->lane) != LANE_DEST)
        by[0] = '\0';
    bool same = !by[0] || strcmp(by, server) == 0;
    snprintf(buf, size, "%s%s%s", server, same ? "" : " by ", same ? "" : by);
}

static void list_line(struct list *list, const struct snapshot_lease *lease)
{
    char host[256], age[32], destination[160];
    list_destination(list, lease, destination, sizeof(destination));
    show_holder(list->snapshot, list_slot(lease), say_utf8(), host, sizeof(host));
    printf("%5u  %-28s %-8s ", lease->port, destination, show_state(lease->state));
    say_cell(host, 24);
    printf("%s\n", say_age(lease->age / 1000, age, sizeof(age)));
}

static void list_json_lease(struct list *list, const struct snapshot_lease *lease)
{
    int slot = list_slot(lease);
    const struct pool_holder *holder =
        slot < 0 || slot >= (int)POOL_HOLDERS ? NULL : &list->snapshot->pool.holder[slot];
    struct dest address;
    char by[64] = "";
    json_t *object = json_object();
    json_put_number(object, "port", lease->port);
    json_put(object, "destination", json_string(list->lane[lease->lane]));
    if (snapshot_lease_address(list->snapshot, lease, &address))
        dest_print(&address, by, sizeof(by));
    json_put(object, "address", by[0] ? json_string(by) : json_null());
    json_put(object, "state", json_string(show_state(lease->state)));
    json_put(object, "age", json_real(lease->age / 1000.0));
    json_put(object, "slot", slot < 0 ? json_null() : json_integer(slot));
    if (holder && holder->cookie)
        json_put_text(object, "holder", holder->host, sizeof(holder->host));
    else
        json_put(object, "holder", json_null());
    fputs(list->shown ? ",\n    " : "\n    ", stdout);
    json_dumpf(object, stdout, JSON_REAL_PRECISION(12));
    json_decref(object);
}

static void list_lease(const struct snapshot_lease *lease, void *arg)
{
    struct list *list = arg;
    if (!list_wanted(list, lease))
        return;
    if (list->shown == LIST_MOST) {
        list->left_out++;
        return;
    }
    if (list->request->json)
        list_json_lease(list, lease);
    else
        list_line(list, lease);
    list->shown++;
}

/* How many rules have no leases in the pool. */
static unsigned rules_apart(const struct policy *policy)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < policy->rule_count; i++)
        count += policy->rule[i].scope == POLICY_ADDRESS;
    return count;
}

/* As it is read, so that it needs no more memory for more leases. */
static int list_print(struct list *list)
{
    if (list->request->json)
        printf("{\n  \"leases\": [");
    else
        printf("%-5s  %-28s %-8s %-24s %s\n", "PORT", "DESTINATION", "STATE", "HOLDER", "SINCE");
    int error = snapshot_each_by_port(list->snapshot, list_lease, list);
    if (list->request->json)
        printf("%s],\n  \"left_out\": %u,\n  \"scope_address\": %u\n}\n", list->shown ? "\n  " : "",
               list->left_out, rules_apart(&list->snapshot->policy));
    for (uint32_t i = 0; i < list->snapshot->policy.rule_count; i++)
        if (list->snapshot->policy.rule[i].scope == POLICY_ADDRESS)
            say_error(0, "rule %s has scope = address: its leases are not in the pool",
                      list->snapshot->policy.rule[i].name);
    if (list->left_out)
        say_error(0, "%u more leases are left out: --port, --holder and --state choose", list->left_out);
    return error ? say_error(EXIT_FAILED, "not enough memory for the list") : EXIT_OK;
}

int command_list(const struct pool_request *request)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    struct list list = {.request = request, .snapshot = &snapshot};
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    list.lane = calloc(snapshot.pool.lanes, sizeof(*list.lane));
    for (uint32_t lane = 0; list.lane && lane < snapshot.pool.lanes; lane++)
        snapshot_lane_text(&snapshot, lane, list.lane[lane], sizeof(*list.lane));
    say_limit(0);
    status = list.lane ? list_print(&list) : say_error(EXIT_FAILED, "not enough memory for the list");
    free(list.lane);
    snapshot_free(&snapshot);
    return status;
}
