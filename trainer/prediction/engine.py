"""Prediction by the engine that serves a model directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Engine
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.proof import prove_engine
from service.engines.runtimes import ENGINE_NAMES, EngineName
from service.imaging.label_map import Logits, in_float32
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import labels_of
from service.model_directory.manifest import read_manifest
from trainer.prediction.mode import PredictionMode, check_labels_suffice
from trainer.prediction.model import ModelError, OpenModel, naming_failures, stated_names
from trainer.prediction.predictor import Network, Predictor, network_predictor


@contextmanager
def open_model_directory(directory: Path, mode: PredictionMode, engine_name: str) -> Iterator[OpenModel]:
    """Open a model directory with an engine, after a check with the golden inputs.

    Raises:
        ModelError: There is no engine of that name.
        PredictionModeError: The graph gives labels, and the mode needs logits.
        ManifestError, EngineError: The model cannot be used.
    """
    options = EngineOptions(engine=_known_engine(engine_name))
    manifest = read_manifest(directory)
    engine = create_engine(directory, manifest, options)
    try:
        prove_engine(engine, directory, manifest)
        names = stated_names([info.name for info in manifest.classes])
        yield OpenModel(_engine_predictor(engine, mode), manifest.num_classes, names, manifest.data)
    finally:
        engine.close()


def _known_engine(name: str) -> EngineName:
    if name not in ENGINE_NAMES:
        raise ModelError(f"unknown engine {name!r}; the engines are {', '.join(ENGINE_NAMES)}")
    return name


def _engine_predictor(engine: Engine, mode: PredictionMode) -> Predictor:
    infer = naming_failures(engine.infer, f"the {engine.name} engine")
    input_size = engine.graph.input_size
    if engine.graph.output == "logits":

        def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return in_float32(cast(Logits, infer(images)))

        network = Network(logits, input_size, fixed_size=True, max_batch_size=engine.max_batch_size)
        return network_predictor(network, mode)
    check_labels_suffice(mode, "the graph")

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        (labels,) = infer(resize_to_input(image, input_size)[None])
        return labels_of(labels, (image.shape[0], image.shape[1]))

    return predict
