"""The count on ONNX graphs: single nodes by hand, whole networks against PyTorch's counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model_export.onnx_flops import FlopsError, count_flops
from service.model_directory.bundled import bundled_model_dir
from trainer.model.ecenet import ECENet
from trainer.weights.network import load_model


def count_in_pytorch(model: nn.Module, size: tuple[int, int]) -> int:
    """On one image; attention as its two products, since the counter has no formula for the CPU's fused operator."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, *size))
    return int(counter.get_total_flops())


def graph_of(node: onnx.NodeProto, inputs: dict[str, list[Any]], weights: dict[str, list[int]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(s, np.float32)) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_a_strided_grouped_convolution() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=4)
    model = graph_of(node, {"x": ["batch", 8, 10, 14]}, {"w": [12, 2, 3, 3]})
    assert count_flops(model) == 2 * (12 * 5 * 7) * (2 * 3 * 3)


def test_a_transposed_convolution_counts_as_in_pytorch() -> None:
    layer, image = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, bias=False), torch.zeros(1, 6, 5, 7)
    with FlopCounterMode(display=False) as counter:
        layer(image)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=2)
    model = graph_of(node, {"x": ["batch", 6, 5, 7]}, {"w": list(layer.weight.shape)})
    assert count_flops(model) == counter.get_total_flops() > 0


@pytest.mark.parametrize(("transposed", "shape"), [(0, [4, 6]), (1, [6, 4])])
def test_a_gemm_either_way_round(transposed: int, shape: list[int]) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=transposed)
    assert count_flops(graph_of(node, {"x": shape}, {"w": [6, 5]})) == 2 * 4 * 6 * 5


def test_a_product_of_many_matrices_is_counted_at_batch_1() -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    inputs = {"a": ["batch", 3, 4, 5], "b": ["batch", 1, 5, 6]}
    assert count_flops(graph_of(node, inputs, {})) == 2 * (3 * 4 * 6) * 5


def test_attention_is_two_products_with_the_heads_in_either_place() -> None:
    heads, queries, keys, depth = 4, 50, 7, 16
    expected = 2 * (2 * heads * queries * keys * depth)
    node = helper.make_node("Attention", ["q", "k", "k"], ["y"])
    split: dict[str, list[Any]] = {"q": ["batch", heads, queries, depth], "k": ["batch", heads, keys, depth]}
    assert count_flops(graph_of(node, split, {})) == expected
    node = helper.make_node("Attention", ["q", "k", "k"], ["y"], q_num_heads=heads, kv_num_heads=heads)
    joined: dict[str, list[Any]] = {"q": ["batch", queries, heads * depth], "k": ["batch", keys, heads * depth]}
    assert count_flops(graph_of(node, joined, {})) == expected


def test_what_cannot_be_counted_is_told() -> None:
    einsum = helper.make_node("Einsum", ["a", "b"], ["y"], "product", equation="ij,jk->ik")
    with pytest.raises(FlopsError, match="'product' is a Einsum"):
        count_flops(graph_of(einsum, {"a": [2, 3], "b": [3, 4]}, {}))
    product = helper.make_node("MatMul", ["a", "b"], ["y"], "product")
    with pytest.raises(FlopsError, match="the shape of 'a' at MatMul node 'product' is not known"):
        count_flops(graph_of(product, {"a": [2, "n"], "b": [3, 4]}, {}))
    foreign = helper.make_node("Product", ["a"], ["y"], "product", domain="of.others")
    with pytest.raises(FlopsError, match=r"No opset import for domain of\.others"):
        count_flops(graph_of(foreign, {"a": [2, 3]}, {}))


@pytest.mark.parametrize("name", ["model.onnx", "model-72x90-fp16.onnx"])
def test_a_graph_has_the_operations_that_pytorch_counts(name: str, exported_dir: Path, checkpoint: Path) -> None:
    expected = count_in_pytorch(load_model(checkpoint), (72, 90))
    assert count_flops(onnx.load(exported_dir / name)) == pytest.approx(expected, rel=0.01)


def test_lite0_has_the_operations_that_pytorch_counts() -> None:
    expected = count_in_pytorch(load_model(bundled_model_dir() / "checkpoint.pt"), (576, 768))
    assert count_flops(onnx.load(bundled_model_dir() / "model.onnx")) == pytest.approx(expected, rel=0.01)


def test_swin_has_the_operations_that_pytorch_counts(released_dir: Path, reference_dir: Path) -> None:
    model, graph = load_model(reference_dir / "ecenet_swin_tiny_scale.ckpt"), onnx.load(released_dir / "model.onnx")
    assert isinstance(model, ECENet)
    assert sum(node.op_type == "Attention" for node in graph.graph.node) == 3 + sum(model.config.depths)
    assert count_flops(graph) == pytest.approx(count_in_pytorch(model, (64, 96)), rel=0.01)
