/* SPDX-License-Identifier: MIT */
/*
 * fixport-setup doctor: what makes a correct setup fail in silence. Theory of operation:
 * doctor.h.
 *
 * Exit status: 0 nothing found, 2 findings (warnings or errors), 1 could not look.
 */
#include "doctor.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INDENT 15 /* where the text of a field begins */
#define NARROW 60 /* columns; a terminal with less is not broken for */

#define ANYWHERE (~0u) /* also where nobody said what the machine is */
#define PORT_USERS (ROLE_NODE | ROLE_HOST)

static const struct check {
    check_run *run;
    unsigned roles; /* of enum site_role, and ROLE_UNKNOWN */
    bool needs_site;
} checks[] = {
    {check_journal, ANYWHERE, false},
    {check_configuration, ANYWHERE, false},
    {check_wanted, ANYWHERE, true},
    {check_unit, ANYWHERE, false},
    {check_networkd, ANYWHERE, false},
    {check_cilium, ROLE_NODE | ROLE_UNKNOWN, false},
    {check_low_ports, ANYWHERE, false},
    {check_ephemeral, PORT_USERS | ROLE_UNKNOWN, false},
    {check_node_ports, ROLE_NODE | ROLE_CONTROL_PLANE | ROLE_UNKNOWN, false},
    {check_aliases, ROLE_NODE, true},
    {check_listening, PORT_USERS | ROLE_UNKNOWN, false},
    {check_manifest, ROLE_CONTROL_PLANE, false},
    {check_routes, ANYWHERE & ~ROLE_UNKNOWN, true},
    {check_neighbours, ANYWHERE & ~ROLE_UNKNOWN, true},
    {check_rp_filter, ANYWHERE, false},
    {check_forwarding, ROUTERS, false},
    {check_redirects, ROUTERS | ROLE_HOST, true},
    {check_backends, ANYWHERE, false},
    {check_pool, PORT_USERS | ROLE_UNKNOWN, false},
    {check_library, PORT_USERS, false},
    {check_kernel, PORT_USERS | ROLE_UNKNOWN, false},
    {check_timestamps, PORT_USERS | ROLE_UNKNOWN, false},
    {check_conntrack, ANYWHERE, false},
    {check_played, ANYWHERE, false}, /* after those that know a cause */
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

void finding_run(struct finding *finding, const char *format, ...)
{
    va_list args;
    char *command = NULL;
    va_start(args, format);
    finding_text(&command, format, args);
    va_end(args);
    finding->run = state_grow(finding->run, (finding->runs + 1) * sizeof(*finding->run));
    finding->run[finding->runs++] = command;
}

void finding_apply(struct finding *finding, const struct facts *facts)
{
    finding_run(finding, "%s apply", facts->setup);
}

static void findings_free(struct findings *findings)
{
    for (size_t i = 0; i < findings->count; i++) {
        free(findings->item[i].what);
        free(findings->item[i].mend);
        free(findings->item[i].line);
        for (size_t j = 0; j < findings->item[i].runs; j++)
            free(findings->item[i].run[j]);
        free(findings->item[i].run);
    }
    free(findings->item);
}

static size_t findings_count(const struct findings *findings, enum severity severity)
{
    size_t count = 0;
    for (size_t i = 0; i < findings->count; i++)
        count += findings->item[i].severity == severity;
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

/* How this terminal shows things; zeros: it is none. */
struct look {
    bool colour;
    size_t columns;
};

static struct look look_at_terminal(void)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    struct winsize size = {0};
    struct look look = {0};
    if (!isatty(STDOUT_FILENO))
        return look;
    look.colour = term && strcmp(term, "dumb") != 0 && !(no_colour && *no_colour);
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= NARROW)
        look.columns = size.ws_col;
    return look;
}

static void print_colour(const struct look *look, const char *code, const char *text)
{
    if (look->colour)
        printf("\033[%sm%s\033[0m", code, text);
    else
        fputs(text, stdout);
}

/* A sentence is broken between words where the terminal ends. */
static void print_broken(const char *text, size_t columns)
{
    size_t at = INDENT;
    while (*text) {
        size_t length = strcspn(text, " ");
        if (columns && at > INDENT && at + 1 + length > columns) {
            printf("\n%*s", INDENT, "");
            at = INDENT;
        } else if (at > INDENT) {
            putchar(' ');
            at++;
        }
        printf("%.*s", (int)length, text);
        at += length;
        text += length;
        text += *text == ' ';
    }
}

