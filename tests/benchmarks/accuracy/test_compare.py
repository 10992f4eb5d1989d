"""The runner: which runs it does in which order, the data at half resolution, and a training of a few steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.accuracy import compare, experiment, training
from benchmarks.accuracy.data import DATA, Splits, folder_of
from benchmarks.accuracy.experiment import Experiment
from benchmarks.accuracy.rates import MULTIPLES, Rates, chosen_rates, fast_classifiers, grid, rate_path, rates_table
from benchmarks.accuracy.recipe import HalfResolution, Recipe, hold_out_ends
from benchmarks.accuracy.runs import RunError, lock, read_run, run_path, write_run
from benchmarks.accuracy.variants import HEADS, VARIANTS
from service.model_directory.manifest import ClassInfo
from tests.support.tiny_network import TINY_CONVOLUTIONAL
from trainer.datasets import Sample
from trainer.losses import Losses
from trainer.model.ecenet import NAMED_SIZES
from trainer.training_loop import TrainingState

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
    monkeypatch.setitem(DATA, "camvid", DATA["camvid"]._replace(open=lambda _root, _split: Quarters()))
    monkeypatch.setattr(training, "load_imagenet_weights", lambda _backbone, _name: None)
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


def test_a_run_trains_for_its_steps_over_several_epochs_and_tells_what_it_was(
    quarters: Quarters, tmp_path: Path
) -> None:
    result = experiment.run(Experiment("fcn", 0, TINY, tmp_path / "run.json"), (quarters, quarters), "abc")
    assert [entry["step"] for entry in result["losses"]] == [1, 2, 3]
    assert 0 <= result["boundary_miou"] <= 1
    assert 0 <= result["miou"] <= 1
    assert list(result["class_iou"]) == ["class 0", "class 1", "class 2", "class 3"]
    assert list(result["gflops"]) == ["32x32", "352x480"]
    assert result["config"]["steps"] == 3
    assert result["parameters"] > 3e6
    assert json.loads(json.dumps(result))["config"] == result["config"]


@pytest.mark.parametrize("stop", [1, 2])  # inside an epoch, and at its end
def test_a_stopped_run_goes_on_to_the_weights_of_an_unbroken_one(
    stop: int, quarters: Quarters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", stop)
    monkeypatch.setitem(NAMED_SIZES, "ecenet-lite0", TINY_CONVOLUTIONAL)
    checkpoint = tmp_path / "run.pt"

    def trained(*, until: int | None = None) -> TrainingState:
        state = training.initial_state("ecenet", quarters, TINY, 0)
        steps = training.train_by

        def stopped(*args: Any) -> Any:
            for losses in steps(*args):
                yield losses
                if state.step == until:
                    return

        monkeypatch.setattr(training, "train_by", stopped)
        curve = training.train(state, quarters, "ecenet", TINY, seed=0, checkpoint=checkpoint)
        monkeypatch.setattr(training, "train_by", steps)
        assert curve.done == state.step
        return state

    whole = trained()
    checkpoint.unlink()
    trained(until=stop)
    rest = trained()
    assert rest.step == 3
    for name, value in whole.average.model.state_dict().items():
        assert torch.equal(rest.average.model.state_dict()[name], value), name


def test_a_long_curve_is_logged_in_few_stretches() -> None:
    curve = training.Curve("fcn, seed 0", steps=410)
    for step in range(410):
        curve(Losses(*torch.full((len(Losses._fields),), float(step))))
    assert len(curve.entries) == 41
    assert curve.entries[0] == {"step": 10, **dict.fromkeys(Losses._fields, 4.5)}
    assert curve.entries[-1]["step"] == 410


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The runs that were asked for, none of which trains."""
    seen: list[tuple[str, int]] = []

    def fake(asked: Experiment, _splits: Splits, _commit: str) -> dict[str, Any]:
        seen.append((asked.variant, asked.seed))
        return {"config": asked.config()}

    monkeypatch.setattr(experiment, "run", fake)
    return seen


def run_missing(folder: Path, *, steps: int = 10) -> None:
    runs = compare.experiments(
        ["ecenet", "fcn"], [0, 1], Recipe(steps), folder=folder, rates=Path("unused"), multiple=8.0
    )
    experiment.run_missing(runs, (Quarters(), Quarters()), commit="")


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


