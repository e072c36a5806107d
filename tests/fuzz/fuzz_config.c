/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a configuration file: taken and valid, or refused in one line. Through a file in
 * memory, because config_load() and iniparser read files.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../tools/config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore(const char *sentence, void *arg)
{
    (void)arg;
    if (!*sentence || strchr(sentence, '\n'))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config config;
    struct config_error error = {.text = ""};
    char path[32];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (config_load(path, &config, &error) == 0) {
        if (!policy_valid(&config.policy))
            abort();
        config_warnings_for(&config, NULL, ignore, NULL);
    } else {
        const char *why = error.text + strlen(path) + strlen(": ");
        if (!*why || strchr(why, '\n') || strncmp(why, "iniparser ", 10) == 0)
            abort(); /* the last: iniparser must never see what we have not refused */
    }
    close(fd);
    return 0;
}
