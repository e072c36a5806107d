/* SPDX-License-Identifier: MIT */
/*
 * A program that locks its memory means its own: the pool's pages are left out, so that they count
 * neither as its (VmLck in /proc/PID/status) nor against its limit (RLIMIT_MEMLOCK).
 *
 * The kernel compares the limit with all that is mapped (mm/mlock.c). Where mlockall() fails only
 * for the pool's sake, the other mappings are locked one by one.
 */
#include "shim.h"
#include "../pool/layout_size.h"

#include <sys/resource.h>

#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4 /* Linux 4.4 */
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define KERNELS_HALF (1ull << 63) /* [vsyscall] */

static bool within(uint64_t at, const void *memory, size_t size)
{
    return memory && at - (uintptr_t)memory < size;
}

static bool is_apart(const struct shim_pool *pool, uint64_t at)
{
    for (int i = 0; i < SHIM_NETNS; i++)
        if (within(at, (void *)atomic_load(&pool->netns[i].memory), pool->pool.shared_size))
            return true;
    return false;
}

static bool is_pool(uint64_t at)
{
    for (int i = 0; i < SHIM_POOLS; i++)
        if (within(at, shim_pools[i].pool.header, layout_pool_size()) ||
            within(at, shim_pools[i].pool.counters, shim_pools[i].pool.shared_size) ||
            is_apart(&shim_pools[i], at))
            return true;
    return false;
}

void lock_spare(const struct shim_pool *at)
{
    const struct pool *pool = &at->pool;
    if (pool->header)
        SYS(munlock, pool->header, layout_pool_size());
    if (pool->counters)
        SYS(munlock, pool->counters, pool->shared_size);
    for (int i = 0; i < SHIM_NETNS; i++)
        if (atomic_load(&at->netns[i].memory))
            SYS(munlock, atomic_load(&at->netns[i].memory), pool->shared_size);
}

/*
 * Goes through the lines of /proc/self/maps, which begin "5581c000-5581d000 ". Locks what is not
 * the pools' if @lock, as @how says. Return: its bytes; 0: not known.
 */
static uint64_t each_mapping(bool lock, int how)
{
    char buffer[1024];
    uint64_t bounds[2] = {0, 0}, bytes = 0;
    int field = 0;
    long got;
    int fd = (int)SYS(openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    while ((got = SYS(read, fd, buffer, sizeof(buffer))) > 0) {
        for (long i = 0; i < got; i++) {
            char c = buffer[i];
            if (c == '\n') {
                field = 0;
                bounds[0] = bounds[1] = 0;
            } else if (field < 2 && (c == '-' || c == ' ')) {
                if (++field < 2 || is_pool(bounds[0]) || bounds[0] >= KERNELS_HALF)
                    continue;
                bytes += bounds[1] - bounds[0];
                if (lock)
                    SYS(mlock2, bounds[0], bounds[1] - bounds[0], how);
            } else if (field < 2) {
                bounds[field] = bounds[field] << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
            }
        }
    }
    SYS(close, fd);
    return bytes;
}

/* Return: whether it could be done within the limit. */
static bool lock_others(int flags)
{
    struct rlimit limit;
    uint64_t bytes = each_mapping(false, 0);
    if (!bytes || SYS(prlimit64, 0, RLIMIT_MEMLOCK, NULL, &limit) != 0 || bytes > limit.rlim_cur)
        return false;
    if (flags & MCL_FUTURE && SYS(mlockall, flags & ~MCL_CURRENT) != 0)
        return false;
    each_mapping(true, flags & MCL_ONFAULT ? MLOCK_ONFAULT : 0);
    return true;
}

SHIM_EXPORT int mlockall(int flags)
{
    int saved = errno;
    int result = real.mlockall(flags);
    if (!shim_enabled() || !shim_pool_peek() || !(flags & MCL_CURRENT))
        return result;
    if (result && errno == ENOMEM && lock_others(flags)) {
        errno = saved;
        result = 0;
    }
    for (int i = 0; !result && i < SHIM_POOLS; i++)
        lock_spare(&shim_pools[i]);
    return result;
}
