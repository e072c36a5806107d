/* SPDX-License-Identifier: MIT */
/*
 * How this host would send to the pod, and who has a certain hardware address: asked of the kernel
 * by rtnetlink(7), which needs no privilege.
 */
#include "probe.h"
#include "../../pool/sys.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/time.h>

#define ANSWER_BYTES 32768
#define ANSWERS_MOST 64 /* datagrams of a list of neighbours */

struct question {
    struct nlmsghdr header;
    union {
        struct rtmsg route;
        struct ndmsg neighbour;
    };
    struct rtattr attribute;
    uint8_t addr[16];
};

static int route_socket(void)
{
    struct timeval second = {.tv_sec = 1};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
    return fd;
}

/* An address of @length bytes, 4 or 16, as everywhere here. */
static bool address_from(const void *data, size_t length, uint8_t addr[16])
{
    static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
    if (length != 4 && length != 16)
        return false;
    if (length == 4)
        memcpy(addr, v4, 12);
    memcpy(addr + 16 - length, data, length);
    return true;
}

static const void *address_bytes(const uint8_t addr[16], size_t *length)
{
    *length = address_is_v4(addr) ? 4 : 16;
    return addr + 16 - *length;
}

/* The next hop of a route, RTA_GATEWAY or, of the other family, RTA_VIA. */
static enum host_route route_read(const struct nlmsghdr *header, uint8_t via[16])
{
    const struct rtmsg *route = NLMSG_DATA(header);
    int left = (int)RTM_PAYLOAD(header);
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*route)))
        return ROUTE_UNKNOWN;
    if (route->rtm_type != RTN_UNICAST && route->rtm_type != RTN_LOCAL)
        return ROUTE_NONE;
    for (const struct rtattr *at = RTM_RTA(route); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        size_t length = RTA_PAYLOAD(at);
        const uint8_t *data = RTA_DATA(at);
        if (at->rta_type == RTA_GATEWAY && address_from(data, length, via))
            return ROUTE_VIA;
        if (at->rta_type == RTA_VIA && length > 2 && address_from(data + 2, length - 2, via))
            return ROUTE_VIA;
    }
    return ROUTE_DIRECT;
}

static enum host_route route_answer(int fd, uint8_t via[16])
{
    static _Alignas(struct nlmsghdr) char buffer[ANSWER_BYTES];
    ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
    const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;
    if (got < 0 || !NLMSG_OK(header, (size_t)got))
        return ROUTE_UNKNOWN;
    if (header->nlmsg_type == RTM_NEWROUTE)
        return route_read(header, via);
    const struct nlmsgerr *error = NLMSG_DATA(header);
    if (header->nlmsg_type != NLMSG_ERROR || header->nlmsg_len < NLMSG_LENGTH(sizeof(*error)))
        return ROUTE_UNKNOWN;
    return error->error == -ENETUNREACH || error->error == -EHOSTUNREACH ||
                   error->error == -EACCES || error->error == -EINVAL
               ? ROUTE_NONE
               : ROUTE_UNKNOWN;
}

enum host_route route_find(const uint8_t addr[16], uint8_t via[16])
{
    size_t length;
    const void *bytes = address_bytes(addr, &length);
    struct question question = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)) + RTA_LENGTH(length),
                   .nlmsg_type = RTM_GETROUTE,
                   .nlmsg_flags = NLM_F_REQUEST},
        .route = {.rtm_family = length == 4 ? AF_INET : AF_INET6,
                  .rtm_dst_len = (unsigned char)(length * 8)},
        .attribute = {.rta_len = RTA_LENGTH(length), .rta_type = RTA_DST}};
    int fd = route_socket();
    enum host_route route = ROUTE_UNKNOWN;
    memset(via, 0, 16);
    memcpy(question.addr, bytes, length);
    if (fd < 0)
        return route;
    if (send(fd, &question, question.header.nlmsg_len, 0) > 0)
        route = route_answer(fd, via);
    close(fd);
    return route;
}

/* ---- neighbours ---- */

/* Whether one entry is that of @mac; its address then. */
static bool neighbour_read(const struct nlmsghdr *header, const uint8_t mac[6], uint8_t addr[16])
{
    const struct ndmsg *entry = NLMSG_DATA(header);
    int left = (int)(header->nlmsg_len - NLMSG_LENGTH(sizeof(*entry)));
    bool same = false, has = false;
    if (header->nlmsg_type != RTM_NEWNEIGH || left < 0 || (entry->ndm_flags & NTF_PROXY))
        return false;
    const struct rtattr *at =
        (const struct rtattr *)((const char *)entry + NLMSG_ALIGN(sizeof(*entry)));
    for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == NDA_LLADDR && RTA_PAYLOAD(at) == 6)
            same = memcmp(RTA_DATA(at), mac, 6) == 0;
        if (at->rta_type == NDA_DST)
            has = address_from(RTA_DATA(at), RTA_PAYLOAD(at), addr);
    }
    return same && has && addr_is_unicast(addr);
}

/*
 * Goes through one datagram of the list. @found counts: who answers for several (proxy ARP) is
 * none of them for certain. Return: whether the list goes on.
 */
static bool neighbours_read(const char *buffer, size_t got, const uint8_t mac[6], uint8_t addr[16],
                            unsigned *found)
{
    const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;
    for (; NLMSG_OK(header, got); header = NLMSG_NEXT(header, got)) {
        uint8_t one[16];
        if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR)
            return false;
        if (!neighbour_read(header, mac, one))
            continue;
        memcpy(addr, one, 16);
        ++*found;
    }
    return true;
}

bool route_neighbour(const uint8_t mac[6], const uint8_t like[16], uint8_t addr[16])
{
    static _Alignas(struct nlmsghdr) char buffer[ANSWER_BYTES];
    struct question question = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg)),
                   .nlmsg_type = RTM_GETNEIGH,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .neighbour = {.ndm_family = address_is_v4(like) ? AF_INET : AF_INET6}};
    int fd = route_socket();
    unsigned found = 0;
    if (fd < 0)
        return false;
    bool more = send(fd, &question, question.header.nlmsg_len, 0) > 0;
    for (int i = 0; more && i < ANSWERS_MOST; i++) {
        ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
        more = got > 0 && neighbours_read(buffer, (size_t)got, mac, addr, &found);
    }
    close(fd);
    return found == 1;
}
