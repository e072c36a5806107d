/* SPDX-License-Identifier: MIT */
/* What is refused of a command line. */
#include "line.h"

#include "say.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MOST 8

int line_once(const char *name, const char **value)
{
    if (*value)
        return say_bad_input("%s is given twice: '%s' and '%s'", name, *value, optarg);
    *value = optarg;
    return 0;
}

int line_text(const char *name, const char **value)
{
    return *optarg ? line_once(name, value) : say_bad_input("%s is empty", name);
}

int line_number(const char *name, unsigned least, unsigned most, const char *unit, unsigned *value)
{
    size_t digits = strspn(optarg, "0123456789");
    bool fits = digits && digits <= DIGITS_MOST && !optarg[digits];
    unsigned long number = fits ? strtoul(optarg, NULL, 10) : 0;
    if (*value)
        return say_bad_input("%s is given twice", name);
    if (number < least || number > most)
        return say_bad_input("%s '%s': %u to %u%s are allowed", name, optarg, least, most, unit);
    *value = (unsigned)number;
    return 0;
}

int line_bad(int option, char **argv)
{
    const char *at = argv[optind - 1], *program = say_program();
    if (option == ':')
        return say_bad_input("option %s needs a value", at);
    if (optopt > 0 && optopt < 256)
        return say_bad_input("unknown option -%c; see '%s --help'", optopt, program);
    return say_bad_input("unknown option %s; see '%s --help'", at, program);
}

int line_command(const char *name, const void *table, size_t size, size_t *index)
{
    char names[256] = "";
    const char *it;
    const char *entry = table;
    for (*index = 0; memcpy(&it, entry, sizeof(it)), it; entry += size, ++*index) {
        size_t at = strlen(names);
        if (strcmp(it, name) == 0)
            return 0;
        snprintf(names + at, sizeof(names) - at, "%s%s", at ? ", " : "", it);
    }
    return say_bad_input("unknown command '%s': one of %s is wanted", name, names);
}

int line_takes(const char *command, unsigned surplus, const struct line_options *known)
{
    while (known->bits && !(surplus & known->bits))
        known++;
    return known->bits ? say_bad_input("%s does not take %s", command, known->names) : 0;
}
