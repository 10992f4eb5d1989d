"""Goodput under overload: answers in time, as a share of what the engine can do.

Admission and batcher are the service's own; engine and clients are simulated, and the clock jumps. With ``--url`` the
load goes to a running service instead, in real time.

python -m benchmarks.reliability.goodput
python -m benchmarks.reliability.goodput --url http://127.0.0.1:8000 --image image.png --per-s 8 --capacity-per-s 1.67
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows
from service.errors import DeadlineExceeded, Overloaded
from service.inference.admission import Admission, TimeLimit
from service.inference.batcher import Batcher
from service.inference.forecast import Forecast
from service.metrics import Metrics
from tests.support.batcher_bench import JumpingLoop

LOADS = (1.5, 3.0, 10.0)
_DECODE_S, _ENCODE_S = 0.010, 0.010


@dataclass(frozen=True, slots=True)
class Engine:
    """Times of an engine: a batch takes ``fixed_s``, and ``image_s`` for each image, with a spread of ``jitter``."""

    name: str
    fixed_s: float
    image_s: float
    max_batch_size: int
    jitter: float = 0.1

    def seconds(self, size: int) -> float:
        """Mean seconds of a batch."""
        return self.fixed_s + self.image_s * size

    @property
    def capacity_per_s(self) -> float:
        """Images a second in full batches."""
        return self.max_batch_size / self.seconds(self.max_batch_size)


ENGINES = (Engine("0.6 s an image", 0.0, 0.6, 1), Engine("0.5 s a batch, 0.1 s an image, 8 at once", 0.5, 0.1, 8))


@dataclass(frozen=True, slots=True)
class Load:
    """Open load of equal requests.

    Attributes:
        times: Requests a second over those that the engine can do.
        deadline_s: Time of each.
        is_even: True for equal gaps, False for random ones (Poisson).
    """

    times: float
    deadline_s: float
    is_even: bool


@dataclass(slots=True)
class Outcome:
    """Ends of requests, and what the engine did.

    Attributes:
        share: Answers in time over those of an engine that is never idle, in the steady part.
        best: The same for a schedule that knows the future; None where it was not computed.
        wasted: Share of the engine's images that were too late.
        ends: Number of requests by their end.
        retry_after_s: What refusals said.
    """

    share: float = 0.0
    best: float | None = None
    wasted: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    retry_after_s: list[float] = field(default_factory=list)


def arrivals(load: Load, per_s: float, seconds: float, random: Random) -> list[float]:
    """Times at which requests come."""
    gaps = (1 / per_s if load.is_even else random.expovariate(per_s) for _ in range(round(per_s * seconds)))
    return list(itertools.accumulate(gaps))


def simulate(engine: Engine, load: Load, *, seconds: float, seed: int) -> Outcome:
    """Send requests to admission and batcher for so long, in simulated time."""
    random = Random(seed)
    times = arrivals(load, load.times * engine.capacity_per_s, seconds, random)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        outcome = runner.run(_play(engine, load, times, random))
    if engine.max_batch_size == 1:
        outcome.best = _best(engine, load, times)
    return outcome


async def _play(engine: Engine, load: Load, times: Sequence[float], random: Random) -> Outcome:
    loop = asyncio.get_running_loop()
    thread = _SimulatedThread(engine, random)
    metrics = Metrics()
    batcher = Batcher(
        thread.infer_into,
        thread,
        input_size=(1, 1),
        output_shape=(1, 1, 1),
        max_batch_size=engine.max_batch_size,
        max_queued_images=64 + 2 * engine.max_batch_size,
        window_s=0.0,
        observer=metrics.of_model("simulated"),
        seconds_per_image=1 / engine.capacity_per_s,
        batch_seconds={size: engine.seconds(size) for size in {1, engine.max_batch_size}},
        clock=loop.time,
    )
    admission = Admission(
        capacity=64,
        max_pixels=1 << 40,
        timeout_s=load.deadline_s,
        forecast=Forecast(lambda: [batcher]),
        observer=metrics,
    )
    batcher.start()
    outcome, answered = Outcome(), []

    async def request(arrival: float) -> None:
        await asyncio.sleep(arrival - loop.time())
        try:
            async with admission.permit(TimeLimit(load.deadline_s, loop.time()), owner=batcher) as ticket:
                with ticket.stage("decode"):
                    await asyncio.sleep(_DECODE_S)
                ticket.enter("queue")
                await batcher.submit(np.zeros((1, 1, 3), np.uint8), ticket.deadline)
                with ticket.stage("encode"):
                    await asyncio.sleep(_ENCODE_S)
        except Overloaded as refusal:
            outcome.ends["refused"] += 1
            outcome.retry_after_s.append(float(refusal.headers["Retry-After"]))
        except DeadlineExceeded:
            outcome.ends["expired"] += 1
        else:
            outcome.ends["answered"] += 1
            answered.append(loop.time())

    await asyncio.gather(*map(request, times))
    await batcher.close()
    outcome.share = _steady_share(answered, load, times, engine.capacity_per_s)
    outcome.wasted = 1 - len(answered) / max(1, thread.images)
    return outcome


def _steady_share(ends: Sequence[float], load: Load, times: Sequence[float], capacity_per_s: float) -> float:
    """Ends a second over the capacity, without the filling of the queue at first and its emptying at last."""
    first, last = load.deadline_s, times[-1]
    return sum(first < end <= last for end in ends) / (last - first) / capacity_per_s


def _best(engine: Engine, load: Load, times: Sequence[float]) -> float:
    """The share of a schedule that starts each image in its turn if it will be in time, and knows how long it takes."""
    free, ends = 0.0, []
    for arrival in times:
        start = max(free, arrival + _DECODE_S)
        if start + engine.seconds(1) + _ENCODE_S <= arrival + load.deadline_s:
            free = start + engine.seconds(1)
            ends.append(free)
    return _steady_share(ends, load, times, engine.capacity_per_s)


class _SimulatedThread(Executor):
    """Engine and its thread: a batch ends when its time on the event loop's clock is over."""

    def __init__(self, engine: Engine, random: Random) -> None:
        self.images = 0
        self._engine = engine
        self._random = random

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        before = self.images
        fn(*args, **kwargs)
        factor = self._random.uniform(1 - self._engine.jitter, 1 + self._engine.jitter)
        seconds = factor * self._engine.seconds(self.images - before)
        asyncio.get_running_loop().call_later(seconds, future.set_result, None)
        return future

    def infer_into(self, images: Sequence[NDArray[np.uint8]], outputs: Sequence[Rows]) -> None:  # noqa: ARG002
        """Count the images; nobody looks at the outputs."""
        self.images += len(images)


