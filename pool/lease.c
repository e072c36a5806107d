/* SPDX-License-Identifier: MIT */
/*
 * Leases: theory of operation.
 *
 * Goal. No two live connections of a node have the same source port towards the same destination,
 * whatever processes die at whatever instruction; and no port is lost.
 *
 * Who decides. Inside one network namespace the kernel does: it refuses a port whose 4-tuple is
 * alive. What nobody decides is which namespace may use a port, so that is all a word says: the
 * holder it names has the sole right to that port towards the lane's destinations. How many
 * sockets use the right, and whether any does, is the kernel's to know; the word's state is a hint
 * about it.
 *
 *        take                  close() seen, or            gone or TIME_WAIT in
 *   FREE ------> USED(h) ----- not in a dump -----> LETGO(h) - the next dump -> RESTING(h)
 *    ^            ^  ^                                |  ^ refused v           |     |
 *    |            |  |                                | CLOSING(h)             |     |
 *    |            |  +---- take by h (kernel decides) +------------------------+     |
 *    |            +------- take by anyone, the quarantine being over ----------------+
 *    +-- (zeros)                    holder died: any state of h --> RESTING(nobody)
 *
 * Taking is one compare-and-swap on one word, then the kernel is asked (the shim does: a port
 * range of one port, or a bind). If it refuses, the word stays USED: something of this namespace is
 * there. Nobody waits for anybody: a process that is killed or stopped keeps its word, no more.
 *
 * Letting go. A hooked close() marks the word LETGO. That may be wrong (a forked child has the
 * socket still; a vfork child closed its own copy) or may never come (SIGKILL, a raw system call).
 * Wrong, it costs this namespace one refused attempt. Other namespaces never act on it.
 *
 * The truth. lease_reconcile() dumps the namespace's sockets. A USED word without a socket becomes
 * LETGO; a word that was LETGO before the dump began and still has none becomes RESTING, and
 * after the quarantine anybody's. Two steps, because a thread may sit between taking a word and
 * connecting: it makes its socket visible, then looks at its word again (lease_confirm); the
 * reconciler marks the word, then looks at the sockets. Whatever the order, one sees the other. (A
 * TIME_WAIT is as none: what it holds is over. A socket that is closing makes its word CLOSING, a
 * live one USED.) A confirming
 * thread whose word has become LETGO or RESTING takes it back; if it has passed to
 * another holder, the connection is undone. Only processes inside a namespace can ask its kernel
 * table, so only they return its words (or its death does: holder.h). One that finds no port says
 * so in the pool's counters; the processes of other namespaces see that when they next connect, and
 * reconcile, twice at least until a word is at rest. Nor do they wait for that: where more than half
 * of a lane is not to be had by others, a namespace that connects there compares several times a
 * second, so that one that falls idle has given back what was over. close() asks nothing, because
 * a program may have forbidden itself by then whatever it never calls. What a namespace closed
 * after its last connect stays its own: "fixport-pool reclaim" visits it, or asks the node's connection
 * tracking which of its connections have ended (tools/pool/tracked.c).
 *
 * A connection that the pool does not know (it is older than the pool, or its namespace was dead and
 * came back) is taken in by the dump that shows it, if nobody else has the word.
 *
 * The quarantine is there for what comes after the kernel of the namespace: conntrack on the node
 * and firewalls keep a closed connection's entry for two minutes, and would move another pod that
 * comes with the same port. The same namespace may reopen it at once. Who can ask the node's connection
 * tracking, and sees that it has forgotten a connection, need not wait (lease_free(), tools/pool/tracked.c).
 *
 * The order of taking: from the lane's hand on, which goes round the range as a clock's does, so that
 * what lies before it was used longest ago. Where it stands at first is a secret of the lane
 * (RFC 6056, 3.3.3: an offset that depends on the destination, and a counter), and neighbouring
 * ports are neighbours in the kernel's tables too, which makes them some us cheaper than random
 * ones. Ports that this namespace let go of a short while ago are tried as well; the kernel may
 * refuse them (FIN_WAIT: the peer has not closed yet), so one connect tries a few of them only, and
 * marks them CLOSING: the hand passes them over from then on, until a dump shows them in TIME_WAIT
 * or gone, or until nothing else is left, when a few are tried once more. Last, in lanes that
 * several destinations share, ports that this namespace uses towards another. And after all, the port
 * that equals the destination's: towards an address of the machine itself, where no server is there,
 * a socket at that port would be connected to itself (simultaneous open, RFC 9293, 3.5).
 *
 * Holding. There a word does not keep the threads of a namespace apart, only the kernel does, at
 * connect. By range that is enough. But a socket that was bound before its connect was refused is
 * spoilt, so the kernel is asked first, and between the question and the connection no other thread
 * may take the port: the word's time lies ahead for so long (lease_hold()), and nobody takes it, lets
 * it go on a hint, or judges it by a dump. Who leaves in the middle, or is killed, holds nobody up
 * for longer than HOLD_MS.
 *
 * Fairness. A namespace that opens and closes all the time goes round the whole range, and what it
 * let go of is its own until it has rested. While another namespace finds no port (the counters say
 * so) it leaves what rests alone as long as it has other ports, and begins at the same port each
 * time instead of going round: one connection at a time then keeps one port, and the others come
 * to rest.
 *
 * Servers with several names. Behind the namespace something may translate one address of a server into
 * another (a Service's, by DNAT), so that connections to both meet on the way though each namespace's
 * kernel sees two. They share a lane (policy_server()), and the word says which name its holder uses: for
 * the other name even the same namespace has to let the port rest, since what its kernel knows of the one
 * says nothing about the other.
 *
 * Addresses apart. Where namespaces keep their own addresses (POLICY_ADDRESS) none can be in another's
 * way, and the kernel of each decides alone. The shim then searches in words of its own memory
 * (pool_apart()), which say what this process and those that it has forked know, and nothing else:
 * nobody else's leases, so nothing rests, nobody waits for another namespace, and nobody can spoil them.
 * What other processes of the namespace have, the kernel says by refusing it, or all at once in a dump.
 *
 * Everything in a word is hostile: a state or holder that makes no sense is simply not taken.
 */
