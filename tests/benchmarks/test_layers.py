"""Shares of a graph's time by operator, as each of the CPU's runtimes measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.layers import LAYERS_OF, Layer, rates, shares
from model_export.onnx_flops import count_flops


def test_shares_add_up_by_operator_the_dearest_first() -> None:
    layers = [Layer("a", "Conv", 3.0), Layer("b", "Resize", 1.5), Layer("c", "Resize", 2.5), Layer("d", "Add", 1.0)]
    assert list(shares(layers).items()) == [("Resize", 0.5), ("Conv", 0.375), ("Add", 0.125)]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_of_a_graph_has_a_time(runtime: str, tiny_model_dir: Path) -> None:
    layers = LAYERS_OF[runtime](tiny_model_dir / "model.onnx", 3)
    assert layers
    assert all(layer.milliseconds > 0 for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)
    assert sum(shares(layers).values()) == pytest.approx(1)


def test_rates_are_of_all_layers_of_a_kind() -> None:
    layers = [
        Layer("a", "Conv", 1.0, 300, "Conv 1x1 at 2x2"),
        Layer("b", "Conv", 2.0, 500, "Conv 3x3 at 2x2"),
        Layer("c", "Conv", 3.0, 100, "Conv 1x1 at 2x2"),
        Layer("d", "Resize", 9.0, 0, "Resize"),
    ]
    assert [(kind.name, kind.milliseconds, kind.flops) for kind in rates(layers)] == [
        ("Conv 1x1 at 2x2", 4.0, 400),
        ("Conv 3x3 at 2x2", 2.0, 500),
    ]


def test_onnxruntime_counts_the_operations_of_its_convolutions(tmp_path: Path) -> None:
    layers = LAYERS_OF["onnxruntime"](_convolutions(tmp_path / "model.onnx"), 2)
    counted = {layer.kind: layer.flops for layer in rates(layers)}
    assert counted == {"Conv 3x3 at 16x24": 2 * 16 * 3 * 9 * 16 * 24, "Conv depthwise 1x1 at 16x24": 2 * 16 * 16 * 24}
    assert sum(counted.values()) == count_flops(onnx.load(tmp_path / "model.onnx"))


def _convolutions(path: Path) -> Path:
    """Pixels (1, 16, 24, 3) through a convolution of 3x3 to 16 channels, and one of 1x1 for each channel alone.

    ONNX Runtime pads channels to a multiple of its block, which is 16 with AVX-512 and 8 without.
    """
    weights = [np.ones(shape, np.float32) for shape in ((16, 3, 3, 3), (16, 1, 1, 1))]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels", "w0"], ["features"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["features", "w1"], ["rows"], name="second", group=16),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 16, 24, 3])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 16, 16, 24])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
