/* SPDX-License-Identifier: MIT */
/*
 * Reading what kubectl prints: JSON, one document or several behind each other, each a list or a
 * single object. A list is a v1 List, whose items say themselves what they are, or one of a type of
 * its own (NodeList), as the API server sends it, whose items do not.
 *
 * jansson is strict where it matters: a key that stands twice, a NUL in a string, what is no UTF-8
 * and nesting without end are errors of the text as a whole, with their place.
 */
#include "../../pool/cmd.h"
#include "discover.h"
#include "../resources/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NESTED_LISTS 4
#define PASSED_KINDS 32 /* told by name; there are no more in any sane input */
#define SPACES " \t\r\n"

/* ---- what all share ---- */

void sentence_add(struct sentences *list, const char *object, const char *format, ...)
{
    char text[1024], clean[sizeof(text)], name[DISCOVER_OBJECT_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!(list->count & (list->count - 1)))
        list->item =
            state_grow(list->item, sizeof(*list->item) * (list->count ? list->count * 2 : 1));
    say_clean(text, sizeof(text), true, clean, sizeof(clean));
    if (object)
        say_clean(object, sizeof(name), true, name, sizeof(name));
    list->item[list->count++] =
        (struct sentence){state_copy(object ? name : NULL), state_copy(clean)};
}

void sentences_free(struct sentences *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->item[i].object);
        free(list->item[i].text);
    }
    free(list->item);
}

void discovery_free(struct discovery *discovery)
{
    for (size_t i = 0; i < discovery->nodes; i++)
        free(discovery->node[i].cluster_name);
    for (size_t i = 0; i < discovery->claims; i++) {
        free(discovery->claim[i].node);
        free(discovery->claim[i].object);
    }
    for (size_t i = 0; i < discovery->passed_kinds; i++)
        free(discovery->passed[i].name);
    free(discovery->node);
    free(discovery->claim);
    free(discovery->passed);
    for (size_t i = 0; i < discovery->aliases; i++) {
        free(discovery->alias[i].addresses);
        free(discovery->alias[i].servers);
    }
    free(discovery->alias);
    json_decref(discovery->services);
    json_decref(discovery->slices);
    sentences_free(&discovery->warnings);
    *discovery = (struct discovery){.nodes = 0};
}

const json_t *json_path(const json_t *object, ...)
{
    const char *key;
    va_list args;
    va_start(args, object);
    while (object && (key = va_arg(args, const char *)))
        object = json_object_get(object, key);
    va_end(args);
    return object;
}

const char *json_word(const json_t *object, const char *key)
{
    const char *word = json_string_value(json_object_get(object, key));
    return word && *word ? word : NULL;
}

/* ---- objects ---- */

static void pass_over(struct discovery *discovery, const char *kind)
{
    for (size_t i = 0; i < discovery->passed_kinds; i++) {
        if (strcmp(discovery->passed[i].name, kind) == 0) {
            discovery->passed[i].count++;
            return;
        }
    }
    if (discovery->passed_kinds == PASSED_KINDS)
        return;
    if (!discovery->passed)
        discovery->passed = state_grow(NULL, PASSED_KINDS * sizeof(*discovery->passed));
    discovery->passed[discovery->passed_kinds++] = (struct passed_kind){state_copy(kind), 1};
}

/* @kind, @group: what it is, or what its list says that it is. */
static void single_take(struct discovery *discovery, const json_t *json, const char *group,
                        const char *kind)
{
    struct object object = {.json = json, .group = group};
    char label[DISCOVER_OBJECT_NAME];
    const char *name = json_word(json_object_get(json, "metadata"), "name");
    object.name = name ? name : "";
    snprintf(label, sizeof(label), "%s %s", kind, name ? name : "(without a name)");
    say_clean(label, sizeof(label), true, object.label, sizeof(object.label));
    if (!object_take(discovery, &object, kind))
        pass_over(discovery, kind);
}

static int any_take(struct discovery *discovery, const char *where, const json_t *json,
                    const char *group, const char *kind, int depth, struct setup_error *error);

/* What a list's items are: "NodeList" has Nodes, "List" leaves it to them. */
static const char *list_kind(const char *kind, char *buf, size_t size)
{
    size_t length = strlen(kind), tail = strlen("List");
    if (length <= tail || length - tail >= size || strcmp(kind + length - tail, "List") != 0)
        return NULL;
    memcpy(buf, kind, length - tail);
    buf[length - tail] = '\0';
    return buf;
}

/* A list that goes on elsewhere, by "kubectl get --raw ...?limit=" say. */
static bool list_is_cut(const json_t *list)
{
    return json_word(json_object_get(list, "metadata"), "continue") != NULL;
}

static int list_take(struct discovery *discovery, const char *where, const json_t *list,
                     const char *group, const char *kind, int depth, struct setup_error *error)
{
    char buf[64];
    const char *items_kind = list_kind(kind, buf, sizeof(buf));
    const json_t *items = json_object_get(list, "items"), *item;
    size_t i;
    size_t listed = discovery->listed;
    if (list_is_cut(list))
        return setup_fail(error,
                          "%s: this is a part of a list (metadata.continue), and what is in the "
                          "rest would be missing: ask for all of it, without a limit",
                          where);
    json_array_foreach(items, i,
                       item) if (any_take(discovery, where, item, items_kind ? group : NULL,
                                          items_kind, depth + 1, error) < 0) return -1;
    discovery->whole |= discovery->listed > listed;
    return 0;
}

