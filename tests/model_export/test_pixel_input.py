"""Pixels as the steps of an INT8 graph's first layer: its input is the image, and TensorRT's copy says the same."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.images import generated_images
from model_export.int8_graph import QuantizableGraph
from model_export.pixel_input import find_pixel_input
from service.engines.tensorrt.int8 import adapt_int8

SIZE = (32, 48)


def network(mean: list[float], std: list[float]) -> onnx.ModelProto:
    """Images (B, 32, 48, 3) uint8 to the values (B, 4, 32, 48) of one padded convolution."""
    weight = np.random.default_rng(0).normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32)
    constants = {
        "mean": np.array(mean, np.float32).reshape(1, -1, 1, 1),
        "std": np.array(std, np.float32).reshape(1, -1, 1, 1),
        "weight": weight,
        "bias": np.array([0.1, -0.2, 0.3, 0], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"], "sub"),
        helper.make_node("Div", ["centred", "std"], ["normalised"], "div"),
        helper.make_node("Conv", ["normalised", "weight", "bias"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["values"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *SIZE, 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", 4, *SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    )


def quantized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "model.onnx")
    graph = QuantizableGraph(folder / "model.onnx", generated_images(SIZE, 3, seed=1))
    return graph.quantize(graph.layers)


def run(model: onnx.ModelProto) -> np.ndarray:
    images = np.stack(generated_images(SIZE, 2, seed=5))
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"images": images})[0])


def first_nodes(model: onnx.ModelProto) -> list[str]:
    """Operators from the image to the first that the image's values change in."""
    found: list[str] = []
    names = {model.graph.input[0].name}
    while found[-1:] not in (["DequantizeLinear"], ["Conv"]):
        (node,) = [node for node in model.graph.node if names & set(node.input)]
        found.append(node.op_type)
        names = set(node.output)
    return found


def test_the_image_is_the_first_layers_input_where_all_channels_are_normalised_alike(tmp_path: Path) -> None:
    model = network([127], [128])
    pixels = find_pixel_input(model.graph)
    assert pixels is not None
    assert (pixels.tensor, pixels.mean, pixels.std) == ("normalised", 127, 128)
    assert pixels.range == (np.float32(-127 / 128), 1)
    int8 = quantized(model, tmp_path)
    assert first_nodes(int8) == ["Transpose", "DequantizeLinear"]
    expected = run(model)
    # Half a step of the output and the rounding of 7-bit weights: the input adds nothing.
    assert float(np.abs(run(int8) - expected).max()) < 0.02 * float(expected.max())


@pytest.mark.parametrize(("mean", "std"), [([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]), ([127.5], [128])])
def test_other_normalisations_stay_in_float(mean: list[float], std: list[float], tmp_path: Path) -> None:
    model = network(mean, std)
    assert find_pixel_input(model.graph) is None
    assert first_nodes(quantized(model, tmp_path))[:4] == ["Cast", "Transpose", "Sub", "Div"]


def test_an_image_that_two_layers_read_is_left_alone() -> None:
    model = network([127], [128])
    model.graph.node.append(helper.make_node("ReduceMean", ["floats"], ["brightness"]))
    assert find_pixel_input(model.graph) is None


def test_tensorrts_copy_normalises_the_pixels_again(tmp_path: Path) -> None:
    int8 = quantized(network([127], [128]), tmp_path)
    adapted = copy.deepcopy(int8)
    adapt_int8(adapted.graph)
    onnx.checker.check_model(adapted)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in adapted.graph.initializer}
    for node in adapted.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) > 2:
            assert not constants[node.input[2]].any()
    assert not [node for node in adapted.graph.node if node.op_type == "Transpose" and node.input[0] == "images"]
    assert float(np.abs(run(adapted) - run(int8)).max()) < 0.03 * float(run(int8).max())
