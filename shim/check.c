/* SPDX-License-Identifier: MIT */
/*
 * The answer to fixport-run --check, the only way to see from outside that the library is really in
 * and has what it needs: FIXPORT_CHECK=READ,WRITE names two pipes. The library writes what it knows
 * to the one and waits on the other, so that the program's own code does not run before the asker
 * has killed it. Anything but two pipes is not that question.
 */
#include "shim.h"
#include "../pool/text.h"

#include <stdlib.h>
#include <string.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

static void line(struct text *text, const char *key, const char *value)
{
    text_string(text, key);
    text_char(text, '=');
    text_string(text, value);
    text_char(text, '\n');
}

/* Whether @item is one of the items, separated by ", ", that @list has so far. */
static bool text_has_item(const struct text *list, const char *item)
{
    size_t length = strlen(item);
    for (size_t i = 0; i + length <= list->length && i + length < list->size; i++)
        if (memcmp(list->buf + i, item, length) == 0 && (i == 0 || list->buf[i - 1] == ' ') &&
            (i + length == list->length || list->buf[i + length] == ','))
            return true;
    return false;
}

static void line_number(struct text *text, const char *key, uint64_t value)
{
    char digits[24];
    struct text number = text_begin(digits, sizeof(digits));
    text_number(&number, value, 10);
    line(text, key, digits);
}

/* Rules may have ranges in common: what stands there already is not repeated. */
static void add_range(const struct portrange *range, void *arg)
{
    char one[16];
    struct text *list = arg;
    struct text text = text_begin(one, sizeof(one));
    text_number(&text, range->lo, 10);
    if (range->hi != range->lo) {
        text_char(&text, '-');
        text_number(&text, range->hi, 10);
    }
    if (text_has_item(list, one))
        return;
    if (list->length)
        text_string(list, ", ");
    text_string(list, one);
}

static void describe_pool(struct text *text, const struct shim_pool *at)
{
    char ports[512];
    struct text list = text_begin(ports, sizeof(ports));
    line_number(text, "generation", atomic_load(&at->pool.header->generation));
    policy_each_range(at->pool.policy[atomic_load(&at->pool.header->generation) & 1], add_range,
                      &list);
    line(text, "ports", ports);
    if (!atomic_load(&at->netns[0].cookie))
        return;
    line_number(text, "holder", at->netns[0].slot);
    if (at->netns[0].slot < POOL_HOLDERS)
        line_number(text, "netns", at->pool.holder[at->netns[0].slot].netns);
}

static void answer(int fd)
{
    char buffer[2048];
    struct text text = text_begin(buffer, sizeof(buffer));
    bool ready = shim_enabled();
    struct shim_pool *at =
        ready ? shim_pool(sys_now_ms()) : NULL; /* as a connection would find it */
    if (at)
        netns_check(at);
    line(&text, "version", PACKAGE_VERSION);
    line(&text, "pool", shim.path);
    line(&text, "state", !ready ? "disabled" : at && !fault_text() ? "ok" : "fault");
    if (ready && fault_text())
        line(&text, "fault", fault_text());
    if (ready && at)
        describe_pool(&text, at);
    text_char(&text, '\n');
    quiet_write(fd, buffer, text.length < sizeof(buffer) ? text.length : sizeof(buffer) - 1);
}

static bool is_pipe(int fd)
{
    struct stat st;
    return sys_fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

/* "12,13". Return: false if it is not of that form. */
static bool two_numbers(const char *text, int *first, int *second)
{
    int value[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        int digits = 0;
        for (; *text >= '0' && *text <= '9' && digits < 7; text++, digits++)
            value[i] = value[i] * 10 + (*text - '0');
        if (!digits || *text != (i == 0 ? ',' : '\0'))
            return false;
        text++;
    }
    *first = value[0];
    *second = value[1];
    return true;
}

void check_answer(void)
{
    int in, out;
    char byte;
    const char *asked = getenv && !shim.secure ? getenv("FIXPORT_CHECK") : NULL;
    if (!asked || !two_numbers(asked, &in, &out) || !is_pipe(in) || !is_pipe(out))
        return;
    answer(out);
    while (SYS(read, in, &byte, 1) == -EINTR)
        ;
}
