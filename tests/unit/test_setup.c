/* SPDX-License-Identifier: MIT */
/*
 * The engine of fixport-setup on a machine that is only pretended: a table of states in shared
 * memory. The engine runs in a child, which is ended, or whose step fails, or which gets a signal,
 * at every single point one after the other; whatever then comes must bring the table back to what
 * it was, exactly. Every change takes two steps, so there is always a half-done one.
 *
 * What the real types do is tested with the real tools, in tests/tools/test_setup.py.
 */
#include "../../tools/setup/engine/engine.h"
#include "../../tools/setup/engine/rehearse.h"
#include "../../tools/setup/resources/state.h"
#include "../../tools/setup/roles/want.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CELLS 8
#define POINTS 200 /* more than any command has */

enum fault {
    FAULT_NONE,
    FAULT_DIE,    /* as if by SIGKILL */
    FAULT_FAIL,   /* the tool says no */
    FAULT_SIGNAL, /* SIGTERM comes */
    FAULT_WRONG,  /* the tool says yes, and does something else */
};

/* The machine. A point is a reading or a step; the fault comes at the one that is counted down. */
struct machine {
    char state[CELLS][64]; /* empty: absent */
    enum fault fault;
    int points;
    bool came;
};

static struct machine *machine;
static char root[64];

/* A configuration: what is wanted of each cell; NULL: nothing. */
static const char *const nothing[CELLS] = {NULL};
static const char *const config_a[CELLS] = {"a0", "a1", "a2", NULL, "a4", "lasting"};
static const char *const config_b[CELLS] = {"a0", "b1", NULL, "b3", NULL, "other"};
static const char *const start[CELLS] = {"", "s1", "", "", "s4", "", "s6", ""};
static const char *const *config = config_a;

/* ---- the pretended machine ---- */

static bool fault_now(void)
{
    if (machine->fault == FAULT_NONE || machine->points-- != 0)
        return false;
    machine->came = true;
    if (machine->fault == FAULT_DIE)
        kill(getpid(), SIGKILL);
    if (machine->fault == FAULT_SIGNAL)
        raise(SIGTERM);
    return machine->fault == FAULT_FAIL || machine->fault == FAULT_WRONG;
}

static char *cell(const char *name)
{
    unsigned number = (unsigned)(strchr(name, 'c')[1] - '0');
    cr_assert_lt(number, CELLS);
    return machine->state[number];
}

static int fake_read(const char *name, char **state, struct setup_error *error)
{
    (void)error;
    *state = *cell(name) ? state_copy(cell(name)) : NULL;
    if (machine->fault == FAULT_DIE || machine->fault == FAULT_SIGNAL)
        fault_now();
    return 0;
}

static int fake_steps(const char *name, const char *from, const char *to, struct steps *steps,
                      struct setup_error *error)
{
    (void)error;
    (void)from;
    steps_command(steps, NULL, "set", name, "half", NULL);
    steps_command(steps, NULL, "set", name, to ? to : "", NULL);
    return 0;
}

#define FAKE(type, lasts)                                                                          \
    const struct resource_type resource_##type = {                                                 \
        .name = #type, .lasting = lasts, .read = fake_read, .steps = fake_steps}

FAKE(folder, false);
FAKE(file, true);
FAKE(link, true);
FAKE(sysctl, false);
FAKE(routes, false);
FAKE(rule, false);
FAKE(iptables, false);
FAKE(nft, false);
FAKE(nodeports, true);
FAKE(pool, false);

const char *setup_root = "";
int setup_keep_fd = -1;

const char *setup_path(const char *path)
{
    static char buffers[4][PATH_MAX];
    static unsigned turn;
    char *buf = buffers[turn++ % 4];
    snprintf(buf, PATH_MAX, "%s%s", root, path);
    return buf;
}

const char *setup_folder(const char *path)
{
    return setup_path(path);
}

int run_tool(char *const argv[], const char *input, struct run_result *result)
{
    (void)input;
    *result = (struct run_result){
        .status = 1,
        .output = state_copy(""),
        .errors = state_copy("no\n"),
    };
    bool wrong = fault_now();
    if (wrong && machine->fault == FAULT_FAIL)
        return -1;
    snprintf(cell(argv[1]), sizeof(machine->state[0]), "%s", wrong ? "wrong" : argv[2]);
    result->status = 0;
    return 0;
}

