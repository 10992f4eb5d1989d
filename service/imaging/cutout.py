"""Pixels of some classes alone, all others transparent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Rows that are copied in one go, so that their masks stay small.
_STRIP_ROWS = 64


def cut_out(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], void: int) -> NDArray[np.uint8]:
    """Cut an image out along its label map.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8 class ids, ``void`` where the image is left out.
        void: The id.

    Returns:
        (H, W, 4) uint8, RGBA; 0, 0, 0, 0 where the image is left out.
    """
    if pixels.shape[:2] != labels.shape:
        raise ValueError(f"the image is {pixels.shape[:2]}, its label map {labels.shape}")
    found = np.zeros((*labels.shape, 4), np.uint8)
    for top in range(0, len(labels), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        kept = labels[rows] != void
        np.copyto(found[rows, :, :3], pixels[rows], where=kept[..., None])
        np.multiply(kept, 255, out=found[rows, :, 3], dtype=np.uint8)
    return found
