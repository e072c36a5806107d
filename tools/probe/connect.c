/* SPDX-License-Identifier: MIT */
/*
 * fixport-probe connect: all tries at once, then the report over the first that worked (probe.h
 * says why). A single thread that polls; every wait has a limit.
 */
#include "probe.h"
#include "../../pool/sys.h"

#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define REPORT_MS 5000 /* the listener has all it needs: this is the way there and back */
#define STEP_MS 250    /* of poll(2), for the progress line */
#define SPARE_LEAST 16 /* ports left to the shim */
#define REPORT_BYTES (32 * WIRE_LINE)

struct run {
    const struct probe_options *options;
    struct probe_facts facts;
    struct try_socket socket[PROBE_TRIES];
    uint64_t nonce;
    uint64_t until;
    struct progress progress;
    struct try_socket *kept; /* the first that worked; NULL: none did */
    bool ended;              /* the listener has told all that it knows */
};

/* ---- what to try ---- */

static void run_add(struct run *run, enum try_kind kind)
{
    struct try_socket *socket = &run->socket[run->facts.tries];
    struct probe_try *try = &run->facts.try[run->facts.tries];
    *try = (struct probe_try){.kind = kind};
    *socket = (struct try_socket){.fd = -1, .try = try, .index = ++run->facts.tries};
}

static void run_start(struct run *run, enum try_kind kind)
{
    run_add(run, kind);
    try_start(&run->socket[run->facts.tries - 1], &run->facts.to, &run->facts.ports);
}

/*
 * As many of each kind as there are rounds, but of a range no more than it has ports. Those from
 * any port come first: how many of the range the shim took for them is only known then. Where few
 * are left to it, these are enough: it wants one for a moment even for a socket that is bound.
 */
static void run_start_all(struct run *run)
{
    uint32_t left = portset_size(&run->facts.ports);
    bool ranged = left > 0;
    for (uint32_t i = 0; i < run->options->rounds; i++)
        if (!ranged || !run->facts.shim || i < left)
            run_start(run, KIND_PLAIN);
    uint32_t took = 0;
    for (unsigned i = 0; i < run->facts.tries; i++)
        took += portset_has(&run->facts.ports, run->facts.try[i].own.port);
    left -= took < left ? took : left;
    if (run->facts.shim && took && left < SPARE_LEAST)
        left = 0;
    for (uint32_t i = 0; ranged && i < run->options->rounds; i++) {
        if (i < left)
            run_start(run, KIND_INSIDE);
        run_start(run, KIND_OUTSIDE);
    }
}

/* ---- a connection that works ---- */

static bool run_send(struct try_socket *socket, const char *text, size_t length)
{
    return send(socket->fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)length;
}

static void run_hello(struct run *run, struct try_socket *socket)
{
    struct wire wire = {
        .word = WIRE_TRY, .nonce = run->nonce, .index = socket->index, .try = *socket->try};
    char line[WIRE_LINE + 1];
    size_t length = wire_print(&wire, line);
    socket->try->end = END_OPENED;
    if (!run_send(socket, line, length))
        try_close(socket);
}

/* The answer to a try: it has worked. */
static bool run_seen(struct run *run, struct try_socket *socket, const struct wire *wire)
{
    if (wire->index != socket->index || !wire->try.as.port || socket->try->end != END_OPENED)
        return false;
    socket->try->end = END_ANSWERED;
    socket->try->seen = SEEN_CONNECTION;
    socket->try->as = wire->try.as;
    if (run->kept)
        try_close(socket);
    else
        run->kept = socket;
    return true;
}

/* What the listener knows of a try is more than the connector does, but for how it ended. */
static bool run_saw(struct run *run, const struct wire *wire)
{
    struct probe_try *try = &run->facts.try[wire->index - 1];
    if (wire->index > run->facts.tries)
        return false;
    try->seen = wire->try.seen;
    try->as = wire->try.as;
    try->syns = wire->try.syns;
    try->left = wire->try.left;
    try->bounce = wire->try.bounce;
    return true;
}

static bool run_word(struct run *run, struct try_socket *socket, const struct wire *wire)
{
    if (wire->word == WIRE_SEEN)
        return run_seen(run, socket, wire);
    if (!run->facts.contact || socket != run->kept)
        return false;
    if (wire->word == WIRE_HOST)
        run->facts.host = wire->host;
    else if (wire->word == WIRE_END)
        run->ended = true;
    else
        return wire->word == WIRE_SAW && run_saw(run, wire);
    return true;
}

/* Takes the whole lines of what has come. Return: false if one is none of ours. */
static bool run_lines(struct run *run, struct try_socket *socket)
{
    char *newline;
    while (socket->fd >= 0 && (newline = memchr(socket->line, '\n', socket->used))) {
        struct wire wire;
        size_t length = (size_t)(newline - socket->line);
        if (wire_read(socket->line, length, &wire) != 0 || !run_word(run, socket, &wire))
            return false;
        socket->used -= length + 1;
        memmove(socket->line, newline + 1, socket->used);
    }
    return socket->used < sizeof(socket->line);
}

