"""Small exports in the tools' published forms, and the datasets that they become."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trainer.data import main
from trainer.datasets import IGNORE_INDEX, PairedFiles, open_dataset, splits_in

HEIGHT, WIDTH = 12, 16


@dataclass
class Dataset:
    """A dataset that was imported.

    Attributes:
        root: Its folder.
        output: What the command wrote.
    """

    root: Path
    output: str
    _splits: dict[str, PairedFiles] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._splits = {name: open_dataset("folder", self.root, name) for name in splits_in("folder", self.root)}

    @property
    def classes(self) -> dict[str, tuple[int, int, int]]:
        """Colours by name, in the order of the ids."""
        return {info.name: info.color for info in next(iter(self._splits.values())).classes}

    @property
    def splits(self) -> dict[str, list[str]]:
        """Names of the images of each split, without extension."""
        folders = {name: self.root / "images" / name for name in self._splits}
        return {name: [_key(folders[name], path) for path, _ in it.pairs] for name, it in self._splits.items()}

    def labels(self, name: str) -> NDArray[np.uint8]:
        """The label map of an image."""
        return self._sample(name).labels

    def image(self, name: str) -> NDArray[np.uint8]:
        """The image as training reads it."""
        return self._sample(name).image

    def drawn(self, name: str) -> list[str]:
        """The label map with each class as its first letter, ``.`` for the background and ``-`` for void."""
        letters = {index: "." if it == "background" else it[0] for index, it in enumerate(self.classes)}
        letters[IGNORE_INDEX] = "-"
        return ["".join(letters[int(value)] for value in row) for row in self.labels(name)]

    def _sample(self, name: str) -> Any:
        for split, names in self.splits.items():
            if name in names:
                return self._splits[split][names.index(name)]
        raise KeyError(name)


def _key(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


class Workshop:
    """Writes an export, and imports it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root / "export"
        self.output = root / "my-data"
        self._capsys = capsys
        self._rng = np.random.default_rng(0)

    def photo(self, name: str, size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> Path:
        """Write a photo that no other equals."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self._rng.integers(0, 256, (*size, 3), np.uint8)).save(path, **options)
        return path

    def mask(self, name: str, pixels: Any, palette: list[int] | None = None, **options: Any) -> Path:
        """Write a mask."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.asarray(pixels)
        image = Image.fromarray(array if array.dtype in (np.uint16, np.bool_) else array.astype(np.uint8))
        if palette is not None:
            image.putpalette(palette)
        image.save(path, **options)
        return path

    def text(self, name: str, content: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    def json(self, name: str, content: Any) -> Path:
        return self.text(name, json.dumps(content, ensure_ascii=False))

    def run(self, tool: str, *options: str, export: Path | None = None) -> tuple[int, str, str]:
        """Exit status and what the command wrote to both streams."""
        status = main(["import", str(export or self.root), "--from", tool, "-o", str(self.output), *options])
        written = self._capsys.readouterr()
        return status, written.out, written.err

    def convert(self, tool: str, *options: str, export: Path | None = None) -> Dataset:
        """Import what must succeed."""
        status, out, err = self.run(tool, *(options or ("--split", "0")), export=export)
        assert (status, err) == (0, "")
        return Dataset(self.output, out)

    def refused(self, tool: str, *options: str, export: Path | None = None) -> str:
        """Import what must not; gives the error, and nothing is left behind."""
        status, out, err = self.run(tool, *options, export=export)
        assert (status, out) == (1, "")
        assert not self.output.exists()
        assert list(self.output.parent.glob("*.partial")) == []
        (line,) = err.splitlines()
        return line.removeprefix("ecenet-train data import: ")


@pytest.fixture
def workshop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Workshop:
    return Workshop(tmp_path, capsys)


@pytest.fixture
def drawing() -> Callable[..., list[str]]:
    """Rows of letters: rectangles (letter, left, top, right, bottom) over each other on a ground."""

    def draw(*boxes: tuple[str, int, int, int, int], ground: str = ".") -> list[str]:
        pixels = np.full((HEIGHT, WIDTH), ground)
        for letter, left, top, right, bottom in boxes:
            pixels[top:bottom, left:right] = letter
        return ["".join(row) for row in pixels.tolist()]

    return draw
