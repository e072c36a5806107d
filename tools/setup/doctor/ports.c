/* SPDX-License-Identifier: MIT */
/*
 * Ports that others use too, or that somebody on the way will not leave alone.
 */
#include "doctor.h"

#include "../../../pool/address.h"
#include "../resources/state.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define RANGE "net.ipv4.ip_local_port_range"
#define RESERVED "net.ipv4.ip_local_reserved_ports"
#define CILIUM_LOWEST 32768 /* of the ports that Cilium's BPF masquerading leaves as they are */
#define EARLY_CLASH 16384   /* some kernels move forwarded flows from below to high ports */
#define CLASS_LOW 1024 /* what nf_nat keeps apart when it moves a port: < 512, < 1024, the rest */

/* ---- ephemeral and reserved ---- */

static bool ports_ephemeral(struct portrange *range)
{
    char text[64];
    unsigned lo, hi;
    if (!fact_sysctl(RANGE, text, sizeof(text)) || sscanf(text, "%u %u", &lo, &hi) != 2 ||
        lo > hi || hi > 65535)
        return false;
    *range = (struct portrange){.lo = (uint16_t)lo, .hi = (uint16_t)hi};
    return true;
}

/* The kernel's list may have more ranges than a portset. */
static void ports_reserved(const char *text, bool reserved[65536])
{
    char *end;
    memset(reserved, false, 65536);
    while (*text) {
        unsigned long lo = strtoul(text, &end, 10), hi = lo;
        if (end == text)
            return;
        if (*end == '-')
            hi = strtoul(end + 1, &end, 10);
        for (unsigned long port = lo; port <= hi && port < 65536; port++)
            reserved[port] = true;
        text = end + (*end == ',');
    }
}

/* How many ports of @range are in the ephemeral range, how many of these are not reserved. */
static unsigned ports_exposed(const struct portrange *range, const struct portrange *ephemeral,
                              const bool reserved[65536])
{
    unsigned exposed = 0;
    for (unsigned port = range->lo; port <= range->hi; port++)
        exposed += port >= ephemeral->lo && port <= ephemeral->hi && !reserved[port];
    return exposed;
}

static const char *ports_reserved_text(void)
{
    static char text[8192];
    if (!fact_sysctl(RESERVED, text, sizeof(text)))
        text[0] = '\0';
    return text;
}

static void ports_shared(const struct facts *facts, struct findings *findings, const char *id,
                         const char *whose, const char *ports, const struct portrange *ephemeral)
{
    const char *now = ports_reserved_text();
    struct finding *finding = finding_add(
        findings, id, SEVERITY_WARNING,
        "%s (%s) are in the range from which the kernel chooses, and not reserved", whose, ports);
    finding_line(finding, RANGE " = %u %u, " RESERVED " = %s", ephemeral->lo, ephemeral->hi, now);
    finding_why(finding, "any program's connection may get one of them: then it is taken when it "
                         "is needed");
    if (facts->has_site && facts->roles & (ROLE_NODE | ROLE_HOST) &&
        strcmp(id, "ports-ephemeral") == 0) {
        finding_apply(finding, facts);
        return;
    }
    finding_mend(finding, FACT_LASTING);
    finding_run(finding, "sysctl -w " RESERVED "=%s%s%s", now, *now ? "," : "", ports);
}

void check_ephemeral(struct facts *facts, struct findings *findings)
{
    static bool reserved[65536];
    struct portrange ephemeral;
    if (!ports_ephemeral(&ephemeral))
        return;
    ports_reserved(ports_reserved_text(), reserved);
    for (size_t i = 0; i < facts->port_sets; i++) {
        const struct fact_ports *ports = &facts->ports[i];
        unsigned exposed = 0;
        for (uint32_t r = 0; r < ports->set.count; r++)
            exposed += ports_exposed(&ports->set.range[r], &ephemeral, reserved);
        if (exposed)
            ports_shared(facts, findings, "ports-ephemeral", ports->name, fact_set(&ports->set),
                         &ephemeral);
    }
}

/* ---- NodePorts ---- */

/* What the API server was told, else the configuration, else its default. */
static bool node_ports_range(struct facts *facts, struct portrange *range, bool *known)
{
    const char *path = facts->has_site ? facts->site.manifest : SITE_MANIFEST;
    struct setup_error error;
    struct portset set;
    char *state = NULL;
    *range = facts->site.node_ports;
    *known = range->lo != 0;
    if (access(setup_path(path), R_OK) == 0 && resource_nodeports.read(path, &state, &error) == 0 &&
        state && portset_parse(state, &set, NULL) == 0 && set.count == 1) {
        *range = set.range[0];
        *known = true;
    }
    free(state);
    if (!range->lo)
        *range = (struct portrange){.lo = 30000, .hi = 32767};
    return *known || facts->roles & (ROLE_NODE | ROLE_CONTROL_PLANE) ||
           fact_rule(facts, ":KUBE-", NULL);
}

