/* SPDX-License-Identifier: MIT */
/*
 * What the configuration's [pool] and [rule] sections say. How the file is read: file.c.
 */
#include "site-parts.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- single values; each gives a value, or a reason that goes behind it ---- */

/* Decimal digits only. Return: how many; @number is cut at UINT32_MAX. */
static size_t number_read(const char *text, uint32_t *number)
{
    uint64_t sum = 0;
    size_t n = 0;
    for (; text[n] >= '0' && text[n] <= '9'; n++) {
        sum = sum * 10 + (uint64_t)(text[n] - '0');
        sum = sum > UINT32_MAX ? UINT32_MAX : sum;
    }
    *number = (uint32_t)sum;
    return n;
}

/* "120", "120s", "2m", "500ms", "1h" in ms, cut at UINT32_MAX. Return: whether it is one. */
static bool duration_read(const char *text, uint32_t *ms)
{
    static const struct {
        const char *unit;
        uint32_t ms;
    } units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    uint32_t number;
    size_t digits = number_read(text, &number);
    const char *unit = text + digits + strspn(text + digits, " \t");
    for (size_t i = 0; digits && i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].unit) == 0) {
            uint64_t whole = (uint64_t)number * units[i].ms;
            *ms = whole > UINT32_MAX ? UINT32_MAX : (uint32_t)whole;
            return true;
        }
    }
    return false;
}

static const char *quarantine_read(const char *text, struct config *config)
{
    if (!duration_read(text, &config->policy.quarantine_ms))
        return "allowed are 0 to 24h, such as 120, 120s, 2m or 500ms";
    return config->policy.quarantine_ms <= POLICY_QUARANTINE_MAX_MS
               ? NULL
               : "too long: allowed are 0 to 24h";
}

/* What happens when no port is left. */
struct exhausted {
    uint8_t action; /* enum policy_exhausted */
    uint32_t wait_ms;
};

static const char *exhausted_read(const char *text, struct exhausted *exhausted)
{
    const size_t word = strlen("wait");
    *exhausted = (struct exhausted){.action = POLICY_FAIL};
    if (strcmp(text, "fail") == 0)
        return NULL;
    exhausted->action = POLICY_PASS;
    if (strcmp(text, "pass") == 0)
        return NULL;
    exhausted->action = POLICY_WAIT;
    if (strncmp(text, "wait", word) != 0 || !config_is_space(text[word]) ||
        !duration_read(text + word + strspn(text + word, " \t"), &exhausted->wait_ms))
        return "allowed are fail, pass, and wait with a duration such as wait 500ms";
    if (exhausted->wait_ms < 1 || exhausted->wait_ms > POLICY_WAIT_MAX_MS)
        return "allowed are waits from 1ms to 10m";
    return NULL;
}

static const char *scope_read(const char *text, enum policy_scope *scope)
{
    *scope = strcmp(text, "address") == 0 ? POLICY_ADDRESS : POLICY_NODE;
    return *scope == POLICY_NODE && strcmp(text, "node") != 0 ? "allowed are node and address"
                                                              : NULL;
}

/* One file has one spelling, whoever compares: without "//" and "/./". */
static void path_tidy(const char *text, char *buf)
{
    for (const char *at = text; *at; at++) {
        while (at[0] == '/' && (at[1] == '/' || (at[1] == '.' && at[2] == '/')))
            at += at[1] == '/' ? 1 : 2;
        *buf++ = *at;
    }
    *buf = '\0';
}

const char *config_path_read(const char *text, const char *example, char *buf, size_t size)
{
    static char why[160];
    size_t length = strlen(text);
    if (*text != '/' || text[length - 1] == '/') {
        snprintf(why, sizeof(why), "a file's absolute path is needed, such as %s", example);
        return why;
    }
    if (length >= size) {
        snprintf(why, sizeof(why), "too long: at most %zu bytes are allowed", size - 1);
        return why;
    }
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            return "control characters are not allowed";
    if (strstr(text, "/../") || (length >= 3 && strcmp(text + length - 3, "/..") == 0))
        return "\"..\" is not allowed in a path";
    if (strcmp(text + length - 2, "/.") == 0)
        return "it names a folder, and a file is needed";
    path_tidy(text, buf);
    return NULL;
}

