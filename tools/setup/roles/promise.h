/* SPDX-License-Identifier: MIT */
/*
 * The connections that a configuration promises as far as they meet this machine: those that must
 * come about, and those that must not. Each promise is one kind of connection of one family, and is
 * tried with single connections (struct play): from the edges of each block and range and from the
 * middle.
 */
#ifndef FIXPORT_TOOLS_SETUP_PROMISE_H
#define FIXPORT_TOOLS_SETUP_PROMISE_H

#include "../../config/site.h"
#include "../twin/twin.h"

/* One address at one end. */
struct promise_end {
    uint8_t addr[16];
    char device[IF_NAMESIZE]; /* the interface that leads there; empty: an address of this
                                 machine's, or nobody knows */
    bool here;                /* this machine's own */
};

struct promise {
    const char *name;     /* "pods to hosts" */
    const char *rejected; /* why it must not come about: "not a service"; NULL: it must */
    int family;
    char from_text[80], to_text[80]; /* "10.200.1.0/24 and 2 more" */
    struct promise_end *from, *to;
    size_t froms, tos;
    struct portset sports, dports;
    bool
        any_source; /* its source port may be changed: no firewall looks at it after this machine */
    struct portset may; /* if not empty: it may be changed, into one of these */
    struct promise_end *as; /* its source address must be one of these after this machine; none: any */
    size_t ases;
    bool together;      /* two with one source port, to one address, at the same time */
};

struct promises {
    struct promise *item;
    size_t count;
};

/**
 * roles_promise - what @roles of @site promise on this machine.
 * Looks at the machine as roles_want(), and refuses what that refuses. @promises: free with
 * promises_free() always.
 */
int roles_promise(const struct site *site, unsigned roles, const char *config_path,
                  struct promises *promises, struct setup_error *error);

/** promises_free - give back; zeros are fine. */
void promises_free(struct promises *promises);

/**
 * promise_plays - the single connections with which to try one.
 * @twin: ports that its rules name are tried, too; NULL: there is none.
 * Return: malloc'd; @count may be 0.
 */
struct play *promise_plays(const struct promise *promise, const struct twin *twin, size_t *count);

enum promise_kept {
    PROMISE_KEPT,
    PROMISE_UNKNOWN,   /* it was not played */
    PROMISE_LOST,      /* a packet of it was */
    PROMISE_REFUSED,   /* by this machine */
    PROMISE_MOVED,     /* it left from another source port */
    PROMISE_ELSEWHERE, /* it went to another address or port */
    PROMISE_DISGUISED, /* it left from an address that the next firewall does not know */
    PROMISE_PASSED,    /* and must not have */
};

/** promise_judge - what became of a connection, against what was promised. */
enum promise_kept promise_judge(const struct promise *promise, const struct play *play);

#endif
