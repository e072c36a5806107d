/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as what a cluster says, and a configuration that it meets: refused, or a text of a file
 * that the same cluster does not change again. That apply would take it, discovery_write() has made
 * sure of.
 *
 * The first byte says which configuration there is, and what was discovered before.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../tools/setup/discover/discover.h"
#include "../../tools/setup/resources/state.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define POOL "[pool]\nports = 61001-61999\n"
#define TITLE                                                                                      \
    "# Written by \"fixport-setup discover\", whole, each time: put nothing of your own here.\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a person wrote, NULL: nothing, and what is in discover's file, NULL: it is not there. */
static const struct {
    const char *config, *found;
} configs[] = {
    {NULL, NULL},
    {POOL, NULL},
    {POOL "[hosts]\naddresses = 192.168.31.67",
     TITLE "\n[node node1]\naddress = 192.168.31.17\npods = 10.200.1.0/24\n\n[node node7]\n"
           "address = 192.168.31.77\n"},
    {POOL "[node node1]\r\naddress = 192.168.31.17 ; discovered\r\npods = 10.200.1.0/26, \\\r\n "
          "10.200.36.7\r\n",
     TITLE "\n[node node2]\naddress = 192.168.31.45\npods = 10.200.40.0/24\n[node 1\n[node"},
};
#define CONFIGS (sizeof(configs) / sizeof(configs[0]))

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* ---- what it needs of the rest of fixport-setup, which knows of everything ---- */

void *state_grow(void *memory, size_t size)
{
    memory = realloc(memory, size ? size : 1);
    check(memory != NULL);
    return memory;
}

char *state_copy(const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    check(copy || !text);
    return copy;
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

const char *state_line(const char **at, size_t *length)
{
    const char *line = *at;
    if (!*line)
        return NULL;
    *length = strcspn(line, "\n");
    *at = line + *length + (line[*length] == '\n');
    return line;
}

int setup_fail(struct setup_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

/* ---- what must hold ---- */

/* Return: the new text; NULL: refused, or nothing changes (*@same). */
static char *discover(const uint8_t *data, size_t size, const struct discover_place *place,
                      bool *same)
{
    struct discovery discovery = {.nodes = 0};
    struct rewriting rewriting = {.text = NULL};
    struct sentences notes = {.count = 0};
    struct setup_error error = {.text = ""};
    int result = discovery_read(&discovery, "fuzz", (const char *)data, size, &error);
    if (!result)
        result = discovery_resolve(&discovery, &error);
    if (!result)
        services_resolve(&discovery);
    if (!result)
        result = discovery_write(&discovery, place, &rewriting, &error);
    if (!result)
        cni_notes(&discovery, &notes);
    check(result == 0 || (*error.text && !strchr(error.text, '\n')));
    char *made = result ? NULL : state_copy(rewriting.text);
    *same = !result && !made;
    rewriting_free(&rewriting);
    discovery_free(&discovery);
    sentences_free(&notes);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool same;
    if (!size)
        return 0;
    const char *config = configs[data[0] % CONFIGS].config;
    char path[40], file[80];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    check(fd >= 0 && (!config || write(fd, config, strlen(config)) == (ssize_t)strlen(config)));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    snprintf(file, sizeof(file), "%s.d/" DISCOVER_FILE, path);
    struct discover_place place = {path, file, configs[data[0] % CONFIGS].found, !config};
    char *text = discover(data + 1, size - 1, &place, &same);
    if (text) {
        check(strncmp(text, TITLE, strlen(TITLE)) == 0);
        place.text = text;
        check(discover(data + 1, size - 1, &place, &same) == NULL && same);
    }
    free(text);
    close(fd);
    return 0;
}
