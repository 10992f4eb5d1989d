"""Each kind of model is opened as a predictor; other classes and arguments that do not fit are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.engines.base import Engine, EngineError
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.model_directory.manifest import (
    GRAPH_NAME,
    ClassInfo,
    GraphInfo,
    ManifestError,
    read_manifest,
    write_manifest,
)
from tests.trainer.prediction.stretched import stretched_labels
from trainer.checkpoint import CheckpointError, save_checkpoint
from trainer.datasets import SegmentationDataset
from trainer.model.ecenet import ECENet
from trainer.prediction import engine as engine_module
from trainer.prediction.http import is_url
from trainer.prediction.mode import PredictionMode, PredictionModeError
from trainer.prediction.model import ModelError, OpenModel
from trainer.prediction.open_model import open_model
from trainer.prediction.pytorch import pytorch_infer

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
NAMES = [f"thing {index}" for index in range(11)]


def dataset_of(*names: str) -> SegmentationDataset:
    classes = tuple(ClassInfo(index, name, (0, 0, index)) for index, name in enumerate(names))
    return cast(SegmentationDataset, SimpleNamespace(name="things", classes=classes))


@pytest.fixture
def checkpoint(tiny_model: ECENet, tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint with entries of one's choice."""

    def write(**entries: Any) -> Path:
        save_checkpoint(tmp_path / "best.pt", tiny_model.config, tiny_model.state_dict(), **entries)
        return tmp_path / "best.pt"

    return write


def test_a_checkpoint_is_its_network_at_its_input_size(checkpoint: Callable[..., Path], tiny_model: ECENet) -> None:
    classes = [{"id": index, "name": name, "color": [0, 0, 0]} for index, name in enumerate(NAMES)]
    with open_model(str(checkpoint(input_size=[48, 64], classes=classes))) as model:
        assert np.array_equal(model.predict(IMAGE), stretched_labels(pytorch_infer(tiny_model.eval()), (48, 64), IMAGE))
        assert (model.num_classes, model.class_names) == (11, tuple(NAMES))


def test_a_checkpoint_without_input_size_needs_another_way(checkpoint: Callable[..., Path]) -> None:
    path = str(checkpoint())
    with pytest.raises(PredictionModeError, match="give --short-side, or --mode slide"), open_model(path):
        pass
    with open_model(path, PredictionMode(slide=True, crop=(32, 32))) as model:
        assert model.predict(IMAGE).shape == (40, 90)
        assert model.class_names is None


def test_a_model_directory_is_run_by_its_engine(tiny_model_dir: Path, brightness_logits: Logits) -> None:
    with open_model(str(tiny_model_dir), engine="onnxruntime") as model:
        assert np.array_equal(model.predict(IMAGE), stretched_labels(brightness_logits, (32, 64), IMAGE))
        assert (model.num_classes, model.class_names) == (3, ("dark", "grey", "bright"))
    with open_model(str(tiny_model_dir), PredictionMode(slide=True, flip=True)) as model:
        assert model.predict(IMAGE).shape == (40, 90)


def test_any_engine_of_the_service_is_used_and_closed(
    tiny_model_dir: Path, brightness_logits: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Other:
        name, num_classes, max_batch_size, warm_up_sizes = "other", 3, 1, (1,)
        graph = GraphInfo("model.onnx", "0" * 64, (32, 64))
        infer = staticmethod(brightness_logits)

        def close(self) -> None:
            asked.append("closed")

    def create(directory: Path, manifest: object, options: EngineOptions) -> Engine:
        asked.extend([directory, options.engine])
        return Other()

    monkeypatch.setattr(engine_module, "create_engine", create)
    with open_model(str(tiny_model_dir)) as model:
        assert model.predict(IMAGE).shape == (40, 90)
    assert asked == [tiny_model_dir, "auto", "closed"]


def test_what_an_engine_raises_is_told_with_its_name(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions())

    def fail(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine_module, "create_engine", lambda *_: engine)
    monkeypatch.setattr(engine_module, "prove_engine", lambda *_: None)
    monkeypatch.setattr(engine, "infer", fail)
    with (
        open_model(str(tiny_model_dir)) as model,
        pytest.raises(ModelError, match=r"the onnxruntime engine failed on images \(1, 32, 64, 3\): out of memory"),
    ):
        model.predict(IMAGE)


@pytest.mark.parametrize("batch", ["B", 1])
def test_an_onnx_file_needs_no_manifest(
    batch: int | str, write_graph: Callable[[Path, int | str], None], brightness_logits: Logits, tmp_path: Path
) -> None:
    write_graph(tmp_path / "some.onnx", batch)
    with open_model(str(tmp_path / "some.onnx")) as model:
        assert np.array_equal(model.predict(IMAGE), stretched_labels(brightness_logits, (32, 64), IMAGE))
        assert (model.num_classes, model.class_names) == (3, None)
    with (
        pytest.raises(PredictionModeError, match="images of 32x64 only"),
        open_model(str(tmp_path / "some.onnx"), PredictionMode(short_side=9)),
    ):
        pass


def test_onnx_files_that_cannot_be_used_are_told(
    write_graph: Callable[[Path, int | str], None], tmp_path: Path
) -> None:
    write_graph(tmp_path / "four.onnx", 4)
    with (
        pytest.raises(ModelError, match=r"four\.onnx takes batches of 4 only"),
        open_model(str(tmp_path / "four.onnx")),
    ):
        pass
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"cannot load .*broken\.onnx"), open_model(str(tmp_path / "broken.onnx")):
        pass


