"""Large images by overlapping windows at their own resolution: blended logits, and labels written band by band.

Windows lie on the grid of the logits' cells, so nothing is resized before labels are made. Bands run along the image's
longer side: besides image and labels it holds only one row of windows across the shorter side, whatever the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from service.imaging.label_map import Logits, label_map

OVERLAP = 0.25
# Rows of cells that are painted at once; the scratch memory of a paint grows with them.
STRIP_CELLS = 32

Size = tuple[int, int]
Pixels = NDArray[np.uint8]
Paint = Callable[[Logits, Size], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Tile:
    """One window: its ``band``, its place ``across`` the band, and its corner in pixels of the image."""

    band: int
    across: int
    top: int
    left: int


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Places of the windows of an image.

    Attributes:
        size: (H, W) of the image.
        window: (height, width) of every window; at the image's lower and right border it may reach beyond.
        stride: Pixels of a cell of the logits, along each side.
        transposed: True if bands run from left to right, False from top to bottom.
        bands: First cell of each band along the image's longer side.
        across: First cell of each window across a band.
    """

    size: Size
    window: Size
    stride: int
    transposed: bool
    bands: tuple[int, ...]
    across: tuple[int, ...]

    @property
    def num_windows(self) -> int:
        return len(self.bands) * len(self.across)

    @property
    def window_cells(self) -> Size:
        """Cells of a window, along the bands and across them."""
        height, width = (side // self.stride for side in self.window)
        return (width, height) if self.transposed else (height, width)

    def tiles(self) -> Iterator[Tile]:
        """Every window, band by band."""
        for (band, along), (place, across) in product(enumerate(self.bands), enumerate(self.across)):
            top, left = (across, along) if self.transposed else (along, across)
            yield Tile(band, place, top * self.stride, left * self.stride)


def plan_tiles(size: Size, window: Size, stride: int, overlap: float = OVERLAP) -> TilePlan | None:
    """Cover an image with windows whose neighbours share at least ``overlap`` of a window; None if one is enough.

    Args:
        size: (H, W) of the image.
        window: (height, width) in pixels, multiples of ``stride``.
        stride: Pixels of a cell of the logits, along each side.
        overlap: Share of a window's side, 0..1 without 1. Windows are spread evenly, the last ends with the image.
    """
    cells = [-(-side // stride) for side in size]
    starts = [_starts(*sides, overlap) for sides in zip(cells, (side // stride for side in window), strict=True)]
    if all(len(side) == 1 for side in starts):
        return None
    transposed = size[1] > size[0]
    bands, across = reversed(starts) if transposed else starts
    return TilePlan(size, window, stride, transposed, bands, across)


def cut(pixels: Pixels, tile: Tile, window: Size) -> Pixels:
    """The window of an image (H, W, 3), (height, width, 3); beyond the image its border pixels repeat."""
    (height, width), (top, left) = window, (tile.top, tile.left)
    inside = pixels[top : top + height, left : left + width]
    missing = (height - inside.shape[0], width - inside.shape[1])
    if missing == (0, 0):
        return np.ascontiguousarray(inside)
    return np.pad(inside, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


class Mosaic:
    """Blends the logits of windows, and paints what no further window can change.

    Attributes:
        plan: Where the windows lie.
        painted: (H, W) uint8 of each paint, complete after the last band.
    """

    def __init__(self, plan: TilePlan, num_classes: int, paints: Sequence[Paint] = (label_map,)) -> None:
        """Begin an image.

        Args:
            plan: Its windows.
            num_classes: K.
            paints: Each makes (stride * h, stride * w) uint8 of logits (K, h, w) by bilinear interpolation.
        """
        self.plan = plan
        self.painted = [np.empty(plan.size, np.uint8) for _ in paints]
        self._canvases = [canvas.T if plan.transposed else canvas for canvas in self.painted]
        self._paints = paints
        along, across = plan.window_cells
        self._weights = _shares(plan.bands, along), _shares(plan.across, across)
        # The row before the band comes first, as its pixels reach into it.
        self._cells = np.zeros((num_classes, 1 + along, plan.across[-1] + across), np.float32)

    def add(self, tile: Tile, logits: Logits) -> None:
        """Blend in the logits (K, h, w) of a window of the current band."""
        oriented = logits.transpose(0, 2, 1) if self.plan.transposed else logits
        along, across = self._weights[0][tile.band], self._weights[1][tile.across]
        start = self.plan.across[tile.across]
        self._cells[:, 1:, start : start + len(across)] += oriented * (along[:, None] * across)

    def finish(self, band: int) -> None:
        """Paint the rows of a band that the next does not reach, and continue with that one.

        Raises:
            ValueError, MemoryError: Logits that a paint refuses.
        """
        first = self.plan.bands[band]
        is_last = band == len(self.plan.bands) - 1
        rows = self._cells.shape[1] - 1 if is_last else self.plan.bands[band + 1] - first
        for done in range(0, rows, STRIP_CELLS):
            end = min(rows, done + STRIP_CELLS)
            # The strip, and the row before it unless it begins the image.
            cells = self._cells[:, done + (first + done == 0) : end + 1]
            self._paint(cells, max(0, first + done - 1), is_last=is_last and end == rows)
        self._cells[:, :-rows] = self._cells[:, rows:]
        self._cells[:, -rows:] = 0

    def _paint(self, cells: Logits, first: int, *, is_last: bool) -> None:
        """Paint between the centres of the first and the last of ``cells``, and beyond where the image begins or ends.

        Args:
            cells: (K, h, w) logits, w the whole width of a band.
            first: Where the first row of them lies.
            is_last: True if the image ends with them.
        """
        stride = self.plan.stride
        # Pixels from the edge of a cell to its centre: from there on the next cell has a part in a bilinear resize.
        half = stride // 2
        size = (stride * cells.shape[1], stride * cells.shape[2])
        start, end = 0 if first == 0 else half, size[0] - (0 if is_last else half)
        offset = stride * first
        for paint, canvas in zip(self._paints, self._canvases, strict=True):
            target = canvas[offset + start : offset + end]
            target[...] = paint(cells, size)[start : start + len(target), : target.shape[1]]


def _starts(cells: int, window: int, overlap: float) -> tuple[int, ...]:
    """First cells of windows along a side."""
    step = max(1, int(window * (1 - overlap)))
    gaps = -(-max(0, cells - window) // step)
    return (0, *(place * (cells - window) // gaps for place in range(1, gaps + 1)))


def _shares(starts: tuple[int, ...], window: int) -> list[NDArray[np.float32]]:
    """Weights of each window's cells along a side; those of one cell over all windows add up to 1.

    They fall linearly from the middle of a window to its borders, where it sees least of the surroundings.
    """
    ramp = np.minimum(np.arange(window), np.arange(window)[::-1]) + 1.0
    total = np.zeros(starts[-1] + window)
    for start in starts:
        total[start : start + window] += ramp
    return [(ramp / total[start : start + window]).astype(np.float32) for start in starts]