/* What the API server says instead of an answer. */
static int status_refuse(const char *where, const json_t *status, struct setup_error *error)
{
    char clean[200];
    const char *message = json_word(status, "message");
    say_clean(message ? message : "(without a message)", 200, true, clean, sizeof(clean));
    return setup_fail(error, "%s: this is no answer but an error of the API server: %s", where,
                      clean);
}

static int any_take(struct discovery *discovery, const char *where, const json_t *json,
                    const char *group, const char *kind, int depth, struct setup_error *error)
{
    const char *own = json_word(json, "kind"), *version = json_word(json, "apiVersion");
    kind = own ? own : kind;
    group = version ? version : group ? group : "";
    if (!json_is_object(json) || !kind) {
        sentence_add(&discovery->warnings, NULL, "%s: %s is passed over: it has no \"kind\"", where,
                     json_is_object(json) ? "an object" : "what is no object");
        return 0;
    }
    if (strcmp(kind, "Status") == 0)
        return status_refuse(where, json, error);
    if (!json_is_array(json_object_get(json, "items"))) {
        single_take(discovery, json, group, kind);
        return 0;
    }
    if (depth == NESTED_LISTS)
        return setup_fail(error, "%s: lists in lists, %d deep: no cluster says that", where, depth);
    return list_take(discovery, where, json, group, kind, depth, error);
}

/* ---- documents ---- */

static int text_refuse(const char *where, const char *at, size_t length, const json_error_t *why,
                       struct setup_error *error)
{
    static const char begin[] = "apiVersion:";
    char clean[sizeof(why->text)];
    bool cut = json_error_code(why) == json_error_premature_end_of_input;
    bool yaml = length >= strlen(begin) && memcmp(at, begin, strlen(begin)) == 0;
    say_clean(why->text, sizeof(why->text), true, clean, sizeof(clean));
    return setup_fail(error, "%s: it is no JSON, at line %d, column %d of the document: %s%s",
                      where, why->line, why->column, clean,
                      yaml  ? " (this looks like YAML: kubectl get ... -o json is wanted)"
                      : cut ? " (the end is missing)"
                            : "");
}

/* Return: bytes of the document at @text, 0 after an error. */
static size_t document_take(struct discovery *discovery, const char *where, const char *text,
                            size_t length, struct setup_error *error)
{
    json_error_t why;
    json_t *json = json_loadb(text, length, JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &why);
    if (!json) {
        text_refuse(where, text, length, &why, error);
        return 0;
    }
    int result = any_take(discovery, where, json, NULL, NULL, 0, error);
    json_decref(json);
    return result < 0 ? 0 : (size_t)why.position;
}

int discovery_read(struct discovery *discovery, const char *where, const char *text, size_t length,
                   struct setup_error *error)
{
    const char *at = text, *end = text + length;
    if (length > DISCOVER_INPUT_MOST)
        return setup_fail(error, "%s: it is larger than %u MiB", where, DISCOVER_INPUT_MOST >> 20);
    for (;;) {
        while (at < end && memchr(SPACES, *at, strlen(SPACES)))
            at++;
        if (at == end)
            return 0;
        size_t taken = document_take(discovery, where, at, (size_t)(end - at), error);
        if (!taken)
            return -1;
        at += taken;
    }
}

/* ---- files ---- */

static int input_open(const char *path, const char *where, struct setup_error *error)
{
    struct stat st;
    int fd =
        strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return setup_fail(error, "%s: %s", where, strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return setup_fail(error, "%s: it is a folder: a file is needed", where);
    }
    return fd;
}

/* Return: 0, or -1 with errno. *@text is malloc'd in any case. */
static int input_fill(int fd, char **text, size_t *length)
{
    size_t size = 1u << 16;
    ssize_t n;
    *length = 0;
    *text = state_grow(NULL, size + 1);
    do {
        if (*length == size)
            *text = state_grow(*text, (size *= 2) + 1);
        n = read(fd, *text + *length, size - *length);
        *length += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && *length <= DISCOVER_INPUT_MOST) || (n < 0 && errno == EINTR));
    (*text)[*length] = '\0';
    return n < 0 ? -1 : 0;
}

int discovery_read_file(struct discovery *discovery, const char *path, struct setup_error *error)
{
    const char *where = strcmp(path, "-") == 0 ? "standard input" : path;
    char *text;
    size_t length;
    int fd = input_open(path, where, error);
    if (fd < 0)
        return -1;
    int result = input_fill(fd, &text, &length);
    if (result < 0)
        setup_fail(error, "%s: %s", where, strerror(errno));
    close(fd);
    if (!result && strspn(text, SPACES) == length)
        result = setup_fail(
            error, "%s: it is empty: the output of kubectl get ... -o json is needed", where);
    if (!result)
        result = discovery_read(discovery, where, text, length, error);
    free(text);
    return result;
}
