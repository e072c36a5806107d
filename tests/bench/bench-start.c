/* SPDX-License-Identifier: MIT */
/*
 * What the shim adds to the start of a process that never connects, and to its memory.
 */
#include "bench.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROW "start"
#define ADDED "added"

static double start_one(char *const argv[])
{
    double began = now_ns();
    pid_t pid = vfork();
    if (pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
    return now_ns() - began;
}

static pid_t start_sleeper(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sleep", "sleep", "5", NULL);
        _exit(127);
    }
    return pid;
}

/* Sums up the fields of smaps_rollup that are named, in KiB. */
static void memory_read(pid_t pid, long *private, long *resident)
{
    char path[64], line[256];
    long kib;
    *private = *resident = 0;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "Private_Clean: %ld", &kib) == 1 ||
            sscanf(line, "Private_Dirty: %ld", &kib) == 1)
            *private += kib;
        else if (sscanf(line, "Rss: %ld", &kib) == 1)
            *resident = kib;
    }
    if (file)
        fclose(file);
}

/* Of a sleeping process, beside another one: library and pool are shared. */
static void memory_of_sleeper(long *private, long *resident)
{
    pid_t other = start_sleeper(), pid = start_sleeper();
    usleep(300000); /* the figure is of a process at rest */
    memory_read(pid, private, resident);
    kill(pid, SIGKILL);
    kill(other, SIGKILL);
    waitpid(pid, NULL, 0);
    waitpid(other, NULL, 0);
}

static void start_say(double *without, double *with, double *added, int rounds)
{
    double us = quantile(added, rounds, 0.5) / 1000;
    printf("\nstart of a process (/bin/true)\n");
    printf("  %-30s %10.1f us\n", way_names[WAY_PLAIN], quantile(without, rounds, 0.5) / 1000);
    printf("  %-30s %10.1f us\n", way_names[WAY_SHIM], quantile(with, rounds, 0.5) / 1000);
    printf("  %-30s %10.1f us   (half of the rounds: %.1f to %.1f)\n", ADDED, us,
           quantile(added, rounds, 0.25) / 1000, quantile(added, rounds, 0.75) / 1000);
    figure(ROW, 0, way_names[WAY_PLAIN], "us", quantile(without, rounds, 0.5) / 1000);
    figure(ROW, 0, way_names[WAY_SHIM], "us", quantile(with, rounds, 0.5) / 1000);
    figure(ROW, 0, ADDED, "us", us);
}

static void memory_say(const long *private, const long *resident)
{
    printf("  %-30s %10ld KiB private memory, %ld KiB resident\n", ADDED, private[1] - private[0],
           resident[1] - resident[0]);
    figure(ROW, 0, ADDED, "private_kib", (double)(private[1] - private[0]));
    figure(ROW, 0, ADDED, "resident_kib", (double)(resident[1] - resident[0]));
}

void measure_start(int rounds)
{
    char *const argv[] = {"/bin/true", NULL};
    double *all = calloc(3 * (size_t)rounds, sizeof(double));
    double *with = all, *without = all + rounds, *added = without + rounds;
    long private[2], resident[2];
    char pool[64];
    if (!all)
        die("memory");
    memory_of_sleeper(&private[0], &resident[0]);
    setenv("FIXPORT_PORTS", "50000-59999", 1);
    setenv("FIXPORT_POOL", pool_path(WAY_SHIM, pool, sizeof(pool)), 1);
    for (int i = 0; i < rounds; i++) {
        unsetenv("LD_PRELOAD");
        without[i] = start_one(argv);
        setenv("LD_PRELOAD", library, 1);
        with[i] = start_one(argv);
        added[i] = with[i] - without[i];
    }
    memory_of_sleeper(&private[1], &resident[1]);
    unsetenv("LD_PRELOAD");
    unlink(pool);
    start_say(without, with, added, rounds);
    memory_say(private, resident);
    free(all);
}
