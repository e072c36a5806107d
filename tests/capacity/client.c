/* SPDX-License-Identifier: MIT */
/*
 * An ordinary client, without a word of fixport, that counts. Destinations are 127.0.0.1 and on.
 *
 *   client hold  [OPTION...]   open DESTINATIONS x EACH connections at once, and keep them
 *   client short [OPTION...]   open and close DESTINATIONS x EACH connections, one after the other
 *
 *   -p PORT  -d DESTINATIONS  -n EACH  -t THREADS
 *   -f FIRST     the first destination's number, from 0
 *   -r LO-HI     count source ports outside of it
 *   -x PORT      count this source port as outside as well; may be repeated
 *   -l FILE      a ledger that all clients of a test share: a byte for each destination and port.
 *                Who connects puts its tag there, who is about to close takes it away; a tag that
 *                is there already is a clash
 *   -g TAG       1..255
 *   -c FILE      counts its connections in the TAG-th number of this file, for others to see
 *   -w FILE      writes what it made: CLOCK_MONOTONIC in ns before connect(), port
 *   -s SECONDS   short: ends after so long, at the latest; SIGTERM ends it earlier
 *   -a           short: close() at once, as the first; otherwise shut down, and wait for the server
 *   -m MOST      with -a: waits while the namespace has more sockets, TIME_WAITs aside; a connection
 *                that the client has closed, and the server has not, is two
 *   -z           short: reset instead, which leaves no TIME_WAIT
 *   -k           send an H (server.c)
 *   -b           begin when a line comes in
 *   -e           fail (3) if not all connections could be made
 *
 * It prints one line, "made= refused= failed= error= outside= clash= ports= switches=":
 * connections; EADDRNOTAVAIL; other errors, and the last; different ports; voluntary context
 * switches. hold then obeys its standard input, answers each command by such a line, and ends with
 * it:
 *
 *   close N      close the N connections that were opened first
 *   reset N      the same, by a reset, which leaves no TIME_WAIT
 *   more N       try N connections to the first destination
 *   again        open a socket that is to be refused, and keep it; later: connect the same again
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS 65536

struct connection {
    int fd;
    uint32_t destination;
    uint16_t port;
};

struct record {
    int64_t when;
    int64_t port;
};

static struct {
    bool hold, abrupt, keep, exact, reset, barrier;
    uint16_t port;
    long first, destinations, each, threads;
    unsigned lo, hi;
    uint8_t tag;
    long most; /* sockets in the namespace; 0: any number */
    double seconds;
    const char *log;
} options = {
    .port = 7001, .destinations = 1, .each = 1, .threads = 1, .lo = 1, .hi = 65535, .tag = 1};

static _Atomic long next, held, recorded;
static _Atomic long made, refused, failed, outside, clash;
static _Atomic int error;
static _Atomic uint8_t *ledger;
static _Atomic long *progress;
static _Atomic uint8_t seen[PORTS];
static bool unwanted[PORTS];
static struct connection *connections;
static struct record *records;
static int64_t end;
static volatile sig_atomic_t stopping; /* by SIGTERM: short ends, and says what it did */

static void die(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static void *file_map(const char *path)
{
    int fd = open(path, O_RDWR);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    void *at =
        size > 0 ? mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (at == MAP_FAILED)
        die(path);
    close(fd);
    return at;
}

static void ledger_put(uint32_t destination, uint16_t port, uint8_t tag)
{
    uint8_t before = 0;
    if (ledger)
        before = atomic_exchange(&ledger[(size_t)destination * PORTS + port], tag);
    if (tag && before)
        clash++;
}

static void note_refusal(void)
{
    if (errno == EADDRNOTAVAIL) {
        refused++;
    } else {
        failed++;
        error = errno;
    }
}

static uint16_t source_port(int fd)
{
    struct sockaddr_in name = {.sin_port = 0};
    socklen_t length = sizeof(name);
    getsockname(fd, (struct sockaddr *)&name, &length);
    return ntohs(name.sin_port);
}

static void note_port(uint32_t destination, uint16_t port, int64_t began)
{
    made++;
    outside += port < options.lo || port > options.hi || unwanted[port];
    seen[port] = 1;
    ledger_put(destination, port, options.tag);
    if (progress)
        progress[options.tag]++;
    if (records)
        records[recorded++] = (struct record){.when = began, .port = port};
}

static bool dial(int fd, uint32_t destination, uint16_t *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(options.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK + destination)};
    int64_t began = records ? now() : 0;
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        note_refusal();
        return false;
    }
    *port = source_port(fd);
    note_port(destination, *port, began);
    if (options.keep && send(fd, "H", 1, 0) != 1)
        die("send");
    return true;
}

static bool open_one(uint32_t destination, struct connection *one)
{
    *one = (struct connection){.fd = socket(AF_INET, SOCK_STREAM, 0), .destination = destination};
    if (one->fd < 0)
        die("socket");
    if (dial(one->fd, destination, &one->port))
        return true;
    close(one->fd);
    return false;
}

/* Waits until not more sockets of the namespace are in use, TIME_WAITs aside: closing ones are. */
static void wait_for_room(void)
{
    char line[128];
    for (long used = LONG_MAX; used > options.most; usleep(100)) {
        FILE *file = fopen("/proc/self/net/sockstat", "re");
        while (file && fgets(line, sizeof(line), file))
            sscanf(line, "TCP: inuse %ld", &used);
        if (!file || used == LONG_MAX)
            die("sockstat");
        fclose(file);
    }
}

