/* SPDX-License-Identifier: MIT */
/*
 * The namespaces of a twin; see twin.h. Both are held by descriptors and have no name anywhere, so
 * whatever ends this process ends them.
 */
#include "twin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACKETS_MOST (16 << 20) /* bytes that wait to be read */

/* ---- notes ---- */

void twin_note(struct twin *twin, const char *line, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    FILE *out = state_open(&text);
    vfprintf(out, format, args);
    state_close(out);
    va_end(args);
    for (size_t i = 0; i < twin->notes; i++)
        if (strcmp(twin->note[i].what, text) == 0) {
            twin->note[i].count += line != NULL;
            free(text);
            return;
        }
    twin->note = state_grow(twin->note, (twin->notes + 1) * sizeof(*twin->note));
    twin->note[twin->notes++] =
        (struct twin_note){.what = text, .line = state_copy(line), .count = line != NULL};
}

/* ---- ports that rules name ---- */

bool twin_names(const struct twin *twin, uint16_t port)
{
    return twin->names[port / 8] >> port % 8 & 1;
}

/* A number by itself, or an end of a range: "60001", "60001:60005", "60001-60005,". */
void twin_name(struct twin *twin, const char *text)
{
    static const char around[] = " \t\n:-,{}=";
    for (const char *at = text; *at;) {
        size_t length = strspn(at, "0123456789");
        unsigned long number = length && length < 6 ? strtoul(at, NULL, 10) : 0;
        if (number && number <= 65535 && (at == text || strchr(around, at[-1])) &&
            strchr(around, at[length]))
            for (unsigned long port = number - 1; port <= number + 1 && port <= 65535; port++)
                twin->names[port / 8] |= (uint8_t)(1 << port % 8);
        at += length ? length : 1;
    }
}

/* ---- in and out ---- */

void twin_enter(const struct twin *twin)
{
    if (setns(twin->net, CLONE_NEWNET) < 0)
        abort(); /* what is meant for the twin would be done to the machine */
}

void twin_leave(const struct twin *twin)
{
    if (setns(twin->home, CLONE_NEWNET) < 0)
        abort();
}

int twin_tool(const struct twin *twin, char *const argv[], const char *input,
              struct run_result *result)
{
    run_namespace = twin->net;
    int status = run_tool(argv, input, result);
    run_namespace = -1;
    return status;
}

const struct twin_device *twin_device(const struct twin *twin, const char *name)
{
    for (size_t i = 0; i < twin->devices; i++)
        if (strcmp(twin->device[i].name, name) == 0)
            return &twin->device[i];
    return NULL;
}

/* ---- to make one ---- */

/* A new namespace, and the process is back. Return: its descriptor; -1 with errno. */
static int twin_namespace(void)
{
    int home = run_enter(-1);
    if (home < 0)
        return -1;
    int made = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), error = errno;
    run_leave(home);
    errno = error;
    return made;
}

/* Where everybody else is played. Nothing there answers by itself: it has no addresses; and IPv6,
 * which would make some, and forwarding are turned off where that is possible. */
static int twin_surroundings(struct twin *twin)
{
    static const struct {
        const char *path, *value;
    } quiet[] = {{"/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"},
                 {"/proc/sys/net/ipv4/ip_forward", "0"}};
    int most = PACKETS_MOST, on = 1;
    int home = run_enter(twin->beyond);
    if (home < 0)
        return -1;
    for (size_t i = 0; i < sizeof(quiet) / sizeof(*quiet); i++) {
        int fd = open(quiet[i].path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0 && write(fd, quiet[i].value, 1) < 0)
            errno = 0; /* read-only: it does no harm */
        if (fd >= 0)
            close(fd);
    }
    int packets = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));
    if (packets >= 0) {
        setsockopt(packets, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most));
        setsockopt(packets, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
    }
    int error = errno;
    run_leave(home);
    errno = error;
    return packets;
}

int twin_make(struct twin *twin, void (*tick)(void *arg), void *arg, struct setup_error *error)
{
    memset(twin, 0, sizeof(*twin));
    twin->net = twin->beyond = twin->packets = -1;
    twin->home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (twin->home >= 0)
        twin->beyond = twin_namespace();
    if (twin->beyond >= 0)
        twin->net = twin_namespace();
    if (twin->net >= 0)
        twin->packets = twin_surroundings(twin);
    if (twin->packets < 0) {
        int why = errno;
        twin_free(twin);
        if (why == EPERM)
            return setup_fail(error, "no network namespace can be made here: that needs the right "
                                     "CAP_SYS_ADMIN, which a container has only if it is "
                                     "privileged");
        if (why == ENOSPC)
            return setup_fail(error, "no network namespace can be made here: their number is "
                                     "limited by the sysctl user.max_net_namespaces");
        return setup_fail(error, "no network namespace can be made here: %s", strerror(why));
    }
    if (mirror_network(twin, tick, arg, error) < 0) {
        twin_free(twin);
        return -1;
    }
    ruleset_mirror(twin, tick, arg);
    return 0;
}

void twin_free(struct twin *twin)
{
    const int fds[] = {twin->home, twin->net, twin->beyond, twin->packets};
    for (size_t i = 0; twin->home >= 0 && i < sizeof(fds) / sizeof(*fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    for (size_t i = 0; i < twin->notes; i++) {
        free(twin->note[i].what);
        free(twin->note[i].line);
    }
    free(twin->note);
    free(twin->device);
    *twin = (struct twin){.home = -1, .net = -1, .beyond = -1, .packets = -1};
}
