/* SPDX-License-Identifier: MIT */
/*
 * What the node's connection tracking says of leases whose namespace cannot be entered. Entering takes
 * a great deal (SYS_ADMIN, hostPID); asking conntrack(8) takes NET_ADMIN in the node's network.
 *
 * A lease is given back if connection tracking has *seen* its connection end. That there is no entry
 * proves nothing: the packets may go another way (NOTRACK, eBPF, a bridge), or a connection that a
 * forked child has still was silent for longer than entries live. So a lease is over if
 *
 *   - it was let go, and its word is the same before and after the question;
 *   - there are entries with its port and its destination, all of one source address, because others
 *     than the pool's programs may use that port, too;
 *   - and all of them are in TIME_WAIT (both have closed) or CLOSE (a reset), since it was let go: an
 *     older entry is of a connection before. (A new one makes another entry of it, if it is tracked.)
 *
 * Entries in TIME_WAIT live for two minutes, those in CLOSE for ten seconds: who asks less often
 * misses some, and these leases stay. What is given back rests, as always, for at least as long as the
 * entry lives. Lanes that several destinations share are left alone.
 */
#include "cmd.h"

#include "../../pool/address.h"
#include "../../pool/lease.h"
#include "../../pool/sys.h"
#include "tracked.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* What it says on stderr must not get between the entries. */
#define TRACKED_COMMAND \
    "exec 2>/dev/null; timeout 10 conntrack -L -f ipv4 -p tcp && timeout 10 conntrack -L -f ipv6 -p tcp"
#define TRACKED_MAX (1u << 20) /* leases at a time: the words are anybody's to write */

#define TRACKED_SLACK_MS 5000 /* between the letting go and the last packet, and in asking */

enum seen { SEEN_NOTHING, SEEN_OVER, SEEN_ALIVE, SEEN_VAGUE /* whose it is, or when it ended */ };

struct tracked_lease {
    uint64_t word;
    uint32_t lane;
    uint16_t port;
    uint8_t seen; /* enum seen */
    uint8_t from[16]; /* the source address of its entries */
};

struct tracked_list {
    struct tracked_lease *lease; /* by lane and port */
    size_t count, room;
    uint64_t asked; /* sys_now_ms() before */
    unsigned time_wait, close; /* how long such an entry lives, in s; 0: not known */
};

/* What the client has sent, before any translation; and whether the connection has ended. */
struct tracked_tuple {
    uint8_t from[16];
    struct dest to;
    unsigned port;
    bool over;
    unsigned ago; /* s since it ended, UINT_MAX: cannot be told */
};

/* Of this network namespace. */
static unsigned tracked_timeout(const char *state)
{
    char path[80];
    unsigned seconds = 0;
    snprintf(path, sizeof(path), "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_%s", state);
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%u", &seconds) != 1)
        seconds = 0;
    if (file)
        fclose(file);
    return seconds;
}

static bool tracked_append(struct tracked_list *list, uint64_t word, uint32_t lane, uint16_t port)
{
    if (list->count == TRACKED_MAX)
        return true;
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 1024;
        void *more = realloc(list->lease, room * sizeof(*list->lease));
        if (!more)
            return false;
        list->lease = more;
        list->room = room;
    }
    list->lease[list->count++] = (struct tracked_lease){.word = word, .lane = lane, .port = port};
    return true;
}

/* What those holders have let go. Return: false if there is no memory. */
static bool tracked_collect(const struct pool *pool, const bool unseen[POOL_HOLDERS],
                            struct tracked_list *list)
{
    for (uint32_t lane = 0; lane < pool->lanes - pool->lanes_shared; lane++) {
        for (uint32_t port = 1; pool->lane_key[lane] && port < 65536; port++) {
            _Atomic uint64_t *at = pool_word(pool, lane, (uint16_t)port);
            if (!at) {
                port |= POOL_PAGE_PORTS - 1; /* none of its page */
                continue;
            }
            uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
            uint32_t slot = word_holder(word) - 1;
            if ((word_state(word) == WORD_LETGO || word_state(word) == WORD_CLOSING) &&
                slot < POOL_HOLDERS && unseen[slot] &&
                !tracked_append(list, word, lane, (uint16_t)port))
                return false;
        }
    }
    return true;
}

static int tracked_compare(const void *a, const void *b)
{
    const struct tracked_lease *x = a, *y = b;
    return x->lane != y->lane ? (x->lane < y->lane ? -1 : 1) : (int)x->port - (int)y->port;
}

