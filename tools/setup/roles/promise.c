/* SPDX-License-Identifier: MIT */
/*
 * Who meets whom at this machine follows from its role and from the site's topology (topology.c):
 * where nodes translate pods' addresses, a gateway or host sees the nodes'. What comes from an
 * address is taken to come by the interface that leads there.
 */
#include "promise.h"

#include "../../config/site-parts.h"
#include "roles.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define ALL_PORTS 16                             /* so few are all tried */
#define NAMED_MOST 32                            /* of those that rules name */
#define SAMPLES (3 * PORTRANGE_MAX + NAMED_MOST) /* ports of one end that are tried */
#define ENDS_MOST 48                             /* addresses of one end */
#define PAIRS_MOST 200 /* of ports, or of addresses: all with all; of more, each with some */

/* ---- ends ---- */

static void end_add(struct promise_end **list, size_t *count, const struct roles *roles,
                    const uint8_t addr[16])
{
    struct promise_end end = {.here = machine_has(&roles->machine, addr) != NULL};
    struct machine_path path;
    memcpy(end.addr, addr, 16);
    for (size_t i = 0; i < *count; i++)
        if (memcmp((*list)[i].addr, addr, 16) == 0)
            return;
    if (*count == ENDS_MOST)
        return;
    if (!end.here && machine_path(addr, NULL, &path, roles->error) == 0 && path.found &&
        !path.local)
        snprintf(end.device, sizeof(end.device), "%s", path.device);
    *list = state_grow(*list, (*count + 1) * sizeof(end));
    (*list)[(*count)++] = end;
}

