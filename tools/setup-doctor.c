/* SPDX-License-Identifier: MIT */
/*
 * fixport-setup doctor: what makes a correct setup fail in silence. Theory of operation:
 * setup-doctor.h.
 *
 * Exit status: 0 nothing found, 2 findings (warnings or errors), 1 could not look.
 */
#include "setup-doctor.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANYWHERE (~0u) /* also where nobody said what the machine is */
#define ROUTERS (ROLE_GATEWAY | ROLE_NODE)
#define PORT_USERS (ROLE_NODE | ROLE_HOST)

static const struct check {
    check_run *run;
    unsigned roles; /* of enum site_role, and ROLE_UNKNOWN */
    bool needs_site;
} checks[] = {
    {check_journal, ANYWHERE, false},
    {check_wanted, ANYWHERE, true},
    {check_snat, ROUTERS | ROLE_HOST | ROLE_UNKNOWN, false},
    {check_cilium, ROLE_NODE | ROLE_UNKNOWN, false},
    {check_low_ports, ANYWHERE, false},
    {check_ephemeral, PORT_USERS | ROLE_UNKNOWN, false},
    {check_node_ports, ROLE_NODE | ROLE_CONTROL_PLANE | ROLE_UNKNOWN, false},
    {check_listening, PORT_USERS | ROLE_UNKNOWN, false},
    {check_manifest, ROLE_CONTROL_PLANE, false},
    {check_routes, ANYWHERE & ~ROLE_UNKNOWN, true},
    {check_neighbours, ANYWHERE & ~ROLE_UNKNOWN, true},
    {check_rp_filter, ANYWHERE & ~ROLE_UNKNOWN, true},
    {check_forwarding, ROUTERS, false},
    {check_redirects, ROUTERS | ROLE_HOST, true},
    {check_jump, ANYWHERE, false},
    {check_forward, ROUTERS, true},
    {check_input, ROLE_HOST, true},
    {check_backends, ANYWHERE, false},
    {check_firewalld, ANYWHERE, false},
    {check_docker, ROUTERS, false},
    {check_pool, PORT_USERS | ROLE_UNKNOWN, false},
    {check_library, PORT_USERS, false},
    {check_kernel, PORT_USERS | ROLE_UNKNOWN, false},
    {check_timestamps, PORT_USERS | ROLE_UNKNOWN, false},
    {check_conntrack, ANYWHERE, false},
};

/* ---- findings ---- */

struct finding *finding_add(struct findings *findings, const char *id, enum severity severity,
                            const char *format, ...)
{
    va_list args;
    findings->item = state_grow(findings->item, (findings->count + 1) * sizeof(*findings->item));
    struct finding *finding = &findings->item[findings->count];
    *finding =
        (struct finding){.id = id, .severity = severity, .why = "", .order = findings->count++};
    va_start(args, format);
    if (vasprintf(&finding->what, format, args) < 0)
        exit(say_error(SETUP_ERROR, "out of memory"));
    va_end(args);
    return finding;
}

void finding_why(struct finding *finding, const char *why)
{
    finding->why = why;
}

static void finding_text(char **text, const char *format, va_list args)
{
    free(*text);
    if (vasprintf(text, format, args) < 0)
        exit(say_error(SETUP_ERROR, "out of memory"));
}

void finding_mend(struct finding *finding, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding_text(&finding->mend, format, args);
    va_end(args);
}

void finding_line(struct finding *finding, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding_text(&finding->line, format, args);
    va_end(args);
}

static void findings_free(struct findings *findings)
{
    for (size_t i = 0; i < findings->count; i++) {
        free(findings->item[i].what);
        free(findings->item[i].mend);
        free(findings->item[i].line);
    }
    free(findings->item);
}

static size_t findings_count(const struct findings *findings, bool infos)
{
    size_t count = 0;
    for (size_t i = 0; i < findings->count; i++)
        count += (findings->item[i].severity == SEVERITY_INFO) == infos;
    return count;
}

