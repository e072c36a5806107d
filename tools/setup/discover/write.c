/* SPDX-License-Identifier: MIT */
/*
 * What was discovered, brought into the configuration's text. The text is taken as lines; each
 * stays byte for byte, but for those that end in DISCOVER_MARK, which may be replaced or taken
 * away, and for what is put behind a line. So comments, order and a person's own keys are kept
 * whatever they are.
 *
 * In a section that a person wrote, what is missing is added in marked lines; what is there and not
 * in the cluster is told, and stays. A section goes with its node if all of its keys are marked.
 *
 * The new text is read by site_load() before anybody gets it: what apply would refuse is refused
 * here.
 */
#include "discover.h"
#include "../resources/state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WIDTH_NICE 100  /* columns of a line that we write */
#define WIDTH_MOST 1000 /* of a node that has very many; CONFIG_LINE_MOST */

static const char template[] =
    "# What fixport does on this site, see fixport.conf(5). Begun by \"fixport-setup discover\":\n"
    "# lines that end in \"" DISCOVER_MARK "\" are written by it, all others are yours.\n"
    "\n"
    "# The source ports that pods have towards hosts outside of the cluster.\n"
    "[pool]\n"
    "ports = 61001-61999\n"
    "\n"
    "# Those hosts, the ports on which pods may connect to them, and the source ports that they\n"
    "# have towards pods. Take the ';' off here and below, and put in what is true on this site.\n"
    ";[hosts]\n"
    ";addresses = 192.168.31.67\n"
    ";services = 5432\n"
    ";ports = 61001-61999\n"
    "\n"
    "# The ports on which hosts may connect to pods.\n"
    ";[pods]\n"
    ";services = 8088\n"
    "\n"
    "# The firewall's address, if traffic between the two goes through it.\n"
    ";[gateway]\n"
    ";address = 192.168.31.2\n"
    "\n"
    "# What each machine is, as \"uname -n\" names it: host, gateway, node, control-plane. "
    "Without\n"
    "# this, say it by \"fixport-setup --role\".\n"
    ";[machine node1]\n"
    ";roles = node\n";

/* A line of the configuration, and what becomes of it. */
struct edit {
    const char *text;
    size_t length; /* with its newline, if it has one */
    bool gone;
    char *after; /* put behind it; NULL: nothing */
};

struct editing {
    struct discovery *discovery;
    struct config_file file;
    struct edit *line; /* lines[0] is none: they are counted from 1 */
    size_t lines;
    const char *newline;
    struct found_node **by_name; /* those that can be used or have a name */
    size_t named;
    bool *seen; /* of discovery.node: has a section */
    struct rewriting *rewriting;
    size_t changes;
};

/* ---- lines ---- */

static void lines_take(struct editing *editing, const char *text)
{
    const char *line, *at = text;
    size_t length, room = 1024;
    editing->line = state_grow(NULL, room * sizeof(*editing->line));
    editing->line[0] = (struct edit){.text = ""};
    while ((line = state_line(&at, &length))) {
        if (editing->lines + 1 == room)
            editing->line = state_grow(editing->line, (room *= 2) * sizeof(*editing->line));
        editing->line[++editing->lines] = (struct edit){line, (size_t)(at - line), false, NULL};
    }
    length = strcspn(text, "\n");
    editing->newline = length && text[length] && text[length - 1] == '\r' ? "\r\n" : "\n";
}

/* Of a line without the spaces at its end. */
static size_t line_length(const struct edit *line)
{
    size_t length = line->length;
    while (length && config_is_space(line->text[length - 1]))
        length--;
    return length;
}

/* The last of the lines that go on with @line by a '\'. */
static size_t line_end(const struct editing *editing, size_t line)
{
    for (; line < editing->lines; line++) {
        size_t length = line_length(&editing->line[line]);
        if (!length || editing->line[line].text[length - 1] != '\\')
            break;
    }
    return line;
}

static bool is_marked(const struct editing *editing, const struct config_value *value)
{
    const struct edit *line = &editing->line[value->line];
    size_t length = line_length(line), mark = strlen(DISCOVER_MARK);
    return length > mark && memcmp(line->text + length - mark, DISCOVER_MARK, mark) == 0 &&
           config_is_space(line->text[length - mark - 1]);
}

