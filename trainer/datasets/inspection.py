"""Inspection of a split: counts, sizes, class shares, and every file that is missing or cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.base import PairedFiles, check_sizes
from trainer.datasets.errors import (
    DatasetError,
    LabelRangeError,
    LossyLabelError,
    MissingFileError,
    SizeMismatchError,
    UnreadableFileError,
)
from trainer.datasets.label_coding import IGNORE_INDEX
from trainer.datasets.orientation import UPRIGHT
from trainer.datasets.reading import orientation, pixel_digest

KINDS: dict[type[DatasetError], str] = {
    MissingFileError: "missing",
    LossyLabelError: "labels compressed with loss",
    UnreadableFileError: "unreadable",
    LabelRangeError: "labels out of range",
    SizeMismatchError: "sizes differ",
    DatasetError: "unusable",
}

T = TypeVar("T")


class Problem(NamedTuple):
    """A problem of a file: one of ``KINDS``, and a sentence that names the file."""

    kind: str
    text: str


class PairReport(NamedTuple):
    """One pair of files.

    Attributes:
        size: (height, width) of the image; None where it is unreadable.
        pixels: How often each label 0..255 occurs; None where the label file is unreadable.
        problems: Everything that is wrong with the pair.
        digest: Equal for images of equal pixels.
        photo_turn: EXIF orientation that the image was turned by.
        labels_turn: EXIF orientation that its labels were turned by.
    """

    size: tuple[int, int] | None
    pixels: NDArray[np.int64] | None
    problems: list[Problem]
    digest: bytes | None = None
    photo_turn: int = UPRIGHT
    labels_turn: int = UPRIGHT


@dataclass(slots=True)
class SplitReport:
    """A whole split.

    Attributes:
        images: Number of complete pairs.
        sizes: Number of images of each (height, width).
        pixels: (256,) int64, pixels of each class index and of ``IGNORE_INDEX``.
        present: (256,) int64, images that hold each.
        problems: Sentences on the problems, each once, in the order of the files.
        healthy: Indices of the pairs without a problem.
        void: Indices of the pairs whose labels are void all over.
        turned: Indices of the pairs whose image was turned by its EXIF orientation.
        turned_labels: Indices of those among them whose labels were turned too.
        digests: Digest of each image by index.
    """

    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    present: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    problems: list[Problem] = field(default_factory=list)
    healthy: list[int] = field(default_factory=list)
    void: list[int] = field(default_factory=list)
    turned: list[int] = field(default_factory=list)
    turned_labels: list[int] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)

    @property
    def void_share(self) -> float:
        """Share of all pixels that count as no class; 0 where there are none."""
        return float(self.pixels[IGNORE_INDEX] / max(1, self.pixels.sum()))

    def shares(self, num_classes: int) -> NDArray[np.float64]:
        """Share of each class, (K,), among the pixels that have one."""
        pixels = self.pixels[:num_classes]
        return np.asarray(pixels / max(1, pixels.sum()), np.float64)

    def add(self, index: int, pair: PairReport) -> None:
        """Count a pair in."""
        if pair.size:
            self.sizes[pair.size] += 1
        if pair.pixels is not None:
            self.pixels += pair.pixels
            self.present += pair.pixels > 0
            if not pair.pixels[:IGNORE_INDEX].any():
                self.void.append(index)
        if pair.photo_turn != UPRIGHT:
            self.turned.append(index)
            self.turned_labels += [index] if pair.labels_turn != UPRIGHT else []
        if pair.digest:
            self.digests[index] = pair.digest
        self.problems += pair.problems
        if not pair.problems:
            self.healthy.append(index)


def inspect_split(
    dataset: PairedFiles, workers: int, progress: Callable[[Iterator[PairReport], int], Iterable[PairReport]]
) -> SplitReport:
    """Read every file of a split, past those that are broken.

    Args:
        dataset: A split, opened with ``incomplete``, so that missing files are reported too.
        workers: Number of threads that read.
        progress: Gets the pairs as they come in, and how many there will be, and hands them on.
    """
    report = SplitReport(images=len(dataset), problems=[Problem(KINDS[MissingFileError], it) for it in dataset.missing])
    with ThreadPoolExecutor(workers) as pool:
        pairs = pool.map(partial(inspect_pair, dataset), range(len(dataset)))
        for index, pair in enumerate(progress(pairs, len(dataset))):
            report.add(index, pair)
    report.problems = list(dict.fromkeys(report.problems))
    return report


def inspect_pair(dataset: PairedFiles, index: int) -> PairReport:
    """Read the image and the label of a pair, each also where the other is broken."""
    problems: list[Problem] = []
    image = _tried(lambda: dataset.image(index), problems)
    labels = _tried(lambda: dataset.labels(index), problems)
    if image is not None and labels is not None:
        _tried(lambda: check_sizes(dataset.pairs[index], image, labels), problems)
    return PairReport(
        size=None if image is None else (image.shape[0], image.shape[1]),
        pixels=None if labels is None else np.bincount(labels.ravel(), minlength=256),
        problems=problems,
        digest=None if image is None else pixel_digest(image),
        photo_turn=orientation(dataset.pairs[index][0]) if image is not None and dataset.upright else UPRIGHT,
        labels_turn=UPRIGHT if labels is None else dataset.labels_turn(index),
    )


def problem(error: DatasetError) -> Problem:
    """A fault as the report names it."""
    return Problem(next(name for kind, name in KINDS.items() if isinstance(error, kind)), str(error))


def _tried(read: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return read()
    except DatasetError as error:
        problems.append(problem(error))
        return None
