/* SPDX-License-Identifier: MIT */
/*
 * The API server's manifest in the many shapes that people give it: the option is read, and set,
 * changed and taken away again with every other byte as it was. The file itself is faked: what the
 * resource would do to it is one step, and that is looked at.
 */
#include "../../tools/setup/resources/state.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME "/etc/kubernetes/manifests/kube-apiserver.yaml"
#define MODE "0600 0 0\n"

/* ---- the rest of setup, as far as the manifest needs it ---- */

static const char *disk; /* the file's bytes; NULL: none */
static char *staged;     /* the folder that the last step named */

int setup_fail(struct setup_error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return -1;
}

bool state_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

void *state_grow(void *memory, size_t size)
{
    memory = realloc(memory, size ? size : 1);
    cr_assert(memory);
    return memory;
}

char *state_copy(const char *text)
{
    return text ? strcpy(state_grow(NULL, strlen(text) + 1), text) : NULL;
}

FILE *state_open(char **text)
{
    static size_t length;
    return open_memstream(text, &length);
}

void state_close(FILE *out)
{
    fclose(out);
}

static int disk_read(const char *name, char **state, struct setup_error *error)
{
    (void)error;
    cr_assert_str_eq(name, NAME);
    *state = NULL;
    if (disk)
        cr_assert_geq(asprintf(state, MODE "%s", disk), 0);
    return 0;
}

static int disk_steps(const char *name, const char *from, const char *to, struct steps *steps,
                      struct setup_error *error)
{
    (void)name, (void)from, (void)to, (void)steps;
    return setup_fail(error, "not asked for");
}

static unsigned names = 1; /* hard links */

const struct resource_type resource_file = {
    .name = "file", .lasting = true, .read = disk_read, .steps = disk_steps};

int file_alone(const char *path, struct setup_error *error)
{
    cr_assert_str_eq(path, NAME);
    return names > 1 ? setup_fail(error, "%u names", names) : 0;
}

void steps_file(struct steps *steps, const char *path, const char *from, const char *to,
                const char *staging)
{
    cr_assert_str_eq(path, NAME);
    cr_assert_eq(steps->count, 0, "more than one step");
    cr_assert_eq(strncmp(from, MODE, strlen(MODE)), 0);
    cr_assert_str_eq(from + strlen(MODE), disk);
    cr_assert_eq(strncmp(to, MODE, strlen(MODE)), 0, "the mode has changed");
    free(staged);
    staged = strdup(staging);
    steps->item = calloc(1, sizeof(*steps->item));
    steps->item->to = strdup(to + strlen(MODE));
    steps->count = 1;
}

/* ---- what is asked of it ---- */

static struct setup_error error;

/* Return: the option's value in @text, "-" if it is absent; NULL if refused. In a static buffer. */
static const char *get(const char *text)
{
    static char buf[64];
    char *state = NULL;
    disk = text;
    error.text[0] = '\0';
    if (resource_nodeports.read(NAME, &state, &error) < 0) {
        cr_assert_null(state);
        return NULL;
    }
    snprintf(buf, sizeof(buf), "%s", state ? state : "-");
    free(state);
    return buf;
}

static void expect(const char *text, const char *value)
{
    const char *now = get(text);
    cr_assert(now, "refused: %s\n%s", error.text, text);
    cr_assert_str_eq(now, value, "%s instead of %s in\n%s", now, value, text);
}

/* Return: @text with the option at @to (NULL: without it), or NULL if refused. */
static char *set(const char *text, const char *to)
{
    struct steps steps = {.count = 0};
    char *from = NULL;
    disk = text;
    cr_assert_eq(resource_nodeports.read(NAME, &from, &error), 0, "%s", error.text);
    int result = resource_nodeports.steps(NAME, from, to, &steps, &error);
    free(from);
    if (result < 0) {
        cr_assert_eq(steps.count, 0);
        return NULL;
    }
    cr_assert_eq(steps.count, 1);
    char *made = steps.item->to;
    free(steps.item);
    return made;
}

