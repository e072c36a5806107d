/* SPDX-License-Identifier: MIT */
/*
 * Our chains in table filter, and the jumps to them.
 *
 * What is ours: each chain whose name begins with "FIXPORT-", and each rule elsewhere that jumps
 * to one. A state lists the chains, sorted; their rules; and the jumps with their position in their
 * chain, so that one that was pushed down is not the same:
 *
 *     :FIXPORT-FORWARD - [0:0]
 *     -A FIXPORT-FORWARD -s 10.200.0.0/16 -p tcp -m tcp --dport 60001 -j ACCEPT
 *     1 -A FORWARD -j FIXPORT-FORWARD
 *
 * A jump from DOCKER-USER to which no packet comes has the position 0.
 *
 * Whoever asks for a state writes the rules as iptables-save prints them, in any order of chains;
 * resources_add() brings these into this form.
 *
 * With iptables-nft the first rule in a table makes the table, and it stays. So a state says which
 * it is when nothing of ours is there: absent is no table at all, "" is a table of others. Who goes
 * back to no table deletes it, if nobody else has come to use it. Others' table keeps the chain
 * FORWARD that came with our jump: empty, it lets everything pass. Deleting tables is nft's work:
 * where that is not installed an empty table stays.
 *
 * fixport-setup 0.1.0 noted what it had made by empty chains FIXPORT-NEW-...; they go with ours.
 *
 * With iptables-legacy a table that has once been looked at is there until reboot: so it is not
 * looked at if it is not there, and one that came with our rules stays, empty.
 */
#include "iptables.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Whether nft's chain FORWARD of table filter is what iptables-nft would make, or not there yet. */
static bool forward_is_plain(const char *family)
{
    char *argv[] = {"nft", "list", "chain", (char *)(uintptr_t)family, "filter", "FORWARD", NULL};
    struct run_result result;
    bool plain = run_tool(argv, NULL, &result) < 0 ||
                 strstr(result.output, "type filter hook forward priority filter;") ||
                 strstr(result.output, "type filter hook forward priority 0;");
    run_free(&result);
    return plain;
}

/* A table of that name may have been made with nft. @save: what iptables-save says of it. */
static int table_check(int family, const char *table, const char *save, struct setup_error *error)
{
    const char *name = family == 6 ? "ip6" : "ip";
    if (strstr(save, "is incompatible, use 'nft' tool"))
        return setup_fail(error,
                          "table %s %s has rules of nft that iptables has no words for, so it cannot "
                          "read that table, nor tell what is ours in it: let them be in a table of "
                          "another name ('nft list table %s %s' shows them)",
                          name, table, name, table);
    bool odd = strstr(save, "contains incompatible base-chains") || strstr(save, ":FORWARD - [");
    if (odd && strcmp(table, "filter") == 0 && !forward_is_plain(name))
        return setup_fail(error,
                          "table %s filter has a chain FORWARD of nft's that is not 'type filter hook "
                          "forward priority filter', so iptables cannot add a rule to it: let it be in "
                          "a table of another name ('nft list table %s filter' shows it)",
                          name, name);
    return 0;
}

char *iptables_table(int family, const char *table, struct setup_error *error)
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
    else if (table_check(family, table, result.output, error) == 0)
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
        char *text = iptables_table(family, "mangle", &ignored);
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

/* ---- the resource ---- */

static int table_load(int family, struct table *table, struct setup_error *error)
{
    *table = (struct table){.family = family};
    char *text = iptables_table(family, "filter", error);
    int result = text ? table_parse(text, table, error) : -1;
    free(text);
    if (result < 0)
        table_free(table);
    return result;
}

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

