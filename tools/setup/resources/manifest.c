/* SPDX-License-Identifier: MIT */
/*
 * One option in the API server's static pod: the value of --service-node-port-range.
 *
 * The manifest is other people's: whatever is not that value stays as it is, byte for byte, with
 * its comments, quotes and line ends. A library that reads YAML and writes it again would lose all
 * that. So the file is scanned for the places where things are, and then cut and pasted. The
 * scanner follows the structure of block style, as far as a Pod needs it (which key belongs to
 * which, what is inside of a quoted, folded or bracketed value and thus no key at all), and what it
 * does not understand where it matters, it refuses. What was pasted is scanned again before it is
 * used.
 *
 * The option is put right behind the program's name: nowhere else can one be sure not to come
 * between an option and its value, or behind a "--".
 *
 * The kubelet reads every file in the folder, whatever its name: so the new one is written in the
 * folder above (the same file system), and renamed.
 */
#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAM "kube-apiserver"
#define OPTION "--service-node-port-range"
#define LEVELS 32
#define CONTAINERS 64
#define ITEMS 512   /* a kubeadm's API server has about 30 */
#define KEY_MOST 16 /* bytes of a key that are remembered: longer ones mean nothing to us */
#define VALUE_MOST 16

/* A string in a list: offsets into the file. */
struct item {
    size_t line;           /* where its line begins */
    size_t raw, raw_end;   /* with the quotes */
    size_t text, text_end; /* without */
};

struct list {
    bool there;
    bool flow;       /* [a, b] */
    const char *odd; /* why it cannot be used, or NULL */
    struct item item[ITEMS];
    size_t count;
};

struct container {
    bool named; /* "kube-apiserver" */
    struct list command;
    struct list args;
};

/* Where we are in the structure: a key of a mapping, or an item of a sequence. */
struct level {
    size_t column;
    bool item;
    char key[KEY_MOST];
};

struct scan {
    const char *text;
    size_t length;
    size_t at;
    size_t line; /* where the line of .at begins */
    bool begun;  /* something other than comments was seen */
    bool ended;  /* "..." was seen */
    bool fresh;  /* .at is at the begin of a line that nobody has looked at */
    bool is_pod;
    struct level level[LEVELS];
    size_t depth;
    struct container *container;
    size_t containers;
    const char *why; /* refused */
};

/* What was found: the strings behind the program's name, and the option among them. */
struct found {
    struct list *list; /* that the option would be put in */
    size_t program;    /* index in list of the program's name; list->count: none, put it first */
    const struct item *option; /* NULL: not there */
    struct list *option_list;
    const struct item *value; /* another item if the value is one of its own */
    struct list *value_list;
    size_t value_at, value_end;
};

/* ---- characters ---- */

static char peek(const struct scan *scan, size_t ahead)
{
    return scan->at + ahead < scan->length ? scan->text[scan->at + ahead] : '\0';
}