def loads(service_s: float) -> Iterator[Load]:
    """The loads of the table: deadlines of 2, 3 and 5 service times, of 10 s and of 30 s."""
    deadlines = (2 * service_s, 3 * service_s, 5 * service_s, 10.0, 30.0)
    for is_even, deadline_s, times in itertools.product((True, False), deadlines, LOADS):
        yield Load(times, deadline_s, is_even)


def table(engines: Sequence[Engine], *, seconds: float, seed: int) -> str:
    """All loads on all engines, as Markdown."""
    lines = [
        "| engine | arrivals | deadline, s | offered | of the capacity | at best | 503 | 504 | Retry-After, s "
        "| engine wasted |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine in engines:
        for load in loads(engine.seconds(1)):
            outcome = simulate(engine, load, seconds=seconds, seed=seed)
            best = "" if outcome.best is None else f"{outcome.best:.0%}"
            waits = f"{statistics.median(outcome.retry_after_s):.0f}" if outcome.retry_after_s else ""
            lines.append(
                f"| {engine.name} | {'even' if load.is_even else 'random'} | {load.deadline_s:g} | {load.times:g}x "
                f"| {outcome.share:.1%} | {best} | {outcome.ends['refused']} | {outcome.ends['expired']} | {waits} "
                f"| {outcome.wasted:.1%} |"
            )
    return "\n".join(lines)


async def offer(
    url: str, image: bytes, *, per_s: float, seconds: float, deadline_s: float
) -> tuple[Counter[str], float]:
    """Send an image at a rate, whatever the answers; gives these, and the seconds until the last."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Content-Type": "image/png", "X-Request-Timeout-Ms": str(round(deadline_s * 1000))}
    counts: Counter[str] = Counter()
    last = 0.0

    async def send(client: httpx.AsyncClient) -> None:
        response = await client.post(f"{url}/segment", content=image, headers=headers)
        if response.status_code == 200:
            nonlocal last
            last = time.monotonic()
        wait = f", again in {response.headers['Retry-After']} s" if response.status_code == 503 else ""
        counts[f"{response.status_code}{wait}"] += 1

    async with httpx.AsyncClient(timeout=deadline_s + 60, limits=limits) as client, asyncio.TaskGroup() as group:
        begun = time.monotonic()
        for number in range(round(per_s * seconds)):
            await asyncio.sleep(begun + number / per_s - time.monotonic())
            group.create_task(send(client))
    return counts, last - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or the answers of a running service."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--url", help="of a running service")
    parser.add_argument("--image", type=Path, help="PNG to send to it")
    parser.add_argument("--per-s", type=float, default=8.0, help="requests a second; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=200.0, help="of each load; default: %(default)s")
    parser.add_argument("--deadline-s", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--capacity-per-s", type=float, default=1 / 0.6, help="of its engine; default: %(default).2f")
    options = parser.parse_args(arguments)
    if options.url is None:
        print(table(ENGINES, seconds=options.seconds, seed=options.seed))
        return
    counts, seconds = asyncio.run(
        offer(
            options.url,
            options.image.read_bytes(),
            per_s=options.per_s,
            seconds=options.seconds,
            deadline_s=options.deadline_s,
        )
    )
    print(dict(sorted(counts.items())), f"{counts['200'] / options.capacity_per_s / seconds:.1%} of the capacity")


if __name__ == "__main__":
    main()
