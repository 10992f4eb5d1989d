"""The structure of small TIFF files: costs, and directories, lists, numbers and tiles at the border of every limit."""

from __future__ import annotations

import re
import struct

import pytest

from service.errors import NotAnImage
from service.imaging.structure.structure import Structure
from service.imaging.structure.tiff import scan_tiff
from tests.support.hostile import tiff, tiff_small, tiff_tags
from tests.support.refusals import refusal

FORMS = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 16: "Q"}
SIDES = [(256, 4, 1, 9), (257, 4, 1, 5)]

Entry = tuple[int, int, int, int]


def file_of(entries: list[Entry], *, place: int = 16, count: int | None = None, is_big: bool = False) -> bytes:
    """A file that ends with its directory: tags as number, type, count and value, or the place of the values.

    Args:
        entries: The tags.
        place: Where the directory is.
        count: Number of tags that it states; that of the entries if not given.
        is_big: A BigTIFF.
    """
    start = struct.pack("<2sHHHQ", b"II", 43, 8, 0, place) if is_big else struct.pack("<2sHI", b"II", 42, place)
    stated = struct.pack("<Q" if is_big else "<H", len(entries) if count is None else count)
    return start.ljust(place, b"\0") + stated + b"".join(packed(entry, is_big) for entry in entries)


def packed(entry: Entry, is_big: bool) -> bytes:
    number, kind, count, value = entry
    stored = struct.pack(f"<{FORMS.get(kind, 'I')}", value).ljust(8 if is_big else 4, b"\0")
    return struct.pack("<HHQ" if is_big else "<HHI", number, kind, count) + stored


def directory(count: int, entries: list[Entry] | None = None) -> bytes:
    """A directory that is told to have so many tags, and ends with some."""
    return struct.pack("<H", count) + b"".join(packed(entry, False) for entry in entries or [])


def refused(data: bytes) -> str:
    """The reason for which a file is corrupt."""
    with pytest.raises(NotAnImage) as error:
        scan_tiff(data)
    start, _, reason = error.value.detail.partition(": ")
    assert start == "the TIFF image is truncated or corrupt"
    return reason


# Costs and limits


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


# Places


@pytest.mark.parametrize("place", [16, 43, 299, 256 * 43 + 16])
def test_directory_may_be_anywhere(place: int) -> None:
    assert scan_tiff(file_of(SIDES, place=place)) == Structure(size=(9, 5), stored_bytes=1)


@pytest.mark.parametrize("place", [0, 17, 18, 1 << 31, (1 << 32) - 1])
def test_directory_outside_of_the_file_is_none(place: int) -> None:
    assert refused(struct.pack("<2sHI", b"II", 42, place).ljust(18, b"\0")) == "its directory is not within the file"


def test_directory_without_tags_may_be_the_end_of_the_file() -> None:
    assert refused(file_of([])) == "it has no size"
    assert refused(file_of([], is_big=True)) == "it has no size"


def test_tags_behind_the_end_of_the_file_are_left_out() -> None:
    whole = file_of(SIDES, count=3)
    assert scan_tiff(whole).size == (9, 5)
    assert refused(whole[:-1]) == "it has no size"
    assert scan_tiff(whole + bytes(11)).size == (9, 5)
    listing = file_of([*SIDES, (50_000, 3, 100, 8)])
    assert scan_tiff(listing[:-1]).size == (9, 5)


def test_values_at_the_end_of_the_file_are_read_and_those_behind_it_are_not() -> None:
    bits = (258, 3, 3, 16 + 2 + 3 * 12)
    data = file_of([*SIDES, bits]) + struct.pack("<H", 16)
    assert scan_tiff(data).stored_bytes == 2
    assert scan_tiff(data[:-1]).stored_bytes == 1
    assert scan_tiff(data[:-2]).stored_bytes == 1


@pytest.mark.parametrize(("place", "is_big"), [(1 << 31, False), ((1 << 32) - 1, False), ((1 << 64) - 1, True)])
def test_values_far_behind_the_end_of_the_file_are_not_read(place: int, is_big: bool) -> None:
    kind = 16 if is_big else 4
    assert scan_tiff(file_of([*SIDES, (258, kind, 5, place)], is_big=is_big)).stored_bytes == 1


@pytest.mark.parametrize(("kind", "count"), [(3, 0), (11, 1), (99, 1), (99, 100)])
def test_tag_without_an_integer_counts_as_absent(kind: int, count: int) -> None:
    assert scan_tiff(file_of([*SIDES, (274, kind, count, 6)])).size == (9, 5)
    assert scan_tiff(file_of([*SIDES, (274, 3, 1, 6)])).size == (5, 9)


