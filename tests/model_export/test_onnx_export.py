"""A checkpoint to a model directory, through the command that users run."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from model_export import onnx_export
from model_export.__main__ import main
from model_export.graph_precision import HALF_LOGITS_CLASSES
from model_export.images import generated_images
from model_export.onnx_export import GraphForms, ModelFacts, export_onnx
from model_export.trace import ExportError
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.proof import prove_engine
from service.engines.runtimes import EngineName
from service.imaging.label_map import label_map
from service.model_directory.agreement import Agreement
from service.model_directory.golden import read_golden
from service.model_directory.manifest import read_manifest
from tests.model_export.conftest import LABELS_SIZE, SIZE
from tests.support.tiny_network import TINY_CONVOLUTIONAL
from trainer.checkpoint import class_entries, read_checkpoint, save_checkpoint
from trainer.datasets import CAMVID_CLASSES
from trainer.model.ecenet import ECENet
from trainer.weights.import_command import main as import_checkpoint
from trainer.weights.network import load_model

CLASSES = class_entries(CAMVID_CLASSES)


def run_graph(path: Path, images: np.ndarray) -> np.ndarray:
    (rows,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})
    return np.asarray(rows)


def cells_of_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of logits with the labels of their cells as its output."""
    (logits,) = model.graph.output
    batch, _, rows, columns = (side.dim_param or side.dim_value for side in logits.type.tensor_type.shape.dim)
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [batch, rows, columns])
    model.graph.node.extend(
        (
            helper.make_node("ArgMax", [logits.name], ["indices"], axis=1, keepdims=0),
            helper.make_node("Cast", ["indices"], ["labels"], to=TensorProto.UINT8),
        )
    )
    model.graph.output[0].CopyFrom(labels)
    return model


def cells_of_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of labels at the image's size with those of the logits' cells as its output."""
    (argmax,) = [node for node in model.graph.node if node.op_type == "ArgMax"]
    (resize,) = [node for node in model.graph.node if argmax.input[0] in node.output]
    assert resize.op_type == "Resize"
    argmax.input[0] = resize.input[0]
    model.graph.node.remove(resize)
    del model.graph.value_info[:]
    _, rows, columns = model.graph.output[0].type.tensor_type.shape.dim
    rows.dim_value, columns.dim_value = rows.dim_value // 4, columns.dim_value // 4
    return model


def logits_of(checkpoint: Path, images: np.ndarray) -> np.ndarray:
    """PyTorch's, by the model alone."""
    with torch.no_grad():
        normalised = (torch.from_numpy(images).float() - 127) / 128
        return load_model(checkpoint).eval()(normalised.permute(0, 3, 1, 2)).numpy()


