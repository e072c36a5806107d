/* SPDX-License-Identifier: MIT */
/*
 * What the roles want of this machine, taken together: each role's file adds its own, and what
 * several of them need in one place (the routes, the reserved ports) is collected and added once,
 * at the end. Then everything is put in the order in which it is safe to apply: files, the pool,
 * routes, rules, and only then settings of the kernel, so that nothing is forwarded before the
 * rules are there (going back, it ends before they go); the API server's manifest last, because its
 * restart takes longest and nothing here waits for it.
 */
#include "roles.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define UNIT_LINK "/etc/systemd/system/multi-user.target.wants/fixport-setup.service"
#define PROTOCOL_FILE "/etc/iproute2/rt_protos.d/fixport.conf"
#define RESERVED "net.ipv4.ip_local_reserved_ports"
#define FLUSHING                                                                                   \
    "nftables.service iptables.service ip6tables.service netfilter-persistent.service "            \
    "firewalld.service"
#define SHOWN_PATH 200 /* bytes of the configuration's path that a sentence shows: its end */

#define TEXT_OF(number) #number
#define NUMBER(macro) TEXT_OF(macro)

/* ---- saying no, adding ---- */

int role_refuse(struct roles *roles, const char *format, ...)
{
    char *line = roles->error->text;
    size_t size = sizeof(roles->error->text);
    size_t length = strlen(roles->config_path);
    const char *path = roles->config_path + (length > SHOWN_PATH ? length - SHOWN_PATH : 0);
    va_list args;
    size_t at = (size_t)snprintf(line, size, "%s%s: ", length > SHOWN_PATH ? "..." : "", path);
    for (size_t i = 0; i < at; i++)
        if (iscntrl((unsigned char)line[i]))
            line[i] = '?';
    va_start(args, format);
    vsnprintf(line + at, size - at, format, args);
    va_end(args);
    return -1;
}

int role_add(struct roles *roles, const struct resource_type *type, const char *name,
             const char *wanted, const char *why)
{
    return resources_add(roles->resources, type, name, wanted, why, roles->error);
}

int role_sysctl(struct roles *roles, const char *name, const char *wanted, const char *why)
{
    char *now = NULL;
    if (resource_sysctl.read(name, &now, roles->error) < 0)
        return -1;
    bool there = now;
    free(now);
    if (!there)
        return setup_fail(roles->error,
                          "%s: this kernel does not have it, and it is needed to %s%s", name, why,
                          strstr(name, "ipv6") ? ": is IPv6 switched off on this machine?" : "");
    return role_add(roles, &resource_sysctl, name, wanted, why);
}

int role_pool(struct roles *roles, const struct config *config, const char *why)
{
    const char *path = *config->pool_path ? config->pool_path : POOL_DEFAULT_PATH;
    char *state = pool_state_from_config(config);
    int result = role_add(roles, &resource_pool, path, state, why);
    free(state);
    return result;
}

/* ---- routes ---- */

void role_route(struct roles *roles, const struct block *to, const uint8_t via[16], bool steered)
{
    size_t at = roles->routes++;
    if ((at & (at + 1)) == 0) /* 0, 1, 3, 7, ...: room for twice as many */
        roles->route = state_grow(roles->route, (2 * at + 1) * sizeof(*roles->route));
    roles->route[at].to = *to;
    roles->route[at].steered = steered;
    memcpy(roles->route[at].via, via, 16);
}

static int route_compare(const void *left, const void *right)
{
    const struct role_route *a = left, *b = right;
    int order = a->steered - b->steered;
    if (!order)
        order = memcmp(a->to.addr, b->to.addr, sizeof(a->to.addr));
    return order ? order : a->to.prefix - b->to.prefix;
}

/* Sorted, and the same twice is one; a destination via two routers is refused. */
static int routes_tidy(struct roles *roles)
{
    char block[BLOCK_TEXT], one[ADDR_TEXT], other[ADDR_TEXT];
    struct role_route *route = roles->route;
    size_t kept = 0;
    qsort(route, roles->routes, sizeof(*route), route_compare);
    for (size_t i = 0; i < roles->routes; i++) {
        if (!kept || route_compare(&route[kept - 1], &route[i]) != 0)
            route[kept++] = route[i];
        else if (memcmp(route[kept - 1].via, route[i].via, 16) != 0)
            return role_refuse(roles,
                               "%s would be routed via %s and via %s: only one of them can be",
                               block_print(&route[i].to, block, sizeof(block)),
                               addr_print(route[kept - 1].via, one, sizeof(one)),
                               addr_print(route[i].via, other, sizeof(other)));
    }
    roles->routes = kept;
    return 0;
}

