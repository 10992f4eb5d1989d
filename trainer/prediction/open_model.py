"""Opens a model for prediction: a checkpoint, a model directory, an ONNX file, or a running service."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from trainer.prediction.engine import open_model_directory
from trainer.prediction.http import is_url, open_service
from trainer.prediction.mode import SERVICE_MODE, PredictionMode
from trainer.prediction.model import ModelError, OpenModel
from trainer.prediction.onnx_file import open_onnx_file
from trainer.prediction.pytorch import open_checkpoint


def open_model(
    source: str, mode: PredictionMode = SERVICE_MODE, *, engine: str | None = None, device: str | None = None
) -> AbstractContextManager[OpenModel]:
    """Open a model, and close it at the end.

    Args:
        source: A checkpoint, a model directory, an ONNX file, or the URL of a running service.
        mode: How images go through it.
        engine: Runtime of a model directory, by the service's names; ``auto`` if not given.
        device: PyTorch's device for a checkpoint; ``cpu`` if not given.

    Raises:
        ModelError, PredictionModeError: An argument does not fit the source.
        CheckpointError, StateDictError, ManifestError, EngineError, ServiceError: The source cannot be used.
    """
    path = Path(source)
    is_directory, is_graph = path.is_dir(), path.suffix == ".onnx"
    if not is_url(source) and not path.exists():
        raise ModelError(f"{source} does not exist; the URL of a running service begins with http://")
    if engine is not None and not is_directory:
        raise ModelError(f"{source} is not a model directory; an engine can be chosen for model directories only")
    if device is not None and (is_directory or is_graph or is_url(source)):
        raise ModelError(f"{source} is not a checkpoint; a device can be chosen for checkpoints only")
    if is_url(source):
        return open_service(source, mode)
    if is_directory:
        return open_model_directory(path, mode, engine or "auto")
    return open_onnx_file(path, mode) if is_graph else open_checkpoint(path, mode, device or "cpu")
