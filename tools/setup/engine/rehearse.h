/* SPDX-License-Identifier: MIT */
/*
 * The steps of a plan, tried in a twin of this machine (twin.h) before anything is changed: do they
 * work at all, what will work that did not, and what would stop working that does.
 */
#ifndef FIXPORT_TOOLS_SETUP_REHEARSE_H
#define FIXPORT_TOOLS_SETUP_REHEARSE_H

#include "../roles/promise.h"
#include "engine.h"

/* ---- people.c: the connections of people who are there ---- */

/* Why somebody may miss it. */
enum person {
    PERSON_CONNECTED, /* it is open now */
    PERSON_NODE_PORT, /* kube-proxy has rules for it */
    PERSON_LISTENS,   /* a program of this machine listens there */
};

/* Connections, each of another network, to another address, or to another port. */
struct people {
    struct play *play; /* not played yet */
    enum person *why;  /* of each */
    size_t count;
    size_t beyond; /* that were found, and are too many */
    bool blind;    /* there are tracked connections, and no way to list them */
};

/**
 * people_look - from conntrack, this machine's sockets, and kube-proxy's rules.
 * Connections between pods and hosts of @site are only taken if they are open: for all others of
 * them the configuration says what becomes of them.
 * What cannot be looked at is left out. @people: free with people_free() always.
 */
void people_look(const struct site *site, struct people *people);

/** people_free - give back; zeros are fine. */
void people_free(struct people *people);

/* ---- rehearse.c ---- */

/* What would stop working. */
struct stop {
    struct play play;   /* as it went after the steps */
    const char *what;   /* whose it is: "open now", or a promise's name */
    struct blame blame; /* .rule NULL: not known */
    bool cut;           /* it does not go on while it is open */
};

/* The promised connections of one kind and family, before the steps and after. */
struct outlook {
    const char *name;
    const char *rejected; /* as in struct promise */
    int family;
    size_t before, after; /* how many are as promised */
    size_t tries;         /* of after; what cannot be tried is left out */
};

struct rehearsal {
    char *why_not;  /* why nothing was rehearsed; NULL: it was */
    char *failed;   /* the first step that fails, and why; NULL: none does */
    size_t people;  /* connections of people that work before */
    size_t strange; /* those that do not, if made anew: nobody knows how they go on */
    size_t ending; /* open between pods and hosts; they go on, and would be rejected if made anew */
    size_t beyond; /* as in struct people */
    struct outlook *outlook;
    size_t outlooks;
    struct stop *stop;
    size_t stops;
    struct twin_note *note; /* what could not be judged */
    size_t notes;
};

/**
 * rehearse - rehearse @work's plan; the result is @work->rehearsal, which is work_end()'s.
 * If the plan changes nothing of the network that stays NULL. Changes nothing of the machine; the
 * kernel may load modules that the plan's rules need. Shows progress on stderr.
 */
void rehearse(struct work *work);

/** rehearse_change - do the steps of @change in @twin, if it is about packets. Return: 0 or -1. */
int rehearse_change(struct twin *twin, const struct change *change, struct setup_error *error);

/* ---- rehearsal.c ---- */

#define REHEARSAL_SHOWN 10 /* of what would stop working: so many are traced and shown */

/** rehearsal_refuses - why apply must not be done, one sentence. Return: -1 if so, else 0. */
int rehearsal_refuses(const struct rehearsal *rehearsal, struct setup_error *error);

/**
 * rehearsal_print - for people: a few lines, each after a "# ". NULL: nothing.
 * @all: also what will work; otherwise only what stops working.
 */
void rehearsal_print(const struct rehearsal *rehearsal, bool all, FILE *out);

/** rehearsal_json - the same for scripts. New reference; null for NULL. */
json_t *rehearsal_json(const struct rehearsal *rehearsal);

/** rehearsal_free - give back. */
void rehearsal_free(struct rehearsal *rehearsal);

#endif
