/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as what a cluster says, and a configuration that it meets: refused, or a text of which
 * a person's lines are the same as before, and which the same cluster does not change again. That
 * apply would take it, discovery_write() has made sure of.
 *
 * The first byte says which configuration there is.
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const configs[] = {
    NULL,
    POOL,
    POOL "# two of them\n[node node1]\naddress = 192.168.31.17 ; discovered\n"
         "pods = 10.200.1.0/24 ; discovered\n# and\n\n[node node7]\n"
         "address = 192.168.31.77 ; discovered\n\n[hosts]\naddresses = 192.168.31.67",
    POOL "[node node1]\r\naddress = 192.168.31.17\r\npods = 10.200.1.0/26, \\\r\n 10.200.36.7\r\n"
         "pods-2 = 10.200.9.0/24 ; discovered\r\n[node node2]\r\n"
         "address = 192.168.31.45 ; discovered\r\npods = 10.200.40.0/24\r\n",
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

int run_input(const char *text)
{
    int fd = memfd_create("input", MFD_CLOEXEC);
    check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    return fd;
}

/* ---- what must hold ---- */

static bool is_marked(const char *line, size_t length)
{
    const size_t mark = strlen(DISCOVER_MARK);
    while (length && config_is_space(line[length - 1]))
        length--;
    return length > mark && memcmp(line + length - mark, DISCOVER_MARK, mark) == 0;
}

/* A person's lines, but for empty ones and names of sections, which may go with what is in them. */
static void check_lines(const char *before, const char *after)
{
    const char *line, *at = before;
    size_t length;
    while ((line = state_line(&at, &length))) {
        if (is_marked(line, length) || !length || *line == '[')
            continue;
        const char *found = memmem(after, strlen(after), line, length);
        check(found != NULL);
        after = found + length;
    }
}

/* Return: the new text; NULL: refused, or nothing changes (*@same). */
static char *discover(const uint8_t *data, size_t size, const char *text, bool *same)
{
    struct discovery discovery = {.nodes = 0};
    struct rewriting rewriting = {.text = NULL};
    struct sentences notes = {.count = 0};
    struct setup_error error = {.text = ""};
    int result = discovery_read(&discovery, "fuzz", (const char *)data, size, &error);
    if (!result)
        result = discovery_resolve(&discovery, &error);
    if (!result)
        result = discovery_write(&discovery, "fuzz.conf", text, &rewriting, &error);
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
    const char *config = configs[data[0] % CONFIGS];
    char *text = discover(data + 1, size - 1, config, &same);
    if (text) {
        check_lines(config ? config : "", text);
        check(discover(data + 1, size - 1, text, &same) == NULL && same);
    }
    free(text);
    return 0;
}