/* Only pods' packets are looked up there: a mark that somebody else has is no matter of ours. */
static int rules_add(struct roles *roles, int family)
{
    char *text = NULL, rule[200], block[BLOCK_TEXT];
    FILE *out = state_open(&text);
    uint32_t mark = roles->site->mark;
    for (size_t i = 0; i < roles->own_pods.count; i++) {
        const struct block *pods = &roles->own_pods.item[i];
        if (block_family(pods) != family)
            continue;
        block_print(pods, block, sizeof(block));
        if (pods->prefix == 128)
            *strchr(block, '/') = '\0';
        fprintf(out, STEER_PRIORITY ": from %s fwmark 0x%x/0x%x lookup " STEER_TABLE "\n", block,
                mark, mark);
    }
    state_close(out);
    int result = machine_marks(family, mark, rule, sizeof(rule), roles->error);
    if (result > 0)
        result =
            role_refuse(roles,
                        "[setup] mark = 0x%x is in use here: a rule of policy routing looks at "
                        "it (%s): give another bit",
                        mark, rule);
    if (result == 0)
        result = role_add(roles, &resource_rule, family == 4 ? "ipv4" : "ipv6", text,
                          "steered connections, and no others, use that table");
    free(text);
    return result;
}

/* Those of one family and table, "ADDRESS/PREFIX via ROUTER" a line. */
static int routes_add_table(struct roles *roles, int family, bool steered)
{
    char *text = NULL, block[BLOCK_TEXT], via[ADDR_TEXT], name[32];
    FILE *out = state_open(&text);
    for (size_t i = 0; i < roles->routes; i++)
        if (block_family(&roles->route[i].to) == family && roles->route[i].steered == steered)
            fprintf(out, "%s via %s\n", block_print(&roles->route[i].to, block, sizeof(block)),
                    addr_print(roles->route[i].via, via, sizeof(via)));
    state_close(out);
    int result = 0;
    snprintf(name, sizeof(name), "ipv%d%s", family, steered ? " table " STEER_TABLE : "");
    if (*text)
        result = role_add(roles, &resource_routes, name, text,
                          steered ? "the way to the hosts by the gateway, for connections that are "
                                    "steered there"
                          : roles->roles & (ROLE_HOST | ROLE_GATEWAY)
                              ? "send what is for pods to the nodes that they are on"
                              : "send what is for the hosts through the gateway");
    if (*text && steered && result == 0)
        result = rules_add(roles, family);
    free(text);
    return result;
}

/* A route that somebody else has made already does as well as ours (bird, NetworkManager, you). */
static int routes_leave(struct roles *roles)
{
    char block[BLOCK_TEXT];
    size_t kept = 0;
    for (size_t i = 0; i < roles->routes; i++) {
        const struct role_route *route = &roles->route[i];
        int there = route->steered ? 0 : machine_has_route(&route->to, route->via, roles->error);
        if (there < 0)
            return -1;
        if (there)
            resources_note(roles->resources,
                           "the route to %s that is wanted is there already, and not of fixport's "
                           "making: it is left to whoever made it",
                           block_print(&route->to, block, sizeof(block)));
        else
            roles->route[kept++] = *route;
    }
    roles->routes = kept;
    return 0;
}

static int routes_add(struct roles *roles)
{
    if (roles->routes && (routes_tidy(roles) < 0 || routes_leave(roles) < 0))
        return -1;
    if (!roles->routes)
        return 0;
    char *state = file_state(0644, NUMBER(SETUP_ROUTE_PROTOCOL) " fixport\n");
    int result = role_add(roles, &resource_file, PROTOCOL_FILE, state,
                          "give the routes' protocol number a name that ip(8) shows");
    free(state);
    for (int family = 4; family <= 6 && result == 0; family += 2)
        for (int steered = 0; steered < 2 && result == 0; steered++)
            result = routes_add_table(roles, family, steered);
    return result;
}

