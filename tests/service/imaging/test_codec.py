"""Images of every kind in: pixel values, orientation, transparency, depths and the memory it takes."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import UnsupportedImage
from service.imaging.codec import FORMATS, ImageHeader, open_image
from tests.support.image_samples import LOSSLESS, PIXELS, SAMPLES, decoded, encoded, exif_block

Pixels = NDArray[np.uint8]
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


def lies_row_by_row(pixels: NDArray[np.uint8]) -> bool:
    """True for an array without gaps but the one byte that may follow each pixel."""
    width = pixels.shape[1]
    return pixels.strides in ((3 * width, 3, 1), (4 * width, 4, 1))


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_lossless_formats_keep_every_value(image_format: str) -> None:
    image = decoded(encoded(PIXELS, image_format, **LOSSLESS[image_format]))
    assert image.format == image_format
    assert image.pixels.dtype == np.uint8
    assert lies_row_by_row(image.pixels)
    np.testing.assert_array_equal(image.pixels, PIXELS)


@pytest.mark.parametrize(("mode", "bytes_apart"), [("RGB", 4), ("L", 3), ("P", 3)])
def test_pixels_are_read_only_and_those_of_rgb_are_not_copied(mode: str, bytes_apart: int) -> None:
    pixels = decoded(encoded(Image.fromarray(PIXELS).convert(mode), "PNG")).pixels
    assert pixels.strides == (22 * bytes_apart, bytes_apart, 1)
    assert not pixels.flags.writeable


def test_header_states_the_cost_of_decoding() -> None:
    # Pillow's pixels and those turned upright, a strip, and four rows.
    cost = 286 * 8 + 286 * 12 + 4 * (1 + 22 * 3)
    assert open_image(SAMPLES["PNG"], max_image_bytes=9999, max_image_pixels=286).header == ImageHeader(
        "PNG", (22, 13), cost, ""
    )
    frames = [Image.fromarray(PIXELS[::-1])]
    animated = encoded(PIXELS, "WEBP", save_all=True, append_images=frames)
    assert open_image(animated, max_image_bytes=len(animated), max_image_pixels=286).header.unusual == "animated WebP"


def test_grey_image_of_several_strips_keeps_every_value() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (1100, 1000), np.uint8)
    np.testing.assert_array_equal(decoded(encoded(grey, "BMP"), 2**22, 2**21).pixels, grey[..., None].repeat(3, axis=2))


def test_jpeg_is_decoded_as_by_pillow_at_full_size() -> None:
    data = encoded(PIXELS, "JPEG", quality=90)
    image = decoded(data)
    assert image.format == "JPEG"
    np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_all_formats_are_sampled() -> None:
    assert {name.split(",")[0] for name in SAMPLES} == set(FORMATS)
    assert {decoded(data).format for data in SAMPLES.values()} == set(FORMATS)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PIXELS, image_format, exif=exif, **LOSSLESS[image_format])
    np.testing.assert_array_equal(decoded(data).pixels, UPRIGHT[orientation](PIXELS))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("order", ["<", ">"])
def test_jpeg_orientation_is_read_in_both_byte_orders(orientation: int, order: str) -> None:
    plain = decoded(encoded(PIXELS, "JPEG")).pixels
    turned = decoded(encoded(PIXELS, "JPEG", exif=exif_block(orientation, order))).pixels
    assert lies_row_by_row(turned)
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](plain))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0neither order",
        exif_block(6)[:30],
        exif_block(0),
        exif_block(9),
        exif_block(6).replace(b"\x08\0\0\0\x02", b"\x08\0\0\0\x01"),
        exif_block(6).replace(b"\x02\x00\x0f\x01", b"\xff\xff\x0f\x01").replace(b"\x12\x01", b"\x13\x01"),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_corrupt_orientation_is_ignored_without_a_warning(image_format: str, exif: bytes) -> None:
    options = LOSSLESS.get(image_format, {})
    plain = decoded(encoded(PIXELS, image_format, **options))
    np.testing.assert_array_equal(decoded(encoded(PIXELS, image_format, exif=exif, **options)).pixels, plain.pixels)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_blended_with_white(image_format: str) -> None:
    rgba = np.array([[[10, 200, 30, 255], [10, 200, 30, 0], [10, 200, 30, 51]]], np.uint8)
    options = {**LOSSLESS[image_format], **({"exact": True} if image_format == "WEBP" else {})}
    expected = [[[10, 200, 30], [255, 255, 255], [206, 244, 210]]]
    np.testing.assert_array_equal(decoded(encoded(rgba, image_format, **options)).pixels, expected)


def test_grey_with_alpha_is_blended_with_white() -> None:
    image = Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(decoded(encoded(image, "PNG")).pixels, [[[40] * 3, [255] * 3]])


@pytest.mark.parametrize(("image_format", "transparency"), [("PNG", 1), ("PNG", b"\xff\x00"), ("GIF", 1)])
def test_transparent_palette_entry_becomes_white(image_format: str, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 8, 7, 1, 2, 3, 250, 0, 100])
    data = encoded(image, image_format, transparency=transparency)
    np.testing.assert_array_equal(decoded(data).pixels, [[[9, 8, 7], [255, 255, 255], [250, 0, 100]]])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_colour_of_a_png_becomes_white(mode: str) -> None:
    image = Image.fromarray(np.array([[10, 20]], np.uint8)).convert(mode)
    data = encoded(image, "PNG", transparency=20 if mode == "L" else (20, 20, 20))
    np.testing.assert_array_equal(decoded(data).pixels, [[[10] * 3, [255] * 3]])


def test_palette_grey_and_bilevel_images_become_rgb() -> None:
    grey = np.array([[0, 77, 255]], np.uint8)
    palette = Image.fromarray(np.array([[0, 1, 0]], np.uint8))
    palette.putpalette([9, 8, 7, 250, 0, 100])
    bilevel = Image.fromarray(grey).point(lambda value: 255 * (value > 100), mode="1")
    for image, expected in (
        (Image.fromarray(grey), [[[0] * 3, [77] * 3, [255] * 3]]),
        (palette, [[[9, 8, 7], [250, 0, 100], [9, 8, 7]]]),
        (bilevel, [[[0] * 3, [0] * 3, [255] * 3]]),
    ):
        np.testing.assert_array_equal(decoded(encoded(image, "PNG")).pixels, expected)


@pytest.mark.parametrize(("image_format", "tolerance"), [("TIFF", 0), ("JPEG", 3)])
def test_cmyk_becomes_rgb_and_is_not_inverted(image_format: str, tolerance: int) -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 100, 0))
    options = {"quality": 100} if image_format == "JPEG" else {}
    pixels = decoded(encoded(image, image_format, **options)).pixels.astype(int)
    assert np.abs(pixels - [0, 255, 155]).max() <= tolerance


@pytest.mark.parametrize(("lightness", "grey"), [(0, 0), (255, 255)])
def test_lab_becomes_rgb(lightness: int, grey: int) -> None:
    pixels = decoded(encoded(Image.new("LAB", (4, 4), (lightness, 128, 128)), "TIFF")).pixels.astype(int)
    assert np.abs(pixels - grey).max() <= 1


SIXTEEN_BITS = np.array([[0, 128, 129, 257, 385, 386, 40000, 65406, 65407, 65535]], np.uint16)
EIGHT_BITS = np.array([[0, 0, 1, 1, 1, 2, 156, 254, 255, 255]])


@pytest.mark.parametrize(("image_format", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("TIFF", "<i4")])
def test_sixteen_bits_are_scaled_and_rounded(image_format: str, dtype: str) -> None:
    pixels = decoded(encoded(SIXTEEN_BITS.astype(dtype), image_format)).pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, EIGHT_BITS[..., None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.array([[0, 65536]], np.int32), r"^the TIFF image has samples 0\.\.65536, expected 0\.\.65535$"),
        (np.array([[-1, 7]], np.int32), r"^the TIFF image has samples -1\.\.7, expected"),
        (np.array([[0.5, 1]], np.float32), "^the TIFF image has floating-point samples"),
    ],
)
def test_samples_without_an_agreed_range_are_unsupported(samples: NDArray[Any], reason: str) -> None:
    with pytest.raises(UnsupportedImage, match=reason):
        decoded(encoded(samples, "TIFF"))


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_frame_is_taken(image_format: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = LOSSLESS.get(image_format, {})
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decoded(data).pixels, np.broadcast_to([255, 0, 0], (4, 5, 3)))


_PEAK_OF_DECODING = """
import sys
from service.imaging.codec import decode

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

small, large = (open(path, "rb").read() for path in sys.argv[1:])
decode(small, max_image_bytes=1 << 30, max_image_pixels=1 << 30)
before = peak()
pixels = decode(large, max_image_bytes=1 << 30, max_image_pixels=1 << 30).pixels
print((peak() - before) / (pixels.size / 3))
"""


@pytest.mark.parametrize(
    ("image", "most"),
    [
        (Image.new("RGBA", (1, 1), (1, 2, 3, 128)), 9),
        (Image.fromarray(np.full((1, 1), 300, np.uint16)), 7),
        (Image.new("P", (1, 1), 3), 6),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_conversion_never_holds_another_whole_copy(image: Image.Image, most: float, tmp_path: Path) -> None:
    """Bytes per pixel at the peak: of Pillow's image (4, 2 and 1), of the result (3), and of a strip."""
    paths = [tmp_path / "small.png", tmp_path / "large.png"]
    for path, side in zip(paths, (8, 4000), strict=True):
        image.resize((side, side)).save(path, compress_level=1)
    told = subprocess.check_output([sys.executable, "-c", _PEAK_OF_DECODING, *map(str, paths)], text=True)
    assert float(told) < most
