"""The structure of small PNG, GIF, BMP, WebP and AVIF files: sizes, costs, kept parts, and the edge of every limit."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from service.errors import NotAnImage, UnsupportedImage
from service.imaging.structure.bmp import scan_bmp
from service.imaging.structure.gif import scan_gif
from service.imaging.structure.isobmff import scan_isobmff
from service.imaging.structure.png import scan_png
from service.imaging.structure.structure import Structure
from service.imaging.structure.webp import scan_webp
from tests.support.hostile import (
    bmp_of_colours,
    bmp_rle,
    encoded,
    gif_with,
    noise,
    png_chunk,
    png_with,
    webp_canvas,
)
from tests.support.refusals import refusal

# PNG


def test_png_without_metadata_is_read_whole() -> None:
    assert scan_png(encoded(noise(64, 48), "PNG")) == Structure(size=(64, 48), stored_bytes=4, buffer_bytes=4 * 193)
    assert scan_png(encoded(noise(64, 48).convert("L"), "PNG")) == Structure(
        size=(64, 48), stored_bytes=1, buffer_bytes=4 * 65
    )
    assert scan_png(encoded(Image.new("I;16", (64, 48)), "PNG")) == Structure(
        size=(64, 48), stored_bytes=2, buffer_bytes=4 * 129
    )
    assert scan_png(encoded(Image.new("1", (64, 48)), "PNG")) == Structure(
        size=(64, 48), stored_bytes=1, buffer_bytes=4 * 9
    )
    assert scan_png(encoded(Image.new("LA", (64, 48)), "PNG")) == Structure(
        size=(64, 48), stored_bytes=4, buffer_bytes=4 * 129
    )


def png_of(width: int, height: int, depth: int, colour_type: int, num_bytes: int) -> bytes:
    """The start of a PNG, with zeros up to a number of bytes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return (b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IEND", b"")).ljust(num_bytes, b"\0")


@pytest.mark.parametrize(
    ("depth", "colour_type", "stored_bytes", "row_bytes"),
    [(8, 3, 1, 10), (16, 6, 4, 73), (8, 5, 4, 37), (200, 1, 4, 901), (8, 255, 4, 37), (15, 0, 1, 18)],
)
def test_png_of_an_unknown_kind_is_taken_for_the_largest(
    depth: int, colour_type: int, stored_bytes: int, row_bytes: int
) -> None:
    structure = scan_png(png_of(9, 1, depth, colour_type, 0))
    assert (structure.stored_bytes, structure.buffer_bytes) == (stored_bytes, 4 * row_bytes)


def test_sides_of_a_png_have_32_bits() -> None:
    assert scan_png(png_of(2**32 - 1, 2**31, 8, 2, 0)).size == (2**32 - 1, 2**31)


def test_png_may_hold_1032_bytes_of_pixels_in_each_of_its_own() -> None:
    assert scan_png(png_of(1031, 200, 8, 0, 200)).shortfall == ""
    assert scan_png(png_of(1031, 201, 8, 0, 200)).shortfall == "200 bytes cannot hold 1031x201 pixels"


@pytest.mark.parametrize("end", [b"", b"\0\0\0", b"\0\0\0\x05tEX"])
def test_png_that_is_cut_off_loses_its_text(end: bytes) -> None:
    plain = png_of(9, 1, 8, 2, 0)[:-12]
    text = png_chunk(b"tEXt", b"a\0b")
    assert scan_png(plain + text + end).needed(plain + text + end) == plain + end
    begun = plain + b"\0\0\0\x05tEXt"
    assert scan_png(begun).needed(begun) == plain


@pytest.mark.parametrize("kind", [b"iCCP", b"iTXt", b"tEXt", b"zTXt"])
def test_text_and_profiles_of_a_png_are_cut_out(kind: bytes) -> None:
    plain = encoded(noise(64, 48), "PNG")
    chunk, other = png_chunk(kind, b"some text"), png_chunk(b"pHYs", bytes(9))
    at = plain.index(b"IDAT") - 4
    data = plain[:at] + chunk + other + chunk * 2 + plain[at:]
    assert scan_png(data).needed(data) == plain[:at] + other + plain[at:]
    assert scan_png(plain + chunk).parts is None  # behind the end nothing is looked at


def test_chunks_of_a_png_are_bounded_by_its_bytes() -> None:
    chunk = png_chunk(b"abCd", b"")
    # Three are the file's own; 1,024 bytes allow one more, and a chunk has twelve.
    largest = 4096 - 3
    while largest + 4 <= 4096 + len(png_with(chunk * (largest + 1))) // 1024:
        largest += 1
    assert scan_png(png_with(chunk * largest)).size == (64, 48)
    assert refusal(scan_png, png_with(chunk * (largest + 1))) == ("chunks", largest + 4, largest + 3)


def test_png_of_too_few_bytes_cannot_hold_its_pixels() -> None:
    zeros = encoded(Image.new("RGB", (64, 48)), "PNG")
    rows = len(zeros) * 1032 // 193
    for height, shortfall in ((rows, ""), (rows + 1, f"{len(zeros)} bytes cannot hold 64x{rows + 1} pixels")):
        header = struct.pack(">II", 64, height) + zeros[24:29]
        assert scan_png(zeros[:8] + png_chunk(b"IHDR", header) + zeros[33:]).shortfall == shortfall


# GIF

GIF = gif_with(b"")


def test_gif_has_the_size_of_its_screen_or_of_a_frame_beyond_it() -> None:
    assert scan_gif(GIF) == Structure(size=(64, 48), stored_bytes=1, decoder_bytes=1.0)
    moved = bytearray(GIF)
    at = GIF.index(b",", 13 + (3 << (GIF[10] & 7) + 1))
    moved[at + 1 : at + 5] = struct.pack("<HH", 5, 7)
    assert scan_gif(bytes(moved)).size == (69, 55)


def test_comments_of_a_gif_are_cut_out_and_its_last_control_stays() -> None:
    control, last = b"!\xf9\x04\0\0\0\0\0", b"!\xf9\x04\x09\0\0\0\0"
    few = gif_with(control + b"!\xfe\x02ab\0" * 30 + last)
    assert scan_gif(few).parts is None
    many = gif_with(control + b"!\xfe\x02ab\0" * 40 + last)
    assert scan_gif(many).needed(many) == gif_with(last)


def test_blocks_of_a_gif_are_bounded() -> None:
    assert scan_gif(gif_with(b"!\xfe" + b"\x01a" * 65_535 + b"\0")).size == (64, 48)
    unit = "blocks before its first frame"
    assert refusal(scan_gif, gif_with(b"!\xfe" + b"\x01a" * 65_536 + b"\0")) == (unit, 65_537, 65_536)
    assert refusal(scan_gif, gif_with(b"x" * 65_537)) == (unit, 65_537, 65_536)


BARE_GIF = GIF[:10] + b"\x7f\0\0"  # without a palette
FRAME = b"," + struct.pack("<HHHH", 1, 2, 30_000, 40_000)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (BARE_GIF + FRAME, (30_001, 40_002)),
        (BARE_GIF + b"!\xfe\0" + FRAME, (30_001, 40_002)),
        (BARE_GIF + b"," + b"\xff" * 8, (131_070, 131_070)),
        (GIF[:6] + b"\xff" * 4 + bytes(3) + FRAME, (65_535, 65_535)),
    ],
)
def test_gif_may_lack_a_palette_and_its_sides_have_16_bits(data: bytes, size: tuple[int, int]) -> None:
    assert scan_gif(data).size == size


