/* SPDX-License-Identifier: MIT */
/*
 * The pool as a resource. Its state is a configuration file that would make it, printed from the
 * policy in one form only, so that two pools with the same rules have the same text:
 *
 *     [pool]
 *     quarantine = 120000ms
 *     mode = 0666
 *     group = 0
 *     lanes = 64                     only if it is not what pool_create() takes by itself
 *     [rule default]
 *     to = any:443,!10.0.0.1         not there: everywhere but loopback
 *     ports = 60001-60999
 *     when-exhausted = fail
 *
 * Programs hold leases in the pool, so it is changed in place wherever that can be, by "reload": rules,
 * mode and group. Only other lanes, or more ports than it has room for, need a new one; "fixport-pool
 * remove" refuses that while the old one is in use. An undo takes the pool away in any case: whoever
 * has it mapped goes on with it.
 *
 * Pods can write to its shares, and some to its folder. So what is found there may be anything, and is a
 * state like another ("damaged: why"); and nothing is done there but by fixport-pool, which looks at
 * a descriptor before it changes what it is of.
 */
#include "state.h"

#include "../../../pool/layout_size.h"
#include "../../pool/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- to text ---- */

/* As many as create.c gives to a pool whose ports lie in so many pages. */
static uint32_t lanes_usual(uint32_t pages)
{
    uint32_t lanes = POOL_LANES_BUDGET / (pages * POOL_PAGE_BYTES);
    return lanes < 16 ? 16 : lanes > 256 ? 256 : lanes;
}

static void pages_mark(const struct portrange *range, void *arg)
{
    bool *page = arg;
    for (uint32_t i = range->lo / POOL_PAGE_PORTS; i <= range->hi / POOL_PAGE_PORTS; i++)
        page[i] = true;
}

static uint32_t pages_count(const bool page[POOL_PORT_PAGES])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < POOL_PORT_PAGES; i++)
        count += page[i];
    return count;
}

static uint32_t policy_pages(const struct policy *policy)
{
    bool page[POOL_PORT_PAGES] = {false};
    policy_each_range(policy, pages_mark, page);
    return pages_count(page);
}

static void print_rule(FILE *out, const struct policy *policy, const struct policy_rule *rule)
{
    char buf[PORTRANGE_MAX * 12 + 64];
    fprintf(out, "[rule %s]\n", rule->name);
    for (uint32_t i = 0; i < rule->dest_count; i++) {
        policy_dest_print(&policy->dest[rule->dest_first + i], buf, sizeof(buf));
        fprintf(out, "%s%s", i ? "," : "to = ", buf);
    }
    portset_print(&rule->ports, buf, sizeof(buf));
    fprintf(out, "%sports = %s\n", rule->dest_count ? "\n" : "", buf);
    if (rule->scope == POLICY_ADDRESS)
        fprintf(out, "scope = address\n");
    if (rule->exhausted == POLICY_WAIT)
        fprintf(out, "when-exhausted = wait %ums\n", rule->wait_ms);
    else
        fprintf(out, "when-exhausted = %s\n", rule->exhausted == POLICY_PASS ? "pass" : "fail");
}

static void print_aliases(FILE *out, const struct policy *policy)
{
    char from[96], to[96];
    for (uint32_t i = 0; i < policy->alias_count; i++) {
        const struct policy_alias *alias = &policy->alias[i];
        policy_alias_print(&alias->from, from, sizeof(from));
        policy_alias_print(&alias->to, to, sizeof(to));
        if (strcmp(from, to) != 0)
            fprintf(out, "[alias %u]\nserver = %s\naddresses = %s\n", i + 1, to, from);
    }
}

/* @lanes: 0: the usual number. */
static char *pool_print(const struct policy *policy, mode_t mode, gid_t group, uint32_t lanes)
{
    char *state;
    FILE *out = state_open(&state);
    fprintf(out, "[pool]\nquarantine = %ums\nmode = %04o\ngroup = %u\n", policy->quarantine_ms,
            (unsigned)mode, (unsigned)group);
    if (lanes)
        fprintf(out, "lanes = %u\n", lanes);
    for (uint32_t i = 0; i < policy->rule_count; i++)
        print_rule(out, policy, &policy->rule[i]);
    print_aliases(out, policy);
    state_close(out);
    return state;
}

char *pool_state_from_config(const struct config *config)
{
    uint32_t lanes = config->options.lanes;
    gid_t group = config->options.group == (gid_t)-1 ? 0 : config->options.group;
    if (lanes == lanes_usual(policy_pages(&config->policy)))
        lanes = 0;
    return pool_print(&config->policy, config->options.mode, group, lanes);
}

/* ---- reading ---- */

/* The number of pages that it was made for tells what was usual for it then. */
static uint32_t pool_lanes(const struct pool *pool)
{
    uint32_t pages = pool->places > POOL_SPARE_PLACES ? pool->places - POOL_SPARE_PLACES : 1;
    return pool->lanes == lanes_usual(pages) ? 0 : pool->lanes;
}

static const char *pool_words(int error)
{
    const char *words = pool_strerror(error);
    return strcmp(words, pool_strerror(0)) == 0 ? strerror(-error) : words;
}

