"""Transposes between channels and heads: one in place of two, and the same values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from model_export.transposes import merge_transposes
from service.model_directory.bundled import bundled_model_dir

BATCH, CHANNELS, POSITIONS, HEADS, DEPTH = 2, 6, 5, 3, 2
SPLIT = ((CHANNELS, POSITIONS), [0, 2, 1], [-1, POSITIONS, HEADS, DEPTH], [0, 2, 1, 3])
JOIN = ((HEADS, POSITIONS, DEPTH), [0, 2, 1, 3], [-1, POSITIONS, CHANNELS], [0, 2, 1])


def chain(
    source: Sequence[int], first: list[int], shape: list[int], second: list[int], outputs: Sequence[str] = ("y",)
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "first", perm=first),
        helper.make_node("Reshape", ["t", "shape"], ["r"], "reshape"),
        helper.make_node("Transpose", ["r"], ["y"], "second", perm=second),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *source])
    ranks = {"t": len(first), "r": len(shape), "y": len(second)}
    named = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * ranks[name]) for name in outputs]
    constant = helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape)
    graph = helper.make_graph(nodes, "g", [x], named, [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def merged(model: onnx.ModelProto) -> list[str]:
    """Rewrite a graph; gives its operators, once its outputs are those of the original."""
    axes = model.graph.input[0].type.tensor_type.shape.dim[1:]
    x = np.random.default_rng(0).normal(size=[BATCH, *(axis.dim_value for axis in axes)]).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    merge_transposes(model)
    onnx.checker.check_model(model, full_check=True)
    for before, after in zip(expected, ReferenceEvaluator(model).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(after, before)
    return [node.op_type for node in model.graph.node]


def test_channels_are_split_before_they_are_moved() -> None:
    model = chain(*SPLIT)
    assert merged(model) == ["Reshape", "Transpose"]
    assert [tensor.name for tensor in model.graph.initializer] == ["reshape_merged_shape"]


def test_heads_are_moved_before_they_are_joined() -> None:
    assert merged(chain(*JOIN)) == ["Transpose", "Reshape"]


@pytest.mark.parametrize(
    "other",
    [
        ((4, 6), [0, 2, 1], [-1, 4, 3, 2], [0, 2, 1, 3]),
        ((4, 3, 2), [0, 2, 1, 3], [-1, 4, 6], [0, 2, 1]),
        ((4, 6), [0, 2, 1], [-1, 6, 2, 2], [0, 1, 3, 2]),
        ((4, 6), [2, 1, 0], [6, 4, 2, -1], [0, 2, 1, 3]),
    ],
    ids=["positions regrouped", "heads regrouped", "another order", "batch moved"],
)
def test_other_chains_stay(other: tuple[Sequence[int], list[int], list[int], list[int]]) -> None:
    assert merged(chain(*other)) == ["Transpose", "Reshape", "Transpose"]


@pytest.mark.parametrize("between", ["t", "r"])
def test_what_others_read_stays(between: str) -> None:
    assert merged(chain(*SPLIT, outputs=["y", between])) == ["Transpose", "Reshape", "Transpose"]


@pytest.mark.parametrize("name", ["exported", "bundled"])
def test_feature_maps_go_into_an_attention_by_one_transpose_and_out_by_one(name: str, exported_dir: Path) -> None:
    folder = exported_dir if name == "exported" else bundled_model_dir()
    for path in sorted(folder.glob("*.onnx")):
        graph = onnx.load(path).graph
        operators = {output: node.op_type for node in graph.node for output in node.output}
        sources = {output: node.input[0] for node in graph.node for output in node.output if node.input}
        attentions = [node for node in graph.node if node.op_type == "Attention"]
        assert len(attentions) == 3
        for attention in attentions:
            transposed = attention.input[0]
            assert operators[transposed] == "Transpose"
            assert operators[sources[transposed]] == "Reshape"
            assert operators[sources[sources[transposed]]] != "Transpose"
            (after,) = [node for node in graph.node if attention.output[0] in node.input]
            (joined,) = [node for node in graph.node if after.output[0] in node.input]
            assert (after.op_type, joined.op_type) == ("Transpose", "Reshape")
            assert "Transpose" not in {node.op_type for node in graph.node if joined.output[0] in node.input}
