"""Effects of a scheduler, an autoscaler or a controller on the objects of a build.

Each check takes the objects of a build and gives its complaints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.k8s.manifests import Object, Objects, name_of, of_kind
from tests.k8s.nodes import FOUR_CORES, SMALLEST, ZONE, Node
from tests.k8s.pods import Pod, pods
from tests.k8s.scheduler import Cluster, admits, requests

_CHANGE_CAUSE = "kubernetes.io/change-cause"
_EVICTABLE = "cluster-autoscaler.kubernetes.io/safe-to-evict"
# What a proxy counts by itself, whatever runs behind it, by the kind of route that leads there.
_COUNTED_BY_ROUTE = {"Ingress": "nginx_ingress_controller_requests", "HTTPRoute": "envoy_http_downstream_rq_total"}
_NAME_SERVERS = {
    ("kube-system", 53): "kube-dns",
    ("openshift-dns", 5353): "OpenShift",
    ("169.254.20.10/32", 53): "NodeLocal DNSCache",
    ("169.254.169.254/32", 53): "Cloud DNS",
}


def spread(objects: Objects) -> Iterator[str]:
    """Two replicas land on two nodes, whether the nodes have the label of a zone or not, and in two zones if asked."""
    bare, zoned = (_like(FOUR_CORES, ("", "")), _like(FOUR_CORES, ("a", "b", "a")))
    for pod in pods(objects):
        if pod.owner["kind"] != "Deployment":
            continue
        for nodes in (bare, zoned):
            cluster = Cluster(tuple(_welcoming(node, pod) for node in nodes))
            homes = [home for home in (cluster.place(pod), cluster.place(pod)) if home is not None]
            if len({home.name for home in homes}) < len(homes):
                yield f"{pod.name}: two replicas on one node"
            zones = {home.label(ZONE) for home in homes}
            if ZONE in _topology_keys(pod) and len(zones) < len(homes):
                yield f"{pod.name}: two replicas in one zone"
        if _topology_keys(pod)[-1:] == [] or len(homes) < 2:
            yield f"{pod.name}: is not spread"


def _topology_keys(pod: Pod) -> list[str]:
    return [constraint["topologyKey"] for constraint in pod.spec.get("topologySpreadConstraints", [])]


def _like(node: Node, zones: tuple[str, ...]) -> tuple[Node, ...]:
    return tuple(
        node.renamed(f"node-{number}", zone=zone) if zone else node.renamed(f"node-{number}")
        for number, zone in enumerate(zones)
    )


def _welcoming(node: Node, pod: Pod) -> Node:
    """The node with room for two, and with the labels that the pod selects by."""
    free = {key: max(node.free.get(key, 0.0), 2 * amount) for key, amount in requests(pod).items()}
    return Node(node.name, free, {**node.labels, **pod.spec.get("nodeSelector", {})})


def fits(objects: Objects) -> Iterator[str]:
    """Pods fit on the smallest nodes that the README names for them, beside the cluster's own."""
    for pod in pods(objects):
        devices = {key for key in requests(pod) if key.startswith("nvidia.com/")}
        zoned = [(node.renamed(node.name, zone="a"), count) for node, count in SMALLEST]
        nodes = [(node, count) for node, count in zoned if _is_meant_for(node, pod, devices)]
        if not nodes:
            yield f"{pod.name}: no node of the README is meant for it"
        for node, count in nodes:
            cluster = Cluster((node,))
            if placed := [home for home in (cluster.place(pod) for _ in range(_wanted(pod, count))) if home is None]:
                yield f"{pod.name}: {len(placed)} of {_wanted(pod, count)} have no room on {node.name}"


def _is_meant_for(node: Node, pod: Pod, devices: set[str]) -> bool:
    """A node with the devices, and as many of them as a pod asks for."""
    own = {key for key in node.free if key.startswith("nvidia.com/")}
    return own == devices and admits(node, pod) and all(requests(pod)[key] <= node.free[key] for key in devices)


def _wanted(pod: Pod, count: int) -> int:
    """A Job runs one pod on a node."""
    return count if pod.owner["kind"] in {"Deployment", "InferenceService"} else 1


def wakes(objects: Objects) -> Iterator[str]:
    """A service at zero replicas is woken by what the route to it counts, as it counts nothing itself."""
    for scaler in of_kind(objects, "ScaledObject"):
        queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
        counted = [metric for kind, metric in _COUNTED_BY_ROUTE.items() if of_kind(objects, kind)]
        if scaler["spec"]["minReplicaCount"] == 0 and not any(
            metric in query for metric in counted for query in queries
        ):
            yield f"{name_of(scaler)}: nothing that {counted or 'a route'} counts wakes it from zero"


def name_servers(objects: Objects) -> Iterator[str]:
    """Pods that may ask for names can do so on every kind of cluster."""
    for policy in of_kind(objects, "NetworkPolicy"):
        rules = policy["spec"].get("egress", [])
        asked = [rule for rule in rules if any(port.get("port") in {53, 5353} for port in rule.get("ports", []))]
        if not asked:
            continue
        for (place, port), name in _NAME_SERVERS.items():
            if not any(_leads_to(rule, place, port) for rule in asked):
                yield f"{name_of(policy)}: {name} cannot be asked"


