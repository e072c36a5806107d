/* SPDX-License-Identifier: MIT */
/*
 * Lists of steps.
 */
#include "steps.h"

#include "run.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static struct step *steps_append(struct steps *steps)
{
    steps->item = state_grow(steps->item, (steps->count + 1) * sizeof(*steps->item));
    steps->item[steps->count] = (struct step){.argv = NULL};
    return &steps->item[steps->count++];
}

void steps_command(struct steps *steps, const char *input, const char *argv0, ...)
{
    struct step *step = steps_append(steps);
    size_t count = 0;
    va_list args;
    va_start(args, argv0);
    for (const char *at = argv0; at; at = va_arg(args, const char *)) {
        step->argv = state_grow(step->argv, (count + 2) * sizeof(*step->argv));
        step->argv[count++] = state_copy(at);
        step->argv[count] = NULL;
    }
    va_end(args);
    step->input = state_copy(input);
}

void steps_file(struct steps *steps, const char *path, const char *from, const char *to,
                const char *staging)
{
    struct step *step = steps_append(steps);
    step->path = state_copy(path);
    step->from = state_copy(from);
    step->to = state_copy(to);
    step->staging = state_copy(staging);
}

void steps_free(struct steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        struct step *step = &steps->item[i];
        for (char **arg = step->argv; arg && *arg; arg++)
            free(*arg);
        free(step->argv);
        free(step->input);
        free(step->path);
        free(step->from);
        free(step->to);
        free(step->staging);
    }
    free(steps->item);
    *steps = (struct steps){.count = 0};
}

/* ---- doing ---- */

/* The number of the input's line that a tool complains of; 0: it does not say. */
static unsigned complaint_line(const char *errors)
{
    static const char *const before[] = {"line ", "line: ", "-:", "/dev/stdin:"};
    for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
        const char *at = strstr(errors, before[i]);
        unsigned long line = at ? strtoul(at + strlen(before[i]), NULL, 10) : 0;
        if (line > 0 && line < 10000000)
            return (unsigned)line;
    }
    return 0;
}

/* "line 3 failed" says little to those who never saw the lines: show that line. */
static int command_failed(const struct step *step, const struct run_result *result,
                          struct setup_error *error)
{
    const char *line = NULL, *at = step->input ? step->input : "";
    size_t length = 0, used;
    unsigned number = complaint_line(result->errors);
    run_explain(step->argv, result, error);
    for (unsigned i = 0; i < number; i++)
        line = state_line(&at, &length);
    used = strlen(error->text);
    if (line)
        snprintf(error->text + used, sizeof(error->text) - used, " (at: %.*s)", (int)length, line);
    return -1;
}

int step_run(const struct step *step, struct setup_error *error)
{
    struct run_result result;
    int status = run_tool(step->argv, step->input, &result);
    if (status < 0)
        status = command_failed(step, &result, error);
    else if (strstr(step->argv[0], "fixport-pool")) /* its warnings; others' are about themselves */
        fputs(result.errors, stderr);
    run_free(&result);
    return status;
}
