/* SPDX-License-Identifier: MIT */
/*
 * Which pool is meant, and what it shall be: options, environment, configuration and defaults
 * brought together, for fixport-pool and fixport-run alike. Everything is checked before anything
 * is touched.
 */
#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef FIXPORT_SYSCONFDIR
#define FIXPORT_SYSCONFDIR "/etc"
#endif

#define CONFIG_DEFAULT_PATH FIXPORT_SYSCONFDIR "/fixport.conf"

bool target_has_config(void)
{
    return access(CONFIG_DEFAULT_PATH, F_OK) == 0;
}

void target_default(char path[PATH_MAX])
{
    if (geteuid() == 0 || access(POOL_DEFAULT_PATH, R_OK) == 0)
        snprintf(path, PATH_MAX, "%s", POOL_DEFAULT_PATH);
    else
        snprintf(path, PATH_MAX, "/dev/shm/fixport-%u", (unsigned)geteuid());
}

static int target_config(const char *path, struct config *config)
{
    struct config_error error;
    return config_load(path, config, &error) ? say_error(EXIT_BAD_INPUT, "%s", error.text) : 0;
}

int target_rules(const char *where, const char *ports, const char *to, struct config *config)
{
    struct config_error error;
    if (config_from_text(ports, to, config, &error) == 0)
        return 0;
    return say_error(EXIT_BAD_INPUT, "%s%s", where, error.text);
}

/* --pool, $FIXPORT_POOL, @configured, the default. */
static int target_choose(const struct pool_request *request, const char *configured,
                         char path[PATH_MAX])
{
    const char *named = request->pool ? request->pool : getenv("FIXPORT_POOL");
    if (!named || !*named)
        named = configured;
    if (!*named)
        target_default(path);
    else if (snprintf(path, PATH_MAX, "%s", named) >= PATH_MAX)
        return say_error(EXIT_BAD_INPUT, "%.60s...: the pool's path is too long", named);
    return 0;
}

int target_path(const struct pool_request *request, char path[PATH_MAX])
{
    static struct config config;
    const char *environment = getenv("FIXPORT_POOL");
    const char *file = request->config;
    bool named = request->pool || (environment && *environment);
    if (!file && !named && target_has_config())
        file = CONFIG_DEFAULT_PATH;
    int status = file ? target_config(file, &config) : 0;
    return status ? status : target_choose(request, config.pool_path, path);
}

int target_plan(const struct pool_request *request, struct pool_plan *plan)
{
    const char *file = request->config ? request->config : CONFIG_DEFAULT_PATH;
    int status;
    if (request->ports)
        status = target_rules("", request->ports, request->to, &plan->config);
    else if (!request->config && !target_has_config())
        return say_error(EXIT_BAD_INPUT, "which ports? Give -p PORTS or -c CONFIG; there is no %s",
                         CONFIG_DEFAULT_PATH);
    else
        status = target_config(file, &plan->config);
    return status ? status : target_choose(request, plan->config.pool_path, plan->path);
}

int target_snapshot(const struct pool_request *request, char path[PATH_MAX],
                    struct snapshot *snapshot)
{
    int status = target_path(request, path);
    int error = status ? 0 : snapshot_take(path, snapshot);
    return error ? say_pool_error(path, error) : status;
}

/* Only the default folder is made, and one in it for the shares: it lies on a tmpfs that every boot empties. */
static int target_place(const char *path, struct place *place)
{
    static const char folder[] = "/run/fixport/";
    int error = place_open(path, place);
    bool ours = strncmp(path, folder, strlen(folder)) == 0 && !strchr(path + strlen(folder), '/');
    if (error == -ENOENT && ours && mkdir(folder, 0755) == 0)
        error = place_open(path, place);
    if (!error && ours) /* so that pods can have the one read-only, and the other not */
        mkdirat(place->folder, POOL_SHARED_FOLDER, 0755);
    return error;
}

/* Says why a pool could not be made. Return: EXIT_FAILED, or 0 if there is no @error. */
static int target_made(const struct pool_plan *plan, int error)
{
    if (!error)
        return 0;
    if (error == -EEXIST)
        return say_error(EXIT_FAILED,
                         "%s: it exists already: 'reload' gives it other rules, 'remove' takes it "
                         "away",
                         plan->path);
    if (error == -ENOENT)
        return say_error(EXIT_FAILED, "%s: the folder for it does not exist", plan->path);
    if (error == -ELOOP)
        return say_error(EXIT_FAILED, "%s: a symbolic link on the way is not root's or yours: it "
                                      "is not followed", plan->path);
    if (error == -E2BIG)
        return say_error(EXIT_FAILED, "%s: %s", plan->path, pool_strerror(error));
    if (error == -EPERM && plan->config.options.group != (gid_t)-1)
        return say_error(EXIT_FAILED,
                         "%s: the pool cannot be made for group %u: that needs a member of it, or "
                         "CAP_CHOWN",
                         plan->path, plan->config.options.group);
    return say_error(EXIT_FAILED, "%s: the pool cannot be made: %s", plan->path, strerror(-error));
}

