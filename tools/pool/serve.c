/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool metrics --listen: a small HTTP server for Prometheus, on a port that any pod
 * reaches.
 *
 * Whoever asks may be hostile, so all is bounded. There are CLIENTS connections at most, and each
 * has CLIENT_MS from its beginning to its end. One that comes when all are taken takes the place of
 * another: of the address that has most connections, the oldest one. So who opens thousands ends
 * his own first, and one who asks at once is answered even if all come from one address: a request
 * is looked for as soon as its connection is there. What is asked for is worked out once for all
 * who ask within ANSWER_MS, or longer if it takes long.
 *
 * A connection is closed when its client has closed it, or is reset: what a client does not read
 * must not stay in the kernel after we have forgotten it.
 */
#include "cmd.h"

#include "../../pool/sys.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define CLIENTS 64
#define BACKLOG 1024 /* they cost some KiB each, until they are looked at */
#define CLIENT_MS 10000
#define CLIENT_CLOSED_MS 50 /* looks after whether one that has closed has got all */
#define REQUEST_MOST 4096   /* bytes; Prometheus sends some 200 */
#define ANSWER_MS 1000
#define ANSWER_REST 4 /* times as long as it took */

/* What is sent; more than one client may be at it. */
struct answer {
    unsigned users;
    size_t size; /* of text */
    size_t head; /* the first part of it, which is all that HEAD asks for */
    char *text;
};

struct client {
    int fd;
    uint64_t until; /* ms */
    uint8_t address[16];
    size_t got;            /* bytes of the request; they are kept as far as a line */
    struct answer *answer; /* NULL: it is still asking */
    size_t sent, size;     /* of the answer */
    bool closed;           /* by the other side, which may still read */
    char request[REQUEST_MOST];
};

struct server {
    const struct pool_request *request;
    int listener;
    struct client client[CLIENTS];
    size_t count;
    struct answer *metrics; /* the last ones, NULL: none yet */
    uint64_t metrics_until; /* they are good for so long */
};

static void answer_drop(struct answer *answer)
{
    if (answer && --answer->users == 0) {
        free(answer->text);
        free(answer);
    }
}

/* Takes @body over. Return: NULL if there is no memory. */
static struct answer *answer_make(const char *status, const char *type, char *body, size_t size)
{
    struct answer *answer = calloc(1, sizeof(*answer));
    FILE *out = answer ? open_memstream(&answer->text, &answer->size) : NULL;
    if (out) {
        int head = fprintf(out,
                           "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                           "Connection: close\r\n\r\n",
                           status, type, size);
        answer->head = head > 0 ? (size_t)head : 0;
        answer->users = 1;
        fwrite(body, 1, size, out);
    }
    free(body);
    if (out && fclose(out) == 0)
        return answer;
    if (answer)
        free(answer->text);
    free(answer);
    return NULL;
}

static struct answer *answer_words(const char *status, const char *words)
{
    char *body = NULL;
    int size = asprintf(&body, "%s\n", words);
    return size < 0 ? NULL : answer_make(status, "text/plain", body, (size_t)size);
}

static struct answer *server_metrics(struct server *server)
{
    uint64_t began = sys_now_ms();
    if (server->metrics && began < server->metrics_until)
        return server->metrics;
    char *body = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&body, &size);
    int status = out ? metrics_print(server->request, out) : EXIT_FAILED;
    if (out && fclose(out) != 0)
        status = EXIT_FAILED;
    answer_drop(server->metrics);
    if (status) {
        free(body);
        server->metrics = answer_words("503 Service Unavailable", say_last());
    } else {
        server->metrics = answer_make("200 OK", "text/plain; version=0.0.4", body, size);
    }
    uint64_t now = sys_now_ms();
    server->metrics_until = now + ANSWER_MS + (now - began) * ANSWER_REST;
    return server->metrics;
}

static void client_end(struct server *server, struct client *client)
{
    struct linger reset = {.l_onoff = 1};
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(client->fd);
    answer_drop(client->answer);
    *client = server->client[--server->count];
}

/* Whether the request is whole: an empty line ends it. */
static bool request_ends(const struct client *client)
{
    for (size_t i = 0; i + 1 < client->got; i++)
        if (client->request[i] == '\n' && (client->request[i + 1] == '\n' ||
                                           (client->request[i + 1] == '\r' && i + 2 < client->got &&
                                            client->request[i + 2] == '\n')))
            return true;
    return false;
}

static void client_answer(struct server *server, struct client *client)
{
    char method[8] = "", path[64] = "";
    client->request[client->got < REQUEST_MOST ? client->got : REQUEST_MOST - 1] = '\0';
    sscanf(client->request, "%7s %63[^? \r\n]", method, path);
    bool head = strcmp(method, "HEAD") == 0;
    if (!request_ends(client))
        client->answer =
            answer_words("431 Request Header Fields Too Large", "the request is too long");
    else if (!head && strcmp(method, "GET") != 0)
        client->answer = answer_words("405 Method Not Allowed", "GET and HEAD are answered");
    else if (strcmp(path, "/metrics") != 0 && strcmp(path, "/cgi-bin/metrics") != 0)
        client->answer = answer_words("404 Not Found", "there is /metrics");
    else if ((client->answer = server_metrics(server)))
        client->answer->users++;
    if (client->answer)
        client->size = head ? client->answer->head : client->answer->size;
}

