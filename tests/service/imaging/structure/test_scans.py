"""The structure that each scan reads from small files: sizes, costs, kept parts, and the edge of every limit."""

from __future__ import annotations

import re
import struct

import pytest
from PIL import Image

from service.errors import NotAnImage, UnsupportedImage
from service.imaging.structure.bmp import scan_bmp
from service.imaging.structure.gif import scan_gif
from service.imaging.structure.isobmff import scan_isobmff
from service.imaging.structure.jpeg import scan_jpeg
from service.imaging.structure.png import scan_png
from service.imaging.structure.structure import Structure
from service.imaging.structure.tiff import scan_tiff
from service.imaging.structure.webp import scan_webp
from tests.support.hostile import (
    bmp_of_colours,
    bmp_rle,
    encoded,
    gif_with,
    jpeg_between_scans,
    jpeg_of_scans,
    jpeg_segment,
    jpeg_with,
    jpeg_with_end,
    noise,
    png_chunk,
    png_with,
    tiff,
    tiff_small,
    tiff_tags,
    webp_canvas,
)
from tests.support.refusals import refusal

# JPEG

COMMENT = jpeg_segment(0xFE, b"ab")
JFIF = jpeg_segment(0xE0, b"JFIF\0abc")
ADOBE = jpeg_segment(0xEE, b"Adobe123")
EXIF = jpeg_segment(0xE1, b"Exif\0\0" + bytes(100))
JPEG = encoded(noise(64, 48), "JPEG", subsampling=0)
# Markers of the file that Pillow writes: JFIF, two tables, frame, four codes, scan.
OWN_MARKERS = 9


@pytest.mark.parametrize(
    ("options", "stored", "coefficients"),
    [
        ({"subsampling": 0}, 4, 0.0),
        ({"subsampling": 0, "progressive": True}, 4, 6.0),
        ({"subsampling": 2, "progressive": True}, 4, 3.0),
        ({"subsampling": 1, "progressive": True}, 4, 4.0),
    ],
)
def test_jpeg_of_several_scans_keeps_its_coefficients(
    options: dict[str, object], stored: int, coefficients: float
) -> None:
    structure = scan_jpeg(encoded(noise(64, 48), "JPEG", **options))
    assert structure == Structure(size=(64, 48), stored_bytes=stored, decoder_bytes=coefficients)


def test_grey_jpeg_is_stored_in_a_byte() -> None:
    grey = encoded(noise(64, 48).convert("L"), "JPEG", progressive=True)
    assert scan_jpeg(grey) == Structure(size=(64, 48), stored_bytes=1, decoder_bytes=2.0)


def test_bulk_of_metadata_is_cut_out_and_what_turns_or_colours_pixels_stays() -> None:
    data = jpeg_with(JFIF + EXIF + COMMENT * 9 + ADOBE + EXIF + COMMENT * 7, JPEG)
    structure = scan_jpeg(data)
    assert structure.needed(data) == jpeg_with(JFIF + EXIF + ADOBE, JPEG)


def test_a_little_metadata_stays() -> None:
    assert scan_jpeg(jpeg_with(COMMENT * 16, JPEG)).parts is None
    assert scan_jpeg(jpeg_with(jpeg_segment(0xE5, bytes(60_000)), JPEG)).parts is None
    large = jpeg_with(jpeg_segment(0xE5, bytes(60_000)) * 2, JPEG)
    assert scan_jpeg(large).needed(large) == JPEG


def test_markers_before_the_first_scan_are_bounded() -> None:
    assert scan_jpeg(jpeg_with(COMMENT * (4096 - OWN_MARKERS), JPEG)).size == (64, 48)
    data = jpeg_with(COMMENT * (4097 - OWN_MARKERS), JPEG)
    assert refusal(scan_jpeg, data) == ("markers before its first scan", 4097, 4096)


def test_markers_behind_the_first_scan_are_bounded() -> None:
    assert scan_jpeg(jpeg_between_scans(COMMENT * 4000)).size == (64, 48)
    assert refusal(scan_jpeg, jpeg_between_scans(COMMENT * 4096)) == ("markers behind its first scan", 4097, 4096)


def test_restarts_are_no_markers_and_comments_may_hold_some() -> None:
    hidden = jpeg_segment(0xFE, b"\xff\xd9\xff\xda\xff\xda")
    structure = scan_jpeg(jpeg_between_scans(b"\xff\xd0\xff\xd7" * 5000 + hidden))
    assert (structure.size, structure.unusual) == ((64, 48), "")


def test_scans_are_bounded_and_many_are_unusual() -> None:
    assert scan_jpeg(jpeg_of_scans(64, 48, 15)).unusual == ""
    assert scan_jpeg(jpeg_of_scans(64, 48, 16)).unusual == "JPEG of 17 scans"
    assert scan_jpeg(jpeg_of_scans(64, 48, 99)).unusual == "JPEG of 100 scans"
    assert refusal(scan_jpeg, jpeg_of_scans(64, 48, 100)) == ("scans", 101, 100)