static void close_one(const struct connection *one)
{
    char byte;
    ledger_put(one->destination, one->port, 0);
    if (!options.abrupt && !options.keep) {
        shutdown(one->fd, SHUT_WR);
        while (read(one->fd, &byte, 1) > 0)
            ;
    }
    close(one->fd);
    if (options.most && made % 16 == 0)
        wait_for_room();
}

static void reset_one(const struct connection *one)
{
    struct linger reset = {.l_onoff = 1};
    setsockopt(one->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    ledger_put(one->destination, one->port, 0);
    close(one->fd);
}

static void *work(void *arg)
{
    long total = options.destinations * options.each;
    for (long i = next++; i < total && !stopping && (!end || now() < end); i = next++) {
        struct connection one;
        if (!open_one((uint32_t)(options.first + i % options.destinations), &one))
            continue;
        if (options.hold)
            connections[held++] = one;
        else if (options.reset)
            reset_one(&one);
        else
            close_one(&one);
    }
    return arg;
}

static void work_all(void)
{
    pthread_t thread[64];
    for (long i = 1; i < options.threads; i++)
        if (pthread_create(&thread[i], NULL, work, NULL) != 0)
            die("thread");
    work(NULL);
    for (long i = 1; i < options.threads; i++)
        pthread_join(thread[i], NULL);
}

static void say(void)
{
    struct rusage usage;
    int different = 0;
    getrusage(RUSAGE_SELF, &usage);
    for (int i = 0; i < PORTS; i++)
        different += seen[i];
    printf("made=%ld refused=%ld failed=%ld error=%d outside=%ld clash=%ld ports=%d switches=%ld\n",
           made, refused, failed, error, outside, clash, different, usage.ru_nvcsw);
    fflush(stdout);
}

static void write_log(void)
{
    FILE *file = options.log ? fopen(options.log, "w") : NULL;
    if (!file)
        return;
    fwrite(records, sizeof(*records), (size_t)recorded, file);
    fclose(file);
}

static void command_close(long count, long *closed, bool reset)
{
    for (; count > 0 && *closed < held; count--, ++*closed) {
        if (reset)
            reset_one(&connections[*closed]);
        else
            close_one(&connections[*closed]);
    }
}

static void command_more(long count)
{
    for (long i = 0; i < count; i++)
        held += open_one(0, &connections[held]);
}

/* One socket for all its attempts: a refusal must not spoil it. */
static void command_again(void)
{
    static int fd = -1;
    uint16_t port;
    if (fd < 0)
        fd = socket(AF_INET, SOCK_STREAM, 0);
    dial(fd, 0, &port);
}

static void obey(void)
{
    char line[64];
    long count, closed = 0;
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "close %ld", &count) == 1)
            command_close(count, &closed, false);
        else if (sscanf(line, "reset %ld", &count) == 1)
            command_close(count, &closed, true);
        else if (sscanf(line, "more %ld", &count) == 1)
            command_more(count);
        else
            command_again();
        say();
    }
    for (; closed < held; closed++) /* the end closes them */
        ledger_put(connections[closed].destination, connections[closed].port, 0);
}

static void option_read(int letter, char *value)
{
    switch (letter) {
    case 'p':
        options.port = (uint16_t)atoi(value);
        break;
    case 'd':
        options.destinations = atol(value);
        break;
    case 'f':
        options.first = atol(value);
        break;
    case 'n':
        options.each = atol(value);
        break;
    case 't':
        options.threads = atol(value);
        break;
    case 'r':
        sscanf(value, "%u-%u", &options.lo, &options.hi);
        break;
    case 'l':
        ledger = file_map(value);
        break;
    case 'g':
        options.tag = (uint8_t)atoi(value);
        break;
    case 'c':
        progress = file_map(value);
        break;
    case 'w':
        options.log = value;
        break;
    case 's':
        options.seconds = atof(value);
        break;
    case 'a':
        options.abrupt = true;
        break;
    case 'z':
        options.reset = true;
        break;
    case 'b':
        options.barrier = true;
        break;
    case 'e':
        options.exact = true;
        break;
    case 'k':
        options.keep = true;
        break;
    case 'm':
        options.most = atol(value);
        break;
    case 'x':
        unwanted[(uint16_t)atoi(value)] = true;
        break;
    default:
        exit(2);
    }
}

static void on_stop(int number)
{
    (void)number;
    stopping = 1;
}

static void prepare(void)
{
    struct rlimit files;
    size_t total = (size_t)(options.destinations * options.each);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = options.hold ? calloc(total + PORTS, sizeof(*connections)) : NULL;
    records = options.log ? calloc(total, sizeof(*records)) : NULL;
    if ((options.hold && !connections) || (options.log && !records))
        die("memory");
    setvbuf(stdin, NULL, _IONBF, 0);
    signal(SIGTERM, on_stop);
    if (options.seconds > 0)
        end = now() + (int64_t)(options.seconds * 1e9);
}

int main(int argc, char **argv)
{
    int letter;
    if (argc < 2 || (strcmp(argv[1], "hold") != 0 && strcmp(argv[1], "short") != 0))
        return 2;
    options.hold = strcmp(argv[1], "hold") == 0;
    while ((letter = getopt(argc - 1, argv + 1, "p:d:f:n:t:r:l:g:c:m:w:s:abekzx:")) != -1)
        option_read(letter, optarg);
    prepare();
    if (options.barrier)
        getchar();
    work_all();
    say();
    write_log();
    if (options.hold)
        obey();
    return options.exact && made != options.destinations * options.each ? 3 : 0;
}
