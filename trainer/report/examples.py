"""Images worth showing: the best and the worst of an evaluation, and a fixed few; each a callback of ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.datasets import Sample
from trainer.metrics import Counts


@dataclass(frozen=True, slots=True)
class Example:
    """An image of a dataset beside a network's prediction.

    Attributes:
        index: Its place in the dataset.
        miou: Mean IoU of this image alone, 0..1, over the classes that its label holds; NaN where all is void.
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8 class ids, ``IGNORE_INDEX`` where nothing counts.
        prediction: (H, W) uint8 class ids.
        name: The image's file name.
    """

    index: int
    miou: float
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    name: str = ""


class ExampleCollector:
    """Keeps the ``keep`` best and ``keep`` worst images of an evaluation and forgets the rest.

    Images of equal mIoU rank by their index, so the order in which they come changes nothing. An image without a single
    labelled pixel has no mIoU and is left out.
    """

    def __init__(self, num_classes: int, keep: int = 4) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        self.num_classes, self.keep = num_classes, keep
        self._ranked: list[Example] = []

    def __call__(self, index: int, sample: Sample, label_map: NDArray[np.uint8]) -> None:
        """Rank one image."""
        miou = image_miou(sample.labels, label_map, self.num_classes)
        if not np.isnan(miou):
            self.add(Example(index, miou, sample.image, sample.labels, label_map))

    def add(self, example: Example) -> None:
        """Rank an example that another collector has found, such as another process's."""
        self._ranked = sorted([*self._ranked, example], key=lambda one: (-one.miou, one.index))
        del self._ranked[self.keep : -self.keep]

    @property
    def best(self) -> list[Example]:
        """The best images, best first; none of them is among the worst."""
        return self._ranked[: (len(self._ranked) + 1) // 2]

    @property
    def worst(self) -> list[Example]:
        """The worst images, worst first."""
        return self._ranked[(len(self._ranked) + 1) // 2 :][::-1]


class FixedExamples:
    """Keeps the images of the given indices, so that one evaluation can be seen beside the next."""

    def __init__(self, num_classes: int, indices: Iterable[int]) -> None:
        self.num_classes, self.indices = num_classes, frozenset(indices)
        self._found: dict[int, Example] = {}

    def __call__(self, index: int, sample: Sample, label_map: NDArray[np.uint8]) -> None:
        """Keep the image if it is one of those."""
        if index in self.indices:
            miou = image_miou(sample.labels, label_map, self.num_classes)
            self._found[index] = Example(index, miou, sample.image, sample.labels, label_map)

    @property
    def examples(self) -> list[Example]:
        """The examples found, by index."""
        return [self._found[index] for index in sorted(self._found)]


def spread_indices(total: int, count: int = 4) -> list[int]:
    """Up to ``count`` indices below ``total``, evenly spread and always the same."""
    count = min(count, total)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def image_miou(labels: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int) -> float:
    """Mean IoU of one image, 0..1, over the classes that its label holds; NaN where all is void.

    A class that is only predicted does not count as 0, as it does in ``Scores.miou``: it takes pixels from those that
    are there, and a few stray ones should not decide an image's rank.
    """
    counts = Counts.zeros(num_classes)
    counts.update(labels, prediction)
    present = counts.confusion.any(1)
    return float(counts.scores().class_iou[present].mean()) if present.any() else float("nan")
