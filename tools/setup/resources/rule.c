/* SPDX-License-Identifier: MIT */
/*
 * Our rules of policy routing (ip-rule(8)): those that carry our protocol's number. They need
 * Linux 4.17 and iproute2 5.3. A state has one line for each, sorted as the kernel has them:
 * "5: from 10.200.1.0/24 fwmark 0x2000/0x2000 lookup 161".
 */
#include "state.h"

#include <stdlib.h>
#include <string.h>

static const char *family_option(const char *name)
{
    return strcmp(name, "ipv6") == 0 ? "-6" : "-4";
}

static bool ip_rule_is_ours(const json_t *rule)
{
    const char *protocol = json_string_value(json_object_get(rule, "protocol"));
    char number[8];
    snprintf(number, sizeof(number), "%d", SETUP_ROUTE_PROTOCOL);
    return protocol && strcmp(protocol, number) == 0;
}

/* One line, or -1: it has more than we give one. */
static int ip_rule_print(FILE *out, const json_t *rule, struct setup_error *error)
{
    const char *mark = json_string_value(json_object_get(rule, "fwmark"));
    const char *mask = json_string_value(json_object_get(rule, "fwmask"));
    const char *table = json_string_value(json_object_get(rule, "table"));
    const char *source = json_string_value(json_object_get(rule, "src"));
    const json_t *length = json_object_get(rule, "srclen");
    json_int_t priority = json_integer_value(json_object_get(rule, "priority"));
    if (!mark || !table || !source)
        return setup_fail(error,
                          "the rule of policy routing with priority %lld has fixport's protocol "
                          "number (%d) and is not of fixport's making: delete it (ip rule)",
                          (long long)priority, SETUP_ROUTE_PROTOCOL);
    fprintf(out, "%lld:", (long long)priority);
    if (strcmp(source, "all") != 0)
        fprintf(out, length ? " from %s/%lld" : " from %s", source,
                (long long)json_integer_value(length));
    fprintf(out, " fwmark %s", mark);
    if (mask)
        fprintf(out, "/%s", mask);
    fprintf(out, " lookup %s\n", table);
    return 0;
}

static int ip_rule_read(const char *name, char **state, struct setup_error *error)
{
    /* Numbers: tables and protocols can have any names in /etc/iproute2. */
    char *argv[] = {(char *)"ip",   (char *)"-json", (char *)"-Numeric",
                    (char *)(uintptr_t)family_option(name),
                    (char *)"rule", (char *)"show",  NULL};
    struct run_result result;
    size_t i;
    json_t *rule, *list = NULL;
    *state = NULL;
    int status = run_tool(argv, NULL, &result);
    if (status < 0)
        run_explain(argv, &result, error);
    else if (!(list = json_loads(result.output, 0, NULL)) || !json_is_array(list))
        status = setup_fail(error, "ip -json rule show: its answer is not understood");
    run_free(&result);
    FILE *out = state_open(state);
    json_array_foreach(list, i, rule)
    {
        if (status == 0 && ip_rule_is_ours(rule))
            status = ip_rule_print(out, rule, error);
    }
    state_close(out);
    json_decref(list);
    if (status < 0 || !**state) {
        free(*state);
        *state = NULL;
    }
    return status;
}

/* "161: fwmark ..." as arguments of "ip rule": "priority 161 fwmark ... protocol 161". */
static void batch_lines(FILE *out, const char *verb, const char *state, const char *other)
{
    const char *line;
    size_t length;
    while (state && (line = state_line(&state, &length))) {
        size_t number = strcspn(line, ":");
        const char *rest = line + number + 1;
        char whole[256];
        snprintf(whole, sizeof(whole), "%.*s\n", (int)length, line);
        if (number < length && !(other && strstr(other, whole)))
            fprintf(out, "rule %s priority %.*s%.*s protocol %d\n", verb, (int)number, line,
                    (int)(length - number - 1), rest, SETUP_ROUTE_PROTOCOL);
    }
}

static int ip_rule_steps(const char *name, const char *from, const char *to, struct steps *steps,
                         struct setup_error *error)
{
    char *text;
    (void)error;
    FILE *out = state_open(&text);
    batch_lines(out, "add", to, from);
    batch_lines(out, "del", from, to);
    state_close(out);
    if (*text)
        steps_command(steps, text, "ip", family_option(name), "-batch", "-", NULL);
    free(text);
    return 0;
}

static int ip_rule_canonical(const char *name, const char *text, char **canonical,
                             struct setup_error *error)
{
    size_t length = strlen(text);
    (void)name, (void)error;
    *canonical = state_grow(state_copy(text), length + 2);
    if (length && text[length - 1] != '\n')
        strcpy(*canonical + length, "\n");
    return 0;
}

const struct resource_type resource_rule = {
    .name = "rule",
    .lasting = false,
    .read = ip_rule_read,
    .steps = ip_rule_steps,
    .canonical = ip_rule_canonical,
};