static void line_drop(struct editing *editing, size_t line)
{
    for (size_t end = line_end(editing, line); line <= end; line++)
        editing->line[line].gone = true;
    editing->changes++;
}

/* Puts text behind a line, and behind what was put there before. Takes @text over. */
static void line_put(struct editing *editing, size_t line, char *text)
{
    struct edit *edit = &editing->line[line];
    size_t before = edit->after ? strlen(edit->after) : 0;
    edit->after = state_grow(edit->after, before + strlen(text) + 1);
    strcpy(edit->after + before, text);
    free(text);
    editing->changes++;
}

/* ---- what a section says ---- */

struct blocks {
    struct block *item;
    size_t count;
};

static void blocks_add(struct blocks *blocks, const struct block *block)
{
    if (!(blocks->count & (blocks->count - 1)))
        blocks->item = state_grow(blocks->item,
                                  sizeof(*blocks->item) * (blocks->count ? 2 * blocks->count : 1));
    blocks->item[blocks->count++] = *block;
}

/* The items of a list; it has been read before, so they are all good. */
static void blocks_read(struct blocks *blocks, const char *text)
{
    char *copy = state_copy(text), *rest = copy, *item, why[200];
    while ((item = strsep(&rest, ","))) {
        struct block block;
        size_t length;
        item += strspn(item, " \t");
        length = strcspn(item, " \t");
        item[length] = '\0';
        if (!block_parse(item, false, &block, why, sizeof(why)))
            blocks_add(blocks, &block);
    }
    free(copy);
}

/* The section's addresses or pods in marked lines, or in others. */
static struct blocks section_blocks(const struct editing *editing,
                                    const struct config_section *section, enum config_key key,
                                    bool marked)
{
    struct blocks blocks = {.count = 0};
    for (size_t i = 0; i < section->values; i++)
        if (section->value[i].key == key && is_marked(editing, &section->value[i]) == marked)
            blocks_read(&blocks, section->value[i].text);
    return blocks;
}

static int block_compare(const void *left, const void *right)
{
    const struct block *a = left, *b = right;
    int order = memcmp(a->addr, b->addr, sizeof(a->addr));
    return order ? order : (a->prefix > b->prefix) - (a->prefix < b->prefix);
}

/* Whether they are the same, in whatever order. */
static bool blocks_same(const struct blocks *a, const struct blocks *b)
{
    struct block *x, *y;
    bool same = a->count == b->count;
    if (!same || !a->count)
        return same;
    x = memcpy(state_grow(NULL, a->count * sizeof(*x)), a->item, a->count * sizeof(*x));
    y = memcpy(state_grow(NULL, b->count * sizeof(*y)), b->item, b->count * sizeof(*y));
    qsort(x, a->count, sizeof(*x), block_compare);
    qsort(y, b->count, sizeof(*y), block_compare);
    for (size_t i = 0; same && i < a->count; i++)
        same = block_compare(&x[i], &y[i]) == 0;
    free(x);
    free(y);
    return same;
}

static bool block_within(const struct block *block, const struct blocks *outer)
{
    for (size_t i = 0; i < outer->count; i++)
        if (outer->item[i].prefix <= block->prefix && blocks_overlap(&outer->item[i], block))
            return true;
    return false;
}

/* ---- what was discovered, as lines ---- */

static struct blocks node_addresses(const struct found_node *node)
{
    struct blocks blocks = {.count = 0};
    struct block block = {.prefix = 128};
    if (node->address.has4) {
        memcpy(block.addr, node->address.addr4, 16);
        blocks_add(&blocks, &block);
    }
    if (node->address.has6) {
        memcpy(block.addr, node->address.addr6, 16);
        blocks_add(&blocks, &block);
    }
    return blocks;
}

/* Those that @but does not cover. */
static struct blocks node_pods(const struct discovery *discovery, const struct found_node *node,
                               const struct blocks *but)
{
    struct blocks blocks = {.count = 0};
    for (size_t i = 0; i < node->claims; i++) {
        const struct block *block = &discovery->claim[node->first_claim + i].block;
        if (!block_within(block, but))
            blocks_add(&blocks, block);
    }
    return blocks;
}

/* "pods = A, B ; discovered", as many lines as are needed. @used: numbers that are a person's.
 * Return: whether the numbers were enough. */
