/* SPDX-License-Identifier: MIT */
/*
 * What fixport costs, measured side by side in one run.
 *
 * Each way of connecting is a worker (bench-worker.c): this program again, with or without the shim
 * preloaded, in a network namespace of its own. The workers take turns, batch by batch, so that
 * whatever else the machine does hits them alike; a row's ratio is the median of the ratios of
 * batches that were neighbours in time. Counts are sums over all batches. At the end the figures
 * that the design promises stand beside what was measured, but nothing here passes or fails: a
 * machine's times are its own.
 *
 *   bench [--quick] [--tsv FILE] [ROW...]
 *   bench --alone ROW WAY COUNT [COMMAND...]   one worker and one batch, run by COMMAND
 */
#include "bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct peer peers[WAY_COUNT];

static bool has_way(const struct row *row, int way)
{
    return row->ways & BIT(way);
}

/* What the row's numbers are a function of: see bench-figures.c. */
static double row_at(const struct row *row)
{
    if (row->job == JOB_TOGETHER)
        return (double)row->ports * row->dests;
    return row->job == JOB_SHORT ? row->ports : row->full * 100;
}

static void note(const struct row *row, int way, const char *measure, double value)
{
    figure(row->name, row_at(row), way_names[way], measure, value);
}

/* ---- rows of times ---- */

enum against { TIME, RATIO, CPU_RATIO, DIFFERENCE };

static double compared(const struct sample *sample, const struct sample *base, enum against against)
{
    switch (against) {
    case RATIO:
        return sample->ns / base->ns;
    case CPU_RATIO:
        return sample->cpu_ns / base->cpu_ns;
    case DIFFERENCE:
        return sample->ns - base->ns;
    default:
        return sample->ns;
    }
}

static double quantile_of(const struct row *row, int way, int rounds, enum against against,
                          double share)
{
    double *value = calloc((size_t)rounds, sizeof(*value));
    if (!value)
        die("memory");
    for (int i = 0; i < rounds; i++)
        value[i] = compared(&peers[way].sample[i], &peers[row->base].sample[i], against);
    double result = quantile(value, rounds, share);
    free(value);
    return result;
}

static void say_special(const struct row *row, int way, int rounds, double ratio)
{
    double added = quantile_of(row, way, rounds, DIFFERENCE, 0.5);
    if (ratio < 0.5)
        printf("  %.0f x faster", 1 / ratio);
    if (row->job == JOB_OPEN)
        note(row, way, "times_faster", 1 / ratio);
    if (row->job == JOB_CLOSE && way != (int)row->base) {
        printf("  %+.1f ns", added);
        note(row, way, "added_ns", added);
    }
    if (row->job == JOB_MANY) {
        printf("  %.3f x the throughput", 1 / ratio);
        note(row, way, "throughput", 1 / ratio);
    }
    printf("\n");
}

static void say_times(const struct row *row, int rounds)
{
    printf("  %-30s %10s    %7s    %-16s %s\n", "", "median", "ratio", "half of them",
           "ratio of cpu time");
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!has_way(row, way))
            continue;
        double ns = quantile_of(row, way, rounds, TIME, 0.5);
        double ratio = quantile_of(row, way, rounds, RATIO, 0.5);
        double cpu = quantile_of(row, way, rounds, CPU_RATIO, 0.5);
        double low = quantile_of(row, way, rounds, RATIO, 0.25);
        double high = quantile_of(row, way, rounds, RATIO, 0.75);
        printf("  %-30s %10.3f us %7.3f x  %6.3f - %-8.3f", way_names[way], ns / 1000, ratio, low,
               high);
        printf(" %7.3f x", cpu);
        note(row, way, "cpu_ratio", cpu);
        note(row, way, "ns", ns);
        note(row, way, "ratio", ratio);
        note(row, way, "ratio_q1", low);
        note(row, way, "ratio_q3", high);
        say_special(row, way, rounds, ratio);
    }
}

/* ---- rows of counts ---- */

static struct sample sum_of(int way, int from, int rounds)
{
    struct sample sum = {.ns = 0};
    for (int i = from; i < rounds; i++) {
        sum.ns += peers[way].sample[i].ns;
        sum.made += peers[way].sample[i].made;
        sum.failed += peers[way].sample[i].failed;
        sum.slow += peers[way].sample[i].slow;
    }
    return sum;
}

/* How many a second without a shim where ports are plenty: as long as there were any. */
static double rate_of_plenty(int rounds)
{
    struct sample sum = {.ns = 0};
    for (int i = 0; i < rounds && !peers[WAY_PLAIN].sample[i].failed; i++) {
        sum.ns += peers[WAY_PLAIN].sample[i].ns;
        sum.made += peers[WAY_PLAIN].sample[i].made;
    }
    return sum.ns ? sum.made / sum.ns * 1e9 : 0;
}

/* The first half of the time is used up by who only lives on ports that were never used. */
static void say_shorts(const struct row *row, int rounds)
{
    double plenty = rate_of_plenty(rounds);
    printf("  %-30s %10s %10s %10s %8s %7s %6s %8s\n", "", "made", "a second", "on end", "failed", "",
           "slow", "ratio");
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!has_way(row, way))
            continue;
        struct sample all = sum_of(way, 0, rounds), end = sum_of(way, rounds / 2, rounds);
        double share = 100 * all.failed / (all.made + all.failed);
        double ratio = plenty ? end.made / end.ns * 1e9 / plenty : 0;
        printf("  %-30s %10.0f %10.0f %10.0f %8.0f %5.1f %% %6.0f %6.3f x\n", way_names[way],
               all.made, all.made / all.ns * 1e9, end.made / end.ns * 1e9, all.failed, share,
               all.slow, ratio);
        note(row, way, "of_plenty", ratio);
        note(row, way, "made", all.made);
        note(row, way, "per_second", all.made / all.ns * 1e9);
        note(row, way, "per_second_on_end", end.made / end.ns * 1e9);
        note(row, way, "failed", all.failed);
        note(row, way, "failed_percent", share);
        note(row, way, "slow", all.slow);
    }
}

