/* SPDX-License-Identifier: MIT */
/*
 * What a twin cannot show, as notes: rules that look at more than packets, and what treats packets
 * beside the rules. Nothing is asked of a tool that would load a module.
 */
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- rules ---- */

#define OWNER "rules that look at whose socket it is cannot be judged: here it is the doctor's"
#define HISTORY                                                                                    \
    "rules that remember earlier connections cannot be judged: in the twin there were none, and "  \
    "those that are tried count"
#define QUEUE                                                                                      \
    "rules that leave the verdict to a program (NFQUEUE) cannot be judged: it is not asked"
#define BRIDGE "rules that look at the ports of a bridge cannot be judged: in the twin it has none"
#define RATE                                                                                       \
    "rules that count packets by time cannot be judged: those that are tried come all at once"
#define MAC                                                                                        \
    "rules that look at hardware addresses cannot be judged: neighbours have none in the twin"
#define SOCKET                                                                                     \
    "rules that hand packets to a program's socket, or ask for one (TPROXY, socket), cannot be "   \
    "judged: the machine's programs are not in the twin"
#define SYNPROXY "rules that answer for a server (SYNPROXY) cannot be judged"
#define CHANCE "rules that decide by chance (random) are tried a few times only"
#define PROGRAM "rules that ask a BPF program cannot be judged"
#define IPSEC "rules that look at IPsec cannot be judged: its policies are not in the twin"

/* Words of a rule, with a space before and after. */
static const struct lack {
    const char *words, *what;
} of_iptables[] =
    {
        {"-m owner", OWNER},       {"-m cgroup", OWNER},      {"-m recent", HISTORY},
        {"-m connlimit", HISTORY}, {"-m quota", HISTORY},     {"-m quota2", HISTORY},
        {"-j SET", HISTORY},       {"-m nfacct", HISTORY},    {"-m physdev", BRIDGE},
        {"-m mac", MAC},           {"-m socket", SOCKET},     {"-j TPROXY", SOCKET},
        {"-j NFQUEUE", QUEUE},     {"-j SYNPROXY", SYNPROXY}, {"-m bpf", PROGRAM},
        {"-m limit", RATE},        {"-m hashlimit", RATE},    {"-m connbytes", HISTORY},
        {"-m policy", IPSEC},      {"--mode random", CHANCE}, {NULL, NULL},
},
  of_nft[] = {
      {"skuid", OWNER},
      {"skgid", OWNER},
      {"socket cgroupv2", OWNER},
      {"meta cgroup", OWNER},
      {"ct count", HISTORY},
      {"limit rate", RATE},
      {"quota", HISTORY},
      {"update @", HISTORY},
      {"add @", HISTORY},
      {"delete @", HISTORY},
      {"meter", HISTORY},
      {"ibrname", BRIDGE},
      {"obrname", BRIDGE},
      {"ibriport", BRIDGE},
      {"ether saddr", MAC},
      {"ether daddr", MAC},
      {"socket transparent", SOCKET},
      {"socket mark", SOCKET},
      {"socket wildcard", SOCKET},
      {"tproxy", SOCKET},
      {"queue", QUEUE},
      {"synproxy", SYNPROXY},
      {"ipsec", IPSEC},
      {"secpath", IPSEC},
      {"numgen random", CHANCE},
      {NULL, NULL},
};

/* Whether @rule, which has no quoted text, has @words as a whole; not as the name of what it jumps
 * to. */
static bool rule_has(const char *rule, const char *words)
{
    size_t length = strlen(words);
    for (const char *at = rule; (at = strstr(at, words)); at++)
        if ((at == rule || at[-1] == ' ') &&
            (words[length - 1] == '@' || strchr(" ;", at[length])) &&
            !(at - rule >= 5 &&
              (strncmp(at - 5, "jump ", 5) == 0 || strncmp(at - 5, "goto ", 5) == 0 ||
               strncmp(at - 5, "flow ", 5) == 0)))
            return true;
    return false;
}

/* Whether @line is a rule; its quoted text is blotted out then. */
static bool line_is_rule(char *line, bool is_nft)
{
    static const char *const others[] = {"chain ", "set ",   "map ",     "table ", "flowtable ",
                                         "type ",  "flags ", "counter ", "quota ", NULL};
    bool quoted = false;
    for (int i = 0; is_nft && others[i]; i++)
        if (strncmp(line, others[i], strlen(others[i])) == 0 && strchr(line, '{'))
            return false;
    for (char *at = line; *at; at++) {
        quoted ^= *at == '"' && (at == line || at[-1] != '\\');
        if (quoted)
            *at = '"';
    }
    return is_nft || strncmp(line, "-A ", 3) == 0;
}