/* "tcp 6 119 TIME_WAIT src=A dst=B sport=N dport=M ...". Return: false if it is not such a line. */
static bool tracked_parse(const struct tracked_list *list, const char *line,
                          struct tracked_tuple *tuple)
{
    char state[24] = "", src[64], dst[64];
    unsigned dport, left = 0;
    const char *at = strstr(line, " src=");
    if (strncmp(line, "tcp ", 4) != 0 || !at ||
        sscanf(at, " src=%63s dst=%63s sport=%u dport=%u", src, dst, &tuple->port, &dport) != 4)
        return false;
    sscanf(line, "tcp %*u %u %23[A-Z_0-9]", &left, state); /* none: it is offloaded, and alive */
    bool time_wait = strcmp(state, "TIME_WAIT") == 0;
    unsigned whole = time_wait ? list->time_wait : list->close;
    tuple->over = time_wait || strcmp(state, "CLOSE") == 0;
    tuple->ago = left <= whole ? whole - left : UINT_MAX;
    tuple->to.port = (uint16_t)dport;
    return tuple->port < 65536 && dport < 65536 && address_parse(src, strlen(src), tuple->from) &&
           address_parse(dst, strlen(dst), tuple->to.addr);
}

/* Return: false if @line cannot be read: an entry that is missing might be a living connection's. */
static bool tracked_entry(const struct pool *pool, struct tracked_list *list, const char *line)
{
    struct tracked_tuple tuple = {.port = 0};
    if (!tracked_parse(list, line, &tuple))
        return false;
    policy_server(pool_policy_now(pool), &tuple.to, &tuple.to);
    int lane = pool_lane_find(pool, &tuple.to, false);
    struct tracked_lease key = {.lane = (uint32_t)lane, .port = (uint16_t)tuple.port};
    struct tracked_lease *lease =
        lane < 0 ? NULL : bsearch(&key, list->lease, list->count, sizeof(key), tracked_compare);
    if (!lease)
        return true;
    uint64_t since = list->asked - word_when(lease->word) + TRACKED_SLACK_MS;
    bool ended = tuple.over && tuple.ago != UINT_MAX && tuple.ago * 1000ull <= since;
    bool same = lease->seen == SEEN_NOTHING || memcmp(lease->from, tuple.from, 16) == 0;
    if (!tuple.over || lease->seen == SEEN_ALIVE)
        lease->seen = SEEN_ALIVE;
    else
        lease->seen = ended && same && lease->seen != SEEN_VAGUE ? SEEN_OVER : SEEN_VAGUE;
    memcpy(lease->from, tuple.from, 16);
    return true;
}

/* Return: NULL if all entries were read; else why not. */
static const char *tracked_ask(const struct pool *pool, struct tracked_list *list)
{
    char *line = NULL;
    size_t room = 0;
    bool good = true;
    FILE *answer = popen(TRACKED_COMMAND, "re");
    while (answer && good && getline(&line, &room, answer) > 0)
        good = tracked_entry(pool, list, line);
    free(line);
    int status = answer ? pclose(answer) : -1;
    if (!good)
        return "conntrack(8) says what cannot be understood";
    if (status < 0 || !WIFEXITED(status))
        return "conntrack(8) could not be run";
    return WEXITSTATUS(status) == 0     ? NULL
           : WEXITSTATUS(status) == 124 ? "conntrack(8) was not done in 10 s"
           : WEXITSTATUS(status) == 127 ? "conntrack(8) is not installed"
                                        : "conntrack(8) may not look: that takes CAP_NET_ADMIN";
}

const char *tracked_reclaim(const struct pool *pool, const bool unseen[POOL_HOLDERS],
                            uint32_t quarantine, uint32_t unknown[POOL_HOLDERS])
{
    struct tracked_list list = {.asked = sys_now_ms(),
                                .time_wait = tracked_timeout("time_wait"),
                                .close = tracked_timeout("close")};
    const char *why = tracked_collect(pool, unseen, &list) ? NULL : "not enough memory";
    if (!why && list.count)
        why = tracked_ask(pool, &list);
    uint64_t now = sys_now_ms();
    for (size_t i = 0; !why && i < list.count; i++) {
        const struct tracked_lease *lease = &list.lease[i];
        if (lease->seen == SEEN_OVER)
            lease_over(pool, lease->lane, lease->port, lease->word, now);
        else if (lease->seen != SEEN_ALIVE && now - word_when(lease->word) > quarantine)
            unknown[word_holder(lease->word) - 1]++;
    }
    free(list.lease);
    return why;
}

int tracked_holds(const struct policy *policy, const struct dest *server, uint16_t port)
{
    static const struct tracked_list nothing;
    const int v4 = address_is_v4(server->addr);
    char command[160], *line = NULL;
    size_t room = 0;
    int holds = 0;
    /* Where an alias is of the other family, it is not asked about. */
    snprintf(command, sizeof(command),
             "exec 2>/dev/null; exec timeout 5 conntrack -L -f %s -p tcp --orig-port-src %u",
             v4 ? "ipv4" : "ipv6", port);
    FILE *answer = geteuid() == 0 ? popen(command, "re") : NULL;
    while (answer && getline(&line, &room, answer) > 0) {
        struct tracked_tuple tuple = {.port = 0};
        if (!tracked_parse(&nothing, line, &tuple))
            continue;
        policy_server(policy, &tuple.to, &tuple.to);
        holds |= tuple.port == port && dest_compare(&tuple.to, server) == 0;
    }
    free(line);
    return !answer || pclose(answer) != 0 ? -1 : holds;
}
