/* SPDX-License-Identifier: MIT */
/*
 * The site: what one configuration file says of the whole network, the same on every machine.
 *
 * It is the file that config.h reads, with more sections. fixport-pool passes over these (but
 * checks their names and keys); fixport-setup reads them all.
 *
 *   [machine NAME]                    NAME as uname -n says, or its part before the first dot
 *   roles = gateway, node             host | gateway | node | control-plane
 *   leave = routes                    as in [setup], for this machine alone
 *
 *   [node NAME]                       a node of the cluster
 *   address = 192.168.31.17, fd00:31::17   at most one for each of IPv4 and IPv6
 *   pods = 10.200.1.0/24, 10.200.36.9      blocks and single pods that are behind it; any number
 *
 *   [pods]
 *   blocks = 10.200.0.0/16            all pods' addresses; default: what the nodes have
 *   services = 8088, 40002            ports that hosts may connect to on pods
 *
 *   [hosts]
 *   addresses = 192.168.31.67, 192.168.31.128/25    the machines outside of the cluster
 *   services = 60001, 5432-5440       ports that pods may connect to on hosts
 *   ports = 60001-60999               source ports of hosts towards pods: the hosts' own pool
 *
 *   [gateway]
 *   address = 192.168.31.2            if traffic goes through it; one for each network it is on
 *   stateful = yes                    answers by connection tracking, or "no": by mirrored rules
 *   exclusive = no                    reject everything else forwarded, not only pods <-> outside
 *
 *   [snat]
 *   mode = keep                       keep | none | confine: what nodes do to pods' source address;
 *                                     default: none if pods must keep theirs to pass the gateway
 *
 *   [control-plane]
 *   node-ports = 30000-32767          --service-node-port-range: one range; default: left alone
 *   manifest = /etc/kubernetes/manifests/kube-apiserver.yaml
 *
 *   [setup]
 *   persist = own                     own | distribution | none
 *   iptables = auto                   auto | nft | legacy
 *   mark = 0x2000                     one bit: of packets that nodes steer through the gateway
 *   leave = routes, pool              what others set, on every machine: routes | pool | sysctl |
 *                                     iptables | nft | node-ports | unit; default: nothing
 *   node-pool = yes                   or "no": as leave = pool, on nodes alone
 *
 * The source ports of pods towards hosts are those of [pool] and [rule]: the nodes' pool. Without a
 * [rule] its destinations are the services of [hosts] (config.h); with one, the two are compared
 * (site-agree.c).
 * A line, with those that continue it after a '\', has at most 1022 bytes. The lists that may be
 * longer, pods, blocks and addresses, go on in keys of their own: pods-2 to pods-99, in any order.
 * [pool] or a [rule] must be there, as for config_load().
 */
#ifndef FIXPORT_TOOLS_SITE_H
#define FIXPORT_TOOLS_SITE_H

#include "config.h"

#define SITE_NAME 64 /* bytes of a node's or machine's name, with its NUL */
#define SITE_MANIFEST "/etc/kubernetes/manifests/kube-apiserver.yaml"

enum site_role {
    ROLE_HOST = 1 << 0,
    ROLE_GATEWAY = 1 << 1,
    ROLE_NODE = 1 << 2,
    ROLE_CONTROL_PLANE = 1 << 3,
};

/* What can be left to others. */
enum site_leave {
    LEAVE_ROUTES = 1 << 0, /* and what steers connections to them */
    LEAVE_POOL = 1 << 1,
    LEAVE_SYSCTL = 1 << 2,
    LEAVE_IPTABLES = 1 << 3,
    LEAVE_NFT = 1 << 4,
    LEAVE_NODE_PORTS = 1 << 5,
    LEAVE_UNIT = 1 << 6,
};

enum site_snat {
    SNAT_KEEP,    /* masquerade to the node's address, the port kept: ahead of the CNI's rule */
    SNAT_NONE,    /* leave with the pod's own address and port */
    SNAT_CONFINE, /* keep, and underneath: any other port of a pod is moved into the range */
};

enum site_persist { PERSIST_OWN, PERSIST_DISTRIBUTION, PERSIST_NONE };
enum site_iptables { IPTABLES_AUTO, IPTABLES_NFT, IPTABLES_LEGACY };

/* An address block: v4 is v4-mapped with 96 added to its prefix (policy.h); host bits are zero. */
struct block {
    uint8_t addr[16];
    uint8_t prefix; /* 0..128 */
};

struct block_list {
    struct block *item; /* in the file's order */
    size_t count;
};

/* At most one address for each family. */
struct address_pair {
    bool has4;
    bool has6;
    uint8_t addr4[16]; /* v4-mapped */
    uint8_t addr6[16];
};

struct site_node {
    char name[SITE_NAME];
    struct address_pair address;
    struct block_list pods;
};

