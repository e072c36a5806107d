/* SPDX-License-Identifier: MIT */
/*
 * A unified diff, so that "plan" can show what becomes of a file without another tool. What is the
 * same at both ends is cut off; in between the longest common subsequence is found by the plain
 * table, which is good enough for files of a thousand lines. Beyond that all of the middle counts
 * as changed: still true, only longer.
 *
 * Files are anybody's: what a terminal would obey is shown as '?'.
 */
#include "state.h"

#include "../../pool/cmd.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_MOST (4u << 20) /* cells */
#define AROUND 3

struct diff_line {
    const char *text;
    size_t length; /* with its newline, if it has one */
};

struct diff_lines {
    struct diff_line *item;
    size_t count;
};

/* One line of the result: ' ', '-' or '+'. */
struct diff_op {
    char sign;
    struct diff_line line;
};

struct diff {
    struct diff_lines from, to;
    struct diff_op *op;
    size_t count;
};

static struct diff_lines lines_split(const char *text)
{
    struct diff_lines lines = {.count = 0};
    size_t room = 0;
    const char *line, *at = text ? text : "";
    size_t length;
    while ((line = state_line(&at, &length))) {
        if (lines.count == room) {
            room = room ? 2 * room : 64;
            lines.item = state_grow(lines.item, room * sizeof(*lines.item));
        }
        lines.item[lines.count++] = (struct diff_line){line, (size_t)(at - line)};
    }
    return lines;
}

static bool line_equal(const struct diff_line *a, const struct diff_line *b)
{
    return a->length == b->length && memcmp(a->text, b->text, a->length) == 0;
}

static void diff_add(struct diff *diff, char sign, const struct diff_line *line, size_t count)
{
    for (size_t i = 0; i < count; i++)
        diff->op[diff->count++] = (struct diff_op){sign, line[i]};
}

/* table[i][j]: how many lines a[i...] and b[j...] have in common, in order. */
static void table_fill(uint32_t *table, const struct diff_lines *a, const struct diff_lines *b)
{
    size_t width = b->count + 1;
    for (size_t i = a->count; i-- > 0;) {
        for (size_t j = b->count; j-- > 0;) {
            uint32_t right = table[i * width + j + 1], below = table[(i + 1) * width + j];
            table[i * width + j] = line_equal(&a->item[i], &b->item[j])
                                       ? table[(i + 1) * width + j + 1] + 1
                                   : right > below ? right
                                                   : below;
        }
    }
}

static void table_follow(struct diff *diff, const uint32_t *table, const struct diff_lines *a,
                         const struct diff_lines *b)
{
    size_t i = 0, j = 0, width = b->count + 1;
    while (i < a->count && j < b->count) {
        if (line_equal(&a->item[i], &b->item[j])) {
            diff_add(diff, ' ', &a->item[i++], 1);
            j++;
        } else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) {
            diff_add(diff, '-', &a->item[i++], 1);
        } else {
            diff_add(diff, '+', &b->item[j++], 1);
        }
    }
    diff_add(diff, '-', a->item + i, a->count - i);
    diff_add(diff, '+', b->item + j, b->count - j);
}

static void diff_middle(struct diff *diff, const struct diff_lines *a, const struct diff_lines *b)
{
    size_t cells = (a->count + 1) * (b->count + 1);
    uint32_t *table = cells <= TABLE_MOST ? calloc(cells, sizeof(*table)) : NULL;
    if (table) {
        table_fill(table, a, b);
        table_follow(diff, table, a, b);
    } else {
        diff_add(diff, '-', a->item, a->count);
        diff_add(diff, '+', b->item, b->count);
    }
    free(table);
}

static void diff_make(struct diff *diff)
{
    struct diff_lines a = diff->from, b = diff->to;
    size_t head = 0, tail = 0;
    diff->op = state_grow(NULL, (a.count + b.count) * sizeof(*diff->op));
    while (head < a.count && head < b.count && line_equal(&a.item[head], &b.item[head]))
        head++;
    while (tail < a.count - head && tail < b.count - head &&
           line_equal(&a.item[a.count - tail - 1], &b.item[b.count - tail - 1]))
        tail++;
    diff_add(diff, ' ', a.item, head);
    struct diff_lines middle_a = {a.item + head, a.count - head - tail};
    struct diff_lines middle_b = {b.item + head, b.count - head - tail};
    diff_middle(diff, &middle_a, &middle_b);
    diff_add(diff, ' ', a.item + a.count - tail, tail);
}

/* ---- printing ---- */

void clean_print(const char *text, size_t length, FILE *out)
{
    char *clean = state_grow(NULL, length + 1);
    for (size_t at = 0, part; at < length; at += part + 1) {
        const char *tab = memchr(text + at, '\t', length - at);
        part = tab ? (size_t)(tab - text) - at : length - at;
        fputs(say_clean(text + at, part, say_utf8(), clean, length + 1), out);
        if (tab)
            putc('\t', out);
    }
    free(clean);
}

static void op_print(const struct diff_op *op, FILE *out)
{
    size_t length = op->line.length;
    bool ended = length && op->line.text[length - 1] == '\n';
    putc(op->sign, out);
    clean_print(op->line.text, length - ended, out);
    fputs(ended ? "\n" : "\n\\ No newline at end of file\n", out);
}

/* Where the hunk that begins with op @first ends: so many unchanged lines part two hunks. */
static size_t hunk_end(const struct diff *diff, size_t first)
{
    size_t last = first;
    for (size_t i = first; i < diff->count && i <= last + 2 * AROUND; i++)
        if (diff->op[i].sign != ' ')
            last = i;
    return last + AROUND + 1 < diff->count ? last + AROUND + 1 : diff->count;
}

/* How many of the ops from @first up to @end are lines of the text whose own sign is @sign. */
static size_t hunk_count(const struct diff *diff, size_t first, size_t end, char sign)
{
    size_t count = 0;
    for (size_t i = first; i < end; i++)
        count += diff->op[i].sign == ' ' || diff->op[i].sign == sign;
    return count;
}

static void hunk_print(const struct diff *diff, size_t first, size_t end, FILE *out)
{
    size_t old_lines = hunk_count(diff, first, end, '-'), old_at = hunk_count(diff, 0, first, '-');
    size_t new_lines = hunk_count(diff, first, end, '+'), new_at = hunk_count(diff, 0, first, '+');
    fprintf(out, "@@ -%zu,%zu +%zu,%zu @@\n", old_at + (old_lines > 0), old_lines,
            new_at + (new_lines > 0), new_lines);
    for (size_t i = first; i < end; i++)
        op_print(&diff->op[i], out);
}

void diff_print(const char *from, const char *to, FILE *out)
{
    struct diff diff = {.from = lines_split(from), .to = lines_split(to)};
    size_t shown = 0;
    diff_make(&diff);
    for (size_t i = 0; i < diff.count; i++) {
        if (diff.op[i].sign == ' ')
            continue;
        size_t first = i > shown + AROUND ? i - AROUND : shown;
        size_t end = hunk_end(&diff, i);
        hunk_print(&diff, first, end, out);
        i = end - 1;
        shown = end;
    }
    free(diff.from.item);
    free(diff.to.item);
    free(diff.op);
}
