/* SPDX-License-Identifier: MIT */
/*
 * Reading the configuration. iniparser reads the values; but it is forgiving where a firewall's
 * ports want strictness: of a key or section that stands twice it silently takes the last, a ';'
 * in the midst of a value ends it, "[]" is ignored, a last line that ends in '\' is lost. So the
 * lines are looked at first, by the same rules as its own, and everything in them must be
 * something that is known and stands once. What remains is iniparser's: lower case, quotes,
 * comments.
 *
 * The file is read once and iniparser gets a copy: so a pipe will do, and nobody can change the
 * file between the two readings.
 */
#include "config.h"

#if __has_include(<iniparser/iniparser.h>)
#include <iniparser/iniparser.h>
#else
#include <iniparser.h>
#endif

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MOST (1u << 20)
#define LINE_MOST 1022 /* ASCIILINESZ in iniparser.c, less a newline and a NUL */
#define SHOWN_PATH 300 /* bytes of a path, of a value, of a name that a message shows */
#define SHOWN_VALUE 160
#define SHOWN_NAME 60
#define SECTION_MOST 64 /* bytes of "rule NAME", with the NUL */
#define SECTIONS (1 + POLICY_RULES)

enum key {
    KEY_PORTS,
    KEY_PATH,
    KEY_TO,
    KEY_QUARANTINE,
    KEY_EXHAUSTED,
    KEY_MODE,
    KEY_GROUP,
    KEY_LANES,
    KEY_COUNT,
};

enum { IN_POOL = 1, IN_RULE = 2 };

static const struct {
    const char *name;
    unsigned where;
} keys[KEY_COUNT] = {
    [KEY_PORTS] = {"ports", IN_POOL | IN_RULE},
    [KEY_PATH] = {"path", IN_POOL},
    [KEY_TO] = {"to", IN_RULE},
    [KEY_QUARANTINE] = {"quarantine", IN_POOL},
    [KEY_EXHAUSTED] = {"when-exhausted", IN_POOL | IN_RULE},
    [KEY_MODE] = {"mode", IN_POOL},
    [KEY_GROUP] = {"group", IN_POOL},
    [KEY_LANES] = {"lanes", IN_POOL},
};

/* A section as it stands in the file, its name as iniparser has it. */
struct section {
    char name[SECTION_MOST]; /* "pool", "rule databases" */
    const char *rule;        /* in name: "databases"; NULL for [pool] */
    unsigned line;
    unsigned key_line[KEY_COUNT]; /* 0: not there */
};

struct loader {
    const char *path;
    struct config_error *error;
    char *text; /* the file, NUL-terminated */
    size_t length;
    dictionary *values;
    struct section section[SECTIONS]; /* in the file's order */
    unsigned sections;
    struct config config;
};

/* A line as iniparser sees it: continued ones joined, without the spaces around. */
struct line {
    char text[LINE_MOST + 1];
    unsigned number; /* in the file, of its first part */
};

/* ---- saying what is wrong ---- */

/* Text of the file made harmless: printable ASCII, cut at @most bytes. @buf: room for most + 4. */
static const char *shown(const char *text, size_t most, char *buf)
{
    size_t i = 0;
    for (; text[i] && i < most; i++)
        buf[i] = text[i] < ' ' || text[i] > '~' ? '?' : text[i];
    memcpy(buf + i, text[i] ? "..." : "", text[i] ? 4 : 1);
    return buf;
}

