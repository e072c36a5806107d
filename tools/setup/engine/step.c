/* SPDX-License-Identifier: MIT */
/*
 * Steps: the only way in which anything is changed. They are data, so that what "plan" shows and
 * what "apply" does cannot differ.
 */
#include "../resources/state.h"
#include "engine.h"

#include "../../common/shell.h"

#include <stdlib.h>
#include <string.h>

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
    char *word = shell_quoted(argument);
    putc(' ', out);
    clean_print(word, strlen(word), out);
    free(word);
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

int step_do(const struct step *step, struct setup_error *error)
{
    return step->argv ? step_run(step, error) : file_replace(step, error);
}
