/* SPDX-License-Identifier: MIT */
/*
 * What ends a program, or makes it leave a connect in the middle.
 *
 *   ends says            sets and sends SIGBUS in every way there is, and prints what it is told:
 * with the library it must be what it is without ends told            prints what it has been
 * started with for SIGBUS ends dial PORT MS LO HI KIND connects for MS ms where SIGBUS is blocked
 * or handled in one way, while somebody truncates the pool; prints "in N out N" ends leave PORT
 * ROUNDS PORTS KIND SEED connects ROUNDS times and is interrupted at random moments; then holds as
 * many connections as there are PORTS. Prints "held N descriptors N maps N"
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

extern char **environ;
typedef void (*handler)(int);
handler bsd_signal(int number, handler its);
handler ssignal(int number, handler its);
handler sysv_signal(int number, handler its);
handler __sysv_signal(int number, handler its);
int sigblock(int mask);
int sigsetmask(int mask);
int pthread_attr_setsigmask_np(pthread_attr_t *attr, const sigset_t *set);

static sigset_t full, bus;
static int port, lo, hi;
static unsigned in, out;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- says ---- */

static volatile sig_atomic_t calls;
static char *stack, *page;

static void on_one(int number)
{
    calls += number;
}

static void on_two(int number)
{
    calls += 1000 * number;
}

