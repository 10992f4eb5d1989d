"""Chaos: faults of processes, signals, handles and the log under load; no answer is wrong, and all comes back.

    make chaos ARGS="--faults 50 --seed 1"

A service with two workers is served to clients that know the right answers. Meanwhile its processes are killed, asked
to end, stopped and continued, left without file handles, memory or files, and their log is not read; the clock jumps by
days; SIGHUP comes while the model's folder exists, is gone, or has a manifest that is cut off. Where this process may
mount a file system, the disk of the engine's and the model's folder is full for a while. At the end the reader of the
log leaves. A request may be refused with 503 or 504, or lose its connection. The exit status is 1 if an answer is
wrong, if the service does not come back after a fault, or if a place is not given back at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import httpx

from benchmarks.processes import unwinding_on_sigterm
from benchmarks.reliability.attack import Target, children, serving
from benchmarks.reliability.faults import JumpingClock, jumping_clock, small_disk
from benchmarks.reliability.soak import label_of, pictures
from tests.support.brightness_model import LEVELS, write_brightness_model

_PLACES = 64
_BACK_WITHIN_S = 120.0
_STOP_S = 1.0
_LOOK_S = 0.05
Fault = Callable[["Chaos", Random], Awaitable[None]]


class Chaos:
    """A service, its clients, and the log that it writes to.

    Attributes:
        outcomes: Number of requests by their end.
        wrong: Descriptions of answers that are not right.
        is_log_read: False while nobody reads the log.
        folder: The model's.
        disk: File system of the model's and the engine's folder that can be filled; None without one.
        clock: Moves the clock of all processes.
    """

    def __init__(self, target: Target, folder: Path, disk: Path | None, clock: JumpingClock) -> None:
        self.folder = folder
        self.disk = disk
        self.clock = clock
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.is_log_read = threading.Event()
        self.is_log_read.set()
        self._target = target
        self._pictures = pictures()
        self._is_over = False

    def processes(self, name: str) -> list[int]:
        """Children of the supervisor whose name begins so."""
        return [pid for pid in children(self._target.process) if _name(pid).startswith(name)]

    @property
    def supervisor(self) -> int:
        """The process that the others are started by."""
        return self._target.process

    async def clients(self, number: int, seed: int) -> None:
        """Send until ``end``."""
        await asyncio.gather(*(self._client(Random(f"{seed} {client}")) for client in range(number)))

    def end(self) -> None:
        """Let the clients end."""
        self._is_over = True

    async def until_ready(self) -> None:
        """Wait until the service is ready again.

        Raises:
            TimeoutError: It does not come back.
        """
        async with asyncio.timeout(_BACK_WITHIN_S):
            while await self._status("/readyz") != 200:  # noqa: ASYNC110  it is asked over HTTP
                await asyncio.sleep(0.05)

    async def check_places(self) -> list[str]:
        """Report places that the service has not given back: each is used again at once."""
        before = len(self.wrong)
        async with httpx.AsyncClient(base_url=self._target.url, timeout=_BACK_WITHIN_S) as client:
            await asyncio.gather(*(self._send(client, number % len(self._pictures)) for number in range(_PLACES)))
            text = (await client.get("/metrics")).raise_for_status().text
        lost = [line for line in text.splitlines() if line.startswith("ecenet_in_flight") and not line.endswith(" 0.0")]
        return [*self.wrong[before:], *lost]

    async def _client(self, random: Random) -> None:
        """Send a few requests over a connection, again and again."""
        while not self._is_over:
            async with httpx.AsyncClient(base_url=self._target.url, timeout=_BACK_WITHIN_S) as client:
                with suppress(httpx.TransportError):
                    for _ in range(5):
                        await self._send(client, random.randrange(len(self._pictures)))
            await asyncio.sleep(0.01)

    async def _send(self, client: httpx.AsyncClient, place: int) -> None:
        try:
            response = await client.post("/segment", content=self._pictures[place], headers={"Content-Type": "image/*"})
        except httpx.TransportError:
            self.outcomes["broken"] += 1
            raise
        self.outcomes[str(response.status_code)] += 1
        if response.status_code == 200:
            if label_of(response.content) != place % len(LEVELS):
                self.wrong.append(f"another answer to picture {place}")
        elif response.status_code not in (503, 504):
            self.wrong.append(f"{response.status_code}: {response.text[:100]}")

    async def _status(self, path: str) -> int:
        try:
            async with httpx.AsyncClient(base_url=self._target.url, timeout=5) as client:
                return (await client.get(path)).status_code
        except httpx.TransportError:
            return 0


async def kill_worker(chaos: Chaos, random: Random) -> None:
    """End a worker in the midst of its requests."""
    _signal(random, chaos.processes("ecenet worker"), signal.SIGKILL)


async def kill_engine(chaos: Chaos, random: Random) -> None:
    """End the engine process, as a crash of a driver would."""
    _signal(random, chaos.processes("ecenet engine"), signal.SIGKILL)


async def end_worker(chaos: Chaos, random: Random) -> None:
    """Ask a worker to end, as somebody might who takes it for the service."""
    _signal(random, chaos.processes("ecenet worker"), random.choice((signal.SIGTERM, signal.SIGINT)))


async def end_engine(chaos: Chaos, random: Random) -> None:
    """Ask the engine process to end."""
    _signal(random, chaos.processes("ecenet engine"), signal.SIGTERM)


async def stop_worker(chaos: Chaos, random: Random) -> None:
    """Stop a worker for a while, as on a host without memory."""
    await _stand_still(random, chaos.processes("ecenet worker"))


async def stop_engine(chaos: Chaos, random: Random) -> None:
    """Stop the engine for a while."""
    await _stand_still(random, chaos.processes("ecenet engine"))


async def hang_up(chaos: Chaos, random: Random) -> None:
    """Make the service rescan its models."""
    _signal(random, [chaos.supervisor], signal.SIGHUP)


async def take_handles(chaos: Chaos, random: Random) -> None:
    """Leave a worker without file handles for a while."""
    await _limit(chaos, random, resource.RLIMIT_NOFILE, lambda _: 10)


async def take_memory(chaos: Chaos, random: Random) -> None:
    """Let a worker map no more memory than it has for a while."""
    await _limit(chaos, random, resource.RLIMIT_AS, _address_space)


async def take_file_space(chaos: Chaos, random: Random) -> None:
    """Let a worker write into no file, of memory or on a disk, for a while."""
    await _limit(chaos, random, resource.RLIMIT_FSIZE, lambda _: 0)


async def move_clock(chaos: Chaos, random: Random) -> None:
    """Let the clock jump by days, and back."""
    chaos.clock.move(random.uniform(-1e6, 1e6))
    await asyncio.sleep(_STOP_S)
    chaos.clock.move(0.0)


async def fill_disk(chaos: Chaos, random: Random) -> None:
    """Let the engine start, and the service rescan its models, while the disk is full."""
    if chaos.disk is None:
        return
    filling = chaos.disk / "filling"
    with suppress(OSError), filling.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    await kill_engine(chaos, random)
    await hang_up(chaos, random)
    await chaos.until_ready()
    filling.unlink()


async def leave_log_unread(chaos: Chaos, random: Random) -> None:  # noqa: ARG001  like the others
    """Read nothing of the log for a while."""
    chaos.is_log_read.clear()
    await asyncio.sleep(2 * _STOP_S)
    chaos.is_log_read.set()


async def take_folder(chaos: Chaos, random: Random) -> None:
    """Make the service rescan its models while their folder is gone, and when it is back."""
    away = chaos.folder.with_suffix(".away")
    chaos.folder.rename(away)
    await hang_up(chaos, random)
    await asyncio.sleep(_STOP_S)
    away.rename(chaos.folder)
    await hang_up(chaos, random)


async def cut_manifest(chaos: Chaos, random: Random) -> None:
    """Make the service rescan its models while the manifest is cut off, and when it is whole."""
    manifest = chaos.folder / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: random.randrange(len(whole))])
    await hang_up(chaos, random)
    await asyncio.sleep(_STOP_S)
    manifest.write_bytes(whole)
    await hang_up(chaos, random)


FAULTS: dict[str, Fault] = {
    "worker killed": kill_worker,
    "engine killed": kill_engine,
    "worker asked to end": end_worker,
    "engine asked to end": end_engine,
    "worker stands still": stop_worker,
    "engine stands still": stop_engine,
    "models looked for": hang_up,
    "model's folder gone": take_folder,
    "manifest cut off": cut_manifest,
    "disk full": fill_disk,
    "clock jumps": move_clock,
    "no file handles": take_handles,
    "no memory": take_memory,
    "no file space": take_file_space,
    "log unread": leave_log_unread,
}


def choose(random: Random, number: int) -> list[str]:
    """Names of so many faults."""
    return random.choices(list(FAULTS), k=number)


async def run(options: argparse.Namespace) -> int:
    """Serve, make faults under load, and print a report as JSON; gives the exit status."""
    random = Random(options.seed)
    read, write = os.pipe()
    has_reader_left = threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        small_disk(Path(folder) / "disk") as disk,
        jumping_clock(Path(folder) / "clock") as clock,
    ):
        place = disk or Path(folder)
        model = write_brightness_model(place / "brightness")
        arguments = ["--model-dir", str(model), "--engine", "onnxruntime", "--workers", "2", "--log-level", "debug"]
        arguments += ["--engine-dir", str(place / "engines"), "--state-dir", str(place / "state")]
        async with serving([*arguments, *options.arguments], log=write) as target:
            os.close(write)
            chaos = Chaos(target, model, disk, clock)
            reader = threading.Thread(target=_read_log, args=(read, chaos.is_log_read, has_reader_left), daemon=True)
            reader.start()
            began = time.monotonic()
            clients = asyncio.create_task(chaos.clients(options.clients, options.seed))
            made, problems = await _make_faults(chaos, random, options.faults)
            chaos.end()
            await clients
            problems += await chaos.check_places()
            has_reader_left.set()
            await asyncio.to_thread(reader.join)
            problems += await chaos.check_places()
            seconds = time.monotonic() - began
    report = {
        "seed": options.seed,
        "seconds": round(seconds),
        "disk": "filled" if disk else "no file system can be mounted here",
        "faults": dict(sorted(made.items())),
        "requests": dict(sorted(chaos.outcomes.items())),
        "problems": [*chaos.wrong, *problems][:20],
    }
    print(json.dumps(report, indent=1))
    return 1 if report["problems"] else 0


async def _make_faults(chaos: Chaos, random: Random, number: int) -> tuple[Counter[str], list[str]]:
    """Make faults one after the other; half of them when the service has come back from the last."""
    made: Counter[str] = Counter()
    for name in choose(random, number):
        await asyncio.sleep(random.uniform(0.1, 0.5))
        await FAULTS[name](chaos, random)
        made[name] += 1
        # An engine process that is killed again and again before it serves ends the service, on purpose.
        if name == "engine killed" or random.random() < 0.5:
            try:
                await chaos.until_ready()
            except TimeoutError:
                return made, [f"not ready again within {_BACK_WITHIN_S:g} s after: {name}"]
    await chaos.until_ready()
    return made, []


def _read_log(descriptor: int, may_read: threading.Event, has_left: threading.Event) -> None:
    """Read what may be read, and close the descriptor when the reader leaves."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not has_left.is_set():
        if may_read.wait(_LOOK_S) and poll.poll(_LOOK_S * 1000) and not os.read(descriptor, 1 << 16):
            break
    os.close(descriptor)


async def _limit(chaos: Chaos, random: Random, kind: int, value: Callable[[int], int]) -> None:
    """Lower a limit of a worker for a while."""
    workers = chaos.processes("ecenet worker")
    if not workers:
        return
    worker = random.choice(workers)
    with suppress(ProcessLookupError, FileNotFoundError):
        before = resource.prlimit(worker, kind)
        resource.prlimit(worker, kind, (value(worker), before[1]))
        await asyncio.sleep(_STOP_S)
        resource.prlimit(worker, kind, before)


def _address_space(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


async def _stand_still(random: Random, processes: Sequence[int]) -> None:
    if processes:
        process = random.choice(processes)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
            await asyncio.sleep(_STOP_S)
            os.kill(process, signal.SIGCONT)


def _signal(random: Random, processes: Sequence[int], number: signal.Signals) -> None:
    if processes:
        with suppress(ProcessLookupError):
            os.kill(random.choice(processes), number)


def _name(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and run; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=6, help="at once; default: %(default)s")
    parser.add_argument("arguments", nargs="*", help="arguments of ecenet-serve, behind --")
    options = parser.parse_args(arguments)
    with unwinding_on_sigterm():
        return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
