"""A soak: good, bad, slow and leaving clients together; answers stay right, counts add up, and memory stays.

    make soak ARGS="--requests 100000 --seed 1"

The service has a model whose answers follow from the image, and its defaults or the arguments behind ``--``. The
exit status is 1 if an answer is wrong, if ``/metrics`` does not have every request once, if a place is not given back,
or if the memory that all processes hold grows by 3% or more from a fifth of the requests to all of them.

Memory is the sum of the processes' proportional shares: private pages, and what is shared once. What they hold is
measured while the clients rest, so that an idle process has trimmed: beside it there is what images at work take. A
process that decodes unusual images starts with the first of them and stays, with 20 MiB; so these come first, until all
run.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import numpy as np
from PIL import Image

from benchmarks.processes import pss_mib, unwinding_on_sigterm
from benchmarks.reliability.attack import Target, children, serving
from benchmarks.reliability.mutate import mutant
from tests.support.brightness_model import LEVELS, write_brightness_model
from tests.support.honest import FILES

# Shares of the clients; the rest is good.
_BAD, _SLOW, _LEAVING = 0.2, 0.03, 0.07
_MOST_GROWTH = 0.03
_TENTHS = 10
# Of the requests, before the first rest: code and caches that are used for the first time are there by then.
_FIRST_SHARE = 0.2
# Three times as long as a process waits until it trims.
_REST_S = 6.0
_SETTLED_S = 60.0
# At once, again and again, until no further process starts for a while.
_UNUSUAL_AT_ONCE = 8
_STEADY_ROUNDS = 5


@dataclass(slots=True)
class Account:
    """Requests that were sent, and their ends.

    Attributes:
        sent: Requests whose headers were sent.
        seen: Answers by status.
        unseen: Requests whose client left without reading.
        wrong: Descriptions of answers that are not right.
        held_mib: The service's memory in each rest of its clients.
        memory_mib: Samples of the service's memory, by tenth of the requests.
        processes_mib: The last sample of each tenth by name of process.
    """

    sent: int = 0
    seen: Counter[int] = field(default_factory=Counter)
    unseen: int = 0
    wrong: list[str] = field(default_factory=list)
    held_mib: list[int] = field(default_factory=list)
    memory_mib: dict[int, list[float]] = field(default_factory=dict)
    processes_mib: dict[int, Counter[str]] = field(default_factory=dict)


def pictures() -> list[bytes]:
    """Good images: each of the model's levels in several sizes and formats; the level is the place modulo 3."""
    made = []
    for size, file_format in (((64, 32), "PNG"), ((640, 480), "JPEG"), ((1600, 1200), "JPEG"), ((900, 700), "WEBP")):
        for level in LEVELS:
            file = io.BytesIO()
            Image.new("RGB", size, (int(level),) * 3).save(file, file_format)
            made.append(file.getvalue())
    return made


def label_of(content: bytes) -> int | None:
    """The label of all pixels of an answer; None if they differ."""
    labels = np.asarray(Image.open(io.BytesIO(content)))
    return int(labels[0, 0]) if labels.min() == labels.max() else None


class Soak:
    """Clients of one service."""

    def __init__(self, target: Target, requests: int, seed: int) -> None:
        self.account = Account()
        self._target = target
        self._requests = requests
        self._seed = seed
        self._pictures = pictures()
        self._files = [build() for build in FILES.values()]

    async def start_decoders(self) -> None:
        """Send unusual images until all processes that decode them have been started."""
        unusual = FILES["webp animated"]()
        processes: list[int] = []
        async with httpx.AsyncClient(base_url=self._target.url, timeout=120) as client:
            while len(set(processes[-_STEADY_ROUNDS:])) != 1 or len(processes) < _STEADY_ROUNDS:
                self.account.sent += _UNUSUAL_AT_ONCE
                answers = [
                    client.post("/segment", content=unusual, headers={"Content-Type": "image/*", "Connection": "close"})
                    for _ in range(_UNUSUAL_AT_ONCE)
                ]
                self.account.seen.update(answer.status_code for answer in await asyncio.gather(*answers))
                processes.append(len(children(self._target.process)))

    async def run(self, clients: int) -> None:
        """Send all requests, those of ``start_decoders`` among them; the clients rest after a share, and at the end."""
        randoms = [Random(f"{self._seed} {number}") for number in range(clients)]
        watch = asyncio.create_task(self._watch())
        async with httpx.AsyncClient(base_url=self._target.url, timeout=120) as client:
            for share in (_FIRST_SHARE, 1.0):
                last = round(share * self._requests)
                await asyncio.gather(*(self._client(client, random, last) for random in randoms))
                await asyncio.sleep(_REST_S)
                self.account.held_mib.append((await asyncio.to_thread(memory_mib, self._target)).total())
        watch.cancel()

    async def _client(self, client: httpx.AsyncClient, random: Random, last: int) -> None:
        while self.account.sent < last:
            self.account.sent += 1
            try:
                await self._send_one(client, random)
            except httpx.TransportError as error:
                self.account.wrong.append(f"no answer: {type(error).__name__}")

    async def _send_one(self, client: httpx.AsyncClient, random: Random) -> None:
        chance = random.random()
        if chance < _BAD:
            await self._send_bad(client, random)
        elif chance < _BAD + _SLOW:
            await self._leave(random, pause_s=random.uniform(0, 1), share=random.uniform(0.1, 0.9))
        elif chance < _BAD + _SLOW + _LEAVING:
            await self._leave(random, pause_s=0.0, share=1.0)
        else:
            await self._send_good(client, random)

    async def _send_good(self, client: httpx.AsyncClient, random: Random) -> None:
        place = random.randrange(len(self._pictures))
        response = await client.post("/segment", content=self._pictures[place], headers={"Content-Type": "image/*"})
        self.account.seen[response.status_code] += 1
        if response.status_code not in (200, 503):
            self.account.wrong.append(f"{response.status_code} for a good image: {response.text[:100]}")
        elif response.status_code == 200 and label_of(response.content) != place % len(LEVELS):
            self.account.wrong.append(f"another answer to picture {place}")

    async def _send_bad(self, client: httpx.AsyncClient, random: Random) -> None:
        content = mutant(random.choice(self._files), random.choice(self._files), random)
        response = await client.post("/segment", content=content, headers={"Content-Type": "application/octet-stream"})
        self.account.seen[response.status_code] += 1
        if response.status_code >= 500 and response.status_code not in (503, 504):
            self.account.wrong.append(f"{response.status_code} for a mutant: {response.text[:100]}")

    async def _leave(self, random: Random, *, pause_s: float, share: float) -> None:
        """Send a share of a request, wait, and leave without reading."""
        self.account.unseen += 1
        content = random.choice(self._pictures)
        head = f"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
        _, writer = await asyncio.open_connection(self._target.host, self._target.port)
        writer.write(head.encode() + content[: round(share * len(content))])
        with suppress(OSError):
            await writer.drain()
            await asyncio.sleep(pause_s)
            writer.close()
            await writer.wait_closed()

    async def _watch(self) -> None:
        while True:
            tenth = _TENTHS * self.account.sent // self._requests
            memory = await asyncio.to_thread(memory_mib, self._target)
            self.account.memory_mib.setdefault(tenth, []).append(memory.total())
            self.account.processes_mib[tenth] = memory
            await asyncio.sleep(0.25)


