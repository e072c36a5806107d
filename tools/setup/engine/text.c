/* SPDX-License-Identifier: MIT */
/*
 * Words and values for people and for scripts.
 */
#include "../resources/state.h"
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *text_count(size_t count, const char *noun)
{
    static char buffers[4][48];
    static unsigned turn;
    char *buf = buffers[turn++ % 4];
    snprintf(buf, sizeof(buffers[0]), "%zu %s%s", count, noun, count == 1 ? "" : "s");
    return buf;
}

const char *text_are(size_t count, const char *noun)
{
    static char buf[64];
    snprintf(buf, sizeof(buf), "%zu %s", count, noun);
    snprintf(buf + strlen(buf), sizeof(buf) - strlen(buf), count == 1 ? " is" : "s are");
    return buf;
}

const char *text_when(int64_t when)
{
    static char buf[32];
    time_t seconds = (time_t)when;
    struct tm tm;
    if (!localtime_r(&seconds, &tm) || !strftime(buf, sizeof(buf), "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(buf, sizeof(buf), "@%lld", (long long)when);
    return buf;
}

const char *text_roles(unsigned roles)
{
    static char buf[80];
    size_t at = 0;
    buf[0] = '\0';
    for (unsigned bit = ROLE_HOST; bit <= ROLE_CONTROL_PLANE; bit <<= 1)
        if (roles & bit)
            at += (size_t)snprintf(buf + at, sizeof(buf) - at, "%s%s", at ? ", " : "",
                                   site_role_name((enum site_role)bit));
    return buf;
}

/* A value without a newline is a line too. */
static char *text_lines(const char *state)
{
    size_t length = state ? strlen(state) : 0;
    if (!length || state[length - 1] == '\n')
        return state_copy(state);
    char *lines = state_grow(NULL, length + 2);
    memcpy(lines, state, length);
    memcpy(lines + length, "\n", 2);
    return lines;
}

void text_difference(const char *from, const char *to, FILE *out)
{
    char *a = text_lines(from), *b = text_lines(to);
    diff_print(a, b, out);
    free(a);
    free(b);
}

json_t *json_text(const char *text)
{
    return text ? json_string(text) : json_null();
}

json_t *json_error(const struct setup_error *error)
{
    char clean[sizeof(error->text)];
    if (!error || !*error->text)
        return json_null();
    return json_string(say_clean(error->text, sizeof(error->text), true, clean, sizeof(clean)));
}

json_t *json_roles(unsigned roles)
{
    json_t *list = json_array();
    for (unsigned bit = ROLE_HOST; bit <= ROLE_CONTROL_PLANE; bit <<= 1)
        if (roles & bit)
            json_array_append_new(list, json_string(site_role_name((enum site_role)bit)));
    return list;
}

static bool json_promised;

void json_say(json_t *object)
{
    json_promised = false;
    if (!object || json_dumpf(object, stdout, JSON_INDENT(2)) != 0)
        exit(say_error(SETUP_ERROR, ferror(stdout) ? "stdout cannot be written" : "out of memory"));
    putchar('\n');
    json_decref(object);
}

static void json_say_failed(void)
{
    struct setup_error error;
    if (!json_promised)
        return;
    snprintf(error.text, sizeof(error.text), "%s", say_last());
    json_say(json_pack("{s:s, s:o}", "result", "failed", "error", json_error(&error)));
}

void json_promise(bool promised)
{
    static bool registered;
    json_promised = promised;
    if (promised && !registered)
        registered = atexit(json_say_failed) == 0;
}