unsigned iptables_position(int family, const char *name)
{
    /* Calico; kube-router; Weave Net; Cilium. They put themselves on top again and again. */
    static const char *const policies[] = {"cali-", "KUBE-ROUTER-", "KUBE-NWPLCY-", "WEAVE-NPC",
                                           "CILIUM_"};
    struct table table;
    struct setup_error ignored;
    unsigned position = 1;
    if (table_load(family, &table, &ignored) < 0)
        return position;
    const struct chain *chain = table_find(&table, name);
    for (size_t i = 0, others = 0; chain && i < chain->count; i++) {
        const char *target = "";
        size_t length = rule_target(chain->rule[i], &target);
        if (rule_jumps_to_own(chain->rule[i]))
            continue;
        others++;
        for (size_t k = 0; k < sizeof(policies) / sizeof(policies[0]); k++)
            if (length && strncmp(target, policies[k], strlen(policies[k])) == 0)
                position = (unsigned)others + 1;
    }
    table_free(&table);
    return position;
}

/* iptables-save tells of a table that is not there as of an empty one. */
static bool table_exists(int family)
{
    char *argv[] = {"nft", "list", "tables", family == 6 ? "ip6" : "ip", NULL};
    const char *wanted = family == 6 ? "table ip6 filter" : "table ip filter", *line, *at;
    struct run_result result;
    size_t length;
    bool found = run_tool(argv, NULL, &result) < 0; /* no nft: it will not be deleted either */
    for (at = result.output; !found && (line = state_line(&at, &length));)
        found = length == strlen(wanted) && strncmp(line, wanted, length) == 0;
    run_free(&result);
    return found;
}

static int iptables_read(const char *name, char **text, struct setup_error *error)
{
    struct table table, state;
    *text = NULL;
    if (table_load(name_family(name), &table, error) < 0)
        return -1;
    state_extract(&table, &state);
    if (state.chains || state.jumps || (legacy ? table.chains : table_exists(table.family)))
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

/* ---- steps ---- */

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
        unsigned position = jump->position < most ? jump->position : most;
        fprintf(out, "-I %s %u %s\n", jump->chain, position ? position : before + 1, jump->rule);
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
    for (size_t i = 0; i < now->chains; i++) {
        const struct chain *chain = &now->chain[i];
        if (name_is_own(chain->name) || name_is_note(chain->name) ||
            (docker && name_is_docker(chain->name)))
            continue;
        if (!chain->builtin || !chain->accepts || chain_others(now, chain->name))
            return false;
    }
    return true;
}

static void notes_away(FILE *out, const struct table *now)
{
    for (size_t i = 0; i < now->chains; i++)
        if (name_is_note(now->chain[i].name))
            fprintf(out, "-F %s\n-X %s\n", now->chain[i].name, now->chain[i].name);
}

/* @whole: there was no table before. */
static void steps_away(const struct table *from, const struct table *now, bool whole,
                       struct steps *steps)
{
    char *restore;
    struct table nothing = {.family = now->family};
    if (whole && !legacy && table_is_ours(now) && run_exists("nft")) {
        steps_command(steps,
                      now->family == 6 ? "delete table ip6 filter\n" : "delete table ip filter\n",
                      "nft", "-f", "-", NULL);
        return;
    }
    FILE *out = state_open(&restore);
    fputs("*filter\n", out);
    restore_jumps_away(out, from);
    restore_chains_away(out, from, &nothing);
    docker_away(out, now);
    notes_away(out, now);
    fputs("COMMIT\n", out);
    state_close(out);
    if (strcmp(restore, "*filter\nCOMMIT\n") != 0)
        step_restore(steps, now->family, restore);
    free(restore);
}

static void steps_to(const struct table *from, const struct table *to, const struct table *now,
                     struct steps *steps)
{
    char *restore;
    FILE *out = state_open(&restore);
    bool move = !jumps_equal(from, to);
    fputs("*filter\n", out);
    if (docker_missing(to, now))
        docker_make(out, now);
    else if (docker_unreached(to))
        docker_jump_away(out, now);
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
        steps_away(&have, &now, !to, steps);
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