static bool list_print(FILE *out, const char *key, const struct blocks *blocks, const bool *used,
                       size_t width, const char *newline)
{
    unsigned number = 0;
    size_t at = 0, column;
    while (at < blocks->count) {
        char text[BLOCK_TEXT];
        do
            number++;
        while (number <= CONFIG_NUMBER_MOST && used[number]);
        if (number > CONFIG_NUMBER_MOST)
            return false;
        column = (size_t)(number > 1 ? fprintf(out, "%s-%u = ", key, number)
                                     : fprintf(out, "%s = ", key));
        for (bool first = true; at < blocks->count; first = false, at++) {
            block_name(&blocks->item[at], text, sizeof(text));
            if (!first && column + strlen(text) + 2 + strlen(DISCOVER_MARK) > width)
                break;
            column += (size_t)fprintf(out, "%s%s", first ? "" : ", ", text);
        }
        fprintf(out, " %s%s", DISCOVER_MARK, newline);
    }
    return true;
}

/* Return: malloc'd; NULL: there are too many for what a section can hold. */
static char *list_text(const char *key, const struct blocks *blocks, const bool *used,
                       const char *newline)
{
    static const size_t widths[] = {WIDTH_NICE, WIDTH_MOST};
    for (size_t i = 0; i < 2; i++) {
        char *text;
        FILE *out = state_open(&text);
        bool enough = list_print(out, key, blocks, used, widths[i], newline);
        state_close(out);
        if (enough)
            return text;
        free(text);
    }
    return NULL;
}

