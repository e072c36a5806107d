/* SPDX-License-Identifier: MIT */
/*
 * The numbers: kept for the file, and held against the figures that the design promises.
 *
 * The file is tab-separated, one number a line, so that rows of different kinds need no columns of
 * their own: row, at (how full in percent; ports; connections; namespaces), way, measure, value.
 * Lines that begin with # tell where it was measured.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define FIGURES 2048

static struct figure {
    const char *row, *way, *measure;
    double at, value;
} figures[FIGURES];
static size_t figure_count;

/* ---- the environment ---- */

enum fact {
    RELEASE,
    DATE,
    ROUNDS,
    KERNEL,
    CPU,
    CORES,
    VIRTUAL,
    GOVERNOR,
    TIMESTAMPS,
    TW_REUSE,
    LOAD,
    LOAD_AFTER,
    FACTS
};

static const char *const fact_names[FACTS] = {
    "fixport", "date",     "rounds",         "kernel",       "cpu",         "cores",
    "machine", "governor", "tcp_timestamps", "tcp_tw_reuse", "load before", "load after",
};
static char facts[FACTS][128];

/* The first line of a file without its end; @otherwise if there is no such file. */
static void fact_file(enum fact fact, const char *path, const char *otherwise)
{
    char *to = facts[fact];
    FILE *file = fopen(path, "r");
    if (!file || !fgets(to, sizeof(facts[fact]), file))
        snprintf(to, sizeof(facts[fact]), "%s", otherwise);
    to[strcspn(to, "\n\t")] = '\0';
    if (file)
        fclose(file);
}

static void fact_cpu(void)
{
    char line[4096], *value;
    bool guest = false;
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(facts[CPU], sizeof(facts[CPU]), "not known");
    while (file && fgets(line, sizeof(line), file)) {
        value = strchr(line, ':');
        if (value && strncmp(line, "model name", 10) == 0)
            snprintf(facts[CPU], sizeof(facts[CPU]), "%.*s", (int)strcspn(value + 2, "\n"),
                     value + 2);
        guest |= value && strncmp(line, "flags", 5) == 0 && strstr(value, " hypervisor");
    }
    if (file)
        fclose(file);
    if (guest)
        snprintf(facts[VIRTUAL], sizeof(facts[VIRTUAL]), "virtual");
    else
        fact_file(VIRTUAL, "/sys/class/dmi/id/product_name", "not known");
}

