/* SPDX-License-Identifier: MIT */
/*
 * The types of resources of fixport-setup, tried for real in a network namespace of their own: each
 * is brought from what is there to what is asked and must read so, and back, and then the system's
 * own tools must see no difference. Needs root: skipped without, unless FIXPORT_MUST_WORK=1.
 */
#include "../../tools/setup/engine/engine.h"
#include "../../tools/setup/resources/state.h"

#include "../../pool/layout_size.h"
#include "../../pool/pool.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <sys/wait.h>
#include <unistd.h>

static struct setup_error why;
/* In a tmpfs of the test's own mount namespace: gone with the process, however that ends. */
static char scratch[] = "/dev/shm";

static void need(bool possible, const char *what)
{
    const char *must = getenv("FIXPORT_MUST_WORK");
    if (possible)
        return;
    cr_assert(!must || strcmp(must, "1") != 0, "%s is needed", what);
    cr_skip_test("%s is needed", what);
}

static void tool(const char *input, const char *line)
{
    char copy[512], *argv[32], *rest, *word;
    struct run_result result;
    size_t count = 0;
    snprintf(copy, sizeof(copy), "%s", line);
    for (word = strtok_r(copy, " ", &rest); word && count < 31; word = strtok_r(NULL, " ", &rest))
        argv[count++] = word;
    argv[count] = NULL;
    cr_assert_eq(run_tool(argv, input, &result), 0, "%s: %s", line, result.errors);
    run_free(&result);
}

static void begin(void)
{
    need(geteuid() == 0 && unshare(CLONE_NEWNET | CLONE_NEWNS) == 0, "root with namespaces");
    need(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "a root folder that is a mount");
    cr_assert_eq(mount("scratch", scratch, "tmpfs", 0, "mode=700"), 0);
    const char *build = getenv("FIXPORT_BUILD"), *path = getenv("PATH");
    char search[8192];
    snprintf(search, sizeof(search), "%s/tools:%s", build ? build : ".",
             path ? path : "/usr/bin:/bin");
    setenv("PATH", search, 1);
    tool(NULL, "ip link set lo up");
}

static void network(void)
{
    begin();
    tool("link add d0 type veth peer name d1\nlink set d1 up\nlink set d0 up\n"
         "addr add 192.168.31.2/24 dev d0\naddr add fd00:31::2/64 dev d0 nodad\n",
         "ip -batch -");
}


/* ---- what the tools see ---- */

/* Without comments: they have the time in them. */
static void witness(FILE *out, const char *line)
{
    char copy[256], *argv[16], *rest, *word;
    struct run_result result;
    size_t count = 0, length;
    const char *at, *text;
    snprintf(copy, sizeof(copy), "%s", line);
    for (word = strtok_r(copy, " ", &rest); word && count < 15; word = strtok_r(NULL, " ", &rest))
        argv[count++] = word;
    argv[count] = NULL;
    run_tool(argv, NULL, &result);
    at = result.output;
    fprintf(out, "== %s\n", line);
    while ((text = state_line(&at, &length)))
        if (*text != '#')
            fprintf(out, "%.*s\n", (int)length, text);
    run_free(&result);
}

static char *everything(void)
{
    char *text;
    FILE *out = state_open(&text);
    witness(out, "nft list ruleset");
    witness(out, "iptables-nft-save");
    witness(out, "ip6tables-nft-save");
    witness(out, "iptables-legacy-save");
    witness(out, "ip6tables-legacy-save");
    witness(out, "ip route show table all");
    witness(out, "ip -6 route show table all");
    witness(out, "cat /proc/sys/net/ipv4/ip_local_reserved_ports /proc/sys/net/ipv4/ip_forward");
    state_close(out);
    return text;
}

/* ---- there and back ---- */

static char *canonical(const struct resource_type *type, const char *name, const char *wanted)
{
    struct resources list = {.count = 0};
    cr_assert_eq(resources_add(&list, type, name, wanted, "for a test", &why), 0, "%s", why.text);
    char *text = state_copy(list.item[0].wanted);
    resources_free(&list);
    return text;
}

static char *look(const struct resource_type *type, const char *name)
{
    char *state;
    cr_assert_eq(type->read(name, &state, &why), 0, "%s", why.text);
    return state;
}

static void bring(const struct resource_type *type, const char *name, const char *to)
{
    struct steps steps = {.count = 0};
    char *from = look(type, name);
    bool nothing = (!from || !*from) && (!to || !*to); /* there may be no way between the two */
    if (!state_equal(from, to)) {
        cr_assert_eq(type->steps(name, from, to, &steps, &why), 0, "%s", why.text);
        cr_assert(steps.count || nothing);
        for (size_t i = 0; i < steps.count; i++)
            cr_assert_eq(step_do(&steps.item[i], &why), 0, "%s", why.text);
    }
    char *now = look(type, name);
    cr_assert(state_equal(now, to) || (!to && !*now), "%s %s: wanted\n%s\nfound\n%s", type->name, name,
              to ? to : "(absent)", now ? now : "(absent)");
    steps_free(&steps);
    free(from);
    free(now);
}

static void there_and_back(const struct resource_type *type, const char *name, const char *wanted)
{
    char *before = look(type, name), *saw = everything();
    char *to = canonical(type, name, wanted);
    bring(type, name, to);
    bring(type, name, before);
    char *sees = everything();
    cr_assert_str_eq(sees, saw);
    free(before);
    free(saw);
    free(sees);
    free(to);
}

static void refused(const struct resource_type *type, const char *name, const char *to,
                    const char *because)
{
    struct steps steps = {.count = 0};
    char *from = look(type, name);
    why.text[0] = '\0';
    cr_assert_eq(type->steps(name, from, to, &steps, &why), -1);
    cr_assert_not_null(strstr(why.text, because), "%s", why.text);
    steps_free(&steps);
    free(from);
}

/* ---- files ---- */

TestSuite(resources_file, .init = begin);

static const char *inside(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", scratch, name);
    return path;
}

static void put(const char *name, const char *bytes, size_t length, mode_t mode)
{
    int fd = open(inside(name), O_WRONLY | O_CREAT | O_TRUNC, mode);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, bytes, length), (ssize_t)length);
    fchmod(fd, mode);
    close(fd);
}

