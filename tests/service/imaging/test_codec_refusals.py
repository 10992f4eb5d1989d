"""Limits of images, and answers to bytes that are not an image."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import NotAnImage, PayloadTooLarge, ServiceError, UnsupportedImage
from tests.support.hostile import png_chunk
from tests.support.image_samples import PIXELS, SAMPLES, decoded, encoded


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


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
