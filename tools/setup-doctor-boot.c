/* SPDX-License-Identifier: MIT */
/*
 * What was applied must outlive a reboot, and a restart of what manages the network. Both go wrong
 * much later than they were made wrong, when nobody thinks of it any more.
 *
 * Who takes away other people's routes (read in the sources, mid-2026):
 *   networkd        when it configures an interface (at its start, "networkctl reconfigure"; many
 *                   versions also when the carrier goes) it removes from that interface what no
 *                   .network file has, whatever the route's protocol, but "kernel".
 *                   ManageForeignRoutes=no in [Network] of networkd.conf stops that, since 246;
 *                   before, nothing did. Interfaces that it does not manage it leaves alone
 *   NetworkManager  since 1.36 it does not see routes of protocols such as ours; before, it took
 *                   them for the interface's own, and away with its connection only
 */
#include "setup-doctor.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNIT_NAME "fixport-setup.service"
#define UNIT_FOLDER "/etc/systemd/system"
#define UNIT_PATH UNIT_FOLDER "/" UNIT_NAME
#define DROP_IN_FOLDER "/etc/systemd/networkd.conf.d"
#define DROP_IN DROP_IN_FOLDER "/zz-fixport.conf"

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
    char *root = fact_quoted(setup_root);
    finding_line(finding, "%s: not enabled", setup_path(UNIT_PATH));
    finding_why(finding,
                "routes, rules and settings are the kernel's and go with it; the unit sets "
                "them again, if somebody starts it");
    finding_run(finding, "systemctl %s%s%senable " UNIT_NAME, *setup_root ? "--root=" : "",
                *setup_root ? root : "", *setup_root ? " " : "");
    free(root);
}

/* The program of "ExecStart=-/usr/sbin/x boot": what is before its name are flags. */
static char *boot_program(void)
{
    char *value = unit_value(setup_path(UNIT_PATH), "[Service]", "ExecStart");
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
    finding_line(finding, "%s: ExecStart=%s: %s", setup_path(UNIT_PATH), program, strerror(error));
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

/* networkd's word for an interface is "configured" or "configuring": it is its own. */
static bool networkd_has(const char *dev)
{
    char path[64];
    unsigned index = *dev ? if_nametoindex(dev) : 0;
    snprintf(path, sizeof(path), "/run/systemd/netif/links/%u", index);
    char *state = index ? unit_value(setup_path(path), NULL, "ADMIN_STATE") : NULL;
    bool has = state && strncmp(state, "configur", strlen("configur")) == 0;
    free(state);
    return has;
}

static bool networkd_is_no(const char *value)
{
    static const char *const no[] = {"no", "n", "false", "f", "off", "0"};
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        if (strcasecmp(value, no[i]) == 0)
            return true;
    return false;
}

static int networkd_is_conf(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".conf") == 0;
}

static int networkd_order(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Reads the setting of one file, if it has it. */
static void networkd_read(const char *path, bool *manages)
{
    char *value = unit_value(setup_path(path), "[Network]", "ManageForeignRoutes");
    if (value && *value)
        *manages = !networkd_is_no(value);
    free(value);
}

/* All names of drop-ins, sorted; the same name in an earlier folder stands for those in later. */
static void networkd_drop_ins(bool *manages)
{
    char **names = NULL;
    size_t count = 0;
    for (size_t i = 0; i < FOLDERS; i++) {
        char *folder = text_format("%s/systemd/networkd.conf.d", folders[i]);
        struct dirent **list = NULL;
        int entries = scandir(setup_path(folder), &list, networkd_is_conf, NULL);
        for (int j = 0; j < entries; j++) {
            names = state_grow(names, (count + 1) * sizeof(*names));
            names[count++] = text_format("%s %zu", list[j]->d_name, i);
            free(list[j]);
        }
        free(list);
        free(folder);
    }
    qsort(names, count, sizeof(*names), networkd_order);
    for (size_t i = 0; i < count; i++) {
        char *space = strrchr(names[i], ' ');
        size_t length = (size_t)(space - names[i]) + 1;
        if (i == 0 || strncmp(names[i], names[i - 1], length) != 0) {
            char *path = text_format("%s/systemd/networkd.conf.d/%.*s",
                                     folders[strtoul(space, NULL, 10)], (int)length - 1, names[i]);
            networkd_read(path, manages);
            free(path);
        }
    }
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static bool networkd_manages(void)
{
    bool manages = true;
    for (size_t i = 0; i < FOLDERS; i++) {
        char *path = text_format("%s/systemd/networkd.conf", folders[i]);
        bool there = access(setup_path(path), F_OK) == 0;
        if (there)
            networkd_read(path, &manages);
        free(path);
        if (there)
            break;
    }
    networkd_drop_ins(&manages);
    return manages;
}

static void networkd_found(struct findings *findings, const char *dev)
{
    struct finding *finding = finding_add(findings, "networkd-routes", SEVERITY_WARNING,
                                          "systemd-networkd manages %s and will remove our routes "
                                          "there",
                                          dev);
    char *folder = fact_quoted(setup_path(DROP_IN_FOLDER)),
         *file = fact_quoted(setup_path(DROP_IN));
    finding_line(finding, "networkd.conf: ManageForeignRoutes=yes, the default");
    finding_why(finding, "when it configures the interface anew, after a restart or an upgrade of "
                         "it, it drops routes that it has not made itself");
    finding_mend(finding,
                 "%s with the lines \"[Network]\" and \"ManageForeignRoutes=no\" (systemd 246 "
                 "or later); it counts from networkd's next start",
                 setup_path(DROP_IN));
    finding_run(finding, "mkdir -p %s", folder);
    finding_run(finding, "printf '[Network]\\nManageForeignRoutes=no\\n' >%s", file);
    free(folder);
    free(file);
}

void check_networkd(struct facts *facts, struct findings *findings)
{
    if (!fact_process("systemd-networkd") || !networkd_manages())
        return;
    for (size_t i = 0; facts->has_wanted && i < facts->machine.count; i++) {
        const char *dev = facts->machine.item[i].device;
        if (fact_goes_by(facts, dev) && networkd_has(dev)) {
            networkd_found(findings, dev);
            return;
        }
    }
}