/* The option is not there: set it (that must give @with, unless NULL), change it, take it away. */
static void round_trip(const char *without, const char *with)
{
    expect(without, "-");
    char *first = set(without, "30000-32767");
    cr_assert(first, "refused: %s\n%s", error.text, without);
    expect(first, "30000-32767");
    if (with)
        cr_assert_str_eq(first, with);
    char *second = set(first, "20000-29999");
    cr_assert(second, "refused: %s\n%s", error.text, first);
    expect(second, "20000-29999");
    char *third = set(second, NULL);
    cr_assert(third, "refused: %s\n%s", error.text, second);
    cr_assert_str_eq(third, without, "not as before:\n%s\ninstead of\n%s", third, without);
    free(first);
    free(second);
    free(third);
}

/* It is there: changing it and changing it back gives the same bytes, and nothing else moves. */
static void change_back(const char *with)
{
    expect(with, "30000-32767");
    char *changed = set(with, "20000-29999");
    cr_assert(changed, "refused: %s\n%s", error.text, with);
    expect(changed, "20000-29999");
    cr_assert_eq(strlen(changed), strlen(with));
    char *back = set(changed, "30000-32767");
    cr_assert_str_eq(back, with);
    free(changed);
    free(back);
}

static void refused(const char *text, const char *why)
{
    cr_assert_null(get(text), "taken:\n%s", text);
    cr_assert(strstr(error.text, why), "\"%s\" instead of \"%s\"", error.text, why);
    cr_assert(strstr(error.text, NAME ": line "), "which line? %s", error.text);
    cr_assert_null(strchr(error.text, '\n'));
}

/* It can be read, and not be changed, nor taken away (@to: NULL). */
static void kept(const char *text, const char *to, const char *why)
{
    cr_assert(get(text), "refused: %s\n%s", error.text, text);
    char *made = set(text, to);
    cr_assert_null(made, "changed to:\n%s", made);
    cr_assert(strstr(error.text, why), "\"%s\" instead of \"%s\"", error.text, why);
    cr_assert(strstr(error.text, NAME ": line "), "which line? %s", error.text);
}

#define HEAD "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n"

static const char kubeadm[] =
    "apiVersion: v1\n"
    "kind: Pod\n"
    "metadata:\n"
    "  annotations:\n"
    "    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: 192.168.31.17:6443\n"
    "  labels:\n"
    "    component: kube-apiserver\n"
    "    tier: control-plane\n"
    "  name: kube-apiserver\n"
    "  namespace: kube-system\n"
    "spec:\n"
    "  containers:\n"
    "  - command:\n"
    "    - kube-apiserver\n"
    "%s"
    "    - --advertise-address=192.168.31.17\n"
    "    - --allow-privileged=true\n"
    "    - --etcd-servers=https://127.0.0.1:2379\n"
    "    - --service-cluster-ip-range=10.96.0.0/12\n"
    "    - --tls-private-key-file=/etc/kubernetes/pki/apiserver.key\n"
    "    image: registry.k8s.io/kube-apiserver:v1.31.0\n"
    "    imagePullPolicy: IfNotPresent\n"
    "    livenessProbe:\n"
    "      failureThreshold: 8\n"
    "      httpGet:\n"
    "        host: 192.168.31.17\n"
    "        path: /livez\n"
    "        port: probe-port\n"
    "        scheme: HTTPS\n"
    "    name: kube-apiserver\n"
    "    resources:\n"
    "      requests:\n"
    "        cpu: 250m\n"
    "    volumeMounts:\n"
    "    - mountPath: /etc/ssl/certs\n"
    "      name: ca-certs\n"
    "      readOnly: true\n"
    "  hostNetwork: true\n"
    "  priorityClassName: system-node-critical\n"
    "  volumes:\n"
    "  - hostPath:\n"
    "      path: /etc/ssl/certs\n"
    "      type: DirectoryOrCreate\n"
    "    name: ca-certs\n"
    "status: {}\n";

static char *kubeadm_with(const char *line)
{
    static char buf[4096];
    snprintf(buf, sizeof(buf), kubeadm, line);
    return buf;
}

Test(manifest, kubeadm_shape)
{
    char *without = strdup(kubeadm_with(""));
    round_trip(without, kubeadm_with("    - --service-node-port-range=30000-32767\n"));
    change_back(kubeadm_with("    - --service-node-port-range=30000-32767\n"));
    cr_assert_str_eq(staged, "/etc/kubernetes");
    free(without);
}

Test(manifest, with_a_second_name_it_is_left_alone)
{
    names = 2;
    cr_assert_null(set(kubeadm_with(""), "30000-32767"));
    cr_assert_str_eq(error.text, "2 names");
}

