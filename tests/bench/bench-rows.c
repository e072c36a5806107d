/* SPDX-License-Identifier: MIT */
/*
 * What is measured, as a table.
 *
 * The short connections go to an address that is not a loopback one: there the kernel's own choice
 * would use ports in TIME_WAIT again after a second (net.ipv4.tcp_tw_reuse = 2), which it does not
 * do towards any other machine.
 */
#include "bench.h"

#include <string.h>

const char *const way_names[WAY_COUNT] = {
    [WAY_PLAIN] = "no shim",
    [WAY_FLOOR] = "no shim, an empty range",
    [WAY_KERNEL] = "kernel's choice in the range",
    [WAY_OPTION] = "IP_LOCAL_PORT_RANGE",
    [WAY_RANDOM] = "random bind",
    [WAY_BLIND] = "blind bind",
    [WAY_REUSE] = "blind bind, SO_REUSEADDR",
    [WAY_SHIM] = "fixport",
    [WAY_BIND] = "fixport, by bind",
};

#define LOOPBACK "127.0.0.0/8"
#define FULL_SIZE (RANGE_SIZE - 100) /* two descriptors for each, and not more than 20,000 */
/* WAY_FLOOR is no shim once more, where nothing is in use: how far it is from 1 is the noise. */
#define PAIR (BIT(WAY_PLAIN) | BIT(WAY_FLOOR) | SHIMS)
/* What a program could do by hand: no library can be had for less than these calls. */
#define BY_HAND (BIT(WAY_OPTION) | BIT(WAY_REUSE))
#define PEERS (BIT(WAY_KERNEL) | BIT(WAY_OPTION) | BIT(WAY_RANDOM) | BIT(WAY_BLIND))
#define FULL(percent, batch_)                                                                      \
    {.name = "full-" #percent, .what = "socket+connect, range " #percent " % in use",              \
     .to = LOOPBACK, .job = JOB_OPEN, .ways = BIT(WAY_FLOOR) | PEERS | SHIMS, .base = WAY_KERNEL,  \
     .full = (percent) / 100.0, .batch = (batch_), .rounds = 41, .ports = RANGE_SIZE}
#define SHORT(ports_)                                                                              \
    {.name = "short-" #ports_, .what = "short connections, closed by the client, one destination," \
     " " #ports_ " ports", .to = SHORT_SERVER, .job = JOB_SHORT, .base = WAY_KERNEL,               \
     .ways = BIT(WAY_PLAIN) | BIT(WAY_KERNEL) | BIT(WAY_RANDOM) | BIT(WAY_BLIND) |                 \
             BIT(WAY_REUSE) | SHIMS,                                                               \
     .batch = 150, .rounds = 16, .ports = (ports_)}
#define TOGETHER(ports_, dests_)                                                                   \
    {.name = "together-" #ports_ "x" #dests_, .what = "connections at once, " #ports_ " ports x "  \
     #dests_ " destinations", .to = LOOPBACK, .job = JOB_TOGETHER, .base = WAY_KERNEL,             \
     .ways = BIT(WAY_KERNEL) | BIT(WAY_OPTION) | BIT(WAY_RANDOM) | SHIMS, .rounds = 1,             \
     .ports = (ports_), .dests = (dests_)}
#define DEAD(holders_, leases_)                                                                    \
    {.name = "dead-" #holders_, .what = "10,000 leases of " #holders_ " killed namespaces taken"   \
     " back (fixport-pool reclaim)", .to = LOOPBACK, .job = JOB_DEAD, .ways = BIT(WAY_SHIM),       \
     .batch = (leases_), .rounds = 5, .ports = RANGE_SIZE, .dests = (holders_)}

const struct row rows[] = {
    {.name = "empty", .what = "socket+connect+close, range nearly empty", .to = LOOPBACK,
     .job = JOB_CONNECT, .ways = PAIR | BY_HAND, .batch = 50, .rounds = 181, .ports = RANGE_SIZE},
    {.name = "unmatched", .what = "socket+connect+close, no rule matches", .to = "10.0.0.0/8",
     .job = JOB_CONNECT, .ways = BIT(WAY_PLAIN) | BIT(WAY_SHIM), .batch = 50, .rounds = 181,
     .ports = RANGE_SIZE},
    {.name = "close", .what = "close() of a descriptor that is not ours", .to = LOOPBACK,
     .job = JOB_CLOSE, .ways = BIT(WAY_PLAIN) | BIT(WAY_SHIM), .batch = 200000, .rounds = 41,
     .ports = RANGE_SIZE},
    FULL(0, 100),
    FULL(55, 100),
    FULL(75, 100),
    FULL(90, 100),
    FULL(99, 50),
    FULL(99.9, 5),
    {.name = "refused", .what = "socket+connect+close, range 100 % in use: EADDRNOTAVAIL",
     .to = LOOPBACK, .job = JOB_REFUSED, .base = WAY_KERNEL, .full = 1, .batch = 5, .rounds = 11,
     .ways = BIT(WAY_KERNEL) | BIT(WAY_OPTION) | BIT(WAY_BLIND) | SHIMS, .ports = FULL_SIZE},
    SHORT(1000),
    SHORT(100),
    SHORT(10),
    TOGETHER(1000, 8),
    TOGETHER(100, 80),
    TOGETHER(10, 800),
    {.name = "many", .what = "socket+connect+close, 8 processes x 8 threads on one pool",
     .to = LOOPBACK, .job = JOB_MANY, .ways = PAIR, .batch = 100, .rounds = 31,
     .ports = RANGE_SIZE},
    DEAD(2, 5000),
    DEAD(100, 100),
};

const size_t row_count = sizeof(rows) / sizeof(rows[0]);

int row_find(const char *name)
{
    for (size_t i = 0; i < row_count; i++)
        if (strcmp(rows[i].name, name) == 0)
            return (int)i;
    return -1;
}