int role_next_hop(struct roles *roles, const char *what, const uint8_t addr[16])
{
    char text[ADDR_TEXT], networks[400];
    struct machine_path path;
    if (roles->leave & LEAVE_ROUTES) /* theirs may go by way of others */
        return 0;
    if (machine_path(addr, NULL, &path, roles->error) < 0)
        return -1;
    if (path.direct)
        return 0;
    addr_print(addr, text, sizeof(text));
    if (path.local)
        return role_refuse(roles, "%s = %s is this machine's own: what role does it have?", what,
                           text);
    machine_networks(&roles->machine, address_is_v4(addr) ? 4 : 6, networks, sizeof(networks));
    return role_refuse(roles,
                       "%s = %s is on no network that this machine is connected to (%s%s), so "
                       "nothing can be routed via it; connected are: %s",
                       what, text, path.found ? "it is behind " : "",
                       path.found ? path.router : path.why, networks);
}

const uint8_t *role_gateway(const struct roles *roles, int family)
{
    const uint8_t *addr = pair_get(&roles->site->gateway, family);
    return addr && !machine_has(&roles->machine, addr) ? addr : NULL;
}

/* To one node's pods of a family, via its address. */
static int routes_to_node(struct roles *roles, const struct site_node *node, int family)
{
    char what[SITE_NAME + 32];
    const uint8_t *via = pair_get(&node->address, family);
    if (!blocks_have_family(&node->pods, family) || (via && machine_has(&roles->machine, via)))
        return 0;
    if (!via)
        return role_refuse(roles,
                           "[node %s] has pods with IPv%d addresses, but no IPv%d address itself: "
                           "add it to its address",
                           node->name, family, family);
    snprintf(what, sizeof(what), "[node %s] address", node->name);
    int result = role_next_hop(roles, what, via);
    for (size_t i = 0; i < node->pods.count && result == 0; i++)
        if (block_family(&node->pods.item[i]) == family)
            role_route(roles, &node->pods.item[i], via, false);
    return result;
}

/* With one next hop for all, whole blocks will do. */
static int routes_via_gateway(struct roles *roles, int family, const uint8_t *via)
{
    int result = role_next_hop(roles, "[gateway] address", via);
    for (size_t i = 0; i < roles->pods.count && result == 0; i++)
        if (block_family(&roles->pods.item[i]) == family)
            role_route(roles, &roles->pods.item[i], via, false);
    return result;
}

int role_pod_routes(struct roles *roles, bool gateway)
{
    for (int family = 4; family <= 6; family += 2) {
        const uint8_t *via = gateway ? role_gateway(roles, family) : NULL;
        if (!blocks_have_family(&roles->pods, family))
            continue;
        if (via && routes_via_gateway(roles, family, via) < 0)
            return -1;
        for (size_t i = 0; i < roles->site->nodes && !via; i++)
            if (routes_to_node(roles, &roles->site->node[i], family) < 0)
                return -1;
    }
    return 0;
}

int role_hosts_path(struct roles *roles, bool gateway)
{
    char text[BLOCK_TEXT];
    for (size_t i = 0; i < roles->hosts.count; i++) {
        uint8_t addr[16];
        struct machine_path path;
        if (gateway && role_gateway(roles, block_family(&roles->hosts.item[i])))
            continue;
        role_sample(roles, &roles->hosts.item[i], addr);
        if (machine_path(addr, NULL, &path, roles->error) < 0)
            return -1;
        if (!path.found)
            return role_refuse(roles,
                               "[hosts] addresses = %s: this machine has no route to it (%s): it "
                               "needs one before anything can be let through",
                               block_print(&roles->hosts.item[i], text, sizeof(text)), path.why);
    }
    return 0;
}

static bool is_taken(const struct roles *roles, const uint8_t addr[16])
{
    for (size_t i = 0; i < roles->site->gateways.count; i++)
        if (memcmp(roles->site->gateways.item[i].addr, addr, 16) == 0)
            return true;
    return machine_has(&roles->machine, addr) || blocks_with(&roles->nodes, addr);
}

void role_sample(const struct roles *roles, const struct block *block, uint8_t addr[16])
{
    block_sample(block, addr);
    for (int tries = 0; tries < 64 && is_taken(roles, addr) && addr[15] < 254; tries++) {
        addr[15]++;
        if (!block_has(block, addr)) {
            block_sample(block, addr);
            break;
        }
    }
}

/* ---- ip_local_reserved_ports ---- */

/*
 * The kernel's own choice of a port (a connect without bind, a bind to port 0) stays away from
 * these; a bind that names one is not affected, so the pool's ports remain usable. The kernel's
 * IP_LOCAL_PORT_RANGE skips them too, even for a range of one port (tried on 6.18: connect fails
 * with EADDRNOTAVAIL): the shim sees that the ports are reserved and binds explicitly.
 */
