/* SPDX-License-Identifier: MIT */
/*
 * connect(), and the sends that connect: with MSG_FASTOPEN and an address, sendto() and its kin are
 * a connect that carries data (RFC 7413, tcp(7)). Each is the same loop around port.c.
 */
#include "attempt.h"

#include <string.h>

/*
 * Makes @call, an expression that does the real call, with a port put on @fd first if a rule says
 * so. @data: it sends some with the first packet. @flags: the call's. errno is what the real call left, unless it never came to that.
 */
#define WITH_PORT(fd, address, length, data, flags, result, call)                                  \
    do {                                                                                           \
        struct attempt attempt;                                                                    \
        int saved = errno;                                                                         \
        attempt.guarded = guard_begin();                                                           \
        attempt.once = (data);                                                                     \
        attempt.at_once = (flags) & MSG_DONTWAIT;                                                  \
        enum port_answer answer = port_begin(&attempt, (fd), (address), (length));                 \
        int again = answer == PORT_READY;                                                          \
        while (again) {                                                                            \
            errno = saved;                                                                         \
            answer = port_next(&attempt);                                                          \
            if (answer != PORT_READY)                                                              \
                break;                                                                             \
            if (attempt.send_ms)                                                                   \
                wait_count(&attempt);                                                              \
            guard_end(attempt.guarded);                                                            \
            (result) = (call);                                                                     \
            attempt.guarded = guard_begin();                                                       \
            if (attempt.send_ms)                                                                   \
                wait_count_end(&attempt);                                                          \
            again = port_settle(&attempt, (result) < 0);                                           \
            if (again < 0)                                                                         \
                (result) = -1;                                                                     \
            again = again > 0;                                                                     \
        }                                                                                          \
        guard_end(attempt.guarded);                                                                \
        if (answer == PORT_PASS)                                                                   \
            (result) = (call);                                                                     \
        else if (answer == PORT_REFUSE)                                                            \
            (result) = -1;                                                                         \
    } while (0)

/* The rare program that connects before this library's constructor ran. */
static bool ready(void)
{
    if (!shim_enabled())
        shim_start();
    return shim_enabled();
}

SHIM_EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int result = -1;
    if (!ready())
        return real.connect(fd, address, length);
    WITH_PORT(fd, address, length, false, 0, result, real.connect(fd, address, length));
    return result;
}

SHIM_EXPORT ssize_t sendto(int fd, const void *data, size_t size, int flags,
                           const struct sockaddr *address, socklen_t length)
{
    ssize_t result = -1;
    if (!(flags & MSG_FASTOPEN) || !address || !ready())
        return real.sendto(fd, data, size, flags, address, length);
    WITH_PORT(fd, address, length, true, flags, result, real.sendto(fd, data, size, flags, address, length));
    return result;
}

/* The address in a message header, which may point nowhere just as the address may. */
static bool message_address(const struct msghdr *message, const struct sockaddr **address,
                            socklen_t *length)
{
    struct sockaddr_storage copy;
    struct msghdr header;
    if (!address_copy(&copy, message, sizeof(header)))
        return false;
    memcpy(&header, &copy, sizeof(header));
    *address = header.msg_name;
    *length = header.msg_namelen;
    return header.msg_name != NULL;
}

_Static_assert(sizeof(struct msghdr) <= sizeof(struct sockaddr_storage), "address_copy() takes it");

SHIM_EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t result = -1;
    const struct sockaddr *address;
    socklen_t length;
    if (!(flags & MSG_FASTOPEN) || !ready() || !message_address(message, &address, &length))
        return real.sendmsg(fd, message, flags);
    WITH_PORT(fd, address, length, true, flags, result, real.sendmsg(fd, message, flags));
    return result;
}

/* Only the first message can connect; the following find the socket connecting. */
SHIM_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    int result = -1;
    const struct sockaddr *address;
    socklen_t length;
    if (!(flags & MSG_FASTOPEN) || !count || !ready() ||
        !message_address(&messages->msg_hdr, &address, &length))
        return real.sendmmsg(fd, messages, count, flags);
    WITH_PORT(fd, address, length, true, flags, result, real.sendmmsg(fd, messages, count, flags));
    return result;
}
