/* SPDX-License-Identifier: MIT */
/*
 * What was applied must outlive a reboot, and whoever manages the network. Both go wrong much later
 * than they were made wrong, when nobody thinks of it any more.
 *
 * Who takes away other people's routes:
 *   networkd        (tried with 252) when it is restarted it removes from an interface of its own
 *                   whatever no .network file has, of any protocol but "kernel"; and addresses,
 *                   too, which it sets again: so even with ManageForeignRoutes=no the kernel drops
 *                   the routes. KeepConfiguration=yes of the interface stops that, and so does
 *                   "static" together with ManageForeignRoutes=no. Our unit is part of it, and sets
 *                   the routes again. After "networkctl reconfigure" they are gone whatever is set,
 *                   but those of a section [Route]
 *   NetworkManager  since 1.36 it does not look at routes of protocols such as ours; what it takes
 *                   down takes its routes along, as with everybody
 */
#include "doctor.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define UNIT_NAME "fixport-setup.service"
#define UNIT_FOLDER "/etc/systemd/system"
#define UNIT_WANTS "multi-user.target.wants"
#define NETWORKD "systemd-networkd"
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

/* ---- files of systemd ---- */

static const char *const folders[] = {"/etc", "/run", "/usr/local/lib", "/usr/lib"};
#define FOLDERS (sizeof(folders) / sizeof(folders[0]))

/* The last value of "KEY=" in @path; @section "[Network]", or NULL: any. malloc'd, or NULL. */
static char *unit_value(const char *path, const char *section, const char *key)
{
    FILE *file = fopen(path, "re");
    char *line = NULL, *value = NULL;
    size_t size = 0, length = strlen(key);
    bool inside = !section;
    while (file && getline(&line, &size, file) > 0) {
        line[strcspn(line, "\r\n")] = '\0';
        const char *at = line + strspn(line, " \t");
        if (*at == '[' && section)
            inside = strncmp(at, section, strlen(section)) == 0;
        if (!inside || strncmp(at, key, length) != 0)
            continue;
        at += length;
        at += strspn(at, " \t");
        if (*at != '=')
            continue;
        free(value);
        value = state_copy(at + 1 + strspn(at + 1, " \t"));
    }
    free(line);
    if (file)
        fclose(file);
    return value;
}

/* ---- after a reboot ---- */

static const struct journal_entry *boot_entry(const struct facts *facts,
                                              const struct resource_type *type)
{
    for (size_t i = 0; facts->has_journal == 1 && i < facts->journal.count; i++) {
        const struct journal_entry *entry = &facts->journal.entry[i];
        const char *name = strrchr(entry->name, '/');
        if (entry->type == type && name && entry->wanted && !entry->dropped &&
            strcmp(name + 1, UNIT_NAME) == 0)
            return entry;
    }
    return NULL;
}

/* Enabled: a folder NAME.wants or NAME.requires has a link of its name. */
static bool boot_is_enabled(void)
{
    DIR *dir = opendir(setup_path(UNIT_FOLDER));
    const struct dirent *entry;
    bool found = false;
    while (dir && !found && (entry = readdir(dir))) {
        const char *dot = strrchr(entry->d_name, '.');
        char *path = text_format("%s/%s/" UNIT_NAME, UNIT_FOLDER, entry->d_name);
        found = dot && (strcmp(dot, ".wants") == 0 || strcmp(dot, ".requires") == 0) &&
                readlink(setup_path(path), (char[1]){0}, 1) > 0;
        free(path);
    }
    if (dir)
        closedir(dir);
    return found;
}

static void boot_disabled(struct findings *findings)
{
    struct finding *finding = finding_add(findings, "unit-disabled", SEVERITY_ERROR,
                                          "after a reboot nothing of what was applied comes back");
    char *root = shell_quoted(setup_root),
         *wants = shell_quoted(setup_path(UNIT_FOLDER "/" UNIT_WANTS));
    finding_line(finding, "%s: not enabled", setup_path(SETUP_UNIT));
    finding_why(finding,
                "routes, rules and settings are the kernel's and go with it; the unit sets "
                "them again, if somebody starts it");
    if (run_exists("systemctl")) {
        finding_run(finding, "systemctl %s%s%senable " UNIT_NAME, *setup_root ? "--root=" : "",
                    *setup_root ? root : "", *setup_root ? " " : "");
    } else {
        /* Another machine's systemd, under its root, and none here: what "enable" would do. */
        finding_run(finding, "mkdir -p %s", wants);
        finding_run(finding, "ln -sf " SETUP_UNIT " %s/" UNIT_NAME, wants);
    }
    free(wants);
    free(root);
}

