/* SPDX-License-Identifier: MIT */
/*
 * One option in the API server's static pod: the value of --service-node-port-range.
 *
 * The manifest is other people's: whatever is not that value stays as it is, byte for byte, with
 * its comments, quotes and line ends. So it is read with libyaml, whose events say where in the
 * text things are, and then text is cut out and pasted in. The result is read again, and used only
 * if its events differ from those before by the option and nothing else.
 *
 * What is read is what the kubelet reads: the first document of the file. JSON is YAML.
 *
 * A new option is put right behind the program's name: nowhere else can one be sure not to come
 * between an option and its value, or behind a "--". Of several the API server takes the last.
 *
 * Positions are taken from the marks' line and column: their index counts characters, too, and
 * differs between versions of libyaml where lines end in CRLF.
 *
 * The kubelet reads every file in the folder, whatever its name: so the new one is written in the
 * folder above (the same file system), and renamed.
 */
#include "state.h"

#include "../../common/say.h"

#include <libgen.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define PROGRAM "kube-apiserver"
#define OPTION "--service-node-port-range"
#define BYTES_MOST (1u << 20) /* a kubeadm's manifest has 4,000 */
#define NODES_MOST 16384      /* and 250 */
#define DEPTH_MOST 64
#define WORDS_MOST 1024
#define VALUE_MOST 16
#define BOM "\xef\xbb\xbf"
#define NONE SIZE_MAX

/* A scalar, an alias, or the begin or the end of a sequence or a mapping. */
struct node {
    yaml_event_t event;
    const char *anchor, *tag; /* in .event; NULL: none. Of an alias: the anchor that it names */
    size_t parent;            /* NONE: it is the document itself */
    size_t next;              /* what follows, with all that is in it skipped */
    size_t target;            /* of an alias: what it stands for; of all others: itself */
    bool shared;              /* an alias stands for it */
};

struct document {
    const char *name;
    const char *file; /* as resource_file has it, with a line for mode and owner */
    const char *text; /* in it, behind that line and a byte order mark */
    size_t length;
    struct node *node;
    size_t count;
    struct setup_error *error;
};

/* One string of the command line: an item of command or args. */
struct word {
    size_t list, item; /* nodes */
    size_t before;     /* the item before it in the list, NONE */
    bool flow;         /* the list is [a, b] */
    const char *text;
};

/* The API server's command line, and the option on it. */
struct found {
    size_t container;
    struct word word[WORDS_MOST];
    size_t words;
    size_t program; /* NONE: the image starts it, and all words are options */
    size_t option;  /* NONE: not there */
    size_t options; /* how many there are */
    size_t value;   /* the word that ends in the value: the option itself or the one behind it */
    const char *text;
};

/* ---- reading ---- */

static int __attribute__((format(printf, 3, 4)))
refuse_line(const struct document *document, size_t line, const char *format, ...)
{
    char sentence[512];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    return setup_fail(document->error, "%s: line %zu: %s", document->name, line, sentence);
}

#define refuse(document, at, ...) refuse_line(document, node_line(document, at), __VA_ARGS__)

static size_t node_line(const struct document *document, size_t at)
{
    return at < document->count ? document->node[at].event.start_mark.line + 1 : 1;
}

static yaml_event_type_t node_type(const struct document *document, size_t at)
{
    return document->node[at].event.type;
}

/* A scalar's text; NULL: it is something else. */
static const char *node_text(const struct document *document, size_t at)
{
    const yaml_event_t *event = &document->node[at].event;
    return event->type == YAML_SCALAR_EVENT ? (const char *)event->data.scalar.value : NULL;
}

static void node_name(struct node *node)
{
    const yaml_event_t *event = &node->event;
    if (event->type == YAML_SCALAR_EVENT) {
        node->anchor = (const char *)event->data.scalar.anchor;
        node->tag = (const char *)event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        node->anchor = (const char *)event->data.sequence_start.anchor;
        node->tag = (const char *)event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        node->anchor = (const char *)event->data.mapping_start.anchor;
        node->tag = (const char *)event->data.mapping_start.tag;
    } else if (event->type == YAML_ALIAS_EVENT) {
        node->anchor = (const char *)event->data.alias.anchor;
    }
}

