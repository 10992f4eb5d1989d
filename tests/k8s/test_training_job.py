"""The Job for distributed training: its numbers and names agree with one another and with the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.k8s.manifests import Build, Objects, of_kind, render
from trainer.config import load_config
from trainer.train import _parser as train_parser


@pytest.fixture
def objects() -> Objects:
    return render(Build("jobs/training"))


@pytest.fixture
def service(objects: Objects) -> dict[str, Any]:
    (service,) = of_kind(objects, "Service")
    return service


@pytest.fixture
def job(objects: Objects) -> dict[str, Any]:
    (job,) = of_kind(objects, "Job")
    return job


def test_the_experiment_is_one_that_the_trainer_reads(objects: Objects, tmp_path: Path) -> None:
    (config_map,) = of_kind(objects, "ConfigMap")
    ((name, text),) = config_map["data"].items()
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_config(tmp_path / name).data.dataset == "ade20k"


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
