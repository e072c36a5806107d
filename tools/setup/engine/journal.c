/* SPDX-License-Identifier: MIT */
/*
 * The journal on disk: one JSON object, replaced whole, so that after a crash there is the old one
 * or the new one. Undo does what it says, as root; so a file that is not wholly what was written
 * here (a checksum tells) is refused rather than understood as far as possible.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL_FORMAT 1
#define JOURNAL_NEW SETUP_JOURNAL ".new" /* before it is renamed */
#define JOURNAL_MAX (64 << 20) /* bytes */
#define JOURNAL_ENTRIES 4096

static const char *const phase_names[] = {"applying", "unconfirmed", "applied", "undoing"};
static const char *const persist_names[] = {"own", "distribution", "none"};
static const char *const iptables_names[] = {"auto", "nft", "legacy"};

/* ---- in memory ---- */

int journal_keep(struct journal *journal, struct setup_error *error)
{
    size_t all = journal->count, kept = 0;
    while (kept < all && !journal->entry[kept].dropped)
        kept++;
    journal->count = kept;
    journal->phase = JOURNAL_APPLIED;
    journal->deadline = 0;
    json_t *earlier = journal->earlier;
    journal->earlier = NULL;
    int result = kept ? journal_save(journal, error) : journal_remove(error);
    journal->count = all;
    journal->earlier = earlier;
    return result;
}

void journal_free(struct journal *journal)
{
    for (size_t i = 0; i < journal->count; i++) {
        struct journal_entry *entry = &journal->entry[i];
        char *const texts[] = {entry->name,     entry->why,    entry->before,
                               entry->previous, entry->wanted, entry->after};
        for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++)
            free(texts[k]);
    }
    free(journal->entry);
    json_decref(journal->earlier);
    *journal = (struct journal){.count = 0};
}

struct journal_entry *journal_add(struct journal *journal, const struct resource_type *type,
                                  const char *name, const char *why)
{
    journal->entry = state_grow(journal->entry, (journal->count + 1) * sizeof(*journal->entry));
    struct journal_entry *entry = &journal->entry[journal->count++];
    *entry = (struct journal_entry){
        .type = type,
        .name = state_copy(name),
        .why = state_copy(why),
    };
    return entry;
}

struct journal_entry *journal_find(const struct journal *journal, const struct resource_type *type,
                                   const char *name)
{
    for (size_t i = 0; journal && i < journal->count; i++)
        if (journal->entry[i].type == type && strcmp(journal->entry[i].name, name) == 0)
            return &journal->entry[i];
    return NULL;
}

bool journal_equal(const struct journal *a, const struct journal *b)
{
    bool equal = strcmp(a->owner, b->owner) == 0 && a->phase == b->phase && a->roles == b->roles && a->persist == b->persist &&
                 a->iptables == b->iptables && a->count == b->count &&
                 strcmp(a->config, b->config) == 0;
    for (size_t i = 0; equal && i < a->count; i++) {
        const struct journal_entry *one = &a->entry[i], *other = &b->entry[i];
        equal = one->type == other->type && strcmp(one->name, other->name) == 0 &&
                state_equal(one->why, other->why) && state_equal(one->before, other->before) &&
                state_equal(one->wanted, other->wanted);
    }
    return equal;
}

int journal_owned(const struct journal *journal, const char *owner, struct setup_error *error)
{
    bool hand = strcmp(journal->owner, JOURNAL_HAND) == 0;
    if (!*journal->owner || strcmp(journal->owner, owner ? owner : JOURNAL_HAND) == 0)
        return 0;
    return setup_fail(error,
                      "this machine was set up %s%s, for role %s from %s, and has one who does so: "
                      "what another wants would take that away. Have it undone there first, or give "
                      "it the other role there",
                      hand ? "by hand" : "by ", hand ? "" : journal->owner,
                      text_roles(journal->roles), journal->config);
}

int journal_use(const struct journal *journal, struct setup_error *error)
{
    for (size_t i = 0; i < journal->count; i++)
        if (journal->entry[i].type == &resource_iptables)
            return iptables_choose(journal->iptables, error);
    return 0;
}

