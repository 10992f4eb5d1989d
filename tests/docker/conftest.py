"""The images of this checkout, where there is a Docker engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.docker.containers import ENGINE, ROOT, built, docker
from tests.docker.street import Mask, segment

BASE_NAME = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Skips where Docker does not work."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("there is no Docker engine; .ci/check-images brings one")


@pytest.fixture(scope="session")
def cpu_image(docker_engine: None) -> Iterator[str]:
    with built("docker/Dockerfile.cpu") as tag:
        yield tag


@pytest.fixture(scope="session")
def cpu_base(cpu_image: str) -> str:
    """The image that it is based on."""
    return docker("image", "inspect", "--format", BASE_NAME, cpu_image)


@pytest.fixture(scope="session")
def gpu_image(cpu_base: str) -> Iterator[str]:
    """The image for GPUs, with base and dependencies of the other: NVIDIA's are not to be had everywhere."""
    with built("Dockerfile", "--build-arg", f"BASE_IMAGE={cpu_base}", "--build-arg", "EXTRAS=cpu") as tag:
        yield tag


@pytest.fixture(scope="session")
def gpu_runtime_image(gpu_image: str, cpu_base: str) -> Iterator[str]:
    """The one without TensorRT's builder, likewise."""
    arguments = ("--build-arg", f"BASE_IMAGE={cpu_base}", "--build-arg", "EXTRAS=cpu", "--target", "runtime")
    with built("Dockerfile", *arguments) as tag:
        yield tag


@pytest.fixture(scope="session")
def mask_of_checkout() -> Iterator[Mask]:
    """The street's label map by the service of this checkout, with ``ENGINE``."""
    command = [sys.executable, "-m", "service", "--port", "0"]
    environment = os.environ | ENGINE
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            yield segment(url)
        finally:
            process.terminate()