def test_graph_is_what_the_service_needs(exported_dir: Path) -> None:
    graph = onnx.load(exported_dir / "model.onnx")
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 23)]
    nodes = list(graph.graph.node)
    operators = Counter(node.op_type for node in nodes)
    assert operators["Attention"] == 3
    assert operators["Softmax"] == 1  # of the class presence; none of the attentions is left in pieces
    assert operators["BatchNormalization"] == 0
    assert operators["ReduceMax"] == 0
    assert operators["AveragePool"] == operators["GlobalAveragePool"] == 0  # pooling is a product with constants
    (cast,) = [node for node in nodes if "images" in node.input]
    (transpose,) = [node for node in nodes if cast.output[0] in node.input]
    assert (cast.op_type, transpose.op_type) == ("Cast", "Transpose")  # TensorRT has no transpose of uint8
    session = ort.InferenceSession(exported_dir / "model.onnx", providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", *SIZE, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 11, 18, 23])
    expected = ["golden.npz", "manifest.json", "model-72x90-fp16.onnx", "model.onnx"]
    assert sorted(path.name for path in exported_dir.iterdir()) == expected


def test_masks_come_of_a_product_of_their_own(exported_dir: Path) -> None:
    """The scores inside the attention are never an output: what reads its query and key are other products."""
    graph = onnx.load(exported_dir / "model.onnx").graph
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    assert all(len(node.output) == 1 for node in attentions)
    assert all(not any(node.input[3:]) for node in attentions)


@pytest.mark.parametrize("batch", [1, 3])
def test_graph_agrees_with_pytorch(batch: int, checkpoint: Path, exported_dir: Path) -> None:
    images = np.stack(generated_images(SIZE, batch, seed=5))
    expected, found = logits_of(checkpoint, images), run_graph(exported_dir / "model.onnx", images)
    assert np.abs(found - expected).max() <= 1e-4
    assert np.array_equal(found.argmax(1), expected.argmax(1))


def test_half_precision_keeps_input_output_and_labels(checkpoint: Path, exported_dir: Path) -> None:
    images = np.stack(generated_images(SIZE, 2, seed=5))
    expected, found = logits_of(checkpoint, images), run_graph(exported_dir / "model-72x90-fp16.onnx", images)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert 0 < np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    graph = onnx.load(exported_dir / "model-72x90-fp16.onnx").graph
    weights = Counter(tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4)
    assert set(weights) == {onnx.TensorProto.FLOAT16}


def test_labels_of_the_graph_are_those_of_the_service(checkpoint: Path, labels_dir: Path) -> None:
    (graph,) = read_manifest(labels_dir).graphs
    assert (graph.output, graph.output_stride, graph.output_size) == ("labels", 1, LABELS_SIZE)
    images = np.stack(generated_images(LABELS_SIZE, 2, seed=5))
    labels = run_graph(labels_dir / graph.file, images)
    assert (labels.dtype, labels.shape) == (np.uint8, (2, *LABELS_SIZE))
    expected = np.stack([label_map(row, LABELS_SIZE) for row in logits_of(checkpoint, images)])
    assert (labels == expected).mean() >= 0.999
    golden = read_golden(labels_dir, read_manifest(labels_dir), LABELS_SIZE)
    assert golden.agreement(run_graph(labels_dir / graph.file, golden.images), graph, [0, 1]).equal_labels >= 0.999


def test_several_sizes_lie_in_one_directory(
    *,
    checkpoint: Path,
    exported_dir: Path,
    labels_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their graphs are made of two that are there: tracing takes most of the time."""
    traced = {
        SIZE: cells_of_logits(onnx.load(exported_dir / "model.onnx")),
        LABELS_SIZE: cells_of_pixels(onnx.load(labels_dir / "model.onnx")),
    }
    monkeypatch.setattr(onnx_export, "trace", lambda _, size: traced[size])
    options = ["--size", "72x90", "--size", "32x96", "--output", "labels", "--labels-at", "cells", "--count", "1"]
    assert main(["onnx", str(checkpoint), "-o", str(tmp_path / "two"), *options]) == 0
    manifest = read_manifest(tmp_path / "two")
    assert [graph.file for graph in manifest.graphs] == ["model.onnx", "model-32x96-fp32.onnx"]
    for graph, size in zip(manifest.graphs, traced, strict=True):
        assert (graph.input_size, graph.output, graph.output_stride) == (size, "labels", 4)
        golden = read_golden(tmp_path / "two", manifest, size)
        assert golden.images.shape == (1, *size, 3)
        rows = run_graph(tmp_path / "two" / graph.file, golden.images)
        assert golden.agreement(rows, graph, [0]).equal_labels == 1
    printed = capsys.readouterr().out
    assert "input 32x96, fp32, labels, 3 attentions; equal labels 100.000%" in printed


def test_manifest_tells_what_the_service_must_know(checkpoint: Path, exported_dir: Path) -> None:
    manifest = read_manifest(exported_dir)
    assert (manifest.name, manifest.version, manifest.architecture) == ("tiny", "2.0.0", "ecenet-lite0")
    assert manifest.classes == CAMVID_CLASSES
    assert [(graph.input_size, graph.precision) for graph in manifest.graphs] == [(SIZE, "fp32"), (SIZE, "fp16")]
    assert manifest.metrics == {"val_miou": 0.1}
    assert (manifest.data, manifest.license) == ("camvid", "research only")
    assert manifest.exporter["opset"] == "23"
    assert manifest.exporter["torch"] == torch.__version__
    assert manifest.checkpoint is not None
    assert (exported_dir / manifest.checkpoint.file).resolve() == checkpoint.resolve()
    assert manifest.checkpoint.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_golden_outputs_are_pytorchs(checkpoint: Path, exported_dir: Path) -> None:
    golden = read_golden(exported_dir, read_manifest(exported_dir), SIZE)
    expected = logits_of(checkpoint, golden.images)
    assert np.allclose(golden.logits, expected[:, :, :: golden.step, :: golden.step], atol=1e-5)
    assert np.array_equal(golden.labels[4], expected.argmax(1))


def test_a_model_directory_is_not_overwritten(
    checkpoint: Path, exported_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (exported_dir / "manifest.json").read_bytes()
    assert main(["onnx", str(checkpoint), "-o", str(exported_dir)]) == 1
    assert "holds a model already" in capsys.readouterr().err
    assert (exported_dir / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--size", "64x64", "--size", "64x64"], "size 64x64 is given twice"),
        (["--precision", "fp16", "--precision", "fp16"], "precision fp16 is given twice"),
        (["--labels-at", "cells"], "--labels-at is for --output labels"),
        (["--count", "0"], "is 0, expected 1 or more"),
        (["--images", "no-such-folder"], "no-such-folder does not exist"),
    ],
)
def test_wrong_options_are_told_and_leave_nothing(
    options: list[str], reason: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["onnx", str(checkpoint), "-o", str(tmp_path / "model"), *options]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("entries", "facts", "reason"),
    [
        ({"classes": CLASSES[:5]}, {}, "has the class ids [0, 1, 2, 3, 4], its network gives 0..10"),
        ({"classes": CLASSES[::-1]}, {}, "has the class ids [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0], its network"),
        (
            {"classes": [*CLASSES[:10], {**CLASSES[10], "name": "SKY"}]},
            {},
            "class 0 'Sky' and class 10 'SKY' have the same",
        ),
        ({"classes": [{**CLASSES[0], "color": None}]}, {}, "has classes that cannot be used: 'NoneType'"),
        ({"classes": [{**CLASSES[0], "color": [300, 0, 0]}]}, {}, "colour [300, 0, 0] of class 0 is not within 0..255"),
        ({"input_size": [8, 8]}, {}, "size is 8x8, expected sides within 32..8192"),
        ({"input_size": [100_000, 64]}, {}, "size is 100000x64, expected sides within 32..8192"),
        ({}, {"version": "v 1"}, "version is 'v 1', expected up to 64 letters"),
        ({}, {"name": "a/b"}, "name is 'a/b', expected up to 128 printable characters"),
    ],
)
def test_what_no_reader_would_take_is_told_before_the_export(
    entries: dict[str, Any], facts: dict[str, str], reason: str, checkpoint: Path, tmp_path: Path
) -> None:
    torch.save(read_checkpoint(checkpoint) | entries, tmp_path / "best.pt")
    named = replace(ModelFacts("tiny", "1.0.0"), **facts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnx_export, "trace", lambda *_: pytest.fail("it is exported"))
        with pytest.raises((ValueError, ExportError), match=re.escape(reason)):
            export_onnx(tmp_path / "best.pt", tmp_path / "model", named)
    assert not (tmp_path / "model").exists()


def test_ctrl_c_is_told_in_a_line_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "trace", interrupt)
    assert main(["onnx", str(checkpoint), "-o", str(tmp_path / "model")]) == 130
    assert capsys.readouterr().err == "ecenet-export: stopped\n"
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("text", ["64", "64x64x3", "16x64", "64x9000", "ax64", "-64x64"])
def test_a_size_of_another_form_is_an_error_of_the_command_line(
    text: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["onnx", str(checkpoint), "-o", str(tmp_path / "model"), f"--size={text}"])
    assert "expected HEIGHTxWIDTH with sides within 32..8192" in capsys.readouterr().err


def test_forms_out_of_range_are_refused_by_the_api_too() -> None:
    with pytest.raises(ExportError, match=r"size is 16x64, expected sides within 32\.\.8192"):
        GraphForms(sizes=((16, 64),))
    with pytest.raises(ExportError, match="precision is 'int8', expected fp32 or fp16"):
        GraphForms(precisions=("int8",))


def test_a_head_alone_and_an_unknown_size_are_refused(
    tmp_path: Path, reference_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = np.load(reference_dir / "head_even.npz")
    head = {name[6:]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("state/")}
    torch.save(head, tmp_path / "head.pt")
    assert main(["onnx", str(tmp_path / "head.pt"), "-o", str(tmp_path / "a")]) == 1
    assert "holds a DecodeHead alone" in capsys.readouterr().err
    assert main(["onnx", str(reference_dir / "ecenet_swin_tiny_scale.ckpt"), "-o", str(tmp_path / "b")]) == 1
    assert "--size HEIGHTxWIDTH" in capsys.readouterr().err


def test_the_released_format_exports(released_dir: Path) -> None:
    assert "equal labels 100.000%" in (released_dir.parent / "output.txt").read_text()
    manifest = read_manifest(released_dir)
    assert [info.name for info in manifest.classes] == [f"class_{index}" for index in range(7)]
    assert len({info.color for info in manifest.classes}) == 7


def test_an_imported_checkpoint_exports_like_any_other(
    reference_dir: Path, released_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The imported weights are those of the graph, which is taken from the released checkpoint's export."""
    monkeypatch.setattr(onnx_export, "trace", lambda *_: onnx.load(released_dir / "model.onnx"))
    classes = [{"name": f"thing {index}", "color": [index, 2, 3]} for index in range(7)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    released, ours = reference_dir / "ecenet_swin_tiny_scale.ckpt", tmp_path / "ours.pt"
    options = ["--classes", str(tmp_path / "classes.json"), "--size", "64x96"]
    assert import_checkpoint([str(released), "-o", str(ours), *options]) == 0
    (report,) = export_onnx(ours, tmp_path / "served", ModelFacts("tiny", "1.0.0"))
    assert report.agreement.max_logit_error is not None
    assert report.agreement.max_logit_error < 1e-3
    manifest = read_manifest(tmp_path / "served")
    assert manifest.graph.input_size == (64, 96)
    assert [info.color for info in manifest.classes] == [(index, 2, 3) for index in range(7)]
    assert manifest.classes[6].name == "thing 6"
    assert manifest.architecture == "ecenet-swin"


def test_a_graph_that_does_not_agree_leaves_nothing(
    checkpoint: Path,
    exported_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(onnx_export, "trace", lambda *_: onnx.load(exported_dir / "model.onnx"))
    monkeypatch.setattr(onnx_export, "graph_agreement", lambda *_: Agreement(0.5, 1.0))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    assert main(["onnx", str(checkpoint), "-o", str(tmp_path / "model")]) == 1
    error = capsys.readouterr().err
    assert "ONNX Runtime on model.onnx differs from PyTorch: equal labels 50.000% (at least 99.9%)" in error
    assert "largest logit error 1.00e+00 (at most 1e-03)" in error
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["notes.txt"]


def test_an_edited_graph_or_golden_file_is_refused(exported_dir: Path, tmp_path: Path) -> None:
    for name in ("model-72x90-fp16.onnx", "golden.npz"):
        copy = tmp_path / name.replace(".", "-")
        copy.mkdir()
        for path in exported_dir.iterdir():
            (copy / path.name).write_bytes(path.read_bytes() + (b"\0" if path.name == name else b""))
        with pytest.raises(ValueError, match=f"{name} has SHA-256 .* was changed after the export"):
            read_manifest(copy)


def test_many_classes_give_logits_in_half_precision_of_an_fp16_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ECENet(replace(TINY_CONVOLUTIONAL, num_classes=HALF_LOGITS_CLASSES)).eval()
    save_checkpoint(tmp_path / "best.pt", model.config, model.state_dict(), input_size=[64, 96])
    forms = GraphForms(precisions=("fp32", "fp16"))
    export_onnx(tmp_path / "best.pt", tmp_path / "model", ModelFacts("many", "1.0.0"), forms, count=2)
    manifest = read_manifest(tmp_path / "model")
    assert [graph.logits_type for graph in manifest.graphs] == ["float32", "float16"]
    names: tuple[EngineName, ...] = ("onnxruntime", "openvino")
    for graph, name in product(manifest.graphs, names):
        options = EngineOptions(engine=name, precision=graph.precision, num_threads=1, max_batch_size=2)
        engine = create_engine(tmp_path / "model", manifest, options)
        prove_engine(engine, tmp_path / "model", manifest)
        assert engine.infer(np.zeros((2, 64, 96, 3), np.uint8)).dtype.name == graph.logits_type
        engine.close()