void run_until(unsigned seconds)
{
    (void)seconds;
}

void run_free(struct run_result *result)
{
    free(result->output);
    free(result->errors);
}

bool run_exists(const char *tool)
{
    (void)tool;
    return false;
}

int run_explain(char *const argv[], const struct run_result *result, struct setup_error *error)
{
    (void)result;
    return setup_fail(error, "%s failed", argv[0]);
}

bool file_in_place;

unsigned roles_leave(const struct site *site, unsigned roles, const struct resource_type *type,
                     const char *name)
{
    (void)site, (void)roles, (void)type, (void)name;
    return 0;
}

char *roles_elsewhere(const struct site *site, unsigned roles)
{
    (void)site, (void)roles;
    return NULL;
}

int nodeports_check(const struct plan *plan, const struct portrange *ports,
                    struct setup_error *error)
{
    (void)plan, (void)ports, (void)error;
    return 0;
}

/* What is rehearsed is no matter of these tests: nothing of theirs is about packets. */
void rehearse(struct work *work)
{
    (void)work;
}

int rehearsal_refuses(const struct rehearsal *rehearsal, struct setup_error *error)
{
    (void)rehearsal, (void)error;
    return 0;
}

void rehearsal_print(const struct rehearsal *rehearsal, bool all, FILE *out)
{
    (void)rehearsal, (void)all, (void)out;
}

json_t *rehearsal_json(const struct rehearsal *rehearsal)
{
    (void)rehearsal;
    return json_null();
}

void rehearsal_free(struct rehearsal *rehearsal)
{
    (void)rehearsal;
}

void diff_print(const char *from, const char *to, FILE *out)
{
    fprintf(out, "-%s\n+%s\n", from ? from : "", to ? to : "");
}

int file_replace(const struct step *step, struct setup_error *error)
{
    return setup_fail(error, "%s: there are no files here", step->path);
}

void file_sweep(const char *path, const char *staging)
{
    (void)path;
    (void)staging;
}

char *kubeadm_snippet(const struct portrange *ports)
{
    (void)ports;
    return NULL;
}

bool iptables_is_legacy(void)
{
    return false;
}

int site_place(struct site *site, struct setup_error *error)
{
    (void)site;
    (void)error;
    return 0;
}

int site_load(const char *path, struct site *site, struct config_error *error)
{
    (void)path;
    (void)error;
    memset(site, 0, sizeof(*site));
    return 0;
}

void site_free(struct site *site)
{
    (void)site;
}

unsigned site_machine_roles(const struct site *site, const char *name)
{
    (void)site;
    (void)name;
    return ROLE_HOST;
}

unsigned site_roles_parse(const char *text, struct parse_reason *why)
{
    (void)why;
    return strcmp(text, "host") == 0 ? ROLE_HOST : 0;
}

const char *site_role_name(enum site_role role)
{
    return role == ROLE_HOST ? "host" : "other";
}

int iptables_choose(enum site_iptables which, struct setup_error *error)
{
    (void)which;
    (void)error;
    return 0;
}

const char *iptables_tool(int family, const char *what)
{
    (void)family;
    (void)what;
    return "iptables-nft-save";
}

/* c5 is of a type that lasts. */
int roles_want(const struct site *site, unsigned roles, const struct journal *journal,
               const char *config_path, struct resources *resources, struct setup_error *error)
{
    (void)site;
    (void)roles;
    (void)journal;
    (void)config_path;
    for (int i = 0; i < CELLS; i++) {
        char name[] = {'/', 'c', (char)('0' + i), '\0'};
        if (config[i] && resources_add(resources, i == 5 ? &resource_file : &resource_pool, name,
                                       config[i], "a test", error) < 0)
            return -1;
    }
    return 0;
}

/* ---- running a command in a child ---- */

typedef int command(const struct setup_options *options);

