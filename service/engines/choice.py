"""Choice of the graph and of its runtime. Pure functions: what a machine offers is their argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.engines.base import EngineError
from service.engines.runtimes import (
    PREFERRED_PRECISIONS,
    RUNTIMES,
    EngineName,
    PrecisionName,
    RuntimeName,
)
from service.model_directory.manifest import GraphInfo, Manifest, Precision, in_bf16
from service.model_directory.sizes import Size, format_size

_DETOURS: dict[RuntimeName, Precision] = {"onnxruntime-cuda": "int8", "onnxruntime": "fp16", "openvino": "fp16"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime, and why not a faster one.

    Attributes:
        runtime: What runs the model.
        passed_over: Runtimes that ``auto`` would have preferred, each with the reason against it.
    """

    runtime: RuntimeName
    passed_over: Mapping[RuntimeName, str]


def choose_runtime(wanted: EngineName, obstacle_of: Callable[[RuntimeName], str | None]) -> Choice:
    """The requested runtime, or the fastest without an obstacle.

    Args:
        wanted: A runtime, or ``auto``.
        obstacle_of: Why a runtime cannot be used, or None; not asked about those after the chosen one.

    Raises:
        EngineError: The runtime that was asked for cannot be used, or none can; another is never taken in its place.
    """
    if wanted != "auto":
        if (obstacle := obstacle_of(wanted)) is not None:
            raise EngineError(f"--engine {wanted} cannot be used: {obstacle}")
        return Choice(wanted, {})
    passed_over: dict[RuntimeName, str] = {}
    for runtime in RUNTIMES:
        obstacle = obstacle_of(runtime)
        if obstacle is None:
            return Choice(runtime, passed_over)
        passed_over[runtime] = obstacle
    reasons = "; ".join(f"{runtime}: {reason}" for runtime, reason in passed_over.items())
    raise EngineError(f"no runtime can be used: {reasons}")


def choose_graph(manifest: Manifest, runtime: RuntimeName, precision: PrecisionName, size: Size | None) -> GraphInfo:
    """The graph of a size and a precision, by default the directory's first size and the runtime's best precision.

    Raises:
        EngineError: The directory has no such graph; the text lists those that it has.
    """
    return candidate_graphs(manifest, runtime, precision, size)[0]


def smallest_size(manifest: Manifest) -> Size:
    """(height, width) of the graphs with the fewest pixels."""
    return min((graph.input_size for graph in manifest.graphs), key=lambda size: size[0] * size[1])


def precision_obstacle(runtime: RuntimeName, precision: PrecisionName) -> str | None:
    """The reason why a runtime cannot compute in a precision, or None."""
    if precision == "bf16" and runtime != "openvino":
        return "it does not compute in bf16, only --engine openvino does"
    if precision == "fp8" and runtime in ("onnxruntime", "onnxruntime-cuda"):
        return "its optimiser changes what an FP8 graph computes; --engine tensorrt multiplies in FP8"
    return None


def measured_precisions(manifest: Manifest, runtime: RuntimeName, size: Size | None) -> list[PrecisionName]:
    """Precisions of a size in which a runtime is worth a measurement, those that it prefers first.

    On a CPU fp16 is float32 with detours, and so is INT8 for ONNX Runtime on a GPU: each is tried only where the
    directory has nothing else. TensorRT multiplies both.

    Raises:
        EngineError: The directory has no graph of the size.
    """
    graphs = candidate_graphs(manifest, runtime, "auto", size)
    stored = list(dict.fromkeys(graph.precision for graph in graphs))
    worthy: list[PrecisionName] = [precision for precision in stored if precision != _DETOURS.get(runtime)]
    if runtime == "openvino" and "fp32" in worthy:
        worthy.append("bf16")
    return worthy or [stored[0]]


def candidate_graphs(
    manifest: Manifest, runtime: RuntimeName, precision: PrecisionName, size: Size | None
) -> list[GraphInfo]:
    """The graphs of a size and a precision, the runtime's best precision first; of several alike, the first counts.

    Those of bf16 are the float32 ones.

    Raises:
        EngineError: There is none; the text lists the graphs that the directory has.
    """
    size = size or manifest.graph.input_size
    of_size = [graph for graph in manifest.graphs if graph.input_size == size]
    if precision == "bf16":
        return [in_bf16(graph) for graph in candidate_graphs(manifest, runtime, "fp32", size)]
    wanted: Sequence[Precision] = PREFERRED_PRECISIONS[runtime] if precision == "auto" else (precision,)
    candidates = [graph for candidate in wanted for graph in of_size if graph.precision == candidate]
    if candidates:
        return candidates
    kind = "" if precision == "auto" else f" in {precision}"
    raise EngineError(f"{manifest.name} has no graph of {format_size(size)}{kind}; it has {manifest.graph_list}")
