"""Borders of classes as polygons on the edges of pixels: exact, so that filling them gives the label map back.

Only corners are computed. Four pixels lie around a lattice point. A class has a corner there if one or three of them
are its own; two corners if two on a diagonal are, so that polygons touch there and do not cross. Corners with a border
on the same side, sorted along a row, are in pairs the ends of borders; the same holds along columns. Both pairings
together are closed rings. Nothing is approximated or smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidParameter

Ring = NDArray[np.int32]
Polygon = list[Ring]

# Quadrants around a lattice point in reading order; in each, where its neighbours are in this order.
_UPPER_LEFT, _UPPER_RIGHT, _LOWER_LEFT, _LOWER_RIGHT = range(4)
_BESIDE = (_UPPER_RIGHT, _UPPER_LEFT, _LOWER_RIGHT, _LOWER_LEFT)
_BELOW = (_LOWER_LEFT, _LOWER_RIGHT, _UPPER_LEFT, _UPPER_RIGHT)
_ACROSS = (_LOWER_RIGHT, _LOWER_LEFT, _UPPER_RIGHT, _UPPER_LEFT)

# About 80 MB while they are linked, and 7 MB of JSON. The label map of a photo of 48 megapixels has some 70,000.
MAX_CORNERS = 500_000
# Each takes 30 us of the interpreter. The label map of a photo has some hundreds.
MAX_RINGS = 50_000
# Lattice points that are examined at once; one row of the image at least.
_STRIP_POINTS = 1 << 18
# No pixel: differs from every class.
_OUTSIDE = -1


@dataclass(frozen=True, slots=True)
class _Corners:
    """Corners of all classes, one entry each.

    With its class to the right of the way along the border (as seen on a screen), a corner is left along a row
    (``leaves_by_row``) or along a column. ``is_above`` and ``is_left`` state on which side of the corner's horizontal
    and vertical border the class is.
    """

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    class_id: NDArray[np.int16]
    is_above: NDArray[np.bool_]
    is_left: NDArray[np.bool_]
    leaves_by_row: NDArray[np.bool_]


def trace(labels: NDArray[np.uint8], answer_format: str = "contours") -> dict[int, list[Polygon]]:
    """Trace the polygons of every class in the label map.

    Args:
        labels: (H, W) uint8 class ids.
        answer_format: Name of the format, for errors.

    Returns:
        By class id, a polygon for every set of pixels that are connected by their sides: its outer ring first, then
        its holes. A ring is (N, 2) int32, the (x, y) of its corners, 0 <= x <= W and 0 <= y <= H, where (0, 0) is the
        upper left corner of the image; the first is not repeated at the end. By the shoelace formula outer rings have
        a positive area and holes a negative one.

    Raises:
        InvalidParameter: There are more than ``MAX_CORNERS`` corners or ``MAX_RINGS`` rings.
    """
    corners = _find_corners(labels, answer_format)
    by_row, by_column = _orders(corners, labels.shape)
    order, starts = _collect(_following(corners, by_row, by_column), by_row)
    if len(starts) > MAX_RINGS:
        raise _too_many(MAX_RINGS, "rings", answer_format)
    rings = _Rings(corners, order, starts)
    polygons: dict[int, dict[int, Polygon]] = {}
    for number in np.flatnonzero(rings.areas > 0).tolist():
        polygons.setdefault(rings.class_of(number), {})[number] = [rings.ring(number)]
    for number, owner in _owners(labels, corners, by_column, rings).items():
        polygons[rings.class_of(number)][owner].append(rings.ring(number))
    return {class_id: list(polygons[class_id].values()) for class_id in sorted(polygons)}


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of lattice points to examine at once, which bounds the memory for large images.

    Args:
        height: Of the image; it has one row of points more.
        width: Of the image.
    """
    rows = max(1, _STRIP_POINTS // (width + 1))
    for top in range(0, height + 1, rows):
        yield top, min(top + rows, height + 1)


def _find_corners(labels: NDArray[np.uint8], answer_format: str) -> _Corners:
    found: list[tuple[NDArray[np.generic], ...]] = []
    count = 0
    for top, bottom in strips(*labels.shape):
        found.append(_strip_corners(labels, top, bottom))
        count += len(found[-1][0])
        if count > MAX_CORNERS:
            raise _too_many(MAX_CORNERS, "corners", answer_format)
    return _Corners(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _too_many(limit: int, unit: str, answer_format: str) -> InvalidParameter:
    return InvalidParameter(
        f"the polygons of this label map have more than {limit} {unit}, the limit of format={answer_format}; "
        "ask for size=model or fewer classes, or use format=labels",
        extra={"parameter": "format", "value": answer_format, "limit": limit, "unit": unit},
    )


def _strip_corners(labels: NDArray[np.uint8], top: int, bottom: int) -> tuple[NDArray[np.generic], ...]:
    """Find the corners at the lattice points of rows ``top`` to ``bottom``, without ``bottom``."""
    height, width = labels.shape
    padded = np.full((bottom - top + 1, width + 2), _OUTSIDE, np.int16)
    first, last = max(top - 1, 0), min(bottom, height)
    padded[first - top + 1 : last - top + 1, 1:-1] = labels[first:last]
    # A border that goes straight on has equal pixels on each of its sides.
    by_row = padded[:, 1:] != padded[:, :-1]
    by_column = padded[1:] != padded[:-1]
    turns = (by_row[1:] | by_row[:-1]) & (by_column[:, 1:] | by_column[:, :-1])
    y, x = (axis.astype(np.int32) for axis in np.nonzero(turns))
    around = (padded[y, x], padded[y, x + 1], padded[y + 1, x], padded[y + 1, x + 1])
    parts = [part for quadrant in range(4) for part in _quadrant_corners(quadrant, around, x, y + top)]
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _quadrant_corners(
    quadrant: int, around: tuple[NDArray[np.int16], ...], x: NDArray[np.int32], y: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.generic], ...]]:
    """Give the corners of classes that fill this quadrant, and of those that fill the three others."""
    own, beside, below, across = (around[place[quadrant]] for place in (range(4), _BESIDE, _BELOW, _ACROSS))
    is_upper, is_left = quadrant in {_UPPER_LEFT, _UPPER_RIGHT}, quadrant in {_UPPER_LEFT, _LOWER_LEFT}
    filled = (own != _OUTSIDE) & (own != beside) & (own != below)
    notched = (across != _OUTSIDE) & (own != across) & (across == beside) & (across == below)
    by_row = quadrant in {_UPPER_LEFT, _LOWER_RIGHT}
    for at, class_id, is_above, leaves_left in (
        (filled, own, is_upper, is_left),
        (notched, across, not is_upper, not is_left),
    ):
        count = np.count_nonzero(at)
        flags = (np.full(count, flag) for flag in (is_above, leaves_left, by_row == (at is filled)))
        yield x[at], y[at], class_id[at], *flags


