"""Runtimes and precisions of a model directory on this machine: one image, turn by turn, as ratios of their times.

    python -m benchmarks.engines models/ecenet-lite0-camvid --rounds 20 onnxruntime:fp32 openvino:fp32 openvino:bf16

Machines that others use too are not equally fast for long: a ratio is made of times of the same round, and rounds go
through the engines forwards and backwards in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Engine
from service.engines.cpus import available_cpus
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName, PrecisionName
from service.model_directory.manifest import read_manifest
from service.model_directory.sizes import Size


def open_engine(directory: Path, name: str, num_threads: int | None = None) -> Engine:
    """The engine that ``RUNTIME:PRECISION`` names, on so many threads; None for all CPUs of this process.

    Raises:
        EngineError: It cannot be used here.
    """
    runtime, _, precision = name.partition(":")
    options = EngineOptions(
        engine=cast(EngineName, runtime),
        precision=cast(PrecisionName, precision or "auto"),
        num_threads=num_threads or available_cpus(),
    )
    return create_engine(directory, read_manifest(directory), options)


def random_images(size: Size) -> NDArray[np.uint8]:
    """A batch of one image of (height, width)."""
    return np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)


def measure(engines: Sequence[Engine], rounds: int) -> NDArray[np.float64]:
    """Milliseconds (rounds, engines) of one image, after a run of each that is not counted."""
    return take_turns([partial(engine.infer, random_images(engines[0].graph.input_size)) for engine in engines], rounds)


def take_turns(runs: Sequence[Callable[[], object]], rounds: int) -> NDArray[np.float64]:
    """Milliseconds (rounds, runs), forwards and backwards in turn, after a run of each that is not counted."""
    times = np.zeros((rounds + 1, len(runs)))
    for turn in range(rounds + 1):
        order = range(len(runs)) if turn % 2 else reversed(range(len(runs)))
        for index in order:
            started = time.perf_counter()
            runs[index]()
            times[turn, index] = 1e3 * (time.perf_counter() - started)
    return times[1:]


def main() -> None:
    """Measure, and print a row per engine; the ratios are to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="model directory")
    parser.add_argument("engines", nargs="+", metavar="RUNTIME:PRECISION", help="the first is what others compare with")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    arguments = parser.parse_args()
    with ExitStack() as opened:
        engines = [opened.enter_context(closing(open_engine(arguments.directory, n))) for n in arguments.engines]
        times = measure(engines, arguments.rounds)
    ratios = np.percentile(times / times[:, :1], [10, 50, 90], axis=0)
    print("engine                  ms   ratio   10% to 90%")
    for name, milliseconds, (low, median, high) in zip(arguments.engines, np.median(times, 0), ratios.T, strict=True):
        print(f"{name:<20} {milliseconds:5.1f}   {median:5.2f}   {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