#include "lease.h"
#include "sockdiag.h"
#include "sys.h"

#include <limits.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <string.h>

#define LINGER_MS 60000 /* TCP_TIMEWAIT_LEN: after this a closed socket is gone (net/tcp.h) */
#define SUSPECT_MS 1000 /* a connect that takes longer to begin may be marked, see above */
#define HOLD_MS 500 /* a thread that waits for a processor is seldom away for longer */
#define GIVE_BACK_MS 1000 /* the same on somebody else's behalf */
#define RECENT_TRIES 64 /* attempts on ports let go a short while ago, in one pass */
#define CROWD_SAMPLE 64 /* words, of a lane that may be crowded */
#define CROWD_MANY 256 /* ports that are worth an early comparison if they may be over, at least */
#define CROWD_MOST 512 /* ports, at most */
#define WANTED_MS 2000 /* beyond the quarantine: a namespace that finds no port is heard so long */
#define KEPT_MS 1000 /* no TIME_WAIT is tried for so long after the kernel has refused one */

/* The ports that this namespace uses towards others of the lane's destinations come twice: the kernel
 * tells some of them from those that are taken more cheaply than others. */
enum {
    PASS_HAND,
    PASS_RESTING,
    PASS_CLOSING,
    PASS_SHARED,
    PASS_SHARED_AGAIN,
    PASS_LAST, /* lease_search.last */
    PASS_END
};

/* How long ago; a time that has not come yet (another boot, another time namespace) is long ago. */
static uint64_t age(uint64_t now, uint64_t when)
{
    return when > now + 1000 ? UINT64_MAX : when > now ? 0 : now - when;
}

/* Whether a thread of the holder's is about to connect there, see above. */
static bool word_is_held(uint64_t word, uint64_t now)
{
    return word_state(word) == WORD_USED && word_when(word) > now && word_when(word) <= now + HOLD_MS;
}

static bool is_wanted(const struct pool *pool, uint32_t quarantine, uint64_t now)
{
    uint64_t wanted = atomic_load_explicit(&pool->counters->wanted, memory_order_relaxed);
    return wanted && age(now, wanted) < (uint64_t)quarantine + WANTED_MS;
}

/* The lane's next turn of the hand: each search has its own, so that threads do not meet. */
static uint32_t hand_turn(const struct pool *pool, uint32_t lane, uint32_t size)
{
    uint64_t secret = atomic_load_explicit(&pool->lane_key[lane], memory_order_relaxed) ^ pool->seed;
    uint32_t turn = atomic_fetch_add_explicit(&pool->lane[lane].hand, 1, memory_order_relaxed);
    return size ? (uint32_t)((turn + (secret >> 32)) % size) : 0;
}

/* Where a namespace begins instead, while another finds no port: its own first ones are enough. */
static uint32_t home(uint32_t slot, uint32_t size)
{
    return size ? (uint32_t)((slot + 1) * 0x9e3779b1ull % size) : 0;
}

void lease_search_begin(struct lease_search *search, const struct pool *pool,
                        const struct policy_verdict *verdict, uint32_t slot, uint32_t lane,
                        uint64_t now)
{
    uint32_t size = portset_size(&verdict->ports);
    bool wanted = !pool->apart && is_wanted(pool, verdict->quarantine_ms, now);
    *search = (struct lease_search){.pool = pool,
                                    .ports = &verdict->ports,
                                    .now = now,
                                    .quarantine = verdict->quarantine_ms,
                                    .wanted = wanted,
                                    .holder = slot + 1,
                                    .owner = (slot + 1) << 8 | verdict->name,
                                    .lane = lane,
                                    .size = size,
                                    .start = wanted ? home(slot, size)
                                                    : hand_turn(pool, lane, size)};
}

