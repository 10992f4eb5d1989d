"""FP8 graphs: which convolutions read FP8, how exact it is, and the command that adds them to a model directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from model_export.__main__ import main
from model_export.fp8_graph import to_fp8, wide_inputs
from model_export.images import generated_images
from model_export.inspection import inspect_graph
from service.engines.choice import measured_precisions, precision_obstacle
from service.engines.openvino_engine import OpenVinoEngine
from service.engines.selfcheck import self_check
from service.model_directory.golden import read_golden
from service.model_directory.manifest import read_manifest

# E4M3 has three bits behind the point: half a step of the last is a sixteenth.
HALF_STEP = 2**-4


def weights(seed: int, *shape: int) -> NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


@pytest.fixture
def network() -> onnx.ModelProto:
    """Float16: a wide convolution, a depthwise one, a wide one with a channel of zeros, and one of three outputs."""
    arrays = {
        "wide": weights(0, 16, 16, 1, 1),
        "depthwise": weights(1, 16, 1, 3, 3),
        "second": weights(2, 16, 16, 3, 3),
        "narrow": weights(3, 3, 16, 1, 1),
    }
    arrays["second"][5] = 0
    nodes, source = [], "x"
    for name, array in arrays.items():
        side = array.shape[2]
        options = {"pads": [side // 2] * 4, "group": 16 // array.shape[1], "kernel_shape": [side, side]}
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [name], name, **options))
        source = name
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["batch", channels, 4, 4])
        for name, channels in (("x", 16), ("narrow", 3))
    ]
    constants = [numpy_helper.from_array(array, f"{name}.weight") for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_wide_convolutions_read_fp8_and_others_do_not(network: onnx.ModelProto) -> None:
    assert wide_inputs(network) == ["x", "depthwise"]
    before = network.SerializeToString()
    rounded = to_fp8(network, {"x": 4.0, "depthwise": 30.0})
    assert network.SerializeToString() == before
    read = {node.name: list(node.input) for node in rounded.graph.node if node.op_type == "Conv"}
    assert read == {
        "wide": ["x_fp8", "wide.weight_fp8"],
        "depthwise": ["wide", "depthwise.weight"],
        "second": ["depthwise_fp8", "second.weight_fp8"],
        "narrow": ["second", "narrow.weight"],
    }
    types = {tensor.name: tensor.data_type for tensor in rounded.graph.initializer}
    assert types["wide.weight_fp8_steps"] == TensorProto.FLOAT8E4M3FN
    assert types["x_fp8_scale"] == types["wide.weight_fp8_scales"] == TensorProto.FLOAT16
    assert "wide.weight" not in types


def test_weights_are_within_half_a_step_of_fp8(network: onnx.ModelProto) -> None:
    graph = to_fp8(network, {"x": 4.0, "depthwise": 30.0}).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, seed, shape in (("wide", 0, (16, 16, 1, 1)), ("second", 2, (16, 16, 3, 3))):
        exact = weights(seed, *shape).astype(np.float64)
        if name == "second":
            exact[5] = 0
        scales = arrays[f"{name}.weight_fp8_scales"].astype(np.float64)[:, None, None, None]
        found = arrays[f"{name}.weight_fp8_steps"].astype(np.float64) * scales
        assert np.isfinite(found).all()
        # Values far below their channel's largest have the steps of the smallest numbers of E4M3, 2 ** -9.
        assert (np.abs(found - exact) <= np.abs(exact) * HALF_STEP + scales * 2**-10).all()


def test_outputs_differ_by_the_rounding_alone_up_to_the_peak(network: onnx.ModelProto) -> None:
    x = np.random.default_rng(4).uniform(-4, 4, (2, 16, 4, 4)).astype(np.float16)
    x[0, 0, 0, 0], x[1, 3, 2, 1] = 4, -4
    (exact,) = ReferenceEvaluator(network).run(None, {"x": x})
    (between,) = ReferenceEvaluator(_with_output(network, "depthwise")).run(["depthwise"], {"x": x})
    peak = float(np.abs(np.asarray(between)).max())
    (found,) = ReferenceEvaluator(to_fp8(network, {"x": 4.0, "depthwise": peak})).run(None, {"x": x})
    rounded, wanted = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    assert np.isfinite(rounded).all()
    error = np.abs(rounded - wanted).mean() / np.abs(wanted).mean()
    assert 1e-4 < error < HALF_STEP


def _with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["batch", 16, 4, 4]))
    return copy


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(generated_images((72, 90), 4)):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def directory(exported_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_dir, tmp_path / "model"))


def quantize(directory: Path, photos: Path, *options: str) -> int:
    command = ["quantize", str(directory), "--precision", "fp8", "--calibration", str(photos)]
    return main([*command, "--min-equal-labels", "0.5", *options])


def test_the_command_adds_a_graph_that_keeps_its_own_bound(
    directory: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_manifest(directory).graphs
    assert quantize(directory, photos) == 0
    assert "equal labels" in capsys.readouterr().out
    manifest = read_manifest(directory)
    graph = manifest.graphs[-1]
    assert manifest.graphs[:-1] == before
    assert (graph.file, graph.precision, graph.input_size) == ("model-72x90-fp8.onnx", "fp8", (72, 90))
    assert 0.5 < graph.bounds.min_equal_labels < 1
    assert inspect_graph(directory / graph.file).precision == "fp8"
    engine = OpenVinoEngine(directory, manifest, graph, num_threads=1, max_batch_size=2)
    assert len(self_check(engine, read_golden(directory, manifest, (72, 90)), [1, 2])) == 2


def test_tensorrt_measures_fp8_and_cpus_do_not(directory: Path, photos: Path) -> None:
    assert quantize(directory, photos) == 0
    manifest = read_manifest(directory)
    assert measured_precisions(manifest, "tensorrt", None) == ["fp16", "fp32", "fp8"]
    assert measured_precisions(manifest, "onnxruntime", None) == ["fp32"]
    assert measured_precisions(manifest, "openvino", None) == ["fp32", "bf16"]
    assert precision_obstacle("tensorrt", "fp8") is None
    assert "--engine tensorrt multiplies in FP8" in str(precision_obstacle("onnxruntime", "fp8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-equal-labels", "1"], "model-72x90-fp8.onnx has "),
        (["--size", "32x32"], "needs an fp32 and an fp16 graph of 32x32; it has 72x90 fp32, 72x90 fp16"),
    ],
    ids=["bound", "size"],
)
def test_what_cannot_be_made_leaves_the_directory_alone(
    options: list[str], message: str, directory: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert quantize(directory, photos, *options) == 1
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before


def test_an_existing_graph_is_replaced_by_force_alone(
    directory: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(directory, photos) == 0
    assert quantize(directory, photos) == 1
    assert "has model-72x90-fp8.onnx already; --force replaces it" in capsys.readouterr().err
    assert quantize(directory, photos, "--force") == 0
    assert [graph.precision for graph in read_manifest(directory).graphs] == ["fp32", "fp16", "fp8"]
