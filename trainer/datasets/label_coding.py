"""From the ids or colours of label files to class indices: (H, W) uint8 with ``IGNORE_INDEX`` where nothing counts.

Each value of a file stands for a class or for nothing; a value that is neither is an error that names the file, the
value, and the first pixel that has it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.errors import LabelRangeError
from trainer.datasets.reading import Ids

IGNORE_INDEX = 255
LARGEST_ID = 65535

Color = tuple[int, int, int]
Name = TypeVar("Name", bound=Hashable)


class IdCoding:
    """Label files of ids.

    Args:
        classes: Each id, 0..65535, to its class index or to ``IGNORE_INDEX``.
    """

    def __init__(self, classes: Mapping[int, int]) -> None:
        self.expected = ranges(classes)
        # The last entry is for ids beyond the table, -1 marks ids that stand for nothing.
        self._table = np.full(LARGEST_ID + 2, -1, np.int16)
        self._table[list(classes.keys())] = list(classes.values())

    def decode(self, path: Path, ids: Ids) -> NDArray[np.uint8]:
        """Class indices (H, W) of the ids (H, W) that ``path`` holds.

        Raises:
            LabelRangeError: An id stands for nothing.
        """
        wide = ids.dtype.itemsize > 2
        classes = self._table[np.where((ids < 0) | (ids > LARGEST_ID), LARGEST_ID + 1, ids) if wide else ids]
        unknown = classes < 0
        if unknown.any():
            values = _listed("label", [str(value) for value in np.unique(ids[unknown])])
            raise LabelRangeError(f"{path} has {values} {_where(unknown)}, expected {self.expected}")
        return classes.astype(np.uint8)


class ColorCoding:
    """Label files of colours.

    Args:
        classes: Each RGB colour to its class index or to ``IGNORE_INDEX``.
    """

    def __init__(self, classes: Mapping[Color, int]) -> None:
        # 32 MiB, and much faster than a search among the colours.
        self._table = np.full(1 << 24, -1, np.int16)
        for (red, green, blue), index in classes.items():
            self._table[red << 16 | green << 8 | blue] = index

    def decode(self, path: Path, colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class indices (H, W) of the colours (H, W, 3) that ``path`` holds.

        Raises:
            LabelRangeError: A colour stands for nothing.
        """
        red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
        classes: NDArray[np.int16] = self._table[red << 16 | green << 8 | blue]
        unknown = classes < 0
        if unknown.any():
            values = _listed("colour", [str(tuple(color)) for color in np.unique(colors[unknown], axis=0).tolist()])
            raise LabelRangeError(f"{path} has {values} {_where(unknown)}, which no class has")
        return classes.astype(np.uint8)


def check_palette(
    path: Path, palette: Mapping[int, Color], of_value: Mapping[int, Name], of_color: Iterable[tuple[Color, Name]]
) -> None:
    """Check that a palette shows no value in the colour of another class: then the colours may be what counts.

    Args:
        path: The label file.
        palette: The colours of its values.
        of_value: The class of each value.
        of_color: The classes' colours.

    Raises:
        LabelRangeError: It does.
    """
    classes: dict[Color, set[Name]] = {}
    for color, name in of_color:
        classes.setdefault(color, set()).add(name)
    for value, color in palette.items():
        own, others = of_value.get(value), classes.get(color)
        if own is not None and others is not None and own not in others:
            raise LabelRangeError(
                f"{path} shows the value {value} in the colour {color}, which is another class's; tell in classes.json "
                'whether "encoding" is "colors" or "ids"'
            )


def ranges(values: Iterable[int]) -> str:
    """Numbers as text, runs of them as ``first..last``."""
    ordered = sorted(values)
    starts = [value for value in ordered if value - 1 not in ordered]
    ends = [value for value in ordered if value + 1 not in ordered]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}..{end}" for start, end in pairs)


def _listed(noun: str, values: list[str], shown: int = 5) -> str:
    rest = f" and {len(values) - shown} more" if len(values) > shown else ""
    return f"{noun}{'s' if len(values) > 1 else ''} {', '.join(values[:shown])}{rest}"


def _where(unknown: NDArray[np.bool_]) -> str:
    row, column = (int(place) for place in np.argwhere(unknown)[0])
    return f"in {np.count_nonzero(unknown)} of {unknown.size} pixels, the first at x {column}, y {row}"