def test_scans_behind_the_end_do_not_count() -> None:
    assert scan_jpeg(jpeg_of_scans(64, 48, 15) + jpeg_of_scans(64, 48, 99)).unusual == ""


def test_pixels_of_all_scans_are_bounded() -> None:
    assert scan_jpeg(jpeg_of_scans(5000, 4000, 59)).size == (5000, 4000)
    unit = "pixels in all of its scans"
    assert refusal(scan_jpeg, jpeg_of_scans(5000, 4000, 60)) == (unit, 1_220_000_000, 1_200_000_000)


def test_tables_and_fill_bytes_are_bounded() -> None:
    table = jpeg_segment(0xDB, bytes([0, *[1] * 64]) * 100)
    assert scan_jpeg(jpeg_with(table * 10, JPEG)).size == (64, 48)
    own = 2 * 67
    found = 11 * (len(table) - 2) + own
    unit = "bytes of quantisation tables before its first scan"
    assert refusal(scan_jpeg, jpeg_with(table * 11, JPEG)) == (unit, 11 * (len(table) - 2), 65_536)
    assert found > 65_536
    assert scan_jpeg(jpeg_with(b"\xff" * 4096, JPEG)).size == (64, 48)
    assert refusal(scan_jpeg, jpeg_with(b"\xff" * 4097, JPEG))[0] == "fill bytes before its first scan"
    assert scan_jpeg(jpeg_with_end(b"\xff" * 255)).size == (64, 48)
    unit = "fill bytes in a row behind its first scan"
    assert refusal(scan_jpeg, jpeg_with_end(b"\xff" * 300)) == (unit, 257, 256)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xd9", "it has no frame or no scan"),
        (JPEG[: JPEG.index(b"\xff\xda")], "it has no frame or no scan"),
        (JPEG.replace(b"\xff\xc0", b"\xff\xe9"), "it has no frame or no scan"),
        (jpeg_with(jpeg_segment(0xC0, struct.pack(">BHHB", 8, 48, 64, 1) + b"\1\x11\0"), JPEG), "it has two frames"),
    ],
)
def test_jpeg_without_one_frame_and_a_scan_is_none(data: bytes, message: str) -> None:
    with pytest.raises(NotAnImage, match=re.escape(f"the JPEG image is truncated or corrupt: {message}")):
        scan_jpeg(data)


def test_jpeg_of_too_few_bytes_cannot_hold_its_pixels() -> None:
    blank = jpeg_of_scans(800, 800, 0)
    start = blank.index(b"\xff\xda")
    # 100x100 blocks of at least a bit each.
    needed = 100 * 100 // 8
    assert scan_jpeg(blank[: start + needed]).shortfall == ""
    assert scan_jpeg(blank[: start + needed - 1]).shortfall == f"{needed - 1} bytes of scans cannot hold 800x800 pixels"


def test_arithmetic_coding_is_unusual_and_holds_any_number_of_pixels() -> None:
    structure = scan_jpeg(jpeg_of_scans(800, 800, 0).replace(b"\xff\xc2", b"\xff\xca")[:400])
    assert structure.unusual == "JPEG with arithmetic coding or without loss"
    assert structure.shortfall == ""


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


# TIFF


def big_tiff(order: str) -> bytes:
    """A grey BigTIFF of 16x16 pixels without compression."""
    tags = [
        (256, 4, 16),
        (257, 4, 16),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 16, 16),
        (277, 3, 1),
        (279, 4, 256),
    ]
    sizes = {3: "H6x", 4: "I4x", 16: "Q"}
    entries = b"".join(struct.pack(f"{order}HHQ{sizes[kind]}", number, kind, 1, value) for number, kind, value in tags)
    mark = {"<": b"II", ">": b"MM"}[order]
    return (
        mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 272) + bytes(256)
        + struct.pack(f"{order}Q", len(tags)) + entries + bytes(8)
    )  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_tiff_of_both_orders_is_read(order: str) -> None:
    assert scan_tiff(big_tiff(order)) == Structure(size=(16, 16), stored_bytes=1)


def test_tiff_is_stored_by_bits_and_samples_and_buffers_a_strip() -> None:
    assert scan_tiff(tiff_small()) == Structure(size=(16, 16), stored_bytes=1)
    assert scan_tiff(tiff_small(t258=("H", 16))).stored_bytes == 2
    assert scan_tiff(tiff_small(t258=("H", 32))).stored_bytes == 4
    assert scan_tiff(tiff_small(t277=("H", 3))).stored_bytes == 4
    packed = tiff_small(t259=("H", 8))
    assert scan_tiff(packed).buffer_bytes == len(packed) + 16 * 16 * 4
    deep = tiff_small(t259=("H", 8), t258=("H", 64))
    assert scan_tiff(deep).buffer_bytes == len(deep) + 16 * 16 * 8


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_tiff_has_its_sides_exchanged(orientation: int) -> None:
    tags = tiff_tags(16, 9, t273=("I", 8), t278=("I", 9), t279=("I", 144), t274=("H", orientation))
    assert scan_tiff(tiff(tags, bytes(144))).size == (9, 16)


