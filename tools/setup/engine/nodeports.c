/* SPDX-License-Identifier: MIT */
/*
 * Node ports that Services have already, when the API server's range is about to change. What is
 * outside of the new range the API server does not take again, and the firewall does not let in.
 * The cluster is asked by kubectl, as an administrator of this machine would; whether it answers
 * decides nothing.
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ADMIN "/etc/kubernetes/admin.conf" /* kubeadm's */
#define COMMAND "kubectl get services --all-namespaces"
#define SECONDS 8
#define ANSWER_MOST (64l << 20)
#define NAMED_MOST 5

struct outside {
    const struct portrange *ports;
    FILE *out;
    size_t count;
};

static void outside_add(struct outside *outside, const json_t *service, const json_t *port)
{
    const json_t *about = json_object_get(service, "metadata");
    const char *space = json_string_value(json_object_get(about, "namespace"));
    const char *name = json_string_value(json_object_get(about, "name"));
    json_int_t number = json_integer_value(port);
    if (!number || (number >= outside->ports->lo && number <= outside->ports->hi))
        return;
    if (outside->count++ < NAMED_MOST)
        fprintf(outside->out, "%s%.63s/%.63s %lld", outside->count > 1 ? ", " : "",
                space ? space : "?", name ? name : "?", (long long)number);
}

/* Return: how many are outside; their names are in *@names, malloc'd. */
static size_t outside_find(const json_t *services, const struct portrange *ports, char **names)
{
    struct outside outside = {.ports = ports, .out = state_open(names)};
    const json_t *service, *port;
    size_t i, k;
    json_array_foreach(json_object_get(services, "items"), i, service)
    {
        const json_t *spec = json_object_get(service, "spec");
        json_array_foreach(json_object_get(spec, "ports"), k, port)
            outside_add(&outside, service, json_object_get(port, "nodePort"));
        outside_add(&outside, service, json_object_get(spec, "healthCheckNodePort"));
    }
    if (outside.count > NAMED_MOST)
        fprintf(outside.out, " and %zu more", outside.count - NAMED_MOST);
    state_close(outside.out);
    return outside.count;
}

/* What kubectl says. Return: a new reference, or NULL: @error says why it cannot be asked. */
static json_t *services_ask(struct setup_error *error)
{
    static const struct run_limits limits = {.seconds = SECONDS, .output = ANSWER_MOST};
    char config[PATH_MAX + 32];
    const char *admin = setup_path(ADMIN);
    bool has = access(admin, R_OK) == 0;
    char *argv[] = {
        "kubectl", "get", "services", "--all-namespaces", "--output=json", "--request-timeout=5s",
        NULL,      NULL};
    struct run_result result;
    json_t *services = NULL;
    if (!has && *setup_root) { /* whoever is reached from here is another cluster */
        setup_fail(error, "there is no %s", admin);
        return NULL;
    }
    snprintf(config, sizeof(config), "--kubeconfig=%s", admin);
    if (has && (*setup_root || !getenv("KUBECONFIG")))
        argv[6] = config;
    bool answered = run_tool_within(argv, NULL, &limits, &result) == 0;
    if (result.errno_ == ETIMEDOUT)
        setup_fail(error, "kubectl: no answer within %d s", SECONDS);
    else if (!answered)
        run_explain(argv, &result, error);
    else if (!(services = json_loadb(result.output, result.length, 0, NULL)))
        setup_fail(error, "kubectl: its answer is not JSON");
    run_free(&result);
    return services;
}

static bool range_changes(const struct plan *plan, const struct portrange *ports)
{
    char wanted[16];
    bool changes = false;
    snprintf(wanted, sizeof(wanted), "%u-%u", ports->lo, ports->hi);
    for (size_t i = 0; i < plan->count; i++)
        changes |= plan->change[i].type == &resource_nodeports &&
                   state_equal(plan->change[i].wanted, wanted);
    return changes;
}

int nodeports_check(const struct plan *plan, const struct portrange *ports,
                    struct setup_error *error)
{
    struct setup_error why = {.text = ""};
    char *names;
    if (!range_changes(plan, ports))
        return 0;
    json_t *services = services_ask(&why);
    if (!services) {
        say_error(
            0,
            "note: whether Services have node ports outside of %u-%u was not looked at (%.300s): "
            "'" COMMAND "' shows them",
            ports->lo, ports->hi, why.text);
        return 0;
    }
    size_t count = outside_find(services, ports, &names);
    json_decref(services);
    if (count)
        setup_fail(
            error,
            "Services have node ports outside of [control-plane] node-ports = %u-%u: %s. The "
            "API server will not take such a Service again, nor a gateway let hosts reach it: "
            "give them other ports, choose a range that has these, or --force",
            ports->lo, ports->hi, names);
    free(names);
    return count ? -1 : 0;
}
