"""Constants that a rewrite of a graph leaves behind."""

from __future__ import annotations

import onnx


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove the initializers that no node reads and no output gives."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