Test(manifest, where_the_option_may_stand)
{
    change_back(HEAD "  - command:\n    - kube-apiserver\n    - --a=b\n"
                     "    - --service-node-port-range=30000-32767\n");
    change_back(HEAD "  - command:\n    - kube-apiserver\n    - --a=b\n"
                     "    - --service-node-port-range=30000-32767");
    change_back(HEAD "  - command: [kube-apiserver]\n    args:\n"
                     "    - --service-node-port-range=30000-32767\n    - --a=b\n");
    change_back(HEAD "  - args:\n    - --service-node-port-range=30000-32767\n"
                     "    command:\n    - /usr/local/bin/kube-apiserver\n");
    change_back(
        HEAD "  - name: kube-apiserver\n    args:\n    - --service-node-port-range=30000-32767\n");
    change_back(
        HEAD "  - command:\n    - kube-apiserver\n    - --service_node_port_range=30000-32767\n");
    change_back(
        HEAD "  - command:\n    - /go-runner\n    - --log-file=/var/log/a.log\n"
             "    - /usr/local/bin/kube-apiserver\n    - --service-node-port-range=30000-32767\n");
}

Test(manifest, option_and_value_as_two_strings)
{
    static const char two[] =
        HEAD "  - command:\n    - kube-apiserver\n"
             "    - --service-node-port-range\n    - 30000-32767\n    - --a=b\n";
    change_back(two);
    char *removed = set(two, NULL);
    cr_assert_str_eq(removed, HEAD "  - command:\n    - kube-apiserver\n    - --a=b\n");
    free(removed);
    change_back(HEAD "  - command: [kube-apiserver, --service-node-port-range, \"30000-32767\"]\n");
    change_back(HEAD "  - command:\n    - kube-apiserver\n    - --service-node-port-range\n"
                     "    args:\n    - '30000-32767'\n");
    static const char backwards[] =
        HEAD "  - args:\n    - '30000-32767'\n    - --b\n"
             "    command:\n    - kube-apiserver\n    - --service-node-port-range";
    change_back(backwards);
    removed = set(backwards, NULL);
    cr_assert_str_eq(removed, HEAD "  - args:\n    - --b\n    command:\n    - kube-apiserver");
    free(removed);
    removed = set(HEAD "  - command:\n    - kube-apiserver\n    - --service-node-port-range\n"
                       "    - 30000-32767",
                  NULL);
    expect(removed, "-");
    free(removed);
}

Test(manifest, quotes)
{
    change_back(HEAD "  - command:\n    - \"kube-apiserver\"\n"
                     "    - \"--service-node-port-range=30000-32767\"\n");
    change_back(HEAD "  - command:\n    - kube-apiserver\n"
                     "    - '--service-node-port-range=30000-32767' # why\n");
    round_trip(HEAD "  - command:\n    - \"kube-apiserver\" # the program\n    - '--x=it''s'\n",
               HEAD "  - command:\n    - \"kube-apiserver\" # the program\n"
                    "    - \"--service-node-port-range=30000-32767\"\n    - '--x=it''s'\n");
    round_trip(HEAD "  - \"command\":\n    - 'kube-apiserver'\n    - \"--x=\\\"y\\\"\"\n", NULL);
}

Test(manifest, line_ends)
{
    round_trip("kind: Pod\r\nspec:\r\n  containers:\r\n  - command:\r\n    - kube-apiserver\r\n"
               "    - --a=b\r\n",
               "kind: Pod\r\nspec:\r\n  containers:\r\n  - command:\r\n    - kube-apiserver\r\n"
               "    - --service-node-port-range=30000-32767\r\n    - --a=b\r\n");
    round_trip(HEAD "  - command:\n    - kube-apiserver\n    - --a=b", NULL);
    round_trip(HEAD "  - command:\n    - kube-apiserver", NULL);
    round_trip("kind: Pod\r\nspec:\r\n  containers:\r\n  - command:\r\n    - kube-apiserver", NULL);
    round_trip("\xef\xbb\xbfkind: Pod\nspec:\n  containers:\n  - command:\n    - kube-apiserver\n",
               NULL);
    round_trip("---\n" HEAD "  - command:\n    - kube-apiserver\n...\n# the end\n", NULL);
    round_trip("%YAML 1.2\n--- # yes\n" HEAD "  - command:\n    - kube-apiserver\n\n\n", NULL);
}

