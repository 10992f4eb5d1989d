"""Outputs of an engine for one image to a label map and a map of confidences, and statistics of both."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.label_map import Logits, in_float32, label_map

# Class id of pixels whose class was not asked for.
VOID = 255
# Pixels that are counted in one go.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A segmented image; every format of an answer is made from it.

    Attributes:
        labels: (H, W) uint8 class ids, ``VOID`` where the class was not asked for.
        confidence: (H, W) uint8, 255 times the largest softmax probability; None if not asked for, or not known.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None

    def restrict(self, classes: Collection[int]) -> Segmentation:
        """Only these classes: all other pixels become ``VOID`` with a confidence of 0."""
        lookup = [class_id if class_id in classes else VOID for class_id in range(256)]
        labels = np.asarray(Image.fromarray(self.labels).point(lookup))
        if self.confidence is None:
            return replace(self, labels=labels)
        return replace(self, labels=labels, confidence=np.where(labels == VOID, np.uint8(0), self.confidence))


def labels_of(output: Logits | NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The label map of one image.

    Args:
        output: Logits (K, h, w) float32 or float16, or labels (h, w) uint8, which are enlarged by their nearest cell.
        size: (H, W) of the result.

    Returns:
        (H, W) uint8, class ids.

    Raises:
        ValueError, MemoryError: See ``label_map``.
    """
    if output.dtype == np.uint8:
        height, width = size
        return np.asarray(Image.fromarray(output).resize((width, height), Image.Resampling.NEAREST))
    return label_map(cast(Logits, output), size)


def confidence_map(logits: Logits, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Probability of the best class of every pixel.

    The largest softmax probability of each cell is rounded to 8 bits, and these are resized bilinearly: probabilities
    of every pixel would take the ``K * H * W`` floats that ``label_map`` does without.

    Args:
        logits: (K, h, w) float32 or float16, finite.
        size: (H, W) of the result.

    Returns:
        (H, W) uint8, probability times 255.
    """
    scores = in_float32(logits)
    # The largest of the softmax is exp(0) over the sum of all, each relative to it. One too far below for float32 is 0.
    with np.errstate(over="ignore"):
        probabilities = 1 / np.exp(scores - scores.max(0)).sum(0)
    height, width = size
    cells = Image.fromarray(np.rint(probabilities * 255).astype(np.uint8))
    return np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR))


def class_counts(labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, (K,) int64, of (H, W) class ids below K, or ``VOID``, which is not counted."""
    # numpy's bincount would first make an int64 of every pixel.
    return np.array(Image.fromarray(labels).histogram()[:num_classes], np.int64)


def mean_confidences(labels: NDArray[np.uint8], confidence: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
    """Mean confidence of each class, (K,) float64 in 0..1; 0 for absent ones.

    Args:
        labels: (H, W) uint8 class ids.
        confidence: (H, W) uint8, see ``Segmentation``.
        num_classes: K.
    """
    # numpy's bincount makes an int64 of every number, so it gets few at a time.
    pairs = np.zeros(256 * 256, np.int64)
    flat_labels, flat_confidence = labels.ravel(), confidence.ravel()
    for start in range(0, labels.size, _CHUNK):
        pair = flat_labels[start : start + _CHUNK].astype(np.uint16) << 8
        pair |= flat_confidence[start : start + _CHUNK]
        pairs += np.bincount(pair, minlength=pairs.size)
    histogram = pairs.reshape(256, 256)[:num_classes]
    means: NDArray[np.float64] = histogram @ np.arange(256) / 255 / np.maximum(histogram.sum(1), 1)
    return means