/* In our own folder whatever has a pool's name is one, or was. */
static char *pool_lost_print(const char *name, int error)
{
    char *state;
    FILE *out = state_open(&state);
    bool ours = error == -EBADMSG || error == -EPROTO || error == -ESTALE ||
                error == -ENOLINK ||
                strncmp(name, "/run/fixport/", strlen("/run/fixport/")) == 0;
    fprintf(out, "%s: %s\n", ours ? "damaged" : "foreign", pool_words(error));
    state_close(out);
    return state;
}

static enum lost pool_lost(const char *state)
{
    return strncmp(state, "damaged:", 8) == 0   ? LOST_DAMAGED
           : strncmp(state, "foreign:", 8) == 0 ? LOST_FOREIGN
                                                : LOST_NOT;
}

/* The errors of pool_open() that are about the file; others are about us. */
static bool pool_error_is_lost(int error)
{
    static const int lost[] = {EMEDIUMTYPE, EPROTO, EBADMSG, ESTALE, ELOOP, ENOLINK,
                               EISDIR,      EINVAL, ENXIO,   EPERM,  EAGAIN};
    for (size_t i = 0; i < sizeof(lost) / sizeof(lost[0]); i++)
        if (error == -lost[i])
            return true;
    return false;
}

static int pool_read(const char *name, char **state, struct setup_error *error)
{
    struct snapshot snapshot;
    const char *path = setup_path(name);
    int result = snapshot_take(path, &snapshot);
    *state = NULL;
    if (result == -ENOENT || result == -ENOTDIR)
        return 0;
    if (!result && atomic_load(&snapshot.pool.header->state) != POOL_LIVE)
        result = -ESTALE;
    if (!result)
        *state = pool_print(&snapshot.policy, snapshot.mode, snapshot.group, pool_lanes(&snapshot.pool));
    else if (pool_error_is_lost(result))
        *state = pool_lost_print(name, result);
    if (snapshot.memory)
        snapshot_free(&snapshot);
    return *state ? 0 : setup_fail(error, "%s: %s", path, pool_words(result));
}

/* ---- steps ---- */

/* The fixport-pool that was built and installed with us. */
static const char *pool_tool(void)
{
    static char path[PATH_MAX + 32];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return "fixport-pool";
    strcpy(slash + 1, "fixport-pool");
    return access(path, X_OK) == 0 ? path : "fixport-pool";
}

/* The line of a state that begins with @key. Return: its length. */
static size_t pool_line(const char *state, const char *key, const char **value)
{
    size_t length;
    const char *line;
    while ((line = state_line(&state, &length)) && strncmp(line, "[rule", 5) != 0)
        if (strncmp(line, key, strlen(key)) == 0) {
            *value = line + strlen(key);
            return length - strlen(key);
        }
    *value = "";
    return 0;
}

static bool pool_line_equal(const char *a, const char *b, const char *key)
{
    const char *value_a, *value_b;
    size_t length_a = pool_line(a, key, &value_a), length_b = pool_line(b, key, &value_b);
    return length_a == length_b && memcmp(value_a, value_b, length_a) == 0;
}

/* The configuration that a state is. */
static int pool_config(const char *state, struct config *config, struct setup_error *error)
{
    char path[32];
    struct config_error why = {.text = ""};
    int fd = run_input(state);
    if (fd < 0)
        return setup_fail(error, "pool: %s", strerror(errno));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int result = config_load(path, config, &why);
    close(fd);
    return result ? setup_fail(error, "pool: these rules cannot be made again: %s", why.text) : 0;
}

/* Whether the pool that is there has room for the ports of @policy. */
static bool pool_has_room(const char *path, const struct policy *policy)
{
    struct snapshot snapshot;
    bool page[POOL_PORT_PAGES] = {false};
    if (snapshot_take(path, &snapshot) < 0)
        return false;
    for (uint32_t i = 0; i < POOL_PORT_PAGES; i++)
        page[i] = snapshot.pool.header->pagemap[i] != POOL_NO_PLACE;
    policy_each_range(policy, pages_mark, page);
    bool room = pages_count(page) <= snapshot.pool.places;
    snapshot_free(&snapshot);
    return room;
}

static int pool_steps(const char *name, const char *from, const char *to, struct steps *steps,
                      struct setup_error *error)
{
    static struct config config;
    const char *path = setup_path(name), *tool = pool_tool();
    bool lost = state_lost(&resource_pool, from);
    if (to && pool_config(to, &config, error) < 0)
        return -1;
    if (!to) {
        steps_command(steps, NULL, tool, "remove", "--force", "--any", "--pool", path, NULL);
    } else if (lost || (from && pool_line_equal(from, to, "lanes = ") &&
                        pool_has_room(path, &config.policy))) {
        steps_command(steps, to, tool, "reload", "--any", "--pool", path, "-c", "/dev/stdin", NULL);
    } else {
        if (from)
            steps_command(steps, NULL, tool, "remove", "--pool", path, NULL);
        steps_command(steps, to, tool, "create", "--pool", path, "-c", "/dev/stdin", NULL);
    }
    return 0;
}

const struct resource_type resource_pool = {
    .name = "pool",
    .lasting = false,
    .read = pool_read,
    .steps = pool_steps,
    .lost = pool_lost,
};
