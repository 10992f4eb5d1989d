"""The tables from files of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.runs import RunError, run_path, write_run
from benchmarks.accuracy.table import main, read_runs, tables


def write(folder: Path, variant: str, seed: int, miou: float, **recipe: Any) -> None:
    run = {
        "config": {"variant": variant, "seed": seed, **Recipe(**{"steps": 100} | recipe).as_dict()},
        "miou": miou,
        "parameters": 3_478_569,
        "gflops": {"192x256": 0.764, "352x480": 2.625},
        "seconds": {"training": 1800.0},
        "torch": "2.13.0",
        "commit": "abc",
    }
    write_run(run_path(folder, variant, seed), run)


def test_rows_hold_the_mean_and_each_seed_and_come_in_the_order_of_the_variants(tmp_path: Path) -> None:
    write(tmp_path, "fcn", 0, 0.5012)
    write(tmp_path, "fcn", 1, 0.5234)
    write(tmp_path, "ecenet", 0, 0.61)
    write(tmp_path, "no-fr", 1, 0.6, head_lr_multiple=16.0)  # a head may have a rate of its own
    comparison, ablation, origin = tables(read_runs(tmp_path)).split("\n\n")
    assert comparison.splitlines() == [
        "| Head | mIoU | seed 0 | seed 1 | parameters, M | GFLOPs at 192x256 | GFLOPs at 352x480 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ECENet | 61.0 | 61.0 | - | 3.48 | 0.76 | 2.62 |",
        "| FCN-8s | 51.2 | 50.1 | 52.3 | 3.48 | 0.76 | 2.62 |",
    ]
    assert [line.split(" | ")[0] for line in ablation.splitlines()[2:]] == ["| ECENet", "| without FR"]
    assert origin == "4 runs of 100 steps with batch 8, fp32, 2.0 hours of training in all; torch 2.13.0; commit abc."


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
