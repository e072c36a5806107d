/* SPDX-License-Identifier: MIT */
/*
 * Reading the site, section by section. The file's form has been checked by then (file.c);
 * here each value becomes what it means, and when all are there they are compared with each other
 * (site-check.c).
 */
#include "site-parts.h"

#include "../../pool/address.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- roles, and what is left to others: sets of words ---- */

struct word {
    unsigned bit;
    const char *name;
};

static const struct word role_words[] = {
    {ROLE_HOST, "host"},
    {ROLE_GATEWAY, "gateway"},
    {ROLE_NODE, "node"},
    {ROLE_CONTROL_PLANE, "control-plane"},
    {0, NULL},
};
#define ROLES_ALLOWED "allowed are host, gateway, node, control-plane"

static const struct word leave_words[] = {
    {LEAVE_ROUTES, "routes"},
    {LEAVE_POOL, "pool"},
    {LEAVE_SYSCTL, "sysctl"},
    {LEAVE_IPTABLES, "iptables"},
    {LEAVE_NFT, "nft"},
    {LEAVE_NODE_PORTS, "node-ports"},
    {LEAVE_UNIT, "unit"},
    {0, NULL},
};
#define LEAVE_ALLOWED "allowed are routes, pool, sysctl, iptables, nft, node-ports, unit"

static const char *word_name(const struct word *words, unsigned bit)
{
    while (words->name && words->bit != bit)
        words++;
    return words->name ? words->name : "unknown";
}

const char *site_role_name(enum site_role role)
{
    return word_name(role_words, role);
}

const char *site_leave_name(enum site_leave leave)
{
    return word_name(leave_words, leave);
}

/* @what: "a role", and @allowed, for the reason. Return: the bits; 0: @why. */
static unsigned words_parse(const char *text, const struct word *words, const char *what,
                            const char *allowed, struct parse_reason *why)
{
    static const char separators[] = ", \t";
    unsigned found = 0;
    char word[44];
    for (text += strspn(text, separators); *text; text += strspn(text, separators)) {
        size_t length = strcspn(text, separators);
        const struct word *known = words;
        while (known->name &&
               (strlen(known->name) != length || memcmp(known->name, text, length) != 0))
            known++;
        snprintf(word, sizeof(word), "%.*s", length < 40 ? (int)length : 40, text);
        config_shown(word, 40, word);
        if (known->name && !(found & known->bit)) {
            found |= known->bit;
            text += length;
            continue;
        }
        if (known->name)
            snprintf(why->text, sizeof(why->text), "\"%s\" is given twice", word);
        else
            snprintf(why->text, sizeof(why->text), "\"%s\" is no %s: %s", word, what, allowed);
        return 0;
    }
    if (!found)
        snprintf(why->text, sizeof(why->text), "no %s is given: %s", what, allowed);
    return found;
}

unsigned site_roles_parse(const char *text, struct parse_reason *why)
{
    return words_parse(text, role_words, "role", ROLES_ALLOWED, why);
}

/* Whether the first @length letters of @name are @known, which is lower case. */
static bool name_is(const char *known, const char *name, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char letter = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a') : name[i];
        if (known[i] != letter)
            return false;
    }
    return !known[length];
}

/* The machine with that name, whole or up to its first dot; or NULL. */
static const struct site_machine *machine_find(const struct site *site, const char *name)
{
    size_t lengths[] = {strlen(name), strcspn(name, ".")};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < site->machines; i++)
            if (name_is(site->machine[i].name, name, lengths[k]))
                return &site->machine[i];
    return NULL;
}

unsigned site_machine_roles(const struct site *site, const char *name)
{
    const struct site_machine *machine = machine_find(site, name);
    return machine ? machine->roles : 0;
}

unsigned site_machine_leave(const struct site *site, const char *name, unsigned roles)
{
    const struct site_machine *machine = machine_find(site, name);
    return site->leave | (machine ? machine->leave : 0) |
           (roles & ROLE_NODE && !site->node_pool ? LEAVE_POOL : 0);
}

/* ---- single values: each is taken, or there is a reason, perhaps in @why ---- */

typedef const char *value_reader(const char *text, struct site *site, struct parse_reason *why);

static const char *ports_read(const char *text, struct portset *set, struct parse_reason *why)
{
    return portset_parse(text, set, why) ? why->text : NULL;
}

static const char *pod_services_read(const char *text, struct site *site, struct parse_reason *why)
{
    return ports_read(text, &site->pod_services, why);
}

static const char *host_services_read(const char *text, struct site *site, struct parse_reason *why)
{
    return ports_read(text, &site->host_services, why);
}

static const char *host_ports_read(const char *text, struct site *site, struct parse_reason *why)
{
    return ports_read(text, &site->host_ports, why);
}

