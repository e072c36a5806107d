/* SPDX-License-Identifier: MIT */
/*
 * What was discovered, as a file of its own: a part of the configuration that is written whole,
 * each time, in the same order, so that its sections can be compared as texts. What a person wrote
 * elsewhere wins: a node that has a section there gets none here, and what the cluster says else of
 * it is reported.
 *
 * The configuration is read with the new text in it, by site_load(), before anybody gets that: what
 * apply would refuse is refused here.
 */
#include "discover.h"
#include "../resources/state.h"

#include <stdlib.h>
#include <string.h>

#define WIDTH_NICE 100  /* columns of a line that we write */
#define WIDTH_MOST 1000 /* of a node that has very many; CONFIG_LINE_MOST */
#define OLD_MARK "; discovered" /* what fixport 0.1.0 wrote into a person's file ended in this */

#define TITLE                                                                                      \
    "# Written by \"fixport-setup discover\", whole, each time: put nothing of your own here.\n"

static const char title[] =
    TITLE "# A [node NAME] that stands in the configuration itself is left out here.\n";

static const char begun[] =
    "# What fixport does on this site, see fixport.conf(5). Begun by \"fixport-setup discover\", "
    "and\n"
    "# yours from now on: the nodes and their pods are in a file of their own, in the folder "
    "beside\n"
    "# this one, and the two are read together.\n"
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

/* A section of the file, as it is or as it becomes. */
struct part {
    char name[sizeof(((struct found_alias *)NULL)->name)];
    char *text; /* from "[node" or "[alias" to its last newline */
    bool kept;  /* of those that are there: it is in the new text, too */
};

struct parts {
    struct part *item; /* by name */
    size_t count;
};

struct writing {
    struct discovery *discovery;
    const struct discover_place *place;
    struct config_file file; /* what stands elsewhere */
    struct parts old, new;
    struct parts old_alias, new_alias;
    size_t room; /* addresses that may still be taken into aliases */
    struct rewriting *rewriting;
};

/* ---- sections of the file ---- */

