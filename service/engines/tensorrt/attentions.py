"""The attentions of an ONNX graph: those that are one ``Attention`` node, and those that are left in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

# What stands between the two products of an attention and its softmax: scales, masks, casts, quantisers, layouts.
_BETWEEN = frozenset(
    {
        "Add",
        "Cast",
        "DequantizeLinear",
        "Div",
        "Dropout",
        "Identity",
        "Mul",
        "Neg",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)


@dataclass(frozen=True, slots=True)
class AttentionCount:
    """The number of attentions of a graph, by their form.

    Attributes:
        plain: ``Attention`` nodes without a mask: those of the SAUs.
        masked: ``Attention`` nodes with a mask: those of Swin's windows, which have at least their position bias.
        decomposed: Softmaxes between two matrix products; a runtime may find and fuse them, or not.
    """

    plain: int
    masked: int
    decomposed: int

    @property
    def nodes(self) -> int:
        """All ``Attention`` nodes."""
        return self.plain + self.masked


def count_attentions(model: onnx.ModelProto) -> AttentionCount:
    """Count the attentions of a graph."""
    nodes = model.graph.node
    attentions = [node for node in nodes if node.op_type == "Attention"]
    masked = sum(any(node.input[3:]) for node in attentions)
    producers = {name: node for node in nodes for name in node.output if name}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    softmaxes = [node for node in nodes if node.op_type == "Softmax"]
    decomposed = sum(_makes_scores(node, producers) and _weighs_values(node, consumers) for node in softmaxes)
    return AttentionCount(len(attentions) - masked, masked, decomposed)


def _makes_scores(softmax: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """True if a softmax is over the result of a product, scaled, masked or subtracted from its maximum."""

    def before(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
        return (producers[name] for name in node.input if name in producers)

    pending, seen = list(before(softmax)), set[str]()
    while pending:
        node = pending.pop()
        if node.op_type == "MatMul":
            return True
        if node.op_type in _BETWEEN and node.output[0] not in seen:
            seen.add(node.output[0])
            pending.extend(before(node))
    return False


def _weighs_values(softmax: onnx.NodeProto, consumers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """True if the weights of a softmax are a factor of a product, maybe behind a cast."""
    pending, seen = [softmax.output[0]], set[str]()
    while pending:
        name = pending.pop()
        seen.add(name)
        for node in consumers.get(name, []):
            if node.op_type == "MatMul":
                return True
            if node.op_type in _BETWEEN and node.output[0] not in seen:
                pending.append(node.output[0])
    return False