/* A warning about a section of the configuration. */
static void __attribute__((format(printf, 3, 4)))
section_warn(struct editing *editing, const struct config_section *section, const char *format, ...)
{
    char label[SITE_NAME + 16], text[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(label, sizeof(label), "[%s]", section->name);
    sentence_add(&editing->discovery->warnings, label, "%s", text);
}

static int list_refuse(const struct found_node *node, struct setup_error *error)
{
    return setup_fail(error,
                      "node %s has %zu blocks and single pods: more than a section of the "
                      "configuration can hold",
                      node->name, node->claims);
}

/* ---- a node that has a section ---- */

static void fate_add(struct rewriting *rewriting, const char *name, enum fate fate,
                     const struct found_node *node)
{
    size_t count = rewriting->fates;
    if (!(count & (count - 1)))
        rewriting->fate =
            state_grow(rewriting->fate, sizeof(*rewriting->fate) * (count ? 2 * count : 1));
    struct node_fate *to = &rewriting->fate[rewriting->fates++];
    *to = (struct node_fate){.fate = fate, .node = node};
    snprintf(to->name, sizeof(to->name), "%s", name);
}

/* The line of the section's last key, or of its name. */
static size_t section_last(const struct editing *editing, const struct config_section *section)
{
    size_t line = section->values ? section->value[section->values - 1].line : section->line;
    return line_end(editing, line);
}

/* Replaces the marked lines of a key by @text (taken over), in the place of the first one. */
static void key_replace(struct editing *editing, const struct config_section *section,
                        enum config_key key, char *text)
{
    size_t place = 0;
    for (size_t i = 0; i < section->values; i++) {
        const struct config_value *value = &section->value[i];
        if (value->key != key || !is_marked(editing, value))
            continue;
        line_drop(editing, value->line);
        place = place ? place : value->line;
    }
    line_put(editing, place ? place : section_last(editing, section), text);
}

/* An address that a person wrote stays, and is told if the cluster says another one. */
static void address_update(struct editing *editing, const struct config_section *section,
                           const struct found_node *node)
{
    static const bool none[CONFIG_NUMBER_MOST + 1];
    struct blocks wanted = node_addresses(node);
    struct blocks own = section_blocks(editing, section, KEY_ADDRESS, true);
    struct blocks theirs = section_blocks(editing, section, KEY_ADDRESS, false);
    char text[BLOCK_TEXT];
    for (size_t i = 0; theirs.count && i < wanted.count; i++)
        if (!block_within(&wanted.item[i], &theirs))
            section_warn(editing, section,
                         "the cluster says that its address is %s: the line that is there is a "
                         "person's, and stays",
                         block_name(&wanted.item[i], text, sizeof(text)));
    if (!theirs.count && !blocks_same(&own, &wanted))
        key_replace(editing, section, KEY_ADDRESS,
                    list_text("address", &wanted, none, editing->newline));
    free(wanted.item);
    free(own.item);
    free(theirs.item);
}

/* What a person wrote and the cluster does not say. */
static void pods_compare(struct editing *editing, const struct config_section *section,
                         const struct blocks *theirs, const struct found_node *node)
{
    for (size_t i = 0; i < theirs->count; i++) {
        char text[BLOCK_TEXT];
        bool found = false;
        for (size_t k = 0; !found && k < node->claims; k++)
            found = blocks_overlap(&theirs->item[i],
                                   &editing->discovery->claim[node->first_claim + k].block);
        if (!found)
            section_warn(editing, section,
                         "%s is not behind this node, the cluster says: the line is a person's, "
                         "and stays",
                         block_name(&theirs->item[i], text, sizeof(text)));
    }
}

/* After a part of a list nothing is taken away: what is there may be in the rest of it. */
static void pods_keep(struct blocks *wanted, const struct blocks *own)
{
    for (size_t i = 0; i < own->count; i++)
        if (!block_within(&own->item[i], wanted))
            blocks_add(wanted, &own->item[i]);
}

/* Blocks of a family of which a person's address has none: apply would refuse them. */
static void pods_fit(struct editing *editing, const struct config_section *section,
                     struct blocks *wanted)
{
    struct blocks address = section_blocks(editing, section, KEY_ADDRESS, false);
    bool has[2] = {false, false}, told[2] = {false, false};
    size_t kept = 0;
    for (size_t i = 0; i < address.count; i++)
        has[block_is_v4(&address.item[i])] = true;
    for (size_t i = 0; i < wanted->count; i++) {
        bool v4 = block_is_v4(&wanted->item[i]);
        if (!address.count || has[v4])
            wanted->item[kept++] = wanted->item[i];
        else if (!told[v4])
            section_warn(editing, section,
                         "its pods of IPv%d are left out: the line with its address is a "
                         "person's, and has none of IPv%d",
                         v4 ? 4 : 6, v4 ? 4 : 6);
        told[v4] = !has[v4];
    }
    wanted->count = kept;
    free(address.item);
}

static int pods_update(struct editing *editing, const struct config_section *section,
                       const struct found_node *node, struct setup_error *error)
{
    bool used[CONFIG_NUMBER_MOST + 1] = {false};
    struct blocks own = section_blocks(editing, section, KEY_PODS, true);
    struct blocks theirs = section_blocks(editing, section, KEY_PODS, false);
    struct blocks wanted = node_pods(editing->discovery, node, &theirs);
    char *text = NULL;
    if (editing->discovery->part)
        pods_keep(&wanted, &own);
    pods_fit(editing, section, &wanted);
    bool same = blocks_same(&own, &wanted);
    for (size_t i = 0; i < section->values; i++)
        if (section->value[i].key == KEY_PODS && !is_marked(editing, &section->value[i]))
            used[section->value[i].number] = true;
    pods_compare(editing, section, &theirs, node);
    if (!same)
        text = list_text("pods", &wanted, used, editing->newline);
    if (text)
        key_replace(editing, section, KEY_PODS, text);
    free(own.item);
    free(theirs.item);
    free(wanted.item);
    return same || text ? 0 : list_refuse(node, error);
}

static int section_update(struct editing *editing, const struct config_section *section,
                          const struct found_node *node, struct setup_error *error)
{
    size_t before = editing->changes;
    address_update(editing, section, node);
    if (pods_update(editing, section, node, error) < 0)
        return -1;
    fate_add(editing->rewriting, section->own,
             editing->changes == before ? FATE_SAME : FATE_CHANGED, node);
    return 0;
}

/* ---- a section whose node is gone ---- */

static bool line_is_blank(const struct editing *editing, size_t line)
{
    return line < 1 || line > editing->lines || !line_length(&editing->line[line]);
}

/* Its name, its keys, and the empty line before it if there is another one behind. */
static void section_drop(struct editing *editing, const struct config_section *section)
{
    size_t first = section->line, behind = section_last(editing, section) + 1;
    line_drop(editing, first);
    for (size_t i = 0; i < section->values; i++)
        line_drop(editing, section->value[i].line);
    if (first > 1 && line_is_blank(editing, first - 1) && line_is_blank(editing, behind))
        editing->line[first - 1].gone = true;
}

static void section_leave(struct editing *editing, const struct config_section *section)
{
    for (size_t i = 0; i < section->values; i++)
        if (section->value[i].key == KEY_PODS && is_marked(editing, &section->value[i]))
            line_drop(editing, section->value[i].line);
    section_warn(editing, section,
                 "the cluster does not have this node: the lines that a person wrote stay");
}

static void section_gone(struct editing *editing, const struct config_section *section)
{
    bool ours = section->values > 0;
    bool whole = editing->discovery->whole && !editing->discovery->part;
    for (size_t i = 0; i < section->values; i++)
        ours &= is_marked(editing, &section->value[i]);
    if (whole && ours)
        section_drop(editing, section);
    else if (whole)
        section_leave(editing, section);
    fate_add(editing->rewriting, section->own, whole && ours ? FATE_GONE : FATE_LEFT, NULL);
}

/* ---- all sections ---- */

static int name_compare(const void *left, const void *right)
{
    const struct found_node *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static void names_sort(struct editing *editing)
{
    struct discovery *discovery = editing->discovery;
    editing->by_name = state_grow(NULL, (discovery->nodes + 1) * sizeof(*editing->by_name));
    editing->seen = state_grow(NULL, discovery->nodes + 1);
    memset(editing->seen, 0, discovery->nodes + 1);
    for (size_t i = 0; i < discovery->nodes; i++)
        if (!discovery->node[i].unusable)
            editing->by_name[editing->named++] = &discovery->node[i];
    qsort(editing->by_name, editing->named, sizeof(struct found_node *), name_compare);
}

static const struct found_node *name_find(const struct editing *editing, const char *name)
{
    struct found_node key, *at = &key;
    snprintf(key.name, sizeof(key.name), "%s", name);
    struct found_node **found =
        bsearch(&at, editing->by_name, editing->named, sizeof(struct found_node *), name_compare);
    return found ? *found : discovery_node(editing->discovery, name);
}

static int section_edit(struct editing *editing, const struct config_section *section,
                        struct setup_error *error)
{
    const struct found_node *node = name_find(editing, section->own);
    if (!node) {
        section_gone(editing, section);
        return 0;
    }
    if (node->unusable) {
        fate_add(editing->rewriting, section->own, FATE_LEFT, node);
        return 0;
    }
    editing->seen[node - editing->discovery->node] = true;
    return section_update(editing, section, node, error);
}

static int node_print(const struct editing *editing, const struct found_node *node, FILE *out,
                      struct setup_error *error)
{
    static const bool none[CONFIG_NUMBER_MOST + 1];
    const struct blocks nothing = {.count = 0};
    struct blocks addresses = node_addresses(node);
    struct blocks pods = node_pods(editing->discovery, node, &nothing);
    char *address = list_text("address", &addresses, none, editing->newline);
    char *list = list_text("pods", &pods, none, editing->newline);
    if (list)
        fprintf(out, "%s[node %s]%s%s%s", editing->newline, node->name, editing->newline, address,
                list);
    free(addresses.item);
    free(pods.item);
    free(address);
    free(list);
    return list ? 0 : list_refuse(node, error);
}

/* Behind the last node's section, or at the end. */
static size_t new_place(const struct editing *editing)
{
    for (size_t i = editing->file.sections; i-- > 0;)
        if (editing->file.section[i]->type == &section_types[SECTION_NODE])
            return section_last(editing, editing->file.section[i]);
    return editing->lines;
}

static int new_put(struct editing *editing, struct setup_error *error)
{
    char *text;
    int result = 0;
    size_t before = editing->rewriting->fates;
    FILE *out = state_open(&text);
    for (size_t i = 0; !result && i < editing->named; i++) {
        const struct found_node *node = editing->by_name[i];
        if (editing->seen[node - editing->discovery->node])
            continue;
        result = node_print(editing, node, out, error);
        fate_add(editing->rewriting, node->name, FATE_NEW, node);
    }
    state_close(out);
    if (!result && editing->rewriting->fates > before)
        line_put(editing, new_place(editing), text);
    else
        free(text);
    return result;
}

static int sections_edit(struct editing *editing, struct setup_error *error)
{
    int result = 0;
    names_sort(editing);
    for (size_t i = 0; !result && i < editing->file.sections; i++)
        if (editing->file.section[i]->type == &section_types[SECTION_NODE])
            result = section_edit(editing, editing->file.section[i], error);
    return result ? result : new_put(editing, error);
}

static char *lines_join(const struct editing *editing)
{
    char *text;
    FILE *out = state_open(&text);
    for (size_t i = 0; i <= editing->lines; i++) {
        const struct edit *line = &editing->line[i];
        if (!line->gone)
            fwrite(line->text, 1, line->length, out);
        if (line->after && !line->gone && line->length && line->text[line->length - 1] != '\n')
            fputs(editing->newline, out); /* the file's last line had none */
        if (line->after)
            fputs(line->after, out);
    }
    state_close(out);
    return text;
}

/* ---- reading it again ---- */

static int copy_make(const char *text, char *name, size_t size, struct setup_error *error)
{
    int fd = run_input(text);
    if (fd < 0)
        return setup_fail(error, "a copy of the configuration: %s", strerror(errno));
    snprintf(name, size, "/proc/self/fd/%d", fd);
    return fd;
}

/* The object that a message is about: the one whose block stands behind the last "\": ". */
static const char *object_find(const struct discovery *discovery, const char *message)
{
    const char *quote = strstr(message, "\": ");
    for (size_t i = 0; quote && i < discovery->claims; i++) {
        char text[BLOCK_TEXT];
        size_t length = strlen(block_name(&discovery->claim[i].block, text, sizeof(text)));
        if (strncmp(quote + 3, text, length) == 0 && quote[3 + length] == ' ')
            return discovery->claim[i].object;
    }
    return NULL;
}

/* What the reader says of a copy, in words about the file. */
static int copy_refuse(const char *path, const char *copy, const char *said, const char *object,
                       struct setup_error *error)
{
    const char *rest = strncmp(said, copy, strlen(copy)) == 0 ? said + strlen(copy) : said;
    return setup_fail(error, "%s%.600s%s%.200s%s", path, rest, object ? " (discovered: " : "",
                      object ? object : "", object ? ")" : "");
}

static int text_check(const char *path, const char *text, const struct discovery *discovery,
                      struct setup_error *error)
{
    static struct site site;
    struct config_error why;
    char copy[40];
    int fd = copy_make(text, copy, sizeof(copy), error);
    if (fd < 0)
        return -1;
    int result = site_load(copy, &site, &why) < 0 ? -1 : 0;
    if (result < 0)
        copy_refuse(path, copy, why.text, discovery ? object_find(discovery, why.text) : NULL,
                    error);
    site_free(&site);
    close(fd);
    return result;
}

static int text_edit(struct editing *editing, const char *path, const char *text,
                     struct setup_error *error)
{
    struct config_error why;
    char copy[40];
    int fd = copy_make(text, copy, sizeof(copy), error);
    if (fd < 0)
        return -1;
    int result = config_file_read(&editing->file, copy, NULL, &why) < 0 ? -1 : 0;
    close(fd);
    if (result < 0)
        return copy_refuse(path, copy, why.text, NULL, error);
    lines_take(editing, text);
    return sections_edit(editing, error);
}

static void editing_free(struct editing *editing)
{
    for (size_t i = 0; editing->line && i <= editing->lines; i++)
        free(editing->line[i].after);
    free(editing->line);
    free(editing->by_name);
    free(editing->seen);
    config_file_free(&editing->file);
}

int discovery_write(struct discovery *discovery, const char *path, const char *text,
                    struct rewriting *rewriting, struct setup_error *error)
{
    struct editing editing = {.discovery = discovery, .rewriting = rewriting};
    *rewriting = (struct rewriting){.text = NULL};
    if (text && text_check(path, text, NULL, error) < 0)
        return -1;
    int result = text_edit(&editing, path, text ? text : template, error);
    if (!result && (editing.changes || !text)) {
        rewriting->text = lines_join(&editing);
        result = text_check(path, rewriting->text, discovery, error);
    }
    editing_free(&editing);
    return result;
}

void rewriting_free(struct rewriting *rewriting)
{
    free(rewriting->text);
    free(rewriting->fate);
    *rewriting = (struct rewriting){.text = NULL};
}
