/* SPDX-License-Identifier: MIT */
/*
 * From a configuration to a list of changes: what plan shows and apply does. The next journal is
 * made on the way, as it is what has to be remembered of all that was read: what was there before
 * the first apply comes from the earlier journal, what is there now from the machine.
 *
 * What an earlier apply made and nobody wants any more goes back to what it was before, after all
 * else and last first.
 */
#include "../roles/want.h"
#include "rehearse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef FIXPORT_SYSCONFDIR
#define FIXPORT_SYSCONFDIR "/etc"
#endif

static int work_config(struct work *work, const char *config)
{
    char here[PATH_MAX];
    const char *path = config ? config : setup_path(FIXPORT_SYSCONFDIR "/fixport.conf");
    struct stat st;
    int length;
    if (!config && *setup_root && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        return say_error(SETUP_ERROR, "%s is a symlink: name the file with --config", path);
    if (*path == '/')
        length = snprintf(work->config, PATH_MAX, "%s", path);
    else if (getcwd(here, sizeof(here)))
        length = snprintf(work->config, PATH_MAX, "%s/%s", here, path);
    else
        return say_error(SETUP_ERROR, "the current folder: %s", strerror(errno));
    if (length >= PATH_MAX)
        return say_error(SETUP_ERROR, "%.60s...: the path is too long", path);
    struct config_error error;
    struct setup_error trouble;
    if (site_load(path, &work->site, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    return site_place(&work->site, &trouble) < 0 ? say_error(SETUP_ERROR, "%s", trouble.text) : 0;
}

static int work_roles(struct work *work, unsigned roles)
{
    struct utsname uts;
    uname(&uts);
    work->next.roles = roles ? roles : site_machine_roles(&work->site, uts.nodename);
    if (work->next.roles)
        return 0;
    return say_error(SETUP_ERROR,
                     "%s names no role for this machine (%s): give one with --role, or add a "
                     "section [machine %s]",
                     work->config, uts.nodename, uts.nodename);
}

static bool journal_has_iptables(const struct journal *journal)
{
    for (size_t i = 0; i < journal->count; i++)
        if (journal->entry[i].type == &resource_iptables)
            return true;
    return false;
}

/* Rules made with one backend are not seen by the other: they stay together. */
static int work_backend(struct work *work, struct setup_error *error)
{
    enum site_iptables used = work->old.iptables, asked = work->site.iptables;
    if (!journal_has_iptables(&work->old) || used == IPTABLES_AUTO)
        return 0;
    if (asked != IPTABLES_AUTO && asked != used)
        return setup_fail(error,
                          "the rules here were made with iptables-%s, and the configuration says "
                          "iptables = %s: undo first",
                          used == IPTABLES_NFT ? "nft" : "legacy",
                          asked == IPTABLES_NFT ? "nft" : "legacy");
    work->site.iptables = used;
    return journal_use(&work->old, error);
}

/* Much of a machine only root may see; plan is for everybody. */
static int work_read(struct work *work, struct journal_entry *entry, struct setup_error *error)
{
    if (entry->type == &resource_folder && lock_made(entry->name))
        return 0; /* it was not there before us */
    if (entry->type->read(entry->name, &entry->previous, error) == 0)
        return 0;
    if (geteuid() == 0)
        return -1;
    work->guessed = true;
    return 0;
}

int work_entry(struct work *work, const struct resource_type *type, const char *name,
               const char *wanted, const char *why, struct setup_error *error)
{
    const struct journal_entry *old = journal_find(&work->old, type, name);
    struct journal_entry *entry = journal_add(&work->next, type, name, why);
    if (work_read(work, entry, error) < 0)
        return -1;
    if (!old && state_lost(type, entry->previous) == LOST_FOREIGN)
        return setup_fail(error, "%s is there, and nothing of ours (%.*s): remove it, or have "
                          "another path", name, (int)strcspn(entry->previous, "\n"), entry->previous);
    /* What was there before us: of what others share, what is there now without our part. */
    if (!old)
        entry->before = state_copy(entry->previous);
    else if (state_merge(type, name, entry_left(old), old->before, entry->previous, &entry->before,
                         error) < 0)
        return -1;
    return state_merge(type, name, NULL, wanted, entry->before, &entry->wanted, error);
}

/* ---- folders ---- */

static bool needs_folder(const struct resource *it)
{
    return (it->type == &resource_file || it->type == &resource_link ||
            it->type == &resource_pool) &&
           strncmp(it->name, SETUP_STATE_DIR "/", strlen(SETUP_STATE_DIR "/")) != 0;
}

static bool resources_have(const struct resources *resources, const struct resource_type *type,
                           const char *name)
{
    for (size_t i = 0; i < resources->count; i++)
        if (resources->item[i].type == type && strcmp(resources->item[i].name, name) == 0)
            return true;
    return false;
}

static int folder_add(struct resources *folders, const char *path, struct setup_error *error)
{
    if (resources_have(folders, &resource_folder, path))
        return 0;
    return resources_add(folders, &resource_folder, path, "there", "for what comes into it", error);
}

/* The folders on the way to @path that are not there. */
static int folders_missing(struct resources *folders, const char *path, struct setup_error *error)
{
    char folder[PATH_MAX];
    int result = 0;
    snprintf(folder, sizeof(folder), "%s", path);
    for (char *at = strchr(folder + 1, '/'); at && result == 0; at = strchr(at + 1, '/')) {
        *at = '\0';
        if ((access(setup_folder(folder), F_OK) < 0 && errno == ENOENT) || lock_made(folder))
            result = folder_add(folders, folder, error);
        *at = '/';
    }
    return result;
}

/* They come first. Once made they are ours until undo: who knows what is in them by then. */
static int work_folders(struct work *work, struct setup_error *error)
{
    struct resources all = {.count = 0}, *wanted = &work->resources;
    int result = 0;
    for (size_t i = 0; result == 0 && i < work->old.count; i++)
        if (work->old.entry[i].type == &resource_folder &&
            access(setup_folder(work->old.entry[i].name), F_OK) == 0)
            result = folder_add(&all, work->old.entry[i].name, error);
    for (size_t i = 0; result == 0 && i < wanted->count; i++)
        if (needs_folder(&wanted->item[i]))
            result = folders_missing(&all, wanted->item[i].name, error);
    if (result == 0)
        result = folders_missing(&all, SETUP_STATE_DIR, error);
    if (wanted->count)
        all.item = state_grow(all.item, (all.count + wanted->count) * sizeof(*all.item));
    for (size_t i = 0; i < wanted->count; i++)
        all.item[all.count++] = wanted->item[i];
    free(wanted->item);
    wanted->item = all.item;
    wanted->count = all.count;
    return result;
}

static int work_dropped(struct work *work, struct setup_error *error)
{
    for (size_t i = work->old.count; i-- > 0;) {
        const struct journal_entry *old = &work->old.entry[i];
        if (journal_find(&work->next, old->type, old->name))
            continue;
        if (roles_leave(&work->site, work->next.roles, old->type, old->name)) {
            resources_note(&work->resources, "%s was applied, and is left to others from now on: it "
                           "stays as it is, and undo does not take it away any more",
                           type_label(old->type, old->name));
            continue;
        }
        if (work_entry(work, old->type, old->name, old->before,
                       "not wanted any more: back to what it was before", error) < 0)
            return -1;
        struct journal_entry *entry = &work->next.entry[work->next.count - 1];
        /* Putting a file back would lose what others have written into it. */
        if (old->type == &resource_file && !entry_is_ours(old, entry->previous) &&
            !state_fits(entry->previous, old->before))
            return setup_fail(error,
                              "%s is not wanted any more, and others have changed it since: it would "
                              "be put back; save what is needed of it and run 'fixport-setup undo "
                              "--force' first",
                              old->name);
        entry->dropped = true;
        free(entry->wanted); /* of an interface that has gone there is no setting to put back */
        entry->wanted = old->type == &resource_sysctl && !entry->previous
                            ? NULL
                            : state_copy(entry->before);
    }
    return 0;
}

void work_append(struct work *work, const struct change *change)
{
    struct plan *plan = &work->plan;
    plan->change = state_grow(plan->change, (plan->count + 1) * sizeof(*change));
    plan->change[plan->count++] = *change;
}

static int work_change(struct work *work, const struct journal_entry *entry,
                       struct setup_error *error)
{
    struct change change = {
        .type = entry->type,
        .name = state_copy(entry->name),
        .why = state_copy(entry->why),
        .now = state_copy(entry->previous),
        .wanted = state_copy(entry->wanted),
    };
    int result = change_list(&change, error);
    if (result < 0 || !change.steps.count)
        change_free(&change);
    else
        work_append(work, &change);
    return result;
}

static int work_plan(struct work *work, struct setup_error *error)
{
    int result = 0;
    work->plan.looked_at = work->next.count;
    for (size_t i = 0; result == 0 && i < work->next.count; i++) {
        const struct journal_entry *entry = &work->next.entry[i];
        if (!persist_is_saved(entry, work->next.persist) &&
            !state_equal(entry->previous, entry->wanted))
            result = work_change(work, entry, error);
    }
    if (result == 0)
        persist_change(work);
    return result;
}

static int work_machine(struct work *work, struct setup_error *error)
{
    int result = journal_load(&work->old, error);
    work->has_old = result == 1;
    work->guessed = result < 0 && journal_hidden();
    if ((result < 0 && !work->guessed) || journal_owned(&work->old, work->next.owner, error) < 0 ||
        work_backend(work, error) < 0)
        return -1;
    const struct journal *old = work->has_old ? &work->old : NULL;
    work->next.persist = work->site.persist;
    if (roles_want(&work->site, work->next.roles, old, work->config, &work->resources, error) < 0 ||
        work_folders(work, error) < 0)
        return -1;
    for (size_t i = 0; i < work->resources.count; i++) {
        const struct resource *it = &work->resources.item[i];
        if (work_entry(work, it->type, it->name, it->wanted, it->why, error) < 0)
            return -1;
    }
    return persist_entries(work, error) < 0 ? -1 : work_dropped(work, error);
}

int work_begin(struct work *work, const struct setup_options *options)
{
    struct setup_error error = {.text = ""};
    memset(work, 0, sizeof(*work));
    if (work_config(work, options->config) || work_roles(work, options->roles))
        return SETUP_ERROR;
    say_clean(work->config, PATH_MAX, true, work->next.config, PATH_MAX); /* JSON is UTF-8 */
    snprintf(work->next.owner, sizeof(work->next.owner), "%s",
             options->owner ? options->owner : JOURNAL_HAND);
    if (work_machine(work, &error) < 0 || work_plan(work, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    if (journal_has_iptables(&work->next)) /* AUTO was decided by now */
        work->next.iptables = iptables_is_legacy() ? IPTABLES_LEGACY : IPTABLES_NFT;
    work->next.phase = JOURNAL_APPLIED;
    return 0;
}

void work_end(struct work *work)
{
    for (size_t i = 0; i < work->plan.count; i++)
        change_free(&work->plan.change[i]);
    free(work->plan.change);
    journal_free(&work->old);
    journal_free(&work->next);
    resources_free(&work->resources);
    site_free(&work->site);
    rehearsal_free(work->rehearsal);
    memset(work, 0, sizeof(*work));
}
