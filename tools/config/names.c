/* SPDX-License-Identifier: MIT */
/*
 * Every name that may stand in the configuration file, and what is said of one that may not: most
 * are misspelt, so the nearest that is known is named.
 */
#include "file.h"
#include "site.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ALIAS_NAME 256 /* bytes with the NUL: a namespace's and a Service's name, both of 63 */
#define SHOWN_PATH 300 /* bytes of a path, of a name that a message shows */
#define SHOWN_NAME 60

#define SPREAD_RULES "a long list can be spread over several rules"
#define SPREAD_KEYS(key) "a long list goes on in keys of its own, " key "-2 to " key "-99"

_Static_assert(CONFIG_NUMBER_MOST == 99 && POLICY_RULES == 32, "messages say so");

const struct section_type section_types[SECTION_KINDS] = {
    [SECTION_POOL] = {"pool", "[pool]", .list = KEY_COUNT, .long_list = SPREAD_RULES},
    [SECTION_RULE] = {"rule", "[rule NAME]", "a rule", POLICY_NAME - 1, POLICY_RULES,
                      .list = KEY_COUNT, .long_list = SPREAD_RULES},
    [SECTION_ALIAS] = {"alias", "[alias NAME]", "an alias", ALIAS_NAME - 1, .list = KEY_ADDRESSES,
                       .long_list = SPREAD_KEYS("addresses")},
    [SECTION_MACHINE] = {"machine", "[machine NAME]", "a machine", SITE_NAME - 1,
                         .list = KEY_COUNT},
    [SECTION_NODE] = {"node", "[node NAME]", "a node", SITE_NAME - 1, .list = KEY_PODS,
                      .long_list = SPREAD_KEYS("pods")},
    [SECTION_PODS] = {"pods", "[pods]", .list = KEY_BLOCKS, .long_list = SPREAD_KEYS("blocks")},
    [SECTION_HOSTS] = {"hosts", "[hosts]", .list = KEY_ADDRESSES,
                       .long_list = SPREAD_KEYS("addresses")},
    [SECTION_GATEWAY] = {"gateway", "[gateway]", .list = KEY_COUNT},
    [SECTION_SNAT] = {"snat", "[snat]", .list = KEY_COUNT},
    [SECTION_CONTROL_PLANE] = {"control-plane", "[control-plane]", .list = KEY_COUNT},
    [SECTION_SETUP] = {"setup", "[setup]", .list = KEY_COUNT},
};

#define IN(kind) (1u << SECTION_##kind)

static const struct {
    const char *name;
    unsigned where;
} keys[KEY_COUNT] = {
    [KEY_PORTS] = {"ports", IN(POOL) | IN(RULE) | IN(HOSTS)},
    [KEY_PATH] = {"path", IN(POOL)},
    [KEY_TO] = {"to", IN(RULE)},
    [KEY_QUARANTINE] = {"quarantine", IN(POOL)},
    [KEY_EXHAUSTED] = {"when-exhausted", IN(POOL) | IN(RULE)},
    [KEY_SCOPE] = {"scope", IN(POOL) | IN(RULE)},
    [KEY_MODE] = {"mode", IN(POOL) | IN(SNAT)},
    [KEY_GROUP] = {"group", IN(POOL)},
    [KEY_LANES] = {"lanes", IN(POOL)},
    [KEY_SLICES] = {"slices", IN(POOL)},
    [KEY_SERVER] = {"server", IN(ALIAS)},
    [KEY_ROLES] = {"roles", IN(MACHINE)},
    [KEY_ADDRESS] = {"address", IN(NODE) | IN(GATEWAY)},
    [KEY_PODS] = {"pods", IN(NODE)},
    [KEY_BLOCKS] = {"blocks", IN(PODS)},
    [KEY_SERVICES] = {"services", IN(PODS) | IN(HOSTS)},
    [KEY_ADDRESSES] = {"addresses", IN(HOSTS) | IN(ALIAS)},
    [KEY_STATEFUL] = {"stateful", IN(GATEWAY)},
    [KEY_EXCLUSIVE] = {"exclusive", IN(GATEWAY)},
    [KEY_NODE_PORTS] = {"node-ports", IN(CONTROL_PLANE)},
    [KEY_MANIFEST] = {"manifest", IN(CONTROL_PLANE)},
    [KEY_PERSIST] = {"persist", IN(SETUP)},
    [KEY_IPTABLES] = {"iptables", IN(SETUP)},
    [KEY_NODE_POOL] = {"node-pool", IN(SETUP)},
    [KEY_MARK] = {"mark", IN(SETUP)},
    [KEY_LEAVE] = {"leave", IN(SETUP) | IN(MACHINE)},
};

