"""The Job for distributed training: its numbers and names agree with one another and with the trainer."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from tests.k8s.manifests import Build, Objects, of_kind, render
from tests.k8s.pods import pods, quantity
from tests.k8s.scheduler import requests
from trainer.config import load_config
from trainer.train import argument_parser as train_parser


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
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    port = service["spec"]["ports"][0]["port"]
    assert [launched(container, rank).master_addr for rank in (0, 1)] == ["localhost", first]
    assert {launched(container, rank).master_port for rank in (0, 1)} == {port}
    assert [port["name"] for port in container["ports"]] == [port["name"] for port in service["spec"]["ports"]]


def test_processes_are_as_many_as_gpus(job: dict[str, Any]) -> None:
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == int(launched(container, 0).nnodes)
    assert [launched(container, rank).node_rank for rank in (0, 1)] == [0, 1]
    resources = container["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]
    assert launched(container, 0).nproc_per_node == resources["limits"]["nvidia.com/gpu"]


def test_a_checkpoint_has_the_time_that_the_pod_has(job: dict[str, Any]) -> None:
    spec = job["spec"]["template"]["spec"]
    assert launched(spec["containers"][0], 0).shutdown_timeout == 240 < spec["terminationGracePeriodSeconds"]


def test_the_command_parses_and_its_folders_are_mounted(job: dict[str, Any]) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    launcher = launched(container, 1)
    assert (launcher.module, launcher.training_script) == (True, "trainer.train")
    args = train_parser().parse_args(launcher.training_script_args)
    assert args.auto_resume
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for path in (args.config.parent, args.data, args.output.parent):
        assert str(path) in mounts
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_job_set_starts_the_same_pods(job: dict[str, Any]) -> None:
    (job_set,) = of_kind(render(Build("jobs/training-jobset")), "JobSet")
    (replicated,) = job_set["spec"]["replicatedJobs"]
    ours, theirs = job["spec"]["template"], replicated["template"]["spec"]["template"]
    first = f"{job_set['metadata']['name']}-{replicated['name']}-0-0.{job_set['spec']['network']['subdomain']}"
    assert launched(theirs["spec"]["containers"][0], 1).master_addr == first
    del ours["spec"]["subdomain"]  # JobSet sets it
    theirs["spec"]["containers"][0]["args"] = [
        line.replace(first, "ecenet-train-0.ecenet-train") for line in theirs["spec"]["containers"][0]["args"]
    ]
    assert theirs == ours


@pytest.mark.parametrize("folder", ["jobs/training", "jobs/training-jobset"])
def test_a_queued_training_goes_to_a_queue_with_room_for_it(folder: str) -> None:
    objects = render(Build(folder, ("kueue",)))
    (work,) = of_kind(objects, "Job", "JobSet")
    (local,) = of_kind(objects, "LocalQueue")
    (queue,) = of_kind(render(Build("platform/training-queue")), "ClusterQueue")
    assert work["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    assert "suspend" not in work["spec"]  # Kueue's own
    selector = queue["spec"]["namespaceSelector"]["matchLabels"]
    assert selector["kubernetes.io/metadata.name"] == work["metadata"]["namespace"]
    (flavor,) = queue["spec"]["resourceGroups"][0]["flavors"]
    room = {each["name"]: quantity(each["nominalQuota"]) for each in flavor["resources"]}
    (pod,) = pods(objects)
    assert {key: 2 * amount for key, amount in requests(pod).items()} == room


def launched(container: dict[str, Any], rank: int) -> argparse.Namespace:
    """Parse a container's command in the pod of an index, as torchrun does."""
    environment = {"JOB_COMPLETION_INDEX": str(rank), "PATH": os.environ["PATH"]}
    (script,) = container["args"]
    show = 'torchrun() { for word in "$@"; do printf "%s\\n" "$word"; done; }\n'
    shell = subprocess.run(
        [*container["command"], show + script.replace("exec torchrun", "torchrun")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return get_args_parser().parse_args(shell.stdout.splitlines())
