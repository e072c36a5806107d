/* SPDX-License-Identifier: MIT */
/*
 * The network of a twin, but for the firewall's rules. ip(8) is asked what there is, and told the
 * same in the twin, all of a kind at once.
 *
 * Of routes and rules of policy routing the kernel makes some by itself, with interfaces and
 * addresses. So these are compared: what the twin has and the machine has not is deleted, what it
 * lacks is added, and what is there already stays.
 *
 * Settings influence each other (ip_forward sets forwarding of every interface), so whichever
 * differ are written until none does. They come before the addresses, some of which disable_ipv6
 * would take away.
 */
#include "twin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VETH_MTU_LEAST 68
#define VETH_MTU_MOST 65535
#define SETTING_MOST 65536 /* bytes: the longest are lists of ports */
#define ROUNDS 3

enum { IPV4, IPV6, BOTH };
static const char *const families[] = {"-4", "-6", "-o"}; /* -o says nothing of families */

/* ---- to ask ip(8), and to tell it ---- */

/* What a tool prints, about the machine or the twin. Return: NULL, and there is a note. */
static char *mirror_ask(struct twin *twin, bool of_twin, char *const argv[])
{
    struct run_result result;
    struct setup_error error;
    char *text = NULL;
    int status = of_twin ? twin_tool(twin, argv, NULL, &result) : run_tool(argv, NULL, &result);
    if (status == 0) {
        text = result.output;
        result.output = NULL;
    } else {
        run_explain(argv, &result, &error);
        twin_note(twin, NULL, "what 'ip' shows of the machine is not in the twin: %s", error.text);
    }
    run_free(&result);
    return text;
}

static json_t *mirror_json(struct twin *twin, char *const argv[])
{
    char *text = mirror_ask(twin, false, argv);
    json_t *json = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return json ? json : json_array();
}

/* Line @number of @lines, from 1; "" if there is none. malloc'd. */
static char *line_copy(const char *lines, unsigned long number)
{
    size_t length = 0;
    const char *line = NULL;
    while (number-- && (line = state_line(&lines, &length)))
        ;
    return line ? strndup(line, length) : state_copy("");
}

/*
 * What ip(8) complains of becomes notes: "Error: what is wrong", and then "Command failed
 * -:NUMBER". What is there already, or not there to be deleted, is as it should be. Return: how
 * many there are.
 */
static void batch_complaints(struct twin *twin, const char *lines, const char *errors,
                             const char *what)
{
    const char *line;
    char why[256] = "";
    size_t length;
    while ((line = state_line(&errors, &length))) {
        if (strncmp(line, "Command failed -:", 17) != 0) {
            if (!*why)
                snprintf(why, sizeof(why), "%.*s", (int)length, line);
            continue;
        }
        char *copy = line_copy(lines, strtoul(line + 17, NULL, 10));
        if (what && !strstr(why, "exists") && !strstr(why, "already"))
            twin_note(twin, copy, "%s cannot be in the twin: %s", what, why);
        free(copy);
        *why = '\0';
    }
}

/*
 * Lines for "ip -batch". Of a line that is wrong in itself it dies without saying which it was:
 * then both halves are tried. @what: of what kind they are, for notes; NULL: no notes.
 */
static void batch_run(struct twin *twin, int namespace, int family, const char *lines,
                      const char *what)
{
    char *argv[] = {"ip", (char *)(uintptr_t)families[family], "-force", "-batch", "-", NULL};
    const char *half = lines + strlen(lines) / 2;
    struct run_result result;
    struct setup_error error;
    if (!*lines)
        return;
    run_namespace = namespace;
    bool good = run_tool(argv, lines, &result) == 0;
    run_namespace = -1;
    batch_complaints(twin, lines, result.errors, what);
    if (!good && !strstr(result.errors, "Command failed -:")) {
        run_explain(argv, &result, &error);
        while (half > lines && half[-1] != '\n')
            half--;
        if (half == lines)
            half += strcspn(half, "\n") + 1;
        char *first = strndup(lines, (size_t)(half - lines));
        if (!*half || result.errno_) {
            if (what)
                twin_note(twin, first, "%s cannot be in the twin: %s", what, error.text);
        } else {
            batch_run(twin, namespace, family, first, what);
            batch_run(twin, namespace, family, half, what);
        }
        free(first);
    }
    run_free(&result);
}

