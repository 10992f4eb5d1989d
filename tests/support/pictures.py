"""Small PNG files whose label map is known."""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.brightness_model import LEVELS


class Png(Protocol):
    """Makes a PNG of three vertical stripes."""

    def __call__(self, height: int = 32, width: int = 96) -> bytes: ...


class Solid(Protocol):
    """Makes a PNG of one brightness."""

    def __call__(self, level: int) -> bytes: ...


def striped_png(height: int = 32, width: int = 96) -> bytes:
    """PNG of three vertical stripes: dark, grey, bright."""
    levels = np.repeat(np.array(LEVELS, np.uint8), width // 3)
    pixels = np.broadcast_to(levels[None, :, None], (height, width, 3))
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def noisy_png(height: int, width: int) -> bytes:
    """PNG of noise, which is about as large as its pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def solid_png(level: int) -> bytes:
    """PNG of 32x64 pixels of one brightness."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 32), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


def brightness_png(cells: NDArray[np.uint8]) -> bytes:
    """A PNG of one grey square of 40 pixels for each cell."""
    stream = io.BytesIO()
    Image.fromarray(np.kron(cells, np.ones((40, 40), np.uint8))).convert("RGB").save(stream, "PNG")
    return stream.getvalue()
