/* SPDX-License-Identifier: MIT */
/*
 * Asking the cluster by kubectl, one type of resource after the other, because one that the cluster
 * does not have, or that this user may not read, would fail the others with it. kubectl knows how
 * to find and to trust the API server, and how to log in; nothing of that is ours.
 *
 * A type that the cluster does not have is no error: there is more than one CNI. One that is
 * forbidden is a warning. Anything else ends it: half an answer looks like a smaller cluster.
 */
#include "../../pool/cmd.h"
#include "discover.h"
#include "../resources/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARGUMENTS 16

/* One question. The first group of several that is there answers it. */
struct question {
    const char *type;      /* "ipamblocks.crd.projectcalico.org" */
    const char *otherwise; /* the same in another group, if there is no such type; NULL */
    const char *missed;    /* what is missed if it may not be read; NULL: nothing goes without */
    const char *space;     /* namespace; NULL: none */
    const char *name[4];   /* only these objects, if they are there; NULL-terminated */
    bool blocks;           /* says where Calico's addresses are */
    bool pods;             /* of all namespaces, and only if nothing else says where pods are */
    bool services, slices; /* of all namespaces */
};

static const struct question questions[] = {
    {.type = "nodes"},
    {.type = "ipamblocks.crd.projectcalico.org",
     .otherwise = "ipamblocks.projectcalico.org",
     .missed = "addresses that pods have borrowed from other nodes' blocks",
     .blocks = true},
    {.type = "blockaffinities.crd.projectcalico.org",
     .otherwise = "blockaffinities.projectcalico.org",
     .missed = "blocks of Calico that no IPAMBlock tells of",
     .blocks = true},
    {.type = "ippools.crd.projectcalico.org",
     .otherwise = "ippools.projectcalico.org",
     .missed = "whether Calico changes the source of what leaves the cluster"},
    {.type = "felixconfigurations.crd.projectcalico.org",
     .otherwise = "felixconfigurations.projectcalico.org",
     .missed = "how Calico chooses source ports"},
    {.type = "ciliumnodes.cilium.io", .missed = "the blocks that Cilium gave to nodes"},
    {.type = "subnets.kubeovn.io", .missed = "whether Kube-OVN changes the source of what leaves"},
    {.type = "configmaps",
     .missed = "what kube-proxy, ip-masq-agent and Cilium do to source ports",
     .space = "kube-system",
     .name = {"kube-proxy", "ip-masq-agent", "cilium-config"}},
    {.type = "daemonsets.apps",
     .missed = "how Flannel chooses source ports",
     .space = "kube-flannel",
     .name = {"kube-flannel-ds"}},
    {.type = "services",
     .missed = "which Services lead to hosts, and need an alias",
     .services = true},
    {.type = "endpointslices.discovery.k8s.io",
     .missed = "to which hosts Services lead",
     .slices = true},
    {.type = "pods",
     .missed = "where pods really are, should the CNI not use the nodes' podCIDRs",
     .pods = true},
};
#define QUESTIONS (sizeof(questions) / sizeof(questions[0]))

struct asking {
    const struct discover_options *options;
    struct progress progress;
    size_t done;
};

/* ---- the command ---- */

struct command {
    char *argv[ARGUMENTS];
    char text[3][PATH_MAX + 32];
};

/* Arguments are not changed by who gets them; posix_spawn() only has no word for that. */
static void argument_add(struct command *command, const char *argument)
{
    size_t count = 0;
    while (command->argv[count])
        count++;
    command->argv[count] = (char *)(uintptr_t)argument;
}

static void command_make(struct command *command, const struct discover_options *options,
                         const struct question *question, const char *type)
{
    *command = (struct command){.argv = {NULL}};
    argument_add(command, options->kubectl ? options->kubectl : "kubectl");
    if (options->kubeconfig) {
        snprintf(command->text[0], sizeof(command->text[0]), "--kubeconfig=%s",
                 options->kubeconfig);
        argument_add(command, command->text[0]);
    }
    if (options->context) {
        snprintf(command->text[1], sizeof(command->text[1]), "--context=%s", options->context);
        argument_add(command, command->text[1]);
    }
    snprintf(command->text[2], sizeof(command->text[2]), "--request-timeout=%us", options->seconds);
    argument_add(command, command->text[2]);
    argument_add(command, "get");
    argument_add(command, type);
    for (const char *const *name = question->name; *name; name++)
        argument_add(command, *name);
    if (question->space) {
        argument_add(command, "--namespace");
        argument_add(command, question->space);
        argument_add(command, "--ignore-not-found");
    }
    if (question->pods || question->services || question->slices)
        argument_add(command, "--all-namespaces");
    if (question->pods)
        argument_add(command, "--field-selector=status.phase=Running");
    if (question->slices) /* those that the cluster makes for pods are many */
        argument_add(command, "--selector=endpointslice.kubernetes.io/managed-by!="
                              "endpointslice-controller.k8s.io");
    argument_add(command, "--output=json");
}

