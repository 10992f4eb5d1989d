"""Files of real encoders, with all that they write beside the pixels: each gives the pixels that Pillow gives."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.imaging.codec import ImageHeader, decode, open_image
from tests.support.honest import FILES, PICTURE
from tests.support.hostile import encoded


def header_of(data: bytes) -> ImageHeader:
    return open_image(data, max_image_bytes=len(data), max_image_pixels=50_000_000).header


def expected(data: bytes) -> np.ndarray[Any, Any]:
    """The pixels by Pillow alone, on white."""
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I"):
        return np.repeat(np.round(np.asarray(image)[..., None] / 257).astype(np.uint8), 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        opaque = Image.new("RGB", layer.size, "white")
        opaque.paste(layer, mask=layer)
        return np.asarray(opaque)
    return np.asarray(image.convert("RGB"))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow's own limit of metadata, which the service passes by.
    monkeypatch.setattr("PIL.PngImagePlugin.MAX_TEXT_CHUNK", 8 << 20)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("name", FILES)
def test_honest_file_gives_the_pixels_that_pillow_gives(name: str) -> None:
    data = FILES[name]()
    image = decode(data, max_image_bytes=32 << 20, max_image_pixels=50_000_000)
    np.testing.assert_array_equal(image.pixels, expected(data))


@pytest.mark.parametrize("name", FILES)
def test_no_pixels_take_less_than_was_told(name: str) -> None:
    data = FILES[name]()
    header = header_of(data)
    width, height = header.size
    assert header.decoding_bytes >= 4 * width * height


_PEAK = """
import sys
from service.imaging.codec import decode
data = sys.stdin.buffer.read()
def field(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
before = field("VmRSS")
decode(data, max_image_bytes=1 << 30, max_image_pixels=50_000_000)
print(field("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "L", {}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("WEBP", "RGB", {"method": 0}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("GIF", "L", {}),
    ],
)
def test_decoding_takes_the_bytes_that_were_told(image_format: str, mode: str, options: dict[str, Any]) -> None:
    image = Image.radial_gradient("L").resize((3000, 2000)).convert(mode)
    data = encoded(image, image_format, **options)
    told = header_of(data).decoding_bytes
    run = subprocess.run([sys.executable, "-c", _PEAK], input=data, capture_output=True, check=True)
    # Measured: 0.9 to 1.05; the codecs' own code and tables are loaded meanwhile.
    assert 0.7 * told < int(run.stdout) < 1.1 * told + (6 << 20)


def test_png_with_a_large_profile_is_decoded() -> None:
    data = encoded(PICTURE, "PNG", icc_profile=np.random.default_rng(0).bytes(3_000_000))
    np.testing.assert_array_equal(
        decode(data, max_image_bytes=32 << 20, max_image_pixels=50_000_000).pixels, np.asarray(PICTURE)
    )


@pytest.mark.parametrize(
    ("name", "is_unusual"),
    [("jpeg 95 0", False), ("jpeg progressive", False), ("png", False), ("webp", False), ("webp animated", True),
     ("tiff tiff_lzw", False), ("tiff lzma", True), ("avif", True)],
)  # fmt: skip
def test_only_what_may_cost_more_is_unusual(name: str, is_unusual: bool) -> None:
    assert bool(header_of(FILES[name]()).unusual) == is_unusual
