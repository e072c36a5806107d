/* SPDX-License-Identifier: MIT */
/*
 * A program that does with sockets all that programs do, and prints what it observes. It knows
 * nothing of fixport. The test runs it without and with the shim: what it prints must be the same.
 *
 *   behave CASE PORT     CASE is a name below; a server listens on 127.0.0.1:PORT and [::1]:PORT
 *
 * Source ports are printed as "in" or "out" of the range given by BEHAVE_RANGE=LO-HI, on lines that
 * begin with "port"; only those may differ.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

extern char **environ;

static int server_port;
static int range_lo = 1, range_hi = 65535;

static struct sockaddr_in v4(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                .sin_port = htons((uint16_t)port)};
}

static struct sockaddr_in6 v6(int port, bool mapped)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    inet_pton(AF_INET6, mapped ? "::ffff:127.0.0.1" : "::1", &address.sin6_addr);
    return address;
}

/* Prints a call's outcome: "NAME: 0" or "NAME: ECONNREFUSED". */
static long say(const char *name, long result)
{
    if (result < 0)
        printf("%s: %s\n", name, strerrorname_np(errno));
    else
        printf("%s: ok\n", name);
    return result;
}

static int local_port(int fd)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);
    if (getsockname(fd, (struct sockaddr *)&name, &length) != 0)
        return -1;
    return ntohs(((struct sockaddr_in *)&name)->sin_port);
}

static void say_port(const char *name, int fd)
{
    int port = local_port(fd);
    printf("port %s: %s\n", name, port >= range_lo && port <= range_hi ? "in" : "out");
}

static int dial(int fd)
{
    struct sockaddr_in address = v4(server_port);
    return connect(fd, (struct sockaddr *)&address, sizeof(address));
}

