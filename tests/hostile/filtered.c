/* SPDX-License-Identifier: MIT */
/*
 * A program under a seccomp filter, its own or its launcher's, and in other straits.
 *
 *   filtered RULES run COMMAND ARGUMENT...
 *   filtered RULES dial PORT COUNT AFTER KIND...
 *
 * RULES: "CALL[/ARG:VALUE]...=ERRNO,...": system calls that fail, or end the process if ERRNO is
 * "kill"; "-" is none. "run" sets the filter and then starts COMMAND; "dial" connects COUNT times,
 * sets it after AFTER times, and prints "ok" or errno for each connection.
 *
 * KIND: old     the socket was made some ticks of the clock before
 *       bare    it was made by a system call, which the library does not see
 *       datagram  it is one of UDP
 *       nonblock  it does not block; when it is connected, connect() is called once more
 *       again   the first connection fails, at a port that nobody listens at; then PORT
 *       full    there are no more descriptors, but the socket's
 *       memory  there is no more address space, but 200 KiB
 *       lock, lockfuture, lockonfault  mlockall(), before the first connection
 *       closed  sockets are closed, by a reset
 *       unseen  the same by a system call that the library does not see
 *       marks   a vain write() of a word before and after each step, for strace(1)
 *       slow    a second passes between the connections
 *       pause   waits for a byte on standard input between the connections
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    unsigned number;
} calls[] = {
    {"bind", SYS_bind},
    {"clock_gettime", SYS_clock_gettime},
    {"fallocate", SYS_fallocate},
    {"fcntl", SYS_fcntl},
    {"fstat", SYS_fstat},
    {"futex", SYS_futex},
    {"getsockname", SYS_getsockname},
    {"getsockopt", SYS_getsockopt},
    {"mmap", SYS_mmap},
    {"nanosleep", SYS_nanosleep},
    {"newfstatat", SYS_newfstatat},
    {"openat", SYS_openat},
    {"recvfrom", SYS_recvfrom},
    {"rt_sigaction", SYS_rt_sigaction},
    {"rt_sigprocmask", SYS_rt_sigprocmask},
    {"sendto", SYS_sendto},
    {"setsockopt", SYS_setsockopt},
    {"socket", SYS_socket},
};

static struct sock_filter code[256];
static unsigned short length;

static void emit(unsigned what, unsigned value, unsigned char yes, unsigned char no)
{
    if (length == sizeof(code) / sizeof(code[0]))
        exit(3);
    code[length++] = (struct sock_filter){(unsigned short)what, yes, no, value};
}

/* "getsockopt/1:1/2:71=1"; each test that fails jumps to the rule's end. */
static void add_rule(char *text)
{
    unsigned short tests[8];
    int count = 0;
    char *arguments = strchr(text, '/'), *action = strchr(text, '=');
    unsigned number = ~0u;
    if (!action)
        exit(3);
    *action++ = '\0';
    if (arguments)
        *arguments++ = '\0';
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        if (strcmp(calls[i].name, text) == 0)
            number = calls[i].number;
    if (number == ~0u)
        exit(3);
    emit(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
    tests[count++] = length;
    emit(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 0);
    while (arguments && count < 8) {
        unsigned which = (unsigned)strtoul(arguments, &arguments, 10);
        unsigned value = (unsigned)strtoul(arguments + 1, &arguments, 0);
        emit(BPF_LD | BPF_W | BPF_ABS, (unsigned)(offsetof(struct seccomp_data, args) + which * 8),
             0, 0);
        tests[count++] = length;
        emit(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0);
        arguments = *arguments == '/' ? arguments + 1 : NULL;
    }
    emit(BPF_RET | BPF_K,
         strcmp(action, "kill") == 0 ? SECCOMP_RET_KILL_PROCESS
                                     : SECCOMP_RET_ERRNO | (unsigned)atoi(action),
         0, 0);
    for (int i = 0; i < count; i++)
        code[tests[i]].jf = (unsigned char)(length - tests[i] - 1);
}

static void set_filter(char *rules)
{
    if (strcmp(rules, "-") == 0)
        return;
    for (char *rule = strtok(rules, ","); rule; rule = strtok(NULL, ","))
        add_rule(rule);
    emit(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    struct sock_fprog program = {.len = length, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("seccomp");
        exit(3);
    }
}

static struct {
    bool old, bare, datagram, nonblock, again, full, memory, unseen, closed, marks, slow, pause;
    int lock; /* of mlockall(); 0: none */
} kind;

static void mark(const char *word)
{
    if (kind.marks && write(-1, word, strlen(word)) == 0)
        exit(3);
}

static long tick(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int new_socket(void)
{
    int type = (kind.datagram ? SOCK_DGRAM : SOCK_STREAM) | (kind.nonblock ? SOCK_NONBLOCK : 0);
    int fd = kind.bare ? (int)syscall(SYS_socket, AF_INET, type, 0) : socket(AF_INET, type, 0);
    for (int i = 0; kind.old && i < 2; i++)
        for (long before = tick(); tick() == before;)
            ;
    return fd;
}

static long status_of(const char *key)
{
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            value = atol(line + strlen(key));
    if (file)
        fclose(file);
    return value;
}

static void fill(void)
{
    struct rlimit limit = {64, 64};
    if (kind.full)
        for (setrlimit(RLIMIT_NOFILE, &limit); dup(2) >= 0;)
            ;
    if (!kind.memory)
        return;
    rlim_t now = (rlim_t)(status_of("VmSize:") + 200) * 1024;
    limit = (struct rlimit){now, now};
    setrlimit(RLIMIT_AS, &limit);
}

static int dial_once(int fd, unsigned short port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 ? 0 : errno;
}

static int dial(unsigned short port)
{
    int fd = new_socket();
    mark("connect");
    if (kind.again && (dial_once(fd, 1) == 0 || errno != ECONNREFUSED)) {
        int error = errno;
        close(fd);
        return error;
    }
    int error = dial_once(fd, port);
    mark("connected");
    if (kind.nonblock && (error == EINPROGRESS || error == 0))
        error = dial_once(fd, port); /* on loopback it is connected by now */
    if (kind.nonblock && error == EISCONN)
        error = 0;
    struct linger reset = {.l_onoff = 1};
    if (kind.unseen || kind.closed)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    mark("close");
    if (kind.unseen)
        syscall(SYS_close, fd);
    else if (kind.closed)
        close(fd);
    mark("closed");
    return error;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 3;
    if (strcmp(argv[2], "run") == 0) {
        set_filter(argv[1]);
        execvp(argv[3], argv + 3);
        return 3;
    }
    int count = atoi(argv[4]), after = atoi(argv[5]);
    for (int i = 6; i < argc; i++) {
        kind.old |= strcmp(argv[i], "old") == 0;
        kind.bare |= strcmp(argv[i], "bare") == 0;
        kind.datagram |= strcmp(argv[i], "datagram") == 0;
        kind.nonblock |= strcmp(argv[i], "nonblock") == 0;
        kind.again |= strcmp(argv[i], "again") == 0;
        kind.full |= strcmp(argv[i], "full") == 0;
        kind.memory |= strcmp(argv[i], "memory") == 0;
        kind.unseen |= strcmp(argv[i], "unseen") == 0;
        kind.closed |= strcmp(argv[i], "closed") == 0;
        kind.marks |= strcmp(argv[i], "marks") == 0;
        kind.slow |= strcmp(argv[i], "slow") == 0;
        kind.pause |= strcmp(argv[i], "pause") == 0;
        kind.lock |= strncmp(argv[i], "lock", 4) == 0 ? MCL_CURRENT : 0;
        kind.lock |= strcmp(argv[i], "lockfuture") == 0 ? MCL_FUTURE : 0;
        kind.lock |= strcmp(argv[i], "lockonfault") == 0 ? MCL_ONFAULT : 0;
    }
    mark("main");
    if (kind.lock && mlockall(kind.lock) != 0)
        printf("mlockall %d\n", errno);
    for (int i = 0; i < count; i++) {
        char byte;
        if (i == after)
            set_filter(argv[1]);
        if (i == 0 && kind.full) { /* the socket is the last */
            int fd = new_socket();
            fill();
            close(fd);
        } else if (i == 0) {
            fill();
        }
        int error = dial((unsigned short)atoi(argv[3]));
        if (error)
            printf("%d\n", error);
        else
            puts("ok");
        fflush(stdout);
        if (kind.slow)
            sleep(1);
        if (kind.pause && read(0, &byte, 1) != 1)
            break;
    }
    if (kind.lock)
        printf("VmLck %ld VmSize %ld\n", status_of("VmLck:"), status_of("VmSize:"));
    return 0;
}