Test(resources_file, made_with_its_folders_and_removed)
{
    char *state = file_state(0644, "one\ntwo\n");
    umask(077);
    there_and_back(&resource_file, inside("a/b/c.conf"), state);
    struct stat st;
    cr_assert_eq(stat(inside("a/b"), &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0755);
    free(state);
}

Test(resources_file, replaced_and_restored_with_mode_and_owner)
{
    put("f", "old\nno newline", 14, 0640);
    cr_assert_eq(chown(inside("f"), 12, 34), 0);
    char *state = file_state(0600, "new\n");
    there_and_back(&resource_file, inside("f"), state);
    struct stat st;
    stat(inside("f"), &st);
    cr_assert_eq(st.st_mode & 07777, 0640);
    cr_assert_eq(st.st_uid, 12);
    cr_assert_eq(st.st_gid, 34);
    free(state);
}

Test(resources_file, lies_under_the_root)
{
    setup_root = scratch;
    char *state = file_state(0644, "x\n");
    bring(&resource_file, "/etc/fixport/x", state);
    cr_assert_eq(access(inside("etc/fixport/x"), F_OK), 0);
    bring(&resource_file, "/etc/fixport/x", NULL);
    cr_assert_eq(access(inside("etc/fixport/x"), F_OK), -1);
    free(state);
}

Test(resources_file, symlinks_do_not_leave_the_root)
{
    char *state = file_state(0644, "x\n");
    setup_root = inside("root");
    mkdir(setup_root, 0755);
    mkdir(inside("root/conf"), 0755);
    mkdir(inside("conf"), 0755);
    cr_assert_eq(symlink("/conf", inside("root/etc")), 0);
    cr_assert_eq(symlink("../../../conf", inside("root/up")), 0);
    setup_root = state_copy(inside("root"));
    bring(&resource_file, "/etc/x", state);
    bring(&resource_file, "/up/y", state);
    bring(&resource_link, "/etc/wants", "/etc/x");
    bring(&resource_folder, "/etc/new", "there");
    cr_assert_eq(access(inside("root/conf/x"), F_OK), 0);
    cr_assert_eq(access(inside("root/conf/y"), F_OK), 0);
    cr_assert_eq(access(inside("root/conf/new"), F_OK), 0);
    cr_assert_eq(access(inside("conf/x"), F_OK), -1);
    cr_assert_eq(access(inside("conf/y"), F_OK), -1);
    free(state);
}

/* Others rename all the time, and the kernel then cannot vouch for a "..": openat2(2), EAGAIN. */
Test(resources_file, renames_elsewhere_do_not_end_it)
{
    mkdir(inside("conf"), 0755);
    cr_assert_eq(symlink("../conf", inside("up")), 0);
    put("one", "", 0, 0600);
    char *one = state_copy(inside("one")), *other = state_copy(inside("other"));
    pid_t child = fork();
    if (child == 0)
        for (prctl(PR_SET_PDEATHSIG, SIGKILL); rename(one, other) == 0 && rename(other, one) == 0;)
            ;
    setup_root = state_copy(scratch);
    for (int i = 0; i < 10000; i++)
        cr_expect_eq(strlen(setup_path("/up/x")), strlen("/dev/shm/conf/x"));
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    free(one);
    free(other);
}

/* How a process ends that looks up @path; Criterion's .exit_code would not let a test be skipped. */
static int end_of_lookup(const char *path)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        (void)setup_path(path);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(resources_file, a_symlink_to_nothing_under_the_root_ends_it)
{
    setup_root = state_copy(scratch);
    mkdir(inside("there"), 0755);
    cr_assert_eq(symlink("/tmp", inside("out")), 0);
    cr_assert_eq(end_of_lookup("/there/x"), 0);
    cr_assert_eq(end_of_lookup("/out/x"), SETUP_ERROR);
}

Test(resources_file, attributes_stay)
{
    char value[8];
    put("f", "x\n", 2, 0644);
    char large[5000];
    memset(large, 'x', sizeof(large));
    if (setxattr(inside("f"), "trusted.large", large, sizeof(large), 0) < 0 && errno == ENOSPC)
        cr_assert_eq(setxattr(inside("f"), "trusted.large", large, 900, 0), 0);
    if (setxattr(inside("f"), "trusted.note", "mine", 4, 0) < 0)
        cr_skip_test("no extended attributes in %s", scratch);
    ssize_t length = getxattr(inside("f"), "trusted.large", NULL, 0);
    char *state = file_state(0600, "y\n");
    bring(&resource_file, inside("f"), state);
    cr_assert_eq(getxattr(inside("f"), "trusted.note", value, sizeof(value)), 4);
    cr_assert_eq(getxattr(inside("f"), "trusted.large", NULL, 0), length);
    free(state);
}

Test(resources_file, a_file_with_two_names_is_left_alone)
{
    struct steps steps = {.count = 0};
    put("f", "x\n", 2, 0644);
    char *f = state_copy(inside("f"));
    cr_assert_eq(link(f, inside("g")), 0);
    free(f);
    char *from = look(&resource_file, inside("f")), *to = file_state(0644, "y\n");
    cr_assert_eq(resource_file.steps(inside("f"), from, to, &steps, &why), -1);
    cr_assert_neq(strstr(why.text, "2 names (hard links)"), NULL, "%s", why.text);
    free(to);
    bring(&resource_file, inside("f"), NULL);
    cr_assert_eq(access(inside("g"), F_OK), 0, "to be removed it needs no other");
    free(from);
}

/* As an old kernel answers. */
static void forbid(long call)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0), 0);
}

Test(resources_file, without_openat2_the_root_is_not_left_either)
{
    char *state = file_state(0644, "x\n");
    setup_root = state_copy(scratch);
    mkdir(inside("etc"), 0755);
    cr_assert_eq(symlink("etc", inside("conf")), 0);
    forbid(SYS_openat2);
    bring(&resource_file, "/etc/x", state);
    cr_assert_eq(access(inside("etc/x"), F_OK), 0);
    cr_assert_str_eq(setup_path("/etc/a/b"), inside("etc/a/b"));
    cr_assert_str_eq(setup_folder("/etc"), inside("etc"));
    cr_assert_str_eq(setup_path("/conf"), inside("conf"));
    free(state);
}

Test(resources_file, without_openat2_symlinks_end_it)
{
    setup_root = state_copy(scratch);
    mkdir(inside("etc"), 0755);
    cr_assert_eq(symlink("etc", inside("conf")), 0);
    forbid(SYS_openat2);
    cr_assert_eq(end_of_lookup("/etc/x"), 0);
    cr_assert_eq(end_of_lookup("/conf/x"), SETUP_ERROR);
}

/* The folder in which a replacement is written first, and one that is a symlink itself. */
Test(resources_file, a_folder_that_is_a_symlink_does_not_leave_the_root)
{
    struct steps steps = {.count = 0};
    char *state = file_state(0644, "x\n"), *now, real[PATH_MAX];
    mkdir(inside("root"), 0755);
    setup_root = state_copy(inside("root"));
    snprintf(real, sizeof(real), "%s/root%s", scratch, scratch);
    mkdir(inside("root/dev"), 0755);
    mkdir(real, 0755);
    cr_assert_eq(symlink(scratch, inside("root/etc")), 0);
    steps_file(&steps, "/etc/x", NULL, state, "/etc");
    cr_assert_eq(step_do(&steps.item[0], &why), 0, "%s", why.text);
    cr_assert_str_eq(setup_folder("/etc"), real);
    put(".x.fixport", "host's", 6, 0644);
    file_sweep("/etc/x", "/etc");
    cr_assert_eq(access(inside(".x.fixport"), F_OK), 0, "a file outside of the root was removed");
    cr_assert_eq(resource_folder.read("/etc", &now, &why), 0);
    cr_assert_str_eq(now, "there");
    steps_free(&steps);
    free(now);
    free(state);
}

Test(resources_file, folder_made_and_removed)
{
    there_and_back(&resource_folder, inside("wants"), "there");
    put("f", "x", 1, 0644);
    char *state;
    cr_assert_eq(resource_folder.read(inside("f"), &state, &why), -1);
}