static const char *path_read(const char *text, struct config *config)
{
    return config_path_read(text, POOL_DEFAULT_PATH, config->pool_path, sizeof(config->pool_path));
}

static const char *mode_read(const char *text, struct config *config)
{
    unsigned mode = 0;
    size_t digits = strspn(text, "01234567");
    for (size_t i = 0; i < digits && i < 4; i++)
        mode = mode << 3 | (unsigned)(text[i] - '0');
    if (digits < 3 || digits > 4 || text[digits] || (mode & ~0666u) || (mode & 0600) != 0600)
        return "allowed are 0600 to 0666, octal, of digits 0, 2, 4 and 6: a pool is read and "
               "written";
    config->options.mode = (mode_t)mode;
    config->mode_said = true;
    return NULL;
}

static const char *group_read(const char *text, struct config *config)
{
    uint32_t number;
    size_t digits = number_read(text, &number);
    const struct group *group = NULL;
    if (digits && !text[digits]) {
        if (number == UINT32_MAX)
            return "no group has this number";
        config->options.group = (gid_t)number;
        return NULL;
    }
    if (*text)
        group = getgrnam(text);
    if (!group)
        return "there is no such group: allowed are a group's name or number";
    config->options.group = group->gr_gid;
    return NULL;
}

_Static_assert(POOL_LANES_MIN == 2 && POOL_LANES_MAX == 4096, "a message says so");

static const char *lanes_read(const char *text, struct config *config)
{
    uint32_t number;
    size_t digits = number_read(text, &number);
    if (!digits || text[digits] || number < POOL_LANES_MIN || number > POOL_LANES_MAX)
        return "allowed are 2 to 4096";
    config->options.lanes = number;
    return NULL;
}

static const char *slices_read(const char *text, struct config *config)
{
    static struct parse_reason why;
    return portset_parse(text, &config->slices, &why) ? why.text : NULL;
}

/* ---- putting it together ---- */

static void config_begin(struct config *config)
{
    memset(config, 0, sizeof(*config));
    policy_init(&config->policy);
    config->options.mode = geteuid() == 0 ? 0666 : 0600;
    config->options.group = (gid_t)-1;
}

/* The values of [pool] that are one number or name each. */
static int pool_values(const struct config_file *file, const struct config_section *section,
                       struct config *config)
{
    static const struct {
        enum config_key key;
        const char *(*read)(const char *text, struct config *config);
    } readers[] = {
        {KEY_PATH, path_read},   {KEY_QUARANTINE, quarantine_read}, {KEY_MODE, mode_read},
        {KEY_GROUP, group_read}, {KEY_LANES, lanes_read},           {KEY_SLICES, slices_read},
    };
    for (size_t i = 0; i < sizeof(readers) / sizeof(readers[0]); i++) {
        const struct config_value *value = config_section_value(section, readers[i].key);
        const char *why = value ? readers[i].read(value->text, config) : NULL;
        if (why)
            return config_file_refuse_value(file, section, value, why);
    }
    return 0;
}

/* What rules take from [pool] unless they say it themselves. */
struct defaults {
    const char *ports; /* NULL: none */
    struct exhausted exhausted;
    const struct config_section *scoped; /* where it says a scope; NULL: nowhere */
    enum policy_scope scope;
};