/* A service has one of our ports now. */
static void node_ports_taken(struct facts *facts, struct findings *findings,
                             const struct fact_ports *ports)
{
    const char *rule = NULL;
    while ((rule = fact_rule(facts, "-A KUBE-NODEPORTS ", rule))) {
        size_t length = strcspn(rule, "\n");
        const char *dport = memmem(rule, length, " --dport ", 9);
        uint16_t port = (uint16_t)(dport ? strtoul(dport + 9, NULL, 10) : 0);
        if (!port || !portset_overlaps(&ports->set, port, port))
            continue;
        struct finding *finding =
            finding_add(findings, "node-port-taken", SEVERITY_ERROR,
                        "a service has NodePort %u, one of %s (%s)", port, ports->name,
                        fact_set(&ports->set));
        finding_line(finding, "%.*s", (int)length, rule);
        finding_why(finding, "kube-proxy does not hold the port open, so nobody notices that it "
                             "has two owners");
        finding_mend(finding, "give the service another nodePort, or leave %u out of the ports",
                     port);
        return;
    }
}

static void node_ports_overlap(struct findings *findings, const struct fact_ports *ports,
                               const struct portrange *range, bool known)
{
    if (!portset_overlaps(&ports->set, range->lo, range->hi))
        return;
    struct finding *finding =
        finding_add(findings, "node-ports-overlap", known ? SEVERITY_ERROR : SEVERITY_WARNING,
                    "%s (%s) overlap NodePorts (%u-%u%s)", ports->name, fact_set(&ports->set),
                    range->lo, range->hi, known ? "" : ", Kubernetes' default");
    finding_line(finding, "--service-node-port-range=%u-%u", range->lo, range->hi);
    finding_why(finding, "the next service may get a port that connections come from: kube-proxy "
                         "does not hold its ports open, so both seem to have it");
    finding_mend(finding, "take other ports, above 32767, or another [control-plane] node-ports");
}

void check_node_ports(struct facts *facts, struct findings *findings)
{
    static bool reserved[65536];
    struct portrange range, ephemeral;
    bool known;
    if (!node_ports_range(facts, &range, &known))
        return;
    for (size_t i = 0; i < facts->port_sets; i++) {
        node_ports_overlap(findings, &facts->ports[i], &range, known);
        node_ports_taken(facts, findings, &facts->ports[i]);
    }
    ports_reserved(ports_reserved_text(), reserved);
    if (known && ports_ephemeral(&ephemeral) && ports_exposed(&range, &ephemeral, reserved)) {
        char text[32];
        snprintf(text, sizeof(text), "%u-%u", range.lo, range.hi);
        ports_shared(facts, findings, "node-ports-ephemeral", "NodePorts", text, &ephemeral);
    }
}

/* ---- listening sockets ---- */

struct listeners {
    uint16_t port[64];
    size_t count;
    char first[INET6_ADDRSTRLEN + 16];
};

static bool listeners_know(const struct listeners *listeners, uint16_t port)
{
    for (size_t i = 0; i < listeners->count; i++)
        if (listeners->port[i] == port)
            return true;
    return listeners->count == sizeof(listeners->port) / sizeof(listeners->port[0]);
}

/* /proc prints an address as 32-bit numbers of the machine's byte order. */
static void listener_address(const char *hex, char buf[INET6_ADDRSTRLEN])
{
    uint32_t word[4];
    int words = strlen(hex) == 8 ? 1 : 4;
    buf[0] = '\0';
    for (int i = 0; i < words; i++)
        if (sscanf(hex + 8 * i, "%8x", &word[i]) != 1)
            return;
    inet_ntop(words == 1 ? AF_INET : AF_INET6, word, buf, INET6_ADDRSTRLEN);
}

static void listeners_read(struct listeners *listeners, const char *path, const struct portset *set)
{
    FILE *file = fopen(path, "re");
    char line[512], hex[40], address[INET6_ADDRSTRLEN];
    unsigned port, state;
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, " %*u: %39[0-9A-Fa-f]:%x %*39[0-9A-Fa-f]:%*x %x", hex, &port, &state) !=
                3 ||
            state != 0x0a || port > 65535 || !portset_has(set, (uint16_t)port) ||
            listeners_know(listeners, (uint16_t)port))
            continue;
        listener_address(hex, address);
        if (!listeners->count)
            snprintf(listeners->first, sizeof(listeners->first), "%s %u", address, port);
        listeners->port[listeners->count++] = (uint16_t)port;
    }
    if (file)
        fclose(file);
}

