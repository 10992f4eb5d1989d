"""Windows that cover an image, blends that add up, and bands without seams."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.imaging.label_map import label_map
from service.imaging.segmentation import confidence_map
from service.imaging.tiling import Mosaic, Paint, TilePlan, cut, plan_tiles

WINDOW = (32, 48)

sizes = st.tuples(st.integers(1, 150), st.integers(1, 200))
overlaps = st.integers(0, 14).map(lambda share: share / 16)
seeds = st.integers(0, 2**32 - 1)


def planned(size: tuple[int, int], window: tuple[int, int] = WINDOW, overlap: float = 0.25) -> TilePlan:
    plan = plan_tiles(size, window, 4, overlap)
    assert plan is not None
    return plan


def window_logits(plan: TilePlan, num_classes: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Random logits of each window, in the order of the tiles."""
    height, width = (side // 4 for side in plan.window)
    shape = (plan.num_windows, num_classes, height, width)
    return list(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def by_bands(plan: TilePlan, logits: list[NDArray[np.float32]], paint: Paint = label_map) -> NDArray[np.uint8]:
    mosaic = Mosaic(plan, len(logits[0]), [paint])
    for tile, window in zip(plan.tiles(), logits, strict=True):
        mosaic.add(tile, window)
        if tile.across == len(plan.across) - 1:
            mosaic.finish(tile.band)
    return mosaic.painted[0]


def triangle(length: int) -> NDArray[np.float64]:
    return np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(np.float64)


def at_once(plan: TilePlan, logits: list[NDArray[np.float32]], paint: Paint = label_map) -> NDArray[np.uint8]:
    """The picture of all logits in memory together, with weights written down another way."""
    height, width = (side // 4 for side in plan.window)
    rows, columns = (max(cells, -(-side // 4)) for cells, side in zip((height, width), plan.size, strict=True))
    places = [(tile.top // 4, tile.left // 4) for tile in plan.tiles()]
    row_sum, column_sum = np.zeros(rows), np.zeros(columns)
    for top in {top for top, _ in places}:
        row_sum[top : top + height] += triangle(height)
    for left in {left for _, left in places}:
        column_sum[left : left + width] += triangle(width)
    blended = np.zeros((len(logits[0]), rows, columns), np.float32)
    for (top, left), window in zip(places, logits, strict=True):
        down = (triangle(height) / row_sum[top : top + height]).astype(np.float32)
        right = (triangle(width) / column_sum[left : left + width]).astype(np.float32)
        blended[:, top : top + height, left : left + width] += window * (down[:, None] * right)
    if plan.transposed:  # only matters to the rounding of Pillow, which goes along rows first
        return paint(blended.transpose(0, 2, 1), (4 * columns, 4 * rows)).T[: plan.size[0], : plan.size[1]]
    return paint(blended, (4 * rows, 4 * columns))[: plan.size[0], : plan.size[1]]


@settings(deadline=None, max_examples=200)
@given(sizes, overlaps)
def test_windows_cover_the_image_with_the_overlap_and_end_with_it(size: tuple[int, int], overlap: float) -> None:
    plan = plan_tiles(size, WINDOW, 4, overlap)
    if plan is None:
        assert size[0] <= WINDOW[0]
        assert size[1] <= WINDOW[1]
        return
    tiles = list(plan.tiles())
    assert len(tiles) == plan.num_windows > 1
    corners = {(tile.top, tile.left) for tile in tiles}
    assert len(corners) == len(tiles)
    for axis, (side, length) in enumerate(zip(size, WINDOW, strict=True)):
        starts = sorted({corner[axis] for corner in corners})
        assert starts[0] == 0
        assert starts[-1] == max(0, -(-side // 4) * 4 - length)
        assert all(start % 4 == 0 for start in starts)
        shared = int(np.ceil(length / 4 * overlap)) * 4
        assert all(0 < after - before <= max(4, length - shared) for before, after in pairwise(starts))


def test_the_plan_of_a_street() -> None:
    plan = planned((1080, 1920), (576, 768))
    assert plan.transposed  # bands of whole columns, as those are shorter
    assert [(tile.top, tile.left) for tile in plan.tiles()] == [
        (top, left) for left in (0, 576, 1152) for top in (0, 252, 504)
    ]


@pytest.mark.parametrize("size", [(1, 1), (32, 48), (31, 2)])
def test_an_image_of_one_window_has_no_plan(size: tuple[int, int]) -> None:
    assert plan_tiles(size, WINDOW, 4) is None


@settings(deadline=None, max_examples=60)
@given(
    sizes.filter(lambda size: plan_tiles(size, WINDOW, 4) is not None),
    st.integers(1, 6),
    overlaps,
    st.integers(1, 32),
    seeds,
)
def test_bands_are_painted_as_if_all_logits_were_there(
    size: tuple[int, int], num_classes: int, overlap: float, strip: int, seed: int
) -> None:
    plan = planned(size, overlap=overlap)
    logits = window_logits(plan, num_classes, seed)
    for paint in (label_map, confidence_map):
        with mock.patch("service.imaging.tiling.STRIP_CELLS", strip):
            banded = by_bands(plan, logits, paint)
        np.testing.assert_array_equal(banded, at_once(plan, logits, paint))


@pytest.mark.parametrize("size", [(33, 300), (300, 33), (129, 129), (130, 191), (400, 50)])
def test_where_windows_agree_the_result_is_that_of_the_whole(size: tuple[int, int]) -> None:
    """A field that is a function of the place alone: no blend can change it."""
    plan = planned(size)
    rows, columns = (max(window, -(-side // 4) * 4) // 4 for side, window in zip(size, WINDOW, strict=True))
    field = np.random.default_rng(1).integers(-50, 50, (5, rows, columns)).astype(np.float32)
    logits = [field[:, tile.top // 4 :, tile.left // 4 :][:, :8, :12] for tile in plan.tiles()]
    expected = label_map(field, (4 * rows, 4 * columns))[: size[0], : size[1]]
    assert (by_bands(plan, logits) == expected).mean() > 0.995  # a tie is decided by the last bit of the weights


def test_a_window_fades_out_where_its_neighbour_fades_in() -> None:
    """Two windows of one opinion each: the border between the classes lies in the middle of what they share."""
    plan = planned((32, 84))  # cells 0..11 and 9..20
    assert plan.across == (0,)
    assert plan.bands == (0, 9)
    left, right = np.zeros((2, 8, 12), np.float32), np.zeros((2, 8, 12), np.float32)
    left[0] = right[1] = 1.0
    labels = by_bands(plan, [left, right])
    np.testing.assert_array_equal(labels, np.broadcast_to(np.arange(84) >= 42, (32, 84)))


def test_beyond_the_image_its_border_goes_on() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 30, 3), np.uint8)
    plan = planned(pixels.shape[:2])
    *_, last = plan.tiles()
    window = cut(pixels, last, WINDOW)
    assert window.shape == (32, 48, 3)
    assert last.top == 40
    np.testing.assert_array_equal(window[:30, :30], pixels[40:])
    np.testing.assert_array_equal(window[30:, :30], np.broadcast_to(pixels[-1], (2, 30, 3)))
    np.testing.assert_array_equal(window[:30, 30:], np.broadcast_to(pixels[40:, -1:], (30, 18, 3)))


def test_bands_run_across_the_shorter_side() -> None:
    """So that what is held of a panorama, 250 cells wide, is not a row of windows over its length."""
    for size in ((1_000, 100_000), (100_000, 1_000)):
        plan = planned(size, (576, 768))
        assert plan.transposed == (size[1] > size[0])
        assert len(plan.across) == 2
        assert plan.across[-1] + plan.window_cells[1] == 250
