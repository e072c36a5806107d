/* SPDX-License-Identifier: MIT */
/*
 * The command line of fixport-pool. Options may stand before and after the subcommand; what a
 * subcommand does not take is refused rather than ignored. Each refusal is one line.
 */
#include "cmd.h"

#include "../../pool/portrange.h"
#include "../common/line.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPTION_POOL = 256,
    OPTION_JSON,
    OPTION_FORCE,
    OPTION_ANY,
    OPTION_PORT,
    OPTION_HOLDER,
    OPTION_STATE,
    OPTION_LISTEN,
    OPTION_EVERY,
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"ports", required_argument, NULL, 'p'},
    {"to", required_argument, NULL, 't'},
    {"pool", required_argument, NULL, OPTION_POOL},
    {"json", no_argument, NULL, OPTION_JSON},
    {"force", no_argument, NULL, OPTION_FORCE},
    {"any", no_argument, NULL, OPTION_ANY},
    {"port", required_argument, NULL, OPTION_PORT},
    {"holder", required_argument, NULL, OPTION_HOLDER},
    {"state", required_argument, NULL, OPTION_STATE},
    {"listen", required_argument, NULL, OPTION_LISTEN},
    {"every", required_argument, NULL, OPTION_EVERY},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

struct parse {
    struct pool_request *request;
    unsigned given; /* TAKES_... */
    const char *instead; /* the subcommand that --help and --version stand for */
};

static int parse_port(const char *option, const char *text, int *port)
{
    struct portset set;
    struct parse_reason why;
    if (portset_parse(text, &set, &why) < 0)
        return say_bad_input("%s '%s': %s", option, text, why.text);
    if (portset_size(&set) != 1)
        return say_bad_input("%s '%s': one port is wanted, 1-65535", option, text);
    *port = set.range[0].lo;
    return 0;
}

static int parse_every(const char *text, unsigned *every)
{
    char *end;
    unsigned long seconds = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || seconds < 1 || seconds > 86400)
        return say_bad_input("--every '%s': seconds are wanted, 1-86400", text);
    *every = (unsigned)seconds;
    return 0;
}

static int parse_state(const char *text, struct pool_request *request)
{
    for (int state = WORD_USED; state <= WORD_RESTING; state++) {
        if (strcmp(text, show_state((enum word_state)state)) == 0) {
            request->state = state;
            return 0;
        }
    }
    return say_bad_input("--state '%s': one of used, letgo, resting is wanted", text);
}

static int parse_policy_option(int option, struct parse *parse)
{
    struct pool_request *request = parse->request;
    if (option == 'c')
        return line_text("-c", &request->config);
    parse->given |= TAKES_POLICY;
    if (option == 't')
        return line_text("-t", &request->to);
    return line_once("-p", &request->ports);
}

static int parse_filter(int option, struct parse *parse)
{
    parse->given |= TAKES_FILTER;
    if (option == OPTION_PORT)
        return parse_port("--port", optarg, &parse->request->port);
    if (option == OPTION_STATE)
        return parse_state(optarg, parse->request);
    return line_text("--holder", &parse->request->holder);
}

static int parse_option(int option, struct parse *parse, char **argv)
{
    switch (option) {
    case 'c':
    case 'p':
    case 't':
        return parse_policy_option(option, parse);
    case OPTION_POOL:
        return line_text("--pool", &parse->request->pool);
    case OPTION_PORT:
    case OPTION_HOLDER:
    case OPTION_STATE:
        return parse_filter(option, parse);
    case OPTION_JSON:
        parse->given |= TAKES_JSON;
        parse->request->json = true;
        return 0;
    case OPTION_FORCE:
        parse->given |= TAKES_FORCE;
        parse->request->force = true;
        return 0;
    case OPTION_ANY:
        parse->given |= TAKES_ANY;
        parse->request->any = true;
        return 0;
    case OPTION_LISTEN:
        parse->given |= TAKES_SERVE;
        return parse_port("--listen", optarg, &parse->request->listen);
    case OPTION_EVERY:
        parse->given |= TAKES_EVERY;
        return parse_every(optarg, &parse->request->every);
    case 'h':
        parse->instead = "help";
        return 0;
    case 'V':
        parse->instead = "version";
        return 0;
    default:
        return line_bad(option, argv);
    }
}

/* What was given, the subcommand must take. */
static int parse_fits(const struct pool_command *command, const struct parse *parse)
{
    static const struct line_options known[] = {
        {TAKES_POLICY, "-p and -t"},
        {TAKES_JSON, "--json"},
        {TAKES_FORCE, "--force"},
        {TAKES_ANY, "--any"},
        {TAKES_SERVE, "--listen"},
        {TAKES_EVERY, "--every"},
        {TAKES_FILTER, "--port, --holder and --state"},
        {0, NULL},
    };
    const struct pool_request *request = parse->request;
    int status = line_takes(command->name, parse->given & ~command->takes, known);
    if (status)
        return status;
    if (request->config && request->ports)
        return say_bad_input("-c and -p exclude each other");
    if (request->json && request->every)
        return say_bad_input("--json and --every exclude each other");
    if (request->to && !request->ports)
        return say_bad_input("-t needs -p: which ports to use towards '%s'", request->to);
    return 0;
}

int options_parse(int argc, char **argv, const struct pool_command *commands,
                  const struct pool_command **command, struct pool_request *request)
{
    struct parse parse = {.request = request};
    int option, status = 0;
    opterr = 0;
    while (!status && (option = getopt_long(argc, argv, ":c:p:t:hV", long_options, NULL)) != -1)
        status = parse_option(option, &parse, argv);
    if (status)
        return status;
    const char *name = parse.instead ? parse.instead : argv[optind];
    if (!name)
        return say_bad_input("no command is given; see 'fixport-pool help'");
    if (!parse.instead && argv[optind + 1])
        return say_bad_input("'%s' is one argument too many", argv[optind + 1]);
    size_t index;
    status = line_command(name, commands, sizeof(*commands), &index);
    *command = &commands[index];
    return status || parse.instead ? status : parse_fits(*command, &parse);
}
