/* SPDX-License-Identifier: MIT */
/*
 * Opens COUNT connections to 127.0.0.1:PORT, and cancels a thread that is in one more. Prints
 * whether the thread ended in connect() ("cancelled"), or what that returned.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static struct sockaddr_in address = {.sin_family = AF_INET};
static sem_t begun;

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) ? errno : 0;
}

static void *run(void *arg)
{
    sem_post(&begun);
    int error = dial();
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    printf("returned %d\n", error);
    return arg;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    void *result = NULL;
    int error = argc == 3 ? 0 : EINVAL;
    address.sin_port = htons((unsigned short)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; !error && i < atoi(argv[2]); i++)
        error = dial();
    if (error || sem_init(&begun, 0, 0) || pthread_create(&thread, NULL, run, NULL))
        return 1;
    sem_wait(&begun);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    if (result == PTHREAD_CANCELED)
        printf("cancelled\n");
    return 0;
}