/* ---- as JSON ---- */

static json_t *entry_to_json(const struct journal_entry *entry)
{
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:b, s:b}", "type",
                     entry->type->name, "name", entry->name, "why", json_text(entry->why), "before",
                     json_text(entry->before), "previous", json_text(entry->previous), "wanted",
                     json_text(entry->wanted), "after", json_text(entry->after), "done",
                     entry->done, "dropped", entry->dropped);
}

/* NULL for an entry makes the whole NULL: a text that is not UTF-8 has no place in JSON. */
json_t *journal_to_json(const struct journal *journal)
{
    json_t *entries = json_array();
    for (size_t i = 0; i < journal->count; i++) {
        if (json_array_append_new(entries, entry_to_json(&journal->entry[i])) < 0) {
            json_decref(entries);
            return NULL;
        }
    }
    return json_pack("{s:i, s:s, s:s, s:o, s:s, s:I, s:I, s:s, s:s, s:o}", "format", JOURNAL_FORMAT,
                     "owner", journal->owner,
                     "phase", phase_names[journal->phase], "roles", json_roles(journal->roles),
                     "config", journal->config, "when", (json_int_t)journal->when, "deadline",
                     (json_int_t)journal->deadline, "persist", persist_names[journal->persist],
                     "iptables", iptables_names[journal->iptables], "entries", entries);
}

static int word_find(const char *word, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return (int)i;
    return -1;
}

#define WORD(word, words) word_find(word, words, sizeof(words) / sizeof((words)[0]))

static int journal_bad(struct setup_error *error, const char *why)
{
    return setup_fail(
        error,
        "%s is damaged (%s): nothing was changed. Put back a good copy of it, or take "
        "away by hand what was applied, as fixport-setup(8) tells, and remove it",
        setup_path(SETUP_JOURNAL), why);
}

