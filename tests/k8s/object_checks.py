"""Checks of objects together, which linters miss: selectors, names and ports that refer to each other.

Each check takes the objects of a build and gives its complaints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.k8s.manifests import Object, Objects, name_of, of_kind
from tests.k8s.pods import Pod, pods, selects, serving

CLUSTER_WIDE = ("Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor")
_MANAGEMENT = ("/metrics", "/healthz", "/readyz", "/v2/repository")


def namespaces(objects: Objects) -> Iterator[str]:
    """Every object says where it goes, and to one place only."""
    found = {item["metadata"].get("namespace") for item in objects if item["kind"] not in CLUSTER_WIDE}
    names = {item["metadata"]["name"] for item in of_kind(objects, "Namespace")}
    if len(found) > 1 or None in found:
        yield f"objects go to {sorted(map(str, found))}"
    if names and names != found:
        yield f"objects go to {sorted(map(str, found))}, the build makes {sorted(names)}"


def names(objects: Objects) -> Iterator[str]:
    """No two objects of a kind have one name, and no object is of a name that the kind does not take."""
    seen = [name_of(item) for item in objects]
    yield from (f"{name} is there twice" for name in sorted({name for name in seen if seen.count(name) > 1}))
    for item in objects:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", item["metadata"]["name"]):
            yield f"{name_of(item)} has no valid name"


def selectors(objects: Objects) -> Iterator[str]:
    """Selectors find the pods of the same instance, and only them."""
    for item in of_kind(objects, "Deployment"):
        if not selects(item["spec"]["selector"]["matchLabels"], item["spec"]["template"]["metadata"]["labels"]):
            yield f"{name_of(item)} does not select its own pods"
    for item in of_kind(objects, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = item["spec"]
        selector = spec.get("selector") if item["kind"] == "Service" else _labels_of(spec)
        if selector == {}:
            continue  # a policy for all pods says so
        if not any(selects(selector or {}, pod.labels) for pod in pods(objects)):
            yield f"{name_of(item)} selects no pod by {selector}"
    for pod in pods(objects):
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            if not selects(constraint["labelSelector"]["matchLabels"], pod.labels):
                yield f"{pod.name}: spreads other pods over {constraint['topologyKey']}"


def _labels_of(spec: dict[str, Any]) -> dict[str, str]:
    selector: dict[str, Any] = spec.get("podSelector", spec.get("selector", {}))
    labels: dict[str, str] = selector.get("matchLabels", {})
    return labels


def ports(objects: Objects) -> Iterator[str]:
    """Names of ports are those of the containers behind, and probes ask them for paths by name."""
    for service in of_kind(objects, "Service"):
        behind = [pod for pod in pods(objects) if selects(service["spec"]["selector"], pod.labels)]
        for port in service["spec"]["ports"]:
            yield from _has_port(name_of(service), port.get("targetPort"), behind)
    for policy in of_kind(objects, "NetworkPolicy"):
        behind = [pod for pod in pods(objects) if selects(_labels_of(policy["spec"]), pod.labels)]
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                yield from _has_port(name_of(policy), port["port"], behind)
    for pod, container, _ in serving(objects):
        mine = {value for port in container["ports"] for value in (port["name"], port["containerPort"])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if (port := container.get(probe, {}).get("httpGet", {}).get("port")) not in mine:
                yield f"{pod.name}: {probe} asks port {port}"
    for monitor in of_kind(objects, "ServiceMonitor"):
        names = {port["name"] for service in of_kind(objects, "Service") for port in service["spec"]["ports"]}
        wrong = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} - names
        yield from (f"{name_of(monitor)} scrapes port {port}" for port in sorted(wrong))


def _has_port(owner: str, port: Any, behind: list[Pod]) -> Iterator[str]:
    for pod in behind:
        if port not in pod.port_names:
            yield f"{owner} names port {port!r}, {pod.name} has {sorted(pod.port_names)}"


def backends(objects: Objects) -> Iterator[str]:
    """Routes lead to ports of Services of the build, and not to what operators alone should reach."""
    services = {item["metadata"]["name"]: item["spec"]["ports"] for item in of_kind(objects, "Service")}
    services |= {f"{name}-canary": ports for name, ports in services.items()}  # of a build of its own
    for owner, path, service, port in _routes(objects):
        known = {value for each in services.get(service, []) for value in (each["name"], each["port"])}
        if port not in known:
            yield f"{owner} sends {path} to {service}:{port}"
        if any(_leads_to(path, target) for target in _MANAGEMENT):
            yield f"{owner} lets {path} through"
        # The rule of ingress-nginx's admission webhook, strict-validate-path-type.
        if owner.startswith("Ingress/") and path[0] != "ImplementationSpecific" and re.search(r"[^\w/-]", path[1]):
            yield f"{owner}: ingress-nginx refuses {path}"


def _routes(objects: Objects) -> Iterator[tuple[str, tuple[str, str], str, Any]]:
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                port = path["backend"]["service"]["port"]
                value = next(iter(port.values())) if len(port) == 1 else port
                yield name_of(ingress), (path["pathType"], path["path"]), path["backend"]["service"]["name"], value
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for match in rule["matches"]:
                for backend in rule["backendRefs"]:
                    path = (match["path"]["type"], match["path"]["value"])
                    yield name_of(route), path, backend["name"], backend["port"]


def _leads_to(path: tuple[str, str], target: str) -> bool:
    kind, value = path
    return target == value or (kind != "Exact" and f"{target}/".startswith(f"{value.rstrip('/')}/"))


def published(objects: Objects, path: str) -> bool:
    """Check whether a route of the build leads to a path of the service."""
    return any(_leads_to(route, path) for _, route, _, _ in _routes(objects))


def autoscaling(objects: Objects) -> Iterator[str]:
    """One autoscaler at most for a Deployment that is there, with bounds in order, and no fixed number beside it."""
    deployments = {item["metadata"]["name"]: item for item in of_kind(objects, "Deployment")}
    targets = []
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        spec, target = scaler["spec"], scaler["spec"]["scaleTargetRef"]
        is_keda = scaler["kind"] == "ScaledObject"
        least, most = (spec["minReplicaCount"], spec["maxReplicaCount"]) if is_keda else _bounds(scaler)
        if not (0 if is_keda else 1) <= least <= most:
            yield f"{name_of(scaler)} is bounded by {least} and {most}"
        if (target.get("apiVersion"), target.get("kind")) != ("apps/v1", "Deployment"):
            yield f"{name_of(scaler)} scales a {target.get('kind')} of {target.get('apiVersion')}"
        if target["name"] not in deployments:
            yield f"{name_of(scaler)} scales {target['name']}, which is not there"
        elif "replicas" in deployments[target["name"]]["spec"]:
            yield f"{name_of(scaler)} scales {target['name']}, which has a fixed number of replicas"
        targets.append(target["name"])
    yield from (f"{name} has two autoscalers" for name in sorted(set(targets)) if targets.count(name) > 1)


def _bounds(scaler: Object) -> tuple[int, int]:
    return scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]


def disruption(objects: Objects) -> Iterator[str]:
    """Every replica has a budget that names one bound, grows with the number of them, and lets a drain go on."""
    for budget in of_kind(objects, "PodDisruptionBudget"):
        bounds = {key: budget["spec"][key] for key in ("minAvailable", "maxUnavailable") if key in budget["spec"]}
        if len(bounds) != 1:
            yield f"{name_of(budget)} has bounds {bounds}"
        for value in bounds.values():
            if not isinstance(value, int) and not re.fullmatch(r"[1-9][0-9]?%", value):
                yield f"{name_of(budget)}: {value!r} is neither a number nor a share"
        if bounds.get("maxUnavailable") == 0:
            yield f"{name_of(budget)} blocks every drain"
        if isinstance(bounds.get("maxUnavailable"), int):
            yield f"{name_of(budget)} does not grow with the number of replicas"
    for pod, _, _ in serving(objects):
        if not any(
            selects(_labels_of(budget["spec"]), pod.labels) for budget in of_kind(objects, "PodDisruptionBudget")
        ):
            yield f"{pod.name} has no budget"


def rollout(objects: Objects) -> Iterator[str]:
    """A rollout can move, and is not called failed while a pod still has time to start."""
    for item in of_kind(objects, "Deployment"):
        spec = item["spec"]
        rolling = spec["strategy"]["rollingUpdate"]
        if rolling["maxSurge"] == rolling["maxUnavailable"] == 0:
            yield f"{name_of(item)} cannot replace a pod"
        for container in spec["template"]["spec"]["containers"]:
            probe = container["startupProbe"]
            start = probe["periodSeconds"] * probe["failureThreshold"] + spec["minReadySeconds"]
            if spec["progressDeadlineSeconds"] <= start:
                yield f"{name_of(item)}: {start} s to start, {spec['progressDeadlineSeconds']} s to progress"


def network(objects: Objects) -> Iterator[str]:
    """Pods that serve are under a policy for both directions, and none of them gets out."""
    for pod, _, _ in serving(objects):
        policies = [p for p in of_kind(objects, "NetworkPolicy") if selects(_labels_of(p["spec"]), pod.labels)]
        if not any({"Ingress", "Egress"} == set(policy["spec"]["policyTypes"]) for policy in policies):
            yield f"{pod.name} is under no policy for both directions"
        yield from (f"{name_of(policy)} lets {pod.name} out" for policy in policies if policy["spec"].get("egress"))
        if not any(policy["spec"].get("ingress") for policy in policies):
            yield f"{pod.name} cannot be reached"
