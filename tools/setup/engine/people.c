/* SPDX-License-Identifier: MIT */
/*
 * Who is there: the connections that a change of the network could take from somebody. Three things
 * tell of them: conntrack, if it is in use; this machine's own sockets; and the rules of
 * kube-proxy.
 *
 * Many of them are alike, and one of a kind is enough: of those that come from one network, and go
 * to one address and port.
 */
#include "../roles/roles.h"
#include "rehearse.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 50 /* that one of these tells of; what is forwarded has twice as many */
#define PEERS_MOST 16
#define NODE_PORTS_MOST 16
#define SPORT_FIRST 49152 /* of connections that nobody has made yet */

#define TCP_ESTABLISHED 1 /* in /proc/net/tcp */
#define TCP_LISTEN 10

/* Somebody of the site, and how this machine meets him. */
struct peer {
    uint8_t addr[16];
    uint8_t source[16]; /* by which of its addresses this machine talks to it */
    char device[IF_NAMESIZE];
    bool host, pod;
};

struct socket {
    uint8_t local[16], remote[16];
    unsigned lport, rport, state;
};

struct looking {
    const struct site *site;
    struct people *people;
    size_t most; /* people, for now */
    size_t lost; /* whose way was asked for in vain; each is a run of ip(8) */
    struct machine machine;
    struct block_list pods;
    struct peer peer[PEERS_MOST];
    size_t peers;
    struct socket *socket;
    size_t sockets;
    bool listens[65536];
};

/* ---- the list ---- */

/* Loopback, link-local, multicast, and what is no address. */
static bool is_strange(const uint8_t addr[16])
{
    if (address_is_v4(addr))
        return addr[12] == 127 || addr[12] == 0 || addr[12] >= 224 ||
               (addr[12] == 169 && addr[13] == 254);
    for (size_t i = 0; i < 15; i++)
        if (addr[i])
            return addr[0] == 0xff || (addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80);
    return true;
}

static bool is_alike(const struct play *a, const struct play *b)
{
    size_t network = address_is_v4(a->from) ? 15 : 8;
    return a->dport == b->dport && memcmp(a->to, b->to, 16) == 0 &&
           memcmp(a->from, b->from, network) == 0;
}

/* By which interface it comes; false: that cannot be known, or it never leaves this machine. */
static bool find_way(const struct looking *look, struct play *play)
{
    struct setup_error ignored;
    struct machine_path path;
    if (machine_has(&look->machine, play->from))
        return !machine_has(&look->machine, play->to);
    for (size_t i = 0; i < look->people->count; i++)
        if (memcmp(look->people->play[i].from, play->from, 16) == 0) {
            memcpy(play->in, look->people->play[i].in, sizeof(play->in));
            return true;
        }
    if (machine_path(play->from, NULL, &path, &ignored) < 0 || !path.found || path.local)
        return false;
    snprintf(play->in, sizeof(play->in), "%s", path.device);
    return true;
}

static void person_add(struct looking *look, enum person why, const uint8_t from[16],
                       unsigned sport, const uint8_t to[16], unsigned dport)
{
    struct people *people = look->people;
    struct play play = {.sport = (uint16_t)sport, .dport = (uint16_t)dport};
    memcpy(play.from, from, 16);
    memcpy(play.to, to, 16);
    if (is_strange(from) || is_strange(to) || !sport || !dport)
        return;
    for (size_t i = 0; i < people->count; i++)
        if (is_alike(&people->play[i], &play))
            return;
    if (people->count >= look->most || look->lost >= MOST) {
        people->beyond++;
    } else if (!find_way(look, &play)) {
        look->lost += !machine_has(&look->machine, from);
    } else {
        people->play = state_grow(people->play, (people->count + 1) * sizeof(play));
        people->why = state_grow(people->why, (people->count + 1) * sizeof(why));
        people->play[people->count] = play;
        people->why[people->count++] = why;
    }
}

/* ---- peers ---- */

static void peer_add(struct looking *look, const uint8_t addr[16])
{
    struct setup_error ignored;
    struct machine_path path;
    struct peer *peer = &look->peer[look->peers];
    for (size_t i = 0; i < look->peers; i++)
        if (memcmp(look->peer[i].addr, addr, 16) == 0)
            return;
    if (look->peers == PEERS_MOST || machine_has(&look->machine, addr) ||
        machine_path(addr, NULL, &path, &ignored) < 0 || !path.found || path.local ||
        !address_parse(path.source, strlen(path.source), peer->source))
        return;
    memcpy(peer->addr, addr, 16);
    memcpy(peer->device, path.device, sizeof(peer->device));
    peer->host = blocks_with(&look->site->hosts, addr);
    peer->pod = blocks_with(&look->pods, addr);
    look->peers++;
}

