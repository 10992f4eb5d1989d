"""Pictures inside a page: arrays as data URIs, JPEG for photos and PNG for images of few colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.colorize import colorize
from service.model_directory.manifest import ClassInfo
from trainer.datasets import IGNORE_INDEX

MAX_SIDE = 480
WRONG_COLOR = (239, 35, 60)
_RIGHT, _WRONG = 0, 1


def full_palette(classes: Iterable[ClassInfo]) -> bytes:
    """RGB triples of all 256 ids, 768 bytes: the classes' own, black for every id that is no class."""
    palette = np.zeros((256, 3), np.uint8)
    for info in classes:
        palette[info.id] = info.color
    return palette.tobytes()


def triptych(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], prediction: NDArray[np.uint8], palette: bytes
) -> NDArray[np.uint8]:
    """Image, label and prediction side by side, (h, 3w, 3) uint8 with h and w at most ``MAX_SIDE``; void is black."""
    coloured = (colorize(_shrink_ids(ids), palette) for ids in (labels, prediction))
    return np.concatenate([np.asarray(_shrink_photo(image)), *coloured], axis=1)


def photo_uri(image: NDArray[np.uint8]) -> str:
    """An RGB image (H, W, 3) uint8 as JPEG, sides at most ``MAX_SIDE``."""
    return _uri(_shrink_photo(image), "JPEG", quality=85, optimize=True)


def backdrop_uri(image: NDArray[np.uint8]) -> str:
    """The image in grey and coarse, as a background of ``errors_uri``."""
    return _uri(_shrink_photo(image).convert("L"), "JPEG", quality=60, optimize=True)


def label_uri(labels: NDArray[np.uint8], palette: bytes) -> str:
    """A label map (H, W) uint8 as a palette PNG whose pixels are the ids; void is transparent.

    Args:
        labels: Class ids, ``IGNORE_INDEX`` for void.
        palette: 768 bytes, see ``full_palette``.
    """
    return _uri(_with_palette(_shrink_ids(labels), palette), "PNG", optimize=True, transparency=IGNORE_INDEX)


def errors_uri(labels: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> str:
    """Pixels that are predicted wrongly, in ``WRONG_COLOR``; right ones and void are transparent. A palette PNG."""
    wrong = np.where((labels != prediction) & (labels != IGNORE_INDEX), np.uint8(_WRONG), np.uint8(_RIGHT))
    palette = bytes((0, 0, 0, *WRONG_COLOR)).ljust(768, b"\0")
    return _uri(_with_palette(_shrink_ids(wrong), palette), "PNG", optimize=True, transparency=_RIGHT)


def shares_uri(shares: NDArray[np.float64], color: tuple[int, int, int]) -> str:
    """A matrix (K, K) of shares 0..1 as a PNG of K x K pixels: the colour, as opaque as the share is large."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = color
    pixels[..., 3] = np.rint(255 * np.nan_to_num(shares))
    return _uri(Image.fromarray(pixels), "PNG", optimize=True)


def _shrink_photo(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize(_bounded(image.shape), Image.Resampling.BOX)


def _shrink_ids(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(ids).resize(_bounded(ids.shape), Image.Resampling.NEAREST))


def _bounded(shape: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of an array (H, W, ...) fitted into a square of ``MAX_SIDE``; never enlarged."""
    height, width = shape[:2]
    longest = max(height, width, MAX_SIDE)
    return max(1, width * MAX_SIDE // longest), max(1, height * MAX_SIDE // longest)


def _with_palette(ids: NDArray[np.uint8], palette: bytes) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(palette)
    return image


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
