"""Checks of pods: all that admission, the scheduler or the service itself would refuse.

Each check takes the objects of a build and gives its complaints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

from pydantic import ValidationError

from service.command_line import CONFIG_VARIABLE
from service.settings import ENV_PREFIX, Settings, variable
from tests.k8s.manifests import Objects
from tests.k8s.pods import Pod, pods, quantity, serving

_KNOWN = {variable(name) for name in Settings.model_fields} | {CONFIG_VARIABLE}
# By pod: made by people before the build is applied, or by another build.
_FROM_OUTSIDE = {
    "Deployment/ecenet": {("Secret", "ecenet-api-keys")},
    "Deployment/ecenet-canary": {("Secret", "ecenet-api-keys")},
    "Job/ecenet-build-engine": {("PersistentVolumeClaim", "ecenet-engine-cache")},
    "Job/ecenet-train": {("PersistentVolumeClaim", "ecenet-data"), ("PersistentVolumeClaim", "ecenet-runs")},
    "JobSet/ecenet-train": {("PersistentVolumeClaim", "ecenet-data"), ("PersistentVolumeClaim", "ecenet-runs")},
}
_WRITTEN = ("ECENET_ENGINE_DIR", "ECENET_STATE_DIR")


def restricted(objects: Objects) -> Iterator[str]:
    """The Pod Security profile ``restricted``, and a read-only root file system, which it does not ask for."""
    for pod in pods(objects):
        for container in pod.containers:
            yield from (f"{pod.name}: {problem}" for problem in _less_than_restricted(pod, container))
        for volume in pod.spec.get("volumes", []):
            if kind := set(volume) - {"name", "configMap", "emptyDir", "persistentVolumeClaim", "secret"}:
                yield f"{pod.name}: volume {volume['name']} is of kind {kind}"


def _less_than_restricted(pod: Pod, container: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**pod.spec.get("securityContext", {}), **own}
    wanted = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001}
    yield from (f"{key} is {both.get(key)}, not {value}" for key, value in wanted.items() if both.get(key) != value)
    if both.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile is not RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "privileges can be gained"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"capabilities are {own.get('capabilities')}"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "the root file system can be written"
    if any(pod.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the host"


def needs_no_token(objects: Objects) -> Iterator[str]:
    """No pod talks to the API server, and none gets ``ECENET_PORT=tcp://...`` from a Service of that name."""
    for pod in pods(objects):
        for key in ("automountServiceAccountToken", "enableServiceLinks"):
            if pod.spec.get(key) is not False:
                yield f"{pod.name}: {key} is {pod.spec.get(key)}"


def resources(objects: Objects) -> Iterator[str]:
    """Everything but CPU is requested whole; the CPU limit is whole cores, which the service counts its threads by."""
    for pod in pods(objects):
        for container in pod.containers:
            requests, limits = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
            if missing := {"cpu", "memory"} - set(limits):
                yield f"{pod.name}: no limit of {sorted(missing)}"
            if _without_cpu(requests) != _without_cpu(limits):
                yield f"{pod.name}: requests are not the limits"
            yield from _cpu_fits(pod, requests.get("cpu", "0"), limits.get("cpu", "0"))
            yield from _scratch_fits(pod, limits.get("ephemeral-storage"))


def _without_cpu(amounts: dict[str, str]) -> dict[str, str]:
    return {name: amount for name, amount in amounts.items() if name != "cpu"}


def _cpu_fits(pod: Pod, request: str, limit: str) -> Iterator[str]:
    if quantity(limit) % 1:
        yield f"{pod.name}: {limit} cores are not a whole number of threads"
    if not quantity(limit) / 2 <= quantity(request) <= quantity(limit):
        yield f"{pod.name}: asks for {request} cores of {limit}"


def _scratch_fits(pod: Pod, limit: str | None) -> Iterator[str]:
    scratch = [volume["emptyDir"] for volume in pod.spec.get("volumes", []) if "emptyDir" in volume]
    on_disk = [volume.get("sizeLimit", "0") for volume in scratch if volume.get("medium") != "Memory"]
    total = sum(quantity(size) for size in on_disk)
    if limit is not None and total > quantity(limit):
        yield f"{pod.name}: emptyDir volumes of {total:.0f} bytes, ephemeral-storage of {limit}"


