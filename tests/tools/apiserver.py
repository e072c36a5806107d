# SPDX-License-Identifier: MIT
"""An HTTP server that answers like an API server, as far as "kubectl get" asks: which groups,
versions and resources there are, lists of objects, single ones, and refusals.

It has the objects that it is given, and no others.
"""

import http.server
import json
import threading

PLURALS = {"Node": "nodes", "Pod": "pods", "ConfigMap": "configmaps", "DaemonSet": "daemonsets",
           "CiliumNode": "ciliumnodes", "BlockAffinity": "blockaffinities",
           "IPAMBlock": "ipamblocks", "IPPool": "ippools",
           "FelixConfiguration": "felixconfigurations", "Subnet": "subnets"}
BUILT_IN = [("v1", "Node"), ("v1", "Pod"), ("v1", "ConfigMap"), ("apps/v1", "DaemonSet")]
NAMESPACED = ("Pod", "ConfigMap", "DaemonSet")


def status(code, reason, message):
    return code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                  "message": message, "reason": reason, "code": code}


class ApiServer:
    """Serves @objects on loopback; reading the resources in @forbidden is forbidden. A context."""

    def __init__(self, objects, forbidden=()):
        self.objects = objects
        self.forbidden = forbidden
        self.kinds = list(dict.fromkeys([*BUILT_IN, *((o["apiVersion"], o["kind"])
                                                      for o in objects)]))
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                code, body = server.answer(self.path.split("?")[0].strip("/").split("/"))
                text = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def groups(self):
        names = dict.fromkeys(version for version, _ in self.kinds if "/" in version)
        groups = [(name.split("/")[0], {"groupVersion": name, "version": name.split("/")[1]})
                  for name in names]
        return {"kind": "APIGroupList", "apiVersion": "v1",
                "groups": [{"name": name, "versions": [version], "preferredVersion": version}
                           for name, version in groups]}

    def resources(self, version):
        found = [{"name": PLURALS[kind], "singularName": kind.lower(), "kind": kind,
                  "namespaced": kind in NAMESPACED, "verbs": ["get", "list"]}
                 for of, kind in self.kinds if of == version]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
                "resources": found}

    def answer(self, path):
        """Return: a status and the body, for a path's parts."""
        if path == ["api"]:
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == ["apis"]:
            return 200, self.groups()
        version = "v1" if path[0] == "api" else "/".join(path[1:3])
        rest = path[2:] if path[0] == "api" else path[3:]
        if path[0] not in ("api", "apis") or not any(of == version for of, _ in self.kinds):
            return status(404, "NotFound", "the server could not find the requested resource")
        return self.objects_of(version, rest) if rest else (200, self.resources(version))

    def objects_of(self, version, rest):
        space = None
        if rest[0] == "namespaces":
            space, rest = rest[1], rest[2:]
            if not rest:  # newer kubectls ask whether there is such a one
                return 200, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": space}}
        group = version.split("/")[0] if "/" in version else ""
        if rest[0] in self.forbidden:
            return status(403, "Forbidden",
                          f'{rest[0]} is forbidden: User "reader" cannot list resource '
                          f'"{rest[0]}" in API group "{group}" at the cluster scope')
        kind = next((kind for of, kind in self.kinds
                     if of == version and PLURALS[kind] == rest[0]), None)
        if not kind:
            return status(404, "NotFound", "the server could not find the requested resource")
        found = [o for o in self.objects if o["apiVersion"] == version and o["kind"] == kind and
                 space in (None, o["metadata"].get("namespace"))]
        if len(rest) == 1:  # as it does, the items do not say what they are
            items = [{k: v for k, v in o.items() if k not in ("apiVersion", "kind")} for o in found]
            return 200, {"kind": kind + "List", "apiVersion": version,
                         "metadata": {"resourceVersion": "1"}, "items": items}
        one = [o for o in found if o["metadata"]["name"] == rest[1]]
        return (200, one[0]) if one else status(404, "NotFound",
                                                f'{rest[0]} "{rest[1]}" not found')
