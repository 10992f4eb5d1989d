"""Datasets: pairs of image and label files with class names and a palette."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import ClassInfo
from trainer.datasets.errors import DatasetError, MissingFileError, SizeMismatchError, unknown_name
from trainer.datasets.files import Files, Pair, plural, summary
from trainer.datasets.label_coding import IdCoding
from trainer.datasets.orientation import SIDEWAYS, UPRIGHT, turned_upright
from trainer.datasets.reading import (
    image_size,
    label_orientation,
    label_size,
    orientation,
    read_image,
    read_label_map,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image (H, W, 3) uint8 RGB, and its label map (H, W) uint8 with ``IGNORE_INDEX`` where nothing counts."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class SegmentationDataset(Protocol):
    """Protocol of a dataset for training and evaluation.

    Attributes:
        name: Name of the dataset, as ``open_dataset`` takes it.
        classes: Its classes; the label maps hold their ids, 0..K-1.
        pairs: Image file and label file of each sample.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    pairs: Sequence[Pair]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def labels(self, index: int) -> NDArray[np.uint8]:
        """The label map (H, W) alone, without the cost of decoding the image."""


class PairedFiles(ABC):
    """A split of a dataset in files; a subclass says how they are found and coded.

    Attributes:
        missing: A sentence for each missing file.
        splits: The splits that a published dataset has.
        upright: Whether images and labels are turned by the image's EXIF orientation.

    Args:
        where: What the split is called in errors.
        files: Its pairs and the missing files.
        incomplete: Take the complete pairs where files are missing, instead of raising.

    Raises:
        DatasetError: Files are missing, or there are none.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    splits: ClassVar[tuple[str, ...]] = ()
    upright: bool = True

    def __init__(self, where: str, files: Files, *, incomplete: bool) -> None:
        self.pairs: Sequence[Pair] = files.pairs
        self.missing = files.missing
        if self.missing and not incomplete:
            raise MissingFileError(f"{where} lacks {plural(len(self.missing), 'file')}: {summary(self.missing)}")
        if not self.pairs and not self.missing:
            raise DatasetError(f"{where} is empty")

    @classmethod
    @abstractmethod
    def splits_in(cls, root: Path) -> tuple[str, ...]:
        """The splits that ``root`` holds.

        Raises:
            DatasetError: There is none.
        """

    @abstractmethod
    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """The class indices (H, W) of a label file, checked, without a turn."""

    def labels(self, index: int) -> NDArray[np.uint8]:
        """The label map (H, W) alone, checked and turned as the image is."""
        labels = self.read_labels(self.pairs[index][1])
        return turned_upright(labels, self.labels_turn(index))

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image (H, W, 3) alone."""
        return read_image(self.pairs[index][0], upright=self.upright)

    def labels_turn(self, index: int) -> int:
        """The EXIF orientation 1..8 that stored labels are turned by.

        It is that of the label file if it has one. Else it is the image's where the labels' size is that of its stored
        pixels and not that of the upright image; all other labels are upright, as annotation tools write them.
        """
        if not self.upright:
            return UPRIGHT
        image_path, label_path = self.pairs[index]
        own, turn = label_orientation(label_path), orientation(image_path)
        if own != UPRIGHT or turn not in SIDEWAYS:
            return own
        upright = image_size(image_path)
        return turn if label_size(label_path) == upright[::-1] != upright else UPRIGHT

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image, labels = self.image(index), self.labels(index)
        check_sizes(self.pairs[index], image, labels)
        return Sample(image, labels)


class PublishedDataset(PairedFiles):
    """A dataset whose layout, classes and label ids are published.

    Args:
        root: The folder that holds the dataset's own top folder, or that one.
        split: One of ``splits``.
        incomplete: Take the complete pairs where files are missing, instead of raising.

    Attributes:
        splits: All datasets call two ``train`` and ``val``.
        tops: Folders in ``root`` that may hold the dataset, the likeliest first.
        coding: What the ids in its label files stand for.
    """

    tops: ClassVar[tuple[str, ...]]
    coding: ClassVar[IdCoding]

    def __init__(self, root: Path, split: str, *, incomplete: bool = False) -> None:
        if split not in self.splits:
            raise unknown_name(f"split of {self.name}", split, self.splits)
        files = self.find(self.top(root, split), split)
        super().__init__(f"{root}, split {split!r} of {self.name},", files, incomplete=incomplete)

    @classmethod
    @abstractmethod
    def anchor(cls, top: Path, split: str) -> Path:
        """The folder or list file without which a split does not exist."""

    @classmethod
    @abstractmethod
    def find(cls, top: Path, split: str) -> Files:
        """The files of a split."""

    @classmethod
    def top(cls, root: Path, split: str) -> Path:
        """The folder in ``root`` that holds the dataset.

        Raises:
            MissingFileError: The split is in none.
        """
        for top in cls.tops:
            if cls.anchor(root / top, split).exists():
                return root / top
        raise cls._absent(root, split)

    @classmethod
    def splits_in(cls, root: Path) -> tuple[str, ...]:
        def present(split: str) -> bool:
            return any(cls.anchor(root / top, split).exists() for top in cls.tops)

        splits = tuple(split for split in cls.splits if present(split))
        if not splits:
            raise cls._absent(root, cls.splits[0])
        return splits

    @classmethod
    def _absent(cls, root: Path, split: str) -> MissingFileError:
        top = next((top for top in cls.tops if (root / top).is_dir()), "")
        anchor = cls.anchor(root / top, split)
        return MissingFileError(f"{anchor} does not exist; it belongs to the layout of {cls.name}")

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return self.coding.decode(path, read_label_map(path))


def check_sizes(pair: Pair, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Raise a ``SizeMismatchError`` that names both files where image and labels differ in height or width."""
    if image.shape[:2] != labels.shape:
        image_size, label_size = (f"{array.shape[1]}x{array.shape[0]}" for array in (image, labels))
        raise SizeMismatchError(f"{pair[0]} is {image_size} pixels, its labels are {label_size} in {pair[1]}")


def class_table(table: str) -> tuple[ClassInfo, ...]:
    """Classes from lines of ``rrggbb name``, in the order of their ids."""
    rows = [line.split(maxsplit=1) for line in table.strip().splitlines()]
    return tuple(ClassInfo(index, name, hex_color(color)) for index, (color, name) in enumerate(rows))


def hex_color(digits: str) -> tuple[int, int, int]:
    """RGB of six hexadecimal digits."""
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue
