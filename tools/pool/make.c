/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool create, reload, remove: the subcommands that change what a pool is. Everything is
 * parsed and checked before anything is touched (target.c).
 */
#include "cmd.h"

#include "../../pool/sys.h"

#include <string.h>

/* "60001-60999, quarantine 120 s", "3 rules, ...": for the one line that says what was done. */
static const char *make_describe(const struct policy *policy, char *buf, size_t size)
{
    size_t at;
    if (policy->rule_count == 1)
        at = portset_print(&policy->rule[0].ports, buf, size);
    else
        at = (size_t)snprintf(buf, size, "%u rules", policy->rule_count);
    if (at < size)
        snprintf(buf + at, size - at, ", quarantine %g s", policy->quarantine_ms / 1000.0);
    return buf;
}

int command_create(const struct pool_request *request)
{
    static struct pool_plan plan;
    char what[640];
    int status = target_plan(request, &plan);
    if (!status)
        status = target_create(&plan, NULL);
    if (status)
        return status;
    target_warn(&plan);
    printf("%s: made, %s, mode %04o\n", plan.path,
           make_describe(&plan.config.policy, what, sizeof(what)),
           (unsigned)plan.config.options.mode);
    return EXIT_OK;
}

int command_reload(const struct pool_request *request)
{
    static struct pool_plan plan;
    char what[640];
    bool same = false;
    int status = target_plan(request, &plan);
    if (!status)
        status = target_reload(&plan, request->any, &same);
    if (status)
        return status;
    target_warn(&plan);
    printf("%s: %s, %s\n", plan.path, same ? "has these rules already" : "reloaded",
           make_describe(&plan.config.policy, what, sizeof(what)));
    return EXIT_OK;
}

/* "web-1 (nginx), db (psql)" of the living holders, as far as there is room. */
static void remove_users(const struct snapshot *snapshot, const struct tally *tally, char *buf,
                         size_t size)
{
    char host[256], command[64];
    size_t at = 0;
    buf[0] = '\0';
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        const char *name = snapshot->pool.holder[slot].command;
        size_t most = sizeof(snapshot->pool.holder[slot].command);
        if (!tally->holder[slot].alive || at + 400 > size)
            continue;
        show_holder(snapshot, (int)slot, say_utf8(), host, sizeof(host));
        say_clean(name, most, say_utf8(), command, sizeof(command));
        at += (size_t)snprintf(buf + at, size - at, "%s%s (%s)", at ? ", " : "", host, command);
    }
}

/* In use by whom? Return: 0 if by nobody. */
static int remove_allowed(const char *path, const struct snapshot *snapshot)
{
    char users[2048];
    struct tally *tally = tally_take(snapshot);
    if (!tally)
        return EXIT_FAILED;
    unsigned count = tally->holders_alive;
    remove_users(snapshot, tally, users, sizeof(users));
    tally_free(tally);
    if (!count)
        return 0;
    return say_error(EXIT_FAILED, "%s: in use by %u holder%s: %s; --force removes it all the same",
                     path, count, count == 1 ? "" : "s", users);
}

/* Damaged or of another version: nobody can use it any more, but it is a pool, so it may go. */
static bool remove_is_damaged(const struct pool_request *request, int error)
{
    return request->any || (request->force && (error == -EBADMSG || error == -EPROTO || error == -ENOLINK));
}

int command_remove(const struct pool_request *request)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    struct place place;
    int status = target_path(request, path);
    if (status)
        return status;
    int error = place_open(path, &place);
    if (error)
        return say_pool_error(path, error);
    int damage = snapshot_take(place.path, &snapshot);
    if (!damage && !request->force)
        status = remove_allowed(path, &snapshot);
    if (!damage)
        snapshot_free(&snapshot);
    if (damage && damage != -ENOENT && remove_is_damaged(request, damage))
        error = place_clear(&place);
    else if (!status)
        error = damage ? damage : pool_retire(place.path);
    if (!status && (!error || (error == -ENOENT && request->any)))
        place_sweep(&place);
    if (!status && !error)
        place_leave(&place, path);
    place_close(&place);
    if (error)
        return say_pool_error(path, error);
    if (!status)
        printf("%s: removed%s%s\n", path, damage ? ", although " : "",
               damage ? pool_strerror(damage) : "");
    return status;
}
