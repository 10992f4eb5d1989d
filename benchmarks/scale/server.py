"""The real service around an engine whose batches are written down; arguments are those of ``ecenet-serve``.

``SCALE_ENGINE`` is ``bundled``, the bundled model as ``--engine`` chooses its runtime, or ``fixed``, an engine that
sleeps for ``FIXED_S`` plus ``PER_IMAGE_S`` an image, so that its times hardly depend on what else the machine does.
``SCALE_BATCHES`` names the file that gets a line per batch: its size, its seconds, and those since the batch before.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.__main__ import leave
from service.banner import bind
from service.command_line import read_settings
from service.engines.base import Engine, Rows
from service.engines.create import create_engine
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import ClassInfo, GraphInfo, Manifest, read_manifest
from service.models.source import GivenModel
from service.processes import serve
from service.settings import Settings

FIXED_S = 0.040
PER_IMAGE_S = 0.020
_CLASSES = tuple(ClassInfo(index, f"class {index}", (20 * index, 0, 0)) for index in range(11))
_FIXED = Manifest("fixed", "1", "none", _CLASSES, (GraphInfo("model.onnx", "0" * 64, (64, 96)),))


class FixedCostEngine:
    """Sleeps; implements ``service.engines.base.Engine``."""

    name = "fixed"
    graph = _FIXED.graph
    num_classes = _FIXED.num_classes
    max_batch_size = 8
    warm_up_sizes = (1, 8)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits that make a checkerboard of two classes."""
        time.sleep(FIXED_S + PER_IMAGE_S * len(images))
        logits = np.zeros(self.graph.output_shape(len(images), self.num_classes), np.float32)
        logits[:, 1, ::2, ::2] = 1
        return logits

    def close(self) -> None:
        """Nothing is held."""


class RecordedEngine:
    """Another engine, with a line in a file for every batch."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._ended = time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Run the wrapped engine, and log the batch's size and times."""
        started = time.perf_counter()
        rows = self._engine.infer(images)
        ended = time.perf_counter()
        self._file.write(f"{len(images)} {ended - started:.6f} {started - self._ended:.6f}\n")
        self._ended = ended
        return rows


def make_engine(name: str, settings: Settings) -> tuple[Engine, Manifest]:
    """The engine of a name, and the manifest of its model.

    Raises:
        EngineError: The bundled model cannot be run.
    """
    if name == "fixed":
        return FixedCostEngine(), _FIXED
    model_dir = bundled_model_dir()
    manifest = read_manifest(model_dir)
    return create_engine(model_dir, manifest, settings.engine_options), manifest


def main() -> None:
    """Serve until a signal."""
    settings = read_settings(sys.argv[1:])

    def recorded() -> GivenModel:
        engine, manifest = make_engine(os.environ["SCALE_ENGINE"], settings)
        return GivenModel(RecordedEngine(engine, Path(os.environ["SCALE_BATCHES"])), manifest)

    leave(*serve(settings, recorded, bind(settings.host, settings.port)))


if __name__ == "__main__":
    main()
