/* SPDX-License-Identifier: MIT */
/*
 * Small texts that more than one subcommand prints, so that a state or a holder is called the same
 * everywhere.
 */
#include "cmd.h"

const char *show_state(enum word_state state)
{
    return state == WORD_USED ? "used" : state == WORD_LETGO ? "letgo" : "resting";
}

const char *show_exhausted(uint8_t exhausted)
{
    return exhausted == POLICY_WAIT ? "wait" : exhausted == POLICY_PASS ? "pass" : "fail";
}

const char *show_scope(uint8_t scope)
{
    return scope == POLICY_ADDRESS ? "address" : "node";
}

const char *show_ports(const struct tally *tally, char *buf, size_t size)
{
    size_t at = 0;
    buf[0] = '\0';
    for (uint32_t lo = 1, hi; lo < 65536; lo = hi + 1) {
        hi = lo;
        if (!tally->in_range[lo])
            continue;
        while (hi < 65535 && tally->in_range[hi + 1])
            hi++;
        if (at + 16 > size) {
            snprintf(buf + at, size - at, "...");
            break;
        }
        at += (size_t)snprintf(buf + at, size - at, "%s%u", at ? "," : "", lo);
        if (hi > lo)
            at += (size_t)snprintf(buf + at, size - at, "-%u", hi);
    }
    return buf;
}

const char *show_holder(const struct snapshot *snapshot, int slot, bool utf8, char *buf,
                        size_t size)
{
    const struct pool_holder *holder =
        slot >= 0 && slot < (int)POOL_HOLDERS ? &snapshot->pool.holder[slot] : NULL;
    if (slot >= (int)POOL_HOLDERS)
        snprintf(buf, size, "(guest)");
    else if (!holder || !holder->cookie)
        snprintf(buf, size, "-");
    else if (!holder->host[0])
        snprintf(buf, size, "(no name)");
    else
        say_clean(holder->host, sizeof(holder->host), utf8, buf, size);
    return buf;
}
