/* SPDX-License-Identifier: MIT */
/*
 * The command line, as all tools read it. getopt_long(3) does the work, with opterr = 0 and a
 * leading ":"; here is what they refuse, one line each, in the same words. Not for threads.
 *
 * Functions return 0, or the exit status for bad input (say_begin()) after having said why.
 */
#ifndef FIXPORT_TOOLS_LINE_H
#define FIXPORT_TOOLS_LINE_H

#include <stddef.h>

/**
 * line_once - take optarg as the value of an option. One that is given twice would silently win
 * over the first: refused.
 * @name: for messages, such as "--pool". @value: NULL before the first time.
 */
int line_once(const char *name, const char **value);

/** line_text - the same, and refuse an empty one. */
int line_text(const char *name, const char **value);

/**
 * line_number - line_once() for a decimal number.
 * @least, @most: what is allowed, 1..99999999. @unit: of it, for messages: " seconds" or "".
 * @value: 0 before the first time.
 */
int line_number(const char *name, unsigned least, unsigned most, const char *unit, unsigned *value);

/** line_bad - refuse what getopt_long() does not know; @option: what it returned, '?' or ':'. */
int line_bad(int option, char **argv);

/**
 * line_command - find a subcommand.
 * @table: structs of @size bytes that begin with the name, the last one with NULL.
 * @index: of the one with that name.
 */
int line_command(const char *name, const void *table, size_t size, size_t *index);

/* Options by the bits that stand for them; the last one has none. */
struct line_options {
    unsigned bits;
    const char *names;
};

/** line_takes - refuse options that @command does not take: the first of @known in @surplus. */
int line_takes(const char *command, unsigned surplus, const struct line_options *known);

#endif
