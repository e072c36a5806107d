/* SPDX-License-Identifier: MIT */
/*
 * Our chains in table filter, and the jumps to them.
 *
 * What is ours: each chain whose name begins with "FIXPORT-", and each rule elsewhere that jumps
 * to one. A state lists the chains, sorted; their rules; and the jumps with their position in their
 * chain, so that one that was pushed down is not the same:
 *
 *     :FIXPORT-FORWARD - [0:0]
 *     -A FIXPORT-FORWARD -s 10.200.0.0/16 -p tcp -m tcp --dport 60001 -m comment --comment
 * "fixport: x" -j ACCEPT 1 -A FORWARD -j FIXPORT-FORWARD
 *
 * Whoever asks for a state may write the rules as setup-iptables-rule.c understands them, in any
 * order of chains; resources_add() brings them into this form.
 *
 * "Exactly as before" has a catch with iptables-nft: the first rule in a table makes the table,
 * and the first one in FORWARD makes that chain, and both stay. So the same transaction that makes
 * them for us leaves an empty chain as a note, FIXPORT-NEW-TABLE or FIXPORT-NEW-FORWARD, and
 * whoever takes our chains away takes along what was made for them, if nobody else has come to use
 * it. A state that is only a note is "". Deleting tables is nft's work: where it is not installed
 * nothing is noted, and an empty table stays.
 *
 * Docker makes DOCKER-USER when it starts, and keeps what it finds there: a chain of that name and
 * the jump "-A FORWARD -j DOCKER-USER", which it moves to the top. So where one of them is not
 * there (yet: after a reboot we may be first) it is made as Docker would, with a note,
 * FIXPORT-NEW-DOCKER-USER or -JUMP, and goes with us if Docker has never come.
 *
 * With iptables-legacy a table that has once been looked at is there until reboot: so it is not
 * looked at if it is not there, and one that came with our rules stays, empty.
 */
#include "setup-state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "FIXPORT-"
#define NOTE "FIXPORT-NEW-"
#define NOTE_TABLE NOTE "TABLE"
#define DOCKER "DOCKER-USER"
#define DOCKER_JUMP "-j " DOCKER
#define NOTE_DOCKER NOTE DOCKER
#define NOTE_JUMP NOTE "DOCKER-JUMP"
#define CHAIN_MOST 128 /* bytes of a chain's name (nft's limit; iptables' is 29), with the NUL */

/* ---- which iptables ---- */

static const char *backend = ""; /* "-nft", "-legacy", or "" for the plain name */
static bool legacy;

const char *iptables_tool(int family, const char *what)
{
    static char buffers[4][40];
    static unsigned turn;
    char *buf = buffers[turn++ % 4];
    snprintf(buf, sizeof(buffers[0]), "%s%s%s%s", family == 6 ? "ip6tables" : "iptables", backend,
             *what ? "-" : "", what);
    return buf;
}

bool iptables_is_legacy(void)
{
    return legacy;
}

/* Return: 1: the plain name is nft's; 0: legacy's; -1: there is none. */
static int plain_backend(void)
{
    char *argv[] = {"iptables", "--version", NULL};
    struct run_result result;
    if (!run_exists("iptables-save") || !run_exists("iptables-restore"))
        return -1;
    run_tool(argv, NULL, &result);
    int nft = strstr(result.output, "nf_tables") != NULL;
    run_free(&result);
    return nft;
}

static bool backend_set(const char *name, bool is_legacy)
{
    backend = name;
    legacy = is_legacy;
    return true;
}

/* Take the backend by its own name, or by the plain one if that is the same. */
static bool backend_take(bool want_legacy)
{
    const char *name = want_legacy ? "-legacy" : "-nft";
    if (run_exists(want_legacy ? "iptables-legacy-restore" : "iptables-nft-restore"))
        return backend_set(name, want_legacy);
    int plain = plain_backend();
    return plain == !want_legacy && backend_set("", want_legacy);
}

/* Whether legacy has the table in this network namespace; asking iptables-legacy would make it. */
static int legacy_has_table(int family, const char *table, struct setup_error *error)
{
    const char *path = family == 6 ? "/proc/net/ip6_tables_names" : "/proc/net/ip_tables_names";
    char names[512], *word, *rest;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    ssize_t n = fd < 0 ? -1 : read(fd, names, sizeof(names) - 1);
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return setup_fail(error, "%s: %s", path, strerror(why));
    names[n] = '\0';
    for (word = strtok_r(names, "\n", &rest); word; word = strtok_r(NULL, "\n", &rest))
        if (strcmp(word, table) == 0)
            return 1;
    return 0;
}

