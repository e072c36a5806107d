/* SPDX-License-Identifier: MIT */
/*
 * Reading the configuration's lines. iniparser reads the values (ini.c); but it is forgiving
 * where a firewall's ports want strictness: of a key or section that stands twice it silently takes
 * the last, a ';' in the midst of a value ends it, "[]" is ignored, a last line that ends in '\' is
 * lost. So the lines are looked at first, by the same rules as its own, and everything in them must
 * be something that is known and stands once. What remains is iniparser's: lower case, quotes,
 * comments.
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MOST (4u << 20) /* thrice what 5,000 nodes with addresses of both families need */
#define FILE_FIRST (16u << 10)
#define SPACES_MOST 28 /* between "rule" and its name */

/* ---- the file ---- */

/* Return: 0 or -errno. O_NONBLOCK only so that opening a pipe nobody writes to does not hang. */
static int file_open(const struct config_file *file, int *fd)
{
    struct stat st;
    *fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &st) < 0 || fcntl(*fd, F_SETFL, 0) < 0)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    if (S_ISDIR(st.st_mode))
        return config_file_refuse(file, -EISDIR, "it is a folder: a file is needed");
    return 0;
}

/* Makes room for as much again as there is, up to one byte more than a file may have. */
static int file_grow(struct config_file *file, size_t *size)
{
    size_t more = *size ? *size * 2 : FILE_FIRST;
    if (more > FILE_MOST + 1)
        more = FILE_MOST + 1;
    char *text = realloc(file->text, more + 1);
    if (!text)
        return config_file_refuse_memory(file);
    file->text = text;
    *size = more;
    return 0;
}

static int file_fill(struct config_file *file, int fd)
{
    size_t size = 0;
    ssize_t n = 0;
    do {
        if (file->length == size && file_grow(file, &size) < 0)
            return -ENOMEM;
        n = read(fd, file->text + file->length, size - file->length);
        file->length += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && file->length <= FILE_MOST) || (n < 0 && errno == EINTR));
    if (n < 0)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    file->text[file->length] = '\0';
    return 0;
}

/* The number of the line that byte @at of the file is in. */
static unsigned file_line(const struct config_file *file, size_t at)
{
    unsigned line = 1;
    for (size_t i = 0; i < at; i++)
        line += file->text[i] == '\n';
    return line;
}

static int file_read(struct config_file *file)
{
    int fd = -1;
    int error = file_open(file, &fd);
    if (!error)
        error = file_fill(file, fd);
    if (fd >= 0)
        close(fd);
    if (error)
        return error;
    if (file->length > FILE_MOST)
        return config_file_refuse(file, -EFBIG,
                                  "it is larger than 4 MiB, so it is no configuration");
    size_t end = strlen(file->text);
    if (end < file->length)
        return config_file_refuse(file, -EINVAL,
                                  "line %u: a NUL byte stands there, so it is no text file",
                                  file_line(file, end));
    if (!file->text[strspn(file->text, " \t\r\n\v\f")])
        return config_file_refuse(file, -EINVAL,
                                  "it is empty: [pool] and ports = LO-HI are needed");
    return 0;
}

/* ---- its lines ---- */

/* By hand, because the locale may change isspace(). */
bool config_is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(char *text)
{
    size_t length = strlen(text), skip = 0;
    while (length && config_is_space(text[length - 1]))
        length--;
    while (skip < length && config_is_space(text[skip]))
        skip++;
    memmove(text, text + skip, length - skip);
    text[length - skip] = '\0';
}

static void lower(char *text)
{
    for (; *text; text++)
        if (*text >= 'A' && *text <= 'Z')
            *text = (char)(*text - 'A' + 'a');
}

static struct config_section *last_section(const struct config_file *file)
{
    return file->sections ? file->section[file->sections - 1] : NULL;
}

static int line_too_long(const struct config_file *file, const struct config_line *line,
                         size_t length)
{
    const struct config_section *section = last_section(file);
    const char *advice = (section ? section->type : &section_types[SECTION_POOL])->long_list;
    return config_file_refuse(file, -EINVAL,
                              "line %u: %zu bytes are too long for a line: at most %d are allowed"
                              "%s%s%s",
                              line->number, length, CONFIG_LINE_MOST, advice ? " (" : "",
                              advice ? advice : "", advice ? ")" : "");
}

/* Appends the bytes up to the next newline to @line, without spaces at its end. */
static int line_append(const struct config_file *file, const char **at, size_t *length,
                       struct config_line *line)
{
    size_t n = strcspn(*at, "\n");
    if (*length + n > CONFIG_LINE_MOST)
        return line_too_long(file, line, *length + n);
    memcpy(line->text + *length, *at, n);
    *length += n;
    *at += n + ((*at)[n] == '\n');
    while (*length && config_is_space(line->text[*length - 1]))
        --*length;
    line->text[*length] = '\0';
    return 0;
}

