"""Every build of the manifests fits the schemas of Kubernetes and of the CRDs, and its objects fit together."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s import cluster_checks, object_checks, pod_checks
from tests.k8s.crd_schemas import SCHEMAS
from tests.k8s.manifests import BUILDS, K8S, Build, Object, Objects, name_of, render
from tests.k8s.pods import pods

Check = Callable[[Objects], Iterator[str]]

CHECKS: tuple[Check, ...] = (
    object_checks.autoscaling,
    object_checks.backends,
    object_checks.disruption,
    object_checks.names,
    object_checks.namespaces,
    object_checks.network,
    object_checks.ports,
    object_checks.rollout,
    object_checks.selectors,
    pod_checks.end_of_a_pod,
    pod_checks.images,
    pod_checks.needs_no_token,
    pod_checks.references,
    pod_checks.resources,
    pod_checks.restricted,
    pod_checks.settings,
    pod_checks.volumes,
    pod_checks.written_folders,
    *cluster_checks.CHECKS,
)
# Modules of PyPI's models, whose import takes seconds.
MODELS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
}
VERSIONS = ("1.31", kubernetes_validate.latest_version())

each_build = pytest.mark.parametrize("build", BUILDS, ids=str)


def test_every_kustomization_is_in_a_build() -> None:
    found = {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")}
    used = {f"components/{part}" for build in BUILDS for part in build.components}
    for build in BUILDS:
        used |= set(_used(K8S / build.folder))
    assert found == used


@pytest.mark.parametrize("component", sorted(path.name for path in (K8S / "components").iterdir()))
def test_a_component_builds_alone(component: str) -> None:
    """A component may patch what an overlay does not have: overlays of others need not have all that ours have."""
    render(Build(f"components/{component}"))


def _used(folder: Path) -> Iterator[str]:
    """A folder, and those that its kustomization names."""
    yield str(folder.relative_to(K8S))
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    for name in (*kustomization.get("resources", ()), *kustomization.get("components", ())):
        if (folder / name).is_dir() and (folder / name).resolve().is_relative_to(K8S):
            yield from _used((folder / name).resolve())


@each_build
def test_objects_fit_the_schemas(build: Build) -> None:
    for item in render(build):
        _validate_once(json.dumps(item))


@each_build
def test_objects_fit_together(build: Build) -> None:
    objects = render(build)
    assert [f"{check.__name__}: {problem}" for check in CHECKS for problem in check(objects)] == []


@each_build
def test_pods_of_custom_resources_are_pods(build: Build) -> None:
    for pod in pods(render(build)):
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod.spec}
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)


def test_the_base_and_the_overlays_need_no_crd() -> None:
    for build in BUILDS:
        if build.folder in {
            "overlays/cpu",
            "overlays/gpu",
            "overlays/gpu-multi-tenant",
            "jobs/build-engine",
            "jobs/training",
        } and (not build.components):
            assert {item["kind"] for item in render(build)}.isdisjoint({*MODELS, *SCHEMAS}), build


@functools.cache
def _validate_once(item: str) -> None:
    """Most objects are the same in several builds."""
    validate(json.loads(item))


def validate(item: Object) -> None:
    """Raises an error if an object does not fit its schema; unknown kinds and unknown fields do not fit."""
    kind = item["kind"]
    if kind in SCHEMAS:
        jsonschema.validate(item, SCHEMAS[kind])
        for job in _jobs_of(item):
            validate(job)
    elif kind in MODELS:
        model = getattr(importlib.import_module(MODELS[kind]), kind).model_validate(item)
        lost = _lost(item, model.model_dump(by_alias=True, exclude_unset=True, mode="json"))
        assert not lost, f"{name_of(item)} has unknown fields {lost}"
    else:
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)


def _jobs_of(item: Object) -> Iterator[Object]:
    """The Jobs that a JobSet makes."""
    if item["kind"] == "JobSet":
        for replicated in item["spec"]["replicatedJobs"]:
            metadata = {"name": f"{item['metadata']['name']}-{replicated['name']}-0"}
            yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, **replicated["template"]}


def _lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Fields that a model has dropped, which it does where it does not know them."""
    if isinstance(given, dict) and isinstance(kept, dict):
        missing = [f"{path}.{key}" for key in given if key not in kept]
        return missing + [
            lost for key in given if key in kept for lost in _lost(given[key], kept[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [lost for a, b in zip(given, kept, strict=True) for lost in _lost(a, b, f"{path}[]")]
    return []
