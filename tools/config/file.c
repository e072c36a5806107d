/* SPDX-License-Identifier: MIT */
/*
 * Reading the configuration's files and lines. iniparser reads the values (ini.c); but it is
 * forgiving where a firewall's ports want strictness: of a key or section that stands twice it
 * silently takes the last, a ';' in the midst of a value ends it, "[]" is ignored, a last line that
 * ends in '\' is lost. So the lines are looked at first, by the same rules as its own, and
 * everything in them must be something that is known and stands once. What remains is iniparser's:
 * lower case, quotes, comments.
 */
#include "file.h"

#include <dirent.h>
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
#define FILES_MOST 100 /* in the folder */
#define SPACES_MOST 28 /* between "rule" and its name */

#define OPEN_TO_READ (O_RDONLY | O_CLOEXEC | O_NOCTTY)

/* ---- a text ---- */

/* Makes room for as much again as there is, up to one byte more than a file may have. */
static int text_grow(const struct config_file *file, struct config_text *text, size_t *size)
{
    size_t more = *size ? *size * 2 : FILE_FIRST;
    if (more > FILE_MOST + 1)
        more = FILE_MOST + 1;
    char *bytes = realloc(text->bytes, more + 1);
    if (!bytes)
        return config_file_refuse_memory(file);
    text->bytes = bytes;
    *size = more;
    return 0;
}

static int text_fill(const struct config_file *file, struct config_text *text, int fd)
{
    size_t size = 0;
    ssize_t n = 0;
    do {
        if (text->length == size && text_grow(file, text, &size) < 0)
            return -ENOMEM;
        n = read(fd, text->bytes + text->length, size - text->length);
        text->length += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && text->length <= FILE_MOST) || (n < 0 && errno == EINTR));
    if (n < 0)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    text->bytes[text->length] = '\0';
    return 0;
}

/* The number of the line that byte @at of the text is in. */
static unsigned text_line(const struct config_text *text, size_t at)
{
    unsigned line = 1;
    for (size_t i = 0; i < at; i++)
        line += text->bytes[i] == '\n';
    return line;
}

static int text_check(const struct config_file *file, const struct config_text *text)
{
    size_t end = strlen(text->bytes);
    if (text->length > FILE_MOST)
        return config_file_refuse(file, -EFBIG,
                                  "it is larger than 4 MiB, so it is no configuration");
    if (end < text->length)
        return config_file_refuse(file, -EINVAL,
                                  "line %u: a NUL byte stands there, so it is no text file",
                                  text_line(text, end));
    return 0;
}

/* Appends a text without its bytes; what is refused from then on is in it. Takes @path over. */
static struct config_text *text_begin(struct config_file *file, char *path)
{
    struct config_text *text = calloc(1, sizeof(*text));
    struct config_text **more = realloc(file->text, sizeof(*more) * (file->texts + 1));
    file->text = more ? more : file->text;
    if (!path || !text || !more) {
        free(path);
        free(text);
        config_file_refuse_memory(file);
        return NULL;
    }
    text->path = path;
    file->text[file->texts++] = text;
    file->reading = text;
    return text;
}

/* ---- the files: the one that is named, and those in the folder beside it ---- */

/* What stands in for the file at @path; NULL: nothing, it is read. */
static const struct config_overlay *overlay_find(const struct config_overlay *over,
                                                 const char *path)
{
    for (; over && over->path; over++)
        if (strcmp(over->path, path) == 0)
            return over;
    return NULL;
}

static int overlay_read(const struct config_file *file, struct config_text *text, const char *bytes)
{
    text->bytes = strdup(bytes);
    text->length = strlen(bytes);
    return text->bytes ? text_check(file, text) : config_file_refuse_memory(file);
}

static int descriptor_read(const struct config_file *file, struct config_text *text, int fd)
{
    int error = text_fill(file, text, fd);
    return error ? error : text_check(file, text);
}

/*
 * Whether nobody writes there but who may say what the configuration is: root, the user who runs
 * this, the owner of the file that was named. The folder's name was not given by anybody: in /tmp,
 * say, it can be a stranger's.
 */
