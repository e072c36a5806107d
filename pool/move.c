/* SPDX-License-Identifier: MIT */
/*
 * What a change of aliases does to ports in use.
 *
 * A word lies in the lane of a server and says which holder uses a port, by which of the server's
 * addresses. If a reload makes an address another server's, or a server of its own, connections
 * that are open would not be seen by whoever takes a port towards what is now the same server; and
 * a name would be another address'. So the words go along:
 *
 *   1. before the new policy is published, words are copied to where they will be looked for;
 *   2. it is published (the generation);
 *   3. they are copied once more, because some were taken meanwhile by the old policy. Then the
 * words left behind lose their name, and those that stay get the new one, if that is not ambiguous.
 * A lane whose own address is another server's now is emptied: nobody looks there.
 *
 * Meanwhile (header.moving) who looks for a port waits, so nobody takes one by the new policy before 3 is
 * done. Who has looked before, and takes one by the old policy, looks at the generation when the word is
 * its own: either that has changed, and it begins anew, or step 3 sees the word (sequential consistency).
 * Who is just connecting follows afterwards (lease_follow()). Should a reload take longer than POOL_MOVE_MS,
 * or somebody have waited for long enough, then the later of two finds at its lease_confirm() that it has
 * lost the port.
 *
 * What is left behind is kept as long as there is any connection from that port (lease.c), since
 * what is open may be translated as it was. That and copies of what is closed by now the holder's
 * next comparison with the kernel clears away. A word whose name is not known, and any of a lane
 * that several destinations share, may be that of each address that moves: it is copied for all.
 * Not found are connections of whole addresses (aliases without a port) in such lanes, and those of
 * rules with scope = address, whose words are not in the pool: their namespaces take them in when
 * they next connect (lack.c).
 */
#include "move.h"
#include "sys.h"

#include <string.h>

#define MOVE_TRIES 8

/* What becomes of a lane's words with one name. */
struct fate {
    uint32_t lane; /* the same, or another one to which they are copied */
    uint8_t name;  /* there */
    bool known;    /* else they may be of any of the lane's addresses */
};

struct move {
    const struct pool *pool;
    const struct policy *before, *after;
    uint64_t since; /* ms: step 1 */
    bool published;
    uint32_t lane; /* that is looked at */
    bool changes;
    bool emptied; /* by the new policy nobody looks there, all goes to others */
    uint32_t target[2 * POLICY_ALIASES]; /* other lanes that words of it go to */
    uint32_t targets;
    struct fate fate[WORD_NAME_UNKNOWN + 1];
};

/* @port: of the server, for whole addresses. */
static struct dest alias_address(const struct policy_alias *alias, uint16_t port)
{
    struct dest address = alias->from;
    address.port = address.port ? address.port : port;
    return address;
}

static bool name_is_others(const struct policy *policy, const struct dest *server, uint8_t name,
                           const struct dest *address)
{
    struct dest other;
    return policy_address(policy, server, name, &other) && dest_compare(&other, address) != 0;
}

static void target_add(struct move *move, uint32_t lane)
{
    for (uint32_t i = 0; i < move->targets; i++)
        if (move->target[i] == lane)
            return;
    if (lane != move->lane && move->targets < 2 * POLICY_ALIASES)
        move->target[move->targets++] = lane;
}

/* An address that @server has had by @name. */
static void fate_set(struct move *move, const struct dest *server, const struct dest *address,
                     uint8_t name)
{
    struct dest to;
    struct fate *fate = &move->fate[name];
    *fate = (struct fate){.known = true, .lane = move->lane};
    fate->name = policy_server(move->after, address, &to);
    if (dest_compare(&to, server) != 0)
        fate->lane = (uint32_t)pool_lane_find(move->pool, &to, true);
    else if (fate->name != name && (name_is_others(move->before, server, fate->name, address) ||
                                    name_is_others(move->after, server, name, address)))
        fate->name = WORD_NAME_UNKNOWN;
    target_add(move, fate->lane);
    move->changes |= fate->lane != move->lane || fate->name != name;
}

/* A lane of one server. */
static void fates_of_server(struct move *move, const struct dest *server)
{
    struct dest to;
    policy_server(move->after, server, &to);
    move->emptied = dest_compare(&to, server) != 0;
    uint8_t own = policy_server(move->before, server, &to);
    if (dest_compare(&to, server) != 0)
        return; /* it was emptied by a policy before */
    if (!own) {
        fate_set(move, server, server, 0);
        return;
    }
    for (uint32_t i = 0; i < move->before->alias_count && i < POLICY_ALIASES; i++) {
        struct dest address = alias_address(&move->before->alias[i], server->port);
        uint8_t name = policy_server(move->before, &address, &to);
        if (name && dest_compare(&to, server) == 0)
            fate_set(move, server, &address, name);
    }
}

