"""TensorRT's copy of a graph: what it changes, that values stay, and that the graph itself stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.engines.tensorrt.graph import attention_nodes, tensorrt_copy
from service.engines.tensorrt.int8 import adapt_int8
from service.engines.tensorrt.layer_report import AttentionNodes

SHAPE = [1, 2, 4, 16]


def model_of(nodes: list[onnx.NodeProto], dtype: int, initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, dtype, SHAPE) for name in "qkv"]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], dtype, SHAPE)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def two_attentions(dtype: int = TensorProto.FLOAT16, names: tuple[str, str] = ("sau", "window")) -> onnx.ModelProto:
    """An attention without a mask, and one with."""
    mask = numpy_helper.from_array(
        np.linspace(-1, 1, 16, dtype=helper.tensor_dtype_to_np_dtype(dtype)).reshape(4, 4), "mask"
    )
    nodes = [
        helper.make_node("Attention", ["q", "k", "v"], ["a"], name=names[0]),
        helper.make_node("Attention", ["a", "k", "v", "mask"], ["b"], name=names[1]),
    ]
    return model_of(nodes, dtype, [mask])


def decomposable(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if any(a.name == "TRT_decomposable" and a.i for a in node.attribute)]


def run(model: onnx.ModelProto, **feed: NDArray[np.generic]) -> NDArray[np.float64]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0], np.float64)


def test_attentions_are_told_apart_by_their_masks() -> None:
    assert attention_nodes(two_attentions()) == AttentionNodes(saus=("sau",), windows=("window",), in_pieces=0)


def test_an_attention_in_pieces_is_counted() -> None:
    nodes = [
        helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "t"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"]),
        helper.make_node("MatMul", ["shares", "v"], ["b"]),
    ]
    assert attention_nodes(model_of(nodes, TensorProto.FLOAT, [])) == AttentionNodes((), (), in_pieces=1)


def test_masked_attentions_may_be_decomposed_and_others_where_it_is_allowed() -> None:
    model = two_attentions()
    before = model.SerializeToString()
    assert decomposable(tensorrt_copy(model)) == ["window"]
    assert decomposable(tensorrt_copy(model, allow_unfused=True)) == ["sau", "window"]
    assert model.SerializeToString() == before


def test_the_copy_of_a_copy_is_the_same() -> None:
    once = tensorrt_copy(two_attentions(TensorProto.FLOAT))
    assert tensorrt_copy(once) == once


@pytest.mark.parametrize("names", [("", ""), ("same", "same")])
def test_every_attention_gets_a_name_of_its_own(names: tuple[str, str]) -> None:
    attentions = attention_nodes(tensorrt_copy(two_attentions(names=names)))
    assert len({*attentions.saus, *attentions.windows, ""}) == 3


def test_attention_of_float32_runs_in_float16_and_the_rest_stays() -> None:
    model = two_attentions(TensorProto.FLOAT)
    copy = tensorrt_copy(model)
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(copy).graph.value_info}
    inputs = [name for node in copy.graph.node if node.op_type == "Attention" for name in node.input]
    assert len(inputs) == 7
    assert {types[name] for name in inputs} == {TensorProto.FLOAT16}
    for node in copy.graph.node:
        if node.op_type == "Attention":
            del node.attribute[:]  # TensorRT's own, which ONNX Runtime does not know
    rng = np.random.default_rng(3)
    feed = {name: rng.normal(size=SHAPE).astype(np.float32) for name in "qkv"}
    error = np.abs(run(copy, **feed) - run(model, **feed)).max()
    assert 0 < error < 5e-3  # it is rounded, and no more than that


def test_a_graph_of_float16_gets_no_casts() -> None:
    assert [node.op_type for node in tensorrt_copy(two_attentions()).graph.node] == ["Attention", "Attention"]


def quantized(zero_point: int, scale: float = 0.1) -> onnx.ModelProto:
    """``q`` through uint8 steps, times a weight of int8, plus a bias of int32."""
    weight = np.arange(-16, 16, dtype=np.int8).reshape(16, 2)
    nodes = [
        helper.make_node("QuantizeLinear", ["q", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale"], ["factors"]),
        helper.make_node("MatMul", ["values", "factors"], ["product"]),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["offset"], axis=0),
        helper.make_node("Add", ["product", "offset"], ["sum"]),
    ]
    initializers = {
        "scale": np.float32(scale),
        "zero": np.uint8(zero_point),
        "weight": weight,
        "weight_scale": np.float32(0.5),
        "bias": np.array([-700, 9], np.int32),
        "bias_scale": np.array([0.01, 0.25], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("q", TensorProto.FLOAT, ["B", 16])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["B", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def adapted(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    adapt_int8(copy.graph)
    onnx.checker.check_model(copy, full_check=True)
    return copy


@pytest.mark.parametrize(("zero_point", "steps"), [(128, 1.0), (0, 255 / 127), (100, 155 / 127), (200, 200 / 128)])
def test_int8_steps_become_symmetric_and_reach_as_far(zero_point: int, steps: float) -> None:
    """The former range, one-sided ones from 0 on included, is kept; values are as exact as half of the wider step."""
    scale = 0.1
    model = quantized(zero_point, scale)
    copy = adapted(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    (quantizer,) = [node for node in copy.graph.node if node.op_type == "QuantizeLinear"]
    assert (constants[quantizer.input[2]].dtype, int(constants[quantizer.input[2]])) == (np.int8, 0)
    assert float(constants[quantizer.input[1]]) == pytest.approx(scale * steps)
    low, high = -zero_point * scale, (255 - zero_point) * scale
    values = np.linspace(low, high, 64, dtype=np.float32).reshape(4, 16)
    values[0, 0] = low - 9 if zero_point == 0 else low
    factors = constants["weight"] * 0.5
    expected = np.clip(values, low, high).astype(np.float64) @ factors + [-7, 2.25]
    tolerance = scale * steps / 2 * np.abs(factors).sum(0) + 1e-3
    assert (np.abs(run(copy, q=values) - expected) <= tolerance).all()
    assert (np.abs(run(model, q=values) - expected) <= tolerance).all()


def test_int32_biases_become_the_floats_that_they_stand_for() -> None:
    copy = adapted(quantized(128))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    np.testing.assert_allclose(constants["offset"], [-7, 2.25])
    assert [node.op_type for node in copy.graph.node].count("DequantizeLinear") == 2  # of values and weight


def test_steps_around_zero_give_the_same_values_exactly() -> None:
    model = quantized(128)
    values = np.random.default_rng(1).normal(scale=5, size=(3, 16)).astype(np.float32)
    np.testing.assert_array_equal(run(adapted(model), q=values), run(model, q=values))
