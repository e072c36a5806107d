/* SPDX-License-Identifier: MIT */
/*
 * The listener's connections. Anybody can make one: each has little room, little time and few
 * words, and there is a fixed number of them. When all are in use, the oldest that has not said
 * what it is makes room, else the oldest.
 */
#include "probe.h"
#include "../../pool/sys.h"

#include <string.h>

#define REPLY_BYTES ((PROBE_TRIES + 2) * WIRE_LINE)

static void peer_close(struct peer *peer, uint64_t now)
{
    if (peer->run) {
        peer->run->open--;
        peer->run->last = now;
    }
    close(peer->fd);
    peer->fd = -1;
}

/* It is no probe, or not of this version. */
static void peer_refuse(struct listener *listener, struct peer *peer, const char *why, uint64_t now)
{
    char from[80];
    dest_print(&peer->from, from, sizeof(from));
    if (!peer->run) {
        listener->strangers++;
        listener_line(listener, "a connection from %s: %s", from, why);
    }
    peer_close(peer, now);
}

static struct peer *peers_room(struct listener *listener, uint64_t now)
{
    struct peer *best = NULL;
    for (size_t i = 0; i < PEERS_MOST; i++) {
        struct peer *peer = &listener->peer[i];
        if (peer->fd < 0)
            return peer;
        if (!best || (!peer->run != !best->run ? !peer->run : peer->since < best->since))
            best = peer;
    }
    peer_refuse(listener, best, "too many at once, this one was the oldest", now);
    return best;
}

void peers_accept(struct listener *listener, int fd, uint64_t now)
{
    struct sockaddr_storage from, local;
    socklen_t from_size = sizeof(from), local_size = sizeof(local);
    struct dest from_dest, local_dest;
    int got = accept4(fd, (struct sockaddr *)&from, &from_size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (got < 0)
        return;
    if (!dest_from_sockaddr((struct sockaddr *)&from, from_size, &from_dest) ||
        getsockname(got, (struct sockaddr *)&local, &local_size) < 0 ||
        !dest_from_sockaddr((struct sockaddr *)&local, local_size, &local_dest)) {
        close(got);
        return;
    }
    struct peer *peer = peers_room(listener, now);
    *peer = (struct peer){.fd = got, .from = from_dest, .since = now};
    memcpy(peer->local, local_dest.addr, 16);
    struct capture_syn *syn = capture_find(&listener->capture, &from_dest);
    if (syn)
        syn->claimed = true;
}

/* ---- words ---- */

static bool peer_send(struct peer *peer, const char *text, size_t length)
{
    return send(peer->fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)length;
}

/* "This connection is try 3": it is noted, and answered with how it arrived. */
static bool peer_try(struct listener *listener, struct peer *peer, struct wire *wire, uint64_t now)
{
    char line[WIRE_LINE + 1];
    if (peer->run || !wire->nonce)
        return false;
    struct probe_run *run = runs_find(&listener->runs, wire->nonce, now);
    if (run->done)
        return false;
    struct capture_syn *syn = capture_find(&listener->capture, &peer->from);
    wire->try.end = END_ANSWERED;
    run_take(run, wire);
    struct probe_try *try = &run->facts.try[wire->index - 1];
    try->seen = SEEN_CONNECTION;
    try->as = peer->from;
    try->syns = syn ? syn->try.syns : 0;
    try->left = syn ? syn->try.left : LEFT_NOT;
    memcpy(run->facts.to.addr, peer->local, 16);
    run->facts.to.port = listener->options->port;
    run->open++;
    run->last = now;
    peer->run = run;
    struct wire answer = {.word = WIRE_SEEN, .index = wire->index, .try.as = peer->from};
    return peer_send(peer, line, wire_print(&answer, line));
}

static bool peer_reply(struct peer *peer)
{
    static char reply[REPLY_BYTES];
    const struct probe_facts *facts = &peer->run->facts;
    struct wire wire = {.word = WIRE_HOST, .host = facts->host};
    size_t length = wire_print(&wire, reply);
    for (unsigned i = 0; i < facts->tries; i++) {
        wire = (struct wire){.word = WIRE_SAW, .index = i + 1, .try = facts->try[i]};
        length += wire_print(&wire, reply + length);
    }
    wire = (struct wire){.word = WIRE_END};
    length += wire_print(&wire, reply + length);
    return peer_send(peer, reply, length);
}

/* The report is complete. Return: false: the connection has served its purpose. */
static bool peer_end(struct listener *listener, struct peer *peer)
{
    struct probe_run *run = peer->run;
    run_match(run, &listener->capture);
    run_host(run, &listener->capture,
             listener->options->has_site ? &listener->options->site : NULL);
    run->facts.contact = true;
    peer_reply(peer);
    listener_result(listener, run);
    return false;
}

static bool peer_word(struct listener *listener, struct peer *peer, struct wire *wire, uint64_t now)
{
    if (wire->word == WIRE_TRY)
        return peer_try(listener, peer, wire, now);
    if (!peer->run || peer->run->done)
        return false;
    if (wire->word == WIRE_REPORT && !peer->reports) {
        peer->reports = true;
        peer->run->facts.shim = wire->shim;
        peer->run->facts.ports = wire->ports;
        return true;
    }
    if (!peer->reports)
        return false;
    if (wire->word == WIRE_MINE) {
        run_take(peer->run, wire);
        return true;
    }
    return wire->word == WIRE_END && peer_end(listener, peer);
}

/* Takes the whole lines of what has come. Return: NULL, or why the connection ends. */
static const char *peer_lines(struct listener *listener, struct peer *peer, uint64_t now)
{
    char *newline;
    while ((newline = memchr(peer->line, '\n', peer->used))) {
        struct wire wire;
        size_t length = (size_t)(newline - peer->line);
        int error = wire_read(peer->line, length, &wire);
        if (error == -EPROTONOSUPPORT)
            return "a fixport-probe of another version";
        if (error || !peer_word(listener, peer, &wire, now))
            return "something else than fixport-probe";
        peer->used -= length + 1;
        memmove(peer->line, newline + 1, peer->used);
    }
    return peer->used < sizeof(peer->line) ? NULL : "something else than fixport-probe";
}

void peer_read(struct listener *listener, struct peer *peer, uint64_t now)
{
    ssize_t got = recv(peer->fd, peer->line + peer->used, sizeof(peer->line) - peer->used, 0);
    const char *why = NULL;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        peer_refuse(listener, peer, "closed without a word", now);
        return;
    }
    peer->used += (size_t)got;
    peer->bytes += (size_t)got;
    why = peer_lines(listener, peer, now);
    if (!why && peer->bytes > PEER_MOST_BYTES)
        why = "it talks too much";
    if (why)
        peer_refuse(listener, peer, why, now);
}

void peers_expire(struct listener *listener, uint64_t now)
{
    for (size_t i = 0; i < PEERS_MOST; i++) {
        struct peer *peer = &listener->peer[i];
        uint64_t most = peer->run ? PEER_MOST_MS : PEER_HELLO_MS;
        if (peer->fd >= 0 && now - peer->since > most)
            peer_refuse(listener, peer, "said nothing", now);
    }
}
