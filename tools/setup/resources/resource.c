/* SPDX-License-Identifier: MIT */
/*
 * The types of resources by their names, the list of what the roles want, and the little that all
 * types share. Whatever a role asks for is brought into the form that reading it back will have, so
 * that nobody else has to know how the kernel or a tool spells it.
 */
#include "state.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const struct resource_type *const types[] = {
    &resource_folder, &resource_file,     &resource_link, &resource_sysctl,    &resource_routes,
    &resource_rule,   &resource_iptables, &resource_nft,  &resource_nodeports, &resource_pool,
};

int setup_fail(struct setup_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

const struct resource_type *resource_type_find(const char *name)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strcmp(types[i]->name, name) == 0)
            return types[i];
    return NULL;
}

static void resource_free(struct resource *resource)
{
    free(resource->name);
    free(resource->wanted);
    free(resource->why);
}

/* Return: 0, or -1 if what is wanted is nothing that could be. */
static int resource_init(struct resource *resource, const char *wanted, struct setup_error *error)
{
    if (!wanted || !resource->type->canonical) {
        resource->wanted = state_copy(wanted);
        return 0;
    }
    return resource->type->canonical(resource->name, wanted, &resource->wanted, error);
}

int resources_add(struct resources *resources, const struct resource_type *type, const char *name,
                  const char *wanted, const char *why, struct setup_error *error)
{
    struct resource made = {.type = type};
    json_t *text = json_string(name);
    json_decref(text);
    if (!text) /* the journal is JSON */
        return setup_fail(error, "'%s': a path must be UTF-8", name);
    for (size_t i = 0; i < resources->count; i++)
        if (resources->item[i].type == type && strcmp(resources->item[i].name, name) == 0)
            return setup_fail(error, "%s %s is wanted twice: for '%s' and for '%s'", type->name,
                              name, resources->item[i].why, why);
    made.name = state_copy(name);
    made.why = state_copy(why);
    if (resource_init(&made, wanted, error) < 0) {
        resource_free(&made);
        return -1;
    }
    resources->item = state_grow(resources->item, (resources->count + 1) * sizeof(made));
    resources->item[resources->count++] = made;
    return 0;
}

void resources_note(struct resources *resources, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    resources->note = state_grow(resources->note, (resources->notes + 1) * sizeof(char *));
    resources->note[resources->notes++] = state_copy(text);
}

void resources_free(struct resources *resources)
{
    for (size_t i = 0; i < resources->count; i++)
        resource_free(&resources->item[i]);
    for (size_t i = 0; i < resources->notes; i++)
        free(resources->note[i]);
    free(resources->note);
    free(resources->topology);
    free(resources->item);
    *resources = (struct resources){.count = 0};
}

bool state_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* ---- texts that grow ---- */

/* A tool without memory can only end: the journal says how far it had come. */
static void __attribute__((noreturn)) state_no_memory(void)
{
    fputs("fixport-setup: out of memory\n", stderr);
    exit(SETUP_ERROR);
}

FILE *state_open(char **text)
{
    static size_t length; /* of whichever stream was flushed last: of no use, but wanted */
    FILE *out = open_memstream(text, &length);
    if (!out)
        state_no_memory();
    return out;
}

void state_close(FILE *out)
{
    if (fclose(out) != 0)
        state_no_memory();
}

char *state_copy(const char *text)
{
    return text ? strcpy(state_grow(NULL, strlen(text) + 1), text) : NULL;
}

void *state_grow(void *memory, size_t size)
{
    void *grown = realloc(memory, size ? size : 1);
    if (!grown)
        state_no_memory();
    return grown;
}

int state_merge(const struct resource_type *type, const char *name, const char *base,
                const char *to, const char *now, char **merged, struct setup_error *error)
{
    if (type->merge)
        return type->merge(name, base, to, now, merged, error);
    *merged = state_copy(to);
    return 0;
}

const char *state_line(const char **at, size_t *length)
{
    const char *line = *at;
    if (!*line)
        return NULL;
    *length = strcspn(line, "\n");
    *at += *length + (line[*length] == '\n');
    return line;
}
