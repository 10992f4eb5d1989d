"""The smallest graph that TensorRT builds with a fused attention."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def attention_graph() -> onnx.ModelProto:
    """One attention in float16, from ``q`` (B, 2, 64, 48) to ``logits`` of the same shape."""
    nodes = [
        helper.make_node("Neg", ["q"], ["k"]),
        helper.make_node("Abs", ["q"], ["v"]),
        helper.make_node("Attention", ["q", "k", "v"], ["logits"], name="attention"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["B", 2, 64, 48]) for name in ("q", "logits")]
    graph = helper.make_graph(nodes, "attention", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
