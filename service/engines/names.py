"""Names that settings and engines share."""

from __future__ import annotations

from typing import Literal, get_args

from model_export.manifest import Precision

RuntimeName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime"]
EngineName = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime"]
PrecisionName = Literal["auto", "fp32", "fp16", "int8"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)
PRECISION_NAMES: tuple[PrecisionName, ...] = get_args(PrecisionName)
# Fastest first: the order in which ``auto`` tries.
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
CPU_RUNTIMES: frozenset[str] = frozenset({"onnxruntime"})

# What ``auto`` prefers, best first. TensorRT fuses attention in fp16 only; on a CPU fp16 is float32 with detours.
PREFERRED_PRECISIONS: dict[RuntimeName, tuple[Precision, ...]] = {
    "tensorrt": ("fp16", "fp32", "int8"),
    "tensorrt-rtx": ("fp16", "fp32", "int8"),
    "onnxruntime-cuda": ("fp16", "fp32", "int8"),
    "onnxruntime": ("int8", "fp32", "fp16"),
}
