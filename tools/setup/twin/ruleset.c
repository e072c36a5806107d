/* SPDX-License-Identifier: MIT */
/*
 * The firewall's rules of a twin, by the tools that can save and load them.
 *
 * Looking can change a machine. "iptables-legacy-save -t X" creates table X, so the kernel's own
 * list of tables is read first and only these are asked for. Any nft command loads nf_tables, so
 * nothing is asked of it unless the kernel has it already; ipset is asked only if a rule names a
 * set.
 *
 * A table of nf_tables is saved by iptables-nft-save if that can read it, and by nft otherwise.
 */
#include "twin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NFT_MARK "add table "
#define LOAD_TRIES 32 /* rules of one table that are refused before all of it is left out */

static const char *const iptables[2][2] = {
    {"iptables-nft", "ip6tables-nft"},
    {"iptables-legacy", "ip6tables-legacy"},
};

/* ---- what the machine has ---- */

/* Whether a file of /proc has a line with @word. */
static bool proc_has(const char *path, const char *word)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (file && !found && getline(&line, &size, file) > 0)
        found = strstr(line, word) != NULL;
    free(line);
    if (file)
        fclose(file);
    return found;
}

/* A function that nf_tables has exported ever since: loaded or built in, it is listed. */
static bool kernel_has_nft(void)
{
    static bool has; /* it does not go while we are here, and the list is long */
    has = has || proc_has("/proc/modules", "nf_tables ") ||
          proc_has("/proc/kallsyms", " nft_register_expr");
    return has;
}

/* "iptables-nft-save", or "iptables-save" where that is the same. Return: NULL: there is none. */
static const char *iptables_name(enum twin_backend backend, int family, const char *what)
{
    static char name[40];
    snprintf(name, sizeof(name), "%s-%s", iptables[backend][family], what);
    if (run_exists(name))
        return name;
    char *argv[] = {family ? "ip6tables" : "iptables", "--version", NULL};
    struct run_result result;
    bool same = run_tool(argv, NULL, &result) == 0 &&
                (strstr(result.output, "nf_tables") != NULL) == (backend == TWIN_IPTABLES_NFT);
    run_free(&result);
    snprintf(name, sizeof(name), "%s-%s", argv[0], what);
    return same && run_exists(name) ? name : NULL;
}

/* What a tool prints. Return: "" if that is impossible, and there is a note. */
static char *tool_output(struct twin *twin, char *const argv[])
{
    struct run_result result;
    struct setup_error error;
    char *text = NULL;
    if (run_tool(argv, NULL, &result) == 0) {
        text = result.output;
        result.output = NULL;
    } else {
        run_explain(argv, &result, &error);
        twin_note(twin, NULL, "rules cannot be read: %s", error.text);
    }
    run_free(&result);
    return text ? text : state_copy("");
}

static char *save_iptables_nft(struct twin *twin, int family)
{
    const char *tool = kernel_has_nft() ? iptables_name(TWIN_IPTABLES_NFT, family, "save") : NULL;
    char *argv[] = {(char *)(uintptr_t)tool, NULL};
    return tool ? tool_output(twin, argv) : state_copy("");
}

static char *save_legacy(struct twin *twin, int family)
{
    FILE *file = fopen(family ? "/proc/net/ip6_tables_names" : "/proc/net/ip_tables_names", "re");
    char *text, table[64];
    FILE *out = state_open(&text);
    if (!file && errno != ENOENT)
        twin_note(twin, NULL, "the rules of %s cannot be read: %s",
                  iptables[TWIN_IPTABLES_LEGACY][family], strerror(errno));
    while (file && fgets(table, sizeof(table), file)) {
        table[strcspn(table, "\n")] = '\0';
        const char *tool = iptables_name(TWIN_IPTABLES_LEGACY, family, "save");
        char *argv[] = {(char *)(uintptr_t)tool, "-t", table, NULL};
        if (!tool) {
            twin_note(twin, table, "the kernel has tables of %s, which is not installed here",
                      iptables[TWIN_IPTABLES_LEGACY][family]);
            continue;
        }
        char *one = tool_output(twin, argv);
        fputs(one, out);
        free(one);
    }
    if (file)
        fclose(file);
    state_close(out);
    return text;
}

/* Whether iptables-nft-save lists table "ip filter". */
static bool iptables_reads(char *const text[2], const char *family, const char *table)
{
    int i = strcmp(family, "ip") == 0 ? 0 : strcmp(family, "ip6") == 0 ? 1 : -1;
    char begin[160];
    snprintf(begin, sizeof(begin), "*%s\n", table);
    const char *at = i < 0 ? NULL : strstr(text[i], begin);
    return at && (at == text[i] || at[-1] == '\n');
}

/* Whether it says that it cannot read all of it. */
static bool iptables_is_odd(char *const text[2], const char *family, const char *table)
{
    char odd[160];
    snprintf(odd, sizeof(odd), "# Table `%s' ", table);
    return strstr(text[strcmp(family, "ip6") == 0], odd);
}

/* "table ip filter", in the order in which they were made; where there is no nft, as iptables-nft
 * has them. */