struct site_machine {
    char name[SITE_NAME];
    unsigned roles; /* of enum site_role, at least one */
    unsigned leave; /* of enum site_leave, besides the site's */
};

/* A site that was taken: every promise above holds for it. */
struct site {
    struct config config; /* [pool] and [rule]: the nodes' pool */
    struct site_machine *machine;
    size_t machines;
    struct site_node *node;
    size_t nodes;
    struct block_list pods; /* [pods] blocks; if that is not there, the nodes', without borrowed
                               ones: none of these overlap */
    struct portset pod_services; /* count 0: none */
    struct block_list hosts;
    struct portset host_services; /* count 0: none */
    struct portset host_ports;    /* count 0: hosts get no pool */
    struct block_list gateways;   /* all addresses of the gateway, single, in the file's order */
    struct address_pair gateway;  /* the one to use; neither: traffic goes straight to the node */
    bool stateful;
    bool exclusive;
    enum site_snat snat; /* keep unless snat_given */
    bool snat_given;
    uint32_t mark; /* one bit */
    struct portrange node_ports; /* lo 0: left alone */
    char manifest[PATH_MAX];
    enum site_persist persist;
    enum site_iptables iptables;
    bool node_pool;
    unsigned leave; /* of enum site_leave, on every machine */
    char **note; /* what is allowed and yet does not come through: sentences, with file and lines */
    size_t notes;
};

/**
 * site_load - read and check the configuration file of a site.
 * @path: a file, as config_load() takes it.
 * @site: the result, free with site_free(); all zero on failure.
 * @error: the reason for a failure, one line: file, section, key, value, what is allowed.
 *
 * What can be judged without looking at the machine is judged here: two nodes with one block or
 * overlapping ones (a single pod inside another node's block is a borrowed address, and allowed),
 * a node's pods that contain a node's, host's or gateway's address, hosts that overlap pods, node
 * ports that overlap the pool's or the hosts' ports, an address of the wrong kind (loopback,
 * link-local, multicast, broadcast, unspecified), the same machine, node or node's address twice, a
 * node without an address, or without one of its pods' family, nodes' pods that [pods] blocks
 * leaves out, rules whose ports are more than PORTRANGE_MAX ranges together, a rule for a port of a
 * host that the gateway rejects. What may be meant all the same is a sentence in @site->note.
 *
 * Return: 0 or as config_load(). Not for several threads at once.
 */
int site_load(const char *path, struct site *site, struct config_error *error);

/**
 * site_choose_gateway - set @site->gateway to the gateway's address that suits this machine best.
 * @suits: 0 for an address that is of no use, else the more the better; called with @arg.
 * Of several that are equal the first in the file is taken, as it is if none is of use.
 */
void site_choose_gateway(struct site *site, int (*suits)(const uint8_t addr[16], const void *arg),
                         const void *arg);

/** site_free - give back what a site holds; a site of zeros is fine. */
void site_free(struct site *site);

/**
 * site_machine_roles - the roles that the file names for a machine.
 * @name: as uname(2) says; compared whole, then up to its first dot; case does not matter.
 * Return: of enum site_role; 0 if the file does not name it.
 */
unsigned site_machine_roles(const struct site *site, const char *name);

/**
 * site_machine_leave - what is left to others on a machine with these roles.
 * @name: as above. Return: of enum site_leave.
 */
unsigned site_machine_leave(const struct site *site, const char *name, unsigned roles);

/** site_leave_name - "routes" for LEAVE_ROUTES. */
const char *site_leave_name(enum site_leave leave);

/**
 * site_roles_parse - read "host, gateway" (commas or spaces between).
 * Return: of enum site_role; 0 if one is not known: @why then says which and what is allowed.
 */
unsigned site_roles_parse(const char *text, struct parse_reason *why);

/** site_role_name - "host", "gateway", "node", "control-plane". */
const char *site_role_name(enum site_role role);

/**
 * site_pool_ports - the union of all rules' ports of a policy, sorted.
 * @slices: further ports; NULL: none. With a configuration's slices it is all that is let through.
 * @set: the result; neighbouring ranges are joined. Return: 0, or -E2BIG if more than
 * PORTRANGE_MAX.
 */
int site_pool_ports(const struct policy *policy, const struct portset *slices, struct portset *set);

/** block_is_v4 - whether a block is IPv4. */
bool block_is_v4(const struct block *block);

/** block_has - whether @addr (v4-mapped for IPv4) lies in @block. */
bool block_has(const struct block *block, const uint8_t addr[16]);

/** blocks_overlap - whether two blocks share an address. */
bool blocks_overlap(const struct block *a, const struct block *b);

/** block_print - "10.200.1.0/24", "10.200.36.9/32", "fd00::/64"; BLOCK_TEXT bytes do. Return: @buf.
 */
#define BLOCK_TEXT 64
const char *block_print(const struct block *block, char *buf, size_t size);

#endif