/* ---- interfaces ---- */

static const char *link_text(const json_t *link, const char *key)
{
    const char *text = json_string_value(json_object_get(link, key));
    return text ? text : "";
}

static long link_number(const json_t *link, const char *key)
{
    return (long)json_integer_value(json_object_get(link, key));
}

static const json_t *link_info(const json_t *link, const char *key)
{
    return json_object_get(json_object_get(link, "linkinfo"), key);
}

static bool link_has(const json_t *link, const char *flag)
{
    size_t i;
    const json_t *value;
    json_array_foreach (json_object_get(link, "flags"), i, value)
        if (strcmp(json_string_value(value), flag) == 0)
            return true;
    return false;
}

static bool link_is_vrf(const json_t *link)
{
    const char *kind = json_string_value(link_info(link, "info_kind"));
    return kind && strcmp(kind, "vrf") == 0;
}

/* The names that ip(8) takes in a file of commands as they are. */
static bool link_is_plain(const char *name)
{
    return *name && !strpbrk(name, " \t\n#\\\"'");
}

/* The hardware address, or one of our own where it is none of Ethernet. */
static void link_address(const json_t *link, uint8_t address[6])
{
    const char *text = link_text(link, "address");
    unsigned b[6];
    char rest;
    long index = link_number(link, "ifindex");
    int n = sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", b, b + 1, b + 2, b + 3, b + 4, b + 5, &rest);
    bool valid = n == 6 && !(b[0] & 1) && (b[0] | b[1] | b[2] | b[3] | b[4] | b[5]);
    for (int i = 0; i < 6; i++)
        address[i] = valid    ? (uint8_t)b[i]
                     : i == 0 ? 2
                              : (uint8_t)((unsigned long)index >> (40 - 8 * i));
}

static void device_add(struct twin *twin, const json_t *link)
{
    twin->device = state_grow(twin->device, (twin->devices + 1) * sizeof(*twin->device));
    struct twin_device *device = &twin->device[twin->devices++];
    *device = (struct twin_device){.index = (int)link_number(link, "ifindex")};
    device->around = link_is_vrf(link) ? 0 : device->index;
    snprintf(device->name, sizeof(device->name), "%s", link_text(link, "ifname"));
    link_address(link, device->address);
}

/* Both ends have the same number and the same hardware address: without ARP that is where frames
 * go, since the kernel takes the interface's own address for its neighbours'. */
static void device_print(const struct twin *twin, const struct twin_device *device,
                         const json_t *link, FILE *out)
{
    const uint8_t *a = device->address;
    long mtu = link_number(link, "mtu");
    char same[160], self[32];
    ssize_t n = readlink("/proc/self", self, sizeof(self) - 1); /* as ip(8) sees us, in its /proc */
    self[n > 0 ? n : 0] = '\0';
    mtu = mtu < VETH_MTU_LEAST ? VETH_MTU_LEAST : mtu > VETH_MTU_MOST ? VETH_MTU_MOST : mtu;
    if (link_is_vrf(link)) {
        fprintf(out, "link add name %s index %d type vrf table %ld\n", device->name, device->index,
                link_number(link_info(link, "info_data"), "table"));
        return;
    }
    snprintf(same, sizeof(same),
             "name %s index %d mtu %ld address %02x:%02x:%02x:%02x:%02x:%02x numtxqueues 1 "
             "numrxqueues 1 arp off",
             device->name, device->index, mtu, a[0], a[1], a[2], a[3], a[4], a[5]);
    fprintf(out, "link add %s group %s type veth peer %s netns /proc/%s/fd/%d\n", same,
            link_text(link, "group"), same, self, twin->beyond);
}

/* What BPF does to packets at an interface's door, no twin shows. */
static void link_note_xdp(struct twin *twin, const json_t *link)
{
    const json_t *xdp = json_object_get(link, "xdp"), *program = json_object_get(xdp, "prog");
    if (!xdp)
        return;
    char line[160];
    snprintf(line, sizeof(line), "%s: %s (program %ld)", link_text(link, "ifname"),
             link_text(program, "name"), link_number(program, "id"));
    twin_note(twin, line,
              "BPF programs (XDP) see what comes by interfaces before the firewall does, "
              "and may drop or redirect it; they are not in the twin");
}

