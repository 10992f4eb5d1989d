"""Values of an annotation file, each checked when it is read; an error names the file, the key and the value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.errors import MissingFileError, UnreadableFileError
from trainer.datasets.importing.errors import ImportingError

Ring = NDArray[np.float64]
"""Corners of a polygon, (N, 2) float64 (x, y) in pixels; (0, 0) is the upper left corner of the image."""

SHOWN = 60
MAX_PLACE = 100_000
"""Largest coordinate of a shape, in pixels; it bounds the time of a rasteriser, which walks along every edge."""


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of an annotation file.

    Attributes:
        where: The file and the place in it, for errors.
        values: Its keys and values.
    """

    where: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """A text that is not blank."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "text")
        return value.strip()

    def whole(self, key: str, low: int = 0) -> int:
        """A whole number from ``low``; 3.0 and "3" count."""
        number = as_number(self.values.get(key))
        if number is None or not number.is_integer() or number < low:
            raise self.wrong(key, f"a whole number from {low}")
        return int(number)

    def number(self, key: str) -> float:
        """A number that may be a place in an image or a length."""
        number = as_number(self.values.get(key))
        if number is None or abs(number) > MAX_PLACE:
            raise self.wrong(key, f"a number within -{MAX_PLACE}..{MAX_PLACE}")
        return number

    def list(self, key: str) -> list[Any]:
        """A list."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def object(self, key: str) -> Fields:
        """An object."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(f"{self.where}, '{key}'", value)

    def objects(self, key: str) -> Iterator[Fields]:
        """The objects of a list."""
        for index, value in enumerate(self.list(key)):
            yield as_object(f"{self.where}, {key}[{index}]", value)

    def size(self, height: str = "height", width: str = "width") -> tuple[int, int] | None:
        """(height, width) where both are given."""
        if self.values.get(height) is None or self.values.get(width) is None:
            return None
        return self.whole(height, 1), self.whole(width, 1)

    def ring(self, key: str, least: int = 1) -> Ring:
        """Corners from a list of (x, y) pairs."""
        return as_ring(f"{self.where}, '{key}'", self.values.get(key), least)

    def wrong(self, key: str, expected: str) -> ImportingError:
        """The error for a value that is not as expected."""
        return ImportingError(f"{self.where}: '{key}' is {shown(self.values.get(key))}, expected {expected}")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DatasetError: The file is missing or no JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{path} cannot be read as JSON: {error}") from error


def as_object(where: str, value: Any) -> Fields:
    """``value`` if it is a JSON object."""
    if not isinstance(value, dict):
        raise ImportingError(f"{where} is {shown(value)}, expected an object")
    return Fields(where, value)


def as_number(value: Any) -> float | None:
    """A finite number, also one that is written as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_ring(where: str, value: Any, least: int) -> Ring:
    """Corners (N, 2) from a list of pairs, at least ``least`` of them."""
    expected = f"{least} or more pairs of numbers" if least else "pairs of numbers"
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise ImportingError(f"{where} is {shown(value)}, expected {expected}")
    numbers = [as_number(part) for pair in value for part in pair]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or len(value) < least:
        raise ImportingError(f"{where} is {shown(value)}, expected {expected}")
    if any(abs(number) > MAX_PLACE for number in known):
        raise ImportingError(f"{where} is {shown(value)}, expected numbers within -{MAX_PLACE}..{MAX_PLACE}")
    return np.array(known, np.float64).reshape(-1, 2)


def shown(value: Any) -> str:
    """A value as errors show it: its start."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
