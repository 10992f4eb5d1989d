"""Mutants of files: a seeded mutator that knows where the parts of each format begin."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

_MOST_CHANGES = 6
_MOST_BYTES = 1 << 20
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MARKER = re.compile(rb"\xff[\xc0-\xfe]")

Change = Callable[[bytearray, list[int], Random], None]


def places(data: bytes) -> list[int]:
    """Starts of the parts: markers, chunks, boxes, directories; at least the start and the end."""
    found = {0, len(data)}
    if data[:2] == b"\xff\xd8":
        found |= {match.start() for match in _MARKER.finditer(data[: 1 << 16])}
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        found |= set(_walk(data, 8, ">", 4, 12))
    elif data[:4] == b"RIFF":
        found |= set(_walk(data, 12, "<", 8, 8))
    elif data[4:8] == b"ftyp":
        found |= set(_walk(data, 0, ">", 8, 0))
    elif data[:4] == b"II*\0" and len(data) >= 8:
        (directory,) = struct.unpack_from("<I", data, 4)
        found |= set(range(directory + 2, min(len(data), directory + 400), 12)) | {directory}
    return sorted(place for place in found if place <= len(data))


def _walk(data: bytes, start: int, order: str, name_end: int, overhead: int) -> Sequence[int]:
    """Starts of parts that state their length, before or behind a name of four bytes."""
    found: list[int] = []
    while start + 8 <= len(data) and len(found) < 1000:
        found.append(start)
        at = start + name_end - 4 if overhead == 8 else start
        (length,) = struct.unpack_from(f"{order}I", data, at)
        start += max(8, length + overhead)
    return found


def mutant(data: bytes, other: bytes, random: Random) -> bytes:
    """A file with some changes; most of a PNG's checksums are right again.

    Args:
        data: The file.
        other: Another one, of which parts may be taken.
        random: Decides.
    """
    changed = bytearray(data)
    for _ in range(random.randint(1, _MOST_CHANGES)):
        random.choice(_CHANGES)(changed, places(bytes(changed)), random)
    if random.random() < 0.1:
        known, foreign = places(bytes(changed)), places(other)
        changed[random.choice(known) :] = other[random.choice(foreign) :]
    result = bytes(changed[:_MOST_BYTES])
    return _with_checksums(result) if random.random() < 0.8 else result


def _flip(data: bytearray, known: list[int], random: Random) -> None:
    if data:
        data[_near(data, known, random)] ^= 1 << random.randrange(8)


def _number(data: bytearray, known: list[int], random: Random) -> None:
    size = random.choice((1, 2, 4))
    at = _near(data, known, random)
    value = random.choice(_NUMBERS) & ((1 << 8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, random.choice(("big", "little")))


def _cut(data: bytearray, known: list[int], random: Random) -> None:
    start, end = sorted(random.choices(known, k=2))
    del data[start:end]


def _repeat(data: bytearray, known: list[int], random: Random) -> None:
    start, end = sorted(random.choices(known, k=2))
    data[end:end] = data[start:end] * random.choice((1, 2, 50))
    del data[_MOST_BYTES:]


def _insert(data: bytearray, known: list[int], random: Random) -> None:
    at = _near(data, known, random)
    data[at:at] = random.choice((b"\xff", b"\0", b"\xff\xda", random.randbytes(4))) * random.choice((1, 4, 1000))


def _truncate(data: bytearray, known: list[int], random: Random) -> None:
    del data[_near(data, known, random) :]


_CHANGES: tuple[Change, ...] = (_flip, _flip, _number, _number, _number, _cut, _repeat, _insert, _truncate)


def _near(data: bytearray, known: list[int], random: Random) -> int:
    """A place, more often than not close behind the start of a part."""
    if not data:
        return 0
    place = random.choice(known) + random.randrange(24) if random.random() < 0.8 else random.randrange(len(data))
    return min(place, len(data) - 1)


def _with_checksums(data: bytes) -> bytes:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    changed = bytearray(data)
    for start in _walk(data, 8, ">", 4, 12):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if end + 4 <= len(data):
            changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
    return bytes(changed)