@pytest.mark.usefixtures("quarters")
def test_another_number_of_steps_in_the_same_folder_is_an_error(
    tmp_path: Path, recorded: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    run_missing(tmp_path)
    arguments = ["--data", "unused", "--steps", "20", "--folder", str(tmp_path), "--variants", "fcn", "--threads", "0"]
    assert compare.main([*arguments, "--head-lr-multiple", "8"]) == 1
    assert "steps 10, now 20" in capsys.readouterr().err
    assert len(recorded) == 4
    assert read_run(run_path(tmp_path, "fcn", 0))["config"]["steps"] == 10


def write_grid(folder: Path, head: str, *scores: float) -> None:
    for multiple, miou in zip(MULTIPLES, scores, strict=True):
        write_run(rate_path(folder, head, Rates(multiple)), {"config": {}, "miou": miou})


def test_each_head_has_the_rate_that_is_best_on_the_held_out_images(tmp_path: Path) -> None:
    write_grid(tmp_path, "ecenet", 0.5, 0.6, 0.4)
    write_grid(tmp_path, "fcn", 0.3, 0.4, 0.55)
    write_run(rate_path(tmp_path, "fcn", Rates(16, 24)), {"config": {}, "miou": 0.5})
    assert (chosen_rates(tmp_path, "fcn"), chosen_rates(tmp_path, "no-fr")) == (Rates(16), Rates(8))
    runs = compare.experiments(["fcn", "no-fr"], [0], TINY, folder=tmp_path, rates=tmp_path, multiple=None)
    assert [run.config()["head_lr_multiple"] for run in runs] == [16.0, 8.0]
    assert [run.config()["classifier_lr_multiple"] for run in runs] == [16.0, 48.0]
    with pytest.raises(RunError, match=r"fpn-x4\.json cannot be read"):
        compare.experiments(["fpn"], [0], TINY, folder=tmp_path, rates=tmp_path, multiple=None)
    assert "| ECENet | 50.0 | 60.0 | 40.0 | - |" in rates_table(tmp_path)
    assert "| FCN-8s | 30.0 | 40.0 | 55.0 | 50.0 |" in rates_table(tmp_path)
    assert "| FPN | - | - | - | - |" in rates_table(tmp_path)


def test_a_rival_may_have_the_fast_classifier_of_ecenet(tmp_path: Path) -> None:
    write_grid(tmp_path, "segformer", 0.3, 0.5, 0.4)
    (run,) = fast_classifiers(["ecenet", "segformer", "fpn"], TINY, tmp_path)  # ECENet has it, FPN has no grid yet
    assert run.path == tmp_path / "segformer-x8-classifier-x12.json"
    assert (run.config()["head_lr_multiple"], run.config()["classifier_lr_multiple"]) == (8.0, 12.0)  # 3072 / 256
    write_run(run.path, {"config": {}, "miou": 0.6})
    assert chosen_rates(tmp_path, "segformer") == Rates(8, 12)


def test_the_grid_has_every_head_at_every_rate(tmp_path: Path) -> None:
    runs = grid(HEADS, TINY, tmp_path)
    assert len(runs) == len({run.path for run in runs}) == 3 * len(HEADS)
    assert {(run.seed, run.recipe.head_lr_multiple) for run in runs} == {(0, 4.0), (0, 8.0), (0, 16.0)}


@pytest.mark.parametrize(("variant", "rates"), [("fcn", {8.0}), ("ecenet", {8.0, 48.0}), ("one-rate", {8.0})])
def test_the_optimiser_has_the_rates_of_the_variant(variant: str, rates: set[float], quarters: Quarters) -> None:
    optimizer = training.initial_state(variant, quarters, TINY, 0).optimizer
    assert {round(group["initial_lr"] / TINY.lr, 3) for group in optimizer.param_groups} == {1.0, *rates}


def test_the_last_images_of_each_drive_are_held_out() -> None:
    class Drives(Quarters):
        pairs: Sequence[tuple[Path, Path]] = tuple(
            (Path(f"{drive}_{i:02}.png"), Path("x")) for drive, n in (("a", 10), ("b", 5)) for i in range(n)
        )

        def __len__(self) -> int:
            return 15

    rest, ends = hold_out_ends(Drives())
    assert [pair[0].stem for pair in ends.pairs] == ["a_08", "a_09", "b_04"]
    assert (len(rest), len(ends)) == (12, 3)
    assert np.array_equal(ends.labels(2), Quarters().labels(14))
    assert np.array_equal(rest[8].labels, Quarters().labels(10))


def test_the_data_sets_have_inputs_and_folders_of_their_own() -> None:
    sizes = {name: (data.recipe(450).input_size, data.recipe(450).crop_size) for name, data in DATA.items()}
    assert sizes == {"camvid": ((192, 256), (192, 256)), "clothing": ((288, 192), (288, 192))}
    assert DATA["camvid"].recipe(450) == Recipe(450)
    assert DATA["camvid"].recipe(450, "bf16") == Recipe(450, precision="bf16")
    folders = [folder_of(Path("accuracy/rates"), name).as_posix() for name in DATA]
    assert folders == ["accuracy/rates", "accuracy/rates_clothing"]


def test_a_class_that_nothing_has_is_left_out(quarters: Quarters, tmp_path: Path) -> None:
    quarters.classes += (ClassInfo(4, "nowhere", (9, 9, 9)),)
    result = experiment.run(Experiment("fcn", 0, TINY, tmp_path / "run.json"), (quarters, quarters), "abc")
    assert result["class_iou"]["nowhere"] in (None, 0.0)  # 0 where the untrained network sees it
    json.dumps(result, allow_nan=False)


def test_all_variants_have_the_same_recipe_but_for_what_they_are_named_after() -> None:
    own = {"variant", "loss_weights", "bilinear_start", "principal_start"}
    for name in VARIANTS:
        config = Experiment(name, 0, TINY, Path("unused")).config()
        shared = {key: value for key, value in config.items() if key not in own}
        one_rate = VARIANTS[name].is_rival or name == "one-rate"
        rate = {"classifier_lr_multiple": 8.0 if one_rate else 48.0}
        warmup = {"warmup_steps": round(VARIANTS[name].warmup * TINY.warmup_steps)}
        assert shared == {"seed": 0, "model": "ecenet-lite0", "class_balance": True} | TINY.as_dict() | rate | warmup
    weights = Experiment("ecenet", 0, TINY, Path("unused")).config()["loss_weights"]
    assert (weights["diversity"], weights["presence"], weights["diversity_form"]) == (0.2, 0.3, "scale-free")