/* Takes a line off *@at, and those that continue it; @number counts lines. */
static int line_next(const struct config_file *file, const char **at, unsigned *number,
                     struct config_line *line)
{
    size_t length = 0;
    bool more = true;
    line->number = *number;
    line->offset = (size_t)(*at - file->text);
    while (more) {
        int error = line_append(file, at, &length, line);
        if (error)
            return error;
        ++*number;
        more = length && line->text[length - 1] == '\\';
        if (more && !**at)
            return config_file_refuse_line(file, line,
                                           "the next line belongs to it, but there is none");
        if (more)
            line->text[--length] = '\0';
    }
    trim(line->text);
    return 0;
}

/* ---- sections ---- */

/* Whether a section's name may stand as it is: nothing that could be taken for anything else. */
static int own_name_check(const struct config_file *file, const struct config_line *line,
                          const struct section_type *type, const char *own)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    char why[100] = "";
    if (!*own)
        snprintf(why, sizeof(why), "%s needs a name: %s", type->what, type->label);
    else if (own[strspn(own, allowed)])
        snprintf(why, sizeof(why), "allowed in %s's name are letters, digits, '.', '_' and '-'",
                 type->what);
    else if (*own == '-' && type != &section_types[SECTION_RULE])
        snprintf(why, sizeof(why), "%s's name does not begin with '-'", type->what);
    else if (strlen(own) > type->name_most)
        snprintf(why, sizeof(why), "%s's name has at most %zu letters", type->what,
                 type->name_most);
    return *why ? config_file_refuse_line(file, line, why) : 0;
}

/* For tsearch(): equal is what may not stand twice, whatever spaces it has. */
static int section_compare(const void *left, const void *right)
{
    const struct config_section *a = left, *b = right;
    if (a->type != b->type)
        return a->type < b->type ? -1 : 1;
    return a->own ? strcmp(a->own, b->own) : 0;
}

/* Takes @section over into the file's list, unless it is there already. */
static int section_keep(struct config_file *file, const struct config_line *line,
                        struct config_section *section)
{
    char why[80];
    struct config_section **known = tsearch(section, &file->names, section_compare);
    if (!known)
        return config_file_refuse_memory(file);
    if (*known == section) {
        file->section[file->sections++] = section;
        return 0;
    }
    snprintf(why, sizeof(why), "this section stands in line %u already: one is allowed",
             (*known)->line);
    return config_file_refuse_line(file, line, why);
}

/* Room for one more section. The list doubles whenever its length is a power of two. */
static int sections_grow(struct config_file *file)
{
    size_t count = file->sections;
    if (count & (count - 1))
        return 0;
    struct config_section **more =
        realloc(file->section, sizeof(struct config_section *) * (count ? count * 2 : 1));
    if (!more)
        return config_file_refuse_memory(file);
    file->section = more;
    return 0;
}

/* @own: where its own name begins in @name, or 0. */
static int section_make(struct config_file *file, const struct config_line *line,
                        const struct section_type *type, const char *name, size_t own)
{
    struct config_section *section = calloc(1, sizeof(*section) + strlen(name) + 1);
    if (!section || sections_grow(file) < 0) {
        free(section);
        return config_file_refuse_memory(file);
    }
    strcpy(section->name, name);
    section->type = type;
    section->own = own ? section->name + own : NULL;
    section->line = line->number;
    section->offset = line->offset;
    int error = section_keep(file, line, section);
    if (error)
        free(section);
    return error;
}

/* Takes a section in. @name: "pool" or "rule NAME", lower case. */
static int section_add(struct config_file *file, const struct config_line *line, const char *name)
{
    const struct section_type *type = section_type_find(name);
    size_t own = 0;
    if (!type)
        return config_file_refuse_section(file, line, name);
    if (type->what) {
        size_t word = strlen(type->name);
        own = word + strspn(name + word, " \t\r\n\v\f");
        int error = own_name_check(file, line, type, name + own);
        if (error)
            return error;
        if (own > word + SPACES_MOST)
            return config_file_refuse_line(file, line, "too many spaces: write [KIND NAME]");
    }
    int error = section_make(file, line, type, name, own);
    if (!error && ++file->count[type - section_types] > type->most && type->most)
        return config_file_refuse_line(file, line, "one rule too many: 32 are allowed");
    return error;
}

static int section_line(struct config_file *file, const struct config_line *line)
{
    char name[CONFIG_LINE_MOST + 1];
    size_t length = strlen(line->text);
    if (line->text[length - 1] != ']')
        return config_file_refuse_line(file, line,
                                       "a section stands alone in its line and ends with ']'");
    memcpy(name, line->text + 1, length - 2);
    name[length - 2] = '\0';
    if (strpbrk(name, "[]"))
        return config_file_refuse_line(file, line, "one '[' and one ']' are allowed");
    trim(name);
    lower(name);
    return section_add(file, line, name);
}

