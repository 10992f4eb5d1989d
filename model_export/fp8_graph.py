"""A half-precision graph with its convolutions in FP8 (E4M3), by explicit QDQ nodes, for TensorRT.

Activations have one scale per tensor, weights one per output channel, both symmetric: 448, the largest finite number of
E4M3, stands for the largest absolute value. Scales are float16, so that all between two convolutions is too.

Depthwise convolutions and those of few channels stay in float16. They are bound by memory, and of the bundled model's
labels FP8 in them changes twice as many as in all others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_export.unused_constants import drop_unused_constants

_FP8 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
_LARGEST = 448.0
_LEAST_CHANNELS = 16
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)
_ZERO = "fp8_zero_point"


def to_fp8(model: onnx.ModelProto, peaks: Mapping[str, float]) -> onnx.ModelProto:
    """A copy whose convolutions read FP8 on both sides.

    Args:
        model: A float16 graph.
        peaks: Largest absolute values of activations, by their names.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    graph.initializer.append(_constant(_ZERO, np.zeros((), _FP8)))
    rounded: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if _is_wide(node, weights):
            source = node.input[0]
            if source not in rounded:
                rounded[source] = f"{source}_fp8"
                nodes += _round_activation(graph, source, peaks[source])
            nodes.append(_round_weight(graph, weights[node.input[1]]))
            node.input[0], node.input[1] = rounded[source], nodes[-1].output[0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_constants(graph)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def wide_inputs(model: onnx.ModelProto) -> list[str]:
    """Names of the activations that ``to_fp8`` rounds, each once."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return list(dict.fromkeys(node.input[0] for node in model.graph.node if _is_wide(node, weights)))


def _is_wide(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Conv" or node.input[1] not in weights:
        return False
    outputs, inputs = weights[node.input[1]].dims[:2]  # of a depthwise convolution each group has one input
    return min(outputs, inputs) >= _LEAST_CHANNELS


def _round_activation(graph: onnx.GraphProto, source: str, peak: float) -> list[onnx.NodeProto]:
    scale, steps = f"{source}_fp8_scale", f"{source}_fp8_steps"
    graph.initializer.append(_constant(scale, _scales(np.float64(peak))))
    return [
        helper.make_node("QuantizeLinear", [source, scale, _ZERO], [steps], steps),
        helper.make_node("DequantizeLinear", [steps, scale, _ZERO], [f"{source}_fp8"], f"{source}_fp8"),
    ]


def _round_weight(graph: onnx.GraphProto, weight: onnx.TensorProto) -> onnx.NodeProto:
    """Add the weight in FP8; gives the node that makes float16 of it."""
    values = numpy_helper.to_array(weight).astype(np.float64)  # (outputs, inputs of a group, h, w)
    scales = _scales(np.abs(values).max((1, 2, 3)))
    steps = (values / scales.astype(np.float64)[:, None, None, None]).astype(_FP8)
    names = [f"{weight.name}_fp8_{part}" for part in ("steps", "scales", "zero_points")]
    zeros = np.zeros(scales.shape, _FP8)
    for name, array in zip(names, (steps, scales, zeros), strict=True):
        graph.initializer.append(_constant(name, array))
    return helper.make_node("DequantizeLinear", names, [f"{weight.name}_fp8"], f"{weight.name}_fp8", axis=0)


def _scales(peaks: NDArray[np.float64] | np.float64) -> NDArray[np.float16]:
    """Scales at which the peaks are at most 448; those of zeros alone are normal numbers as well."""
    scales = np.maximum(np.asarray(peaks) / _LARGEST, _SMALLEST_SCALE)
    nearest = scales.astype(np.float16)
    short: NDArray[np.bool_] = nearest.astype(np.float64) < scales  # rounded down, the peak would be beyond
    return np.where(short, np.nextafter(nearest, np.float16(np.inf)), nearest).astype(np.float16)


def _constant(name: str, values: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)