static bool at_end(const struct scan *scan)
{
    return scan->at >= scan->length;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The end of a line or of the file; "\r" counts only before "\n". */
static bool at_line_end(const struct scan *scan)
{
    return at_end(scan) || peek(scan, 0) == '\n' ||
           (peek(scan, 0) == '\r' && peek(scan, 1) == '\n');
}

static bool ends_word(const struct scan *scan, size_t ahead)
{
    char c = peek(scan, ahead);
    return scan->at + ahead >= scan->length || is_blank(c) || c == '\n' || c == '\r';
}

static void skip_blanks(struct scan *scan)
{
    while (is_blank(peek(scan, 0)))
        scan->at++;
}

static bool at_comment(const struct scan *scan)
{
    return peek(scan, 0) == '#' && (scan->at == scan->line || is_blank(scan->text[scan->at - 1]));
}

/* To the begin of the next line. */
static void next_line(struct scan *scan)
{
    while (!at_end(scan) && peek(scan, 0) != '\n')
        scan->at++;
    if (!at_end(scan))
        scan->at++;
    scan->line = scan->at;
}

static void refuse(struct scan *scan, const char *why)
{
    if (!scan->why)
        scan->why = why;
}

static size_t column(const struct scan *scan)
{
    return scan->at - scan->line;
}

/* ---- where we are ---- */

static bool level_is(const struct scan *scan, size_t depth, const char *key)
{
    const struct level *level = &scan->level[depth];
    return depth < scan->depth &&
           (key ? !level->item && strcmp(level->key, key) == 0 : level->item);
}

/* In an item of spec.containers, at least so deep. */
static bool in_container(const struct scan *scan, size_t depth)
{
    return scan->depth >= depth && scan->containers && level_is(scan, 0, "spec") &&
           level_is(scan, 1, "containers") && level_is(scan, 2, NULL);
}

static struct list *list_here(struct scan *scan)
{
    if (!in_container(scan, 4))
        return NULL;
    struct container *container = &scan->container[scan->containers - 1];
    if (level_is(scan, 3, "command"))
        return &container->command;
    return level_is(scan, 3, "args") ? &container->args : NULL;
}

static void push(struct scan *scan, size_t at_column, bool item, const char *key, size_t length)
{
    struct level *level = &scan->level[scan->depth];
    if (scan->depth == LEVELS) {
        refuse(scan, "is nested too deeply");
        return;
    }
    *level = (struct level){.column = at_column, .item = item};
    if (length < KEY_MOST)
        memcpy(level->key, key, length);
    scan->depth++;
}

/* Leave what does not hold a sequence's item in @at_column; the key before "- a" may be there. */
static void pop_for_item(struct scan *scan, size_t at_column)
{
    while (scan->depth) {
        const struct level *top = &scan->level[scan->depth - 1];
        if (top->column < at_column || (top->column == at_column && !top->item))
            return;
        scan->depth--;
    }
}

static void pop_for_key(struct scan *scan, size_t at_column)
{
    while (scan->depth && scan->level[scan->depth - 1].column >= at_column)
        scan->depth--;
}

static void container_begin(struct scan *scan)
{
    if (scan->containers == CONTAINERS) {
        refuse(scan, "has too many containers");
        return;
    }
    struct container *grown =
        realloc(scan->container, (scan->containers + 1) * sizeof(*scan->container));
    if (!grown) {
        refuse(scan, "is too large for the memory that is free");
        return;
    }
    scan->container = grown;
    memset(&scan->container[scan->containers++], 0, sizeof(*scan->container));
}

/* ---- values ---- */

/* The first reason is the one to tell. */
static void list_odd(struct list *list, const char *why)
{
    if (!list->odd)
        list->odd = why;
}

static void list_add(struct list *list, const struct item *item)
{
    if (list->count == ITEMS)
        list_odd(list, "has too many strings in command or args");
    else
        list->item[list->count++] = *item;
}

/* Past a quoted string, which may have several lines. */
static void skip_quoted(struct scan *scan)
{
    char quote = peek(scan, 0);
    for (scan->at++; !at_end(scan); scan->at++) {
        char c = peek(scan, 0);
        bool pair =
            (quote == '"' && c == '\\') || (quote == '\'' && c == quote && peek(scan, 1) == c);
        if (c == quote && !pair)
            break;
        scan->at += pair;
        if (peek(scan, 0) == '\n')
            scan->line = scan->at + 1;
    }
    if (at_end(scan))
        refuse(scan, "has a quote that is not closed");
    else
        scan->at++;
}

/* Past a plain string of one line; in brackets ',' and brackets end it. Return: its end. */
static size_t skip_plain(struct scan *scan, bool flow)
{
    size_t end = scan->at;
    while (!at_line_end(scan) && !at_comment(scan)) {
        char c = peek(scan, 0);
        if (flow && strchr(",[]{}", c))
            break;
        scan->at++;
        if (!is_blank(c))
            end = scan->at;
    }
    return end;
}

static struct item string_read(struct scan *scan, bool flow)
{
    struct item item = {.line = scan->line, .raw = scan->at};
    bool quoted = peek(scan, 0) == '"' || peek(scan, 0) == '\'';
    if (quoted)
        skip_quoted(scan);
    item.raw_end = quoted ? scan->at : skip_plain(scan, flow);
    item.text = item.raw + quoted;
    item.text_end = item.raw_end > item.text ? item.raw_end - quoted : item.text;
    return item;
}

/* A literal or folded text: all lines that are deeper than what it belongs to. */
static void skip_block(struct scan *scan)
{
    size_t parent = scan->depth ? scan->level[scan->depth - 1].column : 0;
    next_line(scan);
    while (!at_end(scan)) {
        while (peek(scan, 0) == ' ')
            scan->at++;
        if (!at_line_end(scan) && column(scan) <= parent) {
            scan->at = scan->line;
            scan->fresh = true;
            return;
        }
        next_line(scan);
    }
}

/* Past blanks, comments and line ends, inside of brackets. */
static void skip_space(struct scan *scan)
{
    for (;;) {
        skip_blanks(scan);
        if (at_end(scan) || (!at_line_end(scan) && !at_comment(scan)))
            return;
        next_line(scan);
    }
}

/* One character, quoted string or comment of {...}: a quote amid a word opens nothing. */
static void skip_flow_part(struct scan *scan, size_t *depth)
{
    char c = peek(scan, 0);
    bool begins = strchr("[{,: \t\n", scan->text[scan->at - 1]);
    *depth += c == '[' || c == '{';
    *depth -= c == ']' || c == '}';
    if ((c == '"' || c == '\'') && begins)
        skip_quoted(scan);
    else
        scan->at++;
    if (*depth)
        skip_space(scan);
}

/* Past {...} or [...] that is none of ours. */
static void skip_flow(struct scan *scan)
{
    size_t depth = 1;
    for (scan->at++; depth && !at_end(scan) && !scan->why;)
        skip_flow_part(scan, &depth);
    if (depth)
        refuse(scan, "has a bracket that is not closed");
}

/* [a, "b", 'c'] */
static void flow_read(struct scan *scan, struct list *list)
{
    list->there = list->flow = true;
    scan->at++;
    for (;;) {
        skip_space(scan);
        if (peek(scan, 0) == ']')
            break;
        if (at_end(scan) || strchr("[{},&*!|>?", peek(scan, 0))) {
            refuse(scan, "has a list in brackets that is not simply one of strings");
            return;
        }
        struct item item = string_read(scan, true);
        list_add(list, &item);
        skip_space(scan);
        if (peek(scan, 0) == ',')
            scan->at++;
        else if (peek(scan, 0) != ']')
            refuse(scan, "has a list in brackets without a comma between two strings");
        if (scan->why)
            return;
    }
    scan->at++;
}

/* What comes after a value in its line: nothing. */
static void value_end(struct scan *scan)
{
    skip_blanks(scan);
    if (!at_line_end(scan) && !at_comment(scan))
        refuse(scan, "has text behind the end of a value");
}

static bool item_is(const struct scan *scan, const struct item *item, const char *text)
{
    size_t length = item->text_end - item->text;
    return strlen(text) == length && memcmp(scan->text + item->text, text, length) == 0;
}

/* A string in block style: an item of ours, a container's name, the kind, or nothing of interest.
 */
static void string_value(struct scan *scan)
{
    struct item item = string_read(scan, false);
    struct list *list = list_here(scan);
    if (scan->depth == 1 && level_is(scan, 0, "kind"))
        scan->is_pod = item_is(scan, &item, "Pod");
    if (in_container(scan, 4) && scan->depth == 4 && level_is(scan, 3, "name"))
        scan->container[scan->containers - 1].named = item_is(scan, &item, PROGRAM);
    if (list && scan->depth == 5 && level_is(scan, 4, NULL))
        list_add(list, &item);
    else if (list)
        list_odd(list, "has a command or args that is not a list of strings");
}

static void flow_value(struct scan *scan)
{
    struct list *list = list_here(scan);
    bool ours = (level_is(scan, 0, "spec") && scan->depth == 1) ||
                (level_is(scan, 1, "containers") && scan->depth == 2) ||
                (in_container(scan, 3) && scan->depth == 3);
    if (ours)
        refuse(scan, "has its containers in brackets (flow style); block style is needed");
    else if (list && scan->depth == 4 && peek(scan, 0) == '[')
        flow_read(scan, list);
    else
        skip_flow(scan);
    if (list && !list->flow)
        list_odd(list, "has a command or args that is not a list of strings");
}

/* A value, or nothing if it is in the lines to come. */
static void value_read(struct scan *scan)
{
    struct list *list = list_here(scan);
    char c = peek(scan, 0);
    if (at_line_end(scan) || at_comment(scan))
        return;
    if (list && strchr("|>&*!", c))
        list_odd(list,
                 "has a string in a form (block text, anchor, alias, tag) that cannot be changed");
    if (c == '|' || c == '>') {
        skip_block(scan);
        return;
    }
    if (c == '[' || c == '{')
        flow_value(scan);
    else
        string_value(scan);
    value_end(scan);
}

/* ---- lines ---- */

/* "key:" here? Return: the offset behind the colon, and the key; 0: no. */
static size_t key_find(const struct scan *scan, size_t *key, size_t *length)
{
    struct scan probe = *scan;
    bool quoted = peek(scan, 0) == '"' || peek(scan, 0) == '\'';
    size_t line = probe.line;
    *key = scan->at + quoted;
    if (quoted) {
        skip_quoted(&probe);
        *length = probe.at - *key - 1;
        skip_blanks(&probe);
        return probe.line == line && peek(&probe, 0) == ':' && ends_word(&probe, 1) ? probe.at + 1
                                                                                    : 0;
    }
    if (strchr("[{", peek(&probe, 0)))
        return 0;
    for (; !at_line_end(&probe) && !at_comment(&probe); probe.at++) {
        if (peek(&probe, 0) == ':' && ends_word(&probe, 1)) {
            *length = probe.at - *key;
            return probe.at + 1;
        }
    }
    return 0;
}

/* A list's string that goes on in another line than it began in. */
static void continued(struct scan *scan)
{
    struct list *list = list_here(scan);
    if (list && (scan->depth > 4 || list->there))
        list_odd(list, "has a string that spreads over several lines");
}

static void entry_read(struct scan *scan, bool first)
{
    size_t key, length, colon = key_find(scan, &key, &length);
    if (!colon) {
        if (first) {
            pop_for_key(scan, column(scan));
            continued(scan);
        }
        value_read(scan);
        return;
    }
    if (strchr("&*!", peek(scan, 0)))
        refuse(scan, "has an anchor, an alias or a tag before a key");
    pop_for_key(scan, column(scan));
    push(scan, column(scan), false, scan->text + key, length);
    scan->at = colon;
    skip_blanks(scan);
    struct list *list = list_here(scan);
    if (list && scan->depth == 4 && list->there)
        list_odd(list, "has command or args twice in one container");
    value_read(scan);
}

/* "- " and what is behind it. */
static void dash_read(struct scan *scan)
{
    pop_for_item(scan, column(scan));
    push(scan, column(scan), true, "", 0);
    if (scan->depth == 3 && level_is(scan, 0, "spec") && level_is(scan, 1, "containers"))
        container_begin(scan);
    struct list *list = list_here(scan);
    if (list && scan->depth == 5)
        list->there = true;
    scan->at++;
    skip_blanks(scan);
}

/* "---", "...", "%YAML": documents. Return: whether it was that. */
static bool marker_read(struct scan *scan)
{
    if (column(scan) || scan->length - scan->at < 3)
        return peek(scan, 0) == '%' && !column(scan) && !scan->begun;
    bool begins = memcmp(scan->text + scan->at, "---", 3) == 0 && ends_word(scan, 3);
    bool ends = memcmp(scan->text + scan->at, "...", 3) == 0 && ends_word(scan, 3);
    if (begins && scan->begun)
        refuse(scan, "has several documents");
    if (begins || ends) {
        scan->at += 3;
        value_end(scan);
    }
    scan->ended |= ends;
    return begins || ends || (peek(scan, 0) == '%' && !scan->begun);
}

static void line_read(struct scan *scan)
{
    while (peek(scan, 0) == ' ')
        scan->at++;
    if (peek(scan, 0) == '\t') {
        skip_blanks(scan);
        if (!at_line_end(scan) && peek(scan, 0) != '#')
            refuse(scan, "has a line that begins with a tab: that is no YAML");
    }
    if (at_line_end(scan) || at_comment(scan) || marker_read(scan))
        return;
    if (scan->ended)
        refuse(scan, "has several documents");
    if (!scan->begun && (peek(scan, 0) == '{' || peek(scan, 0) == '['))
        refuse(scan, "is JSON: YAML in block style is needed");
    if (peek(scan, 0) == '?' && ends_word(scan, 1))
        refuse(scan, "has a key written with '?'");
    scan->begun = true;
    bool first = true;
    for (; peek(scan, 0) == '-' && ends_word(scan, 1); first = false)
        dash_read(scan);
    if (!scan->why && !at_line_end(scan) && !at_comment(scan))
        entry_read(scan, first);
}

/* Return: 0, or -1 with scan->why. Free scan->container in any case. */
static int scan_text(struct scan *scan, const char *text)
{
    *scan = (struct scan){.text = text, .length = strlen(text)};
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0)
        scan->at = scan->line = 3;
    while (!at_end(scan) && !scan->why) {
        scan->fresh = false;
        line_read(scan);
        if (!scan->fresh)
            next_line(scan);
    }
    if (!scan->why && !scan->is_pod)
        refuse(scan, "is not an API server's manifest: its kind is not Pod");
    return scan->why ? -1 : 0;
}

