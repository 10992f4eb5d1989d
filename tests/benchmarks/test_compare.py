"""The runner: which runs it does in which order, the data at half resolution, and a training of a few steps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.accuracy import compare
from benchmarks.accuracy.recipe import HalfResolution, Recipe
from benchmarks.accuracy.runs import lock, read_run, run_path
from benchmarks.accuracy.variants import VARIANTS
from service.model_directory.manifest import ClassInfo
from trainer.datasets import Sample
from trainer.losses import Losses

TINY = Recipe(steps=3, batch_size=2, input_size=(32, 32), crop_size=(32, 32))


class Quarters:
    """Four images of 48 x 64 pixels, one class in each quarter of the labels."""

    name = "quarters"
    classes = tuple(ClassInfo(index, f"class {index}", (index, index, index)) for index in range(4))
    pairs: Sequence[tuple[Path, Path]] = tuple((Path(f"{index}.png"), Path(f"{index}.png")) for index in range(4))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        labels = self.labels(index)
        return Sample(np.repeat(labels[..., None] * 60, 3, 2), labels)

    def labels(self, index: int) -> NDArray[np.uint8]:
        rows, columns = np.arange(48)[:, None] >= 24, np.arange(64) >= 32
        return np.asarray((2 * rows + columns + index) % 4, np.uint8)


@pytest.fixture
def quarters(monkeypatch: pytest.MonkeyPatch) -> Quarters:
    monkeypatch.setattr(compare, "open_half_resolution", lambda _root, _split: Quarters())
    monkeypatch.setattr(compare, "load_imagenet_weights", lambda _backbone, _name: None)
    return Quarters()


def test_half_resolution_averages_images_and_keeps_label_ids(quarters: Quarters) -> None:
    quarters_at_half = HalfResolution(quarters)
    sample = quarters_at_half[1]
    assert sample.image.shape == (24, 32, 3)
    assert np.array_equal(sample.labels, quarters.labels(1)[::2, ::2])
    assert np.array_equal(quarters_at_half.labels(1), sample.labels)


def test_half_resolution_takes_the_mean_of_four_pixels() -> None:
    class One(Quarters):
        def __getitem__(self, index: int) -> Sample:
            image = np.array([[0, 40], [80, 200]], np.uint8)[..., None].repeat(3, 2)
            return Sample(image, np.full((2, 2), 3, np.uint8))

    sample = HalfResolution(One())[0]
    assert sample.image.tolist() == [[[80, 80, 80]]]
    assert sample.labels.tolist() == [[3]]


@pytest.mark.usefixtures("quarters")
def test_a_run_trains_for_its_steps_over_several_epochs_and_tells_what_it_was() -> None:
    result = compare.run("fcn", 0, TINY, Path("unused"), "abc")
    assert [entry["step"] for entry in result["losses"]] == [1, 2, 3]
    assert 0 <= result["miou"] <= 1
    assert list(result["class_iou"]) == ["class 0", "class 1", "class 2", "class 3"]
    assert list(result["gflops"]) == ["32x32", "352x480"]
    assert result["config"]["steps"] == 3
    assert result["parameters"] > 3e6
    assert json.loads(json.dumps(result))["config"] == result["config"]


def test_a_long_curve_is_logged_in_few_stretches() -> None:
    curve = compare.Curve("fcn, seed 0", steps=410)
    for step in range(410):
        curve(Losses(*torch.full((len(Losses._fields),), float(step))))
    assert len(curve.entries) == 41
    assert curve.entries[0] == {"step": 10, **dict.fromkeys(Losses._fields, 4.5)}
    assert curve.entries[-1]["step"] == 410


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The runs that were asked for, none of which trains."""
    seen: list[tuple[str, int]] = []

    def fake(variant: str, seed: int, recipe: Recipe, _data: Path, _commit: str) -> dict[str, Any]:
        seen.append((variant, seed))
        return {"config": compare.config(variant, seed, recipe)}

    monkeypatch.setattr(compare, "run", fake)
    return seen


def run_missing(folder: Path, *, steps: int = 10) -> None:
    compare.run_missing(["ecenet", "fcn"], [0, 1], Recipe(steps), data=Path("unused"), folder=folder, commit="")


def test_all_variants_run_with_the_first_seed_before_any_runs_with_the_second(
    tmp_path: Path, recorded: list[tuple[str, int]]
) -> None:
    run_missing(tmp_path)
    assert recorded == [("ecenet", 0), ("fcn", 0), ("ecenet", 1), ("fcn", 1)]


def test_finished_runs_and_those_of_another_process_are_left_out(
    tmp_path: Path, recorded: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with lock(run_path(tmp_path, "fcn", 0)):
        run_missing(tmp_path)
    assert recorded == [("ecenet", 0), ("ecenet", 1), ("fcn", 1)]
    assert "fcn-seed0.json: another process is at it" in capsys.readouterr().err
    run_missing(tmp_path)
    assert recorded[3:] == [("fcn", 0)]
    assert "ecenet-seed0.json: finished before" in capsys.readouterr().err


def test_another_number_of_steps_in_the_same_folder_is_an_error(
    tmp_path: Path, recorded: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    run_missing(tmp_path)
    arguments = ["--data", "unused", "--steps", "20", "--folder", str(tmp_path), "--variants", "fcn", "--threads", "0"]
    assert compare.main(arguments) == 1
    assert "steps 10, now 20" in capsys.readouterr().err
    assert len(recorded) == 4
    assert read_run(run_path(tmp_path, "fcn", 0))["config"]["steps"] == 10


def test_all_variants_have_the_same_recipe() -> None:
    configs = [compare.config(name, 0, TINY) for name in VARIANTS]
    own = {"variant", "loss_weights"}
    assert all(
        {k: v for k, v in c.items() if k not in own}
        == {"seed": 0, "model": "ecenet-lite0", "class_balance": True} | TINY.as_dict()
        for c in configs
    )
    assert math.isclose(configs[0]["loss_weights"]["diversity"], 0.2)
