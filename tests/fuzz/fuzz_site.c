/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a site: taken, and then every promise of site.h holds, or refused in one line and
 * nothing is left of it. Whatever is taken, the pool's tools take too.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../tools/config/site.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

static void check_name(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    check(memchr(name, '\0', SITE_NAME) != NULL);
    check(*name && *name != '-' && !name[strspn(name, allowed)]);
}

/* Host bits are zero, and what is printed is at most what a rule has room for. */
static void check_block(const struct block *block)
{
    char text[BLOCK_TEXT];
    check(block->prefix <= 128 && block_has(block, block->addr));
    check(strlen(block_print(block, text, sizeof(text))) < BLOCK_TEXT - 1);
    check(!text[strspn(text, "0123456789abcdef.:/")]);
}

/* Blocks of one list share no address. */
static void check_apart(const struct block_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        check_block(&list->item[i]);
        for (size_t k = 0; k < i; k++)
            check(!blocks_overlap(&list->item[i], &list->item[k]));
    }
}

static void check_node(const struct site *site, const struct site_node *node)
{
    check_name(node->name);
    check(node->address.has4 || node->address.has6);
    check_apart(&node->pods);
    for (size_t i = 0; i < site->pods.count; i++) {
        check(!node->address.has4 || !block_has(&site->pods.item[i], node->address.addr4));
        check(!node->address.has6 || !block_has(&site->pods.item[i], node->address.addr6));
    }
}

/* Every block of a node is among all pods. */
static void check_within(const struct site *site, const struct block *block)
{
    for (size_t i = 0; i < site->pods.count; i++)
        if (site->pods.item[i].prefix <= block->prefix &&
            blocks_overlap(&site->pods.item[i], block))
            return;
    abort();
}

static void check_ports(const struct site *site)
{
    const struct portrange *range = &site->node_ports;
    struct portset pool;
    check(site_pool_ports(&site->config.policy, &site->config.slices, &pool) == 0 && portset_valid(&pool));
    check(range->lo <= range->hi);
    check(!range->lo || !portset_overlaps(&pool, range->lo, range->hi));
    check(!site->pod_services.count || portset_valid(&site->pod_services));
    check(!site->host_services.count || portset_valid(&site->host_services));
    check(!site->host_ports.count || portset_valid(&site->host_ports));
}

static void check_site(const struct site *site)
{
    check(policy_valid(&site->config.policy));
    check_ports(site);
    check_apart(&site->pods);
    check_apart(&site->hosts);
    for (size_t i = 0; i < site->machines; i++) {
        check_name(site->machine[i].name);
        check(site_machine_roles(site, site->machine[i].name) == site->machine[i].roles);
    }
    for (size_t i = 0; i < site->nodes; i++) {
        check_node(site, &site->node[i]);
        for (size_t k = 0; k < site->node[i].pods.count; k++)
            check_within(site, &site->node[i].pods.item[k]);
    }
    for (size_t i = 0; i < site->hosts.count; i++)
        for (size_t k = 0; k < site->pods.count; k++)
            check(!blocks_overlap(&site->hosts.item[i], &site->pods.item[k]));
}

static void check_refused(const struct site *site, const char *path, const char *text)
{
    static const struct site zeros;
    const char *why = text + strlen(path) + strlen(": ");
    check(memcmp(site, &zeros, sizeof(zeros)) == 0);
    check(*why && !strchr(why, '\n') && strncmp(why, "iniparser ", 10) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct site site;
    static struct config config;
    struct config_error error = {.text = ""};
    char path[32];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (site_load(path, &site, &error) == 0) {
        check_site(&site);
        check(config_load(path, &config, &error) == 0);
    } else {
        check_refused(&site, path, error.text);
    }
    site_free(&site);
    close(fd);
    return 0;
}
