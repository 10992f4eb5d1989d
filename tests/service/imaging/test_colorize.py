"""Colours of label maps, against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.imaging.colorize import colorize, overlay

PALETTE = bytes([128, 128, 128, 128, 0, 0, 0, 128, 192, 255, 255, 255])
LABELS = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)


def test_colours_come_from_the_palette() -> None:
    expected = [
        [[128, 128, 128], [128, 0, 0], [0, 128, 192]],
        [[255, 255, 255], [0, 128, 192], [128, 0, 0]],
    ]
    colours = colorize(LABELS, PALETTE)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, expected)


def test_all_256_classes_have_colours() -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    np.testing.assert_array_equal(colorize(labels, palette.tobytes()), palette[labels])


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), st.floats(0, 1))
def test_overlay_rounds_as_documented(pixel: int, colour: int, alpha: float) -> None:
    weight = round(alpha * 256)
    blended = overlay(np.full((2, 3, 3), pixel, np.uint8), np.zeros((2, 3), np.uint8), bytes([colour] * 3), alpha)
    assert blended.dtype == np.uint8
    assert blended.shape == (2, 3, 3)
    assert set(blended.ravel().tolist()) == {(pixel * (256 - weight) + colour * weight + 128) // 256}


def test_half_overlay_is_the_rounded_mean() -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    mean = (pixels.astype(np.int64) + colorize(LABELS, PALETTE) + 1) // 2
    np.testing.assert_array_equal(overlay(pixels, LABELS, PALETTE), mean)


def test_ends_of_alpha_give_image_and_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    np.testing.assert_array_equal(overlay(pixels, LABELS, PALETTE, alpha=0), pixels)
    np.testing.assert_array_equal(overlay(pixels, LABELS, PALETTE, alpha=1), colorize(LABELS, PALETTE))


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_alpha_outside_of_its_range_is_named(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"alpha is {alpha}, expected 0\.\.1"):
        overlay(np.zeros((2, 3, 3), np.uint8), LABELS, PALETTE, alpha)


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"the image is \(4, 3\), its label map \(2, 3\)"):
        overlay(np.zeros((4, 3, 3), np.uint8), LABELS, PALETTE)


def test_void_keeps_the_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    labels = np.array([[0, 255, 2], [255, 2, 1]], np.uint8)
    blend = overlay(pixels, labels, PALETTE.ljust(768, b"\0"), void=255)
    assert (blend[labels == 255] == pixels[labels == 255]).all()
    others = overlay(pixels, np.where(labels == 255, np.uint8(0), labels), PALETTE)
    np.testing.assert_array_equal(blend[labels != 255], others[labels != 255])


def test_images_of_several_strips_are_blended_whole() -> None:
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (150, 3, 3), np.uint8), generator.integers(0, 4, (150, 3), np.uint8)
    expected = (pixels.astype(np.int64) * 192 + colorize(labels, PALETTE) * np.int64(64) + 128) // 256
    np.testing.assert_array_equal(overlay(pixels, labels, PALETTE, alpha=0.25), expected)