static int owner_check(const struct config_file *file, const struct stat *st)
{
    if (st->st_uid != 0 && st->st_uid != geteuid() && (!file->owned || st->st_uid != file->owner))
        return config_file_refuse(file, -EPERM,
                                  "it belongs to user %u, who is neither root nor the owner of %s: "
                                  "it is not read as a part of that",
                                  (unsigned)st->st_uid, file->path);
    if (st->st_mode & S_IWOTH)
        return config_file_refuse(
            file, -EPERM, "every user may write to it: it is not read as a part of %s", file->path);
    return 0;
}

/* O_NONBLOCK only so that opening a pipe nobody writes to does not hang. */
static int main_open(struct config_file *file, int *fd)
{
    struct stat st;
    *fd = open(file->path, OPEN_TO_READ | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &st) < 0 || fcntl(*fd, F_SETFL, 0) < 0)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    if (S_ISDIR(st.st_mode))
        return config_file_refuse(file, -EISDIR, "it is a folder: a file is needed");
    file->owned = true;
    file->owner = st.st_uid;
    return 0;
}

static int main_read(struct config_file *file, const struct config_overlay *over)
{
    struct config_text *text = text_begin(file, strdup(file->path));
    const struct config_overlay *other = overlay_find(over, file->path);
    int fd = -1;
    if (!text)
        return -ENOMEM;
    if (other)
        return overlay_read(file, text, other->text);
    int error = main_open(file, &fd);
    if (!error)
        error = descriptor_read(file, text, fd);
    if (fd >= 0)
        close(fd);
    return error;
}

/* Only regular files: a symlink, or a pipe, is not what somebody has put there as a part. */
static int part_open(const struct config_file *file, int folder, const char *name, int *fd)
{
    struct stat st;
    *fd = openat(folder, name, OPEN_TO_READ | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0 && errno == ELOOP)
        return config_file_refuse(file, -ELOOP, "it is a symlink: a file is needed here");
    if (*fd < 0 || fstat(*fd, &st) < 0)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return config_file_refuse(file, -EINVAL, "it is no regular file: one is needed here");
    return owner_check(file, &st);
}

/* @path: of the part; taken over. */
static int part_read(struct config_file *file, int folder, char *path,
                     const struct config_overlay *over)
{
    struct config_text *text = text_begin(file, path);
    int fd = -1;
    if (!text)
        return -ENOMEM;
    const struct config_overlay *other = overlay_find(over, path);
    if (other)
        return overlay_read(file, text, other->text);
    int error = part_open(file, folder, strrchr(path, '/') + 1, &fd);
    if (!error)
        error = descriptor_read(file, text, fd);
    if (fd >= 0)
        close(fd);
    return error;
}

/* The paths of what is in the folder, sorted. */
struct parts {
    char *path[FILES_MOST];
    size_t count;
};

static int part_compare(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static bool name_counts(const char *name)
{
    size_t length = strlen(name), tail = strlen(".conf");
    return *name != '.' && length > tail && strcmp(name + length - tail, ".conf") == 0;
}

static int parts_add(const struct config_file *file, struct parts *parts, const char *path)
{
    if (parts->count == FILES_MOST)
        return config_file_refuse(file, -E2BIG, "more than %d files ending in .conf are in it",
                                  FILES_MOST);
    parts->path[parts->count] = strdup(path);
    return parts->path[parts->count++] ? 0 : config_file_refuse_memory(file);
}

/* What is in the folder, and what shall be taken as if it were. */
static int parts_list(const struct config_file *file, int fd, const char *folder,
                      const struct config_overlay *over, struct parts *parts)
{
    char path[PATH_MAX + 300];
    size_t length = strlen(folder);
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3), error = 0;
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    if (fd >= 0 && !list)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    for (struct dirent *item; !error && list && (item = readdir(list));) {
        snprintf(path, sizeof(path), "%s/%s", folder, item->d_name);
        if (name_counts(item->d_name) && !overlay_find(over, path))
            error = parts_add(file, parts, path);
    }
    if (list)
        closedir(list);
    for (; !error && over && over->path; over++)
        if (over->text && strncmp(over->path, folder, length) == 0 && over->path[length] == '/')
            error = parts_add(file, parts, over->path);
    qsort(parts->path, parts->count, sizeof(*parts->path), part_compare);
    return error;
}

