/* SPDX-License-Identifier: MIT */
/*
 * What fixport costs, measured side by side in one run.
 *
 * Each way of connecting is a worker: this program again, with or without the shim preloaded, in a
 * network namespace of its own if that is allowed. The workers take turns, batch by batch, so that
 * whatever else the machine does hits them alike; a row's ratio is the median of the ratios of
 * batches that were neighbours in time. Nothing here passes or fails: see the figures.
 *
 *   bench [--quick] [--tsv FILE] [ROW...]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <net/if.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RANGE_LO 50000
#define RANGE_HI 59999
#define RANGE_SIZE (RANGE_HI - RANGE_LO + 1)
#define LOCAL_PORT_RANGE 51

enum way {
    WAY_PLAIN, /* connect(), the kernel chooses from all ephemeral ports */
    WAY_KERNEL, /* connect(), ip_local_port_range narrowed to the range */
    WAY_OPTION, /* IP_LOCAL_PORT_RANGE set by the program */
    WAY_RANDOM, /* bind() to random ports of the range until one is free */
    WAY_SHIM, /* connect(), with the shim preloaded */
    WAY_COUNT,
};

static const char *const way_names[WAY_COUNT] = {
    "no shim", "kernel's choice in the range", "IP_LOCAL_PORT_RANGE", "random bind", "fixport"};

enum job {
    JOB_CONNECT, /* socket, connect, close */
    JOB_OPEN, /* socket, connect; the closes are not timed */
    JOB_CLOSE, /* close of what is not open */
};

struct row {
    const char *name;
    const char *what;
    const char *to; /* FIXPORT_TO of the shim's worker */
    enum job job;
    unsigned ways; /* bit mask */
    enum way base; /* what the ratio is against */
    double full; /* share of the range in use beforehand */
    int batch;
    int rounds; /* many small ones where the difference is small */
};

#define BIT(way) (1u << (way))
#define ALL (BIT(WAY_KERNEL) | BIT(WAY_OPTION) | BIT(WAY_RANDOM) | BIT(WAY_SHIM))

static const struct row rows[] = {
    {"empty", "socket+connect+close, range nearly empty", "127.0.0.0/8", JOB_CONNECT,
     BIT(WAY_PLAIN) | BIT(WAY_SHIM), WAY_PLAIN, 0, 50, 181},
    {"unmatched", "socket+connect+close, no rule matches", "10.0.0.0/8", JOB_CONNECT,
     BIT(WAY_PLAIN) | BIT(WAY_SHIM), WAY_PLAIN, 0, 50, 181},
    {"close", "close() of a descriptor that is not ours", "127.0.0.0/8", JOB_CLOSE,
     BIT(WAY_PLAIN) | BIT(WAY_SHIM), WAY_PLAIN, 0, 200000, 41},
    {"full-0", "socket+connect, range 0 % in use", "127.0.0.0/8", JOB_OPEN, ALL, WAY_KERNEL, 0, 100, 41},
    {"full-55", "socket+connect, range 55 % in use", "127.0.0.0/8", JOB_OPEN, ALL, WAY_KERNEL, 0.55, 100, 41},
    {"full-75", "socket+connect, range 75 % in use", "127.0.0.0/8", JOB_OPEN, ALL, WAY_KERNEL, 0.75, 100, 41},
    {"full-90", "socket+connect, range 90 % in use", "127.0.0.0/8", JOB_OPEN, ALL, WAY_KERNEL, 0.90, 100, 41},
    {"full-99", "socket+connect, range 99 % in use", "127.0.0.0/8", JOB_OPEN, ALL, WAY_KERNEL, 0.99, 50, 41},
    {"full-99.9", "socket+connect, range 99.9 % in use", "127.0.0.0/8", JOB_OPEN, ALL, WAY_KERNEL, 0.999, 5, 41},
};

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    _exit(1);
}

/* ---- the worker ---- */

