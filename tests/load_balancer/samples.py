"""Images that all differ, with the label maps that the brightness model gives them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input

_INPUT_SIZE = (32, 64)
_CELLS = (8, 16)
_LEVELS = np.array((0, 128, 255), np.float32)[:, None, None]
_COUNT = 2000
# One in so many is larger than what nginx keeps in memory of a body.
_LARGE_EVERY = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """An image.

    Attributes:
        body: Its file.
        media_type: The kind of the file.
        labels: What the service must answer, (H, W) uint8.
    """

    body: bytes
    media_type: str
    labels: NDArray[np.uint8]

    def is_answered_by(self, answer: bytes) -> bool:
        """Check every pixel of an answer, a PNG of labels."""
        with Image.open(io.BytesIO(answer)) as image:
            return np.array_equal(np.asarray(image), self.labels)


@cache
def samples() -> list[Sample]:
    """All images; no two have the same label map, so an answer to another one is found."""
    random = np.random.default_rng(0)
    made = [_sample(random, large=number % _LARGE_EVERY == 0) for number in range(_COUNT)]
    assert len({sample.labels.tobytes() for sample in made}) == _COUNT
    return made


def _sample(random: np.random.Generator, *, large: bool) -> Sample:
    grey = random.integers(0, 256, _CELLS, np.uint8)
    scale = 64 if large else 4
    pixels = np.repeat(np.kron(grey, np.ones((scale, scale), np.uint8))[:, :, None], 3, axis=2)
    kind = "bmp" if large else "png"
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return Sample(stream.getvalue(), f"image/{kind}", _labels(pixels))


def _labels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = _CELLS
    image = resize_to_input(pixels, _INPUT_SIZE).astype(np.float32)
    cells = image.reshape(height, 4, width, 4, 3).mean((1, 3, 4))
    return label_map(-((cells[None] - _LEVELS) ** 2), (pixels.shape[0], pixels.shape[1]))
