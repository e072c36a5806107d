/* SPDX-License-Identifier: MIT */
/*
 * What the subcommands of fixport-setup share, over the resources of resource.h: the lock, the work
 * that plan and apply begin with, doing and checking one change, rolling back, the watcher behind
 * --confirm.
 *
 * Functions that return 0 or -1 leave a sentence in @error; those that return enum setup_exit have
 * said everything. Not for threads.
 */
#ifndef FIXPORT_TOOLS_SETUP_ENGINE_H
#define FIXPORT_TOOLS_SETUP_ENGINE_H

#include "../../common/say.h"
#include "../base/path.h"
#include "../base/run.h"
#include "../setup.h"
#include "journal.h"

/* ---- text.c ---- */

/** text_count - "1 change", "2 changes": in one of four static buffers used in turn. */
const char *text_count(size_t count, const char *noun);

/** text_are - "1 resource is", "2 resources are"; in a static buffer. */
const char *text_are(size_t count, const char *noun);

/** text_when - seconds since 1970 as local time, in a static buffer. */
const char *text_when(int64_t when);

/** text_roles - "gateway, node" for a set of roles; in a static buffer. */
const char *text_roles(unsigned roles);

/** text_difference - a unified diff of two states on @out. */
void text_difference(const char *from, const char *to, FILE *out);

/** json_text - a JSON string, or null for NULL. New reference; NULL if it is not UTF-8. */
json_t *json_text(const char *text);

/** json_error - a JSON string of a sentence that may have in it what a tool said; or null. */
json_t *json_error(const struct setup_error *error);

/** json_roles - a list of the roles' names. New reference. */
json_t *json_roles(unsigned roles);

/** json_say - print @object (reference taken) on stdout. */
void json_say(json_t *object);

/**
 * json_promise - if the tool ends, wherever, before json_say() was called, say the last error as
 * JSON: who asked for it gets an object in any case. @promised: false takes it back.
 */
void json_promise(bool promised);

/* ---- lock.c ---- */

/**
 * lock_take - be the only fixport-setup that changes something, until lock_end() or the process ends.
 * @seconds: how long to wait for another one. Tools that are run inherit the lock: one that outlives
 * a killed setup holds it until it is done.
 */
int lock_take(unsigned seconds, struct setup_error *error);

/** lock_made - whether lock_take() had to make this folder. */
bool lock_made(const char *folder);

/** lock_adopt - an earlier apply had to make this folder: if it is above the lock, it goes with that. */
void lock_adopt(const char *folder);

/** lock_end - all is done: give the lock back. Without a journal its file and folder go, too. */
void lock_end(void);

/** lock_is_held - whether another process has it. False if that cannot be seen. */
bool lock_is_held(void);

/** lock_break - kill the processes that have the lock: an apply that is stuck, and its tools. */
void lock_break(void);

/** lock_forget - close the lock: in a forked child, whose parent keeps it, or for another process. */
void lock_forget(void);

/* ---- step.c ---- */

/**
 * step_print - what a person sees: "[#] ip -batch -" and its input indented, or a unified diff.
 * @out: stdout for plan, stderr for apply.
 */
void step_print(const struct step *step, FILE *out);

/** step_json - {"command": [...], "input": "..."} or {"file": ..., "diff": "..."}; new reference. */
json_t *step_json(const struct step *step);

/**
 * json_shown - a JSON string, or null for NULL; what is no UTF-8 has no place in JSON and becomes '?'.
 * New reference. For what people and scripts see; what the journal keeps is json_text()'s.
 */
json_t *json_shown(const char *text);

/** step_do - do it. Files: written whole to a temporary file, fsync, rename, fsync of the folder. */
int step_do(const struct step *step, struct setup_error *error);

/* One resource that is not as it shall be. */
struct change {
    const struct resource_type *type;
    char *name;
    char *why;
    char *now; /* state */
    char *wanted;
    struct steps steps;
};

struct plan {
    struct change *change; /* only what differs */
    size_t count;
    size_t looked_at; /* resources that were read */
};

/* ---- change.c: one resource, changed and checked ---- */

/** state_fits - whether @now is as good as @wanted: equal, or both say that nothing is there. */
bool state_fits(const char *now, const char *wanted);