static void run_read(struct run *run, struct try_socket *socket)
{
    ssize_t got = recv(socket->fd, socket->line + socket->used, sizeof(socket->line) - socket->used,
                       MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    socket->used += got > 0 ? (size_t)got : 0;
    if (got > 0 && run_lines(run, socket))
        return;
    if (socket == run->kept)
        run->kept = NULL;
    try_close(socket);
}

/* ---- the loop ---- */

static void run_event(struct run *run, struct try_socket *socket)
{
    if (socket->connected) {
        run_read(run, socket);
        return;
    }
    try_settle(socket);
    if (socket->connected)
        run_hello(run, socket);
}

/* Whether anything is still to come of a try. */
static bool run_waits(const struct run *run, const struct try_socket *socket)
{
    return socket->fd >= 0 && (run->facts.contact ? socket == run->kept : socket != run->kept);
}

/* Waits once for what the tries that are not at their end yet are told. Return: whether any is. */
static bool run_step(struct run *run)
{
    struct pollfd polls[PROBE_TRIES];
    struct try_socket *polled[PROBE_TRIES];
    nfds_t count = 0;
    for (unsigned i = 0; i < run->facts.tries; i++) {
        struct try_socket *socket = &run->socket[i];
        if (!run_waits(run, socket))
            continue;
        polled[count] = socket;
        polls[count++] =
            (struct pollfd){.fd = socket->fd, .events = socket->connected ? POLLIN : POLLOUT};
    }
    progress_step(&run->progress, run->facts.tries - count, run->facts.tries);
    if (!count || run->ended || sys_now_ms() >= run->until)
        return false;
    if (poll(polls, count, STEP_MS) <= 0)
        return true;
    for (nfds_t i = 0; i < count; i++)
        if (polls[i].revents)
            run_event(run, polled[i]);
    return true;
}

static void run_tries(struct run *run)
{
    run->progress = (struct progress){.what = "tries that have come to an end"};
    run->until = sys_now_ms() + run->options->wait_ms;
    run_start_all(run);
    while (run_step(run))
        ;
    progress_end(&run->progress);
    for (unsigned i = 0; i < run->facts.tries; i++) {
        struct try_socket *socket = &run->socket[i];
        if (socket->try->end == END_UNKNOWN)
            socket->try->end = END_SILENT;
        if (socket != run->kept)
            try_close(socket);
    }
}

/* Over the connection that works: what all tries came to; then what the listener knows. */
static void run_report(struct run *run)
{
    static char report[REPORT_BYTES];
    struct wire wire = {.word = WIRE_REPORT, .shim = run->facts.shim, .ports = run->facts.ports};
    size_t length = wire_print(&wire, report);
    if (!run->kept)
        return;
    for (unsigned i = 0; i < run->facts.tries; i++) {
        wire = (struct wire){.word = WIRE_MINE, .index = i + 1, .try = run->facts.try[i]};
        length += wire_print(&wire, report + length);
    }
    wire = (struct wire){.word = WIRE_END};
    length += wire_print(&wire, report + length);
    run->progress = (struct progress){.what = "waiting for the listener's report"};
    run->until = sys_now_ms() + REPORT_MS;
    run->facts.contact = run_send(run->kept, report, length);
    while (run->facts.contact && run_step(run))
        ;
    progress_end(&run->progress);
    run->facts.contact = run->ended;
    if (run->kept)
        try_close(run->kept);
}

/* ---- one address ---- */

static enum probe_status connect_address(const struct probe_options *options, struct dest to)
{
    static struct run run;
    struct verdict_found found;
    run = (struct run){.options = options, .nonce = ports_random()};
    run.facts.to = to;
    run.facts.shim = ports_shim();
    if (ports_range(options, &to, false, &run.facts.ports))
        return PROBE_ERROR;
    run_tries(&run);
    run_report(&run);
    verdict_find(&run.facts, &found);
    if (options->json)
        json_result("connect", &run.facts, &found);
    else
        say_result(&run.facts, &found);
    return found.status;
}

/* ---- the name ---- */

/* Whether this machine has a route there: a datagram socket that is connected sends nothing. */
static bool address_has_route(const struct dest *to)
{
    struct sockaddr_storage address;
    socklen_t length = dest_sockaddr(to, &address);
    int fd = socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0;
    if (fd >= 0)
        close(fd);
    return has;
}

/* The first address of each family. Return: how many. */
static unsigned name_pick(const struct addrinfo *list, const struct probe_options *options,
                          struct dest pick[2])
{
    bool done[2] = {false, false};
    unsigned count = 0;
    for (const struct addrinfo *at = list; at && count < 2; at = at->ai_next) {
        if (!dest_from_sockaddr(at->ai_addr, at->ai_addrlen, &pick[count]))
            continue;
        bool v4 = address_is_v4(pick[count].addr);
        bool usable = addr_is_unicast(pick[count].addr) || addr_is_loopback(pick[count].addr);
        if (!usable || done[v4] || (v4 ? options->only6 : options->only4))
            continue;
        done[v4] = true;
        pick[count++].port = options->port;
    }
    return count;
}

static int name_resolve(const struct probe_options *options, struct dest pick[2], unsigned *count)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int error;
    hints.ai_family = options->only4 ? AF_INET : options->only6 ? AF_INET6 : AF_UNSPEC;
    error = getaddrinfo(options->host, NULL, &hints, &list);
    if (error)
        return say_error(PROBE_ERROR, "'%s': %s", options->host,
                         error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    *count = name_pick(list, options, pick);
    freeaddrinfo(list);
    return 0;
}

/* A name may have an address of a family that is not used here: it is passed over. */
int probe_connect(struct probe_options *options)
{
    struct dest pick[2];
    unsigned count = 0;
    enum probe_status worst = PROBE_OK;
    if (name_resolve(options, pick, &count))
        return PROBE_ERROR;
    if (count == 2 && address_has_route(&pick[0]) != address_has_route(&pick[1])) {
        pick[0] = address_has_route(&pick[0]) ? pick[0] : pick[1];
        count = 1;
    }
    for (unsigned i = 0; i < count && worst != PROBE_ERROR; i++) {
        enum probe_status status = connect_address(options, pick[i]);
        worst = status == PROBE_ERROR || worst == PROBE_OK ? status : worst;
    }
    return count ? (int)worst
                 : say_error(PROBE_ERROR, "'%s' has no address to connect to", options->host);
}
