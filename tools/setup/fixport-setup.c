/* SPDX-License-Identifier: MIT */
/*
 * fixport-setup: make a machine fit for fixport, and undo that. See fixport-setup(8), and setup.h
 * for how it works.
 *
 * One table says which subcommands there are, what they take and what help prints of them; each
 * has its file.
 */
#include "../common/line.h"
#include "discover/discover.h"
#include "engine/engine.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIRM_LEAST 10 /* s */
#define CONFIRM_MOST 3600
#define TIMEOUT_MOST 3600

enum takes {
    TAKES_SITE = 1 << 0, /* --config, --role */
    TAKES_ROOT = 1 << 1,
    TAKES_AS_JSON = 1 << 2,
    TAKES_FORCING = 1 << 3,
    TAKES_CONFIRM = 1 << 4,
    TAKES_CONFIG = 1 << 5, /* --config alone */
    TAKES_WHEN = 1 << 8,
    TAKES_REHEARSAL = 1 << 10, /* --no-rehearsal */
    TAKES_OWNER = 1 << 11, /* --owner */
    NEEDS_ROOT = 1 << 7, /* who is not root is told so before anything else */
    TAKES_COMMAND = 1 << 9, /* all that follows it is a command */
    TAKES_CLUSTER = 1 << 6, /* --kubectl, --kubeconfig, --context, --pod-cidrs, --write, files */
};

struct setup_command {
    const char *name;
    const char *arguments;
    const char *summary;
    unsigned takes;
    int (*run)(const struct setup_options *options);
};

static int command_help(const struct setup_options *options);
static int command_version(const struct setup_options *options);

static const struct setup_command commands[] = {
    {"plan", "[--config FILE] [--role ROLE[,ROLE]] [--owner NAME] [--no-rehearsal] [--json]",
     "show what apply would do, and change nothing (the default)",
     TAKES_SITE | TAKES_ROOT | TAKES_AS_JSON | TAKES_REHEARSAL | TAKES_OWNER, setup_plan},
    {"apply",
     "[--config FILE] [--role ROLE[,ROLE]] [--owner NAME] [--confirm SECONDS]\n"
     "           [--no-rehearsal] [--force] [--json]",
     "do it, all or nothing",
     TAKES_SITE | TAKES_ROOT | TAKES_AS_JSON | TAKES_FORCING | TAKES_CONFIRM | TAKES_REHEARSAL |
         TAKES_OWNER | NEEDS_ROOT,
     setup_apply},
    {"confirm", "[--json]", "keep what apply --confirm has done",
     TAKES_ROOT | TAKES_AS_JSON | NEEDS_ROOT, setup_confirm},
    {"expire", "WHEN", "roll back what was not confirmed; for the timer of apply --confirm",
     TAKES_WHEN | NEEDS_ROOT, setup_expire},
    {"status", "[--json]", "compare what is with what was applied",
     TAKES_ROOT | TAKES_AS_JSON | NEEDS_ROOT, setup_status},
    {"undo", "[--owner NAME] [--force] [--json]",
     "put everything back to what it was before the first apply",
     TAKES_ROOT | TAKES_AS_JSON | TAKES_FORCING | TAKES_OWNER | NEEDS_ROOT, setup_undo},
    {"boot", "[--json]", "set again what does not outlast a reboot; for the systemd unit",
     TAKES_ROOT | TAKES_AS_JSON | NEEDS_ROOT, setup_boot},
    {"doctor", "[--config FILE] [--role ROLE[,ROLE]] [--json]",
     "look for what makes a correct setup fail, and say what mends it",
     TAKES_SITE | TAKES_ROOT | TAKES_AS_JSON, setup_doctor},
    {"discover",
     "[--config FILE] [--write] [--kubectl PATH] [--kubeconfig FILE] [--context NAME]\n"
     "           [--timeout SECONDS] [--pod-cidrs] [--json] [FILE...|-]",
     "ask the cluster, or read its JSON, and show or write what the configuration becomes",
     TAKES_CONFIG | TAKES_AS_JSON | TAKES_CLUSTER, setup_discover},
    {"twin", "COMMAND [ARGUMENT...]",
     "run a command in a copy of this machine's network that goes when it ends",
     TAKES_COMMAND | NEEDS_ROOT, setup_twin},
    {"help", "", "print this", 0, command_help},
    {"version", "", "print the version", 0, command_version},
    {NULL, NULL, NULL, 0, NULL},
};

