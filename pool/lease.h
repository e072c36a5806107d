/* SPDX-License-Identifier: MIT */
/*
 * Leases: taking a port towards a destination, letting it go, and asking the kernel for the truth.
 * The theory of operation is at the top of lease.c.
 */
#ifndef FIXPORT_LEASE_H
#define FIXPORT_LEASE_H

#include "pool.h"

/* A port of a lane that a holder has the right to. word: what its word was set to. */
struct lease {
    uint64_t word;
    uint64_t was; /* the word before it was taken */
    uint32_t lane;
    uint16_t port;
    uint8_t before; /* enum word_state that it had; RESTING only if its owner has let go of it */
    bool comes_again; /* in this search, if it is refused: there may be easier ones */
    bool held; /* by lease_hold() */
};

/* A search for a port; one per connect(), on the stack. Fields are lease.c's own. */
struct lease_search {
    const struct pool *pool;
    const struct portset *ports;
    uint64_t now;
    uint64_t quarantine;
    uint32_t holder; /* slot + 1 */
    uint32_t owner; /* it, and the name of the server that it uses: word_owner() */
    uint32_t lane;
    uint32_t size; /* ports in the set */
    uint32_t start; /* where the scan began, an index into the set */
    uint32_t step; /* ports looked at in this pass */
    uint32_t recent; /* ports taken in this pass that the kernel may refuse */
    bool wanted; /* another namespace has found no port a short while ago */
    bool cut; /* it has left ports out, after many that the kernel refused */
    bool passed_held; /* it has left ports out that another thread holds: lease_hold() */
    uint32_t pass;
    uint16_t last; /* the caller's to set: a port that is taken only if no other is left; 0: none */
};

/**
 * lease_search_begin - start looking for a port.
 * @verdict: the rule; must outlive the search.
 * @slot: this namespace's holder. @lane: from pool_lane_find().
 * @now: sys_now_ms().
 */
void lease_search_begin(struct lease_search *search, const struct pool *pool,
                        const struct policy_verdict *verdict, uint32_t slot, uint32_t lane,
                        uint64_t now);

/**
 * lease_search_next - take the next port that this namespace may have.
 * The kernel decides whether it is free; if not, call lease_refused() and take the next.
 * Return: 0, or -EADDRNOTAVAIL: none is left. Lock-free; any thread; async-signal-safe.
 */
int lease_search_next(struct lease_search *search, struct lease *lease);

/**
 * lease_search_ahead - what the following searches of the lane are likely to take, of what this
 * namespace has let go of, and that before this search began.
 * @ports, @words: of each, and the word that the lease will have as lease.was. @most: room for so many.
 * Return: how many there are.
 */
uint32_t lease_search_ahead(const struct lease_search *search, uint16_t *ports, uint64_t *words,
                            uint32_t most);

/**
 * lease_claim - take one certain port, for a socket that is bound to it already.
 * Return: 0, or -EADDRNOTAVAIL: another namespace has it towards this destination.
 */
int lease_claim(struct lease_search *search, uint16_t port, struct lease *lease);

/**
 * lease_hold - have the port alone in the namespace, from asking the kernel about a 4-tuple to having
 * the connection there: lease_confirm(), lease_refused(), lease_return(), lease_let_go() end it, and so
 * does half a second. For lanes that several destinations share. May be called again.
 * @now: sys_now_ms().
 * Return: false: another thread has taken the port since; then lease_return() it.
 */
bool lease_hold(const struct pool *pool, struct lease *lease, uint64_t now);

/** lease_refused - the kernel says the 4-tuple is in use in this namespace: remember that. */
void lease_refused(const struct pool *pool, const struct lease *lease, uint64_t now);

/**
 * lease_return - the port cannot be had just now, though its 4-tuple is free: something of this
 * namespace holds it towards another destination and does not share. The word is as it was.
 */
void lease_return(const struct pool *pool, const struct lease *lease, uint64_t now);

/**
 * lease_kept - the kernel has refused to reuse a TIME_WAIT in this lane (no TCP timestamps).
 * lease_keeps - whether that was a short while ago. One load.
 */
void lease_kept(const struct pool *pool, uint32_t lane, uint64_t now);
bool lease_keeps(const struct pool *pool, uint32_t lane, uint64_t now);

/**
 * lease_let_go - a hint that the socket is closed, or was never connected.
 * Wakes who waits for a port of the lane. A wrong hint costs a retry, nothing else.
 */
