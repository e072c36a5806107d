/* SPDX-License-Identifier: MIT */
/*
 * How the tools speak to people, and by which exit status to scripts. Not for threads.
 */
#ifndef FIXPORT_TOOLS_SAY_H
#define FIXPORT_TOOLS_SAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum exit_status {
    EXIT_OK = 0,
    EXIT_FAILED = 1, /* the system refused, or the tool did */
    EXIT_BAD_INPUT = 2, /* options, configuration, or a pool file that is no good */
};

/**
 * say_begin - name the program for messages, and take care of SIGBUS, the locale, and standard
 * streams that are missing (until exec: they are missing again there). The first call of main().
 * @bad_input: its exit status when what it was told cannot be done, for say_bad_input().
 */
void say_begin(const char *program, int bad_input);

/**
 * say_limit - from now on the program has @seconds; then it says so and ends with EXIT_FAILED. 0: as long
 * as it likes, because whoever reads what it prints does.
 */
void say_limit(unsigned seconds);

/**
 * say_end - before the program ends with @status: is all of stdout written?
 * Return: @status, or EXIT_FAILED after having said that it is not.
 */
int say_end(int status);

/** say_error - one line "PROGRAM: ..." on stderr, cleaned. Return: @status. */
int say_error(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** say_bad_input - the same. Return: what say_begin() was told. */
int say_bad_input(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** say_program - the name that say_begin() was told. */
const char *say_program(void);

/** say_pool_error - say that the pool at @path cannot be used; @error from pool_open(). */
int say_pool_error(const char *path, int error);

/** say_utf8 - whether the terminal's locale is UTF-8. */
bool say_utf8(void);

/** say_columns - the width of the terminal, 40..400; 80 if there is none. */
unsigned say_columns(void);

/** say_last - what say_error() said last, not cleaned; empty if nothing. */
const char *say_last(void);

/**
 * say_clean - a copy of untrusted text that can go to a terminal.
 * @text: at most @most bytes, ends at a NUL before that.
 * @utf8: whether characters beyond ASCII may stay.
 * @buf, @size: the result; control characters, what reorders a line and invalid UTF-8 become '?'.
 * Return: @buf.
 */
const char *say_clean(const char *text, size_t most, bool utf8, char *buf, size_t size);

/** say_age - @seconds as "12 s", "3 min", "4 h 10 min", "2 d 3 h". Return: @buf. */
const char *say_age(uint64_t seconds, char *buf, size_t size);

/** say_width - how many columns @text takes: host names may be UTF-8. */
int say_width(const char *text);

/** say_cell - print @text and fill up with spaces to @width columns and one more. */
void say_cell(const char *text, int width);

/* Progress of something that takes long: a line on stderr, if that is a terminal, after 2 s. */
struct progress {
    const char *what;
    uint64_t began; /* ms, 0: not yet */
    uint64_t shown; /* ms of the last line */
};

/** progress_step - @done of @total (0: unknown) are done; both 0: it goes on. */
void progress_step(struct progress *progress, size_t done, size_t total);

/** progress_end - wipe the line. */
void progress_end(struct progress *progress);

#endif