/* Those that could not be made are none. */
static void devices_check(struct twin *twin)
{
    size_t kept = 0;
    twin_enter(twin);
    for (size_t i = 0; i < twin->devices; i++)
        if ((int)if_nametoindex(twin->device[i].name) == twin->device[i].index)
            twin->device[kept++] = twin->device[i];
    twin_leave(twin);
    twin->devices = kept;
}

/* Whether the machine has @name as a vrf. */
static bool links_have_vrf(const json_t *links, const char *name)
{
    size_t i;
    const json_t *link;
    json_array_foreach (links, i, link)
        if (strcmp(link_text(link, "ifname"), name) == 0)
            return link_is_vrf(link);
    return false;
}

/* To make them, and what comes after that: these are two runs of ip(8), since a vrf may come after
 * those that belong to it. */
static int mirror_links(struct twin *twin, const json_t *links, struct setup_error *error)
{
    char *made, *set;
    size_t i;
    const json_t *link;
    FILE *make = state_open(&made), *then = state_open(&set);
    json_array_foreach (links, i, link) {
        const char *name = link_text(link, "ifname"), *master = link_text(link, "master");
        bool is_lo = strcmp(name, "lo") == 0;
        link_note_xdp(twin, link);
        if (!link_is_plain(name)) {
            twin_note(twin, name, "interfaces with such a name cannot be in the twin");
            continue;
        }
        if (!is_lo) {
            device_add(twin, link);
            device_print(twin, &twin->device[twin->devices - 1], link, make);
        }
        if (*master && links_have_vrf(links, master))
            fprintf(then, "link set dev %s master %s\n", name, master);
        fprintf(then, "link set dev %s addrgenmode none\n", name);
        if (is_lo && link_number(link, "mtu") > 0)
            fprintf(then, "link set dev lo mtu %ld\n", link_number(link, "mtu"));
    }
    state_close(make);
    state_close(then);
    size_t wanted = twin->devices;
    batch_run(twin, twin->net, BOTH, made, "an interface");
    devices_check(twin);
    bool none = wanted && !twin->devices;
    if (none)
        setup_fail(error, "no interface can be made in a network namespace here (module veth): %s",
                   twin->notes ? twin->note[twin->notes - 1].what : "");
    else
        batch_run(twin, twin->net, BOTH, set, "what is set of an interface");
    free(made);
    free(set);
    return none ? -1 : 0;
}

/* Where the machine has no carrier the other end stays down. */
static void mirror_up(struct twin *twin, const json_t *links)
{
    char *texts[2];
    size_t i;
    const json_t *link;
    FILE *around = state_open(&texts[0]), *here = state_open(&texts[1]);
    json_array_foreach (links, i, link) {
        const struct twin_device *device = twin_device(twin, link_text(link, "ifname"));
        if (link_has(link, "UP") && (device || strcmp(link_text(link, "ifname"), "lo") == 0))
            fprintf(here, "link set dev %s up\n", link_text(link, "ifname"));
        if (link_has(link, "LOWER_UP") && device && device->around)
            fprintf(around, "link set dev %s up\n", device->name);
    }
    state_close(around);
    state_close(here);
    batch_run(twin, twin->beyond, BOTH, texts[0], "the other end of an interface");
    batch_run(twin, twin->net, BOTH, texts[1], "an interface that is up");
    free(texts[0]);
    free(texts[1]);
}

/* ---- addresses ---- */

static void address_print(const char *name, const json_t *address, FILE *out)
{
    const char *local = link_text(address, "local"), *peer = link_text(address, "address");
    const char *broadcast = link_text(address, "broadcast"), *scope = link_text(address, "scope");
    bool is6 = strcmp(link_text(address, "family"), "inet6") == 0;
    fprintf(out, "address add %s%s%s/%ld", *local ? local : peer, *local && *peer ? " peer " : "",
            *local ? peer : "", link_number(address, "prefixlen"));
    if (*broadcast)
        fprintf(out, " broadcast %s", broadcast);
    if (*scope)
        fprintf(out, " scope %s", scope);
    fprintf(out, " dev %s", name);
    if (link_number(address, "metric"))
        fprintf(out, " metric %ld", link_number(address, "metric"));
    if (json_is_true(json_object_get(address, "noprefixroute")))
        fputs(" noprefixroute", out);
    if (is6)
        fputs(" nodad", out);
    if (json_is_true(json_object_get(address, "deprecated")))
        fputs(" preferred_lft 0", out);
    fputc('\n', out);
}