static bool word_is_own(const struct lease_search *search, uint64_t word, enum word_state state)
{
    return word_owner(word) == search->owner && word_state(word) == state;
}

static bool word_has_rested(const struct lease_search *search, uint64_t word)
{
    return word_state(word) == WORD_RESTING &&
           age(search->now, word_when(word)) >= search->quarantine;
}

/* What this namespace let go of so short a while ago that there may be a TIME_WAIT, or more. */
static bool word_is_recent(const struct lease_search *search, uint64_t word)
{
    return (word_is_own(search, word, WORD_LETGO) || word_is_own(search, word, WORD_RESTING)) &&
           age(search->now, word_when(word)) < LINGER_MS;
}

/* Whether nobody else may mind. */
static bool word_is_for_us(const struct lease_search *search, uint64_t word)
{
    return word_state(word) == WORD_FREE || word_is_own(search, word, WORD_RESTING) ||
           word_is_own(search, word, WORD_LETGO) || word_has_rested(search, word);
}

/* What the hand takes. */
static bool word_for_hand(struct lease_search *search, uint64_t word)
{
    if (search->wanted && word_is_own(search, word, WORD_RESTING))
        return word_has_rested(search, word);
    return word_is_for_us(search, word) &&
           (search->recent < RECENT_TRIES || !word_is_recent(search, word));
}

static bool word_resting(struct lease_search *search, uint64_t word)
{
    return word_is_own(search, word, WORD_RESTING);
}

static bool word_closing(struct lease_search *search, uint64_t word)
{
    return word_is_own(search, word, WORD_CLOSING) && search->recent < RECENT_TRIES;
}

static bool word_shared(struct lease_search *search, uint64_t word)
{
    if (!word_is_own(search, word, WORD_USED))
        return false;
    bool held = word_when(word) > search->now && word_is_held(word, sys_now_ms());
    search->passed_held |= held;
    return !held;
}

static bool word_take(struct lease_search *search, _Atomic uint64_t *at, uint64_t word,
                      uint16_t port, struct lease *lease)
{
    uint64_t taken = word_moved((uint64_t)search->owner << 40, WORD_USED, search->now);
    if (!atomic_compare_exchange_strong(at, &word, taken))
        return false;
    search->recent += word_is_recent(search, word) || word_state(word) == WORD_CLOSING;
    bool others = word_state(word) == WORD_RESTING && word_owner(word) != search->owner;
    *lease = (struct lease){.word = taken,
                            .lane = search->lane,
                            .port = port,
                            .was = word,
                            .before = (uint8_t)(others ? WORD_FREE : word_state(word)),
                            .comes_again = search->pass == PASS_SHARED};
    return true;
}

/* The @index-th port of a set, and how many follow it in its range. */
static uint16_t port_at(const struct portset *ports, uint32_t index, uint32_t *follow)
{
    for (uint32_t i = 0; i < ports->count && i < PORTRANGE_MAX; i++) {
        uint32_t size = (uint32_t)ports->range[i].hi - ports->range[i].lo + 1;
        if (index < size) {
            *follow = size - index - 1;
            return (uint16_t)(ports->range[i].lo + index);
        }
        index -= size;
    }
    *follow = 0;
    return 0;
}

typedef bool (*word_test)(struct lease_search *search, uint64_t word);

/*
 * Goes on from search->step to the next port whose word passes @test, in runs of ports that are
 * neighbours in the set and in memory: in a nearly full range this loop is the connect's cost.
 */
static int scan(struct lease_search *search, word_test test, uint32_t limit, struct lease *lease)
{
    while (search->step < limit) {
        uint32_t follow;
        uint32_t index = (search->start + search->step) % search->size;
        uint16_t port = port_at(search->ports, index, &follow);
        uint32_t run = POOL_PAGE_PORTS - port % POOL_PAGE_PORTS;
        run = run < follow + 1 ? run : follow + 1;
        run = run < limit - search->step ? run : limit - search->step;
        _Atomic uint64_t *words = pool_word(search->pool, search->lane, port);
        for (uint32_t i = 0; words && i < run; i++) {
            uint64_t word = atomic_load_explicit(&words[i], memory_order_relaxed);
            if (test(search, word) && port + i != search->last &&
                word_take(search, &words[i], word, (uint16_t)(port + i), lease)) {
                search->step += i + 1;
                return 0;
            }
        }
        search->step += run;
    }
    return -EADDRNOTAVAIL;
}

