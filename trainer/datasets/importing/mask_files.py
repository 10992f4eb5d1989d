"""Label files whose pixels are values or colours, each of which stands for a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.datasets.errors import SizeMismatchError
from trainer.datasets.importing.records import Category
from trainer.datasets.importing.regions import Labels
from trainer.datasets.label_coding import Color, ColorCoding, IdCoding, check_palette
from trainer.datasets.orientation import UPRIGHT, turned_upright
from trainer.datasets.reading import COLOR_MODES, as_ids, as_rgb, opened_label, palette_colors


@dataclass(frozen=True, slots=True)
class Coding:
    """Classes of the values of label files; either ``ids`` or ``colors`` applies.

    Attributes:
        ids: Class by value.
        colors: Class by colour.
        by_color: Whether the colours count.
        categories: The classes.
        unlabelled: The class of pixels that nobody labelled, if there is one.
        may_mean_colors: Whether nothing tells that the values of a palette count, and not its colours.
    """

    ids: Mapping[int, str]
    colors: Mapping[Color, str]
    by_color: bool
    categories: tuple[Category, ...]
    unlabelled: str | None = None
    may_mean_colors: bool = False


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file that gives every pixel of an image its class.

    Attributes:
        path: The file.
        coding: Of its pixels.
        turn: EXIF orientation 1..8 of its own that it is still to be turned by.
    """

    path: Path
    coding: Coding
    turn: int = UPRIGHT

    def draw(self, labels: Labels, ids: Mapping[str, int]) -> None:
        drawn = turned_upright(self._decoded(ids), self.turn)
        if drawn.shape != labels.shape:
            own, found = (f"{shape[1]}x{shape[0]}" for shape in (drawn.shape, labels.shape))
            raise SizeMismatchError(f"{self.path} is {own} pixels, its image is {found}")
        labels[:] = drawn

    def _decoded(self, ids: Mapping[str, int]) -> Labels:
        coding = self.coding
        with opened_label(self.path) as image:
            if coding.by_color:
                by_color = ColorCoding({color: ids[name] for color, name in coding.colors.items()})
                return by_color.decode(self.path, as_rgb(self.path, image))
            values = as_ids(self.path, image)
            if coding.may_mean_colors:
                colors = ((entry.color, entry.name) for entry in coding.categories if entry.color is not None)
                check_palette(self.path, palette_colors(image, values), coding.ids, colors)
            return IdCoding({value: ids[name] for value, name in coding.ids.items()}).decode(self.path, values)


def is_colored(path: Path) -> bool:
    """Check whether a label file holds colours, not values."""
    with opened_label(path) as image:
        return image.mode in COLOR_MODES
