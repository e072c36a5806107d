/* SPDX-License-Identifier: MIT */
/*
 * What the listener remembers of connectors: a run each, by a number that the connector has drawn
 * and nobody else can guess. Fixed in number and size, whatever strangers do.
 */
#include "probe.h"
#include "../../pool/sys.h"

#include <string.h>

/* ---- the runs ---- */

/* One that is not used, else the oldest that no connection belongs to, else the oldest. */
static struct probe_run *runs_room(struct probe_runs *runs)
{
    struct probe_run *best = &runs->run[0];
    for (size_t i = 0; i < RUNS_MOST; i++) {
        struct probe_run *run = &runs->run[i];
        bool idle = !run->open, best_idle = !best->open;
        if (!run->began)
            return run;
        if (idle != best_idle ? idle : run->last < best->last)
            best = run;
    }
    return best;
}

struct probe_run *runs_begin(struct probe_runs *runs, uint64_t now)
{
    struct probe_run *run = runs_room(runs);
    memset(run, 0, sizeof(*run));
    run->began = run->last = now;
    run->clock = time(NULL);
    return run;
}

struct probe_run *runs_find(struct probe_runs *runs, uint64_t nonce, uint64_t now)
{
    for (size_t i = 0; i < RUNS_MOST; i++)
        if (runs->run[i].began && runs->run[i].nonce == nonce && nonce)
            return &runs->run[i];
    struct probe_run *run = runs_begin(runs, now);
    run->nonce = nonce;
    return run;
}

bool runs_wait(const struct probe_runs *runs)
{
    for (size_t i = 0; i < RUNS_MOST; i++)
        if (runs->run[i].began && !runs->run[i].done)
            return true;
    return false;
}

void runs_finish(struct probe_runs *runs, struct probe_run *run)
{
    verdict_find(&run->facts, &run->found);
    run->done = true;
    runs->finished++;
    runs->count[run->found.verdict]++;
    if (run->found.status != PROBE_OK)
        runs->worst = run->found.status;
}

/* ---- filling in ---- */

void run_take(struct probe_run *run, const struct wire *wire)
{
    struct probe_try *try = &run->facts.try[wire->index - 1];
    for (unsigned i = run->facts.tries; i < wire->index; i++)
        run->facts.try[i] = (struct probe_try){.end = END_UNKNOWN};
    if (run->facts.tries < wire->index)
        run->facts.tries = wire->index;
    try->kind = wire->try.kind;
    try->own = wire->try.own;
    try->end = wire->try.end;
    try->error = wire->try.error;
    try->reject = wire->try.reject;
}

/* Whether a captured SYN can be that of a try: 2: for certain, 1: if no other fits better. */
static int syn_fits(const struct probe_facts *facts, const struct probe_try *try,
                    const struct capture_syn *syn)
{
    const uint8_t *seen = facts_seen(facts);
    if (!syn->first || syn->claimed || !syn->mss || !try->own.port ||
        address_is_v4(syn->peer.addr) != address_is_v4(try->own.addr) ||
        syn->mss != mark_make(try->kind, try->own.port))
        return 0;
    if (syn->peer.port == try->own.port)
        return 2;
    return !seen || memcmp(seen, syn->peer.addr, 16) == 0;
}

static struct capture_syn *syn_best(const struct probe_facts *facts, const struct probe_try *try,
                                    struct capture *capture)
{
    struct capture_syn *best = NULL;
    int most = 0;
    for (size_t i = 0; i < CAPTURE_SYNS; i++) {
        int fits = syn_fits(facts, try, &capture->syn[i]);
        if (fits > most || (fits && fits == most && capture->syn[i].last > best->last)) {
            best = &capture->syn[i];
            most = fits;
        }
    }
    return best;
}

void run_match(struct probe_run *run, struct capture *capture)
{
    for (unsigned i = 0; capture->fd >= 0 && i < run->facts.tries; i++) {
        struct probe_try *try = &run->facts.try[i];
        struct capture_syn *syn = try->seen ? NULL : syn_best(&run->facts, try, capture);
        if (!syn)
            continue;
        syn->claimed = true;
        try->seen = SEEN_SYN;
        try->as = syn->peer;
        try->syns = syn->try.syns;
        try->left = syn->try.left;
        try->bounce = syn->try.bounce;
    }
}

/* ---- the way back ---- */

static bool pair_get(const struct address_pair *pair, const uint8_t like[16], uint8_t addr[16])
{
    bool v4 = address_is_v4(like);
    if (!(v4 ? pair->has4 : pair->has6))
        return false;
    memcpy(addr, v4 ? pair->addr4 : pair->addr6, 16);
    return true;
}

/* The node that has a pod: by the smallest block, since a pod may have a borrowed address. */
static const struct site_node *site_pod_node(const struct site *site, const uint8_t pod[16],
                                             struct block *block)
{
    const struct site_node *found = NULL;
    for (size_t i = 0; i < site->nodes; i++) {
        const struct block_list *pods = &site->node[i].pods;
        for (size_t k = 0; k < pods->count; k++) {
            if (!block_has(&pods->item[k], pod) || (found && pods->item[k].prefix <= block->prefix))
                continue;
            found = &site->node[i];
            *block = pods->item[k];
        }
    }
    return found;
}

static const struct site_node *site_address_node(const struct site *site, const uint8_t addr[16])
{
    uint8_t own[16];
    for (size_t i = 0; i < site->nodes; i++)
        if (pair_get(&site->node[i].address, addr, own) && memcmp(own, addr, 16) == 0)
            return &site->node[i];
    return NULL;
}

/* What the configuration says. Return: whether the pod is in it. */
static bool host_by_site(struct probe_host *host, const struct site *site, const uint8_t *pod,
                         const uint8_t *seen)
{
    const struct site_node *by = seen ? site_address_node(site, seen) : NULL;
    const struct site_node *of = site_pod_node(site, pod, &host->block);
    const struct site_node *named = by ? by : of;
    if (named)
        snprintf(host->node, sizeof(host->node), "%s", named->name);
    host->configured = of && (pair_get(&site->gateway, pod, host->next) ||
                              pair_get(&of->address, pod, host->next));
    return of != NULL;
}

/* Who put the SYNs of this run on the wire. */
static const uint8_t *run_mac(const struct probe_run *run, const struct capture *capture)
{
    for (size_t i = 0; capture->fd >= 0 && i < CAPTURE_SYNS; i++)
        for (unsigned k = 0; k < run->facts.tries; k++)
            if (capture->syn[i].has_mac && run->facts.try[k].as.port == capture->syn[i].peer.port &&
                memcmp(run->facts.try[k].as.addr, capture->syn[i].peer.addr, 16) == 0)
                return capture->syn[i].mac;
    return NULL;
}

void run_host(struct probe_run *run, const struct capture *capture, const struct site *site)
{
    struct probe_host *host = &run->facts.host;
    const uint8_t *pod = facts_pod(&run->facts), *seen = facts_seen(&run->facts);
    const uint8_t *back = pod ? pod : seen, *mac = run_mac(run, capture);
    *host = (struct probe_host){.captures = capture->fd >= 0};
    if (!back || !addr_is_unicast(back))
        return;
    host->route = route_find(back, host->via);
    if (site && host_by_site(host, site, back, seen))
        return;
    if (site && site->pods.count)
        return; /* the pods are known, and this is none of them */
    if (seen && memcmp(back, seen, 16) != 0)
        memcpy(host->next, seen, 16);
    else if (mac && route_neighbour(mac, back, host->next) && memcmp(host->next, back, 16) == 0)
        memset(host->next, 0, 16); /* a neighbour needs no route */
}