static struct sockaddr_in server;
static int listener;

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        die("lo");
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
static bool own_namespace(enum way way)
{
    if (unshare(CLONE_NEWNET) != 0)
        return false;
    loopback_up();
    if (way == WAY_KERNEL) {
        char range[32];
        snprintf(range, sizeof(range), "%d %d", RANGE_LO, RANGE_HI);
        write_file("/proc/sys/net/ipv4/ip_local_port_range", range);
    }
    return true;
}

static void server_begin(void)
{
    socklen_t length = sizeof(server);
    server = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons(7000)};
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (struct sockaddr *)&server, length) != 0 || listen(listener, 4096) != 0)
        die("listen");
}

static uint32_t random_state = 12345;

static uint32_t random_port(void)
{
    random_state = random_state * 1664525 + 1013904223;
    return RANGE_LO + (uint32_t)((uint64_t)random_state * RANGE_SIZE >> 32);
}

static void bind_random(int fd)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    do
        any.sin_port = htons((uint16_t)random_port());
    while (bind(fd, (struct sockaddr *)&any, sizeof(any)) != 0);
}

static int open_one(enum way way)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (way == WAY_OPTION) {
        uint32_t range = RANGE_LO | (uint32_t)RANGE_HI << 16;
        setsockopt(fd, IPPROTO_IP, LOCAL_PORT_RANGE, &range, sizeof(range));
    } else if (way == WAY_RANDOM) {
        bind_random(fd);
    }
    struct sockaddr_in to = server; /* on the stack, as most programs have it */
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        die("connect");
    return fd;
}

static void reset(int fd)
{
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(fd);
}

/* Accepts what is waiting. keep: leave the connections open. */
static void drain(bool keep)
{
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;)
        if (!keep)
            close(fd);
}

static void fill(enum way way, double full)
{
    for (int i = 0; i < (int)(RANGE_SIZE * full); i++) {
        open_one(way);
        if (i % 1000 == 999)
            drain(true);
    }
    drain(true);
}

#define PART 50 /* connections between two looks at the listener's queue */

static double run_part(enum way way, enum job job, int count)
{
    int fd[PART];
    double began = now_ns();
    for (int i = 0; i < count; i++) {
        fd[i] = open_one(way);
        if (job == JOB_CONNECT)
            reset(fd[i]);
    }
    double spent = now_ns() - began;
    for (int i = 0; i < count && job == JOB_OPEN; i++)
        reset(fd[i]);
    drain(false);
    return spent;
}

static double run_connects(enum way way, enum job job, int count)
{
    double spent = 0;
    for (int done = 0; done < count; done += PART)
        spent += run_part(way, job, count - done < PART ? count - done : PART);
    return spent / count;
}

static double run_closes(int count)
{
    double began = now_ns();
    for (int i = 0; i < count; i++)
        close(-1);
    return (now_ns() - began) / count;
}

/*
 * All workers on one processor, the last one: they take turns, so they do not compete, and meet the
 * same interrupts, caches and clock. The conductor and what else there is has the others.
 */
static void pin_worker(void)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) != 0)
        return;
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof(one), &one);
            return;
        }
    }
}

static void worker(const struct row *row, enum way way)
{
    int count;
    pin_worker();
    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    if (row->job != JOB_CLOSE) {
        server_begin();
        fill(way, row->full);
    }
    while (read(STDIN_FILENO, &count, sizeof(count)) == sizeof(count)) {
        double ns = row->job == JOB_CLOSE ? run_closes(count) : run_connects(way, row->job, count);
        if (write(STDOUT_FILENO, &ns, sizeof(ns)) != sizeof(ns))
            break;
    }
    _exit(0);
}

/* ---- the conductor ---- */

struct peer {
    pid_t pid;
    int to, from;
    double *ns;
};

static char self[PATH_MAX];
static const char *library;

static void peer_environment(const struct row *row, enum way way)
{
    char ports[32];
    if (way != WAY_SHIM)
        return;
    snprintf(ports, sizeof(ports), "%d-%d", RANGE_LO, RANGE_HI);
    setenv("LD_PRELOAD", library, 1);
    setenv("FIXPORT_PORTS", ports, 1);
    setenv("FIXPORT_TO", row->to, 1);
    setenv("FIXPORT_ON_ERROR", "fail", 1);
    char pool[64];
    snprintf(pool, sizeof(pool), "/dev/shm/fixport-bench-%d", getppid());
    setenv("FIXPORT_POOL", pool, 1);
    unlink(pool);
}

