"""Names that people and tools give to splits."""

from __future__ import annotations

import re

ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of each split in data sets, by its name in this package."""

_SPLITS = {alias: split for split, aliases in ALIASES.items() for alias in aliases}


_CONTENT = re.compile(r"[_ -]?(images?|imgs?|photos?|masks?|labels?|annot(ations?)?|gt)$", re.IGNORECASE)


def folder_split(name: str) -> str | None:
    """The split that a folder's name states, also beside a word for its content, as in ``train_images``."""
    return split_of(name) or split_of(_CONTENT.sub("", name))


def split_of(name: str) -> str | None:
    """The split that a name stands for, in any case and with a year, as ``Valid`` or ``train2017``; None if none."""
    return _SPLITS.get(re.sub(r"[ _-]?(19|20)\d\d$", "", name.lower()))