void role_reserve(struct roles *roles, const struct portset *ports)
{
    for (uint32_t i = 0; i < ports->count; i++)
        for (uint32_t port = ports->range[i].lo; port <= ports->range[i].hi; port++)
            roles->reserve[port] = true;
    roles->reserves = true;
}

/* Ours alone, as the kernel prints them: what others have reserved is added where it is set. */
static char *reserved_print(const bool ports[65536])
{
    char *text = NULL;
    FILE *out = state_open(&text);
    const char *comma = "";
    for (unsigned lo = 1; lo < 65536; lo++) {
        unsigned hi = lo;
        if (!ports[lo])
            continue;
        while (hi < 65535 && ports[hi + 1])
            hi++;
        fprintf(out, hi > lo ? "%s%u-%u" : "%s%u", comma, lo, hi);
        comma = ",";
        lo = hi;
    }
    state_close(out);
    return text;
}

static int reserved_add(struct roles *roles)
{
    if (!roles->reserves)
        return 0;
    char *text = reserved_print(roles->reserve);
    int result = role_sysctl(roles, RESERVED, text,
                             "keep the kernel's own choice of a port away from the pool's");
    free(text);
    return result;
}

/* ---- after a reboot ---- */

/*
 * Our rules must come after those that flush or rebuild everything (nftables, firewalld, Docker).
 * On a node the pool must be there before the pods are, and on a control plane a manifest that
 * nobody has confirmed goes before it is read; a gateway's chain wants to be above what the kubelet
 * makes.
 *
 * Some of those flush what is not theirs when they are restarted, as systemd-networkd does with
 * routes (tried with 252, with ManageForeignRoutes=no as well: it takes the address away, and the
 * kernel the routes with it). So we are part of them: we start again after them. networkd is done
 * with its interfaces when its wait-online is.
 */
static char *unit_text(const struct roles *roles)
{
    static const char form[] =
        "# Made by fixport-setup; \"fixport-setup undo\" takes it away.\n"
        "[Unit]\n"
        "Description=Routes, rules and settings for fixport\n"
        "Documentation=man:fixport-setup(8)\n"
        "Wants=network-online.target\n"
        "After=network-online.target docker.service\n"
        "After=systemd-networkd.service systemd-networkd-wait-online.service\n"
        "After=" FLUSHING "\n"
        "PartOf=systemd-networkd.service " FLUSHING "\n"
        "%s"
        "ConditionPathExists=" SETUP_JOURNAL "\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        "ExecStart=" SETUP_PROGRAM " boot\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n";
    const char *order = roles->roles & ROLE_NODE            ? "Before=kubelet.service\n"
                        : roles->roles & ROLE_GATEWAY       ? "After=kubelet.service\n"
                        : roles->roles & ROLE_CONTROL_PLANE ? "Before=kubelet.service\n"
                                                            : "";
    char *text;
    FILE *out = state_open(&text);
    fprintf(out, form, order);
    state_close(out);
    return text;
}

/* Of a control plane alone all lasts by itself; but what was begun or not confirmed must not. */
static int unit_add(struct roles *roles)
{
    if (roles->site->persist == PERSIST_NONE)
        return 0;
    char *text = unit_text(roles);
    char *state = file_state(0644, text);
    int result =
        role_add(roles, &resource_file, SETUP_UNIT, state,
                 roles->roles & ~(unsigned)ROLE_CONTROL_PLANE ? "do all this again after a reboot"
                                                              : "mend an apply that was cut off");
    free(text);
    free(state);
    if (result == 0)
        result = role_add(roles, &resource_link, UNIT_LINK, SETUP_UNIT, "start it at boot");
    return result;
}

/* ---- looking at the machine before anything is wanted ---- */

static void look_self(struct roles *roles)
{
    for (size_t i = 0; i < roles->site->nodes && !roles->self; i++) {
        const struct address_pair *address = &roles->site->node[i].address;
        if ((address->has4 && machine_has(&roles->machine, address->addr4)) ||
            (address->has6 && machine_has(&roles->machine, address->addr6)))
            roles->self = &roles->site->node[i];
    }
}