static void peer_start(struct peer *peer, size_t row, enum way way)
{
    int in[2], out[2];
    if (pipe(in) != 0 || pipe(out) != 0)
        die("pipe");
    peer->pid = fork();
    if (peer->pid == 0) {
        char number[2][8];
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        if (rows[row].job != JOB_CLOSE && !getenv("BENCH_NO_NAMESPACE") && !own_namespace(way))
            die("unshare");
        peer_environment(&rows[row], way);
        snprintf(number[0], sizeof(number[0]), "%d", (int)row);
        snprintf(number[1], sizeof(number[1]), "%d", (int)way);
        execl(self, self, "--worker", number[0], number[1], NULL);
        die(self);
    }
    close(in[0]);
    close(out[1]);
    peer->to = in[1];
    peer->from = out[0];
}

static void peer_end(struct peer *peer)
{
    close(peer->to);
    close(peer->from);
    waitpid(peer->pid, NULL, 0);
    char pool[64];
    snprintf(pool, sizeof(pool), "/dev/shm/fixport-bench-%d", getpid());
    unlink(pool);
}

static double peer_batch(struct peer *peer, int count)
{
    double ns;
    if (write(peer->to, &count, sizeof(count)) != sizeof(count) ||
        read(peer->from, &ns, sizeof(ns)) != sizeof(ns)) {
        fprintf(stderr, "bench: a worker died\n");
        exit(1);
    }
    return ns;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void report(const struct row *row, struct peer *peers, int rounds, FILE *tsv)
{
    double *ratio = calloc((size_t)rounds, sizeof(*ratio));
    printf("\n%s\n", row->what);
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!(row->ways & BIT(way)))
            continue;
        for (int i = 0; i < rounds; i++)
            ratio[i] = peers[way].ns[i] / peers[row->base].ns[i];
        double typical_ratio = median(ratio, rounds);
        double *copy = calloc((size_t)rounds, sizeof(*copy));
        memcpy(copy, peers[way].ns, (size_t)rounds * sizeof(*copy));
        double typical = median(copy, rounds);
        free(copy);
        printf("  %-30s %10.3f us   %7.3f x", way_names[way], typical / 1000, typical_ratio);
        if (typical_ratio < 0.5)
            printf("   (%.0f x faster)", 1 / typical_ratio);
        if (row->job == JOB_CLOSE && way != (int)row->base) {
            for (int i = 0; i < rounds; i++)
                ratio[i] = peers[way].ns[i] - peers[row->base].ns[i];
            printf("   (%+.1f ns)", median(ratio, rounds));
        }
        printf("\n");
        if (tsv)
            fprintf(tsv, "%s\t%g\t%s\t%.1f\t%.4f\n", row->name, row->full * 100, way_names[way],
                    typical, typical_ratio);
    }
    fflush(stdout);
    free(ratio);
}

static void measure(size_t index, int rounds, FILE *tsv)
{
    const struct row *row = &rows[index];
    struct peer peers[WAY_COUNT];
    for (int way = 0; way < WAY_COUNT; way++) {
        if (!(row->ways & BIT(way)))
            continue;
        peers[way].ns = calloc((size_t)rounds, sizeof(double));
        peer_start(&peers[way], index, (enum way)way);
        peer_batch(&peers[way], row->batch / 5 + 1); /* warm up, and wait until it is filled */
    }
    for (int i = 0; i < rounds; i++)
        for (int way = 0; way < WAY_COUNT; way++)
            if (row->ways & BIT(way))
                peers[way].ns[i] = peer_batch(&peers[way], row->batch);
    report(row, peers, rounds, tsv);
    for (int way = 0; way < WAY_COUNT; way++) {
        if (row->ways & BIT(way)) {
            peer_end(&peers[way]);
            free(peers[way].ns);
        }
    }
}

/* ---- the start of a process ---- */

