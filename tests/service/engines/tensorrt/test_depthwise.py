"""Depthwise convolutions in groups of eight: the same function, which TensorRT-RTX runs without repeating its input."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engines.tensorrt.compile import compile_plan
from service.engines.tensorrt.depthwise import group_depthwise
from service.engines.tensorrt.graph import tensorrt_copy
from service.model_directory.machine import detect_builder, runtime_module

CHANNELS, SIDES = 96, (24, 32)


def graph(
    channels: int = CHANNELS, kind: int = TensorProto.FLOAT, *, kernel: int = 3, stride: int = 1
) -> onnx.ModelProto:
    """A pointwise, a depthwise and a pointwise convolution, as in the middle of EfficientNet's blocks."""
    rng, dtype = np.random.default_rng(0), helper.tensor_dtype_to_np_dtype(kind)
    shapes = {
        "expand": (channels, 16, 1, 1),
        "depthwise": (channels, 1, kernel, kernel),
        "reduce": (16, channels, 1, 1),
    }
    weights = [numpy_helper.from_array(rng.normal(size=shape).astype(dtype), name) for name, shape in shapes.items()]
    spatial: dict[str, Any] = {"group": channels, "pads": [kernel // 2] * 4, "strides": [stride, stride]}
    nodes = [
        helper.make_node("Conv", ["images", "expand"], ["wide"], name="expand"),
        helper.make_node("Conv", ["wide", "depthwise"], ["deep"], name="depthwise", **spatial),
        helper.make_node("Conv", ["deep", "reduce"], ["logits"], name="reduce"),
    ]
    sides = [-(-side // stride) for side in SIDES]
    values = [("images", [16, *SIDES]), ("logits", [16, *sides])]
    (entry, output) = (helper.make_tensor_value_info(name, kind, ["B", *shape]) for name, shape in values)
    model = helper.make_model(
        helper.make_graph(nodes, "block", [entry], [output], weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2)])
def test_the_result_is_the_same(kernel: int, stride: int) -> None:
    model = graph(kernel=kernel, stride=stride)
    images = np.random.default_rng(1).normal(size=(2, 16, *SIDES)).astype(np.float32)

    def run() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"images": images})[0])

    expected = run()
    assert group_depthwise(model.graph) == 1
    onnx.checker.check_model(model, full_check=True)
    assert {tuple(tensor.dims)[:2] for tensor in model.graph.initializer} == {(96, 16), (96, 8), (16, 96)}
    np.testing.assert_allclose(run(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_depthwise_convolution_of_eights_stays() -> None:
    computed = graph()
    computed.graph.node[1].input[1] = "computed"  # weights that are not constant, as those of INT8
    for model in (graph(channels=20), computed):
        weights = model.graph.node[1].input[1]
        assert group_depthwise(model.graph) == 0
        assert model.graph.node[1].input[1] == weights


def test_the_copy_for_rtx_alone_is_grouped() -> None:
    groups = [
        next(attribute.i for attribute in tensorrt_copy(graph(), runtime=runtime).graph.node[1].attribute)
        for runtime in ("tensorrt", "tensorrt-rtx")
    ]
    assert groups == [CHANNELS, CHANNELS // 8]


def widest(model: onnx.ModelProto) -> int:
    """Channels of the widest activation in the layer report of TensorRT-RTX."""
    machine = detect_builder("tensorrt-rtx")
    plan = compile_plan(runtime_module("tensorrt-rtx"), model.SerializeToString(), machine, (1, 8, 8))
    return max(int(channels) for channels in re.findall(r"Dimensions: \[-1,(\d+),", plan.layer_report))


def test_rtx_repeats_no_input_of_a_grouped_convolution() -> None:
    """If it repeats none of the plain one either, the rewrite can go."""
    model = graph(kind=TensorProto.FLOAT16)
    assert widest(model) == 8 * CHANNELS
    assert widest(tensorrt_copy(model, runtime="tensorrt-rtx")) == CHANNELS
