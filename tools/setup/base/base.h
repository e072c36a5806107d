/* SPDX-License-Identifier: MIT */
/*
 * What all of fixport-setup stands on: how an error is told, texts that grow, and the names that
 * several parts must agree on. Needs nothing else of fixport-setup.
 */
#ifndef FIXPORT_TOOLS_SETUP_BASE_H
#define FIXPORT_TOOLS_SETUP_BASE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* ---- names ---- */

#define SETUP_ROUTE_PROTOCOL 161 /* "fixport" in rt_protos.d: in use by nobody known */
#define SETUP_CHAIN "FIXPORT-FORWARD"
#define SETUP_TABLE "fixport" /* the nft table, family ip or ip6 */
#define SETUP_STATE_DIR "/var/lib/fixport" /* journals, backups */
#define SETUP_JOURNAL SETUP_STATE_DIR "/journal.json" /* mode 0600: it has others' files in it */
#define SETUP_PUBLIC SETUP_STATE_DIR "/public-journal.json" /* a copy that 0.1.0 made */
#define SETUP_LOCK SETUP_STATE_DIR "/lock" /* beside what it is about, whatever is mounted where */
#define SETUP_UNIT "/etc/systemd/system/fixport-setup.service"
#define SETUP_PROGRAM FIXPORT_SBINDIR "/fixport-setup" /* what the unit starts */
#define SETUP_TAG "fixport:" /* every iptables rule's comment begins so */

enum setup_exit {
    SETUP_OK = 0, /* plan, status: nothing to change */
    SETUP_ERROR = 1, /* and bad input: nothing was changed, or it was rolled back */
    SETUP_CHANGES = 2, /* plan: there is something to change; status: it is not as it should be */
};

struct setup_error {
    char text[1024];
};

/** setup_fail - write a sentence to @error, cut to fit. Return: -1. */
int setup_fail(struct setup_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- texts ---- */

/** state_open - a stream whose text will be in *@text, malloc'd. Ends the tool for want of memory.
 */
FILE *state_open(char **text);

/** state_close - close it; only then is the text there. */
void state_close(FILE *out);

/** state_copy - strdup(3) that keeps NULL. Ends the tool for want of memory. */
char *state_copy(const char *text);

/** state_grow - realloc(3). Ends the tool for want of memory. */
void *state_grow(void *memory, size_t size);

/**
 * state_line - the next line of a text.
 * @at: where to go on; behind the newline afterwards. @length: of the line without its newline.
 * Return: the line's begin; NULL: there is none left.
 */
const char *state_line(const char **at, size_t *length);

/** state_equal - whether two states are the same; NULL only equals NULL. */
bool state_equal(const char *a, const char *b);

#endif