def memory_mib(target: Target) -> Counter[str]:
    """Memory of all processes by their names, what they share counted once."""
    memory: Counter[str] = Counter()
    for process in (target.process, *children(target.process)):
        with suppress(OSError):
            memory[Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()] += round(pss_mib(process))
    return memory


def mistakes(account: Account, text: str) -> list[str]:
    """Compare the requests that were sent with ``/metrics``.

    Args:
        account: What the clients saw.
        text: Of ``/metrics``.
    """
    counted: Counter[int] = Counter()
    for status, value in re.findall(r'^ecenet_requests_total\{[^}]*status="(\d+)"\} (\S+)$', text, re.MULTILINE):
        counted[int(status)] += round(float(value))
    found = []
    if counted.total() != account.sent:
        found.append(f"{account.sent} requests were sent and {counted.total()} counted")
    fewer = {status: number for status, number in account.seen.items() if counted[status] < number}
    if fewer:
        found.append(f"answers that were seen, and not counted: {fewer}")
    for name in ("ecenet_in_flight", "ecenet_in_flight_pixels"):
        value = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        if value is None or float(value[1]) != 0:
            found.append(f"{name} is {value and value[1]} at the end")
    return found


async def settled_metrics(url: str, account: Account) -> str:
    """The metrics as soon as they add up, or after a minute: clients that left are counted when that is noticed."""
    ends = time.monotonic() + _SETTLED_S
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while True:
            text = (await client.get("/metrics")).raise_for_status().text
            if not mistakes(account, text) or time.monotonic() > ends:
                return text
            await asyncio.sleep(0.2)


async def run(options: argparse.Namespace) -> int:
    """Serve, soak, and print a report as JSON; gives the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_brightness_model(Path(folder) / "brightness")
        async with serving(["--model-dir", str(model), "--engine", "onnxruntime", *options.arguments]) as target:
            soak = Soak(target, options.requests, options.seed)
            began = time.monotonic()
            await soak.start_decoders()
            await soak.run(options.clients)
            seconds = time.monotonic() - began
            account = soak.account
            faults = [*account.wrong, *mistakes(account, await settled_metrics(target.url, account))]
    first, last = account.held_mib
    grown = last / first - 1
    if grown >= options.most_growth:
        faults.append(f"the memory has grown by {grown:.1%}")
    memory = {
        tenth: [round(min(samples)), round(statistics.median(samples)), round(max(samples))]
        for tenth, samples in sorted(account.memory_mib.items())
    }
    report = {
        "seed": options.seed,
        "seconds": round(seconds),
        "requests": account.sent,
        "answers": {str(status): number for status, number in sorted(account.seen.items())},
        "left": account.unseen,
        "memory_mib": {tenth: " ".join(map(str, values)) for tenth, values in memory.items()},
        "processes_mib": {tenth: dict(account.processes_mib[tenth]) for tenth in sorted(account.processes_mib)[1:10:8]},
        "held_mib": account.held_mib,
        "growth": round(grown, 4),
        "faults": faults[:20],
    }
    print(json.dumps(report, indent=1))
    return 1 if faults else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and run; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=12, help="at once; default: %(default)s")
    parser.add_argument("--most-growth", type=float, default=_MOST_GROWTH, help="of memory; default: %(default)s")
    parser.add_argument("arguments", nargs="*", help="arguments of ecenet-serve, behind --")
    options = parser.parse_args(arguments)
    with unwinding_on_sigterm():
        return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
