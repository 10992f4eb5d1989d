"""What an engine gives for one image to a label map, and figures of that."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.engines.base import Rows
from service.label_map import label_map


def labels_of(output: Rows, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The label map of one image.

    Args:
        output: Logits (K, h, w) float32, or labels (h, w) uint8, which are enlarged by their nearest cell.
        size: (H, W) of the result.

    Returns:
        (H, W) uint8, class ids.

    Raises:
        ValueError, MemoryError: See ``label_map``.
    """
    if output.dtype == np.uint8:
        height, width = size
        return np.asarray(Image.fromarray(output).resize((width, height), Image.Resampling.NEAREST))
    return label_map(cast(NDArray[np.float32], output), size)


def class_counts(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, (K,) int64, of (H, W) class ids below K."""
    # numpy's bincount would first make an int64 of every pixel.
    return np.array(Image.fromarray(labels).histogram()[:num_classes], np.int64)