static void on_three(int number, siginfo_t *info, void *context)
{
    char here;
    printf("  code %d, own sender %d, on the stack %d, context %d, page %d\n", info->si_code,
           info->si_code <= 0 && info->si_pid == getpid(),
           &here > stack && &here<stack + 65536, context != NULL, info->si_code> 0 &&
               info->si_addr == page);
    calls += number;
    if (info->si_code > 0)
        mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static const char *name_of(handler its)
{
    return its == SIG_DFL                     ? "default"
           : its == SIG_IGN                   ? "ignore"
           : its == SIG_ERR                   ? "error"
           : its == SIG_HOLD                  ? "hold"
           : its == on_one                    ? "one"
           : its == on_two                    ? "two"
           : its == (handler)(void *)on_three ? "three"
                                              : "another";
}

static void told(const char *what)
{
    struct sigaction now;
    sigset_t mask;
    sigaction(SIGBUS, NULL, &now);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    printf("%s: %s flags %x mask %lx; blocked %d; calls %d\n", what, name_of(now.sa_handler),
           (unsigned)now.sa_flags & ~0x04000000u /* SA_RESTORER, the C library's own */,
           *(unsigned long *)&now.sa_mask, sigismember(&mask, SIGBUS), calls);
}

static void returned(const char *what, handler its)
{
    printf("%s returns %s\n", what, name_of(its));
    told(what);
    if (its != SIG_ERR)
        raise(SIGBUS);
    told("  and sent");
}

static void child_is_told(const char *what, posix_spawnattr_t *attributes)
{
    char *argv[] = {"/proc/self/exe", "told", NULL};
    int status = -1;
    pid_t pid;
    printf("%s\n", what);
    fflush(stdout);
    if (attributes) {
        posix_spawn(&pid, argv[0], NULL, attributes, argv, environ);
    } else if ((pid = vfork()) == 0) {
        execv(argv[0], argv);
        _exit(1);
    }
    waitpid(pid, &status, 0);
    printf("  status %d\n", status);
}

static void own_fault(void)
{
    FILE *file = tmpfile();
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    fclose(file);
    page[0] = 1;
    munmap(page, 4096);
}

static void says(void)
{
    static const int flags[] = {0,
                                SA_SIGINFO,
                                SA_ONSTACK,
                                (int)SA_RESETHAND,
                                SA_NODEFER,
                                SA_RESTART,
                                SA_SIGINFO | SA_ONSTACK,
                                SA_SIGINFO | (int)SA_RESETHAND | SA_NODEFER};
    struct sigaction old;
    told("at the start");
    stack = malloc(65536);
    stack_t other = {.ss_sp = stack, .ss_size = 65536};
    sigaltstack(&other, NULL);
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        for (int filled = 0; filled < 2; filled++) {
            struct sigaction action = {.sa_handler = on_one, .sa_flags = flags[i]};
            if (flags[i] & SA_SIGINFO)
                action.sa_sigaction = on_three;
            if (filled)
                action.sa_mask = full;
            sigaction(SIGBUS, &action, &old);
            returned("sigaction", old.sa_handler);
            if (flags[i] & (int)SA_RESETHAND)
                continue;
            action.sa_sigaction = on_three;
            action.sa_flags |= SA_SIGINFO;
            sigaction(SIGBUS, &action, NULL);
            own_fault();
            told("  and a fault of its own");
        }
    }
    returned("signal", signal(SIGBUS, on_two));
    returned("bsd_signal", bsd_signal(SIGBUS, on_one));
    returned("ssignal", ssignal(SIGBUS, on_two));
    returned("sysv_signal", sysv_signal(SIGBUS, on_one));
    returned("__sysv_signal", __sysv_signal(SIGBUS, on_two));
    siginterrupt(SIGBUS, 1);
    told("siginterrupt");
    returned("signal after that", signal(SIGBUS, on_one));
    siginterrupt(SIGBUS, 0);
    returned("signal, and not any more", signal(SIGBUS, on_two));
    returned("sigset", sigset(SIGBUS, on_one));
    returned("sigset, hold", sigset(SIGBUS, SIG_HOLD));
    returned("sigset, held", sigset(SIGBUS, on_two));
    sighold(SIGBUS);
    returned("signal, held", signal(SIGBUS, on_one));
    sigrelse(SIGBUS);
    told("sigrelse");
    printf("sigblock %d\n", sigblock(1 << (SIGBUS - 1)));
    printf("sigsetmask %d\n", sigsetmask(0));
    for (int number = 1; number <= 64; number++) {
        struct sigaction action = {.sa_handler = on_one, .sa_mask = full};
        if (number == SIGBUS || sigaction(number, &action, NULL) != 0)
            continue;
        sigaction(number, NULL, &old);
        printf("%d: %s mask %lx\n", number, name_of(old.sa_handler),
               *(unsigned long *)&old.sa_mask);
        action.sa_handler = SIG_DFL;
        sigemptyset(&action.sa_mask);
        sigaction(number, &action, &old);
        printf("%d: %s mask %lx\n", number, name_of(old.sa_handler),
               *(unsigned long *)&old.sa_mask);
    }
    pthread_sigmask(SIG_BLOCK, &bus, NULL);
    int fd = signalfd(-1, &bus, 0), got = 0;
    struct signalfd_siginfo info;
    raise(SIGBUS);
    printf("signalfd: %d\n",
           read(fd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGBUS);
    raise(SIGBUS);
    printf("sigwait: %d\n", sigwait(&bus, &got) == 0 && got == SIGBUS);
    child_is_told("blocked, exec", NULL);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigdefault(&attributes, &bus);
    child_is_told("posix_spawn", &attributes);
    pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
    child_is_told("handled, exec", NULL);
    printf("sigignore %d\n", sigignore(SIGBUS));
    returned("ignored", SIG_DFL);
    child_is_told("ignored, exec", NULL);
    child_is_told("ignored, posix_spawn", &attributes);
    returned("signal", signal(SIGBUS, on_one));
    pid_t pid = vfork();
    if (pid == 0) {
        signal(SIGBUS, SIG_DFL);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    told("after vfork");
    printf("bad: %d %d\n", sigaction(SIGKILL, &old, NULL), sigaction(1000, &old, NULL));
}

/* ---- dial ---- */

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in name = {.sin_port = 0};
    socklen_t length = sizeof(name);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct linger reset = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        close(fd);
        return -1;
    }
    getsockname(fd, (struct sockaddr *)&name, &length);
    int its = ntohs(name.sin_port);
    if (its >= lo && its <= hi)
        in++;
    else
        out++;
    return fd;
}

static void dial_once(int number)
{
    (void)number;
    close(dial());
}

static void *dial_thread(void *unused)
{
    dial_once(0);
    return unused;
}

static void on_usr1(handler its, bool with_mask)
{
    struct sigaction action = {.sa_handler = its};
    if (with_mask)
        action.sa_mask = full;
    sigaction(SIGUSR1, &action, NULL);
}

