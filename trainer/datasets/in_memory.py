"""Datasets in memory, and datasets of few images that are seen several times in an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.datasets.base import Sample, SegmentationDataset
from trainer.datasets.files import Pair

UsefulSize = Callable[[int, int], tuple[int, int]]
"""Takes height and width of an image, and gives those beyond which pixels do not count."""


class InMemory:
    """A dataset read once, whole; for small ones, where decoding would cost more than training.

    Args:
        dataset: The dataset.
        useful_size: Samples are kept no larger than this; unchanged if not given.
    """

    def __init__(self, dataset: SegmentationDataset, useful_size: UsefulSize = lambda *size: size) -> None:
        self.name, self.classes, self.pairs = dataset.name, dataset.classes, dataset.pairs
        samples = (dataset[index] for index in range(len(dataset)))
        self._samples: Sequence[Sample] = [shrunk(sample, useful_size(*sample.labels.shape)) for sample in samples]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def labels(self, index: int) -> NDArray[np.uint8]:
        return self._samples[index].labels


class Repeated:
    """A dataset whose images come several times, so that few images fill an epoch."""

    def __init__(self, dataset: SegmentationDataset, times: int) -> None:
        self.name, self.classes = dataset.name, dataset.classes
        self.pairs: Sequence[Pair] = [*dataset.pairs] * times
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[index % len(self._dataset)]

    def labels(self, index: int) -> NDArray[np.uint8]:
        return self._dataset.labels(index % len(self._dataset))


def shrunk(sample: Sample, size: tuple[int, int]) -> Sample:
    """A sample of (height, width) at most: the image as the mean of its pixels, the labels as the nearest one."""
    height, width = (min(sides) for sides in zip(sample.labels.shape, size, strict=True))
    if (height, width) == sample.labels.shape:
        return sample
    image = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BOX)
    labels = Image.fromarray(sample.labels).resize((width, height), Image.Resampling.NEAREST)
    return Sample(np.array(image), np.array(labels))
