"""Files for small trees in the datasets' layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write() -> Write:
    """Writes pixels, as arrays or nested lists, to a picture file: greys or RGB, or indices if there is a palette."""

    def write_pixels(path: Path, pixels: Any, palette: Sequence[int] | None = None, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.asarray(pixels)
        image = Image.fromarray(array if array.dtype in (np.uint16, np.bool_, np.int32) else array.astype(np.uint8))
        if palette is not None:
            image.putpalette(palette)
        image.save(path, **options)
        return path

    return write_pixels


@pytest.fixture
def photo(write: Write) -> Callable[..., Path]:
    """Writes an RGB image of a brightness of one's choice; its size is (height, width)."""

    def write_photo(path: Path, size: tuple[int, int] = (2, 3), level: int = 100, **options: Any) -> Path:
        return write(path, np.full((*size, 3), level), **options)

    return write_photo


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``classes.json`` and gives its folder; three classes, unless told."""

    def write_spec(classes: Any = None, **keys: Any) -> Path:
        road = {"name": "road", "color": [128, 64, 128]}
        default = [road, {"name": "sky", "color": "#4682b4"}, {"name": "car", "color": [0, 0, 142]}]
        spec = {"classes": default if classes is None else classes, **keys}
        (tmp_path / "classes.json").write_text(json.dumps(spec), encoding="utf-8")
        return tmp_path

    return write_spec