static void say_together(const struct row *row)
{
    int possible = row->ports * row->dests;
    printf("  %-30s %10s of %-8s %10s\n", "", "reached", "possible", "each try");
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!has_way(row, way))
            continue;
        struct sample got = peers[way].sample[0];
        printf("  %-30s %10.0f of %-8d %10.3f us", way_names[way], got.made, possible,
               got.ns / 1000);
        if (got.failed > 0)
            printf("  %.0f after a refusal", got.failed);
        if (got.outside > 0)
            printf("  %.0f outside of the range", got.outside);
        printf("\n");
        note(row, way, "reached", got.made);
        note(row, way, "missing", possible - got.made);
        note(row, way, "after_refusal", got.failed);
        note(row, way, "outside", got.outside);
        note(row, way, "ns", got.ns);
    }
}

static void say(const struct row *row, int rounds)
{
    printf("\n%s\n", row->what);
    if (row->job == JOB_SHORT)
        say_shorts(row, rounds);
    else if (row->job == JOB_TOGETHER)
        say_together(row);
    else
        say_times(row, rounds);
    fflush(stdout);
}

/* ---- the rounds ---- */

static void row_begin(const struct row *row, int rounds)
{
    char pool[64];
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!has_way(row, way))
            continue;
        peers[way].sample = calloc((size_t)rounds, sizeof(struct sample));
        if (!peers[way].sample)
            die("memory");
        unlink(pool_path((enum way)way, pool, sizeof(pool))); /* of a run with this pid, killed */
        peer_start(&peers[way], row, (enum way)way);
        if (row->job != JOB_SHORT && row->job != JOB_TOGETHER)
            peer_batch(&peers[way], row->batch / 5 + 1); /* warm up, and wait until it is filled */
    }
}

static void row_end(const struct row *row)
{
    char pool[64];
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!has_way(row, way))
            continue;
        peer_end(&peers[way]);
        free(peers[way].sample);
        unlink(pool_path((enum way)way, pool, sizeof(pool)));
    }
}

static void measure(const struct row *row, int rounds)
{
    row_begin(row, rounds);
    for (int i = 0; i < rounds; i++)
        for (int way = 0; way < WAY_COUNT; way++)
            if (has_way(row, way))
                peers[way].sample[i] = peer_batch(&peers[way], row->batch);
    say(row, rounds);
    row_end(row);
}

/* ---- the command line ---- */

static bool wanted(const char *name, int argc, char **argv)
{
    if (argc == 0)
        return true;
    for (int i = 0; i < argc; i++)
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    return false;
}

static void measure_all(bool quick, int argc, char **argv)
{
    for (size_t i = 0; i < row_count; i++) {
        const struct row *row = &rows[i];
        int rounds = quick ? row->rounds / 6 | 1 : row->rounds;
        if (!wanted(row->name, argc, argv))
            continue;
        if (row->job == JOB_DEAD)
            measure_dead(row, rounds);
        else
            measure(row, row->job == JOB_SHORT && quick ? 6 : rounds);
    }
    if (wanted("start", argc, argv))
        measure_start(quick ? 51 : 301);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench [--quick] [--tsv FILE] [ROW...]\n"
                    "       bench --alone ROW WAY COUNT [COMMAND...]\n");
    return 2;
}

static void library_wanted(void)
{
    if (library && access(library, R_OK) == 0)
        return;
    fprintf(stderr, "bench: FIXPORT_LIBRARY must name libfixport.so (make bench sets it)\n");
    exit(2);
}

/* The worker's side of peer_exec(), and what "make instructions" runs. */
static int other_main(int argc, char **argv)
{
    int row = argc >= 4 ? row_find(argv[2]) : -1;
    int way = argc >= 4 ? atoi(argv[3]) : -1;
    if (row < 0 || way < 0 || way >= WAY_COUNT)
        return usage();
    if (strcmp(argv[1], "--worker") == 0 && argc > 4)
        worker_once(&rows[row], (enum way)way, atoi(argv[4]));
    if (strcmp(argv[1], "--worker") == 0)
        worker(&rows[row], (enum way)way);
    if (argc < 5)
        return usage();
    library_wanted();
    peer_place(&rows[row], (enum way)way);
    peer_exec(&rows[row], (enum way)way, argv + 5, argv[4]);
}

int main(int argc, char **argv)
{
    bool quick = false;
    FILE *tsv = NULL;
    library = getenv("FIXPORT_LIBRARY");
    if (argc > 1 && (strcmp(argv[1], "--worker") == 0 || strcmp(argv[1], "--alone") == 0))
        return other_main(argc, argv);
    for (argc--, argv++; argc > 0 && argv[0][0] == '-'; argc--, argv++) {
        if (strcmp(argv[0], "--quick") == 0) {
            quick = true;
        } else if (strcmp(argv[0], "--tsv") == 0 && argc > 1) {
            tsv = fopen(argv[1], "w");
            if (!tsv)
                die(argv[1]);
            argc--, argv++;
        } else {
            return usage();
        }
    }
    library_wanted();
    signal(SIGPIPE, SIG_IGN);
    printf("fixport bench: rounds in turn; ratios are against the first line that is 1.000 x\n");
    environment_say(quick);
    measure_all(quick, argc, argv);
    promises_say();
    if (tsv) {
        figures_write(tsv);
        bool failed = ferror(tsv);
        if (fclose(tsv) != 0 || failed)
            die("the file of --tsv");
    }
    return 0;
}
