/* SPDX-License-Identifier: MIT */
/*
 * What the files of fixport-run share. Functions that return an exit status have already said why
 * on stderr; 126 and 127 are used as by env(1).
 */
#ifndef FIXPORT_RUN_H
#define FIXPORT_RUN_H

#include <limits.h>
#include <stdbool.h>

#define EXIT_REFUSED 126 /* found, but not started */
#define EXIT_NOT_FOUND 127

/* ---- find.c ---- */

/**
 * program_find - the file that execvp(3) would run for @name.
 * Return: 0, EXIT_NOT_FOUND or EXIT_REFUSED.
 */
int program_find(const char *name, char path[PATH_MAX]);

/* ---- judge.c ---- */

/**
 * program_judge - whether the shim can act in the program at @path.
 * @argv: it and its arguments: "env -i" is refused. @library: to which the program must fit (class, byte order, machine).
 * @force: say it as a warning and go on.
 * Return: 0, EXIT_NOT_FOUND (a script's interpreter) or EXIT_REFUSED.
 */
int program_judge(const char *path, char **argv, const char *library, bool force);

/* ---- elf.c: what one needs to know of an ELF file ---- */

struct elf_kind {
    unsigned char class; /* EI_CLASS */
    unsigned char data; /* EI_DATA */
    unsigned machine; /* e_machine */
    bool interpreter; /* PT_INTERP: a dynamic loader starts it */
    bool go; /* built by the Go toolchain */
};

/** elf_read - look at the file @fd. Return: false if it is no ELF file. */
bool elf_read(int fd, struct elf_kind *kind);

/* ---- preload.c ---- */

/** library_find - where libfixport.so is. Return: 0 or EXIT_FAILED. */
int library_find(char path[PATH_MAX]);

/** preload_join - put @library behind what is in LD_PRELOAD, once. Return: 0 or EXIT_FAILED. */
int preload_join(const char *library);

/* ---- check.c ---- */

/**
 * check_run - start @path as a real run would, ask the shim in it, end it, and say what it said.
 * @library: that was preloaded. @planned: the pool that a real run would make or reload; NULL: none.
 * Return: 0: the shim is in and has no fault; else EXIT_FAILED.
 */
int check_run(const char *path, char **argv, const char *library, const char *planned);

#endif
