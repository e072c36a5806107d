/* SPDX-License-Identifier: MIT */
/*
 * Quoting for a shell. In single quotes nothing means anything but the quote itself, which is put
 * in by ending them, an escaped quote, and beginning them again.
 */
#include "shell.h"

#include "say.h"

#include <stdlib.h>
#include <string.h>

/* What no shell takes for anything else, wherever in a word; so no '~', which may begin one. */
static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                            "%+,-./:=@_";

char *shell_quoted(const char *text)
{
    size_t length = strlen(text);
    char *word = malloc(4 * length + 3), *out = word;
    if (!word)
        exit(say_error(EXIT_FAILED, "out of memory"));
    if (length && strspn(text, plain) == length)
        return memcpy(word, text, length + 1);
    *out++ = '\'';
    for (; *text; text++)
        if (*text == '\'')
            out = (char *)memcpy(out, "'\\''", 4) + 4;
        else
            *out++ = *text;
    memcpy(out, "'", 2);
    return word;
}
