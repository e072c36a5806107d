/* SPDX-License-Identifier: MIT */
/*
 * Addresses and blocks of a site. Strict, because routes and firewall rules are made of them: a
 * block with bits behind its prefix is a typing mistake in one or the other, and an address that
 * no machine on a network can have is a mistake in any case.
 */
#include "site-parts.h"

#include "../../pool/address.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_ITEM 50 /* the longest IPv6 block has 43 */

/* ---- blocks ---- */

bool block_is_v4(const struct block *block)
{
    return block->prefix >= 96 && address_is_v4(block->addr);
}

bool block_has(const struct block *block, const uint8_t addr[16])
{
    uint8_t masked[16];
    memcpy(masked, addr, sizeof(masked));
    address_mask(masked, block->prefix);
    return memcmp(masked, block->addr, sizeof(masked)) == 0;
}

bool blocks_overlap(const struct block *a, const struct block *b)
{
    return a->prefix < b->prefix ? block_has(a, b->addr) : block_has(b, a->addr);
}

const char *block_print(const struct block *block, char *buf, size_t size)
{
    struct text text = text_begin(buf, size);
    address_print(&text, block->addr);
    text_char(&text, '/');
    text_number(&text, block_is_v4(block) ? block->prefix - 96u : block->prefix, 10);
    return buf;
}

const char *block_name(const struct block *block, char *buf, size_t size)
{
    block_print(block, buf, size);
    if (block->prefix == 128)
        *strchr(buf, '/') = '\0';
    return buf;
}

/* ---- what no machine on a network has ---- */

static const struct {
    const char *text;
    const char *what;
} nobodys[] = {
    {"0.0.0.0/8", "unspecified"},
    {"127.0.0.0/8", "loopback"},
    {"169.254.0.0/16", "link-local"},
    {"224.0.0.0/4", "multicast"},
    {"255.255.255.255", "broadcast"},
    {"::", "unspecified"},
    {"::1", "loopback"},
    {"fe80::/10", "link-local"},
    {"ff00::/8", "multicast"},
};

/* One item of a list, such as "10.200.1.0/24". */
struct item {
    const char *text;
    size_t length;
};

/* Reads ADDRESS or ADDRESS/PREFIX as it stands. Return: 4 or 6, or 0; @slash: where that is. */
static int item_address(const struct item *item, struct block *block, const char **slash)
{
    *slash = memchr(item->text, '/', item->length);
    size_t length = *slash ? (size_t)(*slash - item->text) : item->length;
    block->prefix = 128;
    return address_parse(item->text, length, block->addr);
}

/* Decimal digits, no zeros before them. Return: -1 if it is no prefix. */
static int item_prefix(const char *text, const char *end)
{
    int prefix = 0;
    if (text == end || end - text > 3 || (*text == '0' && end - text > 1))
        return -1;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        prefix = prefix * 10 + (*text - '0');
    }
    return prefix;
}

static const char *nobodys_check(const struct block *block, char *why, size_t size)
{
    for (size_t i = 0; i < sizeof(nobodys) / sizeof(nobodys[0]); i++) {
        struct item item = {nobodys[i].text, strlen(nobodys[i].text)};
        struct block other;
        const char *slash;
        bool v4 = item_address(&item, &other, &slash) == 4;
        if (slash)
            other.prefix =
                (uint8_t)(item_prefix(slash + 1, item.text + item.length) + (v4 ? 96 : 0));
        if (!blocks_overlap(block, &other))
            continue;
        snprintf(why, size, "%s %s: no machine on a network has such an address",
                 block->prefix == 128 ? "is" : "contains", nobodys[i].what);
        return why;
    }
    return NULL;
}

/* ---- items ---- */

/* "10.200.1.5/24": which of the two was meant? */
static const char *host_bits_check(struct block *block, char *why, size_t size)
{
    struct block right = *block, one = {.prefix = 128};
    char right_text[BLOCK_TEXT], one_text[BLOCK_TEXT];
    address_mask(right.addr, right.prefix);
    memcpy(one.addr, block->addr, sizeof(one.addr));
    if (memcmp(right.addr, block->addr, sizeof(right.addr)) == 0)
        return NULL;
    snprintf(why, size, "is no block: write %s for the block, %s for the address",
             block_print(&right, right_text, sizeof(right_text)),
             block_name(&one, one_text, sizeof(one_text)));
    return why;
}