def test_an_onnx_file_of_labels_is_told_what_to_open_instead(
    write_graph: Callable[[Path, int | str], None], tmp_path: Path
) -> None:
    path = tmp_path / "labels.onnx"
    write_graph(path, "B")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0))
    model.graph.node.append(helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("labels", TensorProto.UINT8, ["B", 8, 16]))
    onnx.save(model, path)
    text = (
        r"labels\.onnx gives labels, which do not tell .*: evaluate its model directory, or a graph that gives logits"
    )
    with pytest.raises(ModelError, match=text), open_model(str(path)):
        pass


def test_numbered_classes_of_an_export_are_no_names(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    numbered = tuple(replace(info, name=f"class_{info.id}") for info in manifest.classes)
    write_manifest(tiny_model_dir, replace(manifest, classes=numbered))
    with open_model(str(tiny_model_dir)) as model:
        assert model.class_names is None
        model.check_classes(dataset_of("a", "b", "c"))


def test_classes_have_to_be_those_of_the_dataset() -> None:
    def model(*names: str) -> OpenModel:
        return OpenModel(lambda image: image[..., 0], len(names), names)

    model("a", "b", "c").check_classes(dataset_of("a", "b", "c"))
    OpenModel(lambda image: image[..., 0], 2, None).check_classes(dataset_of("a", "b"))
    with pytest.raises(ModelError, match="the model has 2 classes, things has 3"):
        model("a", "b").check_classes(dataset_of("a", "b", "c"))
    with pytest.raises(ModelError, match="class 1 is 'c' in the model and 'b' in things"):
        model("a", "c", "b").check_classes(dataset_of("a", "b", "c"))


@pytest.mark.parametrize(
    "mode",
    [
        PredictionMode(flip=True),
        PredictionMode(slide=True),
        PredictionMode(short_side=9),
        PredictionMode(scales=(0.5,)),
    ],
)
def test_a_service_gives_no_logits(mode: PredictionMode) -> None:
    with (
        pytest.raises(PredictionModeError, match=r"http://host gives labels, but .* need logits"),
        open_model("http://host", mode),
    ):
        pass


def test_arguments_and_files_that_do_not_fit_are_told(
    checkpoint: Callable[..., Path], tiny_model_dir: Path, tmp_path: Path
) -> None:
    path, directory = str(checkpoint(input_size=[48, 64])), str(tiny_model_dir)
    cases: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        (path, {"engine": "auto"}, ModelError, "is not a model directory; an engine"),
        (directory, {"device": "cpu"}, ModelError, "is not a checkpoint; a device"),
        (path, {"device": "abacus"}, ModelError, "device 'abacus' cannot be used"),
        (directory, {"engine": "abacus"}, ModelError, "unknown engine 'abacus'; the engines are auto, tensorrt,"),
        (
            str(tmp_path / "absent.pt"),
            {},
            ModelError,
            "absent.pt does not exist; the URL of a running service begins",
        ),
        (str(tmp_path), {}, ManifestError, "has no manifest.json"),
    ]
    for source, options, error, message in cases:
        with pytest.raises(error, match=message), open_model(source, **options):
            pass
    (tiny_model_dir / GRAPH_NAME).unlink()
    with pytest.raises(ManifestError, match=r"has no model\.onnx"), open_model(directory):
        pass


def test_an_engine_that_breaks_its_promises_is_not_evaluated(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(tiny_model_dir)
    engine = create_engine(tiny_model_dir, manifest, EngineOptions())
    monkeypatch.setattr(engine, "infer", lambda images: np.zeros((len(images), 2, 8, 16), np.float32))
    monkeypatch.setattr(engine_module, "create_engine", lambda *_: engine)
    with pytest.raises(EngineError, match="expected float32"), open_model(str(tiny_model_dir)):
        pass


def test_a_part_of_a_network_is_told(reference_dir: Path, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    with np.load(reference_dir / "head_even.npz") as arrays:
        state = {name.removeprefix("state/"): torch.from_numpy(arrays[name]) for name in arrays if "state/" in name}
    torch.save(state, tmp_path / "head.pt")
    with (
        pytest.raises(CheckpointError, match=r"head\.pt holds a part of a network"),
        open_model(str(tmp_path / "head.pt")),
    ):
        pass


def test_urls_are_told_from_paths() -> None:
    assert all(is_url(text) for text in ("http://a", "https://a:1/b", "HTTP://a"))
    assert not any(is_url(text) for text in ("http", "models/http://a", "localhost:8000"))
