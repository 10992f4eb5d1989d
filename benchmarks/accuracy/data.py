"""The data sets of the comparison: CamVid at half resolution, and Clothing Co-Parsing as ``clothing.py`` makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.accuracy.recipe import Part, Recipe, hold_out_ends, open_half_resolution
from trainer.datasets import InMemory, SegmentationDataset, open_dataset

Splits = tuple[SegmentationDataset, SegmentationDataset]
"""The training set and the evaluation set."""

CLOTHING_SIZE = (288, 192)


class Data(NamedTuple):
    """A data set of the comparison.

    Attributes:
        size: (height, width) of the network's input, and of a view.
        open: Gives a split of the folder, in memory.
        hold_out: Divides the train split in two, for the choice of rates.
    """

    size: tuple[int, int]
    open: Callable[[Path, str], SegmentationDataset]
    hold_out: Callable[[SegmentationDataset], Splits]

    def recipe(self, steps: int, precision: str = "fp32") -> Recipe:
        """The recipe on this data set."""
        return Recipe(steps, precision=precision, input_size=self.size, crop_size=self.size)

    def splits(self, root: Path) -> Splits:
        """Train and val."""
        return self.open(root, "train"), self.open(root, "val")


def open_clothing(root: Path, split: str) -> SegmentationDataset:
    """A split of the folder that ``ecenet-train data import`` wrote."""
    return InMemory(open_dataset("folder", root, split))


def hold_out_every_fifth(dataset: SegmentationDataset) -> Splits:
    """Every fifth image held out: photos of a folder have no order in time."""
    rest = [index for index in range(len(dataset)) if index % 5 != 4]
    return Part(dataset, rest), Part(dataset, range(4, len(dataset), 5))


DATA = {
    "camvid": Data((192, 256), open_half_resolution, hold_out_ends),
    "clothing": Data(CLOTHING_SIZE, open_clothing, hold_out_every_fifth),
}


def folder_of(parent: Path, data: str) -> Path:
    """The folder of the runs on a data set: ``parent`` itself for CamVid, a neighbour for others."""
    return parent if data == "camvid" else parent.with_name(f"{parent.name}_{data}")
