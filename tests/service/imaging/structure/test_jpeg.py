"""The structure of small JPEG files: costs, kept parts, and segments and scans at the border of every limit."""

from __future__ import annotations

import re
import struct

import pytest

from service.errors import NotAnImage
from service.imaging.structure.jpeg import scan_jpeg
from service.imaging.structure.structure import Structure
from tests.support.hostile import (
    encoded,
    jpeg_between_scans,
    jpeg_of_scans,
    jpeg_segment,
    jpeg_with,
    jpeg_with_end,
    noise,
)
from tests.support.refusals import refusal

JPEG = encoded(noise(64, 48), "JPEG", subsampling=0)
COMMENT = jpeg_segment(0xFE, b"ab")
JFIF = jpeg_segment(0xE0, b"JFIF\0abc")
ADOBE = jpeg_segment(0xEE, b"Adobe123")
EXIF = jpeg_segment(0xE1, b"Exif\0\0" + bytes(100))
# Markers of the file that Pillow writes: JFIF, two tables, frame, four codes, scan.
OWN_MARKERS = 9
SHAPE = JPEG.index(b"\xff\xc0")
SCAN = jpeg_segment(0xDA, bytes([1, 1, 0, 0, 63, 0]))
EMPTY = jpeg_segment(0xFE, b"")


def frame_of(width: int, height: int, factors: list[int], *, marker: int = 0xC0) -> bytes:
    """A JPEG of a frame, and a first scan of all of its components without data."""
    components = b"".join(bytes([number & 255, factor, 0]) for number, factor in enumerate(factors))
    frame = jpeg_segment(marker, struct.pack(">BHHB", 8, height, width, len(factors)) + components)
    return b"\xff\xd8" + frame + jpeg_segment(0xDA, bytes([len(factors)]) + bytes(6))


# Costs, kept parts and limits


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


# Frames


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535), (32_768, 40_000), (65_535, 65_535)])
def test_sides_have_16_bits_and_a_single_scan_any_number_of_pixels(size: tuple[int, int]) -> None:
    structure = scan_jpeg(frame_of(*size, [0x11]))
    assert (structure.size, structure.unusual, structure.decoder_bytes) == (size, "", 0.0)


@pytest.mark.parametrize(
    ("factors", "coefficients"),
    [
        ([0x11], 2.0),
        ([0x22], 2.0),
        ([0x22, 0x11, 0x11], 3.0),
        ([0x21, 0x12], 2.0),
        ([0x00, 0x11], 2.0),
        ([0x11] * 200, 400.0),
    ],
)
def test_coefficients_are_those_of_all_components(factors: list[int], coefficients: float) -> None:
    assert scan_jpeg(frame_of(8, 8, factors, marker=0xC2)).decoder_bytes == coefficients


