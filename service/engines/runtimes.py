"""Names that settings and engines share."""

from __future__ import annotations

from typing import Literal, get_args

from service.model_directory.manifest import Precision

RuntimeName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime", "openvino"]
EngineName = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime", "openvino"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)
PRECISION_NAMES: tuple[PrecisionName, ...] = get_args(PrecisionName)
# The order in which ``auto`` tries them where nothing is measured: GPUs first. Which of the last two is faster depends
# on the processor.
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
CPU_RUNTIMES: frozenset[str] = frozenset({"onnxruntime", "openvino"})

# What ``auto`` prefers where nothing is measured, best first; bf16 is never among it. TensorRT fuses attention in fp16
# only; on a CPU fp16 is float32 with detours, and INT8 changes labels, which is for a measurement to choose.
PREFERRED_PRECISIONS: dict[RuntimeName, tuple[Precision, ...]] = {
    "tensorrt": ("fp16", "fp32", "int8", "fp8"),
    "tensorrt-rtx": ("fp16", "fp32", "int8", "fp8"),
    "onnxruntime-cuda": ("fp16", "fp32", "int8"),
    "onnxruntime": ("fp32", "int8", "fp16"),
    "openvino": ("fp32", "int8", "fp16"),
}
