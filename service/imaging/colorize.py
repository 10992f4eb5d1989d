"""Label maps as colours: alone, or blended with the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Rows that are coloured or blended in one go: Pillow and 16-bit sums take four times their memory.
_STRIP_ROWS = 64


def colorize(labels: NDArray[np.uint8], palette: bytes) -> NDArray[np.uint8]:
    """Colour a label map.

    Args:
        labels: (H, W) uint8 class ids below K.
        palette: RGB triples of the classes, ``3 * K`` bytes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    colours = np.empty((*labels.shape, 3), np.uint8)
    for top in range(0, len(labels), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        strip = Image.fromarray(labels[rows])
        strip.putpalette(palette)  # three times as fast as numpy's table lookup
        colours[rows] = np.asarray(strip.convert("RGB"))
    return colours


def overlay(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: bytes,
    alpha: float = 0.5,
    *,
    void: int | None = None,
) -> NDArray[np.uint8]:
    """Blend an image with the colours of its label map.

    ``alpha`` is rounded to ``a / 256`` with a whole number ``a``; a channel becomes
    ``(pixel * (256 - a) + colour * a + 128) // 256``, so 0 gives the image and 1 the colours, exactly.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8 class ids below K, or ``void``.
        palette: RGB triples of the classes, ``3 * K`` bytes.
        alpha: Weight of the colours, 0..1.
        void: Id of pixels that keep the image's colour; None if there are none.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: ``alpha`` outside of 0..1, or sizes that differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected 0..1")
    if pixels.shape[:2] != labels.shape:
        raise ValueError(f"the image is {pixels.shape[:2]}, its label map {labels.shape}")
    blended = np.empty_like(pixels)
    for top in range(0, len(labels), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        blended[rows] = _blend(pixels[rows], colorize(labels[rows], palette), round(alpha * 256))
        if void is not None:
            np.copyto(blended[rows], pixels[rows], where=(labels[rows] == void)[..., None])
    return blended


def _blend(pixels: NDArray[np.uint8], colours: NDArray[np.uint8], weight: int) -> NDArray[np.uint16]:
    blended = np.multiply(pixels, 256 - weight, dtype=np.uint16)
    blended += np.multiply(colours, weight, dtype=np.uint16)
    blended += 128  # 255 * 256 + 128 still fits into uint16
    blended >>= 8
    return blended
