/* SPDX-License-Identifier: MIT */
/*
 * What the files that know the roles share: the site as seen from this machine, and the list of
 * resources that grows while each role adds its own. A role's function looks first and adds then,
 * so whatever is refused is refused before anything is changed.
 *
 * Functions return 0, or -1 after having written one sentence to roles->error. Addresses are
 * v4-mapped for IPv4; @family is 4 or 6.
 */
#ifndef FIXPORT_TOOLS_SETUP_ROLES_H
#define FIXPORT_TOOLS_SETUP_ROLES_H

#include "../resources/state.h"
#include "want.h"

#include "../../../pool/address.h"

#include <net/if.h>

/* ---- machine.c: what is there ---- */

struct machine_address {
    uint8_t addr[16];
    uint8_t prefix; /* of its network, as in struct block */
    char device[IF_NAMESIZE];
};

/* Addresses of this machine's interfaces; loopback's own and link-local ones are left out. */
struct machine {
    struct machine_address *item;
    size_t count;
};

/* How the kernel would send to an address. */
struct machine_path {
    bool found;
    bool local;               /* it is an address of this machine */
    bool direct;              /* on a connected network: no router between */
    char device[IF_NAMESIZE]; /* empty if not found */
    char router[64];          /* empty if direct */
    char source[64];          /* the address that this machine would send from; or empty */
    char why[128];            /* not found: what the kernel says */
};

/** machine_look - list the addresses. @machine: free with machine_free(). */
int machine_look(struct machine *machine, struct setup_error *error);

/** machine_free - give back; zeros are fine. */
void machine_free(struct machine *machine);

/** machine_has - the entry with exactly @addr, or NULL. */
const struct machine_address *machine_has(const struct machine *machine, const uint8_t addr[16]);

/**
 * machine_choose_gateway - site_choose_gateway(): an own address, else one on a connected network.
 */
void machine_choose_gateway(const struct machine *machine, struct site *site);

/** machine_networks - "192.168.31.0/24 (eth0), ..." for messages, "none". Return: @buf. */
const char *machine_networks(const struct machine *machine, int family, char *buf, size_t size);

/**
 * machine_path - ask the kernel how it would send to @addr ("ip route get").
 * @from: a packet of this pod, which is forwarded: rules of policy routing for pods' addresses
 *        count (ip-rule(8)); NULL: one of this machine's own.
 * Return: -1 only if ip(8) could not be asked.
 */
int machine_path(const uint8_t addr[16], const uint8_t *from, struct machine_path *path,
                 struct setup_error *error);

/** machine_pod - an address in a block of this node's pods, of a pod that is there if that can be seen. */
void machine_pod(const struct machine *machine, const struct block *pods, uint8_t addr[16]);

/**
 * machine_path_unrouted - as machine_path(), for a packet of this machine, if table main had none of
 * our routes: what was there before us decides, also when we come a second time.
 */
int machine_path_unrouted(const uint8_t addr[16], struct machine_path *path,
                          struct setup_error *error);

/**
 * machine_has_route - whether somebody else's route to exactly @to leads by @via, in table main.
 * Return: 1 or 0, -1 if ip(8) could not be asked.
 */
int machine_has_route(const struct block *to, const uint8_t via[16], struct setup_error *error);

/**
 * machine_marks - whether somebody else's rule of policy routing wants a bit of @mark set.
 * @rule: its priority and mark, for a sentence. Return: 1 or 0, -1 if ip(8) could not be asked.
 */
int machine_marks(int family, uint32_t mark, char *rule, size_t size, struct setup_error *error);

/**
 * machine_translates - whether somebody else's rules here translate source addresses (masquerade,
 * snat); false where that cannot be read, or nft is not installed to come before them.
 * @rule: the first such rule, for a sentence.
 */
bool machine_translates(int family, char *rule, size_t size);

/**
 * machine_sysctl - "net.ipv6.conf.eth0.accept_ra": the name of an interface's setting. @buf.
 * In sysctl(8)'s names a '.' in the interface's is written as '/'.
 */
#define SYSCTL_NAME (64 + IF_NAMESIZE)
const char *machine_sysctl(int family, const char *device, const char *setting, char *buf,
                           size_t size);

/** machine_ra_device - whether @device has a default route from router advertisements. */
bool machine_ra_device(const char *device);

/* ---- blocks.c: lists of blocks, and their text ---- */

/** block_family - 4 or 6. */
int block_family(const struct block *block);

/** blocks_add - append all of @more. */
void blocks_add(struct block_list *list, const struct block_list *more);

/** blocks_tidy - sort by address, and leave out what lies inside of another one. */
void blocks_tidy(struct block_list *list);

/** blocks_have_family - whether there is a block of @family. */
bool blocks_have_family(const struct block_list *list, int family);

/** blocks_with - the first block that contains @addr, or NULL. */
const struct block *blocks_with(const struct block_list *list, const uint8_t addr[16]);

/** pair_get - the address of @family, or NULL. */
const uint8_t *pair_get(const struct address_pair *pair, int family);