Test(resources_file, what_is_no_text_is_left_alone)
{
    static const struct {
        const char *bytes;
        size_t length;
        bool good;
    } cases[] = {{"a\0b", 3, false},
                 {"\xff", 1, false},
                 {"\xc0\x80", 2, false},
                 {"\xed\xa0\x80", 3, false},
                 {"\xf4\x90\x80\x80", 4, false},
                 {"\xe2\x82", 2, false},
                 {"\xe2\x82\xac", 3, true},
                 {"\xf0\x9f\x98\x80", 4, true},
                 {"\xc3\xa9", 2, true},
                 {"\xf0\x8f\xbf\xbf", 4, false},
                 {"\x80", 1, false},
                 {"", 0, true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *state = NULL;
        put("t", cases[i].bytes, cases[i].length, 0644);
        cr_assert_eq(resource_file.read(inside("t"), &state, &why), cases[i].good ? 0 : -1, "%zu",
                     i);
        free(state);
    }
}

Test(resources_file, neither_symlink_nor_folder_nor_fifo)
{
    char *state = NULL, *good = file_state(0644, "x");
    cr_assert_eq(symlink("/etc/hostname", inside("l")), 0);
    cr_assert_eq(resource_file.read(inside("l"), &state, &why), -1);
    cr_assert_not_null(strstr(why.text, "symlink"));
    cr_assert_eq(resource_file.read(scratch, &state, &why), -1);
    cr_assert_eq(mkfifo(inside("p"), 0600), 0);
    cr_assert_eq(resource_file.read(inside("p"), &state, &why), -1);
    free(good);
}

Test(resources_file, not_done_when_changed_meanwhile)
{
    struct steps steps = {.count = 0};
    char *state = file_state(0644, "x\n");
    resource_file.steps(inside("f"), NULL, state, &steps, &why);
    put("f", "theirs", 6, 0644);
    cr_assert_eq(step_do(&steps.item[0], &why), -1);
    cr_assert_not_null(strstr(why.text, "meanwhile"));
    steps_free(&steps);
    free(state);
}

/* Writes one and the other, over and over, until it is killed. */
static void write_for_ever(const char *one, const char *other)
{
    struct steps steps = {.count = 0};
    steps_file(&steps, inside("f"), one, other, scratch);
    steps_file(&steps, inside("f"), other, one, NULL);
    for (unsigned i = 0; step_do(&steps.item[i % 2], &why) == 0; i++)
        continue;
    _exit(1);
}

Test(resources_file, killed_at_any_point, .timeout = 120)
{
    char *big = state_grow(NULL, 200001);
    memset(big, 'x', 200000);
    big[200000] = '\0';
    char *one = file_state(0644, big), *other = file_state(0600, "other\n");
    for (int i = 0; i < 30; i++) {
        bring(&resource_file, inside("f"), one);
        pid_t child = fork();
        if (!child)
            write_for_ever(one, other);
        usleep((useconds_t)(i * 700));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        char *now = look(&resource_file, inside("f"));
        cr_assert(state_equal(now, one) || state_equal(now, other));
        free(now);
        file_sweep(inside("f"), NULL);
        cr_assert_eq(access(inside(".f.fixport"), F_OK), -1);
    }
    free(big);
    free(one);
    free(other);
}

Test(resources_file, link_made_changed_and_removed)
{
    there_and_back(&resource_link, inside("a.service"), "/etc/systemd/system/a.service");
    bring(&resource_link, inside("l"), "-one");
    bring(&resource_link, inside("l"), "/two");
    bring(&resource_link, inside("l"), NULL);
    put("f", "x", 1, 0644);
    char *state;
    cr_assert_eq(resource_link.read(inside("f"), &state, &why), -1);
}

/* ---- sysctl ---- */

TestSuite(resources_sysctl, .init = begin);

Test(resources_sysctl, set_and_restored)
{
    there_and_back(&resource_sysctl, "net.ipv4.ip_forward", "1");
    there_and_back(&resource_sysctl, "net.ipv4.ip_local_reserved_ports", "60001-60999, 5,7-9,8-11");
    bring(&resource_sysctl, "net.ipv4.ip_local_reserved_ports", "5,8090-8099");
    there_and_back(&resource_sysctl, "net.ipv4.ip_local_reserved_ports", "");
    there_and_back(&resource_sysctl, "net.ipv4.ip_local_port_range", "32768   60000\n");
}

/* What of @now is left, or added, when @base becomes @to. */
static void merged(const char *base, const char *to, const char *now, const char *expected)
{
    char *text;
    cr_assert_eq(state_merge(&resource_sysctl, "net.ipv4.ip_local_reserved_ports", base, to, now,
                             &text, &why),
                 0, "%s", why.text);
    cr_assert_str_eq(text, expected);
    free(text);
}

Test(resources_sysctl, reserved_ports_are_shared)
{
    char *text;
    merged(NULL, "61000-61999", "", "61000-61999");
    merged(NULL, "8081,61000-61999", "8080", "8080-8081,61000-61999");
    merged(NULL, "0-65535", "7", "0-65535");
    merged("8080", "8080,61000-61999", "7000,61500", "7000,61000-61999");
    merged("8080,61000-61999", "8080", "7000,8080,61000-61999", "7000,8080");
    merged("8080,61000-61999", "8080", "7000,61000-61999", "7000");
    merged("8080,61000-61999", "8080", "7000,60990-62010", "7000,60990-60999,62000-62010");
    merged("8080,61000-61999", "8080", "8080", "8080");
    cr_assert_eq(state_merge(&resource_sysctl, "net.ipv4.ip_forward", "0", "1", "7", &text, &why),
                 0);
    cr_assert_str_eq(text, "1");
    free(text);
    cr_assert_eq(state_merge(&resource_sysctl, "net.ipv4.ip_local_reserved_ports", "80-x", "", "80",
                             &text, &why),
                 -1);
    cr_assert_not_null(strstr(why.text, "'80-x' is no list of ports"));
}

Test(resources_sysctl, dots_and_slashes)
{
    tool(NULL, "ip link add eth0.5 type veth peer name x");
    there_and_back(&resource_sysctl, "net/ipv4/conf/eth0.5/forwarding", "1");
    there_and_back(&resource_sysctl, "net.ipv4.conf.eth0/5.forwarding", "1");
}

Test(resources_sysctl, absent_is_no_kernel_support)
{
    cr_assert_null(look(&resource_sysctl, "net.ipv4.no_such_thing"));
    refused(&resource_sysctl, "net.ipv4.no_such_thing", "1", "does not have");
}

Test(resources_sysctl, names_that_are_none)
{
    static const char *const names[] = {"", "../../etc/passwd", "net/../../x", "/etc", "-w", "a=b"};
    char *state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        cr_assert_eq(resource_sysctl.read(names[i], &state, &why), -1, "%s", names[i]);
}

Test(resources_sysctl, read_only)
{
    cr_assert_eq(mount("/proc/sys", "/proc/sys", NULL, MS_BIND, NULL), 0);
    cr_assert_eq(mount(NULL, "/proc/sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
    refused(&resource_sysctl, "net.ipv4.ip_forward", "1", "read-only");
}

/* ---- routes ---- */

TestSuite(resources_routes, .init = network);

static const char routes4[] = "10.200.36.0/24 via 192.168.31.45\n"
                              "10.200.36.9/32 via 192.168.31.17\n"
                              "10.20.0.0/16 via 192.168.31.17\n"
                              "9.0.0.0/8 via 192.168.31.17\n";
static const char routes6[] = "fd00:200:36::/64 via fd00:31::45\nfd00:200:1::/64 via fd00:31::17\n"
                              "fd00:200:36::9/128 via fd00:31::17\n";

Test(resources_routes, made_and_removed)
{
    char *to = canonical(&resource_routes, "ipv4", routes4);
    cr_assert_str_eq(to, "9.0.0.0/8 via 192.168.31.17\n10.20.0.0/16 via 192.168.31.17\n"
                         "10.200.36.0/24 via 192.168.31.45\n10.200.36.9/32 via 192.168.31.17\n");
    there_and_back(&resource_routes, "ipv4", routes4);
    there_and_back(&resource_routes, "ipv6", routes6);
    free(to);
}

Test(resources_routes, replaced_and_restored)
{
    bring(&resource_routes, "ipv4",
          "10.20.0.0/16 via 192.168.31.18\n10.30.0.0/16 via 192.168.31.1\n");
    there_and_back(&resource_routes, "ipv4", routes4);
    bring(&resource_routes, "ipv6", "fd00:200:1::/64 via fd00:31::99\n");
    there_and_back(&resource_routes, "ipv6", routes6);
}

Test(resources_routes, hand_made_ones_of_our_number_come_back)
{
    tool("route add 10.3.0.0/16 dev d0 proto 161\n"
         "route add 10.4.0.0/16 via 192.168.31.9 metric 7 proto 161\n"
         "route add 10.5.0.0/16 via 172.16.0.1 dev d0 onlink proto 161\n"
         "route add fd00:5::/64 via fe80::1 dev d0 metric 30 proto 161\n",
         "ip -batch -");
    there_and_back(&resource_routes, "ipv4", routes4);
    there_and_back(&resource_routes, "ipv6", routes6);
    there_and_back(&resource_routes, "ipv4", "");
}

Test(resources_routes, unusual_ones_of_our_number_are_refused)
{
    char *state;
    tool(NULL, "ip route add blackhole 10.6.0.0/16 proto 161");
    cr_assert_eq(resource_routes.read("ipv4", &state, &why), -1);
    cr_assert_not_null(strstr(why.text, "blackhole 10.6.0.0/16"), "%s", why.text);
}

Test(resources_routes, others_are_named_and_kept)
{
    tool(NULL, "ip route add 10.20.0.0/16 via 192.168.31.99 proto static");
    tool(NULL, "ip -6 route add fd00:200:1::/64 via fd00:31::99 metric 5");
    refused(&resource_routes, "ipv4", routes4,
            "10.20.0.0/16 via 192.168.31.99 dev d0 proto static");
    refused(&resource_routes, "ipv6", routes6, "fd00:200:1::/64 via fd00:31::99");
    refused(&resource_routes, "ipv4", "192.168.31.0/24 via 192.168.31.9\n", "proto kernel");
    refused(&resource_routes, "ipv4", "10.0.0.0/8 dev d0; reboot\n", "no route");
}

Test(resources_routes, a_larger_metric_is_no_obstacle)
{
    tool(NULL, "ip route add 10.20.0.0/16 via 192.168.31.99 metric 100");
    there_and_back(&resource_routes, "ipv4", routes4);
}

Test(resources_routes, unreachable_gateways_are_told_with_their_line)
{
    struct steps steps = {.count = 0};
    cr_assert_eq(resource_routes.steps(
                     "ipv4", NULL, "10.9.0.0/16 via 192.168.31.1\n10.10.0.0/16 via 172.31.0.1\n",
                     &steps, &why),
                 0);
    cr_assert_eq(step_do(&steps.item[0], &why), -1);
    cr_assert_not_null(strstr(why.text, "10.10.0.0/16 via 172.31.0.1"), "%s", why.text);
    steps_free(&steps);
}

Test(resources_routes, many, .timeout = 60)
{
    char *text;
    FILE *out = state_open(&text);
    for (int i = 0; i < 3000; i++)
        fprintf(out, "10.%d.%d.0/26 via 192.168.31.%d\n", i / 250, i % 250, 10 + i % 100);
    state_close(out);
    there_and_back(&resource_routes, "ipv4", text);
    free(text);
}

/* ---- iptables ---- */

static const char rules4[] =
    ":FIXPORT-FORWARD - [0:0]\n"
    ":FIXPORT-B - [0:0]\n"
    "-A FIXPORT-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"fixport: answers\" -j ACCEPT\n"
    "-A FIXPORT-FORWARD -s 10.200.0.0/16 -d 192.168.31.67/32 -p tcp -m tcp --sport 60001:60999 --dport 60001 -m comment --comment \"fixport:pods\" -j ACCEPT\n"
    "-A FIXPORT-FORWARD -d 10.200.0.1/32 -p tcp -m tcp --dport 8088 --tcp-flags FIN,SYN,RST,ACK SYN -j FIXPORT-B\n"
    "-A FIXPORT-FORWARD ! -s 10.200.0.0/16 -i d0 -p udp -m udp --dport 53 -g FIXPORT-B\n"
    "-A FIXPORT-FORWARD -m comment --comment fixport -j RETURN\n"
    "-A FIXPORT-B -p tcp -m multiport --dports 1,2:3 -m comment --comment \"fixport: q\\\"uo\\'t -j X\" -j REJECT --reject-with tcp-reset\n"
    "-A FIXPORT-B -s 10.200.0.0/16 -p tcp -m multiport --dports 1:2,7 -m tcp --sport 60001:60999 ! --tcp-flags SYN,ACK SYN -m comment --comment \"fixport: answers\" -j ACCEPT\n"
    "-A FIXPORT-B -p icmp -m icmp --icmp-type 3 -m comment --comment \"fixport: errors\" -j ACCEPT\n"
    "-A FIXPORT-B -m comment --comment \"fixport:rest\" -j REJECT --reject-with icmp-port-unreachable\n"
    "1 -A FORWARD -m comment --comment \"fixport: ours\" -j FIXPORT-FORWARD\n";
static const char rules6[] =
    ":FIXPORT-FORWARD - [0:0]\n"
    "-A FIXPORT-FORWARD -s fd00:200::/56 -d fd00:31::67/128 -p tcp -m tcp --sport 60001:60999 -j ACCEPT\n"
    "-A FIXPORT-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 2 -j ACCEPT\n"
    "-A FIXPORT-FORWARD -d fd00:200::/56 -m state --state RELATED,ESTABLISHED -j ACCEPT\n"
    "-A FIXPORT-FORWARD -j REJECT --reject-with icmp6-port-unreachable\n"
    "1 -A FORWARD -j FIXPORT-FORWARD\n";

static enum site_iptables backends[] = {IPTABLES_NFT, IPTABLES_LEGACY};

static void choose(enum site_iptables which)
{
    need(run_exists(which == IPTABLES_NFT ? "iptables-nft-restore" : "iptables-legacy-restore") &&
             run_exists("nft"),
         "iptables with both backends, and nft");
    cr_assert_eq(iptables_choose(which, &why), 0, "%s", why.text);
    cr_assert_eq(iptables_is_legacy(), which == IPTABLES_LEGACY);
}

/* Runs "iptables-nft ..." or "iptables-legacy ...". */
static void iptables(enum site_iptables which, const char *arguments)
{
    char line[256];
    snprintf(line, sizeof(line), "iptables-%s -w %s", which == IPTABLES_NFT ? "nft" : "legacy",
             arguments);
    tool(NULL, line);
}

/* There is no other legacy table than an empty one once it has been there. */
static void legacy_warm(void)
{
    tool(NULL, "iptables-legacy -w -S");
    tool(NULL, "ip6tables-legacy -w -S");
}

TestSuite(resources_iptables, .init = begin);

Test(resources_iptables, nothing_is_made_by_looking)
{
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        cr_assert_null(look(&resource_iptables, "ipv4"));
        cr_assert_null(look(&resource_iptables, "ipv6"));
        cr_assert(!iptables_has_chain(4, "DOCKER-USER"));
    }
    char *saw = everything();
    cr_assert_null(strstr(saw, "filter"), "%s", saw);
    free(saw);
}

Test(resources_iptables, from_nothing_and_back)
{
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        there_and_back(&resource_iptables, "ipv4", rules4);
        there_and_back(&resource_iptables, "ipv6", rules6);
    }
}

Test(resources_iptables, many_rules, .timeout = 60)
{
    char *text;
    FILE *out = state_open(&text);
    legacy_warm();
    fputs(":FIXPORT-FORWARD - [0:0]\n", out);
    for (int i = 0; i < 2000; i++)
        fprintf(out, "-A FIXPORT-FORWARD -s 10.%d.%d.0/26 -j RETURN\n", i / 250, i % 250);
    fputs("1 -A FORWARD -j FIXPORT-FORWARD\n", out);
    state_close(out);
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        there_and_back(&resource_iptables, "ipv4", text);
    }
    free(text);
}

