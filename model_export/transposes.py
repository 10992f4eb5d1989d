"""Half of the transposes around a SAU's attention: one replaces two between channels and heads.

The attention reads and writes heads, (B, h, N, d), and the convolutions around it (B, C, N). By way of (B, N, C), as
PyTorch traces it, a feature map is moved in memory twice in each direction. By way of (B, h, d, N), which is (B, C, N)
with its channels in groups, it is moved once. Values only change places: outputs are the same to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import onnx
from onnx import helper, numpy_helper

from model_export.unused_constants import drop_unused_constants

_LAST_AXES, _MIDDLE_AXES, _LAST_OF_HEADS = [0, 2, 1], [0, 2, 1, 3], [0, 1, 3, 2]


class _Chain(NamedTuple):
    """A Transpose, a Reshape and a Transpose, each the only reader of the one before."""

    first: onnx.NodeProto
    reshape: onnx.NodeProto
    second: onnx.NodeProto

    @property
    def orders(self) -> tuple[list[int], list[int]]:
        """Axes of both transposes."""
        first, second = ([axis for part in node.attribute for axis in part.ints] for node in (self.first, self.second))
        return first, second


def merge_transposes(model: onnx.ModelProto) -> None:
    """Rewrite a graph in place, wherever it goes from channels to heads or back."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input)}
    sizes = {name: [axis.dim_value for axis in each.shape.dim] for name, each in types.items()}  # 0 for a free axis
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for chain in list(_chains(model.graph)):
        source, shape = sizes.get(chain.first.input[0], []), constants.get(chain.reshape.input[1])
        target = [] if shape is None else numpy_helper.to_array(shape).tolist()
        if chain.orders == (_LAST_AXES, _MIDDLE_AXES):
            _merge_before_attention(model.graph, chain, source, target)
        elif chain.orders == (_MIDDLE_AXES, _LAST_AXES):
            _merge_after_attention(model.graph, chain, source, target)
    drop_unused_constants(model.graph)


def _merge_before_attention(graph: onnx.GraphProto, chain: _Chain, source: list[int], target: list[int]) -> None:
    """(B, C, N) to (B, h, N, d), unless the reshape in between does more than to split the channels."""
    batch, positions, heads, depth = target
    if source[1:] != [heads * depth, positions]:
        return
    _forget_types(graph, chain)
    _set_shape(graph, chain.reshape, [batch, heads, depth, positions])
    chain.reshape.input[0] = chain.first.input[0]
    _set_order(chain.second)
    graph.node.remove(chain.first)


def _merge_after_attention(graph: onnx.GraphProto, chain: _Chain, source: list[int], target: list[int]) -> None:
    """(B, h, N, d) to (B, C, N), likewise."""
    batch, positions, channels = target
    _, heads, length, depth = source
    if (positions, channels) != (length, heads * depth):
        return
    _forget_types(graph, chain)
    _set_shape(graph, chain.reshape, [batch, channels, positions])
    _set_order(chain.first)
    chain.reshape.output[0] = chain.second.output[0]
    graph.node.remove(chain.second)


def _chains(graph: onnx.GraphProto) -> Iterator[_Chain]:
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for value in graph.output:
        readers.pop(value.name, None)
    for first in graph.node:
        chain = [first]
        while len(chain) < 3 and len(following := readers[chain[-1].output[0]]) == 1:
            chain += following
        if [node.op_type for node in chain] == ["Transpose", "Reshape", "Transpose"]:
            yield _Chain(*chain)


def _forget_types(graph: onnx.GraphProto, chain: _Chain) -> None:
    """Remove the stored shapes of tensors inside a chain."""
    inside = (chain.first.output[0], chain.reshape.output[0])
    for value in [value for value in graph.value_info if value.name in inside]:
        graph.value_info.remove(value)


def _set_shape(graph: onnx.GraphProto, reshape: onnx.NodeProto, shape: list[int]) -> None:
    """Give a reshape its own shape tensor: other nodes may read the shared one."""
    name = f"{reshape.name}_merged_shape"
    graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(shape)], shape))
    reshape.input[1] = name


def _set_order(transpose: onnx.NodeProto) -> None:
    transpose.attribute[0].CopyFrom(helper.make_attribute("perm", _LAST_OF_HEADS))
