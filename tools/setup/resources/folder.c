/* SPDX-License-Identifier: MIT */
/*
 * Folders as resources: those that were not there and that files, links and pools need. They are
 * resources of their own so that undo knows which ones were made for us. A folder that somebody
 * else has put something into meanwhile stays (setup/undo.c).
 */
#include "state.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define THERE "there"

static int folder_read(const char *name, char **state, struct setup_error *error)
{
    struct stat st;
    const char *path = setup_folder(name);
    *state = NULL;
    if (stat(path, &st) < 0)
        return errno == ENOENT ? 0 : setup_fail(error, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return setup_fail(error, "%s: it is not a folder", path);
    *state = state_copy(THERE);
    return 0;
}

static int folder_steps(const char *name, const char *from, const char *to, struct steps *steps,
                        struct setup_error *error)
{
    (void)from;
    (void)error;
    if (to)
        steps_command(steps, NULL, "mkdir", "-p", "-m", "0755", "--", setup_folder(name), NULL);
    else
        steps_command(steps, NULL, "rmdir", "--", setup_folder(name), NULL);
    return 0;
}

const struct resource_type resource_folder = {
    .name = "folder",
    .lasting = false, /* those in /run do not */
    .read = folder_read,
    .steps = folder_steps,
};
