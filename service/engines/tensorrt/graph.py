"""The copy of an ONNX graph that TensorRT builds from; the graph in the model directory stays unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from service.engines.tensorrt.attentions import count_attentions
from service.engines.tensorrt.depthwise import group_depthwise
from service.engines.tensorrt.int8 import adapt_int8
from service.engines.tensorrt.layer_report import AttentionNodes
from service.model_directory.machine import EngineRuntime

# Part of an engine's key: increase it with every change of ``tensorrt_copy``.
COPY_VERSION = 2
_DECOMPOSABLE = "TRT_decomposable"


def tensorrt_copy(
    model: onnx.ModelProto, *, allow_unfused: bool = False, runtime: EngineRuntime = "tensorrt"
) -> onnx.ModelProto:
    """A copy that TensorRT parses, and fuses the attentions of.

    Attentions get a name each, by which the layer report can be read, and float16 inputs, since those of float32 are
    not fused. Those with a mask may be decomposed: the parser refuses them otherwise. INT8 steps become symmetric. For
    TensorRT-RTX depthwise convolutions are written in groups of eight channels, see ``depthwise``.

    Args:
        model: A graph of the model directory.
        allow_unfused: Let TensorRT decompose attentions of SAUs too, where it has no fused kernel for them. Otherwise
            such an attention ends the build.
        runtime: What builds from the copy.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _name_attentions(copy.graph)
    _mark_decomposable(copy.graph, allow_unfused)
    adapt_int8(copy.graph)
    _attend_in_half(copy)
    if runtime == "tensorrt-rtx":
        group_depthwise(copy.graph)
    return copy


def attention_nodes(model: onnx.ModelProto) -> AttentionNodes:
    """The attentions of a graph, by the names of their nodes."""
    nodes = list(_attentions(model.graph))
    return AttentionNodes(
        saus=tuple(node.name for node in nodes if not _has_mask(node)),
        windows=tuple(node.name for node in nodes if _has_mask(node)),
        in_pieces=count_attentions(model).decomposed,
    )


def _attentions(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type == "Attention")


def _has_mask(attention: onnx.NodeProto) -> bool:
    return any(attention.input[3:])


def _name_attentions(graph: onnx.GraphProto) -> None:
    """ONNX asks for no names, and lets several nodes share one."""
    uses = Counter(node.name for node in graph.node)
    for index, node in enumerate(_attentions(graph)):
        if not node.name or uses[node.name] > 1:
            node.name = f"{node.name or 'attention'}_unnamed_{index}"


def _mark_decomposable(graph: onnx.GraphProto, allow_unfused: bool) -> None:
    for node in _attentions(graph):
        marked = any(attribute.name == _DECOMPOSABLE for attribute in node.attribute)
        if (allow_unfused or _has_mask(node)) and not marked:
            node.attribute.append(helper.make_attribute(_DECOMPOSABLE, 1))


def _attend_in_half(copy: onnx.ModelProto) -> None:
    """Casts around the attentions of float32."""
    floats = _float32_values(copy)
    nodes = []
    for node in copy.graph.node:
        if node.op_type != "Attention" or node.input[0] not in floats:
            nodes.append(node)
            continue
        for position, name in enumerate(node.input):
            if name in floats:
                half = f"{node.name}_input_{position}_fp16"
                nodes.append(helper.make_node("Cast", [name], [half], name=half, to=TensorProto.FLOAT16))
                node.input[position] = half
        output, half = node.output[0], f"{node.name}_output_fp16"
        node.output[0] = half
        nodes.append(node)
        nodes.append(helper.make_node("Cast", [half], [output], name=f"{half}_cast", to=TensorProto.FLOAT))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)


def _float32_values(model: onnx.ModelProto) -> frozenset[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    typed = [(value.name, value.type.tensor_type.elem_type) for value in values]
    typed += [(tensor.name, tensor.data_type) for tensor in graph.initializer]
    return frozenset(name for name, dtype in typed if dtype == TensorProto.FLOAT)