static bool key_is_in(int key, const struct section_type *type)
{
    return keys[key].where >> (type - section_types) & 1;
}

/* ---- finding ---- */

const struct section_type *section_type_find(const char *name)
{
    for (int i = 0; i < SECTION_KINDS; i++) {
        size_t length = strlen(section_types[i].name);
        const char *end = name + length;
        if (strncmp(name, section_types[i].name, length) == 0 &&
            (!*end || (config_is_space(*end) && section_types[i].what)))
            return &section_types[i];
    }
    return NULL;
}

/* "-2" to "-99", nothing else: what comes twice must look the same. Return: 0 if it is not that. */
static unsigned number_read(const char *text)
{
    unsigned number = 0;
    size_t digits = strspn(text + (*text == '-'), "0123456789");
    if (*text != '-' || !digits || digits > 2 || text[1] == '0' || text[1 + digits])
        return 0;
    for (size_t i = 1; i <= digits; i++)
        number = number * 10 + (unsigned)(text[i] - '0');
    return number >= 2 ? number : 0;
}

enum config_key config_key_find(const struct section_type *type, const char *name, unsigned *number)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        size_t length = strlen(keys[i].name);
        if (!key_is_in(i, type) || strncmp(name, keys[i].name, length) != 0)
            continue;
        *number = name[length] ? number_read(name + length) : 1;
        if (*number == 1 || (*number && type->list == (enum config_key)i))
            return (enum config_key)i;
    }
    return KEY_COUNT;
}

/* "pods", "pods-2" */
static void key_print(const struct config_value *value, char *buf, size_t size)
{
    if (value->number > 1)
        snprintf(buf, size, "%s-%u", keys[value->key].name, value->number);
    else
        snprintf(buf, size, "%s", keys[value->key].name);
}

void config_value_name(const struct config_section *section, const struct config_value *value,
                       char *buf, size_t size)
{
    char key[SHOWN_NAME];
    key_print(value, key, sizeof(key));
    snprintf(buf, size, "%s:%s", section->name, key);
}

/* ---- lines of refusal ---- */

const char *config_shown(const char *text, size_t most, char *buf)
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

static void __attribute__((format(printf, 3, 0)))
refuse_at(const struct config_file *file, const char *where, const char *format, va_list args)
{
    char path[SHOWN_PATH + 4];
    char *line = file->error->text;
    size_t size = sizeof(file->error->text);
    size_t at = (size_t)snprintf(line, size, "%s: ", shown_path(where, path));
    vsnprintf(line + at, size - at, format, args);
}

int config_file_refuse(const struct config_file *file, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    refuse_at(file, file->reading ? file->reading->path : file->path, format, args);
    va_end(args);
    return error;
}

static int __attribute__((format(printf, 3, 4)))
refuse_in(const struct config_file *file, const struct config_section *section, const char *format,
          ...)
{
    va_list args;
    va_start(args, format);
    refuse_at(file, section->from->path, format, args);
    va_end(args);
    return -EINVAL;
}

int config_file_refuse_lack(const struct config_file *file, const struct config_section *section,
                            const char *why)
{
    return refuse_in(file, section, "[%s]: %s", section->name, why);
}

const char *config_place(const struct config_section *from, unsigned line,
                         const struct config_section *here, char buf[CONFIG_PLACE])
{
    char path[SHOWN_PATH + 4];
    bool same = from->from == here->from;
    snprintf(buf, CONFIG_PLACE, "line %u%s%s", line, same ? "" : " of ",
             same ? "" : shown_path(from->from->path, path));
    return buf;
}

int config_file_refuse_memory(const struct config_file *file)
{
    return config_file_refuse(file, -ENOMEM, "%s", strerror(ENOMEM));
}

int config_file_refuse_line(const struct config_file *file, const struct config_line *line,
                            const char *why)
{
    char text[CONFIG_SHOWN_VALUE + 4];
    return config_file_refuse(file, -EINVAL, "line %u: \"%s\": %s", line->number,
                              config_shown(line->text, CONFIG_SHOWN_VALUE, text), why);
}

