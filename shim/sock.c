/* SPDX-License-Identifier: MIT */
/*
 * Facts about sockets and addresses, by bare system calls that leave errno alone.
 */
#include "shim.h"

#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>

#define STACK_LEAST (8u << 20) /* nothing else is mapped so near below the first thread's stack */
#define PAGE(address) ((address) / 4096) /* the smallest page size there is */

/*
 * Whether eight bytes can be read, without touching them: rt_sigprocmask(2) copies its new mask
 * first and only then finds that it does not know what to do with it (kernel/signal.c). It is the
 * cheapest system call that looks at a pointer and changes nothing.
 */
static bool readable(uintptr_t at)
{
    return SYS(rt_sigprocmask, ~0, at, NULL, 8) != -EFAULT;
}

/*
 * Whether first..last lie in stack frames of this call's callers, which are there for certain: on
 * this frame's page, or between it and the top of the first thread's stack, where the kernel has
 * put AT_RANDOM's bytes (fs/binfmt_elf.c).
 */
static bool on_stack(uintptr_t first, uintptr_t last)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t top = shim.stack_top;
    if (PAGE(first) == PAGE(here) && PAGE(last) == PAGE(here))
        return true;
    return top > here && top - here < STACK_LEAST && first > here && last < top;
}

bool address_copy(struct sockaddr_storage *copy, const void *address, socklen_t length)
{
    /* NULL is readable() because it means "no mask" there. */
    if (!address || length < sizeof(struct sockaddr_in) || length > sizeof(*copy))
        return false;
    uintptr_t first = (uintptr_t)address;
    uintptr_t last = first + length - 1;
    if (last < first)
        return false;
    if (!on_stack(first, last) &&
        (!readable(first) || (PAGE(last) != PAGE(first) && !readable(last - 7))))
        return false;
    memcpy(copy, address, length);
    if (length < sizeof(struct sockaddr_in6))
        memset((char *)copy + length, 0, sizeof(struct sockaddr_in6) - length);
    return true;
}

uint16_t address_port(const struct sockaddr_storage *address)
{
    uint8_t port[2];
    memcpy(port, (const char *)address + offsetof(struct sockaddr_in, sin_port), 2);
    return (uint16_t)(port[0] << 8 | port[1]);
}

void address_set_port(struct sockaddr_storage *address, uint16_t port)
{
    uint8_t bytes[2] = {(uint8_t)(port >> 8), (uint8_t)port};
    memcpy((char *)address + offsetof(struct sockaddr_in, sin_port), bytes, 2);
}

bool addr_is_any(const struct sockaddr *address)
{
    static const uint8_t zeros[16];
    if (address->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr == 0;
    return memcmp(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, zeros, 16) == 0;
}

bool address_same(const struct sockaddr *one, const struct sockaddr *other)
{
    if (one->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)one)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)other)->sin_addr.s_addr;
    return memcmp(&((const struct sockaddr_in6 *)(const void *)one)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)other)->sin6_addr, 16) == 0;
}

int sock_set(int fd, int level, int name, int value)
{
    return (int)SYS(setsockopt, fd, level, name, &value, sizeof(value));
}

int sock_get(int fd, int level, int name, int *value)
{
    socklen_t size = sizeof(*value);
    return (int)SYS(getsockopt, fd, level, name, value, &size);
}

int sock_name(int fd, struct sockaddr_storage *address, socklen_t *length)
{
    *length = sizeof(*address);
    return (int)SYS(getsockname, fd, address, length);
}

int sock_tcp_state(int fd)
{
    uint8_t state = 0; /* the first byte of struct tcp_info */
    socklen_t size = sizeof(state);
    int result = (int)SYS(getsockopt, fd, IPPROTO_TCP, TCP_INFO, &state, &size);
    return result ? result : state;
}

void sock_disconnect(int fd)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    SYS(connect, fd, &none, sizeof(none));
}

/* Newer than the headers. */
#define DELACK_MAX_US 46 /* TCP_DELACK_MAX_US, linux/tcp.h since 6.15 */

/* Dissolving a socket resets these, which the program may have set (tcp_disconnect(), tcp.c). */
static const int reset[] = {TCP_MAXSEG, TCP_WINDOW_CLAMP, TCP_QUICKACK, DELACK_MAX_US};

#define RESET_OPTIONS (sizeof(reset) / sizeof(reset[0]))

bool sock_release(int fd)
{
    int value[RESET_OPTIONS], now;
    bool known[RESET_OPTIONS];
    for (size_t i = 0; i < RESET_OPTIONS; i++)
        known[i] = sock_get(fd, IPPROTO_TCP, reset[i], &value[i]) == 0;
    if (SYS(listen, fd, 0) != 0)
        return false;
    sock_disconnect(fd);
    for (size_t i = 0; i < RESET_OPTIONS; i++)
        if (known[i] && sock_get(fd, IPPROTO_TCP, reset[i], &now) == 0 && now != value[i])
            sock_set(fd, IPPROTO_TCP, reset[i], value[i]);
    return true;
}
