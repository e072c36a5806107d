/* SPDX-License-Identifier: MIT */
/*
 * persist = distribution: what saves the rules is the distribution's own tool, and it saves all
 * there are. Two things follow. Chains that another program keeps up to date must not be among
 * them: a reboot would bring back what was true once, and that opens holes. And what the saved
 * files will have in them is not known before; they are read afterwards, so that status and undo
 * can tell whether they are still ours.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct persist_tool {
    const char *program;
    const char *needs;   /* a file without which the program cannot do it; NULL: none */
    char *command[2][4]; /* for IPv4 and IPv6; the second may be empty */
    const char *saved[2];
};

static char program_debian[] = "netfilter-persistent", program_service[] = "service",
            word_save[] = "save", word_iptables[] = "iptables", word_ip6tables[] = "ip6tables";

static const struct persist_tool persist_tools[] = {
    {program_debian,
     NULL,
     {{program_debian, word_save, NULL}, {NULL}},
     {"/etc/iptables/rules.v4", "/etc/iptables/rules.v6"}},
    {program_service,
     "/usr/libexec/iptables/iptables.init",
     {{program_service, word_iptables, word_save, NULL},
      {program_service, word_ip6tables, word_save, NULL}},
     {"/etc/sysconfig/iptables", "/etc/sysconfig/ip6tables"}},
};

static const struct persist_tool *persist_tool(void)
{
    for (size_t i = 0; i < sizeof(persist_tools) / sizeof(persist_tools[0]); i++) {
        const struct persist_tool *tool = &persist_tools[i];
        if (run_exists(tool->program) && (!tool->needs || access(tool->needs, X_OK) == 0))
            return tool;
    }
    return NULL;
}

/* In iptables-save a chain is ":NAME POLICY [0:0]". These are kept up to date by their programs. */
static int persist_scan(int family, struct setup_error *error)
{
    static const char *const owners[] = {":KUBE-", ":cali-", ":DOCKER"};
    struct run_result result;
    char *argv[] = {state_copy(iptables_tool(family, "save")), NULL};
    int status = run_tool(argv, NULL, &result);
    const char *line, *at = result.output;
    size_t length;
    if (status < 0)
        run_explain(argv, &result, error);
    while (status == 0 && (line = state_line(&at, &length)))
        for (size_t i = 0; i < sizeof(owners) / sizeof(owners[0]); i++)
            if (strncmp(line, owners[i], strlen(owners[i])) == 0)
                status = setup_fail(error,
                                    "persist = distribution would save the chain %.*s too, which "
                                    "another program keeps up to date: after a reboot it would be "
                                    "out of date. Use persist = own, or --force",
                                    (int)strcspn(line + 1, " \n"), line + 1);
    run_free(&result);
    free(argv[0]);
    return status;
}

int persist_check(bool force, struct setup_error *error)
{
    if (force)
        return 0;
    return persist_scan(4, error) < 0 || persist_scan(6, error) < 0 ? -1 : 0;
}

void persist_note(const struct work *work)
{
    struct setup_error error;
    if (work->next.persist == PERSIST_DISTRIBUTION && persist_check(false, &error) < 0)
        say_error(0, "note: apply will refuse: %s", error.text);
}

/* Whether there is a line ":CHAIN ..." in what was saved. */
static bool saved_has_chain(const char *saved, const char *chain, size_t length)
{
    for (const char *line = saved; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, chain, length) == 0)
            return true;
    }
    return false;
}

/* Which of the rules are in @entry's file: as the order in saved[]; NULL: none are wanted. */
static const char *saved_wanted(const struct work *work, const struct journal_entry *entry)
{
    const struct persist_tool *tool = persist_tool();
    bool second = tool && strcmp(entry->name, tool->saved[1]) == 0;
    const struct journal_entry *rules =
        journal_find(&work->next, &resource_iptables, second ? "ipv6" : "ipv4");
    return rules ? rules->wanted : NULL;
}

int persist_check_saved(const struct work *work, const struct journal_entry *entry,
                        struct setup_error *error)
{
    const char *line, *at = saved_wanted(work, entry);
    size_t length;
    while (at && (line = state_line(&at, &length)) && *line == ':') {
        size_t name = strcspn(line, " ");
        if (!saved_has_chain(entry->wanted, line, name + 1))
            return setup_fail(error,
                              "%s has no chain %.*s, though it has just been saved: the "
                              "distribution's tool saves what another iptables has than %s: set "
                              "[setup] iptables to that one, or persist = own",
                              entry->name, (int)name - 1, line + 1,
                              iptables_is_legacy() ? "iptables-legacy" : "iptables-nft");
    }
    return 0;
}

bool persist_is_saved(const struct journal_entry *entry, enum site_persist persist)
{
    const struct persist_tool *tool = persist == PERSIST_DISTRIBUTION ? persist_tool() : NULL;
    return tool && entry->type == &resource_file &&
           (strcmp(entry->name, tool->saved[0]) == 0 || strcmp(entry->name, tool->saved[1]) == 0);
}

static bool persist_has_rules(const struct journal *journal)
{
    for (size_t i = 0; i < journal->count; i++)
        if (journal->entry[i].type == &resource_iptables && journal->entry[i].wanted)
            return true;
    return false;
}

int persist_entries(struct work *work, struct setup_error *error)
{
    if (work->site.persist != PERSIST_DISTRIBUTION || !persist_has_rules(&work->next))
        return 0;
    const struct persist_tool *tool = persist_tool();
    if (!tool)
        return setup_fail(error, "persist = distribution needs netfilter-persistent (Debian: "
                                 "iptables-persistent) or iptables-services, and neither is here");
    if (*setup_root)
        return setup_fail(error, "persist = distribution saves to %s itself, not under --root",
                          tool->saved[0]);
    for (size_t i = 0; i < 2; i++) {
        const struct journal_entry *old = journal_find(&work->old, &resource_file, tool->saved[i]);
        if (work_entry(work, &resource_file, tool->saved[i], old ? old->wanted : NULL,
                       "keep the rules over a reboot", error) < 0)
            return -1;
    }
    return 0;
}

static bool persist_due(const struct work *work)
{
    bool due = work->plan.count != 0;
    for (size_t i = 0; !due && i < work->next.count; i++) {
        const struct journal_entry *entry = &work->next.entry[i];
        due = persist_is_saved(entry, work->next.persist) &&
              (!journal_find(&work->old, entry->type, entry->name) ||
               !state_equal(entry->previous, entry->wanted));
    }
    return due;
}

void persist_change(struct work *work)
{
    const struct persist_tool *tool = persist_tool();
    struct journal_entry *entry = tool && work->next.persist == PERSIST_DISTRIBUTION
                                      ? journal_find(&work->next, &resource_file, tool->saved[0])
                                      : NULL;
    if (!entry || !persist_due(work))
        return;
    struct change change = {
        .type = entry->type,
        .name = state_copy(entry->name),
        .why = state_copy(entry->why),
        .now = state_copy(entry->previous),
    };
    for (size_t i = 0; i < 2; i++) {
        char *const *command = tool->command[i];
        if (command[0])
            steps_command(&change.steps, NULL, command[0], command[1], command[2], NULL);
    }
    work_append(work, &change);
}
