/* SPDX-License-Identifier: MIT */
/*
 * fixport-probe listen: waits for connectors, says what became of each, and ends with a table. A
 * single thread that polls its listening sockets, its connections and the packet socket.
 *
 * Root is needed for --capture only, and only to open the packet socket; it is given up then.
 */
#include "probe.h"
#include "../../pool/sys.h"

#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define STEP_MS 250
#define BACKLOG 64
#define IDLE_MS 10000  /* a run without a connection for so long does not report any more */
#define SETTLE_MS 6000 /* a SYN that was not sent again for so long is not, or the try is over */
#define LINES_MOST 20  /* about strangers, at once */
#define RESULTS_MOST 200
#define LINE_EVERY_MS 2000
#define NOBODY 65534

static volatile sig_atomic_t ended;

static void on_signal(int signal)
{
    (void)signal;
    ended = 1;
}

/* ---- output ---- */

void listener_line(struct listener *listener, const char *format, ...)
{
    char line[400];
    va_list args;
    if (listener->options->json)
        return;
    if (!listener->lines) {
        listener->hidden++;
        return;
    }
    listener->lines--;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    progress_end(&listener->progress);
    printf("%s\n", line);
    fflush(stdout);
}

static void listener_refill(struct listener *listener, uint64_t now)
{
    if (now - listener->refilled < LINE_EVERY_MS)
        return;
    listener->refilled = now;
    listener->lines += listener->lines < LINES_MOST;
    listener->results += listener->results < RESULTS_MOST;
    if (listener->options->json)
        return;
    if (listener->hidden && listener->lines > LINES_MOST / 2) {
        unsigned hidden = listener->hidden;
        listener->hidden = 0;
        listener_line(listener, "(%u more were not shown)", hidden);
    }
}

/* Results are limited, too: anybody can make one. More, if a connector has told its part. */
void listener_result(struct listener *listener, struct probe_run *run)
{
    unsigned *left = run->facts.contact ? &listener->results : &listener->lines;
    runs_finish(&listener->runs, run);
    if (!*left) {
        listener->hidden++;
        return;
    }
    --*left;
    progress_end(&listener->progress);
    if (listener->options->json)
        json_result("listen", &run->facts, &run->found);
    else
        say_result(&run->facts, &run->found);
    fflush(stdout);
}

/* ---- what was only captured ---- */

static bool syn_is_due(const struct capture_syn *syn, uint64_t now, bool all)
{
    return syn->first && !syn->claimed && (all || now - syn->last >= SETTLE_MS);
}

/* A SYN without a mark: by hand, by telnet or so. */
static void syn_say(struct listener *listener, struct capture_syn *syn)
{
    static const char *const left[LEFTS] = {"no answer left this host", "a SYN-ACK left this host",
                                            "a RST left this host: nothing listens"};
    char from[80], bounced[160] = "";
    dest_print(&syn->peer, from, sizeof(from));
    if (syn->try.bounce.is)
        snprintf(bounced, sizeof(bounced), "; then came: %s", icmp_text(&syn->try.bounce));
    syn->claimed = true;
    listener->strangers++;
    listener_line(listener, "a SYN from %s, not by fixport-probe, %u times; %s%s", from,
                  syn->try.syns, left[syn->try.left], bounced);
}

/* All marked SYNs of one address are one run. */
static void syns_gather(struct listener *listener, const struct capture_syn *first, uint64_t now,
                        bool all)
{
    struct probe_run *run = runs_begin(&listener->runs, now);
    struct probe_facts *facts = &run->facts;
    struct dest peer = first->peer;
    facts->ports = listener->ports;
    facts->to.port = listener->options->port;
    memcpy(facts->to.addr, first->local, 16);
    for (size_t i = 0; i < CAPTURE_SYNS && facts->tries < PROBE_TRIES; i++) {
        struct capture_syn *syn = &listener->capture.syn[i];
        if (!syn_is_due(syn, now, all) || !syn->mss || memcmp(syn->peer.addr, peer.addr, 16) != 0)
            continue;
        syn->claimed = true;
        facts->try[facts->tries++] = syn->try;
    }
    run_host(run, &listener->capture,
             listener->options->has_site ? &listener->options->site : NULL);
    listener_result(listener, run);
}

