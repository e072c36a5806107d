/* SPDX-License-Identifier: MIT */
/*
 * Holders: see holder.h for the theory of operation.
 *
 * A namespace's slot is looked for in a window that begins where its cookie hashes to, and only
 * then everywhere, so that the start of a process touches a few cache lines and not the whole
 * table. Two processes of one namespace that come first at the same moment may get two slots; that
 * costs a slot and is harmless, because inside one namespace the kernel keeps ports apart.
 */
#include "holder.h"
#include "sys.h"
#include "text.h"

#include <string.h>
#include <sys/utsname.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

#define JOIN_WINDOW 16u
#define JOIN_TRIES 20

uint64_t holder_netns(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);
    long result = SYS(getsockopt, fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size);
    if (result == 0)
        return cookie;
    struct stat st;
    if (result == -EBADF || result == -ENOTSOCK ||
        SYS(newfstatat, AT_FDCWD, "/proc/thread-self/ns/net", &st, 0) != 0)
        return 0;
    return st.st_ino | 1ull << 63;
}

/* Tries to get the lock of one slot. @type: F_RDLCK, F_WRLCK, F_UNLCK. Return: 0, -EAGAIN, ... */
static int slot_lock(int fd, uint32_t slot, short type)
{
    struct flock lock = {.l_type = type,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(POOL_HOLDER_LOCK_BASE + slot),
                         .l_len = 1};
    int result = (int)SYS(fcntl, fd, F_OFD_SETLK, &lock);
    return result == -EACCES ? -EAGAIN : result;
}

