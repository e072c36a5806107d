/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool reclaim: take back what nobody uses any more, now, instead of when ports run short.
 *
 * Dead holders are buried: that needs nothing but their lock. A living holder's leases can only be
 * compared with the kernel's sockets from inside its network namespace; root enters it through any
 * process that is there (in a child of ours, so that this process stays where it is), others can
 * only look at their own. While we look, the holder's lock is held shared, as one of its processes
 * would: so its slot cannot pass to another namespace under our hands. Of namespaces that root cannot
 * enter, the node's connection tracking is asked, and of all ports that rest, too (tracked.c).
 *
 * A comparison concludes in two steps (lease.c), so all are made twice, a little apart. Anybody can be
 * a thousand holders: so there is an end to it, and who is looked at first is left to chance.
 */
#include "json.h"
#include "tracked.h"

#include "../../pool/holder.h"
#include "../../pool/lease.h"
#include "../../pool/sys.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>

#define RECLAIM_APART_NS 30000000 /* more than a tick of the coarse clock */
#define RECLAIM_KEEPERS 3 /* names */
#define RECLAIM_CHILD_S 5 /* for one namespace */
#define RECLAIM_MOST_MS 20000 /* for the first round, and as much for the second */

/* What became of a holder. Also exit statuses of our child; others than those of a failed tool. */
enum verdict {
    VERDICT_NONE = 10, /* slot unused */
    VERDICT_BURIED,
    VERDICT_COMPARED,
    VERDICT_NOTHING, /* it has no lease, as far as was seen */
    VERDICT_TRACKED, /* unseen, but connection tracking was asked */
    VERDICT_UNSEEN, /* none of its processes is visible here, or not enterable */
    VERDICT_ERROR, /* the kernel did not say */
    VERDICT_LATE, /* there was no time left */
};

struct reclaim {
    struct pool pool;
    int fd;
    uint64_t own; /* this process' namespace */
    struct proc_list everyone;
    struct proc_list users; /* looked for if some holder is VERDICT_UNSEEN */
    enum verdict verdict[POOL_HOLDERS];
    struct tracked_result tracked;
};

static uint64_t reclaim_netns(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint64_t cookie = fd < 0 ? 0 : holder_netns(fd);
    if (fd >= 0)
        close(fd);
    return cookie;
}

/* Keeps a slot from being buried and given away while we work on it. */
static bool reclaim_pin(int fd, uint32_t slot, short type)
{
    struct flock lock = {.l_type = type,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(POOL_HOLDER_LOCK_BASE + slot),
                         .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* In the namespace that @cookie names, or so the pool says: hold it against the kernel's word. */
static enum verdict reclaim_compare(const struct reclaim *reclaim, uint32_t slot)
{
    uint64_t cookie = reclaim->pool.holder[slot].cookie;
    enum verdict verdict = VERDICT_UNSEEN;
    if (!cookie || reclaim_netns() != cookie || !reclaim_pin(reclaim->fd, slot, F_RDLCK))
        return VERDICT_UNSEEN;
    if (reclaim->pool.holder[slot].cookie == cookie)
        verdict = lease_reconcile(&reclaim->pool, slot, sys_now_ms()) < 0 ? VERDICT_ERROR
                                                                         : VERDICT_COMPARED;
    reclaim_pin(reclaim->fd, slot, F_UNLCK);
    return verdict;
}

static void reclaim_child(const struct reclaim *reclaim, uint32_t slot, int pid)
{
    char path[64];
    alarm(RECLAIM_CHILD_S);
    snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET) != 0)
        _exit(VERDICT_UNSEEN);
    _exit(reclaim_compare(reclaim, slot));
}

/* Some process in the namespace with that inode. Return: -1 if none is visible. */
static int reclaim_guide(const struct reclaim *reclaim, uint64_t netns)
{
    for (size_t i = 0; netns && i < reclaim->everyone.count; i++)
        if (reclaim->everyone.entry[i].netns == netns)
            return reclaim->everyone.entry[i].pid;
    return -1;
}

/* By way of a child that moves into the namespace of some process there. */
static enum verdict reclaim_abroad(const struct reclaim *reclaim, uint32_t slot)
{
    int status = 0;
    int pid = reclaim_guide(reclaim, reclaim->pool.holder[slot].netns);
    if (pid < 0)
        return VERDICT_UNSEEN;
    pid_t child = fork();
    if (child == 0)
        reclaim_child(reclaim, slot, pid);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    bool told = child > 0 && WIFEXITED(status) && WEXITSTATUS(status) >= VERDICT_NONE;
    return told ? (enum verdict)WEXITSTATUS(status) : VERDICT_ERROR;
}

