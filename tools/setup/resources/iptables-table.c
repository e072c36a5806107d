/* SPDX-License-Identifier: MIT */
/*
 * Table filter as iptables-save prints it, and states (iptables.c says what these are), taken
 * apart and put together. Of others' chains the rules are kept as they stand: all that matters of
 * them is how many there are, and which of them lead to us.
 */
#include "iptables.h"

#include <stdlib.h>
#include <string.h>

static void chain_clear(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        free(chain->rule[i]);
    free(chain->rule);
}

void table_free(struct table *table)
{
    for (size_t i = 0; i < table->chains; i++)
        chain_clear(&table->chain[i]);
    for (size_t i = 0; i < table->jumps; i++)
        free(table->jump[i].rule);
    free(table->chain);
    free(table->jump);
    memset(table, 0, sizeof(*table));
}

bool name_is_own(const char *name)
{
    return strncmp(name, PREFIX, strlen(PREFIX)) == 0 && strncmp(name, NOTE, strlen(NOTE)) != 0;
}

bool name_is_note(const char *name)
{
    return strncmp(name, NOTE, strlen(NOTE)) == 0;
}

/* What is in quotes is a comment's. */
size_t rule_target(const char *rule, const char **target)
{
    bool quoted = false;
    for (const char *at = rule; *at; at++) {
        bool begins = !quoted && (at == rule || at[-1] == ' ');
        if (begins && (strncmp(at, "-j ", 3) == 0 || strncmp(at, "-g ", 3) == 0)) {
            *target = at + 3;
            return strcspn(*target, " ");
        }
        quoted ^= *at == '"';
        at += quoted && *at == '\\' && at[1];
    }
    return 0;
}

bool rule_jumps_to_own(const char *rule)
{
    const char *target;
    size_t length = rule_target(rule, &target);
    return length >= strlen(PREFIX) && strncmp(target, PREFIX, strlen(PREFIX)) == 0;
}

