/* SPDX-License-Identifier: MIT */
/*
 * Our table in nft, replaced whole in one transaction.
 *
 * nft lists a table in words of its own, and not each version in the same: sets sorted, priorities
 * by name, numbers as services. So what a role asks for is not compared as it was written: it is
 * loaded into an empty network namespace and listed there. If that cannot be had (not root) it is
 * taken as it is. Whether this kernel can do what is asked is known then, too, before anything is
 * touched.
 */
#include "state.h"

#include <stdlib.h>
#include <string.h>

/* "table ip fixport", in a static buffer. */
static const char *nft_table(const char *name)
{
    static char table[40];
    snprintf(table, sizeof(table), "table %s %s", strcmp(name, "ip6") == 0 ? "ip6" : "ip",
             SETUP_TABLE);
    return table;
}

/* Return: 1: it is there; 0: it is not; -1. */
static int nft_has_table(const char *table, struct setup_error *error)
{
    char *argv[] = {"nft", "list", "tables", NULL};
    struct run_result result;
    const char *line, *at;
    size_t length;
    int found = run_tool(argv, NULL, &result) < 0 ? run_explain(argv, &result, error) : 0;
    at = result.output;
    while (!found && (line = state_line(&at, &length)))
        found = length == strlen(table) && strncmp(line, table, length) == 0;
    run_free(&result);
    return found;
}

static int nft_list(const char *name, char **state, struct setup_error *error)
{
    char *argv[] = {"nft",       "-s", "list", "table", strcmp(name, "ip6") == 0 ? "ip6" : "ip",
                    SETUP_TABLE, NULL};
    struct run_result result;
    int status = run_tool(argv, NULL, &result);
    if (status == 0)
        *state = state_copy(result.output);
    else
        run_explain(argv, &result, error);
    run_free(&result);
    return status;
}

static int nft_read(const char *name, char **state, struct setup_error *error)
{
    *state = NULL;
    int there = nft_has_table(nft_table(name), error);
    return there > 0 ? nft_list(name, state, error) : there;
}

/* One table, ours, and nothing behind it. */
static int nft_check(const char *name, const char *state, struct setup_error *error)
{
    const char *table = nft_table(name), *at = state;
    bool quoted = false;
    int depth = 0;
    if (strncmp(at, table, strlen(table)) == 0)
        at += strlen(table);
    if (at == state || at[strspn(at, " \n")] != '{')
        return setup_fail(error, "nft: the rules are not of '%s'", table);
    for (; *at; at++) {
        quoted = quoted != (*at == '"');
        depth += quoted ? 0 : (*at == '{') - (*at == '}');
        if (*at == '}' && !quoted && depth <= 0)
            break;
    }
    if (*at != '}' || at[1 + strspn(at + 1, " \n")])
        return setup_fail(error, "nft: the rules of '%s' are not one table", table);
    return 0;
}

static int nft_steps(const char *name, const char *from, const char *to, struct steps *steps,
                     struct setup_error *error)
{
    char *input;
    const char *table = nft_table(name);
    (void)from; /* "add" does nothing to a table that is there, and lets "delete" not fail */
    if (to && nft_check(name, to, error) < 0)
        return -1;
    FILE *out = state_open(&input);
    fprintf(out, "add %s\ndelete %s\n%s", table, table, to ? to : "");
    state_close(out);
    steps_command(steps, input, "nft", "-f", "-", NULL);
    free(input);
    return 0;
}

/* ---- in the empty namespace ---- */

struct nft_trial {
    const char *name;
    char *text;
    struct setup_error *error;
};

/* Loads @trial->text in place of what is there, and lists it. */
static int nft_load(const struct nft_trial *trial, char **state)
{
    struct steps steps = {.count = 0};
    int result = nft_steps(trial->name, NULL, trial->text, &steps, trial->error);
    if (result == 0)
        result = step_run(&steps.item[0], trial->error);
    steps_free(&steps);
    return result == 0 ? nft_list(trial->name, state, trial->error) : -1;
}

/* Its own words, read again, may become others: "{ 10.0.0.0/9, 10.128.0.0/9 }" is listed as
 * "{ 10.0.0.0/8 }", and that as "10.0.0.0/8". So until nothing changes any more. */
static int nft_try(void *arg)
{
    struct nft_trial *trial = arg;
    for (int round = 0; round < 4; round++) {
        char *state = NULL;
        if (nft_load(trial, &state) < 0)
            return -1;
        bool same = strcmp(state, trial->text) == 0;
        free(trial->text);
        trial->text = state;
        if (same)
            break;
    }
    return 0;
}

static int nft_canonical(const char *name, const char *text, char **canonical,
                         struct setup_error *error)
{
    int result = 0;
    if (nft_check(name, text, error) < 0)
        return -1;
    struct nft_trial trial = {.name = name, .text = state_copy(text), .error = error};
    run_apart(nft_try, &trial, &result);
    *canonical = trial.text;
    return result;
}

const struct resource_type resource_nft = {
    .name = "nft",
    .lasting = false,
    .read = nft_read,
    .steps = nft_steps,
    .canonical = nft_canonical,
};