/* Waits for SIGUSR1, which is pending, in a call that has SIGBUS blocked meanwhile. */
static void wait_in(const char *kind)
{
    sigset_t usr1, all_but = full;
    struct timespec most = {.tv_sec = 1};
    static int epoll = -1;
    if (epoll < 0)
        epoll = epoll_create1(0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigdelset(&all_but, SIGUSR1);
    struct epoll_event event;
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    raise(SIGUSR1);
    if (strcmp(kind, "sigsuspend") == 0)
        sigsuspend(&all_but);
    else if (strcmp(kind, "ppoll") == 0)
        ppoll(NULL, 0, &most, &all_but);
    else if (strcmp(kind, "pselect") == 0)
        pselect(0, NULL, NULL, NULL, &most, &all_but);
    else
        epoll_pwait(epoll, &event, 1, 1000, &all_but);
}

static void raw_handler(void)
{
    struct {
        handler its;
        unsigned long flags;
        void (*restorer)(void);
        unsigned long mask;
    } action = {.its = on_one}, now;
    syscall(SYS_rt_sigaction, SIGBUS, NULL, &now, 8);
    action.flags = now.flags & 0x04000000;
    action.restorer = now.restorer;
    syscall(SYS_rt_sigaction, SIGBUS, &action, NULL, 8);
    while (in + out < 1 || seconds() < 0)
        dial_once(0);
}

static void dial_always(const char *kind, int ms)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    on_usr1(dial_once, strcmp(kind, "mask of a handler") == 0);
    if (strcmp(kind, "sigset") == 0)
        sigset(SIGBUS, on_one);
    else if (strcmp(kind, "sigset, hold") == 0)
        sigset(SIGBUS, SIG_HOLD);
    else if (strcmp(kind, "sighold") == 0)
        sighold(SIGBUS);
    else if (strcmp(kind, "sigsetmask") == 0)
        sigsetmask(1 << (SIGBUS - 1));
    else if (strcmp(kind, "ignored") == 0)
        sigignore(SIGBUS);
    else if (strcmp(kind, "its own handler") == 0)
        signal(SIGBUS, dial_once);
    else if (strcmp(kind, "once") == 0)
        sysv_signal(SIGBUS, on_one);
    else if (strcmp(kind, "attribute") == 0)
        pthread_attr_setsigmask_np(&attributes, &full);
    else if (strcmp(kind, "raw") == 0)
        raw_handler();
    for (double end = seconds() + ms / 1e3; seconds() < end;) {
        if (strcmp(kind, "mask of a handler") == 0)
            raise(SIGUSR1);
        else if (strcmp(kind, "its own handler") == 0)
            raise(SIGBUS);
        else if (strcmp(kind, "attribute") == 0 &&
                 pthread_create(&thread, &attributes, dial_thread, NULL) == 0)
            pthread_join(thread, NULL);
        else if (strstr("sigsuspend ppoll pselect epoll_pwait", kind))
            wait_in(kind);
        else
            dial_once(0);
    }
    printf("in %u out %u\n", in, out);
}

/* ---- race ---- */

static atomic_bool done;
static atomic_int sets[4], seen[4];
static atomic_uint mixed;

static void on_a(int number)
{
    calls += number;
}

static void on_b(int number)
{
    calls += number;
}

/* Each with a mask and flags of its own, which must stay together. */
static struct sigaction action_of(int which)
{
    static const handler all[] = {on_one, on_two, on_a, on_b};
    static const int flags[] = {0, SA_RESTART, SA_NODEFER, (int)SA_RESETHAND};
    struct sigaction action = {.sa_handler = all[which], .sa_flags = flags[which]};
    sigaddset(&action.sa_mask, SIGUSR1 + which);
    return action;
}

static void see(const struct sigaction *old)
{
    for (int i = 0; i < 4; i++) {
        struct sigaction its = action_of(i);
        if (old->sa_handler != its.sa_handler)
            continue;
        atomic_fetch_add(&seen[i], 1);
        if ((old->sa_flags & ~0x04000000) != its.sa_flags ||
            memcmp(&old->sa_mask, &its.sa_mask, 8) != 0)
            atomic_fetch_add(&mixed, 1);
    }
}

static void *sets_always(void *arg)
{
    int which = (int)(intptr_t)arg;
    struct sigaction action = action_of(which), old;
    while (!done) {
        sigaction(SIGBUS, &action, &old);
        atomic_fetch_add(&sets[which], 1);
        see(&old);
    }
    return NULL;
}

