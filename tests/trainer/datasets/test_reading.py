"""Image and label files to arrays."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.datasets import DatasetError, MissingFileError, UnreadableFileError, read_image, read_label_map, reading
from trainer.datasets.reading import image_size
from trainer.datasets.reading import orientation as read_orientation

Write = Callable[..., Path]


def grey_png(bits: int, row: bytes, width: int) -> bytes:
    """A PNG of one row of greys of ``bits`` bits, which Pillow itself writes with 8 or 16 only."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (1, b"\xb0", [1, 0, 1, 1]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x01\x2f", [0, 1, 2, 15]),
        (8, b"\x00\x01\x02\xff", [0, 1, 2, 255]),
        (16, b"\x00\x00\x00\x01\x01\x00\xff\xff", [0, 1, 256, 65535]),
    ],
)
def test_greys_of_any_depth_are_ids(tmp_path: Path, bits: int, row: bytes, expected: list[int]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(grey_png(bits, row, 4))
    assert read_label_map(path).tolist() == [expected]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_any_depth_are_indices(tmp_path: Path, bits: int) -> None:
    ids = np.array([[0, 1, (1 << bits) - 1]], np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png", bits=bits)
    assert read_label_map(tmp_path / "a.png").tolist() == ids.tolist()


def test_32_bit_labels_are_ids(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.tif", np.array([[0, -1, 70000]], np.int32))
    assert read_label_map(path).tolist() == [[0, -1, 70000]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert (image.shape, image.dtype) == ((2, 3, 3), np.uint8)
    assert (image >= 250).all()


def test_transparent_pixels_lie_on_white_as_in_the_service(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [129, 130, 130]]]


@pytest.mark.parametrize(("upright", "shape"), [(True, (3, 2, 3)), (False, (2, 3, 3))])
def test_images_are_turned_upright_unless_told(
    tmp_path: Path, write: Write, upright: bool, shape: tuple[int, ...]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "a.png", np.zeros((2, 3, 3)), exif=exif)
    assert read_image(path, upright=upright).shape == shape


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_upright_size_come_from_the_header(
    tmp_path: Path, write: Write, name: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / name, np.zeros((2, 3, 3)), exif=exif)
    assert read_orientation(path) == orientation
    assert image_size(path) == read_image(path).shape[:2] == ((3, 2) if orientation > 4 else (2, 3))


def test_a_broken_exif_block_turns_nothing(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.jpg", np.zeros((2, 3, 3)), exif=b"Exif\0\0II*\0")
    assert read_orientation(path) == 1
    assert read_image(path).shape == (2, 3, 3)


@pytest.mark.parametrize("read", [read_image, read_label_map])
@pytest.mark.parametrize("end", [0, 10, 30, 45, 60])
def test_a_file_cut_short_is_unreadable(tmp_path: Path, write: Write, read: Callable[[Path], object], end: int) -> None:
    path = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64)))
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UnreadableFileError, match=f"{path} cannot be read: "):
        read(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"absent\.png does not exist"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DatasetError, match=f"{tmp_path} cannot be read"):
        read_label_map(tmp_path)


def test_an_image_of_too_many_pixels_is_unreadable(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.png", np.zeros((8, 8)))
    monkeypatch.setattr(reading, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableFileError, match=r"a\.png cannot be read: the image has 64 pixels.*at most 20"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableFileError, match=r"a\.png cannot be read: .*exceeds limit"):
        read_label_map(path)