/* Where a mark is in the text: lines end where libyaml lets them end. */
static size_t offset(const struct document *document, const yaml_mark_t *mark)
{
    const char *at = document->text, *end = at + document->length;
    for (size_t line = 0; line < mark->line && at < end; line++) {
        while (at < end && *at != '\n' && strncmp(at, "\xc2\x85", 2) != 0 &&
               strncmp(at, "\xe2\x80\xa8", 3) != 0 && strncmp(at, "\xe2\x80\xa9", 3) != 0)
            at++;
        at += *at == '\xc2' ? 2 : *at == '\xe2' ? 3 : 1;
    }
    for (size_t column = 0; column < mark->column && at < end; column++)
        for (at++; (*at & 0xc0) == 0x80; at++)
            ;
    return at < end ? (size_t)(at - document->text) : document->length;
}

#define node_from(document, at) offset(document, &(document)->node[at].event.start_mark)
#define node_to(document, at) offset(document, &(document)->node[at].event.end_mark)

static void document_free(struct document *document)
{
    for (size_t i = 0; i < document->count; i++)
        yaml_event_delete(&document->node[i].event);
    free(document->node);
}

static int document_garbled(const struct document *document, const yaml_parser_t *parser)
{
    bool cut = strstr(parser->problem, "unexpected end of stream") && parser->context;
    const yaml_mark_t *mark = cut ? &parser->context_mark : &parser->problem_mark;
    bool tab = !cut && document->text[offset(document, mark)] == '\t';
    return refuse_line(document, mark->line + 1, "it is not YAML: %s%s%s%s", parser->problem,
                       tab ? " (a tab)" : "", parser->context ? " " : "",
                       parser->context ? parser->context : "");
}

/* Lines are cut out and put in: so their ends have to be plain. */
static int line_ends_check(const struct document *document)
{
    size_t line = 1;
    for (const char *at = document->text; *at; at++) {
        line += *at == '\n';
        if (*at == '\r' && at[1] != '\n')
            return refuse_line(document, line, "there is a carriage return without a line feed");
    }
    return 0;
}

/* What an alias stands for: the last node before it that has the name. */
static int alias_resolve(struct document *document, size_t alias)
{
    struct node *node = document->node;
    for (size_t i = alias; i-- > 0;)
        if (node[i].anchor && node[i].event.type != YAML_ALIAS_EVENT &&
            strcmp(node[i].anchor, node[alias].anchor) == 0) {
            node[alias].target = i;
            node[i].shared = true;
            return 0;
        }
    return refuse(document, alias, "there is no anchor of the name that this alias has");
}

/* Take over an event as the next node. @parent: what is open. */
static int document_add(struct document *document, const yaml_event_t *event, size_t *parent,
                        size_t *depth)
{
    size_t at = document->count;
    bool begins =
        event->type == YAML_SEQUENCE_START_EVENT || event->type == YAML_MAPPING_START_EVENT;
    bool ends = event->type == YAML_SEQUENCE_END_EVENT || event->type == YAML_MAPPING_END_EVENT;
    if ((at & (at + 1)) == 0) /* 0, 1, 3, 7, ...: room for twice as many */
        document->node = state_grow(document->node, (2 * at + 1) * sizeof(*document->node));
    struct node *node = &document->node[at];
    *node = (struct node){.event = *event, .parent = *parent, .next = at + 1, .target = at};
    node_name(node);
    document->count++;
    *depth += begins - ends;
    if (begins)
        *parent = at;
    if (ends) {
        document->node[*parent].next = at + 1;
        *parent = document->node[*parent].parent;
    }
    if (at >= NODES_MOST)
        return refuse(document, at, "there are more than %d values: no manifest has", NODES_MOST);
    if (*depth > DEPTH_MOST)
        return refuse(document, at, "it is nested more than %d deep: no manifest is", DEPTH_MOST);
    return event->type == YAML_ALIAS_EVENT ? alias_resolve(document, at) : 0;
}

