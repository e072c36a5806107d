/* SPDX-License-Identifier: MIT */
/*
 * Which processes use a pool. The pool itself knows no pids (another pod's would mean nothing
 * here), so /proc is asked who maps the file, and from where on, which tells the slots that a process
 * keeps alive; and who has it open with locks on it, as far as it shows that to this user: a report for
 * people, on which nothing else is built.
 *
 * /proc/PID/maps names a file by device and inode. On some file systems (btrfs, overlayfs) that is
 * another device than stat(2) says; so we map the file ourselves, without access and so without
 * any danger, and see how it is named then.
 */
#include "cmd.h"

#include "../../pool/sys.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
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

/* Tells the *@file that is mapped at @begin. */
static bool maps_find(const char *path, unsigned long begin, struct procs_file *file)
{
    FILE *maps = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (maps && !found && getline(&line, &size, maps) > 0) {
        unsigned long at;
        found = maps_line(line, &at, file) && at == begin;
    }
    free(line);
    if (maps)
        fclose(maps);
    return found;
}

/* What /proc is looked through for. */
struct procs_walk {
    const struct snapshot *snapshot;
    const struct tally *tally;
    struct proc_list *list;
    struct procs_file file; /* as maps call it */
    struct stat st; /* as stat(2) does */
    uint64_t until; /* sys_now_ms() */
};

/* Anybody can have a million mappings, and make a thousand processes that have. */
static bool procs_late(struct procs_walk *walk)
{
    walk->list->cut |= sys_now_ms() >= walk->until || walk->list->count >= PROCS_MOST;
    return walk->list->cut;
}

/*
 * Which slots process @pid keeps by anchors (shim/netns.c). Return: whether it maps the file at all;
 * @keeps: POOL_SLOTS of them.
 */
static bool maps_slots(struct procs_walk *walk, int pid, bool keeps[POOL_SLOTS])
{
    char path[64];
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "re");
    for (unsigned i = 1; maps && getline(&line, &size, maps) > 0; i++) {
        struct procs_file it;
        unsigned long at, offset;
        if (i % 1024 == 0 && procs_late(walk))
            break;
        if (!maps_line(line, &at, &it) || !procs_same(&it, &walk->file))
            continue;
        found = true;
        if (sscanf(line, "%*x-%*x ---s %lx ", &offset) == 1 && offset >= POOL_ANCHOR_STEP &&
            offset / POOL_ANCHOR_STEP <= POOL_SLOTS)
            keeps[offset / POOL_ANCHOR_STEP - 1] = true;
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

static void procs_add_user(struct procs_walk *walk, int pid, int slot)
{
    const struct pool_holder *holder = walk->snapshot->pool.holder;
    struct proc_entry *entry = procs_add(walk->list, pid, procs_netns(pid));
    if (!entry)
        return;
    entry->slot = slot >= 0 ? slot : procs_slot(walk->snapshot, walk->tally, entry->netns);
    entry->visitor = slot >= 0 && slot < (int)POOL_HOLDERS && entry->netns && holder[slot].netns &&
                     entry->netns != holder[slot].netns;
    procs_command(pid, entry->command, sizeof(entry->command));
}

static void procs_look_at_maps(struct procs_walk *walk, int pid)
{
    bool keeps[POOL_SLOTS] = {false};
    bool any = false;
    if (!maps_slots(walk, pid, keeps))
        return;
    for (int slot = 0; slot < (int)POOL_SLOTS && walk->list->count < PROCS_MOST; slot++) {
        if (keeps[slot])
            procs_add_user(walk, pid, slot);
        any |= keeps[slot];
    }
    if (!any)
        procs_add_user(walk, pid, -1);
}

/* How many slots the locks cover that /proc/PID/fdinfo/FD tells of. */
static uint32_t locks_count(struct procs_walk *walk, int pid, const char *fd)
{
    char path[64], end[32];
    char *line = NULL;
    size_t size = 0;
    uint64_t start, count = 0;
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.12s", pid, fd);
    FILE *info = fopen(path, "re");
    for (unsigned i = 1; info && getline(&line, &size, info) > 0; i++) {
        if (i % 1024 == 0 && procs_late(walk))
            break;
        if (sscanf(line, "lock: %*d: %*s %*s %*s %*d %*[^ ] %" SCNu64 " %31s", &start, end) != 2)
            continue;
        uint64_t first = start > POOL_HOLDER_LOCK_BASE ? start - POOL_HOLDER_LOCK_BASE : 0;
        uint64_t last = strcmp(end, "EOF") == 0 ? UINT64_MAX : strtoull(end, NULL, 10);
        last = last < POOL_HOLDER_LOCK_BASE ? 0 : last - POOL_HOLDER_LOCK_BASE + 1;
        last = last > POOL_SLOTS ? POOL_SLOTS : last;
        count += last > first ? last - first : 0;
    }
    free(line);
    if (info)
        fclose(info);
    return count > POOL_SLOTS ? POOL_SLOTS : (uint32_t)count;
}

static void procs_add_locker(struct proc_list *list, int pid, uint32_t slots)
{
    size_t at = list->lockers < PROCS_LOCKERS ? list->lockers : PROCS_LOCKERS - 1;
    if (list->lockers++ >= PROCS_LOCKERS && slots <= list->locker[at].slots)
        return;
    for (; at > 0 && list->locker[at - 1].slots < slots; at--)
        list->locker[at] = list->locker[at - 1];
    list->locker[at] = (struct proc_locker){.pid = pid, .slots = slots};
    procs_command(pid, list->locker[at].command, sizeof(list->locker[at].command));
}

static void procs_look_at_locks(struct procs_walk *walk, int pid)
{
    char path[64];
    struct stat st;
    uint32_t slots = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *folder = pid == getpid() ? NULL : opendir(path);
    for (struct dirent *entry; folder && !procs_late(walk) && (entry = readdir(folder));)
        if (fstatat(dirfd(folder), entry->d_name, &st, 0) == 0 && st.st_ino == walk->st.st_ino &&
            st.st_dev == walk->st.st_dev)
            slots += locks_count(walk, pid, entry->d_name);
    if (folder)
        closedir(folder);
    if (slots)
        procs_add_locker(walk->list, pid, slots > POOL_SLOTS ? POOL_SLOTS : slots);
}

void procs_mapping(const struct snapshot *snapshot, const struct tally *tally,
                   struct proc_list *list)
{
    struct progress progress = {.what = "looking for processes that use the pool"};
    struct procs_walk walk = {.snapshot = snapshot,
                              .tally = tally,
                              .list = list,
                              .until = sys_now_ms() + PROCS_MS};
    size_t done = 0;
    DIR *proc = opendir("/proc");
    *list = (struct proc_list){0};
    if (!proc || fstat(snapshot->fd, &walk.st) < 0 || !procs_identify(snapshot->fd, &walk.file)) {
        if (proc)
            closedir(proc);
        return;
    }
    size_t total = procs_total(proc);
    for (struct dirent *entry; !procs_late(&walk) && (entry = readdir(proc));) {
        int pid = procs_pid(entry);
        if (pid <= 0)
            continue;
        progress_step(&progress, done++, total);
        procs_look_at_maps(&walk, pid);
        procs_look_at_locks(&walk, pid);
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