struct chain *table_find(const struct table *table, const char *name)
{
    size_t low = 0, high = table->chains;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(table->chain[middle].name, name);
        if (!order)
            return &table->chain[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static struct chain *table_add(struct table *table, const char *name)
{
    size_t at = table->chains;
    table->chain = state_grow(table->chain, (at + 1) * sizeof(*table->chain));
    for (; at && strcmp(table->chain[at - 1].name, name) > 0; at--)
        table->chain[at] = table->chain[at - 1];
    table->chains++;
    table->chain[at] = (struct chain){.count = 0};
    snprintf(table->chain[at].name, CHAIN_MOST, "%s", name);
    return &table->chain[at];
}

static void chain_append(struct chain *chain, char *rule)
{
    if ((chain->count & (chain->count + 1)) == 0) /* 0, 1, 3, 7, ...: room for twice as many */
        chain->rule = state_grow(chain->rule, (2 * chain->count + 1) * sizeof(*chain->rule));
    chain->rule[chain->count++] = rule;
}

static void jump_append(struct table *table, unsigned position, const char *chain, char *rule)
{
    size_t at = table->jumps;
    table->jump = state_grow(table->jump, (at + 1) * sizeof(*table->jump));
    for (; at; at--) {
        int order = strcmp(table->jump[at - 1].chain, chain);
        if (order < 0 || (order == 0 && table->jump[at - 1].position <= position))
            break;
        table->jump[at] = table->jump[at - 1];
    }
    table->jumps++;
    table->jump[at] = (struct jump){.position = position, .rule = rule};
    snprintf(table->jump[at].chain, CHAIN_MOST, "%s", chain);
}

/* The word at @line, of at most @end; what follows it is in *@rest. Return: whether it fits. */
static bool take_name(const char *line, const char *end, char name[CHAIN_MOST], const char **rest)
{
    size_t length = 0;
    while (line + length < end && line[length] != ' ')
        length++;
    if (!length || length >= CHAIN_MOST)
        return false;
    memcpy(name, line, length);
    name[length] = '\0';
    *rest = line + length + (line + length < end);
    return true;
}

/* ":FORWARD ACCEPT [0:0]" */
static bool line_chain(struct table *table, const char *line, const char *end)
{
    char name[CHAIN_MOST];
    const char *policy;
    if (!take_name(line + 1, end, name, &policy))
        return false;
    if (table_find(table, name))
        return true;
    struct chain *chain = table_add(table, name);
    chain->builtin = policy < end && *policy != '-';
    chain->accepts = strncmp(policy, "ACCEPT ", strlen("ACCEPT ")) == 0;
    return true;
}

/* What is behind "-A ": of a chain that was named before. */
static bool line_rule(struct table *table, const char *line, const char *end)
{
    char name[CHAIN_MOST];
    const char *rest;
    struct chain *chain = take_name(line, end, name, &rest) ? table_find(table, name) : NULL;
    if (!chain)
        return false;
    size_t length = (size_t)(end - rest);
    char *rule = state_grow(NULL, length + 1);
    rule[length] = '\0';
    chain_append(chain, memcpy(rule, rest, length));
    return true;
}

/* The number before "-A" in a state; 0 is for DOCKER-USER alone. */
static bool take_position(const char *line, unsigned *position, const char **rest)
{
    char *mark;
    unsigned long number = strtoul(line, &mark, 10);
    *position = (unsigned)number;
    *rest = mark + 4;
    return *line >= '0' && *line <= '9' && number <= 1000000 && strncmp(mark, " -A ", 4) == 0;
}

/* "1 -A FORWARD -j FIXPORT-FORWARD", of a state. */
static bool line_jump(struct table *table, const char *line, const char *end)
{
    char name[CHAIN_MOST];
    const char *rest;
    unsigned position;
    if (!take_position(line, &position, &rest) || !take_name(rest, end, name, &rest) ||
        name_is_own(name) || name_is_note(name) || (!position && !name_is_docker(name)))
        return false;
    char *rule = strndup(rest, (size_t)(end - rest));
    bool good = rule && rule_jumps_to_own(rule);
    if (good)
        jump_append(table, position, name, rule);
    else
        free(rule);
    return good;
}

static int refuse_line(const char *what, const char *line, size_t length, struct setup_error *error)
{
    return setup_fail(error, "%s: '%.*s' cannot be understood", what,
                      (int)(length < 200 ? length : 200), line);
}

/* What iptables-save has printed. */
int table_parse(const char *text, struct table *table, struct setup_error *error)
{
    const char *line, *at = text;
    size_t length;
    while ((line = state_line(&at, &length))) {
        bool good = true;
        if (*line == ':')
            good = line_chain(table, line, line + length);
        else if (length > 3 && strncmp(line, "-A ", 3) == 0)
            good = line_rule(table, line + 3, line + length);
        if (!good)
            return refuse_line(iptables_tool(table->family, "save"), line, length, error);
    }
    return 0;
}

/* A state: nothing but what is ours. */
int state_parse(int family, const char *text, struct table *state, struct setup_error *error)
{
    const char *line, *at = text ? text : "";
    size_t length;
    *state = (struct table){.family = family};
    while ((line = state_line(&at, &length))) {
        const char *end = line + length;
        bool good;
        if (*line == ':')
            good = name_is_own(line + 1) && line_chain(state, line, end);
        else if (strncmp(line, "-A ", 3) == 0)
            good = name_is_own(line + 3) && line_rule(state, line + 3, end);
        else
            good = line_jump(state, line, end);
        if (!good) {
            table_free(state);
            return refuse_line("iptables", line, length, error);
        }
    }
    return 0;
}

char *state_print(const struct table *state)
{
    char *text;
    FILE *out = state_open(&text);
    for (size_t i = 0; i < state->chains; i++)
        fprintf(out, ":%s - [0:0]\n", state->chain[i].name);
    for (size_t i = 0; i < state->chains; i++)
        for (size_t k = 0; k < state->chain[i].count; k++)
            fprintf(out, "-A %s %s\n", state->chain[i].name, state->chain[i].rule[k]);
    for (size_t i = 0; i < state->jumps; i++)
        fprintf(out, "%u -A %s %s\n", state->jump[i].position, state->jump[i].chain,
                state->jump[i].rule);
    state_close(out);
    return text;
}

/* Copies what is ours out of a whole table. */
void state_extract(const struct table *table, struct table *state)
{
    *state = (struct table){.family = table->family};
    for (size_t i = 0; i < table->chains; i++) {
        const struct chain *chain = &table->chain[i];
        bool own = name_is_own(chain->name);
        bool reached = !name_is_docker(chain->name) || docker_is_reached(table);
        struct chain *copy = own ? table_add(state, chain->name) : NULL;
        for (size_t k = 0; k < chain->count; k++)
            if (own)
                chain_append(copy, state_copy(chain->rule[k]));
            else if (rule_jumps_to_own(chain->rule[k]))
                jump_append(state, reached ? (unsigned)k + 1 : 0, chain->name,
                            state_copy(chain->rule[k]));
    }
}
