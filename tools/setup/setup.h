/* SPDX-License-Identifier: MIT */
/*
 * fixport-setup inside. Theory of operation:
 *
 * Whatever setup changes on a machine is a *resource*: a file, a sysctl, the routes with our
 * protocol number, our chains in iptables, our table in nft, the value of one option in a
 * manifest, the pool. All resources have one form: they can be read, as a text (or are absent),
 * and there is a list of *steps* that brings one from one text to another. A step is one command
 * with its standard input, or one file replaced; steps are data, so that "plan" can show exactly
 * what "apply" would do.
 *
 * Everything else follows from that.
 *   plan    for each resource that the roles want: read it, compare, list the steps
 *   apply   write down in the journal what is there now, do the steps, read again and compare; if
 *           anything fails, roll back: steps from what is there to what was there, last first
 *   status  read, compare with the journal
 *   undo    the same with the texts from before the first apply
 *   boot    steps to what the journal wants, for what does not survive a reboot
 * The steps are always computed from what is really there. So whoever is killed in the middle of
 * anything leaves a journal that says what was going on, and rolling back from any point is
 * rolling back; doing it twice does nothing the second time.
 *
 * Nothing goes through a shell; nothing of the configuration reaches a tool but numbers and
 * addresses that were parsed and are printed again. Names of nodes appear in comments only, and
 * only with the characters [A-Za-z0-9._-].
 *
 * Functions here return 0, or -1 after having written one sentence to @error, unless they say
 * otherwise. Not for threads.
 */
#ifndef FIXPORT_TOOLS_SETUP_H
#define FIXPORT_TOOLS_SETUP_H

#include "../config/site.h"
#include "base/base.h"

#include <jansson.h>
#include <stdint.h>

/* ---- apply.c: plan, apply, roll back, undo, boot ---- */

struct discover_options;

struct setup_options {
    const char *config; /* path */
    unsigned roles; /* 0: as the configuration names for this machine */
    bool json;
    bool force;
    bool no_rehearsal;
    const char *owner; /* who applies or undoes; NULL: somebody by hand */
    unsigned confirm; /* seconds, 0: not asked for */
    int64_t when; /* expire: of the apply that it is about */
    const struct discover_options *discover; /* setup/discover/discover.h */
    char **command; /* twin: what to run, NULL-terminated */
};

/* The subcommands; each returns enum setup_exit, having said everything. */
int setup_plan(const struct setup_options *options);
int setup_apply(const struct setup_options *options);
int setup_confirm(const struct setup_options *options);
int setup_expire(const struct setup_options *options);
int setup_undo(const struct setup_options *options);
int setup_status(const struct setup_options *options);
int setup_boot(const struct setup_options *options);
int setup_doctor(const struct setup_options *options); /* setup/doctor/doctor.c */
int setup_twin(const struct setup_options *options); /* setup/twin/command.c */
int setup_discover(const struct setup_options *options); /* setup/discover/discover.c */

#endif