# Counts


@pytest.mark.parametrize("count", [1025, 0x8000, 0xFFFF])
def test_number_of_tags_has_16_bits(count: int) -> None:
    assert refusal(scan_tiff, file_of(SIDES, count=count)) == ("tags in a directory", count, 1024)


@pytest.mark.parametrize("count", [1 << 63, (1 << 64) - 1])
def test_numbers_of_a_big_tiff_have_64_bits(count: int) -> None:
    assert refusal(scan_tiff, file_of(SIDES, count=count, is_big=True)) == ("tags in a directory", count, 1024)
    listed = file_of([*SIDES, (324, 16, count, 0)], is_big=True)
    assert refusal(scan_tiff, listed) == ("strips or tiles", count, 65_536)
    exif = file_of([*SIDES, (34_665, 16, 1, 16 + 8 + 3 * 20)], is_big=True)
    assert refusal(scan_tiff, exif + struct.pack("<Q", count)) == ("tags in a directory", count, 1024)


def test_tag_of_the_layout_counts_once() -> None:
    assert refused(file_of([*SIDES, (256, 4, 1, 9)])) == "it has tag 256 twice"
    assert refused(file_of([*SIDES, (339, 3, 1, 1), (339, 3, 1, 2)])) == "it has tag 339 twice"
    assert scan_tiff(file_of([*SIDES, (50_000, 4, 1, 9), (50_000, 4, 1, 9)])).size == (9, 5)


# EXIF, GPS and interoperability

TOO_MANY = ("tags in a directory", 1025, 1024)


@pytest.mark.parametrize("number", [34_665, 34_853, 40_965])
def test_other_directories_are_read_where_the_file_has_one(number: int) -> None:
    end = 16 + 2 + 3 * 12
    data = file_of([*SIDES, (number, 4, 1, end)]) + directory(1025)
    assert refusal(scan_tiff, data) == TOO_MANY
    assert scan_tiff(data[:-1]).size == (9, 5)
    assert scan_tiff(file_of([*SIDES, (number, 4, 1, 0)])).size == (9, 5)
    assert refusal(scan_tiff, file_of([*SIDES, (number, 4, 1, 1)])) == ("tags in a directory", 0x2A49, 1024)


def test_interoperability_hangs_on_exif_and_gps_on_the_image() -> None:
    first = 16 + 2 + 4 * 12
    second = first + 2 + 12
    both = file_of([*SIDES, (34_665, 4, 1, first), (34_853, 4, 1, second)])
    assert refusal(scan_tiff, both + directory(1, [(40_960, 4, 1, 0)]) + directory(1025)) == TOO_MANY
    third = second + 2
    assert refusal(scan_tiff, both + directory(1, [(40_965, 4, 1, third)]) + directory(0) + directory(1025)) == TOO_MANY


# Kinds of pixels


@pytest.mark.parametrize(
    ("bits", "samples", "sample_format", "stored_bytes"),
    [
        (8, 1, 1, 1),
        (9, 1, 1, 2),
        (12, 1, 1, 2),
        (16, 1, 1, 2),
        (16, 1, 2, 4),
        (16, 1, 3, 4),
        (17, 1, 1, 4),
        (8, 2, 1, 4),
    ],
)
def test_pixels_are_stored_as_pillow_does(bits: int, samples: int, sample_format: int, stored_bytes: int) -> None:
    tags = [*SIDES, (258, 3, 1, bits), (277, 3, 1, samples), (339, 3, 1, sample_format)]
    assert scan_tiff(file_of(tags)).stored_bytes == stored_bytes


def test_pixels_of_many_samples_are_decoded_in_their_bytes() -> None:
    data = file_of([*SIDES, (259, 3, 1, 8), (277, 3, 1, 44)])
    assert scan_tiff(data).buffer_bytes == len(data) + 9 * 5 * 5


def test_tiff_of_one_pixel_is_read() -> None:
    assert scan_tiff(file_of([(256, 4, 1, 1), (257, 4, 1, 1)])).size == (1, 1)


@pytest.mark.parametrize("sides", [[], SIDES[:1], SIDES[1:], [(256, 9, 1, -1), SIDES[1]], [SIDES[0], (257, 9, 1, -1)]])
def test_tiff_without_two_sides_is_none(sides: list[Entry]) -> None:
    assert refused(file_of(sides)) == "it has no size"


# Strips and tiles

WIDTH, LENGTH, OFFSETS, ROWS, STRIPS = 322, 323, 324, 278, 273


