"""The servers that are compared: how each is installed, started and asked."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.work import ROOT

_BOUNDARY = uuid.UUID(int=0).hex


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request.

    Attributes:
        body: Its body.
        headers: Beside its length.
    """

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server.

    Attributes:
        name: As it is called.
        requirement: What pip installs beside this project; none for this service itself.
        module: The module of ``benchmarks.peers.servers`` to run.
        path: Where it takes images.
        arguments: Of the module, with ``{port}``.
        base_python: The interpreter that its environment is made of.
        call_of: The request for an image file.
        answer_of: The PNG in the body of an answer.
    """

    name: str
    requirement: str
    module: str
    path: str
    arguments: tuple[str, ...] = ("{port}",)
    base_python: str = sys.executable
    call_of: Callable[[bytes], Call] = lambda image: Call(image, {"Content-Type": "image/jpeg"})
    answer_of: Callable[[bytes], bytes] = lambda body: body

    def python(self, environments: Path) -> Path:
        """The interpreter of its environment."""
        return environments / self.module / "bin/python" if self.requirement else Path(sys.executable)

    def install(self, environments: Path) -> None:
        """Make its environment, unless it exists: one each, as their dependencies contradict each other.

        Raises:
            CalledProcessError: uv failed; it says why.
        """
        python = self.python(environments)
        done = python.parents[1] / "installed"
        if not self.requirement or (done.exists() and done.read_text(encoding="utf-8") == self.requirement):
            return
        uv = str(Path(sys.executable).with_name("uv"))
        target = str(python.parents[1])
        subprocess.run([uv, "venv", "-q", "--clear", "--python", self.base_python, target], check=True)
        packages = ["-e", f"{ROOT}[cpu]", self.requirement]
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *packages], check=True)
        done.write_text(self.requirement, encoding="utf-8")

    def command(self, environments: Path, port: int) -> list[str]:
        """Command that starts the server from the repository's root."""
        arguments = [argument.format(port=port) for argument in self.arguments]
        return [str(self.python(environments)), "-m", f"benchmarks.peers.servers.{self.module}", *arguments]


def form_call(image: bytes) -> Call:
    """A form with the file ``file``."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Call(body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})


def triton_call(image: bytes) -> Call:
    """Triton's binary protocol: the JSON of the request, then the lengths and bytes of the elements of its tensors."""
    tensor = struct.pack("<I", len(image)) + image
    request = {
        "inputs": [
            {
                "name": "image",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(tensor)},
            }
        ],
        "outputs": [{"name": "labels", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(request).encode()
    return Call(
        head + tensor,
        {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
    )


def triton_answer(body: bytes) -> bytes:
    """The one element of the one tensor after the JSON of an answer."""
    start = body.find(b"\x89PNG\r\n\x1a\n")
    return body[start:] if start >= 0 else b""


OURS = Peer("this service", "", "ours", "/segment")
PEERS = (
    OURS,
    Peer("mosec", "mosec==0.9.8", "with_mosec", "/inference", ("--port", "{port}")),
    Peer("LitServe", "litserve==0.2.19", "with_litserve", "/predict", call_of=form_call),
    # 1.4.40 loses connections between its own processes: of 176 requests of 8 clients 47 were answered with 500.
    Peer("BentoML", "bentoml==1.4.30", "with_bentoml", "/segment"),
    Peer("Ray Serve", "ray[serve]==2.60.0", "with_ray", "/segment"),
    Peer(
        "Triton (PyTriton)",
        "nvidia-pytriton==0.7.0",
        "with_pytriton",
        "/v2/models/ecenet/infer",
        # What Triton starts loads the system's libpython, which other builds' standard libraries may not fit.
        base_python="/usr/bin/python3",
        call_of=triton_call,
        answer_of=triton_answer,
    ),
)