/* What was passed over was in use: the next search need not look there again. */
static int scan_by_hand(struct lease_search *search, struct lease *lease)
{
    uint32_t before = search->step;
    int result = scan(search, word_for_hand, search->size, lease);
    if (result == 0 && !search->wanted && search->step > before + 1)
        atomic_fetch_add_explicit(&search->pool->lane[search->lane].hand, search->step - before - 1,
                                  memory_order_relaxed);
    return result;
}

static bool lane_is_shared(const struct lease_search *search)
{
    return search->lane >= search->pool->lanes - search->pool->lanes_shared;
}

/* The port that was left out until now, once. */
static int take_last(struct lease_search *search, struct lease *lease)
{
    uint16_t port = search->last;
    _Atomic uint64_t *at = portset_has(search->ports, port)
                               ? pool_word(search->pool, search->lane, port)
                               : NULL;
    uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
    bool may = word_is_for_us(search, word) || word_is_own(search, word, WORD_CLOSING) ||
               (lane_is_shared(search) && word_shared(search, word));
    search->last = 0;
    return at && may && word_take(search, at, word, port, lease) ? 0 : -EADDRNOTAVAIL;
}

static int search_pass(struct lease_search *search, struct lease *lease)
{
    switch (search->pass) {
    case PASS_HAND:
        return scan_by_hand(search, lease);
    case PASS_RESTING:
        return search->wanted ? scan(search, word_resting, search->size, lease) : -EADDRNOTAVAIL;
    case PASS_CLOSING:
        return scan(search, word_closing, search->size, lease);
    case PASS_LAST:
        return search->last ? take_last(search, lease) : -EADDRNOTAVAIL;
    default:
        return lane_is_shared(search) ? scan(search, word_shared, search->size, lease)
                                      : -EADDRNOTAVAIL;
    }
}

/* A guest's is this process' own. */
static struct pool_holder *holder_of(const struct pool *pool, uint32_t slot)
{
    static struct pool_holder guest;
    return slot < POOL_HOLDERS ? &pool->holder[slot] : &guest;
}

static void count_taken(const struct lease_search *search)
{
    atomic_fetch_add_explicit(&holder_of(search->pool, search->holder - 1)->taken, 1,
                              memory_order_relaxed);
}

int lease_search_next(struct lease_search *search, struct lease *lease)
{
    if (search->size == 0)
        return -EADDRNOTAVAIL;
    for (; search->pass < PASS_END; search->pass++, search->step = 0, search->recent = 0) {
        if (search_pass(search, lease) == 0) {
            count_taken(search);
            return 0;
        }
        search->cut |= search->recent >= RECENT_TRIES;
    }
    return -EADDRNOTAVAIL;
}

uint32_t lease_search_ahead(const struct lease_search *search, uint16_t *ports, uint64_t *words,
                            uint32_t most)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < most && i < search->size; i++) {
        uint32_t follow, index = (search->start + search->step + i) % search->size;
        uint16_t port = port_at(search->ports, index, &follow);
        _Atomic uint64_t *at = pool_word(search->pool, search->lane, port);
        uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
        if (!word_is_own(search, word, WORD_LETGO) || word_when(word) >= search->now)
            continue;
        ports[found] = port;
        words[found++] = word;
    }
    return found;
}

int lease_claim(struct lease_search *search, uint16_t port, struct lease *lease)
{
    _Atomic uint64_t *at = pool_word(search->pool, search->lane, port);
    if (!at)
        return -EADDRNOTAVAIL;
    for (int tries = 0; tries < 8; tries++) {
        uint64_t word = atomic_load(at);
        if (word_owner(word) != search->owner && !word_is_for_us(search, word))
            return -EADDRNOTAVAIL;
        if (word_take(search, at, word, port, lease))
            return 0;
    }
    return -EADDRNOTAVAIL;
}

/* Undoes a taking, unless the word has changed since. */
static void word_set_back(const struct pool *pool, const struct lease *lease, uint64_t word)
{
    _Atomic uint64_t *at = pool_word(pool, lease->lane, lease->port);
    uint64_t taken = lease->word;
    if (at)
        atomic_compare_exchange_strong(at, &taken, word);
    atomic_fetch_add_explicit(&pool->counters->retries, 1, memory_order_relaxed);
}

static bool was_let_go(const struct lease *lease)
{
    return lease->before == WORD_LETGO || lease->before == WORD_CLOSING ||
           lease->before == WORD_RESTING;
}

bool lease_hold(const struct pool *pool, struct lease *lease, uint64_t now)
{
    _Atomic uint64_t *at = pool_word(pool, lease->lane, lease->port);
    uint64_t word = lease->word;
    uint64_t held = word_moved(word, WORD_USED, now + HOLD_MS);
    if (!at || !atomic_compare_exchange_strong(at, &word, held))
        return false;
    lease->word = held;
    lease->held = true;
    return true;
}