/* Worst first; among equals in the order of the checks. */
static int findings_order(const void *left, const void *right)
{
    const struct finding *a = left, *b = right;
    if (a->severity != b->severity)
        return a->severity > b->severity ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* ---- printing ---- */

static const char *severity_name(enum severity severity)
{
    return severity == SEVERITY_ERROR ? "error" : severity == SEVERITY_WARNING ? "warning" : "info";
}

/* Rules' texts are long: they are shown whole, cleaned. */
static void print_field(const char *name, const char *text)
{
    size_t size = text ? strlen(text) + 1 : 0;
    if (!size || !*text)
        return;
    char *clean = state_grow(NULL, size);
    printf("         %-5s %s\n", name, say_clean(text, size, say_utf8(), clean, size));
    free(clean);
}

static void print_finding(const struct finding *finding)
{
    size_t size = strlen(finding->what) + 1;
    char *clean = state_grow(NULL, size);
    say_clean(finding->what, size, say_utf8(), clean, size);
    printf("%-8s %s  [%s]\n", severity_name(finding->severity), clean, finding->id);
    free(clean);
    print_field("line:", finding->line);
    print_field("why:", finding->why);
    print_field("mend:", finding->mend);
}

static void print_findings(const struct findings *findings)
{
    size_t notes = findings_count(findings, true);
    for (size_t i = 0; i < findings->count; i++)
        print_finding(&findings->item[i]);
    if (findings->count)
        putchar('\n');
    printf("%s", text_count(findings_count(findings, false), "finding"));
    if (notes)
        printf(", %s", text_count(notes, "note"));
    putchar('\n');
}

/* Cleaned too: JSON is valid UTF-8, and what reads it may print it. */
static json_t *finding_string(const char *text)
{
    size_t size = text ? strlen(text) + 1 : 0;
    if (!size)
        return json_null();
    char *clean = state_grow(NULL, size);
    json_t *string = json_string(say_clean(text, size, true, clean, size));
    free(clean);
    return string;
}

static json_t *finding_json(const struct finding *finding)
{
    json_t *object = json_object();
    json_object_set_new(object, "id", finding_string(finding->id));
    json_object_set_new(object, "severity", finding_string(severity_name(finding->severity)));
    json_object_set_new(object, "what", finding_string(finding->what));
    json_object_set_new(object, "why", finding_string(finding->why));
    json_object_set_new(object, "mend", finding_string(finding->mend));
    json_object_set_new(object, "line", finding_string(finding->line));
    return object;
}

static void print_json(const struct findings *findings)
{
    json_t *list = json_array();
    for (size_t i = 0; i < findings->count; i++)
        json_array_append_new(list, finding_json(&findings->item[i]));
    json_say(list);
}

/* ---- the command ---- */

static void doctor_denied(const struct facts *facts, struct findings *findings)
{
    if (!facts->denied)
        return;
    struct finding *finding = finding_add(findings, "not-looked-at", SEVERITY_INFO,
                                          "could not look at: %s", facts->denied);
    finding_why(finding, "what is wrong there is not among these findings");
    finding_mend(finding, geteuid() == 0 ? "install what is missing" : "run it as root");
}

int setup_doctor(const struct setup_options *options)
{
    static struct facts facts;
    struct findings findings = {0};
    if (facts_gather(&facts, options) != 0)
        return SETUP_ERROR;
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
        if (checks[i].roles & facts.roles && (facts.has_site || !checks[i].needs_site))
            checks[i].run(&facts, &findings);
    doctor_denied(&facts, &findings);
    if (findings.count)
        qsort(findings.item, findings.count, sizeof(*findings.item), findings_order);
    if (options->json)
        print_json(&findings);
    else
        print_findings(&findings);
    bool found = findings_count(&findings, false) > 0;
    findings_free(&findings);
    facts_free(&facts);
    return found ? SETUP_CHANGES : SETUP_OK;
}
