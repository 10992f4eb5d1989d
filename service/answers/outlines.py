"""Regions of a label map as annotation tools know them: one class and one ring each, without holes.

A hole becomes a part of the outer ring, joined to it by a line there and back. Such a ring has the same area, and a
program that fills it by the even-odd rule gives the region with its hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.answers.contours import Polygon, Ring, trace
from service.answers.simplify import simplify
from service.errors import InvalidParameter
from service.model_directory.manifest import ClassInfo, Manifest

# More than a person edits; label maps of photos stay far below once they are simplified. A region takes 0.1 ms.
MAX_CORNERS = 200_000
MAX_REGIONS = 5_000
MAX_HOLES = 5_000
# Corners of an outer ring that each of its holes is compared with.
_MOST_COMPARED = 4096


@dataclass(frozen=True, slots=True)
class Outline:
    """A region.

    Attributes:
        info: Its class.
        ring: (N, 2) int32, x and y of its corners in pixels from the upper left corner of the image.
        area: In pixels.
    """

    info: ClassInfo
    ring: Ring
    area: float


def outlines(labels: NDArray[np.uint8], manifest: Manifest, tolerance: float, answer_format: str) -> list[Outline]:
    """Find the regions of all classes, the largest first, so that tools draw small ones on top.

    Args:
        labels: (H, W) uint8; pixels whose id is not a class are left out.
        manifest: The classes.
        tolerance: See ``simplify``.
        answer_format: Name of the format, for errors.

    Raises:
        InvalidParameter: There are more than ``MAX_CORNERS`` corners, ``MAX_REGIONS`` regions or ``MAX_HOLES`` holes;
            see also ``trace``.
    """
    polygons = simplify(trace(labels, answer_format), labels, tolerance)
    pairs = [(info, polygon) for info in manifest.classes for polygon in polygons.get(info.id, ())]
    _check([polygon for _, polygon in pairs], answer_format)
    found = [Outline(info, _joined(polygon), sum(map(_area, polygon))) for info, polygon in pairs]
    return sorted(found, key=lambda outline: -outline.area)


def _check(polygons: Sequence[Polygon], answer_format: str) -> None:
    counts = {
        "corners": (sum(len(ring) for polygon in polygons for ring in polygon), MAX_CORNERS),
        "regions": (len(polygons), MAX_REGIONS),
        "holes": (sum(len(polygon) - 1 for polygon in polygons), MAX_HOLES),
    }
    for unit, (count, limit) in counts.items():
        if count > limit:
            raise InvalidParameter(
                f"this label map has {count} {unit}, the limit of format={answer_format} is {limit}; "
                "ask for a larger simplify, fewer classes or size=model",
                extra={"parameter": "format", "value": answer_format, "limit": limit, "unit": unit},
            )


def _area(ring: Ring) -> float:
    """Area of a ring in pixels, negative for a hole."""
    x, y = ring.astype(np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _joined(polygon: Polygon) -> Ring:
    """Join every hole to the outer ring, at the outer corner that is nearest to the hole's leftmost one.

    Of a long outer ring ``_MOST_COMPARED`` corners are compared, evenly spread.
    """
    outer, *holes = polygon
    step = -(-len(outer) // _MOST_COMPARED)
    compared = outer[::step].astype(np.int64)
    detours: dict[int, list[Ring]] = {}
    for hole in holes:
        first = int(np.argmin(hole[:, 0]))
        nearest = step * int(np.argmin(((compared - hole[first]) ** 2).sum(1)))
        detours.setdefault(nearest, []).append(np.roll(hole, -first, axis=0))
    pieces: list[Ring] = []
    start = 0
    for corner in sorted(detours):
        pieces.append(outer[start : corner + 1])
        for hole in detours[corner]:
            pieces += [hole, hole[:1], outer[corner : corner + 1]]
        start = corner + 1
    return np.concatenate([*pieces, outer[start:]])
