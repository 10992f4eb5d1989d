"""The share of this machine's matrix-product ceiling that a network reaches, on one thread and on all.

    python -m benchmarks.ceiling models/ecenet-lite0-camvid onnxruntime:fp32 openvino:fp32

The ceiling is the faster of two float32 products of 1024x1024 matrices: ONNX Runtime's MatMul and NumPy's BLAS. A round
runs both products and each engine, forwards and backwards in turn, so that all meet the same other work; a share is
made of rates of the same round. Operations are those of convolutions, matrix products and attentions, and a
multiply-add is two. Of an INT8 or bf16 engine they are compared with the float32 ceiling all the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.engines import open_engine, random_images, take_turns
from model_export.onnx_flops import count_flops
from service.engines.cpus import available_cpus
from service.engines.onnxruntime_engine import session_options
from service.model_directory.manifest import Manifest, read_manifest
from service.model_directory.sizes import Size

# Larger ones are slower in ONNX Runtime. All repeats have about as many operations as an image of the bundled model.
SIDE, _REPEATS = 1024, 8
# NumPy reads them when it is imported.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Work:
    """A run of known cost: its name, the call, and its floating-point operations."""

    name: str
    run: Callable[[], object]
    flops: int


def products(num_threads: int, side: int = SIDE) -> list[Work]:
    """The products whose faster one is the ceiling; NumPy's threads are those of its environment."""
    left, right = (np.random.default_rng(seed).standard_normal((side, side), np.float32) for seed in (0, 1))
    session = _session(right, num_threads)
    runs = {"numpy": lambda: left @ right, "onnxruntime": lambda: session.run(None, {"left": left})}
    return [Work(name, partial(_repeat, run), _REPEATS * 2 * side**3) for name, run in runs.items()]


def _repeat(run: Callable[[], object]) -> None:
    for _ in range(_REPEATS):
        run()


def network_flops(directory: Path, manifest: Manifest, size: Size) -> int:
    """Operations of an image of (height, width), counted in the float32 graph, or in the only one."""
    graphs = [graph for graph in manifest.graphs if graph.input_size == size]
    graph = next((graph for graph in graphs if graph.precision == "fp32"), graphs[0])
    return count_flops(onnx.load(directory / graph.file))


def measure(works: Sequence[Work], rounds: int) -> NDArray[np.float64]:
    """Rates (rounds, works) in GFLOP/s."""
    milliseconds = take_turns([work.run for work in works], rounds)
    rates: NDArray[np.float64] = np.array([work.flops for work in works]) / milliseconds / 1e6
    return rates


def shares(rates: NDArray[np.float64], num_products: int) -> NDArray[np.float64]:
    """Shares (rounds, works) of the faster of the first ``num_products`` works of the same round."""
    ceilings: NDArray[np.float64] = rates[:, :num_products].max(1, keepdims=True)
    return rates / ceilings


def _session(right: NDArray[np.float32], num_threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime with a product by constant weights, which it packs once as it does those of a network."""
    sides = [len(right)] * 2
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)] for name in ("left", "product"))
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    graph = helper.make_graph([node], "product", inputs, outputs, [numpy_helper.from_array(right, "right")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), session_options(num_threads), providers=providers)


def _report(directory: Path, names: Sequence[str], num_threads: int, rounds: int) -> str:
    manifest = read_manifest(directory)
    with ExitStack() as opened:
        works = products(num_threads)
        count = len(works)
        for name in names:
            engine = opened.enter_context(closing(open_engine(directory, name, num_threads)))
            size = engine.graph.input_size
            run = partial(engine.infer, random_images(size))
            works.append(Work(name, run, network_flops(directory, manifest, size)))
        rates = measure(works, rounds)
    parts = np.percentile(shares(rates, count), [10, 50, 90], axis=0)
    lines = [f"{num_threads} threads            GFLOP   GFLOP/s   share   10% to 90%"]
    for work, rate, (low, median, high) in zip(works, np.median(rates, 0), parts.T, strict=True):
        lines.append(f"{work.name:<20} {work.flops / 1e9:6.1f}   {rate:7.1f}   {median:5.0%}   {low:.0%} to {high:.0%}")
    return "\n".join(lines)


def _run_alone(num_threads: int) -> None:
    """The same command for one number of threads, in a process whose BLAS has as many."""
    threads = dict.fromkeys(_BLAS_THREADS, str(num_threads))
    command = [sys.executable, "-m", "benchmarks.ceiling", *sys.argv[1:], "--threads", str(num_threads)]
    subprocess.run(command, check=True, env={**os.environ, **threads})


def main() -> None:
    """Measure, and print a row per product and engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="model directory")
    parser.add_argument("engines", nargs="+", metavar="RUNTIME:PRECISION")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="default: one, then all CPUs of this process")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != str(arguments.threads) for name in _BLAS_THREADS):
        for num_threads in {1, available_cpus()} if arguments.threads is None else {arguments.threads}:
            _run_alone(num_threads)
        return
    print(_report(arguments.directory, arguments.engines, arguments.threads, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
