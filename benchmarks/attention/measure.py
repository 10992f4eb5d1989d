"""ONNX Runtime on the CPU: time of two graphs in turns, nodes after optimisation, growth of memory."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
Inputs = dict[str, NDArray[np.float32]]


class MeasureError(RuntimeError):
    """Two graphs that do not compute the same, or a measurement that failed."""


def open_session(graph: Path, threads: int, *, optimized: Path | None = None) -> ort.InferenceSession:
    """A session that takes what memory its values need.

    ONNX Runtime's memory patterns, its default, lay all values of the second run out in one new block while those of
    the first stay allocated: the same times, and up to twice the memory, of whichever form.

    Args:
        graph: The ONNX file.
        threads: Threads of the operators.
        optimized: Where to write the graph that is run, if at all.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # it warns that an optimised graph is for this machine only
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def random_inputs(session: ort.InferenceSession) -> Inputs:
    """Normally distributed inputs of batch 1, the same for graphs with the same inputs."""
    rng = np.random.default_rng(0)
    shapes = {entry.name: (1, *entry.shape[1:]) for entry in session.get_inputs()}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def largest_difference(first: ort.InferenceSession, second: ort.InferenceSession, inputs: Inputs) -> float:
    """Largest difference of the outputs, as a share of the largest value of that output."""
    pairs = zip(first.run(None, inputs), second.run(None, inputs), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def count_nodes(graph: Path, folder: Path) -> int:
    """Nodes that ONNX Runtime runs, after its optimisations."""
    optimized = folder / f"{graph.stem}-optimized.onnx"
    open_session(graph, 1, optimized=optimized)
    return len(onnx.load(optimized).graph.node)


def memory_growth(graph: Path, threads: int) -> int:
    """Bytes by which a few runs raise the peak of a fresh process, from the loaded session with its inputs.

    Raises:
        MeasureError: The process failed.
    """
    command = [sys.executable, "-m", "benchmarks.attention.peak_memory", str(graph.resolve()), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MeasureError(f"the memory of {graph} could not be measured: {reason}")
    report: dict[str, Any] = json.loads(done.stdout)
    # A small graph may fit into memory already allocated: count at least a page, so that ratios exist.
    return max(int(report["peak"]) - int(report["before"]), mmap.PAGESIZE)
