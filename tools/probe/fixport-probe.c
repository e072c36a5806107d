/* SPDX-License-Identifier: MIT */
/*
 * fixport-probe: find out how a pod's connections arrive at a host. See fixport-probe(1), and
 * probe.h for how it works.
 */
#include "probe.h"

#include "../common/line.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_MOST 1000000
#define TIMEOUT_MOST 86400
#define WAIT_MOST 30

enum takes {
    TAKES_LISTEN = 1 << 0,  /* what only listen takes */
    TAKES_CONNECT = 1 << 1, /* what only connect takes */
    TAKES_BOTH = 1 << 2,
};

struct probe_command {
    const char *name;
    const char *arguments;
    const char *summary;
    unsigned takes;
    int (*run)(struct probe_options *options);
};

static int command_help(struct probe_options *options);
static int command_version(struct probe_options *options);

static const struct probe_command commands[] = {
    {"listen",
     "[--port PORT] [--address ADDRESS] [--capture [--no-listen]] [--count N] [--timeout SECONDS]",
     "on the host: say how connections arrive", TAKES_LISTEN | TAKES_BOTH, probe_listen},
    {"connect", "HOST [--port PORT] [--tries N] [--wait SECONDS]",
     "in the pod: connect to it, from ports inside of the range and outside",
     TAKES_CONNECT | TAKES_BOTH, probe_connect},
    {"help", "", "print this", 0, command_help},
    {"version", "", "print the version", 0, command_version},
    {NULL, NULL, NULL, 0, NULL},
};

static int command_help(struct probe_options *options)
{
    (void)options;
    printf("Usage: fixport-probe COMMAND [OPTION...]\n\nCommands:\n");
    for (const struct probe_command *command = commands; command->name; command++)
        printf("  %s%s%s\n      %s\n", command->name, *command->arguments ? " " : "",
               command->arguments, command->summary);
    printf(
        "\nBoth: --ports RANGE and --config FILE say which ports are the right ones; --json; -4, "
        "-6.\nThe default port is %d; behind a firewall, choose one that it lets through.\n"
        "--capture needs root. Exit status: 0 if ports are kept and answers come, 2 if not, 1 "
        "for an\nerror. See fixport-probe(1).\n",
        PROBE_PORT);
    return PROBE_OK;
}

static int command_version(struct probe_options *options)
{
    (void)options;
    printf("fixport-probe %s\n", PACKAGE_VERSION);
    return PROBE_OK;
}

/* ---- the command line ---- */

enum {
    OPTION_PORT = 256,
    OPTION_PORTS,
    OPTION_ADDRESS,
    OPTION_CAPTURE,
    OPTION_NO_LISTEN,
    OPTION_COUNT,
    OPTION_TIMEOUT,
    OPTION_TRIES,
    OPTION_WAIT,
    OPTION_JSON,
};

static const struct option long_options[] = {
    {"port", required_argument, NULL, OPTION_PORT},
    {"ports", required_argument, NULL, OPTION_PORTS},
    {"config", required_argument, NULL, 'c'},
    {"address", required_argument, NULL, OPTION_ADDRESS},
    {"capture", no_argument, NULL, OPTION_CAPTURE},
    {"no-listen", no_argument, NULL, OPTION_NO_LISTEN},
    {"count", required_argument, NULL, OPTION_COUNT},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"tries", required_argument, NULL, OPTION_TRIES},
    {"wait", required_argument, NULL, OPTION_WAIT},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

struct parse {
    struct probe_options options;
    unsigned port;       /* 0: not given */
    unsigned given;      /* enum takes */
    const char *instead; /* the subcommand that --help and --version stand for */
};

static int parse_address(const char **value)
{
    uint8_t addr[16];
    int status = line_text("--address", value);
    if (status || address_parse(*value, strlen(*value), addr))
        return status;
    return say_bad_input("--address '%s' is no address", *value);
}

