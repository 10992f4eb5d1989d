"""A model whose engine sleeps, and whose logits cost nothing: what remains is the work around an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.engines.base import Rows, warm_up
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import GraphInfo, Manifest, read_manifest
from service.models.source import FoundModel, LoadedModel

_GOLDEN = Path(__file__).parents[2] / "models/ecenet-lite0-camvid/golden.npz"


def sleeping_logits(graph: GraphInfo, num_classes: int) -> NDArray[np.float32]:
    """The bundled model's logits of a street, (K, h / 4, w / 4), at the size of a graph.

    They are of this checkout's model, also in the service of another one that is compared with.
    """
    with np.load(_GOLDEN) as golden:
        coarse = next(golden[name] for name in golden.files if name.endswith("/logits"))[0]
    _, classes, height, width = graph.output_shape(1, num_classes)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in coarse[:classes]]
    return np.stack([np.asarray(plane) for plane in planes])


@dataclass(frozen=True, slots=True)
class Sleep:
    """Seconds that a batch takes: a part for each batch and one for each image."""

    fixed_s: float
    image_s: float


class SleepingEngine:
    """Sleeps as a GPU runs; implements ``service.engines.base.Engine`` and ``DirectEngine``.

    A GPU's copy engine brings images and outputs without the CPU. So images are not read, and the logits, the same for
    every image, are written to a slot when it is used for the first time and stay there.
    """

    name = "sleeping"
    batches_at_once = 2

    def __init__(self, manifest: Manifest, sleep: Sleep, max_batch_size: int) -> None:
        self.graph = manifest.graph
        self.num_classes = manifest.num_classes
        self.max_batch_size = max_batch_size
        self.warm_up_sizes = (1, max_batch_size)
        self._sleep = sleep
        self._logits = sleeping_logits(self.graph, self.num_classes)
        self._filled: set[int] = set()
        self._running = Lock()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same logits for every image, which are not copied."""
        with self._running:
            time.sleep(self._sleep.fixed_s + self._sleep.image_s * len(images))
        return np.broadcast_to(self._logits, (len(images), *self._logits.shape))

    def infer_into(self, images: Sequence[NDArray[np.uint8]], outputs: Sequence[Rows]) -> None:
        """Sleep while no other batch does."""
        with self._running:
            time.sleep(self._sleep.fixed_s + self._sleep.image_s * len(images))
        for output in outputs:
            if output.ctypes.data not in self._filled:
                np.copyto(output, self._logits)

    def pin(self, memory: NDArray[np.uint8] | NDArray[np.float32]) -> None:
        """Write the logits once, if it is the output of a slot."""
        if memory.dtype == np.float32:
            np.copyto(memory, self._logits)
            self._filled.add(memory.ctypes.data)

    def close(self) -> None:
        """Nothing is held."""


class SleepingModel:
    """Implements ``service.models.source.ModelSource``; the process that loads it writes down its id."""

    def __init__(self, manifest: Manifest, sleep: Sleep, max_batch_size: int, pid_file: Path | None) -> None:
        self._manifest = manifest
        self._sleep = sleep
        self._max_batch_size = max_batch_size
        self._pid_file = pid_file

    def find(self) -> Sequence[FoundModel]:
        """The one model."""
        return [FoundModel(self._manifest.name, self._manifest.version, manifest=self._manifest)]

    def load(self, found: FoundModel) -> LoadedModel:  # noqa: ARG002  there is only one
        """Make the engine here."""
        if self._pid_file is not None:
            self._pid_file.write_text(str(os.getpid()), encoding="ascii")
        engine = SleepingEngine(self._manifest, self._sleep, self._max_batch_size)
        return LoadedModel(self._manifest, engine, warm_up(engine))


def sleeping_manifest(size: tuple[int, int]) -> Manifest:
    """The bundled model at an input of (h, w)."""
    bundled = read_manifest(bundled_model_dir())
    graph = GraphInfo("model.onnx", "0" * 64, size)
    return Manifest(bundled.name, bundled.version, bundled.architecture, bundled.classes, (graph,))