/** type_label - "ip_forward"'s heading: "sysctl net.ipv4.ip_forward"; in one of four buffers. */
const char *type_label(const struct resource_type *type, const char *name);

/** change_list - the steps of @change (its type, name, now and wanted are set). */
int change_list(struct change *change, struct setup_error *error);

/** change_do - do the steps of @change, each shown on stderr before. Stops at a signal. */
int change_do(const struct change *change, struct setup_error *error);

/**
 * change_to - read a resource and bring it to @wanted, if it is not there already; and check.
 * Return: 1 if there was something to do, 0 if not, -1.
 */
int change_to(const struct resource_type *type, const char *name, const char *wanted,
              struct setup_error *error);

/**
 * change_from - as change_to(), from @base to @to: of what others share with us only our part is
 * changed, whatever the rest is by now. A setting of an interface that has gone is none.
 */
int change_from(const struct resource_type *type, const char *name, const char *base,
                const char *to, struct setup_error *error);

/** entry_fits - whether @now is as @entry was applied, with whatever others have added since. */
bool entry_fits(const struct journal_entry *entry, const char *now);

/** entry_is_ours - as entry_fits(), and others may have moved it: what undo takes away unforced. */
bool entry_is_ours(const struct journal_entry *entry, const char *now);

/** entry_left - what the last apply has left: its .after, or while that is not known .wanted. */
const char *entry_left(const struct journal_entry *entry);

/**
 * change_check - read a resource again: is it @wanted?
 * @now: what was read, malloc'd; may be NULL.
 */
int change_check(const struct resource_type *type, const char *name, const char *wanted, char **now,
                 struct setup_error *error);

/** change_free - give back what a change holds. */
void change_free(struct change *change);

/** signals_watch - from now on INT, TERM and HUP are noticed between steps instead of ending us. */
void signals_watch(void);

/** signals_seen - the first signal that came, 0: none. */
int signals_seen(void);

/** signals_deaf - while @deaf, what comes is of no interest: we are rolling back. */
void signals_deaf(bool deaf);

/* ---- work.c: what plan and apply begin with ---- */

struct work {
    char config[PATH_MAX]; /* absolute */
    struct site site;
    struct journal old; /* of the earlier apply; zeros if there is none */
    bool has_old;
    struct resources resources;
    struct journal next; /* what the journal will say; .previous is what was read just now */
    struct plan plan;
    bool guessed; /* something could not be read without root: taken as absent */
    struct rehearsal *rehearsal; /* rehearse.h; NULL: nothing was to be rehearsed */
};

/**
 * work_begin - read the configuration, the journal and the machine; make the plan. Says errors.
 * @options: config may be NULL: the default.
 * Return: 0 or SETUP_ERROR; work_end() in any case.
 */
int work_begin(struct work *work, const struct setup_options *options);

/** work_entry - read a resource and add it to the next journal. */
int work_entry(struct work *work, const struct resource_type *type, const char *name,
               const char *wanted, const char *why, struct setup_error *error);

/** work_append - append a change, which is the plan's from then on. */
void work_append(struct work *work, const struct change *change);

/** work_end - give back. */
void work_end(struct work *work);

/** work_json - {"role": ..., "config": ..., "changes": [...]}. New reference. */
json_t *work_json(const struct work *work);

/** plan_site - say on stderr what the roles have noted of the site and this machine. */
void plan_site(const struct work *work);

/** plan_snippet - for people: what kubeadm must know, if the plan changes a manifest. */
void plan_snippet(const struct work *work, FILE *out);

/* ---- persist.c: persist = distribution ---- */

/** persist_check - refuse if the distribution's tool would save other people's chains as well. */
int persist_check(bool force, struct setup_error *error);

/** persist_note - say on stderr if apply would refuse for that reason. */
void persist_note(const struct work *work);

/** persist_check_saved - whether the saved file @entry, as read, has each chain of ours in it. */
int persist_check_saved(const struct work *work, const struct journal_entry *entry,
                        struct setup_error *error);

/** persist_entries - add the files that the distribution's tool writes to @work's next journal. */
int persist_entries(struct work *work, struct setup_error *error);

