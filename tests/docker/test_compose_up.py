"""compose.yaml at work, without Grafana: two hardened replicas, nginx, Prometheus and Alertmanager."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.containers import ROOT, built, docker
from tests.docker.street import Mask, segment

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]

STAND_INS = ("nginx", "prometheus", "alertmanager")
TARGETS = "http://127.0.0.1:9090/api/v1/targets?state=active"

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def override(cpu_image: str, cpu_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Compose file that names the images of this test."""
    folder = tmp_path_factory.mktemp("compose")
    # Debian's nginx is older than `resolve`, without which it finds the replicas that are there when it starts.
    configuration = (ROOT / "docker/nginx.conf").read_text(encoding="utf-8")
    (folder / "nginx.conf").write_text(configuration.replace("ecenet:8000 resolve", "ecenet:8000"))
    with ExitStack() as images:
        services: dict[str, Any] = {"ecenet": {"image": cpu_image}}
        for name in STAND_INS:
            options = ("--build-arg", f"BASE_IMAGE={cpu_base}", "--target", name)
            services[name] = {"image": images.enter_context(built("tests/docker/stand_ins/Dockerfile", *options))}
        services["nginx"]["volumes"] = [f"{folder}/nginx.conf:/etc/nginx/nginx.conf:ro"]
        (folder / "override.yaml").write_text(yaml.safe_dump({"services": services}))
        yield folder / "override.yaml"


@pytest.fixture(scope="module")
def compose(override: Path) -> Iterator[Compose]:
    """Runs commands of ``docker compose`` on a project that is up, and is gone afterwards."""
    project = f"ecenet-test-{uuid.uuid4().hex[:8]}"
    files = ("-f", "docker/compose.yaml", "-f", str(override))

    def compose(*arguments: str) -> str:
        return docker("compose", "-p", project, *files, *arguments, HTTP_PORT="0")

    try:
        compose("up", "--detach", "--no-build", "--wait", "ecenet", *STAND_INS)
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", "0")


def test_a_request_through_nginx_gets_the_mask_of_the_checkout(compose: Compose, mask_of_checkout: Mask) -> None:
    assert segment(f"http://{compose('port', 'nginx', '8080')}") == mask_of_checkout


def test_prometheus_finds_each_replica(compose: Compose) -> None:
    def replicas() -> set[str]:
        answer = json.loads(compose("exec", "-T", "prometheus", "wget", "-q", "-O", "-", TARGETS))
        targets = [target["labels"] for target in answer["data"]["activeTargets"]]
        return {target["instance"] for target in targets if target["job"] == "ecenet"}

    while len(replicas()) < 2:  # it looks every 15 s
        pass
    assert len(replicas()) == 2


def test_no_request_is_lost_with_a_replica(compose: Compose, mask_of_checkout: Mask) -> None:
    url = f"http://{compose('port', 'nginx', '8080')}"
    docker("kill", compose("ps", "--quiet", "ecenet").splitlines()[0])
    assert {segment(url) for _ in range(8)} == {mask_of_checkout}
