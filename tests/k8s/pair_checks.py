"""Checks that compare two builds: canary and stable, tenant and platform, before and after."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tests.k8s.manifests import Object, Objects, name_of, of_kind
from tests.k8s.object_checks import CLUSTER_WIDE
from tests.k8s.pods import pods
from tests.k8s.scheduler import requests

_SUFFIX = "-canary"
_OF_THE_PLATFORM = {*CLUSTER_WIDE, "ResourceQuota", "LimitRange"}


def canary_differs(stable: Objects, canary: Objects) -> Iterator[str]:
    """The canary's pods are the stable one's but for name and image, and so is the route but for the weight."""
    for kind in ("Deployment", "Ingress", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Service"):
        theirs = {item["metadata"]["name"] + _SUFFIX: item for item in of_kind(stable, kind)}
        for item in of_kind(canary, kind):
            if item["metadata"]["name"] not in theirs:
                yield f"{name_of(item)} has no stable counterpart"
            elif paths := sorted(_differences(_plain(theirs[item["metadata"]["name"]]), _plain(item))):
                yield f"{name_of(item)} differs in {paths}"


def _plain(item: Object) -> dict[str, Any]:
    """The spec without what a canary may have of its own: instance, name, image, and hashes in names."""
    spec = copy.deepcopy(item["spec"])
    for container in spec.get("template", {}).get("spec", {}).get("containers", []):
        del container["image"]
    return {"spec": _without_names(spec)}


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_names(inner)
            for key, inner in value.items()
            if key not in {"app.kubernetes.io/instance", "name"}
        }
    if isinstance(value, list):
        return [_without_names(inner) for inner in value]
    return value.removesuffix(_SUFFIX) if isinstance(value, str) else value


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _differences(a, b, f"{path}.{number}")
    elif one != other and not path.endswith(".serviceAccountName"):
        yield path.removeprefix(".")


def quota_has_room(platform: Objects, tenant: Objects, job: Objects = ()) -> Iterator[str]:  # type: ignore[assignment]
    """The quota lets all replicas, a rollout's surge and the Job that builds engines run at the same time."""
    (scaler,) = of_kind(tenant, "HorizontalPodAutoscaler")
    (pod,) = pods(tenant)
    surge = pod.owner["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    wanted = {key: count * (scaler["spec"]["maxReplicas"] + surge) for key, count in requests(pod).items()}
    for builder in pods(list(job)):
        for key, count in requests(builder).items():
            wanted[key] = wanted.get(key, 0.0) + count
    for quota in of_kind(platform, "ResourceQuota"):
        for key, limit in quota["spec"]["hard"].items():
            if wanted.get(key.removeprefix("requests."), 0.0) > float(limit):
                yield f"{name_of(quota)}: {wanted[key.removeprefix('requests.')]:.0f} {key}, the quota is {limit}"


def needs_the_platform_team(tenant: Objects) -> Iterator[str]:
    """Objects that the admin of a namespace may not apply."""
    yield from (name_of(item) for item in tenant if item["kind"] in _OF_THE_PLATFORM)


def left_behind(before: Objects, after: Objects) -> set[str]:
    """Objects that a plain ``kubectl apply`` of ``after`` leaves on the cluster; ConfigMaps are kept for rollbacks."""
    return {name_of(item) for item in before if item["kind"] != "ConfigMap"} - {name_of(item) for item in after}