/* ---- keys ---- */

/* Why a value would reach us other than it looks; NULL: it will not. */
static const char *value_misread(const char *value)
{
    const char *mark = strpbrk(value, ";#");
    if (*value == '"' || *value == '\'') {
        const char *end = strchr(value + 1, *value);
        if (!end)
            return "the quote is not closed";
        end += 1 + strspn(end + 1, " \t");
        return !*end || *end == ';' || *end == '#' ? NULL : "nothing may follow the closing quote";
    }
    if (mark && mark > value && !config_is_space(mark[-1]))
        return "what follows ';' or '#' is a comment: put a space before it; lists are separated "
               "by commas";
    return NULL;
}

/* @value, with the text as it stands in the file. */
static int value_check(const struct config_file *file, const struct config_section *section,
                       const struct config_value *value)
{
    char twice[80];
    const char *why = value_misread(value->text);
    for (size_t i = 0; i < section->values; i++) {
        const struct config_value *other = &section->value[i];
        if (other->key != value->key || other->number != value->number)
            continue;
        snprintf(twice, sizeof(twice), "given twice, in lines %u and %u: once is allowed",
                 other->line, value->line);
        why = twice;
    }
    return why ? config_file_refuse_value(file, section, value, why) : 0;
}

/* Appends to the section; its text comes from iniparser later. */
static int value_keep(const struct config_file *file, struct config_section *section,
                      const struct config_value *value)
{
    struct config_value *more = realloc(section->value, sizeof(*more) * (section->values + 1));
    if (!more)
        return config_file_refuse_memory(file);
    section->value = more;
    section->value[section->values] = *value;
    section->value[section->values++].text = NULL;
    return 0;
}

/* Takes a key of the last section in. @name: lower case. */
static int key_add(struct config_file *file, const char *name, char *text, unsigned line)
{
    struct config_section *section = last_section(file);
    struct config_value value = {.line = line, .text = text};
    value.key = config_key_find(section->type, name, &value.number);
    if (value.key == KEY_COUNT)
        return config_file_refuse_key(file, section, name, text);
    int error = value_check(file, section, &value);
    return error ? error : value_keep(file, section, &value);
}

static int key_line(struct config_file *file, const struct config_line *line)
{
    char name[CONFIG_LINE_MOST + 1], value[CONFIG_LINE_MOST + 1];
    const char *equals = strchr(line->text, '=');
    if (!equals || equals == line->text)
        return config_file_refuse_line(file, line, "neither [SECTION] nor KEY = VALUE");
    if (!file->sections)
        return config_file_refuse_line(file, line,
                                       "outside of a section: [pool] or [rule NAME] comes first");
    snprintf(name, sizeof(name), "%.*s", (int)(equals - line->text), line->text);
    snprintf(value, sizeof(value), "%s", equals + 1);
    trim(name);
    trim(value);
    lower(name);
    return key_add(file, name, value, line->number);
}

static int lines_read(struct config_file *file)
{
    const char *at = file->text;
    unsigned number = 1;
    struct config_line line;
    while (*at) {
        int error = line_next(file, &at, &number, &line);
        if (!error && *line.text == '[')
            error = section_line(file, &line);
        else if (!error && *line.text && *line.text != '#' && *line.text != ';')
            error = key_line(file, &line);
        if (error)
            return error;
    }
    if (!file->sections)
        return config_file_refuse(file, -EINVAL,
                                  "it says nothing: [pool] and ports = LO-HI are needed");
    return 0;
}

/* ---- all of it ---- */

int config_file_read(struct config_file *file, const char *path, struct config_error *error)
{
    *file = (struct config_file){.path = path, .error = error};
    int result = file_read(file);
    if (!result)
        result = lines_read(file);
    return result ? result : config_file_values(file);
}

static void section_free(struct config_section *section)
{
    for (size_t i = 0; i < section->values; i++)
        free(section->value[i].text);
    free(section->value);
    free(section);
}

static void nothing(void *section)
{
    (void)section;
}

void config_file_free(struct config_file *file)
{
    tdestroy(file->names, nothing);
    for (size_t i = 0; i < file->sections; i++)
        section_free(file->section[i]);
    free(file->section);
    free(file->text);
    *file = (struct config_file){.path = NULL};
}

const struct config_section *config_file_section(const struct config_file *file,
                                                 enum section_kind kind)
{
    for (size_t i = 0; i < file->sections; i++)
        if (file->section[i]->type == &section_types[kind])
            return file->section[i];
    return NULL;
}

const struct config_value *config_section_value(const struct config_section *section,
                                                enum config_key key)
{
    for (size_t i = 0; section && i < section->values; i++)
        if (section->value[i].key == key)
            return &section->value[i];
    return NULL;
}
