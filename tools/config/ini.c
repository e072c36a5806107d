/* SPDX-License-Identifier: MIT */
/*
 * The values, by iniparser: what it makes of lines that file.c has found to be unambiguous.
 *
 * It gets copies of the text that was read: so a pipe will do, and nobody can change the file
 * between the two readings. It gets some sections at a time, because for each new name it looks at
 * all that it has: a cluster of 5,000 nodes would take seconds.
 */
#include "file.h"

#if __has_include(<iniparser/iniparser.h>)
#include <iniparser/iniparser.h>
#else
#include <iniparser.h>
#endif

#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PART_NAMES 400 /* what it gets at once, about */

/* Some sections of a text in a row, and the text from the first's line on to the end of the last.
 */
struct part {
    size_t first;
    size_t end;   /* the section after them */
    size_t names; /* sections and keys */
};

static char iniparser_said[160];

/* Its messages would go to stderr. */
static int __attribute__((format(printf, 1, 2))) iniparser_listen(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(iniparser_said, sizeof(iniparser_said), format, args);
    va_end(args);
    return length;
}

/* Return: 0 or -errno. */
static int write_whole(int fd, const char *text, size_t length)
{
    while (length) {
        ssize_t n = write(fd, text, length);
        if (n < 0 && errno != EINTR)
            return -errno;
        text += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Whether the section behind @section is another one of the same text. */
static bool goes_on(const struct config_file *file, size_t section)
{
    return section + 1 < file->sections &&
           file->section[section + 1]->from == file->section[section]->from;
}

/* A file that holds the part's text, and its name. Return: a descriptor or -errno. */
static int copy_make(const struct config_file *file, const struct part *part, char *name,
                     size_t size)
{
    const struct config_section *first = file->section[part->first];
    size_t end =
        goes_on(file, part->end - 1) ? file->section[part->end]->offset : first->from->length;
    int fd = memfd_create("fixport.conf", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = write_whole(fd, first->from->bytes + first->offset, end - first->offset);
    if (error) {
        close(fd);
        return error;
    }
    snprintf(name, size, "/proc/self/fd/%d", fd);
    return fd;
}

/* In the C locale: in a Turkish one tolower('I') is no 'i'. */
static dictionary *copy_load(const char *name)
{
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before = uselocale(plain);
    iniparser_said[0] = '\0';
    iniparser_set_error_callback(iniparser_listen);
    dictionary *values = iniparser_load(name);
    iniparser_set_error_callback(NULL);
    uselocale(before);
    if (plain)
        freelocale(plain);
    return values;
}

static int values_take(const struct config_file *file, const struct config_section *section,
                       const dictionary *values)
{
    char name[CONFIG_LINE_MOST + 40];
    for (size_t i = 0; i < section->values; i++) {
        struct config_value *value = &section->value[i];
        config_value_name(section, value, name, sizeof(name));
        value->text = strdup(iniparser_getstring(values, name, ""));
        if (!value->text)
            return config_file_refuse_memory(file);
    }
    return 0;
}

static int part_load(const struct config_file *file, const struct part *part)
{
    char name[32], said[sizeof(iniparser_said) + 4];
    int error = 0;
    int fd = copy_make(file, part, name, sizeof(name));
    if (fd < 0)
        return config_file_refuse(file, fd, "it cannot be copied for iniparser: %s", strerror(-fd));
    dictionary *values = copy_load(name);
    close(fd);
    if (!values)
        return config_file_refuse(file, -EINVAL, "iniparser cannot read it: %s",
                                  config_shown(iniparser_said, sizeof(iniparser_said), said));
    /* If the two readings ever differ, whose is right? */
    if ((size_t)values->n != part->names)
        error = config_file_refuse(file, -EINVAL, "iniparser finds %d names in it, and fixport %zu",
                                   values->n, part->names);
    for (size_t i = part->first; !error && i < part->end; i++)
        error = values_take(file, file->section[i], values);
    iniparser_freedict(values);
    return error;
}

int config_file_values(const struct config_file *file)
{
    struct part part = {.end = 0};
    while (part.end < file->sections) {
        part.first = part.end;
        part.names = 0;
        do
            part.names += 1 + file->section[part.end++]->values;
        while (goes_on(file, part.end - 1) && part.names < PART_NAMES);
        int error = part_load(file, &part);
        if (error)
            return error;
    }
    return 0;
}
