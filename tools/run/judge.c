/* SPDX-License-Identifier: MIT */
/*
 * Whether a preloaded library can act in a program, found out before it is started: a shim that is
 * silently not there is the worst outcome for whoever relies on the ports.
 *
 * The system ignores LD_PRELOAD where a program gains privileges (AT_SECURE: setuid, setgid, file
 * capabilities), a static program has no loader that could heed it, and the Go runtime makes its
 * system calls without libc. For a script it is the interpreter that counts. Some only start another
 * program: gosu and tini-static cannot load the library, and "env -i" takes it away from what comes.
 */
#include "run.h"

#include "../pool/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define JUDGE_SCRIPTS 4 /* scripts that run scripts; the kernel allows as many (binfmt_script) */

struct judge {
    const char *path;
    struct elf_kind library;
    bool force;
};

/* One sentence: why not, and what to do. */
static int judge_refuse(const struct judge *judge, const char *why, const char *instead)
{
    if (judge->force) {
        say_error(0, "warning: '%s' %s", judge->path, why);
        return 0;
    }
    return say_error(EXIT_REFUSED, "'%s' %s; %s, or --force to run it all the same", judge->path,
                     why, instead);
}

/* Whether privileges could be gained by executing the file at all. */
static bool judge_may_gain(int fd)
{
    struct statvfs vfs;
    if (fstatvfs(fd, &vfs) == 0 && vfs.f_flag & ST_NOSUID)
        return false;
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1;
}

static int judge_privileges(const struct judge *judge, int fd, const struct stat *st)
{
    static const char outside[] = "start fixport-run as the user it would become, around the "
                                  "program that needs the ports";
    if (!judge_may_gain(fd))
        return 0;
    if (st->st_mode & S_ISUID && st->st_uid != getuid())
        return judge_refuse(judge, "is setuid: the system ignores LD_PRELOAD for it", outside);
    if ((st->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && st->st_gid != getgid())
        return judge_refuse(judge, "is setgid: the system ignores LD_PRELOAD for it", outside);
    /* Root gains nothing by a file's capabilities, so that AT_SECURE is not set (commoncap.c). */
    if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
        return judge_refuse(judge, "has file capabilities: the system ignores LD_PRELOAD for it",
                            "give it them by systemd's AmbientCapabilities or setpriv(1) instead");
    return 0;
}

static int judge_elf(const struct judge *judge, const struct elf_kind *kind)
{
    const struct elf_kind *library = &judge->library;
    if (kind->class != library->class || kind->data != library->data ||
        kind->machine != library->machine)
        return judge_refuse(judge, "is for another kind of processor than libfixport.so",
                            "install fixport for that kind");
    if (!kind->interpreter)
        return judge_refuse(judge, "is a static program: it loads no library",
                            "use a dynamically linked build, or, if it only starts another program "
                            "as tini-static does, put fixport-run after it");
    if (kind->go)
        return judge_refuse(judge, "is a Go program: it connects without the C library",
                            "confine its ports with net.ipv4.ip_local_port_range, or, if it only "
                            "starts another program as gosu does, put fixport-run after it");
    return 0;
}

/* Whether one of the short options in @cluster is -i of env(1), or -u LD_PRELOAD, with @next after it. */
static bool env_cluster_clears(const char *cluster, const char *next)
{
    for (const char *c = cluster; *c; c++) {
        if (*c == 'i')
            return true;
        if (*c == 'u')
            return (c[1] || next) && strcmp(c[1] ? c + 1 : next, "LD_PRELOAD") == 0;
        if (strchr("CSaf", *c))
            return false; /* what follows is its value */
    }
    return false;
}

/* Whether "env OPTION... NAME=VALUE... COMMAND" takes LD_PRELOAD away. */
static bool env_clears(char **argv)
{
    bool clears = false;
    int i = 1;
    for (; argv[i] && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++) {
        const char *word = argv[i];
        clears |= strcmp(word, "-") == 0 || strcmp(word, "--ignore-environment") == 0 ||
                  strcmp(word, "--unset=LD_PRELOAD") == 0 ||
                  (word[1] != '-' && env_cluster_clears(word + 1, argv[i + 1]));
        if (strcmp(word, "-u") == 0 || strcmp(word, "-C") == 0)
            i += argv[i + 1] != NULL;
    }
    i += argv[i] && strcmp(argv[i], "--") == 0;
    for (; argv[i] && strchr(argv[i], '='); i++)
        clears &= strncmp(argv[i], "LD_PRELOAD=", strlen("LD_PRELOAD=")) != 0;
    return clears;
}

static int judge_starter(const struct judge *judge, char **argv)
{
    const char *name = strrchr(judge->path, '/');
    if (strcmp(name ? name + 1 : judge->path, "env") != 0 || !env_clears(argv))
        return 0;
    return judge_refuse(judge, "takes the library away from the program that it starts",
                        "put fixport-run after it, as in 'env -i fixport-run COMMAND'");
}

/* The interpreter of "#!INTERPRETER ARGUMENT". Return: false if the file begins otherwise. */
static bool judge_script(int fd, char interpreter[256])
{
    char line[257] = "";
    if (pread(fd, line, sizeof(line) - 1, 0) < 3 || memcmp(line, "#!", 2) != 0)
        return false;
    char *begin = line + 2 + strspn(line + 2, " \t");
    begin[strcspn(begin, " \t\n")] = '\0';
    memcpy(interpreter, begin, strlen(begin) + 1);
    return true;
}

/* Return: 0, an exit status, or -EAGAIN with the next file to judge in @next. */
static int judge_file(const struct judge *judge, int fd, char next[256])
{
    struct stat st;
    struct elf_kind kind;
    if (judge_script(fd, next))
        return -EAGAIN; /* the system ignores a script's own mode bits */
    if (!elf_read(fd, &kind)) {
        strcpy(next, "/bin/sh"); /* as execvp(3) takes what is no program */
        return strcmp(judge->path, next) == 0 ? 0 : -EAGAIN;
    }
    int status = fstat(fd, &st) == 0 ? judge_privileges(judge, fd, &st) : 0;
    return status ? status : judge_elf(judge, &kind);
}

static int judge_interpreter(const char *script, const char *interpreter)
{
    if (access(interpreter, F_OK) < 0)
        return say_error(EXIT_NOT_FOUND, "'%s': its interpreter '%s' is not there", script,
                         interpreter);
    if (access(interpreter, X_OK) < 0)
        return say_error(EXIT_REFUSED, "'%s': its interpreter '%s' cannot be executed: %s", script,
                         interpreter, strerror(errno));
    return 0;
}

static int judge_library(const char *library, struct elf_kind *kind)
{
    int fd = open(library, O_RDONLY | O_CLOEXEC);
    bool fine = fd >= 0 && elf_read(fd, kind);
    if (fd >= 0)
        close(fd);
    return fine ? 0 : say_error(EXIT_FAILED, "%s is not a library, or cannot be read", library);
}

int program_judge(const char *path, char **argv, const char *library, bool force)
{
    struct judge judge = {.path = path, .force = force};
    char next[256], current[256];
    int status = judge_library(library, &judge.library);
    if (!status)
        status = judge_starter(&judge, argv);
    for (int i = 0; !status && i <= JUDGE_SCRIPTS; i++) {
        int fd = open(judge.path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return 0; /* executable but not readable: nothing is known against it */
        status = judge_file(&judge, fd, next);
        close(fd);
        if (status != -EAGAIN)
            return status;
        status = judge_interpreter(judge.path, next);
        strcpy(current, next);
        judge.path = current;
    }
    return status;
}