static enum verdict reclaim_holder(const struct reclaim *reclaim, uint32_t slot)
{
    uint64_t cookie = reclaim->pool.holder[slot].cookie;
    if (!cookie)
        return VERDICT_NONE;
    return cookie == reclaim->own ? reclaim_compare(reclaim, slot) : reclaim_abroad(reclaim, slot);
}

/* Looks once at those that have the verdict @which. */
static void reclaim_round(struct reclaim *reclaim, const struct tally *tally, enum verdict which,
                          uint32_t count)
{
    struct progress progress = {.what = "looking at network namespaces"};
    uint64_t began = sys_now_ms();
    uint32_t first = 0, done = 0;
    (void)!getrandom(&first, sizeof(first), GRND_NONBLOCK);
    for (uint32_t i = 0; i < POOL_HOLDERS; i++) {
        uint32_t slot = (first + i) % POOL_HOLDERS;
        if (reclaim->verdict[slot] != which)
            continue;
        progress_step(&progress, done++, count);
        reclaim->verdict[slot] = sys_now_ms() - began < RECLAIM_MOST_MS ? reclaim_holder(reclaim, slot)
                                                                        : VERDICT_LATE;
        if (reclaim->verdict[slot] == VERDICT_UNSEEN && !tally_sum(&tally->holder[slot].count))
            reclaim->verdict[slot] = VERDICT_NOTHING;
    }
    progress_end(&progress);
}

/* What could not be entered, and what rests: of that nobody minds if it goes on to rest. */
static void reclaim_tracked(struct reclaim *reclaim, const struct tally *tally, uint32_t quarantine)
{
    bool unseen[POOL_HOLDERS], any = false;
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        unseen[slot] = reclaim->verdict[slot] == VERDICT_UNSEEN && tally->holder[slot].count.letgo;
        any |= unseen[slot];
    }
    const char *why = tracked_reclaim(&reclaim->pool, unseen, quarantine, &reclaim->tracked);
    if (why && any)
        say_error(0, "connection tracking was not asked: %s", why);
    for (uint32_t slot = 0; !why && slot < POOL_HOLDERS; slot++)
        if (unseen[slot])
            reclaim->verdict[slot] = VERDICT_TRACKED;
}

static void reclaim_all(struct reclaim *reclaim, const struct snapshot *before,
                        const struct tally *tally)
{
    holder_bury_dead(&reclaim->pool, reclaim->fd, true);
    procs_everyone(&reclaim->everyone);
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        uint64_t was = before->pool.holder[slot].cookie;
        bool is = reclaim->pool.holder[slot].cookie == was;
        reclaim->verdict[slot] = !was ? VERDICT_NONE : is ? VERDICT_LATE : VERDICT_BURIED;
    }
    reclaim_round(reclaim, tally, VERDICT_LATE, tally->holders_alive + tally->holders_dead);
    nanosleep(&(struct timespec){.tv_nsec = RECLAIM_APART_NS}, NULL);
    reclaim_round(reclaim, tally, VERDICT_COMPARED, tally->holders_alive);
    procs_free(&reclaim->everyone);
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (reclaim->verdict[slot] > VERDICT_COMPARED) {
            procs_mapping(before, tally, &reclaim->users);
            break;
        }
    if (geteuid() == 0)
        reclaim_tracked(reclaim, tally, before->policy.quarantine_ms);
}

/* Whether a living holder has leases that may be nobody's any more, for all that is known here. */
static bool reclaim_is_all(const struct reclaim *reclaim, const struct tally *after)
{
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        const struct tally_count *count = &after->holder[slot].count;
        if (reclaim->verdict[slot] == VERDICT_ERROR || reclaim->verdict[slot] == VERDICT_LATE ||
            reclaim->tracked.unknown[slot] ||
            (reclaim->verdict[slot] == VERDICT_UNSEEN && count->used + count->letgo))
            return false;
    }
    return true;
}

/* Leases that @slot had and has no longer, rests aside. Others' connects meanwhile blur it. */
static uint32_t reclaim_back(const struct tally *before, const struct tally *after,
                             const struct reclaim *reclaim, uint32_t slot)
{
    const struct tally_count *was = &before->holder[slot].count;
    const struct tally_count *is = &after->holder[slot].count;
    uint32_t had = was->used + was->letgo;
    uint32_t has = reclaim->verdict[slot] == VERDICT_BURIED ? 0 : is->used + is->letgo;
    return had > has ? had - has : 0;
}

