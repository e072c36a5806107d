/* SPDX-License-Identifier: MIT */
/*
 * "fixport-setup discover": from the cluster to the configuration. discover.h says how; here
 * is what a person gets to see of it. The file is replaced as all files of setup are, in one step
 * (setup/resources/file.c), and not if somebody else has changed it meanwhile.
 */
#include "discover.h"
#include "../engine/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef FIXPORT_SYSCONFDIR
#define FIXPORT_SYSCONFDIR "/etc"
#endif

#define WARNINGS_SHOWN 30 /* of a cluster that is in a bad way; --json has them all */

struct work_discover {
    struct discovery discovery;
    struct rewriting rewriting;
    struct sentences notes;
    struct steps steps; /* ours first: a configuration that is there is never begun again */
    char config[PATH_MAX];
    char path[PATH_MAX + sizeof(DISCOVER_FILE) + 4]; /* of our file */
    char *state; /* of our file, as resource_file has it; NULL: there is none */
    bool begins; /* there is no configuration */
    size_t warned;
};

/* ---- the files ---- */

static int path_find(struct work_discover *work, const char *config, struct setup_error *error)
{
    const char *path = config ? config : FIXPORT_SYSCONFDIR "/fixport.conf";
    char here[PATH_MAX] = "";
    struct stat st;
    if (*path != '/' && !getcwd(here, sizeof(here)))
        return setup_fail(error, "the current folder: %s", strerror(errno));
    if ((size_t)snprintf(work->config, PATH_MAX, "%s%s%s", here, *here ? "/" : "", path) >=
        PATH_MAX)
        return setup_fail(error, "%.60s...: the path is too long", path);
    work->begins = lstat(work->config, &st) < 0 && errno == ENOENT;
    if (!work->begins && stat(work->config, &st) < 0)
        return setup_fail(error, "%s: %s", path, strerror(errno));
    if (!work->begins && !S_ISREG(st.st_mode))
        return setup_fail(error,
                          "%s: it is no file, so no folder with " DISCOVER_FILE " can be beside "
                          "it: name the configuration with --config",
                          path);
    snprintf(work->path, sizeof(work->path), "%s.d/" DISCOVER_FILE, work->config);
    return 0;
}

static const char *state_bytes(const char *state)
{
    return state ? strchr(state, '\n') + 1 : NULL;
}

/* The new state: rights as they are; of a new file ours, readable by all. Adds a step. */
static int step_add(struct work_discover *work, const char *path, const char *from,
                    const char *text, struct setup_error *error)
{
    char head[64];
    snprintf(head, sizeof(head), "0644 %u %u\n", (unsigned)geteuid(), (unsigned)getegid());
    size_t length = from ? (size_t)(state_bytes(from) - from) : strlen(head);
    char *state = state_grow(NULL, length + strlen(text) + 1);
    memcpy(state, from ? from : head, length);
    strcpy(state + length, text);
    int result = resource_file.steps(path, from, state, &work->steps, error);
    free(state);
    return result;
}

/* ---- doing it ---- */

/* What cannot be meant. */
static int input_check(const struct discover_options *options, struct setup_error *error)
{
    bool again = false;
    if (*options->file && (options->kubectl || options->kubeconfig || options->context))
        return setup_fail(error, "files are given, so that kubectl is not asked: what are "
                                 "--kubectl, --kubeconfig and --context for?");
    for (char *const *file = options->file; *file; file++) {
        bool is_stdin = strcmp(*file, "-") == 0;
        if (is_stdin && again)
            return setup_fail(error, "'-' is given twice: standard input can be read once");
        again |= is_stdin;
    }
    return 0;
}

static int input_read(struct work_discover *work, const struct discover_options *options,
                      struct setup_error *error)
{
    int result = input_check(options, error);
    if (!result && !*options->file)
        return discovery_ask(&work->discovery, options, error);
    for (char *const *file = options->file; !result && *file; file++)
        result = discovery_read_file(&work->discovery, *file, error);
    return result;
}