Test(manifest, indentation)
{
    round_trip("kind: Pod\nspec:\n    containers:\n        -   command:\n                -   "
               "kube-apiserver\n"
               "                -   --a=b\n            image: x\n",
               "kind: Pod\nspec:\n    containers:\n        -   command:\n                -   "
               "kube-apiserver\n"
               "                -   --service-node-port-range=30000-32767\n"
               "                -   --a=b\n            image: x\n");
    round_trip("kind: Pod\nspec:\n containers:\n -\n   name: kube-apiserver\n   command:\n   - "
               "kube-apiserver\n"
               "   image: x\n",
               NULL);
    round_trip(
        "spec:\n  containers:\n  - image: x\n    command:\n      - kube-apiserver\n\n      # note\n"
        "      - --a=b\nkind: \"Pod\"\n",
        NULL);
}

Test(manifest, comments)
{
    round_trip("# head\n" HEAD
               "  # - command:\n  - command: # of it\n    # first\n    - kube-apiserver # it\n"
               "    # --service-node-port-range=1-2\n    #- --service-node-port-range=1-2\n    - "
               "--a=b#c\n# end",
               NULL);
    change_back(HEAD "  - command:\n    - kube-apiserver\n"
                     "    - --service-node-port-range=30000-32767   # the firewall's\n");
}

Test(manifest, lists_in_brackets)
{
    round_trip(HEAD "  - command: [\"kube-apiserver\", \"--a=b,c\"]\n    image: x\n",
               HEAD "  - command: [\"kube-apiserver\", \"--service-node-port-range=30000-32767\", "
                    "\"--a=b,c\"]\n"
                    "    image: x\n");
    round_trip(HEAD "  - command: [kube-apiserver]\n", NULL);
    round_trip(HEAD "  - command: [ kube-apiserver , --a=b, ] # two\n", NULL);
    round_trip(HEAD
               "  - command: [\n      'kube-apiserver', # it\n      '--a=b'\n    ]\n    image: x\n",
               NULL);
    round_trip(HEAD "  - name: kube-apiserver\n    args: [--a=b, --c=d]\n",
               HEAD "  - name: kube-apiserver\n    args: [--service-node-port-range=30000-32767, "
                    "--a=b, --c=d]\n");
    round_trip(HEAD "  - command:\n      [kube-apiserver, --a=b]\n    image: x\n", NULL);
    change_back(HEAD "  - command: [kube-apiserver, '--service-node-port-range=30000-32767']\n");
}

Test(manifest, several_containers)
{
    static const char others[] =
        HEAD "  - name: sidecar\n    command:\n    - sh\n    - -c\n    - |\n      echo "
             "kube-apiserver\n\n      exec x\n"
             "  - name: kms\n    args: {}\n    env:\n    - name: kube-apiserver\n      value: "
             "\"a\n      command: b\"\n"
             "  - command:\n    - kube-apiserver\n    - --a=b\n    name: kube-apiserver\n"
             "    livenessProbe:\n      exec:\n        command:\n        - kube-apiserver\n        "
             "- --service-node-port-range=1-2\n"
             "  initContainers:\n  - command:\n    - kube-apiserver\n    - "
             "--service-node-port-range=1-2\n";
    round_trip(others, NULL);
    refused(HEAD "  - command:\n    - kube-apiserver\n  - command:\n    - kube-apiserver\n",
            "two containers");
}

Test(manifest, texts_that_look_like_it)
{
    round_trip(
        "kind: Pod\nmetadata:\n  annotations:\n    note: |\n      spec:\n        containers:\n"
        "        - command:\n          - kube-apiserver\n    other: >-\n\n      - command:\n    "
        "json: '{\"a\":\n"
        "      [}'\n    flow: {a: [b, \"]\"], c: '}'}\nspec:\n  containers:\n  - command:\n"
        "    - kube-apiserver\n",
        NULL);
}