/* Whether what a rule does comes to nothing for TCP: it writes a log, or is for others. */
static bool rule_is_idle(const char *rule, bool is_nft)
{
    static const char *const verdicts[] = {"accept", "drop", "reject", "return", NULL};
    if (!is_nft)
        return strstr(rule, "-j LOG") || strstr(rule, "-j NFLOG") || strstr(rule, "-p icmp ") ||
               strstr(rule, "-p ipv6-icmp ") || strstr(rule, "-p udp ");
    bool idle = rule_has(rule, "log") && !strstr(rule, "jump ") && !strstr(rule, "goto ");
    for (int i = 0; verdicts[i]; i++)
        idle = idle && !rule_has(rule, verdicts[i]);
    return idle || strncmp(rule, "icmp", 4) == 0 || strstr(rule, " icmp") ||
           strncmp(rule, "udp ", 4) == 0;
}

static void rules_note(struct twin *twin, const char *text, const struct lack *lacks, bool is_nft)
{
    const char *line;
    size_t length;
    while ((line = state_line(&text, &length))) {
        for (; length && (*line == '\t' || *line == ' '); length--)
            line++;
        char *whole = strndup(line, length), *rule = strndup(line, length);
        bool is_rule = line_is_rule(rule, is_nft);
        for (const struct lack *lack = lacks; is_rule && lack->words; lack++)
            if (rule_has(rule, lack->words) &&
                !(strcmp(lack->what, RATE) == 0 && rule_is_idle(rule, is_nft)))
                twin_note(twin, whole, "%s", lack->what);
        free(whole);
        free(rule);
    }
}

/* ---- the kernel's own load balancer ---- */

static void ipvs_note(struct twin *twin)
{
    FILE *file = fopen("/proc/net/ip_vs", "re");
    char line[256];
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "TCP ", 4) == 0 || strncmp(line, "FWM ", 4) == 0)
            twin_note(twin, line,
                      "what ipvs makes of connections to its services is not in the twin");
    }
    if (file)
        fclose(file);
}

/* ---- BPF, and tc(8) ---- */

#define PROGRAMS_MOST 64
#define TCX_INGRESS 46 /* linux/bpf.h of 6.6 and 6.7 has these first */
#define TCX_EGRESS 47
#define NETKIT_PRIMARY 54
#define NETKIT_PEER 55

static void program_name(uint32_t id, char *name, size_t size)
{
    struct bpf_prog_info info = {.type = 0};
    union bpf_attr attr = {.prog_id = id};
    long fd = syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof(attr));
    attr = (union bpf_attr){.info = {.bpf_fd = (uint32_t)fd,
                                     .info_len = sizeof(info),
                                     .info = (uint64_t)(uintptr_t)&info}};
    if (fd >= 0) {
        syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr));
        close((int)fd);
    }
    snprintf(name, size, "%.*s (program %u)", (int)sizeof(info.name), info.name, id);
}

/* The programs at one place: @target is an interface's number, or a descriptor of a cgroup. */
static void programs_note(struct twin *twin, uint32_t target, uint32_t type, const char *where,
                          const char *what)
{
    uint32_t ids[PROGRAMS_MOST];
    union bpf_attr attr = {.query = {.target_fd = target,
                                     .attach_type = type,
                                     .prog_ids = (uint64_t)(uintptr_t)ids,
                                     .prog_cnt = PROGRAMS_MOST}};
    if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)) < 0 && errno != ENOSPC)
        return;
    for (uint32_t i = 0; i < attr.query.prog_cnt && i < PROGRAMS_MOST; i++) {
        char name[64], line[128];
        program_name(ids[i], name, sizeof(name));
        snprintf(line, sizeof(line), "%s: %s", where, name);
        twin_note(twin, line, "%s", what);
    }
}

