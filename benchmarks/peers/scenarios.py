"""Scenarios for a server: steady load, broken images, a burst, clients that hang up, and a stop under load."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import numpy as np

from benchmarks.peers.peers import Call
from benchmarks.peers.running import Exam, RunningPeer

STOP_LIMIT_S = 20.0
_TIMEOUT_S = 30
_REFUSALS = (429, 503)
# Status of a request that got no answer.
_NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        latency_s: Seconds until the whole answer had arrived.
        status: Of the answer; 0 if none came.
        is_right: Whether it was the label map of this image, byte for byte.
    """

    latency_s: float
    status: int
    is_right: bool


@dataclass(frozen=True, slots=True)
class Steady:
    """So many clients, one request after another each.

    Attributes:
        clients: At the same time.
        images_per_s: Right answers.
        p50_ms: Latency.
        p99_ms: Latency.
        cpu_ms: CPU time of all processes of the server for an image.
        memory_mib: Of all processes of the server, at the end.
        wrong: Answers that were not right.
    """

    clients: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mib: float
    wrong: int


@dataclass(frozen=True, slots=True)
class Faults:
    """Counts and times of a server's requests in the scenarios with faults.

    Attributes:
        good: Requests for whole images among which broken ones were.
        good_lost: Of these, those without a right answer.
        broken_refused: Share of the broken ones that got a status from 400 to 499.
        burst_right: Of a burst, those with a right answer.
        burst_refused: Those refused with 429 or 503.
        burst_failed: All others.
        burst_p50_ms: Latency of the right answers.
        idle_ms: Latency of a single request, median of several.
        after_hang_ups_ms: The same right after many clients have hung up.
        stop_right: Of the requests in flight at SIGTERM, those with a right answer.
        stop_failed: The others.
        stop_s: Until all processes had ended; ``STOP_LIMIT_S`` if some had not by then.
    """

    good: int
    good_lost: int
    broken_refused: float
    burst_right: int
    burst_refused: int
    burst_failed: int
    burst_p50_ms: float
    idle_ms: float
    after_hang_ups_ms: float
    stop_right: int
    stop_failed: int
    stop_s: float


def steady(server: RunningPeer, exam: Exam, clients: int, seconds: float) -> Steady:
    """Measure after a warm-up of a fifth of the time."""
    asyncio.run(closed_loop(server, exam, clients, seconds / 5))
    cpu_s = server.cpu_s()
    started = time.perf_counter()
    exchanges = asyncio.run(closed_loop(server, exam, clients, seconds))
    elapsed = time.perf_counter() - started
    latencies = [exchange.latency_s for exchange in exchanges if exchange.is_right]
    p50, p99 = 1000 * np.percentile(latencies, [50, 99]) if latencies else (np.nan, np.nan)
    return Steady(
        clients=clients,
        images_per_s=len(latencies) / elapsed,
        p50_ms=float(p50),
        p99_ms=float(p99),
        cpu_ms=1000 * (server.cpu_s() - cpu_s) / max(1, len(latencies)),
        memory_mib=server.memory_mib(),
        wrong=len(exchanges) - len(latencies),
    )


def faults(
    server: RunningPeer, exam: Exam, *, requests: int = 200, burst: int = 300, hang_ups: int = 80, in_flight: int = 16
) -> Faults:
    """Everything but steady load; the server is stopped at the end.

    Args:
        server: Ready, and idle.
        exam: What to send.
        requests: Of which each tenth is broken.
        burst: Requests at the same time.
        hang_ups: Clients that go before they have their answer.
        in_flight: Requests at SIGTERM.
    """
    good, broken = asyncio.run(_corrupt(server, exam, requests))
    at_once = asyncio.run(_burst(server, exam, burst))
    right = [exchange for exchange in at_once if exchange.is_right]
    refused = sum(exchange.status in _REFUSALS for exchange in at_once)
    idle_s, after_s = asyncio.run(_hang_up(server, exam, hang_ups))
    last, stop_s = asyncio.run(_stop(server, exam, in_flight))
    stop_right = sum(exchange.is_right for exchange in last)
    return Faults(
        good=len(good),
        good_lost=sum(not exchange.is_right for exchange in good),
        broken_refused=sum(400 <= exchange.status < 500 for exchange in broken) / len(broken),
        burst_right=len(right),
        burst_refused=refused,
        burst_failed=len(at_once) - len(right) - refused,
        burst_p50_ms=1000 * float(np.median([exchange.latency_s for exchange in right])) if right else float("nan"),
        idle_ms=1000 * idle_s,
        after_hang_ups_ms=1000 * after_s,
        stop_right=stop_right,
        stop_failed=len(last) - stop_right,
        stop_s=stop_s,
    )


