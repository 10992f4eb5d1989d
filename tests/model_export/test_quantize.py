"""INT8 graphs: a small network with two layers that INT8 ruins, through the command that users run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model_export import quantize as quantize_module
from model_export.__main__ import main
from model_export.images import Photo, generated_images
from model_export.int8_graph import Layer, QuantizableGraph
from model_export.quantize import quantize, spread
from model_export.quantize_settings import QuantizeSettings
from model_export.sensitivity import Damage, QuantizationError, choose_floats, rank
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import (
    ClassInfo,
    FileInfo,
    GraphInfo,
    Manifest,
    file_sha256,
    read_manifest,
    write_manifest,
)

SIZE = (64, 96)
LAYERS = ["stem", "first", "second", "wide", "narrow", "left", "right", "classifier"]
# Between them lies a channel of some thousands that the next layer ignores, and INT8 has 256 steps for all channels.
RUINED = {"wide", "narrow"}
INT8_FILE = "model-64x96-int8.onnx"


def write_network(path: Path, output: str) -> None:
    """Images (B, 64, 96, 3) uint8 to logits (B, 3, 16, 24), or their labels; with a residual and a pixel shuffle."""
    rng = np.random.default_rng(0)

    def weight(outputs: int, inputs: int, kernel: int) -> NDArray[np.float32]:
        return rng.normal(0, 1.5 / np.sqrt(inputs * kernel**2), (outputs, inputs, kernel, kernel)).astype(np.float32)

    arrays = {
        "stem": weight(8, 3, 8),
        "first": weight(8, 8, 3),
        "second": weight(8, 8, 3),
        "wide": weight(8, 8, 1),
        "narrow": weight(8, 8, 1),
        "left": weight(8, 8, 3),
        "right": weight(8, 8, 1),
        "classifier": weight(3, 4, 1),
    }
    arrays["wide"][0] = 5000
    arrays["narrow"][:, 0] = 0
    biases = {f"{name}.bias": rng.normal(0, 0.1, len(array)).astype(np.float32) for name, array in arrays.items()}
    constants = {
        "mean": np.array([127], np.float32),
        "std": np.array([64], np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
    }

    def conv(name: str, source: str, stride: int = 1) -> onnx.NodeProto:
        pads = [arrays[name].shape[2] // 2 if stride == 1 else 0] * 4
        return helper.make_node(
            "Conv", [source, f"{name}.weight", f"{name}.bias"], [name], name, pads=pads, strides=[stride, stride]
        )

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normalised"]),
        conv("stem", "normalised", stride=8),
        helper.make_node("Relu", ["stem"], ["stem_relu"], "stem_relu"),
        conv("first", "stem_relu"),
        helper.make_node("Clip", ["first", "zero", "six"], ["clipped"], "clip"),
        conv("second", "clipped"),
        helper.make_node("Add", ["stem_relu", "second"], ["sum"], "residual"),
        conv("wide", "sum"),
        conv("narrow", "wide"),
        conv("left", "narrow"),
        conv("right", "narrow"),
        helper.make_node("Concat", ["left", "right"], ["both"], "concat", axis=1),
        helper.make_node("DepthToSpace", ["both"], ["fine"], "shuffle", blocksize=2, mode="CRD"),
        conv("classifier", "fine"),
        helper.make_node("Resize", ["classifier", "", "scales"], ["logits"], mode="linear"),
    ]
    constants["scales"] = np.array([1, 1, 1, 1], np.float32)
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 16, 24])
    if output == "labels":
        nodes += [
            helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0),
            helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
        ]
        result = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", 16, 24])
    stored = {f"{name}.weight": array for name, array in arrays.items()} | biases | constants
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *SIZE, 3])],
        [result],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def write_model(directory: Path, output: str = "logits") -> Path:
    """A model directory with that network; its golden logits are ONNX Runtime's."""
    directory.mkdir()
    path = directory / "model.onnx"
    write_network(path, output)
    graph = GraphInfo(path.name, file_sha256(path), SIZE, output=output)  # type: ignore[arg-type]
    images = np.stack(generated_images(SIZE, 2, seed=9))
    write_network(directory / "logits.onnx", "logits")
    logits = ort.InferenceSession(directory / "logits.onnx").run(None, {"images": images})[0]
    (directory / "logits.onnx").unlink()
    write_golden(directory / "golden.npz", {SIZE: make_golden(images, logits, {})})
    classes = tuple(ClassInfo(index, f"class {index}", (index, 0, 0)) for index in range(3))
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    write_manifest(directory, Manifest("small", "1.0.0", "none", classes, (graph,), golden))
    return directory


