/* SPDX-License-Identifier: MIT */
/*
 * fixport-pool: make, look at and look after a pool. See fixport-pool(8).
 *
 * One table says which subcommands there are, what they take and what help prints of them; each
 * has its file. Those that only report work on a copy of the pool (snapshot.h).
 */
#include "cmd.h"

#include <string.h>

static int command_help(const struct pool_request *request);
static int command_version(const struct pool_request *request);

static const struct pool_command commands[] = {
    {"create", "[-c CONFIG | -p PORTS [-t DESTINATIONS]]", "make the pool", TAKES_POLICY,
     command_create},
    {"reload", "[-c CONFIG | -p PORTS [-t DESTINATIONS]] [--any]",
     "give it other rules, under way; running programs follow", TAKES_POLICY | TAKES_ANY,
     command_reload},
    {"status", "[--json]", "ranges, rules and how full they are, holders, counters", TAKES_JSON,
     command_status},
    {"list", "[--port PORT] [--holder HOLDER] [--state STATE] [--json]",
     "each lease: port, destination, state, holder, since when", TAKES_JSON | TAKES_FILTER,
     command_list},
    {"reclaim", "[--json] [--every SECONDS]",
     "take back at once what nobody uses any more; with --every again and again", TAKES_JSON | TAKES_EVERY,
     command_reclaim},
    {"remove", "[--force] [--any]", "remove the pool, unless it is in use",
     TAKES_FORCE | TAKES_ANY, command_remove},
    {"metrics", "[--listen PORT]", "the numbers in Prometheus' text format, printed or served by HTTP",
     TAKES_SERVE, command_metrics},
    {"help", "", "print this", 0, command_help},
    {"version", "", "print the version", 0, command_version},
    {NULL, NULL, NULL, 0, NULL},
};

static int command_help(const struct pool_request *request)
{
    (void)request;
    printf("Usage: fixport-pool COMMAND [--pool PATH] [-c CONFIG] [OPTION...]\n\nCommands:\n");
    for (const struct pool_command *command = commands; command->name; command++)
        printf("  %s%s%s\n      %s\n", command->name, *command->arguments ? " " : "",
               command->arguments, command->summary);
    printf("\nThe pool is --pool PATH, else $FIXPORT_POOL, else the configuration's, else\n"
           "%s, for a user without that /dev/shm/fixport-UID.\n"
           "The configuration is -c CONFIG, else /etc/fixport.conf. See fixport-pool(8).\n",
           POOL_DEFAULT_PATH);
    return EXIT_OK;
}

static int command_version(const struct pool_request *request)
{
    (void)request;
    printf("fixport-pool %s\n", PACKAGE_VERSION);
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    struct pool_request request = {.pool = NULL};
    const struct pool_command *command = NULL;
    say_begin("fixport-pool", EXIT_BAD_INPUT);
    int status = options_parse(argc, argv, commands, &command, &request);
    say_limit(POOL_COMMAND_S);
    if (!status)
        status = command->run(&request);
    say_limit(0);
    return say_end(status);
}