/* What iptables-save says of a table. Return: malloc'd, "" if there is none; NULL: @error says. */
static char *table_save(int family, const char *table, struct setup_error *error)
{
    char *argv[] = {(char *)(uintptr_t)iptables_tool(family, "save"), "-t",
                    (char *)(uintptr_t)table, NULL};
    struct run_result result;
    int has = legacy ? legacy_has_table(family, table, error) : 1;
    if (has <= 0)
        return has < 0 ? NULL : state_copy("");
    char *text = NULL;
    if (run_tool(argv, NULL, &result) < 0)
        run_explain(argv, &result, error);
    else if (strstr(result.output, "is incompatible, use 'nft' tool"))
        setup_fail(error,
                   "%s cannot read table %s: somebody has put rules there with nft that "
                   "iptables has no words for",
                   argv[0], table);
    else
        text = state_copy(result.output);
    run_free(&result);
    return text;
}

/* Where the kubelet keeps its hint for others, there is the backend that Kubernetes uses. */
static bool backend_has_kubelet(bool want_legacy)
{
    bool found = false;
    if (!backend_take(want_legacy))
        return false;
    for (int family = 4; family <= 6 && !found; family += 2) {
        struct setup_error ignored;
        char *text = table_save(family, "mangle", &ignored);
        found =
            text && (strstr(text, ":KUBE-IPTABLES-HINT ") || strstr(text, ":KUBE-KUBELET-CANARY "));
        free(text);
    }
    return found;
}

int iptables_choose(enum site_iptables which, struct setup_error *error)
{
    if (which != IPTABLES_AUTO) {
        if (backend_take(which == IPTABLES_LEGACY))
            return 0;
        return setup_fail(error,
                          "the configuration says iptables = %s, and no iptables of that "
                          "kind is installed here",
                          which == IPTABLES_LEGACY ? "legacy" : "nft");
    }
    if (backend_has_kubelet(false) || backend_has_kubelet(true))
        return 0;
    int plain = plain_backend();
    if (plain < 0 || !backend_take(plain == 0))
        return setup_fail(error, "'iptables' is needed here and not installed");
    return 0;
}

/* ---- tables and states, taken apart ---- */

struct chain {
    char name[CHAIN_MOST];
    char **rule; /* canonical, what stands behind "-A NAME " */
    size_t count;
    bool accepts; /* a built-in chain whose policy is ACCEPT */
    bool builtin;
};

struct jump {
    unsigned position; /* from 1 */
    char chain[CHAIN_MOST];
    char *rule;
};

struct table {
    int family;
    struct chain *chain; /* sorted by name */
    size_t chains;
    struct jump *jump; /* by chain and position; only of a state */
    size_t jumps;
};

static void chain_clear(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        free(chain->rule[i]);
    free(chain->rule);
}

static void table_free(struct table *table)
{
    for (size_t i = 0; i < table->chains; i++)
        chain_clear(&table->chain[i]);
    for (size_t i = 0; i < table->jumps; i++)
        free(table->jump[i].rule);
    free(table->chain);
    free(table->jump);
    memset(table, 0, sizeof(*table));
}

static bool is_own(const char *name)
{
    return strncmp(name, PREFIX, strlen(PREFIX)) == 0 && strncmp(name, NOTE, strlen(NOTE)) != 0;
}

static bool is_note(const char *name)
{
    return strncmp(name, NOTE, strlen(NOTE)) == 0;
}

static bool is_docker(const char *name)
{
    return strcmp(name, DOCKER) == 0;
}

static bool rule_jumps_to_own(const char *rule)
{
    const char *target;
    size_t length = rule_target(rule, &target);
    return length >= strlen(PREFIX) && strncmp(target, PREFIX, strlen(PREFIX)) == 0;
}

static struct chain *table_find(const struct table *table, const char *name)
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