/* @file: as resource_file has it. Return: 0 or -1. document_free() in any case. */
static int document_read(struct document *document, const char *name, const char *file,
                         struct setup_error *error)
{
    yaml_parser_t parser;
    yaml_event_t event;
    size_t parent = NONE, depth = 0;
    int result = 0;
    const char *text = strchr(file, '\n') + 1;
    text += strncmp(text, BOM, strlen(BOM)) == 0 ? strlen(BOM) : 0;
    *document = (struct document){name, file, text, strlen(text), NULL, 0, error};
    if (document->length > BYTES_MOST)
        return setup_fail(error, "%s: it is larger than 1 MiB, which no manifest is", name);
    if (line_ends_check(document) < 0)
        return -1;
    if (!yaml_parser_initialize(&parser))
        return setup_fail(error, "%s: out of memory", name);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, document->length);
    for (bool done = false; !done && result == 0;) {
        if (!yaml_parser_parse(&parser, &event)) {
            result = document_garbled(document, &parser);
        } else if (event.type > YAML_DOCUMENT_END_EVENT) {
            result = document_add(document, &event, &parent, &depth);
        } else {
            done = event.type == YAML_DOCUMENT_END_EVENT || event.type == YAML_STREAM_END_EVENT;
            yaml_event_delete(&event);
        }
    }
    yaml_parser_delete(&parser);
    return result;
}

/* ---- finding ---- */

/* The node that @key of mapping @map has. @value: NONE: there is no such key. */
static int map_find(const struct document *document, size_t map, const char *key, size_t *value)
{
    const struct node *node = document->node;
    *value = NONE;
    if (map == NONE || node_type(document, map) != YAML_MAPPING_START_EVENT)
        return 0;
    for (size_t i = map + 1; node_type(document, i) != YAML_MAPPING_END_EVENT;
         i = node[node[i].next].next) {
        const char *name = node_text(document, node[i].target);
        if (name && strcmp(name, "<<") == 0)
            return refuse(document, i, "\"<<\" takes in another mapping: write out what it has");
        if (!name || strcmp(name, key) != 0)
            continue;
        if (*value != NONE)
            return refuse(document, i, "\"%s\" is there twice", key);
        *value = node[node[i].next].target;
    }
    return 0;
}

