/* SPDX-License-Identifier: MIT */
/*
 * A library to preload that sends connections elsewhere, as torsocks and proxychains do: those to
 * 198.51.100.1 go to 127.0.0.1, by the next connect().
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*next)(int, const struct sockaddr *, socklen_t);
    *(void **)&next = dlsym(RTLD_NEXT, "connect");
    struct sockaddr_in copy;
    if (address->sa_family != AF_INET || length < sizeof(copy))
        return next(fd, address, length);
    memcpy(&copy, address, sizeof(copy));
    if (copy.sin_addr.s_addr == inet_addr("198.51.100.1"))
        copy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return next(fd, (struct sockaddr *)&copy, sizeof(copy));
}
