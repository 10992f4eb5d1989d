"""The area of a shape, and how it is painted into a label map.

Polygons are rasterised by pycocotools: a pixel belongs to a polygon where its centre does, so that polygons on the
edges of pixels give the pixels back. Polygons whose corners are pixels, edges included, are drawn by Pillow.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Ring

CIRCLE_CORNERS = 360
Labels = NDArray[np.uint8]


class Region(Protocol):
    """An area of an image."""

    def paint(self, labels: Labels, value: int) -> None:
        """Set ``labels``, (H, W), to ``value`` inside the region; pixels outside the image are ignored."""


@dataclass(frozen=True, slots=True)
class Polygon:
    """A polygon with holes.

    Attributes:
        outer: Its corners; fewer than three have no area.
        holes: Corners of the areas cut out.
        corners_are_pixels: Whether corners are the indices of pixels, which belong to the polygon, and not places
            between them.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()
    corners_are_pixels: bool = False

    def paint(self, labels: Labels, value: int) -> None:
        height, width = labels.shape
        left, top = (int(side) for side in np.clip(np.floor(self.outer.min(0)), 0, (width, height)))
        right, bottom = (int(side) for side in np.clip(np.ceil(self.outer.max(0)) + 1, 0, (width, height)))
        if left < right and top < bottom:
            part = labels[top:bottom, left:right]
            part[self._mask(part.shape, (left, top))] = value

    def _mask(self, size: tuple[int, ...], origin: tuple[int, int]) -> NDArray[np.bool_]:
        fill = _pixel_polygon if self.corners_are_pixels else _edge_polygon
        inside = fill(self.outer - origin, size)
        for hole in self.holes:
            inside &= ~fill(hole - origin, size)
        return inside


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Pixels that are listed one by one, (h, w) bool, with their upper left one at (x, y) ``origin``."""

    pixels: NDArray[np.bool_]
    origin: tuple[int, int] = (0, 0)

    def paint(self, labels: Labels, value: int) -> None:
        left, top = self.origin
        height, width = self.pixels.shape
        part = labels[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        first_row, first_column = max(-top, 0), max(-left, 0)
        seen = self.pixels[first_row : first_row + part.shape[0], first_column : first_column + part.shape[1]]
        part[seen] = value


@dataclass(frozen=True, slots=True)
class CocoRle:
    """COCO's run lengths down the columns.

    Attributes:
        size: (height, width).
        counts: Compressed, as text; or the lengths of the runs themselves, that of zeros first.
        where: The place in the file, for errors.
    """

    size: tuple[int, int]
    counts: str | tuple[int, ...]
    where: str

    def paint(self, labels: Labels, value: int) -> None:
        if self.size != labels.shape:
            expected = f"{labels.shape[1]}x{labels.shape[0]}"
            raise ImportingError(f"{self.where} has {self.size[1]}x{self.size[0]} pixels, its image {expected}")
        labels[self._decoded()] = value

    def _decoded(self) -> NDArray[np.bool_]:
        runs = compressed_runs(self.counts, self.where) if isinstance(self.counts, str) else self.counts
        total, pixels = sum(runs), self.size[0] * self.size[1]
        if total != pixels:
            expected = f"{self.size[1]}x{self.size[0]} = {pixels:,}"
            raise ImportingError(f"{self.where} has runs of {total:,} pixels, expected {expected}")
        return _filled(runs, self.size)


def rectangle(left: float, top: float, right: float, bottom: float, degrees: float = 0) -> Polygon:
    """A rectangle, turned clockwise around its centre."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return Polygon(turned(corners, ((left + right) / 2, (top + bottom) / 2), degrees))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Polygon:
    """An ellipse around (x, y), turned clockwise."""
    angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
    ring = np.stack((x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)), axis=1)
    return Polygon(turned(ring, (x, y), degrees))


def turned(ring: Ring, center: Ring | Sequence[float], degrees: float) -> Ring:
    """Corners turned clockwise, as seen on a screen, around a point."""
    if not degrees:
        return ring
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.asarray((ring - center) @ np.array([(cos, sin), (-sin, cos)]) + center, np.float64)


def _edge_polygon(ring: Ring, size: tuple[int, ...]) -> NDArray[np.bool_]:
    if len(ring) < 3:
        return np.zeros(size, bool)
    (encoded,) = _masks().frPyObjects([ring.ravel().tolist()], *size)
    return _filled(compressed_runs(encoded["counts"].decode(), "a polygon"), size)


def _filled(runs: Sequence[int], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels (H, W) of runs down the columns."""
    values = np.repeat(np.arange(len(runs)) % 2 == 1, np.asarray(runs, np.int64))
    return values.reshape(size, order="F")


def _pixel_polygon(ring: Ring, size: tuple[int, ...]) -> NDArray[np.bool_]:
    image = Image.new("L", (size[1], size[0]))
    corners = [(float(x), float(y)) for x, y in np.rint(ring)]
    ImageDraw.Draw(image).polygon(corners if len(corners) > 1 else corners * 2, fill=1, outline=1)
    return np.asarray(image).astype(bool)


def compressed_runs(counts: str, where: str) -> list[int]:
    """The lengths of COCO's compressed runs, that of zeros first.

    A run is written in characters of 5 bits, low ones first, with a sign bit; from the fourth on it is the difference
    to the run two before (``rleToString`` in COCO's ``maskApi.c``).

    Raises:
        ImportingError: There are other characters, or a run is cut short or negative.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ImportingError(f"{where} has the character {character!r} in 'counts', expected '0' to 'o'")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            signed = value - (1 << shift) if code & 16 else value
            runs.append(signed + runs[-2] if len(runs) > 2 else signed)
            value = shift = 0
    if shift or any(run < 0 for run in runs):
        raise ImportingError(f"{where} has broken 'counts': {counts[:40]!r}")
    return runs


def _masks() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError:
        raise ImportingError("pycocotools is not installed; it comes with the extra: pip install '.[train]'") from None
