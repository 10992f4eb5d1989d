"""The text before a run: figures, expected time, and warnings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from service.model_directory.manifest import ClassInfo
from trainer.config import ConfigError, load_config
from trainer.datasets import SegmentationDataset
from trainer.datasets.mixed import Mixed
from trainer.overview import Cost, cost_text, duration, overview, unseen_classes, warnings

CLASSES = tuple(ClassInfo(index, name, (0, 0, index)) for index, name in enumerate(("road", "sky", "pole")))


def labelled(*maps: list[int]) -> SegmentationDataset:
    class Labelled(SimpleNamespace):
        def __len__(self) -> int:
            return len(maps)

    def labels(index: int) -> np.ndarray:
        return np.array([maps[index]], np.uint8)

    return cast(
        SegmentationDataset,
        Labelled(name="folder", classes=CLASSES, labels=labels, pairs=[(Path(), Path())] * len(maps)),
    )


def test_the_text_tells_images_steps_and_evaluations() -> None:
    options = ["data.repeat=4", "schedule.epochs=9", "runtime.evaluate_every=2", "model.pretrained=imagenet"]
    config = load_config(Path("own_images"), options)
    text = overview(config, labelled(*[[0]] * 8), labelled([0], [1]), 1, "")
    assert text.splitlines() == [
        "2 images to learn from, each seen 4 times an epoch, 2 to evaluate on, 3 classes (folder)",
        "input 352x480, 8 views of 352x480 a step, from imagenet weights",
        "9 steps in 9 epochs, 5 evaluations; ends early after 10 without a better mIoU",
    ]


def test_the_parts_of_a_mixture_are_told() -> None:
    mixed = Mixed([(labelled([0], [1]), 4.0), (labelled(*[[2]] * 1000), 2.5)], seed=0)
    first = overview(load_config(Path("camvid_lite0")), mixed, labelled([0]), 1, "").splitlines()[0]
    images = "2,508 images an epoch to learn from (8 of folder, 2,500 of folder)"
    assert first == f"{images}, 1 to evaluate on, 3 classes (folder+folder)"


def test_the_terms_of_the_bundled_weights_are_told() -> None:
    text = overview(load_config(Path("own_images"), []), labelled([0]), labelled([0]), 1, "Research use")
    assert text.splitlines()[3] == (
        "terms of the bundled weights: Research use; model.pretrained=imagenet starts without them"
    )


def test_the_time_is_that_of_the_steps_and_the_evaluations_that_are_left() -> None:
    config = load_config(Path("own_images"), ["schedule.epochs=10", "runtime.evaluate_every=5"])
    cost = Cost(step_s=2.5, image_s=0.5, memory_bytes=1_400_000_000)
    text = cost_text(config, cost, steps=100, val_images=12, evaluated=1)
    assert text.startswith("about 4 min on this machine at most: 2.50 s a step, 0.50 s an image of val; 1.4 GB")


@pytest.mark.parametrize(("seconds", "text"), [(2, "2 s"), (95, "2 min"), (3599, "1 h 00 min"), (9000, "2 h 30 min")])
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_classes_that_are_not_shown_and_a_small_val_are_warned_of() -> None:
    found = list(warnings(labelled([0, 1], [255, 255]), labelled([0, 0])))
    assert found == [
        "train has no pixel of pole: what is not shown cannot be learned",
        "val has no pixel of sky: nothing shows how well it is learned",
        "val has 1 image: differences of its mIoU are mostly chance",
    ]
    assert list(warnings(labelled([0, 1, 2]), labelled(*[[0, 1, 2]] * 10))) == []


def test_labels_that_are_void_all_over_end_the_run() -> None:
    with pytest.raises(ConfigError, match="no label of train has a class"):
        list(warnings(labelled([255, 255]), labelled([0])))


def test_label_maps_are_looked_at_evenly_up_to_a_limit() -> None:
    maps = [[0, 1], [0], [2], [0]]
    assert unseen_classes(labelled(*maps)) == []
    assert [info.name for info in unseen_classes(labelled(*maps), looked_at=1)] == ["pole"]
    assert unseen_classes(labelled(*maps), looked_at=2) == []
