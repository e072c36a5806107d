/* SPDX-License-Identifier: MIT */
/*
 * The words between connector and listener: lines of text, each with the protocol's name and
 * version in front, of words with one space between.
 *
 *   connector                                             listener
 *   P try NONCE INDEX KIND ADDRESS PORT                   P seen INDEX ADDRESS PORT
 *   P report SHIM RANGE
 *   P mine INDEX KIND ADDRESS PORT END ERRNO BY TYPE CODE
 *   P end                                                 P host CAPTURES ROUTE VIA NODE NEXT BLOCK
 *                                                         P saw INDEX HOW ADDRESS PORT SYNS LEFT BY
 *                                                               TYPE CODE
 *                                                         P end
 *
 * P is "fixport-probe/1", "-" is what is not known. A reader takes exactly this; a newer version
 * has another number, so that the older side can say what is wrong.
 */
#include "probe.h"

#include <errno.h>
#include <string.h>

#define WIRE_NAME "fixport-probe/"
#define WIRE_VERSION "1"

/* ---- reading: the first thing that is wrong makes all that follows wrong ---- */

struct words {
    const char *at;
    const char *end;
    bool bad;
};

/* Takes the next word. Return: its length, 0 if there is none. */
static size_t words_next(struct words *words, const char **word)
{
    const char *space = memchr(words->at, ' ', (size_t)(words->end - words->at));
    const char *stop = space ? space : words->end;
    size_t length = (size_t)(stop - words->at);
    *word = words->at;
    words->bad = words->bad || !length || (space && space + 1 == words->end);
    words->at = space ? space + 1 : words->end;
    return words->bad ? 0 : length;
}

static bool word_is(const char *word, size_t length, const char *text)
{
    return strlen(text) == length && memcmp(word, text, length) == 0;
}

/* A decimal number without leading zeros. */
static unsigned words_number(struct words *words, unsigned least, unsigned most)
{
    const char *word;
    size_t length = words_next(words, &word);
    unsigned number = 0;
    words->bad = words->bad || length > 5 || (length > 1 && word[0] == '0');
    for (size_t i = 0; !words->bad && i < length; i++) {
        words->bad = word[i] < '0' || word[i] > '9';
        number = number * 10 + (unsigned)(word[i] - '0');
    }
    words->bad = words->bad || number < least || number > most;
    return words->bad ? least : number;
}

/* One of @count names. */
static unsigned words_name(struct words *words, const char *(*name)(unsigned), unsigned count)
{
    const char *word;
    size_t length = words_next(words, &word);
    for (unsigned i = 0; length && i < count; i++)
        if (word_is(word, length, name(i)))
            return i;
    words->bad = true;
    return 0;
}

static bool words_none(const char *word, size_t length)
{
    return word_is(word, length, "-");
}

/* An address that could be a pod's, host's or router's; zero for "-". */
static void words_address(struct words *words, uint8_t addr[16])
{
    const char *word;
    size_t length = words_next(words, &word);
    memset(addr, 0, 16);
    if (words->bad || words_none(word, length))
        return;
    words->bad = !address_parse(word, length, addr) || !addr_is_set(addr);
}

static uint64_t words_nonce(struct words *words)
{
    const char *word;
    size_t length = words_next(words, &word);
    uint64_t nonce = 0;
    words->bad = words->bad || length != 16;
    for (size_t i = 0; !words->bad && i < length; i++) {
        const char *digit = memchr("0123456789abcdef", word[i], 16);
        words->bad = !digit;
        nonce = nonce << 4 | (digit ? (uint64_t)(digit - "0123456789abcdef") : 0);
    }
    return nonce;
}

static void words_ports(struct words *words, struct portset *set)
{
    char text[WIRE_LINE];
    const char *word;
    size_t length = words_next(words, &word);
    set->count = 0;
    if (words->bad || words_none(word, length))
        return;
    words->bad = length >= sizeof(text);
    length = length < sizeof(text) ? length : 0;
    memcpy(text, word, length);
    text[length] = '\0';
    words->bad =
        words->bad || strspn(text, "0123456789-,") != length || portset_parse(text, set, NULL) != 0;
}