/* What is behind "-A ": of a chain that was named before. Others' rules are only counted. */
static bool line_rule(struct table *table, const char *line, const char *end)
{
    char name[CHAIN_MOST];
    const char *rest;
    struct chain *chain = take_name(line, end, name, &rest) ? table_find(table, name) : NULL;
    if (!chain)
        return false;
    size_t length = (size_t)(end - rest);
    bool ours = is_own(name) || memmem(rest, length, PREFIX, strlen(PREFIX));
    char *rule = ours ? rule_canonical(table->family, rest, length) : strndup(rest, length);
    if (rule)
        chain_append(chain, rule);
    return rule;
}

/* "1 -A FORWARD -j FIXPORT-FORWARD", of a state. */
static bool line_jump(struct table *table, const char *line, const char *end)
{
    char name[CHAIN_MOST];
    char *mark;
    const char *rest;
    unsigned long position = strtoul(line, &mark, 10);
    if (position < 1 || position > 1000000 || strncmp(mark, " -A ", 4) != 0 ||
        !take_name(mark + 4, end, name, &rest) || is_own(name) || is_note(name))
        return false;
    char *rule = rule_canonical(table->family, rest, (size_t)(end - rest));
    bool good = rule && rule_jumps_to_own(rule);
    if (good)
        jump_append(table, (unsigned)position, name, rule);
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
static int table_parse(const char *text, struct table *table, struct setup_error *error)
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

static int table_load(int family, struct table *table, struct setup_error *error)
{
    *table = (struct table){.family = family};
    char *text = table_save(family, "filter", error);
    int result = text ? table_parse(text, table, error) : -1;
    free(text);
    if (result < 0)
        table_free(table);
    return result;
}

/* A state: nothing but what is ours. */
static int state_parse(int family, const char *text, struct table *state, struct setup_error *error)
{
    const char *line, *at = text ? text : "";
    size_t length;
    *state = (struct table){.family = family};
    while ((line = state_line(&at, &length))) {
        const char *end = line + length;
        bool good;
        if (*line == ':')
            good = is_own(line + 1) && line_chain(state, line, end);
        else if (strncmp(line, "-A ", 3) == 0)
            good = is_own(line + 3) && line_rule(state, line + 3, end);
        else
            good = line_jump(state, line, end);
        if (!good) {
            table_free(state);
            return refuse_line("iptables", line, length, error);
        }
    }
    return 0;
}

static char *state_print(const struct table *state)
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
static void state_extract(const struct table *table, struct table *state)
{
    *state = (struct table){.family = table->family};
    for (size_t i = 0; i < table->chains; i++) {
        const struct chain *chain = &table->chain[i];
        bool own = is_own(chain->name);
        struct chain *copy = own ? table_add(state, chain->name) : NULL;
        for (size_t k = 0; k < chain->count; k++)
            if (own)
                chain_append(copy, state_copy(chain->rule[k]));
            else if (rule_jumps_to_own(chain->rule[k]))
                jump_append(state, (unsigned)k + 1, chain->name, state_copy(chain->rule[k]));
    }
}

static bool table_has_note(const struct table *table)
{
    for (size_t i = 0; i < table->chains; i++)
        if (is_note(table->chain[i].name))
            return true;
    return false;
}

/* ---- the resource ---- */

/* The jumps' positions are as good as others leave them. */
static char *iptables_content(const char *state)
{
    char *text;
    const char *line;
    size_t length;
    FILE *out = state_open(&text);
    while ((line = state_line(&state, &length))) {
        size_t number = strspn(line, "0123456789");
        fprintf(out, "%.*s\n", (int)(length - number), line + number);
    }
    state_close(out);
    return text;
}

static int name_family(const char *name)
{
    return strcmp(name, "ipv6") == 0 ? 6 : 4;
}

bool iptables_has_chain(int family, const char *chain)
{
    struct table table;
    struct setup_error ignored;
    if (table_load(family, &table, &ignored) < 0)
        return false;
    bool has = table_find(&table, chain);
    table_free(&table);
    return has;
}

static int iptables_read(const char *name, char **text, struct setup_error *error)
{
    struct table table, state;
    *text = NULL;
    if (table_load(name_family(name), &table, error) < 0)
        return -1;
    state_extract(&table, &state);
    if (state.chains || state.jumps || table_has_note(&table))
        *text = state_print(&state);
    table_free(&state);
    table_free(&table);
    return 0;
}

static int iptables_canonical(const char *name, const char *text, char **canonical,
                              struct setup_error *error)
{
    struct table state;
    if (state_parse(name_family(name), text, &state, error) < 0)
        return -1;
    *canonical = state.chains ? state_print(&state) : NULL;
    table_free(&state);
    return 0;
}

/* ---- what is there of nft's own: to know what our coming would make ---- */

static const char *nft_family(int family)
{
    return family == 6 ? "ip6" : "ip";
}

/* Whether nft's table filter is there, and in it @chain (NULL: whichever). False without nft. */
static int nft_has_chain(int family, const char *chain)
{
    char *argv[] = {"nft", "list", "chains", (char *)(uintptr_t)nft_family(family), NULL};
    char head[32], wanted[CHAIN_MOST + 16];
    struct run_result result;
    const char *line, *at;
    size_t length;
    bool inside = false, found = false;
    snprintf(head, sizeof(head), "table %s filter {", nft_family(family));
    snprintf(wanted, sizeof(wanted), "\tchain %s {", chain ? chain : "");
    if (run_tool(argv, NULL, &result) < 0) {
        run_free(&result);
        return -1;
    }
    for (at = result.output; (line = state_line(&at, &length)) && !found;) {
        if (strncmp(line, "table ", 6) == 0)
            inside = length == strlen(head) && strncmp(line, head, length) == 0;
        found =
            inside && (!chain || (length == strlen(wanted) && strncmp(line, wanted, length) == 0));
    }
    run_free(&result);
    return found;
}

/* ---- steps ---- */

/* Whether there is more of Docker's than the chain that it lets others make. */
static bool docker_came(const struct table *now)
{
    for (size_t i = 0; i < now->chains; i++)
        if (strncmp(now->chain[i].name, "DOCKER", 6) == 0 && !is_docker(now->chain[i].name))
            return true;
    return false;
}

static bool rule_jumps_to_docker(const char *rule)
{
    const char *target;
    size_t length = rule_target(rule, &target);
    return length == strlen(DOCKER) && strncmp(target, DOCKER, length) == 0;
}

/* The jumps from FORWARD as Docker makes them; @others: all but those. */
static size_t docker_jumps(const struct table *now, bool others)
{
    size_t count = 0;
    for (size_t i = 0; i < now->chains; i++) {
        const struct chain *chain = &now->chain[i];
        bool forward = strcmp(chain->name, "FORWARD") == 0;
        for (size_t k = 0; k < chain->count; k++) {
            bool plain = forward && strcmp(chain->rule[k], DOCKER_JUMP) == 0;
            count += others ? !plain && rule_jumps_to_docker(chain->rule[k]) : plain;
        }
    }
    return count;
}

/* Whether DOCKER-USER is of our making, and in nobody else's use. */
static bool docker_is_ours(const struct table *now)
{
    const struct chain *docker = table_find(now, DOCKER);
    if (!docker || !table_find(now, NOTE_DOCKER) || docker_came(now) || docker_jumps(now, true))
        return false;
    for (size_t i = 0; i < docker->count; i++)
        if (!rule_jumps_to_own(docker->rule[i]))
            return false;
    return true;
}

/* Whether the jump to it is; what others have put into a chain of our making needs it. */
static bool docker_jump_is_ours(const struct table *now)
{
    return table_find(now, NOTE_JUMP) && !docker_came(now) &&
           (docker_is_ours(now) || !table_find(now, NOTE_DOCKER));
}

static bool chain_equal(const struct chain *a, const struct chain *b)
{
    if (!a || !b || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->rule[i], b->rule[i]) != 0)
            return false;
    return true;
}

