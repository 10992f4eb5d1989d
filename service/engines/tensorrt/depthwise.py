"""Depthwise convolutions as TensorRT-RTX runs them without copies. Changes the graph that it is given.

TensorRT-RTX 1.7 has kernels for groups of eight channels. It pads groups of one by repeating the input eight times in
memory; the same convolution written in groups of eight, whose other factors are 0, it runs unchanged.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GROUP = 8
_FLOATS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16)


def group_depthwise(graph: onnx.GraphProto) -> int:
    """Write depthwise convolutions of constant float weights in groups of eight channels; gives how many.

    Those whose channels eight does not divide stay unchanged. The results are equal: the added factors are 0.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    changed = 0
    for node in graph.node:
        weights = constants.get(node.input[1]) if node.op_type == "Conv" else None
        if weights is None or not _is_depthwise(node, weights):
            continue
        grouped = numpy_helper.from_array(_block_diagonal(numpy_helper.to_array(weights)), f"{weights.name}_grouped")
        if grouped.name not in constants:
            constants[grouped.name] = grouped
            graph.initializer.append(grouped)
        node.input[1] = grouped.name
        _group_attribute(node).i //= GROUP
        changed += 1
    _drop_unused(graph)
    return changed


def _is_depthwise(node: onnx.NodeProto, weights: onnx.TensorProto) -> bool:
    channels, per_group = weights.dims[0], weights.dims[1]
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return groups == channels and per_group == 1 and channels % GROUP == 0 and weights.data_type in _FLOATS


def _block_diagonal(
    weights: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Weights (C, 1, h, w) as (C, 8, h, w), each channel's at its place in its group."""
    channels = np.arange(len(weights))
    grouped = np.zeros((len(weights), GROUP, *weights.shape[2:]), weights.dtype)
    grouped[channels, channels % GROUP] = weights[:, 0]
    return grouped


def _group_attribute(node: onnx.NodeProto) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == "group")


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
