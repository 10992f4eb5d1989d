"""The resize to the model's input."""

from __future__ import annotations

import numpy as np
import pytest

from service.preprocess import resize_to_input


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