static void look_site(struct roles *roles)
{
    blocks_add(&roles->pods, &roles->site->pods);
    blocks_add(&roles->hosts, &roles->site->hosts);
    for (size_t i = 0; i < roles->site->nodes; i++) {
        const struct site_node *node = &roles->site->node[i];
        blocks_add(&roles->pods, &node->pods);
        for (int family = 4; family <= 6; family += 2) {
            const uint8_t *addr = pair_get(&node->address, family);
            struct block one = {.prefix = 128};
            struct block_list list = {.item = &one, .count = 1};
            if (!addr)
                continue;
            memcpy(one.addr, addr, 16);
            blocks_add(&roles->nodes, &list);
        }
    }
    blocks_tidy(&roles->pods);
    blocks_tidy(&roles->hosts);
    blocks_tidy(&roles->nodes);
    if (roles->self)
        blocks_add(&roles->own_pods, &roles->self->pods);
    blocks_tidy(&roles->own_pods);
}

/* The [node] other than this machine whose pods would have @addr, and the block. */
static const struct block *pods_of_others(const struct roles *roles, const uint8_t addr[16],
                                          const struct site_node **owner)
{
    for (size_t i = 0; i < roles->site->nodes; i++) {
        *owner = &roles->site->node[i];
        const struct block *block =
            *owner == roles->self ? NULL : blocks_with(&(*owner)->pods, addr);
        if (block)
            return block;
    }
    *owner = NULL;
    return roles->self ? NULL : blocks_with(&roles->pods, addr);
}

/*
 * An address of this machine among the pods': a route or a rule for that block would hit ourselves.
 * Only a node has addresses among its own pods', and among [pods] blocks (of a tunnel, a bridge).
 */
static int check_addresses(struct roles *roles)
{
    char block_text[BLOCK_TEXT], text[ADDR_TEXT];
    for (size_t i = 0; i < roles->machine.count; i++) {
        const struct machine_address *own = &roles->machine.item[i];
        const struct site_node *owner;
        if (roles->self && blocks_with(&roles->self->pods, own->addr))
            continue;
        const struct block *block = pods_of_others(roles, own->addr, &owner);
        if (!block)
            continue;
        return role_refuse(roles,
                           "[%s%s] %s = %s contains %s, an address of this machine (%s): allowed "
                           "are blocks that only pods have addresses in",
                           owner ? "node " : "pods", owner ? owner->name : "",
                           owner ? "pods" : "blocks",
                           block_print(block, block_text, sizeof(block_text)),
                           addr_print(own->addr, text, sizeof(text)), own->device);
    }
    return 0;
}

/* The gateway lets nothing through for a host that the configuration does not know. */
static int check_host(struct roles *roles)
{
    char networks[400];
    for (size_t i = 0; i < roles->machine.count; i++)
        if (blocks_with(&roles->hosts, roles->machine.item[i].addr))
            return 0;
    return role_refuse(roles,
                       "role host: [hosts] addresses has none of this machine's addresses: add the "
                       "one that pods connect to; this machine is connected to %s",
                       machine_networks(&roles->machine, 4, networks, sizeof(networks)));
}

static int check_roles(struct roles *roles)
{
    if (roles->roles & ROLE_HOST && roles->roles & ROLE_NODE)
        return role_refuse(roles, "this machine cannot have the roles host and node: each has its "
                                  "own pool of ports; a node is none of the hosts outside");
    if (roles->roles & ROLE_HOST && roles->self)
        return role_refuse(roles,
                           "this machine cannot have the role host: its address is that of "
                           "[node %s]",
                           roles->self->name);
    if (roles->roles & ROLE_HOST && check_host(roles) < 0)
        return -1;
    if (roles->roles & ~(unsigned)ROLE_CONTROL_PLANE)
        return check_addresses(roles);
    return 0;
}

/* ---- what is left to others ---- */