static int run(command *which, struct setup_options options, enum fault fault, int points)
{
    machine->fault = fault;
    machine->points = points;
    machine->came = false;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        lock_forget(); /* it is the parent's */
        int status = which(&options);
        fflush(NULL);
        _exit(status);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    machine->fault = FAULT_NONE;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int run_plain(command *which)
{
    return run(which, (struct setup_options){.config = "/x"}, FAULT_NONE, 0);
}

static void machine_set(const char *const states[CELLS])
{
    for (int i = 0; i < CELLS; i++)
        snprintf(machine->state[i], sizeof(machine->state[i]), "%s", states[i]);
}

static bool machine_is(const char *const states[CELLS])
{
    for (int i = 0; i < CELLS; i++)
        if (strcmp(machine->state[i], states[i]) != 0)
            return false;
    return true;
}

/* What @wanted makes of the machine at the start. */
static bool machine_has(const char *const wanted[CELLS])
{
    const char *states[CELLS];
    for (int i = 0; i < CELLS; i++)
        states[i] = wanted[i] ? wanted[i] : start[i];
    return machine_is(states);
}

static bool there(const char *path)
{
    return access(setup_path(path), F_OK) == 0;
}

/* The journal's bytes; empty: none. */
static char *journal_bytes(size_t *size)
{
    static char bytes[1 << 16];
    int fd = open(setup_path(SETUP_JOURNAL), O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, bytes, sizeof(bytes) - 1);
    if (fd >= 0)
        close(fd);
    *size = (size_t)n;
    bytes[n] = '\0';
    return bytes;
}

static void journal_put(const char *bytes, size_t size)
{
    int fd = open(setup_path(SETUP_JOURNAL), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void begin(void)
{
    snprintf(root, sizeof(root), "/tmp/fixport-unit-XXXXXX");
    cr_assert(mkdtemp(root));
    cr_assert_eq(mkdir(setup_path("/var"), 0755), 0);
    cr_assert_eq(mkdir(setup_path("/var/lib"), 0755), 0);
    machine =
        mmap(NULL, sizeof(*machine), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(machine, MAP_FAILED);
    machine_set(start);
    config = config_a;
}

static void end(void)
{
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(setup, .init = begin, .fini = end);

static void expect_start(const char *when, int point)
{
    cr_assert(machine_is(start), "%s, point %d: the machine is not as it was", when, point);
    cr_assert(!there(SETUP_STATE_DIR), "%s, point %d: the state's folder is left", when, point);
}

/* ---- tests ---- */

Test(setup, plan_changes_nothing)
{
    cr_expect_eq(run_plain(setup_plan), SETUP_CHANGES);
    expect_start("plan", 0);
    config = nothing;
    cr_expect_eq(run_plain(setup_plan), SETUP_OK);
}

Test(setup, apply_status_undo)
{
    cr_expect_eq(run_plain(setup_status), SETUP_OK);
    cr_expect_eq(run_plain(setup_apply), SETUP_OK);
    cr_expect(machine_has(config_a));
    cr_expect_eq(run_plain(setup_status), SETUP_OK);
    cr_expect_eq(run_plain(setup_plan), SETUP_OK);
    cr_expect_eq(run_plain(setup_undo), SETUP_OK);
    expect_start("undo", 0);
    cr_expect_eq(run_plain(setup_undo), SETUP_OK);
}

Test(setup, a_second_apply_writes_nothing)
{
    struct stat before, after;
    run_plain(setup_apply);
    cr_assert_eq(stat(setup_path(SETUP_JOURNAL), &before), 0);
    cr_expect_eq(run_plain(setup_apply), SETUP_OK);
    cr_assert_eq(stat(setup_path(SETUP_JOURNAL), &after), 0);
    cr_expect_eq(before.st_ino, after.st_ino);
    cr_expect_eq(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    cr_expect_eq(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
}

Test(setup, another_configuration_drops_what_it_does_not_want)
{
    run_plain(setup_apply);
    config = config_b;
    cr_expect_eq(run_plain(setup_plan), SETUP_CHANGES);
    cr_expect_eq(run_plain(setup_apply), SETUP_OK);
    cr_expect(machine_has(config_b));
    cr_expect_eq(run_plain(setup_status), SETUP_OK);
    config = nothing;
    cr_expect_eq(run_plain(setup_apply), SETUP_OK);
    expect_start("nothing wanted", 0);
}

Test(setup, a_failed_step_is_rolled_back_at_every_point)
{
    static const enum fault faults[] = {FAULT_FAIL, FAULT_WRONG, FAULT_SIGNAL};
    for (int i = 0; i < 3; i++) {
        int point = 0, status;
        for (; point < POINTS; point++) {
            status = run(setup_apply, (struct setup_options){.config = "/x"}, faults[i], point);
            if (!machine->came)
                break;
            if (faults[i] == FAULT_SIGNAL && status == 0) { /* it came when all was done */
                run_plain(setup_undo);
                continue;
            }
            /* a wrong first half is put right by the second */
            if (faults[i] == FAULT_WRONG && status == 0)
                run_plain(setup_undo);
            else
                cr_assert_eq(status, faults[i] == FAULT_SIGNAL ? 128 + SIGTERM : SETUP_ERROR);
            expect_start("failed apply", point);
        }
        cr_assert_gt(point, 5);
        cr_assert_lt(point, POINTS);
        run_plain(setup_undo);
    }
}

Test(setup, a_failed_second_apply_leaves_the_first)
{
    size_t size, size_after;
    static char before[1 << 16];
    run_plain(setup_apply);
    memcpy(before, journal_bytes(&size), sizeof(before));
    config = config_b;
    int point = 0;
    for (; point < POINTS; point++) {
        int status = run(setup_apply, (struct setup_options){.config = "/x"}, FAULT_FAIL, point);
        if (!machine->came)
            break;
        cr_assert_eq(status, SETUP_ERROR);
        cr_assert(machine_has(config_a), "point %d", point);
        char *after = journal_bytes(&size_after);
        cr_assert_eq(size, size_after);
        cr_assert_eq(memcmp(before, after, size), 0);
    }
    cr_assert_gt(point, 5);
}

/* Killed at every point: status says so, and undo or apply mends it. */
static void killed(command *which, bool first_a, command *then, const char *name)
{
    int point = 0;
    for (; point < POINTS; point++) {
        config = config_a;
        if (first_a)
            cr_assert_eq(run_plain(setup_apply), SETUP_OK);
        config = first_a && which == setup_apply ? config_b : config_a;
        run(which, (struct setup_options){.config = "/x"}, FAULT_DIE, point);
        if (!machine->came)
            break;
        size_t size;
        int status = run_plain(setup_status);
        bool under_way = strstr(journal_bytes(&size), "\"applying\"") ||
                         strstr(journal_bytes(&size), "\"undoing\"");
        cr_assert_eq(status, under_way ? SETUP_CHANGES : SETUP_OK, "%s %d: %d", name, point,
                     status);
        cr_assert_eq(run_plain(then), SETUP_OK, "%s %d", name, point);
        if (then == setup_apply) {
            cr_assert(machine_has(config), "%s, point %d", name, point);
            cr_assert_eq(run_plain(setup_status), SETUP_OK);
            cr_assert_eq(run_plain(setup_undo), SETUP_OK);
        }
        expect_start(name, point);
    }
    cr_assert_gt(point, 10);
    cr_assert_lt(point, POINTS);
}

Test(setup, killed_in_apply_then_undo)
{
    killed(setup_apply, false, setup_undo, "apply, undo");
}

Test(setup, killed_in_apply_then_apply)
{
    killed(setup_apply, false, setup_apply, "apply, apply");
}

Test(setup, killed_in_second_apply_then_undo)
{
    killed(setup_apply, true, setup_undo, "second apply, undo");
}

Test(setup, killed_in_second_apply_then_apply)
{
    killed(setup_apply, true, setup_apply, "second apply, apply");
}

Test(setup, killed_in_undo_then_undo)
{
    killed(setup_undo, true, setup_undo, "undo, undo");
}

Test(setup, killed_in_undo_then_apply)
{
    killed(setup_undo, true, setup_apply, "undo, apply");
}

/* Two in a row: what mends is killed as well. */
Test(setup, killed_while_mending)
{
    for (int first = 3; first < 40; first += 4) {
        for (int second = 0; second < POINTS; second++) {
            run(setup_apply, (struct setup_options){.config = "/x"}, FAULT_DIE, first);
            run(setup_undo, (struct setup_options){.config = "/x"}, FAULT_DIE, second);
            bool came = machine->came;
            cr_assert_eq(run_plain(setup_undo), SETUP_OK);
            expect_start("killed twice", first * 1000 + second);
            if (!came)
                break;
        }
    }
}

Test(setup, a_failed_undo_goes_on_next_time)
{
    for (int point = 0; point < POINTS; point++) {
        run_plain(setup_apply);
        int status = run(setup_undo, (struct setup_options){.config = "/x"}, FAULT_FAIL, point);
        if (!machine->came)
            break;
        cr_assert_eq(status, SETUP_ERROR);
        cr_assert(there(SETUP_JOURNAL));
        cr_assert_eq(run_plain(setup_status), SETUP_CHANGES);
        cr_assert_eq(run_plain(setup_undo), SETUP_OK);
        expect_start("failed undo", point);
    }
}

Test(setup, drift)
{
    run_plain(setup_apply);
    snprintf(machine->state[1], sizeof(machine->state[1]), "somebody's");
    cr_expect_eq(run_plain(setup_status), SETUP_CHANGES);
    cr_expect_eq(run_plain(setup_undo), SETUP_ERROR);
    cr_expect_str_eq(machine->state[1], "somebody's");
    cr_expect_str_eq(machine->state[0], "a0");
    struct setup_options force = {.force = true};
    cr_expect_eq(run(setup_undo, force, FAULT_NONE, 0), SETUP_OK);
    expect_start("undo --force", 0);
}

static void reboot(void)
{
    for (int i = 0; i < CELLS; i++)
        if (i != 5)
            machine->state[i][0] = '\0';
}

Test(setup, boot)
{
    cr_expect_eq(run_plain(setup_boot), SETUP_OK);
    run_plain(setup_apply);
    reboot();
    snprintf(machine->state[6], sizeof(machine->state[6]), "s6");
    cr_expect_eq(run_plain(setup_status), SETUP_CHANGES);
    cr_expect_eq(run_plain(setup_boot), SETUP_OK);
    cr_expect(machine_has(config_a));
    cr_expect_eq(run_plain(setup_status), SETUP_OK);
    cr_expect_eq(run_plain(setup_undo), SETUP_OK);
    expect_start("after a reboot", 0);
}

Test(setup, boot_goes_on_when_one_fails)
{
    run_plain(setup_apply);
    reboot();
    int status = run(setup_boot, (struct setup_options){.json = false}, FAULT_FAIL, 0);
    cr_expect_eq(status, SETUP_ERROR);
    cr_expect_str_eq(machine->state[1], "a1");
    cr_expect_str_eq(machine->state[4], "a4");
}

/* ---- --confirm ---- */

static const struct setup_options confirm_long = {.config = "/x", .confirm = 600};

/* The watcher's work is done when the journal says so; it needs a second and a bit. */
static void watcher_await(void)
{
    for (int i = 0; i < 600 && there(SETUP_STATE_DIR); i++)
        usleep(50000);
}

Test(setup, confirmed)
{
    cr_expect_eq(run_plain(setup_confirm), SETUP_ERROR);
    cr_expect_eq(run(setup_apply, confirm_long, FAULT_NONE, 0), SETUP_OK);
    cr_expect_eq(run_plain(setup_status), SETUP_CHANGES);
    cr_expect_eq(run_plain(setup_apply), SETUP_ERROR, "while it waits");
    cr_expect_eq(run_plain(setup_confirm), SETUP_OK);
    cr_expect_eq(run_plain(setup_confirm), SETUP_ERROR);
    cr_expect_eq(run_plain(setup_status), SETUP_OK);
    cr_expect(machine_has(config_a));
    run_plain(setup_undo);
    expect_start("confirmed, undone", 0);
}

Test(setup, confirmed_without_what_was_dropped)
{
    run_plain(setup_apply);
    config = config_b;
    cr_expect_eq(run(setup_apply, confirm_long, FAULT_NONE, 0), SETUP_OK);
    cr_expect_eq(run_plain(setup_confirm), SETUP_OK);
    cr_expect_eq(run_plain(setup_status), SETUP_OK);
    cr_expect_eq(run_plain(setup_plan), SETUP_OK);
    cr_expect(machine_has(config_b));
}

Test(setup, not_confirmed)
{
    run(setup_apply, (struct setup_options){.config = "/x", .confirm = 1}, FAULT_NONE, 0);
    watcher_await();
    expect_start("not confirmed", 0);
    cr_expect_eq(run_plain(setup_confirm), SETUP_ERROR);
}

Test(setup, not_confirmed_over_an_earlier_one)
{
    size_t size, size_after;
    static char before[1 << 16];
    run_plain(setup_apply);
    memcpy(before, journal_bytes(&size), sizeof(before));
    config = config_b;
    run(setup_apply, (struct setup_options){.config = "/x", .confirm = 3}, FAULT_NONE, 0);
    cr_expect(machine_has(config_b));
    for (int i = 0; i < 600 && strcmp(before, journal_bytes(&size_after)) != 0; i++)
        usleep(50000);
    cr_expect_str_eq(before, journal_bytes(&size_after));
    cr_expect(machine_has(config_a));
}

Test(setup, killed_before_it_could_be_confirmed)
{
    run(setup_apply, (struct setup_options){.config = "/x", .confirm = 1}, FAULT_DIE, 9);
    cr_assert(machine->came);
    cr_assert(there(SETUP_JOURNAL));
    watcher_await();
    expect_start("killed, not confirmed", 0);
}

Test(setup, boot_rolls_back_what_was_not_confirmed)
{
    run(setup_apply, confirm_long, FAULT_NONE, 0);
    cr_expect_eq(run_plain(setup_boot), SETUP_OK);
    expect_start("boot", 0);
}

Test(setup, undo_while_it_waits)
{
    run(setup_apply, confirm_long, FAULT_NONE, 0);
    cr_expect_eq(run_plain(setup_undo), SETUP_OK);
    expect_start("undo", 0);
}

/* ---- locks and journals ---- */

Test(setup, locked)
{
    struct setup_error error;
    cr_assert_eq(lock_take(0, &error), 0);
    cr_expect_eq(run_plain(setup_apply), SETUP_ERROR);
    cr_expect_eq(run_plain(setup_undo), SETUP_ERROR);
    cr_expect_eq(run_plain(setup_plan), SETUP_CHANGES);
    lock_end();
    expect_start("locked", 0);
}

static void refused(const char *bytes, size_t size, const char *what, int round)
{
    static command *const commands[] = {setup_plan,   setup_apply, setup_undo,
                                        setup_status, setup_boot,  setup_confirm};
    struct machine before = *machine;
    size_t after;
    journal_put(bytes, size);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        cr_assert_eq(run_plain(commands[i]), SETUP_ERROR, "%s %d, command %zu", what, round, i);
    cr_assert_eq(memcmp(before.state, machine->state, sizeof(before.state)), 0);
    char *now = journal_bytes(&after);
    cr_assert_eq(after, size);
    cr_assert_eq(memcmp(now, bytes, size), 0);
}

Test(setup, garbled_journals, .timeout = 120)
{
    static char good[1 << 16], bad[1 << 16];
    size_t size;
    run_plain(setup_apply);
    memcpy(good, journal_bytes(&size), sizeof(good));
    srandom(1);
    for (int i = 0; i < 100; i++) {
        memcpy(bad, good, size);
        size_t at = (size_t)random() % size;
        bad[at] = (char)(good[at] ^ (1 + random() % 255));
        if ((good[at] != ' ' && good[at] != '\n') || (bad[at] != '\t' && bad[at] != '\r'))
            refused(bad, size, "one byte", i);
        refused(good, (size_t)random() % (size - 2), "cut off", i);
        for (size_t k = 0; k < 100; k++)
            bad[k] = (char)random();
        refused(bad, 100, "random", i);
    }
    journal_put(good, size);
    cr_expect_eq(run_plain(setup_undo), SETUP_OK);
}

Test(setup, a_journal_that_is_no_file)
{
    run_plain(setup_apply);
    cr_assert_eq(unlink(setup_path(SETUP_JOURNAL)), 0);
    cr_assert_eq(mkdir(setup_path(SETUP_JOURNAL), 0755), 0);
    cr_expect_eq(run_plain(setup_status), SETUP_ERROR);
    cr_assert_eq(rmdir(setup_path(SETUP_JOURNAL)), 0);
    cr_assert_eq(symlink("/etc/passwd", setup_path(SETUP_JOURNAL)), 0);
    cr_expect_eq(run_plain(setup_undo), SETUP_ERROR);
    cr_assert_eq(unlink(setup_path(SETUP_JOURNAL)), 0);
    cr_assert_eq(mkfifo(setup_path(SETUP_JOURNAL), 0600), 0);
    cr_expect_eq(run_plain(setup_status), SETUP_ERROR);
}
