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

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NFT_MARK "add table "

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
    return proc_has("/proc/modules", "nf_tables ") ||
           proc_has("/proc/kallsyms", " nft_register_expr");
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

/* Whether iptables-nft-save could read all of table "ip filter". */
static bool iptables_has(char *const text[2], const char *family, const char *table)
{
    int i = strcmp(family, "ip") == 0 ? 0 : strcmp(family, "ip6") == 0 ? 1 : -1;
    char begin[160], odd[160];
    if (i < 0)
        return false;
    snprintf(begin, sizeof(begin), "*%s\n", table);
    snprintf(odd, sizeof(odd), "# Table `%s' ", table);
    const char *at = strstr(text[i], begin);
    return at && (at == text[i] || at[-1] == '\n') && !strstr(text[i], odd);
}

static char *save_nft(struct twin *twin, char *const by_iptables[2])
{
    char *list[] = {"nft", "list", "tables", NULL}, family[16], table[128];
    if (!kernel_has_nft())
        return state_copy("");
    char *tables = tool_output(twin, list), *text;
    const char *line, *at = tables;
    size_t length;
    FILE *out = state_open(&text);
    while ((line = state_line(&at, &length))) {
        if (sscanf(line, "table %15s %127s", family, table) != 2 ||
            iptables_has(by_iptables, family, table))
            continue;
        char *argv[] = {"nft", "list", "table", family, table, NULL};
        char *one = tool_output(twin, argv);
        /* The table may be there already, with what iptables could read of it. */
        fprintf(out, NFT_MARK "%s %s\ndelete table %s %s\n%s", family, table, family, table, one);
        free(one);
    }
    state_close(out);
    free(tables);
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
    ruleset->text[TWIN_NFT][0] = save_nft(twin, ruleset->text[TWIN_IPTABLES_NFT]);
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
}

/* ---- to load it into the twin ---- */

/* The line of @text that a tool's complaint names: "line 3 failed", "line: 3", "/dev/stdin:3:5-9:".
 */
static char *blamed_line(const char *text, const char *complaint, unsigned long *number)
{
    const char *at = strstr(complaint, "line");
    at = at ? at + 4 : strchr(complaint, ':');
    while (at && *at && !isdigit((unsigned char)*at))
        at++;
    unsigned long wanted = at ? strtoul(at, NULL, 10) : 0;
    size_t length = 0;
    const char *line = NULL;
    *number = wanted;
    while (wanted-- && (line = state_line(&text, &length)))
        ;
    if (!line || *number == 0)
        return NULL;
    while (length && isspace((unsigned char)*line)) {
        line++;
        length--;
    }
    return strndup(line, length);
}

/* Return: whether it was loaded. @what: NULL: do not tell it, there will be another try. */
static bool load(struct twin *twin, char *const argv[], const char *text, const char *what)
{
    struct run_result result;
    struct setup_error error;
    unsigned long number;
    bool good = twin_tool(twin, argv, text, &result) == 0;
    if (!good && what) {
        char *line = blamed_line(text, result.errors, &number);
        run_explain(argv, &result, &error);
        twin_note(twin, line, "%s cannot be loaded, so the twin is without it: %s", what,
                  error.text);
        free(line);
    }
    run_free(&result);
    return good;
}

/* All at once, or each table by itself: it begins with a line that begins with @mark. */
static void load_tables(struct twin *twin, char *const argv[], const char *text, const char *mark)
{
    const char *line, *at = text, *begin = NULL;
    size_t length, skip = strlen(mark);
    if (!*text || load(twin, argv, text, NULL))
        return;
    do {
        const char *before = at;
        line = state_line(&at, &length);
        if (line && strncmp(line, mark, skip) != 0)
            continue;
        if (begin) {
            char *part = strndup(begin, (size_t)(before - begin)), what[200];
            snprintf(what, sizeof(what), "table %.*s (%.*s)", (int)strcspn(part + skip, "\n"),
                     part + skip, (int)strcspn(argv[0], "-"), argv[0]);
            load(twin, argv, part, what);
            free(part);
        }
        begin = line;
    } while (line);
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

static void load_ipsets(struct twin *twin, const struct ruleset *ruleset)
{
    char *save[] = {"ipset", "save", NULL}, *restore[] = {"ipset", "restore", "-exist", NULL};
    bool named = false;
    for (int i = 0; i < 4; i++)
        named = named || strstr(ruleset->text[i / 2][i % 2], "-set ");
    if (!named)
        return;
    char *text = tool_output(twin, save);
    if (*text)
        load(twin, restore, text, "the ipsets");
    free(text);
}

static void load_iptables(struct twin *twin, const struct ruleset *ruleset,
                          enum twin_backend backend, int family)
{
    const char *text = ruleset->text[backend][family], *tool;
    if (!*text)
        return;
    tool = iptables_name(backend, family, "restore");
    char *argv[] = {(char *)(uintptr_t)tool, "-w", NULL};
    if (tool)
        load_tables(twin, argv, text, "*");
    else
        twin_note(twin, NULL, "rules of %s cannot be loaded: %s-restore is not installed",
                  iptables[backend][family], iptables[backend][family]);
}

void ruleset_mirror(struct twin *twin, void (*tick)(void *arg), void *arg)
{
    struct ruleset ruleset;
    char *nft[] = {"nft", "-f", "-", NULL};
    ruleset_save(twin, &ruleset);
    if (tick)
        tick(arg);
    /* The lock of iptables-legacy is one file for all namespaces: the twin's namespace is its own.
     */
    setenv("XTABLES_LOCKFILE", "/proc/self/ns/net", 1);
    load_ipsets(twin, &ruleset);
    for (int i = 0; i < 4; i++) {
        load_iptables(twin, &ruleset, i / 2, i % 2);
        if (tick)
            tick(arg);
    }
    unsetenv("XTABLES_LOCKFILE");
    char *text = nft_loadable(twin, ruleset.text[TWIN_NFT][0]);
    load_tables(twin, nft, text, NFT_MARK);
    free(text);
    ruleset_free(&ruleset);
}