def _orders(corners: _Corners, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort the corners along rows and along columns; two in a row are the ends of one border."""
    height, width = shape
    classes = corners.class_id.astype(np.int64) * 2
    rows = ((classes + corners.is_above) * (height + 1) + corners.y) * (width + 1) + corners.x
    columns = ((classes + corners.is_left) * (width + 1) + corners.x) * (height + 1) + corners.y
    return np.argsort(rows), np.argsort(columns)


def _following(corners: _Corners, by_row: NDArray[np.int64], by_column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the next corner of each corner along the border."""
    following = np.empty(len(corners.x), np.int64)
    for order, leaves in ((by_row, corners.leaves_by_row), (by_column, ~corners.leaves_by_row)):
        pairs = order.reshape(-1, 2)
        for start, end in (pairs.T, pairs.T[::-1]):
            starting = leaves[start]
            following[start[starting]] = end[starting]
    return following


def _collect(following: NDArray[np.int64], firsts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order the corners ring by ring, with the start of each ring; ``firsts`` is the order of the search."""
    after = following.tolist()
    seen = bytearray(len(after))
    order: list[int] = []
    starts = []
    for first in firsts.tolist():
        if seen[first]:
            continue
        starts.append(len(order))
        corner = first
        while not seen[corner]:
            seen[corner] = 1
            order.append(corner)
            corner = after[corner]
    return np.array(order, np.int64), np.array(starts, np.int64)


class _Rings:
    """Rings in one array.

    Attributes:
        classes: The class of each ring.
        ring_of: The ring of each corner.
        areas: Signed area of each ring, in pixels.
        left_ends: (x, y) of the uppermost among the leftmost corners of each ring.
    """

    def __init__(self, corners: _Corners, order: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        self._points = np.stack((corners.x[order], corners.y[order]), axis=1)
        self._ends = np.append(starts[1:], len(order))
        self._starts = starts
        self.classes = corners.class_id[order[starts]]
        self.ring_of = np.empty(len(order), np.int64)
        self.ring_of[order] = np.repeat(np.arange(len(starts)), self._ends - starts)
        x, y = self._points.astype(np.int64).T
        following = np.arange(1, len(order) + 1)
        following[self._ends - 1] = starts
        self.areas = np.add.reduceat(x * y[following] - x[following] * y, starts) // 2
        above_all = y.max() + 1
        self.left_ends = np.stack(np.divmod(np.minimum.reduceat(x * above_all + y, starts), above_all), axis=1)

    def class_of(self, number: int) -> int:
        return int(self.classes[number])

    def ring(self, number: int) -> Ring:
        return self._points[self._starts[number] : self._ends[number]]


def _owners(
    labels: NDArray[np.uint8], corners: _Corners, by_column: NDArray[np.int64], rings: _Rings
) -> dict[int, int]:
    """Find the outer ring around each hole: from the hole's left end leftwards, within its class, to the next border.

    That border is the outer ring's, or that of a hole further to the left, which has the same owner.
    """
    holes = np.flatnonzero(rings.areas < 0)
    holes = holes[np.argsort(rings.left_ends[holes, 0], kind="stable")]
    height, width = labels.shape

    def key(class_id: NDArray[np.int16], x: NDArray[np.integer], y: NDArray[np.integer]) -> NDArray[np.int64]:
        keys: NDArray[np.int64] = (class_id.astype(np.int64) * (width + 1) + x) * (height + 1) + y
        return keys

    # Upper ends of the vertical borders with their class to the right, at which the search ends.
    borders = by_column.reshape(-1, 2)
    upper = borders[~corners.is_left[borders[:, 0]], 0]
    keys = key(corners.class_id[upper], corners.x[upper], corners.y[upper])
    x, y = rings.left_ends[holes].T
    ends = key(rings.classes[holes], _run_starts(labels, x - 1, y), y)
    found = rings.ring_of[upper[np.searchsorted(keys, ends, side="right") - 1]]
    owners: dict[int, int] = {}
    for hole, ring in zip(holes.tolist(), found.tolist(), strict=True):
        owners[hole] = owners.get(ring, ring)
    return owners


def _run_starts(labels: NDArray[np.uint8], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the column where the run of equal pixels in a row begins that each pixel (x, y) belongs to."""
    starts = np.empty(len(x), np.int64)
    width = labels.shape[1]
    for top, bottom in strips(*labels.shape):
        inside = np.flatnonzero((y >= top) & (y < bottom))
        rows = labels[top:bottom]
        begins = np.ones(rows.shape, bool)
        begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
        firsts = np.flatnonzero(begins)
        places = (y[inside] - top) * width + x[inside]
        starts[inside] = firsts[np.searchsorted(firsts, places, side="right") - 1] % width
    return starts