static uint32_t reclaim_guests(const struct tally *before, const struct tally *after)
{
    uint32_t had = before->guests.used + before->guests.letgo;
    uint32_t has = after->guests.used + after->guests.letgo;
    return had > has ? had - has : 0;
}

static const char *verdict_name(enum verdict verdict)
{
    return verdict == VERDICT_BURIED     ? "buried"
           : verdict == VERDICT_COMPARED ? "compared"
           : verdict == VERDICT_NOTHING  ? "nothing"
           : verdict == VERDICT_TRACKED  ? "tracked"
           : verdict == VERDICT_UNSEEN   ? "unseen"
           : verdict == VERDICT_LATE     ? "late"
                                         : "error";
}

/* Who keeps a holder alive whose namespace cannot be entered: often one that has ended. */
static void reclaim_keepers(const struct reclaim *reclaim, uint32_t slot)
{
    unsigned shown = 0;
    char name[32];
    for (size_t i = 0; i < reclaim->users.count; i++) {
        const struct proc_entry *entry = &reclaim->users.entry[i];
        if (entry->slot != (int)slot || ++shown > RECLAIM_KEEPERS)
            continue;
        say_clean(entry->command, sizeof(entry->command), say_utf8(), name, sizeof(name));
        printf("%s%d %s%s", shown == 1 ? "; kept by " : ", ", entry->pid, name,
               entry->visitor ? ", which is elsewhere" : "");
    }
    for (size_t i = 0; !shown && i < reclaim->users.lockers && i < PROCS_LOCKERS; i++) {
        const struct proc_locker *locker = &reclaim->users.locker[i];
        say_clean(locker->command, sizeof(locker->command), say_utf8(), name, sizeof(name));
        printf("%s%d %s, which holds locks on %u slots", i ? ", " : "; perhaps kept by ", locker->pid,
               name, locker->slots);
    }
}

static void reclaim_say(const struct reclaim *reclaim, const struct snapshot *snapshot, uint32_t slot,
                        uint32_t back)
{
    enum verdict verdict = reclaim->verdict[slot];
    char host[256];
    printf("%s (slot %u): ", show_holder(snapshot, (int)slot, say_utf8(), host, sizeof(host)),
           slot);
    if (verdict == VERDICT_BURIED)
        printf("dead; buried, %u lease%s taken back\n", back, back == 1 ? "" : "s");
    else if (verdict == VERDICT_COMPARED)
        printf("alive; %u lease%s without a connection taken back\n", back, back == 1 ? "" : "s");
    else if (verdict == VERDICT_NOTHING)
        printf("alive; it has no lease\n");
    else if (verdict == VERDICT_TRACKED)
        printf("alive; cannot be entered from here; connection tracking has seen %u lease%s end, "
               "taken back, and does not know of %u let go\n",
               back, back == 1 ? "" : "s", reclaim->tracked.unknown[slot]);
    else if (verdict == VERDICT_UNSEEN) {
        printf("alive; left alone: its network namespace cannot be entered from here%s",
               geteuid() ? " (root can)" : "");
        reclaim_keepers(reclaim, slot);
        putchar('\n');
    } else if (verdict == VERDICT_LATE)
        printf("alive; left alone: so many others took too long; call it again\n");
    else
        printf("alive; left alone: the kernel did not list its sockets\n");
}

static json_t *reclaim_json_holder(const struct reclaim *reclaim, const struct snapshot *snapshot,
                                   uint32_t slot, uint32_t back)
{
    enum verdict verdict = reclaim->verdict[slot];
    json_t *keepers = json_array();
    const struct pool_holder *holder = &snapshot->pool.holder[slot];
    json_t *object = json_object();
    json_put_number(object, "slot", slot);
    json_put_text(object, "host", holder->host, sizeof(holder->host));
    json_put(object, "result", json_string(verdict_name(verdict)));
    json_put_number(object, "reclaimed", back);
    for (size_t i = 0; verdict != VERDICT_COMPARED && i < reclaim->users.count; i++) {
        const struct proc_entry *entry = &reclaim->users.entry[i];
        if (entry->slot != (int)slot)
            continue;
        json_t *keeper = json_object();
        json_put_number(keeper, "pid", (uint64_t)entry->pid);
        json_put_text(keeper, "command", entry->command, sizeof(entry->command));
        json_array_append_new(keepers, keeper);
    }
    json_put(object, "kept_by", keepers);
    json_put_number(object, "unknown", reclaim->tracked.unknown[slot]);
    return object;
}