@pytest.mark.parametrize(
    "blocks", [b"", b";" + FRAME, b"!", b"!\xfe", b"!\xfe\x05ab", b"!\xfe\x02ab", b"!\xfe\x02ab\0"]
)
def test_gif_without_a_frame_is_none(blocks: bytes) -> None:
    for data in (GIF[:13], BARE_GIF + blocks, gif_with(b";")):
        with pytest.raises(NotAnImage, match=r"^the GIF image is truncated or corrupt: it has no frame$"):
            scan_gif(data)


# BMP


def test_bmp_is_stored_by_its_bits() -> None:
    assert scan_bmp(encoded(noise(61, 48), "BMP")) == Structure(size=(61, 48), stored_bytes=4, buffer_bytes=184)
    grey = encoded(noise(61, 48).convert("L"), "BMP")
    assert scan_bmp(grey) == Structure(size=(61, 48), stored_bytes=1, buffer_bytes=64)


def test_bmp_may_lack_its_last_row_and_no_other() -> None:
    data = encoded(noise(64, 48), "BMP")
    assert scan_bmp(data[: -64 * 3]).shortfall == ""
    held = 64 * 3 * 47 - 1
    assert scan_bmp(data[: 54 + held]).shortfall == f"{held} bytes of pixels cannot hold 64x48 pixels"
    assert scan_bmp(data[:54]).shortfall.startswith("0 bytes")