static const char *node_ports_read(const char *text, struct site *site, struct parse_reason *why)
{
    struct portset set;
    if (portset_parse(text, &set, why))
        return why->text;
    if (set.count > 1)
        return "one range is allowed, such as 30000-32767: the API server takes no more";
    site->node_ports = set.range[0];
    return NULL;
}

static const char *manifest_read(const char *text, struct site *site, struct parse_reason *why)
{
    (void)why;
    return config_path_read(text, SITE_MANIFEST, site->manifest, sizeof(site->manifest));
}

/* Words in the order of what they mean; their number is told by a NULL. */
static int word_find(const char *text, const char *const words[])
{
    for (int i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    return -1;
}

static const char *flag_read(const char *text, bool *flag)
{
    static const char *const words[] = {"no", "yes", NULL};
    int found = word_find(text, words);
    *flag = found == 1;
    return found < 0 ? "allowed are yes and no" : NULL;
}

static const char *stateful_read(const char *text, struct site *site, struct parse_reason *why)
{
    (void)why;
    return flag_read(text, &site->stateful);
}

static const char *exclusive_read(const char *text, struct site *site, struct parse_reason *why)
{
    (void)why;
    return flag_read(text, &site->exclusive);
}

static const char *snat_read(const char *text, struct site *site, struct parse_reason *why)
{
    static const char *const words[] = {
        [SNAT_KEEP] = "keep", [SNAT_NONE] = "none", [SNAT_CONFINE] = "confine", NULL};
    int found = word_find(text, words);
    (void)why;
    site->snat = found < 0 ? SNAT_KEEP : (enum site_snat)found;
    site->snat_given = true;
    return found < 0 ? "allowed are keep, none and confine" : NULL;
}

static const char *persist_read(const char *text, struct site *site, struct parse_reason *why)
{
    static const char *const words[] = {[PERSIST_OWN] = "own",
                                        [PERSIST_DISTRIBUTION] = "distribution",
                                        [PERSIST_NONE] = "none",
                                        NULL};
    int found = word_find(text, words);
    (void)why;
    site->persist = found < 0 ? PERSIST_OWN : (enum site_persist)found;
    return found < 0 ? "allowed are own, distribution and none" : NULL;
}

static const char *iptables_read(const char *text, struct site *site, struct parse_reason *why)
{
    static const char *const words[] = {
        [IPTABLES_AUTO] = "auto", [IPTABLES_NFT] = "nft", [IPTABLES_LEGACY] = "legacy", NULL};
    int found = word_find(text, words);
    (void)why;
    site->iptables = found < 0 ? IPTABLES_AUTO : (enum site_iptables)found;
    return found < 0 ? "allowed are auto, nft and legacy" : NULL;
}

static const char *mark_read(const char *text, struct site *site, struct parse_reason *why)
{
    char *end;
    unsigned long mark = strtoul(text, &end, 0);
    (void)why;
    if (*text < '0' || *text > '9' || *end || mark > UINT32_MAX || !mark || mark & (mark - 1))
        return "allowed is a number with one bit set, such as 0x2000";
    site->mark = (uint32_t)mark;
    return NULL;
}

static const char *leave_read(const char *text, struct site *site, struct parse_reason *why)
{
    site->leave = words_parse(text, leave_words, "thing to leave to others", LEAVE_ALLOWED, why);
    return site->leave ? NULL : why->text;
}

static const char *node_pool_read(const char *text, struct site *site, struct parse_reason *why)
{
    (void)why;
    return flag_read(text, &site->node_pool);
}

static const struct {
    enum section_kind kind;
    enum config_key key;
    value_reader *read;
} readers[] = {
    {SECTION_PODS, KEY_SERVICES, pod_services_read},
    {SECTION_HOSTS, KEY_SERVICES, host_services_read},
    {SECTION_HOSTS, KEY_PORTS, host_ports_read},
    {SECTION_GATEWAY, KEY_STATEFUL, stateful_read},
    {SECTION_GATEWAY, KEY_EXCLUSIVE, exclusive_read},
    {SECTION_SNAT, KEY_MODE, snat_read},
    {SECTION_CONTROL_PLANE, KEY_NODE_PORTS, node_ports_read},
    {SECTION_CONTROL_PLANE, KEY_MANIFEST, manifest_read},
    {SECTION_SETUP, KEY_PERSIST, persist_read},
    {SECTION_SETUP, KEY_IPTABLES, iptables_read},
    {SECTION_SETUP, KEY_MARK, mark_read},
    {SECTION_SETUP, KEY_NODE_POOL, node_pool_read},
    {SECTION_SETUP, KEY_LEAVE, leave_read},
};

static int values_read(const struct draft *draft)
{
    for (size_t i = 0; i < sizeof(readers) / sizeof(readers[0]); i++) {
        const struct config_section *section = config_file_section(draft->file, readers[i].kind);
        const struct config_value *value = config_section_value(section, readers[i].key);
        struct parse_reason reason;
        const char *why = value ? readers[i].read(value->text, draft->site, &reason) : NULL;
        if (why)
            return config_file_refuse_value(draft->file, section, value, why);
    }
    return 0;
}

/* ---- addresses ---- */

/* Appends what a key says, and those that go on with it, KEY-2 and so on. */
static int list_read(const struct draft *draft, const struct config_section *section,
                     enum config_key key, bool single, struct placed_list *list)
{
    for (size_t i = 0; section && i < section->values; i++) {
        const struct config_value *value = &section->value[i];
        int error = value->key == key ? placed_read(draft->file, section, value, single, list) : 0;
        if (error)
            return error;
    }
    return 0;
}

/* Appends the section's addresses to @list. @pair: the same by family. */
static int pair_read(const struct draft *draft, const struct config_section *section,
                     struct placed_list *list, struct address_pair *pair)
{
    size_t first = list->count;
    int error = list_read(draft, section, KEY_ADDRESS, true, list);
    for (size_t i = first; !error && i < list->count; i++) {
        const struct placed *placed = &list->item[i];
        bool v4 = block_is_v4(&placed->block);
        bool *has = v4 ? &pair->has4 : &pair->has6;
        if (*has)
            return placed_refuse(draft->file, placed,
                                 "is a second IPv%d address: one of each family is allowed",
                                 v4 ? 4 : 6);
        *has = true;
        memcpy(v4 ? pair->addr4 : pair->addr6, placed->block.addr, sizeof(pair->addr4));
    }
    return error;
}

/* Copies the blocks from item @first on, but for those that are borrowed if @whole is set. */
static int blocks_copy(const struct draft *draft, const struct placed_list *list, size_t first,
                       bool whole, struct block_list *blocks)
{
    blocks->item = calloc(list->count - first + 1, sizeof(*blocks->item));
    if (!blocks->item)
        return config_file_refuse_memory(draft->file);
    for (size_t i = first; i < list->count; i++)
        if (!whole || !list->item[i].borrowed)
            blocks->item[blocks->count++] = list->item[i].block;
    return 0;
}

/* ---- sections that may be many ---- */

static int machine_read(struct draft *draft, const struct config_section *section)
{
    struct site_machine *machine = &draft->site->machine[draft->site->machines++];
    const struct config_value *value = config_section_value(section, KEY_ROLES);
    struct parse_reason why;
    strcpy(machine->name, section->own); /* at most SITE_NAME - 1: section_types */
    if (!value)
        return config_file_refuse_lack(draft->file, section, "no roles are given: " ROLES_ALLOWED);
    machine->roles = site_roles_parse(value->text, &why);
    if (!machine->roles)
        return config_file_refuse_value(draft->file, section, value, why.text);
    value = config_section_value(section, KEY_LEAVE);
    if (!value)
        return 0;
    machine->leave = words_parse(value->text, leave_words, "thing to leave to others", LEAVE_ALLOWED,
                                 &why);
    return machine->leave ? 0 : config_file_refuse_value(draft->file, section, value, why.text);
}

static int node_read(struct draft *draft, const struct config_section *section)
{
    struct site_node *node = &draft->site->node[draft->site->nodes++];
    size_t first = draft->node_pods.count;
    strcpy(node->name, section->own);
    int error = pair_read(draft, section, &draft->nodes, &node->address);
    if (!error && !node->address.has4 && !node->address.has6)
        error = config_file_refuse_lack(draft->file, section,
                                        "no address is given: address = ADDRESS is needed");
    if (!error)
        error = list_read(draft, section, KEY_PODS, false, &draft->node_pods);
    return error ? error : blocks_copy(draft, &draft->node_pods, first, false, &node->pods);
}

static int many_read(struct draft *draft)
{
    const struct config_file *file = draft->file;
    int error = 0;
    draft->site->machine = calloc(file->count[SECTION_MACHINE] + 1, sizeof(struct site_machine));
    draft->site->node = calloc(file->count[SECTION_NODE] + 1, sizeof(struct site_node));
    if (!draft->site->machine || !draft->site->node)
        return config_file_refuse_memory(file);
    for (size_t i = 0; !error && i < file->sections; i++) {
        if (file->section[i]->type == &section_types[SECTION_MACHINE])
            error = machine_read(draft, file->section[i]);
        else if (file->section[i]->type == &section_types[SECTION_NODE])
            error = node_read(draft, file->section[i]);
    }
    return error;
}

/* ---- the site ---- */

static int lists_read(struct draft *draft)
{
    const struct config_file *file = draft->file;
    int error =
        list_read(draft, config_file_section(file, SECTION_PODS), KEY_BLOCKS, false, &draft->pods);
    if (!error)
        error = list_read(draft, config_file_section(file, SECTION_HOSTS), KEY_ADDRESSES, false,
                          &draft->hosts);
    if (!error)
        error = list_read(draft, config_file_section(file, SECTION_GATEWAY), KEY_ADDRESS, true,
                          &draft->gateway);
    return error;
}

/* Lists of the whole site, once it is known which pods are borrowed. */
static int lists_keep(const struct draft *draft)
{
    const struct placed_list *pods = draft->pods.count ? &draft->pods : &draft->node_pods;
    int error = blocks_copy(draft, pods, 0, true, &draft->site->pods);
    if (!error)
        error = blocks_copy(draft, &draft->hosts, 0, true, &draft->site->hosts);
    if (!error)
        error = blocks_copy(draft, &draft->gateway, 0, false, &draft->site->gateways);
    return error;
}

static int suits_all(const uint8_t addr[16], const void *arg)
{
    (void)addr;
    (void)arg;
    return 0;
}

void site_choose_gateway(struct site *site, int (*suits)(const uint8_t addr[16], const void *arg),
                         const void *arg)
{
    int best[2] = {-1, -1};
    site->gateway = (struct address_pair){.has4 = false};
    for (size_t i = 0; i < site->gateways.count; i++) {
        const struct block *block = &site->gateways.item[i];
        bool v4 = block_is_v4(block);
        int suit = suits(block->addr, arg);
        if (suit <= best[v4])
            continue;
        best[v4] = suit;
        *(v4 ? &site->gateway.has4 : &site->gateway.has6) = true;
        memcpy(v4 ? site->gateway.addr4 : site->gateway.addr6, block->addr, 16);
    }
}

static void site_begin(struct site *site)
{
    memset(site, 0, sizeof(*site));
    site->stateful = true;
    site->node_pool = true;
    site->mark = 0x2000;
    strcpy(site->manifest, SITE_MANIFEST);
}

/* A site's pools are root's, whoever reads the file. */
static void mode_default(struct draft *draft)
{
    const struct config_section *pool = config_file_section(draft->file, SECTION_POOL);
    if (!pool || !config_section_value(pool, KEY_MODE))
        draft->site->config.options.mode = 0666;
}

static int draft_read(struct draft *draft)
{
    int error = config_build(draft->file, &draft->site->config);
    if (!error)
        mode_default(draft);
    if (!error)
        error = values_read(draft);
    if (!error)
        error = many_read(draft);
    if (!error)
        error = lists_read(draft);
    if (!error)
        error = draft_check(draft);
    if (!error)
        error = lists_keep(draft);
    return error ? error : draft_agree(draft);
}

int site_load(const char *path, struct site *site, struct config_error *error)
{
    return site_load_over(path, NULL, site, error);
}

int site_load_over(const char *path, const struct config_overlay *over, struct site *site,
                   struct config_error *error)
{
    struct config_file file;
    struct draft draft = {.file = &file, .site = site};
    site_begin(site);
    int result = config_file_read(&file, path, over, error);
    if (!result)
        result = draft_read(&draft);
    if (result)
        site_free(site);
    else
        site_choose_gateway(site, suits_all, NULL);
    free(draft.node_pods.item);
    free(draft.nodes.item);
    free(draft.pods.item);
    free(draft.hosts.item);
    free(draft.gateway.item);
    config_file_free(&file);
    return result;
}

void site_free(struct site *site)
{
    for (size_t i = 0; i < site->nodes; i++)
        free(site->node[i].pods.item);
    free(site->node);
    free(site->machine);
    free(site->pods.item);
    free(site->hosts.item);
    free(site->gateways.item);
    for (size_t i = 0; i < site->notes; i++)
        free(site->note[i]);
    free(site->note);
    memset(site, 0, sizeof(*site));
}

/* ---- ports ---- */

static void port_mark(const struct portrange *range, void *arg)
{
    bool *used = arg;
    for (uint32_t port = range->lo; port <= range->hi; port++)
        used[port] = true;
}

int site_pool_ports(const struct policy *policy, const struct portset *slices, struct portset *set)
{
    bool used[65536 + 1] = {false}; /* the last is never set: it ends a range */
    struct portset found = {.count = 0};
    policy_each_range(policy, port_mark, used);
    for (uint32_t i = 0; slices && i < slices->count; i++)
        port_mark(&slices->range[i], used);
    for (uint32_t port = 1; port < 65536; port++) {
        if (!used[port])
            continue;
        if (found.count == PORTRANGE_MAX)
            return -E2BIG;
        found.range[found.count].lo = (uint16_t)port;
        while (used[port + 1])
            port++;
        found.range[found.count++].hi = (uint16_t)port;
    }
    *set = found;
    return 0;
}
