/* SPDX-License-Identifier: MIT */
/*
 * An error in a sentence, and texts that grow.
 */
#include "base.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int setup_fail(struct setup_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

bool state_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* A tool without memory can only end: the journal says how far it had come. */
static void __attribute__((noreturn)) state_no_memory(void)
{
    fputs("fixport-setup: out of memory\n", stderr);
    exit(SETUP_ERROR);
}

FILE *state_open(char **text)
{
    static size_t length; /* of whichever stream was flushed last: of no use, but wanted */
    FILE *out = open_memstream(text, &length);
    if (!out)
        state_no_memory();
    return out;
}

void state_close(FILE *out)
{
    if (fclose(out) != 0)
        state_no_memory();
}

char *state_copy(const char *text)
{
    return text ? strcpy(state_grow(NULL, strlen(text) + 1), text) : NULL;
}

void *state_grow(void *memory, size_t size)
{
    void *grown = realloc(memory, size ? size : 1);
    if (!grown)
        state_no_memory();
    return grown;
}

const char *state_line(const char **at, size_t *length)
{
    const char *line = *at;
    if (!*line)
        return NULL;
    *length = strcspn(line, "\n");
    *at += *length + (line[*length] == '\n');
    return line;
}