static int reclaim_json(const struct reclaim *reclaim, const struct snapshot *snapshot,
                        const struct tally *before, const struct tally *after)
{
    json_t *root = json_object();
    json_t *list = json_array();
    uint64_t total = reclaim_guests(before, after);
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        enum verdict verdict = reclaim->verdict[slot];
        uint32_t back = reclaim_back(before, after, reclaim, slot);
        if (verdict == VERDICT_NONE)
            continue;
        total += back;
        json_array_append_new(list, reclaim_json_holder(reclaim, snapshot, slot, back));
    }
    json_put_number(root, "reclaimed", total);
    json_put_number(root, "freed", reclaim->tracked.freed);
    json_put(root, "holders", list);
    return json_say(root);
}

static int reclaim_people(const struct reclaim *reclaim, const struct snapshot *snapshot,
                          const struct tally *before, const struct tally *after)
{
    unsigned total = 0, guests = reclaim_guests(before, after);
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        uint32_t back = reclaim_back(before, after, reclaim, slot);
        if (reclaim->verdict[slot] == VERDICT_NONE)
            continue;
        total += back;
        reclaim_say(reclaim, snapshot, slot, back);
    }
    if (guests)
        printf("guests, namespaces that found no slot: %u lease%s of dead ones taken back\n", guests,
               guests == 1 ? "" : "s");
    total += guests;
    printf("%u lease%s taken back; they rest for %g s before another holder may have them\n", total,
           total == 1 ? "" : "s", snapshot->policy.quarantine_ms / 1000.0);
    if (reclaim->tracked.freed)
        printf("%u of those that rest may be had at once, because connection tracking has forgotten them\n",
               reclaim->tracked.freed);
    return EXIT_OK;
}

/* What is done again and again says only what it cannot do, in words that do not change each time. */
static int reclaim_left_alone(const struct reclaim *reclaim, const struct snapshot *snapshot)
{
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++)
        if (reclaim->verdict[slot] == VERDICT_UNSEEN || reclaim->verdict[slot] == VERDICT_ERROR)
            reclaim_say(reclaim, snapshot, slot, 0);
        else if (reclaim->tracked.unknown[slot])
            say_error(0, "of slot %u there are leases let go of which connection tracking does not know", slot);
    return EXIT_OK;
}

/* Everything is counted before and after, from two snapshots. */
static int reclaim_report(const struct pool_request *request, bool quiet, const char *path,
                          struct reclaim *reclaim, const struct snapshot *snapshot,
                          const struct tally *before)
{
    struct snapshot later;
    int error;
    reclaim_all(reclaim, snapshot, before);
    error = snapshot_take(path, &later);
    if (error)
        return say_pool_error(path, error);
    struct tally *after = tally_take(&later);
    int status = EXIT_FAILED;
    say_limit(0);
    if (after && quiet)
        status = reclaim_left_alone(reclaim, snapshot);
    else if (after)
        status = request->json ? reclaim_json(reclaim, snapshot, before, after)
                               : reclaim_people(reclaim, snapshot, before, after);
    if (after && status == EXIT_OK && !reclaim_is_all(reclaim, after))
        status = say_error(EXIT_FAILED, "%s: not all leases could be looked at", path);
    tally_free(after);
    snapshot_free(&later);
    return status;
}

int reclaim_once(const struct pool_request *request, bool quiet)
{
    char path[PATH_MAX];
    struct snapshot snapshot;
    struct reclaim reclaim = {.own = reclaim_netns()};
    int status = target_snapshot(request, path, &snapshot);
    if (status)
        return status;
    struct tally *before = tally_take(&snapshot);
    int error = before ? pool_open(path, &reclaim.pool, &reclaim.fd) : 0;
    if (!before) {
        status = EXIT_FAILED;
    } else if (error) {
        status = say_pool_error(path, error);
    } else {
        status = reclaim_report(request, quiet, path, &reclaim, &snapshot, before);
        pool_close(&reclaim.pool);
        close(reclaim.fd);
    }
    procs_free(&reclaim.users);
    tally_free(before);
    snapshot_free(&snapshot);
    return status;
}

int command_reclaim(const struct pool_request *request)
{
    return request->every ? follow_reclaim(request) : reclaim_once(request, false);
}
