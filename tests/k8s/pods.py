"""The pods that the objects of a build ask for, and what can be read off them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.k8s.manifests import Object, Objects, name_of

_TEMPLATES = ("Deployment", "Job")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_KSERVE_CONTAINER = "kserve-container"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template.

    Attributes:
        owner: The object that it is in.
        labels: Labels of the pods.
        spec: Their PodSpec.
        objects: The build.
    """

    owner: Object
    labels: dict[str, str]
    spec: dict[str, Any]
    objects: Objects

    @property
    def name(self) -> str:
        return name_of(self.owner)

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def port_names(self) -> set[str]:
        return {port["name"] for container in self.containers for port in container.get("ports", [])}


def pods(objects: Objects) -> Iterator[Pod]:
    """All pod templates; KServe makes one of a runtime and the service that names it."""
    for item in objects:
        if item["kind"] in _TEMPLATES:
            template = item["spec"]["template"]
            yield Pod(item, template["metadata"]["labels"], template["spec"], objects)
        elif item["kind"] == "JobSet":
            for replicated in item["spec"]["replicatedJobs"]:
                template = replicated["template"]["spec"]["template"]
                yield Pod(item, template["metadata"]["labels"], template["spec"], objects)
        elif item["kind"] == "InferenceService":
            predictor = item["spec"]["predictor"]
            (runtime,) = [
                each
                for each in objects
                if each["kind"] == "ServingRuntime" and each["metadata"]["name"] == predictor["model"]["runtime"]
            ]
            shared = ("containers", "volumes")
            theirs = {
                "minReplicas",
                "maxReplicas",
                "scaleMetric",
                "scaleTarget",
                "timeout",
                "deploymentStrategy",
                "model",
            }
            own = {key: value for key, value in predictor.items() if key not in theirs}
            spec = {**{key: runtime["spec"][key] for key in shared}, **own}
            labels = {"serving.kserve.io/inferenceservice": item["metadata"]["name"], "component": "predictor"}
            yield Pod(item, {**item["metadata"]["labels"], **labels}, spec, objects)


def serving(objects: Objects) -> Iterator[tuple[Pod, dict[str, Any], dict[str, str]]]:
    """Pods that run the service, with its container and the environment that it gets."""
    for pod in pods(objects):
        for container in pod.containers:
            if container["name"] in {"ecenet", _KSERVE_CONTAINER}:
                yield pod, container, environment(container, objects)


def environment(container: dict[str, Any], objects: Objects) -> dict[str, str]:
    """The variables of a container, those of ConfigMaps of the build included."""
    maps = {item["metadata"]["name"]: item.get("data", {}) for item in objects if item["kind"] == "ConfigMap"}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        variables |= maps.get(source.get("configMapRef", {}).get("name"), {})
    return variables | {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def quantity(text: str) -> float:
    """``512Mi`` as bytes, ``500m`` as 0.5."""
    match = re.fullmatch(r"([0-9.]+)(m|k|M|G|Ki|Mi|Gi|Ti|)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, unit = match.groups()
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Check whether ``matchLabels`` find a pod. An empty selector finds none: it is one that was forgotten."""
    return bool(selector) and selector.items() <= labels.items()