/* Each that was set is replaced once, by whom sees it, but for the last. */
static void race(int ms)
{
    pthread_t thread[4];
    struct sigaction last;
    int lost = 0, all = 0;
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, sets_always, (void *)(intptr_t)i);
    for (double end = seconds() + ms / 1e3; seconds() < end;)
        close(dial());
    done = true;
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    sigaction(SIGBUS, NULL, &last);
    see(&last);
    for (int i = 0; i < 4; i++) {
        lost += abs(sets[i] - seen[i]);
        all += sets[i];
    }
    printf("lost %d mixed %u\n", lost, mixed);
    fprintf(stderr, "%d were set, %u connections\n", all, in + out);
}

/* ---- leave ---- */

static sigjmp_buf back;
static volatile sig_atomic_t current = -1, jumps;
static unsigned seed;

static void on_alarm_jump(int number)
{
    (void)number;
    siglongjmp(back, 1);
}

static void on_alarm_fork(int number)
{
    (void)number;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        close(dial());
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

/* A handler's own descriptor is closed by it; the one that was interrupted is the main program's.
 */
static void on_alarm_dial(int number)
{
    int saved = errno;
    (void)number;
    close(dial());
    errno = saved;
}

static void on_alarm_exit(int number)
{
    (void)number;
    pthread_exit(NULL);
}

static void interrupt_soon(handler its)
{
    struct sigaction action = {.sa_handler = its, .sa_flags = SA_RESTART};
    unsigned most = rand_r(&seed) % 2 ? 60 : 400;
    struct itimerval soon = {.it_value.tv_usec = 1 + rand_r(&seed) % most};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
}

static void no_interrupt(void)
{
    struct itimerval none = {.it_value.tv_usec = 0};
    setitimer(ITIMER_REAL, &none, NULL);
}

/* Connections of a descriptor that is known when one is left in the middle. */
static void dial_known(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct linger reset = {.l_onoff = 1};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    setsockopt(current, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    for (int i = 0; i < 20; i++) { /* long enough to be met in the middle */
        connect(current, (struct sockaddr *)&to, sizeof(to));
        connect(current, &none, sizeof(none));
    }
}

static void round_of(handler its)
{
    current = socket(AF_INET, SOCK_STREAM, 0);
    if (sigsetjmp(back, 1) == 0) {
        interrupt_soon(its);
        dial_known();
    } else {
        jumps++;
    }
    no_interrupt();
    close(current);
}

static void *cancelled(void *how)
{
    pthread_setcanceltype(how ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, NULL);
    dial_known();
    return NULL;
}

static void *exits(void *unused)
{
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
    interrupt_soon(on_alarm_exit);
    dial_known();
    no_interrupt();
    return unused;
}

static void round_of_thread(void *(*run)(void *), void *how)
{
    pthread_t thread;
    struct timespec soon = {.tv_nsec = rand_r(&seed) % 300000};
    current = socket(AF_INET, SOCK_STREAM, 0);
    sigset_t alarm_only, before;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm_only, &before); /* it is for that thread */
    pthread_create(&thread, NULL, run, how);
    if (run == cancelled) {
        nanosleep(&soon, NULL);
        pthread_cancel(thread);
    }
    pthread_join(thread, NULL);
    no_interrupt();
    signal(SIGALRM, SIG_IGN); /* also one that has come since */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(current);
}

static void *dials(void *unused)
{
    while (!done)
        close(dial());
    return unused;
}

static int in_clone(void *unused)
{
    (void)unused;
    alarm(20);
    close(dial());
    return 0;
}

static void round_of_child(const char *kind)
{
    static char clone_stack[2][262144] __attribute__((aligned(16)));
    pid_t pid;
    if (strcmp(kind, "vfork") == 0)
        pid = vfork();
    else if (strcmp(kind, "clone") == 0)
        pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    else if (strcmp(kind, "clone with memory") == 0)
        pid = clone(in_clone, clone_stack[0] + sizeof(clone_stack[0]), CLONE_VM | SIGCHLD, NULL);
    else
        pid = fork();
    if (pid == 0) {
        alarm(20);
        close(dial());
        _exit(0);
    }
    if (rand_r(&seed) % 2)
        kill(pid, SIGKILL);
    else
        close(dial());
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        printf("child: signal %d\n", WTERMSIG(status));
}

static unsigned count(const char *folder, bool of_lines)
{
    unsigned entries = 0;
    if (of_lines) {
        FILE *file = fopen(folder, "r");
        for (int c; (c = getc(file)) != EOF;)
            entries += c == '\n';
        fclose(file);
        return entries;
    }
    DIR *open = opendir(folder);
    while (readdir(open))
        entries++;
    closedir(open);
    return entries;
}

static void one_round(const char *kind)
{
    if (strcmp(kind, "longjmp") == 0)
        round_of(on_alarm_jump);
    else if (strcmp(kind, "handler") == 0)
        round_of(on_alarm_dial);
    else if (strcmp(kind, "fork in a handler") == 0)
        round_of(on_alarm_fork);
    else if (strcmp(kind, "cancel") == 0)
        round_of_thread(cancelled, NULL);
    else if (strcmp(kind, "cancel at once") == 0)
        round_of_thread(cancelled, &seed);
    else if (strcmp(kind, "thread exit") == 0)
        round_of_thread(exits, NULL);
    else
        round_of_child(kind);
}

static int hold_all(int ports)
{
    int held[4096], most = 0;
    for (double end = seconds() + 10; most < ports && seconds() < end;) {
        int now = 0;
        while (now < ports && (held[now] = dial()) >= 0)
            now++;
        most = now > most ? now : most;
        for (int i = 0; i < now; i++)
            close(held[i]);
    }
    return most;
}

/* So that the C library has loaded what that needs. */
static void *exits_at_once(void *unused)
{
    pthread_exit(unused);
}

/* With all ports but two in use, so that it also looks for more. */
static void leave(int rounds, int ports, const char *kind)
{
    int held[4096], most = 0;
    pthread_t beside;
    sigset_t before, after;
    bool threads = strcmp(kind, "fork beside a thread") == 0 || strcmp(kind, "vfork") == 0;
    pthread_create(&beside, NULL, exits_at_once, NULL);
    pthread_join(beside, NULL);
    while (most < ports - 2 && (held[most] = dial()) >= 0)
        most++;
    unsigned descriptors = count("/proc/self/fd", false);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    if (threads)
        pthread_create(&beside, NULL, dials, NULL);
    for (int i = 0; i < 20; i++) /* what the C library maps for threads and keeps */
        one_round(kind);
    unsigned maps = count("/proc/self/maps", true);
    for (int i = 0; i < rounds; i++)
        one_round(kind);
    done = true;
    if (threads)
        pthread_join(beside, NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    int more = (int)count("/proc/self/fd", false) - (int)descriptors;
    int more_maps = (int)count("/proc/self/maps", true) - (int)maps;
    while (most)
        close(held[--most]);
    printf("held %d descriptors %d maps %d mask %d\n", hold_all(ports), more,
           more_maps > 0 ? more_maps : 0, memcmp(&before, &after, 8) == 0);
    fprintf(stderr, "%s: %d jumps, %u in, %u out\n", kind, jumps, in, out);
}

int main(int argc, char **argv)
{
    sigfillset(&full);
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    setvbuf(stdout, NULL, _IOFBF, 65536);
    if (argc > 1 && strcmp(argv[1], "says") == 0) {
        says();
    } else if (argc > 1 && strcmp(argv[1], "told") == 0) {
        told("  told");
        struct sigaction now;
        sigaction(SIGBUS, NULL, &now);
        if (now.sa_handler == SIG_IGN)
            raise(SIGBUS);
    } else if (argc == 7 && strcmp(argv[1], "dial") == 0) {
        port = atoi(argv[2]), lo = atoi(argv[4]), hi = atoi(argv[5]);
        dial_always(argv[6], atoi(argv[3]));
    } else if (argc == 4 && strcmp(argv[1], "race") == 0) {
        port = atoi(argv[2]), lo = 1, hi = 65535;
        race(atoi(argv[3]));
    } else if (argc == 7 && strcmp(argv[1], "leave") == 0) {
        port = atoi(argv[2]), lo = 1, hi = 65535, seed = (unsigned)atoi(argv[6]);
        leave(atoi(argv[3]), atoi(argv[4]), argv[5]);
    } else {
        return 2;
    }
    return 0;
}