Test(manifest, is_not_an_api_servers)
{
    refused("", "not an API server's manifest");
    refused("hello\n", "not an API server's manifest");
    refused("kind: Deployment\nspec:\n  containers:\n  - command:\n    - kube-apiserver\n",
            "kind is not Pod");
    refused(HEAD "  - command:\n    - kube-scheduler\n    name: kube-scheduler\n",
            "no container runs kube-apiserver");
    refused(HEAD "  - command:\n    - etcd\n    - --name=kube-apiserver\n    name: etcd\n",
            "no container runs kube-apiserver");
    refused("{\"kind\": \"Pod\"}\n", "not a list");
    refused(HEAD, "not a list");
    refused("kind: [Pod]\nspec: {containers: []}\n", "kind is not Pod");
    refused(HEAD "  - name: kube-apiserver\n    command: [/start]\n    args: [--a]\n",
            "no container runs kube-apiserver");
    refused(HEAD "  - name: etcd\n    command: [etcd, --name, kube-apiserver]\n",
            "no container runs kube-apiserver");
    disk = NULL;
    char *state = NULL;
    cr_assert_eq(resource_nodeports.read(NAME, &state, &error), -1);
    cr_assert(strstr(error.text, "no such file"));
}

Test(manifest, what_it_cannot_read)
{
    refused(HEAD "  - name: kube-apiserver\n    command:\n    - /bin/sh\n    - -c\n    - exec "
                 "kube-apiserver --a\n",
            "through a shell");
    refused(HEAD "  - name: kube-apiserver\n    command:\n    - /bin/sh\n    - -c\n    - |\n      "
                 "exec kube-apiserver\n",
            "through a shell");
    refused(HEAD "  - command: [sh, -c]\n    args: [kube-apiserver --a]\n", "through a shell");
    refused(HEAD "  - command: [bash, -c, kube-apiserver, --a]\n", "through a shell");
    refused(HEAD "  - command: [/wrap, 'exec kube-apiserver --a']\n    name: kube-apiserver\n",
            "through a shell");
    refused(HEAD "  - command: [/bin/sh, -c, /hyperkube apiserver --a]\n", "through a shell");
    refused(HEAD "  - command:\n    - kube-apiserver\n    args: *common\n",
            "line 7: there is no anchor");
    refused(HEAD "  - command: [kube-apiserver, [a]]\n", "list of strings");
    refused(HEAD "  - command: [kube-apiserver, {a: b}]\n", "list of strings");
    refused(HEAD "  - command: [kube-apiserver, !!binary LS1h]\n", "list of strings");
    refused(HEAD "  - command: kube-apiserver\n    name: kube-apiserver\n", "list of strings");
    refused(HEAD "  - command: [kube-apiserver, a\n", "','");
    refused(HEAD "  - command:\n    - \"kube-apiserver\n",
            "line 6: it is not YAML: found unexpected end");
    refused(HEAD "\t- command:\n", "tab");
    refused(HEAD "  - command:\n    - kube-apiserver\n    command:\n    - a\n",
            "line 7: \"command\" is there twice");
    refused(HEAD "  - command:\n    - kube-apiserver\n    &a command:\n    - a\n", "twice");
    refused(HEAD "  - command:\n    - kube-apiserver\n    - --service-node-port-range\n",
            "line 7: --service-node-port-range is without a value");
    refused(HEAD "  - command:\n    - kube-apiserver\n    - --service-node-port-range=\n",
            "no range");
    refused(HEAD
            "  - command:\n    - kube-apiserver\n    - --service-node-port-range=\x1b[31m1-2\n",
            "control characters");
    refused(
        HEAD
        "  - command:\n    - kube-apiserver\n    - \"--service-node-port-range=\\e[31m1-2\\n\"\n",
        "line 7: the value of --service-node-port-range is no range of ports such as 30000-32767: "
        "'?[31m1-2?'");
    refused("kind: Pod\rspec:\r  containers:\r  - command:\r    - kube-apiserver\r",
            "line 1: there is a carriage return");
    refused(HEAD "  - command:\n    - kube-apiserver # it\r", "line 6: there is a carriage return");
    refused(HEAD "  - <<: *base\n", "no anchor");
    refused("base: &base {command: [kube-apiserver]}\n" HEAD "  - <<: *base\n    image: x\n",
            "line 6: \"<<\"");
}