static int tcp(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

/* ---- cases ---- */

static void case_plain(void)
{
    int fd = tcp();
    errno = 77;
    say("connect", dial(fd));
    printf("errno after success: %d\n", errno);
    say_port("plain", fd);
    say("again", dial(fd));
    say("close", close(fd));
    say("close again", close(fd));
}

static void case_families(void)
{
    struct sockaddr_in6 six = v6(server_port, false), mapped = v6(server_port, true);
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    say("v6", connect(fd, (struct sockaddr *)&six, sizeof(six)));
    say_port("v6", fd);
    close(fd);
    fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    say("v4-mapped", connect(fd, (struct sockaddr *)&mapped, sizeof(mapped)));
    say_port("v4-mapped", fd);
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (fd >= 0) {
        say("mptcp", dial(fd));
        say_port("mptcp", fd);
        close(fd);
    }
}

static void case_errors(void)
{
    struct sockaddr_in good = v4(server_port), closed = v4(1), zero = v4(0);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    memcpy(page + 4096 - 8, &good, 8);
    memcpy(page + 4096 - sizeof(good), &good, sizeof(good));
    int fd = tcp();
    say("EFAULT", connect(fd, (struct sockaddr *)16, sizeof(good)));
    say("EFAULT at the very end", connect(fd, (struct sockaddr *)-8, sizeof(good)));
    say("EFAULT and around", connect(fd, (struct sockaddr *)-100, 128));
    say("NULL", connect(fd, NULL, sizeof(good)));
    say("EFAULT at the end", connect(fd, (struct sockaddr *)(page + 4096 - 8), sizeof(good)));
    say("short", connect(fd, (struct sockaddr *)&good, 8));
    say("length 0", connect(fd, (struct sockaddr *)&good, 0));
    say("length huge", connect(fd, (struct sockaddr *)&good, 4000));
    say("length -1", connect(fd, (struct sockaddr *)&good, (socklen_t)-1));
    good.sin_family = 77;
    say("family 77", connect(fd, (struct sockaddr *)&good, sizeof(good)));
    good = v4(server_port);
    say("refused", connect(fd, (struct sockaddr *)&closed, sizeof(closed)));
    say("to port 0", connect(fd, (struct sockaddr *)&zero, sizeof(zero)));
    say("after errors", connect(fd, (struct sockaddr *)(page + 4096 - sizeof(good)), sizeof(good)));
    say_port("after errors", fd);
    close(fd);
    say("EBADF", connect(fd, (struct sockaddr *)&good, sizeof(good)));
    say("EBADF -1", connect(-1, (struct sockaddr *)&good, sizeof(good)));
    fd = open("/dev/null", O_RDWR);
    say("ENOTSOCK", connect(fd, (struct sockaddr *)&good, sizeof(good)));
    say("bind ENOTSOCK", bind(fd, (struct sockaddr *)&zero, sizeof(zero)));
    close(fd);
    fd = tcp();
    say("bind EFAULT", bind(fd, (struct sockaddr *)16, sizeof(good)));
    say("bind EFAULT at the very end", bind(fd, (struct sockaddr *)-1, sizeof(good)));
    zero.sin_addr.s_addr = inet_addr("192.0.2.1");
    say("bind EADDRNOTAVAIL", bind(fd, (struct sockaddr *)&zero, sizeof(zero)));
    int value = 0;
    socklen_t size = sizeof(value);
    getsockopt(fd, IPPROTO_IP, 24, &value, &size);
    printf("option left: %d\n", value);
    socklen_t length = sizeof(good);
    say("getsockname EFAULT", getsockname(fd, (struct sockaddr *)16, &length));
    close(fd);
}

static void finish(int fd)
{
    struct pollfd poll_for = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof(error);
    poll(&poll_for, 1, 5000);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    printf("SO_ERROR: %d\n", error);
}

static void case_nonblocking(void)
{
    struct sockaddr_in closed = v4(1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int result = dial(fd);
    printf("nonblocking: %s\n", result == 0 || errno == EINPROGRESS ? "fine" : "no");
    finish(fd);
    say_port("nonblocking", fd);
    say("poll by connect", dial(fd) == 0 || errno == EISCONN ? 0 : -1);
    say_port("still", fd);
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    result = connect(fd, (struct sockaddr *)&closed, sizeof(closed));
    printf("nonblocking refused: %s\n",
           errno == EINPROGRESS || errno == ECONNREFUSED ? "fine" : "no");
    finish(fd);
    say("same socket again", dial(fd) == 0 || errno == EINPROGRESS ? 0 : -1);
    finish(fd);
    say_port("same socket again", fd);
    close(fd);
}

static void case_bind_zero(void)
{
    struct sockaddr_in any = v4(0), fixed;
    int fd = tcp();
    say("bind 0", bind(fd, (struct sockaddr *)&any, sizeof(any)));
    say("connect", dial(fd));
    say_port("bind 0 then connect", fd);
    close(fd);

    fd = tcp();
    bind(fd, (struct sockaddr *)&any, sizeof(any));
    int port = local_port(fd);
    printf("getsockname gives a port: %d\n", port > 0);
    say("bind twice", bind(fd, (struct sockaddr *)&any, sizeof(any)));
    printf("the port stays: %d\n", local_port(fd) == port);
    say("listen", listen(fd, 5));
    printf("the port stays: %d\n", local_port(fd) == port);
    close(fd);

    fd = tcp();
    bind(fd, (struct sockaddr *)&any, sizeof(any));
    fixed = v4(45999);
    say("bind twice, another port", bind(fd, (struct sockaddr *)&fixed, sizeof(fixed)));
    int copy = dup(fd);
    close(fd);
    printf("a duplicate has a port: %d\n", local_port(copy) > 0);
    close(copy);

    fd = tcp();
    bind(fd, (struct sockaddr *)&any, sizeof(any));
    say("listen at once", listen(fd, 5));
    printf("listening on a port: %d\n", local_port(fd) > 0);
    close(fd);

    fd = tcp();
    fixed = v4(45998);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    say("bind own port", bind(fd, (struct sockaddr *)&fixed, sizeof(fixed)));
    say("connect from it", dial(fd));
    printf("own port stays: %d\n", local_port(fd) == 45998);
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(fd);
}

static void case_unspec(void)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_in any = v4(0);
    int fd = tcp();
    say("connect", dial(fd));
    say("dissolve", connect(fd, &none, sizeof(none)));
    say("connect again", dial(fd));
    say_port("after dissolving", fd);
    say("dissolve", connect(fd, &none, sizeof(none)));
    say("bind", bind(fd, (struct sockaddr *)&any, sizeof(any)));
    say("listen", listen(fd, 1));
    printf("listens: %d\n", local_port(fd) > 0);
    close(fd);
}

static void case_others(void)
{
    struct sockaddr_in address = v4(server_port);
    struct sockaddr_un path = {.sun_family = AF_UNIX, .sun_path = "/nonexistent/socket"};
    int value = 0;
    socklen_t size = sizeof(value);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    say("udp", connect(fd, (struct sockaddr *)&address, sizeof(address)));
    if (range_lo > 60999) /* inside the kernel's own range it may be there by chance */
        printf("udp in the range: %d\n", local_port(fd) >= range_lo && local_port(fd) <= range_hi);
    getsockopt(fd, IPPROTO_IP, 51, &value, &size);
    printf("udp range: %d\n", value);
    close(fd);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    say("unix", connect(fd, (struct sockaddr *)&path, sizeof(path)));
    close(fd);
    int pair[2];
    say("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    close(pair[0]);
    close(pair[1]);
}

static void case_fastopen(void)
{
    struct sockaddr_in address = v4(server_port);
    struct iovec data = {.iov_base = "hello", .iov_len = 5};
    struct msghdr message = {
        .msg_name = &address, .msg_namelen = sizeof(address), .msg_iov = &data, .msg_iovlen = 1};
    struct mmsghdr messages[1] = {{.msg_hdr = message}};
    int fd = tcp();
    say("sendto", sendto(fd, "hello", 5, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof(address)));
    say_port("sendto", fd);
    close(fd);
    fd = tcp();
    say("sendmsg", sendmsg(fd, &message, MSG_FASTOPEN));
    say_port("sendmsg", fd);
    close(fd);
    fd = tcp();
    say("sendmmsg", sendmmsg(fd, messages, 1, MSG_FASTOPEN));
    say_port("sendmmsg", fd);
    close(fd);
    fd = tcp();
    say("sendmsg EFAULT", sendmsg(fd, (struct msghdr *)16, MSG_FASTOPEN));
    say("sendto EFAULT", sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)16, sizeof(address)));
    say("sendto, no address", sendto(fd, "x", 1, MSG_NOSIGNAL, NULL, 0));
    close(fd);
}