/* Return: 0 also if there is none: *@fd is -1 then. */
static int folder_open(const struct config_file *file, const char *folder, int *fd)
{
    struct stat st;
    *fd = open(folder, OPEN_TO_READ | O_DIRECTORY | O_NOFOLLOW);
    if (*fd < 0 && (errno == ENOENT || errno == ENAMETOOLONG))
        return 0;
    if (*fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return config_file_refuse(file, -ENOTDIR,
                                  "it is no folder: one with further parts of %s could be there",
                                  file->path);
    if (*fd < 0 || fstat(*fd, &st) < 0)
        return config_file_refuse(file, -errno, "%s", strerror(errno));
    return owner_check(file, &st);
}

static int lines_read(struct config_file *file);

static int folder_read(struct config_file *file, const struct config_overlay *over)
{
    char folder[PATH_MAX + 4];
    struct config_text as_text = {.path = folder};
    struct parts parts = {.count = 0};
    size_t next = 0;
    int fd, error;
    snprintf(folder, sizeof(folder), "%s.d", file->path);
    file->reading = &as_text;
    error = folder_open(file, folder, &fd);
    if (!error)
        error = parts_list(file, fd, folder, over, &parts);
    while (!error && next < parts.count) {
        error = part_read(file, fd, parts.path[next++], over);
        if (!error)
            error = lines_read(file);
    }
    while (next < parts.count)
        free(parts.path[next++]);
    if (fd >= 0)
        close(fd);
    file->reading = NULL;
    return error;
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

/* Of the text that is read. */
static struct config_section *last_section(const struct config_file *file)
{
    struct config_section *last = file->sections ? file->section[file->sections - 1] : NULL;
    return last && last->from == file->reading ? last : NULL;
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
    line->offset = (size_t)(*at - file->reading->bytes);
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
    char why[CONFIG_PLACE + 80], place[CONFIG_PLACE];
    struct config_section **known = tsearch(section, &file->names, section_compare);
    if (!known)
        return config_file_refuse_memory(file);
    if (*known == section) {
        file->section[file->sections++] = section;
        return 0;
    }
    snprintf(why, sizeof(why), "this section stands in %s already: one is allowed",
             config_place(*known, (*known)->line, section, place));
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
    section->from = file->reading;
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
    if (!last_section(file))
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
    const char *at = file->reading->bytes;
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
    return 0;
}

/* ---- all of it ---- */

int config_file_read(struct config_file *file, const char *path, const struct config_overlay *over,
                     struct config_error *error)
{
    *file = (struct config_file){.path = path, .error = error};
    int result = main_read(file, over);
    if (!result)
        result = lines_read(file);
    if (!result)
        result = folder_read(file, over);
    if (!result && !file->sections)
        result = config_file_refuse(
            file, -EINVAL, "it %s: [pool] and ports = LO-HI are needed",
            file->text[0]->bytes[strspn(file->text[0]->bytes, " \t\r\n\v\f")] ? "says nothing"
                                                                              : "is empty");
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
    for (size_t i = 0; i < file->texts; i++) {
        free(file->text[i]->path);
        free(file->text[i]->bytes);
        free(file->text[i]);
    }
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

const struct config_section *config_file_named(const struct config_file *file,
                                               enum section_kind kind, const char *own)
{
    const struct config_section key = {.type = &section_types[kind], .own = own};
    struct config_section *const *found = tfind(&key, &file->names, section_compare);
    return found ? *found : NULL;
}

const struct config_value *config_section_value(const struct config_section *section,
                                                enum config_key key)
{
    for (size_t i = 0; section && i < section->values; i++)
        if (section->value[i].key == key)
            return &section->value[i];
    return NULL;
}
