/* SPDX-License-Identifier: MIT */
/*
 * What the types of resources (resource.h) share among themselves.
 */
#ifndef FIXPORT_TOOLS_SETUP_STATE_H
#define FIXPORT_TOOLS_SETUP_STATE_H

#include "../base/path.h"
#include "../base/run.h"
#include "resource.h"

#include <jansson.h>
#include <stdio.h>
#include <sys/types.h>

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

/**
 * file_in_place - whether file_replace() may write over a file where there is no room for another one
 * beside it: in undo, which has the bytes in the journal until all is back.
 */
extern bool file_in_place;

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