static bool jumps_equal(const struct table *a, const struct table *b)
{
    if (a->jumps != b->jumps)
        return false;
    for (size_t i = 0; i < a->jumps; i++)
        if (a->jump[i].position != b->jump[i].position ||
            strcmp(a->jump[i].chain, b->jump[i].chain) != 0 ||
            strcmp(a->jump[i].rule, b->jump[i].rule) != 0)
            return false;
    return true;
}

/* Whether a jump is wanted from DOCKER-USER, and no packet comes there. */
static bool docker_missing(const struct table *to, const struct table *now)
{
    bool wanted = false;
    for (size_t i = 0; i < to->jumps; i++)
        wanted = wanted || is_docker(to->jump[i].chain);
    return wanted && !docker_jumps(now, false);
}

static void restore_note_chain(FILE *out, const struct table *now, const char *name)
{
    const struct chain *chain = table_find(now, name);
    if (chain && chain->builtin && nft_has_chain(now->family, name) == 0)
        fprintf(out, ":" NOTE "%s - [0:0]\n", name);
}

/* The notes for what iptables-nft will make because of us. */
static void restore_notes(FILE *out, const struct table *to, const struct table *now)
{
    int there = legacy || !run_exists("nft") ? -1 : nft_has_chain(to->family, NULL);
    if (there == 0)
        fprintf(out, ":%s - [0:0]\n", NOTE_TABLE);
    for (size_t i = 0; there == 1 && i < to->jumps; i++)
        if (i == 0 || strcmp(to->jump[i - 1].chain, to->jump[i].chain) != 0)
            restore_note_chain(out, now, to->jump[i].chain);
    if (there == 1 && docker_missing(to, now))
        restore_note_chain(out, now, "FORWARD");
}

