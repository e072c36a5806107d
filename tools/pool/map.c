/* SPDX-License-Identifier: MIT */
/*
 * Pictures of a pool for a terminal: bars, and a map on which one sees at a glance how full the
 * ranges are and where. A character is a block of neighbouring ports, the darker the more of them
 * have a lease towards some destination. Ports that are in no rule are left out.
 */
#include "cmd.h"

#include <string.h>

#define MAP_LABEL 8 /* columns before the map: "  60001 " */
#define MAP_ROWS 12 /* about so many at most */

/* From empty to full. */
static const char *const map_shades[2][6] = {
    {".", ":", "-", "+", "*", "#"},
    {"·", "░", "▒", "▒", "▓", "█"},
};

/* Appends @glyph @count times. Return: bytes in @buf. */
static size_t map_repeat(char *buf, size_t at, size_t bytes, const char *glyph, unsigned count)
{
    size_t length = strlen(glyph);
    for (; count && at + length < bytes; count--, at += length)
        memcpy(buf + at, glyph, length);
    buf[at] = '\0';
    return at;
}

/* The share of @width that @part of @size is: something shows as at least one. */
static unsigned map_share(uint32_t part, uint32_t size, unsigned width)
{
    if (!part || !size)
        return 0;
    unsigned share = (unsigned)((uint64_t)part * width / size);
    return share ? share < width ? share : width : 1;
}

const char *map_bar(const struct tally_count *count, uint32_t size, unsigned width, char *buf,
                    size_t bytes)
{
    bool utf8 = say_utf8();
    unsigned all = map_share(tally_sum(count), size, width);
    unsigned used = map_share(count->used, size, width);
    used = used < all ? used : all;
    size_t at = map_repeat(buf, 0, bytes, utf8 ? "█" : "#", used);
    at = map_repeat(buf, at, bytes, utf8 ? "▒" : "+", all - used);
    map_repeat(buf, at, bytes, utf8 ? "·" : ".", width - all);
    return buf;
}

static void map_cell(uint32_t busy, uint32_t size)
{
    unsigned shade = busy == 0 ? 0 : busy == size ? 5 : 1 + busy * 4 / size;
    fputs(map_shades[say_utf8()][shade], stdout);
}

/* One run of ports without a gap, in rows of @per_row blocks of @block ports. */
static void map_run(const struct tally *tally, uint32_t lo, uint32_t hi, uint32_t block,
                    uint32_t per_row)
{
    for (uint32_t port = lo, cell = 0; port <= hi; port += block, cell++) {
        uint32_t busy = 0, size = hi - port + 1 < block ? hi - port + 1 : block;
        for (uint32_t i = 0; i < size; i++)
            busy += tally->port[port + i] != WORD_FREE;
        if (cell % per_row == 0)
            printf("%s  %5u ", cell ? "\n" : "", port);
        map_cell(busy, size);
    }
    putchar('\n');
}

/* Round numbers, so that a person can count along. */
static uint32_t map_block(uint32_t ports, uint32_t per_row)
{
    static const uint32_t sizes[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000};
    size_t last = sizeof(sizes) / sizeof(sizes[0]) - 1;
    for (size_t i = 0; i < last; i++)
        if (ports <= sizes[i] * per_row * MAP_ROWS)
            return sizes[i];
    return sizes[last];
}

void map_print(const struct tally *tally)
{
    uint32_t per_row = (say_columns() - MAP_LABEL) / 10 * 10;
    uint32_t block = map_block(tally->ports, per_row);
    const char *const *shade = map_shades[say_utf8()];
    printf("Ports (a character is %u port%s: %s all free towards all destinations, %s none)\n",
           block, block == 1 ? "" : "s", shade[0], shade[5]);
    for (uint32_t lo = 1, hi; lo < 65536; lo = hi + 1) {
        hi = lo;
        if (!tally->in_range[lo])
            continue;
        while (hi < 65535 && tally->in_range[hi + 1])
            hi++;
        map_run(tally, lo, hi, block, per_row);
    }
}