static int work_make(struct work_discover *work, const struct setup_options *options,
                     struct setup_error *error)
{
    work->discovery.pod_cidrs = options->discover->pod_cidrs;
    if (path_find(work, options->config, error) < 0 ||
        resource_file.read(work->path, &work->state, error) < 0 ||
        input_read(work, options->discover, error) < 0 ||
        discovery_resolve(&work->discovery, error) < 0)
        return -1;
    services_resolve(&work->discovery);
    const struct discover_place place = {.config = work->config,
                                         .file = work->path,
                                         .text = state_bytes(work->state),
                                         .begins = work->begins};
    if (discovery_write(&work->discovery, &place, &work->rewriting, error) < 0)
        return -1;
    cni_notes(&work->discovery, &work->notes);
    if (work->rewriting.text &&
        step_add(work, work->path, work->state, work->rewriting.text, error) < 0)
        return -1;
    return work->rewriting.begun ? step_add(work, work->config, NULL, work->rewriting.begun, error)
                                 : 0;
}

/* ---- for people ---- */

static void sentence_print(const struct sentence *sentence, FILE *out)
{
    fprintf(out, "%s%s%s\n", sentence->object ? sentence->object : "", sentence->object ? ": " : "",
            sentence->text);
}

static void warnings_say(struct work_discover *work)
{
    const struct sentences *list = &work->discovery.warnings;
    for (; work->warned < list->count && work->warned < WARNINGS_SHOWN; work->warned++) {
        const struct sentence *sentence = &list->item[work->warned];
        say_error(0, "%s%s%s", sentence->object ? sentence->object : "",
                  sentence->object ? ": " : "", sentence->text);
    }
    if (work->warned < list->count)
        say_error(0, "and %zu more like these; --json shows them all", list->count - work->warned);
}

static size_t fates_count(const struct rewriting *rewriting, enum fate fate)
{
    size_t count = 0;
    for (size_t i = 0; i < rewriting->fates; i++)
        count += rewriting->fate[i].fate == fate;
    return count;
}

static bool is_borrowed(const struct claim *claim)
{
    return claim->source == CLAIM_BORROWED || claim->source == CLAIM_POD;
}

static void summary_print(const struct work_discover *work)
{
    const struct discovery *discovery = &work->discovery;
    size_t single = 0;
    for (size_t i = 0; i < discovery->claims; i++)
        single += is_borrowed(&discovery->claim[i]);
    printf("Cluster: %s, %s", text_count(discovery->nodes, "node"),
           text_count(discovery->claims - single, "block"));
    if (single)
        printf(", %zu single address%s", single, single == 1 ? "" : "es");
    if (discovery->aliases)
        printf(", %zu alias%s", discovery->aliases, discovery->aliases == 1 ? "" : "es");
    printf("; CNI: %s\n", cni_names(&discovery->cni));
    for (size_t i = 0; i < work->notes.count; i++)
        sentence_print(&work->notes.item[i], stdout);
}

static void outcome_print(const struct work_discover *work, bool written)
{
    static const struct {
        enum fate fate;
        const char *what;
    } told[] = {{FATE_NEW, "new"}, {FATE_CHANGED, "changed"}, {FATE_GONE, "gone"}};
    const char *separator = ": ";
    if (!work->rewriting.text)
        printf("Nothing to change in %s.\n", work->path);
    else
        printf("\n%s %s", work->path, written ? "is written" : "would change");
    for (size_t i = 0; work->rewriting.text && i < sizeof(told) / sizeof(told[0]); i++) {
        size_t count = fates_count(&work->rewriting, told[i].fate);
        if (count)
            printf("%s%s %s", separator, text_count(count, "node"), told[i].what);
        separator = count ? ", " : separator;
    }
    if (work->rewriting.text)
        printf(".%s\n", written ? "" : " --write does it.");
    if (work->rewriting.begun)
        printf("%s %s: what no cluster knows is to be added there, see its comments.\n",
               work->config, written ? "is begun" : "would be begun");
}

/* ---- for scripts ---- */

static json_t *sentences_json(const struct sentences *list)
{
    json_t *array = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(array,
                              json_pack("{s:o, s:o}", "object", json_text(list->item[i].object),
                                        "text", json_text(list->item[i].text)));
    return array;
}