static int refuse_named(const struct config_file *file, const struct config_section *section,
                        const char *key, const char *value, const char *why)
{
    char key_shown[SHOWN_NAME + 4], value_shown[CONFIG_SHOWN_VALUE + 4];
    return refuse_in(file, section, "[%s] %s = \"%s\": %s", section->name,
                     config_shown(key, SHOWN_NAME, key_shown),
                     config_shown(value, CONFIG_SHOWN_VALUE, value_shown), why);
}

int config_file_refuse_value(const struct config_file *file, const struct config_section *section,
                             const struct config_value *value, const char *why)
{
    char key[SHOWN_NAME];
    key_print(value, key, sizeof(key));
    return refuse_named(file, section, key, value->text, why);
}

/* ---- did you mean ---- */

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

static const char *nearer(const char *word, const char *candidate, const char *nearest)
{
    if (!resembles(word, candidate))
        return nearest;
    return !nearest || distance(word, candidate) < distance(word, nearest) ? candidate : nearest;
}

/* Appends to a sentence; what does not fit is cut. */
static void __attribute__((format(printf, 3, 4)))
append(char *text, size_t size, const char *format, ...)
{
    size_t at = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + at, size - at, format, args);
    va_end(args);
}

/* "this key belongs in a [rule NAME]", if it is one of another section. */
static bool key_elsewhere(const char *key, char *why, size_t size)
{
    const char *separator = "this key belongs in ";
    for (int i = 0; i < SECTION_KINDS; i++) {
        const struct section_type *type = &section_types[i];
        unsigned number;
        if (config_key_find(type, key, &number) == KEY_COUNT)
            continue;
        append(why, size, "%s%s%s", separator, type->what ? "a " : "", type->label);
        separator = " or ";
    }
    return *why;
}

static void key_allowed(const struct section_type *type, char *why, size_t size)
{
    const char *separator = "unknown key: allowed are ";
    for (int i = 0; i < KEY_COUNT; i++) {
        if (!key_is_in(i, type))
            continue;
        append(why, size, "%s%s", separator, keys[i].name);
        separator = ", ";
    }
}

/* Whether @key is the section's list with something behind that shall be a number. */
static bool key_misnumbered(const struct section_type *type, const char *key)
{
    size_t length = type->list < KEY_COUNT ? strlen(keys[type->list].name) : 0;
    return length && strncmp(key, keys[type->list].name, length) == 0 &&
           !key[length + strspn(key + length, " -_.0123456789")];
}

int config_file_refuse_key(const struct config_file *file, const struct config_section *section,
                           const char *key, const char *value)
{
    const struct section_type *type = section->type;
    const char *nearest = NULL;
    char why[200] = "";
    for (int i = 0; i < KEY_COUNT; i++)
        if (key_is_in(i, type))
            nearest = nearer(key, keys[i].name, nearest);
    if (key_misnumbered(type, key))
        snprintf(why, sizeof(why), "unknown key: %s", type->long_list);
    else if (nearest)
        snprintf(why, sizeof(why), "unknown key: did you mean '%s'?", nearest);
    else if (!key_elsewhere(key, why, sizeof(why)))
        key_allowed(type, why, sizeof(why));
    return refuse_named(file, section, key, value, why);
}

static void section_allowed(char *why, size_t size)
{
    append(why, size, "allowed are ");
    for (int i = 0; i < SECTION_KINDS; i++)
        append(why, size, "%s%s",
               i == SECTION_POOL      ? ""
               : i == SECTION_ALIAS   ? " and "
               : i == SECTION_MACHINE ? ", and for the site "
                                      : ", ",
               section_types[i].label);
}

int config_file_refuse_section(const struct config_file *file, const struct config_line *line,
                               const char *name)
{
    char word[SHOWN_NAME + 4], why[300] = "unknown section: ";
    const char *nearest = NULL;
    config_shown(name, SHOWN_NAME, word);
    word[strcspn(word, " ")] = '\0';
    for (int i = 0; i < SECTION_KINDS; i++)
        nearest = nearer(word, section_types[i].name, nearest);
    if (nearest)
        append(why, sizeof(why), "did you mean %s?", section_type_find(nearest)->label);
    else
        section_allowed(why, sizeof(why));
    return config_file_refuse_line(file, line, why);
}