/* ---- the API server among the containers ---- */

static bool item_is_program(const struct scan *scan, const struct item *item)
{
    struct item base = *item;
    for (size_t at = item->text; at < item->text_end; at++)
        if (scan->text[at] == '/')
            base.text = at + 1;
    return item_is(scan, &base, PROGRAM);
}

/* Return: the index of the program's name in a list; its count if it is not there. */
static size_t list_program(const struct scan *scan, const struct list *list)
{
    size_t at = 0;
    while (at < list->count && !item_is_program(scan, &list->item[at]))
        at++;
    return at;
}

/* "sh -c 'exec kube-apiserver --x'": the name only amid a longer string. */
static bool list_hides_program(const struct scan *scan, const struct list *list)
{
    bool plain = list_program(scan, list) < list->count;
    for (size_t i = 0; i < list->count && !plain; i++) {
        const struct item *item = &list->item[i];
        const char *name =
            memmem(scan->text + item->text, item->text_end - item->text, PROGRAM, strlen(PROGRAM));
        if (name && memchr(scan->text + item->text, ' ', item->text_end - item->text))
            return true;
    }
    return false;
}

static bool container_fits(const struct scan *scan, const struct container *container)
{
    if (!container->command.there)
        return container->named;
    return list_program(scan, &container->command) < container->command.count ||
           (container->named && container->command.odd);
}