/* One that had no lane of its own: a name may be that of addresses of several servers. */
static void fates_in_shared(struct move *move, const struct policy *named)
{
    for (uint32_t i = 0; i < named->alias_count && i < POLICY_ALIASES; i++) {
        struct dest from = named->alias[i].from, was, is;
        if (!from.port)
            continue;
        uint8_t name = policy_server(move->before, &from, &was);
        if (pool_lane_find(move->pool, &was, false) != (int)move->lane)
            continue;
        bool renamed = policy_server(move->after, &from, &is) != name;
        if (dest_compare(&was, &is) != 0)
            target_add(move, (uint32_t)pool_lane_find(move->pool, &is, true));
        else if (renamed)
            move->fate[name] =
                (struct fate){.lane = move->lane, .name = WORD_NAME_UNKNOWN, .known = true};
        move->changes |= renamed || move->targets;
    }
}

static uint64_t word_named(uint64_t word, uint8_t name)
{
    return (word & ~(0xffull << 40)) | (uint64_t)name << 40;
}

/* What is to be where @there is and @word comes to. */
static uint64_t word_joined(const struct move *move, uint64_t there, uint64_t word)
{
    bool late = move->published && word_state(there) == WORD_USED &&
                word_when(there) >= move->since && word_when(word) <= word_when(there);
    if (word_freedom(there) > word_freedom(word))
        return word;
    if (word_state(there) == WORD_RESTING && word_state(word) == WORD_RESTING)
        return word_when(there) < word_when(word) ? word : there;
    if (word_holder(there) == word_holder(word))
        return word_owner(there) == word_owner(word) ? there : word_named(there, WORD_NAME_UNKNOWN);
    return late && word_freedom(word) < word_freedom(word_moved(0, WORD_RESTING, 0)) ? word : there;
}

static void word_copy(const struct move *move, uint32_t lane, uint16_t port, uint64_t word)
{
    _Atomic uint64_t *at = pool_word(move->pool, lane, port);
    uint64_t there = at ? atomic_load(at) : 0;
    for (int tries = 0; at && tries < MOVE_TRIES; tries++) {
        uint64_t joined = word_joined(move, there, word);
        if (joined == there || atomic_compare_exchange_strong(at, &there, joined))
            return;
    }
}

static void word_go(const struct move *move, _Atomic uint64_t *at, uint16_t port)
{
    uint64_t word = atomic_load(at);
    uint8_t name = word_alias_name(word);
    const struct fate *fate = &move->fate[name];
    bool shared = move->lane >= move->pool->lanes - move->pool->lanes_shared;
    if (word_state(word) == WORD_FREE)
        return;
    for (uint32_t i = 0; i < move->targets && (shared || !fate->known); i++)
        word_copy(move, move->target[i], port, word_named(word, WORD_NAME_UNKNOWN));
    if (fate->lane != move->lane)
        word_copy(move, fate->lane, port, word_named(word, fate->name));
    uint8_t stays = !fate->known ? name : fate->lane == move->lane ? fate->name : WORD_NAME_UNKNOWN;
    for (int tries = 0; move->published && tries < MOVE_TRIES && word_alias_name(word) == name;
         tries++) {
        uint64_t left = move->emptied ? 0 : word_named(word, stays);
        if (left == word || atomic_compare_exchange_strong(at, &word, left))
            return;
    }
}

static void lane_go(const struct move *move)
{
    const struct pool *pool = move->pool;
    uint8_t held[POOL_LANES_MAX];
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        uint32_t place = pool->header->pagemap[page];
        if (place >= pool->places)
            continue;
        pool_held(pool, place, held);
        size_t base = ((size_t)place * pool->lanes + move->lane) * POOL_PAGE_PORTS;
        for (uint32_t i = 0; held[move->lane] && i < POOL_PAGE_PORTS; i++)
            word_go(move, &pool->word[base + i], (uint16_t)(page * POOL_PAGE_PORTS + i));
    }
}

bool pool_moves(const struct policy *before, const struct policy *after)
{
    return before->alias_count != after->alias_count ||
           memcmp(before->alias, after->alias, sizeof(before->alias)) != 0;
}

void pool_move(const struct pool *pool, const struct policy *before, const struct policy *after,
               uint64_t since, bool published)
{
    uint32_t keyed = pool->lanes - pool->lanes_shared;
    struct move move = {
        .pool = pool, .before = before, .after = after, .since = since, .published = published};
    for (uint32_t lane = 0; lane < pool->lanes; lane++) {
        struct dest server = pool->lane[lane].dest; /* anybody's to write: its key proves it */
        move.lane = lane;
        move.changes = move.emptied = false;
        move.targets = 0;
        for (unsigned i = 0; i <= WORD_NAME_UNKNOWN; i++)
            move.fate[i] = (struct fate){.lane = lane};
        if (lane >= keyed) {
            fates_in_shared(&move, before);
            fates_in_shared(&move, after);
        } else if (atomic_load(&pool->lane_key[lane]) &&
                   pool_lane_find(pool, &server, false) == (int)lane) {
            fates_of_server(&move, &server);
        }
        if (move.changes)
            lane_go(&move);
    }
}