/* Of each family some hosts, another node, a pod that is here, and one that is elsewhere. */
static void find_peers(struct looking *look, int family)
{
    const struct site *site = look->site;
    uint8_t addr[16];
    size_t hosts = 0, nodes = 0, here = 0, elsewhere = 0;
    for (size_t i = 0; i < site->hosts.count && hosts < 2; i++) {
        block_sample(&site->hosts.item[i], addr);
        if (block_family(&site->hosts.item[i]) == family && !machine_has(&look->machine, addr)) {
            peer_add(look, addr);
            hosts++;
        }
    }
    for (size_t i = 0; i < site->nodes; i++) {
        const struct site_node *node = &site->node[i];
        const uint8_t *address = pair_get(&node->address, family);
        bool own = address && machine_has(&look->machine, address);
        size_t *pods = own ? &here : &elsewhere;
        if (address && !own && nodes++ == 0)
            peer_add(look, address);
        for (size_t k = 0; k < node->pods.count && !*pods; k++) {
            if (block_family(&node->pods.item[k]) != family)
                continue;
            machine_pod(&look->machine, &node->pods.item[k], addr);
            peer_add(look, addr);
            ++*pods;
        }
    }
}

/* ---- this machine's sockets ---- */

/* The kernel prints each 32 bits as a number. */
static bool hex_address(const char *hex, uint8_t addr[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    size_t words = strlen(hex) / 8;
    unsigned word;
    if (words != 1 && words != 4)
        return false;
    memcpy(addr, mapped, sizeof(mapped));
    for (size_t i = 0; i < words; i++) {
        if (sscanf(hex + i * 8, "%8x", &word) != 1)
            return false;
        memcpy(addr + (words == 1 ? 12 : i * 4), &word, 4);
    }
    return true;
}

static void read_sockets(struct looking *look, const char *path)
{
    char line[512], local[33], remote[33];
    struct socket it;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, " %*u: %32[0-9A-F]:%x %32[0-9A-F]:%x %x", local, &it.lport, remote,
                   &it.rport, &it.state) != 5 ||
            (it.state != TCP_ESTABLISHED && it.state != TCP_LISTEN) || it.lport > 65535 ||
            !hex_address(local, it.local) || !hex_address(remote, it.remote))
            continue;
        look->socket = state_grow(look->socket, (look->sockets + 1) * sizeof(it));
        look->socket[look->sockets++] = it;
        look->listens[it.lport] |= it.state == TCP_LISTEN;
    }
    if (file)
        fclose(file);
}

/* What is open: whoever listens has not begun it. */
static void add_connected(struct looking *look)
{
    for (size_t i = 0; i < look->sockets; i++) {
        const struct socket *it = &look->socket[i];
        if (it->state != TCP_ESTABLISHED)
            continue;
        if (look->listens[it->lport])
            person_add(look, PERSON_CONNECTED, it->remote, it->rport, it->local, it->lport);
        else
            person_add(look, PERSON_CONNECTED, it->local, it->lport, it->remote, it->rport);
    }
}

static bool is_any(const uint8_t addr[16])
{
    uint8_t zero[16] = {0};
    return memcmp(addr + (address_is_v4(addr) ? 12 : 0), zero, address_is_v4(addr) ? 4 : 16) == 0;
}

/* By port, so that what everybody knows comes first. */
static int socket_order(const void *left, const void *right)
{
    const struct socket *a = left, *b = right;
    return a->lport < b->lport ? -1 : a->lport > b->lport;
}

static void add_listening(struct looking *look)
{
    if (look->sockets)
        qsort(look->socket, look->sockets, sizeof(*look->socket), socket_order);
    for (size_t i = 0; i < look->sockets; i++) {
        const struct socket *it = &look->socket[i];
        bool any = is_any(it->local), v4 = address_is_v4(it->local);
        for (size_t k = 0; k < look->peers && it->state == TCP_LISTEN; k++) {
            const struct peer *peer = &look->peer[k];
            const uint8_t *to = any ? peer->source : it->local;
            bool promised = peer->pod ? blocks_with(&look->site->hosts, to) != NULL
                                      : peer->host && blocks_with(&look->pods, to);
            /* A socket for any IPv6 address is one for IPv4, too, unless somebody forbade it. */
            if (address_is_v4(peer->addr) != v4 && (v4 || !any))
                continue;
            if (!promised)
                person_add(look, PERSON_LISTENS, peer->addr, SPORT_FIRST + look->people->count, to,
                           it->lport);
        }
    }
}

/* ---- kube-proxy ---- */

static void add_node_port(struct looking *look, unsigned port, bool v4)
{
    for (size_t k = 0; k < look->peers; k++)
        if (look->peer[k].host && address_is_v4(look->peer[k].addr) == v4)
            person_add(look, PERSON_NODE_PORT, look->peer[k].addr,
                       SPORT_FIRST + look->people->count, look->peer[k].source, port);
}

