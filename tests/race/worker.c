/* SPDX-License-Identifier: MIT */
/*
 * The programs of the race: an ordinary client and an ordinary server, without a word of fixport.
 *
 *   worker serve PORT...                     accept on 127.0.0.1, close what the peer closes
 *   worker hammer THREADS SECONDS PORT...    connect, hold, let go in many ways, again and again
 *   worker hold COUNT PORT                   open COUNT connections at once, print how many, wait
 *
 * hammer prints "made M refused R failed F": connections made, EADDRNOTAVAIL, other errors.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HELD 8 /* connections a thread keeps open */

static int ports[64];
static int port_count;
static double deadline;
static _Atomic long made, refused, failed;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct sockaddr_in address_of(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                .sin_port = htons((uint16_t)port)};
}

static int serve_one(int epoll, int port)
{
    struct sockaddr_in address = address_of(port);
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 4096) != 0)
        return -1;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)fd << 1 | 1};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void accept_all(int epoll, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)fd << 1};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int serve(void)
{
    int epoll = epoll_create1(0);
    for (int i = 0; i < port_count; i++) {
        if (serve_one(epoll, ports[i]) != 0) {
            perror("worker: serve");
            return 1;
        }
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = (int)(events[i].data.u64 >> 1);
            char byte[16];
            if (events[i].data.u64 & 1) {
                accept_all(epoll, fd);
                continue;
            }
            ssize_t got = read(fd, byte, sizeof(byte));
            if (got == 0 || (got < 0 && errno != EAGAIN))
                close(fd);
        }
    }
}

static int dial(int port)
{
    struct sockaddr_in address = address_of(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
        made++;
        return fd;
    }
    if (errno == EADDRNOTAVAIL)
        refused++;
    else
        failed++;
    close(fd);
    return -1;
}

/* A child that keeps the socket a little longer than its parent does. */
static void leave_to_child(int fd)
{
    pid_t pid = fork();
    if (pid == 0) {
        usleep(2000);
        _exit(0);
    }
    close(fd);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void let_go(int fd, unsigned how)
{
    struct linger reset = {.l_onoff = 1};
    switch (how % 16) {
    case 0:
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(fd);
        break;
    case 1:
        fclose(fdopen(fd, "w")); /* inside the C library: no hook sees it */
        break;
    case 2:
        leave_to_child(fd);
        break;
    case 3:
        shutdown(fd, SHUT_WR);
        close(fd);
        break;
    default:
        close(fd);
    }
}

static void *hammer(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg * 7919u + (unsigned)getpid();
    int held[HELD];
    memset(held, -1, sizeof(held));
    while (now() < deadline) {
        int at = rand_r(&seed) % HELD;
        if (held[at] >= 0)
            let_go(held[at], (unsigned)rand_r(&seed));
        held[at] = dial(ports[rand_r(&seed) % port_count]);
        if (held[at] < 0)
            usleep(1000);
    }
    return NULL;
}

static int hammer_all(int threads, double seconds)
{
    pthread_t thread[64];
    deadline = now() + seconds;
    for (int i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, hammer, (void *)(uintptr_t)i);
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    printf("made %ld refused %ld failed %ld\n", made, refused, failed);
    return 0;
}

static int hold(int count)
{
    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 0; i < count; i++)
        dial(ports[0]);
    printf("made %ld refused %ld failed %ld\n", made, refused, failed);
    fflush(stdout);
    pause();
    return 0;
}

int main(int argc, char **argv)
{
    int first = argc > 1 && strcmp(argv[1], "serve") == 0 ? 2 : argc > 1 && argv[1][1] == 'o' ? 3 : 4;
    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = first; i < argc && port_count < 64; i++)
        ports[port_count++] = atoi(argv[i]);
    if (port_count == 0)
        return 2;
    if (strcmp(argv[1], "serve") == 0)
        return serve();
    if (strcmp(argv[1], "hold") == 0)
        return hold(atoi(argv[2]));
    return hammer_all(atoi(argv[2]), atof(argv[3]));
}