bool holder_alive(int fd, uint32_t slot)
{
    struct flock lock = {.l_type = F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(POOL_HOLDER_LOCK_BASE + slot),
                         .l_len = 1};
    return SYS(fcntl, fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* What rests already goes on resting, but its last holder has no right to it any more. */
static uint64_t word_buried(uint64_t word, uint64_t now)
{
    return word_make(WORD_RESTING, 0, word_state(word) == WORD_RESTING ? word_when(word) : now);
}

/* A set of slots. */
struct slots {
    uint64_t bits[POOL_HOLDERS / 64];
};

static void slots_add(struct slots *slots, uint32_t slot)
{
    slots->bits[slot / 64] |= 1ull << slot % 64;
}

/* @holder: slot + 1, as words have it, or anything. */
static bool slots_have(const struct slots *slots, uint32_t holder)
{
    uint32_t slot = holder - 1;
    return slot < POOL_HOLDERS && (slots->bits[slot / 64] >> slot % 64 & 1);
}

/* Whose words are to be taken back. */
struct burial {
    const struct pool *pool;
    int fd;
    uint64_t now;
    struct slots dead; /* the caller has their exclusive locks */
    struct slots looked, locked; /* at whose locks we looked, and who had them */
};

/* The lock of a slot that seems to be unused, as it was when it was first asked for. */
static bool slot_was_locked(struct burial *burial, uint32_t slot)
{
    if (!slots_have(&burial->looked, slot + 1)) {
        slots_add(&burial->looked, slot);
        if (holder_alive(burial->fd, slot))
            slots_add(&burial->locked, slot);
    }
    return slots_have(&burial->locked, slot + 1);
}

/*
 * Whether a word is nobody's, though it says that somebody has it: anybody can have written it, and
 * nobody else would ever take it back. Who takes a slot has its lock and writes its cookie before he
 * takes a word: so the lock is looked at, and the cookie after the word. (A cookie alone says nothing
 * if it is 0: a holder that lives has none after the shares were truncated.)
 */
static bool word_is_nobodys(struct burial *burial, uint64_t word)
{
    enum word_state state = word_state(word);
    uint32_t slot = word_holder(word) - 1;
    if (state == WORD_FREE || state > WORD_CLOSING)
        return state != WORD_FREE;
    if (slot >= POOL_HOLDERS)
        return state != WORD_RESTING;
    return !atomic_load(&burial->pool->holder[slot].cookie) && !slot_was_locked(burial, slot) &&
           !atomic_load(&burial->pool->holder[slot].cookie);
}

static void lane_bury(struct burial *burial, uint32_t place, uint32_t lane)
{
    const struct pool *pool = burial->pool;
    _Atomic uint64_t *words = &pool->word[((size_t)place * pool->lanes + lane) * POOL_PAGE_PORTS];
    for (uint32_t i = 0; i < POOL_PAGE_PORTS; i++) {
        uint64_t word = atomic_load_explicit(&words[i], memory_order_acquire);
        if (word && (slots_have(&burial->dead, word_holder(word)) || word_is_nobodys(burial, word)))
            atomic_compare_exchange_strong(&words[i], &word, word_buried(word, burial->now));
    }
}

/*
 * Puts every word of the dead holders, and those that are nobody's, into quarantine, in one pass.
 * Places that the policy has never touched are holes: reading them would allocate them.
 */
static void words_bury(struct burial *burial)
{
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        uint32_t place = burial->pool->header->pagemap[page];
        for (uint32_t lane = 0; place < burial->pool->places && lane < burial->pool->lanes; lane++)
            lane_bury(burial, place, lane);
    }
}

/* The last of it: who dies before leaves a slot that is dead as it was. */
static void slot_clear(const struct pool *pool, uint32_t slot)
{
    atomic_store(&pool->holder[slot].cookie, 0);
    atomic_fetch_add_explicit(&pool->counters->buried, 1, memory_order_relaxed);
}

static void slot_bury(const struct pool *pool, int fd, uint32_t slot)
{
    struct burial burial = {.pool = pool, .fd = fd, .now = sys_now_ms()};
    slots_add(&burial.dead, slot);
    words_bury(&burial);
    slot_clear(pool, slot);
}

static uint64_t netns_inode(void)
{
    struct stat st;
    if (SYS(newfstatat, AT_FDCWD, "/proc/thread-self/ns/net", &st, 0) != 0)
        return 0;
    return st.st_ino;
}

static void command_name(char *name, size_t size)
{
    memset(name, 0, size);
    int fd = (int)SYS(openat, AT_FDCWD, "/proc/self/comm", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    long got = SYS(read, fd, name, size - 1);
    SYS(close, fd);
    for (long i = 0; i < got; i++)
        if (name[i] == '\n')
            name[i] = '\0';
}

/* Makes a slot this namespace's. The caller has its exclusive lock, so nobody else writes it. */
static void slot_fill(struct pool_holder *holder, uint64_t cookie)
{
    struct utsname host = {.nodename = ""};
    struct timespec now = {.tv_sec = 0};
    SYS(uname, &host);
    SYS_CLOCK(CLOCK_REALTIME, &now);
    atomic_store(&holder->taken, 0);
    atomic_store(&holder->reconciled_ms, 0);
    holder->netns = netns_inode();
    holder->since = (uint64_t)now.tv_sec;
    holder->pid = (uint32_t)SYS(getpid);
    holder->uid = (uint32_t)SYS(geteuid);
    memset(holder->host, 0, sizeof(holder->host));
    struct text text = text_begin(holder->host, sizeof(holder->host));
    text_string_n(&text, host.nodename, sizeof(host.nodename));
    command_name(holder->command, sizeof(holder->command));
    atomic_store_explicit(&holder->cookie, cookie, memory_order_release);
}

void holder_restore(const struct pool *pool, uint32_t slot, uint64_t cookie)
{
    if (atomic_load(&pool->holder[slot].cookie) == 0)
        slot_fill(&pool->holder[slot], cookie);
}

/* Joins the slot if it is this namespace's. -EAGAIN: somebody is just writing it. */
static int slot_join(const struct pool *pool, int fd, uint32_t slot, uint64_t cookie)
{
    int result = slot_lock(fd, slot, F_RDLCK);
    if (result)
        return result;
    if (atomic_load(&pool->holder[slot].cookie) == cookie)
        return 0;
    slot_lock(fd, slot, F_UNLCK); /* buried in between */
    return -ENOENT;
}

/* Makes an unused or dead slot this namespace's. -EAGAIN: it is alive. */
static int slot_claim(const struct pool *pool, int fd, uint32_t slot, uint64_t cookie)
{
    int result = slot_lock(fd, slot, F_WRLCK);
    if (result)
        return result;
    if (atomic_load(&pool->holder[slot].cookie) != 0)
        slot_bury(pool, fd, slot);
    slot_fill(&pool->holder[slot], cookie);
    return slot_lock(fd, slot, F_RDLCK);
}

/* The slot of this namespace among @window slots from @home. -EAGAIN: somebody is writing it. */
static int window_join(const struct pool *pool, int fd, uint64_t cookie, uint32_t home,
                       uint32_t window)
{
    int result = -ENOENT;
    for (uint32_t i = 0; i < window; i++) {
        uint32_t slot = (home + i) % POOL_HOLDERS;
        if (atomic_load(&pool->holder[slot].cookie) != cookie)
            continue;
        int joined = slot_join(pool, fd, slot, cookie);
        if (joined == 0)
            return (int)slot;
        result = joined == -ENOENT ? -EAGAIN : joined;
    }
    return result;
}

/*
 * A slot for a namespace that has none: an unused one, else a dead one. An unused slot that is
 * locked may be just being claimed for this very namespace: the patient come again for it.
 */
static int window_claim(const struct pool *pool, int fd, uint64_t cookie, uint32_t home,
                        uint32_t window, bool patient)
{
    for (int dead = 0; dead <= 1; dead++) {
        for (uint32_t i = 0; i < window; i++) {
            uint32_t slot = (home + i) % POOL_HOLDERS;
            if ((atomic_load(&pool->holder[slot].cookie) != 0) != dead)
                continue;
            int result = slot_claim(pool, fd, slot, cookie);
            if (result == 0)
                return (int)slot;
            if (result != -EAGAIN || (!dead && patient))
                return result;
        }
    }
    return -ENOSPC;
}

/* Joins the namespace's slot, or claims one. -EAGAIN: come again. */
static int window_enter(const struct pool *pool, int fd, uint64_t cookie, uint32_t home,
                        uint32_t window, bool patient, bool *is_new)
{
    int result = window_join(pool, fd, cookie, home, window);
    *is_new = result == -ENOENT || (!patient && result < 0);
    return *is_new ? window_claim(pool, fd, cookie, home, window, patient) : result;
}

int holder_join(const struct pool *pool, int fd, uint64_t cookie, bool *is_new)
{
    uint32_t home = (uint32_t)(cookie * 0x9e3779b97f4a7c15ull >> 32) % POOL_HOLDERS;
    int result = -ENOSPC;
    bool unused;
    is_new = is_new ? is_new : &unused;
    for (int tries = 0; tries < JOIN_TRIES; tries++) {
        result = window_enter(pool, fd, cookie, home, JOIN_WINDOW, true, is_new);
        if (result != -EAGAIN)
            break;
        SYS(nanosleep, &(struct timespec){.tv_nsec = 50000}, NULL);
    }
    if (result != -EAGAIN && result != -ENOSPC)
        return result;
    /* The window is full, or its lock is held by somebody who does not go on: look everywhere. */
    return window_enter(pool, fd, cookie, home, POOL_HOLDERS, false, is_new);
}

/* Locks the slots of those that have died, and no others. Return: how many. */
static int dead_lock(const struct pool *pool, int fd, struct slots *dead)
{
    int count = 0;
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        if (atomic_load(&pool->holder[slot].cookie) == 0 || slot_lock(fd, slot, F_WRLCK) != 0)
            continue;
        if (atomic_load(&pool->holder[slot].cookie) != 0) {
            slots_add(dead, slot);
            count++;
        } else {
            slot_lock(fd, slot, F_UNLCK); /* buried in between */
        }
    }
    return count;
}

int holder_bury_dead(const struct pool *pool, int fd, uint64_t now)
{
    struct burial burial = {.pool = pool, .fd = fd, .now = now};
    int count = dead_lock(pool, fd, &burial.dead);
    words_bury(&burial);
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        if (!slots_have(&burial.dead, slot + 1))
            continue;
        slot_clear(pool, slot);
        slot_lock(fd, slot, F_UNLCK);
    }
    return count;
}