/* The program of "ExecStart=-/usr/sbin/x boot": what is before its name are flags. */
static char *boot_program(void)
{
    char *value = unit_value(setup_path(SETUP_UNIT), "[Service]", "ExecStart");
    size_t flags = value ? strspn(value, "-@:+!") : 0;
    if (!value)
        return NULL;
    memmove(value, value + flags, strlen(value + flags) + 1);
    value[strcspn(value, " \t")] = '\0';
    return value;
}

static void boot_no_program(struct findings *findings, const char *program, int error)
{
    struct finding *finding =
        finding_add(findings, "unit-program", SEVERITY_ERROR,
                    "the program that shall set everything again at boot cannot be run");
    finding_line(finding, "%s: ExecStart=%s: %s", setup_path(SETUP_UNIT), program, strerror(error));
    finding_why(finding, "after a reboot there are neither routes nor rules, and the unit fails");
    finding_mend(finding, "install fixport-setup there (make install, or the package)");
}

static void boot_no_systemd(struct findings *findings)
{
    struct finding *finding =
        finding_add(findings, "no-systemd", SEVERITY_WARNING,
                    "what sets everything again at boot is a unit of systemd, and it does not run "
                    "here");
    finding_line(finding, "/run/systemd/system: %s", strerror(ENOENT));
    finding_why(finding, "after a reboot there are neither routes nor rules");
    finding_mend(finding, "have your init run \"fixport-setup boot\" when the network is up; with "
                          "[setup] persist = none nothing is said about it");
}

/* Under another root it is another machine's systemd that matters. */
void check_unit(struct facts *facts, struct findings *findings)
{
    if (!boot_entry(facts, &resource_file) || facts->journal.phase == JOURNAL_UNDOING)
        return;
    if (!*setup_root && access("/run/systemd/system", F_OK) < 0) {
        boot_no_systemd(findings);
        return;
    }
    if (!boot_is_enabled())
        boot_disabled(findings);
    char *program = boot_program();
    if (program && access(setup_path(program), X_OK) < 0)
        boot_no_program(findings, program, errno);
    free(program);
}

/* ---- networkd ---- */

/* One setting, looked for in all the files that may have it; the last one counts. */
struct setting {
    const char *section;
    const char *key;
    char *value; /* malloc'd; NULL: not set */
};

static void setting_read(struct setting *setting, const char *path)
{
    char *value = unit_value(setup_path(path), setting->section, setting->key);
    if (!value)
        return;
    free(setting->value);
    setting->value = value;
}

static int setting_is_conf(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".conf") == 0;
}

