"""The split: own, by sequence, stratified, and never the same image on both sides."""

from __future__ import annotations

from itertools import pairwise

import pytest

from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.sequences import sequences
from trainer.datasets.importing.split import Item, split_images


def items(
    names: list[str], classes: list[set[int]] | None = None, splits: list[str | None] | None = None
) -> list[Item]:
    shown = classes or [{0}] * len(names)
    own = splits or [None] * len(names)
    return [Item(name, name.encode(), frozenset(shown[at]), own[at]) for at, name in enumerate(names)]


def photos(count: int) -> list[str]:
    return [f"IMG_{number:04}" for number in range(count)]


def test_sequences_stay_whole() -> None:
    names = [f"drive{drive}_{frame:05}" for drive in range(5) for frame in range(8)]
    split = split_images(items(names), 0.2)
    assert split.how == "whole sequences, as the names show them"
    sides = {(name.split("_")[0], side) for name, side in zip(names, split.of, strict=True)}
    assert len(sides) == 5
    assert split.of.count("val") == 8


def test_counted_photos_are_stratified_by_class() -> None:
    classes = [{0, 1} if number % 4 == 0 else {0, 2} if number % 10 == 1 else {0} for number in range(40)]
    split = split_images(items(photos(40), classes), 0.2)
    assert split.how == "stratified by class"
    shown = [sum(number in classes[at] for at in range(40) if split.of[at] == "val") for number in range(3)]
    assert shown == [8, 2, 1]


@pytest.mark.parametrize("count", [2, 3, 5, 10, 33])
def test_both_sides_have_images_and_train_has_every_class(count: int) -> None:
    classes = [{0, number} for number in range(count)]
    split = split_images(items(photos(count), classes), 0.1)
    train = {number for at in range(count) for number in classes[at] if split.of[at] == "train"}
    assert 1 <= split.of.count("val") <= max(1, count // 2)
    assert len(train) >= count - 1


def test_a_class_of_two_images_is_on_both_sides() -> None:
    classes = [{0, 1} if number in (3, 17) else {0} for number in range(30)]
    split = split_images(items(photos(30), classes), 0.2)
    assert {split.of[3], split.of[17]} == {"train", "val"}


def test_the_split_does_not_depend_on_the_order_of_the_files() -> None:
    found = items(photos(30), [{0, number % 3} for number in range(30)])
    split = dict(zip([it.name for it in found], split_images(found, 0.3).of, strict=True))
    again = split_images(found[::-1], 0.3)
    assert dict(zip([it.name for it in found[::-1]], again.of, strict=True)) == split


def test_equal_images_stay_together() -> None:
    found = [Item(name, bytes([at // 2]), frozenset({0})) for at, name in enumerate(photos(20))]
    split = split_images(found, 0.5)
    assert all(split.of[at] == split.of[at + 1] for at in range(0, 20, 2))
    assert split.of.count("val") == 10


def test_equal_images_in_two_splits_of_the_export_are_refused() -> None:
    found = items(["a", "b", "c"], splits=["train", "val", "val"])
    found[2] = Item("c", b"a", frozenset({0}), "val")
    with pytest.raises(ImportingError, match=r"the same image is in two splits.*: a in train and c in val; remove one"):
        split_images(found, 0.2)


def test_the_export_s_own_split_is_kept() -> None:
    own: list[str | None] = ["train", "val", "test", "train"]
    assert split_images(items(photos(4), splits=own), 0.5).of == tuple(own)


def test_val_comes_from_train_where_the_export_has_none() -> None:
    own: list[str | None] = [*["train"] * 10, *["test"] * 5]
    split = split_images(items(photos(15), splits=own), 0.2)
    assert split.of[10:] == ("test",) * 5
    assert split.of[:10].count("val") == 2


def test_an_export_of_one_split_is_divided() -> None:
    assert split_images(items(photos(10), splits=["val"] * 10), 0.2).of.count("val") == 2


def test_no_share_is_no_val() -> None:
    assert set(split_images(items(photos(5)), 0).of) == {"train"}


def test_one_image_is_for_training() -> None:
    assert split_images(items(["a"]), 0.5).of == ("train",)


@pytest.mark.parametrize(
    "names",
    [
        ["seq1/0001", "seq1/0002", "seq2/0001", "seq2/0002"],
        ["0001TP_006690", "0001TP_006720", "0006R0_f00930", "0006R0_f00960"],
        ["clip_mp4-1_jpg.rf.0af", "clip_mp4-2_jpg.rf.1bf", "walk_mov-7_jpg.rf.2c", "walk_mov-9_jpg.rf.3"],
        ["0a1b2c3d-clip 1", "1a1b2c3d-clip 2", "2a1b2c3d-walk 1", "3a1b2c3d-walk 2"],
    ],
)
def test_names_that_tell_of_two_sequences(names: list[str]) -> None:
    found = sequences(names)
    assert found is not None
    assert found[0] == found[1] != found[2] == found[3]


@pytest.mark.parametrize(
    "names",
    [
        photos(6),
        ["1", "2", "3"],
        ["DSC_1", "DSC_2", "IMG_1", "IMG_2"],
        ["cat", "dog", "horse"],
        ["a1", "a2", "dog", "cow", "sheep"],
        ["street 1", "street 2", "street 3"],
    ],
)
def test_names_that_tell_of_none(names: list[str]) -> None:
    assert sequences(names) is None


def test_versions_of_a_photo_stay_together() -> None:
    names = [f"photo{number}_jpg.rf.{version}" for number in range(4) for version in ("aa", "bb", "cc")]
    assert sequences(names) is None
    split = split_images(items(names), 0.25)
    assert [split.of[at] for at in range(0, 12, 3) for _ in range(3)] == list(split.of)
    assert split.of.count("val") == 3


def test_photos_that_all_have_one_name_can_be_split() -> None:
    names = [f"image_jpg.rf.{version}" for version in "abcdefghij"]
    assert split_images(items(names), 0.2).of.count("val") == 2


def test_one_video_is_cut_into_runs_of_frames() -> None:
    names = [f"frame_{number:04}" for number in range(100)]
    split = split_images(items(names), 0.2)
    changes = sum(one != other for one, other in pairwise(split.of))
    assert split.of.count("val") == 20
    assert changes <= 4


def test_splitting_by_sequence_needs_some() -> None:
    with pytest.raises(ImportingError, match="the names of the images show no sequences; split by class"):
        split_images(items(photos(5)), 0.2, "sequence")


def test_splitting_by_class_looks_at_no_names() -> None:
    names = [f"drive{drive}_{frame:05}" for drive in range(5) for frame in range(8)]
    assert split_images(items(names), 0.2, "class").how == "stratified by class"
