"""The tables from files of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import table
from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.runs import RunError, run_path, write_run
from benchmarks.accuracy.table import main, read_runs, tables


def write(
    folder: Path, variant: str, seed: int, miou: float, *, measured: dict[str, Any] | None = None, **recipe: Any
) -> None:
    rates = {"head_lr_multiple": 8.0, "classifier_lr_multiple": 8.0}
    run = {
        "config": {"variant": variant, "seed": seed, **Recipe(**{"steps": 100} | rates | recipe).as_dict()},
        "miou": miou,
        "class_iou": {"Sky": miou, "Pole": miou / 2},
        "parameters": 3_478_569,
        "gflops": {"192x256": 0.764, "352x480": 2.625},
        "seconds": {"training": 1800.0},
        "torch": "2.13.0",
        "commit": "abc",
        **(measured or {}),
    }
    write_run(run_path(folder, variant, seed), run)


def test_rows_hold_the_mean_and_each_seed_and_come_in_the_order_of_the_variants(tmp_path: Path) -> None:
    write(tmp_path, "fcn", 0, 0.5012)
    write(tmp_path, "fcn", 1, 0.5234)
    write(tmp_path, "ecenet", 0, 0.61, classifier_lr_multiple=48.0)
    write(tmp_path, "no-fr", 1, 0.6, head_lr_multiple=16.0)  # a head may have a rate of its own
    comparison, ablation, classes, origin = tables(read_runs(tmp_path)).split("\n\n")
    assert comparison.splitlines() == [
        "| Head | mIoU | seed 0 | seed 1 | rate | parameters, M | GFLOPs at 192x256 | GFLOPs at 352x480 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ECENet | 61.0 | 61.0 | - | x8, x48 | 3.48 | 0.76 | 2.62 |",
        "| FCN-8s | 51.2 | 50.1 | 52.3 | x8 | 3.48 | 0.76 | 2.62 |",
    ]
    assert [line.split(" | ")[0] for line in ablation.splitlines()[2:]] == ["| ECENet", "| without FR"]
    assert classes.splitlines() == [
        "| class | ECENet | FCN-8s |",
        "| --- | ---: | ---: |",
        "| Sky | 61.0 | 51.2 |",
        "| Pole | 30.5 | 25.6 |",
    ]
    assert origin == "4 runs of 100 steps with batch 8, fp32, 2.0 hours of training in all; torch 2.13.0; commit abc."


@pytest.fixture(autouse=True)
def speed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of times that is not there yet."""
    path = tmp_path_factory.mktemp("speed") / "speed.json"
    monkeypatch.setattr(table, "SPEED", path)
    return path


def column(text: str, title: str) -> list[str]:
    header, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return [row[header.index(title)] for row in rows]


def test_boundaries_are_averaged_and_missing_ones_are_dashes(tmp_path: Path) -> None:
    for seed, boundary in ((0, 0.40), (1, 0.42)):
        write(tmp_path, "ecenet", seed, 0.6, measured={"boundary_miou": boundary})
    write(tmp_path, "fcn", 0, 0.5)
    assert column(tables(read_runs(tmp_path)).split("\n\n")[0], "boundary IoU") == ["41.0", "-"]


@pytest.mark.parametrize(("classes", "shown"), [(2, True), (59, False)])
def test_times_come_from_their_file_if_it_is_of_as_many_classes(
    classes: int, shown: bool, tmp_path: Path, speed: Path
) -> None:
    speed.write_text(
        json.dumps({"size": "352x480", "classes": classes, "milliseconds": {"ecenet": 203.4, "no-fr": 199.6}})
    )
    for variant in ("ecenet", "no-presence", "no-fr", "learned-classes"):
        write(tmp_path, variant, 0, 0.6)
    ablation = tables(read_runs(tmp_path)).split("\n\n")[1]
    if shown:
        assert column(ablation, "ms at 352x480") == ["203", "200", "203", "-"]
    else:
        assert "ms at" not in ablation


def test_runs_of_different_recipes_do_not_stand_in_one_table(tmp_path: Path) -> None:
    write(tmp_path, "ecenet", 0, 0.6)
    write(tmp_path, "fcn", 0, 0.5, steps=200)
    with pytest.raises(RunError, match=r"fcn-seed0.json was run with steps 200, .*ecenet-seed0.json with 100"):
        read_runs(tmp_path)


def test_an_empty_folder_is_an_error_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path)]) == 1
    assert "holds no finished run" in capsys.readouterr().err


def test_the_command_prints_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "ecenet", 0, 0.6)
    assert main(["--folder", str(tmp_path)]) == 0
    assert "| ECENet | 60.0 | 60.0 |" in capsys.readouterr().out