@pytest.mark.parametrize(
    ("segments", "pixels"),
    [
        ({}, 9 * 5),
        ({STRIPS: 1}, 9 * 5),
        ({STRIPS: 3, ROWS: 2}, 9 * 2),
        ({ROWS: 1 << 31}, 9 * 5),
        ({OFFSETS: 1}, 9 * 5),
        ({OFFSETS: 1, LENGTH: 3}, 9 * 3),
        ({OFFSETS: 1, WIDTH: 4}, 4 * 5),
        ({WIDTH: 16, LENGTH: 32}, 16 * 32),
        ({WIDTH: 2, LENGTH: 1, STRIPS: 1}, 9 * 5),
        ({WIDTH: 16, LENGTH: 32, STRIPS: 1}, 16 * 32),
    ],
)
def test_largest_strip_or_tile_is_decoded_as_a_whole(segments: dict[int, int], pixels: int) -> None:
    lists = [(tag, 4, count, 8) if tag in {OFFSETS, STRIPS} else (tag, 4, 1, count) for tag, count in segments.items()]
    data = file_of([*SIDES, (259, 3, 1, 8), *lists])
    assert scan_tiff(data).buffer_bytes == len(data) + 4 * pixels


@pytest.mark.parametrize("sides", [(4105, 1), (1, 4101)])
def test_tile_may_be_4096_pixels_longer_than_the_image(sides: tuple[int, int]) -> None:
    def tiled(width: int, height: int) -> bytes:
        return file_of([*SIDES, (WIDTH, 4, 1, width), (LENGTH, 4, 1, height)])

    assert scan_tiff(tiled(*sides)).size == (9, 5)
    longer = tiled(*(side + (side > 1) for side in sides))
    assert refusal(scan_tiff, longer) == ("pixels in a side of a tile beyond the image", 4097, 4096)


@pytest.mark.parametrize("samples", [[], [(277, 3, 1, 0)], [(277, 8, 1, -1)], [(277, 3, 1, 1)]])
def test_image_has_a_plane_whatever_it_states(samples: list[Entry]) -> None:
    tall = [(256, 4, 1, 16), (257, 4, 1, 3_000_000), (WIDTH, 4, 1, 4096), (LENGTH, 4, 1, 16), (284, 3, 1, 2)]
    message = "its 0 strips or tiles of 4096x16 pixels cover far more than its 16x3000000"
    assert refused(file_of([*tall, *samples])) == message


@pytest.mark.parametrize("planar", [1, 3])
def test_one_tile_may_cover_all_samples(planar: int) -> None:
    changes = {"t277": ("H", 3), "t322": ("I", 4096), "t323": ("I", 4096), "t324": ("I", (0, 8))}
    assert scan_tiff(tiff_small(**changes)).size == (16, 16)
    assert scan_tiff(tiff_small(**changes, t284=("H", planar))).size == (16, 16)
    message = "its 0 strips or tiles of 4096x4096 pixels cover far more than its 16x16"
    assert refused(tiff_small(**changes, t284=("H", 2))) == message


@pytest.mark.parametrize(("planar", "most"), [(1, 32_772), (2, 32_780)])
def test_strips_may_cover_an_image_four_times_and_16_megapixels(planar: int, most: int) -> None:
    def listing(count: int) -> bytes:
        tags = tiff_tags(16, 32, t273=("I", (count, 8)), t277=("H", 3), t278=("I", 32), t284=("H", planar))
        return tiff(tags, bytes(256))

    assert scan_tiff(listing(most)).size == (16, 32)
    message = f"its {most + 1} strips or tiles of 16x32 pixels cover far more than its 16x32"
    assert refused(listing(most + 1)) == message


@pytest.mark.parametrize("is_turned", [False, True])
def test_tiles_count_by_the_number_that_the_image_needs(is_turned: bool) -> None:
    def tiled(width: int, height: int, columns: int, rows: int) -> bytes:
        order = -1 if is_turned else 1
        (width, height), (columns, rows) = (width, height)[::order], (columns, rows)[::order]
        return tiff(tiff_tags(width, height, t322=("I", columns), t323=("I", rows)))

    sides = "3000000x16" if is_turned else "16x3000000"
    assert scan_tiff(tiled(16, 3_000_000, 16, 4096)).size == tuple(map(int, sides.split("x")))
    tile = "16x4096" if is_turned else "4096x16"
    message = f"its 0 strips or tiles of {tile} pixels cover far more than its {sides}"
    assert refused(tiled(16, 3_000_000, 4096, 16)) == message