/* The kernel lists those of IPv6 last added first, and takes the first where several would do. */
static void mirror_addresses(struct twin *twin)
{
    char *argv[] = {"ip", "-j", "-d", "address", "show", NULL}, *text;
    json_t *links = mirror_json(twin, argv);
    size_t i, count;
    const json_t *link;
    FILE *out = state_open(&text);
    json_array_foreach (links, i, link) {
        const char *name = link_text(link, "ifname");
        const json_t *list = json_object_get(link, "addr_info"), *address;
        count = json_array_size(list);
        for (size_t k = 0; link_is_plain(name) && k < 2 * count; k++) {
            address = json_array_get(list, k < count ? k : 2 * count - 1 - k);
            if (json_is_true(json_object_get(address, "dadfailed")))
                continue; /* somebody else's: it is not used */
            if ((strcmp(link_text(address, "family"), "inet6") == 0) == (k >= count))
                address_print(name, address, out);
        }
    }
    state_close(out);
    batch_run(twin, twin->net, BOTH, text, "an address");
    free(text);
    json_decref(links);
}

/* ---- routes, and rules of policy routing ---- */

struct lines {
    char **line;
    size_t count;
};

/* What ip(8) prints of a line and does not take: single words, and words that another goes with. */
static const struct words {
    const char *single, *pair;
} of_any =
    {" linkdown dead offload rt_offload offload_failed rt_offload_failed trap rt_trap pervasive "
     "unresolved notify [unresolved] [detached] ",
     " expires error unbalanced_time "},
  of_nexthop = {"", " scope "},                         /* a nexthop object */
    of_user = {" nexthop onlink ", " via dev weight "}; /* a route with one, whose they are */

static bool word_is_in(const char *words, const char *word)
{
    char whole[64];
    return (size_t)snprintf(whole, sizeof(whole), " %s ", word) < sizeof(whole) &&
           strstr(words, whole);
}

/* ip(8) prints numbers (-N), since it takes names wrongly after numbers; but these it wants as
 * names. */
static const char *word_named(const char *word, bool first)
{
    static const char *const types[] = {NULL,       "unicast",   "local",     "broadcast",
                                        "anycast",  "multicast", "blackhole", "unreachable",
                                        "prohibit", "throw",     "nat",       "xresolve"};
    unsigned long type = strtoul(word, NULL, 10);
    if (first && word[strspn(word, "0123456789")] == '\0' && type &&
        type < sizeof(types) / sizeof(*types))
        return types[type];
    return strncmp(word, "ipproto-", 8) == 0 ? word + 8 : word;
}

/* A line as ip(8) takes it. NULL: it is none. @line is written to. */
static char *line_normal(char *line)
{
    static const char between[] = " \t\\";
    static const struct words of_others = {"", ""};
    const struct words *of = strncmp(line, "id ", 3) == 0 ? &of_nexthop
                             : strstr(line, " nhid ")     ? &of_user
                                                          : &of_others;
    char *text, *rest, *word = strtok_r(line, between, &rest);
    if (!word || strcmp(word, "nh_info") == 0)
        return NULL;
    FILE *out = state_open(&text);
    if (strspn(word, "0123456789") == strlen(word) - 1 && word[strlen(word) - 1] == ':') {
        fprintf(out, "pref %.*s ", (int)strlen(word) - 1, word);
        word = strtok_r(NULL, between, &rest);
    }
    bool first = !ftell(out);
    for (; word; word = strtok_r(NULL, between, &rest), first = false) {
        char *name = NULL;
        bool pair = word_is_in(of_any.pair, word) || word_is_in(of->pair, word);
        if (pair || word_is_in(" dev iif oif via table lookup ", word))
            name = strtok_r(NULL, between, &rest);
        if (pair && name && strcmp(name, "inet6") == 0)
            strtok_r(NULL, between, &rest);
        if (pair || word_is_in(of_any.single, word) || word_is_in(of->single, word))
            continue;
        if (name && strcmp(name, "[l3mdev-table]") == 0)
            fputs("l3mdev ", out);
        else
            fprintf(out, "%s %s%s", word_named(word, first), name ? name : "", name ? " " : "");
    }
    state_close(out);
    return text;
}

