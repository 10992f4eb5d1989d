"""Several datasets as one training split, each with a weight of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import ClassInfo
from trainer.datasets.base import Sample, SegmentationDataset
from trainer.datasets.errors import DatasetError, unknown_name
from trainer.datasets.files import Pair
from trainer.datasets.mapped import Mapped, named_map
from trainer.datasets.registry import open_dataset


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset of a mixture.

    Attributes:
        dataset: Its name, as ``open_dataset`` takes it.
        root: Its folder.
        split: Its split to learn from.
        weight: How often each of its images is seen in an epoch; below 1, other images are seen in other epochs.
        classes: The class of the mixture, or ``void``, for each of its classes by name; others keep their names.
    """

    dataset: str
    root: Path
    split: str = "train"
    weight: float = 1.0
    classes: Mapping[str, str] = field(default_factory=dict)


def parse_source(where: str, table: Mapping[str, Any]) -> Source:
    """A source from a table with ``dataset`` and ``root``, and perhaps ``split``, ``weight`` and ``classes``.

    Args:
        where: The table, for errors, as ``data.sources[0]``.
        table: Its keys and values; ``classes`` is a table of names, or the name of one of ``NAMED_MAPS``.

    Raises:
        DatasetError: A key is missing or unknown, or a value has another type.
    """
    for key in table:
        if key not in _KEYS:
            raise unknown_name(f"key of {where}", key, _KEYS)
    for key in ("dataset", "root"):
        if key not in table:
            raise DatasetError(f"{where} has no {key}")
    values = {key: _value(f"{where}.{key}", value, _KEYS[key]) for key, value in table.items()}
    if isinstance(names := values.get("classes"), str):
        values["classes"] = named_map(names)
    return Source(**values | {"root": Path(values["root"])})


_KEYS: Mapping[str, tuple[type, ...]] = {
    "dataset": (str,),
    "root": (str,),
    "split": (str,),
    "weight": (int, float),
    "classes": (str, dict),
}
_WORDS = {"weight": "a number", "classes": "a table of class names, or the name of a map"}


def _value(where: str, value: Any, kinds: tuple[type, ...]) -> Any:
    expected = _WORDS.get(where.rpartition(".")[2], "a text")
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DatasetError(f"{where} is {value!r}, expected {expected}")
    if isinstance(value, dict) and not all(isinstance(name, str) for name in value.values()):
        raise DatasetError(f"{where} is {value!r}, expected {expected}")
    return value


class Mixed:
    """The images of several datasets in one epoch.

    A part of n images with weight w has round(n · w) places in an epoch. It fills them from an endless sequence of
    shuffled passes, which goes on from epoch to epoch. So all images of a part are seen equally often, up to one.

    Args:
        parts: Datasets of equal classes, and their weights.
        seed: Of the passes.
        epoch: The epoch, from 0.

    Raises:
        DatasetError: There is no part, a weight is not above 0, or the classes differ.
    """

    def __init__(self, parts: Sequence[tuple[SegmentationDataset, float]], *, seed: int, epoch: int = 0) -> None:
        self._parts, self._seed = tuple(parts), seed
        _check(self._parts)
        self.name = "+".join(dataset.name for dataset, _ in parts)
        self.classes = parts[0][0].classes
        self._places = [
            (dataset, index)
            for number, (dataset, weight) in enumerate(parts)
            for index in _indices(len(dataset), weight, (seed, number), epoch)
        ]
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


def open_mixed(
    sources: Sequence[Source],
    classes: Sequence[ClassInfo],
    *,
    seed: int,
    prepare: Callable[[SegmentationDataset], SegmentationDataset] = lambda dataset: dataset,
) -> Mixed:
    """Open the datasets of a mixture.

    Args:
        sources: The datasets.
        classes: The classes of the mixture.
        seed: Of the order in which images are seen.
        prepare: Applied to each dataset before its classes are mapped, for example to keep it in memory.

    Raises:
        DatasetError: A dataset cannot be opened, or its classes do not fit.
    """
    opened = [(prepare(open_dataset(source.dataset, source.root, source.split)), source) for source in sources]
    parts = [(Mapped(dataset, classes, source.classes), source.weight) for dataset, source in opened]
    return Mixed(parts, seed=seed)


def _check(parts: Sequence[tuple[SegmentationDataset, float]]) -> None:
    if not parts:
        raise DatasetError("a mixture has no dataset, expected one or more")
    names = [[info.name for info in dataset.classes] for dataset, _ in parts]
    for (dataset, weight), own in zip(parts, names, strict=True):
        if weight <= 0:
            raise DatasetError(f"the weight of {dataset.name} is {weight:g}, expected more than 0")
        if own != names[0]:
            raise DatasetError(f"{dataset.name} has other classes than {parts[0][0].name}; map them to those")


def _indices(count: int, weight: float, seed: tuple[int, int], epoch: int) -> list[int]:
    """The images of a part in an epoch."""
    places = max(1, round(count * weight))
    passes, offsets = np.divmod(np.arange(epoch * places, (epoch + 1) * places), count)
    orders = {
        number: np.random.default_rng((*seed, number)).permutation(count) for number in np.unique(passes).tolist()
    }
    return [int(orders[number][offset]) for number, offset in zip(passes.tolist(), offsets.tolist(), strict=True)]