Test(resources_iptables, among_others)
{
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        iptables(backends[i], "-N DOCKER-USER");
        cr_assert(iptables_has_chain(4, "DOCKER-USER"));
        iptables(backends[i], "-A DOCKER-USER -j RETURN");
        iptables(backends[i], "-P FORWARD DROP");
        iptables(backends[i], "-A FORWARD -j DOCKER-USER");
        iptables(backends[i], "-A INPUT -s 1.2.3.4 -j DROP");
        there_and_back(&resource_iptables, "ipv4", rules4);
        there_and_back(&resource_iptables, "ipv4",
                       ":FIXPORT-FORWARD - [0:0]\n-A FIXPORT-FORWARD -j RETURN\n"
                       "1 -A DOCKER-USER -j FIXPORT-FORWARD\n");
    }
}

static const char rules_docker[] = ":FIXPORT-FORWARD - [0:0]\n-A FIXPORT-FORWARD -j RETURN\n"
                                   "1 -A DOCKER-USER -j FIXPORT-FORWARD\n";

/* Before Docker has come: its chain is made, and goes with ours if it never does. */
Test(resources_iptables, before_docker)
{
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        there_and_back(&resource_iptables, "ipv4", rules_docker);
        there_and_back(&resource_iptables, "ipv6", rules_docker);
        iptables(backends[i], "-A INPUT -s 1.2.3.4 -j DROP");
        iptables(backends[i], "-P FORWARD ACCEPT");
        there_and_back(&resource_iptables, "ipv4", rules_docker);
        iptables(backends[i], "-A FORWARD -s 1.2.3.4 -j DROP");
        there_and_back(&resource_iptables, "ipv4", rules_docker);
        bring(&resource_iptables, "ipv4", rules_docker);
        char *saw = everything();
        cr_assert_not_null(strstr(saw, "\n-A FORWARD -j DOCKER-USER\n-A FORWARD -s 1.2.3.4"), "%s",
                           saw);
        free(saw);
        bring(&resource_iptables, "ipv4", NULL);
        iptables(backends[i], "-F INPUT");
        iptables(backends[i], "-F FORWARD");
    }
}