Test(manifest, what_it_cannot_change)
{
    kept(HEAD "  - name: kube-apiserver\n", "1-2", "line 5: there is neither command nor args");
    kept(HEAD "  - name: kube-apiserver\n    args: []\n", "1-2", "neither command nor args");
    kept(HEAD "  - command:\n    - kube-apiserver\n    - \"--service-node-port-range=1\\x2d2\"\n",
         "3-4", "written in digits");
    kept(HEAD "  - command:\n    -\n      kube-apiserver\n", "3-4", "in one line with its \"-\"");
    kept(HEAD "  - command: [kube-apiserver]\n    args:\n    - --service-node-port-range=1-2\n",
         NULL, "cannot be changed here");
    kept(HEAD "  - command:\n    - kube-apiserver\n    - --service-node-port-range=1-2\n"
              "    - --service-node-port-range=3-4\n",
         NULL, "more than once");
}

/* An anchor is somebody's; what it stands for in two places is not changed in one of them. */
Test(manifest, anchors_and_aliases)
{
    round_trip(HEAD "  - &one\n    command: &two\n    - &three kube-apiserver\n    - --a=b\n",
               NULL);
    change_back(HEAD "  - command:\n    - kube-apiserver\n    - &x "
                     "--service-node-port-range=30000-32767\n");
    round_trip("x: &x --a=b\n" HEAD "  - command:\n    - kube-apiserver\n    - *x\n", NULL);
    round_trip("x: &x kube-apiserver\n" HEAD "  - command:\n    - *x\n    - --a\n    name: *x\n",
               NULL);
    expect("x: &x [kube-apiserver, --service-node-port-range=1-2]\n" HEAD "  - command: *x\n",
           "1-2");
    kept("x: &x [kube-apiserver, --service-node-port-range=1-2]\n" HEAD "  - command: *x\n", "3-4",
         "line 1: the anchor \"x\" is used elsewhere");
    kept("x: &x [kube-apiserver]\n" HEAD "  - command: *x\n", "3-4", "the anchor \"x\"");
    kept("x: &x --service-node-port-range=1-2\n" HEAD "  - command: [kube-apiserver, *x]\n", "3-4",
         "the anchor \"x\"");
    kept("kind: Pod\nspec: &s\n  containers:\n  - command:\n    - kube-apiserver\nother: *s\n",
         "3-4", "line 2: the anchor \"s\"");
    refused("kind: Pod\nspec: &s\n  containers: &c\n  - *c\n  - *s\n", "no container runs");
}

Test(manifest, flow_style_and_json)
{
    round_trip("kind: Pod\nspec:\n  containers: [{command: [kube-apiserver]}]\n", NULL);
    round_trip("kind: Pod\nspec: {containers: [{command: [kube-apiserver]}]}\n", NULL);
    round_trip(HEAD "  - {command: [kube-apiserver]}\n", NULL);
    round_trip(
        "{\"kind\":\"Pod\",\"spec\":{\"containers\":[{\"command\":[\"kube-apiserver\",\"--a\"]}]}}",
        "{\"kind\":\"Pod\",\"spec\":{\"containers\":[{\"command\":[\"kube-apiserver\", "
        "\"--service-node-port-range=30000-32767\",\"--a\"]}]}}");
    static const char pretty[] =
        "{\r\n\t\"kind\": \"Pod\",\r\n\t\"metadata\": {\"note\": \"\\u00e4 \\/ \xc3\xa4\"},\r\n"
        "\t\"spec\": {\r\n\t\t\"containers\": [\r\n\t\t\t{\r\n\t\t\t\t\"command\": [\r\n"
        "\t\t\t\t\t\"/"
        "hyperkube\",\r\n\t\t\t\t\t\"apiserver\",\r\n\t\t\t\t\t\"--a=b\"%s\r\n\t\t\t\t]\r\n"
        "\t\t\t}\r\n\t\t]\r\n\t}\r\n}\r\n";
    char buf[1024];
    snprintf(buf, sizeof(buf), pretty, "");
    round_trip(buf, NULL);
    snprintf(buf, sizeof(buf), pretty, ",\r\n\t\t\t\t\t\"--service-node-port-range=30000-32767\"");
    change_back(buf);
    char *removed = set(buf, NULL);
    snprintf(buf, sizeof(buf), pretty, "");
    cr_assert_str_eq(removed, buf);
    free(removed);
    removed = set(
        HEAD "  - name: kube-apiserver\n    args: [--service-node-port-range, 1-2, --b]\n", NULL);
    cr_assert_str_eq(removed, HEAD "  - name: kube-apiserver\n    args: [--b]\n");
    free(removed);
}