/* @defaults is changed if the section has such keys. */
static int section_defaults(const struct config_file *file, const struct config_section *section,
                            struct defaults *defaults)
{
    const struct config_value *ports = config_section_value(section, KEY_PORTS);
    const struct config_value *exhausted = config_section_value(section, KEY_EXHAUSTED);
    const struct config_value *scope = config_section_value(section, KEY_SCOPE);
    struct portset set;
    struct parse_reason reason;
    const char *why = exhausted ? exhausted_read(exhausted->text, &defaults->exhausted) : NULL;
    if (why)
        return config_file_refuse_value(file, section, exhausted, why);
    if (scope) {
        defaults->scoped = section;
        why = scope_read(scope->text, &defaults->scope);
    }
    if (why)
        return config_file_refuse_value(file, section, scope, why);
    if (!ports)
        return 0;
    defaults->ports = ports->text;
    return portset_parse(ports->text, &set, &reason)
               ? config_file_refuse_value(file, section, ports, reason.text)
               : 0;
}

/* Whether a list that is there holds nothing: then it was forgotten, not meant. */
static bool is_blank(const char *text)
{
    return text && !text[strspn(text, " \t\r\n\v\f")];
}

static int hosts_read(const struct config_file *file, const struct config_section *section,
                      struct placed_list *list, struct portset *services)
{
    const struct config_value *value = config_section_value(section, KEY_SERVICES);
    struct parse_reason why;
    int error = 0;
    services->count = 0;
    if (value && portset_parse(value->text, services, &why))
        return config_file_refuse_value(file, section, value, why.text);
    for (size_t i = 0; !error && section && i < section->values; i++)
        if (section->value[i].key == KEY_ADDRESSES)
            error = placed_read(file, section, &section->value[i], false, list);
    return error;
}

/* ---- whose the ports are ---- */

/* Whether a rule's destinations are @all in [hosts], or @some. */
static void rule_in_hosts(const struct policy *policy, const struct policy_rule *rule,
                          const struct placed_list *hosts, bool *all, bool *some)
{
    bool everywhere = true;
    *all = true;
    *some = false;
    for (uint32_t i = 0; i < rule->dest_count; i++) {
        const struct dest_match *dest = &policy->dest[rule->dest_first + i];
        struct block block = {.prefix = dest->prefix};
        bool inside = false;
        if (dest->exclude)
            continue;
        memcpy(block.addr, dest->addr, sizeof(block.addr));
        for (size_t k = 0; k < hosts->count; k++) {
            const struct block *host = &hosts->item[k].block;
            inside |= host->prefix <= block.prefix && block_has(host, block.addr);
            *some |= blocks_overlap(&block, host);
        }
        *all &= inside;
        everywhere = false;
    }
    *all &= !everywhere;
    *some |= everywhere && hosts->count;
}

/*
 * What the rule or [pool] says; without a word, each address has the ports where nodes leave pods
 * theirs, which they do towards [hosts] alone: other destinations see the node, as the CNI has it.
 */
static int rule_scope(const struct config_file *file, const struct defaults *defaults,
                      const struct policy *policy, struct policy_rule *rule)
{
    const struct config_value *mode =
        config_section_value(config_file_section(file, SECTION_SNAT), KEY_MODE);
    struct placed_list hosts = {.count = 0};
    struct portset services;
    bool all, some;
    rule->scope = defaults->scope;
    if (!mode)
        return 0;
    int error = hosts_read(file, config_file_section(file, SECTION_HOSTS), &hosts, &services);
    bool none = strcmp(mode->text, "none") == 0;
    rule_in_hosts(policy, rule, &hosts, &all, &some);
    if (!error && !defaults->scoped && none && all)
        rule->scope = POLICY_ADDRESS;
    else if (!error && !none && some && rule->scope == POLICY_ADDRESS)
        error = config_file_refuse_value(
            file, defaults->scoped, config_section_value(defaults->scoped, KEY_SCOPE),
            "pods have the node's address towards [hosts], as [snat] mode "
            "says: allowed there is node, or [snat] mode = none");
    free(hosts.item);
    return error;
}