static void lines_read(char *text, struct lines *lines)
{
    char *rest, *line;
    *lines = (struct lines){.count = 0};
    for (line = text ? strtok_r(text, "\n", &rest) : NULL; line;
         line = strtok_r(NULL, "\n", &rest)) {
        char *normal = line_normal(line);
        if (!normal)
            continue;
        if (lines->count % 256 == 0)
            lines->line = state_grow(lines->line, (lines->count + 256) * sizeof(*lines->line));
        lines->line[lines->count++] = normal;
    }
}

static void lines_free(struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        free(lines->line[i]);
    free(lines->line);
}

static int line_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Print those of @lines which @others have not. */
static void lines_print(const struct lines *lines, const struct lines *others, const char *command,
                        bool (*which)(const char *line), FILE *out)
{
    char **sorted = state_grow(NULL, others->count * sizeof(*sorted));
    if (others->count) {
        memcpy(sorted, others->line, others->count * sizeof(*sorted));
        qsort(sorted, others->count, sizeof(*sorted), line_compare);
    }
    for (size_t i = 0; i < lines->count; i++)
        if ((!which || which(lines->line[i])) &&
            !bsearch(&lines->line[i], sorted, others->count, sizeof(*sorted), line_compare))
            fprintf(out, "%s %s\n", command, lines->line[i]);
    free(sorted);
}

/* Routes that need others to be there, and groups of nexthops. */
static bool line_depends(const char *line)
{
    return strncmp(line, "id ", 3) == 0 ? strstr(line, " group ") != NULL
                                        : strstr(line, " via ") || strstr(line, " nhid ");
}

static bool line_does_not(const char *line)
{
    return !line_depends(line);
}

/* Make the twin have what the machine has of @object, by comparing. @what: as batch_run() takes it.
 */
static void mirror_lines(struct twin *twin, int family, char *object, const char *what)
{
    char *argv[] = {"ip",   "-N",   (char *)(uintptr_t)families[family],           "-o",  "-d",
                    object, "show", strcmp(object, "route") == 0 ? "table" : NULL, "all", NULL};
    char *here = mirror_ask(twin, false, argv), *there = mirror_ask(twin, true, argv), *text;
    const char *add = strcmp(object, "route") == 0 ? "route append" : NULL;
    struct lines want, have;
    char command[40];
    if (here && strcmp(object, "rule") == 0)
        twin_name(twin, here);
    lines_read(here, &want);
    lines_read(there, &have);
    FILE *out = state_open(&text);
    snprintf(command, sizeof(command), "%s add", object);
    if (here && there) {
        lines_print(&want, &have, add ? add : command, line_does_not, out);
        lines_print(&want, &have, add ? add : command, line_depends, out);
        snprintf(command, sizeof(command), "%s del", object);
        lines_print(&have, &want, command, NULL, out);
    }
    state_close(out);
    batch_run(twin, twin->net, family, text, what);
    free(text);
    free(here);
    free(there);
    lines_free(&want);
    lines_free(&have);
}

/*
 * Everything twice: a route can need what the machine no longer has (its gateway's, when it was
 * made), or be kept away by one that the kernel has made and the machine has not.
 */
static void mirror_routing(struct twin *twin, void (*tick)(void *arg), void *arg)
{
    for (int round = 0; round < 2; round++) {
        mirror_lines(twin, BOTH, "nexthop", round ? "a nexthop" : NULL);
        mirror_lines(twin, IPV4, "route", round ? "a route" : NULL);
        mirror_lines(twin, IPV6, "route", round ? "a route" : NULL);
        if (tick)
            tick(arg);
    }
    mirror_lines(twin, IPV4, "rule", "a rule of policy routing");
    mirror_lines(twin, IPV6, "rule", "a rule of policy routing");
}

/* ---- settings ---- */

struct setting {
    char *path, *value;
};

struct settings {
    struct setting *setting;
    size_t count;
};

/* What acts when it is written, is a secret, or is about neighbours, of which a twin has none. */
static bool setting_is_left(const char *name)
{
    static const char *const left[] = {
        "flush", "stable_secret", "tcp_fastopen_key", "addr_gen_mode", "neigh", "vs", NULL};
    for (int i = 0; left[i]; i++)
        if (strcmp(name, left[i]) == 0)
            return true;
    return false;
}