static void address_json(json_t *list, bool has, const uint8_t addr[16])
{
    struct block block = {.prefix = 128};
    char text[BLOCK_TEXT];
    memcpy(block.addr, addr, sizeof(block.addr));
    if (has)
        json_array_append_new(list, json_string(block_name(&block, text, sizeof(text))));
}

static json_t *node_json(const struct work_discover *work, const struct node_fate *fate)
{
    static const char *const fates[] = {[FATE_SAME] = "same",
                                        [FATE_NEW] = "new",
                                        [FATE_CHANGED] = "changed",
                                        [FATE_GONE] = "gone",
                                        [FATE_LEFT] = "left"};
    const struct found_node *node = fate->node;
    json_t *addresses = json_array(), *pods = json_array(), *single = json_array();
    for (size_t i = 0; node && i < node->claims; i++) {
        const struct claim *claim = &work->discovery.claim[node->first_claim + i];
        char text[BLOCK_TEXT];
        json_array_append_new(is_borrowed(claim) ? single : pods,
                              json_string(block_name(&claim->block, text, sizeof(text))));
    }
    if (node) {
        address_json(addresses, node->address.has4, node->address.addr4);
        address_json(addresses, node->address.has6, node->address.addr6);
    }
    return json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", fate->name, "state", fates[fate->fate],
                     "addresses", addresses, "blocks", pods, "single", single);
}

static json_t *aliases_json(const struct discovery *discovery)
{
    json_t *list = json_array();
    for (size_t i = 0; i < discovery->aliases; i++)
        json_array_append_new(list, json_pack("{ssssss}", "name", discovery->alias[i].name,
                                              "addresses", discovery->alias[i].addresses, "server",
                                              discovery->alias[i].servers));
    return list;
}

static void result_json(const struct work_discover *work, const char *result)
{
    json_t *nodes = json_array();
    for (size_t i = 0; i < work->rewriting.fates; i++)
        json_array_append_new(nodes, node_json(work, &work->rewriting.fate[i]));
    json_t *step = work->steps.count ? step_json(&work->steps.item[0]) : NULL;
    json_say(json_pack("{s:o, s:o, s:b, s:s, s:s, s:o, s:o, s:o, s:o, s:O}", "config",
                       json_text(work->config), "file", json_text(work->path), "begins",
                       work->rewriting.begun != NULL, "result", result, "cni",
                       cni_names(&work->discovery.cni), "notes", sentences_json(&work->notes),
                       "warnings", sentences_json(&work->discovery.warnings), "nodes", nodes,
                       "aliases", aliases_json(&work->discovery), "diff",
                       step ? json_object_get(step, "diff") : json_null()));
    json_decref(step);
}

/* ---- the subcommand ---- */

static void work_free(struct work_discover *work)
{
    rewriting_free(&work->rewriting);
    discovery_free(&work->discovery);
    sentences_free(&work->notes);
    steps_free(&work->steps);
    free(work->state);
}

static int work_tell(struct work_discover *work, const struct setup_options *options, bool written)
{
    bool changes = work->steps.count;
    if (options->json) {
        result_json(work, !changes ? "unchanged" : written ? "written" : "changes");
    } else {
        warnings_say(work);
        summary_print(work);
        if (changes)
            putchar('\n');
        for (size_t i = 0; i < work->steps.count; i++)
            step_print(&work->steps.item[i], stdout);
        outcome_print(work, written);
    }
    return changes && !written ? SETUP_CHANGES : SETUP_OK;
}

int setup_discover(const struct setup_options *options)
{
    struct work_discover work = {.warned = 0};
    struct setup_error error;
    bool writes = options->discover->write;
    int status = SETUP_ERROR;
    int result = work_make(&work, options, &error);
    for (size_t i = 0; !result && writes && i < work.steps.count; i++)
        result = step_do(&work.steps.item[i], &error);
    if (!result) {
        status = work_tell(&work, options, writes && work.steps.count);
    } else {
        warnings_say(&work);
        say_error(SETUP_ERROR, "%s", error.text);
    }
    work_free(&work);
    return status;
}
