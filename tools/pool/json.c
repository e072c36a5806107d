/* SPDX-License-Identifier: MIT */
/*
 * JSON by jansson. Text from a pool is cleaned first: JSON must be valid UTF-8, and what reads it
 * may print it.
 */
#include "json.h"

void json_put(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

void json_put_number(json_t *object, const char *key, uint64_t value)
{
    json_put(object, key, json_integer((json_int_t)value));
}

void json_put_text(json_t *object, const char *key, const char *text, size_t most)
{
    char clean[PATH_MAX];
    json_put(object, key, json_string(say_clean(text, most, true, clean, sizeof(clean))));
}

json_t *json_count(const struct tally_count *count)
{
    json_t *object = json_object();
    json_put_number(object, "used", count->used);
    json_put_number(object, "letgo", count->letgo);
    json_put_number(object, "resting", count->resting);
    return object;
}

int json_say(json_t *root)
{
    int failed = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) != 0;
    json_decref(root);
    if (failed)
        return say_error(EXIT_FAILED, "not enough memory for JSON, or stdout cannot be written");
    putchar('\n');
    return EXIT_OK;
}
