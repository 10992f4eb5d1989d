"""Prediction by ONNX Runtime on the CPU, from an ONNX file without a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.imaging.label_map import in_float32
from service.model_directory.extras import install_command
from trainer.prediction.mode import PredictionMode
from trainer.prediction.model import ModelError, OpenModel, naming_failures
from trainer.prediction.predictor import Network, network_predictor


@contextmanager
def open_onnx_file(path: Path, mode: PredictionMode) -> Iterator[OpenModel]:
    """Open a graph from images (B, H, W, 3) uint8 to logits (B, K, h, w).

    Raises:
        ModelError: ONNX Runtime is not installed or cannot load the file, or its inputs and outputs are others.
    """
    session = _session(path)
    if [len(output.shape) for output in session.get_outputs()] == [3]:
        raise ModelError(
            f"{path} gives labels, which do not tell the number of classes: evaluate its model directory, or a graph "
            "that gives logits"
        )
    try:
        (entry,), (output,) = session.get_inputs(), session.get_outputs()
        batch, height, width, _ = entry.shape
        num_classes = int(output.shape[1])
    except (ValueError, TypeError, LookupError) as error:
        raise ModelError(f"{path} does not take (B, H, W, 3) images and give (B, K, h, w) logits") from error
    if isinstance(batch, int) and batch != 1:
        raise ModelError(f"{path} takes batches of {batch} only, expected 1 or any; export it with a free batch size")

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (logits,) = session.run(None, {entry.name: images})
        return in_float32(logits)

    fixed = isinstance(height, int) and isinstance(width, int)
    size = (height, width) if fixed else None
    network = Network(naming_failures(infer, str(path)), size, fixed_size=fixed, max_batch_size=1)
    yield OpenModel(network_predictor(network, mode), num_classes, None)


def _session(path: Path) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(f"onnxruntime is not installed: {install_command('cpu')} ({error})") from error
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot load {path}: {error}") from error
