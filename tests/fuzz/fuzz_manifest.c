/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the API server's manifest: refused in one line, or the option is changed, put in and
 * taken away so that it reads as it was set, and that changing it back gives the same bytes.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../tools/setup/resources/state.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define NAME "/manifest"
#define MODE "0600 0 0\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *disk; /* the file's bytes */

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* ---- what it needs of the rest of fixport-setup ---- */

void *state_grow(void *memory, size_t size)
{
    memory = realloc(memory, size ? size : 1);
    check(memory != NULL);
    return memory;
}

char *state_copy(const char *text)
{
    return text ? strcpy(state_grow(NULL, strlen(text) + 1), text) : NULL;
}

static size_t state_size;

FILE *state_open(char **text)
{
    FILE *out = open_memstream(text, &state_size);
    check(out != NULL);
    return out;
}

void state_close(FILE *out)
{
    check(fclose(out) == 0);
}

bool state_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

int setup_fail(struct setup_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

static int disk_read(const char *name, char **state, struct setup_error *error)
{
    (void)name, (void)error;
    check(asprintf(state, MODE "%s", disk) >= 0);
    return 0;
}

static int disk_steps(const char *name, const char *from, const char *to, struct steps *steps,
                      struct setup_error *error)
{
    (void)name, (void)from, (void)to, (void)steps, (void)error;
    return -1;
}

const struct resource_type resource_file = {
    .name = "file", .lasting = true, .read = disk_read, .steps = disk_steps};

int file_alone(const char *path, struct setup_error *error)
{
    (void)path, (void)error;
    return 0;
}

void steps_file(struct steps *steps, const char *path, const char *from, const char *to,
                const char *staging)
{
    (void)path, (void)from, (void)staging;
    steps->item = state_grow(NULL, sizeof(*steps->item));
    *steps->item = (struct step){.to = state_copy(to + strlen(MODE))};
    steps->count = 1;
}

/* ---- what must hold ---- */

/* Return: whether it can be read. */
static bool get(const char *text, char **value)
{
    struct setup_error error = {.text = ""};
    disk = text;
    *value = NULL;
    if (resource_nodeports.read(NAME, value, &error) == 0)
        return true;
    check(!*value && *error.text && !strchr(error.text, '\n'));
    return false;
}

/* Return: @text with the option at @to, which then reads so; NULL: refused. */
static char *set(const char *text, const char *from, const char *to)
{
    struct setup_error error = {.text = ""};
    struct steps steps = {.count = 0};
    disk = text;
    if (resource_nodeports.steps(NAME, from, to, &steps, &error) < 0) {
        check(*error.text && !strchr(error.text, '\n'));
        return NULL;
    }
    char *made = steps.item->to, *now;
    free(steps.item);
    check(get(made, &now) && state_equal(now, to));
    free(now);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = state_grow(NULL, size + 1), *value;
    memcpy(text, data, size);
    text[size] = '\0';
    if (get(text, &value)) {
        char *changed = set(text, value, "20000-29999");
        char *back = changed ? set(changed, "20000-29999", value) : NULL;
        check(!back || strcmp(back, text) == 0);
        free(back);
        free(changed);
        changed = value ? set(text, value, NULL) : NULL;
        free(changed);
        free(value);
    }
    free(text);
    return 0;
}