/* Its chain may be there before it, made by whoever has rules for it; nothing leads there yet. */
Test(resources_iptables, a_chain_waits_for_docker)
{
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        iptables(backends[i], "-A INPUT -s 1.2.3.4 -j DROP");
        iptables(backends[i], "-P FORWARD ACCEPT");
        iptables(backends[i], "-N DOCKER-USER");
        there_and_back(&resource_iptables, "ipv4", rules_docker);
        iptables(backends[i], "-A DOCKER-USER -s 1.2.3.4 -j DROP");
        there_and_back(&resource_iptables, "ipv4", rules_docker);
        iptables(backends[i], "-F DOCKER-USER");
        iptables(backends[i], "-X DOCKER-USER");
        bring(&resource_iptables, "ipv4", rules_docker);
        iptables(backends[i], "-A DOCKER-USER -s 1.2.3.4 -j DROP");
        bring(&resource_iptables, "ipv4", NULL);
        char *saw = everything();
        cr_assert_not_null(
            strstr(saw, "\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -s 1.2.3.4/32 "),
            "what somebody has put there works on: %s", saw);
        free(saw);
        iptables(backends[i], "-F");
        iptables(backends[i], "-X");
    }
}

/* Somebody empties FORWARD: what stands in DOCKER-USER guards nothing any more. */
Test(resources_iptables, nothing_leads_to_docker)
{
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        iptables(backends[i], "-N DOCKER-USER");
        iptables(backends[i], "-A FORWARD -j DOCKER-USER");
        bring(&resource_iptables, "ipv4", rules_docker);
        iptables(backends[i], "-F FORWARD");
        char *cut = look(&resource_iptables, "ipv4");
        cr_assert_not_null(strstr(cut, "\n0 -A DOCKER-USER -j FIXPORT-FORWARD\n"), "%s", cut);
        bring(&resource_iptables, "ipv4", rules_docker);
        char *saw = everything();
        cr_assert_not_null(strstr(saw, "\n-A FORWARD -j DOCKER-USER\n"), "%s", saw);
        bring(&resource_iptables, "ipv4", cut);
        bring(&resource_iptables, "ipv4", NULL);
        iptables(backends[i], "-X DOCKER-USER");
        free(cut);
        free(saw);
    }
}

/* As dockerd does it when it starts: what is there stays, and the jump goes to the top. */
static void docker_comes(enum site_iptables which)
{
    iptables(which, "-A DOCKER-USER -j RETURN");
    iptables(which, "-D FORWARD -j DOCKER-USER");
    iptables(which, "-N DOCKER-FORWARD");
    iptables(which, "-I FORWARD -j DOCKER-FORWARD");
    iptables(which, "-I FORWARD -j DOCKER-USER");
}

Test(resources_iptables, docker_takes_its_chain_over)
{
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        bring(&resource_iptables, "ipv4", rules_docker);
        docker_comes(backends[i]);
        char *state = look(&resource_iptables, "ipv4");
        cr_assert_str_eq(state, rules_docker);
        bring(&resource_iptables, "ipv4", NULL);
        char *saw = everything();
        cr_assert_null(strstr(saw, "FIXPORT"));
        cr_assert_not_null(strstr(saw, "\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n"
                                       "-A DOCKER-USER -j RETURN\n"),
                           "%s", saw);
        free(saw);
        free(state);
    }
}

Test(resources_iptables, positions_are_no_content)
{
    char *text = resource_iptables.content(":FIXPORT-FORWARD - [0:0]\n-A FIXPORT-FORWARD -j X\n"
                                           "12 -A FORWARD -j FIXPORT-FORWARD\n");
    cr_assert_str_eq(text, ":FIXPORT-FORWARD - [0:0]\n-A FIXPORT-FORWARD -j X\n"
                           " -A FORWARD -j FIXPORT-FORWARD\n");
    free(text);
}

/* Others' table keeps the chain that came with the jump: empty, it lets everything pass. */
Test(resources_iptables, a_table_without_forward)
{
    choose(IPTABLES_NFT);
    char *to = canonical(&resource_iptables, "ipv4", rules4);
    tool(NULL, "iptables-nft -A INPUT -s 1.2.3.4 -j DROP");
    bring(&resource_iptables, "ipv4", to);
    bring(&resource_iptables, "ipv4", "");
    char *saw = everything();
    cr_assert_null(strstr(saw, "FIXPORT"), "%s", saw);
    cr_assert_not_null(strstr(saw, "priority filter; policy accept;\n\t}\n"), "%s", saw);
    there_and_back(&resource_iptables, "ipv4", rules4);
    tool(NULL, "iptables-nft -F INPUT");
    there_and_back(&resource_iptables, "ipv4", rules4);
    free(to);
    free(saw);
}

/* Others may have made the table, and nothing in it yet. */
Test(resources_iptables, an_empty_table_of_others_stays)
{
    choose(IPTABLES_NFT);
    char *to = canonical(&resource_iptables, "ipv4", rules4);
    tool(NULL, "nft add table ip filter");
    char *before = look(&resource_iptables, "ipv4");
    cr_assert_str_eq(before, "");
    bring(&resource_iptables, "ipv4", to);
    bring(&resource_iptables, "ipv4", before);
    char *saw = everything();
    cr_assert_not_null(strstr(saw, "table ip filter {"), "%s", saw);
    free(before);
    free(to);
    free(saw);
}

Test(resources_iptables, a_table_that_others_came_to_use_stays)
{
    choose(IPTABLES_NFT);
    char *to = canonical(&resource_iptables, "ipv4", rules4);
    bring(&resource_iptables, "ipv4", to);
    tool(NULL, "iptables-nft -A FORWARD -s 1.2.3.4 -j DROP");
    bring(&resource_iptables, "ipv4", NULL);
    tool(NULL, "iptables-nft -D FORWARD -s 1.2.3.4 -j DROP");
    char *saw = everything();
    cr_assert_null(strstr(saw, "FIXPORT"));
    cr_assert_not_null(strstr(saw, "chain FORWARD"));
    free(to);
    free(saw);
}

