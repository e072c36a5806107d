/* SPDX-License-Identifier: MIT */
/*
 * What becomes of a text, as diff(1) shows it. Where that is not installed all of the new text is
 * shown: true, only longer.
 */
#include "state.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void lines_print(const char *at, const char *sign, FILE *out)
{
    const char *line;
    size_t length;
    while ((line = state_line(&at, &length))) {
        fputs(sign, out);
        clean_print(line, length, out);
        putc('\n', out);
    }
}

void diff_print(const char *from, const char *to, FILE *out)
{
    char path[32];
    size_t length;
    struct run_result result;
    int fd = run_input(to ? to : ""); /* it has no name, and diff gets it as it gets its stdin */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fd >= 0)
        fcntl(fd, F_SETFD, 0);
    char *argv[] = {"diff", "-a", "-U", "3", "-", path, NULL};
    run_tool(argv, from ? from : "", &result);
    const char *at = result.output;
    if (result.status == 1 && state_line(&at, &length) && state_line(&at, &length)) {
        lines_print(at, "", out); /* without the first two, which name the files */
    } else if (result.status != 0) {
        fputs("(diff(1) cannot be run, to show only what changes: this is all of it)\n", out);
        lines_print(to ? to : "", "+", out);
    }
    run_free(&result);
    if (fd >= 0)
        close(fd);
}
