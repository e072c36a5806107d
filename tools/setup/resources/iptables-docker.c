/* SPDX-License-Identifier: MIT */
/*
 * Docker's chain for administrators, DOCKER-USER. Docker makes it when it starts, and keeps what it
 * finds there: a chain of that name and the jump "-A FORWARD -j DOCKER-USER", which it moves to the
 * top. So where one of them is not there (yet: after a reboot we may be first) it is made as Docker
 * would, with a note, FIXPORT-NEW-DOCKER-USER or -JUMP, and goes with us if Docker has never come.
 */
#include "iptables.h"

#include <string.h>

#define NOTE_DOCKER NOTE DOCKER
#define NOTE_JUMP NOTE "DOCKER-JUMP"

bool name_is_docker(const char *name)
{
    return strcmp(name, DOCKER) == 0;
}

/* Whether there is more of Docker's than the chain that it lets others make. */
static bool docker_came(const struct table *now)
{
    for (size_t i = 0; i < now->chains; i++)
        if (strncmp(now->chain[i].name, "DOCKER", 6) == 0 && !name_is_docker(now->chain[i].name))
            return true;
    return false;
}

static bool rule_jumps_to_docker(const char *rule)
{
    const char *target;
    size_t length = rule_target(rule, &target);
    return length == strlen(DOCKER) && strncmp(target, DOCKER, length) == 0;
}

/* The jumps from FORWARD as Docker makes them; @others: all but those. */
static size_t docker_jumps(const struct table *now, bool others)
{
    size_t count = 0;
    for (size_t i = 0; i < now->chains; i++) {
        const struct chain *chain = &now->chain[i];
        bool forward = strcmp(chain->name, "FORWARD") == 0;
        for (size_t k = 0; k < chain->count; k++) {
            bool plain = forward && strcmp(chain->rule[k], DOCKER_JUMP) == 0;
            count += others ? !plain && rule_jumps_to_docker(chain->rule[k]) : plain;
        }
    }
    return count;
}

/* Whether DOCKER-USER is of our making, and in nobody else's use. */
bool docker_is_ours(const struct table *now)
{
    const struct chain *docker = table_find(now, DOCKER);
    if (!docker || !table_find(now, NOTE_DOCKER) || docker_came(now) || docker_jumps(now, true))
        return false;
    for (size_t i = 0; i < docker->count; i++)
        if (!rule_jumps_to_own(docker->rule[i]))
            return false;
    return true;
}

/* Whether the jump to it is; what others have put into a chain of our making needs it. */
bool docker_jump_is_ours(const struct table *now)
{
    return table_find(now, NOTE_JUMP) && !docker_came(now) &&
           (docker_is_ours(now) || !table_find(now, NOTE_DOCKER));
}

bool docker_is_reached(const struct table *now)
{
    return docker_jumps(now, false);
}

/* Whether a jump is wanted from DOCKER-USER, and no packet comes there. */
bool docker_missing(const struct table *to, const struct table *now)
{
    bool wanted = false;
    for (size_t i = 0; i < to->jumps; i++)
        wanted = wanted || (name_is_docker(to->jump[i].chain) && to->jump[i].position);
    return wanted && !docker_is_reached(now);
}

bool docker_unreached(const struct table *to)
{
    for (size_t i = 0; i < to->jumps; i++)
        if (!to->jump[i].position)
            return true;
    return false;
}

void docker_make(FILE *out, const struct table *now)
{
    if (!table_find(now, DOCKER))
        fputs(":" NOTE_DOCKER " - [0:0]\n:" DOCKER " - [0:0]\n", out);
    fputs(":" NOTE_JUMP " - [0:0]\n-I FORWARD 1 " DOCKER_JUMP "\n", out);
}

void docker_jump_away(FILE *out, const struct table *now)
{
    size_t jumps = docker_jump_is_ours(now) ? docker_jumps(now, false) : 0;
    for (size_t i = 0; i < jumps && (i == 0 || docker_is_ours(now)); i++)
        fputs("-D FORWARD " DOCKER_JUMP "\n", out);
}

void docker_away(FILE *out, const struct table *now)
{
    docker_jump_away(out, now);
    if (docker_is_ours(now))
        fputs("-X " DOCKER "\n", out);
}