/* Version 0.1.0 noted by empty chains what it had made, and its journal has no "". */
Test(resources_iptables, notes_of_0_1_0_go_too)
{
    char *to = canonical(&resource_iptables, "ipv4", rules4);
    choose(IPTABLES_NFT);
    tool(NULL, "iptables-nft -N FIXPORT-NEW-TABLE");
    char *state = look(&resource_iptables, "ipv4");
    cr_assert_str_eq(state, "");
    bring(&resource_iptables, "ipv4", NULL);
    char *saw = everything();
    cr_assert_null(strstr(saw, "filter"));
    free(saw);
    free(state);
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        iptables(backends[i], "-A INPUT -s 1.2.3.4 -j DROP");
        iptables(backends[i], "-N FIXPORT-NEW-FORWARD");
        bring(&resource_iptables, "ipv4", to);
        bring(&resource_iptables, "ipv4", NULL);
        saw = everything();
        cr_assert_null(strstr(saw, "FIXPORT"), "%s", saw);
        cr_assert_not_null(strstr(saw, "1.2.3.4"), "%s", saw);
        free(saw);
    }
    free(to);
}

Test(resources_iptables, pushed_down_is_a_difference)
{
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        char *to = canonical(&resource_iptables, "ipv4", rules4);
        bring(&resource_iptables, "ipv4", to);
        iptables(backends[i], "-I FORWARD 1 -s 1.2.3.4 -j DROP");
        iptables(backends[i], "-A FORWARD -j FIXPORT-B");
        char *down = look(&resource_iptables, "ipv4");
        cr_assert_not_null(strstr(
            down, "\n2 -A FORWARD -m comment --comment \"fixport: ours\" -j FIXPORT-FORWARD\n"));
        cr_assert_not_null(strstr(down, "\n3 -A FORWARD -j FIXPORT-B\n"));
        char *saw = everything();
        bring(&resource_iptables, "ipv4", to);
        bring(&resource_iptables, "ipv4", down);
        char *sees = everything();
        cr_assert_str_eq(sees, saw);
        bring(&resource_iptables, "ipv4", NULL);
        free(to);
        free(down);
        free(saw);
        free(sees);
    }
}

Test(resources_iptables, changed_in_place_keeps_other_counters)
{
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        struct steps steps = {.count = 0};
        char *to = canonical(&resource_iptables, "ipv4", rules4);
        bring(&resource_iptables, "ipv4", to);
        char *more = state_grow(NULL, strlen(to) + 100);
        sprintf(more, "%s-A FIXPORT-B -j RETURN\n:FIXPORT-C - [0:0]\n", to);
        char *next = canonical(&resource_iptables, "ipv4", more);
        resource_iptables.steps("ipv4", to, next, &steps, &why);
        cr_assert_null(strstr(steps.item[0].input, "FIXPORT-FORWARD"), "%s", steps.item[0].input);
        bring(&resource_iptables, "ipv4", next);
        bring(&resource_iptables, "ipv4", to);
        steps_free(&steps);
        free(more);
        free(next);
        free(to);
        bring(&resource_iptables, "ipv4", NULL);
    }
}

Test(resources_iptables, bad_rules_change_nothing)
{
    legacy_warm();
    for (size_t i = 0; i < 2; i++) {
        choose(backends[i]);
        struct steps steps = {.count = 0};
        char *saw = everything();
        cr_assert_eq(
            resource_iptables.steps("ipv4", NULL,
                                    ":FIXPORT-FORWARD - [0:0]\n-A FIXPORT-FORWARD -p tcp -m tcp "
                                    "--dport 80001 -j ACCEPT\n1 -A FORWARD -j FIXPORT-FORWARD\n",
                                    &steps, &why),
            0);
        cr_assert_eq(step_do(&steps.item[0], &why), -1);
        cr_assert_not_null(strstr(why.text, "80001"), "%s", why.text);
        char *sees = everything();
        cr_assert_str_eq(sees, saw);
        steps_free(&steps);
        free(saw);
        free(sees);
    }
}

Test(resources_iptables, lines_that_are_not_ours_are_refused)
{
    static const char *const bad[] = {
        ":FORWARD DROP [0:0]\n",
        ":FIXPORT-NEW-TABLE - [0:0]\n",
        "-A INPUT -j ACCEPT\n",
        ":FIXPORT-A - [0:0]\nCOMMIT\n*nat\n",
        ":FIXPORT-A - [0:0]\n-A FIXPORT-B -j ACCEPT\n",
        ":FIXPORT-A - [0:0]\n1 -A FORWARD -j ACCEPT\n",
        ":FIXPORT-A - [0:0]\n0 -A FORWARD -j FIXPORT-A\n",
    };
    choose(IPTABLES_NFT);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refused(&resource_iptables, "ipv4", bad[i], "cannot be understood");
}

/* What somebody has made with nft: iptables cannot always read it, or add to it. */
Test(resources_iptables, a_table_made_with_nft)
{
    static const struct {
        const char *chain, *because; /* NULL: it can be used */
    } tables[] = {
        {"chain any { ct state vmap { invalid : drop }; }",
         "table ip filter has rules of nft that iptables has no words for"},
        {"chain FORWARD { type filter hook forward priority -10; }",
         "table ip filter has a chain FORWARD of nft's"},
        {"chain FORWARD { tcp dport 22 drop; }", "table ip filter has a chain FORWARD of nft's"},
        {"chain forward { type filter hook forward priority 0; }", NULL},
        {"chain FORWARD { type filter hook forward priority 0; ip saddr 1.2.3.4 drop; }", NULL},
        {"chain pre { type nat hook prerouting priority 0; }", NULL},
    };
    choose(IPTABLES_NFT);
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        char text[256], *state = NULL;
        snprintf(text, sizeof(text), "table ip filter { %s; }\n", tables[i].chain);
        tool(text, "nft -f -");
        if (!tables[i].because)
            bring(&resource_iptables, "ipv4", rules_docker);
        int result = resource_iptables.read("ipv4", &state, &why);
        cr_assert_eq(result, tables[i].because ? -1 : 0, "%s: %s", tables[i].chain, why.text);
        cr_assert(!tables[i].because || strstr(why.text, tables[i].because), "%s", why.text);
        tool(NULL, "nft delete table ip filter");
        free(state);
    }
}

Test(resources_iptables, goes_where_the_kubelet_is)
{
    legacy_warm();
    choose(IPTABLES_NFT);
    tool(NULL, "iptables-legacy -w -t mangle -N KUBE-KUBELET-CANARY");
    cr_assert_eq(iptables_choose(IPTABLES_AUTO, &why), 0);
    cr_assert(iptables_is_legacy());
    tool(NULL, "iptables-nft -t mangle -N KUBE-IPTABLES-HINT");
    cr_assert_eq(iptables_choose(IPTABLES_AUTO, &why), 0);
    cr_assert(!iptables_is_legacy());
}

Test(resources_iptables, not_installed)
{
    char *state = NULL;
    choose(IPTABLES_NFT);
    cr_assert_eq(mount("none", "/usr/sbin", "tmpfs", 0, NULL), 0);
    cr_assert_eq(iptables_choose(IPTABLES_AUTO, &why), -1);
    cr_assert_str_eq(why.text, "'iptables' is needed here and not installed");
    cr_assert_eq(iptables_choose(IPTABLES_LEGACY, &why), -1);
    cr_assert_eq(resource_iptables.read("ipv4", &state, &why), -1);
    cr_assert_not_null(strstr(why.text, "not installed"), "%s", why.text);
    cr_assert_eq(resource_nft.read("ip", &state, &why), -1);
    cr_assert_str_eq(why.text, "'nft' is needed here and not installed");
}

