/* SPDX-License-Identifier: MIT */
/*
 * Workers as the conductor sees them: this program again, in a network namespace of its own and
 * with the shim or without. The namespace comes first, since the shim looks where it is when it
 * starts.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ELSEWHERE "20000 49999" /* an ip_local_port_range without the range */

const char *library;
static pid_t conductor;

/* The pool's name must be the same in the conductor and its children. */
__attribute__((constructor)) static void conductor_note(void)
{
    conductor = getpid();
}

const char *pool_path(enum way way, char *buf, size_t size)
{
    snprintf(buf, size, "/dev/shm/fixport-bench-%d-%d", conductor, (int)way);
    return buf;
}

/* lo, and on it the address that the short connections go to. */
static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        die("lo");
    strcpy(request.ifr_name, "lo:1");
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(SHORT_SERVER)};
    if (ioctl(fd, SIOCSIFADDR, &request) != 0)
        die("lo:1");
    close(fd);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        die(path);
    close(fd);
}

/* A namespace of its own, so that the kernel's range can be narrowed for one worker only. */
static void own_namespace(const struct row *row, enum way way)
{
    char range[32] = "";
    if (unshare(CLONE_NEWNET) != 0)
        die("unshare");
    loopback_up();
    if (way == WAY_KERNEL)
        snprintf(range, sizeof(range), "%d %d", RANGE_LO, RANGE_LO + row->ports - 1);
    else if (way == WAY_FLOOR || way == WAY_BIND)
        strcpy(range, ELSEWHERE);
    else if (way == WAY_PLAIN && row->job == JOB_SHORT) /* so many that none has to be used twice */
        strcpy(range, "1024 65000");
    if (range[0])
        write_file("/proc/sys/net/ipv4/ip_local_port_range", range);
}

/* The server of the short connections is another process, on other processors, without the shim. */
static void serve_shorts(void)
{
    pid_t parent = getpid();
    cpu_set_t cpus;
    server_listen(ntohl(inet_addr(SHORT_SERVER)), SOCK_CLOEXEC);
    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0) {
        for (int cpu = CPU_SETSIZE - 1; cpu > 0 && CPU_COUNT(&cpus) > 1; cpu--) {
            if (CPU_ISSET(cpu, &cpus)) { /* the worker's */
                CPU_CLR(cpu, &cpus);
                break;
            }
        }
        sched_setaffinity(0, sizeof(cpus), &cpus);
    }
    short_server();
}

static void shim_environment(const struct row *row, enum way way)
{
    char text[64];
    if (!(BIT(way) & SHIMS))
        return;
    setenv("LD_PRELOAD", library, 1);
    snprintf(text, sizeof(text), "%d-%d", RANGE_LO, RANGE_LO + row->ports - 1);
    setenv("FIXPORT_PORTS", text, 1);
    setenv("FIXPORT_TO", row->to, 1);
    setenv("FIXPORT_ON_ERROR", "fail", 1);
    setenv("FIXPORT_POOL", pool_path(way, text, sizeof(text)), 1);
}

void peer_place(const struct row *row, enum way way)
{
    if (row->job != JOB_CLOSE && !getenv("BENCH_NO_NAMESPACE"))
        own_namespace(row, way);
    if (row->job == JOB_SHORT)
        serve_shorts();
    shim_environment(row, way);
}

void peer_exec(const struct row *row, enum way way, char *const prefix[], const char *count)
{
    char number[8], self[] = "/proc/self/exe";
    char *argv[16], path[256] = "";
    int argc = 0;
    if (readlink(self, path, sizeof(path) - 1) < 0)
        die(self);
    while (prefix && prefix[argc] && argc < 10)
        argv[argc] = prefix[argc], argc++;
    snprintf(number, sizeof(number), "%d", (int)way);
    argv[argc++] = path;
    argv[argc++] = "--worker";
    argv[argc++] = (char *)row->name;
    argv[argc++] = number;
    argv[argc++] = (char *)count; /* NULL: batches as asked for */
    argv[argc] = NULL;
    execvp(argv[0], argv);
    die(argv[0]);
}

void peer_start(struct peer *peer, const struct row *row, enum way way)
{
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        die("pipe");
    peer->pid = fork();
    if (peer->pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        for (int fd = 3; fd < 1024; fd++)
            close(fd); /* a server forked here must not keep the workers' pipes open */
        peer_place(row, way);
        peer_exec(row, way, NULL, NULL);
    }
    close(in[0]);
    close(out[1]);
    peer->to = in[1];
    peer->from = out[0];
}

struct sample peer_batch(struct peer *peer, int count)
{
    struct sample sample;
    if (write(peer->to, &count, sizeof(count)) != sizeof(count) ||
        read(peer->from, &sample, sizeof(sample)) != sizeof(sample)) {
        fprintf(stderr, "bench: a worker died\n");
        exit(1);
    }
    return sample;
}

void peer_end(struct peer *peer)
{
    close(peer->to);
    close(peer->from);
    waitpid(peer->pid, NULL, 0);
}

void peer_kill(struct peer *peer)
{
    kill(peer->pid, SIGKILL);
    peer_end(peer);
}
