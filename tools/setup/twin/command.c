/* SPDX-License-Identifier: MIT */
/*
 * fixport-setup twin: run a command in a twin of this machine, so that people can look at what the
 * doctor asks.
 */
#include "../../common/say.h"
#include "../doctor/doctor.h"
#include "../setup.h"
#include "twin.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* It ends with us: only as long as we are there the twin has its interfaces. */
static void __attribute__((noreturn)) twin_exec(const struct twin *twin, char **command)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    twin_enter(twin);
    execvp(*command, command);
    int error = errno;
    say_error(SETUP_ERROR, "'%s' cannot be run: %s", *command, strerror(error));
    _exit(error == ENOENT ? 127 : 126);
}

int setup_twin(const struct setup_options *options)
{
    struct setup_error error;
    struct twin twin;
    int status = 0;
    if (twin_make(&twin, NULL, NULL, &error) < 0)
        return say_error(SETUP_ERROR, "%s", error.text);
    for (size_t i = 0; i < twin.notes; i++) {
        const struct twin_note *note = &twin.note[i];
        char *what = text_clean(note->what, say_utf8());
        char *line = text_clean(note->line ? note->line : "", say_utf8());
        fprintf(stderr, "note: %s", what);
        if (*line)
            fprintf(stderr, " (%zu, the first is: %s)", note->count, line);
        fputc('\n', stderr);
        free(what);
        free(line);
    }
    pid_t pid = fork();
    if (pid == 0)
        twin_exec(&twin, options->command);
    if (pid < 0)
        return say_error(SETUP_ERROR, "'%s' cannot be run: %s", *options->command, strerror(errno));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    twin_free(&twin);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