static int setting_order(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* "NAME FOLDER" for each drop-in of all folders, sorted; malloc'd. */
static char **setting_names(const char *drop_ins, size_t *count)
{
    char **names = NULL;
    *count = 0;
    for (size_t i = 0; i < FOLDERS; i++) {
        char *folder = text_format("%s/%s", folders[i], drop_ins);
        struct dirent **list = NULL;
        int entries = scandir(setup_path(folder), &list, setting_is_conf, NULL);
        for (int j = 0; j < entries; j++) {
            names = state_grow(names, (*count + 1) * sizeof(*names));
            names[(*count)++] = text_format("%s %zu", list[j]->d_name, i);
            free(list[j]);
        }
        free(list);
        free(folder);
    }
    if (*count)
        qsort(names, *count, sizeof(*names), setting_order);
    return names;
}

/* A name in an earlier folder stands for the same one in the later. */
static void setting_drop_ins(struct setting *setting, const char *drop_ins)
{
    size_t count;
    char **names = setting_names(drop_ins, &count);
    for (size_t i = 0; i < count; i++) {
        size_t length = (size_t)(strrchr(names[i], ' ') - names[i]);
        if (i > 0 && strncmp(names[i], names[i - 1], length + 1) == 0)
            continue;
        char *path = text_format("%s/%s/%.*s", folders[strtoul(names[i] + length, NULL, 10)],
                                 drop_ins, (int)length, names[i]);
        setting_read(setting, path);
        free(path);
    }
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* networkd.conf: the first folder that has one. */
static char *setting_of_all(const char *section, const char *key)
{
    struct setting setting = {section, key, NULL};
    bool found = false;
    for (size_t i = 0; i < FOLDERS && !found; i++) {
        char *path = text_format("%s/systemd/networkd.conf", folders[i]);
        found = access(setup_path(path), F_OK) == 0;
        if (found)
            setting_read(&setting, path);
        free(path);
    }
    setting_drop_ins(&setting, "systemd/networkd.conf.d");
    return setting.value;
}

/* A value of the interface's file; networkd.conf may have one for all (since 258). */
static char *setting_of(const char *file, const char *section, const char *key)
{
    const char *name = strrchr(file, '/');
    char *drop_ins = text_format("systemd/network/%s.d", name ? name + 1 : file);
    struct setting setting = {section, key, setting_of_all(section, key)};
    setting_read(&setting, file);
    setting_drop_ins(&setting, drop_ins);
    free(drop_ins);
    return setting.value;
}

static bool value_is(const char *value, const char *const words[])
{
    for (size_t i = 0; value && words[i]; i++)
        if (strcasecmp(value, words[i]) == 0)
            return true;
    return false;
}

/* Whether what is on the interface stays there when networkd is restarted. */
static bool networkd_keeps(const char *file)
{
    static const char *const yes[] = {"yes", "y", "true", "t", "on", "1", NULL};
    static const char *const no[] = {"no", "n", "false", "f", "off", "0", NULL};
    static const char *const fixed[] = {"static", NULL};
    char *keep = setting_of(file, "[Network]", "KeepConfiguration");
    char *foreign = setting_of_all("[Network]", "ManageForeignRoutes");
    bool keeps = value_is(keep, yes) || (value_is(keep, fixed) && value_is(foreign, no));
    free(keep);
    free(foreign);
    return keeps;
}

/* Whether networkd has been given routes of our protocol: then it sets them itself. */
static bool networkd_has_ours(const char *file)
{
    static const char *const ours[] = {TEXT(SETUP_ROUTE_PROTOCOL), "fixport", NULL};
    char *protocol = setting_of(file, "[Route]", "Protocol");
    bool has = value_is(protocol, ours);
    free(protocol);
    return has;
}

/* "configured" or "configuring" is networkd's word for its own. Return: its file, malloc'd; NULL.
 */
static char *networkd_file(const char *dev)
{
    char path[64];
    unsigned index = *dev ? if_nametoindex(dev) : 0;
    snprintf(path, sizeof(path), "/run/systemd/netif/links/%u", index);
    char *state = index ? unit_value(setup_path(path), NULL, "ADMIN_STATE") : NULL;
    char *file = NULL;
    if (state && strncmp(state, "configur", strlen("configur")) == 0)
        file = unit_value(setup_path(path), NULL, "NETWORK_FILE");
    free(state);
    return file;
}

/* The unit is started again whenever networkd is. */
static bool networkd_starts_ours(const struct facts *facts)
{
    char *part_of = unit_value(setup_path(SETUP_UNIT), "[Unit]", "PartOf");
    bool starts = boot_entry(facts, &resource_file) && part_of && strstr(part_of, NETWORKD);
    free(part_of);
    return starts;
}

static void networkd_found(const struct facts *facts, struct findings *findings, const char *dev,
                           const char *file)
{
    bool safe = networkd_keeps(file) || networkd_starts_ours(facts);
    const char *name = strrchr(file, '/');
    char *folder = text_format("/etc/systemd/network/%s.d", name ? name + 1 : file);
    struct finding *finding =
        finding_add(findings, "networkd-routes", safe ? SEVERITY_INFO : SEVERITY_WARNING,
                    "systemd-networkd removes our routes from %s when it %s", dev,
                    safe ? "configures it anew" : "is restarted");
    finding_line(finding, "%s", file);
    finding_why(finding, safe ? "after a restart of networkd they are there, but not after "
                                "\"networkctl reconfigure\""
                              : "an upgrade restarts it, and then packets to these addresses go "
                                "elsewhere or nowhere");
    if (safe) {
        finding_mend(finding,
                     "%s boot sets them again; for good: a section [Route] with "
                     "Destination=, Gateway= and Protocol=%d for each in %s/fixport.conf",
                     facts->setup_root, SETUP_ROUTE_PROTOCOL, folder);
    } else {
        char *quoted = shell_quoted(setup_path(folder));
        finding_mend(finding, "it counts from networkd's next start");
        finding_run(finding, "mkdir -p %s", quoted);
        finding_run(finding, "printf '[Network]\\nKeepConfiguration=yes\\n' >%s/fixport.conf",
                    quoted);
        free(quoted);
    }
    free(folder);
}

void check_networkd(struct facts *facts, struct findings *findings)
{
    if (!facts->has_wanted || !fact_process(NETWORKD))
        return;
    for (size_t i = 0; i < facts->machine.count; i++) {
        const char *dev = facts->machine.item[i].device;
        char *file = fact_goes_by(facts, dev) ? networkd_file(dev) : NULL;
        bool found = file && !networkd_has_ours(file);
        if (found)
            networkd_found(facts, findings, dev, file);
        free(file);
        if (found)
            return;
    }
}
