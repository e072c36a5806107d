/* SPDX-License-Identifier: MIT */
/*
 * Where ports are scarce: what counts is how many connections there are, and how many not.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOW_NS 5e8 /* such a connect has sent its SYN twice: TCP_TIMEOUT_INIT is a second */

struct sample run_short(const struct row *row, enum way way, int ms)
{
    struct sample sample = {.ns = 0};
    uint32_t to = ntohl(inet_addr(SHORT_SERVER));
    double began = now_ns();
    for (double now = began, then; now - began < ms * 1e6;) {
        int fd = connect_try(row, way, to);
        if (fd < 0)
            sample.failed++;
        else
            sample.made++, close(fd);
        then = now;
        now = now_ns();
        sample.slow += now - then > SLOW_NS;
        sample.ns = now - began;
    }
    return sample;
}

static bool in_range(const struct row *row, int fd)
{
    struct sockaddr_in name;
    socklen_t length = sizeof(name);
    getsockname(fd, (struct sockaddr *)&name, &length);
    int offset = ntohs(name.sin_port) - RANGE_LO;
    return 0 <= offset && offset < row->ports;
}

#define REFUSALS 3 /* in vain, and there is no port left for a destination */

/* More than there are ports is asked for. A refusal that a success follows was false. Return: how
 * often. */
static int fill_dest(const struct row *row, enum way way, uint32_t to, struct sample *sample)
{
    int refused = 0, tries;
    for (tries = 0; tries < row->ports + REFUSALS && refused < REFUSALS; tries++) {
        int fd = connect_try(row, way, to);
        refused += fd < 0;
        sample->made += fd >= 0;
        sample->outside += fd >= 0 && !in_range(row, fd);
        sample->failed += fd >= 0 && refused; /* could have been had before */
        if (tries % 1000 == 999)
            server_drain(true);
    }
    server_drain(true);
    return tries;
}

struct sample run_together(const struct row *row, enum way way)
{
    struct sample sample = {.ns = 0};
    int tries = 0;
    double began = now_ns();
    for (int i = 0; i < row->dests; i++)
        tries += fill_dest(row, way, INADDR_LOOPBACK + 256 + (uint32_t)i, &sample);
    sample.ns = (now_ns() - began) / tries;
    return sample;
}