static bool is_null(const struct document *document, size_t at)
{
    const yaml_event_t *event = &document->node[at].event;
    const char *text = node_text(document, at);
    return text && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

/* Append the strings of command or args. */
static int words_add(const struct document *document, size_t container, const char *key,
                     struct found *found)
{
    const struct node *node = document->node;
    size_t list, before = NONE;
    if (map_find(document, container, key, &list) < 0)
        return -1;
    if (list == NONE || is_null(document, list))
        return 0;
    if (node_type(document, list) != YAML_SEQUENCE_START_EVENT)
        return refuse(document, list, "%s is not a list of strings", key);
    bool flow = node[list].event.data.sequence_start.style == YAML_FLOW_SEQUENCE_STYLE;
    for (size_t i = list + 1; node_type(document, i) != YAML_SEQUENCE_END_EVENT;
         before = i, i = node[i].next) {
        const char *text = node_text(document, node[i].target);
        const char *tag = node[node[i].target].tag;
        if (!text || (tag && strcmp(tag, "!") != 0 && strcmp(tag, YAML_STR_TAG) != 0))
            return refuse(document, i, "%s is not a list of strings", key);
        if (found->words == WORDS_MOST)
            return refuse(document, i, "there are more than %d strings in command and args",
                          WORDS_MOST);
        found->word[found->words++] = (struct word){list, i, before, flow, text};
    }
    return 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The index of the program's name: behind a starter (/go-runner --x) or hyperkube, too. */
static size_t words_program(const struct found *found, bool named)
{
    for (size_t i = 0; i < found->words; i++) {
        const char *before = i ? found->word[i - 1].text : "",
                   *name = base_name(found->word[i].text);
        bool hyper = strcmp(base_name(before), "hyperkube") == 0;
        bool value = *before == '-' && !strchr(before, '='); /* of another program's option */
        if ((strcmp(name, PROGRAM) == 0 && (named || !value)) ||
            (strcmp(name, "apiserver") == 0 && (hyper || (named && !value))))
            return i;
    }
    return NONE;
}

/* "sh -c 'exec kube-apiserver --x'". Return: the word that shows it; NONE: not so. */
static size_t words_shell(const struct found *found, bool named)
{
    bool hidden = named && found->program == NONE;
    const char *first = found->words ? base_name(found->word[0].text) : "";
    size_t length = strlen(first);
    bool shell =
        (length >= 2 && strcmp(first + length - 2, "sh") == 0) || strcmp(first, "busybox") == 0;
    for (size_t i = 0; i < found->words; i++) {
        const char *text = found->word[i].text;
        if (strstr(text, "apiserver") && (shell || (hidden && text[strcspn(text, " \t\n")])))
            return i;
    }
    return NONE;
}

/*
 * Return: 1 if @container runs the API server, 0 if not, -1 if that or its command line cannot be
 * told. @found: its words.
 */
static int container_read(const struct document *document, size_t container, struct found *found)
{
    size_t name;
    found->container = container;
    found->words = 0;
    if (map_find(document, container, "name", &name) < 0 ||
        words_add(document, container, "command", found) < 0)
        return -1;
    bool alone = !found->words;
    if (words_add(document, container, "args", found) < 0)
        return -1;
    const char *text = name == NONE ? NULL : node_text(document, name);
    bool named = text && strcmp(text, PROGRAM) == 0;
    found->program = words_program(found, named);
    size_t shell = words_shell(found, named);
    if (shell != NONE)
        return refuse(document, found->word[shell].item,
                      PROGRAM " is started through a shell, so its options are no list: start it "
                              "directly, in command and args");
    return found->program != NONE || (named && alone);
}

/* The only container that runs the API server. */
static int container_find(const struct document *document, size_t containers, struct found *found)
{
    struct setup_error unclear = {.text = ""};
    struct document other = *document;
    struct found candidate;
    size_t chosen = NONE;
    other.error = &unclear; /* what is odd about others is their business, if one is found */
    for (size_t i = containers + 1; node_type(document, i) != YAML_SEQUENCE_END_EVENT;
         i = document->node[i].next) {
        if (container_read(&other, document->node[i].target, &candidate) <= 0)
            continue;
        if (chosen != NONE)
            return refuse(document, i, "two containers run " PROGRAM ": here, and in line %zu",
                          node_line(document, chosen));
        chosen = i;
        *found = candidate;
    }
    if (chosen != NONE)
        return 0;
    if (*unclear.text)
        return setup_fail(document->error, "%s", unclear.text);
    return refuse(document, containers,
                  "it is not an API server's manifest: no container runs " PROGRAM);
}

static int words_find(const struct document *document, struct found *found)
{
    size_t kind, spec, containers;
    size_t root = document->count ? document->node[0].target : NONE;
    if (map_find(document, root, "kind", &kind) < 0 || map_find(document, root, "spec", &spec) < 0)
        return -1;
    const char *name = kind == NONE ? NULL : node_text(document, kind);
    if (!name || strcmp(name, "Pod") != 0)
        return refuse(document, kind == NONE ? 0 : kind,
                      "it is not an API server's manifest: the kind is not Pod%s",
                      name ? "" : " (the kubelet reads the first document of a file)");
    if (map_find(document, spec, "containers", &containers) < 0)
        return -1;
    if (containers == NONE || node_type(document, containers) != YAML_SEQUENCE_START_EVENT)
        return refuse(document, kind,
                      "it is not an API server's manifest: spec.containers is not a list");
    return container_find(document, containers, found);
}

/* Kubernetes takes '_' for '-' in the names of options. Return: behind the name; NULL: another. */
static const char *option_match(const char *word)
{
    for (size_t i = 0; i < strlen(OPTION); i++)
        if ((i > 1 && word[i] == '_' ? '-' : word[i]) != OPTION[i])
            return NULL;
    return word[strlen(OPTION)] == '=' || !word[strlen(OPTION)] ? word + strlen(OPTION) : NULL;
}

/* What a range of ports is made of: nothing that YAML or a terminal would read otherwise. */
static bool value_is_plain(const char *value)
{
    size_t length = strlen(value);
    return length && length < VALUE_MOST && strspn(value, "0123456789-+") == length;
}

/* The option among the words; of several the last. Return: 0 or -1. */
static int option_find(const struct document *document, struct found *found)
{
    char shown[80];
    if (words_find(document, found) < 0)
        return -1;
    found->option = NONE;
    found->options = 0;
    for (size_t i = found->program == NONE ? 0 : found->program + 1; i < found->words; i++) {
        const char *end = option_match(found->word[i].text);
        if (strcmp(found->word[i].text, "--") == 0)
            break;
        if (!end)
            continue;
        found->option = i;
        found->options++;
        i += !*end;
        if (i == found->words)
            return refuse(document, found->word[i - 1].item, OPTION " is without a value");
        found->value = i;
        found->text = *end ? end + 1 : found->word[i].text;
    }
    if (found->option == NONE || value_is_plain(found->text))
        return 0;
    return refuse(document, found->word[found->value].item,
                  "the value of " OPTION " is no range of ports such as 30000-32767: '%s'",
                  say_clean(found->text, 60, false, shown, sizeof(shown)));
}

/* ---- changing ---- */

/* A change: the text that comes of it is written to .out, and what it does to the nodes. */
struct edit {
    const struct document *document;
    FILE *out;
    size_t at;      /* how far the old text is taken over, or left out */
    size_t changed; /* the scalar that has .text then; NONE */
    size_t behind;  /* the node behind which there is a scalar more, with .text; NONE */
    size_t gone[2]; /* scalars that are there no more; NONE */
    char text[80];
};

/* Take over the old text up to @from, and leave out what is before @to. */
static void edit_skip(struct edit *edit, size_t from, size_t to)
{
    if (from > edit->at)
        fwrite(edit->document->text + edit->at, 1, from - edit->at, edit->out);
    edit->at = to;
}

/* What stands for more than one place cannot be changed for one of them. */
static int place_check(const struct document *document, size_t at)
{
    for (size_t i = at; i != NONE; i = document->node[i].parent)
        if (document->node[i].shared)
            return refuse(document, i,
                          "the anchor \"%.40s\" is used elsewhere, and " OPTION
                          " would change there, too: write it out in both places",
                          document->node[i].anchor);
    return 0;
}

static size_t line_begin(const struct document *document, size_t at)
{
    while (at && document->text[at - 1] != '\n')
        at--;
    return at;
}

/* The begin of the line behind @at, the end of a node; block text ends there. */
static size_t line_behind(const struct document *document, size_t at)
{
    const char *newline = strchr(document->text + at, '\n');
    if (at && document->text[at - 1] == '\n')
        return at;
    return newline ? (size_t)(newline - document->text) + 1 : document->length;
}

static int edit_change(struct edit *edit, const struct found *found, const char *to)
{
    const struct document *document = edit->document;
    size_t at = document->node[found->word[found->value].item].target;
    size_t begin = node_from(document, at), end = node_to(document, at);
    size_t length = strlen(found->text);
    const char *text = node_text(document, at);
    while (end > begin && strchr(" \t\r\n", document->text[end - 1])) /* of block text */
        end--;
    end -= end > begin && strchr("'\"", document->text[end - 1]);
    if (end < begin + length || memcmp(document->text + end - length, found->text, length) != 0)
        return refuse(document, at,
                      "the value of " OPTION " is no range of ports that is written in digits");
    edit_skip(edit, end - length, end);
    fputs(to, edit->out);
    edit->changed = at;
    snprintf(edit->text, sizeof(edit->text), "%.*s%s", (int)(strlen(text) - length), text, to);
    return place_check(document, at);
}

/* A line of its own, like that of the item that it comes behind, or before if it is the @first. */
static int edit_line(struct edit *edit, size_t item, bool first, const char *quote)
{
    const struct document *document = edit->document;
    const char *text = document->text, *newline = strchr(text, '\n');
    const char *end = newline && newline > text && newline[-1] == '\r' ? "\r\n" : "\n";
    size_t from = node_from(document, item), line = line_begin(document, from);
    size_t dash = from;
    while (dash > line && (text[dash - 1] == ' ' || text[dash - 1] == '\t'))
        dash--;
    if (dash == line || text[dash - 1] != '-')
        return refuse(document, item,
                      "this string has to be in one line with its \"-\": " OPTION
                      " will come behind it, in the same form");
    size_t at = first ? line : line_behind(document, node_to(document, item));
    bool ended = first || (at && text[at - 1] == '\n');
    edit_skip(edit, at, at);
    fprintf(edit->out, "%s%*s%.*s%s%s%s%s", ended ? "" : end, (int)(dash - line - 1), "",
            (int)(from - dash + 1), text + dash - 1, quote, edit->text, quote, ended ? end : "");
    return 0;
}

/* Behind the program's name in its list, or as the first if the list does not have it. */
static int edit_insert(struct edit *edit, const struct found *found, const char *to)
{
    const struct document *document = edit->document;
    bool first = found->program == NONE;
    if (!found->words)
        return refuse(document, found->container,
                      "there is neither command nor args, in which " OPTION " could be put");
    const struct word *word = &found->word[first ? 0 : found->program];
    char begin = document->text[node_from(document, word->item)];
    char quote[2] = {begin == '"' || begin == '\'' ? begin : '\0'};
    edit->behind = first ? word->list : word->item;
    snprintf(edit->text, sizeof(edit->text), OPTION "=%s", to);
    if (place_check(document, word->list) < 0)
        return -1;
    if (!word->flow)
        return edit_line(edit, word->item, first, quote);
    size_t at = first ? node_from(document, word->item) : node_to(document, word->item);
    edit_skip(edit, at, at);
    fprintf(edit->out, "%s%s%s%s%s", first ? "" : ", ", quote, edit->text, quote,
            first ? ", " : "");
    return 0;
}

/* Cut the items from @first to @last out of their list, with a comma or with their lines. */
static void edit_cut(struct edit *edit, const struct word *first, const struct word *last)
{
    const struct document *document = edit->document;
    const char *text = document->text;
    size_t from = node_from(document, first->item), to = node_to(document, last->item);
    size_t next = document->node[last->item].next;
    if (!first->flow) {
        from = line_begin(document, from);
        to = line_behind(document, to);
        if (text[to - 1] != '\n' && from) /* the file's last line: the end of the one before */
            from -= from > 1 && text[from - 2] == '\r' ? 2 : 1;
    } else if (first->before != NONE) {
        from = node_to(document, first->before);
    } else if (node_type(document, next) != YAML_SEQUENCE_END_EVENT) {
        to = node_from(document, next);
    }
    edit_skip(edit, from, to);
}

static int edit_remove(struct edit *edit, const struct found *found)
{
    const struct document *document = edit->document;
    const struct word *option = &found->word[found->option], *value = &found->word[found->value];
    bool turned = value->item < option->item; /* args may stand before command */
    const struct word *first = turned ? value : option, *second = turned ? option : value;
    if (found->options > 1)
        return refuse(document, option->item, OPTION " is there more than once: leave one");
    if (place_check(document, option->list) < 0 || place_check(document, value->list) < 0)
        return -1;
    edit->gone[0] = option->item;
    edit->gone[1] = value->item;
    edit_cut(edit, first, first->list == second->list ? second : first);
    if (first->list != second->list)
        edit_cut(edit, second, second);
    return 0;
}

/* Whether @b is what @a was; @text: with this text. */
static bool node_same(const struct node *a, const struct node *b, const char *text)
{
    const yaml_event_t *was = &a->event, *is = &b->event;
    if (was->type != is->type || !state_equal(a->anchor, b->anchor) || !state_equal(a->tag, b->tag))
        return false;
    if (was->type != YAML_SCALAR_EVENT)
        return true;
    size_t length = text ? strlen(text) : was->data.scalar.length;
    return was->data.scalar.style == is->data.scalar.style && is->data.scalar.length == length &&
           memcmp(text ? text : (const char *)was->data.scalar.value, is->data.scalar.value,
                  length) == 0;
}

/* What was made must read as what was meant, and all else as before. */
static bool edit_holds(const struct edit *edit, const struct document *made)
{
    const struct node *node = edit->document->node;
    size_t k = 0;
    for (size_t i = 0; i < edit->document->count; i++) {
        if (i == edit->gone[0] || i == edit->gone[1])
            continue;
        if (k == made->count ||
            !node_same(&node[i], &made->node[k++], i == edit->changed ? edit->text : NULL))
            return false;
        if (i != edit->behind)
            continue;
        const char *text = k < made->count ? node_text(made, k++) : NULL;
        if (!text || strcmp(text, edit->text) != 0)
            return false;
    }
    return k == made->count;
}

static int edit_check(const struct edit *edit, const char *text)
{
    struct document made;
    struct setup_error ignored;
    size_t at = edit->changed & edit->behind & edit->gone[0]; /* all but one are NONE */
    bool holds =
        document_read(&made, edit->document->name, text, &ignored) == 0 && edit_holds(edit, &made);
    document_free(&made);
    return holds
               ? 0
               : refuse(edit->document, at, OPTION " cannot be changed here without changing more");
}

static int edit_do(struct edit *edit, const struct found *found, const char *to)
{
    if (!to)
        return edit_remove(edit, found);
    if (!value_is_plain(to))
        return setup_fail(edit->document->error, "%s: that is no range of ports",
                          edit->document->name);
    return found->option == NONE ? edit_insert(edit, found, to) : edit_change(edit, found, to);
}

/* Return: the file with the option set to @to (NULL: without it), malloc'd; NULL: refused. */
static char *manifest_set(const struct document *document, const struct found *found,
                          const char *to)
{
    char *made;
    struct edit edit = {
        .document = document, .changed = NONE, .behind = NONE, .gone = {NONE, NONE}};
    edit.out = state_open(&made);
    fwrite(document->file, 1, (size_t)(document->text - document->file), edit.out);
    int result = edit_do(&edit, found, to);
    edit_skip(&edit, document->length, document->length);
    state_close(edit.out);
    if (result == 0 && edit_check(&edit, made) == 0)
        return made;
    free(made);
    return NULL;
}

/* ---- the resource ---- */

/* Return: 0 or -1. @file: malloc'd or NULL, and document_free(), in any case. */
static int manifest_read(const char *name, char **file, struct document *document,
                         struct found *found, struct setup_error *error)
{
    *document = (struct document){.count = 0};
    if (resource_file.read(name, file, error) < 0)
        return -1;
    if (!*file)
        return setup_fail(error,
                          "%s: there is no such file: is this a control-plane machine whose API "
                          "server is a static pod? [control-plane] manifest names another file",
                          name);
    return document_read(document, name, *file, error) < 0 ? -1 : option_find(document, found);
}

static int nodeports_read(const char *name, char **state, struct setup_error *error)
{
    char *file = NULL;
    struct document document;
    struct found found;
    int result = manifest_read(name, &file, &document, &found, error);
    *state = result == 0 && found.option != NONE ? state_copy(found.text) : NULL;
    document_free(&document);
    free(file);
    return result;
}

static int nodeports_steps(const char *name, const char *from, const char *to, struct steps *steps,
                           struct setup_error *error)
{
    char *file = NULL, *made = NULL, staging[PATH_MAX];
    struct document document;
    struct found found;
    int result = manifest_read(name, &file, &document, &found, error);
    if (result == 0 && !state_equal(found.option == NONE ? NULL : found.text, from))
        result = setup_fail(error, "%s: somebody has changed it in the meantime", name);
    if (result == 0)
        result = file_alone(name, error);
    if (result == 0)
        made = manifest_set(&document, &found, to);
    snprintf(staging, sizeof(staging), "%s", name);
    if (made)
        steps_file(steps, name, file, made, dirname(dirname(staging)));
    result = made ? 0 : -1;
    free(made);
    document_free(&document);
    free(file);
    return result;
}

const struct resource_type resource_nodeports = {
    .name = "nodeports",
    .lasting = true,
    .read = nodeports_read,
    .steps = nodeports_steps,
};

char *kubeadm_snippet(const struct portrange *ports)
{
    static const char form[] = "# kubeadm upgrade writes the manifest anew, from its own "
                               "configuration. Keep it there too\n"
                               "# (kubectl -n kube-system edit configmap kubeadm-config):\n"
                               "apiVersion: kubeadm.k8s.io/v1beta4\n"
                               "kind: ClusterConfiguration\n"
                               "apiServer:\n"
                               "  extraArgs:\n"
                               "  - name: service-node-port-range\n"
                               "    value: \"%u-%u\"\n"
                               "# or, where it says kubeadm.k8s.io/v1beta3:\n"
                               "apiServer:\n"
                               "  extraArgs:\n"
                               "    service-node-port-range: \"%u-%u\"\n";
    char *text;
    return asprintf(&text, form, ports->lo, ports->hi, ports->lo, ports->hi) < 0 ? NULL : text;
}
