"""Counts of an evaluation, which add up over images and processes, and the figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.boundary import boundary_counts
from trainer.datasets import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of an evaluation, each 0..1; NaN for a class that neither labels nor predictions hold.

    The means are over the classes that occur in labels or predictions, as torchmetrics' macro average: a class that is
    predicted but never labelled counts as 0 in both. (torchmetrics gives 0, not NaN, for a class that does not occur,
    where it lists the classes. mmsegmentation leaves classes that are only predicted out of mAcc.)

    Attributes:
        miou: Mean of ``class_iou``.
        accuracy: Share of pixels that are right (aAcc).
        mean_accuracy: Mean of ``class_accuracy`` (mAcc).
        class_iou: Intersection over union per class, (K,).
        class_accuracy: Share of a class's pixels that are right, (K,).
        class_boundary_iou: As ``class_iou`` for the classes' boundary regions (``trainer.boundary``); None if they were
            not counted.
        boundary_miou: Mean of ``class_boundary_iou``.
    """

    miou: float
    accuracy: float
    mean_accuracy: float
    class_iou: NDArray[np.float64]
    class_accuracy: NDArray[np.float64]
    class_boundary_iou: NDArray[np.float64] | None = None
    boundary_miou: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of an evaluation, over pixels whose label is not ``IGNORE_INDEX``.

    Attributes:
        confusion: Pixels by [label, prediction], (K, K) int64.
        boundary: Intersection and union of each class's boundary regions, (2, K) int64; None if not counted.
    """

    confusion: NDArray[np.int64]
    boundary: NDArray[np.int64] | None = None

    @classmethod
    def zeros(cls, num_classes: int, *, boundary: bool = False) -> Counts:
        """Nothing counted yet."""
        confusion = np.zeros((num_classes, num_classes), np.int64)
        return cls(confusion, np.zeros((2, num_classes), np.int64) if boundary else None)

    @property
    def num_classes(self) -> int:
        return len(self.confusion)

    def arrays(self) -> list[NDArray[np.int64]]:
        """The counts themselves, not copies: sums over processes may be written into them."""
        return [self.confusion] if self.boundary is None else [self.confusion, self.boundary]

    def update(self, labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> None:
        """Add the label map (H, W) of an image and its prediction.

        Raises:
            ValueError: The shapes differ, or a value is not a class.
        """
        if labels.shape != predictions.shape:
            raise ValueError(f"labels have shape {labels.shape}, predictions {predictions.shape}")
        valid = labels != IGNORE_INDEX
        label, prediction = self._classes(labels[valid], "label"), self._classes(predictions[valid], "prediction")
        size = self.num_classes
        self.confusion[...] += np.bincount(label * size + prediction, minlength=size * size).reshape(size, size)
        if self.boundary is not None:
            self.boundary[...] += boundary_counts(labels, predictions, size)

    def scores(self) -> Scores:
        """The figures of all that was counted; NaN where nothing was."""
        right = np.diag(self.confusion)
        labelled, predicted = self.confusion.sum(1), self.confusion.sum(0)
        union = labelled + predicted - right
        class_iou = _ratio(right, union)
        class_accuracy = _ratio(right, np.where(union > 0, np.maximum(labelled, 1), 0))
        class_boundary_iou = None if self.boundary is None else _ratio(*self.boundary)
        return Scores(
            miou=_mean(class_iou),
            accuracy=float(_ratio(right.sum(keepdims=True), labelled.sum(keepdims=True))[0]),
            mean_accuracy=_mean(class_accuracy),
            class_iou=class_iou,
            class_accuracy=class_accuracy,
            class_boundary_iou=class_boundary_iou,
            boundary_miou=None if class_boundary_iou is None else _mean(class_boundary_iou),
        )

    def __add__(self, other: Counts) -> Counts:
        shapes, others = ([array.shape for array in counts.arrays()] for counts in (self, other))
        if shapes != others:
            raise ValueError(f"counts of shapes {shapes} and {others} do not add up")
        return Counts(*(mine + theirs for mine, theirs in zip(self.arrays(), other.arrays(), strict=True)))

    def _classes(self, ids: NDArray[np.uint8], kind: str) -> NDArray[np.int64]:
        if ids.max(initial=0) >= self.num_classes:
            raise ValueError(f"a {kind} is {ids.max()}, expected a class 0..{self.num_classes - 1}")
        return ids.astype(np.int64)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
