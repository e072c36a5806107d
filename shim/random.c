/* SPDX-License-Identifier: MIT */
/*
 * Where the search for a port starts must not be guessed from outside (RFC 6056): SipHash of a
 * counter with a secret key (Aumasson, Bernstein: SipHash, 2012), 20 ns and no system call.
 *
 * The key lies on a page of its own that the kernel wipes in a forked child (MADV_WIPEONFORK,
 * Linux 4.14): the child sees zeros and gets another key. Without that the child repeats its
 * parent's sequence, which costs a few vain compare-and-swaps and nothing else.
 */
#include "shim.h"

#include <sys/random.h>

#ifdef __x86_64__
#define PAGE_BYTES 4096
#else
#define PAGE_BYTES 65536 /* the largest page size of the other processors supported */
#endif

static struct {
    _Alignas(PAGE_BYTES) _Atomic uint64_t key[2];
    _Atomic uint64_t counter;
    _Atomic uint64_t process; /* the pid; 0: not looked at, or just forked */
    char rest[PAGE_BYTES - 4 * sizeof(uint64_t)];
} secret;

/* At the first use in a process, so that one that never connects pays nothing. */
static void get_key(void)
{
    SYS(madvise, &secret, sizeof(secret), MADV_WIPEONFORK);
    uint64_t key[2] = {0, 0};
    if (SYS(getrandom, key, sizeof(key), GRND_NONBLOCK) != sizeof(key)) {
        struct timespec now = {.tv_sec = 0};
        SYS_CLOCK(CLOCK_MONOTONIC, &now);
        key[0] = (uint64_t)now.tv_nsec << 32 ^ (uintptr_t)&key;
        key[1] = (uint64_t)SYS(gettid);
    }
    atomic_store_explicit(&secret.key[1], key[1], memory_order_relaxed);
    atomic_store_explicit(&secret.key[0], key[0] | 1, memory_order_relaxed);
}

bool random_same_process(void)
{
    uint64_t pid = (uint64_t)SYS(getpid), before = atomic_load(&secret.process);
    if (before)
        return before == pid;
    SYS(madvise, &secret, sizeof(secret), MADV_WIPEONFORK);
    return atomic_compare_exchange_strong(&secret.process, &before, pid) || before == pid;
}

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static void rounds(uint64_t v[4], int count)
{
    while (count--) {
        v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
        v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
    }
}

uint32_t random_next(void)
{
    if (!atomic_load_explicit(&secret.key[0], memory_order_relaxed))
        get_key();
    uint64_t k0 = atomic_load_explicit(&secret.key[0], memory_order_relaxed);
    uint64_t k1 = atomic_load_explicit(&secret.key[1], memory_order_relaxed);
    uint64_t message = atomic_fetch_add_explicit(&secret.counter, 1, memory_order_relaxed);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull,
                     k0 ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull};
    v[3] ^= message;
    rounds(v, 1);
    v[0] ^= message;
    v[2] ^= 0xff;
    rounds(v, 3);
    return (uint32_t)((v[0] ^ v[1] ^ v[2] ^ v[3]) >> 32);
}
