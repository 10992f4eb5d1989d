"""EXIF orientations 1..8 as turns of arrays.

Photos are stored as the sensor is held and turned by programs that show them, annotation tools and the service too. So
an image and its labels are both turned upright.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

UPRIGHT = 1
SIDEWAYS = range(5, 9)
"""Orientations that exchange height and width."""

_INVERSE = {6: 8, 8: 6}

Pixels = TypeVar("Pixels", bound="np.ndarray[Any, Any]")


def turned_upright(stored: Pixels, orientation: int) -> Pixels:
    """Stored rows and columns, (H, W) or (H, W, C), as the picture that the orientation means."""
    rows_and_columns = stored.swapaxes(0, 1) if orientation in SIDEWAYS else stored
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return rows_and_columns[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]  # type: ignore[return-value]


def turned_back(upright: Pixels, orientation: int) -> Pixels:
    """A picture as the rows and columns that an orientation stores it in."""
    return turned_upright(upright, _INVERSE.get(orientation, orientation))
