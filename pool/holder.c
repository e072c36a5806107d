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
#define FUTURE_MS 60000 /* so far ahead nobody has taken a word */
#define CONDEMNED (1ull << 62) /* in a cookie: nobody joins that slot any more */

static uint64_t netns_inode(void)
{
    struct stat st;
    if (SYS(newfstatat, AT_FDCWD, "/proc/thread-self/ns/net", &st, 0) != 0)
        return 0;
    return st.st_ino;
}

uint64_t holder_netns(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);
    long result = SYS(getsockopt, fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size);
    if (result == 0)
        return cookie;
    return result == -EBADF || result == -ENOTSOCK ? 0 : holder_netns_thread();
}

uint64_t holder_netns_thread(void)
{
    uint64_t inode = netns_inode();
    return inode ? inode | 1ull << 63 : 0;
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

static uint64_t cpu_ns(void)
{
    struct timespec used = {.tv_sec = 0};
    SYS(clock_gettime, CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

/* A set of slots. */
struct slots {
    uint64_t bits[POOL_SLOTS / 64 + 1];
};

static void slots_add(struct slots *slots, uint32_t slot)
{
    slots->bits[slot / 64] |= 1ull << slot % 64;
}

static bool slots_have(const struct slots *slots, uint32_t slot)
{
    return slot < POOL_SLOTS && (slots->bits[slot / 64] >> slot % 64 & 1);
}

/* Whose words are to be taken back. */
struct burial {
    const struct pool *pool;
    int fd;
    uint64_t now; /* before the first look at a lock */
    uint64_t until; /* cpu_ns(): no more looks then */
    struct slots dead; /* condemned */
    struct slots looked, locked; /* at whose locks we looked, and who had them */
};

/* The lock of a guest, or of a slot that seems to be unused, as it was when it was first asked for. */
static bool slot_was_locked(struct burial *burial, uint32_t slot)
{
    if (!slots_have(&burial->looked, slot)) {
        slots_add(&burial->looked, slot);
        if (cpu_ns() >= burial->until || holder_alive(burial->fd, slot))
            slots_add(&burial->locked, slot);
    }
    return slots_have(&burial->locked, slot);
}

/*
 * Whether a word is nobody's, though it says that somebody has it: a guest that has died, or anybody can
 * have written it, and nobody else would ever take it back. Who takes a slot writes its cookie and has
 * its lock before he takes a word: so the lock is looked at, and the cookie after the word. (A cookie
 * alone says nothing if it is 0: a holder that lives has none after the shares were truncated.) A guest
 * has no cookie; but what is younger than the look at its lock may be that of one who has come since.
 */
static bool word_is_nobodys(struct burial *burial, uint64_t word)
{
    enum word_state state = word_state(word);
    uint32_t slot = word_holder(word) - 1;
    if (state == WORD_FREE || state > WORD_CLOSING)
        return state != WORD_FREE;
    if (slot >= POOL_SLOTS)
        return state != WORD_RESTING;
    if (slot >= POOL_HOLDERS)
        return state != WORD_RESTING &&
               (word_when(word) < burial->now || word_when(word) > burial->now + FUTURE_MS) &&
               !slot_was_locked(burial, slot);
    return !atomic_load(&burial->pool->holder[slot].cookie) && !slot_was_locked(burial, slot) &&
           !atomic_load(&burial->pool->holder[slot].cookie);
}

/* Return: how many words were buried. */
static unsigned lane_bury(struct burial *burial, uint32_t place, uint32_t lane)
{
    const struct pool *pool = burial->pool;
    _Atomic uint64_t *words = &pool->word[((size_t)place * pool->lanes + lane) * POOL_PAGE_PORTS];
    unsigned count = 0;
    for (uint32_t i = 0; i < POOL_PAGE_PORTS; i++) {
        uint64_t word = atomic_load_explicit(&words[i], memory_order_acquire);
        if (word && (slots_have(&burial->dead, word_holder(word) - 1) || word_is_nobodys(burial, word)))
            count += atomic_compare_exchange_strong(&words[i], &word, word_buried(word, burial->now));
    }
    return count;
}

/*
 * Puts every word of the dead holders, and those that are nobody's, into quarantine, in one pass.
 */
static unsigned words_bury(struct burial *burial)
{
    const struct pool *pool = burial->pool;
    uint8_t held[POOL_LANES_MAX];
    unsigned count = 0;
    for (uint32_t page = 0; page < POOL_PORT_PAGES; page++) {
        uint32_t place = pool->header->pagemap[page];
        if (place >= pool->places)
            continue;
        pool_held(pool, place, held);
        for (uint32_t lane = 0; lane < pool->lanes; lane++)
            if (held[lane])
                count += lane_bury(burial, place, lane);
    }
    return count;
}

/*
 * Makes sure that no process has that slot, and none joins it from now on.
 * Return: its cookie, condemned; 0: somebody has it, or it changes just now.
 */
static uint64_t slot_condemn(const struct pool *pool, int fd, uint32_t slot)
{
    _Atomic uint64_t *cookie = &pool->holder[slot].cookie;
    uint64_t before = atomic_load(cookie), condemned = before | CONDEMNED;
    if (holder_alive(fd, slot) || !atomic_compare_exchange_strong(cookie, &before, condemned))
        return 0;
    if (!holder_alive(fd, slot))
        return condemned;
    atomic_compare_exchange_strong(cookie, &condemned, before); /* joined in between */
    return 0;
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

/* Says who has a slot that is this namespace's. */
static void slot_fill(struct pool_holder *holder)
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
}

void holder_restore(const struct pool *pool, uint32_t slot, uint64_t cookie)
{
    if (slot >= POOL_HOLDERS || atomic_load(&pool->holder[slot].cookie) != 0)
        return;
    slot_fill(&pool->holder[slot]);
    atomic_store_explicit(&pool->holder[slot].cookie, cookie, memory_order_release);
}

/* Joins the slot if it is this namespace's. -ENOENT: it is not any more. */
static int slot_join(const struct pool *pool, int fd, uint32_t slot, uint64_t cookie)
{
    int result = slot_lock(fd, slot, F_RDLCK);
    if (result)
        return result;
    if (atomic_load(&pool->holder[slot].cookie) == cookie)
        return 0;
    slot_lock(fd, slot, F_UNLCK);
    return -ENOENT;
}

/* Makes an unused or dead slot this namespace's. -EBUSY: it is alive. -EAGAIN: others want it, too. */
static int slot_claim(const struct pool *pool, int fd, uint32_t slot, uint64_t cookie)
{
    uint64_t condemned = slot_condemn(pool, fd, slot);
    if (!condemned)
        return holder_alive(fd, slot) ? -EBUSY : -EAGAIN;
    if (condemned != CONDEMNED) {
        struct burial burial = {
            .pool = pool, .fd = fd, .now = sys_now_ms(), .until = cpu_ns() + HOLDER_LOOK_NS};
        slots_add(&burial.dead, slot);
        words_bury(&burial);
        atomic_fetch_add_explicit(&pool->counters->buried, 1, memory_order_relaxed);
    }
    if (!atomic_compare_exchange_strong(&pool->holder[slot].cookie, &condemned, cookie))
        return -EAGAIN;
    int result = slot_join(pool, fd, slot, cookie);
    if (!result)
        slot_fill(&pool->holder[slot]);
    return result == -ENOENT ? -EAGAIN : result;
}

/* A place among the slots: where a namespace looks for its own. */
struct window {
    const struct pool *pool;
    int fd;
    uint64_t cookie;
    uint32_t home;
    uint32_t size;
    uint64_t until; /* cpu_ns(); 0: to the end */
    bool patient; /* who is just claiming a slot may be of this very namespace: come again */
};

/* The slot of this namespace. -ENOENT: it has none; -EAGAIN: somebody is writing it. */
static int window_join(const struct window *window)
{
    int result = -ENOENT;
    for (uint32_t i = 0; i < window->size; i++) {
        uint32_t slot = (window->home + i) % POOL_HOLDERS;
        if (atomic_load(&window->pool->holder[slot].cookie) != window->cookie)
            continue;
        int joined = slot_join(window->pool, window->fd, slot, window->cookie);
        if (joined == 0)
            return (int)slot;
        result = joined == -ENOENT ? -EAGAIN : joined;
    }
    return result;
}

/* A slot for a namespace that has none: an unused one, else a dead one. -ENOSPC: all are alive. */
static int window_claim(const struct window *window)
{
    for (int dead = 0; dead <= 1; dead++) {
        for (uint32_t i = 0; i < window->size; i++) {
            uint32_t slot = (window->home + i) % POOL_HOLDERS;
            uint64_t cookie = atomic_load(&window->pool->holder[slot].cookie);
            if (((cookie & ~CONDEMNED) != 0) != dead)
                continue;
            if (cookie == CONDEMNED && window->patient)
                return -EAGAIN;
            int result = slot_claim(window->pool, window->fd, slot, window->cookie);
            if (result == 0)
                return (int)slot;
            if (result != -EBUSY && (result != -EAGAIN || window->patient))
                return result;
            if (window->until && cpu_ns() > window->until)
                return -ENOSPC;
        }
    }
    return -ENOSPC;
}

/* Joins the namespace's slot, or claims one. -EAGAIN: come again. */
static int window_enter(const struct window *window, bool *is_new)
{
    int result = window_join(window);
    *is_new = result == -ENOENT || (!window->patient && result < 0);
    return *is_new ? window_claim(window) : result;
}

static uint32_t hash(uint64_t cookie)
{
    return (uint32_t)(cookie * 0x9e3779b97f4a7c15ull >> 32);
}

/* No slot can be had. */
static int guest_join(const struct pool *pool, int fd, uint64_t cookie)
{
    uint32_t slot = POOL_HOLDERS + hash(cookie ^ pool->seed) % (POOL_SLOTS - POOL_HOLDERS);
    int result = slot_lock(fd, slot, F_RDLCK);
    atomic_fetch_add_explicit(&pool->counters->guests, 1, memory_order_relaxed);
    return result ? result : (int)slot;
}

int holder_join(const struct pool *pool, int fd, uint64_t cookie, bool *is_new)
{
    struct window window = {.pool = pool,
                            .fd = fd,
                            .cookie = cookie,
                            .home = hash(cookie) % POOL_HOLDERS,
                            .size = JOIN_WINDOW,
                            .patient = true};
    int result = -ENOSPC;
    bool unused;
    is_new = is_new ? is_new : &unused;
    for (int tries = 0; tries < JOIN_TRIES; tries++) {
        result = window_enter(&window, is_new);
        if (result != -EAGAIN)
            break;
        SYS(nanosleep, &(struct timespec){.tv_nsec = 50000}, NULL);
    }
    if (result != -EAGAIN && result != -ENOSPC)
        return result;
    /* The window is full, or somebody writes to it all the time: look everywhere. */
    window.patient = false;
    window.size = POOL_HOLDERS;
    window.until = cpu_ns() + HOLDER_LOOK_NS;
    result = window_enter(&window, is_new);
    return result == -EAGAIN || result == -ENOSPC ? guest_join(pool, fd, cookie) : result;
}

int holder_bury_dead(const struct pool *pool, int fd, bool patient)
{
    struct burial burial = {.pool = pool,
                            .fd = fd,
                            .now = sys_now_ms(),
                            .until = cpu_ns() + (patient ? HOLDER_PATIENCE_NS : HOLDER_LOOK_NS)};
    int count = 0;
    for (uint32_t i = 0; i < POOL_HOLDERS && cpu_ns() < burial.until; i++) {
        uint32_t slot = (uint32_t)(burial.now + i) % POOL_HOLDERS;
        if (atomic_load(&pool->holder[slot].cookie) && slot_condemn(pool, fd, slot)) {
            slots_add(&burial.dead, slot);
            count++;
        }
    }
    unsigned words = words_bury(&burial);
    for (uint32_t slot = 0; slot < POOL_HOLDERS; slot++) {
        uint64_t cookie = atomic_load(&pool->holder[slot].cookie);
        if (slots_have(&burial.dead, slot) && cookie & CONDEMNED)
            atomic_compare_exchange_strong(&pool->holder[slot].cookie, &cookie, 0);
    }
    atomic_fetch_add_explicit(&pool->counters->buried, (unsigned)count, memory_order_relaxed);
    return count ? count : words > 0;
}
