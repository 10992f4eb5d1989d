"""The work that every server is given: the service's own functions around one engine, so that only the serving differs.

``PEERS_ENGINE`` is one of

- ``sleeping``, a stand-in for a GPU: it takes ``FIXED_S + PER_IMAGE_S * B`` for a batch, and gives the same logits for
  every image, without using the CPU
- ``bundled``, the bundled model on ONNX Runtime in float32, image by image as suits a CPU
- ``measured``, the bundled model on the runtime and in the precision that this service chooses by measurement
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.feed.sleeping import Sleep, SleepingEngine
from service.engines.base import Engine
from service.engines.create import create_engine
from service.engines.measured_choice import open_engine
from service.engines.options import EngineOptions
from service.errors import ServiceError
from service.imaging.codec import decode, encode_label_png
from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import read_manifest
from service.settings import Settings

EngineName = Literal["sleeping", "bundled", "measured"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
FIXED_S = 0.004
PER_IMAGE_S = 0.001
_GPU_BATCH = 8
# Of what a batch may wait for others, where that can be set.
WINDOW_S = 0.002
ROOT = Path(__file__).parents[2]

_LIMITS = Settings()


class BrokenImageError(ValueError):
    """The request holds no image; an answer of status 400."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready for the engine.

    Attributes:
        image: (h, w, 3) uint8, the size of the model's input.
        size: (H, W) of the original.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]


class Work:
    """The three stages of a request; a process that runs one of them only pays for no other.

    Attributes:
        engine_name: An ``EngineName``.
        manifest: The model's.
    """

    def __init__(self, engine_name: str = "") -> None:
        """``engine_name`` is ``PEERS_ENGINE`` if not given."""
        self.engine_name = engine_name or os.environ["PEERS_ENGINE"]
        self._model_dir = bundled_model_dir()
        self.manifest = read_manifest(self._model_dir)

    @property
    def max_batch_size(self) -> int:
        """Images that the engine takes at once."""
        return max_batch_size(self.engine_name)

    @cached_property
    def engine(self) -> Engine:
        """The engine, made at the first use."""
        if self.engine_name == "measured":
            return open_engine(self._model_dir, self.manifest, EngineOptions(measure=True))
        if self.engine_name == "sleeping":
            return SleepingEngine(self.manifest, Sleep(FIXED_S, PER_IMAGE_S), self.max_batch_size)
        options = EngineOptions(engine="onnxruntime", max_batch_size=self.max_batch_size)
        return create_engine(self._model_dir, self.manifest, options)

    def prepare(self, body: bytes) -> Prepared:
        """Decode and resize.

        Raises:
            BrokenImageError: It cannot be read.
        """
        pixels = decode_limited(body)
        height, width, _ = pixels.shape
        return Prepared(resize_to_input(pixels, self.manifest.graph.input_size), (height, width))

    def infer(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Logits (B, K, h / 4, w / 4) of images at the model's size."""
        return np.asarray(self.engine.infer(np.stack(images)), np.float32)

    def finish(self, logits: NDArray[np.float32], size: tuple[int, int]) -> bytes:
        """The PNG of the label map at (H, W)."""
        return encode_label_png(label_map(np.asarray(logits), size), self.manifest.palette)


def max_batch_size(engine_name: str) -> int:
    """Batch size at which an engine is fastest: 1 on a CPU, which gains nothing by batches."""
    return _GPU_BATCH if engine_name == "sleeping" else 1


def decode_limited(body: bytes) -> NDArray[np.uint8]:
    """Decode within the service's limits.

    Raises:
        BrokenImageError: It cannot be read.
    """
    try:
        return decode(body, max_image_bytes=_LIMITS.max_image_bytes, max_image_pixels=_LIMITS.max_image_pixels).pixels
    except ServiceError as error:
        raise BrokenImageError(str(error)) from error


def images(count: int) -> list[bytes]:
    """JPEGs of the street, 480x360 and a little smaller each, so that no two answers are the same."""
    files = []
    with Image.open(ROOT / "models/example/street.jpg") as street:
        for number in range(count):
            file = io.BytesIO()
            street.resize((480 - 4 * number, 360 - 3 * number)).save(file, "JPEG", quality=90)
            files.append(file.getvalue())
    return files