def test_bmp_from_top_to_bottom_and_the_oldest_header() -> None:
    data = bytearray(encoded(noise(64, 48), "BMP"))
    data[22:26] = struct.pack("<i", -48)
    assert scan_bmp(bytes(data)).size == (64, 48)
    old = b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, 64, 48, 1, 24) + bytes(64 * 48 * 3)
    assert scan_bmp(old) == Structure(size=(64, 48), stored_bytes=4, buffer_bytes=192)


def test_compressed_bmp_and_large_palettes_are_refused() -> None:
    with pytest.raises(UnsupportedImage, match="compression 1, accepted are uncompressed ones") as error:
        scan_bmp(bmp_rle(64, 48, 8, b""))
    assert error.value.extra == {"value": 1, "accepted": [0, 3]}
    assert scan_bmp(bmp_of_colours(256)).size == (64, 64)
    assert refusal(scan_bmp, bmp_of_colours(257)) == ("colours in its palette", 257, 256)


# WebP


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_webp_of_each_kind_has_its_size(options: dict[str, object]) -> None:
    data = encoded(noise(61, 47), "WEBP", **options)
    assert scan_webp(data) == Structure((61, 47), 4, decoder_bytes=12.0, buffer_bytes=len(data))


def test_animated_webp_is_unusual() -> None:
    assert scan_webp(webp_canvas(100, 90)).unusual == "animated WebP"
    assert scan_webp(webp_canvas(100, 90)).size == (100, 90)


def test_webp_of_an_unknown_kind_has_no_size() -> None:
    unknown = b"RIFF\x0c\0\0\0WEBPabcd\0\0\0\0"
    assert scan_webp(unknown) == Structure(None, 4, decoder_bytes=12.0, buffer_bytes=len(unknown))


@pytest.mark.parametrize(
    ("kind", "content", "size"),
    [
        (b"VP8L", b"\x2f\xff\xff\xff\xff", (16_384, 16_384)),
        (b"VP8L", b"\x2f\xff\xbf\0\0" + b"\xff" * 5, (16_384, 3)),
        (b"VP8L", b"\x2f\xff\xff\xff", None),
        (b"VP8 ", bytes(6) + b"\xff\xff\x05\xc0", (16_383, 5)),
        (b"VP8 ", bytes(6) + b"\x07\x40\xff\xff" + b"\xff" * 5, (7, 16_383)),
        (b"VP8 ", bytes(6) + b"\xff\xff\xff", None),
        (b"VP8X", bytes(4) + b"\xff" * 6, (1 << 24, 1 << 24)),
        (b"VP8X", bytes(4) + b"\0\0\x80\1\0\0", ((1 << 23) + 1, 2)),
        (b"VP8X", bytes(4) + b"\xff" * 5, None),
    ],
)
def test_size_of_a_webp_is_read_from_the_first_bytes_of_its_chunk(
    kind: bytes, content: bytes, size: tuple[int, int] | None
) -> None:
    structure = scan_webp(b"RIFF\0\0\0\0WEBP" + kind + bytes(4) + content)
    assert (structure.size, structure.unusual) == (size, "")


def test_large_webp_has_many_bytes() -> None:
    length = len(webp_canvas(2, 2))
    width, height = 128, (4_000_000 + length * 16_384) // 128
    assert scan_webp(webp_canvas(width, height)).shortfall == ""
    more = f"{length} bytes are too few for {width}x{height + 1} pixels"
    assert scan_webp(webp_canvas(width, height + 1)).shortfall == more


def test_chunks_of_a_webp_are_bounded() -> None:
    plain = encoded(noise(16, 16), "WEBP")
    for content in (b"", b"a", b"ab"):
        chunk = b"abcd" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        assert scan_webp(plain + chunk * 16_383).size == (16, 16)
        assert refusal(scan_webp, plain + chunk * 16_384) == ("chunks", 16_385, 16_384)


# AVIF and HEIF


def box(kind: bytes, content: bytes, *, large: bool = False) -> bytes:
    length = struct.pack(">I4sQ", 1, kind, 16 + len(content)) if large else struct.pack(">I4s", 8 + len(content), kind)
    return length + content


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", bytes(4) + struct.pack(">II", width, height))