/* What only one of the two takes. */
static int parse_own(int option, struct parse *parse, char **argv)
{
    struct probe_options *options = &parse->options;
    bool connects = option == OPTION_TRIES || option == OPTION_WAIT;
    parse->given |= connects ? TAKES_CONNECT : TAKES_LISTEN;
    switch (option) {
    case OPTION_ADDRESS:
        return parse_address(&options->address);
    case OPTION_CAPTURE:
        options->capture = true;
        return 0;
    case OPTION_NO_LISTEN:
        options->no_listen = true;
        return 0;
    case OPTION_COUNT:
        return line_number("--count", 1, COUNT_MOST, "", &options->count);
    case OPTION_TIMEOUT:
        return line_number("--timeout", 1, TIMEOUT_MOST, " seconds", &options->timeout);
    case OPTION_TRIES:
        return line_number("--tries", 1, PROBE_ROUNDS_MOST, "", &options->rounds);
    case OPTION_WAIT:
        return line_number("--wait", 1, WAIT_MOST, " seconds", &options->wait_ms);
    default:
        return line_bad(option, argv);
    }
}

static int parse_option(int option, struct parse *parse, char **argv)
{
    struct probe_options *options = &parse->options;
    bool common = option < OPTION_ADDRESS || option == OPTION_JSON;
    if (option == 'h' || option == 'V') {
        parse->instead = option == 'h' ? "help" : "version";
        return 0;
    }
    if (option == '?' || option == ':' || !common)
        return option == '?' || option == ':' ? line_bad(option, argv)
                                              : parse_own(option, parse, argv);
    parse->given |= TAKES_BOTH;
    if (option == OPTION_PORT)
        return line_number("--port", 1, 65535, "", &parse->port);
    if (option == OPTION_PORTS)
        return line_text("--ports", &options->ports);
    if (option == 'c')
        return line_text("--config", &options->config);
    options->json = options->json || option == OPTION_JSON;
    options->only4 = options->only4 || option == '4';
    options->only6 = options->only6 || option == '6';
    return 0;
}

/* What was given, the subcommand must take, and it must make sense together. */
static int parse_fits(const struct probe_command *command, const struct parse *parse)
{
    static const struct line_options known[] = {
        {TAKES_LISTEN, "--address, --capture, --no-listen, --count and --timeout"},
        {TAKES_CONNECT, "--tries and --wait"},
        {TAKES_BOTH, "options"},
        {0, NULL},
    };
    const struct probe_options *options = &parse->options;
    struct portset set;
    struct parse_reason why;
    int status = line_takes(command->name, parse->given & ~command->takes, known);
    if (status)
        return status;
    if (options->only4 && options->only6)
        return say_bad_input("-4 and -6 exclude each other");
    if (options->no_listen && !options->capture)
        return say_bad_input("--no-listen needs --capture: there would be nothing to do");
    if (command->run == probe_connect && !options->host)
        return say_bad_input("connect needs the host: fixport-probe connect HOST");
    if (options->ports && portset_parse(options->ports, &set, &why) != 0)
        return say_bad_input("--ports '%s': %s", options->ports, why.text);
    return 0;
}

static void parse_defaults(struct parse *parse)
{
    struct probe_options *options = &parse->options;
    options->port = (uint16_t)(parse->port ? parse->port : PROBE_PORT);
    options->rounds = options->rounds ? options->rounds : 2;
    options->wait_ms = options->wait_ms ? options->wait_ms * 1000 : PROBE_WAIT_MS;
}

static int parse_line(int argc, char **argv, struct parse *parse,
                      const struct probe_command **command)
{
    int option, status = 0;
    opterr = 0;
    while (!status && (option = getopt_long(argc, argv, ":c:46hV", long_options, NULL)) != -1)
        status = parse_option(option, parse, argv);
    if (status)
        return status;
    const char *name = parse->instead ? parse->instead : argv[optind];
    if (!name)
        return say_bad_input("no command is given; see 'fixport-probe help'");
    size_t index;
    status = line_command(name, commands, sizeof(*commands), &index);
    *command = &commands[index];
    if (status || parse->instead)
        return status;
    const char **operand = (const char **)argv + optind + 1;
    if (!status && (*command)->run == probe_connect && *operand)
        parse->options.host = *operand++;
    if (!status && *operand)
        return say_bad_input("'%s' is one argument too many", *operand);
    parse_defaults(parse);
    return status ? status : parse_fits(*command, parse);
}

int main(int argc, char **argv)
{
    static struct parse parse;
    const struct probe_command *command = NULL;
    say_begin("fixport-probe", PROBE_ERROR);
    int status = parse_line(argc, argv, &parse, &command);
    if (!status && command->takes)
        status = ports_site(&parse.options);
    if (!status)
        status = command->run(&parse.options);
    site_free(&parse.options.site);
    return say_end(status);
}