/* A node's name, as config/site.h allows it. */
static void words_node(struct words *words, char name[SITE_NAME])
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    const char *word;
    size_t length = words_next(words, &word);
    name[0] = '\0';
    if (words->bad || words_none(word, length))
        return;
    words->bad = length >= SITE_NAME || word[0] == '-';
    for (size_t i = 0; !words->bad && i < length; i++)
        words->bad = !memchr(allowed, word[i], sizeof(allowed) - 1);
    if (words->bad)
        return;
    memcpy(name, word, length);
    name[length] = '\0';
}

/* "10.200.1.0/24"; host bits must be zero. */
static void words_block(struct words *words, struct probe_host *host)
{
    const char *word;
    size_t length = words_next(words, &word);
    memset(&host->block, 0, sizeof(host->block));
    host->configured = false;
    if (words->bad || words_none(word, length))
        return;
    const char *slash = memchr(word, '/', length);
    int family = slash ? address_parse(word, (size_t)(slash - word), host->block.addr) : 0;
    struct words prefix = {.at = slash ? slash + 1 : word, .end = word + length};
    uint8_t masked[16];
    unsigned bits = words_number(&prefix, 1, family == 4 ? 32 : 128);
    host->block.prefix = (uint8_t)(family == 4 ? 96 + bits : bits);
    memcpy(masked, host->block.addr, 16);
    address_mask(masked, host->block.prefix);
    host->configured = family && !prefix.bad && memcmp(masked, host->block.addr, 16) == 0;
    words->bad = !host->configured;
}

static void words_dest(struct words *words, struct dest *dest)
{
    words_address(words, dest->addr);
    dest->port = (uint16_t)words_number(words, 0, 65535);
}

static void words_icmp(struct words *words, struct icmp_error *error)
{
    words_address(words, error->by);
    error->type = (uint8_t)words_number(words, 0, 255);
    error->code = (uint8_t)words_number(words, 0, 255);
    error->is = addr_is_set(error->by);
}

static const char *kind_word(unsigned i)
{
    return kind_name((enum try_kind)i);
}

static const char *end_word(unsigned i)
{
    return end_name((enum try_end)i);
}

static const char *seen_word(unsigned i)
{
    return seen_name((enum try_seen)i);
}

static const char *route_word(unsigned i)
{
    return route_name((enum host_route)i);
}

static const char *wire_name(unsigned i)
{
    static const char *const names[WIRE_WORDS] = {"try",  "seen", "report", "mine",
                                                  "host", "saw",  "end"};
    return names[i];
}

static void read_mine(struct words *words, struct wire *wire)
{
    wire->try.kind = (enum try_kind)words_name(words, kind_word, KINDS);
    words_dest(words, &wire->try.own);
    wire->try.end = (enum try_end)words_name(words, end_word, ENDS);
    wire->try.error = (int)words_number(words, 0, 4095);
    words_icmp(words, &wire->try.reject);
}

static void read_host(struct words *words, struct probe_host *host)
{
    host->captures = words_number(words, 0, 1);
    host->route = (enum host_route)words_name(words, route_word, ROUTES);
    words_address(words, host->via);
    words_node(words, host->node);
    words_address(words, host->next);
    words_block(words, host);
}

static void read_saw(struct words *words, struct wire *wire)
{
    wire->try.seen = (enum try_seen)words_name(words, seen_word, SEENS);
    words_dest(words, &wire->try.as);
    wire->try.syns = words_number(words, 0, 99);
    wire->try.left = (enum try_left)words_number(words, 0, LEFTS - 1);
    words_icmp(words, &wire->try.bounce);
}

/* What comes behind the word and, where it has one, the index. */
static void read_rest(struct words *words, struct wire *wire)
{
    switch (wire->word) {
    case WIRE_TRY:
        wire->try.kind = (enum try_kind)words_name(words, kind_word, KINDS);
        words_dest(words, &wire->try.own);
        break;
    case WIRE_SEEN:
        words_dest(words, &wire->try.as);
        break;
    case WIRE_REPORT:
        wire->shim = words_number(words, 0, 1);
        words_ports(words, &wire->ports);
        break;
    case WIRE_MINE:
        read_mine(words, wire);
        break;
    case WIRE_HOST:
        read_host(words, &wire->host);
        break;
    case WIRE_SAW:
        read_saw(words, wire);
        break;
    default:
        break;
    }
}

static bool word_has_index(enum wire_word word)
{
    return word == WIRE_TRY || word == WIRE_SEEN || word == WIRE_MINE || word == WIRE_SAW;
}