static char *save_tables(struct twin *twin, char *const by_iptables[2])
{
    char *argv[] = {"nft", "list", "tables", NULL}, table[128], *text;
    const char *line, *at;
    size_t length;
    if (!kernel_has_nft())
        return state_copy("");
    text = tool_output(twin, argv);
    if (run_exists("nft"))
        return text;
    free(text);
    FILE *out = state_open(&text);
    for (int family = 0; family < 2; family++)
        for (at = by_iptables[family]; (line = state_line(&at, &length));)
            if (sscanf(line, "*%127s", table) == 1)
                fprintf(out, "table %s %s\n", family ? "ip6" : "ip", table);
    state_close(out);
    return text;
}

/*
 * All tables at once: a table may have a name, such as "maps", by which nft does not list it. What
 * iptables could read of one is there already when it is loaded.
 */
static char *save_nft(struct twin *twin, const struct ruleset *ruleset)
{
    char *argv[] = {"nft", "list", "ruleset", NULL}, family[16], table[128], *text;
    if (!*ruleset->tables || !run_exists("nft"))
        return state_copy("");
    char *all = tool_output(twin, argv);
    const char *line, *at = all;
    size_t length;
    bool taken = false;
    FILE *out = state_open(&text);
    while ((line = state_line(&at, &length))) {
        if (*line == 't' && sscanf(line, "table %15s %127s", family, table) == 2) {
            taken = !iptables_reads(ruleset->text[TWIN_IPTABLES_NFT], family, table) ||
                    iptables_is_odd(ruleset->text[TWIN_IPTABLES_NFT], family, table);
            if (taken)
                fprintf(out, NFT_MARK "%s %s\ndelete table %s %s\n", family, table, family, table);
        }
        if (taken)
            fprintf(out, "%.*s\n", (int)length, line);
    }
    state_close(out);
    free(all);
    return text;
}

/* A policy counts, an empty table does not. */
static bool text_has_rules(const char *text)
{
    const char *line;
    size_t length;
    while ((line = state_line(&text, &length)))
        if (strncmp(line, "-A ", 3) == 0 || strncmp(line, NFT_MARK, strlen(NFT_MARK)) == 0 ||
            (*line == ':' && memmem(line, length, " DROP ", 6)))
            return true;
    return false;
}

void ruleset_save(struct twin *twin, struct ruleset *ruleset)
{
    for (int family = 0; family < 2; family++) {
        ruleset->text[TWIN_IPTABLES_NFT][family] = save_iptables_nft(twin, family);
        ruleset->text[TWIN_IPTABLES_LEGACY][family] = save_legacy(twin, family);
    }
    ruleset->tables = save_tables(twin, ruleset->text[TWIN_IPTABLES_NFT]);
    ruleset->text[TWIN_NFT][0] = save_nft(twin, ruleset);
    ruleset->text[TWIN_NFT][1] = state_copy("");
    for (int backend = 0; backend <= TWIN_NFT; backend++)
        twin->uses[backend] =
            text_has_rules(ruleset->text[backend][0]) || text_has_rules(ruleset->text[backend][1]);
}

void ruleset_free(struct ruleset *ruleset)
{
    for (int backend = 0; backend <= TWIN_NFT; backend++)
        for (int family = 0; family < 2; family++)
            free(ruleset->text[backend][family]);
    free(ruleset->tables);
}

/* ---- to load it into the twin ---- */

/* The number of the line that a tool complains of: "line 3 failed", "line: 3", "/dev/stdin:3:5-9:".
 */
static unsigned long blamed_number(const char *complaint)
{
    const char *at = strstr(complaint, "line");
    at = at ? at + 4 : strchr(complaint, ':');
    return at ? strtoul(at + strcspn(at, "0123456789"), NULL, 10) : 0;
}

/*
 * Load one table. Of a rule of iptables' that is refused there is a note, and the rest is loaded;
 * of nft's the whole table is left out. @text is written to.
 */
static void load(struct twin *twin, char *const argv[], char *text, const char *what)
{
    struct run_result result;
    struct setup_error error;
    bool again;
    int tries = 0;
    do {
        again = false;
        if (twin_tool(twin, argv, text, &result) < 0) {
            unsigned long number = blamed_number(result.errors);
            size_t length = 0;
            const char *line = NULL, *at = text;
            while (number-- && (line = state_line(&at, &length)))
                ;
            char *copy = line ? strndup(line, length) : NULL;
            again = copy && strncmp(copy, "-A ", 3) == 0 && tries++ < LOAD_TRIES;
            run_explain(argv, &result, &error);
            twin_note(twin, copy ? copy + strspn(copy, "\t ") : NULL,
                      again ? "rules of %s cannot be loaded, so the twin is without them: %s"
                            : "%s cannot be loaded, so the twin is without it: %s",
                      what, error.text);
            if (again)
                text[line - text] = '#';
            free(copy);
        }
        run_free(&result);
    } while (again);
}

/* What begins with the line @first and goes to the next that begins with @mark; NULL: there is
 * none. */
