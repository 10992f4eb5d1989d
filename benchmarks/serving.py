"""Load on a running service: throughput, latencies and statuses of so many requests from so many clients.

    ecenet-serve &
    python benchmarks/serving.py --image photo.jpg --clients 8 --requests 200

Each client is closed-loop: it sends its next request when it has the answer to the last. Figures are those of a client
on the same machine unless ``--url`` says otherwise, so the client's own work is part.
"""

from __future__ import annotations

import argparse
import asyncio
import mimetypes
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer: what came (a status, or the name of an error) and after how many milliseconds."""

    outcome: str
    latency_ms: float


async def run_client(
    client: httpx.AsyncClient, url: str, body: bytes, media_type: str, shares: list[int]
) -> list[Sample]:
    """Send requests one after another until ``shares``, one entry per request left for all clients, is empty."""
    samples = []
    while shares:
        shares.pop()
        started = time.perf_counter()
        try:
            response = await client.post(url, content=body, headers={"Content-Type": media_type})
            outcome = str(response.status_code)
        except httpx.TransportError as error:
            outcome = type(error).__name__
        samples.append(Sample(outcome, (time.perf_counter() - started) * 1000))
    return samples


async def run(arguments: argparse.Namespace) -> tuple[list[Sample], float]:
    """Send all requests; gives the samples and the seconds that it took."""
    body = arguments.image.read_bytes()
    media_type = mimetypes.guess_type(arguments.image.name)[0] or "application/octet-stream"
    url = f"{arguments.url}/segment?format={arguments.format}"
    limits = httpx.Limits(max_connections=arguments.clients, max_keepalive_connections=arguments.clients)
    async with httpx.AsyncClient(limits=limits, timeout=arguments.timeout_s) as client:
        for _ in range(arguments.warm_up):
            await client.post(url, content=body, headers={"Content-Type": media_type})
        shares = [0] * arguments.requests
        started = time.perf_counter()
        clients = [run_client(client, url, body, media_type, shares) for _ in range(arguments.clients)]
        samples = [sample for part in await asyncio.gather(*clients) for sample in part]
        return samples, time.perf_counter() - started


def report(samples: list[Sample], elapsed_s: float) -> str:
    """Throughput and latencies of the answers with status 200, and how many answers had which status."""
    latencies = [sample.latency_ms for sample in samples if sample.outcome == "200"]
    counts = ", ".join(f"{outcome} x {count}" for outcome, count in sorted(Counter(s.outcome for s in samples).items()))
    lines = [f"answers     {counts}", f"throughput  {len(latencies) / elapsed_s:.1f} images/s"]
    if latencies:
        p50, p90, p99 = np.percentile(latencies, [50, 90, 99])
        lines.append(f"latency     p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, max {max(latencies):.1f} ms")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="image file to send")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="service; default: %(default)s")
    parser.add_argument("--format", default="labels", help="labels, color, overlay or json; default: %(default)s")
    parser.add_argument("--clients", type=int, default=8, help="clients at once; default: %(default)s")
    parser.add_argument("--requests", type=int, default=200, help="requests in all; default: %(default)s")
    parser.add_argument("--warm-up", type=int, default=5, help="requests before the measurement; default: %(default)s")
    parser.add_argument(
        "--timeout-s", type=float, default=60, help="seconds until a client gives up; default: %(default)s"
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Run and print."""
    print(report(*asyncio.run(run(parse()))))


if __name__ == "__main__":
    main()
