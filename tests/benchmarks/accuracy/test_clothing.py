"""Clothing Co-Parsing from files as published, made here, to a data set that the comparison opens."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.clothing import main
from benchmarks.accuracy.data import DATA
from trainer.data import main as data

NAMES = ("null", "hat", "skirt")


def labels_of(number: int) -> NDArray[np.uint8]:
    """A hat above and a skirt below on a photo of 60x40, in other places of other photos."""
    labels = np.zeros((60, 40), np.uint8)
    labels[10:20, 10 + number : 30 + number] = 1
    labels[40:50, 10:30] = 2
    return labels


@pytest.fixture
def published(tmp_path: Path) -> Path:
    root = tmp_path / "ccp"
    (root / "photos").mkdir(parents=True)
    (root / "annotations" / "pixel-level").mkdir(parents=True)
    cells = np.array([NAMES], object)
    scipy.io.savemat(root / "label_list.mat", {"label_list": cells})
    for number in range(10):
        labels = labels_of(number)
        scipy.io.savemat(root / "annotations" / "pixel-level" / f"{number:04}.mat", {"groundtruth": labels})
        Image.fromarray(np.repeat(labels[..., None] * 100 + number, 3, 2)).save(root / "photos" / f"{number:04}.jpg")
    return root


def test_photos_become_a_data_set_of_the_comparison(published: Path, tmp_path: Path) -> None:
    masks, output = tmp_path / "masks", tmp_path / "clothing"
    assert main([str(published), str(masks), "--long-side", "30"]) == 0
    arguments = [str(masks), "--from", "masks", "--by", "class", "--split", "0.2", "-o", str(output), "--workers", "1"]
    assert data(["import", *arguments]) == 0
    train, val = DATA["clothing"].splits(output)
    assert [info.name for info in train.classes] == ["background", "hat", "skirt"]
    assert (len(train), len(val)) == (8, 2)
    number = int(train.pairs[3][0].stem)
    assert train[3].image.shape == (30, 20, 3)
    assert np.mean(train.labels(3) == labels_of(number)[::2, ::2]) > 0.95
    rest, held_out = DATA["clothing"].hold_out(train)
    assert (len(rest), [pair[0].stem for pair in held_out.pairs]) == (7, [train.pairs[4][0].stem])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label_list.mat", r"label_list\.mat is not a MATLAB file with the variable 'label_list'"),
        ("annotations/pixel-level/0003.mat", r"0003\.mat is not a MATLAB file with the variable 'groundtruth'"),
    ],
)
def test_another_file_is_named(
    name: str, message: str, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (published / name).write_bytes(b"no MATLAB" * 20)
    assert main([str(published), str(tmp_path / "masks")]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_mask_of_another_size_and_an_unknown_label_are_errors(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published / "annotations" / "pixel-level" / "0000.mat"
    scipy.io.savemat(path, {"groundtruth": np.zeros((5, 5), np.uint8)})
    assert main([str(published), str(tmp_path / "a")]) == 1
    assert "0000.jpg is 40x60 pixels, its labels are 5x5" in capsys.readouterr().err
    scipy.io.savemat(path, {"groundtruth": np.full((60, 40), 3, np.uint8)})
    assert main([str(published), str(tmp_path / "b")]) == 1
    assert "0000.mat has label 3, expected 0..2" in capsys.readouterr().err