def images(objects: Objects) -> Iterator[str]:
    """An image of a version: a tag, and not one that moves."""
    for pod in pods(objects):
        for container in pod.containers:
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            if tag in {"", "latest", "cpu", "gpu"}:
                yield f"{pod.name}: image {container['image']} has no version"


def volumes(objects: Objects) -> Iterator[str]:
    """Every mount has its volume and the other way round, and no two share a path."""
    for pod in pods(objects):
        mounts = [mount for container in pod.containers for mount in container.get("volumeMounts", [])]
        there = {volume["name"] for volume in pod.spec.get("volumes", [])}
        used = {mount["name"] for mount in mounts}
        if there != used:
            yield f"{pod.name}: volumes {sorted(there)}, mounts of {sorted(used)}"
        paths = [mount["mountPath"] for mount in mounts]
        if len(paths) != len(set(paths)):
            yield f"{pod.name}: a path is mounted twice"


def written_folders(objects: Objects) -> Iterator[str]:
    """Folders that the service writes to lie on a writable volume, engines and their key on the same one."""
    for pod, container, variables in serving(objects):
        writable = {
            mount["mountPath"]: mount["name"]
            for mount in container.get("volumeMounts", [])
            if not mount.get("readOnly")
        }
        places = {
            name: next((volume for path, volume in writable.items() if f"{folder}/".startswith(f"{path}/")), None)
            for name in _WRITTEN
            if (folder := variables.get(name))
        }
        if None in places.values() or len(set(places.values())) > 1:
            yield f"{pod.name}: {places}"


def references(objects: Objects) -> Iterator[str]:
    """ConfigMaps, Secrets, claims and accounts that a pod names are in the build, or known to be from elsewhere."""
    made = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for pod in pods(objects):
        for kind, name in sorted(_named_by(pod) - made - _FROM_OUTSIDE.get(pod.name, set())):
            yield f"{pod.name}: {kind} {name} is not there"


def _named_by(pod: Pod) -> set[tuple[str, str]]:
    named = {("ServiceAccount", pod.spec["serviceAccountName"])} if "serviceAccountName" in pod.spec else set()
    for volume in pod.spec.get("volumes", []):
        named |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
        named |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
        claim = volume.get("persistentVolumeClaim")
        named |= {("PersistentVolumeClaim", claim["claimName"])} if claim else set()
    for container in pod.containers:
        named |= {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])}
    return named


def settings(objects: Objects) -> Iterator[str]:
    """Every ``ECENET_`` variable is one that is read, with a value that the service takes."""
    for pod in pods(objects):
        for container in pod.containers:
            names = {entry["name"] for entry in container.get("env", []) if entry["name"].startswith(ENV_PREFIX)}
            yield from (f"{pod.name}: {name} is not a setting" for name in sorted(names - _KNOWN))
    for pod, _container, variables in serving(objects):
        yield from (f"{pod.name}: {name} is not a setting" for name in sorted(set(variables) - _KNOWN))
        try:
            settings_of(variables)
        except ValidationError as error:
            yield f"{pod.name}: {error}"


def end_of_a_pod(objects: Objects) -> Iterator[str]:
    """The time that a pod has to end, from preStop to SIGKILL, is longer than everything that it waits for."""
    for pod, container, variables in serving(objects):
        effective = settings_of(variables)
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not sleep:
            yield f"{pod.name}: no preStop, so requests are sent to a pod that has stopped"
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        # One second for answers that are already made, as service.server gives them.
        if grace <= sleep + effective.drain_timeout_s + 1:
            yield f"{pod.name}: grace period {grace} s, preStop {sleep} s, drain {effective.drain_timeout_s} s"
        if effective.drain_timeout_s < effective.request_timeout_s + effective.drain_delay_s:
            yield f"{pod.name}: drain_timeout_s {effective.drain_timeout_s} cuts requests off"


def settings_of(variables: dict[str, str]) -> Settings:
    """The settings of a process with this environment."""
    ours = {name: value for name, value in variables.items() if name.startswith(ENV_PREFIX)}
    with mock.patch.dict(os.environ, ours, clear=True):
        return Settings()