@pytest.mark.parametrize(("factors", "bits"), [([0x22, 0x11], 10_000), ([0x21, 0x12], 5000), ([0x11], 10_000)])
def test_largest_component_has_a_bit_for_each_block(factors: list[int], bits: int) -> None:
    def of_bytes(count: int) -> bytes:
        data = frame_of(800, 800, factors)
        return data + bytes(count - (len(data) - data.index(b"\xff\xda")))

    assert scan_jpeg(of_bytes(bits // 8)).shortfall == ""
    message = f"{bits // 8 - 1} bytes of scans cannot hold 800x800 pixels"
    assert scan_jpeg(of_bytes(bits // 8 - 1)).shortfall == message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame_of(8, 8, []), "it has no frame or no scan"),
        (b"\xff\xd8" + SCAN, "it has no frame or no scan"),
        (b"\xff\xd8", "it has no frame or no scan"),
        (JPEG[:SHAPE] + b"\xff", "it has no frame or no scan"),
        (JPEG[:SHAPE] + b"\xff\xff", "it has no frame or no scan"),
        (JPEG[:SHAPE] + JPEG[SHAPE:].replace(b"\xff\xda", b"\xff\xc0", 1), "it has two frames"),
    ],
)
def test_jpeg_needs_one_frame_of_components_and_a_scan(data: bytes, reason: str) -> None:
    with pytest.raises(NotAnImage) as error:
        scan_jpeg(data)
    assert error.value.detail == f"the JPEG image is truncated or corrupt: {reason}"


def test_scan_at_the_end_of_the_file_states_no_components() -> None:
    data = frame_of(8, 8, [0x11])
    cut = data[: data.index(b"\xff\xda") + 4]
    assert scan_jpeg(cut).decoder_bytes == 2.0
    assert scan_jpeg(cut + b"\1").decoder_bytes == 0.0


# Segments before the first scan


def test_segment_without_content_is_passed_by_and_no_byte_more() -> None:
    for segment in (EMPTY, b"\xff\xfe\0\1", b"\xff\xfe\0\0"):
        assert scan_jpeg(JPEG[:SHAPE] + segment + JPEG[SHAPE:]).size == (64, 48)
    longer = JPEG[:SHAPE] + b"\xff\xfe\0\3" + JPEG[SHAPE:]
    with pytest.raises(NotAnImage, match="no frame or no scan"):
        scan_jpeg(longer)


@pytest.mark.parametrize("marker", [0x00, 0x01, 0xD0, 0xD8, 0xD9])
def test_markers_without_a_length_are_passed_by(marker: int) -> None:
    assert scan_jpeg(JPEG[:SHAPE] + bytes([0xFF, marker]) + JPEG[SHAPE:]).size == (64, 48)


@pytest.mark.parametrize("junk", [b"\0", b"\xff"])
def test_bytes_between_segments_are_bounded_together(junk: bytes) -> None:
    assert scan_jpeg(jpeg_with(junk * 4096, JPEG)).size == (64, 48)
    assert scan_jpeg(jpeg_with(junk * 2000 + EMPTY + junk * 2096, JPEG)).size == (64, 48)
    unit = "fill bytes before its first scan"
    assert refusal(scan_jpeg, jpeg_with(junk * 4097, JPEG)) == (unit, 4097, 4096)
    assert refusal(scan_jpeg, jpeg_with(junk * 2000 + EMPTY + junk * 2097, JPEG)) == (unit, 4097, 4096)
    assert refusal(scan_jpeg, jpeg_with(b"\0" * 100_000, JPEG)) == (unit, 100_000, 4096)


@pytest.mark.parametrize(
    ("segment", "is_needed"),
    [
        (jpeg_segment(0xE0, b"JFIF\0"), True),
        (jpeg_segment(0xE0, b"JFXX\0"), False),
        (jpeg_segment(0xE1, b"Exif\0\0"), True),
        (jpeg_segment(0xE1, b"http:/"), False),
        (jpeg_segment(0xE5, b"Exif\0\0"), False),
        (jpeg_segment(0xE5, b"JFIF\0"), False),
        (jpeg_segment(0xEE, b"Adobe"), True),
        (jpeg_segment(0xEE, b"Ducky"), False),
        (jpeg_segment(0xED, b"Adobe"), False),
    ],
)
def test_metadata_is_needed_by_its_marker_and_its_name(segment: bytes, is_needed: bool) -> None:
    data = jpeg_with(segment + EMPTY * 17, JPEG)
    assert scan_jpeg(data).needed(data) == jpeg_with(segment if is_needed else b"", JPEG)


def test_metadata_before_exif_does_not_take_its_place() -> None:
    exif = jpeg_segment(0xE1, b"Exif\0\0II")
    data = jpeg_with(jpeg_segment(0xE1, b"http:/") * 17 + exif, JPEG)
    assert scan_jpeg(data).needed(data) == jpeg_with(exif, JPEG)


def test_64_kb_of_metadata_stay() -> None:
    half = jpeg_segment(0xE5, bytes((32 << 10) - 2))
    assert scan_jpeg(jpeg_with(half * 2, JPEG)).parts is None
    more = jpeg_with(half + jpeg_segment(0xE5, bytes((32 << 10) - 1)), JPEG)
    assert scan_jpeg(more).needed(more) == JPEG


# Scans


def test_pixels_of_two_scans_are_bounded() -> None:
    assert scan_jpeg(jpeg_of_scans(30_000, 20_000, 1)).size == (30_000, 20_000)
    refused = ("pixels in all of its scans", 1_200_060_000, 1_200_000_000)
    assert refusal(scan_jpeg, jpeg_of_scans(30_000, 20_001, 1)) == refused


def test_scans_behind_one_of_all_components_do_not_count() -> None:
    assert scan_jpeg(JPEG[:-2] + SCAN * 200 + JPEG[-2:]).unusual == ""
    by_component = jpeg_of_scans(64, 48, 99, progressive=False)
    assert scan_jpeg(by_component).unusual == "JPEG of 100 scans"
    assert scan_jpeg(by_component).decoder_bytes == 6.0
    assert refusal(scan_jpeg, jpeg_of_scans(64, 48, 100, progressive=False)) == ("scans", 101, 100)


@pytest.mark.parametrize("between", [EMPTY, b"\xff\xfe\0\0", jpeg_segment(0xFE, b"\xff\xd9\xff\xda")])
def test_comments_hide_no_scan_and_no_scan_is_in_a_comment(between: bytes) -> None:
    assert scan_jpeg(jpeg_of_scans(64, 48, 99, between=between)).unusual == "JPEG of 100 scans"
    assert refusal(scan_jpeg, jpeg_of_scans(64, 48, 100, between=between)) == ("scans", 101, 100)


def test_markers_from_the_first_scan_to_the_end_are_bounded() -> None:
    # Two scans and the end are markers too.
    assert scan_jpeg(jpeg_of_scans(64, 48, 1, between=EMPTY * 4093)).size == (64, 48)
    refused = ("markers behind its first scan", 4097, 4096)
    assert refusal(scan_jpeg, jpeg_of_scans(64, 48, 1, between=EMPTY * 4094)) == refused


RUN = b"\xff" * 257


def test_fill_bytes_count_within_the_image_only() -> None:
    refused = ("fill bytes in a row behind its first scan", 257, 256)
    # The end has one of them itself.
    most = jpeg_with_end(RUN[2:])
    assert scan_jpeg(most).size == (64, 48)
    assert scan_jpeg(jpeg_with(RUN, most)).size == (64, 48)
    assert scan_jpeg(JPEG + RUN).size == (64, 48)
    assert refusal(scan_jpeg, jpeg_with_end(RUN[1:])) == refused
    assert refusal(scan_jpeg, jpeg_with_end(RUN[1:]) + RUN) == refused