def contents(directory: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def int8_layers(model: onnx.ModelProto) -> dict[str, int]:
    """Convolutions whose weight is dequantised, with the number of scales of their weights."""
    producers = {name: node for node in model.graph.node for name in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in producers:
            weight = producers[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert types[weight.input[0]] == TensorProto.INT8
            found[node.name] = int(np.prod(shapes[weight.input[1]]))
    return found


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(generated_images(SIZE, 9, seed=3)):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def quantized(calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_model(tmp_path_factory.mktemp("models") / "small")
    assert main(command(directory, calibration)) == 0
    return directory


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small")


def command(directory: Path, calibration: Path, *further: str) -> list[str]:
    options = ["--calibration", str(calibration), "--count", "8", "--min-equal-labels", "0.9"]
    return ["quantize", str(directory), *options, *further]


def test_the_layers_that_int8_ruins_stay_in_float_and_the_others_are_quantised_per_channel(quantized: Path) -> None:
    model = onnx.load(quantized / INT8_FILE)
    expected = {name: 8 for name in LAYERS if name not in RUINED} | {"classifier": 3}
    assert int8_layers(model) == expected


def test_the_activations_are_uint8_with_zero_points(quantized: Path) -> None:
    model = onnx.load(quantized / INT8_FILE)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    points = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {point.dtype for point in points} == {np.dtype(np.uint8)}
    assert any(point > 0 for point in points)


def test_the_weights_have_7_bits(quantized: Path) -> None:
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(quantized / INT8_FILE).graph.initializer
    }
    weights = [array for name, array in constants.items() if name.endswith("weight_quantized")]
    assert len(weights) == len(LAYERS) - len(RUINED)
    assert {int(np.abs(weight.astype(int)).max()) for weight in weights} <= {63, 64}


def test_what_lies_between_int8_layers_runs_in_int8(quantized: Path) -> None:
    model = onnx.load(quantized / INT8_FILE)
    producers = {name: node for node in model.graph.node for name in node.output}
    operators = {node.op_type: node for node in model.graph.node}
    assert not {"Relu", "Clip"} & set(operators)  # uint8 ends where they cut
    for name in ("Add", "Concat"):
        node = operators[name]
        assert [producers[source].op_type for source in node.input] == ["DequantizeLinear"] * 2
        assert [user.op_type for user in model.graph.node if node.output[0] in user.input] == ["QuantizeLinear"]
    shuffle = operators["DepthToSpace"]
    assert producers[shuffle.input[0]].op_type == "QuantizeLinear"
    assert [user.op_type for user in model.graph.node if shuffle.output[0] in user.input] == ["DequantizeLinear"]


def test_the_table_is_sorted_and_complete(quantized: Path) -> None:
    table = json.loads((quantized / "quantization.json").read_text())
    (graph,) = table["graphs"]
    assert (graph["onnxruntime"], graph["min_equal_labels"]) == (ort.__version__, 0.9)
    assert (graph["file"], graph["source"]) == (INT8_FILE, "model.onnx")
    assert graph["images"] == {"calibration": 6, "held_out": 2}
    rows = graph["layers"]
    assert sorted(row["layer"] for row in rows) == sorted(f"{name}.weight" for name in LAYERS)
    damages = [row["changed_labels"] for row in rows]
    assert damages == sorted(damages, reverse=True)
    assert damages[1] > 0.1 > damages[2]
    in_float = {row["layer"] for row in rows if row["precision"] == "fp32"}
    assert in_float == {row["layer"] for row in rows[:2]} == {f"{name}.weight" for name in RUINED}
    none, _, chosen = graph["equal_labels"]["by_layers_in_fp32"]
    assert none < 0.9 <= chosen
    assert graph["milliseconds"]["int8"] > 0


def test_the_table_keeps_the_rows_of_other_graphs_that_the_manifest_still_has(
    quantized: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(quantized, directory)
    path = directory / "quantization.json"
    table = json.loads(path.read_text())
    (own,) = table["graphs"]
    other, removed = {**own, "file": "model-32x96-int8.onnx"}, {**own, "file": "model-96x32-int8.onnx"}
    path.write_text(json.dumps({**table, "graphs": [other, own, removed]}))
    manifest = read_manifest(directory)
    shutil.copyfile(directory / INT8_FILE, directory / other["file"])
    graph = replace(manifest.graphs[1], file=other["file"], input_size=(32, 96))
    write_manifest(directory, replace(manifest, graphs=(*manifest.graphs, graph)))
    quantize(directory, calibration, QuantizeSettings((SIZE,), count=8, min_equal_labels=0.01, force=True))
    kept, new = json.loads(path.read_text())["graphs"]
    assert kept == other
    assert (kept["min_equal_labels"], new["min_equal_labels"]) == (0.9, 0.01)
    assert (new["file"], new["num_layers"], new["layers"]) == (INT8_FILE, len(LAYERS), [])
    path.write_text("{")
    before = contents(directory)
    assert main(command(directory, calibration, "--force")) == 1
    assert f"{path} cannot be read (" in capsys.readouterr().err
    assert contents(directory) == before


def test_the_manifest_gains_the_graph_with_the_bound_that_was_measured(quantized: Path, model_dir: Path) -> None:
    before, after = read_manifest(model_dir), read_manifest(quantized)
    assert replace(after, graphs=after.graphs[:1]) == before
    (graph,) = after.graphs[1:]
    assert (graph.file, graph.precision, graph.output) == (INT8_FILE, "int8", "logits")
    assert (graph.input_size, graph.output_stride) == (SIZE, 4)
    worst = json.loads((quantized / "quantization.json").read_text())["graphs"][0]["equal_labels"]["worst_image"]
    assert 0.8 < worst < 1
    assert graph.bounds.min_equal_labels == pytest.approx(1 - 2 * (1 - worst), abs=1.1e-3)
    assert graph.bounds.max_logit_error is None
    assert sorted(contents(quantized)) == ["golden.npz", "manifest.json", INT8_FILE, "model.onnx", "quantization.json"]


def test_the_graph_runs_in_batches_and_agrees_with_float(quantized: Path) -> None:
    manifest = read_manifest(quantized)
    images = np.stack(generated_images(SIZE, 3, seed=21))
    labels = [
        OnnxRuntimeEngine(quantized, manifest, graph, num_threads=1).infer(images).argmax(1)
        for graph in manifest.graphs
    ]
    assert 0.9 <= (labels[0] == labels[1]).mean() < 1


def test_a_graph_of_labels_is_quantised_too(calibration: Path, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "labels", "labels")
    assert main(command(directory, calibration)) == 0
    manifest = read_manifest(directory)
    graph = manifest.graphs[1]
    assert (graph.precision, graph.output, graph.output_stride) == ("int8", "labels", 4)
    labels = OnnxRuntimeEngine(directory, manifest, graph, num_threads=1).infer(np.zeros((2, *SIZE, 3), np.uint8))
    assert (labels.shape, labels.dtype) == ((2, 16, 24), np.uint8)


def test_a_graph_that_is_there_is_replaced_only_by_force(
    quantized: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(quantized, directory)
    before = contents(directory)
    assert main(command(directory, calibration)) == 1
    assert f"{directory} has {INT8_FILE} already; --force replaces it" in capsys.readouterr().err
    assert contents(directory) == before
    (directory / ".export-left").mkdir()  # by a run that was killed
    # All layers in INT8 this time: another graph under the same name.
    settings = QuantizeSettings(count=8, min_equal_labels=0.01, force=True)
    (report,) = quantize(directory, calibration, settings)
    assert report.choice.floats == ()
    assert [graph.precision for graph in read_manifest(directory).graphs] == ["fp32", "int8"]
    assert int8_layers(onnx.load(directory / INT8_FILE)).keys() == set(LAYERS)
    assert contents(directory).keys() == before.keys()


def test_a_stop_before_the_manifest_is_written_leaves_a_directory_that_can_be_read(
    quantized: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(quantized, directory)

    def write_or_stop(directory: Path, manifest: Manifest) -> None:
        if len(manifest.graphs) == 2:
            raise OSError("stopped")
        write_manifest(directory, manifest)

    monkeypatch.setattr(quantize_module, "write_manifest", write_or_stop)
    assert main(command(directory, calibration, "--force", "--min-equal-labels", "0.01")) == 1
    assert [graph.precision for graph in read_manifest(directory).graphs] == ["fp32"]


def test_a_bound_that_is_not_reached_is_an_error_and_changes_nothing(
    model_dir: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(model_dir)
    assert main(command(model_dir, calibration, "--min-equal-labels", "1")) == 1
    error = capsys.readouterr().err
    assert "with 2 of 8 layers in float32" in error
    assert "asked for 100.000%" in error
    assert contents(model_dir) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "32x32"], "has no fp32 graph of 32x32 to quantise; it has 64x96 fp32"),
        (["--count", "3"], "the number of calibration images is 3, expected 4 or more"),
        (["--min-equal-labels", "99"], "min_equal_labels is 99.0, expected a share within 0..1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    options: list[str], message: str, model_dir: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(model_dir, calibration, *options)) == 1
    assert message in capsys.readouterr().err


def test_a_directory_without_a_float_graph_or_a_manifest_is_refused(
    model_dir: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(model_dir)
    write_manifest(model_dir, replace(manifest, graphs=(replace(manifest.graph, precision="fp16"),)))
    assert main(command(model_dir, calibration)) == 1
    assert "has no fp32 graph to quantise; it has 64x96 fp16: export one" in capsys.readouterr().err
    assert main(command(tmp_path, calibration)) == 1
    assert "is not a model directory" in capsys.readouterr().err


def test_images_that_are_missing_or_too_few_are_told(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    assert main(command(model_dir, folder)) == 1
    assert "images does not exist" in capsys.readouterr().err
    folder.mkdir()
    assert main(command(model_dir, folder)) == 1
    assert "holds no image, and no dataset" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    assert main(command(model_dir, folder)) == 1
    assert "gives 1 images to calibrate on, expected 4 or more" in capsys.readouterr().err


def test_without_onnx_the_command_says_what_to_install(
    model_dir: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "model_export.quantize", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(command(model_dir, calibration)) == 1
    assert "pip install '.[export]'" in capsys.readouterr().err


def test_a_layer_alone_takes_nothing_but_its_activation_along(tmp_path: Path) -> None:
    write_network(tmp_path / "model.onnx", "logits")
    graph = QuantizableGraph(tmp_path / "model.onnx", generated_images(SIZE, 2))
    assert [layer.weight for layer in graph.layers] == [f"{name}.weight" for name in LAYERS]
    for _ in range(2):  # the graph itself is not changed
        model = graph.quantize([graph.layers[1]])
        assert int8_layers(model) == {"first": 8}
        operators = [node.op_type for node in model.graph.node]
        assert (operators.count("QuantizeLinear"), operators.count("Clip"), operators.count("Relu")) == (2, 0, 1)


@pytest.mark.parametrize("kept", ["narrow", "classifier", "stem"])
def test_onnx_runtime_leaves_a_float_layer_between_int8_layers_alone(kept: str, tmp_path: Path) -> None:
    write_network(tmp_path / "model.onnx", "logits")
    graph = QuantizableGraph(tmp_path / "model.onnx", generated_images(SIZE, 2))
    model = graph.quantize([layer for layer in graph.layers if layer.node != kept])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == len(LAYERS) - 1


def test_files_are_taken_evenly() -> None:
    photos = [Photo(Path(f"{index}.png"), lambda: np.zeros((1, 1, 3), np.uint8)) for index in range(10)]
    assert [photo.path.stem for photo in spread(photos, 5)] == ["0", "2", "4", "6", "8"]
    assert spread(photos, 99) == photos


def layers(count: int) -> list[Layer]:
    return [Layer(f"node {index}", f"weight {index}") for index in range(count)]


def share_lost(costs: Mapping[str, float], chosen: Collection[Layer]) -> float:
    return 1 - sum(costs.get(layer.node, 0.0) for layer in chosen)


def test_layers_are_ranked_by_what_each_loses_alone() -> None:
    costs = {"node 0": 0.1, "node 1": 0.3, "node 2": 0.2}
    ranking = rank(layers(3), lambda chosen: share_lost(costs, chosen))
    assert [damage.layer.node for damage in ranking] == ["node 1", "node 2", "node 0"]
    assert [damage.changed_labels for damage in ranking] == pytest.approx([0.3, 0.2, 0.1])


def test_no_more_layers_stay_in_float_than_needed() -> None:
    costs = {"node 0": 0.04, "node 1": 0.02, "node 2": 0.01}
    ranking = [Damage(layer, costs.get(layer.node, 0.0)) for layer in layers(12)]
    choice = choose_floats(ranking, lambda chosen: share_lost(costs, chosen), 0.99)
    assert choice.floats == tuple(layers(2))
    assert choice.equal_labels == pytest.approx((0.93, 0.97, 0.99))
    assert choose_floats(ranking, lambda chosen: share_lost(costs, chosen), 0.93).floats == ()
    with pytest.raises(QuantizationError, match=r"keeps 100.000% .* with 3 of 12 layers .* \(93.000% with none\)"):
        choose_floats(ranking, lambda chosen: share_lost(costs, chosen), 1.1)