/* A file's name may be in any language; of a long one the end tells more. */
static const char *shown_path(const char *path, char buf[SHOWN_PATH + 4])
{
    size_t length = strlen(path);
    bool cut = length > SHOWN_PATH;
    snprintf(buf, SHOWN_PATH + 4, "%s%s", cut ? "..." : "",
             cut ? path + length - SHOWN_PATH : path);
    for (char *at = buf; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            *at = '?';
    return buf;
}

/* One line: "PATH: ...". Return: @error. */
static int __attribute__((format(printf, 3, 4)))
refuse(const struct loader *loader, int error, const char *format, ...)
{
    char path[SHOWN_PATH + 4];
    char *line = loader->error->text;
    size_t size = sizeof(loader->error->text);
    size_t at = (size_t)snprintf(line, size, "%s: ", shown_path(loader->path, path));
    va_list args;
    va_start(args, format);
    vsnprintf(line + at, size - at, format, args);
    va_end(args);
    return error;
}

/* "PATH: [rule databases] ports = "60001-80001": @why" */
static int refuse_value(const struct loader *loader, const struct section *section, const char *key,
                        const char *value, const char *why)
{
    char key_shown[SHOWN_NAME + 4], value_shown[SHOWN_VALUE + 4];
    return refuse(loader, -EINVAL, "[%s] %s = \"%s\": %s", section->name,
                  shown(key, SHOWN_NAME, key_shown), shown(value, SHOWN_VALUE, value_shown), why);
}

/* "PATH: line 7: "what stands there": @why" */
static int refuse_line(const struct loader *loader, const struct line *line, const char *why)
{
    char text[SHOWN_VALUE + 4];
    return refuse(loader, -EINVAL, "line %u: \"%s\": %s", line->number,
                  shown(line->text, SHOWN_VALUE, text), why);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many letters to change, insert or leave out to make one word the other (Levenshtein). */
static size_t distance(const char *a, const char *b)
{
    size_t row[SHOWN_NAME + 1], length = strlen(b);
    if (length > SHOWN_NAME || strlen(a) > SHOWN_NAME)
        return SIZE_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            size_t changed = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = least(changed, least(row[j], row[j - 1]) + 1);
        }
    }
    return row[length];
}

/* Whether somebody who wrote @word may have meant @meant: a letter wrong in each two or three. */
static bool resembles(const char *word, const char *meant)
{
    return distance(word, meant) <= least(3, strlen(meant) / 2);
}

static unsigned section_kind(const struct section *section)
{
    return section->rule ? IN_RULE : IN_POOL;
}

static int refuse_key(const struct loader *loader, const struct section *section, const char *key,
                      const char *value)
{
    char why[160] = "unknown key: allowed are ";
    const char *nearest = NULL, *separator = "";
    for (int i = 0; i < KEY_COUNT; i++) {
        if (!(keys[i].where & section_kind(section)))
            continue;
        if (resembles(key, keys[i].name) &&
            (!nearest || distance(key, keys[i].name) < distance(key, nearest)))
            nearest = keys[i].name;
        size_t at = strlen(why);
        snprintf(why + at, sizeof(why) - at, "%s%s", separator, keys[i].name);
        separator = ", ";
    }
    if (nearest)
        snprintf(why, sizeof(why), "unknown key: did you mean '%s'?", nearest);
    return refuse_value(loader, section, key, value, why);
}

/* ---- the file ---- */

/* Return: 0 or -errno. O_NONBLOCK only so that opening a pipe nobody writes to does not hang. */
static int file_open(const struct loader *loader, int *fd)
{
    struct stat st;
    *fd = open(loader->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &st) < 0 || fcntl(*fd, F_SETFL, 0) < 0)
        return refuse(loader, -errno, "%s", strerror(errno));
    if (S_ISDIR(st.st_mode))
        return refuse(loader, -EISDIR, "it is a folder: a file is needed");
    return 0;
}

