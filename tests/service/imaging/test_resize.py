"""The resize to the model's input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.imaging.resize import resize_to_input

sides = st.integers(1, 90)


def test_right_size_is_the_same_array() -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    assert resize_to_input(pixels, (6, 8)) is pixels


def test_axes_are_not_swapped() -> None:
    rows = np.repeat(np.array([10, 200], np.uint8), 2)[:, None, None]
    resized = resize_to_input(np.broadcast_to(rows, (4, 6, 3)).copy(), (2, 3))
    assert resized.dtype == np.uint8
    assert resized.shape == (2, 3, 3)
    assert (resized[0, 0, 0], resized[1, 0, 0]) == (37, 173)
    np.testing.assert_array_equal(resized, resized[:, :1, :1].repeat(3, 1).repeat(3, 2))


def test_shrinking_averages_all_pixels() -> None:
    checkerboard = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = np.repeat(checkerboard[..., None].astype(np.uint8), 3, axis=2)
    inner = resize_to_input(pixels, (8, 8))[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 128).max() <= 1


def test_enlarging_interpolates_between_pixel_centres() -> None:
    pixels = np.array([[[0, 0, 0], [100, 200, 40]]], np.uint8)
    expected = [[[0, 0, 0], [25, 50, 10], [75, 150, 30], [100, 200, 40]]]
    np.testing.assert_array_equal(resize_to_input(pixels, (1, 4)), expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5)])
def test_one_colour_stays_in_any_aspect(size: tuple[int, int]) -> None:
    pixels = np.broadcast_to(np.array([7, 130, 255], np.uint8), (37, 53, 3)).copy()
    np.testing.assert_array_equal(resize_to_input(pixels, size), np.broadcast_to([7, 130, 255], (*size, 3)))


def by_pillow(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pillow's resize, the width first in every version."""
    (height, width), bilinear = size, Image.Resampling.BILINEAR
    wide = Image.fromarray(pixels).resize((width, len(pixels)), bilinear)
    return np.asarray(wide.resize((width, height), bilinear))


@given(
    shape=st.tuples(sides, sides), size=st.tuples(sides, sides), extreme=st.booleans(), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=400, deadline=None)
def test_equal_to_pillow_bit_for_bit(shape: tuple[int, int], size: tuple[int, int], extreme: bool, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    if extreme:
        pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    np.testing.assert_array_equal(resize_to_input(pixels, size), by_pillow(pixels, size))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((360, 480), (576, 768)), ((720, 960), (576, 768)), ((2, 30_000), (1, 3)), ((3000, 20), (7, 900))],
)
def test_equal_to_pillow_at_sizes_of_use(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(resize_to_input(pixels, size), by_pillow(pixels, size))
    white = np.full_like(pixels, 255)
    assert resize_to_input(white, size).min() == 255


@pytest.mark.parametrize("size", [(5, 6), (9, 14), (20, 31), (1, 1)])
def test_a_fourth_byte_of_each_pixel_does_not_count(size: tuple[int, int]) -> None:
    padded = np.random.default_rng(1).integers(0, 256, (9, 14, 4), np.uint8)
    np.testing.assert_array_equal(
        resize_to_input(padded[..., :3], size), by_pillow(np.ascontiguousarray(padded[..., :3]), size)
    )


def test_pixels_in_any_order_of_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    pixels.flags.writeable = False
    expected = by_pillow(np.ascontiguousarray(pixels[::2, ::-1]), (5, 6))
    np.testing.assert_array_equal(resize_to_input(pixels[::2, ::-1], (5, 6)), expected)


def test_one_column_of_any_stride() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 3), np.uint8)
    assert pixels[:, ::2].strides == (3, 6, 1)
    np.testing.assert_array_equal(resize_to_input(pixels[:, ::2], (5, 6)), by_pillow(pixels, (5, 6)))


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "message"),
    [
        ((4, 4, 3), np.float32, (2, 2), "pixels are float32, expected uint8"),
        ((4, 4), np.uint8, (2, 2), r"shape \(4, 4\), expected \(H, W, 3\)"),
        ((4, 4, 4), np.uint8, (2, 2), r"shape \(4, 4, 4\), expected"),
        ((0, 4, 3), np.uint8, (2, 2), r"shape \(0, 4, 3\), expected"),
        ((4, 4, 3), np.uint8, (0, 2), r"size is \(0, 2\)"),
        ((4, 4, 3), np.uint8, (2, -1), r"size is \(2, -1\)"),
        ((4, 4, 3), np.uint8, (2, 2, 3), r"size is \(2, 2, 3\)"),
    ],
)
def test_wrong_input_is_named(shape: tuple[int, ...], dtype: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize_to_input(np.zeros(shape, dtype), size)
