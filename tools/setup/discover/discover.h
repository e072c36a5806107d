/* SPDX-License-Identifier: MIT */
/*
 * Between the files of "fixport-setup discover". Theory of operation:
 *
 * Whatever is read, from kubectl or from files, is objects of Kubernetes in JSON
 * (read.c). Of each we take what it says about addresses: of nodes their own, and
 * *claims*, each "this block is behind that node, this object says so" (objects.c,
 * calico.c). Objects may come in any order, so nothing is decided before all are
 * read. Then claims are weighed against each other (resolve.c): which source is the
 * truth in this cluster, what is said twice, what cannot both be true. What is left becomes a file
 * of its own (write.c), and the configuration with it goes through the very reader that apply uses
 * before anybody sees it.
 *
 * Whose is what: the file DISCOVER_FILE in the configuration's folder is discover's, and replaced
 * whole. All other files are a person's: they are compared, never changed. Where there is no
 * configuration yet, it is begun once.
 *
 * All that comes from the cluster is hostile. Nothing of it reaches the configuration but addresses
 * that were parsed and are printed again, and names of nodes of [a-z0-9._-]. In messages it is
 * cleaned. What is not understood is told once, and passed over; what contradicts itself is told
 * with the names of the objects, and left out.
 *
 * Functions that return int return 0, or -1 after having written a sentence to a setup_error. Want
 * of memory ends the tool, as in all of fixport-setup: nothing has been written by then.
 */
#ifndef FIXPORT_TOOLS_SETUP_DISCOVER_H
#define FIXPORT_TOOLS_SETUP_DISCOVER_H

#include "../setup.h"
#include "../../config/site-parts.h"

#define DISCOVER_FILE "discovered.conf" /* in the folder beside the configuration */
#define DISCOVER_INPUT_MOST (512u << 20) /* bytes of one input: 5,000 full nodes have 300 MiB */
#define DISCOVER_SECONDS 60              /* what kubectl may take for one question */
#define DISCOVER_OBJECT_NAME 200 /* bytes of "IPAMBlock 10-200-1-0-26" that a message shows */

/* What kubectl is asked with, and whether; in setup_options. */
struct discover_options {
    const char *kubectl; /* NULL: the one in PATH */
    const char *kubeconfig;
    const char *context;
    unsigned seconds;  /* for each question; 0: DISCOVER_SECONDS */
    char *const *file; /* NULL-terminated; none: ask kubectl */
    bool write;
    bool pod_cidrs; /* take the nodes' podCIDRs, whatever a CNI's own objects say */
};

/* Sentences for people, in the order in which they came. */
struct sentence {
    char *object; /* "IPAMBlock 10-200-1-0-26"; NULL: of no single object */
    char *text;
};

struct sentences {
    struct sentence *item;
    size_t count;
};

