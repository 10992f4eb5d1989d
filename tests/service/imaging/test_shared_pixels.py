"""Views of Pillow's memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from PIL import Image

from service.imaging.shared_pixels import shared_pixels


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 7), (31, 64), (600, 801)])
def test_the_view_has_the_pixels_and_outlives_the_image(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = np.asarray(image)
    view = shared_pixels(image)
    del image
    gc.collect()
    _ = [noise(*size) for _ in range(8)]  # would take the memory if it were free
    assert view is not None
    assert (view.dtype, view.flags.writeable) == (np.uint8, False)
    np.testing.assert_array_equal(view, expected)


def test_an_image_in_several_blocks_has_no_view() -> None:
    assert shared_pixels(Image.new("RGB", (1025, 16384 // 4 + 1))) is None
