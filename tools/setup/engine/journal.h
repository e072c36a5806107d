/* SPDX-License-Identifier: MIT */
/*
 * The journal: what was there before, what was asked for, on disk.
 */
#ifndef FIXPORT_TOOLS_SETUP_JOURNAL_H
#define FIXPORT_TOOLS_SETUP_JOURNAL_H

#include "../../config/site.h"
#include "../resources/resource.h"

#include <jansson.h>
#include <limits.h>
#include <stdint.h>

#define JOURNAL_OWNER 48 /* bytes, with the NUL */
#define JOURNAL_HAND "hand" /* the owner if none is named: somebody by hand */

enum journal_phase {
    JOURNAL_APPLYING, /* an apply was under way: status says it was interrupted */
    JOURNAL_UNCONFIRMED, /* applied, waits for "confirm" until .deadline */
    JOURNAL_APPLIED,
    JOURNAL_UNDOING,
};

struct journal_entry {
    const struct resource_type *type;
    char *name;
    char *why;
    char *before; /* before the first apply: where undo leads */
    char *previous; /* at the beginning of the last apply: where a roll back leads */
    char *wanted; /* what the last apply asked for */
    char *after; /* what was read when it was done; NULL and !done while applying */
    bool done;
    bool dropped; /* nobody wants it any more: .wanted is .before, and the entry goes when kept */
};

struct journal {
    enum journal_phase phase;
    unsigned roles;
    char owner[JOURNAL_OWNER]; /* who applied it; empty: a version that did not say it */
    char config[PATH_MAX]; /* the file it was made from */
    int64_t when; /* seconds since 1970 */
    int64_t deadline; /* JOURNAL_UNCONFIRMED: seconds since 1970 */
    enum site_persist persist;
    enum site_iptables iptables;
    struct journal_entry *entry;
    size_t count;
    json_t *earlier; /* the journal that a roll back restores; NULL: none */
};

/**
 * journal_load - read SETUP_JOURNAL.
 * @journal: free with journal_free(). Return: 1: there is one; 0: none; -1: unusable, @error says.
 * Hostile or garbled content is an error, never half taken.
 */
int journal_load(struct journal *journal, struct setup_error *error);

/** journal_save - replace it, fsync'd; mode 0600. On failure errno says why, too. */
int journal_save(const struct journal *journal, struct setup_error *error);

/** journal_remove - take it away. */
int journal_remove(struct setup_error *error);

/** journal_free - give back; zeros are fine. */
void journal_free(struct journal *journal);

/** journal_find - the entry of a resource, or NULL. @journal may be NULL. */
struct journal_entry *journal_find(const struct journal *journal,
                                   const struct resource_type *type, const char *name);

/** resource_type_find - by its name in the journal; NULL: unknown. (registry.c) */
const struct resource_type *resource_type_find(const char *name);

/** journal_hidden - whether there may be a journal that only root can see. */
bool journal_hidden(void);

/** journal_add - append an entry; the texts are copied. Return: it, until the next is added. */
struct journal_entry *journal_add(struct journal *journal, const struct resource_type *type,
                                  const char *name, const char *why);

/**
 * journal_keep - the apply is to stay: save the journal as applied, without what is needed to roll
 * back: dropped entries (they are the last) and the earlier journal. In memory they remain.
 */
int journal_keep(struct journal *journal, struct setup_error *error);

/** journal_equal - whether two journals ask for the same: all but times and what was read. */
bool journal_equal(const struct journal *a, const struct journal *b);

/** journal_to_json - the journal without its .earlier. New reference. */
json_t *journal_to_json(const struct journal *journal);

/** journal_earlier - what .earlier says, which is there. @earlier: free with journal_free(). */
int journal_earlier(const struct journal *journal, struct journal *earlier,
                    struct setup_error *error);

/** journal_restore - put back what .earlier says: that journal, or none. On failure as journal_save(). */
int journal_restore(const struct journal *journal, struct setup_error *error);

/**
 * journal_owned - refuse what is another owner's to change: it would take that one's away.
 * @owner: of --owner; NULL: by hand. @journal: may be empty. Return: 0; -1: @error says whose it is.
 */
int journal_owned(const struct journal *journal, const char *owner, struct setup_error *error);

/** journal_use - choose the iptables backend that the entries were made with, if there are any. */
int journal_use(const struct journal *journal, struct setup_error *error);

#endif