@pytest.mark.parametrize("large", [False, True])
def test_largest_item_of_an_avif_counts(large: bool) -> None:
    start = box(b"ftyp", b"avif" + bytes(4))
    meta = box(b"meta", bytes(4) + ispe(100, 80) + ispe(300, 200) + ispe(64, 64), large=large)
    data = start + box(b"free", bytes(20), large=large) + meta + ispe(9000, 9000)
    structure = scan_isobmff(data)
    assert structure.size == (300 - 63, 200 - 63)
    assert structure.buffer_bytes == (32 << 20) + len(data)
    assert (structure.stored_bytes, structure.decoder_bytes) == (4, 12.0)
    assert structure.unusual == "AVIF or HEIF, whose coded frames may be larger than their items"


def test_avif_without_sizes_has_none() -> None:
    assert scan_isobmff(box(b"ftyp", b"avif") + ispe(300, 200)).size is None
    assert scan_isobmff(box(b"meta", b"ispe" + bytes(8))).size is None
    assert scan_isobmff(box(b"meta", ispe(10, 0))).size == (1, 1)


@pytest.mark.parametrize("sizes", [((1000, 100), (300, 2000)), ((100, 1000), (2000, 300))])
def test_largest_item_is_that_of_the_most_pixels(sizes: tuple[tuple[int, int], ...]) -> None:
    items = b"".join(ispe(*size) for size in sizes)
    width, height = sizes[1]
    assert scan_isobmff(box(b"meta", items)).size == (width - 63, height - 63)
    assert scan_isobmff(box(b"meta", ispe(1 << 31, 64))).size == ((1 << 31) - 63, 1)


def test_a_box_without_a_length_goes_to_the_end() -> None:
    free, last = box(b"free", bytes(40)), struct.pack(">I4s", 0, b"meta") + ispe(300, 200)
    assert scan_isobmff(free + last).size == (237, 137)
    assert scan_isobmff(struct.pack(">I4s", 0, b"free") + box(b"meta", ispe(300, 200))).size is None


def test_a_box_of_a_huge_length_goes_to_the_end() -> None:
    huge = struct.pack(">I4sQ", 1, b"free", (1 << 56) + 16)
    assert scan_isobmff(huge + box(b"meta", ispe(300, 200))).size is None


def test_sizes_are_within_the_box_and_may_lie_close_together() -> None:
    close = b"ispe" + bytes(4) + struct.pack(">II", 90, 80)
    assert scan_isobmff(box(b"meta", close + ispe(300, 200)[4:])).size == (237, 137)
    assert scan_isobmff(box(b"meta", close) + bytes(16)).size == (27, 17)
    assert scan_isobmff(box(b"meta", close[:-1]) + close[-1:] + bytes(40)).size is None
    # The rest of a box that states a long length, and lacks it.
    assert scan_isobmff(box(b"free", b"") + struct.pack(">I4s", 1, b"free")).size is None
    assert scan_isobmff(struct.pack(">I4sI", 1, b"free", 8)).size is None


def test_boxes_are_bounded() -> None:
    free = box(b"free", b"")
    assert scan_isobmff(free * 4096 + box(b"meta", ispe(300, 200))).size == (237, 137)
    assert refusal(scan_isobmff, free * 4097) == ("boxes", 4097, 4096)
    assert refusal(scan_isobmff, box(b"meta", ispe(9, 9) * 4097)) == ("boxes", 4097, 4096)


# All


def test_bytes_that_decoding_takes_follow_from_the_structure() -> None:
    colour = Structure(size=(10, 10), stored_bytes=4)
    assert colour.decoding_bytes(100, 50) == 8 * 100 + 12 * 100
    assert colour.decoding_bytes(1 << 22, 50) == (8 << 22) + (12 << 20)
    grey = Structure(size=(10, 10), stored_bytes=1, buffer_bytes=7)
    assert grey.decoding_bytes(100, 50) == 4 * 100 + 12 * 100 + 7
    planes = Structure(size=(10, 10), stored_bytes=4, decoder_bytes=6.5, parts=(slice(0, 1),))
    assert planes.decoding_bytes(100, 50) == 1050 + 12 * 100 + 50
    assert planes.needed(b"abc") == b"a"
    assert colour.needed(b"abc") == b"abc"
