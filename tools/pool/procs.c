/* SPDX-License-Identifier: MIT */
/*
 * Which processes use a pool. The pool itself knows no pids (another pod's would mean nothing
 * here), so /proc is asked who maps the file, as far as it shows that to this user: a report for
 * people, on which nothing else is built.
 *
 * /proc/PID/maps names a file by device and inode. On some file systems (btrfs, overlayfs) that is
 * another device than stat(2) says; so we map the file ourselves, without access and so without
 * any danger, and see how it is named then.
 */
#include "cmd.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct procs_file {
    unsigned major, minor;
    unsigned long inode;
};

/* One line of maps: "begin-end perms offset major:minor inode path". */
static bool maps_line(const char *line, unsigned long *begin, struct procs_file *file)
{
    return sscanf(line, "%lx-%*x %*s %*x %x:%x %lu", begin, &file->major, &file->minor,
                  &file->inode) == 4;
}

static bool procs_same(const struct procs_file *a, const struct procs_file *b)
{
    return a->inode == b->inode && a->major == b->major && a->minor == b->minor;
}

/* Looks for the mapping at @begin and tells its *@file; or, if @begin is 0, for one of *@file. */
static bool maps_find(const char *path, unsigned long begin, struct procs_file *file)
{
    FILE *maps = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (maps && !found && getline(&line, &size, maps) > 0) {
        unsigned long at;
        struct procs_file it;
        if (!maps_line(line, &at, &it))
            continue;
        found = begin ? at == begin : procs_same(&it, file);
        if (found)
            *file = it;
    }
    free(line);
    if (maps)
        fclose(maps);
    return found;
}

static bool procs_identify(int fd, struct procs_file *file)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *at = mmap(NULL, size, PROT_NONE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return false;
    bool found = maps_find("/proc/self/maps", (unsigned long)at, file);
    munmap(at, size);
    return found;
}

static uint64_t procs_netns(int pid)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void procs_command(int pid, char *command, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    FILE *file = fopen(path, "re");
    command[0] = '\0';
    if (!file)
        return;
    if (fgets(command, (int)size, file))
        command[strcspn(command, "\n")] = '\0';
    fclose(file);
}

/* Of two holders with one inode number, the living: numbers are used again. */
static int procs_slot(const struct snapshot *snapshot, const struct tally *tally, uint64_t netns)
{
    int dead = -1;
    for (int i = 0; netns && i < (int)POOL_HOLDERS; i++) {
        if (!snapshot->pool.holder[i].cookie || snapshot->pool.holder[i].netns != netns)
            continue;
        if (tally->holder[i].alive)
            return i;
        dead = i;
    }
    return dead;
}

static int procs_pid(const struct dirent *entry)
{
    return isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
}

static size_t procs_total(DIR *proc)
{
    size_t total = 0;
    for (struct dirent *entry; (entry = readdir(proc));)
        total += procs_pid(entry) > 0;
    rewinddir(proc);
    return total;
}

/* Return: NULL if there is no memory; then the list lacks one. */
static struct proc_entry *procs_add(struct proc_list *list, int pid, uint64_t netns)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        struct proc_entry *more = realloc(list->entry, room * sizeof(*more));
        if (!more)
            return NULL;
        list->entry = more;
        list->room = room;
    }
    list->entry[list->count] = (struct proc_entry){.pid = pid, .netns = netns, .slot = -1};
    return &list->entry[list->count++];
}

static void procs_add_user(struct proc_list *list, int pid, const struct snapshot *snapshot,
                           const struct tally *tally)
{
    struct proc_entry *entry = procs_add(list, pid, procs_netns(pid));
    if (!entry)
        return;
    entry->slot = procs_slot(snapshot, tally, entry->netns);
    procs_command(pid, entry->command, sizeof(entry->command));
}

void procs_mapping(const struct snapshot *snapshot, const struct tally *tally,
                   struct proc_list *list)
{
    struct progress progress = {.what = "looking for processes that use the pool"};
    struct procs_file file = {0};
    size_t done = 0;
    DIR *proc = opendir("/proc");
    *list = (struct proc_list){0};
    if (!proc || !procs_identify(snapshot->fd, &file)) {
        if (proc)
            closedir(proc);
        return;
    }
    size_t total = procs_total(proc);
    for (struct dirent *entry; (entry = readdir(proc));) {
        char path[64];
        int pid = procs_pid(entry);
        if (pid <= 0)
            continue;
        progress_step(&progress, done++, total);
        snprintf(path, sizeof(path), "/proc/%d/maps", pid);
        if (maps_find(path, 0, &file))
            procs_add_user(list, pid, snapshot, tally);
    }
    progress_end(&progress);
    closedir(proc);
}

void procs_everyone(struct proc_list *list)
{
    DIR *proc = opendir("/proc");
    *list = (struct proc_list){0};
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        int pid = procs_pid(entry);
        uint64_t netns = pid > 0 ? procs_netns(pid) : 0;
        if (netns)
            procs_add(list, pid, netns);
    }
    if (proc)
        closedir(proc);
}

void procs_free(struct proc_list *list)
{
    free(list->entry);
    *list = (struct proc_list){0};
}
