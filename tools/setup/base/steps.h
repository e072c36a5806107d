/* SPDX-License-Identifier: MIT */
/*
 * Steps: the only way in which anything is changed. They are data, so that what "plan" shows and
 * what "apply" does cannot differ. engine/step.c shows and does them.
 */
#ifndef FIXPORT_TOOLS_SETUP_STEPS_H
#define FIXPORT_TOOLS_SETUP_STEPS_H

#include "base.h"

/* Either a command (argv) or a file replaced (path). */
struct step {
    char **argv; /* NULL-terminated; NULL: a file */
    char *input; /* command: its stdin, or NULL */
    char *path; /* file: without the root */
    char *from; /* file: its state now and after, as RESOURCE_FILE has it; NULL: absent */
    char *to;
    char *staging; /* file: folder for the new file before it is renamed; NULL: the file's own */
};

struct steps {
    struct step *item;
    size_t count;
};

/** steps_command - append a command; the last argument is NULL. @input is copied; may be NULL. */
void steps_command(struct steps *steps, const char *input, const char *argv0, ...)
    __attribute__((sentinel));

/** steps_file - append the replacement of a file. */
void steps_file(struct steps *steps, const char *path, const char *from, const char *to,
                const char *staging);

/** steps_free - give back; zeros are fine. */
void steps_free(struct steps *steps);

/** step_run - do a step that is a command. */
int step_run(const struct step *step, struct setup_error *error);

#endif
