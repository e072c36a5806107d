/* SPDX-License-Identifier: MIT */
#include "packet.h"

#include <stdlib.h>

void blame_play(struct twin *twin, struct play *play, bool changed, struct blame *blame)
{
    (void)changed;
    *blame = (struct blame){0};
    play_again(twin, play, NULL, NULL);
}

void blame_free(struct blame *blame)
{
    free(blame->rule);
    free(blame->comment);
}
