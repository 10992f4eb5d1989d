"""Label files whose pixels are values or colours, each of which stands for a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.datasets.errors import SizeMismatchError
from trainer.datasets.importing.records import Category
from trainer.datasets.importing.regions import Labels
from trainer.datasets.label_coding import Color, ColorCoding, IdCoding
from trainer.datasets.reading import COLOR_MODES, as_ids, as_rgb, opened_label


@dataclass(frozen=True, slots=True)
class Coding:
    """Classes of the values of label files; either ``ids`` or ``colors`` applies.

    Attributes:
        ids: Class by value.
        colors: Class by colour.
        by_color: Whether the colours count.
        categories: The classes.
        unlabelled: The class of pixels that nobody labelled, if there is one.
    """

    ids: Mapping[int, str]
    colors: Mapping[Color, str]
    by_color: bool
    categories: tuple[Category, ...]
    unlabelled: str | None = None


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file that gives every pixel of an image its class."""

    path: Path
    coding: Coding

    def draw(self, labels: Labels, ids: Mapping[str, int]) -> None:
        with opened_label(self.path) as image:
            size = (image.height, image.width)
            if size != labels.shape:
                raise SizeMismatchError(
                    f"{self.path} is {size[1]}x{size[0]} pixels, its image is {labels.shape[1]}x{labels.shape[0]}"
                )
            if self.coding.by_color:
                coding = ColorCoding({color: ids[name] for color, name in self.coding.colors.items()})
                labels[:] = coding.decode(self.path, as_rgb(self.path, image))
            else:
                by_id = IdCoding({value: ids[name] for value, name in self.coding.ids.items()})
                labels[:] = by_id.decode(self.path, as_ids(self.path, image))


def is_colored(path: Path) -> bool:
    """Check whether a label file holds colours, not values."""
    with opened_label(path) as image:
        return image.mode in COLOR_MODES
