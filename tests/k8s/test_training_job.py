"""The Job for distributed training: valid, and its numbers and names agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from trainer.train import _parser as train_parser

PATH = Path(__file__).parents[2] / "k8s" / "training-job.yaml"


@pytest.fixture
def objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(PATH.read_text(encoding="utf-8")))


@pytest.fixture
def service(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return objects[0]


@pytest.fixture
def job(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return objects[1]


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_objects_fit_the_schema(objects: list[dict[str, Any]], version: str) -> None:
    assert [document["kind"] for document in objects] == ["Service", "Job"]
    for document in objects:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_service_finds_the_pods_and_names_them(service: dict[str, Any], job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    endpoint = f"{job['metadata']['name']}-0.{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert f"--rdzv-endpoint={endpoint}" in container["args"]
    assert [port["name"] for port in container["ports"]] == [port["name"] for port in service["spec"]["ports"]]


def test_processes_are_as_many_as_gpus(job: dict[str, Any]) -> None:
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed"
    assert f"--nnodes={spec['parallelism']}" in container["args"]
    assert spec["parallelism"] == spec["completions"]
    resources = container["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={resources['limits']['nvidia.com/gpu']}" in container["args"]


def test_the_command_parses_and_its_folders_are_mounted(job: dict[str, Any]) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    module = arguments.index("trainer.train")
    args = train_parser().parse_args(arguments[module + 1 :])
    assert args.auto_resume
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for path in (args.config.parent, args.data, args.output.parent):
        assert str(path) in mounts
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
