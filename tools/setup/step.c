/* SPDX-License-Identifier: MIT */
/*
 * Steps: the only way in which anything is changed. They are data, so that what "plan" shows and
 * what "apply" does cannot differ.
 */
#include "resources/state.h"

#include "../pool/cmd.h"

#include <ctype.h>
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

/* ---- showing ---- */

void clean_print(const char *text, size_t length, FILE *out)
{
    char *clean = state_grow(NULL, length + 1);
    for (size_t at = 0, part; at < length; at += part + 1) {
        const char *tab = memchr(text + at, '\t', length - at);
        part = tab ? (size_t)(tab - text) - at : length - at;
        fputs(say_clean(text + at, part, say_utf8(), clean, length + 1), out);
        if (tab)
            putc('\t', out);
    }
    free(clean);
}

/* As one would have to type it. */
static void print_argument(const char *argument, FILE *out)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "%+,-./:=@_";
    bool quoted = !*argument || argument[strspn(argument, plain)];
    fputs(quoted ? " '" : " ", out);
    for (const char *at = argument; *at; at++)
        if (*at == '\'')
            fputs("'\\''", out);
        else
            putc(iscntrl((unsigned char)*at) ? '?' : *at, out);
    if (quoted)
        putc('\'', out);
}

static void print_command(const struct step *step, FILE *out)
{
    const char *line, *at = step->input ? step->input : "";
    size_t length;
    fputs("[#]", out);
    for (char **arg = step->argv; *arg; arg++)
        print_argument(*arg, out);
    putc('\n', out);
    while ((line = state_line(&at, &length))) {
        fputs("    ", out);
        clean_print(line, length, out);
        putc('\n', out);
    }
}

/* "0640 0 0" if that is not what any file has. */
static const char *print_rights(const char *state, char *buf, size_t size)
{
    size_t length = strcspn(state, "\n");
    bool usual = strncmp(state, "0644 0 0\n", length + 1) == 0;
    snprintf(buf, size, "%s%.*s%s", usual ? "" : " (mode, owner, group ", usual ? 0 : (int)length,
             state, usual ? "" : ")");
    return buf;
}

static void print_side(const char *sign, const char *path, const char *state, FILE *out)
{
    char rights[80];
    fprintf(out, "%s ", sign);
    clean_print(state ? path : "/dev/null", strlen(state ? path : "/dev/null"), out);
    fprintf(out, "%s\n", state ? print_rights(state, rights, sizeof(rights)) : "");
}

static const char *print_bytes(const char *state)
{
    const char *head = state ? strchr(state, '\n') : NULL;
    return head ? head + 1 : NULL;
}

/* What is only put away for undo is others' text, and nothing new. */
static bool print_kept(const struct step *step, FILE *out)
{
    size_t lines = 0, length;
    const char *at = print_bytes(step->to ? step->to : step->from);
    if ((step->from && step->to) ||
        strncmp(step->path, SETUP_STATE_DIR "/", strlen(SETUP_STATE_DIR "/")) != 0)
        return false;
    while (at && state_line(&at, &length))
        lines++;
    fprintf(out, "(%zu lines, for undo)\n", lines);
    return true;
}

static void print_file(const struct step *step, FILE *out)
{
    print_side("---", step->path, step->from, out);
    print_side("+++", step->path, step->to, out);
    if (!print_kept(step, out))
        diff_print(print_bytes(step->from), print_bytes(step->to), out);
}

void step_print(const struct step *step, FILE *out)
{
    if (step->argv)
        print_command(step, out);
    else
        print_file(step, out);
}

json_t *json_shown(const char *text)
{
    json_t *string = text ? json_string(text) : json_null();
    if (string)
        return string;
    size_t size = strlen(text) + 1;
    char *clean = state_grow(NULL, size);
    string = json_string(say_clean(text, size, false, clean, size));
    free(clean);
    return string;
}

static json_t *json_command(const struct step *step)
{
    json_t *command = json_array(), *object = json_object();
    for (char **arg = step->argv; *arg; arg++)
        json_array_append_new(command, json_shown(*arg));
    json_object_set_new(object, "command", command);
    if (step->input)
        json_object_set_new(object, "input", json_shown(step->input));
    return object;
}

json_t *step_json(const struct step *step)
{
    char *diff;
    if (step->argv)
        return json_command(step);
    FILE *out = state_open(&diff);
    print_file(step, out);
    state_close(out);
    json_t *object = json_object();
    json_object_set_new(object, "file", json_shown(step->path));
    json_object_set_new(object, "diff", json_shown(diff));
    free(diff);
    return object;
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

int step_do(const struct step *step, struct setup_error *error)
{
    struct run_result result;
    if (!step->argv)
        return file_replace(step, error);
    int status = run_tool(step->argv, step->input, &result);
    if (status < 0)
        status = command_failed(step, &result, error);
    run_free(&result);
    return status;
}
