"""Several datasets as one training split, each with its own weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.base import Sample, SegmentationDataset
from trainer.datasets.errors import DatasetError
from trainer.datasets.files import Pair
from trainer.datasets.mapped import Mapped
from trainer.datasets.source import Source

Part = tuple[SegmentationDataset, float]
"""A dataset of a mixture and its weight."""


class Mixed:
    """The images of several datasets in one epoch.

    A part of n images with weight w has round(n · w) places in an epoch. It fills them from an endless sequence of
    shuffled passes, which continues from epoch to epoch. So all images of a part are seen equally often, up to one.

    Args:
        parts: Datasets of equal classes, and their weights.
        seed: Of the passes.
        epoch: The epoch, from 0.

    Attributes:
        places: The parts by name, with their places in an epoch.

    Raises:
        DatasetError: There is no part, a weight is not above 0, or the classes differ.
    """

    def __init__(self, parts: Sequence[Part], *, seed: int, epoch: int = 0) -> None:
        self._parts, self._seed = tuple(parts), seed
        _check(self._parts)
        self.name = "+".join(dataset.name for dataset, _ in parts)
        self.classes = parts[0][0].classes
        self._places = [
            (dataset, index)
            for number, (dataset, weight) in enumerate(parts)
            for index in _indices(len(dataset), weight, (seed, number), epoch)
        ]
        self.places = tuple((dataset.name, _num_places(len(dataset), weight)) for dataset, weight in parts)
        self.pairs: Sequence[Pair] = [dataset.pairs[index] for dataset, index in self._places]

    def at_epoch(self, epoch: int) -> Mixed:
        """The mixture of another epoch, of equal length; the datasets are shared."""
        return Mixed(self._parts, seed=self._seed, epoch=epoch)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        dataset, own = self._places[index]
        return dataset[own]

    def labels(self, index: int) -> NDArray[np.uint8]:
        dataset, own = self._places[index]
        return dataset.labels(own)


def mixed(first: Part, others: Sequence[tuple[SegmentationDataset, Source]], *, seed: int) -> Mixed:
    """A mixture of datasets in the classes of the first.

    Args:
        first: A dataset whose classes are those of the mixture, and its weight.
        others: The others, each with what the configuration says of it.
        seed: Of the order in which images are seen.

    Raises:
        DatasetError: The classes of a dataset do not fit.
    """
    parts = [(Mapped(dataset, first[0].classes, source.classes), source.weight) for dataset, source in others]
    return Mixed([first, *parts], seed=seed)


def _check(parts: Sequence[Part]) -> None:
    if not parts:
        raise DatasetError("a mixture has no dataset, expected one or more")
    names = [[info.name for info in dataset.classes] for dataset, _ in parts]
    for (dataset, weight), own in zip(parts, names, strict=True):
        if weight <= 0:
            raise DatasetError(f"the weight of {dataset.name} is {weight:g}, expected more than 0")
        if own != names[0]:
            raise DatasetError(f"{dataset.name} has other classes than {parts[0][0].name}; map them to those")


def _num_places(count: int, weight: float) -> int:
    return max(1, round(count * weight))


def _indices(count: int, weight: float, seed: tuple[int, int], epoch: int) -> list[int]:
    """The images of a part in an epoch."""
    places = _num_places(count, weight)
    passes, offsets = np.divmod(np.arange(epoch * places, (epoch + 1) * places), count)
    orders = {
        number: np.random.default_rng((*seed, number)).permutation(count) for number in np.unique(passes).tolist()
    }
    return [int(orders[number][offset]) for number, offset in zip(passes.tolist(), offsets.tolist(), strict=True)]
