/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as what iptables-save and "nft -j list ruleset" print: read, and then walked through.
 * Rules and comments in there are anybody's who may make some on the machine.
 *
 * The first byte says which it is; a walk must come to its end, and report only what is there.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../tools/setup/doctor/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* ---- what the readers need of the rest of fixport-setup, which knows of everything ---- */

void *state_grow(void *memory, size_t size)
{
    memory = realloc(memory, size);
    check(memory != NULL);
    return memory;
}

char *state_copy(const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    check(copy || !text);
    return copy;
}

char *text_format(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    check(vasprintf(&text, format, args) >= 0);
    va_end(args);
    return text;
}

const char *fact_address(const uint8_t addr[16])
{
    static char text[40];
    for (size_t i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", addr[i]);
    return text;
}

/* No ipset is asked: the sets of a hostile ruleset would be programs started by the thousand. */
int run_tool(char *const argv[], const char *input, struct run_result *result)
{
    (void)input;
    check(argv[0] && strcmp(argv[0], "ipset") == 0);
    *result = (struct run_result){.status = 2};
    return -1;
}

void run_free(struct run_result *result)
{
    (void)result;
}

/* ---- what must hold ---- */

static void hit(struct walk *walk, const struct fw_chain *chain, const struct fw_rule *rule,
                enum truth certain)
{
    size_t *hits = walk->arg;
    check(rule >= chain->rule && rule < chain->rule + chain->rules);
    check(certain == YES || certain == MAYBE);
    check(rule->verdict != VERDICT_NONE && rule->verdict != VERDICT_RETURN);
    check(chain - walk->fw->chain < (ptrdiff_t)walk->fw->chains);
    ++*hits;
}

static void check_chain(const struct fw_chain *chain)
{
    check(chain->name && chain->table && chain->table_family);
    check(chain->family == 0 || chain->family == 4 || chain->family == 6);
    for (size_t i = 0; i < chain->rules; i++) {
        const struct fw_rule *rule = &chain->rule[i];
        check((rule->verdict != VERDICT_JUMP && rule->verdict != VERDICT_GOTO) || rule->target);
        check(rule->nat_ports.lo <= rule->nat_ports.hi);
        for (size_t k = 0; k < FW_MATCHES; k++)
            for (size_t r = 0; r < rule->from[k].count; r++)
                check(memcmp(rule->from[k].range[r].lo, rule->from[k].range[r].hi, 16) <= 0);
    }
}

static struct flow flow_make(bool v4)
{
    static const struct portset ports = {.range = {{60001, 60999}}, .count = 1};
    struct flow flow = {.sports = &ports, .in = "cni0", .out = "eth0"};
    static const uint8_t four[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 200, 1, 0};
    static const uint8_t six[16] = {0xfd, 0, 0x02};
    memcpy(flow.from.addr, v4 ? four : six, 16);
    memcpy(flow.to.addr, v4 ? four : six, 16);
    flow.from.prefix = v4 ? 120 : 64;
    flow.to.prefix = 128;
    return flow;
}

static void walk_all(const struct fw *fw, bool v4)
{
    static const enum fw_hook hooks[] = {HOOK_INPUT, HOOK_FORWARD};
    struct flow flow = flow_make(v4);
    size_t hits = 0, count;
    struct walk nat = {.fw = fw, .flow = &flow, .hit = hit, .arg = &hits};
    walk_nat(&nat);
    for (size_t h = 0; h < 2; h++) {
        const struct fw_chain **list = walk_order(fw, hooks[h], false, v4 ? 4 : 6, &count);
        for (size_t i = 0; i < count; i++) {
            struct walk walk = {.fw = fw, .flow = &flow, .hit = hit, .arg = &hits};
            walk_chain(&walk, list[i]);
        }
        free(list);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fw fw;
    if (size == 0)
        return 0;
    char *text = malloc(size);
    check(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    fw.ipsets = json_object();
    if (data[0] == '{')
        fw_read_nft(&fw, text);
    else
        fw_read_save(&fw, data[0] & 1 ? FW_IPTABLES_LEGACY : FW_IPTABLES_NFT, data[0] & 2 ? 6 : 4,
                     text);
    for (size_t i = 0; i < fw.chains; i++)
        check_chain(&fw.chain[i]);
    walk_all(&fw, true);
    walk_all(&fw, false);
    fw_free(&fw);
    free(text);
    return 0;
}
