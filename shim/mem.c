/* SPDX-License-Identifier: MIT */
/*
 * memcpy() and kin, hidden inside the library: the compiler calls them by itself, and a reference
 * to the C library's would be a strong one. The empty asm statements keep the compiler from
 * recognising the loops and calling the function it is just compiling.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *at, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
int bcmp(const void *a, const void *b, size_t size); /* what clang makes of memcmp() == 0 */
size_t strlen(const char *string);
int strcmp(const char *a, const char *b);

#define NOT_AN_IDIOM() __asm__ volatile("" ::: "memory")

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    for (; size >= 8; size -= 8, in += 8, out += 8) {
        uint64_t word;
        __builtin_memcpy(&word, in, 8);
        NOT_AN_IDIOM();
        __builtin_memcpy(out, &word, 8);
    }
    for (; size; size--) {
        NOT_AN_IDIOM();
        *out++ = *in++;
    }
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    if (out <= in)
        return memcpy(to, from, size);
    while (size--) {
        NOT_AN_IDIOM();
        out[size] = in[size];
    }
    return to;
}

void *memset(void *at, int byte, size_t size)
{
    unsigned char *out = at;
    uint64_t word = 0x0101010101010101ull * (unsigned char)byte;
    for (; size >= 8; size -= 8, out += 8) {
        NOT_AN_IDIOM();
        __builtin_memcpy(out, &word, 8);
    }
    for (; size; size--) {
        NOT_AN_IDIOM();
        *out++ = (unsigned char)byte;
    }
    return at;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const unsigned char *x = a, *y = b;
    for (; size; size--, x++, y++) {
        NOT_AN_IDIOM();
        if (*x != *y)
            return *x - *y;
    }
    return 0;
}

int bcmp(const void *a, const void *b, size_t size)
{
    return memcmp(a, b, size);
}

size_t strlen(const char *string)
{
    size_t length = 0;
    while (string[length]) {
        NOT_AN_IDIOM();
        length++;
    }
    return length;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}
