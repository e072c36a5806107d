/* SPDX-License-Identifier: MIT */
/*
 * Writes random bytes into a file's mapping all the time, until it is killed.
 *
 *   scribble FILE SEED FROM TO
 *
 * FROM and TO bound the bytes that it writes to; a TO of 0 is the file's end.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Small values are what does harm: they pass for states, slots and counts. */
static uint8_t random_byte(uint64_t random)
{
    return random >> 62 == 0 ? (uint8_t)(random >> 40 & 3) : (uint8_t)(random >> 40);
}

int main(int argc, char **argv)
{
    struct stat st;
    if (argc != 5)
        return 2;
    int fd = open(argv[1], O_RDWR);
    uint64_t state = strtoull(argv[2], NULL, 10) * 2 + 1;
    uint64_t from = strtoull(argv[3], NULL, 10), to = strtoull(argv[4], NULL, 10);
    if (fd < 0 || fstat(fd, &st) != 0)
        return 1;
    to = to ? to : (uint64_t)st.st_size;
    volatile uint8_t *at =
        mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED || from >= to || to > (uint64_t)st.st_size)
        return 1;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        uint64_t random = random_next(&state);
        at[from + random_next(&state) % (to - from)] = random_byte(random);
    }
}
