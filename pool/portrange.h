/* SPDX-License-Identifier: MIT */
/*
 * Port ranges: sets of TCP ports such as "60001-60499, 60600-60999".
 *
 * A set is kept sorted by its parser and never overlaps, so that a port has one index in it and a
 * range one printed form. Nothing here allocates; everything may be called from any thread.
 */
#ifndef FIXPORT_PORTRANGE_H
#define FIXPORT_PORTRANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PORTRANGE_MAX 32 /* ranges in one set */

/* lo and hi are TCP ports in host order, 1 <= lo <= hi <= 65535. */
struct portrange {
    uint16_t lo;
    uint16_t hi;
};

struct portset {
    uint32_t count; /* ranges used, 1..PORTRANGE_MAX in a valid set */
    struct portrange range[PORTRANGE_MAX];
};

/*
 * Why a text was not a set of ports: a sentence's second half, such as "80001 is not a port: ports
 * end at 65535". Always NUL-terminated after a failed parse.
 */
struct parse_reason {
    char text[160];
};

/**
 * portset_parse - read a set of ports.
 * @text: "LO-HI" or "PORT", separated by commas, spaces around allowed ("LO~HI" and "LO:HI" are
 *        read as ranges too: both are seen in the wild).
 * @set: the result, sorted; untouched on failure.
 * @why: the reason for a failure; may be NULL.
 *
 * Return: 0; -EINVAL if it is not of that form (empty, not a number, LO > HI, overlapping, more
 * than PORTRANGE_MAX); -ERANGE if a number in it is no port (RFC 9293: 16 bits, and 0 is reserved).
 */
int portset_parse(const char *text, struct portset *set, struct parse_reason *why);

/**
 * portset_print - write a set as text, "60001-60499,60600".
 * @buf, @size: where to, in bytes; always NUL-terminated if @size > 0.
 *
 * Return: the length that the whole text has, as snprintf(3).
 */
size_t portset_print(const struct portset *set, char *buf, size_t size);

/** portset_size - how many ports a set has, 0..65535. */
uint32_t portset_size(const struct portset *set);

/** portset_has - whether @port (host order) is in the set. */
bool portset_has(const struct portset *set, uint16_t port);

/** portset_overlaps - whether the set and lo..hi share a port. */
bool portset_overlaps(const struct portset *set, uint16_t lo, uint16_t hi);

/**
 * portset_intersect - leave only the ports that @other has too.
 * @set: valid, changed; its count becomes 0 if nothing is left.
 * Return: 0, or -E2BIG if the result has more than PORTRANGE_MAX ranges; @set is unchanged then.
 */
int portset_intersect(struct portset *set, const struct portset *other);

/**
 * portset_valid - whether a set read from untrusted memory keeps the promises of the types above.
 */
bool portset_valid(const struct portset *set);

#endif
