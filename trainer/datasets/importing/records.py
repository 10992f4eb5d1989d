"""Common form of all exports: images, and the layers drawn on each in the tool's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.datasets.importing.regions import Labels, Region
from trainer.datasets.label_coding import Color

IGNORED = "__ignore__"
"""The class of pixels that count as nothing, as LabelMe names it."""
BACKGROUNDS = frozenset({"background", "_background_", "__background__"})
"""Names, in lower case, under which tools keep the pixels that nobody labelled."""


@dataclass(frozen=True, slots=True)
class Category:
    """A class as the tool names it, with its colour where the tool has one."""

    name: str
    color: Color | None = None


class Layer(Protocol):
    """Something that is drawn on a label map."""

    def draw(self, labels: Labels, ids: Mapping[str, int]) -> None:
        """Draw on ``labels``, (H, W), with the id of each class."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A region of one class."""

    label: str
    region: Region

    def draw(self, labels: Labels, ids: Mapping[str, int]) -> None:
        self.region.paint(labels, ids[self.label])


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with its annotation.

    Attributes:
        name: Its path as the tool knows it.
        image: The file, or the bytes of one that the export embeds.
        layers: The drawn shapes, the lowest first.
        source: The file that holds the annotation.
        size: (height, width) that the annotation was made for, where the tool states it.
        split: The split that the export puts it in.
    """

    name: str
    image: Path | bytes
    layers: tuple[Layer, ...]
    source: Path
    size: tuple[int, int] | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A whole export.

    Attributes:
        categories: Its classes, in the tool's order.
        images: Its existing images.
        missing: A sentence for each missing file.
        notes: Sentences on omissions, and why.
        unlabelled: The class that stands for unlabelled pixels, where the export names one.
        is_dense: Whether the export gives every pixel a class, so that nothing is unlabelled but ``unlabelled``.
    """

    categories: tuple[Category, ...]
    images: tuple[AnnotatedImage, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unlabelled: str | None = None
    is_dense: bool = False