/* Something of this namespace is there, known to be closing or not known: USED it stays. */
void lease_refused(const struct pool *pool, const struct lease *lease, uint64_t now)
{
    enum word_state state = was_let_go(lease) ? WORD_CLOSING : WORD_USED;
    word_set_back(pool, lease,
                  state == WORD_USED && !lease->held ? lease->word
                                                     : word_moved(lease->word, state, now));
}

void lease_return(const struct pool *pool, const struct lease *lease, uint64_t now)
{
    enum word_state state = was_let_go(lease) ? WORD_CLOSING : (enum word_state)lease->before;
    word_set_back(pool, lease,
                  state == WORD_FREE ? 0 : word_moved(lease->word, state, now));
}

void lease_kept(const struct pool *pool, uint32_t lane, uint64_t now)
{
    atomic_store_explicit(&pool->lane[lane].kept, now, memory_order_relaxed);
}

bool lease_keeps(const struct pool *pool, uint32_t lane, uint64_t now)
{
    uint64_t kept = atomic_load_explicit(&pool->lane[lane].kept, memory_order_relaxed);
    return kept && age(now, kept) < KEPT_MS;
}

/* The bit of a holder (slot + 1) in pool_lane.waiting, and in its futex' set of bits. */
static uint32_t waiting_bit(uint32_t holder)
{
    return 1u << holder % 32;
}

/*
 * Wakes who of those namespaces waits for a port of the lane. The flag is cleared by whoever finds
 * nobody: a waiter that was killed costs one vain call, and one on its way into the kernel sees the
 * counter changed.
 */
static void lane_wake(const struct pool *pool, uint32_t lane, uint32_t bits)
{
    struct pool_lane *at = &pool->lane[lane];
    if (!(atomic_load(&at->waiting) & bits))
        return;
    atomic_fetch_add(&at->released, 1);
    if (SYS(futex, &at->released, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, bits) == 0)
        atomic_fetch_and(&at->waiting, ~bits);
}

static void lane_released(const struct pool *pool, uint32_t lane, uint32_t holder)
{
    lane_wake(pool, lane, waiting_bit(holder));
}

void lease_let_go(const struct pool *pool, const struct lease *lease, uint64_t now)
{
    _Atomic uint64_t *at = pool_word(pool, lease->lane, lease->port);
    uint64_t word = lease->word;
    if (at && atomic_compare_exchange_strong(
                  at, &word, word_moved(lease->word, WORD_LETGO, now)))
        lane_released(pool, lease->lane, word_holder(lease->word));
}

void lease_hint(const struct pool *pool, uint32_t slot, uint32_t lane, uint16_t port)
{
    _Atomic uint64_t *at = pool_word(pool, lane, port);
    uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
    uint64_t now = sys_now_ms();
    if (word_state(word) != WORD_USED || word_holder(word) != slot + 1 || word_is_held(word, now))
        return;
    struct lease lease = {.word = word, .lane = lane, .port = port};
    lease_let_go(pool, &lease, now);
}

bool lease_over(const struct pool *pool, uint32_t lane, uint16_t port, uint64_t word, uint64_t now)
{
    _Atomic uint64_t *at = pool_word(pool, lane, port);
    uint32_t holder = word_holder(word);
    if (!at || !atomic_compare_exchange_strong(at, &word, word_moved(word, WORD_RESTING, now)))
        return false;
    atomic_fetch_add_explicit(&pool->counters->reclaimed, 1, memory_order_relaxed);
    lane_released(pool, lane, holder);
    return true;
}

bool lease_free(const struct pool *pool, uint32_t lane, uint16_t port, uint64_t word, uint32_t quarantine)
{
    _Atomic uint64_t *at = pool_word(pool, lane, port);
    uint64_t now = sys_now_ms();
    /* It stays the holder's to know: its own kernel may remember. On a machine that has just begun nothing
     * can have rested. */
    uint64_t rested = now > quarantine ? word_moved(word, WORD_RESTING, now - quarantine) : 0;
    if (!at || word_state(word) != WORD_RESTING || !atomic_compare_exchange_strong(at, &word, rested))
        return false;
    lane_wake(pool, lane, UINT32_MAX);
    return true;
}

bool lease_confirm(const struct pool *pool, struct lease *lease, uint64_t now)
{
    _Atomic uint64_t *at = pool_word(pool, lease->lane, lease->port);
    if (!at)
        return false;
    uint64_t word = atomic_load(at);
    while (word != lease->word || lease->held) {
        if (word_owner(word) != word_owner(lease->word))
            return false;
        uint64_t again = word_moved(word, WORD_USED, now);
        if (atomic_compare_exchange_weak(at, &word, again)) {
            word = lease->word = again;
            lease->held = false;
        }
    }
    return true;
}

