/* SPDX-License-Identifier: MIT */
/*
 * The list of what the roles want. Whatever a role asks for is brought into the form that reading it
 * back will have, so that nobody else has to know how the kernel or a tool spells it.
 */
#include "resource.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

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
    for (size_t i = 0; i < resources->lefts; i++)
        resource_free(&resources->left[i]);
    free(resources->left);
    for (size_t i = 0; i < resources->notes; i++)
        free(resources->note[i]);
    free(resources->note);
    free(resources->topology);
    free(resources->item);
    *resources = (struct resources){.count = 0};
}

int state_merge(const struct resource_type *type, const char *name, const char *base,
                const char *to, const char *now, char **merged, struct setup_error *error)
{
    if (type->merge)
        return type->merge(name, base, to, now, merged, error);
    *merged = state_copy(to);
    return 0;
}

enum lost state_lost(const struct resource_type *type, const char *state)
{
    return state && type->lost ? type->lost(state) : LOST_NOT;
}
