/* SPDX-License-Identifier: MIT */
/*
 * The other side of all connections of a capacity test, and the network namespace that they are in:
 * the server makes it, so it lives as long as its server.
 *
 *   server PORT PROCESSES [SYSCTL=VALUE...]
 *
 * Sysctls are names below net/ipv4. It listens at 0.0.0.0:PORT, so that 127.0.0.1 and on are as
 * many destinations, prints "ready", and ends with its standard input. Several processes share the
 * listener, because a process may have so many descriptors only.
 *
 * What a client closes is closed at once, unless the client has sent an H: then it is kept until
 * SIGUSR1, which leaves the client's end in FIN_WAIT2.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPARE 64 /* descriptors that are not connections */

enum { UNUSED, OPEN, KEPT, KEPT_CLOSED };

static int epoll, listener;
static bool listening;
static char *kind; /* by descriptor */
static int limit, count;
static volatile sig_atomic_t release_now;

static void die(const char *what)
{
    fprintf(stderr, "server: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void on_release(int number)
{
    (void)number;
    release_now = 1;
}

static void sysctl_set(const char *text)
{
    char path[128];
    const char *value = strchr(text, '=');
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%.*s", (int)(value - text), text);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, value + 1, strlen(value + 1)) < 0)
        die(text);
    close(fd);
}

static void network_make(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    if (unshare(CLONE_NEWNET) != 0)
        die("unshare");
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        die("lo");
    close(fd);
}

static void listen_at(uint16_t port)
{
    int on = 1;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (struct sockaddr *)&any, sizeof(any)) != 0 || listen(listener, 65535) != 0)
        die("listen");
}

static void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll");
}

/* A process that is full leaves the listener to the others. */
static void listen_or_not(void)
{
    bool now = count < limit;
    if (now == listening)
        return;
    listening = now;
    if (now)
        watch(listener, EPOLLIN | EPOLLEXCLUSIVE);
    else
        epoll_ctl(epoll, EPOLL_CTL_DEL, listener, NULL);
}

static void accept_all(void)
{
    int fd;
    while (count < limit && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        kind[fd] = OPEN;
        count++;
        watch(fd, EPOLLIN);
    }
}

static void finish(int fd)
{
    kind[fd] = UNUSED;
    count--;
    close(fd);
}

static void serve_one(int fd)
{
    char bytes[64];
    ssize_t got = read(fd, bytes, sizeof(bytes));
    if (got > 0 && memchr(bytes, 'H', (size_t)got))
        kind[fd] = KEPT;
    if (got > 0 || (got < 0 && errno == EAGAIN))
        return;
    if (kind[fd] == KEPT) {
        kind[fd] = KEPT_CLOSED;
        epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
    } else {
        finish(fd);
    }
}

static void release_all(void)
{
    release_now = 0;
    for (int fd = 0; fd < limit + SPARE; fd++)
        if (kind[fd] == KEPT_CLOSED)
            finish(fd);
}

static void serve(void)
{
    struct epoll_event events[64];
    sigset_t usual, blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &usual);
    signal(SIGUSR1, on_release);
    epoll = epoll_create1(0);
    for (;;) {
        listen_or_not();
        int ready = epoll_pwait(epoll, events, 64, -1, &usual);
        if (release_now)
            release_all();
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_all();
            else
                serve_one(events[i].data.fd);
        }
    }
}

static void start_processes(long processes)
{
    for (long i = 0; i < processes; i++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            serve();
        }
    }
}

static void files_prepare(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    limit = (int)files.rlim_cur - SPARE;
    kind = calloc(1, files.rlim_cur);
    if (!kind)
        die("memory");
}

int main(int argc, char **argv)
{
    char byte;
    if (argc < 3)
        return 2;
    network_make();
    for (int i = 3; i < argc; i++)
        sysctl_set(argv[i]);
    listen_at((uint16_t)atoi(argv[1]));
    files_prepare();
    signal(SIGUSR1, SIG_IGN); /* it is sent to the whole group */
    start_processes(atol(argv[2]));
    printf("ready\n");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}
