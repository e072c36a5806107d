/* SPDX-License-Identifier: MIT */
/*
 * Settings of the network namespace. Two decide whether IP_LOCAL_PORT_RANGE is honoured: the kernel
 * ignores the option outside ip_local_port_range and skips ip_local_reserved_ports. The third
 * decides whether a port in TIME_WAIT can be used again.
 */
#include "shim.h"

/* Reads a small file. Return: its length, NUL-terminated, or 0. */
static size_t read_file(const char *path, char *buffer, size_t size)
{
    long got = 0;
    uint64_t mask = guard_hold();
    int fd = (int)SYS(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        got = SYS(read, fd, buffer, size - 1);
        SYS(close, fd);
    }
    guard_release(mask);
    buffer[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

/* The next number in a text, and past it. */
static uint32_t number(const char **text)
{
    uint32_t value = 0;
    while (**text && (**text < '0' || **text > '9'))
        (*text)++;
    while (**text >= '0' && **text <= '9' && value < 100000)
        value = value * 10 + (uint32_t)(*(*text)++ - '0');
    return value;
}

uint32_t sysctl_local_range(void)
{
    char buffer[64];
    const char *text = buffer;
    if (!read_file("/proc/sys/net/ipv4/ip_local_port_range", buffer, sizeof(buffer)))
        return 0;
    uint32_t lo = number(&text);
    uint32_t hi = number(&text);
    return lo && lo <= hi && hi <= 65535 ? lo | hi << 16 : 0;
}

bool sysctl_no_timestamps(void)
{
    char buffer[16];
    const char *text = buffer;
    return read_file("/proc/sys/net/ipv4/tcp_timestamps", buffer, sizeof(buffer)) &&
           number(&text) == 0;
}

bool sysctl_reserved(uint16_t port)
{
    char buffer[2048];
    const char *text = buffer;
    if (!read_file("/proc/sys/net/ipv4/ip_local_reserved_ports", buffer, sizeof(buffer)))
        return false;
    while (*text && *text != '\n') {
        uint32_t lo = number(&text);
        uint32_t hi = *text == '-' ? number(&text) : lo;
        if (lo <= port && port <= hi)
            return true;
    }
    return false;
}
