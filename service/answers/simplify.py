"""Polygons with fewer corners, along borders that neighbouring classes keep in common (Douglas and Peucker, 1973).

Three or four borders meet at a junction. Rings are cut at junctions and at the corners of the image, and each piece is
simplified alone. The classes on both sides of a piece choose the same corners, so that no gap opens between them. All
pieces are halved level by level. After ``MAX_LEVELS`` levels they are halved in the middle, which bounds the time for
any shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.answers.contours import Polygon, Ring, strips

MAX_LEVELS = 48
_NO_PIXEL = -1
_LAST = np.iinfo(np.int64).max
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Rings:
    """Points of all rings, one ring after the other.

    Attributes:
        points: (N, 2) int64, x and y.
        starts: First point of each ring.
        stays: (N,), True for the ends of the pieces.
    """

    points: Numbers
    starts: Numbers
    stays: Flags

    @property
    def lengths(self) -> Numbers:
        return np.diff(self.starts, append=len(self.points))


def simplify(
    polygons: dict[int, list[Polygon]], labels: NDArray[np.uint8], tolerance: float
) -> dict[int, list[Polygon]]:
    """Drop corners of the polygons that ``trace`` found in a label map.

    Args:
        polygons: Polygons by class id.
        labels: (H, W) uint8 class ids that they outline.
        tolerance: Largest distance from a dropped corner to the new border, in pixels; 0 drops none.

    Returns:
        The polygons in the same order, without those and without the holes that are flat.
    """
    rings = [ring for of_class in polygons.values() for polygon in of_class for ring in polygon]
    if tolerance == 0 or not rings:
        return polygons
    simpler = iter(_simplify_rings(rings, labels, tolerance))
    found = {
        class_id: [polygon for old in of_class if (polygon := _with_area([next(simpler) for _ in old]))]
        for class_id, of_class in polygons.items()
    }
    return {class_id: of_class for class_id, of_class in found.items() if of_class}


def _with_area(rings: list[Ring | None]) -> Polygon:
    """The polygon without flat holes; nothing if its outer ring is flat."""
    outer, *holes = rings
    return [] if outer is None else [outer, *(hole for hole in holes if hole is not None)]


def _simplify_rings(rings: list[Ring], labels: NDArray[np.uint8], tolerance: float) -> list[Ring | None]:
    """Give each ring with the corners that are left of it; None where all lie on a line."""
    junctions = _junctions(labels)
    closed = _close(_fix_islands(_mark(_with_junctions(rings, junctions), junctions)))
    kept = _halve(closed, tolerance)
    # The last point of a closed ring is its first.
    kept[closed.starts + closed.lengths - 1] = False
    counts = np.add.reduceat(kept, closed.starts, dtype=np.int64)
    simpler = _Rings(closed.points[kept], np.cumsum(counts) - counts, closed.stays[kept])
    points = simpler.points.astype(np.int32)
    ends = (simpler.starts + counts).tolist()
    pieces = zip(simpler.starts.tolist(), ends, _flat(simpler).tolist(), strict=True)
    return [None if is_flat else points[start:end] for start, end, is_flat in pieces]


def _flat(rings: _Rings) -> Flags:
    """True for each ring whose points lie on a line."""
    offsets = rings.points - np.repeat(rings.points[rings.starts], rings.lengths, axis=0)
    far = _first_at_best(np.abs(offsets).sum(1).astype(np.float64), np.arange(len(offsets)), rings.starts)
    ends = np.repeat(offsets[far], rings.lengths, axis=0)
    return ~np.logical_or.reduceat(offsets[:, 0] * ends[:, 1] != offsets[:, 1] * ends[:, 0], rings.starts)


def _junctions(labels: NDArray[np.uint8]) -> Numbers:
    """Lattice points (N, 2) where three or four borders meet, and the corners of the image."""
    height, width = labels.shape
    found = [np.array([(0, 0), (width, 0), (0, height), (width, height)])]
    for top, bottom in strips(height, width):
        padded = np.full((bottom - top + 1, width + 2), _NO_PIXEL, np.int16)
        first, last = max(top - 1, 0), min(bottom, height)
        padded[first - top + 1 : last - top + 1, 1:-1] = labels[first:last]
        upright = (padded[:, 1:] != padded[:, :-1]).view(np.uint8)
        level = (padded[1:] != padded[:-1]).view(np.uint8)
        borders = upright[1:] + upright[:-1] + level[:, 1:] + level[:, :-1]
        y, x = np.nonzero(borders > 2)
        found.append(np.stack((x, y + top), axis=1))
    return np.concatenate(found)


def _with_junctions(rings: list[Ring], junctions: Numbers) -> _Rings:
    """Join the rings, and add the junctions that lie on their sides."""
    points = np.concatenate(rings).astype(np.int64)
    lengths = np.array([len(ring) for ring in rings])
    starts = np.cumsum(lengths) - lengths
    following = points[_next(starts, lengths)]
    added = [_on_sides(points, following, junctions, axis) for axis in (0, 1)]
    sides = np.concatenate([np.arange(len(points)), *(side for side, _ in added)])
    places = np.concatenate([points, *(place for _, place in added)])
    distances = np.abs(places - points[sides]).sum(1)
    order = np.lexsort((distances, sides))
    counts = np.add.reduceat(np.bincount(sides, minlength=len(points)), starts)
    return _Rings(places[order], np.cumsum(counts) - counts, np.zeros(len(order), bool))


def _next(starts: Numbers, lengths: Numbers) -> Numbers:
    """Index of the point after each point of its ring."""
    following = np.arange(1, lengths.sum() + 1)
    following[starts + lengths - 1] = starts
    return following


def _on_sides(points: Numbers, following: Numbers, junctions: Numbers, axis: int) -> tuple[Numbers, Numbers]:
    """Find the junctions inside the sides along an axis: the index of the side, and the place."""
    line, along = points[:, 1 - axis], points[:, axis]
    span = int(junctions.max()) + 1
    keys = np.sort(junctions[:, 1 - axis] * span + junctions[:, axis])
    lower = np.minimum(along, following[:, axis]) + line * span
    upper = np.maximum(along, following[:, axis]) + line * span
    first = np.searchsorted(keys, lower, side="right")
    counts = np.maximum(np.searchsorted(keys, upper, side="left") - first, 0)
    counts[line != following[:, 1 - axis]] = 0
    sides = np.repeat(np.arange(len(points)), counts)
    key = keys[np.arange(len(sides)) + np.repeat(first - np.cumsum(counts) + counts, counts)]
    places = np.empty((len(sides), 2), np.int64)
    places[:, 1 - axis], places[:, axis] = np.divmod(key, span)
    return sides, places


def _mark(rings: _Rings, junctions: Numbers) -> _Rings:
    """Make the junctions stay."""
    span = int(junctions.max()) + 1
    return replace(rings, stays=np.isin(_keys(rings.points, span), _keys(junctions, span)))


def _keys(points: Numbers, span: int) -> Numbers:
    return points[:, 0] * span + points[:, 1]


def _fix_islands(rings: _Rings) -> _Rings:
    """Make two points of each ring without a junction stay: the leftmost, and the farthest from it."""
    free = ~np.logical_or.reduceat(rings.stays, rings.starts)
    of_free = np.repeat(free, rings.lengths)
    keys = _keys(rings.points, int(rings.points.max()) + 1)
    first = _first_at_best(np.zeros(len(keys)), keys, rings.starts)
    distances = ((rings.points - np.repeat(rings.points[first], rings.lengths, axis=0)) ** 2).sum(1)
    farthest = _first_at_best(distances.astype(np.float64), keys, rings.starts)
    stays = rings.stays.copy()
    for chosen in (first, farthest):
        stays[chosen] |= of_free[chosen]
    return replace(rings, stays=stays)


def _first_at_best(values: NDArray[np.float64], keys: Numbers, starts: Numbers) -> Numbers:
    """Index of the largest value of each group that begins at ``starts``; of equal ones that with the smallest key."""
    lengths = np.diff(starts, append=len(values))
    best = np.repeat(np.maximum.reduceat(values, starts), lengths)
    candidates = np.where(values == best, keys, _LAST)
    smallest = np.repeat(np.minimum.reduceat(candidates, starts), lengths)
    at = np.flatnonzero(candidates == smallest)
    groups = np.searchsorted(starts, at, side="right") - 1
    _, first = np.unique(groups, return_index=True)
    return at[first]


def _close(rings: _Rings) -> _Rings:
    """Turn every ring so that it begins with a point that stays, and repeat that point at its end."""
    lengths = rings.lengths
    staying = np.flatnonzero(rings.stays)
    heads = staying[np.searchsorted(staying, rings.starts)]
    new_starts = rings.starts + np.arange(len(rings.starts))
    steps = np.arange(len(rings.points) + len(lengths)) - np.repeat(new_starts, lengths + 1)
    starts, sizes = np.repeat(rings.starts, lengths + 1), np.repeat(lengths, lengths + 1)
    order = starts + (np.repeat(heads, lengths + 1) - starts + steps) % sizes
    return _Rings(rings.points[order], new_starts, rings.stays[order])


def _halve(rings: _Rings, tolerance: float) -> Flags:
    """Choose the points to keep: those that stay, and in each piece, again and again, the farthest from its chord."""
    kept = rings.stays.copy()
    keys = _keys(rings.points, int(rings.points.max()) + 1)
    inner = np.flatnonzero(~kept)
    level = 0
    while len(inner):
        ends = np.flatnonzero(kept)
        right = np.searchsorted(ends, inner)
        before, after = ends[right - 1], ends[right]
        starts = np.flatnonzero(np.diff(before, prepend=-1))
        distances = chord_distances(rings.points[inner], rings.points[before], rings.points[after])
        lengths = np.diff(starts, append=len(inner))
        is_far = np.maximum.reduceat(distances, starts) > tolerance**2
        measure = distances if level < MAX_LEVELS else -np.abs(2.0 * inner - before - after)
        split = _first_at_best(measure, keys[inner], starts)[is_far]
        kept[inner[split]] = True
        inner = inner[np.repeat(is_far, lengths)]
        inner = inner[~kept[inner]]
        level += 1
    return kept


def chord_distances(points: Numbers, start: Numbers, end: Numbers) -> NDArray[np.float64]:
    """Squared distance of each point to the line between two others, the same for both directions of the line."""
    turned = (start[:, 0] > end[:, 0]) | ((start[:, 0] == end[:, 0]) & (start[:, 1] > end[:, 1]))
    low = np.where(turned[:, None], end, start).astype(np.float64)
    high = np.where(turned[:, None], start, end).astype(np.float64)
    chord, offset = high - low, points - low
    length = (chord**2).sum(1)
    share = np.clip((offset * chord).sum(1) / np.maximum(length, 1), 0, 1)
    return np.asarray(((offset - share[:, None] * chord) ** 2).sum(1))