static void restore_docker(FILE *out, const struct table *now)
{
    if (!table_find(now, DOCKER))
        fputs(":" NOTE_DOCKER " - [0:0]\n:" DOCKER " - [0:0]\n", out);
    fputs(":" NOTE_JUMP " - [0:0]\n-I FORWARD 1 " DOCKER_JUMP "\n", out);
}

static void restore_docker_away(FILE *out, const struct table *now)
{
    bool chain = docker_is_ours(now);
    size_t jumps = docker_jump_is_ours(now) ? docker_jumps(now, false) : 0;
    for (size_t i = 0; i < jumps && (chain || i == 0); i++)
        fputs("-D FORWARD " DOCKER_JUMP "\n", out);
    if (chain)
        fputs("-X " DOCKER "\n", out);
}

/* Only chains that differ are filled anew: the others keep their counters. */
static void restore_fill(FILE *out, const struct table *from, const struct table *to)
{
    for (size_t i = 0; i < to->chains; i++)
        if (!chain_equal(table_find(from, to->chain[i].name), &to->chain[i]))
            fprintf(out, ":%s - [0:0]\n", to->chain[i].name);
    for (size_t i = 0; i < to->chains; i++) {
        const struct chain *chain = &to->chain[i];
        if (chain_equal(table_find(from, chain->name), chain))
            continue;
        for (size_t k = 0; k < chain->count; k++)
            fprintf(out, "-A %s %s\n", chain->name, chain->rule[k]);
    }
}

static void restore_jumps_away(FILE *out, const struct table *from)
{
    for (size_t i = 0; i < from->jumps; i++)
        fprintf(out, "-D %s %s\n", from->jump[i].chain, from->jump[i].rule);
}

/* How many rules a chain of others has besides what we have made: beyond that there is no
 * position. */
static unsigned chain_others(const struct table *now, const char *name)
{
    const struct chain *chain = table_find(now, name);
    bool docker = docker_jump_is_ours(now);
    unsigned count = 0;
    for (size_t i = 0; chain && i < chain->count; i++)
        count += !rule_jumps_to_own(chain->rule[i]) &&
                 !(docker && strcmp(chain->rule[i], DOCKER_JUMP) == 0);
    return count;
}

static void restore_jumps(FILE *out, const struct table *to, const struct table *now)
{
    unsigned before = 0;
    for (size_t i = 0; i < to->jumps; i++) {
        const struct jump *jump = &to->jump[i];
        before = i && strcmp(to->jump[i - 1].chain, jump->chain) == 0 ? before + 1 : 0;
        unsigned most = chain_others(now, jump->chain) + before + 1;
        fprintf(out, "-I %s %u %s\n", jump->chain, jump->position < most ? jump->position : most,
                jump->rule);
    }
}

/* First all are emptied, because they may jump to each other. */
static void restore_chains_away(FILE *out, const struct table *from, const struct table *to)
{
    for (int delete = 0; delete < 2; delete ++)
        for (size_t i = 0; i < from->chains; i++)
            if (!table_find(to, from->chain[i].name))
                fprintf(out, "-%c %s\n", delete ? 'X' : 'F', from->chain[i].name);
}

