"""The tables from files of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


def test_boundaries_are_averaged_and_the_fastest_pass_counts(tmp_path: Path) -> None:
    for seed, boundary, milliseconds in ((0, 0.40, 250.2), (1, 0.42, 210.4)):
        measured = {"boundary_miou": boundary, "milliseconds": {"352x480": milliseconds}}
        write(tmp_path, "ecenet", seed, 0.6, measured=measured)
    write(tmp_path, "fcn", 0, 0.5)
    header, _, ours, other = tables(read_runs(tmp_path)).split("\n\n")[0].splitlines()
    names = header.split(" | ")
    assert (names[4], names[-1]) == ("boundary IoU", "ms at 352x480 |")
    assert (ours.split(" | ")[4], ours.split(" | ")[-1]) == ("41.0", "210 |")
    assert (other.split(" | ")[4], other.split(" | ")[-1]) == ("-", "- |")


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