/* ---- nft ---- */

static const char nft4[] =
    "table ip fixport {\n chain postrouting { type nat hook postrouting priority 90; policy "
    "accept;\n"
    "ip saddr {10.201.0.0/16,10.200.0.0/16} ip daddr { 192.168.31.128/25, 192.168.31.67 } "
    "tcp sport 60001-60999 masquerade comment \"fixport: keep { the } port\"\n"
    "ip saddr 10.200.0.0/16 ip protocol tcp counter masquerade to :60001-60999\n}\n}\n";
static const char nft6[] =
    "table ip6 fixport {\n chain postrouting { type nat hook postrouting priority srcnat - 10;\n"
    "ip6 saddr fd00:200::/56 tcp sport 60001-60999 snat to ip6 saddr\n}\n}";

TestSuite(resources_nft, .init = begin);

Test(resources_nft, made_replaced_and_removed)
{
    need(run_exists("nft"), "nft");
    there_and_back(&resource_nft, "ip", nft4);
    there_and_back(&resource_nft, "ip6", nft6);
    char *other = canonical(&resource_nft, "ip", "table ip fixport {\nchain x {\n}\n}\n");
    bring(&resource_nft, "ip", other);
    there_and_back(&resource_nft, "ip", nft4);
    there_and_back(&resource_nft, "ip6", nft6);
    free(other);
}

Test(resources_nft, asking_leaves_no_trace)
{
    need(run_exists("nft"), "nft");
    char *saw = everything(), *to = canonical(&resource_nft, "ip", nft4), *sees = everything();
    cr_assert_str_eq(saw, sees);
    free(saw);
    free(sees);
    free(to);
}

Test(resources_nft, only_one_table_of_ours)
{
    need(run_exists("nft"), "nft");
    refused(&resource_nft, "ip", "table ip filter { }", "not of 'table ip fixport'");
    refused(&resource_nft, "ip", "table ip fixport2 { }", "not of 'table ip fixport'");
    refused(&resource_nft, "ip", "table ip fixport { }\nflush ruleset\n", "not one table");
    refused(&resource_nft, "ip", "table ip fixport { } }", "not one table");
    refused(&resource_nft, "ip", "table ip fixport { chain x {\n", "not one table");
    refused(&resource_nft, "ip", "t", "not of");
}

Test(resources_nft, what_nft_refuses_is_known_before)
{
    need(run_exists("nft"), "nft");
    struct resources list = {.count = 0};
    cr_assert_eq(resources_add(&list, &resource_nft, "ip",
                               "table ip fixport { chain x { drop drop } }", "x", &why),
                 -1);
    cr_assert_not_null(strstr(why.text, "nft: "), "%s", why.text);
    resources_free(&list);
}

/* ---- pool ---- */

TestSuite(resources_pool, .init = begin);

static char *pool_wanted(const char *text)
{
    static struct config config;
    struct config_error error;
    put("c", text, strlen(text), 0644);
    cr_assert_eq(config_load(inside("c"), &config, &error), 0, "%s", error.text);
    return pool_state_from_config(&config);
}

static const char pool_all[] = "[pool]\nquarantine = 1500ms\nmode = 0660\ngroup = 12\nlanes = "
                               "32\nports = 50000-50009, 60001-60999\n"
                               "[rule v6]\nto = ::/0, !fd00::/8, [fd00:1::/64]:80-90, "
                               "[fd00:1::5]:443\nwhen-exhausted = wait 500ms\n"
                               "[rule mixed]\nto = any:443, !any:80, 10.0.0.0/8, !10.1.2.3:1-1024, "
                               "0.0.0.0/0:5432\nports = 61000\n"
                               "when-exhausted = pass\n"
                               "[rule only-not]\nto = !192.168.31.9\n"
                               "[rule all]\n";

Test(resources_pool, every_feature_there_and_back)
{
    need(run_exists("fixport-pool"), "fixport-pool (FIXPORT_BUILD)");
    char *state = pool_wanted(pool_all);
    bring(&resource_folder, inside("new/folder"), "there");
    there_and_back(&resource_pool, inside("new/folder/pool"), state);
    there_and_back(&resource_pool, inside("pool"), state);
    free(state);
}

Test(resources_pool, changed_in_place)
{
    need(run_exists("fixport-pool"), "fixport-pool (FIXPORT_BUILD)");
    char *one = pool_wanted("[pool]\nports = 60001-60010\n"),
         *two =
             pool_wanted("[pool]\nports = 61001-62000\nquarantine = 0\nmode = 0600\ngroup = 5\n");
    struct stat before, after;
    setup_root = scratch;
    bring(&resource_folder, "/run/fixport", "there");
    bring(&resource_pool, "/run/fixport/pool", one);
    stat(inside("run/fixport/pool"), &before);
    there_and_back(&resource_pool, "/run/fixport/pool", two);
    bring(&resource_pool, "/run/fixport/pool", two);
    stat(inside("run/fixport/pool"), &after);
    cr_assert_eq(before.st_ino, after.st_ino, "programs hold leases in it");
    free(one);
    free(two);
}

Test(resources_pool, made_anew_only_if_need_be)
{
    need(run_exists("fixport-pool"), "fixport-pool (FIXPORT_BUILD)");
    char *one = pool_wanted("[pool]\nports = 60001-60010\n"),
         *all = pool_wanted("[pool]\nports = 1024-65535\n");
    char *lanes = pool_wanted("[pool]\nports = 60001-60010\nlanes = 7\n");
    bring(&resource_pool, inside("pool"), one);
    there_and_back(&resource_pool, inside("pool"), all);
    there_and_back(&resource_pool, inside("pool"), lanes);
    free(one);
    free(all);
    free(lanes);
}

/* create.c's own number of lanes is predicted here: it must stay the same. */
Test(resources_pool, lanes_are_as_created)
{
    static const char *const ports[] = {"60001",  "1-512",   "1-2047", "1-2048",
                                        "1-5000", "1-32000", "1-65535"};
    for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
        static struct config config;
        struct config_error error;
        cr_assert_eq(config_from_text(ports[i], NULL, &config, &error), 0);
        config.options.group = 0;
        cr_assert_eq(pool_create(inside("p"), &config.policy, &config.options), 0);
        char *is = look(&resource_pool, inside("p")), *wanted = pool_state_from_config(&config);
        cr_assert_str_eq(is, wanted, "%s", ports[i]);
        cr_assert_null(strstr(is, "lanes"));
        unlink(inside("p"));
        free(is);
        free(wanted);
    }
}

