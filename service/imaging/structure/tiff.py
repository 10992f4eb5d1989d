"""Structure of TIFF files: directories, tags, and the strips or tiles that a decoder allocates as a whole."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from service.errors import NotAnImage
from service.imaging.structure.limits import (
    JPEG_SCANNED_PIXELS,
    TIFF_FRACTIONS,
    TIFF_SEGMENT_BYTES,
    TIFF_SEGMENT_SIDE,
    TIFF_STRIPS,
    TIFF_TAGS,
    TIFF_VALUES,
)
from service.imaging.structure.structure import Structure

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS = 273, 274, 277, 278, 279
_PLANAR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS, _SAMPLE_FORMAT = 284, 322, 323, 324, 325, 339
_SEGMENT_LISTS = frozenset({_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS})
# Decoders disagree which of two such tags counts.
_LAYOUT = _SEGMENT_LISTS | {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP),
    *(_PLANAR, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT),
}
_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_SEPARATE_PLANES = 2
_UNSIGNED = 1
# Bytes of a value by type; 2 and 7 are text and bytes, 5 and 10 fractions.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTES = frozenset({1, 2, 6, 7})
_FRACTIONS = frozenset({5, 10})
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
# None, LZW, JPEG, deflate by both of its numbers, PackBits.
_ORDINARY = frozenset({1, 5, 7, 8, 32773, 32946})
_UNCOMPRESSED = 1
_JPEG = frozenset({6, 7})
_START_OF_SCAN = b"\xff\xda"
# Pixels of all segments together over those of the image: edges of tiles reach beyond it.
_MOST_COVER = 4
_FREE_COVER = 16 << 20


@dataclass(frozen=True, slots=True)
class _Tag:
    kind: int
    count: int
    place: int  # of its values


@dataclass(frozen=True, slots=True)
class _Segments:
    """The strips or tiles: their size in pixels, and how many the file lists."""

    size: tuple[int, int]
    count: int


class _Reader:
    """Reads directories of a file in its byte order."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._order = "<" if data[:2] == b"II" else ">"
        # The third byte too, as the signature allows "MM\\0*" and "MM*\\0".
        self._is_big = 43 in data[2:4]
        self._number = struct.Struct(self._order + ("Q" if self._is_big else "I"))
        self._count = struct.Struct(self._order + ("Q" if self._is_big else "H"))
        self._entry = struct.Struct(self._order + ("HHQ" if self._is_big else "HHI"))

    def first(self) -> int:
        """Place of the first directory."""
        return int(self._number.unpack_from(self.data, 8 if self._is_big else 4)[0])

    def has_directory(self, place: int) -> bool:
        """True if the file has at least the number of tags there; 0 stands for no directory."""
        return 0 < place <= len(self.data) - self._count.size

    def directory(self, place: int) -> dict[int, _Tag]:
        """The tags of a directory, those behind the end of the file left out.

        Raises:
            NotAnImage: It is not within the file, or two tags contradict each other.
            PayloadTooLarge: More tags or values than allowed.
        """
        if not self.has_directory(place):
            raise NotAnImage("the TIFF image is truncated or corrupt: its directory is not within the file")
        (count,) = self._count.unpack_from(self.data, place)
        TIFF_TAGS.check(count)
        start, step = place + self._count.size, self._entry.size + self._number.size
        tags: dict[int, _Tag] = {}
        for at in range(start, min(start + step * count, len(self.data) - step + 1), step):
            number, kind, values = self._entry.unpack_from(self.data, at)
            _check_values(number, kind, values)
            if number in tags and number in _LAYOUT:
                raise NotAnImage(f"the TIFF image is truncated or corrupt: it has tag {number} twice")
            tags.setdefault(number, _Tag(kind, values, self._place(at, values * _VALUE_BYTES.get(kind, 0))))
        return tags

    def integer(self, tag: _Tag | None, default: int = 0) -> int:
        """The first value of a tag, or the default where it is absent or no integer."""
        form = _INTEGERS.get(tag.kind) if tag else None
        if tag is None or form is None or tag.count == 0 or tag.place + _VALUE_BYTES[tag.kind] > len(self.data):
            return default
        return int(struct.unpack_from(self._order + form, self.data, tag.place)[0])

    def _place(self, at: int, size: int) -> int:
        inside = at + self._entry.size
        return inside if size <= self._number.size else int(self._number.unpack_from(self.data, inside)[0])