static struct container *container_choose(struct scan *scan)
{
    struct container *chosen = NULL;
    for (size_t i = 0; i < scan->containers; i++) {
        struct container *container = &scan->container[i];
        if (container->named && list_hides_program(scan, &container->command)) {
            refuse(scan, "starts kube-apiserver through a shell: its options are no list");
            return NULL;
        }
        if (!container_fits(scan, container))
            continue;
        if (chosen) {
            refuse(scan, "has two containers that run kube-apiserver");
            return NULL;
        }
        chosen = container;
    }
    if (!chosen)
        refuse(scan, "is not an API server's manifest: no container runs kube-apiserver");
    return chosen;
}

/* ---- the option among the strings ---- */

/* Kubernetes takes '_' for '-' in the names of options. Return: length of the name, 0: another. */
static size_t option_match(const struct scan *scan, const struct item *item)
{
    size_t length = item->text_end - item->text;
    const char *text = scan->text + item->text;
    if (length < strlen(OPTION) || memcmp(text, "--", 2) != 0)
        return 0;
    for (size_t i = 2; i < strlen(OPTION); i++)
        if ((text[i] == '_' ? '-' : text[i]) != OPTION[i])
            return 0;
    return length == strlen(OPTION) || text[strlen(OPTION)] == '=' ? strlen(OPTION) : 0;
}