/* Lines and commands are other people's, or for them to copy: whole, however long they are. */
static void print_field(const struct look *look, const char *name, const char *text, bool whole)
{
    if (!text || !*text)
        return;
    char *clean = text_clean(text, say_utf8());
    printf("         ");
    print_colour(look, "2", name);
    printf("%*s", INDENT - 9 - (int)strlen(name), "");
    print_broken(clean, whole ? 0 : look->columns);
    putchar('\n');
    free(clean);
}

static void print_finding(const struct look *look, const struct finding *finding)
{
    static const char *const colours[] = {"36", "33;1", "31;1"};
    const char *name = severity_name(finding->severity);
    char *clean = text_clean(finding->what, say_utf8());
    print_colour(look, colours[finding->severity], name);
    printf("%*s", 9 - (int)strlen(name), "");
    print_colour(look, "1", clean);
    printf("  [%s]\n", finding->id);
    free(clean);
    print_field(look, "line:", finding->line, true);
    print_field(look, "why:", finding->why, false);
    print_field(look, "mend:", finding->mend, true);
    for (size_t i = 0; i < finding->runs; i++)
        print_field(look, "run:", finding->run[i], true);
}

/* "3 findings: 2 errors, 1 warning; 1 note", in one of the severity's colours. */
static void print_summary(const struct look *look, const struct findings *findings)
{
    size_t errors = findings_count(findings, SEVERITY_ERROR);
    size_t warnings = findings_count(findings, SEVERITY_WARNING);
    size_t notes = findings_count(findings, SEVERITY_INFO);
    char *text = text_format("%s", text_count(errors + warnings, "finding")), *more;
    if (errors + warnings) {
        more = text_format("%s: %s%s%s", text, errors ? text_count(errors, "error") : "",
                           errors && warnings ? ", " : "",
                           warnings ? text_count(warnings, "warning") : "");
        free(text);
        text = more;
    }
    if (notes) {
        more = text_format("%s; %s", text, text_count(notes, "note"));
        free(text);
        text = more;
    }
    print_colour(look, errors ? "31;1" : warnings ? "33;1" : "32", text);
    putchar('\n');
    free(text);
}

static void print_findings(const struct facts *facts, const struct findings *findings)
{
    struct look look = look_at_terminal();
    played_print(facts);
    for (size_t i = 0; i < findings->count; i++)
        print_finding(&look, &findings->item[i]);
    if (findings->count)
        putchar('\n');
    print_summary(&look, findings);
}

json_t *finding_string(const char *text)
{
    if (!text)
        return json_null();
    char *clean = text_clean(text, true);
    json_t *string = json_string(clean);
    free(clean);
    return string;
}

static json_t *finding_commands(const struct finding *finding)
{
    json_t *list = json_array();
    for (size_t i = 0; i < finding->runs; i++)
        json_array_append_new(list, finding_string(finding->run[i]));
    return list;
}

/* For who reads one text only. */
static json_t *finding_mend_json(const struct finding *finding)
{
    char *text = state_copy(finding->mend ? finding->mend : "");
    for (size_t i = 0; !finding->mend && i < finding->runs; i++) {
        char *longer = text_format("%s%s%s", text, i ? " && " : "", finding->run[i]);
        free(text);
        text = longer;
    }
    json_t *string = finding_string(text);
    free(text);
    return string;
}

static json_t *finding_json(const struct finding *finding)
{
    json_t *object = json_object();
    json_object_set_new(object, "id", finding_string(finding->id));
    json_object_set_new(object, "severity", finding_string(severity_name(finding->severity)));
    json_object_set_new(object, "what", finding_string(finding->what));
    json_object_set_new(object, "why", finding_string(finding->why));
    json_object_set_new(object, "mend", finding_mend_json(finding));
    json_object_set_new(object, "run", finding_commands(finding));
    json_object_set_new(object, "line", finding_string(finding->line));
    return object;
}

static void print_json(const struct facts *facts, const struct findings *findings)
{
    json_t *object = json_object(), *list = json_array();
    for (size_t i = 0; i < findings->count; i++)
        json_array_append_new(list, finding_json(&findings->item[i]));
    json_object_set_new(object, "findings", list);
    played_json(facts, object);
    json_say(object);
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
        print_json(&facts, &findings);
    else
        print_findings(&facts, &findings);
    bool found = findings_count(&findings, SEVERITY_INFO) < findings.count;
    findings_free(&findings);
    facts_free(&facts);
    return found ? SETUP_CHANGES : SETUP_OK;
}
