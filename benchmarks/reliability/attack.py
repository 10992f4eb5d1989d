"""Attacks on a service, each with a normal client beside it whose answers must stay right and in time.

    make attack
    python -m benchmarks.reliability.attack --only jpeg --seconds 5

It starts ``ecenet-serve`` with its defaults and measures the normal client alone. Then come the attacks one after the
other, each by several clients at once. The normal client's slowest answer must stay within ``--most-times`` of its idle
median, and ``/healthz`` within ``--health-ms``. The exit status is 1 if an attack breaks that.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random

import httpx
from PIL import Image

from tests.support.hostile import ATTACKS, IMAGE_JSON, INFERENCE_JSON

_STREET = Path(__file__).parents[2] / "models" / "example" / "street.jpg"
_HEAD = "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
_INFER = "/v2/models/ecenet-lite0-camvid/infer"
Attack = Callable[["Target"], Awaitable[None]]


@dataclass(slots=True)
class Target:
    """The service under attack.

    Attributes:
        process: Id of its process.
        host: Where it listens.
        port: Its port.
    """

    process: int
    host: str
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and those that it started."""
        processes = [self.process, *children(self.process)]
        return sum(_resident_mb(process) for process in processes)

    async def send(self, content: bytes, *, pause_s: float = 0.0) -> None:
        """Send bytes over a connection of their own, and read what comes until it closes or a second has passed."""
        with suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection(self.host, self.port)
            try:
                writer.write(content)
                async with asyncio.timeout(5):
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                    await reader.read()
            finally:
                writer.close()

    async def post(self, path: str, content: bytes, kind: str) -> None:
        """Post a body, whatever the answer."""
        head = _HEAD.format(path=path, kind=kind, length=len(content)).replace(
            "\r\n\r\n", "\r\nConnection: close\r\n\r\n"
        )
        await self.send(head.encode() + content)


@dataclass(slots=True)
class Figures:
    """Answers that the normal client saw.

    Attributes:
        answers_ms: Milliseconds of each right answer.
        health_ms: Milliseconds of each health check.
        wrong: Descriptions of wrong answers.
        memory_mb: Highest resident memory of the service.
    """

    answers_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    memory_mb: float = 0.0


def file_attack(build: Callable[[], bytes]) -> Attack:
    """Send an image file."""
    made: list[bytes] = []

    async def attack(target: Target) -> None:
        if not made:
            made.append(await asyncio.to_thread(build))
        await target.post("/segment", made[0], "application/octet-stream")

    return attack


def json_attack(body: Callable[[], bytes], path: str = "/segment") -> Attack:
    """Send a JSON body."""
    made: list[bytes] = []

    async def attack(target: Target) -> None:
        if not made:
            made.append(await asyncio.to_thread(body))
        await target.post(path, made[0], "application/json")

    return attack


def _honest_base64() -> bytes:
    return json.dumps({"image": base64.b64encode(ATTACKS["jpeg exif"]()[:15_000_000]).decode()}).encode()


def _logits_wanted() -> bytes:
    file = base64.b64encode(_STREET.read_bytes()).decode()
    image = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [file]}
    return json.dumps({"inputs": [image], "outputs": [{"name": "logits"}, {"name": "labels"}]}).encode()


async def _endless_header(target: Target) -> None:
    await target.send(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * (32 << 20))


async def _slow_bodies(target: Target) -> None:
    head = _HEAD.format(path="/segment", kind="image/png", length=1000)
    await asyncio.gather(*(target.send(head.encode(), pause_s=1) for _ in range(30)))


async def _refused_body(target: Target) -> None:
    head = _HEAD.format(path="/nowhere", kind="image/png", length=2 << 30)
    await target.send(head.encode() + bytes(96 << 20))


async def _pipelining(target: Target) -> None:
    head = _HEAD.format(path="/segment", kind="application/octet-stream", length=680_000)
    await target.send((head.encode() + bytes(680_000)) * 20)


async def _idle_connections(target: Target) -> None:
    await asyncio.gather(*(target.send(b"", pause_s=1) for _ in range(200)))


async def _unread_answers(target: Target) -> None:
    street = _STREET.read_bytes()
    head = _HEAD.format(path="/segment?format=npy", kind="image/jpeg", length=len(street))
    await asyncio.gather(*(target.send(head.encode() + street, pause_s=2) for _ in range(4)))


def noise_attack(query: str) -> Attack:
    """Send an image of noise, whose answer has as many borders as the model makes of it."""
    made: list[bytes] = []

    async def attack(target: Target) -> None:
        if not made:
            made.append(await asyncio.to_thread(_noise))
        await target.post(f"/segment?{query}", made[0], "image/jpeg")

    return attack


def _noise() -> bytes:
    size = (1600, 1200)
    file = io.BytesIO()
    Image.frombytes("RGB", size, Random(0).randbytes(3 * size[0] * size[1])).save(file, "JPEG")
    return file.getvalue()


OTHER_ATTACKS: dict[str, Attack] = {
    "json honest base64": json_attack(_honest_base64),
    "json v2 logits": json_attack(_logits_wanted, _INFER),
    "header without end": _endless_header,
    "slow bodies": _slow_bodies,
    "refused body": _refused_body,
    "pipelining": _pipelining,
    "idle connections": _idle_connections,
    "unread answers": _unread_answers,
    "noise contours": noise_attack("format=contours&mode=tile"),
    "noise runs": noise_attack("format=json&rle=true&mode=tile"),
}


