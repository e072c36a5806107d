/* SPDX-License-Identifier: MIT */
/*
 * JSON values that several subcommands print. Apart from cmd.h, because only these need
 * jansson.
 */
#ifndef FIXPORT_POOL_JSON_H
#define FIXPORT_POOL_JSON_H

#include "cmd.h"

#include <jansson.h>

/** json_put - put @value into @object, which takes it over. */
void json_put(json_t *object, const char *key, json_t *value);

/** json_put_number - put a number into @object. */
void json_put_number(json_t *object, const char *key, uint64_t value);

/** json_put_text - put untrusted bytes, at most @most, into @object as text. */
void json_put_text(json_t *object, const char *key, const char *text, size_t most);

/** json_count - {"used": n, "letgo": n, "resting": n}. */
json_t *json_count(const struct tally_count *count);

/** json_say - print @root on stdout and free it. Return: an exit status. */
int json_say(json_t *root);

#endif
