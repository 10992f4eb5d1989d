"""The images as they are deployed: built by a real engine, hardened, used and stopped."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.docker.containers import ENGINE, ROOT, Container, docker, running
from tests.docker.street import STREET, Mask, decode, segment

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CPU_IMAGE_BYTES = 450_000_000
NAMED_ENGINE = tuple(f"--env={name}={value}" for name, value in ENGINE.items())
COMPILERS = {"as", "c++", "c99", "cc", "cc1", "clang", "g++", "gcc", "ld", "make", "tcc", "zig"}
# Names in a whole file system, and those of its executable files.
INVENTORY = """
import json, os
names, executables = set(), set()
for folder, folders, files in os.walk("/"):
    if not folder.startswith(("/proc", "/sys")):
        names.update(folders, files)
        executables.update(name for name in files if os.access(os.path.join(folder, name), os.X_OK))
print(json.dumps({"names": sorted(names), "executables": sorted(executables)}))
"""
STATUS = "print(open('/proc/1/cmdline').read().replace(chr(0), ' ')); print(open('/proc/1/status').read())"


@pytest.fixture(scope="module", params=["cpu_image", "gpu_image", "gpu_runtime_image"])
def image(request: pytest.FixtureRequest) -> str:
    tag: str = request.getfixturevalue(request.param)
    return tag


@pytest.fixture(scope="module")
def cpu_container(cpu_image: str) -> Iterator[Container]:
    """The image for CPUs at work, shared by tests that leave it at work."""
    with running(cpu_image, options=NAMED_ENGINE) as container:
        container.until_healthy()
        yield container


def configuration(image: str) -> dict[str, Any]:
    return dict(json.loads(docker("image", "inspect", image))[0]["Config"])


def test_the_cpu_image_is_small(cpu_image: str) -> None:
    # Not by what Docker says, which is the size of the compressed layers in some of its stores.
    disk_usage = ("run", "--rm", "--user", "0", "--entrypoint", "du", cpu_image, "-sx", "--block-size=1", "/")
    assert int(docker(*disk_usage).split()[0]) <= CPU_IMAGE_BYTES


def test_the_configuration_is_what_deployments_rely_on(image: str) -> None:
    config = configuration(image)
    assert config["Entrypoint"] == ["/opt/ecenet/entrypoint.sh"]
    assert config["User"] == "10001:10001"
    assert config["ExposedPorts"] == {"8000/tcp": {}}
    assert config["Volumes"] == {"/var/cache/ecenet": {}}
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION


def test_no_compiler_and_no_torch_is_inside(image: str) -> None:
    command = ("run", "--rm", "--user", "0", "--entrypoint", "python3", image, "-c", INVENTORY)
    inventory = json.loads(docker(*command))
    assert "ecenet-serve" in inventory["executables"]
    assert COMPILERS & set(inventory["executables"]) == set()
    assert "onnxruntime" in inventory["names"]
    assert {"torch", "ziglang", "setuptools"} & set(inventory["names"]) == set()


def test_the_cache_can_be_written_and_nothing_else(image: str) -> None:
    program = (
        "import os; print(*[path for path in ('/var/cache/ecenet', '/opt/ecenet', '/') if os.access(path, os.W_OK)])"
    )
    hardened = ("--read-only", "--cap-drop", "ALL", "--entrypoint", "python3")
    assert docker("run", "--rm", *hardened, image, "-c", program) == "/var/cache/ecenet"


def test_process_1_is_the_service_without_any_right(cpu_container: Container) -> None:
    command, *status = cpu_container.python(STATUS).splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert command.split()[1] == "/opt/ecenet/bin/ecenet-serve"
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {"10001"}
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_the_mask_is_that_of_the_checkout(cpu_container: Container, mask_of_checkout: Mask) -> None:
    assert segment(cpu_container.url()) == mask_of_checkout


def test_a_request_in_flight_is_answered_under_docker_stop(cpu_image: str, mask_of_checkout: Mask) -> None:
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(STREET)}\r\n"
    with running(cpu_image, options=NAMED_ENGINE) as container, ThreadPoolExecutor(1) as pool:
        container.until_healthy()
        url = container.url()
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(f"{head}Connection: close\r\n\r\n".encode() + STREET[:1000])
            while "ecenet_in_flight 1.0" not in httpx.get(url + "/metrics").text:
                pass
            stopped = pool.submit(docker, "stop", "--time", "30", container.name)
            while httpx.get(url + "/readyz").status_code != 503:
                pass
            client.sendall(STREET[1000:])
            answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
        stopped.result()
        state = container.inspect()["State"]
    header, _, body = answer.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.1 200 "), header
    assert decode(body) == mask_of_checkout
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_a_broken_setting_ends_the_container_with_one_sentence(cpu_image: str) -> None:
    with running(cpu_image, options=("--env", "ECENET_MAX_REQUESTS_IN_FLIGHT=many")) as container:
        assert container.until_exit() == 2
        (line,) = container.logs().splitlines()
    assert line.startswith("ecenet-serve: --max-requests-in-flight (ECENET_MAX_REQUESTS_IN_FLIGHT) is 'many': ")


@pytest.mark.parametrize("target", ["gpu_image", "gpu_runtime_image"])
def test_the_gpu_image_serves_on_a_cpu_when_told_so(
    target: str, mask_of_checkout: Mask, request: pytest.FixtureRequest
) -> None:
    with running(request.getfixturevalue(target), options=NAMED_ENGINE) as container:
        container.until_healthy()
        assert segment(container.url()) == mask_of_checkout


@pytest.mark.parametrize("target", ["gpu_image", "gpu_runtime_image"])
def test_the_gpu_image_without_a_gpu_stops_with_one_sentence(target: str, request: pytest.FixtureRequest) -> None:
    with running(request.getfixturevalue(target)) as container:
        assert container.until_exit() == 1
        messages = [json.loads(line) for line in container.logs().splitlines()]
    (failure,) = [entry["message"] for entry in messages if entry["level"] == "critical"]
    assert "tensorrt" in failure
