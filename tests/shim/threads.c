/* SPDX-License-Identifier: MIT */
/*
 * Whether the library's handler for SIGBUS is there for good after a first connection, although
 * another thread, which binds all the time, needs it for moments only.
 *
 *   threads TIMES
 *
 * Prints how often it was missing. Each time is a process of its own.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_barrier_t together;
static atomic_bool done;

/* To a port that root only may have, or nobody connects from: what it returns does not matter. */
static void *bind_on(void *unused)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    pthread_barrier_wait(&together);
    while (!atomic_load(&done)) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        bind(fd, (struct sockaddr *)&address, sizeof(address));
        close(fd);
    }
    return unused;
}

/* To a port that nobody listens on: a refused connection is one, too. */
static void connect_once(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, (struct sockaddr *)&address, sizeof(address));
    close(fd);
}

static bool is_missing(void)
{
    pthread_t binder;
    struct sigaction now;
    pthread_barrier_init(&together, NULL, 2);
    if (pthread_create(&binder, NULL, bind_on, NULL) != 0)
        return true;
    pthread_barrier_wait(&together);
    connect_once();
    atomic_store(&done, true);
    pthread_join(binder, NULL);
    sigaction(SIGBUS, NULL, &now);
    return !(now.sa_flags & SA_SIGINFO);
}

int main(int argc, char **argv)
{
    int missing = 0;
    for (int times = argc > 1 ? atoi(argv[1]) : 1; times > 0; times--) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit(is_missing());
        missing += child < 0 || waitpid(child, &status, 0) != child || status != 0;
    }
    printf("missing %d\n", missing);
    return 0;
}
