"""Figures of a label map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def class_counts(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, (K,) int64, of (H, W) class ids below K."""
    # numpy's bincount would first make an int64 of every pixel.
    return np.array(Image.fromarray(labels).histogram()[:num_classes], np.int64)
