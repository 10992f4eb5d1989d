"""Colours as tools write them, and colours for classes that have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from PIL import ImageColor

from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.label_coding import Color

_WITH_ALPHA = re.compile(r"(rgb|hsl)a\(([^)]*),[^,)]*\)")


def parse_color(where: str, value: Any) -> Color | None:
    """A colour from ``#rrggbb``, a CSS name or function, or a list of red, green and blue; None if there is none.

    Raises:
        ImportingError: It is none of these.
    """
    if value in (None, "", []):
        return None
    if isinstance(value, str):
        try:
            return ImageColor.getrgb(_WITH_ALPHA.sub(r"\1(\2)", value.strip()))[:3]
        except ValueError:
            raise _wrong(where, value) from None
    if (
        isinstance(value, list)
        and len(value) in (3, 4)
        and all(type(part) is int and 0 <= part < 256 for part in value)
    ):
        return value[0], value[1], value[2]
    raise _wrong(where, value)


def unused_colors(taken: Iterable[Color]) -> Iterator[Color]:
    """Colours of the palette of Pascal VOC that are not taken, neighbours far apart; black is left out."""
    used = {(0, 0, 0), *taken}
    for index in range(1, 1 << 24):
        color = voc_color(index)
        if color not in used:
            used.add(color)
            yield color


def voc_color(index: int) -> Color:
    """The colour of an index in the palette of Pascal VOC: its bits in turn are the high bits of red, green, blue."""
    channels = [sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]
    return channels[0], channels[1], channels[2]


def _wrong(where: str, value: Any) -> ImportingError:
    return ImportingError(f"{where} has the colour {value!r}, expected '#rrggbb' or [red, green, blue] within 0..255")