/* The first word: 0, or what wire_read() returns. */
static int read_version(struct words *words)
{
    const char *word;
    size_t length = words_next(words, &word);
    size_t name = strlen(WIRE_NAME);
    if (words->bad || length <= name || memcmp(word, WIRE_NAME, name) != 0)
        return -EPROTO;
    return word_is(word + name, length - name, WIRE_VERSION) ? 0 : -EPROTONOSUPPORT;
}

int wire_read(const char *line, size_t length, struct wire *wire)
{
    struct words words = {.at = line, .end = line + length};
    memset(wire, 0, sizeof(*wire));
    int error = length < WIRE_LINE && !memchr(line, '\0', length) ? read_version(&words) : -EPROTO;
    if (error)
        return error;
    wire->word = (enum wire_word)words_name(&words, wire_name, WIRE_WORDS);
    if (wire->word == WIRE_TRY)
        wire->nonce = words_nonce(&words);
    if (word_has_index(wire->word))
        wire->index = words_number(&words, 1, PROBE_TRIES);
    read_rest(&words, wire);
    return words.bad || words.at != words.end ? -EPROTO : 0;
}

/* ---- writing ---- */

static void print_word(struct text *text, const char *word)
{
    text_char(text, ' ');
    text_string(text, *word ? word : "-");
}

static void print_number(struct text *text, unsigned number)
{
    text_char(text, ' ');
    text_number(text, number, 10);
}

static void print_address(struct text *text, const uint8_t addr[16])
{
    print_word(text, addr_is_set(addr) ? addr_text(addr) : "");
}

static void print_dest(struct text *text, const struct dest *dest)
{
    print_address(text, dest->addr);
    print_number(text, dest->port);
}

static void print_icmp(struct text *text, const struct icmp_error *error)
{
    print_address(text, error->by);
    print_number(text, error->type);
    print_number(text, error->code);
}

static void print_report(struct text *text, const struct wire *wire)
{
    char ports[WIRE_LINE];
    portset_print(&wire->ports, ports, sizeof(ports));
    print_number(text, wire->shim);
    print_word(text, ports);
}

static void print_mine(struct text *text, const struct probe_try *try)
{
    print_word(text, kind_name(try->kind));
    print_dest(text, &try->own);
    print_word(text, end_name(try->end));
    print_number(text, (unsigned)try->error);
    print_icmp(text, &try->reject);
}

static void print_host(struct text *text, const struct probe_host *host)
{
    char block[BLOCK_TEXT] = "";
    if (host->configured)
        block_print(&host->block, block, sizeof(block));
    print_number(text, host->captures);
    print_word(text, route_name(host->route));
    print_address(text, host->via);
    print_word(text, host->node);
    print_address(text, host->next);
    print_word(text, block);
}

static void print_saw(struct text *text, const struct probe_try *try)
{
    print_word(text, seen_name(try->seen));
    print_dest(text, &try->as);
    print_number(text, try->syns);
    print_number(text, try->left);
    print_icmp(text, &try->bounce);
}

static void print_try(struct text *text, const struct wire *wire)
{
    print_word(text, kind_name(wire->try.kind));
    print_dest(text, &wire->try.own);
}

static void print_nonce(struct text *text, uint64_t nonce)
{
    text_char(text, ' ');
    for (int shift = 60; shift >= 0; shift -= 4)
        text_number(text, nonce >> shift & 15, 16);
}

size_t wire_print(const struct wire *wire, char buf[WIRE_LINE + 1])
{
    struct text text = text_begin(buf, WIRE_LINE + 1);
    text_string(&text, WIRE_NAME WIRE_VERSION);
    print_word(&text, wire_name(wire->word));
    if (wire->word == WIRE_TRY)
        print_nonce(&text, wire->nonce);
    if (word_has_index(wire->word))
        print_number(&text, wire->index);
    if (wire->word == WIRE_TRY)
        print_try(&text, wire);
    else if (wire->word == WIRE_SEEN)
        print_dest(&text, &wire->try.as);
    else if (wire->word == WIRE_REPORT)
        print_report(&text, wire);
    else if (wire->word == WIRE_MINE)
        print_mine(&text, &wire->try);
    else if (wire->word == WIRE_HOST)
        print_host(&text, &wire->host);
    else if (wire->word == WIRE_SAW)
        print_saw(&text, &wire->try);
    text_char(&text, '\n');
    return text.length < WIRE_LINE ? text.length : WIRE_LINE;
}
