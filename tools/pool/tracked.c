/* SPDX-License-Identifier: MIT */
/*
 * What the node's connection tracking says of leases. Entering a namespace takes a great deal
 * (SYS_ADMIN, hostPID); asking connection tracking takes NET_ADMIN in the node's network, and it
 * sees all pods.
 *
 * Two questions are asked, and both are answered by entries that are there. That there is no entry
 * proves nothing: the packets may go another way (NOTRACK, eBPF, a bridge), or a connection that a
 * forked child has still was silent for longer than entries live.
 *
 * Has the connection ended? Asked of leases whose namespace cannot be entered. Such a lease is over
 * if
 *
 *   - it was let go, and its word is the same before and after the question;
 *   - there are entries with its port and its destination, all of one source address, because
 * others than the pool's programs may use that port, too;
 *   - and all of them are in TIME_WAIT (both have closed) or CLOSE (a reset), since it was let go:
 * an older entry is of a connection before. (A new one makes another entry of it, if it is
 * tracked.)
 *
 * Then it rests. What the quarantine waits for is that the node forgets the connection, because
 * another pod with that port would be moved to another one as long as it remembers. So the second
 * question: is it forgotten? Asked of all leases that rest, whose namespace has said, or whose
 * holder's death, that nobody has a connection there. If all entries of such a lease are in
 * TIME_WAIT or CLOSE, and all show that this node translates their source, which is why they are in
 * the way, they are told to expire within a second. When they have, the port is anybody's.
 *
 * Nothing is deleted. Others may have the same port, and even the same address: a new pod the one
 * of a pod that has ended, or a program without the library. An entry is left alone unless it has
 * ended; and if somebody connects in the moment before it is told to expire, so that it is told to
 * an entry that lives, then that is seen at once, because it is read again afterwards, and it gets
 * back the time that entries in its state have. Each packet gives it that, too.
 *
 * Entries in TIME_WAIT live for two minutes, those in CLOSE for ten seconds: who asks less often
 * misses some, and these leases stay as they are. Entries of other zones are taken for alive. Lanes
 * that several destinations share are left alone.
 */
#include "cmd.h"

#include "../../pool/address.h"
#include "../../pool/lease.h"
#include "../../pool/sys.h"
#include "tracked.h"

#include <libmnl/libmnl.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TRACKED_MAX (1u << 18)  /* leases at a time: the words are anybody's to write */
#define TRACKED_SLACK_MS 5000   /* between the letting go and the last packet, and in asking */
#define TRACKED_EXPIRE_S 1      /* the least that can be said, but for at once */
#define TRACKED_EXPIRED_MS 1050 /* then it has: ticks are coarse */
#define TRACKED_ANSWER_S 10     /* at most, for each part of an answer */

enum seen { SEEN_NOTHING, SEEN_OVER, SEEN_ALIVE, SEEN_VAGUE /* whose it is, or when it ended */ };

struct tracked_lease {
    uint64_t word;
    uint32_t lane;
    uint16_t port;
    uint8_t seen;     /* enum seen */
    bool kept;        /* by an entry that nobody told to expire: it must not be freed */
    bool expiring;    /* all of its entries have been told to */
    uint8_t from[16]; /* the source address of its entries */
};

/* An entry: what the client has sent, before any translation; and how it stands. */
struct tracked_entry {
    uint8_t from[16], to[16], back[16]; /* back: where answers go to */
    uint16_t port, to_port, back_port;
    uint8_t state;  /* enum tcp_conntrack; NONE: it is offloaded, and alive */
    uint32_t left;  /* s */
    bool elsewhere; /* in another zone */
    uint32_t lease; /* index, see tracked_list.entry */
};

struct tracked_list {
    const struct pool *pool;
    struct tracked_lease *lease; /* by lane and port */
    size_t count, room;
    struct tracked_entry *entry; /* those that could be told to expire */
    size_t entries, entry_room;
    uint64_t asked; /* sys_now_ms() before */
    unsigned
        timeout[TCP_CONNTRACK_MAX]; /* how long an entry in that state lives, in s; 0: not known */
    struct mnl_socket *socket;
    uint32_t sequence;
    bool again;  /* asking for the second time */
    bool failed; /* no memory */
};

