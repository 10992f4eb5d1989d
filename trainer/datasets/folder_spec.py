"""``classes.json``: the description of a folder of your own images and labels; ``folder`` shows the format."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.model_directory.manifest import ClassInfo, same_name
from trainer.datasets.base import hex_color
from trainer.datasets.errors import DatasetError, MissingFileError, UnreadableFileError, unknown_name
from trainer.datasets.label_coding import IGNORE_INDEX, LARGEST_ID, Color
from trainer.datasets.split_names import split_of

SPEC_NAME = "classes.json"
SPEC_KEYS = ("classes", "ignore", "encoding", "splits", "image_suffix", "label_suffix", "exif")
CLASS_KEYS = ("name", "color", "id")
SPLIT_KEYS = ("images", "labels", "list")
ENCODINGS = ("ids", "colors")
MAX_CLASSES = 255


@dataclass(frozen=True, slots=True)
class SplitFolders:
    """Folders of a split's images and labels; with a list file, only the names in it belong to the split."""

    images: Path
    labels: Path
    list_file: Path | None = None


@dataclass(frozen=True, slots=True)
class FolderSpec:
    """A checked ``classes.json``.

    Attributes:
        classes: Classes by their index.
        ids: Each id of label files, and its class index or ``IGNORE_INDEX``.
        colors: Each colour of label files and its class index or ``IGNORE_INDEX``, in the order of the file.
        encoding: ``ids`` or ``colors``; None to go by the label file's mode.
        splits: Folders of each split.
        image_suffix: Ending of the images' names before the extension, which their labels' names lack.
        label_suffix: Ending of the labels' names before the extension, which their images' names lack.
        exif: Whether images are turned by their EXIF orientation.
    """

    classes: tuple[ClassInfo, ...]
    ids: Mapping[int, int]
    colors: tuple[tuple[Color, int], ...]
    encoding: str | None
    splits: Mapping[str, SplitFolders]
    image_suffix: str
    label_suffix: str
    exif: bool


def read_spec(root: Path) -> FolderSpec:
    """Read and check ``classes.json``.

    Raises:
        DatasetError: The text names the file, the key, the value and the expectation.
    """
    path = root / SPEC_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} does not exist; it must name the classes and their colours, as in "
            f'{{"classes": [{{"name": "road", "color": "#804080"}}, {{"name": "sky", "color": "#4682b4"}}]}}; '
            f"to make one of masks: ecenet-train data import {shlex.quote(str(root))} --from masks -o FOLDER"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error
    try:
        return _spec(root, _object("the file", {"classes": raw} if _is_bare(raw) else raw, SPEC_KEYS))
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None


def _spec(root: Path, raw: Mapping[str, Any]) -> FolderSpec:
    entries = [_object(f"class {index}", entry, CLASS_KEYS) for index, entry in enumerate(_class_list(raw))]
    classes = tuple(ClassInfo(index, _name(index, entry), _class_color(entry)) for index, entry in enumerate(entries))
    class_ids = [_id(entry.get("id", index)) for index, entry in enumerate(entries)]
    if fault := same_name([info.name for info in classes]):
        raise DatasetError(fault)
    _unique("id", class_ids)
    ignored_ids, ignored_colors = _ignored(raw, class_ids)
    encoding = raw.get("encoding")
    if encoding is not None and encoding not in ENCODINGS:
        raise unknown_name("encoding", str(encoding), ENCODINGS)
    return FolderSpec(
        classes=classes,
        ids={**{raw_id: index for index, raw_id in enumerate(class_ids)}, **dict.fromkeys(ignored_ids, IGNORE_INDEX)},
        colors=(*((info.color, info.id) for info in classes), *((color, IGNORE_INDEX) for color in ignored_colors)),
        encoding=encoding,
        splits=_splits(root, raw),
        image_suffix=_text("image_suffix", raw.get("image_suffix", "")),
        label_suffix=_text("label_suffix", raw.get("label_suffix", "")),
        exif=_truth("exif", raw.get("exif", True)),
    )


def _is_bare(raw: Any) -> bool:
    """Check whether the file holds ``classes`` alone: a list, or an object of names and colours."""
    if not isinstance(raw, dict):
        return isinstance(raw, list)
    parts = [part for value in raw.values() for part in (value if isinstance(value, list) else [value])]
    return not raw.keys() & set(SPEC_KEYS) and all(isinstance(part, str | int) for part in parts)


