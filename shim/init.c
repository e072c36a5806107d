/* SPDX-License-Identifier: MIT */
/*
 * Starting: the environment, and the pool.
 *
 * All of it happens in the constructor, although most processes never connect: a daemon opens its
 * connections after it has changed its root, its user and closed every descriptor, when the pool's
 * path is out of reach. What is done here costs a handful of system calls. What fails here is only
 * said at the first connection, and tried again then.
 */
#include "shim.h"
#include "../pool/text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

struct shim shim;
struct shim_pool shim_pools[SHIM_POOLS];

static _Atomic uint32_t pools_used;
static _Atomic uint64_t tried_ms; /* to open a pool */
static _Atomic uint64_t looked_ms; /* whether it is still the one at its path */

/* Anybody can make a file in /dev/shm: it must be this user's alone, and have the rules asked for. */
static int check_private(struct pool *pool, int fd)
{
    struct stat st;
    uint32_t generation = atomic_load(&pool->header->generation);
    if (SYS(newfstatat, AT_FDCWD, shim.path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_dev == pool->device && st.st_ino == pool->inode && st.st_uid == (uid_t)SYS(geteuid) &&
        !(st.st_mode & 077) && st.st_nlink == 1 &&
        memcmp(pool->policy[generation & 1], &shim.policy, sizeof(shim.policy)) == 0)
        return 0;
    pool_close(pool);
    SYS(close, fd);
    return -EKEYREJECTED;
}

static int open_or_create(struct pool *pool, int *fd)
{
    int result = pool_open(shim.path, pool, fd);
    if (result == -ENOENT && shim.has_policy) {
        struct pool_options options = {.mode = 0600, .group = (gid_t)-1};
        result = pool_create(shim.path, &shim.policy, &options);
        if (!result || result == -EEXIST)
            result = pool_open(shim.path, pool, fd);
    }
    return !result && shim.private ? check_private(pool, *fd) : result;
}

static void open_into(struct shim_pool *at)
{
    int fd;
    uint64_t own = netns_own(); /* before: so that one descriptor is enough */
    atomic_store(&at->broken, 0); /* an earlier attempt may have failed here */
    atomic_store(&at->torn, 0);
    int result = open_or_create(&at->pool, &fd);
    if (result) {
        fault_set(shim.path, pool_strerror(result));
    } else {
        if (shim_enabled()) /* nothing is locked when a program starts */
            lock_spare(at);
        fault_clear();
        netns_join_own(at, fd, own);
        SYS(close, fd);
        atomic_store_explicit(&shim.current, at, memory_order_release);
    }
}

/* One attempt, by one thread. A used-up attachment cannot be used again: threads may be in it. */
static void try_open(void)
{
    if (!netns_lock())
        return;
    guard_install();
    unsigned guarded = guard_begin(); /* a program may have been started with SIGBUS blocked */
    uint32_t used = atomic_load(&pools_used);
    if (used >= SHIM_POOLS) {
        fault_set(shim.path, "it was replaced too often for this process");
    } else {
        open_into(&shim_pools[used]);
        if (shim_pools[used].pool.header)
            atomic_store(&pools_used, used + 1);
    }
    guard_end(guarded);
    netns_unlock();
}

static bool usable(struct shim_pool *at)
{
    if (at && atomic_load_explicit(&at->torn, memory_order_relaxed) && !netns_mend(at))
        return false;
    return at && !atomic_load_explicit(&at->broken, memory_order_relaxed) &&
           atomic_load_explicit(&at->pool.header->state, memory_order_relaxed) == POOL_LIVE;
}

/* Whether another file has the pool's name by now. That it has none, or is out of reach, is no news. */
static bool replaced(const struct shim_pool *at)
{
    struct stat st;
    return SYS(newfstatat, AT_FDCWD, shim.path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           (at->pool.device != st.st_dev || at->pool.inode != st.st_ino);
}

/* Whether it is the one to have, if only its shares were in reach: whoever has their folder can take them away
 * and put them back all the time, and would use all attachments up. */
static bool is_torn_only(const struct shim_pool *at)
{
    return atomic_load(&at->torn) && !atomic_load(&at->broken) &&
           atomic_load(&at->pool.header->state) == POOL_LIVE && !replaced(at);
}

/* Whether a second has passed since *@last; then another one begins. For one of many threads. */
static bool second_passed(_Atomic uint64_t *last, uint64_t now)
{
    uint64_t before = atomic_load_explicit(last, memory_order_relaxed);
    return now - before >= 1000 && atomic_compare_exchange_strong(last, &before, now);
}

bool shim_pool_moved(struct shim_pool *at, uint64_t now)
{
    if (!second_passed(&looked_ms, now))
        return false;
    guard_renew();
    netns_leave_idle(at, now);
    if (!replaced(at))
        return false;
    try_open();
    atomic_store(&at->broken, 1); /* only now: other threads need one all the time */
    return true;
}

struct shim_pool *shim_pool(uint64_t now)
{
    struct shim_pool *at = shim_pool_peek();
    if (usable(at))
        return at;
    if (!shim.path[0])
        return NULL; /* the environment is wrong: nothing to try */
    if (second_passed(&tried_ms, now)) {
        if (at && !fault_text())
            fault_set(shim.path, "it was removed, replaced or truncated");
        if (!at || !is_torn_only(at))
            try_open();
    }
    at = shim_pool_peek();
    if (!usable(at) && netns_locked() && netns_lock()) { /* another thread is just opening it */
        netns_unlock();
        at = shim_pool_peek();
    }
    return usable(at) ? at : NULL;
}

/* ---- the environment ---- */

static void say_variable(const char *name, const char *value, const char *why)
{
    char what[160];
    struct text text = text_begin(what, sizeof(what));
    text_string(&text, name);
    text_char(&text, '=');
    text_string_n(&text, value, 60);
    fault_set(what, why);
}

/* Copies a path. Return: false if it is empty or does not fit. */
static bool copy_path(char *to, size_t size, const char *from)
{
    struct text text = text_begin(to, size);
    text_string(&text, from);
    if (text.length < size)
        return text.length > 0;
    to[0] = '\0';
    return false;
}

/*
 * A user's own pool for what the environment asks: the same wish, the same pool. In a folder that is
 * the user's alone, if there is one.
 */
static void private_path(void)
{
    struct stat st;
    uint64_t user = (uint64_t)SYS(geteuid);
    struct text text = text_begin(shim.path, sizeof(shim.path));
    text_string(&text, "/run/user/");
    text_number(&text, user, 10);
    if (SYS(newfstatat, AT_FDCWD, shim.path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
        st.st_uid == user && !(st.st_mode & 077)) {
        text_string(&text, "/fixport-");
    } else {
        text = text_begin(shim.path, sizeof(shim.path));
        text_string(&text, "/dev/shm/fixport-");
        text_number(&text, user, 10);
        text_char(&text, '-');
    }
    shim.private = true;
    text_number(&text, policy_checksum(&shim.policy), 16);
}

/* Return: false if what it says cannot be used. */
static bool read_policy(const char *ports, const char *to)
{
    struct parse_reason why = {.text = ""};
    struct portset set;
    policy_init(&shim.policy);
    if (portset_parse(ports, &set, &why)) {
        say_variable("FIXPORT_PORTS", ports, why.text);
        return false;
    }
    if (policy_add_rule(&shim.policy, "environment", ports, to, &why)) {
        say_variable("FIXPORT_TO", to ? to : "", why.text);
        return false;
    }
    shim.has_policy = true;
    return true;
}

static bool read_environment(void)
{
    const char *pool = getenv("FIXPORT_POOL");
    const char *ports = getenv("FIXPORT_PORTS");
    const char *to = getenv("FIXPORT_TO");
    const char *log = getenv("FIXPORT_LOG");
    const char *on_error = getenv("FIXPORT_ON_ERROR");
    if (log)
        copy_path(shim.log, sizeof(shim.log), log);
    shim.refuse = on_error && strcmp(on_error, "fail") == 0;
    if (on_error && !shim.refuse && strcmp(on_error, "pass") != 0) {
        say_variable("FIXPORT_ON_ERROR", on_error, "allowed are pass and fail");
        return false;
    }
    if (ports && !read_policy(ports, to))
        return false;
    if (!ports && to) {
        say_variable("FIXPORT_TO", to, "it needs FIXPORT_PORTS too");
        return false;
    }
    if (pool && !copy_path(shim.path, sizeof(shim.path), pool)) {
        say_variable("FIXPORT_POOL", pool, "a path of 1 to 255 bytes is allowed");
        return false;
    }
    if (!pool && ports)
        private_path();
    return true;
}

static bool disabled(void)
{
    const char *value = getenv("FIXPORT_DISABLE");
    return value && value[0] && strcmp(value, "0") != 0;
}

/* In a setuid program (loaded there by /etc/ld.so.preload) the environment is not to be trusted. */
static bool secure(void)
{
    return !getauxval || getauxval(AT_SECURE) != 0;
}

static enum shim_phase start(void)
{
    /* Weak symbols: where one is missing there is no C library to intercept. */
    if (!syscall || !__errno_location || !getenv)
        return SHIM_INERT;
    int saved = errno;
    clock_init();
    real_init();
    fault_init();
    shim.secure = secure();
    bool trusted = !shim.secure;
    shim.stack_top = getauxval ? getauxval(AT_RANDOM) : 0;
    if (trusted && disabled()) {
        errno = saved;
        return SHIM_INERT;
    }
    copy_path(shim.path, sizeof(shim.path), POOL_DEFAULT_PATH);
    if (!trusted || read_environment())
        try_open();
    else
        shim.path[0] = '\0';
    errno = saved;
    return SHIM_READY;
}

void shim_start(void)
{
    uint32_t expected = SHIM_NEW;
    if (!atomic_compare_exchange_strong(&shim.phase, &expected, SHIM_STARTING))
        return;
    enum shim_phase phase = start();
    atomic_store_explicit(&shim.phase, phase, memory_order_release);
    if (phase == SHIM_READY || (phase == SHIM_INERT && syscall))
        check_answer();
}

__attribute__((constructor)) static void construct(void)
{
    shim_start();
}