static const char *const state_names[TCP_CONNTRACK_MAX] = {
    [TCP_CONNTRACK_SYN_SENT] = "syn_sent",       [TCP_CONNTRACK_SYN_RECV] = "syn_recv",
    [TCP_CONNTRACK_ESTABLISHED] = "established", [TCP_CONNTRACK_FIN_WAIT] = "fin_wait",
    [TCP_CONNTRACK_CLOSE_WAIT] = "close_wait",   [TCP_CONNTRACK_LAST_ACK] = "last_ack",
    [TCP_CONNTRACK_TIME_WAIT] = "time_wait",     [TCP_CONNTRACK_CLOSE] = "close",
    [TCP_CONNTRACK_SYN_SENT2] = "syn_sent",
};

/* Of this network namespace. */
static void tracked_timeouts(struct tracked_list *list)
{
    for (unsigned state = 0; state < TCP_CONNTRACK_MAX; state++) {
        char path[80];
        snprintf(path, sizeof(path), "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_%s",
                 state_names[state] ? state_names[state] : "");
        FILE *file = state_names[state] ? fopen(path, "re") : NULL;
        if (file && fscanf(file, "%u", &list->timeout[state]) != 1)
            list->timeout[state] = 0;
        if (file)
            fclose(file);
    }
}

/* Room for one more in an array. */
static bool tracked_grow(void **array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return true;
    size_t more = *room ? 2 * *room : 1024;
    void *grown = realloc(*array, more * size);
    if (!grown)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static bool has_rested(uint64_t word, uint32_t quarantine, uint64_t now)
{
    uint64_t when = word_when(word);
    return word_state(word) == WORD_RESTING && (when > now + 1000 || when + quarantine <= now);
}

typedef bool (*tracked_each)(void *arg, uint64_t word, uint32_t lane, uint16_t port);

/* Calls @each for what is not free in the lanes of one destination, until it returns false. Anybody
 * can have filled lanes: which one is the first is left to chance. */
static bool tracked_walk(const struct pool *pool, uint32_t quarantine, tracked_each each, void *arg)
{
    uint64_t now = sys_now_ms();
    uint32_t first = 0, lanes = pool->lanes - pool->lanes_shared;
    (void)!getrandom(&first, sizeof(first), GRND_NONBLOCK);
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        uint8_t held[POOL_LANES_MAX];
        uint32_t place = pool->header->pagemap[page];
        if (place >= pool->places)
            continue;
        pool_held(pool, place, held);
        for (uint32_t turn = 0; turn < lanes; turn++) {
            uint32_t lane = (first % lanes + turn) % lanes;
            size_t base = ((size_t)place * pool->lanes + lane) * POOL_PAGE_PORTS;
            for (uint32_t i = 0; held[lane] && pool->lane_key[lane] && i < POOL_PAGE_PORTS; i++) {
                uint64_t word = atomic_load_explicit(&pool->word[base + i], memory_order_relaxed);
                if (word_state(word) != WORD_FREE && !has_rested(word, quarantine, now) &&
                    !each(arg, word, lane, (uint16_t)(page * POOL_PAGE_PORTS + i)))
                    return false;
            }
        }
    }
    return true;
}

struct tracked_lanes {
    uint32_t taken[POOL_LANES_MAX], loose[POOL_LANES_MAX];
};

static bool tracked_count(void *arg, uint64_t word, uint32_t lane, uint16_t port)
{
    struct tracked_lanes *lanes = arg;
    (void)port;
    lanes->taken[lane]++;
    lanes->loose[lane] += word_state(word) != WORD_USED;
    return true;
}

enum tracked_need tracked_need(const struct pool *pool, uint32_t quarantine)
{
    struct tracked_lanes lanes = {.taken = {0}};
    enum tracked_need need = TRACKED_NOTHING;
    tracked_walk(pool, quarantine, tracked_count, &lanes);
    for (uint32_t lane = 0; lane < pool->lanes; lane++) {
        struct policy_verdict verdict;
        struct dest dest = pool->lane[lane].dest;
        if (!lanes.loose[lane])
            continue;
        need = TRACKED_SOME;
        if (pool_match(pool, &dest, &verdict) &&
            2 * lanes.taken[lane] > portset_size(&verdict.ports))
            return TRACKED_SHORT;
    }
    return need;
}

struct tracked_wanted {
    struct tracked_list *list;
    const bool *unseen;
};

