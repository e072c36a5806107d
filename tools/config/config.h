/* SPDX-License-Identifier: MIT */
/*
 * The configuration: what /etc/fixport.conf, or -p and -t, say that a pool shall be.
 *
 * Only the tools read files, with iniparser; the result is the policy that travels in the pool, so
 * that the shim needs neither. A configuration is taken whole or refused with one line.
 *
 *   [pool]
 *   ports = 60001-60499, 60600-60999  what rules without their own use
 *   path = /run/fixport/pool          absolute, at most CONFIG_POOL_PATH - 1 bytes
 *   quarantine = 120                  seconds, or 500ms, 120s, 2m, 1h; 0 to 24h
 *   when-exhausted = fail             fail | wait DURATION | pass; for rules without their own
 *   mode = 0666                       0600 to 0666
 *   group = NAME or number            whose group the pool is
 *   lanes = 256                       2 to 4096
 *   slices = 61900-61999              ports that pools elsewhere give out; none of the rules'
 *   [rule NAME]                       in order: the first that matches a destination decides
 *   to = 192.168.31.0/24:5432, !192.168.31.9
 *   ports = 60001-60499
 *   when-exhausted = wait 500ms
 *   scope = address                   or node: whose the ports are
 *
 *   [alias shop]                      addresses of one server: they are one destination
 *   server = 192.168.31.67:7000       its own; several are one as well
 *   addresses = 10.96.0.1:80          a Service's; a long list goes on in addresses-2 ...
 *
 * Without a [rule] there is one, "default", with the ports of [pool]: for the services of [hosts],
 * if the site has these (site.h), else for everywhere but loopback. Further parts of it are the
 * files in FILE.d (file.h). Each key and section may stand once, whatever file it is in. iniparser
 * makes names lower case; so are rules' names. The sections of the site (site.h) may stand in the
 * same file: here only their names and keys matter.
 */
#ifndef FIXPORT_TOOLS_CONFIG_H
#define FIXPORT_TOOLS_CONFIG_H

#include "../../pool/pool.h"

#include <limits.h>

#define CONFIG_POOL_PATH 256 /* with the NUL: what the shim remembers of a pool's path */

/*
 * A configuration that was taken.
 *
 * Default of options.mode: 0666 for root's pools, because the programs that connect run as any
 * user (pods do), and each must be able to write its leases; whoever does not want that names a
 * group. 0600 for another user's, which pool_open() lets nobody else use anyway.
 */
struct config {
    char path[PATH_MAX];              /* of the file, as it was given; empty if there is none */
    char pool_path[CONFIG_POOL_PATH]; /* empty: not said, the caller's default */
    struct policy policy;             /* policy_valid() */
    struct portset slices;            /* let through like the policy's, and not in this pool */
    struct pool_options options;
    bool mode_said;                   /* options.mode is not the default */
};

/*
 * Why a configuration was refused: one line without its newline, all there is to say, such as
 *   /etc/fixport.conf: [rule databases] ports = "60001-80001": 80001 is not a port: ports end at
 *   65535
 * What comes from the file is shortened, and only printable ASCII is left of it.
 */
struct config_error {
    char text[1024];
};

/**
 * config_load - read and check a configuration file, with the parts in its folder.
 * @path: a file, or a pipe such as /dev/stdin; read once.
 * @config: the result; untouched on failure.
 * @error: the reason for a failure.
 *
 * Not for several threads at once: iniparser's error callback is global.
 *
 * Return: 0; -EINVAL if something in it is not allowed; -EISDIR, -EFBIG (over 4 MiB), -EPERM (a
 * part is a stranger's), or -errno of open(2) and read(2).
 */
int config_load(const char *path, struct config *config, struct config_error *error);

/**
 * config_from_text - a configuration of one rule, "default", as -p PORTS -t DESTINATIONS say.
 * @ports: text for portset_parse().
 * @to: text for policy_add_rule(); NULL: everywhere but loopback. Empty is an error here.
 * @config: the result; untouched on failure.
 * @error: the reason for a failure: 'ports "60001-80001": 80001 is not a port: ...'.
 *
 * Return: 0, -EINVAL, -ERANGE, -E2BIG.
 */
int config_from_text(const char *ports, const char *to, struct config *config,
                     struct config_error *error);

/** config_warning - receives one sentence without full stop and newline. */
typedef void config_warning(const char *sentence, void *arg);

/**
 * config_warnings - say what is allowed but may surprise: ports that others use too.
 * @warn: called with @arg, at most once for each of: net.ipv4.ip_local_port_range of the caller's
 *        network namespace, NodePorts, privileged ports, ports below 16384.
 */
void config_warnings(const struct config *config, config_warning *warn, void *arg);

/**
 * config_warnings_for - as config_warnings() for a given range of ephemeral ports.
 * @ephemeral: NULL if it is not known.
 */
void config_warnings_for(const struct config *config, const struct portrange *ephemeral,
                         config_warning *warn, void *arg);

#endif