Test(manifest, what_starts_the_program)
{
    static const char *const starts[] = {
        "command: [/go-runner]\n    args: [--log-file=/var/log/kube-apiserver.log, "
        "--also-stdout=false,"
        " /usr/local/bin/kube-apiserver, --a=b]\n",
        "command: [/go-runner, --also-stdout, kube-apiserver]\n    name: kube-apiserver\n",
        "command:\n    - /go-runner\n    args:\n    - kube-apiserver\n    - --a=b\n",
        "command:\n    - /hyperkube\n    - apiserver\n    - --a=b\n",
        "command:\n    - hyperkube\n    - kube-apiserver\n",
        "command: [/usr/bin/hyperkube]\n    args: [apiserver, --a=b]\n",
        "args: [/hyperkube, apiserver]\n",
        "args:\n    - kube-apiserver\n    - --a=b\n",
        "args:\n    - --a=b\n    name: kube-apiserver\n    command: null\n",
        "command: ~\n    args: [--a=b]\n    name: 'kube-apiserver'\n",
        "command: [kube-apiserver, --audit-log-path=/the apiserver]\n    name: kube-apiserver\n",
        "command: [/apiserver, --a]\n    name: kube-apiserver\n",
        "command: [!!str kube-apiserver]\n",
        "command: !!seq\n    - !!str \"kube-apiserver\"\n    - ! '--a=b'\n",
    };
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        char text[1024];
        snprintf(text, sizeof(text), HEAD "  - %s", starts[i]);
        round_trip(text, NULL);
    }
    change_back(HEAD "  - command:\n    - kube-apiserver\n    - !!str "
                     "'--service-node-port-range=30000-32767' # so\n");
    change_back(HEAD "  - command: [kube-apiserver, --service-node-port-range, "
                     "!<tag:yaml.org,2002:str> 30000-32767]\n");
    round_trip(HEAD "  - ? command\n    : - kube-apiserver\n      - --a=b\n    ? name\n    : x\n",
               NULL);
    round_trip(HEAD "  - command:\n    - /hyperkube\n    - apiserver\n",
               HEAD "  - command:\n    - /hyperkube\n    - apiserver\n"
                    "    - --service-node-port-range=30000-32767\n");
    change_back(HEAD "  - command: [/go-runner]\n    args: [--a, --b=c, kube-apiserver, --a, "
                     "--service-node-port-range=30000-32767]\n    name: kube-apiserver\n");
    /* What is not the API server's own is not its option. */
    expect(HEAD "  - command: [/go-runner, --service-node-port-range=1-2, kube-apiserver]\n", "-");
    expect(HEAD "  - command: [kube-apiserver, --, --service-node-port-range=1-2]\n", "-");
}

Test(manifest, the_last_of_several_counts)
{
    static const char twice[] = HEAD "  - command:\n    - kube-apiserver\n"
                                     "    - --service-node-port-range=1-2\n"
                                     "    - --service-node-port-range\n    - 30000-32767\n";
    change_back(twice);
    char *changed = set(twice, "5-6");
    cr_assert(strstr(changed, "range=1-2\n"));
    free(changed);
}

Test(manifest, documents)
{
    round_trip(HEAD "  - command:\n    - kube-apiserver\n---\nkind: Pod\n", NULL);
    round_trip(HEAD "  - command: [kube-apiserver]\n---\n\"not closed: [\n", NULL);
    refused("---\n---\n" HEAD "  - command:\n    - kube-apiserver\n", "the first document");
    refused("kind: ConfigMap\n---\n" HEAD "  - command:\n    - kube-apiserver\n",
            "kind is not Pod");
}

