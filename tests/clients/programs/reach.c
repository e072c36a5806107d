/* SPDX-License-Identifier: MIT */
/* A small HTTP client, to be linked in ways that a preload library cannot reach. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Return: 0, or 1 if something failed. Exported under this name to those who dlopen() it. */
int reach(const char *port)
{
    struct sockaddr_in server = {
        .sin_family = AF_INET,
        .sin_port = htons((unsigned short)atoi(port)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct sockaddr_in local;
    socklen_t length = sizeof(local);
    static const char request[] = "GET / HTTP/1.0\r\n\r\n";
    char answer[16];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof(server)) != 0 ||
        getsockname(fd, (struct sockaddr *)&local, &length) != 0 ||
        write(fd, request, sizeof(request) - 1) < 0 || read(fd, answer, sizeof(answer)) <= 0)
        return 1;
    printf("local %s %d\n", inet_ntoa(local.sin_addr), ntohs(local.sin_port));
    return close(fd) != 0;
}

int main(int argc, char **argv)
{
    return argc != 2 || reach(argv[1]);
}
