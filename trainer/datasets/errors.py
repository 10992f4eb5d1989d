"""Errors of a dataset; every text names the file, the value and the limit."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DatasetError(ValueError):
    """A dataset folder that is not laid out as expected, or a file in it that cannot be used."""


class MissingFileError(DatasetError):
    """A file or folder that the layout, a list or its counterpart demands is missing."""


class UnreadableFileError(DatasetError):
    """A file that is broken, cut short, or coded in a way that cannot be read."""


class LossyLabelError(UnreadableFileError):
    """A label file in a format that changes its ids."""


class LabelRangeError(DatasetError):
    """A label file with an id or a colour that stands for no class."""


class SizeMismatchError(DatasetError):
    """An image and its label file differ in size."""


def unknown_name(what: str, name: str, valid: Iterable[str]) -> DatasetError:
    """The error for ``name``, which is none of the ``valid`` ones; it suggests the nearest and lists them all."""
    known = list(valid)
    nearest = get_close_matches(name, known, 1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return DatasetError(f"{what} {name!r} is unknown{hint} there is: {', '.join(known) or 'none'}")