static bool tracked_collect(void *arg, uint64_t word, uint32_t lane, uint16_t port)
{
    const struct tracked_wanted *wanted = arg;
    struct tracked_list *list = wanted->list;
    uint32_t slot = word_holder(word) - 1;
    bool let_go = word_state(word) == WORD_LETGO || word_state(word) == WORD_CLOSING;
    if (word_state(word) != WORD_RESTING &&
        !(let_go && slot < POOL_HOLDERS && wanted->unseen[slot]))
        return true;
    if (list->count == TRACKED_MAX)
        return false;
    if (!tracked_grow((void **)&list->lease, list->count, &list->room, sizeof(*list->lease))) {
        list->failed = true;
        return false;
    }
    list->lease[list->count++] = (struct tracked_lease){.word = word, .lane = lane, .port = port};
    return true;
}

static int tracked_compare(const void *a, const void *b)
{
    const struct tracked_lease *x = a, *y = b;
    return x->lane != y->lane ? (x->lane < y->lane ? -1 : 1) : (int)x->port - (int)y->port;
}

/* ---- netlink ---- */

static void address_take(const struct nlattr *attr, uint8_t addr[16])
{
    static const uint8_t four[12] = {[10] = 0xff, [11] = 0xff};
    uint16_t size = mnl_attr_get_payload_len(attr);
    if (size != 4 && size != 16)
        return;
    memcpy(addr, four, sizeof(four));
    memcpy(addr + 16 - size, mnl_attr_get_payload(attr), size);
}