/* What pods can make of it: each is a state that differs from all that is wanted, and is replaced. */
Test(resources_pool, damaged_is_replaced)
{
    need(run_exists("fixport-pool"), "fixport-pool (FIXPORT_BUILD)");
    static const struct {
        long offset; /* of eight bytes; -1: something else has its name */
        const char *what;
    } damages[] = {
        {0, "magic"},
        {8, "version"},
        {16, "file_size"},
        {24, "lanes"},
        {offsetof(struct pool_header, pagemap) + 60001 / POOL_PAGE_PORTS, "pagemap"},
        {offsetof(struct pool_header, state), "state"},
        {offsetof(struct pool_header, shared_inode), "shares"},
        {4096, "policy"},
        {-1, "empty"},
        {-1, "link"},
        {-1, "fifo"},
        {-1, "folder"},
        {-1, "user"},
    };
    static const char *const paths[] = {"/run/fixport/pool", "/srv/pool"};
    char *wanted = pool_wanted("[pool]\nports = 60001-60010\n"), *state;
    setup_root = scratch;
    bring(&resource_folder, "/run/fixport", "there");
    bring(&resource_folder, "/srv", "there");
    put("victim", "theirs", 6, 0600);
    for (size_t i = 0; i < 2 * sizeof(damages) / sizeof(damages[0]); i++) {
        const char *path = paths[i % 2], *what = damages[i / 2].what;
        char real[300];
        snprintf(real, sizeof(real), "%s", inside(path + 1));
        bring(&resource_pool, path, wanted);
        if (damages[i / 2].offset >= 0) {
            int fd = open(real, O_RDWR);
            cr_assert_eq(pwrite(fd, "\3\3\3\3\3\3\3\3", 8, damages[i / 2].offset), 8);
            close(fd);
        } else if (strcmp(what, "user") == 0) {
            cr_assert_eq(chown(real, 1000, 1000), 0);
        } else {
            unlink(real);
            if (strcmp(what, "empty") == 0)
                close(open(real, O_WRONLY | O_CREAT, 0600));
            else if (strcmp(what, "link") == 0)
                cr_assert_eq(symlink(inside("victim"), real), 0);
            else if (strcmp(what, "fifo") == 0)
                cr_assert_eq(mkfifo(real, 0600), 0);
            else
                cr_assert_eq(mkdir(real, 0700), 0);
        }
        state = look(&resource_pool, path);
        cr_expect(state_lost(&resource_pool, state), "%s: %s", what, state);
        free(state);
        if (i % 3 == 0)
            bring(&resource_pool, path, NULL);
        bring(&resource_pool, path, wanted);
    }
    state = look(&resource_file, "/victim");
    cr_expect_str_eq(state, "0600 0 0\ntheirs");
    free(state);
    free(wanted);
}

/* A path of a person's may be mistyped. */
Test(resources_pool, what_is_no_pool_is_foreign)
{
    put("p", "not a pool, but long enough", 27, 0644);
    char *state = look(&resource_pool, inside("p"));
    cr_assert_eq(state_lost(&resource_pool, state), LOST_FOREIGN, "%s", state);
    free(state);
}

/* ---- running and showing ---- */

Test(resources_run, output_errors_and_status)
{
    char *echo[] = {"cat", NULL}, *fails[] = {"ls", "/no/such/thing", NULL},
         *none[] = {"no-such-tool", NULL};
    struct run_result result;
    cr_assert_eq(run_tool(echo, "in\nput", &result), 0);
    cr_assert_str_eq(result.output, "in\nput");
    run_free(&result);
    cr_assert_eq(run_tool(fails, NULL, &result), -1);
    cr_assert_eq(run_explain(fails, &result, &why), -1);
    cr_assert_str_eq(why.text, "ls: cannot access '/no/such/thing': No such file or directory");
    run_free(&result);
    cr_assert_eq(run_tool(none, NULL, &result), -1);
    cr_assert_eq(result.status, 127);
    cr_assert_eq(result.errno_, ENOENT);
    run_explain(none, &result, &why);
    cr_assert_str_eq(why.text, "'no-such-tool' is needed here and not installed");
    run_free(&result);
    cr_assert(!run_exists("no-such-tool"));
}

Test(resources_run, endless_output_ends, .timeout = 60)
{
    char *yes[] = {"yes", NULL};
    struct run_result result;
    cr_assert_eq(run_tool(yes, NULL, &result), -1);
    cr_assert_eq(result.errno_, EFBIG);
    run_free(&result);
}

Test(resources_run, a_clean_environment)
{
    char *env[] = {"env", NULL};
    struct run_result result;
    setenv("LD_PRELOAD", "", 1);
    setenv("LC_ALL", "de_DE.UTF-8", 1);
    cr_assert_eq(run_tool(env, NULL, &result), 0);
    cr_assert_null(strstr(result.output, "LD_PRELOAD"));
    cr_assert_not_null(strstr(result.output, "LC_ALL=C\n"));
    cr_assert_not_null(strstr(result.output, "/usr/sbin:/sbin\n"));
    run_free(&result);
}

Test(resources_run, the_lock_is_inherited_and_nothing_else)
{
    char *list[] = {"ls", "/proc/self/fd", NULL};
    struct run_result result;
    int ours = open("/dev/null", O_RDONLY | O_CLOEXEC), lock = fcntl(ours, F_DUPFD_CLOEXEC, 77);
    setup_keep_fd = lock;
    cr_assert_eq(run_tool(list, "x", &result), 0);
    cr_assert_not_null(strstr(result.output, "\n77\n"), "%s", result.output);
    run_free(&result);
    setup_keep_fd = -1;
    cr_assert_eq(run_tool(list, NULL, &result), 0);
    cr_assert_null(strstr(result.output, "\n77\n"), "%s", result.output);
    run_free(&result);
    close(ours);
    close(lock);
}

static char *shown(const struct step *step)
{
    char *text;
    FILE *out = state_open(&text);
    step_print(step, out);
    state_close(out);
    return text;
}

Test(resources_show, commands_and_diffs)
{
    struct steps steps = {.count = 0};
    steps_command(&steps, "one\n\033[31mtwo\n", "ip", "-batch", "-", "it's", NULL);
    steps_file(&steps, "/etc/x", "0644 0 0\na\nb\nc\nd\ne\nf\ng\nh\ni\nj\n",
               "0600 0 0\na\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk", NULL);
    steps_file(&steps, "/etc/y", NULL, "0644 0 0\nnew\n", NULL);
    steps_file(&steps, SETUP_STATE_DIR "/x", NULL, "0600 0 0\nsecret\nold\n", NULL);
    char *text = shown(&steps.item[0]);
    cr_assert_str_eq(text, "[#] ip -batch - 'it'\\''s'\n    one\n    ?[31mtwo\n");
    free(text);
    text = shown(&steps.item[1]);
    cr_assert_str_eq(text, "--- /etc/x\n+++ /etc/x (mode, owner, group 0600 0 0)\n"
                           "@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n"
                           "@@ -8,3 +8,4 @@\n h\n i\n j\n+k\n\\ No newline at end of file\n");
    free(text);
    text = shown(&steps.item[2]);
    cr_assert_str_eq(text, "--- /dev/null\n+++ /etc/y\n@@ -0,0 +1 @@\n+new\n");
    free(text);
    text = shown(&steps.item[3]);
    cr_assert_str_eq(text, "--- /dev/null\n+++ " SETUP_STATE_DIR "/x (mode, owner, group 0600 0 0)\n"
                           "(2 lines, for undo)\n");
    free(text);
    cr_assert_eq(setenv("PATH", "/nowhere", 1), 0);
    text = shown(&steps.item[2]);
    cr_assert(run_exists("diff") || strstr(text, "\n(diff(1) cannot be run, to show only what changes: "
                                                "this is all of it)\n+new\n"));
    free(text);
    json_t *json = step_json(&steps.item[0]);
    cr_assert_str_eq(json_string_value(json_array_get(json_object_get(json, "command"), 3)),
                     "it's");
    json_decref(json);
    steps_free(&steps);
}

Test(resources_list, one_of_each)
{
    struct resources list = {.count = 0};
    cr_assert_eq(resources_add(&list, &resource_routes, "ipv4",
                               "10.0.0.1/32 via 10.0.0.2\n10.0.0.1 via 10.0.0.3\n", "a", &why),
                 -1);
    cr_assert_eq(resources_add(&list, &resource_routes, "ipv4", "", "a", &why), 0);
    cr_assert_null(list.item[0].wanted);
    cr_assert_eq(resources_add(&list, &resource_routes, "ipv4", NULL, "b", &why), -1);
    cr_assert_eq(list.count, 1);
    resources_free(&list);
    cr_assert_eq(resource_type_find("nft"), &resource_nft);
    cr_assert_null(resource_type_find("NFT"));
    cr_assert(state_equal(NULL, NULL) && state_equal("", "") && !state_equal(NULL, ""));
}
