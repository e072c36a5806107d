/* SPDX-License-Identifier: MIT */
/* Ports in use, when a reload changes which addresses are one server: see move.c. */
#ifndef FIXPORT_MOVE_H
#define FIXPORT_MOVE_H

#include "pool.h"

#define POOL_MOVE_MS 1000u /* a reload that was killed is waited for no longer */

/** pool_moves - whether there is anything to move from one policy to another. */
bool pool_moves(const struct policy *before, const struct policy *after);

/**
 * pool_move - bring the words to where the new policy looks for them. For pool_reload(), which
 * calls it twice if pool_moves(): before the new policy is published, and after that.
 * @before, @after: the policies, in memory that nobody changes meanwhile.
 * @since: sys_now_ms() before the first of the two calls. @published: this is the second one.
 */
void pool_move(const struct pool *pool, const struct policy *before, const struct policy *after,
               uint64_t since, bool published);

#endif