static uint64_t number_take(const struct nlattr *attr)
{
    uint64_t number = 0;
    const uint8_t *bytes = mnl_attr_get_payload(attr);
    for (uint16_t i = 0; i < mnl_attr_get_payload_len(attr) && i < 8; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* Return: the protocol. */
static unsigned tuple_take(const struct nlattr *tuple, uint8_t from[16], uint8_t to[16],
                           uint16_t *port, uint16_t *to_port)
{
    const struct nlattr *part, *attr;
    unsigned protocol = 0;
    mnl_attr_for_each_nested(part, tuple)
    {
        unsigned type = mnl_attr_get_type(part);
        mnl_attr_for_each_nested(attr, part)
        {
            unsigned what = mnl_attr_get_type(attr);
            if (type == CTA_TUPLE_IP && (what == CTA_IP_V4_SRC || what == CTA_IP_V6_SRC))
                address_take(attr, from);
            else if (type == CTA_TUPLE_IP && (what == CTA_IP_V4_DST || what == CTA_IP_V6_DST))
                address_take(attr, to);
            else if (type == CTA_TUPLE_PROTO && what == CTA_PROTO_NUM)
                protocol = (unsigned)number_take(attr);
            else if (type == CTA_TUPLE_PROTO && what == CTA_PROTO_SRC_PORT)
                *port = (uint16_t)number_take(attr);
            else if (type == CTA_TUPLE_PROTO && what == CTA_PROTO_DST_PORT)
                *to_port = (uint16_t)number_take(attr);
        }
    }
    return protocol;
}

static uint8_t state_take(const struct nlattr *info)
{
    const struct nlattr *part, *attr;
    uint8_t state = TCP_CONNTRACK_NONE;
    mnl_attr_for_each_nested(part, info)
    {
        if (mnl_attr_get_type(part) != CTA_PROTOINFO_TCP)
            continue;
        mnl_attr_for_each_nested(attr, part) if (mnl_attr_get_type(attr) == CTA_PROTOINFO_TCP_STATE)
            state = (uint8_t)number_take(attr);
    }
    return state < TCP_CONNTRACK_MAX ? state : TCP_CONNTRACK_NONE;
}

/* Return: false if it is not of TCP. */
static bool entry_take(const struct nlmsghdr *message, struct tracked_entry *entry)
{
    const struct nlattr *attr;
    uint8_t server[16];
    uint16_t server_port;
    unsigned protocol = 0;
    *entry = (struct tracked_entry){.left = UINT32_MAX};
    mnl_attr_for_each(attr, message, sizeof(struct nfgenmsg))
    {
        switch (mnl_attr_get_type(attr)) {
        case CTA_TUPLE_ORIG:
            protocol = tuple_take(attr, entry->from, entry->to, &entry->port, &entry->to_port);
            break;
        case CTA_TUPLE_REPLY:
            tuple_take(attr, server, entry->back, &server_port, &entry->back_port);
            break;
        case CTA_PROTOINFO:
            entry->state = state_take(attr);
            break;
        case CTA_TIMEOUT:
            entry->left = (uint32_t)number_take(attr);
            break;
        case CTA_ZONE:
            entry->elsewhere = true;
            break;
        default:
            break;
        }
    }
    return protocol == IPPROTO_TCP;
}

static bool entry_is_over(const struct tracked_entry *entry)
{
    return !entry->elsewhere &&
           (entry->state == TCP_CONNTRACK_TIME_WAIT || entry->state == TCP_CONNTRACK_CLOSE);
}

static struct nlmsghdr *message_begin(struct tracked_list *list, char *buffer, uint16_t type,
                                      uint16_t flags, bool is_v4)
{
    struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | type);
    message->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    message->nlmsg_seq = ++list->sequence;
    struct nfgenmsg *head = mnl_nlmsg_put_extra_header(message, sizeof(*head));
    head->nfgen_family = flags & NLM_F_DUMP ? AF_UNSPEC : is_v4 ? AF_INET : AF_INET6;
    head->version = NFNETLINK_V0;
    return message;
}

static void message_tuple(struct nlmsghdr *message, const struct tracked_entry *entry)
{
    bool is_v4 = address_is_v4(entry->from);
    uint16_t size = is_v4 ? 4 : 16;
    struct nlattr *tuple = mnl_attr_nest_start(message, CTA_TUPLE_ORIG);
    struct nlattr *part = mnl_attr_nest_start(message, CTA_TUPLE_IP);
    mnl_attr_put(message, is_v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, size, entry->from + 16 - size);
    mnl_attr_put(message, is_v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, size, entry->to + 16 - size);
    mnl_attr_nest_end(message, part);
    part = mnl_attr_nest_start(message, CTA_TUPLE_PROTO);
    mnl_attr_put_u8(message, CTA_PROTO_NUM, IPPROTO_TCP);
    mnl_attr_put_u16(message, CTA_PROTO_SRC_PORT, htons(entry->port));
    mnl_attr_put_u16(message, CTA_PROTO_DST_PORT, htons(entry->to_port));
    mnl_attr_nest_end(message, part);
    mnl_attr_nest_end(message, tuple);
}

/* Sends it, and has the answers @taken, if there are any. Return: 0 or -errno. */
static int message_send(struct tracked_list *list, struct nlmsghdr *message, mnl_cb_t taken,
                        void *arg)
{
    char buffer[32768];
    unsigned port = mnl_socket_get_portid(list->socket);
    uint32_t sequence = message->nlmsg_seq;
    if (mnl_socket_sendto(list->socket, message, message->nlmsg_len) < 0)
        return -errno;
    for (int more = MNL_CB_OK; more > MNL_CB_STOP;) {
        ssize_t got = mnl_socket_recvfrom(list->socket, buffer, sizeof(buffer));
        if (got < 0)
            return -errno;
        more = mnl_cb_run(buffer, (size_t)got, sequence, port, taken, arg);
        if (more < 0 && errno != ESRCH) /* ESRCH: a late answer to a question before */
            return -errno;
        more = more < 0 ? MNL_CB_OK : more;
    }
    return 0;
}

static int entry_read(const struct nlmsghdr *message, void *entry)
{
    entry_take(message, entry);
    return MNL_CB_OK; /* the acknowledgement follows */
}

/* Return: 0; -ENOENT: there is none any more; -errno. */
static int entry_expires(struct tracked_list *list, const struct tracked_entry *entry,
                         uint32_t seconds)
{
    char buffer[512];
    struct nlmsghdr *message =
        message_begin(list, buffer, IPCTNL_MSG_CT_NEW, NLM_F_ACK, address_is_v4(entry->from));
    message_tuple(message, entry);
    mnl_attr_put_u32(message, CTA_TIMEOUT, htonl(seconds));
    return message_send(list, message, NULL, NULL);
}

/*
 * Has an entry that is over be forgotten soon; see above about one that is not over by now.
 * Return: false: it is none that may be forgotten, or the kernel refused.
 */
static bool entry_forget(struct tracked_list *list, const struct tracked_entry *entry)
{
    char buffer[512];
    struct tracked_entry now;
    int error = entry_expires(list, entry, TRACKED_EXPIRE_S);
    if (error)
        return error == -ENOENT;
    struct nlmsghdr *message =
        message_begin(list, buffer, IPCTNL_MSG_CT_GET, NLM_F_ACK, address_is_v4(entry->from));
    message_tuple(message, entry);
    error = message_send(list, message, entry_read, &now);
    if (error)
        return error == -ENOENT;
    if (entry_is_over(&now))
        return true;
    unsigned whole = list->timeout[now.state] ? list->timeout[now.state]
                                              : list->timeout[TCP_CONNTRACK_ESTABLISHED];
    entry_expires(list, entry, whole ? whole : 432000); /* the kernel's own default */
    return false;
}

/* ---- judging ---- */

static struct tracked_lease *tracked_find(const struct tracked_list *list,
                                          const struct tracked_entry *entry, uint16_t port)
{
    struct dest to = {.port = entry->to_port};
    memcpy(to.addr, entry->to, sizeof(to.addr));
    policy_server(pool_policy_now(list->pool), &to, &to);
    int lane = pool_lane_find(list->pool, &to, false);
    struct tracked_lease key = {.lane = (uint32_t)lane, .port = port};
    return lane < 0 ? NULL : bsearch(&key, list->lease, list->count, sizeof(key), tracked_compare);
}

/* Of a lease that was let go. */
static void tracked_judge(const struct tracked_list *list, struct tracked_lease *lease,
                          const struct tracked_entry *entry)
{
    unsigned whole = list->timeout[entry->state];
    uint64_t since = list->asked - word_when(lease->word) + TRACKED_SLACK_MS;
    bool over = entry_is_over(entry);
    bool ended = over && entry->left <= whole && (whole - entry->left) * 1000ull <= since;
    bool same = lease->seen == SEEN_NOTHING || memcmp(lease->from, entry->from, 16) == 0;
    if (!over || lease->seen == SEEN_ALIVE)
        lease->seen = SEEN_ALIVE;
    else
        lease->seen = ended && same && lease->seen != SEEN_VAGUE ? SEEN_OVER : SEEN_VAGUE;
    memcpy(lease->from, entry->from, 16);
}

/* Each entry, once or twice. */
static int tracked_take(const struct nlmsghdr *message, void *arg)
{
    struct tracked_list *list = arg;
    struct tracked_entry entry;
    if (!entry_take(message, &entry))
        return MNL_CB_OK;
    struct tracked_lease *moved =
        entry.back_port == entry.port ? NULL : tracked_find(list, &entry, entry.back_port);
    if (moved) /* somebody's was moved to that port: it is in the way */
        moved->kept = true;
    struct tracked_lease *lease = tracked_find(list, &entry, entry.port);
    if (!lease)
        return MNL_CB_OK;
    bool is_translated = memcmp(entry.from, entry.back, 16) != 0;
    if (list->again || !entry_is_over(&entry) || !is_translated) {
        lease->kept = true;
    } else {
        if (!tracked_grow((void **)&list->entry, list->entries, &list->entry_room, sizeof(entry))) {
            list->failed = true;
            return MNL_CB_ERROR;
        }
        entry.lease = (uint32_t)(lease - list->lease);
        list->entry[list->entries++] = entry;
    }
    if (!list->again && word_state(lease->word) != WORD_RESTING)
        tracked_judge(list, lease, &entry);
    return MNL_CB_OK;
}

/* Return: NULL if all entries were read; else why not. */
static const char *tracked_ask(struct tracked_list *list)
{
    char buffer[512];
    int error =
        message_send(list, message_begin(list, buffer, IPCTNL_MSG_CT_GET, NLM_F_DUMP, false),
                     tracked_take, list);
    return list->failed       ? "not enough memory"
           : error == -EPERM  ? "that takes CAP_NET_ADMIN"
           : error == -EAGAIN ? "the kernel did not answer in 10 s"
           : error            ? strerror(-error)
                              : NULL;
}

static const char *tracked_open(struct tracked_list *list)
{
    struct timeval limit = {.tv_sec = TRACKED_ANSWER_S};
    list->socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    if (!list->socket || mnl_socket_bind(list->socket, 0, MNL_SOCKET_AUTOPID) < 0)
        return strerror(errno);
    setsockopt(mnl_socket_get_fd(list->socket), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return NULL;
}

/* What has ended rests from now on. */
static void tracked_rest(struct tracked_list *list, uint32_t quarantine,
                         struct tracked_result *result)
{
    uint64_t now = sys_now_ms();
    for (size_t i = 0; i < list->count; i++) {
        struct tracked_lease *lease = &list->lease[i];
        if (word_state(lease->word) == WORD_RESTING)
            continue;
        if (lease->seen == SEEN_OVER &&
            lease_over(list->pool, lease->lane, lease->port, lease->word, now)) {
            lease->word = word_moved(lease->word, WORD_RESTING, now);
            continue;
        }
        lease->kept = true;
        if (lease->seen != SEEN_OVER && lease->seen != SEEN_ALIVE &&
            now - word_when(lease->word) > quarantine)
            result->unknown[word_holder(lease->word) - 1]++;
    }
}

/* Return: whether there is something to wait for. */
static bool tracked_forget(struct tracked_list *list)
{
    bool any = false;
    for (size_t i = 0; i < list->entries; i++) {
        struct tracked_lease *lease = &list->lease[list->entry[i].lease];
        if (lease->kept)
            continue;
        if (entry_forget(list, &list->entry[i]))
            any = lease->expiring = true;
        else
            lease->kept = true;
    }
    return any;
}

const char *tracked_reclaim(const struct pool *pool, const bool unseen[POOL_HOLDERS],
                            uint32_t quarantine, struct tracked_result *result)
{
    struct tracked_list list = {.pool = pool, .asked = sys_now_ms()};
    tracked_walk(pool, quarantine, tracked_collect, &(struct tracked_wanted){&list, unseen});
    const char *why = list.failed ? "not enough memory" : NULL;
    if (list.count)
        qsort(list.lease, list.count, sizeof(*list.lease), tracked_compare);
    if (!why && list.count) {
        tracked_timeouts(&list);
        why = list.timeout[TCP_CONNTRACK_TIME_WAIT] ? tracked_open(&list) : "there is none here";
        why = why ? why : tracked_ask(&list);
        if (!why)
            tracked_rest(&list, quarantine, result);
    }
    if (!why && list.count && tracked_forget(&list)) {
        nanosleep(
            &(struct timespec){TRACKED_EXPIRED_MS / 1000, TRACKED_EXPIRED_MS % 1000 * 1000000L},
            NULL);
        list.again = true;
        if (!tracked_ask(&list))
            for (struct tracked_lease *lease = list.lease; lease < list.lease + list.count; lease++)
                result->freed +=
                    lease->expiring && !lease->kept &&
                    lease_free(pool, lease->lane, lease->port, lease->word, quarantine);
    }
    if (list.socket)
        mnl_socket_close(list.socket);
    free(list.entry);
    free(list.lease);
    return why;
}

struct tracked_hold {
    const struct policy *policy;
    const struct dest *server;
    uint16_t port;
    bool holds;
};

static int hold_take(const struct nlmsghdr *message, void *arg)
{
    struct tracked_hold *hold = arg;
    struct tracked_entry entry;
    if (!entry_take(message, &entry) || entry.port != hold->port)
        return MNL_CB_OK;
    struct dest to = {.port = entry.to_port};
    memcpy(to.addr, entry.to, sizeof(to.addr));
    policy_server(hold->policy, &to, &to);
    hold->holds |= dest_compare(&to, hold->server) == 0;
    return MNL_CB_OK;
}

int tracked_holds(const struct policy *policy, const struct dest *server, uint16_t port)
{
    char buffer[512];
    struct tracked_list list = {.count = 0};
    struct tracked_hold hold = {.policy = policy, .server = server, .port = port};
    tracked_timeouts(&list); /* none: do not have the kernel load it for a question */
    bool asked =
        list.timeout[TCP_CONNTRACK_TIME_WAIT] && !tracked_open(&list) &&
        message_send(&list, message_begin(&list, buffer, IPCTNL_MSG_CT_GET, NLM_F_DUMP, false),
                     hold_take, &hold) == 0;
    if (list.socket)
        mnl_socket_close(list.socket);
    return asked ? hold.holds : -1;
}
