"""What can be evaluated, opened as a predictor: a checkpoint, a model directory, an ONNX file, a running service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.command_line import read_settings
from service.engines.base import Engine
from service.engines.create import create_engine
from service.engines.proof import prove_engine
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import labels_of
from service.model_directory.manifest import read_manifest
from trainer.checkpoint import CheckpointError, load_model_and_entries
from trainer.datasets import SegmentationDataset
from trainer.prediction.predictor import Infer, Predictor, torch_infer
from trainer.model.ecenet import ECENet
from trainer.prediction.mode import Mode, ModeError, Network, mode_predictor
from trainer.prediction.http import RemotePredictor

T = TypeVar("T")


class ModelError(ValueError):
    """A model that cannot be opened, or that does not belong to the dataset."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model ready to be evaluated.

    Attributes:
        predict: Its predictor.
        num_classes: K.
        class_names: Names in the order of the ids, or None where the model does not tell them.
    """

    predict: Predictor
    num_classes: int
    class_names: tuple[str, ...] | None

    def check_classes(self, dataset: SegmentationDataset) -> None:
        """Compare the classes with those of a dataset.

        Raises:
            ModelError: Another number, or another name; the text tells the first that differs.
        """
        if self.num_classes != len(dataset.classes):
            raise ModelError(f"the model has {self.num_classes} classes, {dataset.name} has {len(dataset.classes)}")
        for info, name in zip(dataset.classes, self.class_names or [], strict=self.class_names is not None):
            if info.name != name:
                raise ModelError(f"class {info.id} is {name!r} in the model and {info.name!r} in {dataset.name}")


def is_url(source: str) -> bool:
    """Whether a source is a running service."""
    return source.lower().startswith(("http://", "https://"))


@contextmanager
def open_model(
    source: str, mode: Mode | None = None, *, engine: str | None = None, device: str | None = None
) -> Iterator[OpenModel]:
    """Open a model, and close it at the end.

    Args:
        source: A checkpoint, a model directory, an ONNX file, or the URL of a running service.
        mode: How images go through it; as the service does it if not given.
        engine: Runtime of a model directory, by the service's names; ``auto`` if not given.
        device: PyTorch's device for a checkpoint; ``cpu`` if not given.

    Raises:
        ModelError, ModeError: An argument does not fit the source.
        CheckpointError, StateDictError, ManifestError, EngineError, RemoteError: The source cannot be used.
    """
    mode, path = mode or Mode(), Path(source)
    is_directory, is_graph = path.is_dir(), path.suffix == ".onnx"
    if not is_url(source) and not path.exists():
        raise ModelError(f"{source} does not exist; if it is a running service, its URL begins with http://")
    if engine is not None and not is_directory:
        raise ModelError(f"{source} is no model directory; an engine can be chosen for these only")
    if device is not None and (is_directory or is_graph or is_url(source)):
        raise ModelError(f"{source} is no checkpoint; a device can be chosen for these only")
    if is_url(source):
        opened = _open_service(source, mode)
    elif is_directory:
        opened = _open_directory(path, mode, engine or "auto")
    else:
        opened = _open_graph(path, mode) if is_graph else _open_checkpoint(path, mode, device or "cpu")
    with opened as model:
        yield model


@contextmanager
def _open_service(url: str, mode: Mode) -> Iterator[OpenModel]:
    if not mode.plain:
        raise ModeError(
            f"{url} gives labels, and sliding windows, other sizes, scales and flips need logits: give the checkpoint "
            "or the model directory instead"
        )
    predictor = RemotePredictor(url)
    try:
        names = predictor.class_names()
        yield OpenModel(predictor, len(names), _told(names))
    finally:
        predictor.close()


@contextmanager
def _open_directory(directory: Path, mode: Mode, engine_name: str) -> Iterator[OpenModel]:
    manifest = read_manifest(directory)
    names = _told([info.name for info in manifest.classes])
    settings = read_settings(["--engine", engine_name, "--model-dir", str(directory)])
    engine = create_engine(directory, manifest, settings)
    try:
        prove_engine(engine, directory, manifest)
        yield OpenModel(_engine_predictor(engine, mode), manifest.num_classes, names)
    finally:
        engine.close()


def _engine_predictor(engine: Engine, mode: Mode) -> Predictor:
    if engine.graph.output == "logits":
        logits = cast(Infer, _telling(engine.infer, f"the {engine.name} engine"))
        network = Network(logits, engine.graph.input_size, fixed_size=True, max_batch_size=engine.max_batch_size)
        return mode_predictor(network, mode)
    if not mode.plain:
        raise ModeError("the graph gives labels, and sliding windows, other sizes, scales and flips need logits")
    labels = _telling(engine.infer, f"the {engine.name} engine")

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        (row,) = labels(resize_to_input(image, engine.graph.input_size)[None])
        return labels_of(row, (image.shape[0], image.shape[1]))

    return predict


@contextmanager
def _open_checkpoint(path: Path, mode: Mode, device: str) -> Iterator[OpenModel]:
    model, entries = load_model_and_entries(path)
    if not isinstance(model, ECENet):
        raise CheckpointError(f"{path} holds a part of a network; only a whole one can be evaluated")
    size = entries.get("input_size")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    network = Network(torch_infer(model), None if size is None else (int(size[0]), int(size[1])))
    yield OpenModel(mode_predictor(network, mode), model.config.num_classes, _checkpoint_names(entries))


@contextmanager
def _open_graph(graph: Path, mode: Mode) -> Iterator[OpenModel]:
    """An ONNX file without a manifest, through ONNX Runtime on the CPU."""
    session = _session(graph)
    try:
        (entry,), (output,) = session.get_inputs(), session.get_outputs()
        batch, height, width, _ = entry.shape
        num_classes = int(output.shape[1])
    except (ValueError, TypeError, LookupError) as error:
        raise ModelError(f"{graph} does not take (B, H, W, 3) images and give (B, K, h, w) logits") from error
    if isinstance(batch, int) and batch != 1:
        raise ModelError(f"{graph} takes batches of {batch} only, expected 1 or any; export it with a free batch size")

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (logits,) = session.run(None, {entry.name: images})
        return np.asarray(logits)

    fixed = isinstance(height, int) and isinstance(width, int)
    size = (height, width) if fixed else None
    network = Network(_telling(infer, str(graph)), size, fixed_size=fixed, max_batch_size=1)
    yield OpenModel(mode_predictor(network, mode), num_classes, None)


def _telling(infer: Callable[[NDArray[np.uint8]], T], name: str) -> Callable[[NDArray[np.uint8]], T]:
    """``infer``, whose failures, of whatever kind the runtime raises, are told as ``ModelError``."""

    def told(images: NDArray[np.uint8]) -> T:
        try:
            return infer(images)
        except Exception as error:
            raise ModelError(f"{name} failed on images {images.shape}: {error}") from error

    return told


def _session(graph: Path) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(f"onnxruntime is not installed: pip install 'ecenet[cpu]' ({error})") from error
    try:
        return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot load {graph}: {error}") from error


def _checkpoint_names(entries: Mapping[str, Any]) -> tuple[str, ...] | None:
    classes = entries.get("classes")
    return None if classes is None else _told([entry["name"] for entry in classes])


def _told(names: Sequence[str]) -> tuple[str, ...] | None:
    """Class names, or None where an export numbered the classes of a checkpoint that did not name them."""
    return None if all(name == f"class_{index}" for index, name in enumerate(names)) else tuple(names)
