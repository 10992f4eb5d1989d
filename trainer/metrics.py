"""Confusion matrix, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.datasets import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of an evaluation, each 0..1; NaN for a class that neither labels nor predictions hold.

    Attributes:
        miou: Mean of ``class_iou`` over the classes that occur.
        accuracy: Share of pixels that are right (aAcc).
        mean_accuracy: Mean over classes of the share of their pixels that are right (mAcc).
        class_iou: Intersection over union per class, (K,).
    """

    miou: float
    accuracy: float
    mean_accuracy: float
    class_iou: NDArray[np.float64]


class ConfusionMatrix:
    """Counts of (label, prediction) over pixels whose label is not ``IGNORE_INDEX``."""

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> None:
        """Add a pair of label maps of the same shape.

        Raises:
            ValueError: Shapes differ, or a value is no class.
        """
        if labels.shape != predictions.shape:
            raise ValueError(f"labels have shape {labels.shape}, predictions {predictions.shape}")
        size = len(self.counts)
        valid = labels != IGNORE_INDEX
        label, prediction = labels[valid].astype(np.int64), predictions[valid].astype(np.int64)
        if max(label.max(initial=0), prediction.max(initial=0)) >= size:
            raise ValueError(f"a class id is at or above the {size} classes")
        self.counts += np.bincount(label * size + prediction, minlength=size * size).reshape(size, size)

    def scores(self) -> Scores:
        """The figures of all pairs so far; NaN where nothing was counted."""
        right = np.diag(self.counts).astype(np.float64)
        labelled, predicted = self.counts.sum(1), self.counts.sum(0)
        class_iou = _ratio(right, labelled + predicted - right)
        class_accuracy = _ratio(right, labelled.astype(np.float64))
        total = self.counts.sum()
        return Scores(
            miou=_mean(class_iou),
            accuracy=float(right.sum() / total) if total else float("nan"),
            mean_accuracy=_mean(class_accuracy),
            class_iou=class_iou,
        )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