/* What a name may be: it becomes part of a path or a command's argument. */
static bool name_valid(const struct resource_type *type, const char *name)
{
    bool path = type == &resource_folder || type == &resource_file || type == &resource_link ||
                type == &resource_nodeports || type == &resource_pool;
    for (const char *at = name; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            return false;
    if (!path)
        return *name && *name != '-' && *name != '/';
    return *name == '/' && !strstr(name, "/../") && strlen(name) < PATH_MAX;
}

static bool text_take(const json_t *value, char **text)
{
    *text = state_copy(json_string_value(value));
    return json_is_string(value) || json_is_null(value);
}

static int entry_from_json(json_t *json, struct journal *journal)
{
    const char *type_name, *name;
    json_t *why, *before, *previous, *wanted, *after;
    int done, dropped, ignored; /* "hidden": of 0.1.0 */
    if (json_unpack_ex(json, NULL, JSON_STRICT,
                       "{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s?b}", "type", &type_name,
                       "name", &name, "why", &why, "before", &before, "previous", &previous,
                       "wanted", &wanted, "after", &after, "done", &done, "dropped", &dropped,
                       "hidden", &ignored) < 0)
        return -1;
    const struct resource_type *type = resource_type_find(type_name);
    if (!type || !name_valid(type, name) || journal_find(journal, type, name))
        return -1;
    struct journal_entry *entry = journal_add(journal, type, name, NULL);
    entry->done = done;
    entry->dropped = dropped;
    bool good = text_take(why, &entry->why);
    good &= text_take(before, &entry->before);
    good &= text_take(previous, &entry->previous);
    good &= text_take(wanted, &entry->wanted);
    good &= text_take(after, &entry->after);
    return good ? 0 : -1;
}

static int roles_from_json(const json_t *list, unsigned *roles)
{
    size_t i;
    json_t *value;
    *roles = 0;
    json_array_foreach(list, i, value)
    {
        struct parse_reason why;
        unsigned role =
            json_is_string(value) ? site_roles_parse(json_string_value(value), &why) : 0;
        if (!role)
            return -1;
        *roles |= role;
    }
    return json_is_array(list) ? 0 : -1;
}

static int entries_from_json(const json_t *list, struct journal *journal)
{
    size_t i;
    json_t *value;
    if (!json_is_array(list) || json_array_size(list) > JOURNAL_ENTRIES)
        return -1;
    json_array_foreach(list, i, value) if (entry_from_json(value, journal) < 0) return -1;
    return 0;
}

static int journal_words(struct journal *journal, const char *phase, const char *persist,
                         const char *iptables)
{
    int a = WORD(phase, phase_names), b = WORD(persist, persist_names),
        c = WORD(iptables, iptables_names);
    if (a < 0 || b < 0 || c < 0)
        return -1;
    journal->phase = (enum journal_phase)a;
    journal->persist = (enum site_persist)b;
    journal->iptables = (enum site_iptables)c;
    return 0;
}

static int journal_from_json(json_t *json, struct journal *journal)
{
    int format;
    json_int_t when, deadline;
    json_t *roles, *entries;
    const char *phase, *config, *persist, *iptables, *owner = ""; /* 0.1.0 had no owner */
    if (json_unpack_ex(json, NULL, JSON_STRICT,
                       "{s:i, s?s, s:s, s:o, s:s, s:I, s:I, s:s, s:s, s:o}", "format", &format,
                       "owner", &owner, "phase", &phase, "roles", &roles, "config", &config,
                       "when", &when, "deadline", &deadline, "persist", &persist, "iptables",
                       &iptables, "entries", &entries) < 0)
        return -1;
    journal->when = when;
    journal->deadline = deadline;
    if (format != JOURNAL_FORMAT || strlen(config) >= sizeof(journal->config) ||
        strlen(owner) >= sizeof(journal->owner) ||
        journal_words(journal, phase, persist, iptables) < 0 ||
        roles_from_json(roles, &journal->roles) < 0)
        return -1;
    memcpy(journal->config, config, strlen(config) + 1);
    memcpy(journal->owner, owner, strlen(owner) + 1);
    return entries_from_json(entries, journal);
}

/* ---- on disk: {"checksum": ..., "journal": ..., "earlier": ...} ---- */

/* FNV-1a: against accidents, not against root. */
static uint64_t checksum(const char *text)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (; *text; text++)
        sum = (sum ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return sum;
}

static void checksum_print(const json_t *journal, const json_t *earlier, char buf[40])
{
    char *a = json_dumps(journal, JSON_COMPACT | JSON_SORT_KEYS);
    char *b = json_dumps(earlier, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    if (!a || !b)
        exit(say_error(SETUP_ERROR, "out of memory"));
    snprintf(buf, 40, "%016" PRIx64 "%016" PRIx64, checksum(a), checksum(b));
    free(a);
    free(b);
}

static json_t *file_to_json(const struct journal *journal)
{
    char sum[40];
    json_t *own = journal_to_json(journal);
    if (!own)
        return NULL;
    json_t *earlier = journal->earlier ? json_incref(journal->earlier) : json_null();
    checksum_print(own, earlier, sum);
    return json_pack("{s:s, s:o, s:o}", "checksum", sum, "journal", own, "earlier", earlier);
}

/* The earlier journal must be one too, or a roll back could not restore it. */
static int earlier_take(json_t *earlier, struct journal *journal)
{
    struct journal check = {.count = 0};
    if (json_is_null(earlier))
        return 0;
    int result = journal_from_json(earlier, &check);
    journal_free(&check);
    journal->earlier = json_incref(earlier);
    return result;
}

static int file_from_json(json_t *json, struct journal *journal, struct setup_error *error)
{
    const char *sum;
    char expected[40];
    json_t *own, *earlier;
    if (json_unpack_ex(json, NULL, JSON_STRICT, "{s:s, s:o, s:o}", "checksum", &sum, "journal",
                       &own, "earlier", &earlier) < 0)
        return journal_bad(error, "not of the form that is written here");
    checksum_print(own, earlier, expected);
    if (strcmp(sum, expected) != 0)
        return journal_bad(error, "its checksum is another");
    if (journal_from_json(own, journal) < 0 || earlier_take(earlier, journal) < 0)
        return journal_bad(error, "it has entries that this version does not know");
    return 1;
}

/* What is somebody else's to write must not be believed. */
static int journal_trusted(int fd, const char *path, struct setup_error *error)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return setup_fail(error, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return setup_fail(error, "%s is not a regular file", path);
    if (st.st_uid != 0 && st.st_uid != geteuid())
        return setup_fail(error, "%s is user %u's, not root's: it is not believed", path,
                          (unsigned)st.st_uid);
    if (st.st_mode & 022)
        return setup_fail(
            error, "%s can be written to by others than its owner: it is not believed", path);
    return st.st_size > JOURNAL_MAX ? setup_fail(error, "%s is too large", path) : 0;
}

static int journal_read(struct journal *journal, const char *path, struct setup_error *error)
{
    *journal = (struct journal){.count = 0};
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0)
        return setup_fail(error, "%s: %s", path, strerror(errno));
    if (journal_trusted(fd, path, error) < 0) {
        close(fd);
        return -1;
    }
    json_t *json = json_loadfd(fd, JSON_REJECT_DUPLICATES, NULL);
    close(fd);
    int result = json ? file_from_json(json, journal, error) : journal_bad(error, "it is no JSON");
    json_decref(json);
    if (result < 0)
        journal_free(journal);
    return result;
}

int journal_load(struct journal *journal, struct setup_error *error)
{
    return journal_read(journal, setup_path(SETUP_JOURNAL), error);
}

bool journal_hidden(void)
{
    return access(setup_path(SETUP_JOURNAL), R_OK) < 0 && errno == EACCES;
}

static int folder_sync(void)
{
    int fd = open(setup_folder(SETUP_STATE_DIR), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0)
        close(fd);
    return result;
}

static int journal_fill(const char *path, json_t *json)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    FILE *file = fdopen(fd, "w"); /* jansson writes in small pieces */
    if (!file) {
        close(fd);
        return -1;
    }
    errno = EIO;
    int result = json_dumpf(json, file, JSON_INDENT(1));
    if (result == 0 && (fflush(file) != 0 || fsync(fd) < 0))
        result = -1;
    int why = errno;
    fclose(file);
    errno = why;
    return result;
}

