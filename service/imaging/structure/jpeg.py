"""Structure of JPEG files, ITU-T T.81: markers, scans, the metadata that a decoder of pixels does not need."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.errors import NotAnImage
from service.imaging.structure.limits import (
    JPEG_FILL_BYTES,
    JPEG_FILL_RUN,
    JPEG_LATE_MARKERS,
    JPEG_MARKERS,
    JPEG_SCANNED_PIXELS,
    JPEG_SCANS,
    JPEG_TABLE_BYTES,
)
from service.imaging.structure.structure import Structure

_EOI, _SOS, _DQT, _FILL = 0xD9, 0xDA, 0xDB, 0xFF
_APP0, _APP1, _APP14, _COM = 0xE0, 0xE1, 0xEE, 0xFE
# Start of a frame: C0 to CF without DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})
# Markers with a length and a content behind them.
_SEGMENTS = _FRAMES | {0xC4, 0xCC} | set(range(_SOS, 0xE0)) | set(range(_APP0, 0xF0)) | {_COM}
_METADATA = frozenset(range(_APP0, 0xF0)) | {_COM}
# A marker behind the first scan: within its data, FF is followed by 00 or by a restart.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_LONG_FILL = b"\xff" * (JPEG_FILL_RUN.value + 1)
# Of metadata that is not needed; beyond them it is cut out.
_KEPT_SEGMENTS = 16
_KEPT_BYTES = 64 * 1024
_ORDINARY_SCANS = 16
_BLOCK_PIXELS = 64
_COEFFICIENT_BYTES = 2


@dataclass(slots=True)
class _Header:
    """Segments before the first scan.

    Attributes:
        frame: Marker of the frame, 0 if there is none.
        scan: Where the first scan's marker is, 0 if there is none.
        kept: Ranges without the metadata that is not needed.
    """

    frame: int = 0
    scan: int = 0
    size: tuple[int, int] = (0, 0)
    factors: list[tuple[int, int]] = field(default_factory=list)
    scan_components: int = 0
    kept: list[slice] = field(default_factory=list)
    has_exif: bool = False
    table_bytes: int = 0
    dropped_segments: int = 0
    dropped_bytes: int = 0


def scan_jpeg(data: bytes) -> Structure:
    """The structure of a JPEG file.

    Raises:
        NotAnImage: No frame, no scan, or two frames.
        PayloadTooLarge: More of something than the limits allow.
    """
    header = _read_header(data)
    if not header.scan or not header.factors:
        raise NotAnImage("the JPEG image is truncated or corrupt: it has no frame or no scan")
    components = len(header.factors)
    is_single_scan = header.frame in _SEQUENTIAL and header.scan_components >= components
    scans = 1 if is_single_scan else _count_scans(data, header.scan)
    _check_fill(data, header.scan)
    width, height = header.size
    if scans > 1:
        JPEG_SCANNED_PIXELS.check(scans * width * height)
    is_bulky = header.dropped_segments > _KEPT_SEGMENTS or header.dropped_bytes > _KEPT_BYTES
    return Structure(
        size=header.size,
        stored_bytes=1 if components == 1 else 4,
        decoder_bytes=0.0 if is_single_scan else _coefficients(header.factors) * _COEFFICIENT_BYTES,
        unusual=_oddity(header.frame, scans),
        shortfall=_shortfall(header, len(data)),
        parts=(*header.kept, slice(header.scan, None)) if is_bulky else None,
    )


def _read_header(data: bytes) -> _Header:
    """Walk the markers up to the first scan, as Pillow does."""
    header = _Header()
    start, position, skipped, markers = 0, 2, 0, 0
    while not header.scan and (at := data.find(b"\xff", position)) != -1:
        skipped += at - position
        JPEG_FILL_BYTES.check(skipped)
        marker = int.from_bytes(data[at + 1 : at + 2])
        if marker == _FILL:
            skipped += 1
            position = at + 1
            continue
        markers += 1
        JPEG_MARKERS.check(markers)
        position = at + 2
        if marker not in _SEGMENTS:
            continue
        length = max(2, int.from_bytes(data[position : position + 2]))
        if marker in _METADATA and not _is_needed(header, marker, data[position + 2 : position + 8]):
            header.kept.append(slice(start, at))
            header.dropped_segments += 1
            header.dropped_bytes += length
            start = position + length
        else:
            _read_segment(header, marker, data, at, position)
        position += length
    header.kept.append(slice(start, header.scan))
    return header


def _is_needed(header: _Header, marker: int, content: bytes) -> bool:
    """True for metadata with an effect on the pixels: JFIF's, Adobe's, and the first of EXIF, with the orientation."""
    if marker == _APP1 and content == b"Exif\0\0":
        is_first, header.has_exif = not header.has_exif, True
        return is_first
    return (marker == _APP0 and content.startswith(b"JFIF")) or (marker == _APP14 and content.startswith(b"Adobe"))


def _read_segment(header: _Header, marker: int, data: bytes, at: int, position: int) -> None:
    if marker in _FRAMES:
        if header.frame:
            raise NotAnImage("the JPEG image is truncated or corrupt: it has two frames")
        height, width, components = struct.unpack_from(">HHB", data, position + 3)
        header.frame, header.size = marker, (width, height)
        factors = data[position + 9 : position + 9 + 3 * components : 3]
        header.factors = [(factor >> 4, factor & 15) for factor in factors]
    elif marker == _DQT:
        header.table_bytes += int.from_bytes(data[position : position + 2])
        JPEG_TABLE_BYTES.check(header.table_bytes)
    elif marker == _SOS:
        header.scan, header.scan_components = at, int.from_bytes(data[position + 2 : position + 3])


def _scan_markers(data: bytes, start: int, end: int | None = None) -> Iterator[int]:
    """The markers from the first scan to the image's end, or to a place before it.

    What follows the image, such as a video or a second image, is not decoded.

    Raises:
        PayloadTooLarge: More of them than allowed.
    """
    position, end, markers = start, len(data) if end is None else end, 0
    while (found := _MARKER.search(data, position, end)) is not None:
        marker, position = data[found.end() - 1], found.end()
        markers += 1
        JPEG_LATE_MARKERS.check(markers)
        yield marker
        if marker == _EOI:
            return
        if marker in _SEGMENTS:
            position += max(2, int.from_bytes(data[position : position + 2]))


def _count_scans(data: bytes, start: int) -> int:
    scans = 0
    for marker in _scan_markers(data, start):
        scans += marker == _SOS
        JPEG_SCANS.check(scans)
    return scans


def _check_fill(data: bytes, start: int) -> None:
    # A run has two samples next to each other; to search all bytes takes twenty times as long.
    if b"\xff\xff" not in data[start :: len(_LONG_FILL) // 2]:
        return
    run = data.find(_LONG_FILL, start)
    if run != -1 and _EOI not in _scan_markers(data, start, run):
        JPEG_FILL_RUN.check(len(_LONG_FILL))


def _shares(factors: list[tuple[int, int]]) -> list[float]:
    """Samples per pixel of each component."""
    across, down = (max(1, *(pair[side] for pair in factors)) for side in (0, 1))
    return [horizontal * vertical / (across * down) for horizontal, vertical in factors]


def _coefficients(factors: list[tuple[int, int]]) -> float:
    return sum(_shares(factors))


def _shortfall(header: _Header, num_bytes: int) -> str:
    """A Huffman code has a bit or more, and each block one code or more in its first scan."""
    width, height = header.size
    blocks = width * height * max(_shares(header.factors)) / _BLOCK_PIXELS
    if header.frame in _HUFFMAN and (num_bytes - header.scan) * 8 < blocks:
        return f"{num_bytes - header.scan} bytes of scans cannot hold {width}x{height} pixels"
    return ""


def _oddity(frame: int, scans: int) -> str:
    if frame not in _HUFFMAN:
        return "JPEG with arithmetic coding or without loss"
    return f"JPEG of {scans} scans" if scans > _ORDINARY_SCANS else ""