def test_rare_compressions_of_a_tiff_are_unusual() -> None:
    for compression in (1, 5, 7, 8, 32773, 32946):
        assert scan_tiff(tiff_small(t259=("H", compression))).unusual == ""
    assert scan_tiff(tiff_small(t259=("H", 4))).unusual == "TIFF of compression 4"


@pytest.mark.parametrize(
    ("changes", "unit", "count", "limit"),
    [
        ({"t50000": ("H", (200_001, 8))}, "numbers in a tag", 200_001, 200_000),
        ({"t50000": ("2I", (1025, 8))}, "fractions in a tag", 1025, 1024),
        ({"t273": ("I", (65_537, 8))}, "strips or tiles", 65_537, 65_536),
        ({"t279": ("I", (65_537, 8))}, "strips or tiles", 65_537, 65_536),
        ({"t322": ("I", 4113), "t323": ("I", 1)}, "pixels in a side of a tile beyond the image", 4097, 4096),
        ({"t322": ("I", 1), "t323": ("I", 4113)}, "pixels in a side of a tile beyond the image", 4097, 4096),
        (
            {"t322": ("I", 4112), "t323": ("I", 4112)},
            "bytes in a strip or tile beyond those of the image",
            4 * (4112 * 4112 - 256),
            64 << 20,
        ),
    ],
)
def test_lists_and_segments_of_a_tiff_are_bounded(
    changes: dict[str, tuple[str, object]], unit: str, count: int, limit: int
) -> None:
    assert refusal(scan_tiff, tiff_small(**changes)) == (unit, count, limit)


def test_lists_of_a_tiff_may_reach_their_limit() -> None:
    changes = {"t50000": ("H", (200_000, 8)), "t50001": ("2I", (1024, 8)), "t50002": ("s", (10_000_000, 8))}
    assert scan_tiff(tiff_small(**changes)).size == (16, 16)


def test_tags_of_a_tiff_are_bounded_in_all_directories() -> None:
    def tagged(count: int) -> bytes:
        return struct.pack("<H", count) + struct.pack("<HHII", 40_000, 7, 4, 0) * count + bytes(4)

    for number in (34665, 34853, 40965):
        for count, is_allowed in ((1024, True), (1025, False)):
            pixels = bytes(256) + tagged(count)
            tags = tiff_tags(16, 16, t273=("I", 8), t278=("I", 16), t279=("I", 256), **{f"t{number}": ("I", 264)})
            data = tiff(tags, pixels)
            if is_allowed:
                assert scan_tiff(data).size == (16, 16)
            else:
                assert refusal(scan_tiff, data) == ("tags in a directory", 1025, 1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (big_tiff("<")[:8] + b"\xff" * 8 + big_tiff("<")[16:], "its directory is not within the file"),
        (tiff_small(t256=("I", 0)), "it has no size"),
        (tiff_small(t257=("I", 0)), "it has no size"),
        (tiff_small(t278=("I", 0)), "its strips or tiles have 16x0 pixels"),
        (tiff_small(t322=("I", 0), t323=("I", 16)), "its strips or tiles have 0x16 pixels"),
        (
            tiff_small(t322=("I", 4096), t323=("I", 4096), t324=("I", [8, 8])),
            "its 2 strips or tiles of 4096x4096 pixels cover far more than its 16x16",
        ),
    ],
)
def test_tiff_whose_segments_make_no_sense_is_none(data: bytes, message: str) -> None:
    with pytest.raises(NotAnImage, match=re.escape(f"the TIFF image is truncated or corrupt: {message}")):
        scan_tiff(data)


def test_scans_within_the_strips_of_a_tiff_are_bounded() -> None:
    def of_scans(count: int) -> bytes:
        content = b"\xff\xda" * count
        tags = tiff_tags(4000, 4000, t259=("H", 7), t273=("I", 8), t278=("I", 4000), t279=("I", len(content)))
        return tiff(tags, content)

    assert scan_tiff(of_scans(75)).size == (4000, 4000)
    assert refusal(scan_tiff, of_scans(76)) == ("pixels in all of its scans", 1_216_000_000, 1_200_000_000)
    packed = of_scans(76).replace(struct.pack("<HHII", 259, 3, 1, 7), struct.pack("<HHII", 259, 3, 1, 8))
    assert scan_tiff(packed).size == (4000, 4000)


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