static int option_take(struct scan *scan, struct list *list, size_t index, struct found *found,
                       struct list *after)
{
    const struct item *item = &list->item[index];
    if (found->option) {
        refuse(scan, "has " OPTION " twice");
        return -1;
    }
    found->option = found->value = item;
    found->option_list = found->value_list = list;
    found->value_at = item->text + strlen(OPTION) + 1;
    if (scan->text[item->text + strlen(OPTION)] != '=' ||
        item->text + strlen(OPTION) == item->text_end) {
        bool last = index + 1 == list->count;
        found->value_list = last ? after : list;
        if (!found->value_list || (last && !after->count)) {
            refuse(scan, "has " OPTION " without a value");
            return -1;
        }
        found->value = last ? &after->item[0] : item + 1;
        found->value_at = found->value->text;
    }
    found->value_end = found->value->text_end;
    return 0;
}

static int option_find(struct scan *scan, struct list *list, size_t from, struct found *found,
                       struct list *after)
{
    for (size_t i = from; i < list->count; i++) {
        if (!option_match(scan, &list->item[i]))
            continue;
        if (option_take(scan, list, i, found, after) < 0)
            return -1;
        if (found->value == &list->item[i] + 1)
            i++; /* the value, which is no option whatever it looks like */
    }
    return 0;
}

