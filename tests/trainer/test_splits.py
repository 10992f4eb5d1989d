"""The splits of a run: in memory or from files, and a folder without val."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer import splits
from trainer.config import ConfigError, DataSection
from trainer.datasets import DatasetError, InMemory, PairedFiles, Repeated, files, open_dataset
from trainer.datasets.mixed import Mixed
from trainer.datasets.source import Source
from trainer.splits import open_splits

SECTION = DataSection(dataset="folder", input_size=(32, 64), crop_size=(32, 64), scale=(0.5, 1.0), cache=True)


def write_folder(root: Path, **counts: int) -> Path:
    """A folder with as many images of 64x128 in each split, no two alike."""
    (root / "classes.json").parent.mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps({"classes": {"left": "#000000", "right": "#ffffff"}}))
    labels = np.zeros((64, 128), np.uint8)
    labels[:, 64:] = 1
    for split, count in counts.items():
        for index in range(count):
            rng = np.random.default_rng([*f"{root.name} {split} {index}".encode()])
            image = rng.integers(0, 256, labels.shape, np.uint8)
            for folder, pixels in (("images", image), ("labels", labels)):
                path = root / folder / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def test_images_to_learn_from_are_kept_as_large_as_a_view_and_those_of_val_as_they_are(tmp_path: Path) -> None:
    train, val = open_splits(SECTION, write_folder(tmp_path / "data", train=2, valid=1))
    assert train[0].image.shape == (32, 64, 3)
    assert isinstance(val, InMemory)
    assert val[0].image.shape == (64, 128, 3)


def test_large_images_of_val_are_read_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MAX_CACHED_VAL_BYTES", 64 * 128 * 4)
    root = write_folder(tmp_path / "data", train=1, val=2)
    assert isinstance(open_splits(SECTION, root)[1], PairedFiles)
    (root / "images" / "val" / "1.png").unlink()
    (root / "labels" / "val" / "1.png").unlink()
    assert isinstance(open_splits(SECTION, root)[1], InMemory)


def test_a_source_holds_no_image_of_val(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=2, val=2)
    (tmp_path / "link").symlink_to(root)
    section = SECTION.model_copy(
        update={"sources": (Source(dataset="folder", root=str(tmp_path / "link"), split="val"),)}
    )
    with pytest.raises(ConfigError, match=r"data\.sources\[0\] .*, split 'val'\) holds 2 of the images"):
        open_splits(section, root)


def test_a_source_holds_no_copy_of_an_image_of_val_under_another_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=2, val=2)
    other = write_folder(tmp_path / "other", train=3)
    copy, original = other / "images" / "train" / "2.png", root / "images" / "val" / "1.png"
    copy.write_bytes(original.read_bytes())
    section = SECTION.model_copy(update={"sources": (Source(dataset="folder", root=str(other)),)})
    message = (
        rf"split 'train'\) holds 1 of the images that the run is evaluated on, such as {copy}, which is {original};"
    )
    with pytest.raises(ConfigError, match=message):
        open_splits(section, root)


def test_only_images_of_equal_size_are_read_to_compare_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a": b"12", "b": b"13", "c": b"1", "d": b"123", "e": b"13", "f": b"123"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    read: list[str] = []

    def digest(path: Path) -> bytes:
        read.append(path.name)
        return path.read_bytes()

    monkeypatch.setattr(files, "file_sha256", digest)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    found = files.copies([tmp_path / name for name in ("a", "b", "link", "c", "broken")], map(tmp_path.joinpath, "def"))
    assert [(own.name, original.name) for own, original in found] == [("b", "e"), ("link", "d")]
    assert sorted(read) == ["a", "b", "e"]


def test_a_source_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, other = write_folder(tmp_path / "data", train=2, val=2), write_folder(tmp_path / "other", train=3)
    opened: list[tuple[Path, str]] = []

    def counted(name: str, folder: Path, split: str) -> PairedFiles:
        opened.append((folder, split))
        return open_dataset(name, folder, split)

    monkeypatch.setattr(splits, "open_dataset", counted)
    open_splits(SECTION.model_copy(update={"sources": (Source(dataset="folder", root=str(other)),)}), root)
    assert sorted(opened) == [(root, "train"), (root, "val"), (other, "train")]


def test_a_repeat_applies_to_train_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=1, val=1)
    section = DataSection(dataset="folder", repeat=5)
    train, val = open_splits(section, root)
    assert isinstance(train, Repeated)
    assert (len(train), len(val)) == (5, 1)


@pytest.mark.parametrize("cache", [False, True])
def test_other_sources_are_mixed_into_train_with_their_weights(cache: bool, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=2, val=1)
    other = write_folder(tmp_path / "other", extra=4)
    (other / "classes.json").write_text(json.dumps({"classes": {"west": "#000000", "right": "#ffffff"}}))
    source = Source(dataset="folder", root=str(other), split="extra", weight=0.5, classes={"west": "void"})
    section = SECTION.model_copy(update={"sources": (source,), "repeat": 3, "cache": cache})
    train, val = open_splits(section, root, seed=5)
    assert isinstance(train, Mixed)
    assert (len(train), len(val)) == (2 * 3 + 2, 1)
    assert {path.parent.name for path, _ in train.pairs[:6]} == {"train"}
    assert {path.parent.name for path, _ in train.pairs[6:]} == {"extra"}
    assert np.unique(train.labels(7)).tolist() == [1, 255]
    assert train[7].image.shape[:2] == ((32, 64) if cache else (64, 128))
    seen = [{path.name for path, _ in train.at_epoch(epoch).pairs[6:]} for epoch in (0, 1)]
    assert seen[0] | seen[1] == {f"{index}.png" for index in range(4)}


def test_a_source_whose_classes_do_not_fit_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=1, val=1)
    other = write_folder(tmp_path / "other", train=1)
    (other / "classes.json").write_text(json.dumps({"classes": {"left": "#000000", "rigth": "#ffffff"}}))
    source = Source(dataset="folder", root=str(other))
    with pytest.raises(DatasetError, match=r"class 'rigth' of folder has no counterpart; map it to 'void' or"):
        open_splits(SECTION.model_copy(update={"sources": (source,)}), root)


def test_a_few_images_without_val_are_evaluated_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train, val = open_splits(DataSection(dataset="folder"), write_folder(tmp_path / "data", train=1))
    assert train.pairs == val.pairs
    assert "there is no val split; the scores are those of the training images" in caplog.text


def test_many_images_without_val_end_the_run(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=10)
    with pytest.raises(ConfigError, match=r"has no val split.*ecenet-train data check"):
        open_splits(DataSection(dataset="folder"), root)