/* Return: its bytes; -1: it cannot be read. */
static ssize_t setting_read(const char *path, char *value)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, value, SETTING_MOST - 1);
    if (fd >= 0)
        close(fd);
    value[n > 0 ? n : 0] = '\0';
    return n;
}

static void settings_walk(const char *folder, struct settings *settings)
{
    static char value[SETTING_MOST];
    DIR *stream = opendir(folder);
    struct dirent *entry;
    while (stream && (entry = readdir(stream))) {
        char path[PATH_MAX];
        if (*entry->d_name == '.' || setting_is_left(entry->d_name))
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_type == DT_DIR) {
            settings_walk(path, settings);
        } else if (setting_read(path, value) >= 0) {
            if (settings->count % 1024 == 0)
                settings->setting = state_grow(settings->setting, (settings->count + 1024) *
                                                                      sizeof(*settings->setting));
            settings->setting[settings->count++] =
                (struct setting){state_copy(path), state_copy(value)};
        }
    }
    if (stream)
        closedir(stream);
}

/* Return: 0, or errno. */
static int setting_write(const struct setting *setting)
{
    int fd = open(setting->path, O_WRONLY | O_CLOEXEC), error = 0;
    if (fd < 0 || write(fd, setting->value, strlen(setting->value)) < 0)
        error = errno;
    if (fd >= 0)
        close(fd);
    return error;
}

/* In the twin. Return: how many differ still; of those the first is told. Who may not be written by
 * anybody in a namespace other than the first is not counted: it is the same for all of them. */
static size_t settings_write(const struct settings *settings, bool last,
                             const struct setting **first, int *why)
{
    static char value[SETTING_MOST];
    size_t differ = 0;
    for (size_t i = 0; i < settings->count; i++) {
        const struct setting *setting = &settings->setting[i];
        if (setting_read(setting->path, value) < 0 || strcmp(value, setting->value) == 0)
            continue;
        int error = last ? access(setting->path, W_OK) < 0 ? errno : 0 : setting_write(setting);
        if (error == EACCES)
            continue;
        if (!differ++) {
            *first = setting;
            *why = error;
        }
    }
    return differ;
}

static void mirror_settings(struct twin *twin)
{
    static const char *const folders[] = {"/proc/sys/net/ipv4", "/proc/sys/net/ipv6",
                                          "/proc/sys/net/netfilter", "/proc/sys/net/bridge", NULL};
    struct settings settings = {.count = 0};
    const struct setting *first = NULL;
    struct stat here, home;
    int why = 0;
    for (int i = 0; folders[i]; i++)
        settings_walk(folders[i], &settings);
    twin_enter(twin);
    if (stat("/proc/self/ns/net", &here) < 0 || fstat(twin->home, &home) < 0 ||
        here.st_ino == home.st_ino)
        abort(); /* it would be written to the machine */
    size_t differ = 1;
    for (int round = 0; differ && round <= ROUNDS; round++)
        differ = settings_write(&settings, round == ROUNDS, &first, &why);
    twin_leave(twin);
    if (differ)
        twin_note(twin, NULL,
                  "%zu settings are not in the twin as they are on the machine%s%s; the "
                  "first is %s",
                  differ, why ? ": " : "", why ? strerror(why) : "", first->path);
    for (size_t i = 0; i < settings.count; i++) {
        free(settings.setting[i].path);
        free(settings.setting[i].value);
    }
    free(settings.setting);
}

/* ---- all of it ---- */

int mirror_network(struct twin *twin, void (*tick)(void *arg), void *arg, struct setup_error *error)
{
    char *argv[] = {"ip", "-j", "-d", "link", "show", NULL};
    if (!run_exists("ip"))
        return setup_fail(error, "'ip' is needed here and not installed");
    json_t *links = mirror_json(twin, argv);
    if (json_array_size(links) == 0) {
        json_decref(links);
        return setup_fail(error, "%s",
                          twin->notes ? twin->note[0].what : "'ip link' shows nothing");
    }
    int status = mirror_links(twin, links, error);
    if (tick)
        tick(arg);
    if (status == 0) {
        mirror_settings(twin);
        mirror_up(twin, links);
        mirror_addresses(twin);
        mirror_routing(twin, tick, arg);
    }
    json_decref(links);
    return status;
}