def attacks(only: str) -> dict[str, Attack]:
    """All attacks whose name has ``only`` in it."""
    everything = {name: file_attack(build) for name, build in ATTACKS.items()}
    everything |= {f"json {name}": json_attack(build) for name, build in IMAGE_JSON.items()}
    everything |= {f"json v2 {name}": json_attack(build, _INFER) for name, build in INFERENCE_JSON.items()}
    everything |= OTHER_ATTACKS
    return {name: attack for name, attack in everything.items() if only in name}


@asynccontextmanager
async def serving(arguments: Sequence[str], log: int | None = None) -> AsyncIterator[Target]:
    """A service with its defaults and some arguments, ended afterwards; ``log`` is the descriptor that it logs to."""
    command = [sys.executable, "-m", "service", "--port", "0", "--log-level", "error", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: ASYNC220 - before anything runs
    try:
        assert process.stdout is not None
        banner = await asyncio.to_thread(process.stdout.readline)
        if not banner:
            raise RuntimeError(f"the service ended with status {process.wait()}")
        url = httpx.URL(banner.split()[-1])
        assert url.port is not None
        yield Target(process.pid, url.host, url.port)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate)


async def measure(target: Target, seconds: float, right: bytes | None) -> Figures:
    """Run a normal client for some seconds."""
    figures = Figures()
    async with httpx.AsyncClient(base_url=target.url, timeout=30, verify=False) as client:
        ends = time.monotonic() + seconds
        while not figures.answers_ms or time.monotonic() < ends:
            figures.health_ms.append(await _timed(client.get("/healthz"), figures, None))
            answer = client.post("/segment", files={"file": _STREET.read_bytes()})
            figures.answers_ms.append(await _timed(answer, figures, right))
            figures.memory_mb = max(figures.memory_mb, target.memory_mb)
    return figures


@contextmanager
def attacked(target: Target, name: str, clients: int) -> Iterator[None]:
    """An attack from a separate process, whose first requests have been answered when the body begins."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=_attack, args=(target, name, clients, begun), daemon=True)
    process.start()
    try:
        if not begun.wait(120):
            raise RuntimeError(f"the attack {name} did not begin")
        yield
    finally:
        process.terminate()
        process.join()
        process.close()


def _attack(target: Target, name: str, clients: int, begun: Event) -> None:
    attack = attacks(name)[name]

    async def repeat() -> None:
        while True:
            await attack(target)
            begun.set()

    async def all_clients() -> None:
        await asyncio.gather(*(repeat() for _ in range(clients)))

    asyncio.run(all_clients())


async def _timed(call: Awaitable[httpx.Response], figures: Figures, right: bytes | None) -> float:
    began = time.perf_counter()
    try:
        response = await call
        if response.status_code != 200 or (right is not None and response.content != right):
            figures.wrong.append(str(response.status_code))
    except httpx.TransportError as error:
        figures.wrong.append(type(error).__name__)
    return (time.perf_counter() - began) * 1000


async def run(options: argparse.Namespace) -> int:
    """Run all attacks and print a line for each; gives the exit status."""
    failed = 0
    async with serving(options.arguments) as target:
        async with httpx.AsyncClient(base_url=target.url, timeout=60) as client:
            right = (await client.post("/segment", files={"file": _STREET.read_bytes()})).raise_for_status().content
        alone = await measure(target, options.seconds, right)
        idle = statistics.median(alone.answers_ms)
        print(f"idle: {idle:.0f} ms, /healthz {max(alone.health_ms):.0f} ms, {target.memory_mb:.0f} MB", flush=True)
        for name in attacks(options.only):
            with attacked(target, name, options.clients):
                figures = await measure(target, options.seconds, right)
            slowest, health = max(figures.answers_ms), max(figures.health_ms)
            is_broken = bool(figures.wrong) or slowest > options.most_times * idle or health > options.health_ms
            failed += is_broken
            print(
                f"{'BROKEN' if is_broken else 'held':6} {name:28} slowest {slowest:6.0f} ms, median "
                f"{statistics.median(figures.answers_ms):6.0f} ms, /healthz {health:5.0f} ms, "
                f"{figures.memory_mb:5.0f} MB {' '.join(sorted(set(figures.wrong)))}",
                flush=True,
            )
    return 1 if failed else 0


def children(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def _resident_mb(process: int) -> float:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6
    return 0.0


def main(arguments: list[str] | None = None) -> int:
    """Read the options and run; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="attacks with this in their name (default: all)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each (default: 5)")
    parser.add_argument("--clients", type=int, default=2, help="attacking clients at once (default: 2)")
    parser.add_argument(
        "--most-times", type=float, default=5.0, help="slowest answer over the idle median (default: 5)"
    )
    parser.add_argument("--health-ms", type=float, default=100.0, help="slowest health check (default: 100)")
    parser.add_argument("arguments", nargs="*", help="arguments of ecenet-serve, behind --")
    return asyncio.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