static char *text_part(const char *text, const char *first, const char *mark)
{
    const char *line, *at = text, *begin = NULL;
    size_t length;
    while ((line = state_line(&at, &length))) {
        if (begin && strncmp(line, mark, strlen(mark)) == 0)
            return strndup(begin, (size_t)(line - begin));
        if (!begin && length == strlen(first) && strncmp(line, first, length) == 0)
            begin = line;
    }
    return state_copy(begin);
}

static void load_iptables(struct twin *twin, const struct ruleset *ruleset,
                          enum twin_backend backend, int family, const char *table)
{
    const char *tool = iptables_name(backend, family, "restore");
    char *argv[] = {(char *)(uintptr_t)tool, "-w", NULL}, first[160], what[200];
    snprintf(first, sizeof(first), "*%s", table);
    snprintf(what, sizeof(what), "%s's table %s", iptables[backend][family], table);
    char *part = text_part(ruleset->text[backend][family], first, "*");
    if (part && tool)
        load(twin, argv, part, what);
    else if (part)
        twin_note(twin, NULL,
                  "%s cannot be loaded, so the twin is without it: %s-restore is not "
                  "installed",
                  what, iptables[backend][family]);
    free(part);
}

/* A table with an owner would go when nft ends; and what the interfaces do themselves, veths do
 * not. */
static char *nft_loadable(struct twin *twin, const char *saved)
{
    const char *line, *at = saved;
    char *text;
    size_t length;
    FILE *out = state_open(&text);
    while ((line = state_line(&at, &length))) {
        char *copy = strndup(line, length), *word = copy + strspn(copy, "\t ");
        if (strncmp(word, "flags ", 6) == 0 && strstr(word, "offload")) {
            twin_note(twin, word,
                      "connections that the network card forwards by itself (flags offload) "
                      "are forwarded by the kernel in the twin");
        } else if (strncmp(copy, "\tflags ", 7) == 0 && strstr(word, "owner")) {
            if (strstr(word, "dormant"))
                fputs("\tflags dormant\n", out);
        } else {
            fprintf(out, "%s\n", copy);
        }
        free(copy);
    }
    state_close(out);
    return text;
}

/* In the order in which they were made: of two with the same priority that decides. */
static void load_nf_tables(struct twin *twin, const struct ruleset *ruleset)
{
    char *argv[] = {"nft", "-f", "-", NULL}, family[16], table[128], first[200];
    char *text = nft_loadable(twin, ruleset->text[TWIN_NFT][0]);
    const char *line, *at = ruleset->tables;
    size_t length;
    while ((line = state_line(&at, &length))) {
        if (sscanf(line, "table %15s %127s", family, table) != 2)
            continue;
        if (strcmp(family, "ip") == 0 || strcmp(family, "ip6") == 0)
            load_iptables(twin, ruleset, TWIN_IPTABLES_NFT, strcmp(family, "ip6") == 0, table);
        snprintf(first, sizeof(first), NFT_MARK "%s %s", family, table);
        char *part = text_part(text, first, NFT_MARK);
        snprintf(first, sizeof(first), "nft's table %s %s", family, table);
        if (part)
            load(twin, argv, part, first);
        free(part);
    }
    free(text);
}

static void load_legacy(struct twin *twin, const struct ruleset *ruleset, int family)
{
    const char *line, *at = ruleset->text[TWIN_IPTABLES_LEGACY][family];
    char table[64];
    size_t length;
    while ((line = state_line(&at, &length)))
        if (sscanf(line, "*%63s", table) == 1)
            load_iptables(twin, ruleset, TWIN_IPTABLES_LEGACY, family, table);
}

static void load_ipsets(struct twin *twin, const struct ruleset *ruleset)
{
    char *save[] = {"ipset", "save", NULL}, *restore[] = {"ipset", "restore", "-exist", NULL};
    bool named = false;
    for (int i = 0; i < 4; i++)
        named = named || strstr(ruleset->text[i / 2][i % 2], "-set ");
    if (!named)
        return;
    char *text = tool_output(twin, save);
    twin_name(twin, text);
    if (*text)
        load(twin, restore, text, "ipset's sets");
    free(text);
}

void ruleset_mirror(struct twin *twin, void (*tick)(void *arg), void *arg)
{
    struct ruleset ruleset;
    ruleset_save(twin, &ruleset);
    for (int i = 0; i <= TWIN_NFT; i++)
        for (int family = 0; family < 2; family++)
            twin_name(twin, ruleset.text[i][family]);
    if (tick)
        tick(arg);
    /* The lock of iptables-legacy is one file for all namespaces: the twin's namespace is its own.
     */
    setenv("XTABLES_LOCKFILE", "/proc/self/ns/net", 1);
    load_ipsets(twin, &ruleset);
    load_legacy(twin, &ruleset, 0);
    load_legacy(twin, &ruleset, 1);
    unsetenv("XTABLES_LOCKFILE");
    if (tick)
        tick(arg);
    load_nf_tables(twin, &ruleset);
    lacks_note(twin, &ruleset);
    ruleset_free(&ruleset);
}