/** sentence_add - append; both texts are copied, and cleaned. @object: may be NULL. */
void sentence_add(struct sentences *list, const char *object, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Where an address of a node was found, the best first. */
enum address_source { ADDRESS_INTERNAL, ADDRESS_CILIUM, ADDRESS_CALICO, ADDRESS_FLANNEL };

/* A node of the cluster. */
struct found_node {
    char *cluster_name;   /* as Kubernetes has it, any bytes */
    char name[SITE_NAME]; /* in the configuration; empty: it cannot be there */
    struct address_pair address;
    enum address_source source[2]; /* of IPv4, of IPv6 */
    bool listed;                   /* there is a Node of that name, not only a CiliumNode */
    bool unusable;                 /* was told why: a section that it has is left as it is */
    size_t first_claim, claims;    /* discovery_resolve(): of discovery.claim */
};

/* Who says that a block is behind a node. */
enum claim_source {
    CLAIM_POD_CIDR,
    CLAIM_ANNOTATION, /* of a node: Cilium's, OVN-Kubernetes' */
    CLAIM_CILIUM,     /* CiliumNode */
    CLAIM_AFFINITY,   /* BlockAffinity */
    CLAIM_BLOCK,      /* IPAMBlock: the truth over BlockAffinity */
    CLAIM_BORROWED,   /* an address in a block of another node, by an IPAMBlock */
    CLAIM_POD,        /* a pod's own address */
};

struct claim {
    struct block block;
    enum claim_source source;
    bool left_out;
    char *node; /* the cluster's name of it; NULL: nobody's block, only to outweigh an affinity */
    char *object;
    size_t owner; /* discovery_resolve(): index of the node */
};

/* What was seen of CNIs and of what they do to source ports. */
struct cni_facts {
    bool calico, calico_blocks, flannel, cilium, antrea, kindnet, aws, azure, ovn, kube_ovn;
    size_t kube_nat, kube_plain; /* Kube-OVN's Subnets with and without natOutgoing */
    size_t kube_apart;           /* pods in a VPC of their own, which no node routes to */
    char flannel_backend[32];
    const char *calico_group;      /* "crd.projectcalico.org" or "projectcalico.org" */
    size_t nat_pools, plain_pools; /* enabled IPPools with and without natOutgoing */
    bool felix, felix_bpf, felix_not_random, felix_nat_range;
    bool flannel_daemon, flannel_masq, flannel_not_random;
    char flannel_object[80], flannel_namespace[80]; /* of the DaemonSet */
    bool cilium_config, cilium_bpf_masquerade, cilium_masquerade, cilium_random;
    bool proxy, proxy_masquerade_all;
    bool masq_agent;
};

/* Kinds of objects that are of no use, each told once. */
struct passed_kind {
    char *name;
    size_t count;
};

/* A port of a Service that leads to hosts. */
struct found_alias {
    char name[160];  /* in the configuration: "default.shop.80" */
    char *addresses; /* "10.96.0.1:80" */
    char *servers;   /* "192.168.31.67:7000" */
    size_t count;    /* of both together */
};

struct discovery {
    struct found_node *node; /* discovery_resolve(): sorted by cluster_name, each once */
    size_t nodes;
    struct claim *claim; /* discovery_resolve(): sorted by owner, then address */
    size_t claims;
    json_t *services, *slices; /* arrays of objects: services.c */
    struct found_alias *alias; /* services_resolve(): by name */
    size_t aliases;
    bool services_known, slices_known; /* some were read, or there are none */
    struct cni_facts cni;
    struct sentences warnings;
    struct passed_kind *passed;
    size_t passed_kinds;
    size_t listed; /* objects of kind Node */
    size_t pods;   /* running ones with a network of their own */
    bool unproven; /* podCIDRs are taken, and no pod says that they are used */
    bool whole;    /* nodes came in a list: one that is not there is gone */
    bool pod_cidrs;
    bool blocks_asked; /* kubectl was asked for Calico's blocks and may read them */
};

/** sentences_free - give back; zeros are fine. */
void sentences_free(struct sentences *list);

/** discovery_free - give back; zeros are fine. */
void discovery_free(struct discovery *discovery);

/* ---- read.c: JSON ---- */

/**
 * discovery_read - take in a text: one document or several, lists or single objects.
 * @where: "nodes.json" or "kubectl get nodes", for messages. @text: any bytes, also NUL.
 * Return: -1 if it is no JSON, or is cut, or an API server's refusal; objects that came before may
 * have been taken in: the discovery is of no use then.
 */
int discovery_read(struct discovery *discovery, const char *where, const char *text, size_t length,
                   struct setup_error *error);

/** discovery_read_file - the same of a file, or of standard input: "-". */
int discovery_read_file(struct discovery *discovery, const char *path, struct setup_error *error);

/** json_path - the member of a member, NULL: one is not there. @keys end in NULL. */
const json_t *json_path(const json_t *object, ...) __attribute__((sentinel));

/** json_word - the string at a key; NULL: there is none, or it is empty. */
const char *json_word(const json_t *object, const char *key);

/* ---- objects.c, calico.c: what objects say ---- */

/* An object on its way in. */
struct object {
    const json_t *json;
    const char *group;                /* "projectcalico.org/v3" */
    const char *name;                 /* metadata.name, "" */
    char label[DISCOVER_OBJECT_NAME]; /* "BlockAffinity node1-10-200-1-0-26", clean */
};

/** object_take - take what is useful. Return: false if this kind is of no use. */
bool object_take(struct discovery *discovery, const struct object *object, const char *kind);

/** claim_add - "BLOCK is behind @node". What is no block is told, and left out. */
void claim_add(struct discovery *discovery, const struct object *object, enum claim_source source,
               const char *node, const char *block);

/** claim_put - the same for a block that was parsed. @node: NULL: nobody's. */
void claim_put(struct discovery *discovery, const char *object, enum claim_source source,
               const char *node, const struct block *block);

void object_affinity(struct discovery *discovery, const struct object *object);
void object_ipam_block(struct discovery *discovery, const struct object *object);
void object_ip_pool(struct discovery *discovery, const struct object *object);
void object_felix(struct discovery *discovery, const struct object *object);

/* ---- services.c: Services that lead to hosts ---- */

void object_service(struct discovery *discovery, const struct object *object);
void object_slice(struct discovery *discovery, const struct object *object);

/** services_resolve - which aliases there are; after discovery_resolve(). */
void services_resolve(struct discovery *discovery);

/* ---- kubectl.c ---- */

/** discovery_ask - ask the cluster. What is forbidden is a warning, what it has not is nothing. */
int discovery_ask(struct discovery *discovery, const struct discover_options *options,
                  struct setup_error *error);

/* ---- resolve.c ---- */

/** discovery_resolve - weigh what was read; afterwards only what is true and fits is left. */
int discovery_resolve(struct discovery *discovery, struct setup_error *error);

/** discovery_node - by the cluster's name; after its nodes are sorted. NULL: there is none. */
struct found_node *discovery_node(const struct discovery *discovery, const char *name);

/* ---- write.c: a part of the configuration ---- */

enum fate { FATE_SAME, FATE_NEW, FATE_CHANGED, FATE_GONE, FATE_LEFT };

/* What becomes of a node's section: for summaries. */
struct node_fate {
    char name[SITE_NAME];
    enum fate fate;                /* LEFT: it stays as it is: a person's, or not known now */
    const struct found_node *node; /* NULL: the cluster does not have it */
};

/* Where things are. */
struct discover_place {
    const char *config; /* the configuration's file */
    const char *file;   /* ours: "CONFIG.d/" DISCOVER_FILE */
    const char *text;   /* of ours, as it is; NULL: it is not there */
    bool begins;        /* the configuration is not there */
};

struct rewriting {
    char *text;             /* of our file; NULL: nothing changes */
    const char *begun;      /* of the configuration, if it is begun with that; NULL: it is not */
    struct node_fate *fate; /* by name, then those that the cluster does not have */
    size_t fates;
};

/**
 * discovery_write - what our file becomes.
 * @rewriting: free with rewriting_free(), always.
 * Return: -1 if the configuration that is there is refused, or what it would become: @error says
 * which object it comes from.
 */
int discovery_write(struct discovery *discovery, const struct discover_place *place,
                    struct rewriting *rewriting, struct setup_error *error);

/** rewriting_free - give back; zeros are fine. */
void rewriting_free(struct rewriting *rewriting);

/* ---- cni.c ---- */

/** cni_notes - which CNI it is, and what that means for source ports: sentences. */
void cni_notes(const struct discovery *discovery, struct sentences *notes);

/** cni_names - "Calico, Flannel", "none that is known"; in a static buffer. */
const char *cni_names(const struct cni_facts *cni);

#endif
