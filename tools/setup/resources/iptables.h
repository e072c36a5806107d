/* SPDX-License-Identifier: MIT */
/*
 * What the files that know table filter share: the table, taken apart. Functions that return 0 or
 * -1 leave a sentence in @error.
 */
#ifndef FIXPORT_TOOLS_SETUP_IPTABLES_H
#define FIXPORT_TOOLS_SETUP_IPTABLES_H

#include "state.h"

#define PREFIX "FIXPORT-"
#define NOTE "FIXPORT-NEW-"
#define DOCKER "DOCKER-USER"
#define DOCKER_JUMP "-j " DOCKER
#define CHAIN_MOST 128 /* bytes of a chain's name (nft's limit; iptables' is 29), with the NUL */

struct chain {
    char name[CHAIN_MOST];
    char **rule; /* what stands behind "-A NAME " */
    size_t count;
    bool accepts; /* a built-in chain whose policy is ACCEPT */
    bool builtin;
};

struct jump {
    unsigned position; /* from 1; 0: in DOCKER-USER, and no packet comes there */
    char chain[CHAIN_MOST];
    char *rule;
};

struct table {
    int family;
    struct chain *chain; /* sorted by name */
    size_t chains;
    struct jump *jump; /* by chain and position; only of a state */
    size_t jumps;
};

/* ---- iptables-table.c ---- */

/** name_is_own - whether a chain of this name is one of ours that holds rules. */
bool name_is_own(const char *name);

/** name_is_note - whether it is a note of what came with us. */
bool name_is_note(const char *name);

/** rule_target - the chain or target behind -j or -g of a rule. Return: its length, 0. */
size_t rule_target(const char *rule, const char **target);

/** rule_jumps_to_own - whether @rule, what stands behind "-A CHAIN ", leads to a chain of ours. */
bool rule_jumps_to_own(const char *rule);

/** table_find - a chain by its name, or NULL. */
struct chain *table_find(const struct table *table, const char *name);

/** table_parse - what iptables-save has printed. @table: its family is set; table_free() always. */
int table_parse(const char *text, struct table *table, struct setup_error *error);

/** table_free - give back; zeros are fine. */
void table_free(struct table *table);

/**
 * state_parse - a state, in which nothing is allowed that is not ours.
 * @text: NULL: absent. @state: with table_free(); also when this fails.
 */
int state_parse(int family, const char *text, struct table *state, struct setup_error *error);

/** state_print - as text; malloc'd. */
char *state_print(const struct table *state);

/** state_extract - copy what is ours out of a whole table. @state: free with table_free(). */
void state_extract(const struct table *table, struct table *state);

/* ---- iptables-docker.c ---- */

/** name_is_docker - whether it is DOCKER-USER. */
bool name_is_docker(const char *name);

/** docker_is_ours - whether DOCKER-USER is of our making, and in nobody else's use. */
bool docker_is_ours(const struct table *now);

/** docker_jump_is_ours - whether the jump to it is, and nobody else needs it. */
bool docker_jump_is_ours(const struct table *now);

/** docker_is_reached - whether packets that are forwarded come to DOCKER-USER. */
bool docker_is_reached(const struct table *now);

/** docker_missing - whether @to jumps from DOCKER-USER, and in @now no packet comes there. */
bool docker_missing(const struct table *to, const struct table *now);

/** docker_unreached - whether @to has a jump from a DOCKER-USER where no packet comes. */
bool docker_unreached(const struct table *to);

/** docker_jump_away - lines that take away the jump to DOCKER-USER, if it is of our making. */
void docker_jump_away(FILE *out, const struct table *now);

/** docker_make - lines for iptables-restore that make what is missing, and note it. */
void docker_make(FILE *out, const struct table *now);

/** docker_away - lines that take away what is of our making, after our own jumps are. */
void docker_away(FILE *out, const struct table *now);

#endif
