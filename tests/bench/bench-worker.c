/* SPDX-License-Identifier: MIT */
/*
 * The worker: connects in one way, batch by batch, as the conductor asks. What differs between the
 * ways is what is done to a socket before connect(), and nothing else.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LOCAL_PORT_RANGE 51
#define PART 50 /* connections between two looks at the listener's queue */

static int listener;

static double clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

double now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

struct span span_begin(void)
{
    return (struct span){.ns = now_ns(), .cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)};
}

void span_end(struct span began, struct sample *sample)
{
    sample->cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - began.cpu_ns;
    sample->ns += now_ns() - began.ns;
}

void die(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static struct sockaddr_in server_at(uint32_t address)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(address), .sin_port = htons(SERVER_PORT)};
}

void server_listen(uint32_t address, int flags)
{
    struct sockaddr_in at = server_at(address);
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | flags, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(listener, 4096) != 0)
        die("listen");
}

/* Accepts what is waiting. keep: leave the connections open. */
void server_drain(bool keep)
{
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;)
        if (!keep)
            close(fd);
}

void short_server(void)
{
    char byte;
    for (int fd;; close(fd)) {
        fd = accept(listener, NULL, NULL);
        if (fd < 0)
            die("accept");
        while (read(fd, &byte, 1) > 0)
            ;
    }
}

static uint32_t random_state = 12345, counter;

static uint32_t random_below(uint32_t size)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * size >> 32);
}

static bool bind_to(int fd, uint32_t offset)
{
    struct sockaddr_in any = {.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)(RANGE_LO + offset))};
    return bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0;
}

/* Until it succeeds. That often in vain, none is likely to be left (one in e^20 is missed). */
static bool bind_random(int fd, uint32_t size)
{
    for (uint32_t tries = 0; tries < 20 * size; tries++)
        if (bind_to(fd, random_below(size)))
            return true;
    return false;
}

static bool bind_next(int fd, uint32_t size)
{
    for (uint32_t tries = 0; tries < size; tries++)
        if (bind_to(fd, counter++ % size))
            return true;
    return false;
}

/* Before connect(). Return: false if there is no port. */
static bool prepare(int fd, enum way way, int ports)
{
    uint32_t range = RANGE_LO | (uint32_t)(RANGE_LO + ports - 1) << 16;
    int on = 1;
    switch (way) {
    case WAY_OPTION:
        return setsockopt(fd, IPPROTO_IP, LOCAL_PORT_RANGE, &range, sizeof(range)) == 0;
    case WAY_RANDOM:
        return bind_random(fd, (uint32_t)ports);
    case WAY_REUSE:
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        return bind_next(fd, (uint32_t)ports);
    case WAY_BLIND:
        return bind_next(fd, (uint32_t)ports);
    default:
        return true;
    }
}

int connect_try(const struct row *row, enum way way, uint32_t to)
{
    struct sockaddr_in at = server_at(to); /* on the stack, as most programs have it */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (prepare(fd, way, row->ports) && connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0)
        return fd;
    if (errno != EADDRNOTAVAIL && errno != EADDRINUSE)
        die("connect");
    close(fd);
    return -1;
}

static int open_one(const struct row *row, enum way way)
{
    int fd = connect_try(row, way, INADDR_LOOPBACK);
    if (fd < 0)
        die("connect");
    return fd;
}

static void reset(int fd)
{
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(fd);
}

static void fill(const struct row *row, enum way way, int count)
{
    if (way == WAY_FLOOR)
        way = WAY_RANDOM;
    for (int i = 0; i < count; i++) {
        open_one(row, way);
        if (i % 1000 == 999) /* before the listener's queue is full */
            server_drain(true);
    }
    server_drain(true);
}

/* Where no port is left. */
static void refuse_one(const struct row *row, enum way way)
{
    int fd = connect_try(row, way, INADDR_LOOPBACK);
    if (fd < 0)
        return;
    fprintf(stderr, "bench: %s: a port in a full range\n", way_names[way]);
    _exit(1);
}

/* Not inlined: "make instructions" counts what is done in here. */
__attribute__((noinline)) static void run_part(const struct row *row, enum way way, int *fd,
                                               int count)
{
    for (int i = 0; i < count; i++) {
        if (row->job == JOB_REFUSED) {
            refuse_one(row, way);
            continue;
        }
        fd[i] = open_one(row, way);
        if (row->job != JOB_OPEN)
            reset(fd[i]);
    }
}

struct sample run_connects(const struct row *row, enum way way, int count)
{
    struct sample sample = {.made = count};
    int fd[PART];
    for (int left = count; left > 0; left -= PART) {
        int part = left < PART ? left : PART;
        struct span began = span_begin();
        run_part(row, way, fd, part);
        span_end(began, &sample);
        for (int i = 0; i < part && row->job == JOB_OPEN; i++)
            reset(fd[i]);
        server_drain(false);
    }
    sample.ns /= count;
    sample.cpu_ns /= count;
    return sample;
}

static struct sample run_closes(int count)
{
    struct sample sample = {.made = count};
    struct span began = span_begin();
    for (int i = 0; i < count; i++)
        close(-1);
    span_end(began, &sample);
    sample.ns /= count;
    sample.cpu_ns /= count;
    return sample;
}

static struct sample run_dead(const struct row *row, enum way way, int count)
{
    fill(row, way, count);
    return (struct sample){.made = count};
}

static struct sample run(const struct row *row, enum way way, int count)
{
    switch (row->job) {
    case JOB_CLOSE:
        return run_closes(count);
    case JOB_SHORT:
        return run_short(row, way, count);
    case JOB_TOGETHER:
        return run_together(row, way);
    case JOB_MANY:
        return run_many(row, way, count);
    case JOB_DEAD:
        return run_dead(row, way, count);
    default:
        return run_connects(row, way, count);
    }
}

/*
 * All workers on one processor, the last one: they take turns, so they do not compete, and meet the
 * same interrupts, caches and clock. The conductor and what else there is has the others.
 */
static void pin_worker(void)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) != 0)
        return;
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof(one), &one);
            return;
        }
    }
}

static void worker_prepare(const struct row *row, enum way way)
{
    struct rlimit files;
    if (row->job != JOB_MANY)
        pin_worker();
    getrlimit(RLIMIT_NOFILE, &files); /* the fullest rows need a little under 20,000 */
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (row->job == JOB_CLOSE || row->job == JOB_SHORT)
        return;
    server_listen(row->job == JOB_TOGETHER ? INADDR_ANY : INADDR_LOOPBACK, SOCK_NONBLOCK);
    fill(row, way, (int)(row->ports * row->full + 0.5));
}

void worker(const struct row *row, enum way way)
{
    int count;
    worker_prepare(row, way);
    while (read(STDIN_FILENO, &count, sizeof(count)) == sizeof(count)) {
        struct sample sample = run(row, way, count);
        if (write(STDOUT_FILENO, &sample, sizeof(sample)) != sizeof(sample))
            break;
    }
    _exit(0);
}

void worker_once(const struct row *row, enum way way, int count)
{
    worker_prepare(row, way);
    run(row, way, count);
    if (BIT(way) & SHIMS)
        unlink(getenv("FIXPORT_POOL"));
    exit(0);
}
