/* SPDX-License-Identifier: MIT */
/*
 * Files and symlinks as resources.
 *
 * A file is replaced whole or not at all: the new one is written beside it (or in a staging folder
 * of the same file system) under a name that is always the same, brought to the disk, and renamed.
 * Whoever is killed in between leaves the old file and at most that one, which the next replacement
 * of the same file overwrites and file_sweep() takes away. The name begins with a dot and ends in
 * ".fixport", so that no program that reads all files of a folder takes it for one of its own.
 *
 * A step knows what the file was when it was planned, and is not done if it has changed since.
 */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FILE_MOST (16u << 20)

/* ---- reading ---- */

/* Return: a descriptor, -1 with errno. Not blocked by a FIFO; no symlink. */
static int file_open(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && fstat(fd, st) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int file_judge(const char *path, const struct stat *st, struct setup_error *error)
{
    if (!S_ISREG(st->st_mode))
        return setup_fail(error, "%s: it is not a file: it is left alone", path);
    if (st->st_size > FILE_MOST)
        return setup_fail(error, "%s: it is larger than 16 MiB: it is left alone", path);
    return 0;
}

/* What the journal can hold: no NUL, and UTF-8. */
static bool is_text(const char *bytes, size_t length)
{
    json_t *text = json_stringn(bytes, length);
    json_decref(text);
    return text && !memchr(bytes, '\0', length);
}

/* All of it behind a head. Return: malloc'd, NULL with errno. */
static char *file_slurp(int fd, const struct stat *st, size_t *head, size_t *length)
{
    char *text = state_grow(NULL, FILE_MOST + 64);
    *head = (size_t)sprintf(text, "%04o %u %u\n", (unsigned)(st->st_mode & 07777),
                            (unsigned)st->st_uid, (unsigned)st->st_gid);
    *length = 0;
    ssize_t n;
    do {
        n = read(fd, text + *head + *length, FILE_MOST - *length);
        *length += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    text[*head + *length] = '\0';
    if (n < 0) {
        free(text);
        return NULL;
    }
    return state_grow(text, *head + *length + 1);
}

static int file_take(const char *path, int fd, const struct stat *st, char **state,
                     struct setup_error *error)
{
    size_t head, length;
    if (file_judge(path, st, error) < 0)
        return -1;
    char *text = file_slurp(fd, st, &head, &length);
    if (!text)
        return setup_fail(error, "%s: %s", path, strerror(errno));
    if (!is_text(text + head, length)) {
        free(text);
        return setup_fail(error, "%s: it is not a text file (UTF-8): it is left alone", path);
    }
    *state = text;
    return 0;
}

static int file_read(const char *name, char **state, struct setup_error *error)
{
    struct stat st;
    const char *path = setup_path(name);
    int fd = file_open(path, &st);
    *state = NULL;
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0 && errno == ELOOP)
        return setup_fail(error, "%s: it is a symlink: it is left alone", path);
    if (fd < 0)
        return setup_fail(error, "%s: %s", path, strerror(errno));
    int result = file_take(path, fd, &st, state, error);
    close(fd);
    return result;
}

int file_alone(const char *path, struct setup_error *error)
{
    struct stat st;
    if (lstat(setup_path(path), &st) < 0 || st.st_nlink < 2)
        return 0;
    return setup_fail(error,
                      "%s: it has %lu names (hard links), and the others would keep the old text: "
                      "make it a file of its own first",
                      path, (unsigned long)st.st_nlink);
}

static int file_steps(const char *name, const char *from, const char *to, struct steps *steps,
                      struct setup_error *error)
{
    struct file_parts parts;
    if (to && (file_parse(to, &parts, error) < 0 || file_alone(name, error) < 0))
        return -1;
    steps_file(steps, name, from, to, NULL);
    return 0;
}

/* ---- states ---- */

char *file_state(unsigned mode, const char *bytes)
{
    char *state = state_grow(NULL, strlen(bytes) + 32);
    sprintf(state, "%04o 0 0\n%s", mode & 07777, bytes);
    return state;
}

/* Digits in @base, then @end. Return: behind it; NULL: it is not so. */
static const char *parse_number(const char *text, int base, char end, unsigned long most,
                                unsigned long *number)
{
    char *behind;
    if (*text < '0' || *text > '9')
        return NULL;
    errno = 0;
    *number = strtoul(text, &behind, base);
    return errno || *behind != end || *number > most ? NULL : behind + 1;
}

int file_parse(const char *state, struct file_parts *parts, struct setup_error *error)
{
    unsigned long mode = 0, uid = 0, gid = 0;
    const char *at = parse_number(state, 8, ' ', 07777, &mode);
    at = at ? parse_number(at, 10, ' ', UINT32_MAX - 1, &uid) : NULL;
    at = at ? parse_number(at, 10, '\n', UINT32_MAX - 1, &gid) : NULL;
    if (!at)
        return setup_fail(error, "a file's state does not begin with mode, owner and group");
    *parts = (struct file_parts){(mode_t)mode, (uid_t)uid, (gid_t)gid, at};
    return 0;
}

/* ---- replacing ---- */

/* The places that a replacement touches, under the root. */
struct places {
    char path[2 * PATH_MAX];
    char folder[2 * PATH_MAX];
    char staging[2 * PATH_MAX]; /* the folder of the temporary file */
    char temporary[2 * PATH_MAX + 256];
};

static void places_set(struct places *places, const char *path, const char *staging)
{
    snprintf(places->path, sizeof(places->path), "%s", setup_path(path));
    snprintf(places->folder, sizeof(places->folder), "%s", places->path);
    char *slash = strrchr(places->folder, '/');
    const char *name = places->path + (slash ? slash - places->folder + 1 : 0);
    if (slash)
        slash[slash == places->folder] = '\0';
    snprintf(places->staging, sizeof(places->staging), "%s",
             staging ? setup_folder(staging) : places->folder);
    snprintf(places->temporary, sizeof(places->temporary), "%s/.%.240s.fixport", places->staging,
             name);
}

/* As mkdir -p; only our own state is nobody else's business. */
static int folder_make(char *path, struct setup_error *error)
{
    struct stat st;
    bool private = strcmp(path, setup_path(SETUP_STATE_DIR)) == 0;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : setup_fail(error, "%s: it is not a folder", path);
    char *slash = strrchr(path, '/');
    if (slash && slash != path) {
        *slash = '\0';
        int result = folder_make(path, error);
        *slash = '/';
        if (result < 0)
            return -1;
    }
    if ((mkdir(path, 0700) < 0 || chmod(path, private ? 0700 : 0755) < 0) && errno != EEXIST)
        return setup_fail(error, "%s: the folder cannot be made: %s", path, strerror(errno));
    return 0;
}

static int folder_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0)
        close(fd);
    return result < 0 && errno != EINVAL ? -1 : 0;
}