int target_create(const struct pool_plan *plan, bool *exists)
{
    struct place place;
    int error = target_place(plan->path, &place);
    if (!error) {
        error = pool_create(place.path, &plan->config.policy, &plan->config.options);
        place_close(&place);
    }
    if (exists)
        *exists = error == -EEXIST;
    return exists && *exists ? 0 : target_made(plan, error);
}

/* Return: 0 or errno; @changed: something was another. */
static int target_permit_file(int fd, gid_t group, mode_t mode, bool *changed)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return errno;
    group = group == (gid_t)-1 ? st.st_gid : group;
    if (group == st.st_gid && mode == (st.st_mode & 07777))
        return 0;
    if (st.st_nlink != 1) /* another name may be in a folder that it was not made for */
        return EMLINK;
    *changed = true;
    return (group != st.st_gid && fchown(fd, (uid_t)-1, group) < 0) || fchmod(fd, mode) < 0 ? errno : 0;
}

/*
 * Mode and group, as far as the configuration says them; what only a new pool can have is said.
 * Whoever has it open keeps it: this is for those who come.
 */
static int target_permit(const struct pool_plan *plan, const char *path, bool any, bool *same)
{
    const struct pool_options *options = &plan->config.options;
    struct pool pool;
    struct stat st;
    bool changed = false;
    int own;
    int error = pool_open(path, &pool, &own);
    if (error)
        return error;
    int shares = pool_shares_open(path, &pool, O_RDWR);
    mode_t mode = plan->config.mode_said   ? options->mode
                  : fstat(shares, &st) < 0 ? 0600
                                           : st.st_mode & 07777;
    error = shares < 0 ? -shares : target_permit_file(own, options->group, mode & ~022u, &changed);
    if (!error)
        error = target_permit_file(shares, options->group, mode, &changed);
    if (!error && options->lanes && options->lanes != pool.lanes)
        say_error(0, "warning: the pool has %u lanes, and gets %u only when it is made anew",
                  pool.lanes, options->lanes);
    *same &= !changed;
    pool_close(&pool);
    close(own);
    if (shares >= 0)
        close(shares);
    if (error == EMLINK && any)
        return -EMLINK;
    if (error)
        say_error(0, "%s: it has these rules, but its mode or group cannot be set: %s", plan->path,
                  strerror(error));
    return error ? -ECANCELED : 0;
}

/* Who may write a pool could give it other rules; that is for its owner, as for other files. */
static bool target_is_mine(const struct place *place)
{
    struct stat st;
    return geteuid() == 0 || fstatat(place->folder, place->name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
           st.st_uid == geteuid();
}

/* What pool_open() says of a file that is there and can never be used. */
static bool target_is_lost(int error)
{
    static const int lost[] = {ENOENT, EMEDIUMTYPE, EPROTO, EBADMSG, ESTALE, ELOOP, ENOLINK,
                               EISDIR, EINVAL,      ENXIO,  EPERM,   EMLINK, EAGAIN};
    for (size_t i = 0; i < sizeof(lost) / sizeof(lost[0]); i++)
        if (error == -lost[i])
            return true;
    return false;
}

static int target_change(const struct pool_plan *plan, const struct place *place, bool any, bool *same)
{
    int result = pool_reload(place->path, &plan->config.policy);
    *same = result == 1;
    return result < 0 ? result : target_permit(plan, place->path, any, same);
}

int target_reload(const struct pool_plan *plan, bool any, bool *same)
{
    struct place place;
    int error = target_place(plan->path, &place), made = 0;
    if (error)
        return say_pool_error(plan->path, error);
    if (!target_is_mine(&place))
        error = say_error(EXIT_FAILED, "%s: other rules are for its owner or root to give",
                          plan->path);
    else
        error = target_change(plan, &place, any, same);
    if (any && target_is_lost(error)) {
        error = place_clear(&place);
        if (!error)
            made = pool_create(place.path, &plan->config.policy, &plan->config.options);
    }
    place_close(&place);
    if (made)
        return target_made(plan, made);
    if (error == -ENOSPC)
        return say_error(EXIT_FAILED,
                         "%s: there is no room for so many more ports: remove it and create it "
                         "again",
                         plan->path);
    if (error == -EBUSY)
        return say_error(EXIT_FAILED, "%s: another change of it has not come to its end for %d s",
                         plan->path, POOL_LOCK_MS / 1000);
    if (error == -ECANCELED)
        return EXIT_FAILED;
    return error < 0 ? say_pool_error(plan->path, error) : error;
}

static void target_warning(const char *sentence, void *arg)
{
    (void)arg;
    say_error(0, "warning: %s", sentence);
}

void target_warn(const struct pool_plan *plan)
{
    config_warnings(&plan->config, target_warning, NULL);
}