/* Return: false: it is over. */
static bool client_read(struct server *server, struct client *client)
{
    char unwanted[512];
    if (client->answer) { /* only whether it has closed is of interest */
        ssize_t more = recv(client->fd, unwanted, sizeof(unwanted), MSG_DONTWAIT);
        client->closed |= more == 0;
        return more >= 0 || errno == EAGAIN;
    }
    ssize_t got =
        recv(client->fd, client->request + client->got, REQUEST_MOST - client->got, MSG_DONTWAIT);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    client->got += (size_t)got;
    if (client->got < REQUEST_MOST && !request_ends(client))
        return true;
    client_answer(server, client);
    return client->answer != NULL;
}

static bool client_write(struct client *client)
{
    ssize_t sent = send(client->fd, client->answer->text + client->sent,
                        client->size - client->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN;
    client->sent += (size_t)sent;
    if (client->sent == client->size)
        shutdown(client->fd, SHUT_WR);
    return true;
}

static bool client_wants_to_write(const struct client *client)
{
    return client->answer && client->sent < client->size;
}

/* Whether the other side has all, and has closed. */
static bool client_is_done(const struct client *client)
{
    int left = 0;
    return client->closed && client->sent == client->size &&
           (ioctl(client->fd, SIOCOUTQ, &left) < 0 || !left);
}

static bool client_step(struct server *server, struct client *client, short events)
{
    bool goes_on = true;
    if (events & POLLERR)
        return false;
    if (events & (POLLIN | POLLHUP) && !client->closed)
        goes_on = client_read(server, client);
    if (goes_on && client_wants_to_write(client))
        goes_on = client_write(client);
    return goes_on && !client_is_done(client);
}

/* The one that makes room: of the address with most connections the oldest. Clients are in no
 * order. */
static struct client *server_victim(struct server *server)
{
    struct client *victim = NULL;
    unsigned most = 0;
    for (size_t i = 0; i < server->count; i++) {
        struct client *client = &server->client[i];
        unsigned same = 0;
        for (size_t k = 0; k < server->count; k++)
            same +=
                memcmp(client->address, server->client[k].address, sizeof(client->address)) == 0;
        if (!victim || same > most || (same == most && client->until < victim->until)) {
            victim = client;
            most = same;
        }
    }
    return victim;
}

static void server_accept(struct server *server)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct sockaddr_in6 from = {.sin6_family = AF_INET6};
        socklen_t length = sizeof(from);
        int fd = accept4(server->listener, (struct sockaddr *)&from, &length,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        if (server->count == CLIENTS)
            client_end(server, server_victim(server));
        struct client *client = &server->client[server->count++];
        memset(client, 0, sizeof(*client));
        client->fd = fd;
        client->until = sys_now_ms() + CLIENT_MS;
        if (from.sin6_family == AF_INET6)
            memcpy(client->address, &from.sin6_addr, sizeof(client->address));
        else
            memcpy(client->address, &((struct sockaddr_in *)&from)->sin_addr, 4);
        if (!client_step(server, client, POLLIN))
            client_end(server, client);
    }
}

static void server_turn(struct server *server)
{
    struct pollfd polls[CLIENTS + 1];
    size_t count = server->count;
    uint64_t now = sys_now_ms(), until = now + CLIENT_MS;
    for (size_t i = 0; i < count; i++) {
        const struct client *client = &server->client[i];
        uint64_t again = client->closed ? now + CLIENT_CLOSED_MS : client->until;
        polls[i].fd = client->fd;
        polls[i].events =
            (short)((client->closed ? 0 : POLLIN) | (client_wants_to_write(client) ? POLLOUT : 0));
        until = again < until ? again : until;
    }
    polls[count] = (struct pollfd){.fd = server->listener, .events = POLLIN};
    if (poll(polls, count + 1, until > now ? (int)(until - now) + 1 : 0) < 0)
        return;
    now = sys_now_ms();
    /* From the last: who ends gives his place to the last one, which had its turn. */
    for (size_t i = count; i-- > 0;) {
        struct client *client = &server->client[i];
        if (now >= client->until || !client_step(server, client, polls[i].revents))
            client_end(server, client);
    }
    if (polls[count].revents)
        server_accept(server);
}

/* For IPv6 and IPv4 alike, where there is IPv6. Return: -1 with errno. */
static int listener_open(int port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
    int off = 0, on = 1, little = REQUEST_MOST;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool is_six = fd >= 0;
    if (!is_six)
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
    if (is_six)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    int result = is_six ? bind(fd, (struct sockaddr *)&six, sizeof(six))
                        : bind(fd, (struct sockaddr *)&four, sizeof(four));
    return result == 0 && listen(fd, BACKLOG) == 0 ? fd : -1;
}

/* It may be a container's first process, which the kernel ends by no signal that has no handler. */
static void server_end(int signal)
{
    (void)signal;
    _exit(EXIT_OK);
}

int serve_metrics(const struct pool_request *request)
{
    static struct server server;
    struct sigaction end = {.sa_handler = server_end};
    server.request = request;
    server.listener = listener_open(request->listen);
    if (server.listener < 0)
        return say_error(EXIT_FAILED, "port %d cannot be listened on: %s", request->listen,
                         strerror(errno));
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGINT, &end, NULL);
    say_limit(0);
    printf("listening on port %d\n", request->listen);
    fflush(stdout);
    for (;;)
        server_turn(&server);
}