static void *dial_many(void *arg)
{
    long *good = arg;
    for (int i = 0; i < 50; i++) {
        int fd = tcp();
        int port = dial(fd) == 0 ? local_port(fd) : 0;
        *good += port >= range_lo && port <= range_hi;
        close(fd);
    }
    return NULL;
}

static void case_threads(void)
{
    pthread_t thread[8];
    long good[8] = {0}, sum = 0;
    for (int i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, dial_many, &good[i]);
    for (int i = 0; i < 8; i++) {
        pthread_join(thread[i], NULL);
        sum += good[i];
    }
    printf("port threads: %s\n", sum == 400 ? "in" : "out");
}

static void child(const char *name)
{
    int fd = tcp();
    say(name, dial(fd));
    say_port(name, fd);
    fflush(stdout);
    _exit(0);
}

static void reap(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    printf("child: %d\n", status);
}

static void case_children(void)
{
    char *const argv[] = {"/proc/self/exe", "plain", getenv("BEHAVE_PORT"), NULL};
    int fd = tcp();
    say("connect", dial(fd));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        child("fork");
    reap(pid);
    fflush(stdout);
    pid = vfork();
    if (pid == 0) {
        close(fd); /* its own descriptor, in the parent's memory */
        execv(argv[0], argv);
        _exit(1);
    }
    reap(pid);
    fflush(stdout);
    say("posix_spawn", posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) == 0 ? 0 : -1);
    reap(pid);
    say("the parent's socket still works", write(fd, "x", 1));
    say_port("parent", fd);
    close(fd);
}

