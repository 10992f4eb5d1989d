"""A checkpoint to a model directory, through the command that users run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from model_export import onnx_export
from model_export.__main__ import main
from model_export.exportable import Exportable
from model_export.manifest import read_manifest
from model_export.onnx_export import ExportError, check_graph
from model_export.parity import Parity, ParityError, compare, generated_images, sample_images
from trainer.checkpoint import load_model, save_checkpoint
from trainer.datasets import CAMVID_CLASSES
from trainer.model.ecenet import build_model

SIZE = (72, 90)  # divides by neither 32 nor the pooling grids


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("ecenet-lite0", 11)
    for module in model.modules():  # statistics that folding would get wrong if it did nothing
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("run") / "best.pt"
    classes = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in CAMVID_CLASSES]
    save_checkpoint(
        path,
        model.config,
        model.state_dict(),
        architecture="ecenet-lite0",
        dataset="camvid",
        classes=classes,
        input_size=list(SIZE),
        metrics={"val_miou": 0.1},
    )
    return path


@pytest.fixture(scope="module")
def directory(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    arguments = ["onnx", str(checkpoint), "-o", str(directory), "--version", "2.0.0", "--license-note", "research only"]
    assert main(arguments) == 0
    return directory


def test_graph_is_what_the_service_needs(directory: Path) -> None:
    graph = onnx.load(directory / "model.onnx")
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 23)]
    operators = Counter(node.op_type for node in graph.graph.node)
    assert operators["Attention"] == 3
    assert operators["Softmax"] == 1  # of the class presence; none of the attentions is left in pieces
    assert operators["BatchNormalization"] == 0
    assert operators["ReduceMax"] == 0
    session = ort.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", *SIZE, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 11, 18, 23])
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize("batch", [1, 3])
def test_graph_agrees_with_pytorch(batch: int, checkpoint: Path, directory: Path) -> None:
    images = np.stack(generated_images(SIZE, batch, seed=5))
    model = load_model(checkpoint)
    with torch.no_grad():
        normalised = (torch.from_numpy(images).float() - 127) / 128
        expected = model(normalised.permute(0, 3, 1, 2)).numpy()
    session = ort.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images})
    assert np.abs(logits - expected).max() <= 1e-4
    assert np.array_equal(logits.argmax(1), expected.argmax(1))


def test_manifest_tells_what_the_service_must_know(directory: Path) -> None:
    manifest = read_manifest(directory)
    assert (manifest.name, manifest.version, manifest.architecture) == ("tiny", "2.0.0", "ecenet-lite0")
    assert manifest.classes == CAMVID_CLASSES
    assert manifest.graph.input_size == SIZE
    assert manifest.metrics == {"val_miou": 0.1}
    assert (manifest.data, manifest.license) == ("camvid", "research only")
    assert manifest.exporter["opset"] == "23"
    assert manifest.exporter["torch"] == torch.__version__


def test_a_model_directory_is_not_overwritten(
    checkpoint: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (directory / "manifest.json").read_bytes()
    assert main(["onnx", str(checkpoint), "-o", str(directory)]) == 1
    assert "holds a model already" in capsys.readouterr().err
    assert (directory / "manifest.json").read_bytes() == before


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


def test_the_released_format_exports(reference_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released = reference_dir / "ecenet_swin_tiny_scale.ckpt"
    assert main(["onnx", str(released), "-o", str(tmp_path / "released"), "--size", "64x96"]) == 0
    assert "equal labels 100.000%" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "released")
    assert [info.name for info in manifest.classes] == [f"class_{index}" for index in range(7)]
    assert len({info.color for info in manifest.classes}) == 7


def test_a_graph_without_attention_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="0 Attention nodes, expected 3"):
        check_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize("parity", [Parity(2e-3, 1.0), Parity(0.0, 0.998), Parity(float("nan"), 1.0)])
def test_disagreement_is_an_error(parity: Parity) -> None:
    with pytest.raises(ParityError, match="differ"):
        parity.check()


def test_another_network_does_not_agree(directory: Path) -> None:
    torch.manual_seed(1)
    other = Exportable(build_model("ecenet-lite0", 11))
    parity = compare(other, directory / "model.onnx", generated_images(SIZE, 2))
    with pytest.raises(ParityError):
        parity.check()


def test_a_graph_that_does_not_agree_gets_no_manifest(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_export, "compare", lambda *_: Parity(1.0, 0.5))
    assert main(["onnx", str(checkpoint), "-o", str(tmp_path / "model")]) == 1
    assert "differ: largest logit error 1.00e+00" in capsys.readouterr().err
    assert not (tmp_path / "model" / "manifest.json").exists()


def test_images_to_compare_on_are_read_and_resized(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no PNG or JPEG image"):
        sample_images(tmp_path, SIZE, 1)
    with pytest.raises(ValueError, match="is 0, expected 1 or more"):
        sample_images(None, SIZE, 0)
    Image.fromarray(np.full((10, 20, 3), 7, np.uint8)).save(tmp_path / "a.png")
    (image,) = sample_images(tmp_path, SIZE, 3)
    assert image.shape == (*SIZE, 3)
    assert (image == 7).all()
    first, second = (sample_images(None, SIZE, 2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
