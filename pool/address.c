/* SPDX-License-Identifier: MIT */
/*
 * IP addresses as text. Strict: what inet_pton(3) refuses is refused here too.
 */
#include "address.h"

#include <string.h>

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool parse_v4(const char *string, size_t length, uint8_t out[4])
{
    size_t at = 0;
    for (int part = 0; part < 4; part++) {
        unsigned value = 0;
        size_t digits = 0;
        for (; at < length && string[at] >= '0' && string[at] <= '9' && digits < 4; at++, digits++)
            value = value * 10 + (unsigned)(string[at] - '0');
        if (!digits || value > 255 || (digits > 1 && string[at - digits] == '0'))
            return false;
        out[part] = (uint8_t)value;
        if (part < 3 && (at >= length || string[at++] != '.'))
            return false;
    }
    return at == length;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One group of up to four hex digits. Return: how many, 0 if none. */
static size_t parse_group(const char *string, size_t length, unsigned *value)
{
    size_t digits = 0;
    *value = 0;
    while (digits < length && digits < 4 && hex_digit(string[digits]) >= 0)
        *value = *value << 4 | (unsigned)hex_digit(string[digits++]);
    return digits;
}

/* Moves what follows the "::" at @gap to the end. */
static void spread(uint8_t out[16], int used, int gap)
{
    int tail = used - gap;
    for (int i = 0; i < tail; i++) {
        out[15 - i] = out[used - 1 - i];
        if (used - 1 - i < 16 - tail)
            out[used - 1 - i] = 0;
    }
}

static bool parse_v6(const char *string, size_t length, uint8_t result[16])
{
    uint8_t out[16] = {0};
    size_t at = 0;
    int used = 0, gap = -1;
    if (length >= 2 && string[0] == ':' && string[1] == ':') {
        gap = 0;
        at = 2;
    }
    while (at < length) {
        unsigned value;
        if (used <= 12 && parse_v4(string + at, length - at, out + used)) {
            used += 4;
            at = length;
            break;
        }
        size_t digits = parse_group(string + at, length - at, &value);
        if (!digits || used > 14)
            return false;
        at += digits;
        out[used++] = (uint8_t)(value >> 8);
        out[used++] = (uint8_t)value;
        if (at == length)
            break;
        if (string[at++] != ':' || at == length)
            return false;
        if (string[at] == ':') {
            if (gap >= 0)
                return false;
            gap = used;
            at++;
        }
    }
    if (gap < 0 ? used != 16 : used > 14)
        return false;
    if (gap >= 0)
        spread(out, used, gap);
    memcpy(result, out, 16);
    return true;
}

int address_parse(const char *string, size_t length, uint8_t addr[16])
{
    uint8_t four[4];
    if (parse_v4(string, length, four)) {
        memcpy(addr, v4_prefix, 12);
        memcpy(addr + 12, four, 4);
        return 4;
    }
    return parse_v6(string, length, addr) ? 6 : 0;
}

bool address_is_v4(const uint8_t addr[16])
{
    return memcmp(addr, v4_prefix, 12) == 0;
}

/* The longest run of zero groups, at least two (RFC 5952, 4.2). Return: where, -1 if none. */
static int longest_zeros(const uint8_t addr[16], int *length)
{
    int best = -1;
    *length = 1;
    for (int i = 0; i < 8; i++) {
        int run = 0;
        while (i + run < 8 && !addr[2 * (i + run)] && !addr[2 * (i + run) + 1])
            run++;
        if (run > *length) {
            best = i;
            *length = run;
        }
        i += run;
    }
    return best;
}

void address_print(struct text *text, const uint8_t addr[16])
{
    if (address_is_v4(addr)) {
        for (int i = 12; i < 16; i++) {
            text_number(text, addr[i], 10);
            if (i < 15)
                text_char(text, '.');
        }
        return;
    }
    int zeros;
    int at = longest_zeros(addr, &zeros);
    for (int i = 0; i < 8; i++) {
        if (i == at) {
            text_string(text, "::");
            i += zeros - 1;
            continue;
        }
        if (i && i != at + zeros)
            text_char(text, ':');
        text_number(text, (unsigned)addr[2 * i] << 8 | addr[2 * i + 1], 16);
    }
}

void address_mask(uint8_t addr[16], unsigned prefix)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned bits = prefix > i * 8 ? prefix - i * 8 : 0;
        if (bits < 8)
            addr[i] &= (uint8_t)(0xff00u >> bits);
    }
}
