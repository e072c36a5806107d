/* SPDX-License-Identifier: MIT */
/*
 * Results for people. All that is printed was made here of addresses, numbers, and names of a known
 * form (wire.c): no text of the other side is.
 */
#include "probe.h"

#include <string.h>

#define CELL 96

static const char *const kind_words[KINDS] = {"any port", "in range", "outside"};

/* ---- the cells of the table ---- */

static void cell_own(const struct probe_try *try, char cell[CELL])
{
    if (try->own.port && addr_is_set(try->own.addr))
        dest_print(&try->own, cell, CELL);
    else if (try->own.port)
        snprintf(cell, CELL, "port %u", try->own.port);
    else
        snprintf(cell, CELL, "%s", try->moved ? "another port" : "?");
}

static void cell_seen(const struct probe_facts *facts, const struct probe_try *try, char cell[CELL])
{
    if (try->as.port)
        dest_print(&try->as, cell, CELL);
    else
        snprintf(cell, CELL, "%s", facts->contact && facts->host.captures ? "did not" : "?");
}

/* Of a SYN that nobody else tells of. */
static void cell_syn(const struct probe_try *try, char cell[CELL])
{
    static const char *const left[LEFTS] = {"no answer left", "SYN-ACK left", "RST left"};
    if (try->bounce.is)
        snprintf(cell, CELL, "%s", icmp_text(&try->bounce));
    else
        snprintf(cell, CELL, "%s; came %u time%s", left[try->left], try->syns,
                 try->syns == 1 ? "" : "s");
}

static void cell_end(const struct probe_facts *facts, const struct probe_try *try, char cell[CELL])
{
    static const char *const words[ENDS] = {"?",    "came", "connected, then nothing", "RST", "",
                                            "none", ""};
    if (try->end == END_REJECTED)
        snprintf(cell, CELL, "%s", icmp_text(&try->reject));
    else if (try->end == END_LOCAL)
        snprintf(cell, CELL, "not sent: %s", strerror(try->error));
    else if (try->end == END_UNKNOWN && try->syns)
        cell_syn(try, cell);
    else if (try->end == END_SILENT && try->bounce.is)
        snprintf(cell, CELL, "none: %s", icmp_text(&try->bounce));
    else if (try->end == END_SILENT && facts->contact && try->syns && !try->left)
        snprintf(cell, CELL, "none left the host");
    else
        snprintf(cell, CELL, "%s", words[try->end]);
}

/* ---- the table ---- */

#define COLUMNS 4

struct row {
    char cell[COLUMNS][CELL];
};

static void row_print(const struct row *row, const int width[COLUMNS])
{
    printf("  ");
    for (int i = 0; i + 1 < COLUMNS; i++)
        say_cell(row->cell[i], width[i] + 1);
    printf("%s\n", row->cell[COLUMNS - 1]);
}

static void table_print(const struct probe_facts *facts)
{
    struct row rows[PROBE_TRIES + 1] = {{{"source port", "left from", "arrived from", "answer"}}};
    int width[COLUMNS] = {0};
    for (unsigned i = 0; i < facts->tries; i++) {
        struct row *row = &rows[i + 1];
        snprintf(row->cell[0], CELL, "%s", kind_words[facts->try[i].kind]);
        cell_own(&facts->try[i], row->cell[1]);
        cell_seen(facts, &facts->try[i], row->cell[2]);
        cell_end(facts, &facts->try[i], row->cell[3]);
    }
    for (unsigned i = 0; i <= facts->tries; i++)
        for (int k = 0; k < COLUMNS; k++)
            width[k] =
                width[k] > say_width(rows[i].cell[k]) ? width[k] : say_width(rows[i].cell[k]);
    for (unsigned i = 0; i <= facts->tries; i++)
        row_print(&rows[i], width);
}

/* ---- the result ---- */

static void head_print(const struct probe_facts *facts)
{
    const uint8_t *pod = facts_pod(facts), *seen = facts_seen(facts);
    char to[80], ports[400];
    dest_print(&facts->to, to, sizeof(to));
    portset_print(&facts->ports, ports, sizeof(ports));
    printf("\n%s → %s", pod ? addr_text(pod) : seen ? addr_text(seen) : "?", to);
    if (pod && facts->contact)
        printf(", %s the shim", facts->shim ? "with" : "without");
    printf("%s%s\n\n", facts->ports.count ? ", range " : "", ports);
}

/* Lines of a configuration stand below each other. */
static void advice_print(const struct advice *advice)
{
    const char *line = advice->line;
    bool first = true;
    while (line) {
        const char *newline = strchr(line, '\n');
        printf("  %-16s%.*s\n", first ? advice->where : "",
               (int)(newline ? newline - line : (long)strlen(line)), line);
        first = false;
        line = newline ? newline + 1 : NULL;
    }
}

void say_result(const struct probe_facts *facts, const struct verdict_found *found)
{
    struct advice advice[ADVICE_MOST];
    unsigned count = advice_find(facts, found, advice);
    head_print(facts);
    table_print(facts);
    printf("\n%s\n", found->text);
    for (unsigned i = 0; i < found->notes; i++)
        printf("%s\n", found->note[i]);
    if (count)
        printf("\n%s\n", advice_head(facts, found));
    for (unsigned i = 0; i < count; i++)
        advice_print(&advice[i]);
}

/* ---- the listener's end ---- */

static void summary_row(const struct probe_run *run)
{
    const uint8_t *pod = facts_pod(&run->facts), *seen = facts_seen(&run->facts);
    struct tm when;
    char clock[16] = "";
    if (localtime_r(&run->clock, &when))
        strftime(clock, sizeof(clock), "%H:%M:%S", &when);
    printf("  %-9s %-24s %-24s %3u of %-3u %s\n", clock, pod ? addr_text(pod) : "?",
           seen ? addr_text(seen) : "?", run->found.good, run->found.counts,
           verdict_name(run->found.verdict));
}

void say_summary(const struct probe_runs *runs, unsigned strangers)
{
    unsigned shown = 0;
    printf("\n");
    for (size_t i = 0; i < RUNS_MOST; i++) {
        const struct probe_run *run = &runs->run[i];
        if (!run->began || !run->done)
            continue;
        if (!shown++)
            printf("  %-9s %-24s %-24s %-10s %s\n", "time", "pod", "arrived from", "answered",
                   "verdict");
        summary_row(run);
    }
    if (!runs->finished)
        printf("Nothing arrived from any fixport-probe.\n");
    if (runs->finished > shown)
        printf("  and %u earlier ones\n", runs->finished - shown);
    if (strangers)
        printf("%u other connection%s: not by fixport-probe.\n", strangers,
               strangers == 1 ? "" : "s");
}
