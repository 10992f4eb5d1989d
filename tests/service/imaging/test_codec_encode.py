"""PNG out: class ids and palettes, colours, depths and strips."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from service.imaging.codec import encode_grey_png, encode_label_png, encode_rgb_png
from tests.support.image_samples import PIXELS, decoded, encoded

Pixels = NDArray[np.uint8]


@settings(deadline=None)
@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=40)), st.integers(0, 2**32 - 1))
def test_label_png_holds_class_ids_and_palette(labels: Pixels, seed: int) -> None:
    palette = np.random.default_rng(seed).integers(0, 256, 768, np.uint8).tobytes()
    image = Image.open(io.BytesIO(encode_label_png(labels, palette)))
    assert (image.format, image.mode) == ("PNG", "P")
    np.testing.assert_array_equal(np.asarray(image), labels)
    assert bytes(image.getpalette() or []) == palette


def test_label_png_of_few_classes_has_eight_bits_per_pixel_and_a_short_palette() -> None:
    data = encode_label_png(np.array([[0, 1, 0]], np.uint8), bytes([1, 2, 3, 4, 5, 6]))
    assert data[24:26] == bytes([8, 3])
    np.testing.assert_array_equal(decoded(data).pixels, [[[1, 2, 3], [4, 5, 6], [1, 2, 3]]])


@settings(deadline=None)
@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))))
def test_rgb_png_round_trip(pixels: Pixels) -> None:
    image = decoded(encode_rgb_png(pixels))
    assert image.format == "PNG"
    np.testing.assert_array_equal(image.pixels, pixels)


def test_views_are_encoded_like_their_copies() -> None:
    view = PIXELS[::-1, ::2]
    assert encode_rgb_png(view) == encode_rgb_png(view.copy())
    assert encode_label_png(view[..., 0], bytes(768)) == encode_label_png(view[..., 0].copy(), bytes(768))


@pytest.mark.parametrize("shape", [(700, 1000), (3, 300_000), (1, 1)])
def test_pngs_of_several_strips_keep_every_value(shape: tuple[int, int]) -> None:
    samples = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(encode_grey_png(samples)))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), samples)


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.uint8, "L")])
def test_grey_pngs_are_read_in_both_depths(dtype: type[np.generic], mode: str) -> None:
    grey = np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0)
    stored = grey.astype(dtype) * (257 if dtype is np.uint16 else 1)
    data = encoded(stored, "PNG")
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(decoded(data).pixels, np.repeat(grey[..., None], 3, axis=2))
