"""Kernels, fused attentions and memory of a graph in TensorRT-RTX, from its builder's report. Needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from service.engines.tensorrt.compile import Plan, compile_plan
from service.engines.tensorrt.layer_report import parse_layers
from service.model_directory.machine import EngineRuntime, detect_builder, runtime_module

MAX_BATCH = 8
# Layers of the report that launch nothing: shape arithmetic, and the events between two streams.
_NO_KERNELS = frozenset({"shape_call", "signal", "wait"})


class KernelError(RuntimeError):
    """A build that does not report the figures."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Figures of the builder's report.

    Attributes:
        kernels: Kernels that a run launches.
        fused_attentions: Those of them that are a fused attention.
        activation_bytes: GPU memory for activations, inputs and outputs aside, at a batch of ``MAX_BATCH``.
    """

    kernels: int
    fused_attentions: int
    activation_bytes: int


def tensorrt_kernels(model: onnx.ModelProto) -> Kernels:
    """Build an fp16 graph with any inputs for batches of 1 to ``MAX_BATCH``, and read the report.

    Raises:
        MachineError: TensorRT-RTX is not installed.
        CompileError: It does not build the graph.
        KernelError: It does not report the memory.
        LayerReportError: The report has no layers.
    """
    runtime: EngineRuntime = "tensorrt-rtx"
    profile = (1, MAX_BATCH, MAX_BATCH)
    plan = compile_plan(runtime_module(runtime), model.SerializeToString(), detect_builder(runtime), profile)
    return read_report(plan)


def read_report(plan: Plan) -> Kernels:
    """Kernels that a build has reported.

    Raises:
        KernelError: The memory is missing.
        LayerReportError: The report has no layers.
    """
    if plan.memory_bytes is None:
        raise KernelError("TensorRT-RTX reported no memory; its log has another form than version 1.7's")
    kernels = [layer for layer in parse_layers(plan.layer_report) if layer.kind not in _NO_KERNELS]
    return Kernels(len(kernels), sum(kernel.is_fused_attention for kernel in kernels), plan.memory_bytes)