/* The last address that somebody can have: the very last one is a broadcast address of IPv4. */
static void block_end(const struct block *block, uint8_t addr[16])
{
    memcpy(addr, block->addr, 16);
    for (unsigned bit = block->prefix; bit < 128; bit++)
        addr[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    if (block->prefix < 127)
        addr[15] &= 0xfe;
}

/* Two of each block: near its begin, and at its end if that leads anywhere else than nowhere. */
static void ends_of(struct promise_end **list, size_t *count, const struct roles *roles,
                    const struct block *block, bool pods)
{
    uint8_t addr[16], last[16];
    size_t before = *count;
    if (pods)
        machine_pod(&roles->machine, block, addr);
    else
        role_sample(roles, block, addr);
    end_add(list, count, roles, addr);
    block_end(block, last);
    if (block->prefix == 128 || machine_has(&roles->machine, last) ||
        (!pods && (blocks_with(&roles->nodes, last) || blocks_with(&roles->site->gateways, last))))
        return;
    end_add(list, count, roles, last);
    if (*count > before + 1 && strcmp((*list)[*count - 1].device, (*list)[before].device) != 0)
        --*count; /* of pods that have a route each, nobody has this address */
}

/*
 * What a rule names, "10.200.1.64/26", may be an address that no sample of a block has.
 * @rules: any text.
 */
static void ends_named(struct promise_end **list, size_t *count, const struct roles *roles,
                       const struct block_list *blocks, int family, const char *rules)
{
    static const char word[] = "0123456789abcdef.:/";
    char text[BLOCK_TEXT], why[128];
    size_t before = *count, length;
    struct block block;
    for (const char *at = rules; *at && *count < before + NAMED_MOST; at += length ? length : 1) {
        uint8_t addr[16];
        length = strspn(at, word);
        if (length < 4 || length >= sizeof(text) || (at > rules && isalnum((unsigned char)at[-1])))
            continue;
        snprintf(text, sizeof(text), "%.*s", (int)length, at);
        if (!strpbrk(text, ".:") || block_parse(text, false, &block, why, sizeof(why)) ||
            block_family(&block) != family)
            continue;
        role_sample(roles, &block, addr);
        const struct block *around = blocks_with(blocks, addr);
        if (!around || around->prefix >= block.prefix || machine_has(&roles->machine, addr))
            continue;
        size_t now = *count;
        end_add(list, count, roles, addr);
        if (*count > now && !*(*list)[now].device)
            *count = now; /* nobody is there */
    }
}

/* Those of @list of one family; @text: the first, and how many more. */
static void ends_list(struct promise_end **list, size_t *count, char text[80],
                      const struct roles *roles, const struct block_list *blocks, int family,
                      bool pods)
{
    char block[BLOCK_TEXT];
    size_t all = 0;
    for (size_t i = 0; i < blocks->count; i++) {
        if (block_family(&blocks->item[i]) != family)
            continue;
        if (all++ == 0 && blocks->item[i].prefix == 128)
            addr_print(blocks->item[i].addr, text, 80);
        else if (all == 1)
            snprintf(text, 80, "%s", block_print(&blocks->item[i], block, sizeof(block)));
        ends_of(list, count, roles, &blocks->item[i], pods);
    }
    if (all > 1)
        snprintf(text + strlen(text), 80 - strlen(text), " and %zu more", all - 1);
}

/* This machine's own among @blocks. */
static void ends_own(struct promise_end **list, size_t *count, char text[80],
                     const struct roles *roles, const struct block_list *blocks, int family)
{
    for (size_t i = 0; i < roles->machine.count; i++) {
        const uint8_t *addr = roles->machine.item[i].addr;
        if (address_is_v4(addr) != (family == 4) || !blocks_with(blocks, addr))
            continue;
        if (!*count)
            addr_print(addr, text, 80);
        end_add(list, count, roles, addr);
    }
}

/* ---- promises ---- */

enum side {
    SIDE_PODS,  /* of this node, or all that a gateway or host meets */
    SIDE_NODES, /* under whose addresses pods come, or a node itself */
    SIDE_HOSTS,
    SIDE_OWN_HOST, /* this machine */
    SIDE_OWN_NODE,
    SIDES
};

/* The addresses of one side and family, looked up once. */
struct ends {
    struct promise_end *item;
    size_t count;
    char text[80];
    bool known;
};

struct promising {
    const struct roles *roles;
    const char *rules; /* as people have them here; may be NULL */
    struct promises *promises;
    struct portset pool;
    struct ends ends[SIDES][2];
};

static const struct ends *side_ends(struct promising *work, enum side side, int family)
{
    const struct roles *roles = work->roles;
    struct ends *ends = &work->ends[side][family == 6];
    bool own = roles->roles & ROLE_NODE && roles->own_pods.count &&
               !(roles->roles & ROLE_GATEWAY && roles->topology != TOPOLOGY_NODES);
    const struct block_list *const blocks[] = {
        [SIDE_PODS] = own ? &roles->own_pods : &roles->pods,
        [SIDE_NODES] = &roles->nodes,
        [SIDE_HOSTS] = &roles->hosts,
        [SIDE_OWN_HOST] = &roles->hosts,
        [SIDE_OWN_NODE] = &roles->nodes,
    };
    if (ends->known)
        return ends;
    ends->known = true;
    if (side >= SIDE_OWN_HOST)
        ends_own(&ends->item, &ends->count, ends->text, roles, blocks[side], family);
    else
        ends_list(&ends->item, &ends->count, ends->text, roles, blocks[side], family,
                  side == SIDE_PODS);
    if (side < SIDE_OWN_HOST && work->rules)
        ends_named(&ends->item, &ends->count, roles, blocks[side], family, work->rules);
    return ends;
}

static struct promise_end *ends_copy(const struct ends *ends)
{
    struct promise_end *copy = state_grow(NULL, ends->count * sizeof(*copy));
    memcpy(copy, ends->item, ends->count * sizeof(*copy));
    return copy;
}

/* Return: it, to be completed; NULL if one end has no address of the family. */
static struct promise *promise_add(struct promising *work, const char *name, enum side from,
                                   enum side to, int family)
{
    struct promises *all = work->promises;
    const struct ends *one = side_ends(work, from, family), *other = side_ends(work, to, family);
    struct promise new = {.name = name, .family = family};
    if (!one->count || !other->count)
        return NULL;
    new.from = ends_copy(one);
    new.to = ends_copy(other);
    new.froms = one->count;
    new.tos = other->count;
    memcpy(new.from_text, one->text, sizeof(new.from_text));
    memcpy(new.to_text, other->text, sizeof(new.to_text));
    all->item = state_grow(all->item, (all->count + 1) * sizeof(new));
    all->item[all->count] = new;
    return &all->item[all->count++];
}

/* The ports beside those of @set, and that of ssh: what a rule that is too wide lets through. */
static struct portset ports_beside(const struct portset *set)
{
    struct portset beside = {.count = 0};
    for (uint32_t i = 0; i < set->count && beside.count + 3 < PORTRANGE_MAX; i++) {
        const uint32_t near[] = {set->range[i].lo - 1u, set->range[i].hi + 1u};
        for (size_t k = 0; k < 2; k++)
            if (near[k] >= 1 && near[k] <= 65535 &&
                !portset_overlaps(set, (uint16_t)near[k], (uint16_t)near[k]))
                beside.range[beside.count++] =
                    (struct portrange){.lo = (uint16_t)near[k], .hi = (uint16_t)near[k]};
    }
    if (!portset_overlaps(set, 22, 22))
        beside.range[beside.count++] = (struct portrange){.lo = 22, .hi = 22};
    return beside;
}

/* Connections of pods to hosts, as this machine meets them. */
static void promise_pods_out(struct promising *work, enum side from, enum side to, int family)
{
    const struct roles *roles = work->roles;
    const struct site *site = roles->site;
    bool node = roles->roles & ROLE_NODE, gateway = roles->roles & ROLE_GATEWAY;
    /* What a node translates is judged by itself; what comes under its address is not told apart.
     */
    bool judged =
        from == SIDE_PODS && (gateway || (node && roles->judged && roles->snat != SNAT_NONE));
    const char *name = from == SIDE_NODES      ? "pods, by their node's address, to hosts"
                       : from == SIDE_OWN_NODE ? "this node to hosts"
                                               : "pods to hosts";
    struct promise *promise;
    if (site->host_services.count || !roles->judged) {
        promise = promise_add(work, name, from, to, family);
        if (!promise)
            return;
        promise->sports = work->pool;
        promise->dports = site->host_services;
        if (node && roles->snat == SNAT_CONFINE)
            promise->may = work->pool;
        if (node && from == SIDE_PODS && roles->snat != SNAT_NONE) {
            const struct ends *as = side_ends(work, SIDE_OWN_NODE, family);
            promise->as = ends_copy(as);
            promise->ases = as->count;
        }
        /* Behind one address a node's pool gives no port twice; two nodes may have the same. */
        promise->together =
            from == SIDE_NODES || (from == SIDE_PODS && (!node || roles->snat == SNAT_NONE));
    }
    if (!judged)
        return;
    promise = promise_add(work, name, from, to, family);
    if (promise) {
        promise->rejected = "not a service";
        promise->sports = work->pool;
        promise->dports = ports_beside(&site->host_services);
    }
    if (!site->host_services.count || (node && roles->snat == SNAT_CONFINE))
        return;
    promise = promise_add(work, name, from, to, family);
    if (promise) {
        promise->rejected = "not from the pool's ports";
        promise->sports = ports_beside(&work->pool);
        promise->dports = site->host_services;
    }
}

static void promise_pods_in(struct promising *work, enum side from, enum side to, int family)
{
    const struct roles *roles = work->roles;
    const struct site *site = roles->site;
    struct promise *promise;
    if (site->pod_services.count || !roles->judged) {
        promise = promise_add(work, "hosts to pods", from, to, family);
        if (!promise)
            return;
        promise->sports = site->host_ports;
        promise->dports = site->pod_services;
        promise->any_source = from == SIDE_HOSTS;
    }
    if (!(roles->roles & ROLE_GATEWAY))
        return;
    promise = promise_add(work, "hosts to pods", from, to, family);
    if (promise) {
        promise->rejected = "not a service";
        promise->sports = site->host_ports;
        promise->dports = ports_beside(&site->pod_services);
    }
}

static void promise_family(struct promising *work, int family)
{
    const struct roles *roles = work->roles;
    bool translated = roles->snat != SNAT_NONE;
    bool host = roles->roles & ROLE_HOST, node = roles->roles & ROLE_NODE,
         gateway = roles->roles & ROLE_GATEWAY;
    if (node || gateway)
        promise_pods_in(work, SIDE_HOSTS, SIDE_PODS, family);
    if (node || (gateway && !translated))
        promise_pods_out(work, SIDE_PODS, SIDE_HOSTS, family);
    if (gateway && !node && translated)
        promise_pods_out(work, SIDE_NODES, SIDE_HOSTS, family);
    if (node && roles->site->node_pool)
        promise_pods_out(work, SIDE_OWN_NODE, SIDE_HOSTS, family);
    if (host) {
        promise_pods_out(work, translated ? SIDE_NODES : SIDE_PODS, SIDE_OWN_HOST, family);
        promise_pods_in(work, SIDE_OWN_HOST, SIDE_PODS, family);
    }
    if (gateway && roles->topology == TOPOLOGY_ROUTED && roles->site->node_ports.lo) {
        struct promise *promise =
            promise_add(work, "hosts to node ports", SIDE_HOSTS, SIDE_NODES, family);
        if (promise) {
            promise->any_source = true;
            promise->dports.range[promise->dports.count++] = roles->site->node_ports;
        }
    }
}

int roles_promise(const struct site *site, unsigned roles, const char *config_path,
                  const char *rules, struct promises *promises, struct setup_error *error)
{
    struct promising work = {.promises = promises, .rules = rules};
    struct roles *look = roles_look(site, roles, config_path, error);
    *promises = (struct promises){.count = 0};
    if (!look)
        return -1;
    work.roles = look;
    int result = site_pool_ports(&site->config.policy, &site->config.slices, &work.pool);
    if (result < 0)
        role_refuse(look, "[pool] and [rule] have more than %d ranges of ports together",
                    PORTRANGE_MAX);
    for (int family = 4; family <= 6 && result == 0; family += 2)
        promise_family(&work, family);
    for (size_t side = 0; side < SIDES; side++)
        for (size_t i = 0; i < 2; i++)
            free(work.ends[side][i].item);
    roles_forget(look);
    return result;
}

void promises_free(struct promises *promises)
{
    for (size_t i = 0; i < promises->count; i++) {
        free(promises->item[i].from);
        free(promises->item[i].to);
        free(promises->item[i].as);
    }
    free(promises->item);
    *promises = (struct promises){.count = 0};
}

/* ---- single connections ---- */

static bool ports_few(const struct portset *set)
{
    uint32_t all = 0;
    for (uint32_t i = 0; i < set->count; i++)
        all += set->range[i].hi - set->range[i].lo + 1u;
    return all <= ALL_PORTS;
}

static bool port_is_new(const uint16_t *port, size_t count, uint32_t other)
{
    for (size_t i = 0; i < count; i++)
        if (port[i] == other)
            return false;
    return true;
}

/* All if they are few; else the edges of each range and its middle, and what rules name, spread
 * over all of it. Of "any": @any. */
static size_t ports_sample(const struct portset *set, const uint16_t any[3],
                           const struct twin *twin, uint16_t port[SAMPLES])
{
    size_t count = 0, named = 0, seen = 0;
    bool few = ports_few(set);
    for (size_t i = 0; !set->count && i < 3; i++)
        port[count++] = any[i];
    for (uint32_t i = 0; i < set->count; i++) {
        uint32_t lo = set->range[i].lo, hi = set->range[i].hi;
        uint32_t steps = few ? hi - lo : hi - lo > 1 ? 2 : hi - lo;
        for (uint32_t k = 0; k <= steps; k++)
            port[count++] = (uint16_t)(k == steps ? hi : lo + k * ((hi - lo) / steps));
    }
    for (int pass = 0; twin && !few && pass < 2; pass++) {
        size_t before = count;
        for (uint32_t p = 1; p <= 65535; p++) {
            if (!twin_names(twin, (uint16_t)p) ||
                !(set->count ? portset_overlaps(set, (uint16_t)p, (uint16_t)p) : true) ||
                !port_is_new(port, before, p))
                continue;
            if (pass == 0)
                named++;
            else if (seen++ * NAMED_MOST / named >= count - before && count < before + NAMED_MOST)
                port[count++] = (uint16_t)p;
        }
    }
    return count;
}

struct playing {
    struct play *play;
    size_t count;
};

static void play_add(struct playing *playing, const struct promise_end *from,
                     const struct promise_end *to, uint16_t sport, uint16_t dport, unsigned group)
{
    if (from->here && to->here)
        return;
    playing->play = state_grow(playing->play, (playing->count + 1) * sizeof(*playing->play));
    struct play *play = &playing->play[playing->count++];
    *play = (struct play){.sport = sport, .dport = dport, .group = group};
    memcpy(play->from, from->addr, 16);
    memcpy(play->to, to->addr, 16);
    snprintf(play->in, sizeof(play->in), "%s", from->device);
    if (!from->here && !*from->device) {
        play->result = PLAY_NOT_PLAYED;
        play->why = "this machine has no route to where it comes from";
    }
}

/* Of how many pairs: each with each, or in turns each of one with some of the other. */
static size_t pairs_count(size_t one, size_t other)
{
    return one * other <= PAIRS_MOST ? one * other : 2 * (one > other ? one : other);
}

static void pair_choose(size_t k, size_t one, size_t other, size_t *first, size_t *second)
{
    size_t most = one > other ? one : other;
    *first = one * other <= PAIRS_MOST ? k / other : k % one;
    /* The second turn meets others than the first did. */
    *second = one * other <= PAIRS_MOST ? k % other : (k + k / most * (other / 2)) % other;
}

/*
 * Every pair of addresses, and every pair of ports between the first of them; so a rule for some of
 * the addresses is met as well as one for some of the ports.
 */
struct play *promise_plays(const struct promise *promise, const struct twin *twin, size_t *count)
{
    static const uint16_t any_source[] = {32768, 46883, 60999}, any_service[] = {80, 443, 8080};
    uint16_t sport[SAMPLES], dport[SAMPLES];
    size_t sports = ports_sample(&promise->sports, any_source, twin, sport), one, other;
    size_t dports = ports_sample(&promise->dports, any_service, twin, dport);
    struct playing playing = {.count = 0};
    for (size_t k = 0; k < pairs_count(sports, dports); k++) {
        pair_choose(k, sports, dports, &one, &other);
        play_add(&playing, &promise->from[0], &promise->to[0], sport[one], dport[other], 0);
    }
    for (size_t k = 0; k < pairs_count(promise->froms, promise->tos); k++) {
        pair_choose(k, promise->froms, promise->tos, &one, &other);
        if (one || other)
            play_add(&playing, &promise->from[one], &promise->to[other], sport[k % sports],
                     dport[k % dports], 0);
    }
    if (promise->together && promise->froms > 1)
        for (size_t f = 0; f < 2; f++)
            play_add(&playing, &promise->from[f * (promise->froms - 1)], &promise->to[0],
                     sport[sports / 2], dport[0], 1);
    *count = playing.count;
    return playing.play;
}

/* Whether it left from an address that it may have then. */
static bool play_is_known(const struct promise *promise, const struct play *play)
{
    bool known = !play->arrived || !promise->ases;
    for (size_t i = 0; i < promise->ases && !known; i++)
        known = memcmp(promise->as[i].addr, play->seen_from, 16) == 0;
    return known;
}

enum promise_kept promise_judge(const struct promise *promise, const struct play *play)
{
    if (play->result == PLAY_NOT_PLAYED)
        return PROMISE_UNKNOWN;
    if (promise->rejected)
        return play->result == PLAY_PASSED ? PROMISE_PASSED : PROMISE_KEPT;
    if (play->arrived &&
        (memcmp(play->seen_to, play->to, 16) != 0 || play->seen_dport != play->dport))
        return PROMISE_ELSEWHERE;
    if (play->arrived && !promise->any_source && play->seen_sport != play->sport &&
        !portset_overlaps(&promise->may, play->seen_sport, play->seen_sport))
        return PROMISE_MOVED;
    if (!play_is_known(promise, play))
        return PROMISE_DISGUISED;
    return play->result == PLAY_PASSED    ? PROMISE_KEPT
           : play->result == PLAY_REFUSED ? PROMISE_REFUSED
                                          : PROMISE_LOST;
}