/* What is attached to the root of the cgroups sees the connections of all programs. */
static void cgroups_note(struct twin *twin)
{
    static const uint32_t types[] = {BPF_CGROUP_INET_INGRESS,     BPF_CGROUP_INET_EGRESS,
                                     BPF_CGROUP_INET_SOCK_CREATE, BPF_CGROUP_SOCK_OPS,
                                     BPF_CGROUP_INET4_BIND,       BPF_CGROUP_INET6_BIND,
                                     BPF_CGROUP_INET4_CONNECT,    BPF_CGROUP_INET6_CONNECT,
                                     BPF_CGROUP_INET4_POST_BIND,  BPF_CGROUP_INET6_POST_BIND};
    static const char *const roots[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
    int fd = -1;
    for (int i = 0; i < 2 && fd < 0; i++)
        fd = open(roots[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; fd >= 0 && i < sizeof(types) / sizeof(*types); i++)
        programs_note(
            twin, (uint32_t)fd, types[i], "all cgroups",
            "BPF programs at the root of the cgroups may change where programs here connect "
            "to, and from which port; they cannot be judged");
    if (fd >= 0)
        close(fd);
}

#define TRAFFIC                                                                                    \
    "BPF programs and filters of tc(8) on interfaces see packets before the firewall does, or "    \
    "after "                                                                                       \
    "it, and may drop, translate or redirect them; they cannot be judged"

/* Interfaces with filters, by what must be there for them. Return: lines for "tc -batch". */
static char *tc_ask(struct twin *twin)
{
    char *argv[] = {"tc", "qdisc", "show", NULL}, device[64], *text;
    struct run_result result;
    const char *line, *at;
    size_t length;
    FILE *out = state_open(&text);
    if (run_tool(argv, NULL, &result) < 0)
        twin_note(twin, NULL, "whether filters of tc(8) are on interfaces cannot be seen: %s",
                  result.errno_ == ENOENT ? "tc is not installed" : "tc failed");
    for (at = result.output; (line = state_line(&at, &length));)
        if (sscanf(line, "qdisc clsact %*s dev %63s", device) == 1)
            fprintf(
                out,
                "qdisc show dev %s clsact\nfilter show dev %s ingress\nfilter show dev %s egress\n",
                device, device, device);
        else if (sscanf(line, "qdisc ingress %*s dev %63s", device) == 1)
            fprintf(out, "qdisc show dev %s ingress\nfilter show dev %s ingress\n", device, device);
    run_free(&result);
    state_close(out);
    return text;
}

static void tc_note(struct twin *twin)
{
    char *argv[] = {"tc", "-batch", "-", NULL}, *ask = tc_ask(twin), device[64] = "";
    struct run_result result = {.output = NULL};
    const char *line, *at = "";
    size_t length;
    if (*ask && run_tool(argv, ask, &result) == 0)
        at = result.output;
    while ((line = state_line(&at, &length))) {
        char text[512];
        snprintf(text, sizeof(text), "%s: %.*s", device, (int)length, line);
        if (strncmp(line, "qdisc ", 6) == 0)
            sscanf(line, "qdisc %*s %*s dev %63s", device);
        else if (strncmp(line, "filter ", 7) == 0 && memmem(line, length, " handle ", 8))
            twin_note(twin, text, TRAFFIC);
    }
    run_free(&result);
    free(ask);
}

/* Of two that translate addresses at one priority the one that was there first comes last. */
static void nat_note(struct twin *twin, const struct ruleset *ruleset)
{
    static const char *const words[] = {"-j MASQUERADE", "-j SNAT ",    "-j DNAT ",
                                        "-j REDIRECT",   " masquerade", " snat ",
                                        " dnat ",        " redirect",   NULL};
    for (int family = 0; family < 2; family++) {
        bool has[TWIN_NFT + 1] = {false};
        for (int backend = 0; backend <= TWIN_NFT; backend++)
            for (int i = 0; words[i]; i++)
                has[backend] |= strstr(ruleset->text[backend][backend == TWIN_NFT ? 0 : family],
                                       words[i]) != NULL;
        if (has[TWIN_IPTABLES_LEGACY] && (has[TWIN_IPTABLES_NFT] || has[TWIN_NFT]))
            twin_note(twin, NULL,
                      "both iptables-legacy and nf_tables translate addresses; which of them comes "
                      "first cannot be seen, and may be otherwise in the twin");
    }
}

/* What crosses a bridge meets rules of its own (also ebtables-nft's), and in the twin no bridge. */
static void bridge_note(struct twin *twin, const struct ruleset *ruleset)
{
    const char *line, *at = ruleset->tables;
    size_t length;
    while ((line = state_line(&at, &length))) {
        char *copy = strndup(line, length);
        if (strncmp(copy, "table bridge ", 13) == 0 || strncmp(copy, "table arp ", 10) == 0)
            twin_note(twin, copy,
                      "tables for bridges and ARP cannot be judged: in the twin there are neither");
        free(copy);
    }
}

void lacks_note(struct twin *twin, const struct ruleset *ruleset)
{
    static const uint32_t types[] = {TCX_INGRESS, TCX_EGRESS, NETKIT_PRIMARY, NETKIT_PEER};
    for (int i = 0; i < 4; i++)
        rules_note(twin, ruleset->text[i / 2][i % 2], of_iptables, false);
    rules_note(twin, ruleset->text[TWIN_NFT][0], of_nft, true);
    nat_note(twin, ruleset);
    bridge_note(twin, ruleset);
    ipvs_note(twin);
    for (size_t i = 0; i < twin->devices; i++)
        for (size_t k = 0; k < sizeof(types) / sizeof(*types); k++)
            programs_note(twin, (uint32_t)twin->device[i].index, types[k], twin->device[i].name,
                          TRAFFIC);
    cgroups_note(twin);
    tc_note(twin);
}