static void case_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    int fd = tcp();
    dial(fd);
    while (readdir(folder))
        count++;
    closedir(folder);
    printf("descriptors: %d, the next: %d\n", count, fd);
    say("closefrom", (closefrom(3), 0));
    fd = tcp();
    printf("first free: %d\n", fd);
    say("connect", dial(fd));
    say_port("after closefrom", fd);
    say("dup2", dup2(0, fd));
    say("close_range", close_range(3, ~0u, 0));
    fd = tcp();
    say("connect", dial(fd));
    say_port("after close_range", fd);
    say("dup3", dup3(0, fd, O_CLOEXEC));
    say("dup3 same", dup3(fd, fd, 0));
    say("dup2 same", dup2(fd, fd));
    say("dup2 bad", dup2(999, fd));
    say("close_range bad", close_range(5, 4, 0));
    for (int i = 3; i < 1024; i++)
        close(i);
    fd = tcp();
    say("connect", dial(fd));
    say_port("after closing all", fd);
    close(fd);
}

static volatile sig_atomic_t alarmed;

static void on_alarm(int number)
{
    (void)number;
    alarmed = 1;
}

static void case_signals(void)
{
    struct sigaction action = {.sa_handler = on_alarm}, now;
    sigaction(SIGALRM, &action, NULL);
    int fd = tcp();
    say("connect", dial(fd));
    raise(SIGALRM);
    printf("alarmed: %d\n", alarmed);
    close(fd);
    action.sa_handler = on_alarm;
    sigaction(SIGBUS, &action, NULL);
    fd = tcp();
    say("connect", dial(fd));
    close(fd);
    sigaction(SIGBUS, NULL, &now);
    printf("our SIGBUS handler stays: %d\n", now.sa_handler == on_alarm);
    action.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &action, NULL);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        fd = tcp();
        dial(fd);
        raise(SIGBUS);
        _exit(1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("SIGBUS kills: %d\n", WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        fd = tcp();
        dial(fd);
        FILE *file = tmpfile();
        char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
        _exit(page[0]); /* beyond the end of an empty file: a real SIGBUS of the program's own */
    }
    waitpid(pid, &status, 0);
    printf("a real SIGBUS kills: %d\n", WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void case_limits(void)
{
    struct rlimit files = {.rlim_cur = 3, .rlim_max = 3};
    int fd = tcp();
    setrlimit(RLIMIT_NOFILE, &files); /* no descriptor can be opened any more */
    say("connect", dial(fd));
    say_port("no descriptors left", fd);
    close(fd);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"plain", case_plain},       {"families", case_families},
    {"errors", case_errors},     {"nonblocking", case_nonblocking},
    {"bind-zero", case_bind_zero}, {"unspec", case_unspec},
    {"others", case_others},     {"fastopen", case_fastopen},
    {"threads", case_threads},   {"children", case_children},
    {"descriptors", case_descriptors}, {"signals", case_signals},
    {"limits", case_limits},
};

int main(int argc, char **argv)
{
    const char *range = getenv("BEHAVE_RANGE");
    if (range)
        sscanf(range, "%d-%d", &range_lo, &range_hi);
    if (argc != 3)
        return 2;
    server_port = atoi(argv[2]);
    setenv("BEHAVE_PORT", argv[2], 1);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            return 0;
        }
    }
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        printf("%s\n", cases[i].name);
    return 2;
}