static void listeners_text(const struct listeners *listeners, char *buf, size_t size)
{
    size_t at = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < listeners->count && i < 8; i++)
        at += (size_t)snprintf(buf + at, size - at, "%s%u", i ? ", " : "", listeners->port[i]);
    if (listeners->count > 8)
        snprintf(buf + at, size - at, ", ...");
}

void check_listening(struct facts *facts, struct findings *findings)
{
    char text[128];
    for (size_t i = 0; i < facts->port_sets; i++) {
        struct listeners listeners = {.count = 0};
        listeners_read(&listeners, "/proc/net/tcp", &facts->ports[i].set);
        listeners_read(&listeners, "/proc/net/tcp6", &facts->ports[i].set);
        if (!listeners.count)
            continue;
        listeners_text(&listeners, text, sizeof(text));
        struct finding *finding = finding_add(findings, "ports-listening", SEVERITY_WARNING,
                                              "a program listens on %s, of %s (%s)", text,
                                              facts->ports[i].name, fact_set(&facts->ports[i].set));
        finding_line(finding, "LISTEN %s", listeners.first);
        finding_why(finding, "on this machine the port cannot be used for connections, and with "
                             "SNAT its answers and those of connections meet");
        finding_mend(finding,
                     "ss -Hltnp sport = :%u shows which: move it, or leave the port out of "
                     "the ports",
                     listeners.port[0]);
    }
}

/* ---- what is remapped ---- */

static uint16_t ports_lowest(const struct portset *set)
{
    uint16_t lowest = 65535;
    for (uint32_t i = 0; i < set->count; i++)
        lowest = set->range[i].lo < lowest ? set->range[i].lo : lowest;
    return lowest;
}

void check_cilium(struct facts *facts, struct findings *findings)
{
    const char *chain = fact_rule(facts, ":CILIUM_", NULL);
    bool device = if_nametoindex("cilium_host") != 0;
    for (size_t i = 0; (chain || device) && i < facts->port_sets; i++) {
        const struct portset *set = &facts->ports[i].set;
        if (ports_lowest(set) >= CILIUM_LOWEST)
            continue;
        struct finding *finding = finding_add(findings, "cilium-range", SEVERITY_ERROR,
                                              "Cilium is here, and %s (%s) begin below %d",
                                              facts->ports[i].name, fact_set(set), CILIUM_LOWEST);
        if (device)
            finding_line(finding, "interface cilium_host");
        else
            finding_line(finding, "chain %.*s", (int)strcspn(chain + 1, " "), chain + 1);
        finding_why(finding, "its BPF masquerading keeps a source port only inside its own range, "
                             "32768-65535 by default, and replaces every other");
        finding_mend(finding, "take ports from 32768 on: [pool] ports = 61001-61999 (or no SNAT: "
                              "ipv4-native-routing-cidr that covers the hosts)");
    }
}

static void ports_privileged(struct findings *findings, const struct fact_ports *ports)
{
    long start = fact_number("net.ipv4.ip_unprivileged_port_start", 1024);
    struct finding *finding =
        finding_add(findings, "ports-below-1024", SEVERITY_WARNING, "%s (%s) begin below %d",
                    ports->name, fact_set(&ports->set), CLASS_LOW);
    finding_line(finding, "net.ipv4.ip_unprivileged_port_start = %ld", start);
    finding_why(finding, "ordinary users may not bind them, and when the kernel must move a port "
                         "it stays within its class: below 512, 512-1023, or from 1024 on");
    finding_mend(finding, "take ports from 32768 on: [pool] ports = 61001-61999");
}

static void ports_low(struct findings *findings, const struct fact_ports *ports)
{
    struct utsname uts;
    uname(&uts);
    bool known = strstr(uts.release, ".el9") != NULL;
    struct finding *finding =
        finding_add(findings, "ports-below-16384", known ? SEVERITY_WARNING : SEVERITY_INFO,
                    "%s (%s) begin below %d", ports->name, fact_set(&ports->set), EARLY_CLASH);
    finding_line(finding, "uname -r: %s", uts.release);
    finding_why(finding,
                "some kernels (5.17-rc, some of enterprise distributions) give a forwarded "
                "connection from such a port to a port from 32768 on another source port");
    finding_mend(finding, "take ports from 32768 on: [pool] ports = 61001-61999");
}

void check_low_ports(struct facts *facts, struct findings *findings)
{
    for (size_t i = 0; i < facts->port_sets; i++) {
        uint16_t lowest = ports_lowest(&facts->ports[i].set);
        if (lowest < CLASS_LOW)
            ports_privileged(findings, &facts->ports[i]);
        else if (lowest < EARLY_CLASH)
            ports_low(findings, &facts->ports[i]);
    }
}
