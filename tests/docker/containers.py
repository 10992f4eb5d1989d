"""Docker from Python, by its command line."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Named, so that all machines and replicas answer alike; as in compose.yaml.
ENGINE = {"ECENET_ENGINE": "onnxruntime", "ECENET_PRECISION": "int8"}
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--memory", "1g", "--user", "10001"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)


def docker(*arguments: str, check: bool = True, **variables: str) -> str:
    """Standard output of a Docker command, stripped; what it says of a failure is in that of the test."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1", **variables}
    command = ["docker", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 0 or not check, f"docker {' '.join(arguments)}: {result.stderr}{result.stdout}"
    return result.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container of a test.

    Attributes:
        name: Its name.
    """

    name: str

    def inspect(self) -> dict[str, Any]:
        """Its entry of ``docker container inspect``."""
        return dict(json.loads(docker("container", "inspect", self.name))[0])

    def url(self) -> str:
        """URL at which its port 8000 is published."""
        return f"http://{docker('port', self.name, '8000').splitlines()[0]}"

    def python(self, program: str) -> str:
        """Run a Python program beside the service; gives its output."""
        return docker("exec", self.name, "python3", "-c", program)

    def logs(self) -> str:
        """All that it has said, on both of its streams."""
        command = ["docker", "logs", self.name]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    def until_healthy(self) -> None:
        """Wait for the verdict of the image's HEALTHCHECK."""
        filters = [f"container={self.name}", "event=health_status", "event=die"]
        options = [option for name in filters for option in ("--filter", name)]
        command = ["docker", "events", "--since", self.inspect()["Created"], "--format", "{{.Status}}", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            status = events.stdout.readline().strip()
            events.kill()
        assert status == "health_status: healthy", f"{status}: {self.logs()}"

    def until_exit(self) -> int:
        """Wait for its end; gives the exit status."""
        return int(docker("wait", self.name))


@contextmanager
def running(image: str, *arguments: str, options: Sequence[str] = ()) -> Iterator[Container]:
    """A container, hardened, with options of ``docker run`` and arguments of the program; it is gone afterwards."""
    container = Container(f"ecenet-test-{uuid.uuid4().hex[:8]}")
    named = ("run", "--detach", "--publish", "127.0.0.1::8000", "--name", container.name)
    try:
        docker(*named, *HARDENED, *options, image, *arguments)
        yield container
    finally:
        docker("rm", "--force", "--volumes", container.name, check=False)


@contextmanager
def built(dockerfile: str, *options: str) -> Iterator[str]:
    """The tag of an image built from this checkout; it is gone afterwards."""
    tag = f"ecenet-test:{uuid.uuid4().hex[:8]}"
    docker("build", "--file", dockerfile, "--tag", tag, *options, ".")
    try:
        yield tag
    finally:
        docker("image", "rm", "--force", tag)