/** persist_change - add the change that saves the rules to @work's plan, if it is due. */
void persist_change(struct work *work);

/** persist_is_saved - whether an entry is such a file: what is in it is known only afterwards. */
bool persist_is_saved(const struct journal_entry *entry, enum site_persist persist);

/* ---- undo.c ---- */

/**
 * rollback_run - bring everything to where it was when the journal's apply began, last first, and
 * restore the earlier journal. On failure the journal stays, and the next one tries again.
 * Return: 0; -1; 1: there is no room for the earlier journal, and all else is done.
 */
int rollback_run(const struct journal *journal, struct setup_error *error);

/**
 * rollback_reload - say @why, roll back, and load the journal that is there then.
 * @journal: loaded; replaced. @has: whether there is one; likewise.
 */
int rollback_reload(struct journal *journal, bool *has, const char *why, struct setup_error *error);

/**
 * undo_go_on - put everything back to before the first apply, and remove the journal.
 * @changed: counts the resources that had to be changed.
 */
int undo_go_on(const struct journal *journal, size_t *changed, struct setup_error *error);

/**
 * journal_begin - load the journal for a command that changes something, after lock_take().
 * An apply that was interrupted is rolled back first, and that is said.
 */
int journal_begin(struct journal *journal, bool *has, struct setup_error *error);

/* ---- confirm.c ---- */

/**
 * keeper_start - have somebody roll back in @seconds unless "confirm" came before: a timer of
 * systemd, or else a process. @when: of the journal that it is about.
 */
int keeper_start(int64_t when, unsigned seconds, struct setup_error *error);

/**
 * keeper_begun - tell the process, if it is one, that the journal is on disk: from then on it goes
 * when the journal is not about it any more.
 */
int keeper_begun(struct setup_error *error);

enum keeper {
    KEEPER_NOBODY,
    KEEPER_PROCESS,
    KEEPER_SYSTEMD,
};

/** keeper_look - who would roll back what waits to be confirmed. */
enum keeper keeper_look(const struct journal *journal);

/** keeper_stop - nothing waits to be confirmed any more: take away what keeper_start() has made. */
void keeper_stop(int64_t when);

/* ---- systemd.c ---- */

/** systemd_concerns - whether systemd must read its units again after a resource has changed. */
bool systemd_concerns(const struct resource_type *type, const char *name);

/** systemd_note - remember that a resource has changed. */
void systemd_note(const struct resource_type *type, const char *name);

/** systemd_reload - let systemd read its units again, if one has changed. */
void systemd_reload(void);

/**
 * systemd_start - make the unit active, once what it would do is done and kept: systemd restarts only
 * active units together with those they are part of (PartOf=, systemd.unit(5)). Its boot finds
 * nothing to do; it needs the lock, which is dropped for that. Not while a confirmation is awaited: boot would roll back.
 * @journal: what was kept; without the unit, or where systemd does not run, nothing is done.
 */
void systemd_start(const struct journal *journal);

/**
 * systemd_timer - have systemd run "fixport-setup expire @when" in @seconds.
 * Return: 0, or -1: systemd does not run here (@error is empty) or has refused.
 */
int systemd_timer(int64_t when, unsigned seconds, struct setup_error *error);

/** systemd_timer_is_set - whether systemd still has that timer. */
bool systemd_timer_is_set(int64_t when);

/** systemd_timer_stop - take the timer away, if there is one. */
void systemd_timer_stop(int64_t when);

/** systemd_timer_name - its unit's name; in a static buffer. */
const char *systemd_timer_name(int64_t when);

/** systemd_stop - the same back, after undo; not from the unit itself. */
void systemd_stop(const struct journal *journal);

/**
 * systemd_notes - say on stderr what stands in the way of @work's being there after a reboot, or
 * after whoever manages the network has been at work.
 */
void systemd_notes(const struct work *work);

/* ---- nodeports.c ---- */

/**
 * nodeports_check - if @plan sets the API server's range to @ports: do Services have others? kubectl
 * is asked, for some seconds at most. Where it cannot be, that is said on stderr and is no error.
 */
int nodeports_check(const struct plan *plan, const struct portrange *ports,
                    struct setup_error *error);

#endif
