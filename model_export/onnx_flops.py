"""Floating-point operations of an ONNX graph, counted as ``torch.utils.flop_counter`` does: a multiply-add is two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import onnx
from onnx.shape_inference import InferenceError

Shape = tuple[int, ...]


class FlopsError(ValueError):
    """A graph whose operations cannot be counted; the text names the node and the missing fact."""


def count_flops(model: onnx.ModelProto) -> int:
    """Operations of one image: convolutions, matrix products and attentions; element-wise operations do not count.

    Args:
        model: A graph whose inputs are fixed but for the batch, their first axis; its weights need not be loaded.

    Raises:
        FlopsError: A product whose shapes ONNX's inference does not find, or of an operator without a formula here.
    """
    shapes = shapes_at_batch_1(model)
    return sum(_node_flops(node, shapes) for node in model.graph.node)


def shapes_at_batch_1(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of all values of a graph at batch 1, as far as ONNX's inference finds them.

    Raises:
        FlopsError: The inference refuses the graph.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_at_batch_1(model), data_prop=True).graph
    except InferenceError as error:
        raise FlopsError(f"ONNX cannot infer the shapes: {str(error).splitlines()[0]}") from error
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    known = {value.name: shape for value in values if (shape := _fixed_shape(value)) is not None}
    return known | {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}


def _at_batch_1(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    # The exporter's shapes are for any batch, and would win over those inferred for this one.
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


def _fixed_shape(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _node_flops(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    if node.op_type in _UNCOUNTED:
        raise FlopsError(f"node {node.name!r} is a {node.op_type}, whose operations are not counted here")
    if node.op_type not in _FORMULAS:
        return 0
    names = [*node.input[: 3 if node.op_type == "Attention" else 2], node.output[0]]
    for name in names:
        if name not in shapes:
            raise FlopsError(f"the shape of {name!r} at {node.op_type} node {node.name!r} is not known at batch 1")
    return operator_flops(node.op_type, [shapes[name] for name in names])


def operator_flops(operator: str, shapes: list[Shape]) -> int:
    """Operations of one operator; 0 for one that is not counted.

    Args:
        operator: Its type.
        shapes: Of the inputs that matter, two or of an attention three, and of the output.
    """
    return 2 * _FORMULAS[operator](shapes) if operator in _FORMULAS else 0


def _conv(shapes: list[Shape]) -> int:
    _, weight, output = shapes  # the weight is (out, in / groups, kernel...)
    return prod(output) * prod(weight[1:])


def _conv_transpose(shapes: list[Shape]) -> int:
    image, weight, _ = shapes  # the weight is (in, out / groups, kernel...)
    return prod(image) * prod(weight[1:])


def _gemm(shapes: list[Shape]) -> int:
    first, _, (_, columns) = shapes
    return prod(first) * columns


def _matmul(shapes: list[Shape]) -> int:
    first, _, output = shapes
    return prod(output) * first[-1]


def _attention(shapes: list[Shape]) -> int:
    """Scores, and their product with the values: (B, heads, N, d), or (B, N, heads * d) with the heads in one axis."""
    query, key, _, output = shapes
    return (prod(query) + prod(output)) * key[-2]


_FORMULAS: Mapping[str, Callable[[list[Shape]], int]] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
# Products that ecenet-export does not write; to leave them out unsaid would give a figure that is too small.
_UNCOUNTED = frozenset(
    {
        "ConvInteger",
        "DeformConv",
        "Einsum",
        "FusedConv",
        "FusedMatMul",
        "GRU",
        "LSTM",
        "MatMulInteger",
        "MultiHeadAttention",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
    }
)
