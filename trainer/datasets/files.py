"""Search for the files of a split, pairing, and the list of missing files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from service.model_directory.manifest import file_sha256
from trainer.datasets.errors import DatasetError, MissingFileError, UnreadableFileError

Pair = tuple[Path, Path]
"""An image file and its label file."""


class Files(NamedTuple):
    """The complete pairs of a split, and a sentence for each missing file."""

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...] = ()


def files_in(folder: Path, ending: str, *, below: str = "") -> dict[str, Path]:
    """The files of a folder with an ending, in any case, by their path below it without that; none that is hidden.

    Args:
        folder: Folder of the files.
        ending: Of their names, with the extension.
        below: ``*/`` if they are in its subfolders.

    Raises:
        DatasetError: The folder does not exist, or two files differ in the case of the ending only.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} does not exist")
    found = (path for path in folder.glob(f"{below}*") if path.name.lower().endswith(ending.lower()))
    shown = (path for path in found if not path.name.startswith("."))
    return by_key((path.relative_to(folder).as_posix()[: -len(ending)], path) for path in shown)


def visible_files(folder: Path) -> Iterator[Path]:
    """The files anywhere below a folder, also behind links; none that is hidden, a pipe or a device.

    A link to a folder that leads to it is not followed.
    """
    above = {folder: frozenset({folder.resolve()})}
    for place, folders, names in os.walk(folder, followlinks=True):
        parent = Path(place)
        ways = above.pop(parent)
        kept = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        targets = {name: (parent / name).resolve() for name in kept}
        folders[:] = [name for name in kept if targets[name] not in ways]
        above |= {parent / name: ways | {targets[name]} for name in folders}
        paths = (parent / name for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file() or not path.exists())


def by_key(keyed: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by their keys.

    Raises:
        DatasetError: Two have one key.
    """
    files: dict[str, Path] = {}
    for key, path in sorted(keyed):
        if key in files:
            raise DatasetError(f"{files[key]} and {path} have the same name; remove one of the two")
        files[key] = path
    return files


def match(images: Mapping[str, Path], labels: Mapping[str, Path], where: Path) -> Files:
    """Pair images with labels of the same key, in the keys' order; ``where`` names the labels' folder in the text."""
    pairs = tuple((images[key], labels[key]) for key in sorted(images.keys() & labels.keys()))
    unlabelled = [f"{images[key]} has no label in {where}" for key in sorted(images.keys() - labels.keys())]
    unused = [f"{labels[key]} has no image" for key in sorted(labels.keys() - images.keys())]
    return Files(pairs, (*unlabelled, *unused))


def listed(list_file: Path, pair_of: Callable[[str], Pair]) -> Files:
    """The pairs of the names in a list file, in its order.

    Raises:
        DatasetError: The list is missing or no text.
    """
    pairs: list[Pair] = []
    missing: list[str] = []
    for name in read_list(list_file):
        pair = pair_of(name)
        absent = [path for path in pair if not path.is_file()]
        missing += [f"{list_file} lists {name}, but {path} does not exist" for path in absent]
        if not absent:
            pairs.append(pair)
    return Files(tuple(pairs), tuple(missing))


def read_list(path: Path) -> list[str]:
    """The lines of a list file, without blank ones.

    Raises:
        DatasetError: The file is missing or no UTF-8 text, or a line occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors put a byte order mark first
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error
    names = Counter(filter(None, map(str.strip, lines)))
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DatasetError(f"{path} lists more than once: {summary(twice)}")
    return list(names)


def copies(files: Iterable[Path], originals: Iterable[Path]) -> list[Pair]:
    """The files that are one of the originals or hold the bytes of one, each with that one.

    Only files of equal size are read. Files that are not there are left out.
    """
    by_place: dict[Path, Path] = {}
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in filter(Path.is_file, originals):
        by_place[path.resolve()] = path
        by_size[path.stat().st_size].append(path)
    digest = cache(file_sha256)

    def original(path: Path) -> Path | None:
        if path.resolve() in by_place:
            return by_place[path.resolve()]
        alike = by_size.get(path.stat().st_size, ())
        return next((other for other in alike if digest(other) == digest(path)), None)

    return [(path, found) for path in filter(Path.is_file, files) if (found := original(path)) is not None]


def plural(count: int, noun: str) -> str:
    """A count with its noun, as ``1 file`` or ``2 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def summary(sentences: Iterable[str], shown: int = 5) -> str:
    """The first few sentences, and how many more there are."""
    every = list(sentences)
    rest = [f"and {len(every) - shown} more"] if len(every) > shown else []
    return "; ".join(every[:shown] + rest)