static unsigned leave_word(const struct resource_type *type, const char *name)
{
    static const struct {
        const struct resource_type *type;
        const char *begin; /* of its name */
        unsigned word;
    } words[] = {
        {&resource_routes, "", LEAVE_ROUTES},
        {&resource_rule, "", LEAVE_ROUTES},
        {&resource_file, PROTOCOL_FILE, LEAVE_ROUTES},
        {&resource_pool, "", LEAVE_POOL},
        {&resource_sysctl, "", LEAVE_SYSCTL},
        {&resource_iptables, "", LEAVE_IPTABLES},
        {&resource_nft, "", LEAVE_NFT},
        {&resource_nodeports, "", LEAVE_NODE_PORTS},
        {&resource_file, SETUP_STATE_DIR "/", LEAVE_NODE_PORTS},
        {&resource_file, SETUP_UNIT, LEAVE_UNIT},
        {&resource_link, UNIT_LINK, LEAVE_UNIT},
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (words[i].type == type && strncmp(name, words[i].begin, strlen(words[i].begin)) == 0)
            return words[i].word;
    return 0;
}

static unsigned leave_here(const struct site *site, unsigned roles)
{
    struct utsname uts;
    uname(&uts);
    return site_machine_leave(site, uts.nodename, roles);
}

unsigned roles_leave(const struct site *site, unsigned roles, const struct resource_type *type,
                     const char *name)
{
    return leave_word(type, name) & leave_here(site, roles);
}

/* What nobody but us could want of it goes along, such as a name for our routes' protocol. */
static void leave_out(struct roles *roles)
{
    struct resources *all = roles->resources;
    size_t kept = 0;
    for (size_t i = 0; i < all->count; i++) {
        if (!(leave_word(all->item[i].type, all->item[i].name) & roles->leave)) {
            all->item[kept++] = all->item[i];
            continue;
        }
        all->left = state_grow(all->left, (all->lefts + 1) * sizeof(*all->left));
        all->left[all->lefts++] = all->item[i];
    }
    all->count = kept;
}

/* ---- all of it ---- */

static int each_role(struct roles *roles)
{
    static const struct {
        unsigned role;
        int (*want)(struct roles *roles);
    } wants[] = {
        {ROLE_HOST, host_want},
        {ROLE_GATEWAY, gateway_want},
        {ROLE_NODE, node_want},
        {ROLE_CONTROL_PLANE, control_plane_want},
    };
    for (size_t i = 0; i < sizeof(wants) / sizeof(wants[0]); i++)
        if (roles->roles & wants[i].role && wants[i].want(roles) < 0)
            return -1;
    return 0;
}

static int rank(const struct resource *resource)
{
    const struct resource_type *const order[] = {
        &resource_file,     &resource_link, &resource_pool,   &resource_routes,    &resource_rule,
        &resource_iptables, &resource_nft,  &resource_sysctl, &resource_nodeports,
    };
    int at = 0;
    while (at < (int)(sizeof(order) / sizeof(order[0])) && order[at] != resource->type)
        at++;
    return at;
}

/* Within one type the order is the roles'; there are few, so insertion will do. */
static void put_in_order(struct resources *resources)
{
    for (size_t i = 1; i < resources->count; i++) {
        struct resource moved = resources->item[i];
        size_t at = i;
        for (; at && rank(&resources->item[at - 1]) > rank(&moved); at--)
            resources->item[at] = resources->item[at - 1];
        resources->item[at] = moved;
    }
}

static int look_all(struct roles *roles)
{
    if (machine_look(&roles->machine, roles->error) < 0)
        return -1;
    look_self(roles);
    look_site(roles);
    if (check_roles(roles) < 0)
        return -1;
    return roles->roles & ~(unsigned)ROLE_CONTROL_PLANE ? topology_look(roles) : 0;
}

struct roles *roles_look(const struct site *site, unsigned roles, const char *config_path,
                         struct setup_error *error)
{
    struct roles *look = state_grow(NULL, sizeof(*look));
    *look = (struct roles){
        .site = site, .roles = roles, .config_path = config_path, .error = error};
    if (look_all(look) == 0)
        return look;
    roles_forget(look);
    return NULL;
}

void roles_forget(struct roles *roles)
{
    machine_free(&roles->machine);
    free(roles->pods.item);
    free(roles->hosts.item);
    free(roles->nodes.item);
    free(roles->own_pods.item);
    free(roles->route);
    free(roles);
}

static int want_all(struct roles *roles)
{
    if (look_all(roles) < 0 || each_role(roles) < 0 || routes_add(roles) < 0 ||
        reserved_add(roles) < 0 || unit_add(roles) < 0)
        return -1;
    put_in_order(roles->resources);
    leave_out(roles);
    topology_note(roles);
    return 0;
}

int roles_want(const struct site *site, unsigned roles, const struct journal *journal,
               const char *config_path, struct resources *resources, struct setup_error *error)
{
    struct roles *work = state_grow(NULL, sizeof(*work));
    *work = (struct roles){
        .site = site,
        .roles = roles,
        .journal = journal,
        .config_path = config_path,
        .leave = leave_here(site, roles),
        .resources = resources,
        .error = error,
    };
    *resources = (struct resources){.count = 0};
    for (size_t i = 0; i < site->notes; i++)
        resources_note(resources, "%s", site->note[i]);
    int result = want_all(work);
    roles_forget(work);
    return result;
}
