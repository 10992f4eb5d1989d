"""Training runs from the command line: files, resuming, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import load_model
from trainer import train as training
from trainer.checkpoint import read_checkpoint, read_entries
from trainer.evaluate import main as evaluate_main
from trainer.train import main

SMALL = [
    "model.pretrained='none'",
    "data.input_size=[48, 64]",
    "data.crop_size=[32, 48]",
    "schedule.epochs=2",
    "schedule.batch_size=4",
    "schedule.evaluate_every=2",
    "schedule.workers=0",
]


def arguments(data: Path, output: Path, *extra: str) -> list[str]:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return ["camvid_lite0", "--data", str(data), "--output", str(output), *settings, *extra]


def test_resuming_equals_an_uninterrupted_run(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(tiny_camvid, whole)) == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(training, "_log", stop)
        with pytest.raises(KeyboardInterrupt):
            main(arguments(tiny_camvid, parts))
    assert read_entries(parts / "last.pt")["epochs_done"] == 1
    torch.manual_seed(99)
    assert main(arguments(tiny_camvid, parts, "--resume")) == 0
    expected, actual = (read_checkpoint(run / "last.pt") for run in (whole, parts))
    for key, value in expected["weights"].items():
        assert torch.equal(actual["weights"][key], value), key

    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert "val_miou" not in log[0]
    assert len(log[1]["class_iou"]) == 11
    entries = read_entries(whole / "best.pt")
    assert entries["input_size"] == [48, 64]
    assert entries["metrics"]["val_miou"] == log[1]["val_miou"]
    assert not load_model(whole / "best.pt").training

    capsys.readouterr()
    assert evaluate_main([str(whole / "best.pt"), "--data", str(tiny_camvid)]) == 0
    assert f"mIoU            {100 * log[1]['val_miou']:6.2f}" in capsys.readouterr().out


def test_a_run_is_not_overwritten_and_none_is_invented(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_camvid, tmp_path / "run", "--resume")) == 1
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    assert main(arguments(tiny_camvid, tmp_path / "run")) == 1
    assert "add --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("schedule.epoch=3", "did you mean schedule.epochs?"),
        ("model.name=ecenet-huge", "'ecenet-huge' is unknown"),
        ("schedule.precision=fp8", "precision is 'fp8'"),
        ("schedule.batch_size=9", "batch_size is 9"),
    ],
)
def test_mistakes_end_with_a_sentence(
    setting: str, message: str, tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_camvid, tmp_path / "run", "--set", setting)) == 1
    assert message in capsys.readouterr().err