static int command_help(const struct setup_options *options)
{
    (void)options;
    printf("Usage: fixport-setup [COMMAND] [OPTION...]\n\nCommands:\n");
    for (const struct setup_command *command = commands; command->name; command++)
        printf("  %s%s%s\n      %s\n", command->name, *command->arguments ? " " : "",
               command->arguments, command->summary);
    printf("\nRoles: host, gateway, node, control-plane; the default is what the configuration\n"
           "names for this machine. The configuration is --config FILE, else /etc/fixport.conf.\n"
           "--root DIR places every file under DIR. plan, doctor and discover need no root.\n"
           "See fixport-setup(8).\n");
    return SETUP_OK;
}

static int command_version(const struct setup_options *options)
{
    (void)options;
    printf("fixport-setup %s\n", PACKAGE_VERSION);
    return SETUP_OK;
}

/* ---- the command line ---- */

enum {
    OPTION_ROLE = 256,
    OPTION_ROOT,
    OPTION_JSON,
    OPTION_FORCE,
    OPTION_CONFIRM,
    OPTION_OWNER,
    OPTION_NO_REHEARSAL,
    OPTION_KUBECTL,
    OPTION_KUBECONFIG,
    OPTION_CONTEXT,
    OPTION_TIMEOUT,
    OPTION_POD_CIDRS,
    OPTION_WRITE,
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"role", required_argument, NULL, OPTION_ROLE},
    {"root", required_argument, NULL, OPTION_ROOT},
    {"json", no_argument, NULL, OPTION_JSON},
    {"force", no_argument, NULL, OPTION_FORCE},
    {"confirm", required_argument, NULL, OPTION_CONFIRM},
    {"owner", required_argument, NULL, OPTION_OWNER},
    {"no-rehearsal", no_argument, NULL, OPTION_NO_REHEARSAL},
    {"kubectl", required_argument, NULL, OPTION_KUBECTL},
    {"kubeconfig", required_argument, NULL, OPTION_KUBECONFIG},
    {"context", required_argument, NULL, OPTION_CONTEXT},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"pod-cidrs", no_argument, NULL, OPTION_POD_CIDRS},
    {"write", no_argument, NULL, OPTION_WRITE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

struct parse {
    struct setup_options options;
    struct discover_options discover;
    const char *root;
    unsigned given;      /* enum takes */
    const char *instead; /* the subcommand that --help and --version stand for */
};

static int parse_role(struct setup_options *options)
{
    struct parse_reason why;
    if (options->roles)
        return say_error(SETUP_ERROR, "--role is given twice: several are --role host,gateway");
    options->roles = site_roles_parse(optarg, &why);
    return options->roles ? 0 : say_error(SETUP_ERROR, "--role '%s': %s", optarg, why.text);
}

/* It is printed to people, and goes into the journal. */
static int parse_owner(struct setup_options *options)
{
    int status = line_text("--owner", &options->owner);
    if (status)
        return status;
    for (const char *at = optarg; *at; at++)
        if (at - optarg > JOURNAL_OWNER - 2 || *at < ' ' || *at > '~')
            return say_error(SETUP_ERROR, "--owner: a name of at most %d printable ASCII characters is needed",
                             JOURNAL_OWNER - 1);
    return 0;
}

/* What only discover takes. */
static int parse_cluster(int option, struct parse *parse, char **argv)
{
    struct discover_options *discover = &parse->discover;
    parse->given |= TAKES_CLUSTER;
    switch (option) {
    case OPTION_KUBECTL:
        return line_text("--kubectl", &discover->kubectl);
    case OPTION_KUBECONFIG:
        return line_text("--kubeconfig", &discover->kubeconfig);
    case OPTION_CONTEXT:
        return line_text("--context", &discover->context);
    case OPTION_TIMEOUT:
        return line_number("--timeout", 1, TIMEOUT_MOST, " seconds", &discover->seconds);
    case OPTION_POD_CIDRS:
        discover->pod_cidrs = true;
        return 0;
    case OPTION_WRITE:
        discover->write = true;
        return 0;
    default:
        return line_bad(option, argv);
    }
}

static int parse_option(int option, struct parse *parse, char **argv)
{
    switch (option) {
    case 'c':
        parse->given |= TAKES_CONFIG;
        return line_text("--config", &parse->options.config);
    case OPTION_ROLE:
        parse->given |= TAKES_SITE;
        return parse_role(&parse->options);
    case OPTION_ROOT:
        parse->given |= TAKES_ROOT;
        return line_text("--root", &parse->root);
    case OPTION_JSON:
        parse->given |= TAKES_AS_JSON;
        parse->options.json = true;
        return 0;
    case OPTION_FORCE:
        parse->given |= TAKES_FORCING;
        parse->options.force = true;
        return 0;
    case OPTION_NO_REHEARSAL:
        parse->given |= TAKES_REHEARSAL;
        parse->options.no_rehearsal = true;
        return 0;
    case OPTION_OWNER:
        parse->given |= TAKES_OWNER;
        return parse_owner(&parse->options);
    case OPTION_CONFIRM:
        parse->given |= TAKES_CONFIRM;
        return line_number("--confirm", CONFIRM_LEAST, CONFIRM_MOST, " seconds",
                           &parse->options.confirm);
    case 'h':
        parse->instead = "help";
        return 0;
    case 'V':
        parse->instead = "version";
        return 0;
    default:
        return parse_cluster(option, parse, argv);
    }
}

/* What was given, the subcommand must take. */
static int parse_fits(const struct setup_command *command, const struct parse *parse)
{
    static const struct line_options known[] = {
        {TAKES_SITE, "--role"},
        {TAKES_ROOT, "--root"},
        {TAKES_AS_JSON, "--json"},
        {TAKES_FORCING, "--force"},
        {TAKES_CONFIRM, "--confirm"},
        {TAKES_REHEARSAL, "--no-rehearsal"},
        {TAKES_OWNER, "--owner"},
        {TAKES_CONFIG, "--config"},
        {TAKES_CLUSTER, "--kubectl, --kubeconfig, --context, --timeout, --pod-cidrs and --write"},
        {0, NULL},
    };
    unsigned takes = command->takes | (command->takes & TAKES_SITE ? TAKES_CONFIG : 0);
    return line_takes(command->name, parse->given & ~takes, known);
}

/* The root must be there: a mistyped one would be filled with a second system. */
static int parse_root(const char *root)
{
    static char path[PATH_MAX];
    struct stat st;
    if (!root)
        return 0;
    if (!realpath(root, path) || stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return say_error(SETUP_ERROR, "--root '%s': no such folder", root);
    setup_root = strcmp(path, "/") == 0 ? "" : path;
    return 0;
}

/* What follows the subcommand. */
static int parse_files(const struct setup_command *command, char **file, struct parse *parse)
{
    char *end;
    if (command->takes & TAKES_WHEN && *file) {
        parse->options.when = strtoll(*file, &end, 10);
        if (*end || parse->options.when <= 0)
            return say_error(SETUP_ERROR, "expire '%s': the second since 1970 is wanted at which the "
                             "apply began", *file);
        file++;
    }
    if (command->takes & TAKES_COMMAND)
        parse->options.command = file;
    else if (*file && !parse->instead && !(command->takes & TAKES_CLUSTER))
        return say_error(SETUP_ERROR, "'%s' is one argument too many", *file);
    parse->discover.file = file;
    return 0;
}

static int parse_line(int argc, char **argv, struct parse *parse,
                      const struct setup_command **command)
{
    int option, status = 0;
    opterr = 0;
    if (argc > 2 && strcmp(argv[1], "twin") == 0 && *argv[2] != '-')
        argc = 2; /* options are the command's own */
    while (!status && (option = getopt_long(argc, argv, ":c:hV", long_options, NULL)) != -1)
        status = parse_option(option, parse, argv);
    if (status)
        return status;
    const char *name = parse->instead ? parse->instead : argv[optind] ? argv[optind] : "plan";
    size_t index;
    status = line_command(name, commands, sizeof(*commands), &index);
    *command = &commands[index];
    if (!status && argv[optind])
        status = parse_files(*command, argv + optind + 1, parse);
    if (!status && (*command)->takes & TAKES_WHEN && !parse->options.when)
        status = say_error(SETUP_ERROR, "expire: of which apply? It is for the timer that apply "
                           "--confirm sets");
    if (!status && (*command)->takes & TAKES_COMMAND && !(parse->options.command && *parse->options.command))
        status = say_error(SETUP_ERROR, "%s: which command? 'fixport-setup twin ip route' is one",
                           (*command)->name);
    if (!status && !parse->instead)
        status = parse_fits(*command, parse);
    return status ? status : parse_root(parse->root);
}

/* Who asked for JSON gets it for an error in the line, too, wherever that stands. */
static bool parse_asks_json(char **argv)
{
    while (*argv && strcmp(*argv, "--json") != 0)
        argv++;
    return *argv;
}

int main(int argc, char **argv)
{
    struct parse parse = {.root = NULL};
    const struct setup_command *command = NULL;
    say_begin("fixport-setup", SETUP_ERROR);
    json_promise(parse_asks_json(argv));
    int status = parse_line(argc, argv, &parse, &command);
    if (!status && command->takes & NEEDS_ROOT && geteuid() != 0)
        status = say_error(SETUP_ERROR, "%s needs root; plan does not", command->name);
    if (!status)
        parse.options.discover = &parse.discover;
    if (!status)
        status = command->run(&parse.options);
    if (status == SETUP_OK || status == SETUP_CHANGES)
        json_promise(false);
    return say_end(status);
}