/* Only what a range of ports is made of: no quotes, no escapes, nothing for a terminal. */
static bool value_is_plain(const struct scan *scan, const struct found *found)
{
    size_t length = found->value_end - found->value_at;
    for (size_t i = 0; i < length; i++)
        if (!strchr("0123456789-+", scan->text[found->value_at + i]))
            return false;
    return length && length < VALUE_MOST;
}

static int found_option(struct scan *scan, struct container *container, struct found *found)
{
    size_t from = container->command.there ? found->program + 1 : 0;
    struct list *args = &container->args;
    bool skip = false; /* args begins with the value of command's last string */
    if (container->command.there) {
        if (option_find(scan, &container->command, from, found, args) < 0)
            return -1;
        skip = found->option && found->value_list == args;
    }
    if (option_find(scan, args, skip, found, NULL) < 0)
        return -1;
    if (found->option && !value_is_plain(scan, found)) {
        refuse(scan, "has a value of " OPTION " that is no range of ports");
        return -1;
    }
    return 0;
}

/* Where the API server's options are. Return: 0, or -1 with scan->why. */
static int found_in(struct scan *scan, struct found *found)
{
    struct container *container = container_choose(scan);
    *found = (struct found){.program = 0};
    if (!container)
        return -1;
    found->list = container->command.there ? &container->command : &container->args;
    const char *odd = container->command.odd ? container->command.odd : container->args.odd;
    if (odd)
        scan->why = odd;
    else if (!found->list->count)
        refuse(scan, "has no options for kube-apiserver");
    if (scan->why)
        return -1;
    found->program = list_program(scan, found->list);
    return found_option(scan, container, found);
}

/* ---- cut and paste ---- */

/* Bytes that are replaced by others; several are in the file's order. */
struct splice {
    size_t from, to;
    const char *with;
};

static char *splice_do(const char *text, const struct splice *splice, size_t count)
{
    char *result = NULL;
    size_t size, at = 0;
    FILE *out = open_memstream(&result, &size);
    if (!out)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t from = splice[i].from > at ? splice[i].from : at;
        fwrite(text + at, 1, from - at, out);
        fputs(splice[i].with, out);
        at = splice[i].to;
    }
    fputs(text + at, out);
    if (fclose(out) == 0)
        return result;
    free(result);
    return NULL;
}