/* While a run goes on, its report may still tell what they are. @all: it is the end. */
static void syns_judge(struct listener *listener, uint64_t now, bool all)
{
    if (listener->capture.fd < 0 || (!all && runs_wait(&listener->runs)))
        return;
    for (size_t i = 0; i < CAPTURE_SYNS; i++) {
        struct capture_syn *syn = &listener->capture.syn[i];
        if (!syn_is_due(syn, now, all))
            continue;
        if (syn->mss)
            syns_gather(listener, syn, now, all);
        else
            syn_say(listener, syn);
    }
}

/* Runs whose connector has gone without a report. */
static void runs_expire(struct listener *listener, uint64_t now, bool all)
{
    for (size_t i = 0; i < RUNS_MOST; i++) {
        struct probe_run *run = &listener->runs.run[i];
        if (!run->began || run->done || (!all && (run->open || now - run->last < IDLE_MS)))
            continue;
        run_host(run, &listener->capture,
                 listener->options->has_site ? &listener->options->site : NULL);
        listener_result(listener, run);
    }
}

/* ---- sockets ---- */

static int listen_on(const struct dest *at)
{
    struct sockaddr_storage address;
    socklen_t length = dest_sockaddr(at, &address);
    int on = 1, fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

/* A family that this machine does not have is not missed, if the other is there. */
static int listen_all(const struct probe_options *options, int fd[2])
{
    struct dest at[2] = {{.port = options->port}, {.port = options->port}};
    int error = -EAFNOSUPPORT;
    memset(at[0].addr + 10, 0xff, 2);
    if (options->address && address_parse(options->address, strlen(options->address), at[0].addr))
        at[1].port = 0;
    for (int i = 0; i < 2; i++) {
        bool v4 = address_is_v4(at[i].addr);
        fd[i] = -1;
        if (!at[i].port || (v4 ? options->only6 : options->only4))
            continue;
        fd[i] = listen_on(&at[i]);
        if (fd[i] < 0 && fd[i] != -EAFNOSUPPORT && fd[i] != -EADDRNOTAVAIL)
            return fd[i];
        error = fd[i] >= 0 || error == 0 ? 0 : fd[i];
    }
    return error;
}

/* With --capture it is enough to see: another program may have the port. */
static int listen_open(struct listener *listener, int fd[2])
{
    const struct probe_options *options = listener->options;
    fd[0] = fd[1] = -1;
    int error = options->no_listen ? 0 : listen_all(options, fd);
    if (error == -EADDRINUSE && options->capture) {
        say_error(0, "warning: another program listens on port %u: only looking at what arrives",
                  options->port);
        return 0;
    }
    if (error)
        return say_error(PROBE_ERROR, "port %u%s%s cannot be listened on: %s", options->port,
                         options->address ? " of " : "", options->address ? options->address : "",
                         strerror(-error));
    return 0;
}

static int capture_begin(struct listener *listener)
{
    int error;
    listener->capture.fd = -1;
    if (!listener->options->capture)
        return 0;
    error = capture_open(&listener->capture, listener->options->port);
    if (error == -EPERM)
        return say_error(PROBE_ERROR,
                         "--capture needs CAP_NET_RAW in this network: run it as root");
    if (error)
        return say_error(PROBE_ERROR, "--capture: no packet socket: %s", strerror(-error));
    return 0;
}

/* From here on strangers are listened to. Where there is no other user to be, nothing is lost. */
static void drop_root(void)
{
    bool dropped = geteuid() == 0 && setgroups(0, NULL) == 0 &&
                   setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0;
    (void)dropped;
}

/* ---- the loop ---- */

static nfds_t listen_polls(const struct listener *listener, const int fd[2],
                           struct pollfd polls[PEERS_MOST + 3])
{
    nfds_t count = 0;
    polls[count++] = (struct pollfd){.fd = listener->capture.fd, .events = POLLIN};
    for (int i = 0; i < 2; i++)
        polls[count++] = (struct pollfd){.fd = fd[i], .events = POLLIN};
    for (size_t i = 0; i < PEERS_MOST; i++)
        polls[count++] = (struct pollfd){.fd = listener->peer[i].fd, .events = POLLIN};
    return count;
}

/* Packets first: what they tell is needed for the connections. */
static void listen_events(struct listener *listener, const int fd[2], const struct pollfd *polls,
                          uint64_t now)
{
    if (listener->capture.fd >= 0)
        capture_read(&listener->capture, now);
    for (size_t i = 0; i < PEERS_MOST; i++)
        if (listener->peer[i].fd >= 0 && polls[3 + i].revents)
            peer_read(listener, &listener->peer[i], now);
    for (int i = 0; i < 2; i++)
        if (polls[1 + i].revents & POLLIN)
            peers_accept(listener, fd[i], now);
}

static bool listen_is_over(const struct listener *listener, uint64_t began, uint64_t now)
{
    const struct probe_options *options = listener->options;
    return ended || ferror(stdout) ||
           (options->timeout && now - began >= options->timeout * 1000ull) ||
           (options->count && listener->runs.finished >= options->count);
}

static void listen_loop(struct listener *listener, const int fd[2])
{
    const struct timespec step = {.tv_nsec = STEP_MS * 1000000L};
    uint64_t began = sys_now_ms(), now = began;
    sigset_t none;
    sigemptyset(&none);
    while (!listen_is_over(listener, began, now)) {
        struct pollfd polls[PEERS_MOST + 3];
        nfds_t count = listen_polls(listener, fd, polls);
        int ready = ppoll(polls, count, &step, &none);
        now = sys_now_ms();
        if (ready > 0)
            listen_events(listener, fd, polls, now);
        peers_expire(listener, now);
        runs_expire(listener, now, false);
        syns_judge(listener, now, false);
        listener_refill(listener, now);
        progress_step(&listener->progress, listener->runs.finished, listener->options->count);
    }
    progress_end(&listener->progress);
    if (listener->capture.fd >= 0) /* the answers to what was read last may be there by now */
        capture_read(&listener->capture, now);
    runs_expire(listener, now, true);
    syns_judge(listener, now, true);
}

/* So that Ctrl-C is noticed while it waits, and at no other time. */
static void signals_begin(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t mine;
    sigemptyset(&mine);
    sigaddset(&mine, SIGINT);
    sigaddset(&mine, SIGTERM);
    sigprocmask(SIG_BLOCK, &mine, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void listen_hello(const struct listener *listener, const int fd[2])
{
    const struct probe_options *options = listener->options;
    bool listens = fd[0] >= 0 || fd[1] >= 0;
    if (options->json) {
        printf("{\"listening\":%s,\"captures\":%s,\"port\":%u}\n", listens ? "true" : "false",
               options->capture ? "true" : "false", options->port);
        fflush(stdout);
        return;
    }
    printf("%s port %u%s. In the pod: fixport-probe connect THIS-HOST --port %u. Ctrl-C ends it.\n",
           listens ? "Listening on" : "Looking at", options->port,
           listens && options->capture ? ", and capturing" : "", options->port);
    fflush(stdout);
}

int probe_listen(struct probe_options *options)
{
    static struct listener listener;
    struct dest self = {.port = options->port};
    int fd[2];
    listener.options = options;
    listener.lines = LINES_MOST;
    listener.results = RESULTS_MOST;
    listener.progress = (struct progress){.what = "waiting; probes so far"};
    for (size_t i = 0; i < PEERS_MOST; i++)
        listener.peer[i].fd = -1;
    int status = ports_range(options, &self, true, &listener.ports);
    if (!status)
        status = capture_begin(&listener);
    if (!status)
        status = listen_open(&listener, fd);
    if (status)
        return status;
    drop_root();
    signals_begin();
    listen_hello(&listener, fd);
    listen_loop(&listener, fd);
    status = listener.runs.finished ? listener.runs.worst : PROBE_BAD;
    if (options->json)
        json_summary(&listener.runs, listener.strangers, listener.hidden, status);
    else
        say_summary(&listener.runs, listener.strangers);
    return status;
}
