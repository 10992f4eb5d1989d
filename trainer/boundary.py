"""Boundary regions of label maps: Cheng et al., *Boundary IoU*, CVPR 2021.

The boundary region of a class is what an erosion takes off its mask: its pixels with another class, or the end of the
image, at most d pixels away along both axes. d is 2% of the image's diagonal, as in the paper, rounded, and at least 1,
as in the authors' code, which repeats a 3x3 erosion d times on a mask padded with zeros.

Void counts for nothing: the prediction is made void where the label is, so that a prediction that is right on all
labelled pixels has a boundary IoU of 1. A class ends where void begins, as at the end of the image.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trainer.datasets import IGNORE_INDEX

DIAGONAL_SHARE = 0.02


def boundary_counts(labels: NDArray[np.uint8], predictions: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels in intersection and union of each class's two boundary regions, (2, K), of label maps (H, W)."""
    predictions = np.where(labels == IGNORE_INDEX, labels, predictions)
    width = boundary_width(labels.shape)
    in_label, in_prediction = boundary_region(labels, width), boundary_region(predictions, width)
    both = in_label & in_prediction & (labels == predictions)
    counts = [np.bincount(ids, minlength=256)[:num_classes] for ids in (labels[both], labels[in_label])]
    predicted = np.bincount(predictions[in_prediction], minlength=256)[:num_classes]
    return np.stack([counts[0], counts[1] + predicted - counts[0]])


def boundary_width(size: tuple[int, ...]) -> int:
    """d in pixels, for an image of (H, W) pixels."""
    return max(1, round(DIAGONAL_SHARE * math.hypot(*size)))


def boundary_region(labels: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Mark the pixels of a label map (H, W) in the boundary region of their class, for all classes at once.

    A pixel is outside it if the window of ``2 * width + 1`` pixels around it is inside the image and holds no change of
    class; changes are counted by running sums, so that the time does not depend on ``width``.
    """
    region = np.ones(labels.shape, np.bool_)
    rows, columns = (length - 2 * width for length in labels.shape)
    if min(rows, columns) < 1:
        return region
    window = 2 * width + 1
    across = _window_sums(labels[:, 1:] != labels[:, :-1], window, window - 1)
    down = _window_sums(labels[1:] != labels[:-1], window - 1, window)
    region[width : width + rows, width : width + columns] = (across + down) > 0
    return region


def _window_sums(marks: NDArray[np.bool_], height: int, width: int) -> NDArray[np.int32]:
    """Count the marks in each window of a size, by the window's upper left pixel."""
    sums = np.zeros((marks.shape[0] + 1, marks.shape[1] + 1), np.int32)
    marks.cumsum(0, np.int32).cumsum(1, out=sums[1:, 1:])
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