/** addr_print - an address as text. Return: @buf. */
#define ADDR_TEXT 48
const char *addr_print(const uint8_t addr[16], char *buf, size_t size);

/**
 * nft_addresses - what nft prints of an interval set with @list's blocks of @family: neighbours
 * joined, "{ 10.0.0.0/24, 10.0.2.1-10.0.2.2 }", or bare if it is one. @list is tidy.
 */
void nft_addresses(FILE *out, const struct block_list *list, int family);

/* ---- roles.c ---- */

struct role_route {
    struct block to;
    uint8_t via[16];
    bool steered; /* in the table for steered connections, not in table main */
};

/* topology.c: what each is. */
enum topology {
    TOPOLOGY_OPEN,
    TOPOLOGY_NODES,
    TOPOLOGY_INLINE,
    TOPOLOGY_ROUTED,
    TOPOLOGY_ONE_ARM,
    TOPOLOGY_HOST_GATEWAY,
};

struct roles {
    const struct site *site;
    unsigned roles;
    const struct journal *journal; /* may be NULL */
    const char *config_path;
    unsigned leave; /* of enum site_leave */
    struct machine machine;
    struct block_list pods;       /* whatever pods have: tidy */
    struct block_list hosts;      /* tidy */
    struct block_list nodes;      /* the nodes' addresses: tidy */
    const struct site_node *self; /* the [node] that this machine is, or NULL */
    struct block_list own_pods;   /* those of self: tidy */
    enum topology topology;
    bool one_arm;        /* hosts and nodes reach each other past the gateway */
    bool judged;         /* some machine has the role gateway */
    uint8_t sample[16];  /* one_arm: who is that near */
    enum site_snat snat; /* as the configuration says, or as the topology needs */
    bool steers[2];      /* of IPv4, IPv6: connections are steered through the gateway */
    struct role_route *route;
    size_t routes;
    bool reserve[65536]; /* ports for ip_local_reserved_ports */
    bool reserves;
    struct resources *resources;
    struct setup_error *error;
};

/* ---- topology.c ---- */

/**
 * topology_look - recognise the site's kind, and decide on [snat] mode where it is not given.
 * Refuses a mode that would have answers go past the gateway.
 */
int topology_look(struct roles *roles);

/** topology_note - say which kind it is, and what in it passes no firewall. */
void topology_note(struct roles *roles);

/* What each role adds; host.c, gateway.c, node.c, control-plane.c. */
int host_want(struct roles *roles);
int gateway_want(struct roles *roles);
int node_want(struct roles *roles);
int control_plane_want(struct roles *roles);

/* Of connections that a node steers through the gateway: their routing table, and the priority of the
 * rules that lead there, ahead of what others have for pods' addresses (Cilium 9 to 111, AWS 512). */
#define STEER_TABLE "161"
#define STEER_PRIORITY "5"

/**
 * roles_look - the site as seen from this machine, without what is wanted of it (.resources is NULL).
 * Return: malloc'd, until roles_forget(); NULL with @error.
 */
struct roles *roles_look(const struct site *site, unsigned roles, const char *config_path,
                         struct setup_error *error);

/** roles_forget - give back. */
void roles_forget(struct roles *roles);

/** role_refuse - "FILE: sentence". Return: -1. */
int role_refuse(struct roles *roles, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** role_add - append a resource. */
int role_add(struct roles *roles, const struct resource_type *type, const char *name,
             const char *wanted, const char *why);

/** role_sysctl - append a sysctl, if the kernel has it; else that is the error. */
int role_sysctl(struct roles *roles, const char *name, const char *wanted, const char *why);

/**
 * role_route - remember a route for the routes resource. The same twice is one; one destination via
 * two routers is refused when all are known.
 */
void role_route(struct roles *roles, const struct block *to, const uint8_t via[16], bool steered);

/** role_reserve - remember ports for ip_local_reserved_ports. */
void role_reserve(struct roles *roles, const struct portset *ports);

/** role_pool - append the pool that @config describes. */
int role_pool(struct roles *roles, const struct config *config, const char *why);

/** role_next_hop - @addr must be on a connected network. @what: "[gateway] address". */
int role_next_hop(struct roles *roles, const char *what, const uint8_t addr[16]);

/**
 * role_gateway - the [gateway] address of @family that this machine sends to: NULL if there is
 * none, or if it is this machine's own.
 */
const uint8_t *role_gateway(const struct roles *roles, int family);

/** role_pod_routes - routes to all pods of both families; @gateway: by way of it, if there is one.
 */
int role_pod_routes(struct roles *roles, bool gateway);

/**
 * role_hosts_path - the kernel must know a way to each of the hosts.
 * @gateway: but for a family that will be routed to them via [gateway] address.
 */
int role_hosts_path(struct roles *roles, bool gateway);

/** role_sample - block_sample(), but none of this machine's, of the gateway's or of a node's addresses,
 * if there is another one near. */
void role_sample(const struct roles *roles, const struct block *block, uint8_t addr[16]);

/** block_sample - an address of @block that a host could have, to ask the kernel about. */
void block_sample(const struct block *block, uint8_t addr[16]);

#endif