/* ---- replacing it ---- */

/* Return: 0, -1 with errno. */
static int journal_write(const char *path, const char *new, json_t *json)
{
    int result = journal_fill(new, json);
    if (result == 0)
        result = rename(new, path);
    if (result == 0) {
        result = folder_sync();
    } else {
        int why = errno;
        unlink(new);
        errno = why;
    }
    return result;
}

int journal_save(const struct journal *journal, struct setup_error *error)
{
    struct journal check = {.count = 0};
    const char *path = setup_path(SETUP_JOURNAL);
    json_t *json = file_to_json(journal);
    int result = json ? file_from_json(json, &check, error) : -1;
    journal_free(&check);
    if (result < 0) { /* what is refused when it is read must not be written */
        json_decref(json);
        errno = EINVAL;
        return setup_fail(error, "%s cannot be written: what is there now is %s", path,
                          json ? "too much to remember" : "not all UTF-8");
    }
    result = journal_write(path, setup_path(JOURNAL_NEW), json);
    int why = errno;
    json_decref(json);
    if (result < 0)
        setup_fail(error, "%s cannot be written: %s", path, strerror(why));
    errno = why;
    return result;
}

int journal_remove(struct setup_error *error)
{
    unlink(setup_path(JOURNAL_NEW));
    const char *path = setup_path(SETUP_JOURNAL);
    if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
        return setup_fail(error, "%s cannot be removed: %s", path, strerror(errno));
    folder_sync();
    return 0;
}

int journal_earlier(const struct journal *journal, struct journal *earlier,
                    struct setup_error *error)
{
    *earlier = (struct journal){.count = 0};
    return journal_from_json(journal->earlier, earlier) < 0
               ? journal_bad(error, "its earlier journal")
               : 0;
}

int journal_restore(const struct journal *journal, struct setup_error *error)
{
    struct journal earlier;
    if (!journal->earlier)
        return journal_remove(error);
    int result = journal_earlier(journal, &earlier, error);
    if (result == 0)
        result = journal_save(&earlier, error);
    int why = errno;
    journal_free(&earlier);
    errno = why;
    return result;
}