void lease_let_go(const struct pool *pool, const struct lease *lease, uint64_t now);

/**
 * lease_over - somebody has seen the connection end: the lease rests, and is then anybody's.
 * @word: the lease's as it was before that was seen; if it is another by now, nothing is changed.
 * Return: whether it rests. For the tools.
 */
bool lease_over(const struct pool *pool, uint32_t lane, uint16_t port, uint64_t word, uint64_t now);

/**
 * lease_free - the network has forgotten the connection of a lease that rests: it is anybody's now.
 * @word: the lease's as it was before that was seen, as above. @quarantine: of the pool's policy, in ms.
 * Return: whether it is. For the tools.
 */
bool lease_free(const struct pool *pool, uint32_t lane, uint16_t port, uint64_t word, uint32_t quarantine);

/** lease_hint - as lease_let_go() for a lease of @slot known by lane and port only. */
void lease_hint(const struct pool *pool, uint32_t slot, uint32_t lane, uint16_t port);

/**
 * lease_confirm - after the kernel shows the connection: is the port still this namespace's?
 * Return: true (and the lease is as if just taken), or false: it has passed to another holder
 * while this thread was stopped between taking and connecting, and the connection must not stay.
 */
bool lease_confirm(const struct pool *pool, struct lease *lease, uint64_t now);

/**
 * lease_follow - after lease_confirm(), where the policy has changed since the search: keep the port by the
 * new one, perhaps in another lane.
 * @search: by the new policy; nothing was taken yet. @before: the pool that @lease is of.
 * Return: whether the port is this namespace's; @lease is the new one then.
 */
bool lease_follow(struct lease_search *search, const struct pool *before, struct lease *lease);

/**
 * lease_wait_begin - announce a waiter of @slot's namespace, before the last search.
 * Return: lease_wait()'s @seen.
 */
uint32_t lease_wait_begin(const struct pool *pool, uint32_t slot, uint32_t lane);

/**
 * lease_wait - wait until this namespace lets go of a word of @lane, at most @ms milliseconds.
 * What others let go of is not to be had before it has rested, so it wakes nobody here.
 * @seen: from lease_wait_begin(); the search came in between.
 * Return: 0 if it is worth looking again, -ETIMEDOUT, -EINTR.
 */
int lease_wait(const struct pool *pool, uint32_t slot, uint32_t lane, uint32_t seen, uint32_t ms);

/**
 * lease_reconcile - compare this namespace's leases with the kernel's sockets.
 * Also takes in connections that a rule matches and that the pool does not know of.
 * @slot: the holder of the namespace that the calling thread is in.
 * @now: sys_now_ms().
 * Return: how many leases were found to be closed; -errno if the kernel did not say.
 * Maps and unmaps memory for its time; costs some ms: callers limit how often (lease_reconcile_due).
 */
int lease_reconcile(const struct pool *pool, uint32_t slot, uint64_t now);

/** lease_reconcile_due - whether @slot's last one is @ms ago; claims it if so. */
bool lease_reconcile_due(const struct pool *pool, uint32_t slot, uint64_t now, uint32_t ms);

#define LEASE_CROWD_MS 250 /* a namespace that has a crowded lane gives back what is over so often */
#define LEASE_CROWD_EARLY_MS 40 /* the same in a burst, if that may be half of the lane, or much */

/**
 * lease_crowd_ms - whether this namespace should see what it can give back, before anybody asks.
 * Return: UINT32_MAX: no, at least half of the search's ports are anybody's to take; else how many
 * ms the last comparison has to be ago. Looks at some of the words.
 * @early: whether that may be less where much is over.
 */
uint32_t lease_crowd_ms(const struct lease_search *search, bool early);

/**
 * lease_next_ms - when the first of the search's ports that rest is anybody's to take.
 * @holder: slot + 1 of who has let go of it, unchecked; 0: not known.
 * Return: ms from the search's begin; UINT32_MAX: none rests. Looks at all of their words.
 */
uint32_t lease_next_ms(const struct lease_search *search, uint32_t *holder);

/** lease_want - no port was left: ask the other namespaces to look what they can give back. */
void lease_want(const struct pool *pool, uint64_t now);

/**
 * lease_wanted - whether somebody asked since @slot's leases were last reconciled, and that is a
 * second ago: then its processes do so at their next connect. Two loads.
 */
bool lease_wanted(const struct pool *pool, uint32_t slot, uint64_t now);

#endif
