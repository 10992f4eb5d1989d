"""Names that settings and engines share."""

from __future__ import annotations

from typing import Literal, get_args

from service.model_directory.manifest import Precision

RuntimeName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime", "openvino"]
EngineName = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime", "openvino"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)
PRECISION_NAMES: tuple[PrecisionName, ...] = get_args(PrecisionName)
# Fastest first: the order in which ``auto`` tries. With the last two the service was equally fast, within the noise of
# two cores, though OpenVINO alone took some 5% less time; so the one that is measured longer comes first.
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
CPU_RUNTIMES: frozenset[str] = frozenset({"onnxruntime", "openvino"})

# What ``auto`` prefers, best first; bf16 is never among it. TensorRT fuses attention in fp16 only; on a CPU fp16 is
# float32 with detours.
PREFERRED_PRECISIONS: dict[RuntimeName, tuple[Precision, ...]] = {
    "tensorrt": ("fp16", "fp32", "int8"),
    "tensorrt-rtx": ("fp16", "fp32", "int8"),
    "onnxruntime-cuda": ("fp16", "fp32", "int8"),
    "onnxruntime": ("int8", "fp32", "fp16"),
    "openvino": ("int8", "fp32", "fp16"),
}
