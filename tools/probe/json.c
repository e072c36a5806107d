/* SPDX-License-Identifier: MIT */
/*
 * Results for programs: one line of JSON for each run, by jansson. fixport-probe(1) describes it.
 */
#include "probe.h"

#include <jansson.h>

static void put(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

static void put_text(json_t *object, const char *key, const char *text)
{
    put(object, key, text && *text ? json_string(text) : json_null());
}

static void put_address(json_t *object, const char *key, const uint8_t *addr)
{
    put_text(object, key, addr && addr_is_set(addr) ? addr_text(addr) : NULL);
}

static void put_port(json_t *object, const char *key, uint16_t port)
{
    put(object, key, port ? json_integer(port) : json_null());
}

static json_t *json_icmp(const struct icmp_error *error)
{
    json_t *object = json_object();
    if (!error->is) {
        json_decref(object);
        return json_null();
    }
    put_address(object, "by", error->by);
    put(object, "type", json_integer(error->type));
    put(object, "code", json_integer(error->code));
    put_text(object, "text", icmp_text(error));
    return object;
}

static json_t *json_try(const struct probe_facts *facts, const struct probe_try *try)
{
    static const char *const left[LEFTS] = {NULL, "syn-ack", "rst"};
    json_t *object = json_object();
    int kept = try_kept(try);
    put_text(object, "kind", kind_name(try->kind));
    put(object, "counts", json_boolean(facts_counts(facts, try)));
    put_address(object, "own_address", try->own.addr);
    put_port(object, "own_port", try->own.port);
    put_text(object, "end", end_name(try->end));
    put(object, "error", try->error ? json_integer(try->error) : json_null());
    put(object, "reject", json_icmp(&try->reject));
    put_text(object, "seen", seen_name(try->seen));
    put_address(object, "seen_address", try->as.addr);
    put_port(object, "seen_port", try->as.port);
    put(object, "port_kept", kept < 0 ? json_null() : json_boolean(kept));
    put(object, "syns", json_integer(try->syns));
    put_text(object, "answer_left", left[try->left]);
    put(object, "bounce", json_icmp(&try->bounce));
    return object;
}

static json_t *json_host(const struct probe_host *host)
{
    char block[BLOCK_TEXT] = "";
    json_t *object = json_object();
    if (host->configured)
        block_print(&host->block, block, sizeof(block));
    put(object, "captures", json_boolean(host->captures));
    put_text(object, "route", route_name(host->route));
    put_address(object, "via", host->via);
    put_text(object, "node", host->node);
    put_address(object, "next_hop", host->next);
    put_text(object, "block", block);
    return object;
}

static json_t *json_advice(const struct probe_facts *facts, const struct verdict_found *found)
{
    struct advice advice[ADVICE_MOST];
    unsigned count = advice_find(facts, found, advice);
    json_t *array = json_array();
    for (unsigned i = 0; i < count; i++) {
        json_t *object = json_object();
        put_text(object, "where", advice[i].where);
        put_text(object, "line", advice[i].line);
        json_array_append_new(array, object);
    }
    return array;
}

static void put_verdict(json_t *object, const struct verdict_found *found)
{
    json_t *notes = json_array();
    for (unsigned i = 0; i < found->notes; i++)
        json_array_append_new(notes, json_string(found->note[i]));
    put_text(object, "verdict", verdict_name(found->verdict));
    put_text(object, "cause", found->cause ? cause_name(found->cause) : NULL);
    put(object, "status", json_integer(found->status));
    put_text(object, "text", found->text);
    put(object, "notes", notes);
    put(object, "counted", json_integer(found->counts));
    put(object, "answered", json_integer(found->good));
}

static void json_line(json_t *object)
{
    json_dumpf(object, stdout, JSON_COMPACT);
    json_decref(object);
    putchar('\n');
}

void json_result(const char *side, const struct probe_facts *facts,
                 const struct verdict_found *found)
{
    char ports[400];
    json_t *object = json_object(), *tries = json_array();
    portset_print(&facts->ports, ports, sizeof(ports));
    for (unsigned i = 0; i < facts->tries; i++)
        json_array_append_new(tries, json_try(facts, &facts->try[i]));
    put_text(object, "side", side);
    put_address(object, "to_address", facts->to.addr);
    put_port(object, "to_port", facts->to.port);
    put(object, "contact", json_boolean(facts->contact));
    put(object, "shim", json_boolean(facts->shim));
    put_text(object, "range", ports);
    put_address(object, "pod", facts_pod(facts));
    put_address(object, "arrives_from", facts_seen(facts));
    put_verdict(object, found);
    put(object, "advice", json_advice(facts, found));
    put(object, "host", json_host(&facts->host));
    put(object, "tries", tries);
    json_line(object);
}

void json_summary(const struct probe_runs *runs, unsigned strangers, unsigned hidden,
                  enum probe_status status)
{
    json_t *object = json_object(), *verdicts = json_object();
    for (int i = 0; i < VERDICTS; i++)
        if (runs->count[i])
            put(verdicts, verdict_name((enum verdict)i), json_integer(runs->count[i]));
    put(object, "summary", json_true());
    put(object, "probes", json_integer(runs->finished));
    put(object, "verdicts", verdicts);
    put(object, "others", json_integer(strangers));
    put(object, "not_shown", json_integer(hidden));
    put(object, "status", json_integer(status));
    json_line(object);
}
