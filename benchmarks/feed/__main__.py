"""Measure the path of an image to the engine and back, of several arrangements of processes by turns.

    python -m benchmarks.feed

The engine sleeps. Each round restarts every arrangement, in another order. Figures are medians of the rounds. The
clients run on the same machine and take a part of its cores. ``--baseline`` adds the service of another checkout, with
which the others are compared; without it they are compared with the service in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.feed.measure import Memory, SleepingService, exam_of, median_load, started
from benchmarks.feed.report import Figures, report
from benchmarks.peers.running import PeerError
from benchmarks.scale.calibrate import origin

_SMALL, _LARGE = (360, 480), (720, 960)
_BUNDLED_INPUT, _SMALL_INPUT = (576, 768), (360, 480)
# So slow that a batch of eight is waiting when the one before ends: the CPU has time for 120 images a second.
_SLOW = ("--input", "360x480", "--fixed-ms", "50", "--image-ms", "2")
_CROWD, _FEW = 32, 8


def arrangements(workers: Sequence[int], baseline: Path | None) -> list[SleepingService]:
    """Arrangements to measure, the one to compare with first."""
    one = SleepingService("one process", "", "", "/segment")
    others = [replace(one, name=f"{count} workers", options=("--workers", str(count))) for count in workers]
    compared = [] if baseline is None else [replace(one, name="baseline", root=baseline.resolve())]
    return [*compared, one, *others]


def measure(service: SleepingService, seconds: float) -> Figures:
    """Start a service with each engine, and measure each load for so many seconds.

    Raises:
        PeerError: It did not start.
    """
    small, large = exam_of(_SMALL, _BUNDLED_INPUT), exam_of(_LARGE, _BUNDLED_INPUT)
    with started(service, small) as subject:
        alone = subject.measure(small, 1, seconds)
        crowd = subject.measure(small, _CROWD, seconds)
        of_large = subject.measure(large, _FEW, seconds)
        memory = subject.memory()
    at_small_input = exam_of(_SMALL, _SMALL_INPUT)
    with started(replace(service, options=(*service.options, *_SLOW)), at_small_input) as subject:
        return Figures(crowd, of_large, alone, subject.measure(at_small_input, _CROWD, seconds), memory)


def medians(rounds: Sequence[Figures]) -> Figures:
    """Each figure's median."""
    return Figures(
        crowd=median_load([each.crowd for each in rounds]),
        large=median_load([each.large for each in rounds]),
        alone=median_load([each.alone for each in rounds]),
        full_batches=median_load([each.full_batches for each in rounds]),
        memory=Memory(
            statistics.median(each.memory.pss_mib for each in rounds),
            statistics.median(each.memory.rss_mib for each in rounds),
        ),
    )


def run(services: Sequence[SleepingService], rounds: int, seconds: float) -> dict[str, Figures]:
    """Figures by the name of the arrangement; each round begins with another one.

    Raises:
        PeerError: One did not start.
    """
    found: dict[str, list[Figures]] = {service.name: [] for service in services}
    turns = [(number, service) for number in range(rounds) for service in _rotated(services, number)]
    for number, service in tqdm(turns, unit="start"):
        tqdm.write(f"round {number + 1}: {service.name}", file=sys.stderr)
        found[service.name].append(measure(service, seconds))
    return {name: medians(each) for name, each in found.items()}


def _rotated(services: Sequence[SleepingService], number: int) -> Sequence[SleepingService]:
    turn = number % len(services)
    return [*services[turn:], *services[:turn]]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="feed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="starts of each arrangement; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=6, help="of each load; default: %(default)s")
    parser.add_argument("--workers", type=int, nargs="*", default=[2], help="numbers of workers; default: 2")
    parser.add_argument("--baseline", type=Path, help="root of another checkout, to compare with")
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    args = parser.parse_args(arguments)
    try:
        figures = run(arrangements(args.workers, args.baseline), args.rounds, args.seconds)
    except PeerError as error:
        print(f"feed: {error}", file=sys.stderr)
        return 1
    print(report(figures))
    if args.output is not None:
        command = ["--rounds", str(args.rounds), "--seconds", f"{args.seconds:g}"]
        content = {"origin": asdict(origin("benchmarks.feed", command))}
        content |= {name: asdict(each) for name, each in figures.items()}
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
