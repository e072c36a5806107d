/* SPDX-License-Identifier: MIT */
/*
 * Reading the few facts of an ELF file that decide whether a preloaded library can act in it
 * (elf(5)). The file may be anything: every offset is only ever given to pread(2).
 */
#include "run.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <unistd.h>

#define ELF_TABLE_MAX 4096 /* program or section headers looked at */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ELF_NATIVE_DATA ELFDATA2LSB
#else
#define ELF_NATIVE_DATA ELFDATA2MSB
#endif
#define ELF_NATIVE_CLASS (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32)

static bool elf_pread(int fd, void *to, size_t size, uint64_t offset)
{
    return offset <= INT64_MAX && pread(fd, to, size, (off_t)offset) == (ssize_t)size;
}

static bool elf_has_interpreter(int fd, const ElfW(Ehdr) * header)
{
    for (uint32_t i = 0; i < header->e_phnum && i < ELF_TABLE_MAX; i++) {
        ElfW(Phdr) program;
        if (elf_pread(fd, &program, sizeof(program), header->e_phoff + i * sizeof(program)) &&
            program.p_type == PT_INTERP)
            return true;
    }
    return false;
}

static bool elf_name_is_go(int fd, uint64_t at)
{
    static const char *const names[] = {".go.buildinfo", ".note.go.buildid"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char name[32];
        size_t size = strlen(names[i]) + 1;
        if (elf_pread(fd, name, size, at) && memcmp(name, names[i], size) == 0)
            return true;
    }
    return false;
}

/* Go's linker leaves sections of its own, also in stripped programs. */
static bool elf_is_go(int fd, const ElfW(Ehdr) * header)
{
    ElfW(Shdr) names, section;
    if (!header->e_shoff ||
        !elf_pread(fd, &names, sizeof(names), header->e_shoff + header->e_shstrndx * sizeof(names)))
        return false;
    for (uint32_t i = 0; i < header->e_shnum && i < ELF_TABLE_MAX; i++)
        if (elf_pread(fd, &section, sizeof(section), header->e_shoff + i * sizeof(section)) &&
            elf_name_is_go(fd, (uint64_t)names.sh_offset + section.sh_name))
            return true;
    return false;
}

bool elf_read(int fd, struct elf_kind *kind)
{
    ElfW(Ehdr) header;
    memset(&header, 0, sizeof(header));
    if (pread(fd, &header, sizeof(header), 0) < EI_NIDENT + 4 ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return false;
    *kind = (struct elf_kind){.class = header.e_ident[EI_CLASS], .data = header.e_ident[EI_DATA]};
    kind->machine = header.e_machine;
    if (kind->data != ELF_NATIVE_DATA) /* e_machine stands in the other order */
        kind->machine = (kind->machine & 0xff) << 8 | kind->machine >> 8;
    if (kind->data != ELF_NATIVE_DATA || kind->class != ELF_NATIVE_CLASS)
        return true; /* another machine: that is all there is to say */
    kind->interpreter = elf_has_interpreter(fd, &header);
    kind->go = elf_is_go(fd, &header);
    return true;
}