static const char *prefix_read(const struct item *item, const char *slash, bool v4,
                               struct block *block, char *why, size_t size)
{
    const char *end = item->text + item->length;
    int prefix = item_prefix(slash + 1, end), most = v4 ? 32 : 128;
    if (prefix < 0)
        return "has no prefix length: a number is needed behind '/', such as 10.200.1.0/24";
    if (prefix > most) {
        snprintf(why, size, "has a prefix length of %d: IPv%d ends at /%d", prefix, v4 ? 4 : 6,
                 most);
        return why;
    }
    block->prefix = (uint8_t)(prefix + (v4 ? 96 : 0));
    return NULL;
}

/* Return: NULL, or why it is no block: a sentence without its subject, perhaps in @why. */
static const char *block_read(const struct item *item, bool single, struct block *block, char *why,
                              size_t size)
{
    const char *slash, *reason = NULL;
    int family = item_address(item, block, &slash);
    if (!family)
        return single ? "is no address: such as 192.168.31.17 or fd00:31::17 is needed"
                      : "is no block or address: such as 10.200.1.0/24 or fd00::/64 is needed";
    if (family == 6 && address_is_v4(block->addr))
        return "is an IPv4 address written as IPv6: write it as IPv4";
    if (slash && single)
        return "is a block: one address is needed, without '/'";
    if (slash)
        reason = prefix_read(item, slash, family == 4, block, why, size);
    if (!reason)
        reason = host_bits_check(block, why, size);
    return reason ? reason : nobodys_check(block, why, size);
}

const char *block_parse(const char *text, bool single, struct block *block, char *why, size_t size)
{
    struct item item = {text, strlen(text)};
    return block_read(&item, single, block, why, size);
}

/* Takes an item off *@at, without the spaces around. Return: false at the end. */
static bool item_next(const char **at, struct item *item)
{
    if (!*at)
        return false;
    size_t length = strcspn(*at, ",");
    const char *next = (*at)[length] ? *at + length + 1 : NULL;
    while (length && config_is_space(**at)) {
        ++*at;
        length--;
    }
    while (length && config_is_space((*at)[length - 1]))
        length--;
    *item = (struct item){*at, length};
    *at = next;
    return true;
}

static int item_refuse(const struct config_file *file, const struct placed *placed,
                       const struct item *item, const char *reason)
{
    char text[SHOWN_ITEM + 1], shown[SHOWN_ITEM + 4], why[300];
    snprintf(text, sizeof(text), "%.*s", (int)item->length, item->text);
    config_shown(text, SHOWN_ITEM, shown);
    if (!item->length)
        snprintf(why, sizeof(why), "%s",
                 strchr(placed->value->text, ',')
                     ? "nothing stands before or behind a comma"
                     : "nothing is given: leave the key out, or give at least one address");
    else
        snprintf(why, sizeof(why), "%s %s", shown, reason);
    return config_file_refuse_value(file, placed->section, placed->value, why);
}

/* Room for one more, doubling whenever the length is a power of two. */
static int placed_add(struct placed_list *list, const struct placed *placed)
{
    if (!(list->count & (list->count - 1))) {
        struct placed *more =
            realloc(list->item, sizeof(*more) * (list->count ? list->count * 2 : 1));
        if (!more)
            return -ENOMEM;
        list->item = more;
    }
    list->item[list->count++] = *placed;
    return 0;
}

int placed_read(const struct config_file *file, const struct config_section *section,
                const struct config_value *value, bool single, struct placed_list *list)
{
    struct placed placed = {.section = section, .value = value};
    const char *at = value->text;
    struct item item;
    while (item_next(&at, &item)) {
        char why[200];
        const char *reason = block_read(&item, single, &placed.block, why, sizeof(why));
        if (reason)
            return item_refuse(file, &placed, &item, reason);
        if (placed_add(list, &placed) < 0)
            return config_file_refuse_memory(file);
    }
    return 0;
}

int placed_refuse(const struct config_file *file, const struct placed *placed, const char *format,
                  ...)
{
    char why[CONFIG_PLACE + 300], name[BLOCK_TEXT];
    block_name(&placed->block, name, sizeof(name));
    size_t at = (size_t)snprintf(why, sizeof(why), "%s ", name);
    va_list args;
    va_start(args, format);
    vsnprintf(why + at, sizeof(why) - at, format, args);
    va_end(args);
    return config_file_refuse_value(file, placed->section, placed->value, why);
}