/* A line of a block list; the last of a file without a newline at its end takes the one before. */
static struct splice cut_line(const struct scan *scan, const struct item *item)
{
    struct splice splice = {.from = item->line, .with = ""};
    const char *newline = strchr(scan->text + item->raw_end, '\n');
    splice.to = newline ? (size_t)(newline - scan->text) + 1 : scan->length;
    if (!newline && splice.from && scan->text[splice.from - 1] == '\n')
        splice.from -= splice.from > 1 && scan->text[splice.from - 2] == '\r' ? 2 : 1;
    return splice;
}

/* From @first to @last in brackets, with one comma. */
static struct splice cut_flow(const struct list *list, const struct item *first,
                              const struct item *last)
{
    struct splice splice = {.from = first->raw, .to = last->raw_end, .with = ""};
    if (first > list->item)
        splice.from = first[-1].raw_end;
    else if (last + 1 < list->item + list->count)
        splice.to = last[1].raw;
    return splice;
}

static struct splice cut_item(const struct scan *scan, const struct list *list,
                              const struct item *item)
{
    return list->flow ? cut_flow(list, item, item) : cut_line(scan, item);
}

static char *option_remove(const struct scan *scan, const struct found *found)
{
    struct splice splice[2];
    size_t count = 1;
    bool together = found->option_list == found->value_list && found->option_list->flow;
    if (together) {
        splice[0] = cut_flow(found->option_list, found->option, found->value);
    } else {
        splice[0] = cut_item(scan, found->option_list, found->option);
        if (found->value != found->option)
            splice[count++] = cut_item(scan, found->value_list, found->value);
    }
    if (count == 2 && splice[1].from < splice[0].from) { /* args may stand before command */
        struct splice first = splice[1];
        splice[1] = splice[0];
        splice[0] = first;
    }
    return splice_do(scan->text, splice, count);
}

static char *option_replace(const struct scan *scan, const struct found *found, const char *value)
{
    struct splice splice = {found->value_at, found->value_end, value};
    return splice_do(scan->text, &splice, 1);
}

/* Behind the program's name in its list, or as the first if the list does not have it. */
static char *option_insert(const struct scan *scan, const struct found *found, const char *value)
{
    char with[512];
    bool first = found->program == found->list->count;
    const struct item *item = &found->list->item[first ? 0 : found->program];
    char quote[2] = {item->text > item->raw ? scan->text[item->raw] : '\0'};
    int indent = (int)(item->raw - item->line);
    const char *newline = strchr(scan->text + item->raw_end, '\n');
    const char *end = strstr(scan->text, "\r\n") ? "\r\n" : "\n";
    size_t at = first ? item->raw : item->raw_end;
    if (found->list->flow) {
        snprintf(with, sizeof(with), "%s%s" OPTION "=%s%s%s", first ? "" : ", ", quote, value,
                 quote, first ? ", " : "");
    } else {
        at = first ? item->line : newline ? (size_t)(newline - scan->text) + 1 : scan->length;
        bool last = !first && !newline;
        int length =
            snprintf(with, sizeof(with), "%s%.*s%s" OPTION "=%s%s%s", last ? end : "", indent,
                     scan->text + item->line, quote, value, quote, last ? "" : end);
        if (length < 0 || (size_t)length >= sizeof(with))
            return NULL;
    }
    struct splice splice = {at, at, with};
    return splice_do(scan->text, &splice, 1);
}

/* ---- the two operations ---- */

/* Return: the value, malloc'd, in @value; NULL: no such option. */
static int manifest_get(const char *name, const char *text, char **value, struct setup_error *error)
{
    struct scan scan;
    struct found found = {.option = NULL};
    *value = NULL;
    int result = scan_text(&scan, text);
    if (result == 0)
        result = found_in(&scan, &found);
    if (result < 0)
        setup_fail(error, "%s: %s", name, scan.why);
    else if (found.option)
        *value = strndup(text + found.value_at, found.value_end - found.value_at);
    if (result == 0 && found.option && !*value)
        result = setup_fail(error, "%s: out of memory", name);
    free(scan.container);
    return result;
}