def _class_list(raw: Mapping[str, Any]) -> list[Any]:
    entries = raw.get("classes")
    if isinstance(entries, dict):
        entries = [{"name": name, "color": color} for name, color in entries.items()]
    if not isinstance(entries, list) or not 2 <= len(entries) <= MAX_CLASSES:
        found = f"has {len(entries)} entries" if isinstance(entries, list) else f"is {entries!r}"
        raise DatasetError(f"'classes' {found}, expected a list of 2..{MAX_CLASSES}")
    return entries


def _ignored(raw: Mapping[str, Any], class_ids: Collection[int]) -> tuple[list[int], list[Color]]:
    default = [] if IGNORE_INDEX in class_ids else [IGNORE_INDEX]
    entries = raw.get("ignore", default)
    entries = entries if isinstance(entries, list) else [entries]
    ids = [_id(entry) for entry in entries if isinstance(entry, int)]
    taken = sorted(set(ids) & set(class_ids))
    if taken:
        raise DatasetError(f"'ignore' has id {taken[0]}, which is a class's")
    return ids, [_color(entry) for entry in entries if not isinstance(entry, int)]


def _splits(root: Path, raw: Mapping[str, Any]) -> dict[str, SplitFolders]:
    """Folders by the name of the split, which is train, val or test where it has another name for these."""
    if "splits" not in raw:
        below = sorted(folder.name for folder in root.glob("images/*/") if not folder.name.startswith("."))
        folders = {name: _folders(root, name, {}) for name in below}
    else:
        splits = _object("'splits'", raw["splits"], None)
        folders = {
            name: _folders(root, name, _object(f"split {name!r}", entry, SPLIT_KEYS)) for name, entry in splits.items()
        }
    return {_known_name(name, folders): split for name, split in folders.items()}


def _known_name(name: str, names: Collection[str]) -> str:
    split = split_of(name)
    alike = [other for other in names if split_of(other) == split]
    return name if split is None or split in names or len(alike) > 1 else split


def _folders(root: Path, name: str, entry: Mapping[str, Any]) -> SplitFolders:
    images, labels = (root / _text(key, entry.get(key, f"{key}/{name}")) for key in ("images", "labels"))
    return SplitFolders(images, labels, root / _text("list", entry["list"]) if "list" in entry else None)


def _name(index: int, entry: Mapping[str, Any]) -> str:
    name = _text(f"name of class {index}", entry.get("name"))
    if not name.strip():
        raise DatasetError(f"class {index} has no name")
    check_name(name)
    return name


def check_name(name: str) -> None:
    """Check that the name of a class can be shown and written: no line ends, control characters, halves of a character.

    Raises:
        DatasetError: It has one.
    """
    wrong = next((sign for sign in name if unicodedata.category(sign) in ("Cc", "Cs")), None)
    if wrong is not None:
        raise DatasetError(f"the name of a class is {name!a}, which has the control character {wrong!a}")


def _class_color(entry: Mapping[str, Any]) -> Color:
    if "color" not in entry:
        raise DatasetError(f"class {entry.get('name')!r} has no 'color'")
    return _color(entry["color"])


def _color(value: Any) -> Color:
    if isinstance(value, str) and re.fullmatch("#?[0-9a-fA-F]{6}", value):
        return hex_color(value.removeprefix("#"))
    if isinstance(value, list) and len(value) == 3 and all(_is_int(part, 255) for part in value):
        return value[0], value[1], value[2]
    raise DatasetError(f'colour {value!r}, expected [red, green, blue] within 0..255, or "#rrggbb"')


def _id(value: Any) -> int:
    if not _is_int(value, LARGEST_ID):
        raise DatasetError(f"id {value!r}, expected a whole number within 0..{LARGEST_ID}")
    return int(value)


def _is_int(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DatasetError(f"{what} is {value!r}, expected text")
    return value


def _truth(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise DatasetError(f"{what} is {value!r}, expected true or false")
    return value


def _object(what: str, value: Any, keys: Iterable[str] | None) -> Mapping[str, Any]:
    """``value`` if it is a JSON object with ``keys`` only; any key will do without ``keys``."""
    if not isinstance(value, dict):
        raise DatasetError(f"{what} is {value!r}, expected an object")
    for key in value:
        if keys is not None and key not in keys:
            raise unknown_name(f"key of {what}", key, keys)
    return value


def _unique(what: str, values: Iterable[Hashable]) -> None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise DatasetError(f"two classes have the {what} {value!r}")
        seen.add(value)
