/* SPDX-License-Identifier: MIT */
/*
 * A program that connects all the time, while others write what they like to its pool.
 *
 *   victim PORT MS LO HI KIND...
 *
 * KIND: handler    has a handler for SIGBUS of its own; a fault of its own must still reach it
 *       blocked    has SIGBUS blocked in the thread that connects
 *       setting    another thread sets handlers for SIGBUS all the time
 *       nonblock   connects without blocking
 *       named      binds to port 0 and asks for its name before
 *       unmatched  the destination is one that no rule matches: what counts is a port outside
 * LO..HI
 *
 * Prints "in N out N failed N longest MS lost N memory KIB": connections from LO..HI and from elsewhere,
 * failed ones, the longest call in ms of this thread's own CPU time, and handlers that were not
 * what was set.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static atomic_bool done;
static atomic_uint lost;
static volatile sig_atomic_t own_faults;
static char *own_page;

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void on_bus(int number, siginfo_t *info, void *context)
{
    (void)context;
    if ((char *)info->si_addr != own_page)
        _exit(90 + number % 2);
    own_faults++;
    mmap(own_page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void on_other(int number)
{
    _exit(80 + number % 2);
}

static void *set_always(void *unused)
{
    struct sigaction one = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO}, old;
    sigaction(SIGBUS, &one, NULL);
    while (!atomic_load(&done)) {
        if ((void *)signal(SIGBUS, on_other) != (void *)on_bus)
            atomic_fetch_add(&lost, 1);
        sigaction(SIGBUS, &one, &old);
        if (old.sa_handler != on_other || old.sa_flags & SA_SIGINFO)
            atomic_fetch_add(&lost, 1);
    }
    return unused;
}

/* A file of its own, that is cut while it is mapped. */
static bool fault_of_its_own(void)
{
    char name[] = "/tmp/fixport-victim-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    if (fd < 0 || ftruncate(fd, 4096) != 0)
        return false;
    own_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ftruncate(fd, 0) != 0)
        return false;
    own_page[0] = 1;
    close(fd);
    return own_faults == 1;
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    int lo = atoi(argv[3]), hi = atoi(argv[4]);
    unsigned in = 0, out = 0, failed = 0;
    double longest = 0;
    bool handler = false, blocked = false, nonblock = false, setting = false, named = false;
    pthread_t setter;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 5; i < argc; i++) {
        handler |= strcmp(argv[i], "handler") == 0;
        blocked |= strcmp(argv[i], "blocked") == 0;
        nonblock |= strcmp(argv[i], "nonblock") == 0;
        setting |= strcmp(argv[i], "setting") == 0;
        named |= strcmp(argv[i], "named") == 0;
    }
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    sigset_t bus;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    if (handler)
        sigaction(SIGBUS, &action, NULL);
    if (setting)
        pthread_create(&setter, NULL, set_always, NULL);
    if (blocked)
        pthread_sigmask(SIG_BLOCK, &bus, NULL);
    for (double end = seconds(CLOCK_MONOTONIC) + atoi(argv[2]) / 1e3;
         seconds(CLOCK_MONOTONIC) < end;) {
        struct sockaddr_in name;
        socklen_t length = sizeof(name);
        int fd = socket(AF_INET, SOCK_STREAM | (nonblock ? SOCK_NONBLOCK : 0), 0);
        double began = seconds(CLOCK_THREAD_CPUTIME_ID);
        if (named) {
            struct sockaddr_in any = {.sin_family = AF_INET};
            bind(fd, (struct sockaddr *)&any, sizeof(any));
            getsockname(fd, (struct sockaddr *)&name, &length);
        }
        bool connected = connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 || errno == EINPROGRESS;
        double took = seconds(CLOCK_THREAD_CPUTIME_ID) - began;
        longest = took > longest ? took : longest;
        getsockname(fd, (struct sockaddr *)&name, &length);
        if (!name.sin_port || !connected)
            failed++;
        else if (ntohs(name.sin_port) >= lo && ntohs(name.sin_port) <= hi)
            in++;
        else
            out++;
        struct linger reset = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(fd);
    }
    atomic_store(&done, true);
    if (setting)
        pthread_join(setter, NULL);
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    if (sigismember(&now, SIGBUS) != blocked)
        atomic_fetch_add(&lost, 1000000);
    if (handler && !fault_of_its_own())
        atomic_fetch_add(&lost, 2000000);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("in %u out %u failed %u longest %.1f lost %u memory %ld\n", in, out, failed, longest * 1e3, lost,
           usage.ru_maxrss);
    return 0;
}
