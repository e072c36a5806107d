/* SPDX-License-Identifier: MIT */
/*
 * Bounded text building without stdio, because the shim may not use any (it must not allocate, and
 * has no C library it could rely on). Appending past the end is cut; the buffer stays terminated.
 */
#ifndef FIXPORT_TEXT_H
#define FIXPORT_TEXT_H

#include <stddef.h>
#include <stdint.h>

struct text {
    char *buf;
    size_t size; /* bytes in buf, with room for the NUL */
    size_t length; /* what the whole text has, as snprintf(3) counts: may exceed size */
};

/** text_begin - start an empty text in @buf of @size bytes (0 only counts). Any thread. */
static inline struct text text_begin(char *buf, size_t size)
{
    if (size)
        buf[0] = '\0';
    return (struct text){.buf = buf, .size = size};
}

/** text_char - append one character. */
static inline void text_char(struct text *text, char c)
{
    if (text->length + 1 < text->size) {
        text->buf[text->length] = c;
        text->buf[text->length + 1] = '\0';
    }
    text->length++;
}

/** text_string - append a NUL-terminated string, at most @most bytes of it. */
static inline void text_string_n(struct text *text, const char *string, size_t most)
{
    for (size_t i = 0; i < most && string[i]; i++)
        text_char(text, string[i]);
}

/** text_string - append a NUL-terminated string. */
static inline void text_string(struct text *text, const char *string)
{
    text_string_n(text, string, SIZE_MAX);
}

/** text_number - append @number in @base 10 or 16. */
static inline void text_number(struct text *text, uint64_t number, unsigned base)
{
    char digits[24];
    size_t n = 0;
    do {
        digits[n++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    while (n)
        text_char(text, digits[--n]);
}

#endif
