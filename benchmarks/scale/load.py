"""Load on a real service, from this process: open loop at given times, or so many clients in a closed loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from benchmarks.scale.arrivals import Times

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        sent_s: When it was sent, in seconds from the start.
        latency_s: Seconds until the whole answer had arrived.
        status: Of the answer.
        stages_s: Seconds of the service's stages, by ``Server-Timing``; empty for a refusal.
    """

    sent_s: float
    latency_s: float
    status: int
    stages_s: Mapping[str, float]


def replay(url: str, image: bytes, times: Times) -> list[Exchange]:
    """Send a request at each of the times, whatever has been answered by then; in their order."""
    return asyncio.run(_replay(url, image, times))


def saturate(url: str, image: bytes, clients: int, seconds: float) -> list[Exchange]:
    """Let clients send one request after another for so long."""
    return asyncio.run(_saturate(url, image, clients, seconds))


async def _replay(url: str, image: bytes, times: Times) -> list[Exchange]:
    async with _session() as session, asyncio.TaskGroup() as group:
        await session.get(f"{url}/readyz")  # opens a connection
        started = time.perf_counter()
        tasks = []
        for moment in times.tolist():
            await asyncio.sleep(started + moment - time.perf_counter())
            tasks.append(group.create_task(_segment(session, url, image, started)))
    return [task.result() for task in tasks]


async def _saturate(url: str, image: bytes, clients: int, seconds: float) -> list[Exchange]:
    async with _session() as session:
        started = time.perf_counter()

        async def work() -> list[Exchange]:
            exchanges = []
            while time.perf_counter() < started + seconds:
                exchanges.append(await _segment(session, url, image, started))
            return exchanges

        parts = await asyncio.gather(*(work() for _ in range(clients)))
        return [exchange for part in parts for exchange in part]


def _session() -> aiohttp.ClientSession:
    # Lighter than httpx: the client's own work, on the same cores, should be no part of the measurement.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S))


async def _segment(session: aiohttp.ClientSession, url: str, image: bytes, started: float) -> Exchange:
    sent = time.perf_counter()
    async with session.post(f"{url}/segment", data=image, headers={"Content-Type": "image/jpeg"}) as answer:
        await answer.read()
    latency = time.perf_counter() - sent
    return Exchange(sent - started, latency, answer.status, stages_s(answer.headers.get("Server-Timing", "")))


def stages_s(server_timing: str) -> dict[str, float]:
    """Seconds by stage of a ``Server-Timing`` header, whose durations are milliseconds; without the total."""
    entries = [entry.strip().split(";dur=") for entry in server_timing.split(",") if entry]
    return {name: float(duration) / 1000 for name, duration in entries if name != "total"}
