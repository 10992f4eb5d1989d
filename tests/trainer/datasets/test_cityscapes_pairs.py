"""Cityscapes from files with photo and coloured labels side by side, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trainer.data import main
from trainer.datasets import IGNORE_INDEX, DatasetError, open_dataset
from trainer.datasets.cityscapes import CITYSCAPES_CLASSES
from trainer.datasets.cityscapes_pairs import nearest_classes

V = IGNORE_INDEX
Write = Callable[..., Path]
ROAD, SKY, CAR = 0, 10, 13


def colored(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.array([info.color for info in CITYSCAPES_CLASSES], np.uint8)[ids]


@pytest.fixture
def halves() -> NDArray[np.int64]:
    """Sky above, road below, and a car of 16x16 in the middle, at 64x64."""
    ids = np.full((64, 64), SKY)
    ids[32:] = ROAD
    ids[24:40, 24:40] = CAR
    return ids


@pytest.fixture
def pairs(tmp_path: Path, halves: NDArray[np.int64], write: Write) -> Path:
    photo = np.full((64, 64, 3), 90)
    for split, number in (("train", 1), ("train", 2), ("val", 1)):
        write(tmp_path / split / f"{number}.jpg", np.hstack([photo, colored(halves)]), quality=90)
    return tmp_path


def test_both_halves_are_stretched_to_twice_their_width(pairs: Path, halves: NDArray[np.int64]) -> None:
    dataset = open_dataset("cityscapes_pairs", pairs, "train")
    image, labels = dataset[1].image, dataset[1].labels
    assert len(dataset) == 2
    assert image.shape == (64, 128, 3)
    assert np.abs(image[:, :112].astype(int) - 90).max() <= 2
    assert labels.shape == (64, 128)
    kept = labels != V
    right = labels == halves.repeat(2, axis=1)
    assert right[kept].mean() > 0.99  # at an edge two colours may mix to a third
    assert kept.mean() > 0.95
    assert right[:16].all()
    assert right[48:].all()


def test_the_photo_takes_nothing_of_its_neighbour(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "train" / "1.jpg"
    write(path, np.hstack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]), format="PNG")
    assert open_dataset("cityscapes_pairs", tmp_path, "train")[0].image.max() == 0


@pytest.mark.parametrize(
    ("color", "label"),
    [
        ((128, 64, 128), ROAD),
        ((128 + 15, 64, 128 + 20), ROAD),  # 25 away
        ((128 + 16, 64, 128 + 20), V),
        ((0, 0, 142 - 8), CAR),
        ((0, 0, 0), V),
        ((0, 0, 90), V),  # a caravan, 20 from a truck
        ((255, 255, 255), V),
    ],
)
def test_a_pixel_has_the_nearest_class_or_none(color: tuple[int, int, int], label: int) -> None:
    assert nearest_classes(np.array([[color]], np.uint8)).tolist() == [[label]]


def test_every_colour_of_the_palette_is_its_own_class() -> None:
    ids = np.arange(19)[None]
    assert nearest_classes(colored(ids)).tolist() == ids.tolist()


def test_a_single_picture_is_refused_by_name(tmp_path: Path, photo: Write) -> None:
    path = photo(tmp_path / "train" / "1.jpg", (32, 48))
    with pytest.raises(DatasetError, match=rf"{path} is 48x32 pixels, expected a photo and its labels side by side"):
        open_dataset("cityscapes_pairs", tmp_path, "train")[0]


def test_data_check_reads_it(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pairs / "train" / "3.jpg")
    assert main(["cityscapes_pairs", str(pairs), "--workers", "1", "--samples", "1", "--output", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "128x64" in out
    assert "3.jpg is 4x4 pixels" in out
