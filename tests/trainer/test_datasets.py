"""CamVid from a folder, and folders that are not CamVid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.datasets import CAMVID_CLASSES, IGNORE_INDEX, CamVid, DatasetError, InMemory, open_dataset


def test_samples_pair_images_with_labels(tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    assert len(dataset) == 8
    sample = dataset[3]
    assert sample.image.shape == (48, 64, 3)
    assert (sample.labels[:4, :4] == IGNORE_INDEX).all()
    known = sample.labels != IGNORE_INDEX
    assert np.array_equal(sample.image[..., 0][known], sample.labels[known] * 23)


def test_in_memory_gives_the_same_samples(tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "val")
    copy = InMemory(dataset)
    assert len(copy) == 2
    assert np.array_equal(copy[1].image, dataset[1].image)
    assert copy.classes == CAMVID_CLASSES


def test_camvid_has_the_classes_of_segnet() -> None:
    assert [info.name for info in CAMVID_CLASSES[:4]] == ["Sky", "Building", "Pole", "Road"]
    assert CAMVID_CLASSES[10].color == (0, 128, 192)
    assert [info.id for info in CAMVID_CLASSES] == list(range(11))


def test_faults_are_named(tiny_camvid: Path) -> None:
    with pytest.raises(DatasetError, match="test does not exist"):
        CamVid(tiny_camvid, "test")
    with pytest.raises(DatasetError, match="dataset 'other' is unknown"):
        open_dataset("other", tiny_camvid, "train")
    (tiny_camvid / "valannot" / "01.png").unlink()
    with pytest.raises(DatasetError, match=r"lacks the labels of \['01\.png'\]"):
        CamVid(tiny_camvid, "val")


def test_broken_files_are_named(tiny_camvid: Path) -> None:
    labels = tiny_camvid / "trainannot"
    Image.fromarray(np.full((48, 64), 12, np.uint8)).save(labels / "00.png")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(labels / "01.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(labels / "02.png")
    (tiny_camvid / "train" / "03.png").write_bytes(b"\x89PNG broken")
    dataset = CamVid(tiny_camvid, "train")
    for index, message in enumerate(["has label 12", "mode RGB", "its labels are", "cannot be read"]):
        with pytest.raises(DatasetError, match=rf"0{index}\.png.*{message}"):
            dataset[index]


def test_the_real_camvid(camvid_dir: Path) -> None:
    train, val = CamVid(camvid_dir, "train"), CamVid(camvid_dir, "val")
    assert (len(train), len(val)) == (367, 101)
    assert train[0].image.shape == (360, 480, 3)
