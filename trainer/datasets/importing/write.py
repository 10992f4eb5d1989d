"""Writes the imported images and labels as a folder that ``trainer.datasets.folder`` reads.

``classes.json``, ``images/SPLIT/NAME`` as in the export, bit for bit, and ``labels/SPLIT/NAME.png``: PNGs of
ids with the classes' colours as their palette. The folder appears when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.model_directory.files import named_in_errors
from trainer.datasets.folder_spec import SPEC_NAME
from trainer.datasets.importing.class_table import ClassTable
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.records import AnnotatedImage
from trainer.datasets.label_coding import IGNORE_INDEX

_MARK = ".import"
VOID_COLOR = (224, 224, 192)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that is filled under another name, and has its own once the block ends without an error.

    Raises:
        ImportingError: There is a folder of this name that is not empty, or of the other name that no import made.
    """
    if not folder.name:
        raise ImportingError(f"{folder} is a folder that exists; name a new one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ImportingError(f"{folder} exists and is not empty; name another folder, or remove it")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists() and not (partial / _MARK).is_file():
        raise ImportingError(f"{partial}, where the files are gathered, exists and is not of an import; rename it")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / _MARK).touch()
    try:
        yield partial
        (partial / _MARK).unlink()
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_labels(path: Path, labels: NDArray[np.uint8], table: ClassTable) -> None:
    """Write a label map, (H, W) uint8 ids, as a PNG with the classes' colours."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(table.colors)] = table.colors
    palette[IGNORE_INDEX] = VOID_COLOR
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_in_errors(path):
        image.save(path)


def write_image(path: Path, image: AnnotatedImage) -> None:
    """Write the file of an image unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image.image, bytes):
        with named_in_errors(path):
            path.write_bytes(image.image)
    else:
        shutil.copyfile(image.image, path)


def write_spec(folder: Path, table: ClassTable, splits: Sequence[str], *, exif: bool) -> None:
    """Write ``classes.json``."""
    classes = [{"name": name, "color": list(color)} for name, color in zip(table.names, table.colors, strict=True)]
    rest = {"ignore": [IGNORE_INDEX], **({} if exif else {"exif": False})}
    lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in classes)
    others = "".join(f',\n  "{key}": {json.dumps(value)}' for key, value in rest.items())
    path = folder / SPEC_NAME
    with named_in_errors(path):
        path.write_text(f'{{\n  "classes": [\n{lines}\n  ]{others}\n}}\n', encoding="utf-8")
    for split in splits:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