static int bytes_write(int fd, const char *bytes)
{
    size_t left = strlen(bytes);
    while (left) {
        ssize_t n = write(fd, bytes, left);
        if (n < 0 && errno != EINTR)
            return -1;
        bytes += n > 0 ? n : 0;
        left -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* What the kernel's policy does not let us give to a file, it has given to the new one itself. */
static int attribute_copy(const char *path, int fd, const char *name)
{
    static const char policy[] = "security.";
    ssize_t room = lgetxattr(path, name, NULL, 0);
    char *value = state_grow(NULL, room > 0 ? (size_t)room : 0);
    ssize_t length = room < 0 ? -1 : lgetxattr(path, name, value, (size_t)room);
    int result = length < 0 ? -1 : fsetxattr(fd, name, value, (size_t)length, 0);
    int why = errno;
    free(value);
    errno = why;
    return strncmp(name, policy, strlen(policy)) == 0 ? 0 : result;
}

/* SELinux' label, access lists and what users attach stay with the file. */
static int attributes_copy(const char *path, int fd)
{
    ssize_t room = llistxattr(path, NULL, 0);
    if (room <= 0)
        return room < 0 && errno != ENOENT && errno != ENOTSUP ? -1 : 0;
    char *names = state_grow(NULL, (size_t)room);
    ssize_t all = llistxattr(path, names, (size_t)room);
    int result = all < 0 ? -1 : 0;
    for (const char *name = names; result == 0 && name - names < all; name += strlen(name) + 1)
        result = attribute_copy(path, fd, name);
    int why = errno;
    free(names);
    errno = why;
    return result;
}

static int temporary_fill(const struct places *places, const struct file_parts *parts)
{
    unlink(places->temporary);
    int fd = open(places->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    int result = bytes_write(fd, parts->bytes);
    if (!result)
        result = fchown(fd, parts->uid, parts->gid);
    if (!result)
        result = attributes_copy(places->path, fd);
    if (!result)
        result = fchmod(fd, parts->mode);
    if (!result)
        result = fsync(fd);
    int why = errno;
    close(fd);
    errno = why;
    return result;
}

bool file_in_place;

/* As much as there was before needs no room. */
static int file_overwrite(const char *path, const struct file_parts *parts)
{
    struct stat st;
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    int result = fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 ? -1 : 0;
    if (!result)
        result = bytes_write(fd, parts->bytes);
    if (!result)
        result = ftruncate(fd, (off_t)strlen(parts->bytes));
    if (!result)
        result = fchown(fd, parts->uid, parts->gid);
    if (!result)
        result = fchmod(fd, parts->mode);
    if (!result)
        result = fsync(fd);
    close(fd);
    return result;
}

static int file_put(struct places *places, const char *to, struct setup_error *error)
{
    struct file_parts parts;
    if (file_parse(to, &parts, error) < 0 || folder_make(places->folder, error) < 0 ||
        folder_make(places->staging, error) < 0)
        return -1;
    int result = temporary_fill(places, &parts);
    if (!result)
        result = rename(places->temporary, places->path);
    if (result < 0) {
        int why = errno;
        unlink(places->temporary);
        if (!file_in_place || (why != ENOSPC && why != EDQUOT) ||
            file_overwrite(places->path, &parts) < 0)
            return setup_fail(error, "%s: it cannot be written: %s", places->path, strerror(why));
    }
    if (folder_sync(places->staging) < 0 || folder_sync(places->folder) < 0)
        return setup_fail(error, "%s: %s", places->folder, strerror(errno));
    return 0;
}

static int file_take_away(const struct places *places, struct setup_error *error)
{
    unlink(places->temporary);
    if (unlink(places->path) < 0 && errno != ENOENT)
        return setup_fail(error, "%s: it cannot be removed: %s", places->path, strerror(errno));
    if (folder_sync(places->folder) < 0)
        return setup_fail(error, "%s: %s", places->folder, strerror(errno));
    return 0;
}

int file_replace(const struct step *step, struct setup_error *error)
{
    struct places places;
    char *now;
    if (file_read(step->path, &now, error) < 0)
        return -1;
    bool same = state_equal(now, step->from);
    free(now);
    if (!same)
        return setup_fail(error, "%s: somebody else has changed it meanwhile", step->path);
    places_set(&places, step->path, step->staging);
    return step->to ? file_put(&places, step->to, error) : file_take_away(&places, error);
}

void file_sweep(const char *path, const char *staging)
{
    struct places places;
    places_set(&places, path, staging);
    unlink(places.temporary);
}

const struct resource_type resource_file = {
    .name = "file",
    .lasting = true,
    .read = file_read,
    .steps = file_steps,
};

/* ---- symlinks ---- */

static int link_read(const char *name, char **state, struct setup_error *error)
{
    char target[PATH_MAX];
    const char *path = setup_path(name);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    *state = NULL;
    if (length < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (length < 0 && errno == EINVAL)
        return setup_fail(error, "%s: it is not a symlink: it is left alone", path);
    if (length < 0)
        return setup_fail(error, "%s: %s", path, strerror(errno));
    target[length] = '\0';
    *state = state_copy(target);
    return 0;
}

static int link_steps(const char *name, const char *from, const char *to, struct steps *steps,
                      struct setup_error *error)
{
    struct places places;
    (void)from;
    if (to && !*to)
        return setup_fail(error, "%s: a symlink needs a target", name);
    places_set(&places, name, NULL);
    if (to)
        steps_command(steps, NULL, "ln", "-sfn", "--", to, places.path, NULL);
    else
        steps_command(steps, NULL, "rm", "-f", "--", places.path, NULL);
    return 0;
}

const struct resource_type resource_link = {
    .name = "link",
    .lasting = true,
    .read = link_read,
    .steps = link_steps,
};
