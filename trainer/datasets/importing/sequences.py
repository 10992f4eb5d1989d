"""Sequences of images, as far as their names show them.

Frames are numbered: ``drive1_000017``, ``clip_mp4-3``, ``seq2/0017``. Names that only count photos, as cameras give
them (``IMG_0017``, ``0017``), show none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from trainer.datasets.importing.names import original_stem

COUNTERS = frozenset(
    {"", "dji", "dsc", "dscf", "dscn", "file", "foto", "gopr", "image", "img", "imgp", "mvi", "p", "pano", "photo"}
    | {"pic", "picture", "pxl", "sam", "scan", "screenshot", "whatsapp image"}
)
"""Words, in lower case, before the numbers of photos that have nothing to do with each other."""
FRAMES = frozenset({"frame", "frames", "f"})
RUNS = 10
"""Pieces that a single sequence is cut into."""
_NUMBERED = re.compile(r"^(.*?)[ _.\-(]*(\d+)\)?$")


class _Name(NamedTuple):
    prefix: str
    number: int


def sequences(names: Sequence[str]) -> list[str] | None:
    """The sequence of each image; None where the names show no sequences.

    They do where at least two sequences have several frames, and these are at least half of the images. A single
    sequence counts where its name speaks of frames; it is cut into runs of frames that follow each other.

    Args:
        names: Paths without extensions.
    """
    parsed = [_parsed(name) for name in names]
    sizes = Counter(name.prefix for name in parsed if name is not None)
    several = {prefix for prefix, size in sizes.items() if size > 1}
    in_several = sum(sizes[prefix] for prefix in several)
    if not several or 2 * in_several < len(names):
        return None
    if len(several) == 1:
        return _runs(names, parsed) if _speaks_of_frames(next(iter(several))) else None
    return [name if it is None else it.prefix for name, it in zip(names, parsed, strict=True)]


def _parsed(name: str) -> _Name | None:
    """Folder and prefix of a numbered frame, and its number; None for names that show no sequence."""
    path = PurePosixPath(name)
    found = _NUMBERED.match(original_stem(path.name))
    if found is None:
        return None
    prefix = found.group(1)
    folder = path.parent.as_posix()
    if prefix.strip("_-. ").lower() in COUNTERS and folder == ".":
        return None
    return _Name(f"{folder}/{prefix}", int(found.group(2)))


def _speaks_of_frames(prefix: str) -> bool:
    words = re.split(r"[^a-z0-9]+", prefix.lower())
    return bool(FRAMES & set(words)) or bool({"mp4", "mov", "avi", "mkv", "video"} & set(words))


def _runs(names: Sequence[str], parsed: Sequence[_Name | None]) -> list[str]:
    """Runs of consecutive frames; images outside of the sequence stand alone."""
    numbers = sorted({it.number for it in parsed if it is not None})
    run_of = {number: place * min(RUNS, len(numbers)) // len(numbers) for place, number in enumerate(numbers)}
    return [name if it is None else f"{it.prefix} {run_of[it.number]}" for name, it in zip(names, parsed, strict=True)]
