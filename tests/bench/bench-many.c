/* SPDX-License-Identifier: MIT */
/*
 * Many threads of many processes, all towards one destination and on one pool, on all processors.
 *
 * They are started once and meet at a barrier before and after each batch, so only connections are
 * timed. Everybody takes from the one listener's queue, as often as it connects: no server is
 * needed that might be the bottleneck.
 */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PROCESSES 8
#define THREADS 8

struct many {
    pthread_barrier_t barrier;
    const struct row *row;
    enum way way;
    int count;               /* connections for each thread, in this batch */
    _Atomic uint64_t cpu_ns; /* of all threads, in this batch */
};

static struct many *many;

static void *many_thread(void *unused)
{
    (void)unused;
    for (;;) {
        pthread_barrier_wait(&many->barrier);
        double each = run_connects(many->row, many->way, many->count).cpu_ns;
        atomic_fetch_add(&many->cpu_ns, (uint64_t)(each * many->count));
        pthread_barrier_wait(&many->barrier);
    }
    return NULL;
}

static _Noreturn void many_process(void)
{
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, many_thread, NULL) != 0)
            die("pthread_create");
    for (;;)
        pause();
}

static void many_begin(const struct row *row, enum way way)
{
    pthread_barrierattr_t shared;
    many = mmap(NULL, sizeof(*many), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (many == MAP_FAILED)
        die("mmap");
    many->row = row;
    many->way = way;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&many->barrier, &shared, PROCESSES * THREADS + 1);
    for (int i = 0; i < PROCESSES; i++)
        if (fork() == 0)
            many_process();
}

struct sample run_many(const struct row *row, enum way way, int count)
{
    if (!many)
        many_begin(row, way);
    many->count = count;
    atomic_store(&many->cpu_ns, 0);
    pthread_barrier_wait(&many->barrier);
    double began = now_ns();
    pthread_barrier_wait(&many->barrier);
    double made = (double)count * PROCESSES * THREADS;
    return (struct sample){.ns = (now_ns() - began) / made,
                           .cpu_ns = (double)atomic_load(&many->cpu_ns) / made,
                           .made = made};
}