/* Strings of several lines, and bytes that libyaml counts as one character. */
Test(manifest, bytes_and_lines)
{
    round_trip(HEAD "  - command:\n    - kube-apiserver\n    - --a=b\n      c\n", NULL);
    round_trip(HEAD "  - command:\n    - |-\n      kube-apiserver\n\n    - --a=b\n    image: x\n",
               NULL);
    change_back(HEAD "  - command:\n    - kube-apiserver\n    - >-\n      "
                     "--service-node-port-range=30000-32767\n\n    - >\n      --a\n      b\n");
    refused(HEAD
            "  - command:\n    - kube-apiserver\n    - |\n      --service-node-port-range=1-2\n",
            "no range");
    change_back(HEAD "  - command:\r\n    - kube-apiserver\r\n    - |\r\n      --a\r\n      b\r\n"
                     "    - \"--c\r\n      d\"\r\n    - --service-node-port-range=30000-32767\r\n");
    round_trip(
        "\xef\xbb\xbf# \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\nkind: Pod\nspec: {\"\xc3\xa4\": "
        "\xe2\x82\xac, containers: [{\xf0\x9f\x98\x80: \xc3\xb6, command: [\"kube-apiserver\","
        " --a=\xc3\xa4]}]}\n",
        NULL);
    round_trip("kind: Pod # a\xc2\x85# b\xe2\x80\xa8# c\xe2\x80\xa9spec:\n  containers:\n"
               "  - command: [kube-apiserver]\n",
               NULL);
    round_trip("{kind: Pod,\xc2\x85spec: {containers: [{command: [kube-apiserver]}]}}", NULL);
    round_trip("{kind: Pod, spec:\xe2\x80\xa8 {containers: [{command: [kube-apiserver]}]}}", NULL);
}

Test(manifest, limits)
{
    size_t size = 2 << 20;
    char *text = malloc(size + 1);
    memset(text, ' ', size);
    text[size] = '\0';
    cr_assert_null(get(text));
    cr_assert(strstr(error.text, "larger than 1 MiB"));
    memset(text, '[', 1 << 19);
    text[1 << 19] = '\0';
    refused(text, "deep");
    for (size_t i = 0; i < 1 << 19; i += 2)
        memcpy(text + i, "- ", 2);
    refused(text, "deep");
    text[0] = '[';
    for (size_t i = 1; i < 1 << 19; i += 2)
        memcpy(text + i, "a,", 2);
    text[1 << 19] = '\0';
    refused(text, "values");
    free(text);
}

Test(manifest, a_value_cannot_smuggle_anything)
{
    static const char *const bad[] = {"1-2\n    - --anonymous-auth=true", "1-2 #", "1-2\"", "",
                                      "x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_null(set(HEAD "  - command:\n    - kube-apiserver\n", bad[i]));
        cr_assert_null(set(HEAD "  - command: [\"kube-apiserver\"]\n", bad[i]));
        cr_assert_null(set(kubeadm_with("    - --service-node-port-range=1-2\n"), bad[i]));
    }
}

Test(manifest, changed_meanwhile)
{
    struct steps steps = {.count = 0};
    disk = kubeadm_with("    - --service-node-port-range=1-2\n");
    cr_assert_eq(resource_nodeports.steps(NAME, "3-4", "5-6", &steps, &error), -1);
    cr_assert(strstr(error.text, "in the meantime"));
    cr_assert_eq(steps.count, 0);
}

/* Whatever is cut off or garbled: an answer or a sentence, and never a wrong byte elsewhere. */
Test(manifest, garbled)
{
    char *whole = strdup(kubeadm_with("    - --service-node-port-range=30000-32767\n"));
    size_t length = strlen(whole);
    unsigned seed = 1;
    for (size_t i = 0; i <= length; i++) {
        char *cut = strndup(whole, i);
        get(cut);
        free(cut);
    }
    for (int round = 0; round < 20000; round++) {
        char *text = strdup(whole);
        for (int k = 0; k < 3; k++) {
            static const char odd[] = "-:'\"[]{}#|>\n\t &*?,\\x ";
            seed = seed * 1103515245 + 12345;
            text[(seed >> 8) % length] = odd[(seed >> 4) % (sizeof(odd) - 1)];
        }
        if (get(text)) {
            char *made = set(text, "20000-29999");
            if (made)
                expect(made, "20000-29999");
            free(made);
        }
        free(text);
    }
    free(whole);
}

Test(manifest, snippet)
{
    struct portrange ports = {30000, 32767};
    char *text = kubeadm_snippet(&ports);
    cr_assert(strstr(text, "  - name: service-node-port-range\n    value: \"30000-32767\"\n"));
    cr_assert(strstr(text, "    service-node-port-range: \"30000-32767\"\n"));
    cr_assert_eq(text[strlen(text) - 1], '\n');
    free(text);
}