static int part_compare(const void *left, const void *right)
{
    const struct part *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static void part_add(struct parts *parts, const char *name, size_t length, char *text)
{
    size_t count = parts->count;
    if (!(count & (count - 1)))
        parts->item = state_grow(parts->item, sizeof(*parts->item) * (count ? 2 * count : 1));
    struct part *part = &parts->item[parts->count++];
    *part = (struct part){.text = text};
    snprintf(part->name, sizeof(part->name), "%.*s", (int)length, name);
}

static void parts_free(struct parts *parts)
{
    for (size_t i = 0; i < parts->count; i++)
        free(parts->item[i].text);
    free(parts->item);
}

static struct part *part_find(const struct parts *parts, const char *name)
{
    struct part key;
    if (!parts->count)
        return NULL;
    snprintf(key.name, sizeof(key.name), "%s", name);
    return bsearch(&key, parts->item, parts->count, sizeof(key), part_compare);
}

/* The sections as we write them; what else stands there is lost, as the title says. */
static void parts_take(struct parts *parts, const char *begin, const char *text)
{
    const char *at = strstr(text, begin);
    while (at) {
        const char *name = at + strlen(begin), *next = strstr(name, "\n[");
        size_t length = next ? (size_t)(next - at - 1) : strlen(at + 1);
        char *copy = state_grow(NULL, length + 1);
        memcpy(copy, at + 1, length);
        copy[length] = '\0';
        part_add(parts, name, strcspn(name, "]\n"), copy);
        at = next ? strstr(next, begin) : NULL;
    }
    if (parts->count)
        qsort(parts->item, parts->count, sizeof(*parts->item), part_compare);
}

/* ---- what a section elsewhere says ---- */

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

/* The section's addresses or pods. */
static struct blocks section_blocks(const struct config_section *section, enum config_key key)
{
    struct blocks blocks = {.count = 0};
    for (size_t i = 0; i < section->values; i++)
        if (section->value[i].key == key)
            blocks_read(&blocks, section->value[i].text);
    return blocks;
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

static struct blocks node_pods(const struct discovery *discovery, const struct found_node *node)
{
    struct blocks blocks = {.count = 0};
    for (size_t i = 0; i < node->claims; i++)
        blocks_add(&blocks, &discovery->claim[node->first_claim + i].block);
    return blocks;
}

/* "pods = A, B", as many lines as are needed. Return: whether there are numbers for them all. */
static bool list_print(FILE *out, const char *key, const struct blocks *blocks, size_t width)
{
    size_t at = 0;
    for (unsigned number = 1; at < blocks->count; number++) {
        char text[BLOCK_TEXT];
        if (number > CONFIG_NUMBER_MOST)
            return false;
        size_t column = (size_t)(number > 1 ? fprintf(out, "%s-%u = ", key, number)
                                            : fprintf(out, "%s = ", key));
        for (bool first = true; at < blocks->count; first = false, at++) {
            block_name(&blocks->item[at], text, sizeof(text));
            if (!first && column + strlen(text) + 2 > width)
                break;
            column += (size_t)fprintf(out, "%s%s", first ? "" : ", ", text);
        }
        putc('\n', out);
    }
    return true;
}

/* Return: malloc'd; NULL: its blocks are too many for a section. */
static char *node_text(const struct discovery *discovery, const struct found_node *node)
{
    static const size_t widths[] = {WIDTH_NICE, WIDTH_MOST};
    struct blocks addresses = node_addresses(node), pods = node_pods(discovery, node);
    char *text = NULL;
    for (size_t i = 0; !text && i < 2; i++) {
        FILE *out = state_open(&text);
        fprintf(out, "[node %s]\n", node->name);
        bool enough = list_print(out, "address", &addresses, WIDTH_MOST) &&
                      list_print(out, "pods", &pods, widths[i]);
        state_close(out);
        if (!enough) {
            free(text);
            text = NULL;
        }
    }
    free(addresses.item);
    free(pods.item);
    return text;
}

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

/* ---- nodes that have a section elsewhere ---- */

static void part_say(FILE *out, size_t *said, const char *what, const char *verb)
{
    fprintf(out, "%s that %s %s", (*said)++ ? "," : "; but the cluster says", what, verb);
}

/* What @list has and @in has not: "A and 2 others". Return: whether there is something. */
static bool missing_print(const struct blocks *list, const struct blocks *in, bool meets, char *buf,
                          size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < list->count; i++) {
        bool found = block_within(&list->item[i], in);
        for (size_t k = 0; meets && !found && k < in->count; k++)
            found = blocks_overlap(&list->item[i], &in->item[k]);
        if (!found && !count++)
            block_name(&list->item[i], buf, size);
    }
    if (count > 1)
        snprintf(buf + strlen(buf), size - strlen(buf), " and %zu other%s", count - 1,
                 count > 2 ? "s" : "");
    return count;
}

/* A person's section stays as it is, and the cluster's view of the same node is reported. */
static void section_compare(struct writing *writing, const struct config_section *section,
                            const struct found_node *node)
{
    struct blocks address = node_addresses(node), pods = node_pods(writing->discovery, node);
    struct blocks own_address = section_blocks(section, KEY_ADDRESS);
    struct blocks own_pods = section_blocks(section, KEY_PODS);
    char *text, what[BLOCK_TEXT + 40], label[SITE_NAME + 16];
    size_t said = 0;
    FILE *out = state_open(&text);
    if (missing_print(&address, &own_address, false, what, sizeof(what)))
        part_say(out, &said, what, "is its address");
    if (missing_print(&pods, &own_pods, false, what, sizeof(what)))
        part_say(out, &said, what, "is behind it");
    if (missing_print(&own_pods, &pods, true, what, sizeof(what)))
        part_say(out, &said, what, "is not");
    state_close(out);
    snprintf(label, sizeof(label), "[%s]", section->name);
    if (said)
        sentence_add(&writing->discovery->warnings, label,
                     "it stands in %.200s, line %u, and stays as it is there%s",
                     section->from->path, section->line, text);
    free(text);
    free(address.item);
    free(pods.item);
    free(own_address.item);
    free(own_pods.item);
}

/* Whether a line of it ends in OLD_MARK. */
static bool section_is_old(const struct writing *writing, size_t index)
{
    const struct config_file *file = &writing->file;
    const struct config_section *section = file->section[index];
    const char *at = section->from->bytes + section->offset;
    const char *end = section->from->bytes + section->from->length;
    if (index + 1 < file->sections && file->section[index + 1]->from == section->from)
        end = section->from->bytes + file->section[index + 1]->offset;
    while ((at = memmem(at, (size_t)(end - at), OLD_MARK, strlen(OLD_MARK)))) {
        at += strlen(OLD_MARK);
        at += strspn(at, " \t\r");
        if (!*at || *at == '\n')
            return true;
    }
    return false;
}

/* Sections that discover wrote into a person's file before it had one of its own. */
static void old_tell(struct writing *writing)
{
    const struct config_section *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < writing->file.sections; i++) {
        const struct config_section *section = writing->file.section[i];
        if (section->type != &section_types[SECTION_NODE] || !section_is_old(writing, i))
            continue;
        first = first ? first : section;
        count++;
    }
    if (first)
        sentence_add(&writing->discovery->warnings, NULL,
                     "%.200s has %zu section%s of nodes, the first in line %u, that an earlier "
                     "release wrote (\"" OLD_MARK "\") and that nothing brings up to date any "
                     "more: delete %s there and run this again, and %.200s has %s",
                     first->from->path, count, count == 1 ? "" : "s", first->line,
                     count == 1 ? "it" : "them", writing->place->file, count == 1 ? "it" : "them");
}

