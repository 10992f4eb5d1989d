"""A dataset with the classes of another one, so that both can be learned together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import ClassInfo
from trainer.datasets.base import Sample, SegmentationDataset
from trainer.datasets.errors import DatasetError, unknown_name
from trainer.datasets.label_coding import IGNORE_INDEX

VOID = "void"
"""Name of no class, for pixels that do not count."""

NAMED_MAPS: Mapping[str, Mapping[str, str]] = {
    # CamVid's eleven classes group its 32 as SegNet does: walls with buildings, low plants with trees, lorries, buses
    # and trains with cars, motorcycles and their riders with cyclists.
    "cityscapes-to-camvid": {
        "road": "Road",
        "sidewalk": "Pavement",
        "building": "Building",
        "wall": "Building",
        "fence": "Fence",
        "pole": "Pole",
        "traffic light": "SignSymbol",
        "traffic sign": "SignSymbol",
        "vegetation": "Tree",
        "terrain": "Tree",
        "sky": "Sky",
        "person": "Pedestrian",
        "rider": "Bicyclist",
        "car": "Car",
        "truck": "Car",
        "bus": "Car",
        "train": "Car",
        "motorcycle": "Bicyclist",
        "bicycle": "Bicyclist",
    },
}
"""Maps of class names by their own name."""


class Mapped:
    """A dataset whose label maps hold the ids of other classes.

    Args:
        dataset: The dataset.
        classes: The classes to give.
        names: A class of ``classes``, or ``VOID``, for each class of the dataset by name; a class that is not in it
            keeps its name.

    Raises:
        DatasetError: A name is unknown, or a class has no counterpart.
    """

    def __init__(self, dataset: SegmentationDataset, classes: Sequence[ClassInfo], names: Mapping[str, str]) -> None:
        self.name, self.classes, self.pairs = dataset.name, tuple(classes), dataset.pairs
        self._dataset = dataset
        self._ids = _table(dataset, self.classes, names)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        return Sample(sample.image, self._ids[sample.labels])

    def labels(self, index: int) -> NDArray[np.uint8]:
        return self._ids[self._dataset.labels(index)]


def named_map(name: str) -> Mapping[str, str]:
    """A map of ``NAMED_MAPS``.

    Raises:
        DatasetError: There is none of this name.
    """
    if name not in NAMED_MAPS:
        raise unknown_name("map of classes", name, NAMED_MAPS)
    return NAMED_MAPS[name]


def _table(dataset: SegmentationDataset, classes: Sequence[ClassInfo], names: Mapping[str, str]) -> NDArray[np.uint8]:
    """The new id of each old one, (256,)."""
    known = {info.name for info in dataset.classes}
    for name in names:
        if name not in known:
            raise unknown_name(f"class of {dataset.name}", name, sorted(known))
    ids = {info.name: info.id for info in classes} | {VOID: IGNORE_INDEX}
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for info in dataset.classes:
        name = names.get(info.name, info.name)
        if name not in ids:
            mapped = f" is mapped to {name!r}, which there is not" if info.name in names else " has no counterpart"
            raise DatasetError(
                f"class {info.name!r} of {dataset.name}{mapped}; map it to {VOID!r} or to one of "
                f"{', '.join(other.name for other in classes)}"
            )
        table[info.id] = ids[name]
    return table