/* @otherwise: the destinations if the section names none; NULL: everywhere but loopback. */
static int rule_add(const struct config_file *file, const struct config_section *section,
                    const struct defaults *defaults, const char *otherwise, struct policy *policy)
{
    static const struct config_value none = {.key = KEY_TO, .number = 1, .text = ""};
    const struct config_value *to = config_section_value(section, KEY_TO);
    struct parse_reason why;
    if (!defaults->ports)
        return config_file_refuse_lack(
            file, section,
            section->own ? "no ports are given, here or in [pool]: ports = LO-HI is needed"
                         : "no ports are given: ports = LO-HI is needed");
    if (to && is_blank(to->text))
        return config_file_refuse_value(
            file, section, to,
            "no destination given: without this key it is everywhere but loopback");
    if (policy_add_rule(policy, section->own ? section->own : "default", defaults->ports,
                        to ? to->text : otherwise, &why))
        return config_file_refuse_value(file, section, to ? to : &none, why.text);
    struct policy_rule *rule = &policy->rule[policy->rule_count - 1];
    rule->exhausted = defaults->exhausted.action;
    rule->wait_ms = defaults->exhausted.wait_ms;
    return rule_scope(file, defaults, policy, rule);
}

/* ---- without a rule: where to? ---- */

static void hosts_print(const struct placed_list *list, const struct portset *services, FILE *out)
{
    for (size_t i = 0; i < list->count; i++) {
        bool v4 = block_is_v4(&list->item[i].block);
        char text[BLOCK_TEXT];
        block_name(&list->item[i].block, text, sizeof(text));
        if (!services->count)
            fprintf(out, "%s,", text);
        for (uint32_t k = 0; k < services->count; k++)
            fprintf(out, "%s%s%s:%u-%u,", v4 ? "" : "[", text, v4 ? "" : "]", services->range[k].lo,
                    services->range[k].hi);
    }
}

/*
 * The services of [hosts], for whom a site's pool is; their addresses alone if these are more than
 * a policy holds, and if there are no hosts, or too many of them, NULL: everywhere but loopback.
 */
static int hosts_text(const struct config_file *file, char **text)
{
    struct placed_list list = {.count = 0};
    struct portset services;
    size_t length;
    int error = hosts_read(file, config_file_section(file, SECTION_HOSTS), &list, &services);
    if (list.count * services.count > POLICY_DESTS)
        services.count = 0;
    FILE *out =
        !error && list.count && list.count <= POLICY_DESTS ? open_memstream(text, &length) : NULL;
    if (out) {
        hosts_print(&list, &services, out);
        if (fclose(out) != 0)
            error = config_file_refuse_memory(file);
        else
            (*text)[length - 1] = '\0'; /* the last comma */
    }
    free(list.item);
    return error;
}

static int default_add(const struct config_file *file, const struct config_section *pool,
                       const struct defaults *defaults, struct policy *policy)
{
    char *to = NULL;
    int error = hosts_text(file, &to);
    if (!error)
        error = rule_add(file, pool, defaults, to, policy);
    free(to);
    return error;
}

static int rules_add(const struct config_file *file, const struct defaults *defaults,
                     struct policy *policy)
{
    for (size_t i = 0; i < file->sections; i++) {
        const struct config_section *section = file->section[i];
        struct defaults own = *defaults;
        if (section->type != &section_types[SECTION_RULE])
            continue;
        int error = section_defaults(file, section, &own);
        if (!error)
            error = rule_add(file, section, &own, NULL, policy);
        if (error)
            return error;
    }
    return 0;
}

/* ---- servers with several addresses ---- */

