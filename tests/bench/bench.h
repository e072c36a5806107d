/* SPDX-License-Identifier: MIT */
/*
 * The bench's parts and what they tell each other; the theory of operation is at the top of
 * bench.c.
 */
#ifndef FIXPORT_BENCH_H
#define FIXPORT_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define RANGE_LO 50000
#define RANGE_SIZE 10000
#define SERVER_PORT 7000
#define SHORT_SERVER "192.168.31.67" /* not 127.0.0.1: see bench-rows.c */

/* Ways to come by a source port of the range. */
enum way {
    WAY_PLAIN,  /* connect(), the kernel chooses from all ephemeral ports */
    WAY_FLOOR,  /* the same with the range in use but not in question: what a connection costs */
    WAY_KERNEL, /* connect(), ip_local_port_range narrowed to the range */
    WAY_OPTION, /* IP_LOCAL_PORT_RANGE set by the program */
    WAY_RANDOM, /* bind() to random ports of the range until one is free */
    WAY_BLIND,  /* bind() to the next port by a counter of the process until one is free */
    WAY_REUSE,  /* the same with SO_REUSEADDR: bind() nearly always works, connect() may not */
    WAY_SHIM,   /* connect(), with the shim preloaded */
    WAY_BIND,   /* the same, the range outside of ip_local_port_range: the shim has to bind() */
    WAY_COUNT,
};

#define BIT(way) (1u << (way))
#define SHIMS (BIT(WAY_SHIM) | BIT(WAY_BIND))

enum job {
    JOB_CONNECT,  /* socket, connect, close */
    JOB_OPEN,     /* socket, connect; the closes are not timed */
    JOB_REFUSED,  /* socket, connect in vain, close */
    JOB_CLOSE,    /* close of what is not open */
    JOB_SHORT,    /* socket, connect, close for some ms; the server closes second */
    JOB_TOGETHER, /* as many connections at once as there can be */
    JOB_MANY,     /* JOB_CONNECT in many threads of many processes */
    JOB_DEAD,     /* connections of processes that are then killed */
};

struct row {
    const char *name;
    const char *what;
    const char *to; /* FIXPORT_TO of the shim's workers */
    enum job job;
    unsigned ways; /* bit mask */
    enum way base; /* what the ratio is against */
    double full;   /* share of the range in use beforehand */
    int batch;     /* connections; JOB_SHORT: ms */
    int rounds;    /* many small ones where the difference is small */
    int ports;     /* in the range */
    int dests;     /* JOB_TOGETHER; JOB_DEAD: namespaces */
};

extern const struct row rows[];
extern const size_t row_count;
extern const char *const way_names[WAY_COUNT];

/** row_find - Return: the row's index, or -1. */
int row_find(const char *name);

/** What a worker says after a batch. */
struct sample {
    double ns;     /* for one connection; JOB_SHORT: for the batch */
    double cpu_ns; /* of the processor, for one: without what others did meanwhile; or 0 */
    double made;
    double failed;  /* EADDRNOTAVAIL */
    double slow;    /* made after a second or more: SYNs were lost */
    double outside; /* made, but not from a port of the range */
};

/* ---- bench-worker.c: in the workers ---- */

/* A beginning, and what was added to a sample since then. */
struct span {
    double ns, cpu_ns;
};

struct span span_begin(void);
void span_end(struct span began, struct sample *sample);
double now_ns(void);
_Noreturn void die(const char *what);

/** worker - answers batches (an int in, a struct sample out) until there are no more. */
_Noreturn void worker(const struct row *row, enum way way);

/** worker_once - one batch of @count and nothing else, for instrumentation. */
_Noreturn void worker_once(const struct row *row, enum way way, int count);

/* Short of dying: -1 if no port was to be had. @to: an IPv4 address and SERVER_PORT. */
int connect_try(const struct row *row, enum way way, uint32_t to);

void server_listen(uint32_t address, int flags);
void server_drain(bool keep);
struct sample run_connects(const struct row *row, enum way way, int count);

/* bench-short.c, bench-many.c: the jobs of their names. */
struct sample run_short(const struct row *row, enum way way, int ms);
struct sample run_together(const struct row *row, enum way way);
void short_server(void);
struct sample run_many(const struct row *row, enum way way, int count);

/* ---- bench-peer.c: workers, seen from the conductor ---- */

struct peer {
    pid_t pid;
    int to, from;
    struct sample *sample; /* one for each round */
};

extern const char *library;

/** peer_place - in a forked child: the namespace and the environment for a row's worker. */
void peer_place(const struct row *row, enum way way);

/** peer_exec - becomes the row's worker, under the command @prefix (NULL-terminated) if any. */
_Noreturn void peer_exec(const struct row *row, enum way way, char *const prefix[],
                         const char *count);

void peer_start(struct peer *peer, const struct row *row, enum way way);
struct sample peer_batch(struct peer *peer, int count);
void peer_end(struct peer *peer);
void peer_kill(struct peer *peer);

/** pool_path - of the pool that the shim's workers share. Return: @buf. */
const char *pool_path(enum way way, char *buf, size_t size);

/* ---- bench-start.c, bench-dead.c: rows that are not made of batches ---- */

void measure_start(int rounds);
void measure_dead(const struct row *row, int rounds);

/* ---- bench-figures.c: results, and what was promised ---- */

/** environment_say - where and how this is measured, for people and for the file. */
void environment_say(bool quick);

/** figure - remembers one number. @row, @way, @measure must last. */
void figure(const char *row, double at, const char *way, const char *measure, double value);

/** figures_write - everything remembered, tab-separated, with the environment and a header. Once. */
void figures_write(FILE *file);

/** promises_say - the figures that the design promises, against what was measured. */
void promises_say(void);

/** quantile - sorts @values. @share: 0..1; 0.5 is the median. */
double quantile(double *values, int count, double share);

#endif
