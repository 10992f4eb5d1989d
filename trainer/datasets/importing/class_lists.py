"""Files that name the classes of masks.

- ``classes.json``: our own, see ``trainer.datasets.folder``;
- ``_classes.csv`` of Roboflow, ``Pixel Value, Class``; ``class_dict.csv``, ``name,r,g,b``;
- ``labelmap.txt`` of CVAT, ``name:red,green,blue::``;
- other text files: a class per line, ``name``, ``name red green blue`` or ``red green blue name``.

A class without a value has that of its place in the list, from 0.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.datasets.errors import UnreadableFileError, unknown_name
from trainer.datasets.folder_spec import ENCODINGS
from trainer.datasets.importing.colors import parse_color
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import as_number, as_object, read_json
from trainer.datasets.importing.records import IGNORED
from trainer.datasets.label_coding import LARGEST_ID, Color

LIST_NAMES = ("classes.json", "_classes.csv", "class_dict.csv", "labelmap.txt", "label_colors.txt", "classes.txt")
_VALUE_COLUMNS = frozenset({"pixel value", "value", "id", "index"})
_NAME_COLUMNS = frozenset({"class", "name", "class_name", "label"})
_CHANNELS = (("r", "red"), ("g", "green"), ("b", "blue"))


@dataclass(frozen=True, slots=True)
class ListedClass:
    """A class with the value and the colour that stand for it in masks."""

    name: str
    value: int | None
    color: Color | None


@dataclass(frozen=True, slots=True)
class ClassList:
    """The content of a list file.

    Attributes:
        entries: The classes, and what is ignored.
        encoding: Whether ``colors`` or ``ids`` of masks count; None where the file does not tell.
        exif: Whether masks are turned with their images.
    """

    entries: tuple[ListedClass, ...]
    encoding: str | None = None
    exif: bool = True


def read_class_list(path: Path) -> ClassList:
    """The classes of a list file, by its name.

    Raises:
        DatasetError: It cannot be read, names no class, has a value that is none, or one twice.
    """
    settings: Mapping[str, Any] = {}
    if path.suffix.lower() == ".json":
        rows, settings = _json_rows(path)
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path)
    else:
        rows = [_text_row(f"{path}, line {number}", line) for number, line in _lines(path)]
    if not rows:
        raise ImportingError(f"{path} names no class")
    entries = tuple(
        ListedClass(name, index if value is None and name != IGNORED else value, color)
        for index, (name, value, color) in enumerate(rows)
    )
    _unique(path, "name", [entry.name for entry in entries if entry.name != IGNORED])
    _unique(path, "value", [entry.value for entry in entries if entry.value is not None])
    return ClassList(entries, settings.get("encoding"), settings.get("exif", True))


def _unique(path: Path, what: str, values: Iterable[object]) -> None:
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise ImportingError(f"{path} has two entries of the {what} {twice!r}; one of them is wrong")


def found_list(root: Path) -> Path | None:
    """The list file of a folder, by the names that are usual."""
    return next((root / name for name in LIST_NAMES if (root / name).is_file()), None)


Row = tuple[str, int | None, Color | None]


def _json_rows(path: Path) -> tuple[list[Row], Mapping[str, Any]]:
    """The rows, and the other settings of ``trainer.datasets.folder``."""
    content = read_json(path)
    settings = content if isinstance(content, dict) and "classes" in content else {}
    if "splits" in settings:
        raise ImportingError(
            f"{path} has 'splits', which an import does not read; train on the folder as it is, or remove the key to "
            "divide all images anew"
        )
    if settings.get("encoding") not in (None, *ENCODINGS):
        raise unknown_name(f"encoding in {path}", str(settings["encoding"]), ENCODINGS)
    ignored = settings.get("ignore", [])
    content = content["classes"] if isinstance(content, dict) and "classes" in content else content
    if isinstance(content, dict):
        content = [{"name": name, "color": color} for name, color in content.items()]
    if not isinstance(content, list):
        raise ImportingError(f"{path} has no list 'classes'")
    rows: list[Row] = []
    for index, entry in enumerate(content):
        fields = as_object(f"{path}, class {index}", {"name": entry} if isinstance(entry, str) else entry)
        value = fields.whole("id") if "id" in fields.values else None
        rows.append((fields.text("name"), value, parse_color(fields.where, fields.values.get("color"))))
    values = ignored if isinstance(ignored, list) else [ignored]
    rows += [_ignored_row(f"{path}, 'ignore',", value) for value in values]
    return rows, settings


def _ignored_row(where: str, value: Any) -> Row:
    return (IGNORED, value, None) if type(value) is int else (IGNORED, None, parse_color(where, value))


def _csv_rows(path: Path) -> list[Row]:
    table = list(csv.reader((line for _, line in _lines(path)), skipinitialspace=True))
    header = [cell.strip().lower() for cell in table[0]] if table else []
    name_at = _column(header, _NAME_COLUMNS)
    if name_at is None:
        raise ImportingError(f"{path} has the columns {header}, expected one of {', '.join(sorted(_NAME_COLUMNS))}")
    value_at = _column(header, _VALUE_COLUMNS)
    channels = [_column(header, names) for names in _CHANNELS]
    return [_csv_row(f"{path}, row {row}", cells, name_at, value_at, channels) for row, cells in enumerate(table[1:])]


def _csv_row(
    where: str, cells: Sequence[str], name_at: int, value_at: int | None, channels: Sequence[int | None]
) -> Row:
    columns = [column for column in (name_at, value_at, *channels) if column is not None]
    if len(cells) <= max(columns):
        raise ImportingError(f"{where} has {len(cells)} cells, expected {max(columns) + 1}")
    value = None if value_at is None else _whole(where, cells[value_at], LARGEST_ID)
    color = [_whole(where, cells[at], 255) for at in channels if at is not None]
    return cells[name_at].strip(), value, parse_color(where, color)


def _text_row(where: str, line: str) -> Row:
    if ":" in line:  # CVAT's
        name, color, *_ = line.split(":")
        return name.strip(), None, parse_color(where, [_whole(where, part, 255) for part in color.split(",") if part])
    number = r"(\d+)[\s,]+(\d+)[\s,]+(\d+)"
    for pattern, order in ((rf"^{number}[\s,]+(\S.*)$", (3, 0, 1, 2)), (rf"^(.*\S)[\s,]+{number}$", (0, 1, 2, 3))):
        found = re.match(pattern, line)
        if found:
            name, *channels = (found.groups()[place] for place in order)
            return name, None, parse_color(where, [_whole(where, part, 255) for part in channels])
    return line, None, None


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _column(header: Sequence[str], names: Any) -> int | None:
    return next((at for at, cell in enumerate(header) if cell in names), None)


def _whole(where: str, text: str, largest: int) -> int:
    number = as_number(text.strip())
    if number is None or not number.is_integer() or not 0 <= number <= largest:
        raise ImportingError(f"{where} has {text.strip()!r}, expected a whole number within 0..{largest}")
    return int(number)