/* ---- all nodes ---- */

static int name_compare(const void *left, const void *right)
{
    const struct found_node *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

/* Those that can have a section. Return: malloc'd, sorted. */
static const struct found_node **names_sort(const struct discovery *discovery, size_t *count)
{
    const struct found_node **list = state_grow(NULL, (discovery->nodes + 1) * sizeof(*list));
    *count = 0;
    for (size_t i = 0; i < discovery->nodes; i++)
        if (*discovery->node[i].name)
            list[(*count)++] = &discovery->node[i];
    qsort(list, *count, sizeof(*list), name_compare);
    return list;
}

static int node_put(struct writing *writing, const struct found_node *node,
                    struct setup_error *error)
{
    struct part *old = part_find(&writing->old, node->name);
    if (node->unusable && !old)
        return 0;
    char *text = node->unusable ? state_copy(old->text) : node_text(writing->discovery, node);
    if (!text)
        return setup_fail(error,
                          "node %s has %zu blocks and single pods: more than a section of the "
                          "configuration can hold",
                          node->name, node->claims);
    enum fate fate = node->unusable                 ? FATE_LEFT
                     : !old                         ? FATE_NEW
                     : strcmp(old->text, text) == 0 ? FATE_SAME
                                                    : FATE_CHANGED;
    if (old)
        old->kept = true;
    part_add(&writing->new, node->name, strlen(node->name), text);
    fate_add(writing->rewriting, node->name, fate, node);
    return 0;
}

/* Those in the file that the cluster does not have: gone, or what was read is not all of it. */
static void olds_keep(struct writing *writing)
{
    for (size_t i = 0; i < writing->old.count; i++) {
        const struct part *part = &writing->old.item[i];
        if (part->kept || config_file_named(&writing->file, SECTION_NODE, part->name))
            continue;
        if (!writing->discovery->whole)
            part_add(&writing->new, part->name, strlen(part->name), state_copy(part->text));
        fate_add(writing->rewriting, part->name, writing->discovery->whole ? FATE_GONE : FATE_LEFT,
                 NULL);
    }
    if (writing->new.count)
        qsort(writing->new.item, writing->new.count, sizeof(struct part), part_compare);
}

/* Sections elsewhere whose nodes the cluster does not have. */
static void elsewhere_tell(struct writing *writing, const struct found_node **list, size_t count)
{
    for (size_t i = 0; writing->discovery->whole && i < writing->file.sections; i++) {
        const struct config_section *section = writing->file.section[i];
        struct found_node key;
        const struct found_node *at = &key;
        char label[SITE_NAME + 16];
        if (section->type != &section_types[SECTION_NODE])
            continue;
        snprintf(key.name, sizeof(key.name), "%s", section->own);
        if (bsearch(&at, list, count, sizeof(*list), name_compare))
            continue;
        snprintf(label, sizeof(label), "[%s]", section->name);
        sentence_add(&writing->discovery->warnings, label,
                     "it stands in %.200s, line %u, and stays as it is there; but the cluster does "
                     "not have this node",
                     section->from->path, section->line);
    }
}

static int nodes_put(struct writing *writing, struct setup_error *error)
{
    size_t count, elsewhere = 0;
    int result = 0;
    const struct found_node **list = names_sort(writing->discovery, &count);
    for (size_t i = 0; !result && i < count; i++) {
        const struct config_section *section =
            config_file_named(&writing->file, SECTION_NODE, list[i]->name);
        elsewhere += section != NULL;
        if (!section)
            result = node_put(writing, list[i], error);
        else if (!list[i]->unusable)
            section_compare(writing, section, list[i]);
        if (section)
            fate_add(writing->rewriting, section->own, FATE_LEFT, list[i]);
    }
    if (!result) {
        olds_keep(writing);
        elsewhere_tell(writing, list, count);
        old_tell(writing);
    }
    free(list);
    if (!result && !elsewhere && !writing->new.count)
        result = setup_fail(error,
                            "of the cluster's %zu node%s none can be used, for the reasons "
                            "above: there is nothing to write",
                            writing->discovery->nodes, writing->discovery->nodes == 1 ? "" : "s");
    return result;
}

/* ---- aliases ---- */

static void alias_put(struct writing *writing, const struct found_alias *alias)
{
    const struct config_section *section =
        config_file_named(&writing->file, SECTION_ALIAS, alias->name);
    struct sentences *warnings = &writing->discovery->warnings;
    char *text = NULL, label[sizeof(alias->name) + 10];
    snprintf(label, sizeof(label), "[alias %s]", alias->name);
    if (section) {
        sentence_add(warnings, label, "it stands in %.200s, line %u, and stays as it is there",
                     section->from->path, section->line);
        return;
    }
    if (alias->count > writing->room) {
        sentence_add(warnings, label,
                     "all aliases together would have more than %d addresses, so it is left out",
                     POLICY_ALIASES);
        return;
    }
    writing->room -= alias->count;
    FILE *out = state_open(&text);
    fprintf(out, "[alias %s]\nserver = %s\naddresses = %s\n", alias->name, alias->servers,
            alias->addresses);
    state_close(out);
    part_add(&writing->new_alias, alias->name, strlen(alias->name), text);
}

/* Those of the cluster; if it was not asked for all that it takes, those that were there. */
static void aliases_put(struct writing *writing)
{
    const struct discovery *discovery = writing->discovery;
    if (discovery->services_known && discovery->slices_known)
        for (size_t i = 0; i < discovery->aliases; i++)
            alias_put(writing, &discovery->alias[i]);
    else
        for (size_t i = 0; i < writing->old_alias.count; i++) {
            const struct part *part = &writing->old_alias.item[i];
            if (!config_file_named(&writing->file, SECTION_ALIAS, part->name))
                part_add(&writing->new_alias, part->name, strlen(part->name),
                         state_copy(part->text));
        }
}

static char *text_make(const struct writing *writing)
{
    char *text;
    FILE *out = state_open(&text);
    fputs(title, out);
    for (size_t i = 0; i < writing->new.count; i++)
        fprintf(out, "\n%s", writing->new.item[i].text);
    for (size_t i = 0; i < writing->new_alias.count; i++)
        fprintf(out, "\n%s", writing->new_alias.item[i].text);
    state_close(out);
    return text;
}

/* ---- reading it all ---- */

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

/* @text: of our file; NULL: it is not there. */
static int text_check(struct writing *writing, const char *text, struct setup_error *error)
{
    static struct site site;
    const struct discover_place *place = writing->place;
    const struct config_overlay over[] = {
        {place->file, text}, {place->begins ? place->config : NULL, begun}, {NULL, NULL}};
    struct config_error why;
    int result = site_load_over(place->config, over, &site, &why);
    writing->room = POLICY_ALIASES - site.config.policy.alias_count;
    const char *object = result ? object_find(writing->discovery, why.text) : NULL;
    site_free(&site);
    return result ? setup_fail(error, "%.800s%s%.200s%s", why.text, object ? " (discovered: " : "",
                               object ? object : "", object ? ")" : "")
                  : 0;
}

/* What is there and not discover's to write; and of discover's, what is there. */
static int writing_begin(struct writing *writing, struct setup_error *error)
{
    const struct discover_place *place = writing->place;
    const struct config_overlay over[] = {
        {place->file, NULL}, {place->begins ? place->config : NULL, begun}, {NULL, NULL}};
    struct config_error why;
    if (place->text && strncmp(place->text, TITLE, strlen(TITLE)) != 0)
        return setup_fail(error,
                          "%s: its first line does not say that discover has written it, so it "
                          "stays as it is: give it another name, and run this again",
                          place->file);
    if (text_check(writing, NULL, error) < 0)
        return -1;
    if (place->text) {
        parts_take(&writing->old, "\n[node ", place->text);
        parts_take(&writing->old_alias, "\n[alias ", place->text);
    }
    return config_file_read(&writing->file, place->config, over, &why)
               ? setup_fail(error, "%s", why.text)
               : 0;
}

int discovery_write(struct discovery *discovery, const struct discover_place *place,
                    struct rewriting *rewriting, struct setup_error *error)
{
    struct writing writing = {.discovery = discovery, .place = place, .rewriting = rewriting};
    *rewriting = (struct rewriting){.text = NULL};
    int result = writing_begin(&writing, error);
    if (!result)
        result = nodes_put(&writing, error);
    if (!result)
        aliases_put(&writing);
    if (!result && (place->text || writing.new.count)) {
        rewriting->text = text_make(&writing);
        rewriting->begun = place->begins ? begun : NULL;
        result = text_check(&writing, rewriting->text, error);
    }
    if (!result && place->text && strcmp(place->text, rewriting->text) == 0) {
        free(rewriting->text);
        rewriting->text = NULL;
    }
    parts_free(&writing.old);
    parts_free(&writing.new);
    parts_free(&writing.old_alias);
    parts_free(&writing.new_alias);
    config_file_free(&writing.file);
    return result;
}

void rewriting_free(struct rewriting *rewriting)
{
    free(rewriting->text);
    free(rewriting->fate);
    *rewriting = (struct rewriting){.text = NULL};
}