async def closed_loop(server: RunningPeer, exam: Exam, clients: int, seconds: float) -> list[Exchange]:
    """Clients that each send their next request when they have the answer to the last."""
    numbers = itertools.count()
    exchanges: list[Exchange] = []

    async def work(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < until:
            exchanges.append(await _ask_for(server, exam, next(numbers), session))

    async with _session() as session:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(work(session) for _ in range(clients)))
    return exchanges


async def _corrupt(server: RunningPeer, exam: Exam, requests: int) -> tuple[list[Exchange], list[Exchange]]:
    """Eight clients; each tenth request is broken."""
    numbers = iter(range(requests))
    good: list[Exchange] = []
    broken: list[Exchange] = []

    async def work(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if number % 10 == 5:
                broken.append(await _ask(server, exam.broken, b"", session))
            else:
                good.append(await _ask_for(server, exam, number, session))

    async with _session() as session:
        await asyncio.gather(*(work(session) for _ in range(8)))
    return good, broken


async def _burst(server: RunningPeer, exam: Exam, requests: int) -> Sequence[Exchange]:
    async with _session() as session:
        return await asyncio.gather(*(_ask_for(server, exam, number, session) for number in range(requests)))


async def _hang_up(server: RunningPeer, exam: Exam, clients: int) -> tuple[float, float]:
    """Latency of a request alone, and after clients that have sent theirs hung up; medians."""
    idle, after = [], []
    for turn in range(5):
        async with _session() as session:
            idle.append((await _ask_for(server, exam, turn, session)).latency_s)
        async with _session() as session:
            waiting = [asyncio.ensure_future(_ask_for(server, exam, number, session)) for number in range(clients)]
            await asyncio.sleep(0.1)
            for request in waiting:
                request.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with _session() as session:
            after.append((await _ask_for(server, exam, turn, session)).latency_s)
        await asyncio.sleep(1)
    return float(np.median(idle)), float(np.median(after))


async def _stop(server: RunningPeer, exam: Exam, requests: int) -> tuple[Sequence[Exchange], float]:
    """SIGTERM with requests in flight, to the first process alone, as Docker and Kubernetes do."""
    async with _session() as session:
        in_flight = [asyncio.ensure_future(_ask_for(server, exam, number, session)) for number in range(requests)]
        # So that all have been sent: the first answers are on their way.
        await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
        stopped = time.perf_counter()
        server.popen.send_signal(signal.SIGTERM)
        exchanges = await asyncio.gather(*in_flight)
    while server.pids():
        if time.perf_counter() > stopped + STOP_LIMIT_S:
            return exchanges, STOP_LIMIT_S
        server.popen.poll()
        await asyncio.sleep(0.05)
    return exchanges, time.perf_counter() - stopped


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S))


async def _ask_for(server: RunningPeer, exam: Exam, number: int, session: aiohttp.ClientSession) -> Exchange:
    """Send one of the images."""
    index = number % len(exam.calls)
    return await _ask(server, exam.calls[index], exam.answers[index], session)


async def _ask(server: RunningPeer, call: Call, answer: bytes, session: aiohttp.ClientSession) -> Exchange:
    sent = time.perf_counter()
    body, status = b"", _NO_ANSWER
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(server.url, data=call.body, headers=call.headers) as response:
            body, status = await response.read(), response.status
    latency = time.perf_counter() - sent
    return Exchange(latency, status, status == 200 and server.peer.answer_of(body) == answer)