/* @whole: of the sections those without ports, else those with. */
static int alias_add(const struct config_file *file, const struct config_section *section,
                     bool whole, struct policy *policy)
{
    const struct config_value *server = config_section_value(section, KEY_SERVER);
    const struct config_value *blame = server;
    struct policy check;
    struct parse_reason why;
    int error = 0;
    bool any = false;
    if (!server)
        return config_file_refuse_lack(file, section,
                                       "no server is given: server = ADDRESS:PORT is needed");
    policy_init(&check);
    if (policy_add_alias(&check, server->text, server->text, &why))
        return config_file_refuse_value(file, section, server, why.text);
    for (size_t i = 0; !error && i < section->values; i++) {
        const struct config_value *value = &section->value[i];
        if (value->key != KEY_ADDRESSES)
            continue;
        any = true;
        blame = value;
        if (whole == !check.alias[0].from.port)
            error = policy_add_alias(policy, value->text, server->text, &why);
    }
    if (!any)
        return config_file_refuse_lack(file, section,
                                       "no other address of the server is given: addresses = "
                                       "ADDRESS:PORT is needed");
    return error ? config_file_refuse_value(file, section, blame, why.text) : 0;
}

static int aliases_add(const struct config_file *file, struct policy *policy)
{
    int error = 0;
    for (int whole = 1; whole >= 0; whole--)
        for (size_t i = 0; !error && i < file->sections; i++)
            if (file->section[i]->type == &section_types[SECTION_ALIAS])
                error = alias_add(file, file->section[i], whole, policy);
    return error;
}

/* Two pools that give out one port is what slices are there to prevent. */
static int slices_check(const struct config_file *file, const struct config_section *pool,
                        const struct config *config)
{
    const struct config_value *value = config_section_value(pool, KEY_SLICES);
    for (uint32_t i = 0; i < config->policy.rule_count; i++)
        for (uint32_t k = 0; k < config->slices.count; k++)
            if (portset_overlaps(&config->policy.rule[i].ports, config->slices.range[k].lo,
                                 config->slices.range[k].hi))
                return config_file_refuse_value(
                    file, pool, value,
                    "overlaps with the ports of [pool] or a [rule NAME]: a slice's ports are for "
                    "pools of pods' own alone");
    return 0;
}

int config_build(const struct config_file *file, struct config *config)
{
    const struct config_section *pool = config_file_section(file, SECTION_POOL);
    struct defaults defaults = {.ports = NULL};
    struct config made;
    config_begin(&made);
    int error = pool_values(file, pool, &made);
    if (!error)
        error = section_defaults(file, pool, &defaults);
    if (!error && file->count[SECTION_RULE])
        error = rules_add(file, &defaults, &made.policy);
    else if (!error && pool)
        error = default_add(file, pool, &defaults, &made.policy);
    else if (!error)
        error = config_file_refuse(file, -EINVAL,
                                   "it has no [pool]: [pool] and ports = LO-HI are needed");
    if (!error)
        error = aliases_add(file, &made.policy);
    if (!error)
        error = slices_check(file, pool, &made);
    if (error)
        return error;
    snprintf(made.path, sizeof(made.path), "%s", file->path);
    *config = made;
    return 0;
}

int config_load(const char *path, struct config *config, struct config_error *error)
{
    struct config_file file;
    int result = config_file_read(&file, path, NULL, error);
    if (!result)
        result = config_build(&file, config);
    config_file_free(&file);
    return result;
}

static int refuse_text(struct config_error *error, const char *what, const char *value,
                       const char *why)
{
    char text[CONFIG_SHOWN_VALUE + 4];
    snprintf(error->text, sizeof(error->text), "%s \"%s\": %s", what,
             config_shown(value, CONFIG_SHOWN_VALUE, text), why);
    return -EINVAL;
}

int config_from_text(const char *ports, const char *to, struct config *config,
                     struct config_error *error)
{
    struct config made;
    struct portset set;
    struct parse_reason why;
    int result = portset_parse(ports, &set, &why);
    if (result) {
        refuse_text(error, "ports", ports, why.text);
        return result;
    }
    if (is_blank(to))
        return refuse_text(error, "destinations", to,
                           "none given: leave it out for everywhere but loopback");
    config_begin(&made);
    result = policy_add_rule(&made.policy, "default", ports, to, &why);
    if (result)
        refuse_text(error, "destinations", to, why.text);
    else
        *config = made;
    return result;
}
