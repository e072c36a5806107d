/* SPDX-License-Identifier: MIT */
/*
 * Port ranges: reading what people write, and saying what is wrong with it in a sentence.
 */
#include "portrange.h"
#include "text.h"

#include <errno.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_space(const char *at)
{
    while (is_space(*at))
        at++;
    return at;
}

static struct text reason(struct parse_reason *why)
{
    static const struct text nowhere;
    return why ? text_begin(why->text, sizeof(why->text)) : nowhere;
}

/* The item that begins at @at, up to the next comma, cut if it is long, printable ASCII only. */
static void quote_item(struct text *text, const char *at)
{
    text_char(text, '"');
    for (int i = 0; at[i] && at[i] != ',' && i < 40; i++)
        text_char(text, at[i] < ' ' || at[i] > '~' ? '?' : at[i]);
    text_char(text, '"');
}

static int not_a_port(const char *item, struct parse_reason *why)
{
    struct text text = reason(why);
    item = skip_space(item);
    if (!*item || *item == ',') {
        text_string(&text, "no port given: write a range such as 61001-61999");
    } else {
        quote_item(&text, item);
        text_string(&text, " is not a port or a range such as 61001-61999");
    }
    return -EINVAL;
}

static int out_of_range(const char *digits, size_t count, uint32_t value, struct parse_reason *why)
{
    struct text text = reason(why);
    text_string_n(&text, digits, count < 40 ? count : 40);
    text_string(&text, value < 1 ? " is not a port: ports begin at 1"
                                 : " is not a port: ports end at 65535");
    return -ERANGE;
}

/* Reads a port at *@at and moves past it. */
static int parse_port(const char **at, const char *item, uint16_t *port, struct parse_reason *why)
{
    const char *digits = *at;
    uint32_t value = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++)
        if (value <= 65535)
            value = value * 10 + (uint32_t)(**at - '0');
    if (*at == digits)
        return not_a_port(item, why);
    if (value < 1 || value > 65535)
        return out_of_range(digits, (size_t)(*at - digits), value, why);
    *port = (uint16_t)value;
    return 0;
}

static int backwards(struct portrange range, struct parse_reason *why)
{
    struct text text = reason(why);
    text_number(&text, range.lo, 10);
    text_char(&text, '-');
    text_number(&text, range.hi, 10);
    text_string(&text, " runs backwards: write ");
    text_number(&text, range.hi, 10);
    text_char(&text, '-');
    text_number(&text, range.lo, 10);
    return -EINVAL;
}

static int parse_range(const char **at, struct portrange *range, struct parse_reason *why)
{
    const char *item = *at;
    *at = skip_space(*at);
    int result = parse_port(at, item, &range->lo, why);
    if (result)
        return result;
    range->hi = range->lo;
    *at = skip_space(*at);
    if (**at == '-' || **at == '~' || **at == ':') {
        *at = skip_space(*at + 1);
        result = parse_port(at, item, &range->hi, why);
        if (result)
            return result;
        *at = skip_space(*at);
    }
    if (**at && **at != ',')
        return not_a_port(item, why);
    return range->hi < range->lo ? backwards(*range, why) : 0;
}

static void print_range(struct text *text, struct portrange range)
{
    text_number(text, range.lo, 10);
    if (range.hi == range.lo)
        return;
    text_char(text, '-');
    text_number(text, range.hi, 10);
}

static int overlap(struct portrange a, struct portrange b, struct parse_reason *why)
{
    struct text text = reason(why);
    print_range(&text, a);
    text_string(&text, " and ");
    print_range(&text, b);
    text_string(&text, " overlap");
    return -EINVAL;
}

static int insert(struct portset *set, struct portrange range, struct parse_reason *why)
{
    uint32_t at = set->count;
    for (uint32_t i = 0; i < set->count; i++)
        if (range.lo <= set->range[i].hi && set->range[i].lo <= range.hi)
            return overlap(set->range[i], range, why);
    if (set->count == PORTRANGE_MAX) {
        struct text text = reason(why);
        text_string(&text, "more than 32 ranges");
        return -EINVAL;
    }
    for (; at && set->range[at - 1].lo > range.lo; at--)
        set->range[at] = set->range[at - 1];
    set->range[at] = range;
    set->count++;
    return 0;
}

int portset_parse(const char *text, struct portset *set, struct parse_reason *why)
{
    struct portset found = {.count = 0};
    for (;;) {
        struct portrange range;
        int result = parse_range(&text, &range, why);
        if (!result)
            result = insert(&found, range, why);
        if (result)
            return result;
        if (!*text)
            break;
        text++;
    }
    *set = found;
    return 0;
}

static uint32_t bounded(const struct portset *set)
{
    uint32_t count = set->count;
    return count < PORTRANGE_MAX ? count : PORTRANGE_MAX;
}

size_t portset_print(const struct portset *set, char *buf, size_t size)
{
    struct text text = text_begin(buf, size);
    uint32_t count = bounded(set);
    for (uint32_t i = 0; i < count; i++) {
        if (i)
            text_char(&text, ',');
        print_range(&text, set->range[i]);
    }
    return text.length;
}

uint32_t portset_size(const struct portset *set)
{
    uint32_t size = 0;
    uint32_t count = bounded(set);
    for (uint32_t i = 0; i < count; i++)
        if (set->range[i].lo <= set->range[i].hi)
            size += (uint32_t)set->range[i].hi - set->range[i].lo + 1;
    return size < 65535 ? size : 65535;
}

bool portset_has(const struct portset *set, uint16_t port)
{
    return portset_overlaps(set, port, port);
}

bool portset_overlaps(const struct portset *set, uint16_t lo, uint16_t hi)
{
    uint32_t count = bounded(set);
    for (uint32_t i = 0; i < count; i++)
        if (lo <= set->range[i].hi && set->range[i].lo <= hi)
            return true;
    return false;
}

int portset_intersect(struct portset *set, const struct portset *other)
{
    struct portset both = {.count = 0};
    for (uint32_t i = 0, k = 0; i < set->count && k < other->count;) {
        struct portrange a = set->range[i], b = other->range[k];
        struct portrange common = {a.lo > b.lo ? a.lo : b.lo, a.hi < b.hi ? a.hi : b.hi};
        if (common.lo <= common.hi) {
            if (both.count == PORTRANGE_MAX)
                return -E2BIG;
            both.range[both.count++] = common;
        }
        if (a.hi < b.hi)
            i++;
        else
            k++;
    }
    *set = both;
    return 0;
}

bool portset_valid(const struct portset *set)
{
    uint32_t before = 0;
    if (set->count < 1 || set->count > PORTRANGE_MAX)
        return false;
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->range[i].lo <= before || set->range[i].lo > set->range[i].hi)
            return false;
        before = set->range[i].hi;
    }
    return true;
}