static void asking_tick(void *arg)
{
    struct asking *asking = arg;
    progress_step(&asking->progress, asking->done, QUESTIONS);
}

/* ---- its answers ---- */

enum answer { ANSWERED, ABSENT, FORBIDDEN, FAILED };

static enum answer answer_judge(const struct run_result *result)
{
    static const char *const absent[] = {
        "the server doesn't have a resource type",
        "the server could not find the requested resource",
    };
    if (result->errno_)
        return FAILED;
    if (result->status == 0)
        return ANSWERED;
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++)
        if (strstr(result->errors, absent[i]))
            return ABSENT;
    return strstr(result->errors, "(Forbidden)") ? FORBIDDEN : FAILED;
}

static int answer_explain(struct command *command, const struct run_result *result,
                          const char *type, unsigned seconds, struct setup_error *error)
{
    struct setup_error why;
    if (result->errno_ == ENOENT)
        return setup_fail(error,
                          "%s%sis not there: install it, name it with --kubectl PATH, or give "
                          "files: 'kubectl get nodes,... -o json' on a machine that has it, see "
                          "fixport-setup(8)",
                          command->argv[0], strchr(command->argv[0], '/') ? ": it " : " ");
    if (result->errno_ == ETIMEDOUT)
        return setup_fail(
            error, "kubectl get %s: no answer within %u seconds; --timeout SECONDS allows more",
            type, seconds);
    run_explain(command->argv, result, &why);
    return setup_fail(error, "kubectl get %s: %.800s", type, why.text);
}

/* Return: what became of it; FAILED: @error says why. */
static enum answer question_ask(struct discovery *discovery, struct asking *asking,
                                const struct question *question, const char *type,
                                struct setup_error *error)
{
    struct run_limits limits = {asking->options->seconds, DISCOVER_INPUT_MOST, asking_tick, asking};
    struct command command;
    struct run_result result;
    char where[100];
    command_make(&command, asking->options, question, type);
    run_tool_within(command.argv, NULL, &limits, &result);
    enum answer answer = answer_judge(&result);
    snprintf(where, sizeof(where), "kubectl get %s", type);
    if (answer == FAILED)
        answer_explain(&command, &result, type, limits.seconds, error);
    else if (answer == ANSWERED &&
             discovery_read(discovery, where, result.output, result.length, error) < 0)
        answer = FAILED;
    run_free(&result);
    return answer;
}

static int question_settle(struct discovery *discovery, struct asking *asking,
                           const struct question *question, struct setup_error *error)
{
    const char *type = question->type;
    enum answer answer = question_ask(discovery, asking, question, type, error);
    if (answer == ABSENT && question->otherwise) {
        type = question->otherwise;
        answer = question_ask(discovery, asking, question, type, error);
    }
    if (answer == FAILED)
        return -1;
    if (answer != ANSWERED && !question->missed)
        return setup_fail(error, "kubectl get %s: %s", type,
                          answer == FORBIDDEN
                              ? "this user may not read that: see the ClusterRole in "
                                "fixport-setup(8)"
                              : "this is no Kubernetes cluster: it has no nodes");
    if (answer == FORBIDDEN)
        sentence_add(&discovery->warnings, NULL,
                     "kubectl get %s: forbidden to this user, so it is not known: %s", type,
                     question->missed);
    discovery->services_known |= answer != FORBIDDEN && question->services;
    discovery->slices_known |= answer != FORBIDDEN && question->slices;
    discovery->blocks_asked |= answer == ANSWERED && question->blocks;
    return 0;
}

/* They are many: only where a CNI is not known to take the nodes' podCIDRs, or has told its blocks.
 */
static bool pods_matter(const struct discovery *discovery)
{
    const struct cni_facts *cni = &discovery->cni;
    return !discovery->pod_cidrs && !cni->calico && !cni->cilium && !cni->flannel &&
           !cni->kindnet && !cni->ovn;
}

int discovery_ask(struct discovery *discovery, const struct discover_options *options,
                  struct setup_error *error)
{
    struct discover_options asked = *options;
    struct asking asking = {&asked, {.what = "questions answered by the cluster"}, 0};
    int result = 0;
    asked.seconds = asked.seconds ? asked.seconds : DISCOVER_SECONDS;
    for (; !result && asking.done < QUESTIONS; asking.done++)
        if (!questions[asking.done].pods || pods_matter(discovery))
            result = question_settle(discovery, &asking, &questions[asking.done], error);
    progress_end(&asking.progress);
    return result;
}