/* What was made must read as what was meant. */
static int manifest_check(const char *name, const char *made, const char *value,
                          struct setup_error *error)
{
    char *now;
    if (manifest_get(name, made, &now, error) < 0)
        return -1;
    bool same = state_equal(now, value);
    free(now);
    return same ? 0 : setup_fail(error, "%s: " OPTION " cannot be changed there", name);
}

/* Return: the text with the option set to @value, or without it if that is NULL; malloc'd. */
static char *manifest_set(const char *name, const char *text, const char *value,
                          struct setup_error *error)
{
    struct scan scan;
    struct found found;
    char *made = NULL;
    if (scan_text(&scan, text) < 0 || found_in(&scan, &found) < 0) {
        setup_fail(error, "%s: %s", name, scan.why);
    } else {
        if (found.option && value)
            made = option_replace(&scan, &found, value);
        else if (found.option)
            made = option_remove(&scan, &found);
        else
            made = option_insert(&scan, &found, value);
        if (!made)
            setup_fail(error, "%s: out of memory, or a line is too long", name);
    }
    free(scan.container);
    if (made && manifest_check(name, made, value, error) < 0) {
        free(made);
        made = NULL;
    }
    return made;
}

/* ---- the resource ---- */

/* The file as resource_file has it; @text: its bytes, behind the line with the mode. */
static int manifest_read(const char *name, char **file, const char **text,
                         struct setup_error *error)
{
    if (resource_file.read(name, file, error) < 0)
        return -1;
    if (!*file)
        return setup_fail(error,
                          "%s: there is no such file: is this a control-plane machine whose API "
                          "server is a static pod? [control-plane] manifest names another file",
                          name);
    *text = strchr(*file, '\n');
    *text = *text ? *text + 1 : *file;
    return 0;
}

static int nodeports_read(const char *name, char **state, struct setup_error *error)
{
    char *file = NULL;
    const char *text;
    *state = NULL;
    int result = manifest_read(name, &file, &text, error);
    if (result == 0)
        result = manifest_get(name, text, state, error);
    free(file);
    return result;
}

/* The folder above that of @path. */
static void staging_folder(const char *path, char buf[PATH_MAX])
{
    snprintf(buf, PATH_MAX, "%s", path);
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(buf, '/');
        if (slash)
            *slash = '\0';
    }
    if (!*buf)
        strcpy(buf, "/");
}

/* @file with the bytes behind its first line replaced by @text; malloc'd. */
static char *file_with(const char *file, const char *old, const char *text)
{
    char *made;
    return asprintf(&made, "%.*s%s", (int)(old - file), file, text) < 0 ? NULL : made;
}

static int nodeports_change(const char *name, const char *file, const char *text, const char *to,
                            struct steps *steps, struct setup_error *error)
{
    char staging[PATH_MAX];
    if (file_alone(name, error) < 0)
        return -1;
    char *made = manifest_set(name, text, to, error);
    char *whole = made ? file_with(file, text, made) : NULL;
    staging_folder(name, staging);
    if (whole)
        steps_file(steps, name, file, whole, staging);
    else if (made)
        setup_fail(error, "%s: out of memory", name);
    free(made);
    free(whole);
    return whole ? 0 : -1;
}

static int nodeports_steps(const char *name, const char *from, const char *to, struct steps *steps,
                           struct setup_error *error)
{
    char *file = NULL, *now = NULL;
    const char *text;
    int result = manifest_read(name, &file, &text, error);
    if (result == 0)
        result = manifest_get(name, text, &now, error);
    if (result == 0 && !state_equal(now, from))
        result = setup_fail(error, "%s: somebody has changed it in the meantime", name);
    if (result == 0)
        result = nodeports_change(name, file, text, to, steps, error);
    free(now);
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
