"""Images of every kind in, PNG out: pixel values, limits, and answers to bytes that are not an image."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from service.errors import NotAnImage, PayloadTooLarge, ServiceError, UnsupportedImage
from service.imaging.codec import (
    FORMATS,
    DecodedImage,
    ImageHeader,
    decode,
    encode_grey_png,
    encode_label_png,
    encode_rgb_png,
    open_image,
)

Pixels = NDArray[np.uint8]

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 22, 3), np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}
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


def decoded(data: bytes, max_image_bytes: int = 2**20, max_image_pixels: int = 2**20) -> DecodedImage:
    return decode(data, max_image_bytes=max_image_bytes, max_image_pixels=max_image_pixels)


def encoded(image: Image.Image | NDArray[Any], image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, image_format, **options)
    return stream.getvalue()


def exif_block(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with a maker and an orientation."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    maker = struct.pack(f"{order}HHI", 0x010F, 2, 4) + b"Abc\0"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 2) + maker + entry + bytes(4)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


SAMPLES = {
    "JPEG": encoded(PIXELS, "JPEG", exif=exif_block(6)),
    "JPEG, progressive": encoded(PIXELS, "JPEG", progressive=True),
    "JPEG, CMYK": encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "PNG": encoded(PIXELS, "PNG", exif=exif_block(8)),
    "PNG, palette": encoded(Image.fromarray(PIXELS).quantize(16), "PNG", transparency=3),
    "PNG, animated": encoded(PIXELS, "PNG", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
    "WEBP": encoded(PIXELS, "WEBP", exif=exif_block(3)),
    "BMP": encoded(PIXELS, "BMP"),
    "TIFF": encoded(PIXELS, "TIFF"),
    "TIFF, LZW": encoded(PIXELS, "TIFF", compression="tiff_lzw"),
    "GIF": encoded(PIXELS, "GIF"),
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


def test_bytes_are_counted_before_anything_else() -> None:
    with pytest.raises(PayloadTooLarge, match="the image has 33 bytes, at most 32 are accepted") as caught:
        decoded(bytes(33), max_image_bytes=32)
    assert caught.value.extra == {"value": 33, "limit": 32, "unit": "bytes"}


def test_limits_themselves_are_accepted() -> None:
    data = SAMPLES["BMP"]
    assert decoded(data, max_image_bytes=len(data), max_image_pixels=13 * 22).pixels.shape == (13, 22, 3)
    with pytest.raises(PayloadTooLarge, match=r"the image has 286 pixels \(22x13\), at most 285 are accepted"):
        decoded(data, max_image_pixels=13 * 22 - 1)


def test_claimed_size_is_refused_without_decoding() -> None:
    with pytest.raises(PayloadTooLarge, match="3600000000 pixels"):
        decoded(png_header(60_000, 60_000))
    with pytest.raises(NotAnImage):
        decoded(png_header(600, 600))


@pytest.mark.parametrize(
    ("name", "size", "position"),
    [
        ("BMP", struct.pack("<ii", 50_000, 40_000), 18),
        ("GIF", struct.pack("<HH", 50_000, 40_000), 6),
        ("JPEG", struct.pack(">HH", 40_000, 50_000), SAMPLES["JPEG"].index(b"\xff\xc0") + 5),
    ],
)
def test_claimed_sizes_beyond_pillows_own_limit_are_refused(name: str, size: bytes, position: int) -> None:
    data = bytearray(SAMPLES[name])
    data[position : position + len(size)] = size
    with pytest.raises(PayloadTooLarge, match=r"2000000000 pixels \(50000x40000\)"):
        decoded(bytes(data))


def test_sizes_above_pillows_warning_are_left_to_the_caller() -> None:
    with pytest.raises(NotAnImage):  # 100 million pixels: accepted by the limit, but the data is missing
        decoded(png_header(10_000, 10_000), max_image_pixels=10**8)


def test_huge_webp_canvas_is_refused() -> None:
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xfe\x3f\0" * 2
    data = b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas
    with pytest.raises((PayloadTooLarge, NotAnImage)):
        decoded(data)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_bombs_beside_the_pixels_of_a_png_are_not_unpacked(kind: bytes) -> None:
    packed = zlib.compress(bytes(4_000_000), 9)
    body = b"key\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + packed
    data = encoded(PIXELS, "PNG")
    # Pillow refuses more than 1 MB.
    np.testing.assert_array_equal(decoded(data[:33] + png_chunk(kind, body) + data[33:]).pixels, PIXELS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the bytes are not an image of JPEG, PNG, WEBP, BMP, TIFF, GIF: there are none"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "they start with b'<!DOCTY"),
        (b"plain text", "they start with b'plain te'"),
        (b"%PDF-1.7\n", "they start with b'%PDF-1.7'"),
        (bytes(1000), "they start with"),
        (b"BM", "the BMP image is truncated or corrupt"),
        (b"\xff\xd8\xff", "the JPEG image is truncated or corrupt"),
    ],
)
def test_other_bytes_are_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(NotAnImage) as caught:
        decoded(data)
    assert reason in caught.value.detail


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\x7f", "JPEG XL"),
        (b"\0\0\1\0\1\0\x10\x10", "ICO"),
        (b"8BPS\0\1", "PSD"),
        (encoded(PIXELS, "PPM"), "PNM"),
        (encoded(PIXELS, "DDS"), "DDS"),
        (b"v/1\1\2\0\0\0", "OpenEXR"),
        (b"qoif\0\0\0\1", "QOI"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg width="1"/>', "SVG"),
    ],
)
def test_other_image_formats_are_unsupported_and_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decoded(data)
    assert caught.value.detail == f"the image is {name}, accepted are JPEG, PNG, WEBP, BMP, TIFF, GIF"
    assert caught.value.extra == {"value": name}


def test_names_of_other_formats_are_looked_for_in_the_first_1024_bytes() -> None:
    with pytest.raises(UnsupportedImage, match="the image is SVG"):
        decoded(b"<svg>".rjust(1024))
    with pytest.raises(NotAnImage, match="the bytes are not an image"):
        decoded(b"<svg>".rjust(1025))


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"PNG, animated"}))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_images_are_refused(name: str, share: float) -> None:
    data = SAMPLES[name]
    with pytest.raises(NotAnImage) as caught:
        decoded(data[: int(share * len(data))])
    start = f"the {name.partition(',')[0]} image is truncated or corrupt: "
    assert caught.value.detail.startswith(start)
    assert len(caught.value.detail) > len(start)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([data[:16] for data in SAMPLES.values()] + [b""]), st.binary(max_size=300))
def test_random_bytes_raise_only_our_errors(start: bytes, rest: bytes) -> None:
    with pytest.raises(ServiceError):
        decoded(start + rest)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_corrupted_images_raise_only_our_errors_or_decode(data: st.DataObject) -> None:
    corrupt = bytearray(data.draw(st.sampled_from(list(SAMPLES.values()))))
    for position in data.draw(st.lists(st.integers(0, len(corrupt) - 1), min_size=1, max_size=8)):
        corrupt[position] = data.draw(st.integers(0, 255))
    try:
        pixels = decoded(bytes(corrupt)).pixels
    except ServiceError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


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
