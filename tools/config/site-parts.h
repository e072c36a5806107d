/* SPDX-License-Identifier: MIT */
/*
 * Between site.c, which reads the site's sections one by one, and those who help it: reading
 * addresses (site-address.c) and finding contradictions between sections (site-check.c,
 * site-agree.c).
 */
#ifndef FIXPORT_TOOLS_SITE_PARTS_H
#define FIXPORT_TOOLS_SITE_PARTS_H

#include "file.h"
#include "site.h"

/* A block of addresses, or one address, and where it stands: to say what is wrong with it. */
struct placed {
    struct block block;
    const struct config_section *section;
    const struct config_value *value;
    bool borrowed; /* a single pod inside of another node's block */
};

struct placed_list {
    struct placed *item;
    size_t count;
};

/* A site while it is read: its addresses in the file's order. */
struct draft {
    const struct config_file *file;
    struct site *site;
    struct placed_list node_pods; /* of all nodes, node by node */
    struct placed_list nodes;     /* their addresses */
    struct placed_list pods;      /* of [pods] */
    struct placed_list hosts;
    struct placed_list gateway;
};

/* ---- site.c ---- */

/** site_load_over - as site_load(), with texts instead of what stands in files (file.h). */
int site_load_over(const char *path, const struct config_overlay *over, struct site *site,
                   struct config_error *error);

/* ---- site-address.c ---- */

/**
 * block_parse - read one block or address, "10.200.1.0/24".
 * @single: an address only. @block: of any value on failure. @why: room for the reason.
 * Return: NULL, or why it is none: a sentence without its subject, perhaps in @why.
 */
const char *block_parse(const char *text, bool single, struct block *block, char *why, size_t size);

/**
 * placed_read - append the items of a list, "10.200.1.0/24, 10.200.36.9".
 * @single: addresses only, no blocks.
 * Return: 0, or a negative errno value after the file's error has been written.
 */
int placed_read(const struct config_file *file, const struct config_section *section,
                const struct config_value *value, bool single, struct placed_list *list);

/** block_name - a block as people write it: one address without its prefix. BLOCK_TEXT bytes do. */
const char *block_name(const struct block *block, char *buf, size_t size);

/** placed_refuse - '[node a] pods = "10.1.0.0/16, 10.1.2.0/24": 10.1.2.0/24 @why'. Return: -EINVAL.
 */
int placed_refuse(const struct config_file *file, const struct placed *placed, const char *format,
                  ...) __attribute__((format(printf, 3, 4)));

/* ---- site-check.c ---- */

/** draft_check - refuse what contradicts itself; sets .borrowed. Return: as placed_read(). */
int draft_check(struct draft *draft);

/* ---- site-agree.c ---- */

/** draft_agree - compare [rule] with [hosts], of a site that is complete. Return: the same. */
int draft_agree(struct draft *draft);

#endif
