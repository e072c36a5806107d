/* SPDX-License-Identifier: MIT */
/*
 * All that the library takes from the C library, as weak symbols: a process that has no C library, or
 * lacks one of these, starts as if the shim were not there. Included ahead of every file of the
 * shim by the compiler's command line, because it also compiles in pool/, which knows nothing of
 * this. A test holds the library's undefined symbols against this list.
 */
#ifndef FIXPORT_WEAK_H
#define FIXPORT_WEAK_H

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

int __sigaction(int number, const struct sigaction *action, struct sigaction *old);

#pragma weak __sigaction
#pragma weak dlsym
#pragma weak getauxval
#pragma weak getenv
#pragma weak pthread_setcanceltype
#pragma weak syscall
#pragma weak __errno_location

/* For sys.h: clock.c. */
#define SYS_CLOCK shim_clock
int shim_clock(clockid_t clock, struct timespec *now);

#endif
