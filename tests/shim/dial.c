/* SPDX-License-Identifier: MIT */
/*
 * Opens COUNT connections to 127.0.0.1:PORT at once and prints each one's source port: a client small
 * enough to be built for any C library.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[2]) : 1;
    for (int i = 0; argc > 1 && i < count; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((unsigned short)atoi(argv[1])),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof(address);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, length) != 0 ||
            getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
            perror("dial");
            return 1;
        }
        printf("%d\n", ntohs(address.sin_port));
    }
    return 0;
}
