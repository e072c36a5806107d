/* SPDX-License-Identifier: MIT */
/*
 * The kernel's clock, whatever clock_gettime() the program has been given: a faked one that runs
 * ahead would have ports taken before they have rested, a frozen one a wait without an end. Read
 * through the vDSO (vdso(7)), without a system call; where that has no such function, by one.
 *
 * The vDSO is an ELF image that the kernel has mapped and vouches for. Its table of symbols ends
 * where the table of their names begins.
 */
#include "shim.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

#if defined(__x86_64__)
#define CLOCK_NAME "__vdso_clock_gettime"
#else
#define CLOCK_NAME "__kernel_clock_gettime"
#endif
#define SYMBOLS_MOST 256

static int (*vdso_clock)(clockid_t, struct timespec *);

static const ElfW(Dyn) * dynamic_of(const char *image, uintptr_t *bias)
{
    const ElfW(Ehdr) *header = (const void *)image;
    const ElfW(Phdr) *program = (const void *)(image + header->e_phoff);
    const ElfW(Dyn) *dynamic = NULL;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (program[i].p_type == PT_LOAD)
            *bias = (uintptr_t)image + program[i].p_offset - program[i].p_vaddr;
        else if (program[i].p_type == PT_DYNAMIC)
            dynamic = (const void *)(image + program[i].p_offset);
    }
    return dynamic;
}

void clock_init(void)
{
    uintptr_t bias = 0;
    const ElfW(Sym) *symbol = NULL;
    const char *names = NULL;
    const char *image = getauxval ? (const char *)getauxval(AT_SYSINFO_EHDR) : NULL;
    const ElfW(Dyn) *dynamic = image ? dynamic_of(image, &bias) : NULL;
    for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag == DT_SYMTAB)
            symbol = (const void *)(bias + dynamic->d_un.d_ptr);
        else if (dynamic->d_tag == DT_STRTAB)
            names = (const void *)(bias + dynamic->d_un.d_ptr);
    }
    for (unsigned i = 0; symbol && i < SYMBOLS_MOST && (const char *)(symbol + 1) <= names;
         i++, symbol++)
        if (symbol->st_shndx != SHN_UNDEF && strcmp(names + symbol->st_name, CLOCK_NAME) == 0)
            vdso_clock = (__typeof__(vdso_clock))(bias + symbol->st_value);
}

int shim_clock(clockid_t clock, struct timespec *now)
{
    return vdso_clock ? vdso_clock(clock, now) : (int)SYS(clock_gettime, clock, now);
}
