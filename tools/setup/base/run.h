/* SPDX-License-Identifier: MIT */
/*
 * Other people's tools, run without a shell.
 */
#ifndef FIXPORT_TOOLS_SETUP_RUN_H
#define FIXPORT_TOOLS_SETUP_RUN_H

#include "base.h"

#include <sys/types.h>

/** setup_keep_fd - a descriptor that tools inherit (the lock), so that it lasts as long as they do; -1. */
extern int setup_keep_fd;

/** run_namespace - a descriptor of the network namespace in which tools run; -1: in ours. */
extern int run_namespace;

struct run_result {
    int status; /* exit status; 128 + n: signal n; 127: could not be started, see errno_ */
    int errno_; /* why it could not be started, 0 */
    char *output; /* stdout, NUL-terminated, at most 64 MiB or the limit */
    size_t length; /* of output */
    unsigned seconds; /* errno_ is ETIMEDOUT: the time that it had */
    char *errors; /* stderr, first 64 KiB, its first line is what people want to see */
};

/**
 * run_tool - run a program to its end, without a shell.
 * @argv: NULL-terminated; argv[0] is looked up in PATH, and in /usr/sbin and /sbin after that.
 * @input: its standard input; NULL: /dev/null.
 * @result: free with run_free(), always.
 *
 * Within 30 s, or $FIXPORT_SETUP_SECONDS, and not beyond run_until(): then it is killed with its
 * children, and errno_ is ETIMEDOUT. In its own process group (Ctrl-C at the terminal does not hit it in the middle), LC_ALL=C,
 * without LD_PRELOAD, no descriptors of ours.
 * Return: 0 if it ran and exited with 0, else -1.
 */
int run_tool(char *const argv[], const char *input, struct run_result *result);

/** run_until - in @seconds from now tools that run_tool() has started must have ended; 0: no more. */
void run_until(unsigned seconds);

/* What a tool may take that asks others over the network. */
struct run_limits {
    unsigned seconds; /* then it and its children are killed, and errno_ is ETIMEDOUT; 0: no limit */
    off_t output;     /* bytes of its stdout; beyond that errno_ is EFBIG */
    void (*tick)(void *arg); /* called twice a second while it runs; NULL: nothing, and signals wait */
    void *arg;
};

/**
 * run_tool_within - as run_tool(), within limits. With a tick, SIGINT, SIGTERM and SIGHUP end it, and
 * then us.
 * Nobody else in this process may wait for SIGCHLD.
 */
int run_tool_within(char *const argv[], const char *input, const struct run_limits *limits,
                    struct run_result *result);

/** run_free - give back. */
void run_free(struct run_result *result);

/** run_exists - whether @tool is to be found. */
bool run_exists(const char *tool);

/** run_explain - "iptables-restore: line 3 failed" from a failed run: one line. Return: -1. */
int run_explain(char *const argv[], const struct run_result *result, struct setup_error *error);

/** run_input - a descriptor from which @text can be read. Return: -1 with errno. */
int run_input(const char *text);

/**
 * run_enter - this process goes to another network namespace.
 * @namespace: its descriptor; -1: a new one.
 * Return: what run_leave() takes; -1 with errno.
 */
int run_enter(int namespace);

/** run_leave - back to where run_enter() was called. Ends the program if it cannot. */
void run_leave(int home);

/**
 * run_apart - call @work with @arg in a network namespace of its own, and come back.
 * Return: whether that was possible; @work's result is in *@result then.
 */
bool run_apart(int (*work)(void *arg), void *arg, int *result);

#endif