static void fact_date(void)
{
    time_t now = time(NULL);
    strftime(facts[DATE], sizeof(facts[DATE]), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
}

void environment_say(bool quick)
{
    struct utsname name;
    uname(&name);
    snprintf(facts[RELEASE], sizeof(facts[0]), "%s", PACKAGE_VERSION);
    snprintf(facts[ROUNDS], sizeof(facts[0]), "%s", quick ? "few (--quick)" : "all");
    fact_date();
    snprintf(facts[KERNEL], sizeof(facts[0]), "%.40s %.60s %.20s", name.sysname, name.release,
             name.machine);
    fact_cpu();
    snprintf(facts[CORES], sizeof(facts[0]), "%d", get_nprocs());
    fact_file(GOVERNOR, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "not known");
    fact_file(LOAD, "/proc/loadavg", "not known");
    fact_file(TIMESTAMPS, "/proc/sys/net/ipv4/tcp_timestamps", "not known");
    fact_file(TW_REUSE, "/proc/sys/net/ipv4/tcp_tw_reuse", "not known");
    for (int i = 0; i < LOAD_AFTER; i++)
        printf("  %-16s %s\n", fact_names[i], facts[i]);
}

/* ---- the numbers ---- */

void figure(const char *row, double at, const char *way, const char *measure, double value)
{
    if (figure_count == FIGURES) {
        fprintf(stderr, "bench: more figures than FIGURES\n");
        exit(1);
    }
    figures[figure_count++] = (struct figure){row, way, measure, at, value};
}

static const struct figure *figure_find(const char *row, const char *way, const char *measure)
{
    for (size_t i = 0; i < figure_count; i++)
        if (strcmp(figures[i].row, row) == 0 && strcmp(figures[i].way, way) == 0 &&
            strcmp(figures[i].measure, measure) == 0)
            return &figures[i];
    return NULL;
}

void figures_write(FILE *file)
{
    fact_file(LOAD_AFTER, "/proc/loadavg", "not known");
    for (int i = 0; i < FACTS; i++)
        fprintf(file, "# %s: %s\n", fact_names[i], facts[i]);
    fprintf(file, "row\tat\tway\tmeasure\tvalue\n");
    for (size_t i = 0; i < figure_count; i++)
        fprintf(file, "%s\t%g\t%s\t%s\t%.6g\n", figures[i].row, figures[i].at, figures[i].way,
                figures[i].measure, figures[i].value);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double quantile(double *values, int count, double share)
{
    double at = share * (count - 1);
    int below = (int)at;
    qsort(values, (size_t)count, sizeof(*values), compare);
    if (below + 1 >= count)
        return values[count - 1];
    return values[below] + (values[below + 1] - values[below]) * (at - below);
}

/* ---- the promises ---- */

static const struct promise {
    const char *row, *way, *measure, *unit;
    bool most; /* at most the bound, not at least */
    double bound;
} promises[] = {
    {"empty", "fixport", "ratio", "x of no shim", true, 1.05},
    {"empty", "fixport, by bind", "ratio", "x of no shim", true, 1.10},
    {"unmatched", "fixport", "ratio", "x of no shim", true, 1.02},
    {"close", "fixport", "added_ns", "ns", true, 5},
    {"full-55", "fixport", "times_faster", "x faster than the kernel's choice", false, 30},
    {"full-75", "fixport", "times_faster", "x faster than the kernel's choice", false, 30},
    {"full-90", "fixport", "times_faster", "x faster than the kernel's choice", false, 30},
    {"full-99.9", "fixport", "times_faster", "x faster than the kernel's choice", false, 15},
    {"short-1000", "fixport", "of_plenty", "x of no shim in 64,000 ports", false, 0.9},
    {"short-1000", "fixport, by bind", "of_plenty", "x of no shim in 64,000 ports", false, 0.9},
    {"short-1000", "fixport", "failed", "failures", true, 0},
    {"together-1000x8", "fixport", "missing", "connections missing", true, 0},
    {"together-100x80", "fixport", "missing", "connections missing", true, 0},
    {"together-10x800", "fixport", "missing", "connections missing", true, 0},
    {"many", "fixport", "throughput", "x of no shim", false, 0.95},
    {"many", "fixport", "cpu_ratio", "x of no shim, processor time", true, 1 / 0.95},
    {"start", "added", "us", "us", true, 150},
    {"start", "added", "private_kib", "KiB private", true, 64},
    {"dead-2", "fixport", "ms", "ms", true, 50},
    {"dead-100", "fixport", "ms", "ms", true, 50},
};

/* Where no shim is measured against itself, too: what differs there is noise, and says how much. */
static void noise_say(const struct promise *promise)
{
    const struct figure *again = figure_find(promise->row, "no shim, an empty range", "ratio");
    bool of_base = strstr(promise->unit, "of no shim") != NULL;
    if (of_base && again)
        printf(" (no shim against itself: %.3f)", again->value);
    printf("\n");
}

void promises_say(void)
{
    printf("\n%-18s %-17s %12s %14s\n", "promised", "", "", "measured");
    for (size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
        const struct promise *p = &promises[i];
        const struct figure *f = figure_find(p->row, p->way, p->measure);
        if (!f)
            continue;
        bool kept = p->most ? f->value <= p->bound : f->value >= p->bound;
        printf("%-18s %-17s %s %9g %14.6g  %-5s %s", p->row, p->way,
               p->most ? "<=" : ">=", p->bound, f->value, kept ? "kept" : "NOT", p->unit);
        noise_say(p);
    }
}