bool lease_follow(struct lease_search *search, const struct pool *before, struct lease *lease)
{
    bool same = before == search->pool && lease->lane == search->lane;
    _Atomic uint64_t *at = pool_word(before, lease->lane, lease->port);
    uint64_t word = lease->word;
    uint64_t named = word_moved((uint64_t)search->owner << 40, WORD_USED, search->now);
    struct lease next = *lease;
    if (same && at && atomic_compare_exchange_strong(at, &word, named)) {
        next.word = named;
    } else if (lease_claim(search, lease->port, &next) != 0) {
        /* A move has left that there for a connection of this namespace: perhaps for this one. */
        at = pool_word(search->pool, search->lane, lease->port);
        next.word = at ? atomic_load(at) : 0;
        next.lane = search->lane;
        if (word_owner(next.word) != (search->holder << 8 | WORD_NAME_UNKNOWN))
            return false;
    }
    if (!same)
        lease_let_go(before, lease, search->now);
    *lease = next;
    return true;
}

uint32_t lease_wait_begin(const struct pool *pool, uint32_t slot, uint32_t lane)
{
    atomic_fetch_or(&pool->lane[lane].waiting, waiting_bit(slot + 1));
    return atomic_load(&pool->lane[lane].released);
}

int lease_wait(const struct pool *pool, uint32_t slot, uint32_t lane, uint32_t seen, uint32_t ms)
{
    struct timespec until;
    SYS_CLOCK(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    int result = (int)SYS(futex, &pool->lane[lane].released, FUTEX_WAIT_BITSET, seen, &until, NULL,
                          waiting_bit(slot + 1));
    return result == -EAGAIN ? 0 : result;
}

bool lease_reconcile_due(const struct pool *pool, uint32_t slot, uint64_t now, uint32_t ms)
{
    _Atomic uint64_t *last = &holder_of(pool, slot)->reconciled_ms;
    uint64_t before = atomic_load(last);
    return age(now, before) >= ms && atomic_compare_exchange_strong(last, &before, now);
}

void lease_want(const struct pool *pool, uint64_t now)
{
    atomic_store_explicit(&pool->counters->wanted, now, memory_order_relaxed);
}

bool lease_wanted(const struct pool *pool, uint32_t slot, uint64_t now)
{
    uint64_t wanted = atomic_load_explicit(&pool->counters->wanted, memory_order_relaxed);
    if (!wanted)
        return false;
    uint64_t last = atomic_load_explicit(&holder_of(pool, slot)->reconciled_ms, memory_order_relaxed);
    return wanted > last && wanted <= now && age(now, last) >= GIVE_BACK_MS;
}

uint32_t lease_next_ms(const struct lease_search *search, uint32_t *holder)
{
    uint64_t next = UINT32_MAX;
    *holder = 0;
    for (uint32_t i = 0; i < search->size; i++) {
        uint32_t follow;
        _Atomic uint64_t *at =
            pool_word(search->pool, search->lane, port_at(search->ports, i, &follow));
        uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
        uint64_t rested = age(search->now, word_when(word));
        if (word_state(word) == WORD_RESTING && rested < search->quarantine &&
            search->quarantine - rested < next) {
            next = search->quarantine - rested;
            *holder = word_holder(word);
        }
    }
    return (uint32_t)next;
}

uint32_t lease_crowd_ms(const struct lease_search *search, bool early)
{
    uint32_t looks = search->size < CROWD_SAMPLE ? search->size : CROWD_SAMPLE;
    uint32_t taken = 0, over = 0;
    for (uint32_t i = 0; i < looks; i++) {
        uint32_t follow, index = (uint32_t)((uint64_t)i * search->size / looks);
        uint16_t port = port_at(search->ports, index, &follow);
        _Atomic uint64_t *at = pool_word(search->pool, search->lane, port);
        uint64_t word = at ? atomic_load_explicit(at, memory_order_relaxed) : 0;
        taken += word_state(word) != WORD_FREE && !word_has_rested(search, word);
        over += word_holder(word) == search->holder &&
                (word_state(word) == WORD_LETGO || word_state(word) == WORD_CLOSING);
    }
    if (2 * taken <= looks || !over)
        return UINT32_MAX;
    if (!early)
        return LEASE_CROWD_MS;
    uint32_t many = search->size / 2;
    many = many < CROWD_MANY ? CROWD_MANY : many > CROWD_MOST ? CROWD_MOST : many;
    return (uint64_t)over * search->size >= (uint64_t)many * looks ? LEASE_CROWD_EARLY_MS : LEASE_CROWD_MS;
}

/* What a dump shows, one bit for each word of the pool. */
struct truth {
    const struct pool *pool;
    uint8_t *live; /* by place, lane, port, as the words: a socket that is in use */
    uint8_t *closing; /* the same: one that is closing */
    uint8_t *gone; /* the same: a TIME_WAIT */
    uint8_t *any; /* by place, port: in use whatever the destination (listening, bound) */
    uint8_t *open; /* the same: not a TIME_WAIT */
    uint8_t *name; /* a byte for each word: of the server's, as in words; 0: it has one; NULL: all have */
    char *buffer;
    size_t size; /* bytes of the mapping that all share */
};

static int truth_begin(struct truth *truth, const struct pool *pool)
{
    size_t any = (size_t)pool->places * POOL_PAGE_PORTS / 8;
    size_t all = any * pool->lanes;
    size_t name = pool_policy_now(pool)->alias_count ? 8 * all : 0;
    size_t size = SOCKDIAG_BUFFER + 2 * any + 3 * all + name;
    long at = SYS(mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096)
        return pool_map_error(at);
    char *base = (char *)at;
    *truth = (struct truth){.pool = pool,
                            .buffer = base,
                            .any = (uint8_t *)base + SOCKDIAG_BUFFER,
                            .live = (uint8_t *)base + SOCKDIAG_BUFFER + any,
                            .closing = (uint8_t *)base + SOCKDIAG_BUFFER + any + all,
                            .gone = (uint8_t *)base + SOCKDIAG_BUFFER + any + 2 * all,
                            .open = (uint8_t *)base + SOCKDIAG_BUFFER + any + 3 * all,
                            .name = name ? (uint8_t *)base + SOCKDIAG_BUFFER + 2 * any + 3 * all : NULL,
                            .size = size};
    return 0;
}

static uint8_t *bits_for(const struct truth *truth, uint8_t state)
{
    return state == TCP_TIME_WAIT ? truth->gone : sockdiag_is_closing(state) ? truth->closing : truth->live;
}

static void set_bit(uint8_t *bits, size_t index)
{
    bits[index / 8] |= (uint8_t)(1 << index % 8);
}

static bool get_bit(const uint8_t *bits, size_t index)
{
    return bits[index / 8] >> index % 8 & 1;
}

/*
 * The lane of a connection. One that a rule matches gets a lane if it has none; but not those of a
 * server on a port of the range: every client would be a destination. A dump begins with listeners.
 */
static int truth_lane(const struct truth *truth, const struct sockdiag_socket *socket, size_t port,
                      uint8_t *name)
{
    struct policy_verdict verdict;
    struct dest server;
    *name = policy_server(pool_policy_now(truth->pool), &socket->peer, &server);
    int lane = pool_lane_find(truth->pool, &server, false);
    if (lane != -ENOENT || sockdiag_is_closing(socket->state) || socket->state == TCP_TIME_WAIT ||
        get_bit(truth->any, port) ||
        !pool_match(truth->pool, &socket->peer, &verdict) ||
        (verdict.scope == POLICY_ADDRESS) != truth->pool->apart ||
        !portset_has(&verdict.ports, socket->port))
        return lane;
    return pool_lane_find(truth->pool, &server, true);
}

static void truth_add(const struct sockdiag_socket *socket, void *arg)
{
    struct truth *truth = arg;
    const struct pool *pool = truth->pool;
    uint32_t place = pool->header->pagemap[socket->port / POOL_PAGE_PORTS];
    uint32_t offset = socket->port % POOL_PAGE_PORTS;
    if (place >= pool->places)
        return;
    if (socket->peer.port == 0) {
        set_bit(truth->any, place * POOL_PAGE_PORTS + offset);
        return;
    }
    if (socket->state != TCP_TIME_WAIT)
        set_bit(truth->open, place * POOL_PAGE_PORTS + offset);
    uint8_t name;
    int lane = truth_lane(truth, socket, place * POOL_PAGE_PORTS + offset, &name);
    if (lane < 0)
        return;
    size_t index = ((size_t)place * pool->lanes + (uint32_t)lane) * POOL_PAGE_PORTS + offset;
    uint8_t *bits = bits_for(truth, socket->state);
    if (bits == truth->live && truth->name)
        truth->name[index] = get_bit(bits, index) && truth->name[index] != name ? WORD_NAME_UNKNOWN : name;
    set_bit(bits, index);
}

/* What a word becomes that has no socket, or only a TIME_WAIT; the same word if nothing. */
static uint64_t word_unseen(uint64_t word, bool time_wait, uint64_t began, uint64_t now)
{
    enum word_state state = word_state(word);
    if (state == WORD_USED && (time_wait || age(began, word_when(word)) >= SUSPECT_MS))
        return word_moved(word, WORD_LETGO, now);
    if ((state == WORD_LETGO || state == WORD_CLOSING) && word_when(word) < began)
        return word_moved(word, WORD_RESTING, now);
    return word;
}

/* Its state, and the time only if that is another one. */
static uint64_t word_seen(uint64_t word, enum word_state state)
{
    return word_state(word) == state ? word : word_moved(word, state, sys_now_ms());
}

/*
 * What a move has left in a server's lane (move.c) may be that of a connection which something translates to the
 * server still, because it is older than the move: kept while there is any from that port.
 */
static uint64_t word_judged(const struct truth *truth, uint64_t word, size_t index, size_t port,
                            uint64_t began)
{
    if (word_is_held(word, sys_now_ms()))
        return word;
    bool left = word_alias_name(word) == WORD_NAME_UNKNOWN && get_bit(truth->open, port);
    if (left || get_bit(truth->live, index) || get_bit(truth->any, port))
        return word_seen(word, WORD_USED);
    if (get_bit(truth->closing, index))
        return word_seen(word, WORD_CLOSING);
    return word_unseen(word, get_bit(truth->gone, index), began, sys_now_ms());
}

/* A word that is nobody's becomes the holder's if its namespace has a connection there. */
static void word_adopt(const struct truth *truth, _Atomic uint64_t *at, uint64_t word, size_t index,
                       uint32_t holder)
{
    bool nobodys = word_state(word) == WORD_FREE || word_state(word) == WORD_RESTING;
    uint32_t name = truth->name && get_bit(truth->live, index) ? truth->name[index] : 0;
    uint64_t owner = (uint64_t)(holder << 8 | name) << 40;
    if (nobodys && get_bit(truth->live, index))
        atomic_compare_exchange_strong(at, &word, word_moved(owner, WORD_USED, sys_now_ms()));
}

/* Return: how many words of the holder became more free than they were. */
static int lane_apply(const struct truth *truth, uint32_t holder, uint32_t place, uint32_t lane,
                      uint64_t began)
{
    int freed = 0;
    size_t base = ((size_t)place * truth->pool->lanes + lane) * POOL_PAGE_PORTS;
    for (uint32_t i = 0; i < POOL_PAGE_PORTS; i++) {
        _Atomic uint64_t *at = &truth->pool->word[base + i];
        uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
        if (word_holder(word) != holder || word_state(word) == WORD_FREE) {
            word_adopt(truth, at, word, base + i, holder);
            continue;
        }
        uint64_t judged = word_judged(truth, word, base + i, place * POOL_PAGE_PORTS + i, began);
        if (judged != word && atomic_compare_exchange_strong(at, &word, judged))
            freed += word_state(word) <= WORD_CLOSING && word_freedom(judged) > word_freedom(word);
    }
    if (freed)
        lane_released(truth->pool, lane, holder);
    return freed;
}

/* Whether there is a connection that a lane's words, if there are none, have to learn of. */
static bool lane_is_live(const struct truth *truth, uint32_t place, uint32_t lane)
{
    const uint8_t *bits = truth->live + ((size_t)place * truth->pool->lanes + lane) * POOL_PAGE_PORTS / 8;
    for (uint32_t i = 0; i < POOL_PAGE_PORTS / 8; i++)
        if (bits[i])
            return true;
    return false;
}

static int truth_apply(const struct truth *truth, uint32_t holder, uint64_t began)
{
    const struct pool *pool = truth->pool;
    uint32_t keyed = pool->lanes - pool->lanes_shared;
    int changed = 0;
    uint8_t held[POOL_LANES_MAX];
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        uint32_t place = pool->header->pagemap[page];
        if (place >= pool->places)
            continue;
        pool_held(pool, place, held);
        for (uint32_t lane = 0; lane < pool->lanes; lane++)
            if ((lane >= keyed || atomic_load(&pool->lane_key[lane])) &&
                (held[lane] || lane_is_live(truth, place, lane)))
                changed += lane_apply(truth, holder, place, lane, began);
    }
    return changed;
}

/* A page that a reload adds meanwhile does no harm: its words are younger than the dump. */
static void ports_with_words(const struct pool *pool, uint16_t *first, uint16_t *last)
{
    *first = UINT16_MAX;
    *last = 0;
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        if (pool->header->pagemap[page] >= pool->places)
            continue;
        uint16_t start = (uint16_t)(page * POOL_PAGE_PORTS);
        *first = start < *first ? start : *first;
        *last = (uint16_t)(start + POOL_PAGE_PORTS - 1);
    }
}

int lease_reconcile(const struct pool *pool, uint32_t slot, uint64_t now)
{
    struct truth truth;
    int result = truth_begin(&truth, pool);
    if (result)
        return result;
    uint16_t first, last;
    ports_with_words(pool, &first, &last);
    result = sockdiag_dump(first, last, truth.buffer, truth_add, &truth);
    if (!result) {
        result = truth_apply(&truth, slot + 1, now);
        atomic_fetch_add_explicit(&pool->counters->reconciled, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&pool->counters->reclaimed, (unsigned)result, memory_order_relaxed);
    }
    SYS(munmap, truth.buffer, truth.size);
    return result;
}