static double start_one(char *const argv[])
{
    double began = now_ns();
    pid_t pid = vfork();
    if (pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
    return now_ns() - began;
}

static pid_t start_sleeper(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sleep", "sleep", "5", NULL);
        _exit(127);
    }
    return pid;
}

/* KiB that a sleeping process has for itself, beside another one: library and pool are shared. */
static long private_memory(void)
{
    char path[64], line[256];
    long sum = 0, kib;
    pid_t other = start_sleeper(), pid = start_sleeper();
    usleep(300000); /* the figure is of a process at rest */
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "Private_Clean: %ld", &kib) == 1 ||
            sscanf(line, "Private_Dirty: %ld", &kib) == 1)
            sum += kib;
    if (file)
        fclose(file);
    kill(pid, SIGKILL);
    kill(other, SIGKILL);
    waitpid(pid, NULL, 0);
    waitpid(other, NULL, 0);
    return sum;
}

static void measure_start(int rounds, FILE *tsv)
{
    char *const argv[] = {"/bin/true", NULL};
    double *with = calloc((size_t)rounds, sizeof(double));
    double *without = calloc((size_t)rounds, sizeof(double));
    double *added = calloc((size_t)rounds, sizeof(double));
    long memory[2];
    char pool[64];
    memory[0] = private_memory();
    snprintf(pool, sizeof(pool), "/dev/shm/fixport-bench-%d", getpid());
    setenv("FIXPORT_PORTS", "50000-59999", 1);
    setenv("FIXPORT_POOL", pool, 1);
    for (int i = 0; i < rounds; i++) {
        unsetenv("LD_PRELOAD");
        without[i] = start_one(argv);
        setenv("LD_PRELOAD", library, 1);
        with[i] = start_one(argv);
        added[i] = with[i] - without[i];
    }
    memory[1] = private_memory();
    unsetenv("LD_PRELOAD");
    unlink(pool);
    printf("\nstart of a process (/bin/true)\n");
    printf("  %-30s %10.1f us\n", "no shim", median(without, rounds) / 1000);
    printf("  %-30s %10.1f us\n", "fixport", median(with, rounds) / 1000);
    printf("  %-30s %10.1f us, %ld KiB private memory\n", "added", median(added, rounds) / 1000,
           memory[1] - memory[0]);
    if (tsv)
        fprintf(tsv, "start\t0\tadded\t%.1f\t%ld\n", median(added, rounds), memory[1] - memory[0]);
    free(with);
    free(without);
    free(added);
}

static bool wanted(const char *name, int argc, char **argv)
{
    if (argc == 0)
        return true;
    for (int i = 0; i < argc; i++)
        if (strncmp(name, argv[i], strlen(argv[i])) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    bool quick = false;
    FILE *tsv = NULL;
    if (argc == 4 && strcmp(argv[1], "--worker") == 0)
        worker(&rows[atoi(argv[2])], (enum way)atoi(argv[3]));
    for (argc--, argv++; argc > 0 && argv[0][0] == '-'; argc--, argv++) {
        if (strcmp(argv[0], "--quick") == 0) {
            quick = true;
        } else if (strcmp(argv[0], "--tsv") == 0 && argc > 1) {
            tsv = fopen(argv[1], "w");
            argc--, argv++;
        } else {
            fprintf(stderr, "usage: bench [--quick] [--tsv FILE] [ROW...]\n");
            return 2;
        }
    }
    library = getenv("FIXPORT_LIBRARY");
    if (!library || access(library, R_OK) != 0 ||
        readlink("/proc/self/exe", self, sizeof(self) - 1) < 0) {
        fprintf(stderr, "bench: FIXPORT_LIBRARY must name libfixport.so (make bench sets it)\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (tsv)
        fprintf(tsv, "row\tfull_percent\tway\tns\tratio\n");
    printf("fixport bench: medians over many rounds in turn; x is against the first line\n");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (wanted(rows[i].name, argc, argv))
            measure(i, quick ? rows[i].rounds / 6 | 1 : rows[i].rounds, tsv);
    if (wanted("start", argc, argv))
        measure_start(quick ? 51 : 301, tsv);
    if (tsv)
        fclose(tsv);
    return 0;
}
