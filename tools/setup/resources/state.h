/* SPDX-License-Identifier: MIT */
/*
 * What the types of resources (setup/setup.h) share among themselves.
 */
#ifndef FIXPORT_TOOLS_SETUP_STATE_H
#define FIXPORT_TOOLS_SETUP_STATE_H

#include "../setup.h"

#include <stdio.h>
#include <sys/types.h>

/* ---- resource.c: texts that grow ---- */

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
 * state_merge - as resource_type.merge: @to for a type that has none.
 * @merged: malloc'd, or NULL.
 */
int state_merge(const struct resource_type *type, const char *name, const char *base,
                const char *to, const char *now, char **merged, struct setup_error *error);

/**
 * state_line - the next line of a text.
 * @at: where to go on; behind the newline afterwards. @length: of the line without its newline.
 * Return: the line's begin; NULL: there is none left.
 */
const char *state_line(const char **at, size_t *length);

/* ---- setup/run.c ---- */

/** run_input - a descriptor from which @text can be read. Return: -1 with errno. */
int run_input(const char *text);

/**
 * run_apart - call @work with @arg in a network namespace of its own, and come back.
 * Return: whether that was possible; @work's result is in *@result then.
 */
bool run_apart(int (*work)(void *arg), void *arg, int *result);

/* ---- file.c ---- */

/* A state of resource_file, taken apart; bytes points into it. */
struct file_parts {
    mode_t mode;
    uid_t uid;
    gid_t gid;
    const char *bytes;
};

/** file_parse - take a state apart. Return: 0 or -1. */
int file_parse(const char *state, struct file_parts *parts, struct setup_error *error);

/** file_alone - 0; -1 if @path has other names (hard links), which a replacement would not reach. */
int file_alone(const char *path, struct setup_error *error);

/** file_replace - do a step that replaces, makes or removes a file. */
int file_replace(const struct step *step, struct setup_error *error);

/* ---- diff.c ---- */

/**
 * diff_print - a unified diff of two texts, three lines around, by diff(1); without its head.
 * NULL is a text that is not there. Nothing is printed if they are the same. Where diff(1) cannot be
 * run, a sentence and all of @to.
 */
void diff_print(const char *from, const char *to, FILE *out);

/* ---- setup/step.c ---- */

/** clean_print - print a line of untrusted text: tabs stay, control characters become '?'. */
void clean_print(const char *text, size_t length, FILE *out);

#endif