def _leads_to(rule: dict[str, Any], place: str, port: int) -> bool:
    places = set()
    for peer in rule["to"]:
        selector = peer.get("namespaceSelector", {})
        places |= set(selector.get("matchLabels", {}).values()) | {peer.get("ipBlock", {}).get("cidr")}
        for expression in selector.get("matchExpressions", []):
            places |= set(expression["values"])
    protocols = {each["protocol"] for each in rule["ports"] if each["port"] == port}
    return place in places and protocols == {"UDP", "TCP"}


def architecture(objects: Objects) -> Iterator[str]:
    """Pods of an image for one architecture stay on nodes of it."""
    for pod in pods(objects):
        several = pod.owner["metadata"].get("annotations", {}).get("ecenet/architectures")
        if "kubernetes.io/arch" not in pod.spec.get("nodeSelector", {}) and not several:
            yield f"{pod.name} may land on a node of another architecture"


def change_cause(objects: Objects) -> Iterator[str]:
    """``kubectl rollout history`` tells the image of a revision."""
    for item in of_kind(objects, "Deployment"):
        cause = item["metadata"].get("annotations", {}).get(_CHANGE_CAUSE)
        if cause != item["spec"]["template"]["spec"]["containers"][0]["image"]:
            yield f"{name_of(item)}: the cause of the change is {cause}"


def eviction(objects: Objects) -> Iterator[str]:
    """The cluster autoscaler may move replicas, whose volumes are caches, and not the work of hours."""
    for pod in pods(objects):
        template = _template(pod.owner)
        heavy = pod.owner["kind"] == "Deployment" or any(key.startswith("nvidia.com/") for key in requests(pod))
        if template is None or not heavy:
            continue
        wanted = "true" if pod.owner["kind"] == "Deployment" else "false"
        if template["metadata"].get("annotations", {}).get(_EVICTABLE) != wanted:
            yield f"{pod.name}: {_EVICTABLE} is not {wanted}"


def _template(owner: Object) -> dict[str, Any] | None:
    if owner["kind"] == "JobSet":
        owner = owner["spec"]["replicatedJobs"][0]["template"]
    template: dict[str, Any] | None = owner["spec"].get("template")
    return template


def claims(objects: Objects) -> Iterator[str]:
    """A volume that several replicas mount can be mounted on several nodes."""
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        if not set(claim["spec"]["accessModes"]) <= {"ReadWriteMany", "ReadOnlyMany"}:
            yield f"{name_of(claim)} can be mounted on one node"


def jobs(objects: Objects) -> Iterator[str]:
    """A Job stays as it ended, so nobody makes it again, and several pods outlive disruptions."""
    for owner, job in _jobs(objects):
        if "ttlSecondsAfterFinished" in job:
            yield f"{owner} removes itself, and whoever keeps the repository's state makes it again"
        if job.get("completionMode") != "Indexed":
            continue
        rules = job.get("podFailurePolicy", {}).get("rules", [])
        if not any(each["type"] == "DisruptionTarget" for rule in rules for each in rule.get("onPodConditions", [])):
            yield f"{owner} counts a drain as a failure"
        if job.get("podReplacementPolicy") != "Failed":
            yield f"{owner} starts a successor beside a pod that ends"
    for item in of_kind(objects, "Job", "JobSet"):
        spec = item["spec"]
        if item["kind"] == "Job" and spec.get("completionMode") != "Indexed":
            continue
        retries = spec["backoffLimit"] if item["kind"] == "Job" else spec["failurePolicy"]["maxRestarts"]
        if retries < 100:
            yield f"{name_of(item)} gives up after {retries} failures, which pods that wait for one another use up"


def _jobs(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in of_kind(objects, "Job"):
        yield name_of(item), item["spec"]
    for item in of_kind(objects, "JobSet"):
        yield from ((name_of(item), replicated["template"]["spec"]) for replicated in item["spec"]["replicatedJobs"])


def shutdown(objects: Objects) -> Iterator[str]:
    """torchrun gives its processes the time that Kubernetes gives the pod, less a minute to end itself."""
    for pod in pods(objects):
        script = " ".join(pod.spec["containers"][0].get("args", []))
        if "torchrun" not in script and "torchrun" not in pod.spec["containers"][0].get("command", []):
            continue
        found = re.search(r"--shutdown-timeout=(\d+)", script)
        patience, grace = int(found[1]) if found else 30, pod.spec.get("terminationGracePeriodSeconds", 30)
        if not grace / 2 <= patience <= grace - 60:
            yield f"{pod.name}: torchrun kills its processes after {patience} s of {grace} s"


def configuration(objects: Objects) -> Iterator[str]:
    """A pod that starts again finds the configuration that the run began with."""
    maps = {item["metadata"]["name"]: item for item in of_kind(objects, "ConfigMap")}
    for pod in pods(objects):
        for volume in pod.spec.get("volumes", []):
            name = volume.get("configMap", {}).get("name")
            hashed = re.search(r"-[a-z0-9]{10}$", name or "")
            if name in maps and not hashed and not maps[name].get("immutable"):
                yield f"{pod.name}: ConfigMap {name} can be changed under a run"


def deployment_mode(objects: Objects) -> Iterator[str]:
    """KServe's own name of the mode, or it writes another one and a GitOps controller writes it back."""
    for item in of_kind(objects, "InferenceService"):
        mode = item["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode")
        if mode not in {"Standard", "Knative"}:
            yield f"{name_of(item)}: KServe writes another deploymentMode than {mode}"


CHECKS = (
    architecture,
    change_cause,
    claims,
    configuration,
    deployment_mode,
    eviction,
    fits,
    jobs,
    name_servers,
    shutdown,
    spread,
    wakes,
)
