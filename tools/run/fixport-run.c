/* SPDX-License-Identifier: MIT */
/*
 * fixport-run: run a command with the shim preloaded. See fixport-run(1).
 *
 * First everything is looked at (the ports, the configuration, the program, the library), so that a
 * refusal leaves nothing behind; then the pool is made, if it is this tool's to make; then the
 * command takes this process' place, and its exit status is its own.
 */
#include "../common/line.h"
#include "../pool/cmd.h"
#include "run.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHIM_PATH_MAX 256 /* what the shim remembers of FIXPORT_POOL */

enum { OPTION_POOL = 256, OPTION_CHECK, OPTION_FORCE };

static const struct option long_options[] = {
    {"ports", required_argument, NULL, 'p'},
    {"to", required_argument, NULL, 't'},
    {"config", required_argument, NULL, 'c'},
    {"pool", required_argument, NULL, OPTION_POOL},
    {"check", no_argument, NULL, OPTION_CHECK},
    {"force", no_argument, NULL, OPTION_FORCE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

struct run {
    struct pool_request request; /* -p, -t, -c, --pool */
    bool check;
    bool force;
    const char *say; /* --help, --version: print this and be done */
    char **command;
    bool make; /* plan is to be carried out */
    struct pool_plan plan;
    char planned[PATH_MAX]; /* the pool's path, if make */
    const char *rehearsed; /* the pool that stands in for it with --check; NULL: none */
};

static const char run_help[] =
    "Usage: fixport-run [-p PORTS [-t DESTINATIONS] | -c CONFIG] [--pool PATH]\n"
    "                   [--check] [--force] [--] COMMAND [ARGUMENT...]\n"
    "Run COMMAND so that its TCP connections come from the configured source ports.\n"
    "\n"
    "  -p, --ports PORTS       such as 61001-61499,61600-61999\n"
    "  -t, --to DESTINATIONS   only towards these, such as 192.168.31.0/24,10.0.0.5:5432\n"
    "                          (default: everywhere but loopback)\n"
    "  -c, --config CONFIG     make the pool, or reload it, as this file says\n"
    "      --pool PATH         use this pool\n"
    "      --check             say whether the shim is really in, do not run COMMAND\n"
    "      --force             run COMMAND even if the shim cannot act in it\n"
    "\n"
    "Without -p, -c and --pool: $FIXPORT_POOL or $FIXPORT_PORTS, else the pool\n" POOL_DEFAULT_PATH
    " (for a user without it /dev/shm/fixport-UID), else /etc/fixport.conf.\n"
    "See fixport-run(1).\n";

static int run_option(int option, struct run *run, char **argv)
{
    switch (option) {
    case 'p':
        return line_once("-p", &run->request.ports);
    case 't':
        return line_once("-t", &run->request.to);
    case 'c':
        return line_text("-c", &run->request.config);
    case OPTION_POOL:
        return line_text("--pool", &run->request.pool);
    case OPTION_CHECK:
        run->check = true;
        return 0;
    case OPTION_FORCE:
        run->force = true;
        return 0;
    case 'h':
        run->say = run_help;
        return 0;
    case 'V':
        run->say = "fixport-run " PACKAGE_VERSION "\n";
        return 0;
    default:
        return line_bad(option, argv);
    }
}

static int run_options(int argc, char **argv, struct run *run)
{
    static char self[] = "/proc/self/exe";
    static char *self_command[] = {self, NULL};
    int option, status = 0;
    opterr = 0;
    while (!status && (option = getopt_long(argc, argv, "+:p:t:c:hV", long_options, NULL)) != -1)
        status = run_option(option, run, argv);
    if (status || run->say)
        return status;
    const struct pool_request *request = &run->request;
    if (request->config && request->ports)
        return say_bad_input("-c and -p exclude each other");
    if (request->to && !request->ports)
        return say_bad_input("-t needs -p: which ports to use towards '%s'",
                         request->to);
    run->command = argv + optind;
    if (!*run->command && run->check)
        run->command = self_command; /* this program is as good as any */
    if (!*run->command)
        return say_bad_input("no command is given; see fixport-run --help");
    return 0;
}

/* The program may change its folder before the shim opens the pool. */
static int run_absolute(char path[PATH_MAX])
{
    char folder[PATH_MAX], whole[PATH_MAX * 2];
    if (path[0] == '/')
        snprintf(whole, sizeof(whole), "%s", path);
    else if (!getcwd(folder, sizeof(folder)))
        return say_error(EXIT_FAILED, "the current folder: %s", strerror(errno));
    else
        snprintf(whole, sizeof(whole), "%s/%s", folder, path);
    if (strlen(whole) >= SHIM_PATH_MAX)
        return say_bad_input("%s: a pool's path of at most %d bytes is allowed", whole,
                         SHIM_PATH_MAX - 1);
    memcpy(path, whole, strlen(whole) + 1);
    return 0;
}

/* What the shim will find in its environment; NULL: not set. */
static int run_environment(const char *pool, const char *ports, const char *to)
{
    const char *const value[][2] = {
        {"FIXPORT_POOL", pool}, {"FIXPORT_PORTS", ports}, {"FIXPORT_TO", to}};
    for (size_t i = 0; i < sizeof(value) / sizeof(value[0]); i++)
        if ((value[i][1] ? setenv(value[i][0], value[i][1], 1) : unsetenv(value[i][0])) < 0)
            return say_error(EXIT_FAILED, "%s cannot be set: %s", value[i][0], strerror(errno));
    return 0;
}

/* Use the pool at @path as it is. */
static int run_use_pool(const char *path)
{
    struct pool pool;
    char absolute[PATH_MAX];
    int error = pool_open(path, &pool, NULL);
    if (error)
        return say_pool_error(path, error);
    pool_close(&pool);
    snprintf(absolute, sizeof(absolute), "%s", path);
    int status = run_absolute(absolute);
    return status ? status : run_environment(absolute, NULL, NULL);
}

/*
 * Make the pool, or reload it, from -c, or from -p for a certain --pool, or /etc/fixport.conf.
 * Which pool an outer fixport-run uses has nothing to do with it.
 */
static int run_plan_pool(struct run *run)
{
    unsetenv("FIXPORT_POOL");
    int status = target_plan(&run->request, &run->plan);
    if (!status)
        status = run_absolute(run->plan.path);
    if (status)
        return status;
    run->make = true;
    snprintf(run->planned, sizeof(run->planned), "%s", run->plan.path);
    return run_environment(run->plan.path, NULL, NULL);
}

/* Let the shim make a private pool. */
static int run_private(const char *ports, const char *to)
{
    static struct config config;
    int status = target_rules("", ports, to, &config);
    return status ? status : run_environment(NULL, ports, to);
}

/* Nothing was said: the environment, a pool that is there, the configuration that is there. */
static int run_default(struct run *run)
{
    const char *ports = getenv("FIXPORT_PORTS");
    const char *to = getenv("FIXPORT_TO");
    const char *pool = getenv("FIXPORT_POOL");
    char path[PATH_MAX];
    if (ports)
        return target_rules("FIXPORT_PORTS, FIXPORT_TO: ", ports, to && *to ? to : NULL,
                            &run->plan.config);
    if (pool && *pool)
        return run_use_pool(pool);
    target_default(path);
    if (access(path, F_OK) == 0)
        return run_use_pool(path);
    if (target_has_config())
        return run_plan_pool(run);
    return say_error(EXIT_BAD_INPUT,
                     "which ports? Give -p PORTS, or -c CONFIG, or make a pool with 'fixport-pool "
                     "create'");
}

static int run_target(struct run *run)
{
    const struct pool_request *request = &run->request;
    if (request->config || (request->ports && request->pool))
        return run_plan_pool(run);
    if (request->ports)
        return run_private(request->ports, request->to);
    if (request->pool)
        return run_use_pool(request->pool);
    return run_default(run);
}

/* For --check: nothing that is there changes, the shim gets a pool like it that goes away again. */
static int run_rehearse(struct run *run)
{
    static char path[64];
    snprintf(path, sizeof(path), "/dev/shm/fixport-check-%ld", (long)getpid());
    unlink(path);
    run->rehearsed = path;
    memcpy(run->plan.path, path, sizeof(path));
    int status = target_create(&run->plan, NULL);
    return status ? status : run_environment(path, NULL, NULL);
}

static int run_make(struct run *run)
{
    bool exists = false, same = false;
    if (!run->make)
        return 0;
    if (run->check)
        return run_rehearse(run);
    int status = target_create(&run->plan, &exists);
    if (!status && exists)
        status = target_reload(&run->plan, false, &same);
    if (!status && !same)
        target_warn(&run->plan);
    return status;
}

/* Return: only if it did not start. */
static int run_start(const struct run *run, const char *path, const char *library)
{
    if (run->check) {
        int status = check_run(path, run->command, library, run->rehearsed ? run->planned : NULL);
        if (run->rehearsed)
            unlink(run->rehearsed);
        return status;
    }
    execvp(path, run->command);
    return say_error(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_REFUSED, "'%s' cannot be executed: %s",
                     path, strerror(errno));
}

int main(int argc, char **argv)
{
    static struct run run;
    char path[PATH_MAX], library[PATH_MAX];
    say_begin("fixport-run", EXIT_BAD_INPUT);
    say_limit(POOL_COMMAND_S);
    int status = run_options(argc, argv, &run);
    if (!status && run.say)
        return fputs(run.say, stdout) < 0 || fflush(stdout) != 0;
    if (!status)
        status = run_target(&run);
    if (!status)
        status = program_find(run.command[0], path);
    if (!status)
        status = library_find(library);
    if (!status)
        status = program_judge(path, run.command, library, run.force);
    if (!status)
        status = preload_join(library);
    if (!status)
        status = run_make(&run);
    say_limit(0);
    return status ? status : run_start(&run, path, library);
}
