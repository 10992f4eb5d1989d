"""The Compose files: what they name exists, their parts agree, and nothing has rights that it does not need."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.command_line import CONFIG_VARIABLE
from service.settings import Settings, variable
from tests.docker.containers import docker
from tests.support.worst_memory import worst_memory

FOLDER = Path(__file__).resolve().parents[2] / "docker"
BASE, GPU = FOLDER / "compose.yaml", FOLDER / "compose.gpu.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(BASE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param]


def dockerfile(name: str) -> str:
    return (FOLDER.parent / name).read_text(encoding="utf-8")


def test_the_five_parts_are_there() -> None:
    assert set(SERVICES) == {"ecenet", "nginx", "prometheus", "alertmanager", "grafana"}


def test_each_service_is_hardened_and_limited(service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "pid", "network_mode"}
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()


def test_each_service_has_a_health_check(service: dict[str, Any]) -> None:
    if "build" in service:
        assert "HEALTHCHECK" in dockerfile(service["build"]["dockerfile"])
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


def test_images_have_versions(service: dict[str, Any]) -> None:
    _, _, tag = service["image"].partition(":")
    assert tag == "cpu" if "build" in service else re.match(r"v?\d+\.\d+\.\d+", tag)


def test_volumes_and_networks_are_declared_and_used() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service["volumes"]]
    named = {source for source, *_ in mounts if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(COMPOSE["networks"])


def test_mounted_files_exist_and_are_read_only(service: dict[str, Any]) -> None:
    for source, _, *options in (mount.split(":") for mount in service["volumes"] if mount.startswith(".")):
        assert (FOLDER / source).exists()
        assert options == ["ro"]


def test_configurations_are_read_where_they_are_mounted() -> None:
    for name in ("prometheus", "alertmanager"):
        targets = [mount.split(":")[1] for mount in SERVICES[name]["volumes"]]
        (configuration,) = [part.partition("=")[2] for part in SERVICES[name]["command"] if "config.file" in part]
        assert configuration in targets
    provider = yaml.safe_load((FOLDER / "observability/grafana/provisioning/dashboards/ecenet.yaml").read_text())
    path = provider["providers"][0]["options"]["path"]
    assert f"./observability/grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]


def test_only_nginx_and_grafana_are_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"nginx", "grafana"}
    for ports in published.values():
        assert all(port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:") for port in ports)


def test_nginx_finds_the_service_and_is_found() -> None:
    configuration = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    (port,) = SERVICES["nginx"]["ports"]
    assert re.search(rf"listen\s+{port.rpartition(':')[2]}\b", configuration)
    assert re.search(rf"server\s+ecenet:{Settings.model_fields['port'].default}\b", configuration)
    assert set(SERVICES["nginx"]["networks"]) & set(SERVICES["ecenet"]["networks"])


def test_targets_and_sources_are_services_of_this_network() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (FOLDER / "observability").glob("*.yaml"))
    text += (FOLDER / "observability/grafana/provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8")
    targets = set(re.findall(r"\b(ecenet|prometheus|alertmanager):(\d+)", text))
    assert targets >= {("alertmanager", "9093"), ("prometheus", "9090")}
    for name, _ in targets:
        assert SERVICES[name]["networks"][0] == "inside"
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_variables_of_the_service_are_settings() -> None:
    names = set(re.findall(r"\bECENET_[A-Z_]+", BASE.read_text(encoding="utf-8") + GPU.read_text(encoding="utf-8")))
    assert names
    assert names <= {*map(variable, Settings.model_fields), CONFIG_VARIABLE}


@pytest.mark.parametrize("path", [BASE, GPU])
def test_memory_has_room_for_the_worst_that_the_settings_let_in(path: Path) -> None:
    limits = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]["ecenet"]["deploy"]["resources"]["limits"]
    cpus, memory = (re.fullmatch(r"\$\{\w+:-(\d+)([mg]?)\}", limits[name]) for name in ("cpus", "memory"))
    assert cpus
    assert memory
    unit = {"m": 1 << 20, "g": 1 << 30}[memory[2]]
    assert worst_memory(Settings(), int(cpus[1])) <= int(memory[1]) * unit


def test_docker_waits_for_the_drain() -> None:
    seconds = int(SERVICES["ecenet"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["drain_timeout_s"].default


@pytest.mark.deployment
def test_compose_reads_both_files(docker_engine: None) -> None:
    merged = json.loads(docker("compose", "-f", str(BASE), "-f", str(GPU), "config", "--format", "json"))
    service = merged["services"]["ecenet"]
    assert service["image"] == "ecenet:gpu"
    assert service["build"]["dockerfile"] == "Dockerfile"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"], device["capabilities"]) == ("nvidia", ["0"], ["gpu"])
    assert service["deploy"]["replicas"] == 1
    assert (service["user"], service["read_only"], service["cap_drop"]) == ("10001:10001", True, ["ALL"])


def test_one_gpu_service_is_one_replica_on_a_gpu_by_its_id() -> None:
    """Docker gives the first GPU to whoever asks for a count of one, so a second replica would share it."""
    deploy = yaml.safe_load(GPU.read_text(encoding="utf-8"))["services"]["ecenet"]["deploy"]
    assert deploy["replicas"] == 1
    (device,) = deploy["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["${GPU:-0}"], "capabilities": ["gpu"]}


def generated(gpus: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "compose_gpus.py"), gpus]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_further_gpus_have_a_service_each_behind_the_same_name() -> None:
    services = yaml.safe_load(generated("4").stdout)["services"]
    assert list(services) == ["ecenet-gpu1", "ecenet-gpu2", "ecenet-gpu3"]
    first = yaml.safe_load(GPU.read_text(encoding="utf-8"))["services"]["ecenet"]
    limits = first["deploy"]["resources"]["limits"]
    assert first["environment"] == {"ECENET_ENGINE": "tensorrt", "ECENET_PRECISION": "auto"}
    for index, service in enumerate(services.values(), 1):
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [str(index)], "capabilities": ["gpu"]}
        assert service["networks"] == {"inside": {"aliases": ["ecenet"]}}
        assert service["extends"] == {"file": "compose.yaml", "service": "ecenet"}
        assert service["environment"] == first["environment"]  # what it extends serves from the CPU
        assert (service["deploy"]["replicas"], service["deploy"]["resources"]["limits"]) == (1, limits)


@pytest.mark.parametrize("gpus", ["1", "17", "many"])
def test_a_number_of_gpus_that_makes_no_sense_is_refused(gpus: str) -> None:
    done = generated(gpus)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("usage: compose_gpus.py GPUS: ")


@pytest.mark.deployment
def test_compose_reads_the_services_of_further_gpus(docker_engine: None) -> None:
    further = FOLDER / "compose.gpus.yaml"
    written = further.read_bytes() if further.exists() else None
    further.write_text(generated("3").stdout)
    try:
        files = [part for path in (BASE, GPU, further) for part in ("-f", str(path))]
        merged = json.loads(docker("compose", *files, "config", "--format", "json"))
    finally:
        further.unlink() if written is None else further.write_bytes(written)
    service = merged["services"]["ecenet-gpu2"]
    assert (service["user"], service["read_only"], service["image"]) == ("10001:10001", True, "ecenet:gpu")
    assert service["networks"]["inside"]["aliases"] == ["ecenet"]
    assert service["environment"]["ECENET_ENGINE"] == "tensorrt"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["2"]
