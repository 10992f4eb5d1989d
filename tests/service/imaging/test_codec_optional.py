"""AVIF and HEIF, which need libraries that not every installation has; and the colour behind transparent pixels."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image

from service.errors import NotAnImage, PayloadTooLarge, UnsupportedImage
from service.imaging.codec import decode, read_size

# Smooth, as both codecs are lossy: from left to right brighter in red, from top to bottom in blue.
PIXELS = np.stack(np.broadcast_arrays(np.arange(60)[None] * 4, 90, np.arange(40)[:, None] * 6), axis=2).astype(np.uint8)
LOSS = 12

needs_avif = pytest.mark.skipif(not AvifImagePlugin.SUPPORTED, reason="this Pillow was built without libavif")


def decoded(data: bytes, max_image_pixels: int = 2**20) -> tuple[str, NDArray[np.uint8]]:
    image = decode(data, max_image_bytes=2**20, max_image_pixels=max_image_pixels)
    return image.format, image.pixels


def avif(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "AVIF", quality=95, **options)
    return stream.getvalue()


def heif(orientation: int = 1) -> bytes:
    library = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PIXELS)
    image.info["exif"] = exif.tobytes()
    library.register_heif_opener()
    stream = io.BytesIO()
    image.save(stream, "HEIF", quality=95)
    return stream.getvalue()


def is_close(pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    return pixels.shape == expected.shape and int(np.abs(pixels.astype(int) - expected).max()) <= LOSS


@needs_avif
def test_avif_is_read() -> None:
    image_format, pixels = decoded(avif())
    assert image_format == "AVIF"
    assert is_close(pixels, PIXELS)


@needs_avif
def test_avif_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert is_close(decoded(avif(exif=exif))[1], np.rot90(PIXELS, -1))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heif_is_read_upright(orientation: int) -> None:
    image_format, pixels = decoded(heif(orientation))
    assert image_format == "HEIF"
    assert is_close(pixels, np.rot90(PIXELS, {1: 0, 3: 2, 6: -1, 8: 1}[orientation]))


@needs_avif
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(share: float) -> None:
    for data in (avif(), heif()):
        with pytest.raises(NotAnImage, match="truncated or corrupt"):
            decoded(data[: int(share * len(data))])


@needs_avif
def test_pixels_are_limited_by_the_header() -> None:
    for data in (avif(), heif()):
        assert read_size(data, max_image_pixels=2400) == (60, 40)
        with pytest.raises(PayloadTooLarge, match="2400 pixels"):
            decoded(data, max_image_pixels=2399)


@pytest.mark.parametrize("brands", [b"avif\0\0\0\0", b"avis\0\0\0\0", b"mif1\0\0\0\0mif1avif", b"msf1\0\0\0\0miafavis"])
def test_avif_without_the_library_is_unsupported(brands: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(UnsupportedImage, match="the image is AVIF, for which this service lacks a Pillow") as caught:
        decoded(b"\0\0\0\x1cftyp" + brands)
    assert caught.value.extra["value"] == "AVIF"


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0", b"hevc\0\0\0\0", b"mif1\0\0\0\0mif1heic"])
def test_heif_without_the_library_is_unsupported(brands: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        UnsupportedImage, match="HEIF, for which this service lacks the package pillow-heif; send one of JPEG, PNG, "
    ) as caught:
        decoded(b"\0\0\0\x18ftyp" + brands)
    assert caught.value.extra["accepted"] == ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 60)])
def test_transparent_pixels_show_the_background(background: tuple[int, int, int]) -> None:
    stream = io.BytesIO()
    layer = np.zeros((2, 3, 4), np.uint8)
    layer[0] = (200, 100, 50, 255)
    Image.fromarray(layer).save(stream, "PNG")
    image = decode(stream.getvalue(), max_image_bytes=2**20, max_image_pixels=100, background=background)
    assert image.pixels[0].tolist() == [[200, 100, 50]] * 3
    assert image.pixels[1].tolist() == [list(background)] * 3
