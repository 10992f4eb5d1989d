"""INT8 graphs as TensorRT takes them: steps symmetric around 0, and float biases. Changes the graph that it is given.

``ecenet-export quantize`` writes the form that is fast on CPUs: uint8 steps with zero points, int32 biases.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def adapt_int8(graph: onnx.GraphProto) -> None:
    """Make activations int8 with zero point 0, and int32 biases the floats that they stand for.

    The new steps reach as far as the old ones on both sides of 0, so that they are wider, up to twice where all values
    have one sign. The golden inputs show what that costs, see ``service.engines.selfcheck``.
    """
    _fold_int32_biases(graph)
    _quantize_pixels(graph)
    _symmetric_activations(graph)


def _quantize_pixels(graph: onnx.GraphProto) -> None:
    """Make float values of an image that the graph takes for the uint8 steps of its first layer, and steps of those.

    TensorRT neither transposes uint8 nor takes steps with a zero point.
    """
    image = graph.input[0].name
    steps = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for transpose in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] == image]:
        if (pixels := transpose.output[0]) not in steps:
            continue
        scale, zero_point = steps[pixels].input[1:3]
        names = [f"{pixels}_{suffix}" for suffix in ("float", "planes", "mean", "centred", "values")]
        floats, planes, mean, centred, values = names
        nodes = [
            helper.make_node("Cast", [image], [floats], floats, to=TensorProto.FLOAT),
            helper.make_node("Transpose", [floats], [planes], planes, perm=list(transpose.attribute[0].ints)),
            helper.make_node("Cast", [zero_point], [mean], mean, to=TensorProto.FLOAT),
            helper.make_node("Sub", [planes, mean], [centred], centred),
            helper.make_node("Mul", [centred, scale], [values], values),
            helper.make_node("QuantizeLinear", [values, scale, zero_point], [pixels], f"{pixels}_quantized"),
        ]
        position = list(graph.node).index(transpose)
        graph.node.remove(transpose)
        for node in reversed(nodes):
            graph.node.insert(position, node)


def _fold_int32_biases(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        bias = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if bias is None or bias.data_type != TensorProto.INT32 or node.input[1] not in constants:
            kept.append(node)
            continue
        # A bias has one axis, along which its scales are; ONNX knows no zero point of int32 but 0.
        scale = numpy_helper.to_array(constants[node.input[1]])
        values = (numpy_helper.to_array(bias) * scale.astype(np.float64)).astype(scale.dtype)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _symmetric_activations(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[tuple[str, str], tuple[str, str]] = {}
    nodes = []
    for node in graph.node:
        if _has_uint8_steps(node, constants):
            scale, zero_point = node.input[1], node.input[2]
            if (scale, zero_point) not in made:
                made[scale, zero_point] = _add_symmetric(graph, constants[scale], constants[zero_point])
            if node.op_type == "QuantizeLinear" and not numpy_helper.to_array(constants[zero_point]).any():
                nodes.append(_relu_before(node))
            node.input[1], node.input[2] = made[scale, zero_point]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    typed = [value for value in graph.value_info if value.type.tensor_type.elem_type != TensorProto.UINT8]
    del graph.value_info[:]
    graph.value_info.extend(typed)


def _has_uint8_steps(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return False
    return node.input[2] in constants and constants[node.input[2]].data_type == TensorProto.UINT8


def _relu_before(quantizer: onnx.NodeProto) -> onnx.NodeProto:
    """The ReLU that steps from 0 on imply; ONNX Runtime's quantiser leaves the ReLU of a layer to them."""
    source = quantizer.input[0]
    quantizer.input[0] = f"{quantizer.output[0]}_relu"
    return helper.make_node("Relu", [source], [quantizer.input[0]], name=quantizer.input[0])


def _add_symmetric(graph: onnx.GraphProto, scale: onnx.TensorProto, zero_point: onnx.TensorProto) -> tuple[str, str]:
    """Add scale and zero point of int8 steps that hold the range of these uint8 steps; gives their names."""
    step, zero = numpy_helper.to_array(scale), numpy_helper.to_array(zero_point).astype(np.float64)
    symmetric = (step * np.maximum(zero / 128, (255 - zero) / 127)).astype(step.dtype)
    names = f"{scale.name}_{zero_point.name}_symmetric", f"{scale.name}_{zero_point.name}_zero"
    graph.initializer.append(numpy_helper.from_array(symmetric, names[0]))
    graph.initializer.append(numpy_helper.from_array(np.zeros(zero.shape, np.int8), names[1]))
    return names
