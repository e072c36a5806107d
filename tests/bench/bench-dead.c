/* SPDX-License-Identifier: MIT */
/*
 * How long it takes to take back what killed processes had: network namespaces with 10,000
 * leases together on one pool, all killed, then "fixport-pool reclaim" from its start to its
 * end. It says itself how many leases came back.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOLDERS 100 /* at most */

/* Runs it. *back: what it says it took back. Return: ns. */
static double reclaim(const char *tool, const char *pool, long *back)
{
    char text[4096] = "", *found;
    size_t length = 0;
    int out[2], status;
    if (pipe(out) != 0)
        die("pipe");
    double began = now_ns();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        execl(tool, tool, "reclaim", "--json", "--pool", pool, NULL);
        die(tool);
    }
    close(out[1]);
    for (ssize_t got = 1; got > 0;) { /* the total comes first; the rest may be long */
        char rest[4096];
        got = read(out[0], length < sizeof(text) - 1 ? text + length : rest,
                   length < sizeof(text) - 1 ? sizeof(text) - 1 - length : sizeof(rest));
        length += got > 0 && length < sizeof(text) - 1 ? (size_t)got : 0;
    }
    close(out[0]);
    waitpid(pid, &status, 0);
    double spent = now_ns() - began;
    found = strstr(text, "\"reclaimed\":");
    *back = found && status == 0 ? strtol(found + strlen("\"reclaimed\":"), NULL, 10) : -1;
    return spent;
}

static double kill_and_reclaim(const struct row *row, const char *tool, const char *pool,
                               long *back)
{
    struct peer peers[HOLDERS];
    for (int i = 0; i < row->dests; i++) {
        peer_start(&peers[i], row, WAY_SHIM);
        peer_batch(&peers[i], row->batch);
    }
    for (int i = 0; i < row->dests; i++)
        peer_kill(&peers[i]);
    double ns = reclaim(tool, pool, back);
    unlink(pool);
    return ns;
}

void measure_dead(const struct row *row, int rounds)
{
    const char *tool = getenv("FIXPORT_POOL_TOOL");
    char pool[64];
    double *ns = calloc((size_t)rounds, sizeof(*ns));
    long back, least = row->dests * row->batch;
    if (!ns)
        die("memory");
    printf("\n%s\n", row->what);
    if (!tool || access(tool, X_OK) != 0) {
        printf("  left out: FIXPORT_POOL_TOOL does not name fixport-pool (make bench sets it)\n");
        free(ns);
        return;
    }
    pool_path(WAY_SHIM, pool, sizeof(pool));
    for (int i = 0; i < rounds; i++) {
        ns[i] = kill_and_reclaim(row, tool, pool, &back);
        least = back < least ? back : least;
    }
    printf("  %-30s %10.1f ms for %ld leases   (%.1f to %.1f)\n", way_names[WAY_SHIM],
           quantile(ns, rounds, 0.5) / 1e6, least, quantile(ns, rounds, 0) / 1e6,
           quantile(ns, rounds, 1) / 1e6);
    figure(row->name, row->dests, way_names[WAY_SHIM], "ms", quantile(ns, rounds, 0.5) / 1e6);
    figure(row->name, row->dests, way_names[WAY_SHIM], "leases", (double)least);
    free(ns);
}