static void step_restore(struct steps *steps, int family, const char *text)
{
    steps_command(steps, text, iptables_tool(family, "restore"), "-w", "5", "--noflush", NULL);
}

/* Whether nothing but us is left in the table, so that it can go as a whole. */
static bool table_is_ours(const struct table *now)
{
    bool docker = docker_is_ours(now);
    if (!table_find(now, NOTE_TABLE))
        return false;
    for (size_t i = 0; i < now->chains; i++) {
        const struct chain *chain = &now->chain[i];
        if (is_own(chain->name) || is_note(chain->name) || (docker && is_docker(chain->name)))
            continue;
        if (!chain->builtin || !chain->accepts || chain_others(now, chain->name))
            return false;
    }
    return true;
}

/* Whether a note's chain was made for us, and is in nobody's use. */
static bool note_chain_goes(const struct table *now, const char *note)
{
    const char *name = note + strlen(NOTE);
    const struct chain *chain = table_find(now, name);
    return chain && chain->builtin && chain->accepts && !chain_others(now, name) &&
           nft_has_chain(now->family, name) == 1;
}

/* Notes of what stays are simply taken away; the rest is nft's, in one transaction. */
static void notes_away(FILE *restore, FILE *nft, const struct table *now)
{
    const char *family = nft_family(now->family);
    for (size_t i = 0; i < now->chains; i++) {
        const char *note = now->chain[i].name;
        if (!is_note(note))
            continue;
        if (note_chain_goes(now, note))
            fprintf(nft, "delete chain %s filter %s\ndelete chain %s filter %s\n", family,
                    note + strlen(NOTE), family, note);
        else
            fprintf(restore, "-F %s\n-X %s\n", note, note);
    }
}

static void steps_away(const struct table *from, const struct table *now, struct steps *steps)
{
    char *restore, *nft, whole[48];
    struct table nothing = {.family = now->family};
    if (table_is_ours(now) && run_exists("nft")) {
        snprintf(whole, sizeof(whole), "delete table %s filter\n", nft_family(now->family));
        steps_command(steps, whole, "nft", "-f", "-", NULL);
        return;
    }
    FILE *out = state_open(&restore), *more = state_open(&nft);
    fputs("*filter\n", out);
    restore_jumps_away(out, from);
    restore_chains_away(out, from, &nothing);
    restore_docker_away(out, now);
    notes_away(out, more, now);
    fputs("COMMIT\n", out);
    state_close(out);
    state_close(more);
    if (strcmp(restore, "*filter\nCOMMIT\n") != 0)
        step_restore(steps, now->family, restore);
    if (*nft)
        steps_command(steps, nft, "nft", "-f", "-", NULL);
    free(restore);
    free(nft);
}

static void steps_to(const struct table *from, const struct table *to, const struct table *now,
                     struct steps *steps)
{
    char *restore;
    FILE *out = state_open(&restore);
    bool move = !jumps_equal(from, to);
    fputs("*filter\n", out);
    if (!from->chains && !table_has_note(now))
        restore_notes(out, to, now);
    if (docker_missing(to, now))
        restore_docker(out, now);
    restore_fill(out, from, to);
    if (move) {
        restore_jumps_away(out, from);
        restore_jumps(out, to, now);
    }
    restore_chains_away(out, from, to);
    fputs("COMMIT\n", out);
    state_close(out);
    step_restore(steps, now->family, restore);
    free(restore);
}

static int iptables_steps(const char *name, const char *from, const char *to, struct steps *steps,
                          struct setup_error *error)
{
    int family = name_family(name);
    struct table now, have, want = {.family = family};
    if (table_load(family, &now, error) < 0) {
        if (geteuid() == 0)
            return -1;
        now = (struct table){.family = family}; /* plan, for one who may not look: as if empty */
    }
    int result = state_parse(family, from, &have, error);
    if (result == 0)
        result = state_parse(family, to, &want, error);
    if (result == 0 && want.chains)
        steps_to(&have, &want, &now, steps);
    else if (result == 0)
        steps_away(&have, &now, steps);
    table_free(&want);
    table_free(&have);
    table_free(&now);
    return result;
}

const struct resource_type resource_iptables = {
    .name = "iptables",
    .lasting = false,
    .read = iptables_read,
    .steps = iptables_steps,
    .canonical = iptables_canonical,
    .content = iptables_content,
};