static int file_fill(struct loader *loader, int fd)
{
    ssize_t n;
    loader->text = malloc(FILE_MOST + 2);
    if (!loader->text)
        return refuse(loader, -ENOMEM, "%s", strerror(ENOMEM));
    do {
        n = read(fd, loader->text + loader->length, FILE_MOST + 1 - loader->length);
        loader->length += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    if (n < 0)
        return refuse(loader, -errno, "%s", strerror(errno));
    loader->text[loader->length] = '\0';
    return 0;
}

/* The number of the line that byte @at of the file is in. */
static unsigned file_line(const struct loader *loader, size_t at)
{
    unsigned line = 1;
    for (size_t i = 0; i < at; i++)
        line += loader->text[i] == '\n';
    return line;
}

static int file_read(struct loader *loader)
{
    int fd = -1;
    int error = file_open(loader, &fd);
    if (!error)
        error = file_fill(loader, fd);
    if (fd >= 0)
        close(fd);
    if (error)
        return error;
    if (loader->length > FILE_MOST)
        return refuse(loader, -EFBIG, "it is larger than 1 MiB, so it is no configuration");
    size_t end = strlen(loader->text);
    if (end < loader->length)
        return refuse(loader, -EINVAL, "line %u: a NUL byte stands there, so it is no text file",
                      file_line(loader, end));
    if (!loader->text[strspn(loader->text, " \t\r\n\v\f")])
        return refuse(loader, -EINVAL, "it is empty: [pool] and ports = LO-HI are needed");
    return 0;
}

/* ---- its lines ---- */

/* The spaces that iniparser takes off; by hand, because the locale may change isspace(). */
static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(char *text)
{
    size_t length = strlen(text), skip = 0;
    while (length && is_space(text[length - 1]))
        length--;
    while (skip < length && is_space(text[skip]))
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

/* Appends the bytes up to the next newline to @line, without spaces at its end. */
static int line_append(const struct loader *loader, const char **at, size_t *length,
                       struct line *line)
{
    size_t n = strcspn(*at, "\n");
    if (*length + n > LINE_MOST)
        return refuse(loader, -EINVAL,
                      "line %u: %zu bytes are too long for a line: at most %d are allowed (a long "
                      "list can be spread over several rules)",
                      line->number, *length + n, LINE_MOST);
    memcpy(line->text + *length, *at, n);
    *length += n;
    *at += n + ((*at)[n] == '\n');
    while (*length && is_space(line->text[*length - 1]))
        --*length;
    line->text[*length] = '\0';
    return 0;
}

/* Takes a line off *@at, and those that continue it; @number counts lines. */
static int line_next(const struct loader *loader, const char **at, unsigned *number,
                     struct line *line)
{
    size_t length = 0;
    bool more = true;
    line->number = *number;
    while (more) {
        int error = line_append(loader, at, &length, line);
        if (error)
            return error;
        ++*number;
        more = length && line->text[length - 1] == '\\';
        if (more && !**at)
            return refuse_line(loader, line, "the next line belongs to it, but there is none");
        if (more)
            line->text[--length] = '\0';
    }
    trim(line->text);
    return 0;
}

static int refuse_section(const struct loader *loader, const struct line *line, const char *name)
{
    char word[SHOWN_NAME + 4], why[120];
    shown(name, SHOWN_NAME, word);
    word[strcspn(word, " ")] = '\0';
    snprintf(why, sizeof(why), "unknown section: %s",
             resembles(word, "pool")   ? "did you mean [pool]?"
             : resembles(word, "rule") ? "did you mean [rule NAME]?"
                                       : "allowed are [pool] and [rule NAME]");
    return refuse_line(loader, line, why);
}

/* Where the rule's name begins in "rule NAME"; NULL if it is no such section. */
static const char *rule_name(const char *section)
{
    size_t skip = strlen("rule");
    if (strncmp(section, "rule", skip) != 0 || (section[skip] && !is_space(section[skip])))
        return NULL;
    while (is_space(section[skip]))
        skip++;
    return section + skip;
}

static int rule_name_check(const struct loader *loader, const struct line *line, const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(name);
    if (!length)
        return refuse_line(loader, line, "a rule needs a name: [rule NAME]");
    if (name[strspn(name, allowed)])
        return refuse_line(loader, line,
                           "allowed in a rule's name are letters, digits, '.', '_' and '-'");
    if (length >= POLICY_NAME)
        return refuse_line(loader, line, "a rule's name has at most 31 letters");
    return 0;
}

static int section_twice(const struct loader *loader, const struct line *line, const char *rule)
{
    char why[80];
    for (unsigned i = 0; i < loader->sections; i++) {
        const struct section *other = &loader->section[i];
        if (rule && other->rule ? strcmp(rule, other->rule) != 0 : rule || other->rule)
            continue;
        snprintf(why, sizeof(why), "this section stands in line %u already: one is allowed",
                 other->line);
        return refuse_line(loader, line, why);
    }
    return 0;
}

static unsigned rules_found(const struct loader *loader)
{
    unsigned rules = 0;
    for (unsigned i = 0; i < loader->sections; i++)
        rules += loader->section[i].rule != NULL;
    return rules;
}

/* Takes a section in. @name: "pool" or "rule NAME", lower case. */
static int section_add(struct loader *loader, const struct line *line, const char *name)
{
    const char *rule = rule_name(name);
    if (!rule && strcmp(name, "pool") != 0)
        return refuse_section(loader, line, name);
    int error = rule ? rule_name_check(loader, line, rule) : 0;
    if (!error)
        error = section_twice(loader, line, rule);
    if (error)
        return error;
    if (strlen(name) >= SECTION_MOST)
        return refuse_line(loader, line, "too many spaces: write [rule NAME]");
    if (rule && rules_found(loader) == POLICY_RULES)
        return refuse_line(loader, line, "one rule too many: 32 are allowed");
    struct section *section = &loader->section[loader->sections++];
    memset(section, 0, sizeof(*section));
    memcpy(section->name, name, strlen(name) + 1);
    section->rule = rule_name(section->name);
    section->line = line->number;
    return 0;
}

static int section_line(struct loader *loader, const struct line *line)
{
    char name[LINE_MOST + 1];
    size_t length = strlen(line->text);
    if (line->text[length - 1] != ']')
        return refuse_line(loader, line, "a section stands alone in its line and ends with ']'");
    memcpy(name, line->text + 1, length - 2);
    name[length - 2] = '\0';
    if (strpbrk(name, "[]"))
        return refuse_line(loader, line, "one '[' and one ']' are allowed");
    trim(name);
    lower(name);
    return section_add(loader, line, name);
}

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
    if (mark && mark > value && !is_space(mark[-1]))
        return "what follows ';' or '#' is a comment: put a space before it; lists are separated "
               "by commas";
    return NULL;
}

static int key_twice(const struct loader *loader, const struct section *section, enum key key,
                     const char *value, unsigned line)
{
    char why[80];
    snprintf(why, sizeof(why), "given twice, in lines %u and %u: once is allowed",
             section->key_line[key], line);
    return refuse_value(loader, section, keys[key].name, value, why);
}

/* Takes a key of the last section in. @name: lower case. */
static int key_add(struct loader *loader, const char *name, const char *value, unsigned line)
{
    struct section *section = &loader->section[loader->sections - 1];
    const char *misread = value_misread(value);
    for (int i = 0; i < KEY_COUNT; i++) {
        if (strcmp(name, keys[i].name) != 0)
            continue;
        if (!(keys[i].where & section_kind(section)))
            return refuse_value(loader, section, name, value,
                                section->rule ? "this key belongs in [pool]"
                                              : "this key belongs in a [rule NAME]");
        if (section->key_line[i])
            return key_twice(loader, section, (enum key)i, value, line);
        section->key_line[i] = line;
        return misread ? refuse_value(loader, section, name, value, misread) : 0;
    }
    return refuse_key(loader, section, name, value);
}

static int key_line(struct loader *loader, const struct line *line)
{
    char name[LINE_MOST + 1], value[LINE_MOST + 1];
    const char *equals = strchr(line->text, '=');
    if (!equals || equals == line->text)
        return refuse_line(loader, line, "neither [SECTION] nor KEY = VALUE");
    if (!loader->sections)
        return refuse_line(loader, line, "outside of a section: [pool] or [rule NAME] comes first");
    snprintf(name, sizeof(name), "%.*s", (int)(equals - line->text), line->text);
    snprintf(value, sizeof(value), "%s", equals + 1);
    trim(name);
    trim(value);
    lower(name);
    return key_add(loader, name, value, line->number);
}

static int lines_read(struct loader *loader)
{
    const char *at = loader->text;
    unsigned number = 1;
    struct line line;
    while (*at) {
        int error = line_next(loader, &at, &number, &line);
        if (!error && *line.text == '[')
            error = section_line(loader, &line);
        else if (!error && *line.text && *line.text != '#' && *line.text != ';')
            error = key_line(loader, &line);
        if (error)
            return error;
    }
    if (!loader->sections)
        return refuse(loader, -EINVAL, "it says nothing: [pool] and ports = LO-HI are needed");
    return 0;
}

/* ---- iniparser ---- */

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

/* A file that holds @loader's text, and its name. Return: a descriptor or -errno. */
static int copy_make(const struct loader *loader, char *name, size_t size)
{
    int fd = memfd_create("fixport.conf", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (size_t done = 0; done < loader->length;) {
        ssize_t n = write(fd, loader->text + done, loader->length - done);
        if (n < 0 && errno != EINTR) {
            int error = -errno;
            close(fd);
            return error;
        }
        done += n > 0 ? (size_t)n : 0;
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

static int values_count(const struct loader *loader)
{
    int count = (int)loader->sections;
    for (unsigned i = 0; i < loader->sections; i++)
        for (int key = 0; key < KEY_COUNT; key++)
            count += loader->section[i].key_line[key] != 0;
    return count;
}

static int values_load(struct loader *loader)
{
    char name[32], said[sizeof(iniparser_said) + 4];
    int fd = copy_make(loader, name, sizeof(name));
    if (fd < 0)
        return refuse(loader, fd, "it cannot be copied for iniparser: %s", strerror(-fd));
    loader->values = copy_load(name);
    close(fd);
    if (!loader->values)
        return refuse(loader, -EINVAL, "iniparser cannot read it: %s",
                      shown(iniparser_said, sizeof(iniparser_said), said));
    /* If the two readings ever differ, whose is right? */
    if (loader->values->n != values_count(loader))
        return refuse(loader, -EINVAL, "iniparser finds %d names in it, and fixport %d",
                      loader->values->n, values_count(loader));
    return 0;
}

/* A key's value; NULL: it is not there. */
static const char *value_of(const struct loader *loader, const struct section *section,
                            enum key key)
{
    char name[SECTION_MOST + 32];
    if (!section || !section->key_line[key])
        return NULL;
    snprintf(name, sizeof(name), "%s:%s", section->name, keys[key].name);
    return iniparser_getstring(loader->values, name, "");
}

/* ---- single values; each gives a value, or a reason that goes behind it ---- */

/* Decimal digits only. Return: how many; @number is cut at UINT32_MAX. */
static size_t number_read(const char *text, uint32_t *number)
{
    uint64_t sum = 0;
    size_t n = 0;
    for (; text[n] >= '0' && text[n] <= '9'; n++) {
        sum = sum * 10 + (uint64_t)(text[n] - '0');
        sum = sum > UINT32_MAX ? UINT32_MAX : sum;
    }
    *number = (uint32_t)sum;
    return n;
}

/* "120", "120s", "2m", "500ms", "1h" in ms, cut at UINT32_MAX. Return: whether it is one. */
static bool duration_read(const char *text, uint32_t *ms)
{
    static const struct {
        const char *unit;
        uint32_t ms;
    } units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    uint32_t number;
    size_t digits = number_read(text, &number);
    const char *unit = text + digits + strspn(text + digits, " \t");
    for (size_t i = 0; digits && i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].unit) == 0) {
            uint64_t whole = (uint64_t)number * units[i].ms;
            *ms = whole > UINT32_MAX ? UINT32_MAX : (uint32_t)whole;
            return true;
        }
    }
    return false;
}

static const char *quarantine_read(const char *text, struct config *config)
{
    if (!duration_read(text, &config->policy.quarantine_ms))
        return "allowed are 0 to 24h, such as 120, 120s, 2m or 500ms";
    return config->policy.quarantine_ms <= POLICY_QUARANTINE_MAX_MS
               ? NULL
               : "too long: allowed are 0 to 24h";
}

/* What happens when no port is left. */
struct exhausted {
    uint8_t action; /* enum policy_exhausted */
    uint32_t wait_ms;
};

static const char *exhausted_read(const char *text, struct exhausted *exhausted)
{
    const size_t word = strlen("wait");
    *exhausted = (struct exhausted){.action = POLICY_FAIL};
    if (strcmp(text, "fail") == 0)
        return NULL;
    exhausted->action = POLICY_PASS;
    if (strcmp(text, "pass") == 0)
        return NULL;
    exhausted->action = POLICY_WAIT;
    if (strncmp(text, "wait", word) != 0 || !is_space(text[word]) ||
        !duration_read(text + word + strspn(text + word, " \t"), &exhausted->wait_ms))
        return "allowed are fail, pass, and wait with a duration such as wait 500ms";
    if (exhausted->wait_ms < 1 || exhausted->wait_ms > POLICY_WAIT_MAX_MS)
        return "allowed are waits from 1ms to 10m";
    return NULL;
}

static const char *path_read(const char *text, struct config *config)
{
    size_t length = strlen(text);
    if (*text != '/' || text[length - 1] == '/')
        return "a file's absolute path is needed, such as " POOL_DEFAULT_PATH;
    if (length >= sizeof(config->pool_path))
        return "too long: at most 255 bytes are allowed";
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            return "control characters are not allowed";
    memcpy(config->pool_path, text, length + 1);
    return NULL;
}

static const char *mode_read(const char *text, struct config *config)
{
    unsigned mode = 0;
    size_t digits = strspn(text, "01234567");
    for (size_t i = 0; i < digits && i < 4; i++)
        mode = mode << 3 | (unsigned)(text[i] - '0');
    if (digits < 3 || digits > 4 || text[digits] || (mode & ~0666u) || (mode & 0600) != 0600)
        return "allowed are 0600 to 0666, octal, of digits 0, 2, 4 and 6: a pool is read and "
               "written";
    config->options.mode = (mode_t)mode;
    return NULL;
}

static const char *group_read(const char *text, struct config *config)
{
    uint32_t number;
    size_t digits = number_read(text, &number);
    const struct group *group = NULL;
    if (digits && !text[digits]) {
        if (number == UINT32_MAX)
            return "no group has this number";
        config->options.group = (gid_t)number;
        return NULL;
    }
    if (*text)
        group = getgrnam(text);
    if (!group)
        return "there is no such group: allowed are a group's name or number";
    config->options.group = group->gr_gid;
    return NULL;
}

_Static_assert(POOL_LANES_MIN == 2 && POOL_LANES_MAX == 4096, "a message says so");

static const char *lanes_read(const char *text, struct config *config)
{
    uint32_t number;
    size_t digits = number_read(text, &number);
    if (!digits || text[digits] || number < POOL_LANES_MIN || number > POOL_LANES_MAX)
        return "allowed are 2 to 4096";
    config->options.lanes = number;
    return NULL;
}

/* ---- putting it together ---- */

static void config_begin(struct config *config)
{
    memset(config, 0, sizeof(*config));
    policy_init(&config->policy);
    config->options.mode = geteuid() == 0 ? 0666 : 0600;
    config->options.group = (gid_t)-1;
}

static const struct section *pool_section(const struct loader *loader)
{
    for (unsigned i = 0; i < loader->sections; i++)
        if (!loader->section[i].rule)
            return &loader->section[i];
    return NULL;
}

/* The values of [pool] that are one number or name each. */
static int pool_values(struct loader *loader, const struct section *section)
{
    static const struct {
        enum key key;
        const char *(*read)(const char *text, struct config *config);
    } readers[] = {
        {KEY_PATH, path_read},   {KEY_QUARANTINE, quarantine_read}, {KEY_MODE, mode_read},
        {KEY_GROUP, group_read}, {KEY_LANES, lanes_read},
    };
    for (size_t i = 0; i < sizeof(readers) / sizeof(readers[0]); i++) {
        const char *value = value_of(loader, section, readers[i].key);
        const char *why = value ? readers[i].read(value, &loader->config) : NULL;
        if (why)
            return refuse_value(loader, section, keys[readers[i].key].name, value, why);
    }
    return 0;
}

/* What rules take from [pool] unless they say it themselves. */
struct defaults {
    const char *ports; /* NULL: none */
    struct exhausted exhausted;
};

static int ports_check(const struct loader *loader, const struct section *section,
                       const char *ports)
{
    struct portset set;
    struct parse_reason why;
    if (!ports || portset_parse(ports, &set, &why) == 0)
        return 0;
    return refuse_value(loader, section, keys[KEY_PORTS].name, ports, why.text);
}

/* @ports and @exhausted are changed if the section has such keys. */
static int section_defaults(const struct loader *loader, const struct section *section,
                            struct defaults *defaults)
{
    const char *ports = value_of(loader, section, KEY_PORTS);
    const char *exhausted = value_of(loader, section, KEY_EXHAUSTED);
    const char *why = exhausted ? exhausted_read(exhausted, &defaults->exhausted) : NULL;
    if (why)
        return refuse_value(loader, section, keys[KEY_EXHAUSTED].name, exhausted, why);
    if (ports)
        defaults->ports = ports;
    return ports_check(loader, section, ports);
}

/* Whether a list that is there holds nothing: then it was forgotten, not meant. */
static bool is_blank(const char *text)
{
    return text && !text[strspn(text, " \t\r\n\v\f")];
}

static int rule_add(struct loader *loader, const struct section *section,
                    const struct defaults *defaults)
{
    struct policy *policy = &loader->config.policy;
    struct parse_reason why;
    const char *to = value_of(loader, section, KEY_TO);
    if (!defaults->ports)
        return refuse(loader, -EINVAL, "[%s]: no ports are given%s: ports = LO-HI is needed",
                      section->name, section->rule ? ", here or in [pool]" : "");
    if (is_blank(to))
        return refuse_value(loader, section, keys[KEY_TO].name, to,
                            "no destination given: without this key it is everywhere but loopback");
    int error = policy_add_rule(policy, section->rule ? section->rule : "default", defaults->ports,
                                to, &why);
    if (error)
        return refuse_value(loader, section, keys[KEY_TO].name, to ? to : "", why.text);
    struct policy_rule *rule = &policy->rule[policy->rule_count - 1];
    rule->exhausted = defaults->exhausted.action;
    rule->wait_ms = defaults->exhausted.wait_ms;
    return 0;
}

static int rules_add(struct loader *loader, const struct section *pool,
                     const struct defaults *defaults)
{
    if (!rules_found(loader))
        return rule_add(loader, pool, defaults);
    for (unsigned i = 0; i < loader->sections; i++) {
        const struct section *section = &loader->section[i];
        struct defaults own = *defaults;
        int error = section->rule ? section_defaults(loader, section, &own) : 0;
        if (!error && section->rule)
            error = rule_add(loader, section, &own);
        if (error)
            return error;
    }
    return 0;
}

static int config_build(struct loader *loader)
{
    const struct section *pool = pool_section(loader);
    struct defaults defaults = {.ports = NULL};
    config_begin(&loader->config);
    int error = pool_values(loader, pool);
    if (!error)
        error = section_defaults(loader, pool, &defaults);
    if (!error)
        error = rules_add(loader, pool, &defaults);
    return error;
}

int config_load(const char *path, struct config *config, struct config_error *error)
{
    struct loader *loader = calloc(1, sizeof(*loader));
    if (!loader) {
        snprintf(error->text, sizeof(error->text), "%s", strerror(ENOMEM));
        return -ENOMEM;
    }
    loader->path = path;
    loader->error = error;
    int result = file_read(loader);
    if (!result)
        result = lines_read(loader);
    if (!result)
        result = values_load(loader);
    if (!result)
        result = config_build(loader);
    if (!result) {
        snprintf(loader->config.path, sizeof(loader->config.path), "%s", path);
        *config = loader->config;
    }
    if (loader->values)
        iniparser_freedict(loader->values);
    free(loader->text);
    free(loader);
    return result;
}

static int refuse_text(struct config_error *error, const char *what, const char *value,
                       const char *why)
{
    char text[SHOWN_VALUE + 4];
    snprintf(error->text, sizeof(error->text), "%s \"%s\": %s", what,
             shown(value, SHOWN_VALUE, text), why);
    return -EINVAL;
}

int config_from_text(const char *ports, const char *to, struct config *config,
                     struct config_error *error)
{
    struct config made;
    struct portset set;
    struct parse_reason why;
    int result = portset_parse(ports, &set, &why);
    if (result) {
        refuse_text(error, "ports", ports, why.text);
        return result;
    }
    if (is_blank(to))
        return refuse_text(error, "destinations", to,
                           "none given: leave it out for everywhere but loopback");
    config_begin(&made);
    result = policy_add_rule(&made.policy, "default", ports, to, &why);
    if (result)
        refuse_text(error, "destinations", to, why.text);
    else
        *config = made;
    return result;
}

/* ---- warnings ---- */

/* A range that somebody else uses too, and what can come of it. */
struct hazard {
    struct portrange range;
    const char *what; /* "ports WHAT (the ports): THEN" */
    const char *then;
};

/* The policy's ports in a hazard's range: one bit each. */
struct overlap {
    struct portrange range;
    uint8_t port[65536 / 8];
};

static void overlap_mark(const struct portrange *range, void *arg)
{
    struct overlap *overlap = arg;
    for (uint32_t port = range->lo; port <= range->hi; port++)
        if (port >= overlap->range.lo && port <= overlap->range.hi)
            overlap->port[port / 8] |= (uint8_t)(1u << port % 8);
}

static bool overlap_has(const struct overlap *overlap, uint32_t port)
{
    return port < 65536 && overlap->port[port / 8] >> port % 8 & 1;
}

/* "60001-60999, 61001", at most three ranges. Return: how many ranges there are. */
static int overlap_text(const struct overlap *overlap, char *buf, size_t size)
{
    int ranges = 0;
    size_t at = 0;
    buf[0] = '\0';
    for (uint32_t lo = 1; lo < 65536; lo++) {
        uint32_t hi = lo;
        if (!overlap_has(overlap, lo))
            continue;
        while (overlap_has(overlap, hi + 1))
            hi++;
        if (ranges == 3)
            at += (size_t)snprintf(buf + at, size - at, " and others");
        else if (ranges < 3)
            at += (size_t)snprintf(buf + at, size - at, hi > lo ? "%s%u-%u" : "%s%u",
                                   ranges ? ", " : "", lo, hi);
        ranges++;
        lo = hi;
    }
    return ranges;
}

static void hazard_warn(const struct config *config, const struct hazard *hazard,
                        config_warning *warn, void *arg)
{
    struct overlap overlap = {.range = hazard->range};
    char ports[80], sentence[480];
    policy_each_range(&config->policy, overlap_mark, &overlap);
    if (!overlap_text(&overlap, ports, sizeof(ports)))
        return;
    snprintf(sentence, sizeof(sentence), "ports %s (%s): %s", hazard->what, ports, hazard->then);
    warn(sentence, arg);
}

static void ephemeral_warn(const struct config *config, const struct portrange *ephemeral,
                           config_warning *warn, void *arg)
{
    char what[80];
    struct hazard hazard = {
        .range = *ephemeral,
        .what = what,
        .then = "the kernel gives them to other connections too, so fewer are left for the pool, "
                "and between pods behind one address such a connection can make address "
                "translation move one of ours out of the range"};
    snprintf(what, sizeof(what), "within net.ipv4.ip_local_port_range %u-%u", ephemeral->lo,
             ephemeral->hi);
    hazard_warn(config, &hazard, warn, arg);
}

void config_warnings_for(const struct config *config, const struct portrange *ephemeral,
                         config_warning *warn, void *arg)
{
    static const struct hazard hazards[] = {
        {{30000, 32767},
         "among Kubernetes' NodePorts 30000-32767",
         "where a service has such a port, its node may refuse it to a connection, or take the "
         "answers for the service"},
        {{1, 1023},
         "below 1024",
         "where net.ipv4.ip_unprivileged_port_start is not lower, programs without "
         "CAP_NET_BIND_SERVICE get none of them"},
        {{1024, 16383},
         "below 16384",
         "some kernels that forward a connection from such a port to a port from 32768 on move it "
         "to another source port"},
    };
    if (ephemeral)
        ephemeral_warn(config, ephemeral, warn, arg);
    for (size_t i = 0; i < sizeof(hazards) / sizeof(hazards[0]); i++)
        hazard_warn(config, &hazards[i], warn, arg);
}

void config_warnings(const struct config *config, config_warning *warn, void *arg)
{
    struct portrange ephemeral = {.lo = 0};
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    bool known = file && fscanf(file, "%hu %hu", &ephemeral.lo, &ephemeral.hi) == 2;
    if (file)
        fclose(file);
    config_warnings_for(config, known ? &ephemeral : NULL, warn, arg);
}