def scan_tiff(data: bytes) -> Structure:
    """The structure of a TIFF file and its first image.

    Raises:
        NotAnImage: No size.
        PayloadTooLarge: More of something than the limits allow.
        struct.error: The file ends before its first directory.
    """
    reader = _Reader(data)
    tags = reader.directory(reader.first())
    _check_others(reader, tags)
    width, height = (reader.integer(tags.get(tag)) for tag in (_WIDTH, _HEIGHT))
    if width <= 0 or height <= 0:
        raise NotAnImage("the TIFF image is truncated or corrupt: it has no size")
    samples, bits = max(1, reader.integer(tags.get(_SAMPLES))), reader.integer(tags.get(_BITS), 1)
    planes = samples if reader.integer(tags.get(_PLANAR)) == _SEPARATE_PLANES else 1
    pixel_bytes = max(4, samples * bits // 8)
    segment_pixels = max(
        _check_segments(segments, (width, height), planes, pixel_bytes)
        for segments in _segments(reader, tags, (width, height))
    )
    compression = reader.integer(tags.get(_COMPRESSION), 1)
    if compression in _JPEG:
        # Each scan passes over the blocks of a strip or tile.
        JPEG_SCANNED_PIXELS.check(data.count(_START_OF_SCAN) * segment_pixels)
    is_turned = reader.integer(tags.get(_ORIENTATION)) in {5, 6, 7, 8}
    is_unsigned = reader.integer(tags.get(_SAMPLE_FORMAT), _UNSIGNED) == _UNSIGNED
    return Structure(
        size=(height, width) if is_turned else (width, height),
        # Pillow keeps signed numbers and fractions in 32 bits.
        stored_bytes=4 if samples > 1 or bits > 16 or not is_unsigned else 2 if bits > 8 else 1,
        # libtiff decodes a strip or tile as a whole, beside its compressed bytes.
        buffer_bytes=0 if compression == _UNCOMPRESSED else len(data) + segment_pixels * pixel_bytes,
        unusual="" if compression in _ORDINARY else f"TIFF of compression {compression}",
    )


def _check_values(number: int, kind: int, values: int) -> None:
    """Refuse lists that become too many objects; bytes stay bytes, however many."""
    if number in _SEGMENT_LISTS:
        TIFF_STRIPS.check(values)
    elif kind in _FRACTIONS:
        TIFF_FRACTIONS.check(values)
    elif kind not in _BYTES:
        TIFF_VALUES.check(values)


def _check_others(reader: _Reader, tags: Mapping[int, _Tag]) -> None:
    """Check the directories that Pillow reads beside the image's own, for its EXIF data."""
    exif = tags
    for number in _DIRECTORIES:
        # The interoperability directory hangs on that of EXIF.
        place = reader.integer(exif.get(number) or tags.get(number))
        if reader.has_directory(place):
            found = reader.directory(place)
            exif = found if number == _DIRECTORIES[0] else exif


def _segments(reader: _Reader, tags: Mapping[int, _Tag], size: tuple[int, int]) -> list[_Segments]:
    """Strips, tiles, or where a file has both, either: decoders disagree which of them counts."""
    found = []
    if tags.keys() & {_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS}:
        sides = (reader.integer(tags.get(_TILE_WIDTH), size[0]), reader.integer(tags.get(_TILE_LENGTH), size[1]))
        found.append(_Segments(sides, _length(tags.get(_TILE_OFFSETS))))
    if not found or _STRIP_OFFSETS in tags:
        rows = min(reader.integer(tags.get(_ROWS_PER_STRIP), size[1]), size[1])
        found.append(_Segments((size[0], rows), _length(tags.get(_STRIP_OFFSETS))))
    return found


def _length(tag: _Tag | None) -> int:
    return tag.count if tag else 0


def _check_segments(segments: _Segments, size: tuple[int, int], planes: int, pixel_bytes: int) -> int:
    """Refuse segments that are far larger than the image, and more than cover it; gives the pixels of one."""
    columns, rows = segments.size
    if columns <= 0 or rows <= 0:
        raise NotAnImage(f"the TIFF image is truncated or corrupt: its strips or tiles have {columns}x{rows} pixels")
    TIFF_SEGMENT_SIDE.check(max(columns - size[0], rows - size[1]))
    pixels = size[0] * size[1]
    TIFF_SEGMENT_BYTES.check((columns * rows - pixels) * pixel_bytes)
    needed = -(-size[0] // columns) * -(-size[1] // rows) * planes
    cover = max(needed, segments.count) * columns * rows
    if cover > _MOST_COVER * pixels * planes + _FREE_COVER:
        raise NotAnImage(
            f"the TIFF image is truncated or corrupt: its {segments.count} strips or tiles of {columns}x{rows} pixels "
            f"cover far more than its {size[0]}x{size[1]}"
        )
    return columns * rows
