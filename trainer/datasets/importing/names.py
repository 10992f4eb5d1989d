"""Names of images: the parts that tools add, and the names in a data set."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from trainer.datasets.folder_files import IMAGE_EXTENSIONS
from trainer.datasets.split_names import folder_split

IMAGE_FOLDERS = frozenset({"images", "img", "jpegimages"})
"""Folders that tools keep images in, which say nothing about them."""

_UPLOAD_HASH = re.compile(r"^[0-9a-f]{8}-(?=.)")
_ROBOFLOW = re.compile(r"[_.](?:jpe?g|png|bmp|tiff?|webp|heic|avif|gif)\.rf\.[0-9A-Za-z]+$", re.IGNORECASE)


def without_upload_hash(name: str) -> str:
    """A path whose name lacks the eight digits that Label Studio puts before the name of an upload."""
    path = PurePosixPath(name.replace("\\", "/"))
    return str(path.with_name(_UPLOAD_HASH.sub("", path.name))) if path.name else name


def original_stem(stem: str) -> str:
    """The name that a photo had at its owner: without Label Studio's and Roboflow's additions."""
    return _ROBOFLOW.sub("", _UPLOAD_HASH.sub("", stem))


def version_of(name: str) -> str | None:
    """The photo that Roboflow made an image of, as it makes several of one; None for other images."""
    path = PurePosixPath(name)
    original = _ROBOFLOW.sub("", path.name)
    return None if original == path.name else str(path.with_name(original))


def key_of(name: str) -> str:
    """The path of an image in a data set, without extension: relative, visible, without folders of splits or tools."""
    parts = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).parts
    *folders, last = [part for part in map(_plain, parts) if part]
    kept = [part for part in folders if part.lower() not in IMAGE_FOLDERS and folder_split(part) is None]
    path = PurePosixPath(last)
    return "/".join([*kept, path.stem if path.suffix.lower() in IMAGE_EXTENSIONS else last])


def unique_key(key: str, taken: set[str]) -> str:
    """``key``, or with a number where another image has it, in whatever case; notes it as taken."""
    unique, number = key, 2
    while unique.casefold() in taken:
        unique, number = f"{key}-{number}", number + 1
    taken.add(unique.casefold())
    return unique


def _plain(part: str) -> str:
    """A part of a path that is not hidden, not ``..``, no drive, and without control characters."""
    printable = "".join(character for character in part if character.isprintable())
    return re.sub(r"^([A-Za-z]:|/)$", "", printable).lstrip(".").strip()