/* The numbers behind @word in the lines that begin with @begin. */
static void add_node_ports(struct looking *look, const char *text, const char *begin,
                           const char *word, bool v4)
{
    size_t length, count = 0;
    const char *line, *found, *at = text;
    while ((line = state_line(&at, &length)) && count < NODE_PORTS_MOST) {
        const char *end = line + length;
        if (length < strlen(begin) || strncmp(line, begin, strlen(begin)) != 0)
            continue;
        while ((found = memmem(line, (size_t)(end - line), word, strlen(word)))) {
            line = found + strlen(word);
            unsigned long port = strtoul(line, NULL, 10);
            if (port >= 1 && port <= 65535 && count++ < NODE_PORTS_MOST)
                add_node_port(look, (unsigned)port, v4);
        }
    }
}

static void look_at_kube_proxy(struct looking *look)
{
    struct setup_error ignored;
    for (int family = 4; family <= 6; family += 2) {
        char *argv[] = {(char *)"nft",
                        (char *)"list",
                        (char *)"map",
                        (char *)(family == 4 ? "ip" : "ip6"),
                        (char *)"kube-proxy",
                        (char *)"service-nodeports",
                        NULL};
        char *nat = iptables_table(family, "nat", &ignored);
        struct run_result result;
        if (nat)
            add_node_ports(look, nat, "-A KUBE-NODEPORTS -p tcp ", " --dport ", family == 4);
        free(nat);
        if (run_tool(argv, NULL, &result) == 0)
            add_node_ports(look, result.output, "", "tcp . ", family == 4);
        run_free(&result);
    }
}

/* ---- conntrack ---- */

/* "... ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=22 ...": as who began it sent it. */
static void add_tracked(struct looking *look, const char *line)
{
    char from[64], to[64];
    uint8_t from_addr[16], to_addr[16];
    unsigned sport, dport;
    const char *at = strstr(line, " ESTABLISHED src=");
    if (at && strstr(line, "tcp ") && !strstr(at, "[UNREPLIED]") &&
        sscanf(at, " ESTABLISHED src=%63s dst=%63s sport=%u dport=%u", from, to, &sport, &dport) ==
            4 &&
        sport <= 65535 && dport <= 65535 && address_parse(from, strlen(from), from_addr) &&
        address_parse(to, strlen(to), to_addr))
        person_add(look, PERSON_CONNECTED, from_addr, sport, to_addr, dport);
}

/* Not every kernel has the file. The tool would load the kernel's part if that is not there. */
static void look_at_conntrack(struct looking *look)
{
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen("/proc/net/nf_conntrack", "re");
    while (file && getline(&line, &size, file) > 0)
        add_tracked(look, line);
    if (file) {
        fclose(file);
    } else if (access("/proc/sys/net/netfilter/nf_conntrack_count", F_OK) == 0) {
        look->people->blind = !run_exists("conntrack");
        for (int family = 4; family <= 6; family += 2) {
            char *argv[] = {(char *)"conntrack",
                            (char *)"-L",
                            (char *)"-f",
                            (char *)(family == 4 ? "ipv4" : "ipv6"),
                            (char *)"-p",
                            (char *)"tcp",
                            (char *)"--state",
                            (char *)"ESTABLISHED",
                            NULL};
            struct run_result result;
            if (run_tool(argv, NULL, &result) == 0)
                for (char *rest = result.output, *next; (next = strsep(&rest, "\n"));)
                    add_tracked(look, next);
            run_free(&result);
        }
    }
    free(line);
}

void people_look(const struct site *site, struct people *people)
{
    struct setup_error ignored;
    struct looking *look = state_grow(NULL, sizeof(*look));
    memset(look, 0, sizeof(*look));
    look->site = site;
    look->people = people;
    *people = (struct people){.count = 0};
    if (machine_look(&look->machine, &ignored) == 0) {
        blocks_add(&look->pods, &site->pods);
        for (size_t i = 0; i < site->nodes; i++)
            blocks_add(&look->pods, &site->node[i].pods);
        for (int family = 4; family <= 6; family += 2)
            find_peers(look, family);
        read_sockets(look, "/proc/self/net/tcp");
        read_sockets(look, "/proc/self/net/tcp6");
        look->most = MOST;
        add_connected(look);
        look->most = people->count + MOST;
        look_at_kube_proxy(look);
        look->most = people->count + MOST;
        add_listening(look);
        look->most = people->count + 2 * MOST;
        look_at_conntrack(look);
    }
    machine_free(&look->machine);
    free(look->pods.item);
    free(look->socket);
    free(look);
}

void people_free(struct people *people)
{
    free(people->play);
    free(people->why);
    *people = (struct people){.count = 0};
}
